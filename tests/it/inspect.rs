//! `fnhost inspect` says what a WebAssembly file is, and who would grant what it imports.

use crate::support::{component_of_wat, fnhost, guest, project};
use serde_json::Value;
use std::path::Path;
use std::process::Output;

fn inspect(file: &Path, arguments: &[&str]) -> Output {
    fnhost(&project()).arg("inspect").arg(file).args(arguments).output().unwrap()
}

fn json(file: &Path) -> Value {
    let ended = inspect(file, &["--json"]);
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    serde_json::from_slice(&ended.stdout).unwrap()
}

fn grantor<'v>(inspected: &'v Value, name: &str) -> &'v str {
    let imports = inspected["imports"].as_array().unwrap();
    let found = imports.iter().find(|import| import["name"].as_str().unwrap().starts_with(name));
    found.unwrap_or_else(|| panic!("no {name} in {imports:?}"))["granted_by"].as_str().unwrap()
}

fn refused(file: &Path) -> String {
    let ended = inspect(file, &[]);
    assert_eq!(ended.status.code(), Some(1));
    assert!(ended.stdout.is_empty());
    String::from_utf8(ended.stderr).unwrap()
}

#[test]
fn each_kind_is_told() {
    for (name, kind, core_module) in
        [("hello", "http-0.2", false), ("hello-p3", "http-0.3", false), ("cgi", "command", true)]
    {
        let inspected = json(&guest(name));
        assert_eq!((&inspected["kind"], &inspected["core_module"]), (&kind.into(), &core_module.into()), "{name}");
        assert_eq!(inspected["bytes"], std::fs::metadata(guest(name)).unwrap().len(), "{name}");
        assert_eq!(inspected["memories"], 1, "{name}");
        assert!(inspected["core_instances"].as_u64().unwrap() >= 1 && inspected["tables"].as_u64().unwrap() >= 1);
        assert!(inspected["memory_bytes"].as_u64().unwrap() >= 1 << 20, "{name}");
        let made_with = inspected["made_with"].to_string();
        assert!(made_with.contains("Rust") && made_with.contains("rustc 1."), "{made_with}");
        assert!(!inspected["exports"].as_array().unwrap().is_empty());
    }
}

#[test]
fn imports_are_told_with_who_would_grant_them() {
    let hello = json(&guest("hello"));
    assert_eq!(grantor(&hello, "wasi:cli/environment@"), "always");
    assert_eq!(grantor(&hello, "wasi:http/types@"), "always");
    assert_eq!(grantor(&json(&guest("fetch")), "wasi:http/outgoing-handler@"), "outbound");
    assert_eq!(grantor(&json(&guest("counter")), "wasi:keyvalue/"), "stores");
    assert_eq!(grantor(&json(&guest("config")), "wasi:config/store@"), "variables");
    assert_eq!(grantor(&json(&guest("notes")), "spin:sqlite/sqlite@"), "databases");
    assert_eq!(grantor(&json(&guest("orders")), "spin:postgres/postgres@"), "databases");
    let text = String::from_utf8(inspect(&guest("fetch"), &[]).stdout).unwrap();
    assert!(text.starts_with("kind           http-0.2\nsize           "), "{text}");
    assert!(
        text.lines().any(|line| line.starts_with("  wasi:http/outgoing-handler@") && line.contains("  by `outbound`")),
        "{text}"
    );
}

