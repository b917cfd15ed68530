//! What a query costs without WebAssembly: axum, and a pool of connections by the same crates that the host has them from.
//!
//! `floor_query URL SIZE` answers every path with what the database says.

#![expect(clippy::disallowed_methods, reason = "what it spawns ends with the process")]

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use std::net::{Ipv4Addr, SocketAddr};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[expect(clippy::print_stdout, reason = "whoever runs the benchmark reads the address there")]
fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().context("the URL of a database is missing")?;
    let size = arguments.next().context("the size of the pool is missing")?.parse()?;
    let settings = ManagerConfig { recycling_method: RecyclingMethod::Fast };
    let manager = Manager::from_config(url.parse()?, tokio_postgres::NoTls, settings);
    let pool = Pool::builder(manager).max_size(size).runtime(Runtime::Tokio1).build()?;
    let app = Router::new().fallback(query).with_state(pool);
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let listener = TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
        println!("listening on http://{}", listener.local_addr()?);
        loop {
            let (stream, _) = listener.accept().await?;
            let service = TowerToHyperService::new(app.clone());
            tokio::spawn(async move {
                // Clients go away all the time.
                let _ = stream.set_nodelay(true);
                let _ = auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
            });
        }
    })
}

async fn query(State(pool): State<Pool>) -> Result<String, (StatusCode, String)> {
    let failed = |error: &dyn std::fmt::Display| (StatusCode::BAD_GATEWAY, error.to_string());
    let connection = pool.get().await.map_err(|error| failed(&error))?;
    let statement = connection.prepare_cached("SELECT text FROM greetings WHERE id = $1").await;
    let statement = statement.map_err(|error| failed(&error))?;
    let row = connection.query_one(&statement, &[&1_i32]).await.map_err(|error| failed(&error))?;
    Ok(row.get(0))
}
