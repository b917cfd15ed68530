//! Embedded databases: what a guest may do with them, what it leaves behind, and what survives.

use crate::support::{Project, Request, TestHost, ask, bare_host, with_guests};
use serde_json::json;
use std::fmt::Write as _;
use std::sync::Arc;

const PROBE: &str = "name = \"test\"\n[databases.main]\n[databases.other]\n[functions.probe]\ncomponent = \"{sql-probe.wasm}\"\nroutes = [\"/{*rest}\"]\ndatabases = [\"main\"]\n";

/// Runs statements, one on each line, on one connection; the answer is what the last returned.
async fn sql(host: &TestHost, statements: &str) -> String {
    let answer = host.send(Request::post("/sql?main", statements.to_owned())).await;
    assert_eq!(answer.status, 200, "{statements}: {}", answer.text());
    answer.text()
}

/// The same, of what is refused.
async fn refused(host: &TestHost, statements: &str) -> String {
    let answer = host.send(Request::post("/sql?main", statements.to_owned())).await;
    assert_eq!(answer.status, 422, "{statements}: {}", answer.text());
    answer.text()
}

#[tokio::test]
async fn values_come_back_as_they_were() {
    let host = TestHost::with(PROBE);
    let made = sql(
        &host,
        "CREATE TABLE t (a INTEGER PRIMARY KEY, b)\nINSERT INTO t (b) VALUES (1.5), ('text'), (x'00ff'), (NULL)",
    )
    .await;
    assert_eq!(made, "\n\nrowid 4 changes 4");
    let rows = sql(&host, "SELECT a, b FROM t ORDER BY a").await;
    assert_eq!(rows, "a|b\n1|1.5\n2|text\n3|[0, 255]\n4|NULL\nrowid 0 changes 0");
    // Rows of a statement that writes; a statement that only looks as if it read.
    assert!(sql(&host, "UPDATE t SET b = 2 WHERE a < 3 RETURNING a").await.starts_with("a\n1\n2\n"));
    assert!(
        sql(&host, "WITH one AS (SELECT 9) INSERT INTO t (b) SELECT * FROM one").await.ends_with("rowid 5 changes 1")
    );
    assert!(sql(&host, "/* a */ PRAGMA user_version = 7\nPRAGMA user_version").await.starts_with("user_version\n7\n"));
    let old = host.send(Request::post("/old-sql?main", "SELECT a, b FROM t WHERE a = 1")).await;
    assert_eq!(
        old.text(),
        "[\"a\", \"b\"] [RowResult { values: [ValueResult::Integer(1), ValueResult::Integer(2)] }]"
            .replace("ValueResult", "Value")
    );
}

#[tokio::test]
async fn what_was_not_granted_is_denied() {
    let host = TestHost::with(PROBE);
    for database in ["other", "nowhere", "", "../main"] {
        let answer = host.send(Request::post(&format!("/sql?{database}"), "SELECT 1")).await;
        assert_eq!((answer.status.as_u16(), answer.text().as_str()), (422, "Error::AccessDenied"), "{database}");
    }
}

