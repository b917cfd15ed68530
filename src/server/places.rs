//! Places for connections: so many in all, and so many for each client.

use crate::network;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// The places that clients have.
#[derive(Debug)]
pub(super) struct Places {
    per_client: u32,
    taken: Mutex<HashMap<IpAddr, u32>>,
}

/// A place that a client has, until this is dropped.
#[derive(Debug)]
pub(super) struct Place {
    places: Arc<Places>,
    client: IpAddr,
}

impl Places {
    pub(super) fn new(per_client: u32) -> Arc<Self> {
        Arc::new(Self { per_client, taken: Mutex::default() })
    }

    /// A place for a connection from `address`; nothing, if its client has all it may have.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Place> {
        let client = network::client_of(address);
        let mut taken = self.locked();
        let count = taken.entry(client).or_default();
        if *count >= self.per_client {
            return None;
        }
        *count += 1;
        Some(Place { places: Arc::clone(self), client })
    }

    fn locked(&self) -> MutexGuard<'_, HashMap<IpAddr, u32>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Entry::Occupied(mut count) = self.places.locked().entry(self.client) {
            *count.get_mut() -= 1;
            // Addresses that left are not remembered: there are more of them than memory.
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_has_so_many_and_those_that_left_are_forgotten() {
        let places = Places::new(2);
        let [one, other]: [IpAddr; 2] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        let first = places.take(one).unwrap();
        let second = places.take(one).unwrap();
        assert!(places.take(one).is_none());
        let others = places.take(other).unwrap();
        drop(first);
        let third = places.take(one).unwrap();
        drop((second, third, others));
        assert!(places.locked().is_empty());
    }
}
