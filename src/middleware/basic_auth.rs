//! `basic-auth`: a user and a password (RFC 7617).

use super::{Hashed, credentials};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use subtle::{Choice, ConditionallySelectable as _};

/// Who may come in.
pub struct BasicAuth {
    challenge: HeaderValue,
    /// Each with what `name:password` comes to.
    users: Vec<(HeaderValue, Hashed)>,
    strip: bool,
}

impl BasicAuth {
    /// Lets in `users`, each of whom has a password. `realm` was checked to be plain text.
    pub fn new(realm: &str, users: &[(String, String)], strip: bool) -> Self {
        let challenge = format!("Basic realm=\"{realm}\", charset=\"UTF-8\"");
        let hashed = |(name, password): &(String, String)| {
            let name_value = HeaderValue::from_bytes(name.as_bytes()).unwrap_or(HeaderValue::from_static(""));
            (name_value, Hashed::of(format!("{name}:{password}").as_bytes()))
        };
        Self {
            challenge: HeaderValue::from_str(&challenge).unwrap_or(HeaderValue::from_static("Basic realm=\"\"")),
            users: users.iter().map(hashed).collect(),
            strip,
        }
    }

    /// Who asks, or what would do. How long it takes says nothing of how near a password came, nor of which user there is.
    pub(super) fn check(&self, headers: &mut HeaderMap) -> Result<Option<HeaderValue>, HeaderValue> {
        let decoded = credentials(headers, "basic").and_then(|encoded| BASE64_STANDARD.decode(encoded).ok());
        let given = Hashed::of(decoded.as_deref().unwrap_or_default());
        let mut found = u32::MAX;
        for (at, (_, user)) in (0..).zip(&self.users) {
            found.conditional_assign(&at, user.is(&given) & Choice::from(u8::from(decoded.is_some())));
        }
        let user = usize::try_from(found).ok().and_then(|at| self.users.get(at));
        let (name, _) = user.ok_or_else(|| self.challenge.clone())?;
        if self.strip {
            headers.remove(AUTHORIZATION);
        }
        Ok(Some(name.clone()))
    }
}
