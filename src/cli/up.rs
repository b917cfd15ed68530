//! `fnhost up`

use super::certificates::Certificates;
use super::handover::{self, Handed, Offer};
use super::logging::{self, Format, Logging};
use super::progress::Waiting;
use super::rebuild::FirstBuild;
use super::reload::{self, Reloader};
use super::{DEFAULT_FILE, build};
use crate::authoring::editor;
use crate::authoring::watch::FileWatch;
use crate::manifest::{Described, HostConfig, Manifest, ManifestError};
use crate::platform;
use crate::release::deploy::Deployments;
use crate::runtime::engine::Haste;
use crate::server::admin::{self, Admin, Token};
use crate::server::tls::Tls;
use crate::server::{self, Door, Entrance, Host, Served};
use crate::storage::logs::LogStore;
use anyhow::{Context as _, bail, ensure};
use clap::Args;
use listenfd::ListenFd;
use sd_notify::NotifyState;
use std::io::{ErrorKind, IsTerminal as _};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::{TcpListener, TcpSocket};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::JoinSet;

/// The arguments of `up`.
#[derive(Debug, Args)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag on the command line")]
pub(super) struct UpArgs {
    /// The file that describes the app, or only how to host: `functions.toml` here, if there is one.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Where the host keeps what outlives it, in place of what functions.toml says. What was deployed there before is
    /// served, with a functions.toml or without.
    #[arg(long, value_name = "DIR")]
    state: Option<PathBuf>,
    /// Where to listen, in place of what functions.toml says; port 0 takes a free one.
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where the admin API listens, in place of what functions.toml says; `off` for nowhere.
    #[arg(long, value_name = "ADDR", value_parser = admin_address)]
    admin: Option<AdminAddress>,
    /// Let the admin API listen where others can reach it, though it speaks no TLS (`admin-certificates` in [host.tls]).
    #[arg(long)]
    insecure_admin: bool,
    /// Serve what is built already.
    #[arg(long)]
    no_build: bool,
    /// Build and serve changes of sources, of functions.toml and of components as they come; so it is on a terminal.
    #[arg(long, overrides_with = "no_watch")]
    watch: bool,
    /// Serve changes only when told to, by SIGHUP.
    #[arg(long)]
    no_watch: bool,
    /// Take the place of the host that serves from the same state folder, if there is one: its ports, and no connection is
    /// refused. It finishes what it has begun, and ends.
    #[arg(long)]
    take_over: bool,
    /// How log lines look, on stderr. `FNHOST_LOG` sets what is logged, as in `FNHOST_LOG=warn,guest=info`.
    #[arg(long, value_enum, default_value = "text")]
    log: Format,
}

/// An address, or none.
#[derive(Debug, Clone, Copy)]
struct AdminAddress(Option<SocketAddr>);

fn admin_address(text: &str) -> Result<AdminAddress, String> {
    if text == "off" {
        return Ok(AdminAddress(None));
    }
    text.parse().map(|address| AdminAddress(Some(address))).map_err(|_| "an address and a port, or `off`".to_owned())
}

impl UpArgs {
    /// What to serve, if there is a functions.toml, and how.
    fn describe(&self) -> anyhow::Result<(Option<Manifest>, HostConfig)> {
        let file = self.config.as_deref().unwrap_or(Path::new(DEFAULT_FILE));
        let (manifest, mut settings) = match Described::read(file) {
            Ok(Described::App(manifest)) => {
                let settings = manifest.host.clone();
                (Some(*manifest), settings)
            }
            Ok(Described::Host(settings)) => (None, *settings),
            Err(ManifestError::Unreadable { cause, .. })
                if cause.kind() == ErrorKind::NotFound && self.config.is_none() =>
            {
                ensure!(
                    self.state.is_some(),
                    "no functions.toml here; run fnhost in its folder, name it with -c FILE, or name a state folder with \
                     --state DIR to serve what was deployed there",
                );
                (None, HostConfig::default())
            }
            Err(error) => bail!("{error}"),
        };
        settings.state = self.state.clone().unwrap_or(settings.state);
        settings.listen = self.listen.unwrap_or(settings.listen);
        settings.admin = self.admin.map_or(settings.admin, |admin| admin.0);
        if let Some(admin) = settings.admin {
            refuse_open(admin, &settings, self.insecure_admin)?;
        }
        Ok((manifest, settings))
    }

    fn watches(&self) -> bool {
        self.watch || (!self.no_watch && std::io::stderr().is_terminal())
    }
}

