//! A Redis server of a test's own, from the system's package.

use super::{skipped, wait_for};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// Its password.
const PASSWORD: &str = "pw-5ecr3t-of-redis";

/// A server that answers, until it is dropped.
pub(crate) struct Redis {
    folder: TempDir,
    port: u16,
    server: Option<Child>,
}

impl Redis {
    /// Starts one; nothing, where there is none, which it says.
    pub(crate) fn start() -> Option<Self> {
        if Command::new("redis-server").arg("--version").output().is_err() {
            skipped("there is no redis-server (Debian: redis-server)");
            return None;
        }
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut redis = Self { folder: tempfile::tempdir().unwrap(), port, server: None };
        redis.run();
        Some(redis)
    }

    /// Runs the server, empty, and waits until it answers.
    pub(crate) fn run(&mut self) {
        let server = Command::new("redis-server")
            .args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--requirepass", PASSWORD])
            .args(["--save", "", "--appendonly", "no", "--dir", self.folder.path().to_str().unwrap()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server starts");
        self.server = Some(server);
        wait_for("Redis answers", || self.ask::<String>(&["PING"]).ok());
    }

    /// Ends it as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Its address, the password in it.
    fn url(&self) -> String {
        format!("redis://:{PASSWORD}@127.0.0.1:{}", self.port)
    }

    /// What functions.toml says of a store that it has.
    pub(crate) fn settings(&self) -> String {
        let file = self.folder.path().join("url");
        std::fs::write(&file, self.url()).unwrap();
        format!("url = {{ file = \"{}\" }}", file.display())
    }

    /// What nobody but the host should know.
    pub(crate) fn secret() -> &'static str {
        PASSWORD
    }

    /// The answer to a command of the test's own.
    pub(crate) fn ask<T: redis::FromRedisValue>(&self, command: &[&str]) -> redis::RedisResult<T> {
        let mut connection = redis::Client::open(self.url())?.get_connection()?;
        let (name, arguments) = command.split_first().expect("a command");
        redis::cmd(name).arg(arguments).query(&mut connection)
    }

    /// Connections to it besides this one's.
    pub(crate) fn connections(&self) -> usize {
        self.ask::<String>(&["CLIENT", "LIST"]).unwrap().lines().count() - 1
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
    }
}
