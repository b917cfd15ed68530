//! A real browser: Chromium without a window, told what to do by chromedriver (W3C `WebDriver`).

use super::client::{Connection, Request};
use super::{PATIENCE, project, skipped};
use http::Method;
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// The key of an element's name in answers (`WebDriver`, 12).
const ELEMENT: &str = "element-6066-11e4-a52e-4f735466cecf";

/// A browser with one page.
pub(crate) struct Browser {
    driver: Child,
    address: SocketAddr,
    session: String,
    _profile: TempDir,
}

impl Browser {
    /// Starts one; nothing, where there is none, which it says.
    pub(crate) async fn open() -> Option<Self> {
        let Ok(mut driver) = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            skipped("there is no chromedriver (Debian: chromium, chromium-driver)");
            return None;
        };
        let stdout = BufReader::new(driver.stdout.take().unwrap());
        let port = stdout.lines().map_while(Result::ok).find_map(|line| {
            line.split("started successfully on port ").nth(1)?.trim_end_matches('.').parse::<u16>().ok()
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port.expect("chromedriver says its port")));
        let profile = tempfile::tempdir().unwrap();
        let folder = format!("--user-data-dir={}", profile.path().display());
        let mut browser = Self { driver, address, session: String::new(), _profile: profile };
        // Tests may run as root, in a container with little shared memory.
        let arguments = ["--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", &folder];
        let options = json!({ "args": arguments, "excludeSwitches": ["enable-logging"] });
        let wanted = json!({ "alwaysMatch": { "browserName": "chrome", "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" } } });
        let made = browser.tell(Method::POST, "/session", json!({ "capabilities": wanted })).await;
        browser.session = made["sessionId"].as_str().unwrap().to_owned();
        browser.size(1280, 1600).await;
        Some(browser)
    }

    async fn tell(&self, method: Method, path: &str, body: Value) -> Value {
        let mut connection = Connection::open(self.address).await.expect("chromedriver answers");
        let body = if method == Method::GET { String::new() } else { body.to_string() };
        let answer = connection.send(Request::of(method, path, body)).await.expect("chromedriver answers");
        let value = answer.json()["value"].take();
        assert!(answer.status.is_success(), "{path}: {value}");
        value
    }

    async fn ask(&self, path: &str, body: Value) -> Value {
        self.tell(Method::POST, &format!("/session/{}{path}", self.session), body).await
    }

    pub(crate) async fn go(&self, url: &str) {
        self.ask("/url", json!({ "url": url })).await;
    }

    /// What a script returns.
    pub(crate) async fn run(&self, script: &str) -> Value {
        self.ask("/execute/sync", json!({ "script": script, "args": [] })).await
    }

    /// Waits until an expression is true.
    pub(crate) async fn wait(&self, expression: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.run(&format!("return Boolean({expression})")).await != json!(true) {
            if Instant::now() > deadline {
                let shown = self.run("return document.body.innerText").await;
                panic!("never true: {expression}\non the page: {}", shown.as_str().unwrap_or_default());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn element(&self, css: &str) -> String {
        let found = self.ask("/element", json!({ "using": "css selector", "value": css })).await;
        found[ELEMENT].as_str().unwrap().to_owned()
    }

    /// Clicks as a person does: what is covered, or out of sight, cannot be.
    pub(crate) async fn click(&self, css: &str) {
        let element = self.element(css).await;
        self.ask(&format!("/element/{element}/click"), json!({})).await;
    }

    /// Types into an element.
    pub(crate) async fn write(&self, css: &str, text: &str) {
        let element = self.element(css).await;
        self.ask(&format!("/element/{element}/value"), json!({ "text": text })).await;
    }

    /// Presses keys, wherever the focus is.
    pub(crate) async fn press(&self, keys: &[char]) {
        let actions: Vec<Value> = keys
            .iter()
            .flat_map(|key| [json!({ "type": "keyDown", "value": key }), json!({ "type": "keyUp", "value": key })])
            .collect();
        self.ask("/actions", json!({ "actions": [{ "type": "key", "id": "keys", "actions": actions }] })).await;
    }

    /// A command of Chromium's own.
    pub(crate) async fn devtools(&self, command: &str, parameters: Value) -> Value {
        self.ask("/goog/cdp/execute", json!({ "cmd": command, "params": parameters })).await
    }

    /// The window, in pixels of CSS.
    pub(crate) async fn size(&self, width: u32, height: u32) {
        let size = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await;
    }

    /// What the page has complained of: errors of scripts, and of the content security policy.
    pub(crate) async fn complaints(&self) -> Vec<String> {
        let log = self.ask("/se/log", json!({ "type": "browser" })).await;
        let entries = log.as_array().cloned().unwrap_or_default();
        entries.iter().filter(|entry| entry["level"] == "SEVERE").map(ToString::to_string).collect()
    }

    /// Keeps a picture of the page for eyes, in `target/screenshots`.
    pub(crate) async fn picture(&self, name: &str) {
        let taken = self.devtools("Page.captureScreenshot", json!({ "format": "png" })).await;
        let folder = project().join("target/screenshots");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}.png")), decode(taken["data"].as_str().unwrap())).unwrap();
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // The browser goes with its session, and not with its driver.
        if let Ok(mut stream) = TcpStream::connect(self.address) {
            let request =
                format!("DELETE /session/{} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n", self.session);
            let _ = stream.set_read_timeout(Some(PATIENCE));
            let _ = stream.write_all(request.as_bytes()).and_then(|()| stream.read(&mut [0; 1024]).map(drop));
        }
        let _ = self.driver.kill();
        let _ = self.driver.wait();
    }
}

/// Base64 (RFC 4648, 4).
fn decode(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => u32::from(byte - b'A'),
        b'a'..=b'z' => u32::from(byte - b'a') + 26,
        b'0'..=b'9' => u32::from(byte - b'0') + 52,
        b'+' => 62,
        _ => 63,
    };
    let bytes = text.trim_end_matches('=').as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len() * 3 / 4);
    for group in bytes.chunks(4) {
        let number = group.iter().fold(0, |number, byte| number << 6 | digit(*byte)) << (6 * (4 - group.len()));
        decoded.extend(&number.to_be_bytes()[1..group.len()]);
    }
    decoded
}
