//! Databases that a function opens by their address, where its `outbound` grants that.
//!
//! **Invariant:** a function has at most [`POOLS_MAX`] of such pools, each of [`POOL_SIZE`] connections; one that no session
//! uses makes place for another.

use super::address::{self, Address};
use super::{Pool, PostgresError};
use crate::grants::OutboundGrants;
use rustls::pki_types::CertificateDer;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use tokio_postgres::Config;

/// The most databases that a function uses by address at once.
const POOLS_MAX: usize = 8;
/// Connections to each.
const POOL_SIZE: u32 = 4;

/// The pools of one function's addresses.
pub struct AddressPools {
    grants: Arc<OutboundGrants>,
    /// The one that was opened last is the last.
    open: Mutex<Vec<Entry>>,
}

struct Entry {
    config: Config,
    trusted: Vec<CertificateDer<'static>>,
    pool: Arc<Pool>,
}

impl AddressPools {
    /// For a function with these grants.
    pub fn new(grants: Arc<OutboundGrants>) -> Self {
        Self { grants, open: Mutex::default() }
    }

    /// The pool for an address, with the PEM texts of those whom the guest trusts besides the usual ones. Nothing is connected
    /// to yet.
    pub fn open(&self, address: &str, trusted: &[String]) -> Result<Arc<Pool>, PostgresError> {
        let config = address::read(address)?;
        let trusted: Result<Vec<_>, _> = trusted.iter().map(|pem| address::read_roots(pem.as_bytes())).collect();
        let trusted = trusted.map_err(PostgresError::Address)?.concat();
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = open.iter().position(|entry| entry.config == config && entry.trusted == trusted) {
            let entry = open.remove(at);
            let pool = Arc::clone(&entry.pool);
            open.push(entry);
            return Ok(pool);
        }
        let address = Address::of_guest(config.clone(), &trusted, &self.grants)?;
        if open.len() >= POOLS_MAX {
            let unused = open.iter().position(|entry| Arc::strong_count(&entry.pool) == 1);
            open.remove(unused.ok_or(PostgresError::TooManyPools)?);
        }
        let pool = Arc::new(Pool::of(address, POOL_SIZE));
        open.push(Entry { config, trusted, pool: Arc::clone(&pool) });
        Ok(pool)
    }

    /// Whether a text has certificates in it.
    pub fn check_trusted(pem: &str) -> Result<(), String> {
        address::read_roots(pem.as_bytes()).map(|_| ())
    }
}

impl fmt::Debug for AddressPools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AddressPools").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grants::OutboundGrant;

    #[test]
    fn a_function_has_few_pools_and_those_in_use_stay() {
        let grants = OutboundGrants::new(vec![OutboundGrant::parse("postgres://127.0.0.1:*").unwrap()]);
        let pools = AddressPools::new(Arc::new(grants));
        let address = |number: usize| format!("postgres://u:secret@127.0.0.1/db{number}");
        let first = pools.open(&address(0), &[]).unwrap();
        assert!(Arc::ptr_eq(&first, &pools.open(&address(0), &[]).unwrap()));
        for number in 1..20 {
            pools.open(&address(number), &[]).unwrap();
        }
        assert!(Arc::ptr_eq(&first, &pools.open(&address(0), &[]).unwrap()));
        let used: Vec<_> = (1..POOLS_MAX).map(|number| pools.open(&address(number), &[]).unwrap()).collect();
        assert_eq!(pools.open(&address(99), &[]).unwrap_err(), PostgresError::TooManyPools);
        drop(used);
        assert!(pools.open(&address(99), &[]).is_ok());
        assert!(pools.open("postgres://u@127.0.0.2/d", &[]).is_err());
        assert!(!format!("{pools:?} {first:?}").contains("secret"));
    }
}
