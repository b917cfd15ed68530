//! `bearer`: a token (RFC 6750), fixed or signed (RFC 7519).
//!
//! Which algorithm a token may be signed by is for its key to say, and not for the token: a public key never serves as a secret.
//! Keys are looked at again every second that somebody asks, so a file of new ones needs no release; one that cannot be read
//! leaves those that there were.

use super::{Hashed, credentials};
use crate::platform::FileStamp;
use arc_swap::ArcSwap;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use subtle::Choice;

/// The most bytes of a file of keys, and the most keys: a token that names none is held against each.
const FILE_BYTES_MAX: u64 = 1 << 20;
const KEYS_MAX: usize = 64;
/// The bytes of a public key of Ed25519 (RFC 8032, 5.1.5).
const ED25519_BYTES: usize = 32;
/// How often a file of keys is looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// Which tokens are accepted.
pub struct Bearer {
    realm: String,
    accepts: Accepts,
    strip: bool,
}

enum Accepts {
    Fixed(Vec<Hashed>),
    Signed(Arc<KeyFile>),
}

/// Why a token was not accepted: what its client is told.
#[derive(Debug, Clone, Copy)]
enum Refusal {
    /// There was none.
    None,
    /// It is not the right one.
    Invalid(&'static str),
}

impl Bearer {
    /// Accepts these tokens.
    pub fn fixed(realm: &str, tokens: &[String], strip: bool) -> Self {
        let tokens = tokens.iter().map(|token| Hashed::of(token.as_bytes())).collect();
        Self { realm: realm.to_owned(), accepts: Accepts::Fixed(tokens), strip }
    }

    /// Accepts what was signed by one of these keys.
    pub fn signed(realm: &str, keys: Arc<KeyFile>, strip: bool) -> Self {
        Self { realm: realm.to_owned(), accepts: Accepts::Signed(keys), strip }
    }

    /// Who asks, where a token says so; or what would do.
    pub(super) fn check(&self, headers: &mut HeaderMap) -> Result<Option<HeaderValue>, HeaderValue> {
        let subject = match credentials(headers, "bearer") {
            None => Err(Refusal::None),
            Some(token) => match &self.accepts {
                Accepts::Fixed(tokens) => {
                    let given = Hashed::of(token);
                    // All of them are looked at, so that the time says nothing of which it was.
                    let found = tokens.iter().fold(Choice::from(0), |found, token| found | token.is(&given));
                    if bool::from(found) { Ok(None) } else { Err(Refusal::Invalid("it is not known")) }
                }
                Accepts::Signed(keys) => keys.subject_of(token),
            },
        };
        let subject = subject.map_err(|refusal| self.challenge(refusal))?;
        if self.strip {
            headers.remove(AUTHORIZATION);
        }
        // One that no header can carry is nobody's name.
        Ok(subject.and_then(|subject| HeaderValue::from_bytes(subject.as_bytes()).ok()))
    }

    /// RFC 6750, 3: whoever sent no token is told of no error.
    fn challenge(&self, refusal: Refusal) -> HeaderValue {
        let text = match refusal {
            Refusal::None => format!("Bearer realm=\"{}\"", self.realm),
            Refusal::Invalid(why) => {
                let realm = &self.realm;
                format!("Bearer realm=\"{realm}\", error=\"invalid_token\", error_description=\"{why}\"")
            }
        };
        HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("Bearer"))
    }
}

/// Why a file of keys cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// It cannot be read.
    #[error("{0}")]
    Unreadable(#[from] std::io::Error),
    /// It is no JWK Set.
    #[error("it is no JWK Set (RFC 7517, 5): {0}")]
    NoSet(serde_json::Error),
    /// It has too much in it.
    #[error("it has more than {KEYS_MAX} keys")]
    TooMany,
    /// It has nothing that could be used.
    #[error("it has no key for signatures by an algorithm that is allowed")]
    NoKey,
}

