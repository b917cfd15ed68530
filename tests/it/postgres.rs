//! Databases of a PostgreSQL server: one pool for all, sessions that see nothing of each other, and servers that go away.

use crate::support::{
    Answer, Connection, Database, HOST_CONNECTIONS, PASSWORD, Postgres, Request, TestHost, ask, ask_database,
};
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A host whose function `probe` may use `database` by the name `main`.
pub(crate) fn probe_of(database: &Database, pool: u32, settings: &str) -> TestHost {
    host_of("postgres-probe", "/{*rest}", "main", database, pool, settings)
}

pub(crate) fn host_of(
    guest: &str,
    route: &str,
    name: &str,
    database: &Database,
    pool: u32,
    settings: &str,
) -> TestHost {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    std::fs::write(folder.path().join("url"), database.url() + "\n").unwrap();
    let toml = format!(
        "name = \"test\"\n[databases.{name}]\nurl = {{ file = \"url\" }}\npool = {pool}\n[functions.guest]\ncomponent = \"{{{guest}.wasm}}\"\nroutes = [\"{route}\"]\ndatabases = [\"{name}\"]\n{settings}\n"
    );
    TestHost::within(&folder, &toml)
}

/// Runs statements, one on each line, on one connection of a guest's; the answer is what the last returned.
pub(crate) async fn sql(host: &TestHost, statements: &str) -> String {
    let answer = host.send(Request::post("/sql", statements.to_owned())).await;
    assert_eq!(answer.status, 200, "{statements}: {}", answer.text());
    answer.text()
}

/// The same, of what is refused.
pub(crate) async fn refused(host: &TestHost, statements: &str) -> String {
    let answer = host.send(Request::post("/sql", statements.to_owned())).await;
    assert_eq!(answer.status, 422, "{statements}: {}", answer.text());
    answer.text()
}

