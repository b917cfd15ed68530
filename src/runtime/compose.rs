//! A function, and the middleware components before it, as one component (by the crate `wac-graph`).
//!
//! What is composed is one component with one handler: a request makes one sandbox of it, and each link of the chain is a call
//! within that. What the links import is what the host offers to functions, under the function's grants. **Invariant:** the same
//! components in the same order make the same bytes, so what is composed is known by the sha256 of its parts
//! ([`Digest256::of_chain`]) and is not kept.

use super::component::{self, ComponentError};
use crate::receipt::Kind;
use wac_graph::types::{Package, are_semver_compatible};
use wac_graph::{CompositionGraph, EncodeOptions, NodeId, PackageId};

/// A component on its way into a composition.
pub struct Part<'a> {
    /// What people know it by.
    pub name: &'a str,
    /// Its bytes.
    pub bytes: &'a [u8],
}

/// Why components cannot be made one.
#[derive(Debug, thiserror::Error)]
pub enum ComposeError {
    /// One of them is nothing that can be called.
    #[error("{0}")]
    Component(#[from] ComponentError),
    /// The middleware has nothing to hand a request on to.
    #[error(
        "`{name}` is no middleware: it is of kind {kind}, and imports no {wanted} that a function behind it could be"
    )]
    NoImport {
        /// Which.
        name: String,
        /// Its kind.
        kind: &'static str,
        /// What it would have to import.
        wanted: &'static str,
    },
    /// A command is called by CGI, which has no chain.
    #[error("`{0}` is a command: it is called by CGI, and nothing can be composed with that")]
    Command(String),
    /// The middleware speaks one version of WASI HTTP, and what is behind it another.
    #[error("`{name}` is of kind {kind}, and what stands behind it of kind {behind}")]
    Kinds {
        /// Which.
        name: String,
        /// Its kind.
        kind: &'static str,
        /// The kind of what is behind it.
        behind: &'static str,
    },
    /// Their types differ, or the composer understands something in them otherwise.
    #[error("`{name}` cannot be composed with what stands behind it: {cause}")]
    Types {
        /// Which.
        name: String,
        /// What the composer says.
        cause: String,
    },
}

impl ComposeError {
    /// The way out.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Component(error) => error.help(),
            Self::NoImport { .. } => {
                "middleware imports what it exports: wasi:http/handler@0.3.x, or wasi:http/incoming-handler@0.2.x"
            }
            Self::Command(_) => {
                "build it as a handler of WASI HTTP, or use what is built in, which stands before any function"
            }
            Self::Kinds { .. } => "build both for the same version of WASI HTTP",
            Self::Types { .. } => "build both against the same version of WASI HTTP",
        }
    }
}

/// The interface by which a component of `kind` is called, without its version.
fn handler_of(kind: Kind) -> Option<&'static str> {
    match kind {
        Kind::Http02 => Some("wasi:http/incoming-handler@0.2."),
        Kind::Http03 => Some("wasi:http/handler@0.3."),
        Kind::Command => None,
    }
}

/// Makes one component of `before`, of which the first sees a request first, and `function`.
pub fn compose(before: &[Part<'_>], function: &Part<'_>) -> Result<Vec<u8>, ComposeError> {
    let kind = component::inspect(function.bytes)?.kind;
    let handler = handler_of(kind).ok_or_else(|| ComposeError::Command(function.name.to_owned()))?;
    for part in before {
        check(part, kind)?;
    }
    let mut graph = CompositionGraph::new();
    let types = |name: &str, cause: String| ComposeError::Types { name: name.to_owned(), cause };
    let failed = |part: &Part<'_>, cause: String| types(part.name, cause);
    let package = register(&mut graph, "fnhost:function", function.bytes).map_err(|cause| failed(function, cause))?;
    let (mut behind, mut name) =
        export_of(&mut graph, package, None, handler).map_err(|cause| failed(function, cause))?;
    for (place, part) in before.iter().enumerate().rev() {
        // Two links may be of the same component.
        let linked = register(&mut graph, &format!("fnhost:before{place}"), part.bytes)
            .and_then(|package| export_of(&mut graph, package, Some((behind, &name)), handler));
        (behind, name) = linked.map_err(|cause| failed(part, cause))?;
    }
    let outermost = before.first().unwrap_or(function);
    graph.export(behind, &name).map_err(|cause| failed(outermost, cause_of(&cause)))?;
    graph.encode(EncodeOptions::default()).map_err(|cause| failed(outermost, cause_of(&cause)))
}

/// Whether a part can stand before a function of this kind.
fn check(part: &Part<'_>, behind: Kind) -> Result<(), ComposeError> {
    let kind = component::inspect(part.bytes)?.kind;
    let handler = handler_of(kind).ok_or_else(|| ComposeError::Command(part.name.to_owned()))?;
    if !component::imports(part.bytes)?.iter().any(|name| name.starts_with(handler)) {
        let wanted = handler.trim_end_matches('.');
        return Err(ComposeError::NoImport { name: part.name.to_owned(), kind: kind.as_str(), wanted });
    }
    if kind != behind {
        let (kind, behind) = (kind.as_str(), behind.as_str());
        return Err(ComposeError::Kinds { name: part.name.to_owned(), kind, behind });
    }
    Ok(())
}

fn register(graph: &mut CompositionGraph, name: &str, bytes: &[u8]) -> Result<PackageId, String> {
    let package = Package::from_bytes(name, None, bytes, graph.types_mut());
    let package = package.map_err(|cause| format!("{cause:#}"))?;
    graph.register_package(package).map_err(|cause| cause_of(&cause))
}

/// Instantiates a package, with what stands `behind` it where it imports that, and gives its own handler and its name.
fn export_of(
    graph: &mut CompositionGraph,
    package: PackageId,
    behind: Option<(NodeId, &str)>,
    handler: &str,
) -> Result<(NodeId, String), String> {
    let world = &graph.types()[graph[package].ty()];
    let export = world.exports.keys().find(|name| name.starts_with(handler)).cloned();
    let import = behind.and_then(|(_, exported)| {
        // An earlier version of the interface, or a later one, is the same (`are_semver_compatible`).
        let fits = |name: &&String| name.starts_with(handler) && are_semver_compatible(name, exported);
        world.imports.keys().find(fits).cloned()
    });
    let instance = graph.instantiate(package);
    if let Some((node, exported)) = behind {
        let import = import.ok_or_else(|| format!("it imports no {exported}"))?;
        graph.set_instantiation_argument(instance, &import, node).map_err(|cause| cause_of(&cause))?;
    }
    let export = export.ok_or_else(|| format!("it exports no {handler}x"))?;
    let node = graph.alias_instance_export(instance, &export).map_err(|cause| cause_of(&cause))?;
    Ok((node, export))
}

/// An error, and what it comes from, in one line.
fn cause_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}