/// A file of keys, and what tokens have to say beside being signed by one of them.
pub struct KeyFile {
    path: PathBuf,
    issuer: Option<String>,
    audience: Option<String>,
    algorithms: Option<Vec<Algorithm>>,
    leeway: Duration,
    keys: ArcSwap<Keys>,
    began: Instant,
    /// Milliseconds from `began` to the last look at the file.
    looked_ms: AtomicU64,
}

#[derive(Default)]
struct Keys {
    stamp: Option<FileStamp>,
    keys: Vec<Key>,
}

struct Key {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

#[derive(serde::Deserialize)]
struct Claims {
    #[serde(default)]
    sub: Option<String>,
}

impl KeyFile {
    /// Reads the file at `path`. Names of algorithms were checked before.
    pub fn open(
        path: PathBuf,
        issuer: Option<String>,
        audience: Option<String>,
        algorithms: Option<&[String]>,
        leeway: Duration,
    ) -> Result<Arc<Self>, KeysError> {
        let algorithms = algorithms.map(|names| names.iter().filter_map(|name| name.parse().ok()).collect::<Vec<_>>());
        let keys = Keys::read(&path, algorithms.as_deref())?;
        Ok(Arc::new(Self {
            path,
            issuer,
            audience,
            algorithms,
            leeway,
            keys: ArcSwap::from_pointee(keys),
            began: Instant::now(),
            looked_ms: AtomicU64::new(0),
        }))
    }

    /// Whom a token is of, if it is good.
    fn subject_of(self: &Arc<Self>, token: &[u8]) -> Result<Option<String>, Refusal> {
        self.look_again();
        let header = jsonwebtoken::decode_header(token).map_err(|_| Refusal::Invalid("it is no signed token"))?;
        if header.crit.is_some() {
            // RFC 7515, 4.1.11: who does not understand what is there refuses.
            return Err(Refusal::Invalid("it has extensions that are not understood"));
        }
        let keys = self.keys.load();
        let fits = |key: &&Key| {
            let named = header.kid.is_none() || key.id == header.kid;
            named && key.algorithms.contains(&header.alg)
        };
        let mut refusal = Refusal::Invalid("no key fits it");
        for key in keys.keys.iter().filter(fits) {
            match jsonwebtoken::decode::<Claims>(token, &key.decoding, &self.validation(header.alg)) {
                Ok(token) => return Ok(token.claims.sub),
                Err(error) => refusal = Refusal::Invalid(told(error.kind())),
            }
        }
        Err(refusal)
    }

    fn validation(&self, algorithm: Algorithm) -> Validation {
        let mut validation = Validation::new(algorithm);
        validation.leeway = self.leeway.as_secs();
        validation.validate_nbf = true;
        let mut required = vec!["exp"];
        if let Some(issuer) = &self.issuer {
            validation.set_issuer(&[issuer]);
            required.push("iss");
        }
        // Without one, a token that is for somebody is refused: it is not known to be for this app (RFC 7519, 4.1.3).
        if let Some(audience) = &self.audience {
            validation.set_audience(&[audience]);
            required.push("aud");
        }
        validation.set_required_spec_claims(&required);
        validation
    }

    /// Has the file read again, aside, if it is time and it has changed.
    fn look_again(self: &Arc<Self>) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let looked = self.looked_ms.load(Ordering::Relaxed);
        let is_due = Duration::from_millis(now.saturating_sub(looked)) >= LOOK_INTERVAL;
        // One of those who come at once looks.
        if !is_due || self.looked_ms.compare_exchange(looked, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            return;
        }
        let keys = Arc::clone(self);
        drop(tokio::task::spawn_blocking(move || keys.read_again()));
    }

    fn read_again(&self) {
        let stamp = std::fs::metadata(&self.path).ok().and_then(|metadata| FileStamp::of(&metadata));
        let before = self.keys.load_full();
        if stamp == before.stamp {
            return;
        }
        let file = self.path.display();
        match Keys::read(&self.path, self.algorithms.as_deref()) {
            Ok(keys) => {
                tracing::info!(%file, keys = keys.keys.len(), "the keys of tokens have changed");
                self.keys.store(Arc::new(keys));
            }
            Err(error) => {
                tracing::warn!(%file, %error, "the keys of tokens cannot be read again; those that there were stay");
                // Once for each change.
                self.keys.store(Arc::new(Keys { stamp, keys: before.keys.clone() }));
            }
        }
    }
}

