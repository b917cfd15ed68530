//! A project that is deployed, and the admin API that it is deployed to.

use super::client::{Answer, Connection, Request};
use super::host::{TestHost, fnhost, with_guests};
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;
use tempfile::TempDir;

/// A folder with a functions.toml, and the host that it is deployed to.
pub(crate) struct Project {
    folder: TempDir,
    admin: SocketAddr,
    token: String,
}

/// What a command said.
pub(crate) struct Said {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Project {
    /// A project whose commands talk to `host`.
    pub(crate) fn on(host: &TestHost) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), admin: host.admin(), token: token_of(host) }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Writes functions.toml; `{hello.wasm}` stands for that guest's component.
    pub(crate) fn write(&self, toml: &str) {
        std::fs::write(self.folder.path().join("functions.toml"), with_guests(toml)).unwrap();
    }

    /// A command of the real binary there.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = fnhost(self.folder.path());
        command.args(arguments).args(["--to", &format!("http://{}", self.admin)]);
        command.env("FNHOST_ADMIN_TOKEN", &self.token);
        command
    }

    /// Runs one.
    pub(crate) fn run(&self, arguments: &[&str]) -> Said {
        Said::of(&self.command(arguments).output().unwrap())
    }

    /// Runs a command that has to succeed.
    #[track_caller]
    pub(crate) fn must(&self, arguments: &[&str]) -> String {
        let said = self.run(arguments);
        assert_eq!(said.code, Some(0), "{arguments:?}: {}{}", said.stdout, said.stderr);
        said.stdout
    }

    /// Writes functions.toml and deploys it.
    #[track_caller]
    pub(crate) fn deploy(&self, toml: &str) -> String {
        self.write(toml);
        self.must(&["deploy"])
    }
}

impl Said {
    fn of(done: &Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: done.status.code(), stdout: text(&done.stdout), stderr: text(&done.stderr) }
    }
}

/// The token that the host made.
pub(crate) fn token_of(host: &TestHost) -> String {
    let state = ["state", ".fnhost"].map(|name| host.folder().path().join(name));
    let token = state.iter().find_map(|state| std::fs::read_to_string(state.join("admin-token")).ok());
    token.expect("a token").trim().to_owned()
}

/// One request to the admin API, with the token.
pub(crate) async fn ask(host: &TestHost, request: Request) -> Answer {
    let token = format!("Bearer {}", token_of(host));
    ask_openly(host, request.header("authorization", &token)).await
}

/// The same without it.
pub(crate) async fn ask_openly(host: &TestHost, request: Request) -> Answer {
    let mut connection = Connection::open(host.admin()).await.unwrap();
    connection.send(request).await.expect("the admin API answers")
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("no JSON: {}", self.text()))
    }

    /// A problem of the admin API, with this status and code.
    #[track_caller]
    pub(crate) fn assert_refused(&self, status: u16, code: &str) {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!((&problem["code"], &problem["status"]), (&code.into(), &status.into()), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{problem}");
    }
}

/// A host without a functions.toml, that things are deployed to.
pub(crate) fn bare_host() -> TestHost {
    TestHost::of_state(&Arc::new(tempfile::tempdir().unwrap()), &[])
}

/// An app of one function, `hello`, that greets with `greeting` at `/{app}/{name}`.
pub(crate) fn hello(app: &str, greeting: &str) -> String {
    format!(
        "name = \"{app}\"\n[functions.hello]\ncomponent = \"{{hello.wasm}}\"\nroutes = [\"/{app}/{{name}}\"]\nenv = {{ GREETING = \"{greeting}\" }}\n"
    )
}