pub(super) fn run(args: &UpArgs) -> anyhow::Result<()> {
    let (manifest, settings) = args.describe()?;
    let logging = logging::start(args.log)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(args, manifest, settings, logging));
    // A change that is under way is not waited for: the state folder is whole at each moment.
    runtime.shutdown_background();
    ended
}

async fn serve(
    args: &UpArgs,
    manifest: Option<Manifest>,
    mut settings: HostConfig,
    mut logging: Logging,
) -> anyhow::Result<()> {
    fit_connections(&mut settings, platform::raise_file_limit());
    // What can be refused at once comes before a build: ports above all.
    let taken = if args.take_over { handover::take_over(&settings.state)? } else { None };
    let (predecessor, handed) = taken.unzip();
    let secured = Secured::of(&settings)?;
    let ports = Ports::take(&settings, handed, args.insecure_admin)?;
    let Some((stop, mut first)) = build_first(args, manifest.as_ref(), &settings).await? else { return Ok(()) };
    // In the live loop, whoever has saved a file waits for it.
    let haste = if first.is_some() { Haste::SomebodyEdits } else { Haste::BesideRequests };
    let deployments = Arc::new(Deployments::open(&settings, haste)?);
    let logs = keep_logs(&settings, &logging)?;
    let token = settings.admin.map(|_| Token::open(&settings.state)).transpose()?;
    let no_file = reload::without_file()?;
    let watch = first.is_some().then(FileWatch::new).transpose()?;
    install(&deployments, manifest.as_ref(), first.as_mut())?;
    let reloader = manifest.map(|manifest| Reloader::new(manifest, first, &deployments, watch)).transpose()?;
    let Listening { http, admin, redirect } = ports.listen()?;
    let http = Entrance::new(http, secured.public.clone().map_or(Door::Http, Door::Https))?;
    let address = http.address;
    announce("listening on", scheme_of(secured.public.as_ref()), address);
    let way = Door::Redirect { https_port: address.port() };
    let redirect = redirect.map(|listener| Entrance::new(listener, way)).transpose()?;
    let host = Host::new(Arc::clone(&deployments), settings.clone(), logging.receipts.take(), logs)?;
    let offer = Offer::new(&deployments, &http, admin.as_ref(), redirect.as_ref())
        .inspect_err(|error| tracing::warn!("this host cannot be taken over: {error:#}"));
    // What is in them stops when they are dropped.
    let (mut beside, mut admin_api) = (JoinSet::new(), JoinSet::new());
    let (leave_admin, leave_loop) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    if let Some((listener, token)) = admin.zip(token) {
        announce("admin on", scheme_of(secured.admin.as_ref()), listener.local_addr()?);
        let leave = Arc::clone(&leave_admin).notified_owned();
        let admin = Admin::new(Arc::clone(&host), token, address);
        admin_api.spawn(admin::serve(admin, listener, secured.admin.clone(), leave));
    }
    if let Some(redirect) = &redirect {
        announce("redirecting on", "http", redirect.address);
    }
    secured.watch(&mut beside)?;
    match reloader {
        Some(reloader) => beside.spawn(reloader.run(Arc::clone(&host), Arc::clone(&leave_loop))),
        None => beside.spawn(no_file),
    };
    if let Some(predecessor) = predecessor {
        predecessor.dismiss().context("the host that served before was not told to end")?;
    }
    tell_manager(NotifyState::Ready);
    let stop = async {
        tokio::select! {
            () = stop => {}
            // The admin API is the other one's from here on; the requests that this one has begun are still its own.
            () = succeeded(offer.ok()) => leave_admin.notify_one(),
        }
        // A build that is under way is for nobody any more.
        leave_loop.notify_one();
        tell_manager(NotifyState::Stopping);
    };
    let entrances = std::iter::once(http).chain(redirect).collect();
    let served = server::serve(Arc::clone(&host), entrances, stop).await;
    // Those who follow what happens are told that it ends, when it has.
    leave_admin.notify_one();
    admin_api.join_all().await;
    beside.shutdown().await;
    conclude(&host, served).await
}

/// Completes when another host serves in this one's place.
async fn succeeded(offer: Option<Offer>) {
    match offer {
        Some(offer) => offer.taken().await,
        None => std::future::pending().await,
    }
}