/// What is said to have no grantor, and nothing else, is refused when it is installed.
#[test]
fn what_is_said_of_imports_is_what_linking_them_comes_to() {
    let folder = tempfile::tempdir().unwrap();
    let all = [
        "hello",
        "hello-p3",
        "fetch",
        "cgi",
        "config",
        "counter",
        "notes",
        "orders",
        "proxy",
        "data-probe",
        "data-async-probe",
        "sql-probe",
        "sql-async-probe",
        "postgres-probe",
        "postgres-p3-probe",
        "batch-probe",
    ];
    let mut files: Vec<_> = all.iter().map(|name| ((*name).to_owned(), guest(name))).collect();
    for (name, import) in [
        ("known", "wasi:cli/environment@0.2.0"),
        ("unknown", "acme:things/thing@1.0.0"),
        ("other-version", "wasi:cli/environment@0.9.0"),
        ("absent", "spin:mqtt/mqtt@3.0.0"),
        ("of-03", "wasi:cli/environment@0.3.0"),
        ("prerelease", "wasi:cli/environment@0.2.0-rc-2023-12-05"),
    ] {
        let text = format!(
            "(component (import \"{import}\" (instance (export \"get-arguments\" (func (result (list string))))))
               (core module $m (func (export \"run\") (result i32) i32.const 0))
               (core instance $i (instantiate $m))
               (func $run (result (result)) (canon lift (core func $i \"run\")))
               (instance $exported (export \"run\" (func $run)))
               (export \"wasi:cli/run@0.2.0\" (instance $exported)))"
        );
        files.push((name.to_owned(), component_of_wat(folder.path(), name, &text)));
    }
    for (name, file) in files {
        let inspected = json(&file);
        let nobody = inspected["imports"].as_array().unwrap().iter().any(|import| import["granted_by"] == "nobody");
        let toml = format!("name = \"test\"\n[functions.it]\ncomponent = \"{}\"\nroutes = [\"/\"]\n", file.display());
        std::fs::write(folder.path().join("functions.toml"), toml).unwrap();
        let checked = fnhost(folder.path()).arg("check").output().unwrap();
        let told = String::from_utf8(checked.stderr).unwrap();
        assert_eq!(checked.status.success(), !nobody, "{name}: {inspected}\n{told}");
    }
}

#[test]
fn middleware_and_what_is_no_function_are_told_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let middleware = component_of_wat(
        folder.path(),
        "middleware",
        "(component (import \"wasi:http/handler@0.3.0\" (instance $next))
           (export \"wasi:http/handler@0.3.0\" (instance $next)))",
    );
    let inspected = json(&middleware);
    assert_eq!(inspected["kind"], "middleware");
    assert_eq!(grantor(&inspected, "wasi:http/handler@0.3.0"), "next");
    let library = component_of_wat(
        folder.path(),
        "library",
        "(component (component $inner (core module $m (memory 2) (table 1 funcref)) (core instance (instantiate $m)) (core instance (instantiate $m)))
           (instance (instantiate $inner)) (instance $i (instantiate $inner)) (export \"acme:things/thing\" (instance $i)))",
    );
    let inspected = json(&library);
    assert_eq!(inspected["kind"], "none");
    assert_eq!(inspected["why_not"], "it exports nothing that can be called; it exports acme:things/thing");
    let numbers =
        ["core_instances", "memories", "tables", "memory_bytes"].map(|name| inspected[name].as_u64().unwrap());
    assert_eq!(numbers, [4, 4, 4, 8 * (64 << 10)]);
    let text = String::from_utf8(inspect(&library, &[]).stdout).unwrap();
    assert!(text.starts_with("kind           no function: it exports nothing that can be called"), "{text}");
}

#[test]
fn bad_files_are_one_line_that_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    };
    let whole = std::fs::read(guest("hello")).unwrap();
    let mut damaged = whole.clone();
    let middle = whole.len() / 2;
    damaged[middle..middle + 64].fill(0xff);
    let browsers =
        wat::parse_str("(module (import \"wbg\" \"__wbindgen_throw\" (func)) (func (export \"f\")))").unwrap();
    for (file, reason) in [
        (file("empty.wasm", b""), "the file is empty"),
        (file("text.wasm", b"hello"), "the file is no WebAssembly"),
        (file("short.wasm", &whole[..middle]), "the file is no valid WebAssembly"),
        (file("damaged.wasm", &damaged), "the file is no valid WebAssembly"),
        (file("browser.wasm", &browsers), "it is a core module, and not one for wasm32-wasip1"),
        (folder.path().join("none.wasm"), "cannot read"),
        (folder.path().to_owned(), "is no file"),
    ] {
        let told = refused(&file);
        assert!(told.starts_with("error: ") && told.contains(reason), "{told}");
    }
}
