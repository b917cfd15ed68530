//! The admin API from the other side: what the commands ask a host.

use super::trust::{self, Trust};
use super::{DEFAULT_FILE, ManifestArgs};
use crate::api::{FunctionFiguresList, PREFIX, ProblemInfo};
use crate::manifest::{Described, HostConfig, Manifest, ManifestError};
use crate::names::Name;
use crate::server::admin::{TOKEN_FILE, TOKEN_VARIABLE};
use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use clap::Args;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// The most bytes of an answer: a list of releases of ten thousand functions each.
const ANSWER_BYTES_MAX: usize = 128 << 20;

/// Which host, and which of its apps.
#[derive(Debug, Args)]
pub(super) struct HostArgs {
    /// The host's admin API; by default, what functions.toml has as `admin`.
    #[arg(long, value_name = "URL")]
    to: Option<String>,
    /// Whom to trust over TLS, in place of the public authorities: a PEM file of an authority's certificate, or of the host's own.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Send the token to another machine by plain HTTP, for everybody on the way to read.
    #[arg(long)]
    insecure_admin: bool,
    /// A file with the admin token. Without it, `FNHOST_ADMIN_TOKEN`, or else the state folder of a host on this machine.
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    /// The file that describes the app.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// The state folder of a host on this machine, where its token is; by default, what functions.toml says.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
}

impl HostArgs {
    /// The app's functions.toml.
    pub(super) fn manifest(&self) -> anyhow::Result<Manifest> {
        ManifestArgs { config: self.config.clone() }.read()
    }

    /// The app that is meant: `named`, or that of functions.toml.
    pub(super) fn app(&self, named: Option<&str>) -> anyhow::Result<Name> {
        let Some(name) = named else { return Ok(self.manifest().context("say which app with --app NAME")?.name) };
        Name::new(name).with_context(|| format!("`{name}` names no app"))
    }

    /// The host. What functions.toml says of it is used where there is one.
    pub(super) fn client(&self) -> anyhow::Result<Client> {
        let settings = self.settings()?;
        let to = match &self.to {
            Some(to) => to.trim_end_matches('/').to_owned(),
            None => described(&settings)?,
        };
        let parsed: http::Uri = to.parse().with_context(|| format!("`{to}` is no URL"))?;
        if !matches!(parsed.scheme_str(), Some("http" | "https")) || !parsed.path().trim_matches('/').is_empty() {
            bail!("`{to}` is no URL of a host, such as https://example.com:3001");
        }
        let is_here = parsed.host().is_some_and(is_this_machine);
        if parsed.scheme_str() == Some("http") {
            ensure!(
                is_here || self.insecure_admin,
                "the admin token is not sent to {to}, where others can read it: ask by https://, or say --insecure-admin"
            );
            ensure!(self.ca.is_none(), "--ca says whom to trust over TLS, which {to} does not speak");
        }
        // The secret of a host on this machine is for that host, which is known by the certificate that is at hand.
        let token = self.token(is_here.then_some(&settings))?;
        let own = Some(&settings.tls.admin_certificates).filter(|files| !files.is_empty());
        let trust = match (&self.ca, own.filter(|_| is_here || self.to.is_none())) {
            (Some(file), _) => Trust::File(file.clone()),
            (None, Some(own)) => Trust::Own(own.clone()),
            (None, None) => Trust::Public,
        };
        Client::new(to, token, &trust)
    }

    /// How the host is described here, if it is.
    fn settings(&self) -> anyhow::Result<HostConfig> {
        match Described::read(&self.config) {
            Ok(Described::App(manifest)) => Ok(manifest.host),
            Ok(Described::Host(settings)) => Ok(*settings),
            Err(ManifestError::Unreadable { cause, .. }) if cause.kind() == ErrorKind::NotFound => {
                Ok(HostConfig::default())
            }
            Err(error) => bail!("{error}"),
        }
    }