/// Builds the app, if it is to be. Gives what completes when the process is asked to end, and in the live loop how that
/// begins; nothing, if it was asked meanwhile.
async fn build_first(
    args: &UpArgs,
    manifest: Option<&Manifest>,
    settings: &HostConfig,
) -> anyhow::Result<Option<(Stop, Option<FirstBuild>)>> {
    let Some(manifest) = manifest else { return Ok(Some((stop_signal()?, None))) };
    if !args.watches() {
        // Nobody is there to mend what cannot be built, and what ends this process ends the build.
        if !args.no_build {
            build::build_all(manifest)?;
        }
        return Ok(Some((stop_signal()?, None)));
    }
    if let Err(error) = editor::write_schema(&settings.state) {
        tracing::debug!(%error, "the schema of functions.toml is not in the state folder");
    }
    let mut stop = stop_signal()?;
    tokio::select! {
        first = FirstBuild::of(manifest, !args.no_build) => Ok(Some((stop, Some(first)))),
        () = &mut stop => Ok(None),
    }
}

/// Has everything that is to be served ready: what the record has, and the app of functions.toml. In the live loop, which
/// `first` begins, an app that cannot be served is no reason to end: what was served before is.
fn install(
    deployments: &Deployments,
    manifest: Option<&Manifest>,
    first: Option<&mut FirstBuild>,
) -> anyhow::Result<()> {
    let waiting = Waiting::new();
    let is_built = first.as_ref().is_none_or(|first| first.failure.is_none());
    let manifest = manifest.filter(|_| is_built);
    deployments.restore(manifest, &waiting)?;
    if let Some(manifest) = manifest
        && let Err(error) = deployments.deploy_file(manifest, &waiting)
    {
        let Some(first) = first else { return Err(error.into()) };
        first.failure = Some(error.to_string().into());
        deployments.restore_one(&manifest.name, &waiting)?;
    }
    drop(waiting);
    let serving = deployments.live().current();
    let functions: usize = serving.apps().iter().map(|app| app.live.functions.len()).sum();
    let engines = deployments.installer().engines();
    let sandboxes = engines.first().map_or("none", |engines| engines.allocation().as_str());
    tracing::info!(sandboxes, apps = serving.apps().len(), "installed {functions} functions");
    Ok(())
}

/// Has log lines kept, from here on, if they are to be.
fn keep_logs(settings: &HostConfig, logging: &Logging) -> anyhow::Result<Option<Arc<LogStore>>> {
    let Some(bytes_max) = settings.observe.log_bytes else { return Ok(None) };
    let store = LogStore::open(&settings.state, bytes_max).context("log lines cannot be kept in the state folder")?;
    let store = Arc::new(store);
    logging.keep(&store);
    Ok(Some(store))
}

async fn conclude(host: &Host, served: Served) -> anyhow::Result<()> {
    if served.cut_off > 0 {
        tracing::warn!(cut_off = served.cut_off, "the grace was over and not everything had finished");
    }
    super::print(&host.conclude().await.to_string());
    ensure!(
        !served.unsafe_to_go_on,
        "swap was turned on, and what one request wrote could have been read by the next; start again, and the host will \
         clear its sandboxes in another way",
    );
    Ok(())
}

/// TLS, where it is to be spoken.
struct Secured {
    public: Option<Arc<Tls>>,
    admin: Option<Arc<Tls>>,
}

impl Secured {
    fn of(settings: &HostConfig) -> anyhow::Result<Self> {
        let unusable = |key: &str| format!("the `{key}` of [host.tls] cannot be used");
        let files = Some(&settings.tls.certificates).filter(|files| !files.is_empty());
        let public = files.map(|files| Tls::open(files)).transpose().with_context(|| unusable("certificates"))?;
        let files =
            Some(&settings.tls.admin_certificates).filter(|files| !files.is_empty() && settings.admin.is_some());
        let admin =
            files.map(|files| Tls::open_admin(files)).transpose().with_context(|| unusable("admin-certificates"))?;
        Ok(Self { public: public.map(Arc::new), admin: admin.map(Arc::new) })
    }

    /// Has the certificates seen to, for as long as what is in `beside` runs.
    fn watch(self, beside: &mut JoinSet<()>) -> anyhow::Result<()> {
        for (tls, listener) in [(self.public, "public"), (self.admin, "admin")] {
            if let Some(tls) = tls {
                beside.spawn(Certificates::new(tls, listener)?.run());
            }
        }
        Ok(())
    }
}

fn scheme_of(tls: Option<&Arc<Tls>>) -> &'static str {
    if tls.is_some() { "https" } else { "http" }
}

/// Leaves some of the files that may be open to what is no connection of a client: a half, and at the most so many.
fn fit_connections(settings: &mut HostConfig, files: Option<u64>) {
    const FILES_LEFT: u64 = 512;
    let Some(files) = files else { return };
    let fitting = u32::try_from(files - FILES_LEFT.min(files / 2)).unwrap_or(u32::MAX).max(1);
    if fitting < settings.connections {
        tracing::warn!(
            files,
            connections = fitting,
            "there may be fewer connections than configured: so few files may be open (ulimit -n)"
        );
        settings.connections = fitting;
    }
}

