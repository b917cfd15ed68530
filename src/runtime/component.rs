//! What a `.wasm` file is, before anything of it is compiled.
//!
//! Finds a component's kind from its exports and makes components of `wasm32-wasip1` modules. Nothing is declared in
//! functions.toml that the file itself says.

use crate::receipt::Kind;
use wasmparser::{ComponentExternalKind, Encoding, Parser, Payload};

/// A component that this host can call.
pub struct Component<'a> {
    /// How it is called.
    pub kind: Kind,
    /// Its bytes; for a core module, those of the component made from it.
    pub bytes: std::borrow::Cow<'a, [u8]>,
}

/// Why a file cannot be a function.
#[derive(Debug, thiserror::Error)]
pub enum ComponentError {
    /// Nothing in it.
    #[error("the file is empty")]
    Empty,
    /// It does not begin as WebAssembly does.
    #[error("the file is no WebAssembly")]
    NotWasm,
    /// It begins well and is cut short, or is damaged.
    #[error("the file is no valid WebAssembly: {0}")]
    Damaged(String),
    /// A component, with nothing that this host calls.
    #[error("it exports nothing that can be called; it exports {exports}")]
    NothingToCall {
        /// What it exports, as a list.
        exports: String,
    },
    /// A core module that is not for `wasm32-wasip1`.
    #[error("it is a core module, and not one for wasm32-wasip1: {0}")]
    NotAdaptable(String),
}

impl ComponentError {
    /// The way out, for whoever built the file.
    pub fn help(&self) -> &'static str {
        match self {
            Self::Empty | Self::NotWasm | Self::Damaged(_) => "build it again (`fnhost build`)",
            Self::NothingToCall { .. } => {
                "a function exports wasi:http/handler@0.3.x, wasi:http/incoming-handler@0.2.x or wasi:cli/run@0.2.x"
            }
            Self::NotAdaptable(_) => "build it for wasm32-wasip2, or for wasm32-wasip1 as a program with a `main`",
        }
    }
}

/// Looks at `bytes`, the content of a `.wasm` file.
pub fn inspect(bytes: &[u8]) -> Result<Component<'_>, ComponentError> {
    if bytes.is_empty() {
        return Err(ComponentError::Empty);
    }
    if !bytes.starts_with(b"\0asm") {
        return Err(ComponentError::NotWasm);
    }
    let outline = read_outline(bytes)?;
    match outline.encoding {
        Encoding::Component => {
            let kind = outline.kind().ok_or_else(|| ComponentError::NothingToCall { exports: outline.list() })?;
            Ok(Component { kind, bytes: bytes.into() })
        }
        Encoding::Module => {
            let adapted = adapt(bytes)?;
            // A module without `_start` makes a component that exports nothing.
            let outline = read_outline(&adapted)?;
            let kind = outline.kind().ok_or_else(|| ComponentError::NothingToCall { exports: outline.list() })?;
            Ok(Component { kind, bytes: adapted.into() })
        }
    }
}

/// The names of what a component imports.
pub fn imports(bytes: &[u8]) -> Result<Vec<String>, ComponentError> {
    Ok(read_outline(bytes)?.imports)
}

/// Whether `bytes`, which are WebAssembly, are a core module and no component.
pub(super) fn is_module(bytes: &[u8]) -> bool {
    Parser::is_core_wasm(bytes)
}

/// The top level of a file: what it is, what it exports and what it imports.
struct Outline {
    encoding: Encoding,
    exports: Vec<String>,
    imports: Vec<String>,
}

impl Outline {
    /// The first match from the top: a component may export a handler and `run`.
    fn kind(&self) -> Option<Kind> {
        let exports = |prefix: &str| self.exports.iter().any(|name| name.starts_with(prefix));
        if exports("wasi:http/handler@0.3.") {
            Some(Kind::Http03)
        } else if exports("wasi:http/incoming-handler@0.2.") {
            Some(Kind::Http02)
        } else if exports("wasi:cli/run@0.2.") {
            Some(Kind::Command)
        } else {
            None
        }
    }

    fn list(&self) -> String {
        if self.exports.is_empty() { "nothing".to_owned() } else { self.exports.join(", ") }
    }
}

/// The most names of exports that an error lists.
const EXPORTS_LISTED_MAX: usize = 8;

fn read_outline(bytes: &[u8]) -> Result<Outline, ComponentError> {
    let damaged = |error: wasmparser::BinaryReaderError| ComponentError::Damaged(error.to_string());
    let mut outline: Option<Outline> = None;
    // Payloads of nested modules and components come between those of the file itself.
    let mut depth = 0_usize;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(damaged)? {
            Payload::Version { encoding, .. } if outline.is_none() => {
                outline = Some(Outline { encoding, exports: Vec::new(), imports: Vec::new() });
            }
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentExportSection(section) if depth == 0 => {
                for export in section {
                    let export = export.map_err(damaged)?;
                    let exports = outline.as_mut().map(|outline| &mut outline.exports);
                    if let Some(exports) = exports.filter(|exports| {
                        export.kind == ComponentExternalKind::Instance || exports.len() < EXPORTS_LISTED_MAX
                    }) {
                        exports.push(export.name.name.to_owned());
                    }
                }
            }
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let name = import.map_err(damaged)?.name.name.to_owned();
                    if let Some(outline) = &mut outline {
                        outline.imports.push(name);
                    }
                }
            }
            _ => {}
        }
    }
    outline.ok_or(ComponentError::NotWasm)
}

/// Makes a component of a core module for `wasm32-wasip1`, with the adapter that wasmtime publishes.
fn adapt(module: &[u8]) -> Result<Vec<u8>, ComponentError> {
    use wasi_preview1_component_adapter_provider::{
        WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
    };
    let refused = |error: anyhow::Error| ComponentError::NotAdaptable(format!("{error:#}"));
    wit_component::ComponentEncoder::default()
        .module(module)
        .map_err(refused)?
        .validate(true)
        .adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER)
        .map_err(refused)?
        .encode()
        .map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(bytes: &[u8]) -> ComponentError {
        inspect(bytes).err().expect("refused")
    }

    #[test]
    fn what_is_no_wasm_is_refused_with_a_reason() {
        assert!(matches!(error(b""), ComponentError::Empty));
        assert!(matches!(error(b"hello, I am a text"), ComponentError::NotWasm));
        assert!(matches!(error(b"\0asm"), ComponentError::Damaged(_)));
        assert!(matches!(error(b"\0asm\x0d\0\x01\0\xff\xff\xff"), ComponentError::Damaged(_)));
    }

    #[test]
    fn a_component_that_exports_nothing_callable_is_refused_with_what_it_exports() {
        let bytes = wat::parse_str(r#"(component (core module $m (func (export "f"))) (core instance $i (instantiate $m)) (func (export "greet") (canon lift (core func $i "f"))))"#).unwrap();
        let error = error(&bytes);
        assert_eq!(error.to_string(), "it exports nothing that can be called; it exports greet");
    }

    #[test]
    fn a_core_module_without_a_main_is_refused() {
        let bytes = wat::parse_str("(module (func (export \"f\")))").unwrap();
        assert!(matches!(error(&bytes), ComponentError::NotAdaptable(_) | ComponentError::NothingToCall { .. }));
    }
}
