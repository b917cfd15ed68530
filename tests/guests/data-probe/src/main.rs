//! Does what a test asks of a key-value store, by each of the interfaces: `/INTERFACE/WHAT?store=..&key=..&value=..`.
//! The value may also be the body. Answers with what came of it, or 422 and the error.

mod bindings {
    wit_bindgen::generate!({
        inline: "package test:probe;
            world probe {
                import wasi:keyvalue/store@0.2.0-draft;
                import wasi:keyvalue/atomics@0.2.0-draft;
                import wasi:keyvalue/batch@0.2.0-draft;
                import wasi:keyvalue/store@0.2.0-draft2;
                import wasi:keyvalue/atomics@0.2.0-draft2;
                import wasi:keyvalue/batch@0.2.0-draft2;
            }",
        path: ["../../../wit/deps/keyvalue-draft", "../../../wit/deps/keyvalue-draft2"],
        generate_all,
    });
}

use bindings::wasi::{keyvalue0_2_0_draft as draft, keyvalue0_2_0_draft2 as draft2};
use draft2::atomics::{Cas, CasError};
use std::collections::HashMap;
use wstd::http::{Body, Error, Request, Response};

type Answer = Result<String, String>;

/// What a test says.
struct Asked {
    query: HashMap<String, String>,
    body: Vec<u8>,
}

impl Asked {
    fn get(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    fn number<T: std::str::FromStr>(&self, name: &str) -> Option<T> {
        self.query.get(name)?.parse().ok()
    }

    /// So many bytes, or `value`, or the body.
    fn value(&self) -> Vec<u8> {
        match (self.number("bytes"), self.query.get("value")) {
            (Some(bytes), _) => vec![b'v'; bytes],
            (None, Some(value)) => value.as_bytes().to_vec(),
            (None, None) => self.body.clone(),
        }
    }

    fn keys(&self) -> Vec<String> {
        self.get("key").split(',').map(str::to_owned).collect()
    }

    /// `key=value`, a line each.
    fn pairs(&self) -> Vec<(String, Vec<u8>)> {
        let text = String::from_utf8_lossy(&self.body).into_owned();
        text.lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.to_owned(), value.into()))
            .collect()
    }
}

