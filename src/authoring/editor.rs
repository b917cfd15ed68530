//! What an editor is told of functions.toml: its JSON schema, in the state folder, where the first line of the templates'
//! functions.toml says that it is. Of the version of the host that wrote it last: by `fnhost new`, or in the live loop.

use crate::manifest::schema;
use crate::platform;
use std::io;
use std::path::Path;

const FILE: &str = "functions.schema.json";

/// Has the schema of this version in the state folder `state`.
pub fn write_schema(state: &Path) -> io::Result<()> {
    let (file, text) = (state.join(FILE), schema::text());
    if std::fs::read_to_string(&file).is_ok_and(|there| there == text) {
        return Ok(());
    }
    platform::create_private_folder(state)?;
    platform::write_atomically(&file, text.as_bytes())
}