    fn token(&self, here: Option<&HostConfig>) -> anyhow::Result<String> {
        let read = |file: &Path| {
            let text = std::fs::read_to_string(file);
            text.map(|text| text.trim().to_owned()).with_context(|| format!("cannot read {}", file.display()))
        };
        if let Some(file) = &self.token_file {
            return read(file);
        }
        if let Ok(token) = std::env::var(TOKEN_VARIABLE) {
            return Ok(token);
        }
        let state = self.state.as_ref().or(here.map(|settings| &settings.state));
        let Some(file) = state.map(|state| state.join(TOKEN_FILE)) else {
            bail!("there is no admin token: set {TOKEN_VARIABLE}, or say --token-file FILE")
        };
        read(&file).with_context(|| format!("there is no admin token: set {TOKEN_VARIABLE}, or say --token-file FILE"))
    }
}

/// Where functions.toml says that the admin API is.
fn described(settings: &HostConfig) -> anyhow::Result<String> {
    let mut admin = settings.admin.context("functions.toml has no admin API; say where with --to")?;
    if admin.ip().is_unspecified() {
        // It listens everywhere, so here as well.
        admin.set_ip(if admin.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    let scheme = if settings.tls.admin_certificates.is_empty() { "http" } else { "https" };
    Ok(format!("{scheme}://{admin}"))
}

fn is_this_machine(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    host.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback())
}

/// Why nobody answers.
pub(super) type Unreachable = hyper_util::client::legacy::Error;

/// A host's admin API.
pub(super) struct Client {
    base: String,
    token: String,
    http: HttpClient<HttpsConnector<HttpConnector>, Full<Bytes>>,
}

/// What a host answered.
pub(super) enum Answer {
    /// It did, and says so in JSON.
    Done(Bytes),
    /// It did not.
    Problem(ProblemInfo),
}

impl Client {
    fn new(base: String, token: String, trust: &Trust) -> anyhow::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        let tls = hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(trust.config()?);
        let connector = tls.https_or_http().enable_http1().wrap_connector(tcp);
        Ok(Self { base, token, http: HttpClient::builder(TokioExecutor::new()).build(connector) })
    }

    /// Asks for `path`, behind the version.
    pub(super) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        understood(self.send(Method::GET, path, Bytes::new()).await?)
    }

    /// Tells the host something.
    pub(super) async fn post(&self, path: &str, body: &impl Serialize) -> anyhow::Result<Answer> {
        self.send(Method::POST, path, serde_json::to_vec(body)?.into()).await
    }

    /// Gives it a component.
    pub(super) async fn put(&self, path: &str, body: Bytes) -> anyhow::Result<Answer> {
        self.send(Method::PUT, path, body).await
    }

    /// Warns of names that no live release has: they may be misspelled, and may also come yet, or have been before.
    pub(super) async fn warn_of_unknown(&self, app: Option<&Name>, function: Option<&Name>) -> anyhow::Result<()> {
        if app.is_none() && function.is_none() {
            return Ok(());
        }
        let known: FunctionFiguresList = self.get("/functions").await?;
        let is = |wanted: Option<&Name>, found: &str| wanted.is_none_or(|wanted| wanted.as_str() == found);
        let of_app = || known.functions.iter().filter(|one| is(app, &one.app));
        match (app, function) {
            (Some(app), _) if of_app().next().is_none() => super::warn(&format!("no app `{app}` is live on the host")),
            (_, Some(name)) if !of_app().any(|one| is(Some(name), &one.function)) => {
                super::warn(&format!("no function `{name}` is live on the host"));
            }
            _ => {}
        }
        Ok(())
    }

    /// Takes something away.
    pub(super) async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.send(Method::DELETE, path, Bytes::new()).await
    }

    /// Follows what the host says at `path`: each event is given to `each`, with its name, until that fails or the host
    /// ends.
    pub(super) async fn follow(
        &self,
        path: &str,
        mut each: impl FnMut(&str, &str) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let response = self.begin(Method::GET, path, Bytes::new()).await?;
        if !response.status().is_success() {
            return self.answer(response).await.and_then(|answer| understood::<serde_json::Value>(answer).map(drop));
        }
        let mut body = response.into_body();
        let (mut buffer, mut name) = (Vec::new(), String::new());
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| anyhow::anyhow!("{} broke off: {error}", self.base))?;
            buffer.extend_from_slice(frame.data_ref().map(Bytes::as_ref).unwrap_or_default());
            ensure!(buffer.len() <= ANSWER_BYTES_MAX, "{} sends lines without an end", self.base);
            while let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = buffer.drain(..=end).collect();
                let line = String::from_utf8_lossy(&line);
                if let Some(said) = line.strip_prefix("event: ") {
                    said.trim_end().clone_into(&mut name);
                } else if let Some(data) = line.strip_prefix("data: ") {
                    each(&name, data.trim_end_matches('\n'))?;
                }
            }
        }
        Ok(())
    }

    async fn send(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Answer> {
        let response = self.begin(method, path, body).await?;
        self.answer(response).await
    }

    async fn begin(&self, method: Method, path: &str, body: Bytes) -> anyhow::Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{PREFIX}{path}", self.base))
            .header(AUTHORIZATION, format!("Bearer {}", self.token))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(body))
            .context("the admin token cannot be sent")?;
        let answered = self.http.request(request).await;
        answered.map_err(|error| self.unreachable(&error))
    }

    async fn answer(&self, response: Response<Incoming>) -> anyhow::Result<Answer> {
        let status = response.status();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| anyhow::anyhow!("the answer of {} broke off: {error}", self.base))?.to_bytes();
        if status.is_success() {
            return Ok(Answer::Done(body));
        }
        match serde_json::from_slice(&body) {
            Ok(problem) => Ok(Answer::Problem(problem)),
            Err(_) => bail!("{} answered {status}, and not as an admin API does", self.base),
        }
    }

    fn unreachable(&self, error: &Unreachable) -> anyhow::Error {
        if let Some(refusal) = trust::refusal(&self.base, error) {
            return refusal;
        }
        let mut why = error.to_string();
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            why = cause.to_string();
            source = cause.source();
        }
        let hint = if trust::is_of_other_scheme(error) {
            if self.base.starts_with("https:") { " (it may speak http://)" } else { " (it may speak https://)" }
        } else {
            ""
        };
        anyhow::anyhow!("no host answers at {}: {why}{hint}", self.base)
    }
}

