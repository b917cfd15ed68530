//! What a route may say: `[METHOD ][host]/path`.
//!
//! Owns the reading of one pattern. Which of several patterns answers a request is decided in `release::routes`.

use std::fmt::{self, Write as _};

/// The most bytes and segments of a pattern: more is a mistake, and every request walks it.
const PATTERN_BYTES_MAX: usize = 2048;
const SEGMENTS_MAX: usize = 64;

/// One route, as functions.toml says it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutePattern {
    /// The method, if the route has one; any method otherwise.
    pub method: Option<String>,
    /// The host, if the route has one; any host otherwise.
    pub host: Option<HostPattern>,
    /// The path, cut at its slashes.
    pub segments: Vec<Segment>,
}

/// The host of a route.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum HostPattern {
    /// This name, in lower case.
    Exact(String),
    /// One label, and then this name: `*.example.com`.
    AnyLabelOf(String),
}

/// One segment of a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Segment {
    /// These bytes, as a request's target has them (percent-encoded where they are not plain ASCII).
    Static(String),
    /// One segment, not empty.
    Param(String),
    /// All that is left, zero segments included; always the last.
    Rest(String),
}

/// Why a text is no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// The method is no token in capitals.
    #[error("`{0}` is no method")]
    BadMethod(String),
    /// More than one space, or one in the path.
    #[error("a route is `[METHOD ][host]/path`, with one space at the most")]
    Spaces,
    /// No slash.
    #[error("a route needs a path, and a path begins with `/`")]
    NoPath,
    /// The host is no name.
    #[error("`{0}` is no host name; a route's host is a name or `*.` and a name, without a port")]
    BadHost(String),
    /// A query or a fragment.
    #[error("a route matches the path alone; `{0}` cannot stand in it")]
    Query(char),
    /// Two slashes in a row.
    #[error("an empty segment (`//`) can never be asked for on purpose")]
    EmptySegment,
    /// A brace where it means nothing.
    #[error("`{0}` is no segment; write a whole segment as `{{name}}`, or the last one as `{{*rest}}`")]
    BadBraces(String),
    /// A parameter's name that could not be part of a header's name.
    #[error("`{0}` is no parameter name; use letters, digits, `-` and `_`, beginning with a letter")]
    BadParam(String),
    /// Two parameters of one name.
    #[error("the parameter `{0}` stands twice in one route")]
    RepeatedParam(String),
    /// Something after the rest.
    #[error("`{{*{0}}}` takes all that is left, so nothing can follow it")]
    AfterRest(String),
    /// Beyond the bounds.
    #[error("a route has at most {PATTERN_BYTES_MAX} bytes and {SEGMENTS_MAX} segments")]
    TooLong,
}

impl RoutePattern {
    /// Reads one route.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text.len() > PATTERN_BYTES_MAX {
            return Err(PatternError::TooLong);
        }
        let (method, place) = match text.split_once(' ') {
            Some((method, place)) => (Some(parse_method(method)?), place),
            None => (None, text),
        };
        if place.contains(char::is_whitespace) {
            return Err(PatternError::Spaces);
        }
        let slash = place.find('/').ok_or(PatternError::NoPath)?;
        let (host, path) = place.split_at_checked(slash).ok_or(PatternError::NoPath)?;
        let host = if host.is_empty() { None } else { Some(HostPattern::parse(host)?) };
        Ok(Self { method, host, segments: parse_path(path)? })
    }

    /// The names of its parameters, in their order.
    pub fn params(&self) -> impl Iterator<Item = &str> {
        self.segments.iter().filter_map(|segment| match segment {
            Segment::Static(_) => None,
            Segment::Param(name) | Segment::Rest(name) => Some(name.as_str()),
        })
    }

    /// A text that two patterns share if, and only if, they match the same requests.
    pub fn claim(&self) -> String {
        let method = self.method.as_deref().unwrap_or_default();
        let host = self.host.as_ref().map(ToString::to_string).unwrap_or_default();
        self.segments.iter().fold(format!("{method} {host}"), |claim, segment| match segment {
            Segment::Static(text) => claim + "/" + text,
            Segment::Param(_) => claim + "/{}",
            Segment::Rest(_) => claim + "/{*}",
        })
    }

    /// The path as it was written, percent-encoding apart.
    pub fn path(&self) -> String {
        self.segments.iter().fold(String::new(), |path, segment| match segment {
            Segment::Static(text) => path + "/" + text,
            Segment::Param(name) => path + "/{" + name + "}",
            Segment::Rest(name) => path + "/{*" + name + "}",
        })
    }
}

fn parse_method(method: &str) -> Result<String, PatternError> {
    if !method.is_empty() && method.len() <= 32 && method.bytes().all(|b| b.is_ascii_uppercase() || b == b'-') {
        Ok(method.to_owned())
    } else {
        Err(PatternError::BadMethod(method.to_owned()))
    }
}

