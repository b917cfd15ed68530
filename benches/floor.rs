//! What the network alone costs: the host, and beside it in the same process, on a port of its own, the same axum and
//! hyper without WebAssembly.
//!
//! `floor FUNCTIONS_TOML` says where both listen. The floor answers every path with the 14 bytes that the guests of the
//! benchmark answer, and `POST /echo` with its upload.

#![expect(clippy::disallowed_methods, reason = "what the floor spawns ends with the process")]

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::routing::post;
use fnhost::manifest::Manifest;
use fnhost::release::deploy::Deployments;
use fnhost::release::install::Silent;
use fnhost::runtime::engine::Haste;
use fnhost::server::{self, Door, Entrance, Host};
use http::Request;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[expect(clippy::print_stdout, reason = "whoever runs the benchmark reads the addresses there")]
fn main() -> anyhow::Result<()> {
    let file = std::env::args_os().nth(1).context("the path of a functions.toml is missing")?;
    let manifest = Manifest::read(Path::new(&file)).map_err(|error| anyhow::Error::msg(error.to_string()))?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let free = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let deployments = Arc::new(Deployments::open(&manifest.host, Haste::BesideRequests)?);
        deployments.deploy_file(&manifest, &Silent)?;
        let listener = server::listen(server::bind(free)?)?;
        println!("listening on http://{}", listener.local_addr()?);
        let floor = server::listen(server::bind(free)?)?;
        println!("floor on http://{}", floor.local_addr()?);
        tokio::spawn(serve_floor(floor));
        let mut terminate = signal(SignalKind::terminate())?;
        let stop = async move {
            terminate.recv().await;
        };
        let host = Host::new(deployments, manifest.host.clone(), None, None)?;
        server::serve(host, vec![Entrance::new(listener, Door::Http)?], stop).await;
        Ok(())
    })
}

async fn serve_floor(listener: TcpListener) {
    let app = Router::new()
        .route("/echo", post(async |request: Request<Body>| request.into_body()))
        .fallback(async || "Hello, world!\n");
    while let Ok((stream, _)) = listener.accept().await {
        let service = TowerToHyperService::new(app.clone());
        tokio::spawn(async move {
            // Clients go away all the time.
            let _ = stream.set_nodelay(true);
            let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
        });
    }
}
