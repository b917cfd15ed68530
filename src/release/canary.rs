//! A canary: a release that answers a part of an app's requests, beside the live one, on trial.
//!
//! Owns the lot that decides which of the two answers, and the figures by which a canary ends by itself. **Invariant:** where
//! clients are told apart, the same client draws the same lot for as long as the canary lasts, also after a restart; and a
//! larger share takes clients from the live release only.

use super::Release;
use crate::limits::{Share, show_duration};
use crate::manifest::{RollbackWhen, Sticky};
use crate::receipt::Receipt;
use hdrhistogram::Histogram;
use http::header::{COOKIE, HeaderMap, HeaderValue, SET_COOKIE};
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The cookie by which clients are told apart. It says which lot they draw, and nothing of who they are.
const COOKIE_NAME: &str = "fnhost-client";
/// How long a client keeps it, in seconds: thirty days.
const COOKIE_SECONDS: u32 = 30 * 24 * 3600;
/// Into how many pieces a window is cut; it moves on by one of them.
const PIECES: u32 = 20;
/// 2^32 by the golden ratio.
const GOLDEN_STEP: u32 = 0x9E37_79B9;

/// A release on trial.
pub struct Canary {
    /// The release.
    pub release: Arc<Release>,
    /// Its part of the requests.
    pub share: Share,
    /// What would end it by itself.
    pub watch: Option<Watch>,
    secret: String,
    /// Goes on with each request that is decided by itself.
    lots: AtomicU32,
}

/// Which release answers a request.
#[derive(Debug, PartialEq, Eq)]
pub struct Lot {
    /// The canary, and not the live one.
    pub canary: bool,
    /// What the client is given, so that it draws the same lot again.
    pub cookie: Option<HeaderValue>,
}

impl Canary {
    /// `release` on trial for `share` of the requests. Who knows the `secret` can tell which clients it meets.
    pub fn new(release: Arc<Release>, share: Share, secret: &str) -> Self {
        let watch = release.config.rollback_when.clone().map(Watch::new);
        Self { release, share, watch, secret: secret.to_owned(), lots: AtomicU32::new(fastrand::u32(..)) }
    }

    /// Draws for one request.
    pub fn draw(&self, headers: &HeaderMap) -> Lot {
        match &self.release.config.sticky {
            Sticky::No => {
                // Steps of the golden ratio fall evenly at each share, without a pattern of its own.
                let lot = u64::from(self.lots.fetch_add(GOLDEN_STEP, Ordering::Relaxed));
                let canary = (lot * u64::from(Share::PARTS)) >> 32 < u64::from(self.share.parts());
                Lot { canary, cookie: None }
            }
            Sticky::Header(name) => {
                let canary = headers.get(name).is_some_and(|value| self.is_drawn_by(value.as_bytes()));
                Lot { canary, cookie: None }
            }
            Sticky::Cookie => {
                if let Some(client) = client_of(headers) {
                    return Lot { canary: self.is_drawn_by(client.as_bytes()), cookie: None };
                }
                let client = format!("{:032x}", fastrand::u128(..));
                let attributes = format!("Path=/; Max-Age={COOKIE_SECONDS}; HttpOnly; SameSite=Lax");
                let cookie = HeaderValue::from_str(&format!("{COOKIE_NAME}={client}; {attributes}")).ok();
                Lot { canary: self.is_drawn_by(client.as_bytes()), cookie }
            }
        }
    }

    fn is_drawn_by(&self, client: &[u8]) -> bool {
        let hasher = Sha256::new().chain_update(&self.secret).chain_update(self.release.app.as_str());
        let digest = hasher.chain_update(self.release.number.to_be_bytes()).chain_update(client).finalize();
        let drawn = digest.iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        drawn % u64::from(Share::PARTS) < u64::from(self.share.parts())
    }
}

/// Takes the host's own cookie out of what a guest answers: only the host gives it.
pub fn strip_cookie(headers: &mut HeaderMap) {
    let is_own = |value: &HeaderValue| {
        let name = value.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default();
        name.trim_ascii() == COOKIE_NAME.as_bytes()
    };
    if !headers.get_all(SET_COOKIE).iter().any(is_own) {
        return;
    }
    let others: Vec<HeaderValue> = headers.get_all(SET_COOKIE).iter().filter(|value| !is_own(value)).cloned().collect();
    headers.remove(SET_COOKIE);
    for cookie in others {
        headers.append(SET_COOKIE, cookie);
    }
}