pub(crate) async fn shared() -> Option<Database> {
    Some(Postgres::shared()?.database().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_at_once_share_ten_connections() {
    let Some(database) = shared().await else { return };
    let host = probe_of(&database, 10, "limits = { concurrency = 500, queue-wait = \"30s\", timeout = \"60s\" }");
    database.ask("CREATE TABLE t AS SELECT i AS a, 'row ' || i AS b FROM generate_series(1, 500) AS i").await;
    let watching = Arc::new(AtomicBool::new(true));
    let watcher = tokio::spawn({
        let (client, watching) = (database.connect().await, Arc::clone(&watching));
        async move {
            let mut most = 0;
            while watching.load(Ordering::Relaxed) {
                most = most.max(ask_database(&client, HOST_CONNECTIONS).await.parse::<usize>().unwrap());
            }
            most
        }
    });
    let clients = (1..=500).map(|number| {
        let address = host.address();
        tokio::spawn(async move {
            let mut connection = Connection::open(address).await.unwrap();
            for _ in 0..3 {
                let statement = format!("SELECT b FROM t, pg_sleep(0.002) WHERE a = {number}");
                let answer = connection.send(Request::post("/sql", statement)).await.unwrap();
                answer.assert_ok(&format!("b Str\nStr(\"row {number}\")"));
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    watching.store(false, Ordering::Relaxed);
    assert_eq!(watcher.await.unwrap(), 10);
    assert_eq!(database.connections().await, 10);
}

/// What a request may leave behind: statements, and what must not be there for the next one.
const LEFT: &[&str] = &[
    "BEGIN\nINSERT INTO t VALUES ('s3cret')",
    "BEGIN\n!SELECT nothing",
    "START TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY\nSELECT 1",
    "SET probe.secret = 's3cret'",
    "SELECT set_config('probe.secret', 's3cret', false)",
    "CREATE TEMP TABLE secret AS SELECT 's3cret' AS a",
    "CREATE TEMP TABLE t (a int)\nSELECT a FROM t",
    "CREATE FUNCTION pg_temp.secret() RETURNS text LANGUAGE sql AS $$ SELECT 's3cret' $$",
    "SELECT pg_advisory_lock(7)",
    "LISTEN secret",
    "DECLARE secret CURSOR WITH HOLD FOR SELECT 's3cret'",
    "SELECT nextval('sequence')",
    "PREPARE secret AS SELECT 's3cret'",
    "DO $$ BEGIN EXECUTE 'PREPARE secret AS SELECT 1'; END $$",
    "DEALLOCATE ALL",
    "DISCARD ALL",
    "SET ROLE other",
    "SET SESSION AUTHORIZATION other",
    "SET search_path = hidden\nSELECT a FROM t",
    "SET statement_timeout = 1\n!SELECT pg_sleep(1)",
    "SET default_transaction_read_only = on",
    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL SERIALIZABLE READ ONLY DEFERRABLE",
    "SET TimeZone = 'Pacific/Chatham'\nSET DateStyle = 'German'\nSET application_name = 's3cret'",
    "SET client_encoding = 'LATIN1'",
    "BEGIN\nSET LOCAL probe.secret = 's3cret'\nSAVEPOINT a\nINSERT INTO t VALUES ('s3cret')\nROLLBACK TO a",
    "BEGIN\nCOMMIT AND CHAIN\nINSERT INTO t VALUES ('s3cret')",
    "/* hidden */ ; begin\nINSERT INTO t VALUES ('s3cret')",
    "SELECT hides_a_setting()",
    // Without a function in sight.
    "SELECT * FROM leaves_a_setting",
    "SELECT t.hides_a_setting FROM t",
    "!COPY t FROM STDIN",
    "!SELECT 1/0",
    "SELECT 1",
];

/// One row, the same for whoever sees nothing of another.
const SEEN: &str = "SELECT coalesce(current_setting('probe.secret', true), ''), \
    to_regclass('pg_temp.secret') IS NULL, \
    to_regprocedure('pg_temp.secret()') IS NULL, \
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()), \
    (SELECT count(*) FROM pg_listening_channels()), \
    (SELECT count(*) FROM pg_cursors WHERE is_holdable), \
    (SELECT count(*) FROM pg_prepared_statements WHERE from_sql), \
    current_user, session_user, current_setting('search_path'), current_setting('statement_timeout'), \
    current_setting('transaction_isolation'), current_setting('transaction_read_only'), \
    current_setting('TimeZone'), current_setting('DateStyle'), current_setting('application_name'), \
    current_setting('client_encoding'), (SELECT string_agg(a, ',') FROM t)";

async fn prepare_for_left(database: &Database) {
    let prepared = "CREATE TABLE t (a text); INSERT INTO t VALUES ('public'); CREATE SEQUENCE sequence; \
        CREATE SCHEMA hidden; CREATE TABLE hidden.t (a int); INSERT INTO hidden.t VALUES (5); \
        DO $$ BEGIN CREATE ROLE other; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$; \
        CREATE FUNCTION hides_a_setting() RETURNS text LANGUAGE sql AS $$ SELECT set_config('probe.secret', 's3cret', false) $$; \
        CREATE FUNCTION hides_a_setting(t) RETURNS text LANGUAGE sql AS $$ SELECT hides_a_setting() $$; \
        CREATE VIEW leaves_a_setting AS SELECT hides_a_setting()";
    database.ask(prepared).await;
}

/// How often each of these tests tries.
fn tries() -> usize {
    std::env::var("FNHOST_TEST_PG_TRIES").ok().and_then(|tries| tries.parse().ok()).unwrap_or(300)
}

#[tokio::test]
async fn nothing_of_one_request_is_seen_by_the_next() {
    let Some(database) = shared().await else { return };
    prepare_for_left(&database).await;
    let host = probe_of(&database, 1, "");
    let mut connection = host.connect().await;
    let mut send =
        async |statements: &str| connection.send(Request::post("/sql", statements.to_owned())).await.unwrap();
    let clean = send(SEEN).await.text();
    assert!(clean.ends_with("Str(\"UTF8\") | Str(\"public\")") && !clean.contains("s3cret"), "{clean}");
    for at in 0..tries() {
        let left = LEFT[at % LEFT.len()];
        let answer = send(left).await;
        assert_eq!(answer.status, 200, "{left}: {}", answer.text());
        // Any of these may be the first, be it prepared already or not.
        let mut asked = [SEEN, "!SELECT lastval()", "!SAVEPOINT a"];
        asked.rotate_left(at / LEFT.len() % 3);
        for statement in asked {
            let told = send(statement).await.text();
            match statement {
                SEEN => assert_eq!(told, clean, "after {left}"),
                "!SELECT lastval()" => assert!(told.contains("55000"), "after {left}: {told}"),
                _ => assert!(told.contains("25P01"), "after {left}: {told}"),
            }
        }
        assert_eq!(send("SELECT a FROM t").await.text(), "a Str\nStr(\"public\")", "after {left}");
    }
    assert_eq!(database.connections().await, 1);
}

/// Many at once on few connections, where a statement is sent right behind the cleaning after another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_of_one_request_is_seen_by_another_that_waits() {
    let Some(database) = shared().await else { return };
    prepare_for_left(&database).await;
    let host = Arc::new(probe_of(&database, 2, "limits = { queue-wait = \"30s\" }"));
    let clean = sql(&host, SEEN).await;
    let done = Arc::new(AtomicUsize::new(0));
    let clients = (0..16).map(|client| {
        let (host, clean, done) = (Arc::clone(&host), clean.clone(), Arc::clone(&done));
        tokio::spawn(async move {
            let mut connection = host.connect().await;
            while done.fetch_add(1, Ordering::Relaxed) < tries() {
                let at = done.load(Ordering::Relaxed) * 7 + client;
                let left = LEFT[at % LEFT.len()];
                let then = ["", "?trap"][at / 3 % 2];
                let request = Request::post(&format!("/sql{then}"), left.to_owned());
                let answer = connection.send(request).await.unwrap();
                assert_eq!(answer.status, if then.is_empty() { 200 } else { 502 }, "{left}: {}", answer.text());
                let seen = connection.send(Request::post("/sql", SEEN)).await.unwrap().text();
                assert_eq!(seen, clean, "after {left}");
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    assert!(database.connections().await <= 2);
}

/// What was cleaned cannot always be: a cleaning that fails is as good as none, and nobody sees that either.
#[tokio::test]
async fn a_connection_that_cannot_be_cleaned_is_closed() {
    let Some(database) = shared().await else { return };
    prepare_for_left(&database).await;
    // Its text looks harmless. Closing so many cursors takes longer than the cleaning's statements may.
    let spoiling = "CREATE FUNCTION spoils() RETURNS int LANGUAGE plpgsql AS $$ BEGIN \
        FOR i IN 1..3000 LOOP EXECUTE 'DECLARE c' || i || ' CURSOR WITH HOLD FOR SELECT 1'; END LOOP; \
        PERFORM set_config('probe.secret', 's3cret', false), set_config('statement_timeout', '1', false); RETURN 1; END $$";
    database.ask(spoiling).await;
    let host = probe_of(&database, 1, "");
    let mut connection = host.connect().await;
    let mut send =
        async |statements: &str| connection.send(Request::post("/sql", statements.to_owned())).await.unwrap();
    let clean = send(SEEN).await.text();
    let mut backends = std::collections::HashSet::new();
    for _ in 0..20 {
        send("SELECT spoils()").await.assert_ok("spoils Int32\nInt32(1)");
        assert_eq!(send(SEEN).await.text(), clean);
        backends.insert(send("SELECT pg_backend_pid()").await.text());
    }
    assert!(backends.len() > 1, "it was always cleaned");
}

/// One that can be cleaned is used again and again.
#[tokio::test]
async fn a_connection_is_kept() {
    let Some(database) = shared().await else { return };
    let host = probe_of(&database, 1, "");
    let first = sql(&host, "SELECT pg_backend_pid()").await;
    for left in ["SELECT 1", "BEGIN", "SET a.b = 'c'", "CREATE TEMP TABLE t (a int)", "!SELECT 1/0", "LISTEN a"] {
        sql(&host, left).await;
        assert_eq!(sql(&host, "SELECT pg_backend_pid()").await, first, "after {left}");
    }
    let warned = database.postgres.log().matches("there is no transaction in progress").count();
    assert_eq!(warned, 0, "each cleaning would be a line in the server's log");
}

#[tokio::test]
async fn a_session_keeps_what_it_has() {
    let Some(database) = shared().await else { return };
    let host = probe_of(&database, 2, "");
    let kept = sql(
        &host,
        "CREATE TEMP TABLE kept AS SELECT 1 AS a\nBEGIN\nINSERT INTO kept VALUES (2)\nCOMMIT\nSET probe.kept = 'yes'\nSELECT sum(a), current_setting('probe.kept') FROM kept",
    )
    .await;
    assert_eq!(kept, "sum Int64 | current_setting Str\nInt64(3) | Str(\"yes\")");
    // A prepared statement whose table has changed is prepared again, but not in the middle of a transaction.
    sql(&host, "CREATE TABLE changing (a int)").await;
    for (change, column) in
        [("ADD b int", "a Int32 | b Int32"), ("DROP b", "a Int32"), ("ADD b text", "a Int32 | b Str")]
    {
        sql(&host, "SELECT * FROM changing").await;
        database.ask(&format!("ALTER TABLE changing {change}")).await;
        assert_eq!(sql(&host, "SELECT * FROM changing").await, column);
    }
}

#[tokio::test]
async fn a_statement_is_cancelled_when_nobody_waits_for_it() {
    let Some(database) = shared().await else { return };
    let host = probe_of(&database, 2, "limits = { timeout = \"60s\" }");
    let client = database.connect().await;
    let sleeping = async |number: u32| {
        let asked = format!(
            "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep({number})'"
        );
        ask_database(&client, &asked).await.parse::<u32>().unwrap()
    };
    for number in [71, 72, 73] {
        let mut connection = host.connect().await;
        let request = Request::post("/sql", format!("SELECT pg_sleep({number})"));
        let waiting = tokio::spawn(async move { connection.send(request).await.map(|answer| answer.status) });
        until("it sleeps", async || sleeping(number).await == 1).await;
        let gone = Instant::now();
        waiting.abort();
        until("it is cancelled", async || sleeping(number).await == 0).await;
        assert!(gone.elapsed() < Duration::from_secs(5), "{:?}", gone.elapsed());
    }
    // Its place is free again.
    let both = (0..2).map(|_| host.send(Request::post("/sql", "SELECT pg_sleep(0.2)")));
    for answer in both.collect::<Vec<_>>() {
        assert_eq!(answer.await.status, 200);
    }
    until("the others are closed", async || database.connections().await <= 2).await;
}

/// A connection keeps its place until the server has closed it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_leave_all_the_time_make_no_more_connections() {
    let Some(database) = shared().await else { return };
    let host = Arc::new(probe_of(&database, 3, "limits = { timeout = \"60s\", queue-wait = \"30s\" }"));
    let leaving = (0..12).map(|client| {
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            for round in 0..10 {
                let mut connection = host.connect().await;
                let request = Request::post("/sql", "SELECT pg_sleep(76)");
                let patience = Duration::from_millis(20 + (client * 7 + round * 13) % 50);
                let _ = tokio::time::timeout(patience, connection.send(request)).await;
            }
        })
    });
    let leaving: Vec<_> = leaving.collect();
    let client = database.connect().await;
    while !leaving.iter().all(tokio::task::JoinHandle::is_finished) {
        let now: u32 = ask_database(&client, HOST_CONNECTIONS).await.parse().unwrap();
        assert!(now <= 3, "{now} connections");
    }
    let asked = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(76)'";
    until("all are cancelled", async || ask_database(&client, asked).await == "0").await;
    sql(&host, "SELECT 1").await;
}

#[tokio::test]
async fn a_statement_is_cancelled_when_its_request_is_out_of_time() {
    let Some(database) = shared().await else { return };
    let host = probe_of(&database, 1, "limits = { timeout = \"500ms\" }");
    for _ in 0..3 {
        let answer = host.send(Request::post("/sql", "SELECT pg_sleep(74)")).await;
        answer.assert_problem(504, "timeout");
        let client = database.connect().await;
        let asked = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query = 'SELECT pg_sleep(74)'";
        until("it is cancelled", async || ask_database(&client, asked).await == "0").await;
    }
    // Whoever waits for a connection waits no longer than its own time.
    let began = Instant::now();
    let address = host.address();
    let waiting = (0..5).map(|_| {
        tokio::spawn(async move {
            let mut connection = Connection::open(address).await.unwrap();
            connection.send(Request::post("/sql?hang", "SELECT 1")).await.unwrap().assert_problem(504, "timeout");
        })
    });
    for waiting in waiting.collect::<Vec<_>>() {
        waiting.await.unwrap();
    }
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    until("the connection is there again", async || host.send(Request::post("/sql", "SELECT 3")).await.status == 200)
        .await;
    assert_eq!(database.connections().await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashed_is_used_again_when_it_is_back() {
    let Some(postgres) = Postgres::start(&[], &[]) else { return };
    let database = postgres.database().await;
    let host = Arc::new(probe_of(&database, 4, "limits = { timeout = \"10s\", queue-wait = \"10s\" }"));
    let ending = Arc::new(AtomicBool::new(false));
    let clients = (0..32).map(|_| {
        let (host, ending) = (Arc::clone(&host), Arc::clone(&ending));
        tokio::spawn(async move {
            let mut answers: Vec<(Answer, Instant, Duration)> = Vec::new();
            let mut connection = host.connect().await;
            while !ending.load(Ordering::Relaxed) {
                let began = Instant::now();
                let statements = "SELECT pg_sleep(0.01)\nBEGIN\nSELECT 1";
                let answer = connection.send(Request::post("/sql", statements)).await.unwrap();
                answers.push((answer, Instant::now(), began.elapsed()));
            }
            answers
        })
    });
    let clients: Vec<_> = clients.collect();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        postgres.crash();
        tokio::time::sleep(Duration::from_secs(1)).await;
        postgres.run();
    }
    let recovered = Instant::now() + Duration::from_secs(1);
    tokio::time::sleep(Duration::from_secs(2)).await;
    ending.store(true, Ordering::Relaxed);
    let (mut refused, mut late) = (0, 0);
    for client in clients {
        for (answer, at, took) in client.await.unwrap() {
            assert!(took < Duration::from_secs(5), "{took:?}: {}", answer.text());
            if answer.status == 200 {
                late += usize::from(at > recovered);
                continue;
            }
            let text = answer.text();
            assert_eq!(answer.status, 422, "{text}");
            let known =
                ["the database cannot be reached", "the connection to the database is lost", "57P01", "57P02", "57P03"];
            assert!(known.iter().any(|known| text.contains(known)), "{text}");
            assert!(!text.contains(PASSWORD) && !text.contains("postgres://"), "{text}");
            assert!(at < recovered, "it did not recover: {text}");
            refused += 1;
        }
    }
    assert!(refused > 0 && late > 50, "{refused} refused, {late} answered at the end");
    assert!(database.connections().await <= 4);
    // The operator is told once of each outage, and when it is over.
    let told = |text: &str| host.log_lines().iter().filter(|line| line.to_string().contains(text)).count();
    assert_eq!((told("cannot be reached"), told("is reached again")), (2, 2));
}

#[tokio::test]
async fn the_password_is_told_to_nobody() {
    let Some(database) = shared().await else { return };
    let host = probe_of(&database, 1, "");
    sql(&host, "SELECT 1").await;
    let mut told = refused(&host, "SELECT nothing").await;
    for path in ["/v1/status", "/v1/apps", "/v1/apps/test", "/v1/releases", "/v1/apps/test/releases", "/metrics"] {
        told += &ask(&host, Request::get(path)).await.text();
    }
    // A server that knows another one.
    let folder = Arc::clone(host.folder());
    host.stop();
    std::fs::write(folder.path().join("url"), database.url().replace(PASSWORD, "wr0ng-passw0rd")).unwrap();
    let toml = std::fs::read_to_string(folder.path().join("functions.toml")).unwrap();
    let host = TestHost::within(&folder, &toml);
    let wrong = refused(&host, "SELECT 1").await;
    assert!(wrong.contains("ConnectionFailed") && wrong.contains("password authentication failed"), "{wrong}");
    let log = host.log_lines().iter().fold(wrong, |mut text, line| {
        let _ = write!(text, "{line}");
        text
    });
    for text in [told, log] {
        assert!(!text.contains(PASSWORD) && !text.contains("wr0ng-passw0rd"), "{text}");
    }
}

/// Asks again and again until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !is_so().await {
        assert!(Instant::now() < deadline, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
