//! Middleware that asks who it is: passwords, tokens, signed tokens. And where secrets are not.

use crate::middleware::{folder, host};
use crate::support::{Request, fnhost};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("{user}:{password}")))
}

#[tokio::test]
async fn basic_auth_lets_those_in_who_have_the_password() {
    let folder = folder();
    std::fs::write(folder.path().join("ada"), "s3cret: with a colon\n").unwrap();
    std::fs::write(folder.path().join("bob"), "b").unwrap();
    let tables = "[middleware.login]
basic-auth = { realm = \"staff\", users = { ada = { file = \"ada\" }, bob = { file = \"bob\" } }, strip = true }
";
    let host = host(&folder, "misbehave-p3", "[\"/misbehave-p3/{*rest}\"]", "[\"login\"]", tables);
    let ask = async |authorization: &str| {
        let request = Request::get("/misbehave-p3/request").header("fnhost-user", "root");
        host.send(request.header("authorization", authorization)).await
    };
    let answer = ask(&basic("ada", "s3cret: with a colon")).await;
    assert_eq!(answer.status, 200);
    let seen = answer.text();
    assert!(seen.contains("fnhost-user: ada\n") && !seen.contains("root") && !seen.contains("authorization"), "{seen}");
    assert!(ask(&basic("bob", "b")).await.text().contains("fnhost-user: bob\n"));
    let wrong = [
        basic("ada", "b"),
        basic("", ""),
        basic("bob", ""),
        "Basic".to_owned(),
        "Basic !".to_owned(),
        "Bearer b".to_owned(),
    ];
    for wrong in wrong {
        let refused = ask(&wrong).await;
        refused.assert_problem(401, "unauthorized");
        assert_eq!(refused.header("www-authenticate"), "Basic realm=\"staff\", charset=\"UTF-8\"");
    }
    let none = host.get("/misbehave-p3/request").await;
    none.assert_problem(401, "unauthorized");
    let receipt = host.receipt(none.request_id());
    assert_eq!((&receipt["outcome"], &receipt["cpu_ns"]), (&json!("unauthorized"), &json!(0)), "{receipt}");
    let twice = Request::get("/misbehave-p3/request").header("authorization", &basic("bob", "b"));
    host.send(twice.header("authorization", &basic("ada", "x"))).await.assert_problem(401, "unauthorized");
}

#[tokio::test]
async fn bearer_accepts_the_tokens_that_it_was_given() {
    let folder = folder();
    std::fs::write(folder.path().join("token"), "t0ken").unwrap();
    let tables = "[middleware.token]\nbearer = { tokens = [{ file = \"token\" }] }\n";
    let host = host(&folder, "hello", "[\"/hello/{name}\"]", "[\"token\"]", tables);
    let ask =
        async |authorization: &str| host.send(Request::get("/hello/x").header("authorization", authorization)).await;
    ask("Bearer t0ken").await.assert_ok("Hello, x!\n");
    ask("bearer  t0ken").await.assert_ok("Hello, x!\n");
    let wrong = ask("Bearer t0ke").await;
    wrong.assert_problem(401, "unauthorized");
    let told = "Bearer realm=\"token\", error=\"invalid_token\", error_description=\"it is not known\"";
    assert_eq!(wrong.header("www-authenticate"), told);
    let none = host.get("/hello/x").await;
    none.assert_problem(401, "unauthorized");
    assert_eq!(none.header("www-authenticate"), "Bearer realm=\"token\"");
}

/// The key pair of RFC 8037, appendix A, and a secret.
const SEED: &str = "nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A";
const PUBLIC: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

fn keys(with_secret: bool) -> String {
    let public = json!({ "kty": "OKP", "crv": "Ed25519", "kid": "ed", "use": "sig", "x": PUBLIC });
    let secret = json!({ "kty": "oct", "kid": "shared", "alg": "HS256", "k": BASE64_URL_SAFE_NO_PAD.encode([7; 32]) });
    let encryption = json!({ "kty": "oct", "kid": "enc", "use": "enc", "k": BASE64_URL_SAFE_NO_PAD.encode([9; 32]) });
    // One that is cut off could only fail when it is used, and is passed over.
    let damaged = json!({ "kty": "OKP", "crv": "Ed25519", "x": "AAAA" });
    let keys = if with_secret { vec![damaged, public, secret, encryption] } else { vec![damaged, public, encryption] };
    json!({ "keys": keys }).to_string()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn claims() -> Value {
    json!({ "sub": "ada", "iss": "https://id.example", "aud": "shop", "exp": now() + 600 })
}

fn sign(claims: &Value, algorithm: Algorithm, id: Option<&str>) -> String {
    let key = if algorithm == Algorithm::EdDSA {
        let mut der = BASE64_STANDARD.decode("MC4CAQAwBQYDK2VwBCIEIA==").unwrap();
        der.extend(BASE64_URL_SAFE_NO_PAD.decode(SEED).unwrap());
        EncodingKey::from_ed_der(&der)
    } else {
        EncodingKey::from_secret(&[7; 32])
    };
    let header = Header { kid: id.map(str::to_owned), ..Header::new(algorithm) };
    jsonwebtoken::encode(&header, claims, &key).unwrap()
}

fn with(change: &Value) -> Value {
    let mut claims = claims();
    for (name, value) in change.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

#[tokio::test]
async fn a_signed_token_says_who_asks() {
    let folder = folder();
    std::fs::write(folder.path().join("keys.json"), keys(true)).unwrap();
    let tables =
        "[middleware.id]\nbearer = { jwks = \"keys.json\", issuer = \"https://id.example\", audience = \"shop\" }\n";
    let host = host(&folder, "misbehave-p3", "[\"/misbehave-p3/{*rest}\"]", "[\"id\"]", tables);
    let ask = async |token: &str| {
        let request = Request::get("/misbehave-p3/request").header("authorization", &format!("Bearer {token}"));
        host.send(request).await
    };
    for (algorithm, id) in
        [(Algorithm::EdDSA, Some("ed")), (Algorithm::EdDSA, None), (Algorithm::HS256, Some("shared"))]
    {
        let answer = ask(&sign(&claims(), algorithm, id)).await;
        assert_eq!(answer.status, 200, "{}", answer.header("www-authenticate"));
        assert!(answer.text().contains("fnhost-user: ada\n"), "{}", answer.text());
        assert!(answer.text().contains("authorization: Bearer "), "it stays unless it is to be stripped");
    }
    let refused = [
        (with(&json!({ "exp": now() - 61 })), "it has expired"),
        (with(&json!({ "exp": null })), "a claim is missing"),
        (with(&json!({ "nbf": now() + 120 })), "it is not valid yet"),
        (with(&json!({ "iss": "https://other.example" })), "it is of another issuer"),
        (with(&json!({ "iss": null })), "a claim is missing"),
        (with(&json!({ "aud": "blog" })), "it is for somebody else"),
        (with(&json!({ "aud": null })), "a claim is missing"),
    ];
    for (claims, why) in refused {
        let answer = ask(&sign(&claims, Algorithm::EdDSA, Some("ed"))).await;
        answer.assert_problem(401, "unauthorized");
        let told = answer.header("www-authenticate");
        assert!(told.starts_with("Bearer realm=\"id\", error=\"invalid_token\"") && told.contains(why), "{told}");
    }
    // Within the leeway.
    assert_eq!(ask(&sign(&with(&json!({ "exp": now() - 30 })), Algorithm::EdDSA, None)).await.status, 200);
}

#[tokio::test]
async fn a_token_cannot_choose_its_algorithm() {
    let folder = folder();
    std::fs::write(folder.path().join("keys.json"), keys(false)).unwrap();
    let tables = "[middleware.id]\nbearer = { jwks = \"keys.json\", audience = \"shop\" }\n";
    let host = host(&folder, "hello", "[\"/hello/{name}\"]", "[\"id\"]", tables);
    let ask = async |token: &str| {
        let request = Request::get("/hello/x").header("authorization", &format!("Bearer {token}"));
        host.send(request).await
    };
    ask(&sign(&claims(), Algorithm::EdDSA, Some("ed"))).await.assert_ok("Hello, x!\n");
    // The public key as if it were a secret; no signature at all; a key that is for something else; another's signature.
    let header = Header { kid: Some("ed".to_owned()), ..Header::new(Algorithm::HS256) };
    let public = BASE64_URL_SAFE_NO_PAD.decode(PUBLIC).unwrap();
    let confused = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&public)).unwrap();
    let part = |value: Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = format!("{}.{}.", part(json!({ "alg": "none", "kid": "ed" })), part(claims()));
    let header = Header { kid: Some("enc".to_owned()), ..Header::new(Algorithm::HS256) };
    let for_encryption = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(&[9; 32])).unwrap();
    let good = sign(&claims(), Algorithm::EdDSA, Some("ed"));
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (head, _) = signed.split_once('.').unwrap();
    let forged = format!("{head}.{}.{signature}", part(with(&json!({ "sub": "root" }))));
    for bad in [confused, unsigned, for_encryption, forged, "a.b.c".to_owned(), "x".repeat(8000)] {
        ask(&bad).await.assert_problem(401, "unauthorized");
    }
}

