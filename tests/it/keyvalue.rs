//! Key-value stores: what a guest may do with them by each interface, whose they are, and what survives.

use crate::support::{Answer, Project, Redis, Request, TestHost, bare_host, guest, wait_for_async};
use std::collections::HashMap;
use std::fmt::Write as _;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// An app whose function `probe` may use the store `main`, which is what `settings` say.
fn probe(settings: &str) -> String {
    format!(
        "name = \"test\"\n[stores.main]\n{settings}\n[stores.other]\n[functions.probe]\ncomponent = \"{{data-probe.wasm}}\"\nroutes = [\"/{{*rest}}\"]\nstores = [\"main\"]\n"
    )
}

/// What `asked` came to: the answer's text.
#[track_caller]
fn done(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.text());
    answer.text()
}

#[track_caller]
fn refused(answer: &Answer) -> String {
    assert_eq!(answer.status, 422, "{}", answer.text());
    answer.text()
}

/// Does something with the store `main`; `asked` is `INTERFACE/WHAT?key=..`.
async fn ask(host: &TestHost, asked: &str) -> Answer {
    let (what, query) = asked.split_once('?').unwrap_or((asked, ""));
    host.get(&format!("/{what}?store=main&{query}")).await
}

async fn ask_with(host: &TestHost, asked: &str, body: impl Into<bytes::Bytes>) -> Answer {
    let (what, query) = asked.split_once('?').unwrap_or((asked, ""));
    host.send(Request::post(&format!("/{what}?store=main&{query}"), body)).await
}

/// The settings of a store of each sort; of a server's, if there is one, which lives as long as the result.
fn each_sort() -> (Option<Redis>, Vec<String>) {
    let redis = Redis::start();
    let mut sorts = vec![String::new(), "url = \"memory:\"".to_owned()];
    sorts.extend(redis.as_ref().map(|redis| redis.settings() + "\nprefix = \"main[1]*:\""));
    (redis, sorts)
}

#[tokio::test]
async fn each_interface_reads_what_another_wrote() {
    let (_redis, sorts) = each_sort();
    for sort in sorts {
        let host = TestHost::with(&probe(&sort));
        for (writes, reads) in [("draft", "draft2"), ("draft2", "spin"), ("spin", "draft")] {
            assert_eq!(done(&ask(&host, &format!("{reads}/get?key={writes}")).await), "none");
            assert_eq!(done(&ask(&host, &format!("{reads}/exists?key={writes}")).await), "false");
            assert_eq!(done(&ask(&host, &format!("{writes}/set?key={writes}&value=by-{writes}")).await), "set");
            assert_eq!(done(&ask(&host, &format!("{reads}/get?key={writes}")).await), format!("by-{writes}"));
            assert_eq!(done(&ask(&host, &format!("{reads}/exists?key={writes}")).await), "true");
        }
        assert_eq!(done(&ask(&host, "draft2/list").await).lines().next().unwrap().split(' ').count(), 3);
        assert_eq!(done(&ask(&host, "draft/list").await).lines().next().unwrap().split(' ').count(), 3);
        assert_eq!(done(&ask(&host, "spin/list").await), "draft draft2 spin\n-");
        for interface in ["draft", "draft2", "spin"] {
            assert_eq!(done(&ask(&host, &format!("{interface}/delete?key={interface}")).await), "deleted");
            assert_eq!(done(&ask(&host, &format!("{interface}/delete?key={interface}")).await), "deleted");
        }
        assert_eq!(done(&ask(&host, "spin/list").await), "\n-");
    }
}

