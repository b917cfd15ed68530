//! One request without a network: to which function, for what, and who answers it.

use super::ManifestArgs;
use super::progress::Waiting;
use crate::manifest::{HostPattern, Manifest, RoutePattern, Segment};
use crate::names::RequestId;
use crate::release::{Release, Route, install};
use crate::runtime::invoke::Call;
use anyhow::{Context as _, bail};
use http::header::{HOST, HeaderMap, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery};
use http::{Method, Request, Uri};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::Arc;

/// Reads the app of `config`, and leaves of it the function `name` alone.
pub(super) fn function_of(config: &Path, name: &str) -> anyhow::Result<Manifest> {
    let mut manifest = ManifestArgs { config: config.to_owned() }.read()?;
    let known: Vec<String> = manifest.functions.iter().map(|spec| spec.name.to_string()).collect();
    manifest.functions.retain(|spec| spec.name.as_str() == name);
    if manifest.functions.is_empty() {
        bail!("there is no function `{name}`; there are {}", known.join(", "));
    }
    Ok(manifest)
}

/// A release of `manifest` that is served to nobody.
pub(super) fn release_of(manifest: &Manifest) -> anyhow::Result<Release> {
    install::install(manifest, &Waiting::new()).map_err(|error| anyhow::Error::msg(error.to_string()))
}

/// What is asked for. What is left out is what the function's first route has.
#[derive(Debug, Default)]
pub(super) struct Asked<'a> {
    pub(super) method: Option<&'a Method>,
    pub(super) path: Option<&'a PathAndQuery>,
    /// As `NAME: VALUE`.
    pub(super) headers: &'a [String],
}

/// A request to a function of a release, and who answers it.
pub(super) struct Target {
    /// Whole but for its body, as a guest gets it.
    pub(super) request: Request<()>,
    authority: Authority,
    pub(super) route: Arc<Route>,
}

impl Target {
    /// What `asked` leads to in `release`, which has one function; `example` gives the path of a route, where nobody names
    /// one.
    pub(super) fn of(
        release: &Release,
        asked: &Asked<'_>,
        example: impl Fn(&RoutePattern) -> Option<String>,
    ) -> anyhow::Result<Self> {
        let routes: Vec<&RoutePattern> = release.routes.iter().map(|route| &route.pattern).collect();
        let found = routes.iter().find_map(|pattern| Some((*pattern, example(pattern)?)));
        let first = found.as_ref().map(|(pattern, _)| *pattern).or_else(|| routes.first().copied());
        let method = asked.method.cloned().or_else(|| first?.method.as_ref()?.parse().ok()).unwrap_or(Method::GET);
        let path = match (asked.path, found) {
            (Some(path), _) => path.clone(),
            (None, Some((_, path))) => path.parse()?,
            (None, None) => match routes.first() {
                Some(pattern) => bail!("`{pattern}` has a parameter; say what to ask for with --path"),
                None => bail!("the function has no route; say what to ask for with --path"),
            },
        };
        let mut headers = headers_of(asked.headers)?;
        let authority = match (headers.get(HOST), first.and_then(|pattern| pattern.host.as_ref())) {
            (Some(host), _) => Authority::try_from(host.as_bytes())?,
            (None, None) => Authority::from_static("localhost"),
            (None, Some(HostPattern::Exact(name))) => name.parse()?,
            (None, Some(HostPattern::AnyLabelOf(name))) => format!("x.{name}").parse()?,
        };
        headers.insert(HOST, HeaderValue::from_str(authority.as_str())?);
        let uri = Uri::builder().scheme("http").authority(authority.clone()).path_and_query(path).build()?;
        let mut request = Request::builder().method(method).uri(uri.clone()).body(())?;
        *request.headers_mut() = headers;
        let found = release.routes.find(authority.host(), request.method(), uri.path());
        let found =
            found.map_err(|_| anyhow::anyhow!("the function has no route for {} {}", request.method(), uri.path()))?;
        let route = Arc::clone(found.route);
        route.mark(request.headers_mut(), &found.params);
        Ok(Self { request, authority, route })
    }

    /// What the host says of it beside the request itself.
    pub(super) fn call(&self, request_id: RequestId) -> Call {
        Call {
            request_id,
            authority: self.authority.clone(),
            client: IpAddr::V4(Ipv4Addr::LOCALHOST),
            route_prefix_bytes: self.route.prefix_bytes,
            traceparent: None,
            stalled: Arc::default(),
        }
    }
}

fn headers_of(written: &[String]) -> anyhow::Result<HeaderMap> {
    let mut headers = HeaderMap::new();
    for header in written {
        let (name, value) = header.split_once(':').with_context(|| format!("`{header}` is no `NAME: VALUE`"))?;
        headers.append(name.trim().parse::<HeaderName>()?, value.trim().parse::<HeaderValue>()?);
    }
    Ok(headers)
}

/// The path of a pattern whose parameters are to be `x`; with nothing, one that has no parameter, and the rest of a path is
/// empty.
pub(super) fn example_path(pattern: &RoutePattern, parameter: Option<&str>) -> Option<String> {
    let mut path = String::new();
    for segment in &pattern.segments {
        let text = match (segment, parameter) {
            (Segment::Static(text), _) => text.as_str(),
            (Segment::Rest(_), None) => continue,
            (Segment::Param(_) | Segment::Rest(_), _) => parameter?,
        };
        path.push('/');
        path.push_str(text);
    }
    Some(if path.is_empty() { "/".to_owned() } else { path })
}