impl Clone for Key {
    fn clone(&self) -> Self {
        Self { id: self.id.clone(), algorithms: self.algorithms.clone(), decoding: self.decoding.clone() }
    }
}

impl Keys {
    fn read(path: &Path, allowed: Option<&[Algorithm]>) -> Result<Self, KeysError> {
        let file = std::fs::File::open(path)?;
        let stamp = FileStamp::of(&file.metadata()?);
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(std::io::Error::other(format!("it has more than {FILE_BYTES_MAX} bytes")).into());
        }
        let set: JwkSet = serde_json::from_slice(&text).map_err(KeysError::NoSet)?;
        if set.keys.len() > KEYS_MAX {
            return Err(KeysError::TooMany);
        }
        let keys: Vec<Key> = set.keys.iter().filter_map(|jwk| Key::of(jwk, allowed)).collect();
        if keys.is_empty() { Err(KeysError::NoKey) } else { Ok(Self { stamp, keys }) }
    }
}

impl Key {
    /// The key, if it is for signatures, and for some algorithm that is allowed.
    fn of(jwk: &Jwk, allowed: Option<&[Algorithm]>) -> Option<Self> {
        let for_signatures = !matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption));
        let own = jwk.common.key_algorithm.map(|algorithm| algorithm.to_string().parse::<Algorithm>().ok());
        let fits = |algorithm: &Algorithm| {
            own.is_none_or(|own| own == Some(*algorithm)) && allowed.is_none_or(|allowed| allowed.contains(algorithm))
        };
        let algorithms: Vec<Algorithm> = algorithms_of(jwk).iter().copied().filter(fits).collect();
        let first = *algorithms.first().filter(|_| for_signatures)?;
        let key = DecodingKey::from_jwk(jwk).ok()?;
        is_usable(&key, first).then(|| Self { id: jwk.common.key_id.clone(), algorithms, decoding: key })
    }
}

/// Whether a signature is held against this key at all. What the crate makes of one that is cut off or no point of its curve
/// shows only then.
fn is_usable(key: &DecodingKey, algorithm: Algorithm) -> bool {
    // The crate takes so many bytes of such a key without a look at how many there are.
    if algorithm == Algorithm::EdDSA && key.try_get_as_bytes().map_or(true, |bytes| bytes.len() != ED25519_BYTES) {
        return false;
    }
    let header = BASE64_URL_SAFE_NO_PAD.encode(format!("{{\"alg\":\"{algorithm:?}\"}}"));
    let tried = jsonwebtoken::decode::<Claims>(format!("{header}.e30.AAAA"), key, &Validation::new(algorithm));
    tried.is_err_and(|error| matches!(error.kind(), ErrorKind::InvalidSignature))
}

/// What a key of this kind can be used with.
fn algorithms_of(jwk: &Jwk) -> &'static [Algorithm] {
    use Algorithm::{ES256, ES384, EdDSA, HS256, HS384, HS512, PS256, PS384, PS512, RS256, RS384, RS512};
    match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &[RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => &[ES256],
            EllipticCurve::P384 => &[ES384],
            _ => &[],
        },
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[EdDSA],
        AlgorithmParameters::OctetKey(_) => &[HS256, HS384, HS512],
        // Of other curves, and of kinds that are not known.
        _ => &[],
    }
}

fn told(error: &ErrorKind) -> &'static str {
    match error {
        ErrorKind::ExpiredSignature => "it has expired",
        ErrorKind::ImmatureSignature => "it is not valid yet",
        ErrorKind::InvalidIssuer => "it is of another issuer",
        ErrorKind::InvalidAudience => "it is for somebody else",
        ErrorKind::InvalidSignature => "its signature is wrong",
        ErrorKind::MissingRequiredClaim(_) => "a claim is missing",
        // The crate may come to have more.
        _ => "it is malformed",
    }
}
