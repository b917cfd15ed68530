//! Guests in other languages than Rust, by SDKs as they are published.

use crate::support::{TestHost, project, skipped};
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

/// As its `componentize-py` is called, with the folder of packages that it would look for by itself in a virtual environment.
const SCRIPT: &str = "import sys, sysconfig, componentize_py; \
    sys.argv += ['-p', sysconfig.get_path('purelib')]; componentize_py.script()";

/// Makes a component of tests/guests/python, beside a functions.toml that grants it `orders`, a database of a server.
fn python_probe(folder: &TempDir) -> Option<()> {
    let python = std::env::var("FNHOST_TEST_PYTHON").unwrap_or("python3".to_owned());
    let has_sdk = Command::new(&python).args(["-c", "import componentize_py, spin_sdk"]).stderr(Stdio::null()).status();
    if !has_sdk.is_ok_and(|status| status.success()) {
        skipped("Python has no componentize-py and spin-sdk (FNHOST_TEST_PYTHON names a Python that has them)");
        return None;
    }
    let mut build = Command::new(python);
    build.args(["-c", SCRIPT, "-w", "spin:up/http-trigger@4.1.0", "componentize", "probe", "-p"]);
    build.arg(project().join("tests/guests/python")).arg("-o").arg(folder.path().join("probe.wasm"));
    // What Python compiles would be left beside the sources.
    let built = build.env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    Some(())
}

#[tokio::test]
async fn a_guest_in_python_uses_stores_databases_and_variables() {
    let folder = Arc::new(TempDir::new().unwrap());
    let Some(()) = python_probe(&folder) else { return };
    let Some(database) = crate::postgres::shared().await else { return };
    std::fs::write(folder.path().join("url"), database.url()).unwrap();
    let host = TestHost::within(
        &folder,
        "name = \"test\"\n[stores.default]\n[stores.other]\n[databases.notes]\n[databases.orders]\nurl = { file = \"url\" }\n\
         [variables]\nregion = \"eu\"\n[functions.probe]\ncomponent = \"probe.wasm\"\nroutes = [\"/{*rest}\"]\n\
         stores = [\"default\"]\ndatabases = [\"notes\", \"orders\"]\nvariables = [\"region\"]\n",
    );
    host.get("/store").await.assert_ok("1");
    host.get("/store").await.assert_ok("2");
    let denied = host.get("/other-store").await;
    assert!(denied.status == 422 && denied.text().contains("AccessDenied"), "{}", denied.text());
    let rows = "[RowResult(values=[Value_Integer(value=1), Value_Text(value='from Python')])]";
    host.get("/notes").await.assert_ok(&format!("['many', 'text'] {rows}"));
    host.get("/orders").await.assert_ok("['answer'] [[DbValue_Int32(value=42)]]");
    host.get("/region").await.assert_ok("eu");
}