/// An admin API that speaks no TLS is for this machine alone, unless its operator says otherwise.
fn refuse_open(admin: SocketAddr, settings: &HostConfig, insecure: bool) -> anyhow::Result<()> {
    ensure!(
        admin.ip().is_loopback() || !settings.tls.admin_certificates.is_empty() || insecure,
        "the admin API would listen on {admin}, where others can reach it, without TLS: give it certificates \
         (`admin-certificates` in [host.tls]), or say --insecure-admin",
    );
    Ok(())
}

/// Ports that are taken, and not answered yet.
enum Ports {
    /// By this process.
    Own { http: TcpSocket, admin: Option<TcpSocket>, redirect: Option<TcpSocket> },
    /// By the host before, or by whoever started it, as systemd does (`sd_listen_fds(3)`): clients connect already, and
    /// wait.
    Inherited(Listening),
}

/// Where clients connect.
struct Listening {
    http: TcpListener,
    admin: Option<TcpListener>,
    redirect: Option<TcpListener>,
}

impl Ports {
    /// The sockets that were `handed` over by the host before, or by a service manager; without any, what `settings` say.
    fn take(settings: &HostConfig, handed: Option<Handed>, insecure_admin: bool) -> anyhow::Result<Self> {
        let Handed { http, admin, redirect } = handed.map_or_else(inherited, Ok)?;
        let usable = |socket: std::net::TcpListener| {
            socket.set_nonblocking(true)?;
            TcpListener::from_std(socket)
        };
        let bind = |address| server::bind(address).with_context(|| format!("cannot listen on {address}"));
        let bind_admin = |address| {
            server::bind(address).with_context(|| {
                format!("cannot listen on {address} for the admin API (`admin` in [host], or --admin, says where; `off` for nowhere)")
            })
        };
        let bind_redirect = |address| {
            server::bind(address).with_context(|| format!("cannot listen on {address} (`redirect-http` in [host.tls])"))
        };
        if let Some(http) = http {
            let admin = match (admin, settings.admin) {
                (_, None) => None,
                (Some(admin), _) => {
                    refuse_open(admin.local_addr()?, settings, insecure_admin)?;
                    Some(usable(admin)?)
                }
                (None, Some(address)) => Some(server::listen(bind_admin(address)?)?),
            };
            let redirect = match (redirect, settings.tls.redirect_http) {
                (_, None) => None,
                (Some(redirect), _) => Some(usable(redirect)?),
                (None, Some(address)) => Some(server::listen(bind_redirect(address)?)?),
            };
            return Ok(Self::Inherited(Listening { http: usable(http)?, admin, redirect }));
        }
        Ok(Self::Own {
            http: bind(settings.listen)?,
            admin: settings.admin.map(bind_admin).transpose()?,
            redirect: settings.tls.redirect_http.map(bind_redirect).transpose()?,
        })
    }

    /// From here on clients can connect.
    fn listen(self) -> anyhow::Result<Listening> {
        match self {
            Self::Inherited(listening) => Ok(listening),
            Self::Own { http, admin, redirect } => {
                let listen = |socket| server::listen(socket).context("cannot listen");
                let (admin, redirect) = (admin.map(listen).transpose()?, redirect.map(listen).transpose()?);
                Ok(Listening { http: listen(http)?, admin, redirect })
            }
        }
    }
}

/// What a service manager hands over: where functions are served, then the admin API, then where plain HTTP leads to HTTPS.
fn inherited() -> anyhow::Result<Handed> {
    let mut inherited = ListenFd::from_env();
    let mut take = |at| inherited.take_tcp_listener(at).context("what was handed over is no listening socket of TCP");
    let handed = Handed { http: take(0)?, admin: take(1)?, redirect: take(2)? };
    ensure!(
        inherited.len() <= 3,
        "{} sockets were handed over: HTTP, the admin API, and `redirect-http` are three",
        inherited.len()
    );
    Ok(handed)
}

/// A line on stdout: whoever started the host may be waiting for it. It can be called from here on.
fn announce(what: &str, scheme: &str, address: SocketAddr) {
    super::print(&format!("{what} {scheme}://{address}\n"));
}

/// Tells a service manager that waits for it (`sd_notify(3)`).
fn tell_manager(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "the service manager could not be told");
    }
}

/// Completes when the process is asked to end: SIGTERM, or Ctrl-C.
type Stop = Pin<Box<dyn Future<Output = ()> + Send>>;

fn stop_signal() -> anyhow::Result<Stop> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(Box::pin(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }))
}
