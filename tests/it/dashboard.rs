//! The dashboard, in a real browser.

use crate::support::{Browser, Project, Request, TestHost, ask, bare_host, hello, token_of, wait_for};
use serde_json::json;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

/// Opens the dashboard of `host`, and gives it the token.
async fn open(host: &TestHost) -> Option<Browser> {
    let browser = Browser::open().await?;
    browser.go(&format!("http://{}/", host.admin())).await;
    browser.wait("!document.getElementById('enter').hidden").await;
    browser.write("#token", &token_of(host)).await;
    browser.click("#token-form button").await;
    browser.wait("!document.getElementById('board').hidden").await;
    Some(browser)
}

const DEMO: &str = "name = \"demo\"\n[tariff]\nper-million-requests = 0.2\n[functions.hello]\ncomponent = \"{hello.wasm}\"\nroutes = [\"/hello/{name}\"]\n[functions.misbehave]\ncomponent = \"{misbehave.wasm}\"\nroutes = [\"/misbehave/{*rest}\"]\n";

#[tokio::test]
async fn the_dashboard_shows_what_happens_as_it_happens_and_runs_none_of_it() {
    let host = TestHost::with(DEMO);
    let Some(browser) = open(&host).await else { return };
    browser.wait("document.querySelectorAll('#functions-table tbody tr').length === 2").await;
    browser.wait("document.getElementById('connection').textContent === 'live'").await;
    for _ in 0..20 {
        host.get("/hello/you").await.assert_ok("Hello, you!\n");
    }
    host.get("/misbehave/markup").await.assert_ok("said\n");
    // Live: the tables, the lines, the last minute.
    browser.wait("[...document.querySelectorAll('#functions-table tbody tr')].some(tr => tr.cells[0].textContent === 'demo/hello' && tr.cells[3].textContent === '20' && tr.cells[1].firstChild)").await;
    browser.wait("document.getElementById('cold').getAttribute('aria-label').includes('at most') && !document.getElementById('cold').getAttribute('aria-label').includes('- at most')").await;
    browser.wait("document.getElementById('heat').getAttribute('aria-label').includes('from')").await;
    // A line that looks like a script is a line.
    browser.wait("document.getElementById('tail').innerText.includes('<script>document.title')").await;
    assert_eq!(browser.run("return document.title").await, "fnhost");
    assert_eq!(browser.run("return document.querySelectorAll('#tail script, #tail img').length").await, 0);
    // The receipts, and the time of one request.
    browser.click("#tail-receipts").await;
    browser.wait("document.getElementById('tail').childElementCount === 0").await;
    let id = host.get("/hello/again").await.request_id().to_owned();
    browser.wait(&format!("document.getElementById('tail').innerText.includes('{id}')")).await;
    browser.click("#tail li:last-child button").await;
    browser.wait(&format!("document.getElementById('request-view').innerText.includes('GET 200 ok: demo/hello, release 1') && document.getElementById('request-id').value === '{id}'")).await;
    assert_eq!(browser.run("return document.querySelectorAll('.timeline .bar').length").await, 5);
    browser.click("#usage-refresh").await;
    browser.wait("document.getElementById('usage-table').innerText.includes('demo / hello') && document.getElementById('usage-table').innerText.includes('cost (USD)')").await;
    browser.run("scrollTo(0, 0)").await;
    browser.picture("dashboard-light").await;
    browser
        .devtools(
            "Emulation.setEmulatedMedia",
            json!({ "features": [{ "name": "prefers-color-scheme", "value": "dark" }] }),
        )
        .await;
    browser.picture("dashboard-dark").await;
    // On a phone nothing is wider than the screen.
    browser.size(390, 844).await;
    assert_eq!(browser.run("return document.documentElement.scrollWidth <= innerWidth").await, true);
    browser.picture("dashboard-phone").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test]
