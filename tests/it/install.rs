//! A component that could not be run is refused when it is loaded, with the reason and its place in the file.

use crate::support::{TestHost, component_of_wat, fnhost, guest};
use std::path::Path;

/// What `check` says of a component in `folder`, with `settings` in its function's table.
fn refused(folder: &Path, file: &str, settings: &str) -> String {
    let toml = format!("name = \"test\"\n[functions.it]\ncomponent = \"{file}\"\nroutes = [\"/\"]\n{settings}\n");
    std::fs::write(folder.join("functions.toml"), toml).unwrap();
    let ended = fnhost(folder).arg("check").output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert_eq!(ended.status.code(), Some(1), "{stderr}");
    assert!(stderr.starts_with("error: functions.toml:"), "{stderr}");
    stderr
}

/// `wasi:cli/run`, which does nothing and succeeds, beside `rest`.
fn command(rest: &str) -> String {
    format!(
        "(component
            {rest}
            (core module $main (func (export \"run\") (result i32) i32.const 0))
            (core instance $main (instantiate $main))
            (func $run (result (result)) (canon lift (core func $main \"run\")))
            (instance $exported (export \"run\" (func $run)))
            (export \"wasi:cli/run@0.2.0\" (instance $exported)))"
    )
}

#[test]
fn what_is_no_component_is_refused_with_what_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(guest("hello")).unwrap();
    let write = |name: &str, bytes: &[u8]| std::fs::write(folder.path().join(name), bytes).unwrap();
    write("empty.wasm", b"");
    write("text.wasm", b"hello, I am a text");
    write("header.wasm", &whole[..8]);
    write("half.wasm", &whole[..whole.len() / 2]);
    write("nearly.wasm", &whole[..whole.len() - 1]);
    let said = |file: &str| refused(folder.path(), file, "");
    assert!(said("empty.wasm").contains("functions.toml:3:13: empty.wasm cannot be a function: the file is empty"));
    assert!(said("text.wasm").contains("the file is no WebAssembly"));
    assert!(said("header.wasm").contains("it exports nothing that can be called"));
    assert!(said("half.wasm").contains("no valid WebAssembly"));
    assert!(said("nearly.wasm").contains("no valid WebAssembly"));
    assert!(said(".").contains("is no file"));
    assert!(said("missing.wasm").contains("cannot be read: No such file"));
}

#[test]
fn damage_in_the_middle_never_panics() {
    let folder = tempfile::tempdir().unwrap();
    let whole = std::fs::read(guest("cgi")).unwrap();
    for place in (8..whole.len()).step_by(whole.len() / 40) {
        let mut damaged = whole.clone();
        damaged[place] ^= 0xff;
        std::fs::write(folder.path().join("it.wasm"), &damaged).unwrap();
        let toml = "name = \"test\"\n[functions.it]\ncomponent = \"it.wasm\"\nroutes = [\"/\"]\n";
        std::fs::write(folder.path().join("functions.toml"), toml).unwrap();
        let ended = fnhost(folder.path()).arg("check").output().unwrap();
        // Some bytes are data, and any value of them is as good.
        let code = ended.status.code();
        assert!(matches!(code, Some(0 | 1)), "byte {place}: {code:?}\n{}", String::from_utf8_lossy(&ended.stderr));
        assert!(!String::from_utf8_lossy(&ended.stderr).contains("panicked"), "byte {place}");
    }
}

#[tokio::test]
async fn what_sdks_import_whole_is_linked_and_named_when_it_is_called() {
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let text = "(component
        (import \"fermyon:spin/llm@2.0.0\" (instance $llm (export \"ask\" (func))))
        (core func $ask (canon lower (func $llm \"ask\")))
        (core module $main (import \"llm\" \"ask\" (func $ask)) (func (export \"run\") (result i32) call $ask i32.const 0))
        (core instance $main (instantiate $main (with \"llm\" (instance (export \"ask\" (func $ask))))))
        (func $run (result (result)) (canon lift (core func $main \"run\")))
        (instance $exported (export \"run\" (func $run)))
        (export \"wasi:cli/run@0.2.0\" (instance $exported)))";
    component_of_wat(folder.path(), "it", text);
    let toml = "name = \"test\"\n[functions.it]\ncomponent = \"it.wasm\"\nroutes = [\"/\"]\n";
    let host = TestHost::within(&folder, toml);
    host.get("/").await.assert_problem(502, "trap");
    let says = "this host does not have fermyon:spin/llm@2.0.0, of which ask was called";
    host.logged(|line| line.to_string().contains(says));
}

#[test]
fn an_import_that_nobody_offers_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = command("(import \"acme:teleport/beam@1.0.0\" (instance (export \"up\" (func))))");
    component_of_wat(folder.path(), "it", &text);
    let said = refused(folder.path(), "it.wasm", "");
    assert!(
        said.contains("it imports what this host does not offer") && said.contains("acme:teleport/beam@1.0.0"),
        "{said}"
    );
}

#[test]
fn an_import_of_another_type_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let text =
        command("(import \"wasi:random/random@0.2.0\" (instance (export \"get-random-u64\" (func (result string)))))");
    component_of_wat(folder.path(), "it", &text);
    let said = refused(folder.path(), "it.wasm", "");
    assert!(said.contains("wasi:random/random@0.2.0") || said.contains("get-random-u64"), "{said}");
}

#[tokio::test]
async fn the_oldest_wasi_0_2_is_offered() {
    let folder = std::sync::Arc::new(tempfile::tempdir().unwrap());
    let text =
        command("(import \"wasi:random/random@0.2.0\" (instance (export \"get-random-u64\" (func (result u64)))))");
    component_of_wat(folder.path(), "it", &text);
    let host =
        TestHost::within(&folder, "name = \"test\"\n[functions.it]\ncomponent = \"it.wasm\"\nroutes = [\"/\"]\n");
    // It runs, and as a command that prints nothing it gives no response.
    host.get("/").await.assert_problem(502, "no_response");
}

#[test]
fn more_memory_at_the_start_than_the_limit_is_refused_with_the_numbers() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::copy(guest("hello"), folder.path().join("it.wasm")).unwrap();
    let said = refused(folder.path(), "it.wasm", "limits = { memory = \"512 KiB\" }");
    assert!(said.contains("functions.toml:5:21: "), "{said}");
    assert!(said.contains("it starts with") && said.contains("and its limit is 512 KiB"), "{said}");
}

#[test]
fn more_than_the_pool_holds_is_refused_with_the_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let memories = "(core module $m (memory 1))".to_owned() + &"(core instance (instantiate $m))".repeat(20);
    component_of_wat(folder.path(), "memories", &command(&memories));
    let said = refused(folder.path(), "memories.wasm", "");
    assert!(said.contains("20 Wasm linear memories") && said.contains("maximum of 16"), "{said}");
    let instances = "(core module $e)".to_owned() + &"(core instance (instantiate $e))".repeat(300);
    component_of_wat(folder.path(), "instances", &command(&instances));
    let said = refused(folder.path(), "instances.wasm", "");
    assert!(said.contains("301 core module instances") && said.contains("maximum of 256"), "{said}");
}

/// Their failed growths could not be told from others by the memory limit.
#[test]
fn memories_and_tables_of_64_bits_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (name, wide) in [("memory", "(memory i64 1)"), ("table", "(table i64 1 funcref)")] {
        let text = command(&format!("(core module $m {wide}) (core instance (instantiate $m))"));
        component_of_wat(folder.path(), name, &text);
        let said = refused(folder.path(), &format!("{name}.wasm"), "");
        assert!(said.contains("it cannot be compiled") || said.contains("no valid WebAssembly"), "{said}");
    }
}

#[test]
fn every_function_s_mistake_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let toml = "name = \"test\"
[functions.one]
component = \"one.wasm\"
routes = [\"/one\"]
[functions.two]
component = \"two.wasm\"
routes = [\"/two\"]
";
    std::fs::write(folder.path().join("functions.toml"), toml).unwrap();
    let ended = fnhost(folder.path()).arg("check").output().unwrap();
    let stderr = String::from_utf8(ended.stderr).unwrap();
    assert!(stderr.contains("functions.toml:3:13: ") && stderr.contains("functions.toml:6:13: "), "{stderr}");
}
