//! Reads its configuration, `config = { … }` in functions.toml, through `wasi:config/store`, at both versions that
//! published guests import. One is enough for a function of your own.

mod bindings {
    wit_bindgen::generate!({ path: "../../wit", world: "fnhost:host/guest", generate_all });
}

use bindings::wasi::{config0_2_0_draft_2024_09_27 as draft, config0_2_0_rc_1 as rc};
use wstd::http::{Body, Error, Request, Response};

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let key = request.headers().get("fnhost-param-key").and_then(|value| value.to_str().ok()).unwrap_or_default();
    let by_rc = rc::store::get(key).map_err(|error| Error::msg(format!("{error:?}")))?;
    let by_draft = draft::store::get(key).map_err(|error| Error::msg(format!("{error:?}")))?;
    let all = rc::store::get_all().map_err(|error| Error::msg(format!("{error:?}")))?;
    let all: Vec<String> = all.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
    let shown = |value: Option<String>| value.unwrap_or_else(|| "none".to_owned());
    Ok(Response::new(format!("rc: {}\ndraft: {}\nall: {}\n", shown(by_rc), shown(by_draft), all.join(" ")).into()))
}