/// What the cookie says, if it was given by a host like this one.
fn client_of(headers: &HeaderMap) -> Option<&str> {
    let values = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let (_, client) = pairs.find(|(name, _)| *name == COOKIE_NAME)?;
    (client.len() == 32 && client.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(client)
}

/// The figures of a canary and of the live release beside it, over the same window.
pub struct Watch {
    when: RollbackWhen,
    /// Of the live release.
    pub live: Arc<Figures>,
    /// Of the canary.
    pub canary: Arc<Figures>,
}

impl Watch {
    fn new(when: RollbackWhen) -> Self {
        let figures = || Arc::new(Figures::new(when.window));
        Self { live: figures(), canary: figures(), when }
    }

    /// Why the canary should end, if it should: it is worse than it may be, and the live release is not.
    pub fn verdict(&self) -> Option<String> {
        let (canary, live) = (self.canary.read(), self.live.read());
        let RollbackWhen { errors, handler_p99, window, requests } = &self.when;
        if canary.requests < u64::from(*requests) {
            return None;
        }
        let of = format!("of {} requests in {}", canary.requests, show_duration(*window));
        if let Some(most) = errors
            && canary.error_share() > live.error_share() + f64::from(most.parts()) / f64::from(Share::PARTS)
        {
            let (ours, theirs) = (canary.error_share() * 100.0, live.error_share() * 100.0);
            return Some(format!(
                "{ours:.1}% {of} failed; of the live release's {theirs:.1}%, and {most} more are allowed"
            ));
        }
        if let Some(most) = handler_p99
            && canary.handler_p99 > *most
            && live.handler_p99 <= *most
        {
            let (ours, theirs) = (canary.handler_p99.as_millis(), live.handler_p99.as_millis());
            let most = show_duration(*most);
            return Some(format!(
                "the handler's p99 {of} was {ours}ms; the live release's was {theirs}ms, and {most} are allowed"
            ));
        }
        None
    }
}

/// What one release did over a window that moves.
pub struct Figures {
    piece: Duration,
    began: Instant,
    pieces: Mutex<VecDeque<Piece>>,
}

struct Piece {
    number: u128,
    requests: u64,
    errors: u64,
    /// Nanoseconds.
    handler: Option<Histogram<u64>>,
}

/// What it came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Reading {
    requests: u64,
    errors: u64,
    handler_p99: Duration,
}

impl Reading {
    #[expect(clippy::cast_precision_loss, reason = "a share of counts far below 2^53")]
    fn error_share(&self) -> f64 {
        if self.requests == 0 { 0.0 } else { self.errors as f64 / self.requests as f64 }
    }
}

impl Figures {
    fn new(window: Duration) -> Self {
        let piece = (window / PIECES).max(Duration::from_millis(1));
        Self { piece, began: Instant::now(), pieces: Mutex::default() }
    }

    /// Adds a request, if it was answered: its client may have been gone before.
    pub fn add(&self, receipt: &Receipt) {
        if receipt.status != 0 {
            self.add_at(self.began.elapsed(), receipt.is_error(), receipt.phases.handler);
        }
    }

    fn add_at(&self, at: Duration, is_error: bool, handler: Duration) {
        let number = at.as_nanos() / self.piece.as_nanos();
        let mut pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        if pieces.back().is_none_or(|piece| piece.number < number) {
            pieces.push_back(Piece { number, requests: 0, errors: 0, handler: Histogram::new(2).ok() });
            while pieces.front().is_some_and(|piece| piece.number + u128::from(PIECES) < number) {
                pieces.pop_front();
            }
        }
        if let Some(piece) = pieces.back_mut() {
            piece.requests += 1;
            piece.errors += u64::from(is_error);
            if let Some(histogram) = &mut piece.handler {
                let _ = histogram.record(u64::try_from(handler.as_nanos()).unwrap_or(u64::MAX));
            }
        }
    }

    fn read(&self) -> Reading {
        self.read_at(self.began.elapsed())
    }

