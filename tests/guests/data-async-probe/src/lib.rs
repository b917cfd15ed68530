//! Does what a test asks of a key-value store by `spin:key-value@3.0.0`, whose functions wait for nothing: `/WHAT?STORE,KEY`.

use futures::future::join_all;
use spin_sdk::http::{IntoResponse, Request, StatusCode};
use spin_sdk::http_service;
use spin_sdk::key_value::{Error, Store};

#[http_service]
async fn handle(request: Request) -> impl IntoResponse {
    let query = request.uri().query().unwrap_or_default().to_owned();
    match answer(request.uri().path(), &query).await {
        Ok(text) => (StatusCode::OK, text),
        Err(Error::Other(text)) => (StatusCode::UNPROCESSABLE_ENTITY, text),
        Err(error) => (StatusCode::UNPROCESSABLE_ENTITY, format!("{error:?}")),
    }
}

async fn answer(path: &str, query: &str) -> Result<String, Error> {
    let (store, key) = query.split_once(',').unwrap_or((query, ""));
    let store = Store::open(store).await?;
    Ok(match path {
        "/get" => match store.get(key).await? {
            Some(value) => String::from_utf8_lossy(&value).into_owned(),
            None => "none".to_owned(),
        },
        "/set" => {
            store.set(key, "set by 3.0").await?;
            "set".to_owned()
        }
        // All at once.
        "/set-many" => {
            let sets = (0..200).map(|number| store.set(format!("many{number:03}"), "1"));
            join_all(sets).await.into_iter().collect::<Result<(), _>>()?;
            "set".to_owned()
        }
        "/delete" => {
            store.delete(key).await?;
            "deleted".to_owned()
        }
        "/exists" => store.exists(key).await?.to_string(),
        "/list" => store.get_keys().await.collect().await?.join(" "),
        // Reads one and goes away.
        "/first" => store.get_keys().await.next().await.unwrap_or_else(|| "none".to_owned()),
        _ => "what?".to_owned(),
    })
}
