//! `rate-limit`: only so many requests, for each client, route or value of a header.
//!
//! The rule is GCRA, by the crate `governor`: after a burst, requests come at even distances. **Invariant:** what is kept does
//! not grow with the number of clients: keys are hashed, there is a bound of them, and a key beyond that shares the
//! allowance of all those beyond it.

use super::Asked;
use crate::manifest::middleware::{RateLimitKey, RateLimitSpec};
use crate::names::Name;
use governor::clock::{Clock as _, MonotonicClock};
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::{Quota, RateLimiter};
use http::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// Parts of the keys that have a lock each, and how many keys a part has: some 100 bytes each, ten MiB in all.
const SHARDS: usize = 32;
const SHARD_KEYS_MAX: usize = 4096;
/// How long after it was looked through for what is over a full part is not looked through again.
const SWEEP_NANOS: u64 = 100_000_000;

/// Only so many requests.
pub struct RateLimit {
    name: String,
    by: RateLimitKey,
    policy: HeaderValue,
    limiter: RateLimiter<u128, Keys, MonotonicClock, StateInformationMiddleware>,
    /// Nobody outside can find keys that come to the same.
    hashers: (RandomState, RandomState),
    period: Duration,
}

/// What a client may still do, as it is told (draft-ietf-httpapi-ratelimit-headers).
pub(super) struct Allowance {
    policy: HeaderValue,
    limit: HeaderValue,
    /// Seconds until there is another request to be had; nothing, if there are some.
    retry_seconds: Option<u64>,
}

impl RateLimit {
    /// As functions.toml has it, under its name there.
    pub fn new(name: &Name, spec: &RateLimitSpec) -> Self {
        let burst = NonZeroU32::new(spec.burst).unwrap_or(NonZeroU32::MIN);
        let period = (spec.per / spec.requests.max(1)).max(Duration::from_nanos(1));
        // The period is not zero, which is all that could be wrong.
        let quota = Quota::with_period(period).unwrap_or_else(|| Quota::per_second(NonZeroU32::MIN)).allow_burst(burst);
        // A window of whole seconds is told; of another, the number alone.
        let window = if spec.per.subsec_nanos() == 0 { format!(";w={}", spec.per.as_secs()) } else { String::new() };
        let policy = format!("\"{name}\";q={}{window}", spec.requests);
        Self {
            name: name.to_string(),
            by: spec.by.clone(),
            policy: HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("")),
            limiter: RateLimiter::<_, _, _, StateInformationMiddleware>::new(quota, Keys::new(period), MonotonicClock),
            hashers: (RandomState::new(), RandomState::new()),
            period,
        }
    }

    /// Counts a request, if it is within the limit.
    pub(super) fn check(&self, headers: &HeaderMap, asked: Asked<'_>) -> Result<Allowance, Allowance> {
        match self.limiter.check_key(&self.key(headers, asked)) {
            Ok(state) => {
                let left = state.remaining_burst_capacity();
                Ok(self.allowance(left, self.period, None))
            }
            Err(not_until) => {
                let wait = not_until.wait_time_from(self.limiter.clock().now());
                let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
                Err(self.allowance(0, wait, Some(seconds.max(1))))
            }
        }
    }

    fn key(&self, headers: &HeaderMap, asked: Asked<'_>) -> u128 {
        match &self.by {
            RateLimitKey::Client => match asked.client.to_canonical() {
                IpAddr::V4(address) => address.to_bits().into(),
                // Whoever has one address of such a network has them all (RFC 6177).
                IpAddr::V6(address) => address.to_bits() >> 64 << 64,
            },
            RateLimitKey::Route => self.hash(asked.route.as_bytes()),
            RateLimitKey::Header(name) => headers.get(name).map_or(0, |value| self.hash(value.as_bytes())),
        }
    }

    fn hash(&self, bytes: &[u8]) -> u128 {
        u128::from(self.hashers.0.hash_one(bytes)) << 64 | u128::from(self.hashers.1.hash_one(bytes))
    }

    fn allowance(&self, left: u32, reset: Duration, retry_seconds: Option<u64>) -> Allowance {
        let reset = reset.as_secs() + u64::from(reset.subsec_nanos() > 0);
        let limit = format!("\"{}\";r={left};t={reset}", self.name);
        let limit = HeaderValue::from_str(&limit).unwrap_or(HeaderValue::from_static(""));
        Allowance { policy: self.policy.clone(), limit, retry_seconds }
    }
}

impl Allowance {
    /// Writes it into an answer. There may be several.
    pub(super) fn tell(&self, headers: &mut HeaderMap) {
        headers.append(POLICY, self.policy.clone());
        headers.append(LIMIT, self.limit.clone());
    }

    /// The same into the answer of a request that is not within it.
    pub(super) fn refuse(&self, headers: &mut HeaderMap) {
        self.tell(headers);
        if let Some(seconds) = self.retry_seconds {
            headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
    }
}

/// For each key, when what it has had would be used up at an even pace: nanoseconds of the limiter's clock.
struct Keys {
    shards: Vec<Mutex<Shard>>,
    hasher: RandomState,
    period: u64,
}

#[derive(Default)]
struct Shard {
    keys: HashMap<u128, Nanos>,
    /// Of the keys for which there was no room.
    beyond: Option<Nanos>,
    swept: u64,
}

impl Keys {
    fn new(period: Duration) -> Self {
        let shards = (0..SHARDS).map(|_| Mutex::default()).collect();
        Self { shards, hasher: RandomState::new(), period: Nanos::from(period).as_u64() }
    }