#[tokio::test]
async fn several_at_once_numbers_and_swaps() {
    let (_redis, sorts) = each_sort();
    for sort in sorts {
        let host = TestHost::with(&probe(&sort));
        assert_eq!(done(&ask_with(&host, "draft2/set-many", "a=1\nb=two\na=3").await), "set");
        assert_eq!(done(&ask(&host, "draft2/get-many?key=b,none,a").await), "b=two none=none a=3");
        assert_eq!(done(&ask(&host, "draft/get-many?key=b,none,a").await), "b=two - a=3");
        assert_eq!(done(&ask(&host, "draft2/increment?key=a&by=-5").await), "-2");
        assert_eq!(done(&ask(&host, "draft/increment?key=a&by=9").await), "7");
        assert_eq!(done(&ask(&host, "spin/get?key=a").await), "7");
        assert_eq!(done(&ask(&host, "draft2/increment?key=new").await), "1");
        assert!(refused(&ask(&host, "draft2/increment?key=b").await).starts_with("the value is no number"));
        let most = i64::MAX;
        assert!(refused(&ask(&host, &format!("draft2/increment?key=a&by={most}")).await).contains("does not fit"));
        assert!(refused(&ask(&host, "draft/increment?key=a&by=18446744073709551615").await).contains("does not fit"));
        assert_eq!(done(&ask(&host, "draft2/get?key=a").await), "7");

        assert_eq!(done(&ask(&host, "draft2/swap?key=c&value=1").await), "none, swapped");
        assert_eq!(done(&ask(&host, "draft2/swap?key=c&value=2").await), "1, swapped");
        // Another sets it in between; who knows that may try again.
        assert_eq!(done(&ask(&host, "draft2/swap?key=c&value=4&between=3").await), "2, failed, 3, again: true");
        assert_eq!(done(&ask(&host, "draft2/get?key=c").await), "4");

        assert_eq!(done(&ask(&host, "draft/delete-many?key=a,none,b").await), "deleted");
        assert_eq!(done(&ask(&host, "spin/list").await), "c new\n-");
    }
}

#[tokio::test]
async fn get_many_has_either_shape() {
    let toml = "name = \"test\"\n[stores.default]\n[functions.probe]\ncomponent = \"{batch-probe.wasm}\"\nroutes = [\"/\"]\nstores = [\"default\"]\n";
    TestHost::with(toml).get("/").await.assert_ok("b=2 - a=1");
}

#[tokio::test]
async fn functions_of_wasi_03_wait_for_nothing() {
    let toml = probe("").replace("data-probe", "data-async-probe");
    let host = TestHost::with(&toml);
    host.get("/get?main,a").await.assert_ok("none");
    host.get("/set?main,a").await.assert_ok("set");
    host.get("/get?main,a").await.assert_ok("set by 3.0");
    host.get("/exists?main,a").await.assert_ok("true");
    host.get("/list?main").await.assert_ok("a");
    host.get("/delete?main,a").await.assert_ok("deleted");
    host.get("/first?main").await.assert_ok("none");
    host.get("/set-many?main").await.assert_ok("set");
    host.get("/first?main").await.assert_ok("many000");
    let listed = done(&host.get("/list?main").await);
    assert_eq!(listed, (0..200).map(|number| format!("many{number:03}")).collect::<Vec<_>>().join(" "));
    assert!(refused(&host.get("/get?other,a").await).contains("AccessDenied"));
    assert!(refused(&host.get("/get?main,").await).starts_with("a key has 1 to 1024 bytes"));
}

#[tokio::test]
async fn keys_are_listed_page_by_page() {
    let (_redis, sorts) = each_sort();
    for sort in sorts {
        let host = TestHost::with(&probe(&sort));
        let mut expected: Vec<String> = (0..2500).map(|number| format!("key{number:04}")).collect();
        let pairs = expected.iter().rev().fold(String::new(), |pairs, key| pairs + key + "=1\n");
        done(&ask_with(&host, "draft2/set-many", pairs).await);
        for interface in ["draft", "draft2"] {
            let (mut seen, mut pages, mut cursor) = (Vec::new(), 0, String::new());
            loop {
                let page = done(&ask(&host, &format!("{interface}/list?{cursor}")).await);
                let (keys, next) = page.split_once('\n').unwrap();
                seen.extend(keys.split_whitespace().map(str::to_owned));
                pages += 1;
                if next == "-" {
                    break;
                }
                cursor = format!("cursor={next}");
                // A key that goes meanwhile takes no other along.
                if pages == 1 {
                    let gone = seen[0].clone();
                    done(&ask(&host, &format!("draft2/delete?key={gone}")).await);
                    expected.retain(|key| *key != gone);
                }
            }
            assert!(pages >= 3, "{pages}");
            seen.sort();
            seen.dedup();
            seen.retain(|key| expected.contains(key));
            assert_eq!(seen, expected, "{interface}");
        }
        assert_eq!(done(&ask(&host, "spin/list").await), expected.join(" ") + "\n-");
    }
}