    fn read_at(&self, at: Duration) -> Reading {
        let number = at.as_nanos() / self.piece.as_nanos();
        let pieces = self.pieces.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reading = Reading::default();
        let Ok(mut handler) = Histogram::<u64>::new(2) else { return reading };
        for piece in pieces.iter().filter(|piece| piece.number + u128::from(PIECES) > number) {
            reading.requests += piece.requests;
            reading.errors += piece.errors;
            if let Some(histogram) = &piece.handler {
                let _ = handler.add(histogram);
            }
        }
        reading.handler_p99 = Duration::from_nanos(handler.value_at_quantile(0.99));
        reading
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::{Outcome, Phases};

    const SECOND: Duration = Duration::from_secs(1);

    fn watch(errors: Option<&str>, handler_p99: Option<Duration>) -> Watch {
        let errors = errors.map(|text| crate::limits::parse_share(text).unwrap());
        Watch::new(RollbackWhen { errors, handler_p99, window: 60 * SECOND, requests: 10 })
    }

    fn add(figures: &Figures, count: u32, status: u16, millis: u64) {
        for _ in 0..count {
            let phases = Phases { handler: Duration::from_millis(millis), ..Phases::default() };
            figures.add(&Receipt { status, phases, ..Receipt::sample() });
        }
    }

    #[test]
    fn a_canary_that_errs_more_than_the_live_release_may_is_ended() {
        let watch = watch(Some("2%"), None);
        add(&watch.canary, 9, 500, 1);
        assert_eq!(watch.verdict(), None, "too few requests to tell");
        add(&watch.canary, 1, 500, 1);
        assert!(watch.verdict().unwrap().starts_with("100.0% of 10 requests in 1m failed"), "{:?}", watch.verdict());
        // The live release has the same trouble: it is not the canary's.
        add(&watch.live, 10, 502, 1);
        assert_eq!(watch.verdict(), None);
    }

    #[test]
    fn a_slow_canary_is_ended_unless_all_is_slow() {
        let watch = watch(None, Some(Duration::from_millis(100)));
        add(&watch.canary, 20, 200, 300);
        add(&watch.live, 20, 200, 10);
        assert!(watch.verdict().unwrap().contains("p99"), "{:?}", watch.verdict());
        add(&watch.live, 20, 200, 300);
        assert_eq!(watch.verdict(), None);
    }

    #[test]
    fn a_guest_gives_nobody_the_host_s_cookie() {
        let mut headers = HeaderMap::new();
        for cookie in ["a=b", "fnhost-client=0; Path=/", "fnhost-client2=1", " fnhost-client =2"] {
            headers.append(SET_COOKIE, HeaderValue::from_str(cookie).unwrap());
        }
        strip_cookie(&mut headers);
        assert_eq!(headers.get_all(SET_COOKIE).iter().collect::<Vec<_>>(), ["a=b", "fnhost-client2=1"]);
    }

    #[test]
    fn a_window_moves_on() {
        let figures = Figures::new(20 * SECOND);
        figures.add_at(SECOND, true, SECOND);
        figures.add_at(15 * SECOND, false, SECOND);
        assert_eq!(figures.read_at(19 * SECOND).requests, 2);
        assert_eq!((figures.read_at(30 * SECOND).requests, figures.read_at(30 * SECOND).errors), (1, 0));
        assert_eq!(figures.read_at(90 * SECOND).requests, 0);
    }

    #[test]
    fn what_breaks_off_behind_its_head_is_an_error_and_a_client_that_left_is_no_answer() {
        let figures = Figures::new(20 * SECOND);
        figures.add(&Receipt { outcome: Outcome::Trap, ..Receipt::sample() });
        figures.add(&Receipt { outcome: Outcome::ClientGone, status: 0, ..Receipt::sample() });
        assert_eq!((figures.read().requests, figures.read().errors), (1, 1));
    }

    #[test]
    fn only_the_host_s_own_cookie_is_believed() {
        let headers = |value: &str| HeaderMap::from_iter([(COOKIE, HeaderValue::from_str(value).unwrap())]);
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(client_of(&headers(&format!("a=b; fnhost-client={id}; c=d"))), Some(id));
        for bad in ["fnhost-client=1", "x=fnhost-client", "", &format!("fnhost-client2={id}")] {
            assert_eq!(client_of(&headers(bad)), None, "{bad}");
        }
    }
}