#[tokio::test]
async fn a_statement_reaches_nothing_but_its_database() {
    let host = TestHost::with(PROBE);
    sql(&host, "CREATE TABLE t (a)").await;
    for statement in [
        "ATTACH 'file.db' AS other",
        "ATTACH ':memory:' AS other",
        "DETACH main",
        "VACUUM INTO 'copy.db'",
        "SELECT load_extension('/lib/x.so')",
        "PRAGMA journal_mode = DELETE",
        "PRAGMA synchronous = OFF",
        "PRAGMA max_page_count = 1000000000",
        "PRAGMA writable_schema = ON",
        "PRAGMA temp_store_directory = '/'",
        "PRAGMA foreign_keys = OFF",
        "PRAGMA query_only = ON",
        "PRAGMA locking_mode = EXCLUSIVE",
        "CREATE TEMP TABLE secret (a)",
        "CREATE TABLE temp.secret (a)",
        "CREATE TEMP VIEW v AS SELECT 1",
        "CREATE VIRTUAL TABLE v USING dbstat",
        "CREATE TABLE _fnhost_migrations (name)\nINSERT INTO _fnhost_migrations VALUES ('x')",
    ] {
        let said = refused(&host, statement).await;
        assert!(said.contains("is not allowed here") || said.contains("attached"), "{statement}: {said}");
    }
    assert!(refused(&host, "SELECT 1; SELECT 2").await.contains("Multiple statements"));
    let folder = host.folder().path().join(".fnhost/data/test/databases");
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    files.sort();
    let expected = ["main.db", "main.db-shm", "main.db-wal", "other.db", "other.db-shm", "other.db-wal"];
    assert!(files.iter().all(|file| expected.contains(&file.to_str().unwrap())), "{files:?}");
    // Text is searched in the database's own file.
    sql(&host, "CREATE VIRTUAL TABLE words USING fts5(text)\nINSERT INTO words VALUES ('to be found')").await;
    assert!(sql(&host, "SELECT text FROM words WHERE words MATCH 'found'").await.contains("to be found"));
}

#[tokio::test]
async fn nothing_of_a_session_is_seen_by_another() {
    let host = TestHost::with(PROBE);
    sql(&host, "CREATE TABLE t (a INTEGER PRIMARY KEY, b)").await;
    sql(&host, "INSERT INTO t VALUES (41, 'secret')\nINSERT INTO t VALUES (42, 'secret')").await;
    for _ in 0..10 {
        let rows = sql(&host, "SELECT last_insert_rowid(), changes(), total_changes()").await;
        assert!(rows.contains("\n0|0|0\n"), "{rows}");
        // The same on the connection that writes.
        let rows = sql(&host, "BEGIN IMMEDIATE\nSELECT last_insert_rowid(), changes(), total_changes()").await;
        assert!(rows.contains("\n0|0|0\n"), "{rows}");
        let rows = sql(&host, "DELETE FROM t WHERE a = 0").await;
        assert!(rows.ends_with("rowid 0 changes 0"), "{rows}");
        let rows = sql(&host, "INSERT INTO t (b) VALUES (1)\nSELECT last_insert_rowid() - (SELECT max(a) FROM t), changes(), total_changes()").await;
        assert!(rows.contains("\n0|1|1\n"), "{rows}");
    }
}

#[tokio::test]
async fn a_transaction_that_is_left_open_is_rolled_back() {
    let host = TestHost::with(&format!("{PROBE}limits = {{ timeout = \"1s\" }}\n"));
    sql(&host, "CREATE TABLE t (a)").await;
    let begun = "BEGIN IMMEDIATE\nINSERT INTO t VALUES (1)";
    // It returns, traps, hangs until its time is over, or its client leaves.
    sql(&host, begun).await;
    host.send(Request::post("/sql?main,trap", begun)).await.assert_problem(502, "trap");
    host.send(Request::post("/sql?main,hang", begun)).await.assert_problem(504, "timeout");
    let mut gone = host.connect().await;
    let began =
        tokio::time::timeout(std::time::Duration::from_millis(300), gone.begin(Request::post("/sql?main,hang", begun)));
    assert!(began.await.is_err(), "it hangs");
    gone.leave().await;
    assert!(sql(&host, "INSERT INTO t VALUES (2)\nSELECT count(*), max(a) FROM t").await.contains("\n1|2\n"));
    // Committed within one connection, it is there; rolled back, it is not.
    sql(&host, "BEGIN\nINSERT INTO t VALUES (3)\nCOMMIT").await;
    sql(&host, "BEGIN\nINSERT INTO t VALUES (4)\nROLLBACK").await;
    assert!(sql(&host, "SELECT max(a) FROM t").await.contains("\n3\n"));
}