#[tokio::test]
async fn new_keys_are_taken_without_a_release() {
    let folder = folder();
    let file = folder.path().join("keys.json");
    std::fs::write(&file, keys(false)).unwrap();
    let tables = "[middleware.id]\nbearer = { jwks = \"keys.json\", audience = \"shop\" }\n";
    let host = host(&folder, "hello", "[\"/hello/{name}\"]", "[\"id\"]", tables);
    let token = sign(&claims(), Algorithm::HS256, Some("shared"));
    let status = async |token: &str| {
        let request = Request::get("/hello/x").header("authorization", &format!("Bearer {token}"));
        host.send(request).await.status.as_u16()
    };
    assert_eq!(status(&token).await, 401);
    std::fs::write(&file, keys(true)).unwrap();
    let deadline = Instant::now() + crate::support::PATIENCE;
    while status(&token).await != 200 {
        assert!(Instant::now() < deadline, "the new key is never taken");
    }
    // What cannot be read leaves what there was.
    std::fs::write(&file, "no keys").unwrap();
    while !host
        .log_lines()
        .iter()
        .any(|line| line["message"].as_str().is_some_and(|text| text.contains("cannot be read again")))
    {
        assert_eq!(status(&token).await, 200);
        assert!(Instant::now() < deadline, "the file is never looked at");
    }
    assert_eq!(status(&token).await, 200);
}

