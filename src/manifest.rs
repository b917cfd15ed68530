//! functions.toml in; a checked [`Manifest`], or errors that point into the file, out.
//!
//! Two structs for one file: `file` has what was written, [`Manifest`] what is then true. **Invariant:** a `Manifest`
//! has no mistake that can be seen in its text; what its files hold is checked when they are installed, and pointed at
//! with [`Manifest::errors_at`].

mod check;
pub mod data;
mod diagnostic;
mod file;
pub mod middleware;
mod pattern;
pub mod schema;
pub mod tls;

pub use diagnostic::Diagnostic;
pub use pattern::{HostPattern, PatternError, RoutePattern, Segment};

use crate::grants::OutboundGrants;
use crate::limits::{Limits, Share};
use crate::names::Name;
use crate::network::Network;
use crate::usage::Tariff;
use data::{DataGrants, DataSpec};
use middleware::{MiddlewareComponent, MiddlewareKind, MiddlewareSpec};
use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tls::TlsConfig;

/// The most bytes of a functions.toml: ten thousand functions fit several times.
pub const FILE_BYTES_MAX: u64 = 32 << 20;

/// The most errors of one file that are told: a report is for people, and goes out in answers of the admin API.
const ERRORS_MAX: usize = 100;

/// An app, as functions.toml describes it: names checked, paths resolved, defaults filled in.
#[derive(Debug, Clone)]
pub struct Manifest {
    path: PathBuf,
    source: String,
    is_upload: bool,
    /// The app's name.
    pub name: Name,
    /// How the host serves it.
    pub host: HostConfig,
    /// How a release of it becomes live.
    pub release: ReleaseConfig,
    /// Its data.
    pub data: DataSpec,
    /// What stands before its functions, in the order of the file.
    pub middleware: Vec<MiddlewareSpec>,
    /// Its functions, in the order of the file.
    pub functions: Vec<FunctionSpec>,
}

/// `[host]`, `[observe]` and `[tariff]`: how the host serves. They are the machine's, and not deployed.
#[derive(Debug, Clone, PartialEq)]
pub struct HostConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the admin API listens, if it does; port 0 takes a free one.
    pub admin: Option<SocketAddr>,
    /// Where the host keeps what outlives it.
    pub state: PathBuf,
    /// Sandboxes alive at once, all functions together.
    pub concurrency: u32,
    /// Functions whose code is kept mapped at once.
    pub loaded_functions: u32,
    /// Connections open at once.
    pub connections: u32,
    /// Connections that one client may have open at once.
    pub connections_per_client: u32,
    /// Requests on one connection.
    pub requests_per_connection: u32,
    /// Who may say, by `Forwarded` or `X-Forwarded-*`, for whom it asks.
    pub trusted_proxies: Vec<Network>,
    /// Who says it by the PROXY protocol, before the first byte.
    pub proxy_protocol: Vec<Network>,
    /// What TLS is spoken by, and what comes with it.
    pub tls: TlsConfig,
    /// How long a connection may take over a request's head.
    pub header_timeout: Duration,
    /// How long a client may pause in the middle of an upload.
    pub body_timeout: Duration,
    /// How long a connection stays open on which nothing is asked.
    pub idle_timeout: Duration,
    /// How long a client may take none of what is sent to it.
    pub write_timeout: Duration,
    /// How long requests may go on once the host was asked to stop.
    pub shutdown_grace: Duration,
    /// Whether responses carry `Server-Timing`.
    pub server_timing: bool,
    /// Releases of each app that are kept, the live one and its canary besides.
    pub keep_releases: u32,
    /// The most bytes of a component that is deployed.
    pub component_bytes_max: u64,
    /// What is kept and told of requests.
    pub observe: ObserveConfig,
    /// What usage costs, if it costs anything.
    pub tariff: Option<Tariff>,
}

/// `[observe]`: what is kept and told of requests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObserveConfig {
    /// Whether there are counts and histograms for each release (`/metrics`).
    pub metrics: bool,
    /// Whether usage is added up in the state folder.
    pub usage: bool,
    /// For how long it is kept there.
    pub usage_days: u32,
    /// How many of the latest receipts are kept in memory.
    pub receipts: u32,
    /// How many bytes of log lines are kept in the state folder, if any.
    pub log_bytes: Option<u64>,
    /// Where spans go (OTLP over gRPC), if anywhere.
    pub otlp: Option<http::Uri>,
    /// The part of the traces begun here whose spans do.
    pub otlp_sample: Share,
}

impl Default for ObserveConfig {
    fn default() -> Self {
        Self {
            metrics: true,
            usage: true,
            usage_days: 400,
            receipts: 20_000,
            log_bytes: Some(256 << 20),
            otlp: None,
            otlp_sample: Share::ALL,
        }
    }
}