#[tokio::test]
async fn bounds_are_told_and_kept() {
    let host = TestHost::with(&probe("size = \"20 MiB\""));
    let long = "k".repeat(1025);
    for interface in ["draft", "draft2", "spin"] {
        let set = |key: &str, bytes: u32| format!("{interface}/set?key={key}&bytes={bytes}");
        assert_eq!(refused(&ask(&host, &set(&long, 1)).await), "a key has 1 to 1024 bytes, and this one has 1025");
        assert_eq!(refused(&ask(&host, &set("", 1)).await), "a key has 1 to 1024 bytes, and this one has 0");
        done(&ask(&host, &set(&long[1..], 1)).await);
        let most = 8 << 20;
        assert_eq!(
            refused(&ask(&host, &set("a", most + 1)).await),
            "a value has at most 8388608 bytes, and this one has 8388609"
        );
        done(&ask(&host, &set("a", most)).await);
        assert_eq!(done(&ask(&host, &format!("{interface}/get?key=a")).await), "8388608 bytes");
        done(&ask(&host, &set("b", most)).await);
        assert_eq!(refused(&ask(&host, &set("c", most)).await), "the store is full");
        assert_eq!(done(&ask(&host, &format!("{interface}/exists?key=c")).await), "false");
        done(&ask(&host, &format!("{interface}/delete?key=b")).await);
        done(&ask(&host, &set("c", most)).await);
        done(&ask(&host, &format!("{interface}/delete?key=c")).await);
    }
    // What one call gives out, what is kept for swaps, and how many are open.
    assert_eq!(refused(&ask(&host, "draft2/get-many?key=a,a,a").await), "the result has more than 16 MiB");
    let many = vec!["a"; 4097].join(",");
    assert!(refused(&ask(&host, &format!("draft2/delete-many?key={many}")).await).contains("about 4096 keys at most"));
    assert_eq!(done(&ask(&host, "draft2/swap-many?key=a").await), "2 more than 16 MiB were read to be swapped");
    for interface in ["draft", "draft2", "spin"] {
        let opened = done(&ask(&host, &format!("{interface}/open-many")).await);
        let (count, told) = opened.split_once(' ').unwrap();
        let expected = if interface == "spin" { "StoreTableFull" } else { "too many stores and other things are open" };
        assert_eq!(told, expected);
        assert!((400..512).contains(&count.parse::<u32>().unwrap()), "{opened}");
    }
}

