//! `fnhost routes`

use super::{ManifestArgs, table};
use crate::limits::{Limits, show_duration, show_size};
use crate::manifest::middleware::MiddlewareKind;
use crate::manifest::{FunctionSpec, Manifest};
use crate::runtime::component;

pub(super) fn run(args: &ManifestArgs) -> anyhow::Result<()> {
    let manifest = args.read()?;
    let mut rows = vec![["METHOD", "HOST", "PATH", "FUNCTION", "KIND", "MIDDLEWARE", "LIMITS"].map(str::to_owned)];
    for spec in &manifest.functions {
        let kind = kind_of(spec);
        let chain = show_chain(&manifest, spec);
        rows.extend(spec.routes.iter().map(|route| {
            [
                route.pattern.method.clone().unwrap_or_else(|| "any".to_owned()),
                route.pattern.host.as_ref().map_or_else(|| "any".to_owned(), ToString::to_string),
                route.pattern.path(),
                spec.name.to_string(),
                kind.clone(),
                chain.clone(),
                show_limits(&spec.limits),
            ]
        }));
    }
    super::print(&table::render(&rows));
    Ok(())
}

/// What stands before a function, the first to see a request first, each with what it is.
fn show_chain(manifest: &Manifest, spec: &FunctionSpec) -> String {
    let shown = manifest.chain(spec).map(|link| match &link.kind {
        MiddlewareKind::Component(_) => format!("{} (component)", link.name),
        MiddlewareKind::BuiltIn(kind) if kind.as_str() == link.name.as_str() => link.name.to_string(),
        MiddlewareKind::BuiltIn(kind) => format!("{} ({})", link.name, kind.as_str()),
    });
    let shown: Vec<String> = shown.collect();
    if shown.is_empty() { "none".to_owned() } else { shown.join(" > ") }
}

/// The kind of a component, or why it has none yet.
fn kind_of(spec: &FunctionSpec) -> String {
    match std::fs::read(&spec.component) {
        Ok(bytes) => match component::inspect(&bytes) {
            Ok(component) => component.kind.as_str().to_owned(),
            Err(_) => "invalid".to_owned(),
        },
        Err(_) => "not built".to_owned(),
    }
}

fn show_limits(limits: &Limits) -> String {
    format!(
        "timeout {}, cpu {}, memory {}, concurrency {}, queue {} for {}, body {}, outbound {} over {}",
        limits.timeout.map_or_else(|| "none".to_owned(), show_duration),
        show_duration(limits.cpu),
        show_size(limits.memory_bytes),
        limits.concurrency,
        limits.queue,
        show_duration(limits.queue_wait),
        show_size(limits.request_body_bytes),
        limits.outbound_requests,
        limits.outbound_connections,
    )
}
