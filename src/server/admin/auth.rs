//! The bearer token (RFC 6750) that the admin API asks for.
//!
//! Made at the first start and kept in the state folder, for its owner alone; or told in the environment. **Invariant:** it
//! is compared in a time that does not depend on how much of it was guessed, and never logged.

use crate::platform;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use std::io;
use std::path::Path;
use subtle::ConstantTimeEq as _;

/// The file of the state folder that has it.
pub const TOKEN_FILE: &str = "admin-token";
/// The variable that stands in for the file.
pub const TOKEN_VARIABLE: &str = "FNHOST_ADMIN_TOKEN";
/// The least that a token may have: what is shorter can be guessed.
const BYTES_MIN: usize = 16;

/// A secret.
pub struct Token(String);

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// What was given is no secret.
    #[error("the admin token in {0} has to be {BYTES_MIN} visible ASCII characters or more")]
    Weak(String),
    /// The file cannot be read or written.
    #[error("the admin token {file} cannot be kept: {cause}")]
    File {
        /// The file.
        file: String,
        /// What the system says.
        cause: io::Error,
    },
}

impl Token {
    /// That of the environment, or else of the state folder, where it is made if it is not there.
    pub fn open(state: &Path) -> Result<Self, TokenError> {
        if let Ok(token) = std::env::var(TOKEN_VARIABLE) {
            return Self::checked(token, TOKEN_VARIABLE);
        }
        let file = state.join(TOKEN_FILE);
        let failed = |cause| TokenError::File { file: file.display().to_string(), cause };
        match std::fs::read_to_string(&file) {
            Ok(token) => return Self::checked(token.trim().to_owned(), &file.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
        let token = platform::random_hex().map_err(failed)?;
        platform::write_privately(&file, format!("{token}\n").as_bytes()).map_err(failed)?;
        Ok(Self(token))
    }

    fn checked(token: String, place: &str) -> Result<Self, TokenError> {
        let strong = token.len() >= BYTES_MIN && token.bytes().all(|byte| byte.is_ascii_graphic());
        if strong { Ok(Self(token)) } else { Err(TokenError::Weak(place.to_owned())) }
    }

    /// Whether a request has it.
    pub(super) fn is_in(&self, headers: &HeaderMap) -> bool {
        let value = headers.get(AUTHORIZATION).map(http::HeaderValue::as_bytes).unwrap_or_default();
        let Some((scheme, given)) = value.split_at_checked("Bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(given.ct_eq(self.0.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    fn headers(value: &str) -> HeaderMap {
        HeaderMap::from_iter([(AUTHORIZATION, HeaderValue::from_str(value).unwrap())])
    }

    #[test]
    fn a_request_needs_all_of_the_token() {
        let token = Token("0123456789abcdef".to_owned());
        for good in ["Bearer 0123456789abcdef", "bearer 0123456789abcdef"] {
            assert!(token.is_in(&headers(good)), "{good}");
        }
        for bad in
            ["", "Bearer", "Bearer ", "Bearer 0123456789abcde", "Bearer 0123456789abcdef0", "Basic 0123456789abcdef"]
        {
            assert!(!token.is_in(&headers(bad)), "{bad}");
        }
        assert!(!token.is_in(&HeaderMap::new()));
    }

    #[test]
    fn a_token_is_made_once_and_closed_to_others() {
        let state = tempfile::tempdir().unwrap();
        let made = Token::open(state.path()).unwrap();
        assert_eq!(made.0.len(), 64);
        assert_eq!(Token::open(state.path()).unwrap().0, made.0);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt as _;
            let mode = std::fs::metadata(state.path().join(TOKEN_FILE)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[test]
    fn a_weak_token_is_refused() {
        let state = tempfile::tempdir().unwrap();
        for weak in ["", "short\n", "with a space inside it"] {
            std::fs::write(state.path().join(TOKEN_FILE), weak).unwrap();
            assert!(matches!(Token::open(state.path()), Err(TokenError::Weak(_))), "{weak}");
        }
    }
}