#[test]
fn a_secret_that_cannot_be_had_is_refused_when_the_app_is_installed() {
    let folder = folder();
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    std::fs::write(folder.path().join("keys.json"), "{\"keys\": []}").unwrap();
    let toml = crate::support::with_guests(
        "name = \"test\"\n[functions.it]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/\"]\nmiddleware = [\"login\", \"token\", \"id\", \"site\"]
[middleware.login]\nbasic-auth = { users = { ada = { env = \"NO_SUCH_PASSWORD\" } } }
[middleware.token]\nbearer = { tokens = [{ file = \"empty\" }] }
[middleware.id]\nbearer = { jwks = \"keys.json\" }
[middleware.site]\nstatic = { from = \"nowhere\" }\n",
    );
    std::fs::write(folder.path().join("functions.toml"), toml).unwrap();
    let ended = fnhost(folder.path()).args(["check"]).output().unwrap();
    let said = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1));
    for told in [
        "functions.toml:6:13: the middleware `login`: the user `ada` has no password: the environment variable NO_SUCH_PASSWORD is not set",
        "functions.toml:8:13: the middleware `token`: a token cannot be had: a secret is empty",
        "functions.toml:10:13: the middleware `id`: the keys of keys.json cannot be used: it has no key for signatures",
        "functions.toml:12:13: the middleware `site`: the folder nowhere cannot be read",
    ] {
        assert!(said.contains(told), "{told}\n---\n{said}");
    }
}

#[test]
fn a_secret_is_in_no_file_of_the_host_and_in_no_list() {
    let folder = folder();
    std::fs::write(folder.path().join("ada"), "very-s3cret-pass").unwrap();
    let tables = "[middleware.login]\nbasic-auth = { users = { ada = { file = \"ada\" } } }\n";
    let host = host(&folder, "hello", "[\"/hello/{name}\"]", "[\"login\"]", tables);
    let routes = fnhost(folder.path()).arg("routes").output().unwrap();
    let shown = String::from_utf8(routes.stdout).unwrap();
    assert!(shown.contains("login (basic-auth)") && !shown.contains("s3cret"), "{shown}");
    host.stop();
    assert!(!has(&folder.path().join(".fnhost"), b"very-s3cret-pass"));
}

fn has(folder: &Path, wanted: &[u8]) -> bool {
    std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).any(|path| {
        if path.is_dir() {
            return has(&path, wanted);
        }
        // A socket has no bytes.
        path.is_file() && std::fs::read(&path).unwrap().windows(wanted.len()).any(|window| window == wanted)
    })
}
