//! What `wit/` says, as Rust: the interfaces beyond WASI. Their functions are in the other files of this folder.

wasmtime::component::bindgen!({
    path: "wit",
    world: "fnhost:host/guest",
    imports: { default: async | trappable },
    with: {
        "wasi:keyvalue/store@0.2.0-draft.bucket": super::keyvalue::Bucket,
        "wasi:keyvalue/store@0.2.0-draft2.bucket": super::keyvalue::Bucket,
        "wasi:keyvalue/atomics@0.2.0-draft2.cas": super::keyvalue::Cas,
        "fermyon:spin/key-value@2.0.0.store": super::keyvalue::Bucket,
        "spin:key-value/key-value@3.0.0.store": super::keyvalue::Bucket,
        "fermyon:spin/sqlite@2.0.0.connection": super::sqlite::Connection,
        "spin:sqlite/sqlite@3.1.0.connection": super::sqlite::Connection,
        "fermyon:spin/postgres@2.0.0.connection": super::postgres::Connection,
        "spin:postgres/postgres@3.0.0.connection": super::postgres::Connection,
        "spin:postgres/postgres@4.2.0.connection": super::postgres::Connection,
        "spin:postgres/postgres@4.2.0.connection-builder": super::postgres::ConnectionBuilder,
    },
});
