//! Databases of a PostgreSQL server: values and errors as guests have them, by each version of the interface; addresses that
//! are granted, and connections that trust others.

use crate::postgres::{host_of, probe_of, refused, sql};
use crate::support::{Database, PASSWORD, Postgres, Request, TestHost, skipped};
use std::process::Command;
use std::sync::Arc;

async fn shared() -> Option<Database> {
    Some(Postgres::shared()?.database().await)
}

#[tokio::test]
async fn values_come_back_as_they_were() {
    let Some(database) = shared().await else { return };
    let host = probe_of(&database, 2, "");
    host.get("/values-4").await.assert_ok(include_str!("postgres_values/v4.txt"));
    host.get("/values-3").await.assert_ok(include_str!("postgres_values/v3.txt"));
    host.get("/values-2").await.assert_ok(include_str!("postgres_values/v2.txt"));
}

#[tokio::test]
async fn what_has_no_case_comes_as_bytes() {
    let Some(database) = shared().await else { return };
    let host = probe_of(&database, 2, "");
    database.ask("CREATE TYPE mood AS ENUM ('sad', 'happy'); CREATE DOMAIN small AS int CHECK (value < 10)").await;
    let answer =
        sql(&host, "SELECT 'happy'::mood AS a, 5::small AS b, '10.0.0.1'::inet AS c, '{t}'::bool[] AS d").await;
    assert!(answer.starts_with("a Other(\"mood\") | b Int32 | c Other(\"inet\") | d Other(\"_bool\")\n"), "{answer}");
    assert!(answer.contains("Unsupported([104, 97, 112, 112, 121]) | Int32(5) | Unsupported("), "{answer}");
    // Columns are known where there are no rows.
    assert_eq!(sql(&host, "SELECT 1 AS a, 'x'::text AS b WHERE false").await, "a Int32 | b Str");
    for unreadable in ["'infinity'::date", "'-infinity'::timestamp", "'{{1,2},{3,4}}'::int[]"] {
        let answer = refused(&host, &format!("SELECT {unreadable} AS a")).await;
        assert!(answer.contains("ValueConversionFailed") && answer.contains("the column `a`"), "{answer}");
    }
    assert_eq!(
        host.send(Request::post("/execute", "CREATE TABLE t (a int)\nINSERT INTO t VALUES (1), (2)\nSELECT * FROM t"))
            .await
            .text(),
        "0 2 2"
    );
}

#[tokio::test]
async fn a_parameter_goes_where_it_fits() {
    let Some(database) = shared().await else { return };
    let host = probe_of(&database, 2, "");
    database.ask("CREATE TYPE mood AS ENUM ('sad', 'happy')").await;
    for (kind, text, answer) in [
        ("int64", "7 SELECT $1::int2 AS a", "a Int16\nInt16(7)"),
        ("int64", "7 SELECT $1::numeric AS a", "a Decimal\nDecimal(\"7\")"),
        ("str", "happy SELECT $1::mood > 'sad' AS a", "a Boolean\nBoolean(true)"),
        ("str", "10.0.0.1 SELECT host($1::inet) AS a", "a Str\nStr(\"10.0.0.1\")"),
        ("timestamp", "0 SELECT $1::timestamp AS a", "a Datetime\nDatetime((1970, 1, 1, 0, 0, 0, 0))"),
    ] {
        host.send(Request::post(&format!("/parameter?{kind}"), text)).await.assert_ok(answer);
    }
    for (kind, text, error) in [
        ("int64", "70000 SELECT $1::int2", "BadParameter(\"$1: there is no such number in that type\")"),
        ("int64", "7 SELECT $1::text", "BadParameter(\"$1: an integer is no text\")"),
        ("date", "x SELECT $1::date", "BadParameter(\"$1: there is no such date\")"),
        ("null", "x SELECT 1", "BadParameter(\"the statement has 0 parameters, and 1 were given\")"),
        ("uuid", "x SELECT $1::uuid", "22P02"),
        ("decimal", "1;2 SELECT $1::numeric", "22P02"),
    ] {
        let answer = host.send(Request::post(&format!("/parameter?{kind}"), text)).await;
        assert!(answer.status == 422 && answer.text().contains(error), "{text}: {}", answer.text());
    }
    let unsigned = host.get("/unsigned").await.text();
    assert_eq!(unsigned, "Error::ValueConversionFailed(\"PostgreSQL has no unsigned integers\")");
}