impl HostPattern {
    fn parse(host: &str) -> Result<Self, PatternError> {
        let (any_label, name) = host.strip_prefix("*.").map_or((false, host), |name| (true, name));
        if !crate::grants::is_host_name(name) {
            return Err(PatternError::BadHost(host.to_owned()));
        }
        let name = name.to_ascii_lowercase();
        Ok(if any_label { Self::AnyLabelOf(name) } else { Self::Exact(name) })
    }
}

fn parse_path(path: &str) -> Result<Vec<Segment>, PatternError> {
    if let Some(mark) = path.chars().find(|c| matches!(c, '?' | '#')) {
        return Err(PatternError::Query(mark));
    }
    let written: Vec<&str> = path.split('/').skip(1).collect();
    if written.len() > SEGMENTS_MAX {
        return Err(PatternError::TooLong);
    }
    let mut segments: Vec<Segment> = Vec::with_capacity(written.len());
    for (place, text) in written.iter().enumerate() {
        let last = place + 1 == written.len();
        let segment = parse_segment(text, last)?;
        if let Segment::Param(name) | Segment::Rest(name) = &segment {
            let repeated = segments.iter().any(|earlier| match earlier {
                Segment::Static(_) => false,
                // They become header names, and those have no case.
                Segment::Param(other) | Segment::Rest(other) => other.eq_ignore_ascii_case(name),
            });
            if repeated {
                return Err(PatternError::RepeatedParam(name.clone()));
            }
        }
        segments.push(segment);
    }
    Ok(segments)
}

fn parse_segment(text: &str, last: bool) -> Result<Segment, PatternError> {
    if text.is_empty() && !last {
        return Err(PatternError::EmptySegment);
    }
    let Some(inner) = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')) else {
        return if text.contains(['{', '}']) {
            Err(PatternError::BadBraces(text.to_owned()))
        } else {
            Ok(Segment::Static(percent_encode(text)))
        };
    };
    let (rest, name) = inner.strip_prefix('*').map_or((false, inner), |name| (true, name));
    let good = name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.len() <= 64
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_');
    if !good {
        return Err(PatternError::BadParam(name.to_owned()));
    }
    match (rest, last) {
        (true, false) => Err(PatternError::AfterRest(name.to_owned())),
        (true, true) => Ok(Segment::Rest(name.to_owned())),
        (false, _) => Ok(Segment::Param(name.to_owned())),
    }
}

/// Encodes what a request's target cannot carry as it is (RFC 3986, 3.3), so that `/café` matches what clients send.
fn percent_encode(segment: &str) -> String {
    segment.bytes().fold(String::with_capacity(segment.len()), |mut encoded, byte| {
        if byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'|') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::AnyLabelOf(name) => write!(f, "*.{name}"),
        }
    }
}

impl fmt::Display for RoutePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(method) = &self.method {
            write!(f, "{method} ")?;
        }
        if let Some(host) = &self.host {
            write!(f, "{host}")?;
        }
        f.write_str(&self.path())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_and_shown_again() {
        for text in ["/", "GET /", "/a/{b}/c", "GET example.com/v1/{*rest}", "*.example.com/{x}", "/a/", "PROPFIND /x"]
        {
            assert_eq!(RoutePattern::parse(text).unwrap().to_string(), text);
        }
        assert_eq!(RoutePattern::parse("GET Example.COM/x").unwrap().to_string(), "GET example.com/x");
        assert_eq!(RoutePattern::parse("/café").unwrap().segments, [Segment::Static("caf%C3%A9".into())]);
    }

    #[test]
    fn what_is_no_route_is_refused() {
        use PatternError as E;
        let error = |text: &str| RoutePattern::parse(text).unwrap_err();
        assert_eq!(error("get /"), E::BadMethod("get".into()));
        assert_eq!(error("GET  /"), E::Spaces);
        assert_eq!(error("example.com"), E::NoPath);
        assert_eq!(error("example.com:80/"), E::BadHost("example.com:80".into()));
        assert_eq!(error("/a?b"), E::Query('?'));
        assert_eq!(error("/a//b"), E::EmptySegment);
        assert_eq!(error("/a{b}"), E::BadBraces("a{b}".into()));
        assert_eq!(error("/{1}"), E::BadParam("1".into()));
        assert_eq!(error("/{}"), E::BadParam(String::new()));
        assert_eq!(error("/{a}/{A}"), E::RepeatedParam("A".into()));
        assert_eq!(error("/{*a}/b"), E::AfterRest("a".into()));
        assert_eq!(error(&format!("/{}", "a/".repeat(70))), E::TooLong);
    }
}