impl Default for HostConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 3000)),
            admin: Some(SocketAddr::from((Ipv4Addr::LOCALHOST, 3001))),
            state: PathBuf::from(".fnhost"),
            concurrency: 1000,
            loaded_functions: 10_000,
            connections: 10_000,
            connections_per_client: 1000,
            requests_per_connection: 1_000_000,
            trusted_proxies: Vec::new(),
            proxy_protocol: Vec::new(),
            tls: TlsConfig::default(),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            shutdown_grace: Duration::from_secs(30),
            server_timing: true,
            keep_releases: 20,
            component_bytes_max: 64 << 20,
            observe: ObserveConfig::default(),
            tariff: None,
        }
    }
}

/// `[release]`: how a release becomes live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReleaseConfig {
    /// Whether a client that met the canary meets it again.
    pub sticky: Sticky,
    /// What ends the canary by itself.
    pub rollback_when: Option<RollbackWhen>,
}

/// By what clients are told apart, so that each sees one release only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sticky {
    /// They are not: each request is decided by itself.
    No,
    /// By a cookie of the host's.
    Cookie,
    /// By the value of this header. Who has none never meets the canary.
    Header(http::HeaderName),
}

/// When a canary ends by itself: when it does worse than these bounds, and the live release does not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RollbackWhen {
    /// The part of its answers that may be of status 500 and above, over what the live release has of them.
    pub errors: Option<Share>,
    /// The 99th percentile of its handlers' time.
    pub handler_p99: Option<Duration>,
    /// Over how long both are looked at.
    pub window: Duration,
    /// How many requests it must have had within the window.
    pub requests: u32,
}

impl Default for RollbackWhen {
    fn default() -> Self {
        Self { errors: None, handler_p99: None, window: Duration::from_mins(1), requests: 100 }
    }
}

/// One function, as the file describes it.
#[derive(Debug, Clone)]
pub struct FunctionSpec {
    /// Its name.
    pub name: Name,
    /// The file of its component.
    pub component: PathBuf,
    /// Where the file says so.
    pub component_span: Range<usize>,
    /// Where the file sets its memory limit, or else the component.
    pub memory_span: Range<usize>,
    /// How its component is built.
    pub build: Option<Build>,
    /// The requests it answers.
    pub routes: Vec<RouteSpec>,
    /// Its environment (`wasi:cli/environment`).
    pub env: Vec<(String, String)>,
    /// Its configuration (`wasi:config/store`).
    pub config: Vec<(String, String)>,
    /// Whom it may call.
    pub outbound: OutboundGrants,
    /// What it may use of the app's data.
    pub data: DataGrants,
    /// What stands before it, the first to see a request first: what is the host's own, and then components.
    pub middleware: Vec<Name>,
    /// What it may use.
    pub limits: Limits,
}

/// A route, and its place in the file.
#[derive(Debug, Clone)]
pub struct RouteSpec {
    /// What it says.
    pub pattern: RoutePattern,
    /// Where.
    pub span: Range<usize>,
}

/// How a component is built.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Build {
    /// The command, for the shell.
    pub command: String,
    /// Where it runs.
    pub folder: PathBuf,
}

/// Why there is no manifest, or why it cannot be installed.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// The file could not be read.
    #[error("cannot read {}: {cause}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        cause: io::Error,
    },
    /// The file is wrong in one place or more.
    #[error("{0}")]
    Invalid(Report),
}

/// Errors that point into a file, as people read them.
#[derive(Debug)]
pub struct Report {
    texts: Vec<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.texts.join("\n").trim_end())
    }
}

/// What a functions.toml describes.
#[derive(Debug)]
pub enum Described {
    /// An app, and how to host it.
    App(Box<Manifest>),
    /// How to host apps that come from elsewhere: a file with `[host]`, `[observe]` and `[tariff]` alone.
    Host(Box<HostConfig>),
}

impl Described {
    /// Reads and checks the file at `path`. Relative paths in it start at its own folder.
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        Self::parse(path, read_text(path)?)
    }

    /// Checks `source`, the text of the file at `path`.
    pub fn parse(path: &Path, source: String) -> Result<Self, ManifestError> {
        let (file, errors) = file::read(&source);
        if !(file.is_host_alone && errors.is_empty()) {
            return Manifest::parse(path, source).map(|manifest| Self::App(Box::new(manifest)));
        }
        let mut errors = Vec::new();
        let host = check::check_host(file.host, folder_of(path), &mut errors);
        if errors.is_empty() {
            Ok(Self::Host(Box::new(host)))
        } else {
            Err(ManifestError::Invalid(render(errors, path, &source)))
        }
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new(""))
}