async fn lines_and_functions_are_filtered() {
    let host = TestHost::with(DEMO);
    let Some(browser) = open(&host).await else { return };
    browser.wait("document.querySelectorAll('#functions-table tbody tr').length === 2").await;
    browser.write("#functions-filter", "misb").await;
    browser.wait("document.querySelectorAll('#functions-table tbody tr').length === 1").await;
    host.get("/misbehave/flood?lines=3").await.assert_ok("flooded\n");
    host.get("/misbehave/trap").await.assert_problem(502, "trap");
    browser.wait("document.getElementById('tail').innerText.includes('the guest trapped')").await;
    browser.write("#tail-filter", "LINE 1 of").await;
    browser.wait("document.getElementById('tail').childElementCount === 1 && document.getElementById('tail').innerText.includes('line 1 of a flood')").await;
    // What is paused stays, and what came meanwhile is shown then.
    browser.click("#tail-pause").await;
    host.get("/misbehave/flood?lines=3").await.assert_ok("flooded\n");
    host.get("/misbehave/flood?lines=2").await.assert_ok("flooded\n");
    browser.click("#tail-pause").await;
    browser.wait("document.getElementById('tail').childElementCount === 3").await;
}

#[tokio::test]
async fn a_release_is_rolled_back_by_a_click_that_is_asked_about() {
    let host = bare_host();
    let project = Project::on(&host);
    project.deploy(&hello("app", "One"));
    project.write(&hello("app", "Two"));
    project.must(&["deploy", "-m", "<b>two</b>"]);
    let Some(browser) = open(&host).await else { return };
    browser.wait("document.querySelectorAll('#releases-table tbody tr').length === 2").await;
    assert_eq!(
        browser.run("return document.querySelector('#releases-table td.message').textContent").await,
        "<b>two</b>"
    );
    browser.click("#releases-table tbody tr:last-child button").await;
    browser.wait("document.getElementById('confirm').open").await;
    browser.click("#confirm-no").await;
    host.get("/app/you").await.assert_ok("Two, you!\n");
    browser.click("#releases-table tbody tr:last-child button").await;
    browser.click("#confirm-yes").await;
    browser.wait("document.querySelector('#releases-table tbody tr:last-child').cells[1].textContent === 'live'").await;
    host.get("/app/you").await.assert_ok("One, you!\n");
    // By keyboard: a canary is promoted.
    project.write(&hello("app", "Three"));
    project.must(&["deploy", "--canary", "50%"]);
    browser.wait("document.querySelector('#releases-table tbody tr').cells[1].textContent === 'canary 50%'").await;
    browser.run("document.querySelector('#releases-table tbody tr button').focus()").await;
    browser.press(&['\u{e007}']).await;
    browser.wait("document.getElementById('confirm').open && document.activeElement.id === 'confirm-yes'").await;
    browser.press(&['\u{e007}']).await;
    browser.wait("document.querySelector('#releases-table tbody tr').cells[1].textContent === 'live'").await;
    host.get("/app/you").await.assert_ok("Three, you!\n");
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test]
async fn who_has_no_token_sees_nothing_and_the_token_is_not_in_the_url() {
    let host = TestHost::with(DEMO);
    let Some(browser) = Browser::open().await else { return };
    browser.go(&format!("http://{}/", host.admin())).await;
    browser.wait("document.activeElement.id === 'token'").await;
    browser.write("#token", "not the token at all").await;
    browser.press(&['\u{e007}']).await;
    browser.wait("document.getElementById('token-problem').textContent === 'That is not the token.'").await;
    assert_eq!(browser.run("return sessionStorage.length").await, 0);
    browser.write("#token", &token_of(&host)).await;
    browser.press(&['\u{e007}']).await;
    browser.wait("!document.getElementById('board').hidden").await;
    let seen = browser.run("return [location.href, document.cookie, localStorage.length]").await;
    assert_eq!(seen, json!([format!("http://{}/", host.admin()), "", 0]));
    // It is there until the tab is closed, or told to forget it.
    browser.go(&format!("http://{}/", host.admin())).await;
    browser.wait("!document.getElementById('board').hidden").await;
    browser.click("#leave").await;
    browser.wait("!document.getElementById('enter').hidden").await;
    assert_eq!(browser.run("return sessionStorage.length").await, 0);
}