    fn measure<T, E>(
        &self,
        shard: &mut Shard,
        key: u128,
        ask: impl Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    ) -> Result<T, E> {
        if let Some(known) = shard.keys.get_mut(&key) {
            let (answer, next) = ask(Some(*known))?;
            *known = next;
            return Ok(answer);
        }
        let (answer, next) = ask(None)?;
        if shard.keys.len() >= SHARD_KEYS_MAX {
            // A new key is let in, and its next is one period from now.
            let now = next.as_u64().saturating_sub(self.period);
            if now.saturating_sub(shard.swept) >= SWEEP_NANOS {
                shard.swept = now;
                // Those that have their whole allowance again are as good as new.
                shard.keys.retain(|_, next| next.as_u64() > now);
            }
            if shard.keys.len() >= SHARD_KEYS_MAX {
                let (answer, next) = ask(shard.beyond)?;
                shard.beyond = Some(next);
                return Ok(answer);
            }
        }
        shard.keys.insert(key, next);
        Ok(answer)
    }
}

impl StateStore for Keys {
    type Key = u128;

    fn measure_and_replace<T, F, E>(&self, key: &u128, ask: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let at = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or(0);
        match self.shards.get(at) {
            Some(shard) => self.measure(&mut shard.lock().unwrap_or_else(PoisonError::into_inner), *key, ask),
            // There is one for each remainder.
            None => ask(None).map(|(answer, _)| answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    fn limit(requests: u32, burst: u32, by: RateLimitKey) -> RateLimit {
        let spec = RateLimitSpec { requests, per: Duration::from_hours(1), burst, by };
        RateLimit::new(&Name::new("limit").unwrap(), &spec)
    }

    fn asked(client: IpAddr) -> Asked<'static> {
        Asked { client, route: "/", route_prefix_bytes: 0 }
    }

    fn admitted(limit: &RateLimit, clients: impl Iterator<Item = IpAddr>) -> usize {
        clients.filter(|client| limit.check(&HeaderMap::new(), asked(*client)).is_ok()).count()
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let limit = limit(1, 3, RateLimitKey::Client);
        let in_network =
            |network: u16| (0..10).map(move |last| Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, last));
        assert_eq!(admitted(&limit, in_network(1).map(IpAddr::V6)), 3);
        assert_eq!(admitted(&limit, in_network(2).map(IpAddr::V6)), 3);
        let mapped = Ipv4Addr::new(192, 0, 2, 1).to_ipv6_mapped();
        assert_eq!(admitted(&limit, [IpAddr::V6(mapped); 2].into_iter()), 2);
        assert_eq!(admitted(&limit, [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)); 2].into_iter()), 1);
    }

    #[test]
    fn many_at_once_get_no_more_than_one_would() {
        let spec = RateLimitSpec { requests: 1000, per: Duration::from_secs(1), burst: 100, by: RateLimitKey::Client };
        let limit = RateLimit::new(&Name::new("limit").unwrap(), &spec);
        let began = std::time::Instant::now();
        let client = || std::iter::repeat(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let hammer = || admitted(&limit, client().take_while(|_| began.elapsed() < Duration::from_millis(300)));
        let all: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(hammer)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        // The burst, and one for each millisecond. A machine that is busy may not ask in time for all of them.
        let most = 101 + usize::try_from(began.elapsed().as_millis()).unwrap();
        assert!((200..=most).contains(&all), "{all} of {most}");
    }

    #[test]
    fn more_clients_than_are_kept_share_what_is_left() {
        let limit = limit(1, 1, RateLimitKey::Client);
        let clients = || (0..300_000).map(|number: u32| IpAddr::V4(Ipv4Addr::from_bits(number)));
        let most = SHARDS * SHARD_KEYS_MAX;
        let first = admitted(&limit, clients());
        // Each part lets one more in, for all of those that it does not know.
        assert_eq!(first, most + SHARDS);
        assert_eq!(admitted(&limit, clients()), 0);
        let kept: usize =
            limit.limiter.into_state_store().shards.iter().map(|shard| shard.lock().unwrap().keys.len()).sum();
        assert_eq!(kept, most);
    }

    #[test]
    fn a_key_that_has_its_allowance_again_makes_room() {
        let spec = RateLimitSpec { requests: 1, per: Duration::from_micros(1), burst: 1, by: RateLimitKey::Client };
        let limit = RateLimit::new(&Name::new("limit").unwrap(), &spec);
        let clients = (0..300_000).map(|number: u32| IpAddr::V4(Ipv4Addr::from_bits(number)));
        admitted(&limit, clients);
        std::thread::sleep(Duration::from_nanos(SWEEP_NANOS));
        let more = (300_000..302_048).map(|number: u32| IpAddr::V4(Ipv4Addr::from_bits(number)));
        admitted(&limit, more);
        let kept: usize =
            limit.limiter.into_state_store().shards.iter().map(|shard| shard.lock().unwrap().keys.len()).sum();
        assert!(kept < SHARDS * SHARD_KEYS_MAX / 2, "{kept}");
    }
}