fn read_text(path: &Path) -> Result<String, ManifestError> {
    let unreadable = |cause| ManifestError::Unreadable { path: path.to_owned(), cause };
    let size = std::fs::metadata(path).map_err(unreadable)?.len();
    if size > FILE_BYTES_MAX {
        let cause = io::Error::other(format!("it has {size} bytes, and {FILE_BYTES_MAX} are allowed"));
        return Err(unreadable(cause));
    }
    std::fs::read_to_string(path).map_err(unreadable)
}

impl Manifest {
    /// Reads and checks the file at `path`. Relative paths in it start at its own folder.
    pub fn read(path: &Path) -> Result<Self, ManifestError> {
        Self::parse(path, read_text(path)?)
    }

    /// The text of the file.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it came from another machine: relative paths in it lead nowhere here.
    pub fn is_upload(&self) -> bool {
        self.is_upload
    }

    /// Checks `source`, the text of a functions.toml of another machine.
    pub fn of_upload(source: String) -> Result<Self, ManifestError> {
        Ok(Self { is_upload: true, ..Self::parse("functions.toml".as_ref(), source)? })
    }

    /// Checks `source`, the text of the file at `path`.
    pub fn parse(path: &Path, source: String) -> Result<Self, ManifestError> {
        let folder = folder_of(path);
        let (file, mut errors) = file::read(&source);
        // A file that could not be read as TOML has nothing to check.
        let checked = if errors.is_empty() || !file.functions.is_empty() || file.name.is_some() {
            let (checked, more) = check::check(file, folder);
            errors.extend(more);
            checked
        } else {
            None
        };
        match checked {
            Some(checked) if errors.is_empty() => Ok(Self {
                path: path.to_owned(),
                source,
                is_upload: false,
                name: checked.name,
                host: checked.host,
                release: checked.release,
                data: checked.data,
                middleware: checked.middleware,
                functions: checked.functions,
            }),
            _ => Err(ManifestError::Invalid(render(errors, path, &source))),
        }
    }

    /// What stands before `function`, the first to see a request first.
    pub fn chain<'m>(&'m self, function: &'m FunctionSpec) -> impl Iterator<Item = &'m MiddlewareSpec> {
        function.middleware.iter().filter_map(|name| self.middleware.iter().find(|spec| spec.name == *name))
    }

    /// The components of it.
    pub fn composed<'m>(&'m self, function: &'m FunctionSpec) -> impl Iterator<Item = &'m MiddlewareComponent> {
        self.chain(function).filter_map(|spec| match &spec.kind {
            MiddlewareKind::Component(component) => Some(component),
            MiddlewareKind::BuiltIn(_) => None,
        })
    }

    /// All middleware that is a component, in the order of the file.
    pub fn middleware_components(&self) -> impl Iterator<Item = (&Name, &MiddlewareComponent)> {
        self.middleware.iter().filter_map(|spec| match &spec.kind {
            MiddlewareKind::Component(component) => Some((&spec.name, component)),
            MiddlewareKind::BuiltIn(_) => None,
        })
    }

    /// The components of middleware and of functions.
    pub fn components(&self) -> impl Iterator<Item = &Path> {
        let middleware = self.middleware_components().map(|(_, component)| component.path.as_path());
        middleware.chain(self.functions.iter().map(|spec| spec.component.as_path()))
    }

    /// What is built, middleware before functions: whose it is, the component that is made, and how.
    pub fn builds(&self) -> impl Iterator<Item = (&Name, &Path, &Build)> {
        let middleware = self.middleware_components();
        let middleware = middleware.map(|(name, link)| (name, link.path.as_path(), link.build.as_ref()));
        let functions = self.functions.iter().map(|spec| (&spec.name, spec.component.as_path(), spec.build.as_ref()));
        middleware.chain(functions).filter_map(|(name, component, build)| Some((name, component, build?)))
    }

    /// Errors that were found later, in what the file names, pointing into the file like its own.
    pub fn errors_at(&self, errors: Vec<Diagnostic>) -> ManifestError {
        ManifestError::Invalid(render(errors, &self.path, &self.source))
    }
}

fn render(mut errors: Vec<Diagnostic>, path: &Path, source: &str) -> Report {
    errors.sort_by_key(|error| error.span.start);
    let path = path.display().to_string();
    let mut texts: Vec<String> = errors.iter().take(ERRORS_MAX).map(|error| error.render(&path, source)).collect();
    if let Some(more) = errors.len().checked_sub(ERRORS_MAX).filter(|more| *more > 0) {
        texts.push(format!("and {more} more"));
    }
    Report { texts }
}