#[tokio::test]
async fn a_statement_that_takes_too_long_is_interrupted() {
    let host = TestHost::with(&format!("{PROBE}limits = {{ timeout = \"500ms\" }}\n"));
    sql(&host, "CREATE TABLE t (a)").await;
    let endless = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n)";
    for statement in
        [format!("{endless} SELECT count(*) FROM n"), format!("{endless} INSERT INTO t SELECT i FROM n WHERE i < 0")]
    {
        host.send(Request::post("/sql?main", statement)).await.assert_problem(504, "timeout");
    }
    // Both connections are free again.
    assert!(sql(&host, "INSERT INTO t VALUES (1)\nSELECT count(*) FROM t").await.contains("\n1\n"));
    let flood = format!("{endless} SELECT i FROM n LIMIT 200000");
    assert!(refused(&host, &flood).await.contains("more than 100000 rows"));
    let large = format!("{endless} SELECT zeroblob(1000000) FROM n LIMIT 20");
    assert!(refused(&host, &large).await.contains("more than 16 MiB"));
}

#[tokio::test]
async fn a_database_that_is_full_says_so_and_can_be_emptied() {
    let host = TestHost::with(&PROBE.replace("[databases.main]\n", "[databases.main]\nsize = \"256 KiB\"\n"));
    sql(&host, "CREATE TABLE t (a)").await;
    let mut full = String::new();
    for _ in 0..100 {
        let answer = host.send(Request::post("/sql?main", "INSERT INTO t VALUES (zeroblob(10000))")).await;
        if answer.status != 200 {
            full = answer.text();
            break;
        }
    }
    assert_eq!(full, "Error::DatabaseFull");
    sql(&host, "DELETE FROM t").await;
    sql(&host, "INSERT INTO t VALUES (zeroblob(10000))").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill() {
    let kills: usize = std::env::var("FNHOST_TEST_SQL_KILLS").map_or(2, |text| text.parse().unwrap());
    let each: usize = std::env::var("FNHOST_TEST_SQL_EACH").map_or(100, |text| text.parse().unwrap());
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let mut acknowledged = 0_usize;
    for round in 0..kills {
        let host = Arc::new(TestHost::within(&folder, PROBE));
        if round == 0 {
            sql(&host, "CREATE TABLE t (round, client, number, PRIMARY KEY (round, client, number)) WITHOUT ROWID")
                .await;
        }
        let (told, mut counted) = tokio::sync::mpsc::unbounded_channel();
        let clients: Vec<_> = (0..8)
            .map(|client| {
                let (host, told) = (Arc::clone(&host), told.clone());
                tokio::spawn(async move {
                    let mut connection = host.connect().await;
                    for number in 0.. {
                        let insert = format!("INSERT INTO t VALUES ({round}, {client}, {number})");
                        match connection.send(Request::post("/sql?main", insert)).await {
                            Ok(answer) if answer.status == 200 => told.send(()).unwrap(),
                            _ => break,
                        }
                    }
                })
            })
            .collect();
        drop(told);
        let mut now = 0;
        while now < each {
            counted.recv().await.expect("inserts go on");
            now += 1;
        }
        host.signal("-KILL");
        for client in clients {
            client.await.unwrap();
        }
        while counted.recv().await.is_some() {
            now += 1;
        }
        acknowledged += now;
    }
    let host = TestHost::within(&folder, PROBE);
    let there = sql(&host, "SELECT count(*) FROM t").await;
    let there: usize = there.lines().nth(1).unwrap().parse().unwrap();
    // What was under way may be there as well: one for each client and kill.
    assert!((acknowledged..=acknowledged + 8 * kills).contains(&there), "{there} of {acknowledged}");
    assert!(sql(&host, "PRAGMA integrity_check").await.contains("\nok\n"));
}

/// An app with these migrations.
fn with_migrations(project: &Project, migrations: &[(&str, &str)]) {
    let folder = project.folder().join("migrations");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).unwrap();
    for (name, sql) in migrations {
        std::fs::write(folder.join(name), sql).unwrap();
    }
    project.write(&PROBE.replace("[databases.main]\n", "[databases.main]\nmigrations = \"migrations\"\n"));
}