#[tokio::test]
async fn an_error_is_told_as_the_server_tells_it() {
    let Some(database) = shared().await else { return };
    let host = probe_of(&database, 1, "");
    database.ask("CREATE TABLE t (a int PRIMARY KEY)").await;
    let answer = refused(&host, "INSERT INTO t VALUES (1), (1)").await;
    for part in [
        "severity: \"ERROR\"",
        "code: \"23505\"",
        "message: \"duplicate key value violates unique constraint \\\"t_pkey\\\"\"",
        "detail: Some(\"Key (a)=(1) already exists.\")",
        "(\"constraint\", \"t_pkey\")",
        "(\"table\", \"t\")",
        "(\"schema\", \"public\")",
    ] {
        assert!(answer.contains(part), "{part}: {answer}");
    }
    let old = host.send(Request::post("/error-2", "SELECT nothing")).await.text();
    assert_eq!(old, "Error::QueryFailed(\"ERROR: column \\\"nothing\\\" does not exist (SQLSTATE 42703)\")");
    for (statement, error) in [
        ("SELECT 1; SELECT 2", "42601"),
        ("COPY t FROM STDIN", "COPY from and to a client is not offered here"),
        ("SELECT repeat('x', 16777200)", "the result has more than 16 MiB"),
        ("SELECT repeat('x', 1000000000)", "the result has more than 16 MiB"),
        ("SELECT generate_series(1, 1000000)", "more than 100000 rows"),
        ("SELECT pg_terminate_backend(pg_backend_pid())", "57P01"),
    ] {
        let answer = refused(&host, statement).await;
        assert!(answer.contains(error), "{statement}: {answer}");
        assert_eq!(sql(&host, "SELECT 1 AS a").await, "a Int32\nInt32(1)", "after {statement}");
    }
    assert!(host.resident_bytes() < 500 << 20, "{}", host.resident_bytes());
    let long = refused(&host, &format!("SELECT '{}'", "x".repeat(2 << 20))).await;
    assert!(long.contains("the statement has more than 1 MiB"), "{long}");
}