/// A query of those that have a value, behind `?`.
pub(super) fn query(pairs: &[(&str, Option<&str>)]) -> String {
    let encode = |text: &str| {
        text.bytes().fold(String::new(), |encoded, byte| match byte {
            // Unreserved (RFC 3986, 2.3).
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                encoded + char::from(byte).encode_utf8(&mut [0; 4])
            }
            _ => encoded + &format!("%{byte:02X}"),
        })
    };
    let said = pairs.iter().filter_map(|(name, value)| Some(format!("{name}={}", encode((*value)?))));
    let said = said.collect::<Vec<_>>().join("&");
    if said.is_empty() { said } else { format!("?{said}") }
}

/// What the host said, where a problem is the end.
pub(super) fn understood<T: DeserializeOwned>(answer: Answer) -> anyhow::Result<T> {
    match answer {
        Answer::Done(body) => serde_json::from_slice(&body).context("the host answers in another way than this fnhost"),
        Answer::Problem(problem) => Err(refusal(&problem)),
    }
}

/// A problem as an error.
pub(super) fn refusal(problem: &ProblemInfo) -> anyhow::Error {
    anyhow::anyhow!("{} ({})", problem.detail.trim_end(), problem.code)
}

/// Runs a command that asks a host.
pub(super) fn block_on<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