const ONE: (&str, &str) = ("1.sql", "CREATE TABLE a (x);\nINSERT INTO a VALUES (1);");
const TWO: (&str, &str) = ("2.sql", "ALTER TABLE a ADD COLUMN y DEFAULT 'two';");

#[tokio::test]
async fn migrations_are_done_in_order_and_once_each_before_a_release_is_served() {
    let host = bare_host();
    let project = Project::on(&host);
    with_migrations(&project, &[TWO, ONE]);
    project.must(&["deploy"]);
    assert!(sql(&host, "SELECT x, y FROM a").await.contains("\n1|two\n"));
    // One more, and nothing else: the release is as it was, and its database is not.
    with_migrations(&project, &[ONE, TWO, ("3.sql", "INSERT INTO a (x) VALUES (3)")]);
    project.must(&["deploy"]);
    project.must(&["deploy"]);
    assert!(sql(&host, "SELECT count(*), max(x) FROM a").await.contains("\n2|3\n"));
    let noted = sql(&host, "SELECT name FROM _fnhost_migrations ORDER BY name").await;
    assert!(noted.starts_with("name\n1.sql\n2.sql\n3.sql\n"), "{noted}");
    let said = refused(&host, "DELETE FROM _fnhost_migrations").await;
    assert!(said.contains("changing _fnhost_migrations is not allowed"), "{said}");
}

#[tokio::test]
async fn a_migration_that_fails_or_has_changed_stops_the_deploy_and_nothing_else() {
    let host = bare_host();
    let project = Project::on(&host);
    with_migrations(&project, &[ONE]);
    project.must(&["deploy"]);
    for (migration, says) in [
        (("2.sql", "INSERT INTO a VALUES (2); INSERT INTO absent VALUES (1);"), "2.sql: no such table: absent"),
        (("2.sql", "INSERT INTO a VALUES (2); COMMIT;"), "begins or ends a transaction"),
        (("2.sql", "ATTACH 'x.db' AS x;"), "another file is not allowed here"),
        (("2.sql", "this is no SQL"), "syntax error"),
    ] {
        with_migrations(&project, &[ONE, migration]);
        let said = project.run(&["deploy"]);
        assert!(said.code == Some(1) && said.stderr.contains(says), "{says}: {}", said.stderr);
        assert!(said.stderr.contains("the database `main`"), "{}", said.stderr);
    }
    with_migrations(&project, &[("1.sql", "CREATE TABLE b (x)")]);
    let said = project.run(&["deploy"]);
    assert!(said.code == Some(1) && said.stderr.contains("has changed since"), "{}", said.stderr);
    assert_eq!(project.must(&["releases"]).lines().count(), 2);
    let rows = sql(&host, "SELECT x FROM a").await;
    assert!(rows.starts_with("x\n1\n"), "{rows}");
}

