//! Which route answers a request, found the slow way: each is tried, and the best of those that fit wins.
//!
//! What a route says is read here anew, and not taken from the host.

/// A route, as functions.toml has it.
#[derive(Debug, Clone, Copy)]
struct Route<'a> {
    method: Option<&'a str>,
    host: Option<&'a str>,
    path: &'a str,
}

/// How exact the match of a segment is, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Exact {
    Static,
    Param,
    Rest,
}

/// How well a route fits, the best first: by host, then by path, segment by segment, then by method.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Fit {
    host: u8,
    path: Vec<Exact>,
    method: u8,
}

/// What a look-up comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Found<'r> {
    /// The route at this place, and its parameters.
    Route(usize, Vec<&'r str>),
    /// The methods that there are.
    OtherMethods(Vec<String>),
    /// Nothing.
    Nothing,
}

/// Finds it.
#[must_use]
pub fn find<'r>(routes: &[&str], host: &str, method: &str, path: &'r str) -> Found<'r> {
    let mut fits: Vec<(Fit, usize, Vec<&str>)> = Vec::new();
    let mut methods: Vec<String> = Vec::new();
    for (at, text) in routes.iter().enumerate() {
        let route = read(text);
        let Some(host) = fit_host(route.host, host) else { continue };
        let Some((exact, params)) = fit_path(route.path, path) else { continue };
        let by_method = match route.method {
            Some(wanted) if wanted == method => 0,
            Some("GET") if method == "HEAD" => 1,
            None => 2,
            Some(wanted) => {
                methods.push(wanted.to_owned());
                if wanted == "GET" {
                    methods.push("HEAD".to_owned());
                }
                continue;
            }
        };
        fits.push((Fit { host, path: exact, method: by_method }, at, params));
    }
    fits.sort();
    methods.sort();
    methods.dedup();
    match fits.into_iter().next() {
        Some((_, at, params)) => Found::Route(at, params),
        None if methods.is_empty() => Found::Nothing,
        None => Found::OtherMethods(methods),
    }
}

fn read(text: &str) -> Route<'_> {
    let (method, place) = match text.split_once(' ') {
        Some((method, place)) => (Some(method), place),
        None => (None, text),
    };
    let slash = place.find('/').expect("a route has a path");
    let (host, path) = place.split_at(slash);
    Route { method, host: Some(host).filter(|host| !host.is_empty()), path }
}

/// Names of hosts have no case, and a dot at the end says nothing.
fn fit_host(wanted: Option<&str>, host: &str) -> Option<u8> {
    let Some(wanted) = wanted else { return Some(2) };
    let mut host = host.to_ascii_lowercase();
    while host.ends_with('.') {
        host.pop();
    }
    let wanted = wanted.to_ascii_lowercase();
    match wanted.strip_prefix("*.") {
        None => (host == wanted).then_some(0),
        Some(behind) => {
            let (_, rest) = host.split_once('.')?;
            (rest == behind).then_some(1)
        }
    }
}

fn fit_path<'r>(wanted: &str, path: &'r str) -> Option<(Vec<Exact>, Vec<&'r str>)> {
    let wanted: Vec<&str> = wanted[1..].split('/').collect();
    let mut rest = Some(path.strip_prefix('/')?);
    let (mut exact, mut params) = (Vec::new(), Vec::new());
    for segment in wanted {
        if segment.starts_with("{*") {
            exact.push(Exact::Rest);
            params.push(rest.unwrap_or(""));
            return Some((exact, params));
        }
        let (this, behind) = match rest?.split_once('/') {
            Some((this, behind)) => (this, Some(behind)),
            None => (rest?, None),
        };
        rest = behind;
        if segment.starts_with('{') {
            if this.is_empty() {
                return None;
            }
            exact.push(Exact::Param);
            params.push(this);
        } else {
            if this != encoded(segment) {
                return None;
            }
            exact.push(Exact::Static);
        }
    }
    rest.is_none().then_some((exact, params))
}

/// As it stands in a target: what is no character of a path there is percent-encoded.
fn encoded(segment: &str) -> String {
    let plain = |byte: u8| (b'!'..=b'~').contains(&byte) && !b"\"<>\\^`|".contains(&byte);
    let one = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    segment.bytes().map(one).collect()
}