#[wstd::http_server]
async fn main(request: Request<Body>) -> Result<Response<Body>, Error> {
    let (head, mut body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default().split('&').filter_map(|pair| pair.split_once('='));
    let query = query.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let asked = Asked { query, body: body.contents().await?.to_vec() };
    let mut path = head.uri.path().split('/').skip(1);
    let (interface, what) = (path.next().unwrap_or_default(), path.next().unwrap_or_default());
    let answer = match interface {
        "draft" => by_draft(what, &asked),
        "draft2" => by_draft2(what, &asked),
        "spin" => by_spin(what, &asked),
        _ => Err("what?".to_owned()),
    };
    Ok(match answer {
        Ok(text) => Response::new(text.into()),
        Err(text) => Response::builder().status(422).body(text.into())?,
    })
}

/// What both drafts have, by different types.
macro_rules! both_drafts {
    ($version:ident, $what:expr, $asked:expr, $bucket:expr) => {
        match $what {
            "get" => $bucket.get($asked.get("key")).map(shown),
            "set" => $bucket.set($asked.get("key"), &$asked.value()).map(|()| "set".to_owned()),
            "delete" => $bucket.delete($asked.get("key")).map(|()| "deleted".to_owned()),
            "exists" => $bucket.exists($asked.get("key")).map(|exists| exists.to_string()),
            "set-many" => $version::batch::set_many(&$bucket, &$asked.pairs()).map(|()| "set".to_owned()),
            "delete-many" => $version::batch::delete_many(&$bucket, &$asked.keys()).map(|()| "deleted".to_owned()),
            // How many can be opened.
            "open-many" => {
                let mut open = Vec::new();
                loop {
                    match $version::store::open($asked.get("store")) {
                        Ok(bucket) => open.push(bucket),
                        Err(error) => break Ok(format!("{} {}", open.len(), name(&error))),
                    }
                }
            }
            _ => return Err("what?".to_owned()),
        }
    };
}

fn by_draft(what: &str, asked: &Asked) -> Answer {
    use draft::{atomics, batch, store};
    let bucket = store::open(asked.get("store")).map_err(|error| name(&error))?;
    let done = match what {
        "list" => bucket.list_keys(asked.number("cursor")).map(|page| listed(&page.keys, page.cursor)),
        "increment" => {
            atomics::increment(&bucket, asked.get("key"), asked.number("by").unwrap_or(1)).map(|sum| sum.to_string())
        }
        "get-many" => batch::get_many(&bucket, &asked.keys()).map(|pairs| {
            let pairs = pairs
                .into_iter()
                .map(|pair| pair.map_or_else(|| "-".to_owned(), |(key, value)| format!("{key}={}", text(value))));
            pairs.collect::<Vec<_>>().join(" ")
        }),
        _ => both_drafts!(draft, what, asked, bucket),
    };
    done.map_err(|error| name(&error))
}

fn by_draft2(what: &str, asked: &Asked) -> Answer {
    use draft2::{atomics, batch, store};
    let bucket = store::open(asked.get("store")).map_err(|error| name(&error))?;
    let done = match what {
        "list" => {
            let cursor = asked.query.get("cursor").map(String::as_str);
            bucket.list_keys(cursor).map(|page| listed(&page.keys, page.cursor))
        }
        "increment" => {
            atomics::increment(&bucket, asked.get("key"), asked.number("by").unwrap_or(1)).map(|sum| sum.to_string())
        }
        "get-many" => batch::get_many(&bucket, &asked.keys()).map(|pairs| {
            let pairs = pairs.into_iter().map(|(key, value)| format!("{key}={}", shown(value)));
            pairs.collect::<Vec<_>>().join(" ")
        }),
        "swap" => return swap(&bucket, asked),
        "swap-many" => return swap_many(&bucket, asked),
        _ => both_drafts!(draft2, what, asked, bucket),
    };
    done.map_err(|error| name(&error))
}

/// Swaps after another has set `between`, if that is given; and then again, with what is known now.
fn swap(bucket: &draft2::store::Bucket, asked: &Asked) -> Answer {
    let key = asked.get("key");
    let cas = Cas::new(bucket, key).map_err(|error| name(&error))?;
    let before = shown(cas.current().map_err(|error| name(&error))?);
    if let Some(between) = asked.query.get("between") {
        bucket.set(key, between.as_bytes()).map_err(|error| name(&error))?;
    }
    match draft2::atomics::swap(cas, &asked.value()) {
        Ok(()) => Ok(format!("{before}, swapped")),
        Err(CasError::StoreError(error)) => Err(name(&error)),
        Err(CasError::CasFailed(cas)) => {
            let now = shown(cas.current().map_err(|error| name(&error))?);
            let again = draft2::atomics::swap(cas, &asked.value()).is_ok();
            Ok(format!("{before}, failed, {now}, again: {again}"))
        }
    }
}

/// How many values can be remembered at once.
fn swap_many(bucket: &draft2::store::Bucket, asked: &Asked) -> Answer {
    let mut open = Vec::new();
    loop {
        match Cas::new(bucket, asked.get("key")) {
            Ok(cas) => open.push(cas),
            Err(error) => break Ok(format!("{} {}", open.len(), name(&error))),
        }
    }
}

fn by_spin(what: &str, asked: &Asked) -> Answer {
    use spin_sdk::key_value::{Error, Store};
    let told = |error: Error| match error {
        Error::Other(text) => text,
        error => format!("{error:?}").trim_start_matches("Error::").to_owned(),
    };
    let store = Store::open(asked.get("store")).map_err(told)?;
    let done = match what {
        "get" => store.get(asked.get("key")).map(shown),
        "set" => store.set(asked.get("key"), &asked.value()).map(|()| "set".to_owned()),
        "delete" => store.delete(asked.get("key")).map(|()| "deleted".to_owned()),
        "exists" => store.exists(asked.get("key")).map(|exists| exists.to_string()),
        "list" => store.get_keys().map(|keys| listed(&keys, None::<String>)),
        "open-many" => {
            let mut open = Vec::new();
            loop {
                match Store::open(asked.get("store")) {
                    Ok(store) => open.push(store),
                    Err(error) => break Ok(format!("{} {}", open.len(), told(error))),
                }
            }
        }
        _ => return Err("what?".to_owned()),
    };
    done.map_err(told)
}

/// The variant, or the words of `other`.
fn name(error: &impl std::fmt::Debug) -> String {
    let text = format!("{error:?}");
    let text = text.trim_start_matches("Error::");
    text.strip_prefix("Other(\"").and_then(|text| text.strip_suffix("\")")).unwrap_or(text).to_owned()
}

fn text(value: Vec<u8>) -> String {
    if value.len() > 10_000 { format!("{} bytes", value.len()) } else { String::from_utf8_lossy(&value).into_owned() }
}

fn shown(value: Option<Vec<u8>>) -> String {
    value.map_or_else(|| "none".to_owned(), text)
}

fn listed(keys: &[String], cursor: Option<impl ToString>) -> String {
    format!("{}\n{}", keys.join(" "), cursor.map_or_else(|| "-".to_owned(), |cursor| cursor.to_string()))
}