#[tokio::test]
async fn a_0_3_guest_goes_on_while_it_waits() {
    let Some(database) = shared().await else { return };
    let host = host_of("postgres-p3-probe", "/{*rest}", "main", &database, 2, "limits = { timeout = \"20s\" }");
    let answer = host.get("/query?SELECT+generate_series(1,50000)+AS+a").await;
    answer.assert_ok("a 50000 Some([DbValue::Int32(1)])");
    let refused = host.get("/query?SELECT+nothing").await;
    assert!(refused.status == 422 && refused.text().contains("42703"), "{}", refused.text());
    let began = std::time::Instant::now();
    let both = host.get("/side-by-side?SELECT+1+AS+a+FROM+pg_sleep(1)").await;
    both.assert_ok("a 1 Some([DbValue::Int32(1)]) a 1 Some([DbValue::Int32(1)]) Ok(1) Ok(2)");
    assert!(began.elapsed().as_millis() < 1900, "{:?}", began.elapsed());
    // A statement that the guest gives up is cancelled, and its connection lost.
    let given_up = host.get("/given-up").await;
    assert!(given_up.text().contains("the connection to the database is lost"), "{}", given_up.text());
    let asked = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(61)'";
    for _ in 0..100 {
        if database.ask(asked).await == "0" {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(database.ask(asked).await, "0");
}

/// A host whose function may use no database by name, and those of `outbound` by address.
fn by_address(guest: &str, outbound: &str) -> TestHost {
    TestHost::with(&format!(
        "name = \"test\"\n[functions.guest]\ncomponent = \"{{{guest}.wasm}}\"\nroutes = [\"/{{*rest}}\"]\noutbound = [{outbound}]\n"
    ))
}

#[tokio::test]
async fn an_address_needs_a_grant() {
    let Some(database) = shared().await else { return };
    let port = database.postgres.port();
    let ask = async |host: &TestHost, address: &str| {
        host.send(Request::post("/sql", "SELECT 1 AS a").header("x-database", address)).await
    };
    let host =
        by_address("postgres-probe", &format!("\"postgres://127.0.0.1:{port}\", \"postgres://localhost:{port}\""));
    ask(&host, &database.url()).await.assert_ok("a Int32\nInt32(1)");
    ask(&host, &database.url().replace("127.0.0.1", "localhost")).await.assert_ok("a Int32\nInt32(1)");
    let words = format!("host=127.0.0.1 port={port} user=fnhost password={PASSWORD} dbname=postgres");
    ask(&host, &words).await.assert_ok("a Int32\nInt32(1)");
    let elsewhere = database.url().replace("127.0.0.1", "127.0.0.2");
    let hidden = database.url() + "?hostaddr=127.0.0.2";
    let socket = format!("host=/run/postgresql user=fnhost password={PASSWORD}");
    for address in
        [&elsewhere, &hidden, &socket, "main", "orders", "", "postgres://", &format!("{words} x{PASSWORD}=1")]
    {
        let answer = ask(&host, address).await;
        let text = answer.text();
        assert!(answer.status == 422 && text.contains("ConnectionFailed"), "{address}: {text}");
        assert!(!text.contains(PASSWORD), "{address}: {text}");
    }
    assert!(ask(&host, &elsewhere).await.text().contains("access denied"));
    assert!(ask(&host, "main").await.text().contains("access denied"));
    // No other grant is one for this, and neither is that of another port.
    for outbound in ["", "\"tcp://127.0.0.1:*\", \"postgres://127.0.0.1:1\"", "\"postgres://*:*\""] {
        let host = by_address("postgres-probe", outbound);
        let answer = ask(&host, &database.url()).await;
        assert!(answer.text().contains("access denied"), "{outbound}: {}", answer.text());
    }
    // A name that leads to an address of this machine.
    let host = by_address("postgres-probe", &format!("\"postgres://*:{port}\""));
    let answer = ask(&host, &database.url().replace("127.0.0.1", "localhost")).await;
    assert!(answer.text().contains("access denied"), "{}", answer.text());
}

#[tokio::test]
async fn a_server_is_spoken_to_by_tls_and_has_to_be_trusted() {
    let Some((root, certificate, key)) = certificates() else { return };
    let files = [("server.crt", certificate.as_slice()), ("server.key", key.as_slice())];
    let settings = ["ssl=on", "ssl_cert_file=../server.crt", "ssl_key_file=../server.key"];
    let Some(postgres) = Postgres::start(&settings, &files) else { return };
    // The test's own client speaks without.
    let database = postgres.database().await;
    let encrypted = "SELECT ssl::text AS a FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let root_file = folder.path().join("root.crt");
    std::fs::write(&root_file, &root).unwrap();
    for (mode, answer) in [
        (format!("sslmode=verify-full&sslrootcert={}", root_file.display()), "true"),
        (format!("sslrootcert={}", root_file.display()), "true"),
        ("sslmode=disable".to_owned(), "false"),
        ("sslmode=require".to_owned(), "invalid peer certificate"),
        (String::new(), "invalid peer certificate"),
    ] {
        std::fs::write(folder.path().join("url"), format!("{}?{mode}", database.url())).unwrap();
        let host = TestHost::within(
            &folder,
            "name = \"test\"\n[databases.main]\nurl = { file = \"url\" }\n[functions.guest]\ncomponent = \"{postgres-probe.wasm}\"\nroutes = [\"/{*rest}\"]\ndatabases = [\"main\"]\nlimits = { timeout = \"1s\" }\n",
        );
        let text = host.send(Request::post("/sql", encrypted)).await.text();
        assert!(text.contains(answer), "{mode}: {text}");
        if answer == "true" {
            // Cancelling goes by TLS, too.
            host.send(Request::post("/sql", "SELECT pg_sleep(75)")).await.assert_problem(504, "timeout");
            let asked =
                "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(75)'";
            for _ in 0..100 {
                if database.ask(asked).await == "0" {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
            assert_eq!(database.ask(asked).await, "0");
        }
    }
    let host = by_address("postgres-p3-probe", &format!("\"postgres://127.0.0.1:{}\"", postgres.port()));
    let build = |root: Option<&str>| {
        let request = Request::get("/build?SELECT+1+AS+a").header("x-database", &database.url());
        root.map_or(request, |root| {
            Request::get("/build?SELECT+1+AS+a").header("x-database", &database.url()).header("x-root", root)
        })
    };
    let pem = String::from_utf8(root).unwrap().replace('\n', "~");
    host.send(build(Some(&pem))).await.assert_ok("a 1 Some([DbValue::Int32(1)])");
    let untrusted = host.send(build(None)).await.text();
    assert!(untrusted.contains("invalid peer certificate"), "{untrusted}");
    let broken = host.send(build(Some("no certificate"))).await.text();
    assert!(broken.contains("invalid root certificate"), "{broken}");
}

/// A certificate authority, and what a server on 127.0.0.1 shows of it: its certificate and its key.
fn certificates() -> Option<(Vec<u8>, Vec<u8>, Vec<u8>)> {
    let folder = tempfile::tempdir().unwrap();
    let script = "set -e
        openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.crt -days 2 -subj /CN=ca
        openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr -subj /CN=server
        echo subjectAltName=IP:127.0.0.1 > names
        openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt";
    let made = Command::new("sh").args(["-c", script]).current_dir(folder.path()).output().unwrap();
    if !made.status.success() {
        skipped("there is no openssl (Debian: openssl)");
        return None;
    }
    let [root, certificate, key] =
        ["ca.crt", "server.crt", "server.key"].map(|name| std::fs::read(folder.path().join(name)).unwrap());
    Some((root, certificate, key))
}
