//! A PostgreSQL server of the tests' own, from the system's packages; and databases on it.

use super::{skipped, wait_for};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use tempfile::TempDir;
use tokio_postgres::{NoTls, SimpleQueryMessage};

/// The password of its one user.
pub(crate) const PASSWORD: &str = "pw-5ecr3t-of-the-tests";
/// The user and the group `nobody`: the server does not run as root.
const NOBODY: u32 = 65_534;

/// A server that answers, until it is dropped.
pub(crate) struct Postgres {
    programs: PathBuf,
    folder: TempDir,
    port: u16,
    settings: Vec<String>,
    server: Mutex<Option<Child>>,
}

/// A database of one test's own.
pub(crate) struct Database {
    pub(crate) postgres: Arc<Postgres>,
    name: String,
}

impl Postgres {
    /// Starts one with these settings; nothing, where there is none, which it says. `files` are put into its folder.
    pub(crate) fn start(settings: &[&str], files: &[(&str, &[u8])]) -> Option<Arc<Self>> {
        let Some(programs) = programs() else {
            skipped("there is no PostgreSQL (Debian: postgresql)");
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::fs::write(folder.path().join("password"), PASSWORD).unwrap();
        for (name, content) in files {
            std::fs::write(folder.path().join(name), content).unwrap();
            std::fs::set_permissions(folder.path().join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        if is_root() {
            let own = |path: &Path| chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
            own(folder.path());
            for entry in std::fs::read_dir(folder.path()).unwrap() {
                own(&entry.unwrap().path());
            }
        }
        let postgres = Self {
            programs,
            folder,
            port,
            settings: settings.iter().map(|&setting| setting.to_owned()).collect(),
            server: Mutex::default(),
        };
        let made = postgres
            .program("initdb")
            .args(["--username=fnhost", "--auth=scram-sha-256", "--pwfile=password", "--no-sync", "--locale=C"])
            .args(["--encoding=UTF8", "--pgdata=data"])
            .output()
            .expect("initdb starts");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        postgres.run();
        Some(Arc::new(postgres))
    }

    /// The one that tests share; the last of them ends it.
    pub(crate) fn shared() -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<Postgres>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(postgres) = shared.upgrade() {
            return Some(postgres);
        }
        let postgres = Self::start(&[], &[])?;
        *shared = Arc::downgrade(&postgres);
        Some(postgres)
    }

    /// A program of the package's, in the server's folder and as its user.
    fn program(&self, name: &str) -> Command {
        let program = self.programs.join(name);
        let mut command = if is_root() {
            let mut command = Command::new("setpriv");
            command
                .arg(format!("--reuid={NOBODY}"))
                .arg(format!("--regid={NOBODY}"))
                .arg("--clear-groups")
                .arg(program);
            command
        } else {
            Command::new(program)
        };
        command.current_dir(self.folder.path()).stdin(Stdio::null()).env("LC_ALL", "C");
        command
    }

    /// Runs the server, and waits until it answers.
    pub(crate) fn run(&self) {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log")).unwrap();
        let settings = ["fsync=off", "unix_socket_directories=", "listen_addresses=127.0.0.1", "max_connections=100"];
        let mut command = self.program("postgres");
        command.arg("-D").arg("data").arg("-p").arg(self.port.to_string());
        for setting in settings.into_iter().chain(self.settings.iter().map(String::as_str)) {
            command.arg("-c").arg(setting);
        }
        let server = command.stdout(Stdio::null()).stderr(log).spawn().expect("postgres starts");
        *self.server.lock().unwrap() = Some(server);
        wait_for("PostgreSQL answers", || {
            let ended = self.server.lock().unwrap().as_mut().is_some_and(|server| server.try_wait().unwrap().is_some());
            assert!(!ended, "PostgreSQL ended:\n{}", self.log());
            TcpStream::connect(("127.0.0.1", self.port)).ok()
        });
        let ready =
            || self.program("pg_isready").args(["-q", "-h", "127.0.0.1", "-p", &self.port.to_string()]).status();
        wait_for("PostgreSQL is ready", || ready().unwrap().success().then_some(()));
    }

    /// Ends the server as a crash does.
    pub(crate) fn crash(&self) {
        let Some(mut server) = self.server.lock().unwrap().take() else { return };
        // "Immediate shutdown", of all its processes.
        let _ = Command::new("kill").args(["-QUIT", &server.id().to_string()]).status();
        let _ = server.wait();
    }

    /// What the server logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// A database of one's own on it.
    pub(crate) async fn database(self: &Arc<Self>) -> Database {
        static MADE: AtomicUsize = AtomicUsize::new(0);
        let name = format!("test{}", MADE.fetch_add(1, Ordering::Relaxed));
        let postgres = Arc::clone(self);
        let root = Database { postgres: Arc::clone(self), name: "postgres".to_owned() };
        root.ask(&format!("CREATE DATABASE {name}")).await;
        Database { postgres, name }
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what PostgreSQL logged:\n{}---", self.log());
        }
        self.crash();
    }
}

impl Database {
    /// Its address, the password in it.
    pub(crate) fn url(&self) -> String {
        format!("postgres://fnhost:{PASSWORD}@127.0.0.1:{}/{}", self.postgres.port, self.name)
    }

    /// A connection of the test's own.
    pub(crate) async fn connect(&self) -> tokio_postgres::Client {
        let (client, connection) =
            tokio_postgres::connect(&format!("{}?application_name=test", self.url()), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// Runs statements, and returns the first value of the last row, as text.
    pub(crate) async fn ask(&self, statements: &str) -> String {
        ask(&self.connect().await, statements).await
    }

    /// The host's connections to it, as the server counts them.
    pub(crate) async fn connections(&self) -> usize {
        self.ask(HOST_CONNECTIONS).await.parse().unwrap()
    }
}

/// The host's connections to the database that is asked.
pub(crate) const HOST_CONNECTIONS: &str =
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND application_name <> 'test'";

/// The same on a connection that is there.
pub(crate) async fn ask(client: &tokio_postgres::Client, statements: &str) -> String {
    let answers = client.simple_query(statements).await.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
    let row = answers.into_iter().rev().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    row.and_then(|row| row.get(0).map(str::to_owned)).unwrap_or_default()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where PostgreSQL's programs are: on the path, or where Debian has them, the newest first.
fn programs() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<_> = std::env::split_paths(&path).collect();
    let mut versions: Vec<_> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok())
        .collect();
    versions.sort_unstable_by(|one, other| other.cmp(one));
    folders.extend(versions.into_iter().map(|version| format!("/usr/lib/postgresql/{version}/bin").into()));
    folders
        .into_iter()
        .find(|folder| ["initdb", "postgres", "pg_isready"].iter().all(|name| folder.join(name).exists()))
}
