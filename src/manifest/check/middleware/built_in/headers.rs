//! Which headers can be set and taken out: not those that say how a message travels, nor those that the host speaks.

use super::super::super::super::diagnostic::Diagnostic;
use super::super::super::super::file::middleware::{ChangesFile, HeadersFile};
use super::super::super::super::middleware::{HeaderChanges, HeadersSpec};
use super::missing;
use crate::names::HOST_HEADERS;
use http::{HeaderName, HeaderValue};
use toml::Spanned;

/// Of one connection, not of the message (RFC 9110, 7.6.1); how long it is; and whom it is for, which routes it.
const OF_THE_CONNECTION: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-request-id",
];

pub(super) fn check(name: &Spanned<String>, file: HeadersFile, errors: &mut Vec<Diagnostic>) -> HeadersSpec {
    let checked = errors.len();
    let spec = HeadersSpec { request: changes(file.request, errors), response: changes(file.response, errors) };
    if spec == HeadersSpec::default() && errors.len() == checked {
        errors.push(missing(
            name,
            "changes no header",
            "write `headers = { response = { set = { x-frame-options = \"DENY\" } } }`",
        ));
    }
    spec
}

fn changes(file: ChangesFile, errors: &mut Vec<Diagnostic>) -> HeaderChanges {
    let mut set = Vec::with_capacity(file.set.len());
    for (name, value) in file.set {
        let Some(name) = header_name(&name, errors) else { continue };
        match HeaderValue::from_str(value.get_ref()) {
            Ok(value) => set.push((name, value)),
            Err(_) => errors.push(Diagnostic::new(value.span(), "a header's value is one line of plain text")),
        }
    }
    let remove = file.remove.map(Spanned::into_inner).unwrap_or_default();
    HeaderChanges { set, remove: remove.iter().filter_map(|name| header_name(name, errors)).collect() }
}

fn header_name(written: &Spanned<String>, errors: &mut Vec<Diagnostic>) -> Option<HeaderName> {
    let Ok(name) = written.get_ref().parse::<HeaderName>() else {
        errors.push(Diagnostic::new(written.span(), format!("`{}` is no name of a header", written.get_ref())));
        return None;
    };
    if OF_THE_CONNECTION.contains(&name.as_str()) || name.as_str().starts_with(HOST_HEADERS) {
        let told = Diagnostic::new(written.span(), format!("`{name}` is the host's to say"));
        errors.push(told.help("take it out"));
        return None;
    }
    Some(name)
}
