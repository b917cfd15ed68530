//! What a WebAssembly file has to say of itself, for people who ask: nothing of it is compiled or run.
//!
//! Imports are told with what of functions.toml would grant them. The names are held against the linker's by a test: whatever
//! is said here to have no grantor is refused when it is installed, and nothing else is.

mod outline;

use super::capability::is_absent;
use super::component::{self, ComponentError};
use outline::Outline;
use wasmparser::{Validator, WasmFeatures};

/// What a file is.
#[derive(Debug, serde::Serialize)]
pub struct Inspected {
    /// A kind of function, `middleware`, or `none`.
    pub kind: &'static str,
    /// Why it cannot be a function, if it cannot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why_not: Option<String>,
    /// Whether it is a core module, of which a component is made.
    pub core_module: bool,
    /// Its size.
    pub bytes: u64,
    /// What it imports.
    pub imports: Vec<Import>,
    /// What it exports.
    pub exports: Vec<String>,
    /// Core instances of each of its sandboxes.
    pub core_instances: u32,
    /// Their linear memories.
    pub memories: u32,
    /// What those have at the start, together.
    pub memory_bytes: u64,
    /// Their tables.
    pub tables: u32,
    /// What it was made with, as tools have noted it: languages first.
    pub made_with: Vec<String>,
}

/// Something that a component imports.
#[derive(Debug, serde::Serialize)]
pub struct Import {
    /// The interface.
    pub name: String,
    /// Who grants it.
    pub granted_by: Grantor,
}

/// Who grants an import.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Grantor {
    /// It is always there.
    Always,
    /// `outbound`
    Outbound,
    /// `stores`
    Stores,
    /// `databases`
    Databases,
    /// `variables`, and `config`
    Variables,
    /// `files`
    Files,
    /// The next in a chain of middleware.
    Next,
    /// It links, and calling it is a trap: SDKs import it, and this host does not have it.
    Absent,
    /// Nobody: with it, the component cannot be linked.
    Nobody,
}

impl Grantor {
    /// What is told to people.
    pub fn explain(self) -> &'static str {
        match self {
            Self::Always => "always there",
            Self::Outbound => "by `outbound`; else calls are denied",
            Self::Stores => "by `stores`; else access is denied",
            Self::Databases => "by `databases`; else access is denied",
            Self::Variables => "by `variables` and `config`",
            Self::Files => "always there; folders by `files`",
            Self::Next => "by the function behind it",
            Self::Absent => "links, and traps when it is called",
            Self::Nobody => "not offered: cannot be linked",
        }
    }
}

/// Interfaces beyond WASI 0.2 and 0.3, without the end of their version.
const OFFERED: [(&str, Grantor); 19] = [
    ("wasi:config/store@0.2.0-rc.1", Grantor::Variables),
    ("wasi:config/store@0.2.0-draft-2024-09-27", Grantor::Variables),
    ("wasi:keyvalue/store@0.2.0-draft", Grantor::Stores),
    ("wasi:keyvalue/atomics@0.2.0-draft", Grantor::Stores),
    ("wasi:keyvalue/batch@0.2.0-draft", Grantor::Stores),
    ("wasi:keyvalue/store@0.2.0-draft2", Grantor::Stores),
    ("wasi:keyvalue/atomics@0.2.0-draft2", Grantor::Stores),
    ("wasi:keyvalue/batch@0.2.0-draft2", Grantor::Stores),
    ("fermyon:spin/key-value@2.0.0", Grantor::Stores),
    ("spin:key-value/key-value@3.0.0", Grantor::Stores),
    ("fermyon:spin/sqlite@2.0.0", Grantor::Databases),
    ("spin:sqlite/sqlite@3.", Grantor::Databases),
    ("fermyon:spin/postgres@2.0.0", Grantor::Databases),
    ("fermyon:spin/rdbms-types@2.0.0", Grantor::Databases),
    ("spin:postgres/postgres@3.0.0", Grantor::Databases),
    ("spin:postgres/postgres@4.", Grantor::Databases),
    ("fermyon:spin/variables@2.0.0", Grantor::Variables),
    ("spin:variables/variables@3.0.0", Grantor::Variables),
    // What 0.3 calls its client.
    ("wasi:http/client@0.3.", Grantor::Outbound),
];

/// Who grants `name` to a component, of WASI 0.3 or not.
fn grantor_of(name: &str, is_03: bool) -> Grantor {
    let is = |offered: &str| if offered.ends_with('.') { name.starts_with(offered) } else { name == offered };
    if let Some((_, grantor)) = OFFERED.iter().find(|(offered, _)| is(offered)) {
        return if name.contains("@0.3.") && !is_03 { Grantor::Nobody } else { *grantor };
    }
    if is_absent(name) {
        return Grantor::Absent;
    }
    let Some((interface, version)) = name.split_once('@') else { return Grantor::Nobody };
    let offered = !version.contains('-') && (version.starts_with("0.2.") || (is_03 && version.starts_with("0.3.")));
    let Some((package, member)) = interface.split_once('/').filter(|_| offered) else { return Grantor::Nobody };
    match (package, member) {
        ("wasi:http", "handler" | "incoming-handler") => Grantor::Next,
        ("wasi:http", "outgoing-handler") | ("wasi:sockets", _) => Grantor::Outbound,
        ("wasi:filesystem", _) => Grantor::Files,
        ("wasi:http", "types") | ("wasi:cli" | "wasi:clocks" | "wasi:io" | "wasi:random", _) => Grantor::Always,
        _ => Grantor::Nobody,
    }
}

/// Looks at `bytes`, the content of a `.wasm` file. What is whole, and no function, is told with the reason; what is damaged
/// is an error, and so is a core module of another target.
pub fn inspect(bytes: &[u8]) -> Result<Inspected, ComponentError> {
    let found = component::inspect(bytes);
    let why_not = match &found {
        Err(error @ ComponentError::NothingToCall { .. }) if !component::is_module(bytes) => Some(error.to_string()),
        _ => None,
    };
    let kind = match found {
        Ok(component) => Some(component),
        Err(_) if why_not.is_some() => None,
        Err(error) => return Err(error),
    };
    let whole = kind.as_ref().map_or(bytes, |component| &component.bytes);
    let valid = Validator::new_with_features(WasmFeatures::all()).validate_all(whole);
    valid.map_err(|error| ComponentError::Damaged(error.to_string()))?;
    let outline = Outline::of(whole).map_err(|error| ComponentError::Damaged(error.to_string()))?;
    let made_with = outline.made_with();
    let is_03 = outline.exports.iter().any(|name| name.starts_with("wasi:http/handler@0.3."));
    let imports: Vec<Import> =
        outline.imports.into_iter().map(|name| Import { granted_by: grantor_of(&name, is_03), name }).collect();
    let is_middleware = imports.iter().any(|import| import.granted_by == Grantor::Next);
    Ok(Inspected {
        kind: match &kind {
            Some(_) if is_middleware => "middleware",
            Some(component) => component.kind.as_str(),
            None => "none",
        },
        why_not,
        core_module: component::is_module(bytes),
        bytes: bytes.len() as u64,
        imports,
        exports: outline.exports,
        core_instances: outline.needs.instances,
        memories: outline.needs.memories,
        memory_bytes: outline.needs.memory_bytes,
        tables: outline.needs.tables,
        made_with,
    })
}