#[tokio::test]
async fn data_belongs_to_the_app_and_not_to_a_release() {
    let host = bare_host();
    let project = Project::on(&host);
    with_migrations(&project, &[ONE]);
    project.must(&["deploy"]);
    sql(&host, "INSERT INTO a VALUES (2)").await;
    with_migrations(&project, &[ONE, TWO]);
    let mut toml = std::fs::read_to_string(project.folder().join("functions.toml")).unwrap();
    let _ = writeln!(toml, "env = {{ RELEASE = \"2\" }}");
    std::fs::write(project.folder().join("functions.toml"), &toml).unwrap();
    project.must(&["deploy"]);
    assert!(sql(&host, "SELECT y FROM a WHERE x = 2").await.contains("\ntwo\n"));
    // Going back undoes nothing of that.
    project.must(&["rollback"]);
    assert!(sql(&host, "SELECT y FROM a WHERE x = 2").await.contains("\ntwo\n"));
    // Another app's database of that name is another.
    let other = Project::on(&host);
    other.deploy(&PROBE.replace("\"test\"", "\"other\"").replace("/{*rest}", "other.example/{*rest}"));
    let asked = Request::post("/sql?main", "SELECT x FROM a").header("host", "other.example");
    let answer = host.send(asked).await;
    assert!(answer.status == 422 && answer.text().contains("no such table: a"), "{}", answer.text());
    // And it outlives the host.
    let folder = Arc::clone(host.folder());
    host.stop();
    let host = TestHost::of_state(&folder, &[]);
    assert!(sql(&host, "SELECT count(*) FROM a").await.contains("\n2\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_at_once_read_and_write_one_after_another() {
    let host = Arc::new(TestHost::with(PROBE));
    sql(&host, "CREATE TABLE t (a)\nINSERT INTO t VALUES (0)").await;
    let clients: Vec<_> = (0..32)
        .map(|_| {
            let host = Arc::clone(&host);
            tokio::spawn(async move {
                for _ in 0..10 {
                    sql(&host, "BEGIN IMMEDIATE\nUPDATE t SET a = a + 1\nCOMMIT\nSELECT a FROM t").await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.unwrap();
    }
    assert!(sql(&host, "SELECT a FROM t").await.contains("\n320\n"));
}

#[tokio::test]
async fn migrations_that_are_sent_are_checked() {
    let host = bare_host();
    let toml = PROBE.replace("[databases.main]\n", "[databases.main]\nmigrations = \"migrations\"\n");
    let digest = "0".repeat(64);
    for (migrations, says) in [
        (json!({}), "The migrations of the database `main` are not in the request."),
        (json!({ "main": [], "other": [] }), "functions.toml has no migrations for a database `other`."),
        (json!({ "main": [{ "name": "1.txt", "sql": "" }] }), "ends with .sql"),
        (json!({ "main": [{ "name": "../1.sql", "sql": "" }] }), "ends with .sql"),
        (json!({ "main": [{ "name": "1.sql", "sql": "x".repeat((4 << 20) + 1) }] }), "4194304 bytes at the most"),
        (json!({ "main": [{ "name": "1.sql", "sql": "" }, { "name": "1.sql", "sql": "" }] }), "have the same name"),
    ] {
        let body =
            json!({ "manifest": with_guests(&toml), "components": { "probe": digest }, "migrations": migrations });
        let answer = ask(&host, Request::post("/v1/apps/test/releases", body.to_string())).await;
        answer.assert_refused(400, "bad_request");
        assert!(answer.text().contains(says), "{says}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_0_3_guest_streams_rows_and_asks_several_things_at_once() {
    let toml = PROBE.replace("sql-probe", "sql-async-probe")
        + "variables = [\"region\"]\n[variables]\nregion = \"eu\"\nsecret = \"of others\"\n";
    let host = TestHost::with(&toml);
    let said = async |path: &str, text: &str| host.send(Request::post(path, text.to_owned())).await.text();
    let made = said("/sql?main", "CREATE TABLE t (a)\nINSERT INTO t VALUES (1), ('two')\nSELECT a FROM t").await;
    assert!(made.starts_with("a [") && made.contains("Integer(1)") && made.contains("two"), "{made}");
    assert!(made.ends_with("rowid 2 changes 2"), "{made}");
    let inserts = (0..50).map(|number| format!("INSERT INTO t VALUES ({number})")).collect::<Vec<_>>().join("\n");
    assert!(said("/together?main", &inserts).await.ends_with("rowid 52 changes 1"));
    assert!(said("/sql?main", "SELECT count(*) FROM t").await.contains("Integer(52)"));
    // What would wait for itself is told so.
    let slow = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 300000) SELECT max(i) FROM n";
    assert!(said("/mixed?main", &format!("{slow}\nSELECT 1")).await.contains("is not done yet"));
    assert_eq!(said("/sql?other", "SELECT 1").await, "Error::AccessDenied");
    assert!(said("/sql?main", "SELECT absent FROM t").await.contains("no such column"));
    assert_eq!(said("/variable?region", "").await, "eu");
    assert!(said("/variable?secret", "").await.contains("Undefined"));
    assert_eq!(host.receipt(host.get("/variable?region").await.request_id())["kind"], "http-0.3");
}
