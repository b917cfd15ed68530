//! `wasi:sockets`: streams and datagrams of the guest's own, to whom it was granted by `tcp://` and `udp://`.
//!
//! A socket knows addresses alone, so a grant for a name is a grant for what the host resolves the name to, now. Nobody listens,
//! and nobody binds to anything but what the system picks. **Invariant:** as for calls by `wasi:http`, a name leads to no
//! address of this machine or of a private network unless a grant names that address.

use super::connections::Connections;
use crate::grants::{OutboundGrants, Scheme};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use wasmtime_wasi::WasiCtxBuilder;
use wasmtime_wasi::sockets::SocketAddrUse;

/// For how long the host remembers what a granted name was resolved to.
const RESOLVED_TIME: Duration = Duration::from_secs(5);

/// What a function's sockets are held to. One for all its requests.
pub(in crate::runtime) struct Sockets {
    grants: Arc<OutboundGrants>,
    /// What granted names were resolved to, and when.
    resolved: Arc<Mutex<Resolved>>,
    connections: Arc<Connections>,
}

type Resolved = HashMap<String, (Instant, Vec<IpAddr>)>;
type Verdict = Pin<Box<dyn Future<Output = bool> + Send + Sync>>;

impl Sockets {
    pub(in crate::runtime) fn new(grants: Arc<OutboundGrants>, connections: Arc<Connections>) -> Self {
        Self { grants, resolved: Arc::default(), connections }
    }

    /// Lets one request's sandbox use what was granted: at most `connections_max` connections, and what is
    /// left of the function's.
    pub(in crate::runtime) fn grant(&self, wasi: &mut WasiCtxBuilder, connections_max: u32) {
        let (tcp, udp) = (self.grants.any(Scheme::Tcp), self.grants.any(Scheme::Udp));
        wasi.allow_tcp(tcp).allow_udp(udp).allow_ip_name_lookup(tcp || udp);
        if !tcp && !udp {
            return;
        }
        let (grants, resolved) = (Arc::clone(&self.grants), Arc::clone(&self.resolved));
        let (left, held) = (AtomicU32::new(connections_max), self.connections.none());
        wasi.socket_addr_check(move |address, used| {
            let scheme = match used {
                SocketAddrUse::TcpBind | SocketAddrUse::UdpBind => return verdict(is_any(address)),
                SocketAddrUse::TcpListen | SocketAddrUse::TcpAccept => return verdict(false),
                SocketAddrUse::TcpConnect => Scheme::Tcp,
                SocketAddrUse::UdpSend | SocketAddrUse::UdpReceive => Scheme::Udp,
            };
            if scheme == Scheme::Tcp && !(take_one(&left) && held.take_one()) {
                tracing::debug!(%address, "a connection is one too many for its request or its function");
                return verdict(false);
            }
            if grants.allow_bare_address(scheme, address.ip(), address.port()) {
                return verdict(true);
            }
            let (grants, resolved) = (Arc::clone(&grants), Arc::clone(&resolved));
            Box::pin(async move {
                let look_up = move || is_granted_by_name(&grants, &resolved, scheme, address);
                tokio::task::spawn_blocking(look_up).await.unwrap_or(false)
            })
        });
    }
}

fn verdict(allowed: bool) -> Verdict {
    Box::pin(std::future::ready(allowed))
}

/// Whether it leaves the choice to the system.
fn is_any(address: SocketAddr) -> bool {
    address.ip().is_unspecified() && address.port() == 0
}

fn take_one(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

/// Whether `address` is what a granted name is resolved to. May wait for DNS.
fn is_granted_by_name(
    grants: &OutboundGrants,
    resolved: &Mutex<Resolved>,
    scheme: Scheme,
    address: SocketAddr,
) -> bool {
    let (ip, port) = (address.ip().to_canonical(), address.port());
    grants.names(scheme, port).any(|name| {
        let found = lock(resolved).get(name).filter(|(when, _)| when.elapsed() < RESOLVED_TIME).cloned();
        let (_, addresses) = found.unwrap_or_else(|| {
            let looked_up = (name, port).to_socket_addrs();
            let addresses = looked_up.map(|found| found.map(|address| address.ip().to_canonical()).collect());
            let found = (Instant::now(), addresses.unwrap_or_default());
            lock(resolved).insert(name.to_owned(), found.clone());
            found
        });
        addresses.contains(&ip) && grants.allow_address(scheme, name, ip, port)
    })
}

fn lock(resolved: &Mutex<Resolved>) -> MutexGuard<'_, Resolved> {
    resolved.lock().unwrap_or_else(PoisonError::into_inner)
}