#[tokio::test]
async fn a_host_that_ends_is_waited_for() {
    let folder = Arc::new(tempfile::tempdir().unwrap());
    let host = TestHost::within(&folder, DEMO);
    let Some(browser) = open(&host).await else { return };
    browser.wait("document.getElementById('connection').textContent === 'live'").await;
    let admin = host.admin().to_string();
    let began = std::time::Instant::now();
    host.stop();
    assert!(began.elapsed().as_secs() < 20, "nobody waits for those who only look");
    browser.wait("document.getElementById('connection').textContent === 'connecting…'").await;
    let mut again = std::process::Command::new(env!("CARGO_BIN_EXE_fnhost"));
    again.args(["up", "--no-build", "--listen", "127.0.0.1:0", "--admin", &admin]).current_dir(folder.path());
    let mut again = again.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
    browser.wait("document.getElementById('connection').textContent === 'live'").await;
    again.kill().unwrap();
    wait_for("it ends", || again.try_wait().unwrap());
}

/// A thousand functions are shown at once. How fast is printed (`--nocapture`); that it works is what is held to.
#[tokio::test]
async fn a_thousand_functions_are_a_table() {
    let mut toml = "name = \"many\"\n".to_owned();
    for number in 0..1000 {
        let _ = write!(toml, "[functions.f{number}]\ncomponent = \"{{hello.wasm}}\"\nroutes = [\"/f{number}\"]\n");
    }
    let host = TestHost::with(&toml);
    let Some(browser) = open(&host).await else { return };
    browser.wait("document.querySelectorAll('#functions-table tbody tr').length === 1000").await;
    let listed = ask(&host, Request::get("/v1/functions")).await.json();
    assert_eq!(listed["functions"].as_array().unwrap().len(), 1000);
    // With the token there already, as whoever comes back has it: until the first paint, and until all rows are there.
    for _ in 0..5 {
        browser.go(&format!("http://{}/", host.admin())).await;
        browser.wait("window.fnhostRows").await;
        let times = browser
            .run("return [performance.getEntriesByName('first-contentful-paint')[0].startTime, window.fnhostRows]")
            .await;
        eprintln!("1,000 functions: first paint after {} ms, all rows after {} ms", times[0], times[1]);
    }
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

/// For how long the log and the receipts are followed. `FNHOST_TEST_TAIL=3600` is for those who have the time.
fn tail_time() -> Duration {
    Duration::from_secs(std::env::var("FNHOST_TEST_TAIL").map_or(8, |text| text.parse().unwrap()))
}

/// Prints what the page holds in its heap, when it has thrown away what it could.
async fn print_heap(browser: &Browser, elapsed: Duration) {
    browser.devtools("HeapProfiler.collectGarbage", json!({})).await;
    let heap = browser.devtools("Runtime.getHeapUsage", json!({})).await;
    let lines = browser.run("return document.getElementById('tail').childElementCount").await;
    eprintln!("after {} s: heap {} bytes, {lines} lines", elapsed.as_secs(), heap["usedSize"]);
}

/// Requests come as fast as they can, and the page keeps no more than it shows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_follows_for_long_keeps_a_bounded_number_of_lines() {
    let host = Arc::new(TestHost::with(DEMO));
    let Some(browser) = open(&host).await else { return };
    browser.click("#tail-receipts").await;
    let asking = {
        let host = Arc::clone(&host);
        tokio::spawn(async move {
            let mut connection = host.connect().await;
            loop {
                connection.send(Request::get("/hello/you")).await.unwrap();
                // For long, some two hundred a second: the machine has other things to do.
                if tail_time() > Duration::from_mins(1) {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        })
    };
    let began = std::time::Instant::now();
    print_heap(&browser, Duration::ZERO).await;
    let (mut most, mut minutes) = (0, 0);
    while began.elapsed() < tail_time() {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let lines = browser.run("return document.getElementById('tail').childElementCount").await;
        most = most.max(lines.as_u64().unwrap());
        if began.elapsed().as_secs() / 60 > minutes {
            minutes = began.elapsed().as_secs() / 60;
            print_heap(&browser, began.elapsed()).await;
        }
    }
    asking.abort();
    assert!((50..=500).contains(&most), "{most} lines");
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