#[tokio::test]
async fn values_go_when_their_time_is_over() {
    let (_redis, sorts) = each_sort();
    for sort in sorts {
        let host = TestHost::with(&probe(&format!("{sort}\nttl = \"1s\"")));
        done(&ask_with(&host, "draft2/set-many", "a=1\nb=2").await);
        done(&ask(&host, "draft2/increment?key=n&by=5").await);
        done(&ask(&host, "draft2/swap?key=c&value=1").await);
        let begin = Instant::now();
        let mut left = done(&ask(&host, "spin/list").await);
        while left != "\n-" {
            assert!(begin.elapsed() < Duration::from_secs(30), "{left}");
            tokio::time::sleep(Duration::from_millis(20)).await;
            left = done(&ask(&host, "spin/list").await);
        }
        assert!(begin.elapsed() > Duration::from_millis(500), "{:?}", begin.elapsed());
        assert_eq!(done(&ask(&host, "draft2/get-many?key=a,b,n,c").await), "a=none b=none n=none c=none");
        assert_eq!(done(&ask(&host, "draft2/increment?key=n&by=5").await), "5");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sum_of_many_who_count_at_once_is_exact() {
    let (_redis, sorts) = each_sort();
    for sort in sorts {
        let toml = format!(
            "name = \"test\"\n[stores.default]\n{sort}\n[functions.counter]\ncomponent = \"{{counter.wasm}}\"\nroutes = [\"/counter\"]\nstores = [\"default\"]\n"
        );
        let host = Arc::new(TestHost::with(&toml));
        host.get("/counter").await.assert_ok("0\n");
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..64 {
            let host = Arc::clone(&host);
            clients.spawn(async move {
                let mut connection = host.connect().await;
                for _ in 0..20 {
                    let counted = connection.send(Request::post("/counter", "")).await.unwrap();
                    assert_eq!(counted.status, 200, "{}", counted.text());
                }
            });
        }
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
        host.get("/counter").await.assert_ok(&format!("{}\n", 64 * 20));
        assert_eq!(host.get("/counter").await.status, 200);
    }
}

#[tokio::test]
async fn a_store_that_was_not_granted_is_denied() {
    let host = TestHost::with(&probe(""));
    for store in ["other", "nowhere", "", "default", "../main", "Main"] {
        for (interface, denied) in [("draft", "AccessDenied"), ("draft2", "AccessDenied"), ("spin", "AccessDenied")] {
            let answer = host.get(&format!("/{interface}/get?store={store}&key=a")).await;
            assert_eq!(refused(&answer), denied, "{store}");
        }
    }
    // A function that was granted nothing, but imports it all.
    let toml = probe("").replace("stores = [\"main\"]", "");
    let host = TestHost::with(&toml);
    assert_eq!(refused(&ask(&host, "draft2/get?key=a").await), "AccessDenied");
}

/// An app with a store `main`, and two functions that use it.
fn app(name: &str, greeting: &str) -> String {
    format!(
        "name = \"{name}\"\n[stores.main]\n[functions.one]\ncomponent = \"{{data-probe.wasm}}\"\nroutes = [\"{name}.test/{{*rest}}\"]\nstores = [\"main\"]\nenv = {{ GREETING = \"{greeting}\" }}\n[functions.two]\ncomponent = \"{{data-probe.wasm}}\"\nroutes = [\"two.{name}.test/{{*rest}}\"]\nstores = [\"main\"]\n"
    )
}

#[tokio::test]
async fn data_belongs_to_an_app_and_not_to_a_release() {
    let host = bare_host();
    let folder = Arc::clone(host.folder());
    let project = Project::on(&host);
    project.deploy(&app("a", "first"));
    project.deploy(&app("b", "first"));
    let at = async |host: &TestHost, name: &str, asked: &str| {
        done(&host.send(Request::get(&format!("/draft2/{asked}")).header("host", name)).await)
    };
    assert_eq!(at(&host, "a.test", "set?store=main&key=k&value=of-a").await, "set");
    assert_eq!(at(&host, "two.a.test", "get?store=main&key=k").await, "of-a");
    assert_eq!(at(&host, "b.test", "get?store=main&key=k").await, "none");
    assert_eq!(at(&host, "b.test", "set?store=main&key=k&value=of-b").await, "set");
    // Another release, and the first again.
    project.deploy(&app("a", "second"));
    assert_eq!(at(&host, "a.test", "get?store=main&key=k").await, "of-a");
    assert_eq!(at(&host, "a.test", "set?store=main&key=l&value=of-the-second").await, "set");
    project.write(&app("a", "second"));
    project.must(&["rollback"]);
    assert_eq!(at(&host, "a.test", "get-many?store=main&key=k,l").await, "k=of-a l=of-the-second");
    host.stop();
    let host = TestHost::of_state(&folder, &[]);
    assert_eq!(at(&host, "a.test", "get-many?store=main&key=k,l").await, "k=of-a l=of-the-second");
    assert_eq!(at(&host, "b.test", "get?store=main&key=k").await, "of-b");
}

/// How often the host is killed, and after how many sets. `FNHOST_TEST_KV_KILLS=20` is for those who have the time.
fn kills() -> (usize, usize) {
    std::env::var("FNHOST_TEST_KV_KILLS").map_or((2, 500), |text| (text.parse().unwrap(), 10_000))
}

/// Long enough for two pages of the file, and different in each part.
fn value_of(key: &str) -> String {
    (0..300).fold(String::new(), |mut value, part| {
        write!(value, "{key}.{part} ").unwrap();
        value
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_answered_survives_a_kill() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let (kills, sets) = kills();
    let answered: Arc<Mutex<Vec<String>>> = Arc::default();
    for round in 0..kills {
        let host = Arc::new(TestHost::within(&folder, &probe("size = \"10 GiB\"")));
        let next = Arc::new(AtomicUsize::new(0));
        let mut clients = tokio::task::JoinSet::new();
        let before = answered.lock().unwrap().len();
        for _ in 0..32 {
            let (host, next, answered) = (Arc::clone(&host), Arc::clone(&next), Arc::clone(&answered));
            clients.spawn(async move {
                let mut connection = host.connect().await;
                loop {
                    let key = format!("{round}-{}", next.fetch_add(1, Ordering::Relaxed));
                    let set = Request::post(&format!("/draft2/set?store=main&key={key}"), value_of(&key));
                    let Ok(answer) = connection.send(set).await else { return };
                    assert_eq!(answer.status, 200, "{}", answer.text());
                    answered.lock().unwrap().push(key);
                }
            });
        }
        wait_for_async("sets", || (answered.lock().unwrap().len() - before >= sets).then_some(())).await;
        host.signal("-KILL");
        while let Some(ended) = clients.join_next().await {
            ended.unwrap();
        }
    }
    let host = TestHost::within(&folder, &probe("size = \"10 GiB\""));
    let answered = std::mem::take(&mut *answered.lock().unwrap());
    let mut there = HashMap::new();
    let mut cursor = String::new();
    loop {
        let page = done(&ask(&host, &format!("draft2/list?{cursor}")).await);
        let (keys, next) = page.split_once('\n').unwrap();
        let keys: Vec<&str> = keys.split(' ').collect();
        for keys in keys.chunks(100) {
            for pair in done(&ask(&host, &format!("draft2/get-many?key={}", keys.join(","))).await).split("  ") {
                let (key, value) = pair.trim().split_once('=').unwrap();
                there.insert(key.to_owned(), value.to_owned());
            }
        }
        if next == "-" {
            break;
        }
        cursor = format!("cursor={next}");
    }
    for key in &answered {
        assert!(there.contains_key(key), "{key} was answered, and is lost");
    }
    for (key, value) in &there {
        assert_eq!(value, value_of(key).trim(), "{key} is torn");
    }
    assert!(answered.len() >= kills * sets && there.len() >= answered.len());
    eprintln!("{kills} kills, {} sets that were answered, {} that are there", answered.len(), there.len());
}

#[tokio::test]
async fn a_full_disk_is_told_of_and_loses_nothing() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    // Its code and its other files first, without a bound.
    TestHost::within(&folder, &probe("")).stop();
    // No file can grow beyond so many blocks (of 512 bytes, in sh): writes fail with EFBIG, as they would with ENOSPC.
    let mut shell = Command::new("sh");
    let limited = "trap '' XFSZ; ulimit -f 10000; exec \"$0\" \"$@\"";
    shell.args(["-c", limited, env!("CARGO_BIN_EXE_fnhost")]);
    let host = TestHost::run_with(&folder, shell, &["--no-build", "-c", "functions.toml"]);
    let mut failed = 0;
    let mut kept = Vec::new();
    for number in 0..60 {
        let answer = ask(&host, &format!("draft2/set?key={number}&bytes=200000")).await;
        if answer.status == 200 {
            kept.push(number);
        } else {
            failed += 1;
            assert!(refused(&answer).starts_with("the store cannot be used now: "), "{}", answer.text());
        }
    }
    assert!(failed > 0 && kept.len() > 5, "{} and {failed}", kept.len());
    for number in &kept {
        assert_eq!(done(&ask(&host, &format!("draft2/get?key={number}")).await), "200000 bytes");
    }
    host.stop();
    let host = TestHost::within(&folder, &probe(""));
    for number in &kept {
        assert_eq!(done(&ask(&host, &format!("draft2/get?key={number}")).await), "200000 bytes");
    }
    let listed = done(&ask(&host, "spin/list").await);
    assert_eq!(listed.split_whitespace().count(), kept.len() + 1, "{listed}");
    done(&ask(&host, "draft2/set?key=more&bytes=200000").await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_goes_and_comes_back_is_used_again() {
    let Some(mut redis) = Redis::start() else { return };
    let limits = "limits = { timeout = \"30s\" }";
    let toml = probe(&redis.settings()) + limits;
    let host = Arc::new(TestHost::with(&toml));
    done(&ask(&host, "draft2/set?key=a&value=1").await);
    assert_eq!(redis.ask::<String>(&["GET", "a"]).unwrap(), "1");
    let connections = redis.connections();

    let stop = Arc::new(AtomicUsize::new(0));
    let failures: Arc<Mutex<Vec<String>>> = Arc::default();
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..16 {
        let (host, stop, failures) = (Arc::clone(&host), Arc::clone(&stop), Arc::clone(&failures));
        clients.spawn(async move {
            while stop.load(Ordering::Relaxed) == 0 {
                let what = if client % 2 == 0 { "set?key=a&value=1" } else { "get?key=a" };
                let begin = Instant::now();
                let answer = ask(&host, &format!("draft2/{what}")).await;
                assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
                if answer.status != 200 {
                    failures.lock().unwrap().push(refused(&answer));
                }
            }
        });
    }
    for _ in 0..3 {
        let before = failures.lock().unwrap().len();
        redis.kill();
        wait_for_async("errors", || (failures.lock().unwrap().len() > before + 20).then_some(())).await;
        redis.run();
        // Nobody has to do anything about it.
        let begin = Instant::now();
        while ask(&host, "draft2/set?key=b&value=1").await.status != 200 {
            assert!(begin.elapsed() < Duration::from_secs(30));
        }
    }
    stop.store(1, Ordering::Relaxed);
    while let Some(ended) = clients.join_next().await {
        ended.unwrap();
    }
    assert_eq!(done(&ask(&host, "draft2/get?key=b").await), "1");
    assert_eq!(redis.connections(), connections);
    let failures = std::mem::take(&mut *failures.lock().unwrap());
    for failure in &failures {
        let clear = ["the store cannot be used now: ", "the store did not answer, and may have done this or not: "];
        assert!(clear.iter().any(|clear| failure.starts_with(clear)), "{failure}");
        assert!(!failure.contains(Redis::secret()) && !failure.contains("redis://"), "{failure}");
    }
    // One that was not used when the server was away notices nothing.
    redis.kill();
    redis.run();
    tokio::time::sleep(Duration::from_millis(1100)).await;
    done(&ask(&host, "draft2/set?key=c&value=1").await);
    let log: String = host.log_lines().iter().map(ToString::to_string).collect();
    assert!(!log.contains(Redis::secret()));
}

#[tokio::test]
async fn a_server_keeps_prefixes_apart() {
    let Some(redis) = Redis::start() else { return };
    let url = redis.settings();
    let guest = guest("data-probe");
    let toml = format!(
        "name = \"test\"\n[stores.main]\n{url}\nprefix = \"a*\"\n[stores.other]\n{url}\nprefix = \"a\"\n[functions.probe]\ncomponent = \"{}\"\nroutes = [\"/{{*rest}}\"]\nstores = [\"main\", \"other\"]\n",
        guest.display()
    );
    let host = TestHost::with(&toml);
    done(&host.get("/spin/set?store=main&key=k&value=of-main").await);
    done(&host.get("/spin/set?store=other&key=bc&value=of-other").await);
    assert_eq!(redis.ask::<String>(&["GET", "a*k"]).unwrap(), "of-main");
    assert_eq!(done(&host.get("/spin/list?store=main").await), "k\n-");
    assert_eq!(done(&host.get("/spin/list?store=other").await), "*k bc\n-");
    // What is no value of a store's is told of, and is no reason to give the connection up.
    let _pushed: i64 = redis.ask(&["LPUSH", "a*list", "x"]).unwrap();
    assert!(refused(&host.get("/spin/get?store=main&key=list").await).contains("WRONGTYPE"));
    done(&host.get("/spin/get?store=main&key=k").await);
}
