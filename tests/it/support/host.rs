//! A host under test: the real binary in a folder of its own, on a free port. What it logged is printed if its test
//! fails.

use super::client::{Answer, Connection, Request};
use super::{PATIENCE, guest};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A host that answers.
pub(crate) struct TestHost {
    child: Child,
    address: SocketAddr,
    admin: Option<SocketAddr>,
    folder: Arc<TempDir>,
    log: Log,
    stdout: Log,
}

/// A host that has ended.
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
}

/// A command line of the real binary, in `folder`.
pub(crate) fn fnhost(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fnhost"));
    command.current_dir(folder).stdin(Stdio::null()).env_remove("RUST_BACKTRACE").env_remove("FNHOST_LOG");
    command
}

impl TestHost {
    /// Serves `toml`, in which `{name}.wasm` stands for the guest examples' components: `{hello.wasm}`, for instance.
    pub(crate) fn with(toml: &str) -> Self {
        Self::start(Arc::new(tempfile::tempdir().unwrap()), toml)
    }

    /// The same in a folder that was used before, or has files in it.
    pub(crate) fn within(folder: &Arc<TempDir>, toml: &str) -> Self {
        Self::start(Arc::clone(folder), toml)
    }

    /// Serves a file that is there already. Its state folder may be another host's.
    pub(crate) fn of_file(file: &Path) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let state = folder.path().join("state");
        Self::spawn(folder, file, &["--no-build", "--state", state.to_str().unwrap()])
    }

    /// Serves what was deployed to the state folder `state` of `folder`, without a functions.toml.
    pub(crate) fn of_state(folder: &Arc<TempDir>, arguments: &[&str]) -> Self {
        let command = fnhost(folder.path());
        Self::run(Arc::clone(folder), command, &[&["--state", "state"], arguments].concat())
    }

    /// Builds and serves the functions.toml in `folder`, as `up` does.
    pub(crate) fn building(folder: &Arc<TempDir>) -> Self {
        Self::spawn(Arc::clone(folder), &folder.path().join("functions.toml"), &[])
    }

    /// One example guest behind `/`, with `settings` in its table.
    pub(crate) fn of_guest(name: &str, settings: &str) -> Self {
        Self::with(&format!(
            "name = \"test\"\n[functions.guest]\ncomponent = \"{{{name}.wasm}}\"\nroutes = [\"/{{*rest}}\"]\n{settings}\n"
        ))
    }

    fn start(folder: Arc<TempDir>, toml: &str) -> Self {
        let file = folder.path().join("functions.toml");
        std::fs::write(&file, with_guests(toml)).unwrap();
        Self::spawn(folder, &file, &["--no-build"])
    }

    /// Serves `toml` with so many KiB of address space (ulimit, sh(1)).
    pub(crate) fn in_address_space(kib: u64, toml: &str) -> Self {
        let folder = Arc::new(tempfile::tempdir().unwrap());
        let file = folder.path().join("functions.toml");
        std::fs::write(&file, with_guests(toml)).unwrap();
        let mut shell = Command::new("sh");
        shell.current_dir(folder.path()).stdin(Stdio::null()).env_remove("RUST_BACKTRACE").env_remove("FNHOST_LOG");
        shell.args(["-c", &format!("ulimit -v {kib}; exec \"$0\" \"$@\""), env!("CARGO_BIN_EXE_fnhost")]);
        Self::run(folder, shell, &["--no-build", "-c", "functions.toml"])
    }

    fn spawn(folder: Arc<TempDir>, file: &Path, arguments: &[&str]) -> Self {
        let command = fnhost(file.parent().unwrap());
        Self::run(folder, command, &[arguments, &["-c", file.to_str().unwrap()]].concat())
    }

    /// The same by a command of one's own, in `folder`.
    pub(crate) fn run_with(folder: &Arc<TempDir>, mut command: Command, arguments: &[&str]) -> Self {
        command.current_dir(folder.path()).stdin(Stdio::null()).env_remove("RUST_BACKTRACE").env_remove("FNHOST_LOG");
        Self::run(Arc::clone(folder), command, arguments)
    }

    fn run(folder: Arc<TempDir>, mut command: Command, arguments: &[&str]) -> Self {
        let mut child = command
            .args(["up", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0", "--log", "json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("fnhost starts");
        let log = Log::follow(child.stderr.take().unwrap());
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut announced = |what: &str| -> Result<SocketAddr, String> {
            let mut line = String::new();
            stdout.read_line(&mut line).unwrap();
            let address = line.trim().strip_prefix(what).and_then(|url| url.split_once("://"));
            address.and_then(|(_, address)| address.parse().ok()).ok_or(line)
        };
        let (address, admin) = match announced("listening on ") {
            Ok(address) => (address, announced("admin on ").ok()),
            Err(line) => {
                let _ = child.wait();
                panic!("the host did not start; stdout: {line:?}, stderr:\n{}", log.text());
            }
        };
        Self { child, address, admin, folder, log, stdout: Log::follow(stdout) }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its admin API is.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin.expect("an admin API")
    }

    /// Where it leads from plain HTTP to HTTPS.
    pub(crate) fn redirect(&self) -> SocketAddr {
        self.stdout.find(|line| line.strip_prefix("redirecting on http://")?.parse().ok())
    }

    pub(crate) fn folder(&self) -> &Arc<TempDir> {
        &self.folder
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// A connection of its own.
    pub(crate) async fn connect(&self) -> Connection {
        Connection::open(self.address).await.expect("the host accepts")
    }

    /// One request on a connection of its own.
    pub(crate) async fn send(&self, request: Request) -> Answer {
        self.connect().await.send(request).await.expect("the host answers")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send(Request::get(path)).await
    }

    /// The receipt of a request, once it is logged.
    pub(crate) fn receipt(&self, request_id: &str) -> Value {
        self.logged(|line| line["target"] == "receipt" && line["request_id"] == request_id)
    }

    /// One request, and its receipt is in the books.
    pub(crate) async fn get_entered(&self, path: &str) -> Answer {
        let answer = self.get(path).await;
        self.receipt(answer.request_id());
        answer
    }

    /// The first line of the log that `wanted` accepts, once it is there.
    pub(crate) fn logged(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.log.wait_for(wanted)
    }

    /// All lines of the log so far.
    pub(crate) fn log_lines(&self) -> Vec<Value> {
        self.log.lines()
    }

    /// Resident memory of the host, in bytes (`VmRSS`, proc(5)).
    pub(crate) fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// Asks the host to end, as a service manager does.
    pub(crate) fn terminate(&self) {
        self.signal("-TERM");
    }

    pub(crate) fn signal(&self, signal: &str) {
        let killed = Command::new("kill").args([signal, &self.pid().to_string()]).status().unwrap();
        assert!(killed.success());
    }

    /// Waits until the host has ended.
    pub(crate) fn finish(mut self) -> Finished {
        let code = wait_for("the host ends", || self.child.try_wait().unwrap()).code();
        Finished { code, stdout: self.stdout.whole() }
    }

    /// Ends the host and waits for it.
    pub(crate) fn stop(self) -> Finished {
        self.terminate();
        self.finish()
    }
}

impl Drop for TestHost {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what the host logged:\n{}---", self.log.text());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks again and again until there is an answer.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The same, while other tasks go on.
pub(crate) async fn wait_for_async<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "waited too long: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Puts the paths of the example guests in.
pub(crate) fn with_guests(toml: &str) -> String {
    let mut text = toml.to_owned();
    while let Some(end) = text.find(".wasm}") {
        let start = text[..end].rfind('{').expect("an opening brace");
        let path: PathBuf = guest(&text[start + 1..end]);
        text.replace_range(start..end + ".wasm}".len(), &path.display().to_string());
    }
    text
}

/// What a host says, line by line.
struct Log {
    said: Arc<(Mutex<Vec<String>>, Condvar)>,
    follows: Option<std::thread::JoinHandle<()>>,
}

impl Log {
    fn follow(output: impl Read + Send + 'static) -> Self {
        let said = Arc::new((Mutex::new(Vec::new()), Condvar::new()));
        let writer = Arc::clone(&said);
        let follows = std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                writer.0.lock().unwrap_or_else(PoisonError::into_inner).push(line);
                writer.1.notify_all();
            }
        });
        Self { said, follows: Some(follows) }
    }

    /// A test that failed while it looked leaves the lines as they are.
    fn locked(&self) -> MutexGuard<'_, Vec<String>> {
        self.said.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All of it, of a host that has ended.
    fn whole(&mut self) -> String {
        if let Some(follows) = self.follows.take() {
            follows.join().unwrap();
        }
        self.text()
    }

    fn text(&self) -> String {
        self.locked().iter().fold(String::new(), |text, line| text + line + "\n")
    }

    fn lines(&self) -> Vec<Value> {
        self.locked().iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn wait_for(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        self.find(|line| serde_json::from_str(line).ok().filter(&wanted))
    }

    /// What `pick` makes of the first line that it makes something of, once that is there.
    fn find<T>(&self, pick: impl Fn(&str) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = 0;
        let mut lines = self.locked();
        loop {
            for line in &lines[seen..] {
                if let Some(found) = pick(line) {
                    return found;
                }
            }
            seen = lines.len();
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "it was never said");
            lines = self.said.1.wait_timeout(lines, left).unwrap().0;
        }
    }
}
