//! The JSON schema of functions.toml: what it says is what the host does.

use crate::support::{fnhost, project};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::PathBuf;

fn printed() -> String {
    let ended = fnhost(&project()).arg("schema").output().unwrap();
    assert!(ended.status.success());
    String::from_utf8(ended.stdout).unwrap()
}

fn schema() -> Value {
    serde_json::from_str(&printed()).unwrap()
}

/// What the schema says of a functions.toml.
fn errors_of(schema: &jsonschema::Validator, toml: &str) -> Vec<String> {
    let document: toml::Table = toml.parse().unwrap();
    let document = serde_json::to_value(document).unwrap();
    schema.iter_errors(&document).map(|error| format!("{}: {error}", error.instance_path())).collect()
}

fn validator() -> jsonschema::Validator {
    jsonschema::validator_for(&schema()).expect("it is a schema")
}

/// Every functions.toml of the project, and the whole one that the README shows.
fn valid_files() -> Vec<(String, String)> {
    let mut found: Vec<PathBuf> = vec![project().join("functions.toml")];
    for folder in ["deploy", "guest-examples", "benches", "src/authoring", "templates"] {
        find(&project().join(folder), &mut found);
    }
    let mut files: Vec<(String, String)> =
        found.iter().map(|path| (path.display().to_string(), std::fs::read_to_string(path).unwrap())).collect();
    let readme = std::fs::read_to_string(project().join("README.md")).unwrap();
    let blocks = readme.split("```toml\n").skip(1).map(|block| block.split("```").next().unwrap());
    files.extend(
        blocks.filter(|block| block.starts_with("name =")).map(|block| ("README.md".to_owned(), block.to_owned())),
    );
    files
}

fn find(folder: &std::path::Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap()) {
        let (path, name) = (entry.path(), entry.file_name());
        if path.is_dir() && name != "target" && name != "node_modules" {
            find(&path, found);
        } else if name == "functions.toml" {
            found.push(path);
        }
    }
}

#[test]
fn the_file_in_the_tree_is_what_the_binary_prints() {
    let file = project().join("schema/functions.schema.json");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&file, printed()).unwrap();
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), printed(), "`UPDATE=1 cargo test schema` writes it anew");
}

#[test]
fn whatever_is_good_is_valid() {
    let validator = validator();
    let files = valid_files();
    assert!(files.len() >= 3, "{files:?}");
    for (name, toml) in files {
        assert_eq!(errors_of(&validator, &toml), Vec::<String>::new(), "{name}");
    }
    // How to host, and nothing else.
    assert!(errors_of(&validator, "[host]\nlisten = \"127.0.0.1:0\"\nadmin = \"off\"\n").is_empty());
}

#[test]
fn much_of_what_is_wrong_is_seen_while_it_is_typed() {
    let validator = validator();
    // Mistakes that no schema can see: they are in the sense, or in what stands elsewhere in the file.
    let unseen = [
        "bad_listen",
        "bad_admin",
        "bad_redirect_http",
        "redirect_to_itself",
        "duplicate_route",
        "duplicate_route_in_one_function",
        "memory_below_a_page",
        "too_large",
        "missing_component",
        "missing_component_with_build",
        "bad_sticky_header",
        "zero_limits",
    ];
    let mut seen = 0;
    for entry in std::fs::read_dir(project().join("tests/manifest")).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.extension().is_none_or(|extension| extension != "toml") {
            continue;
        }
        let name = entry.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = std::fs::read_to_string(&entry).unwrap();
        if text.parse::<toml::Table>().is_err() || unseen.contains(&&*name) {
            continue;
        }
        assert!(!errors_of(&validator, &text).is_empty(), "{name} is wrong, and the schema accepts it");
        seen += 1;
    }
    assert!(seen >= 20, "{seen}");
}

/// Each table of functions.toml: where it is in the schema, and a file that has a key there that nobody knows.
const PLACES: [(&str, &str); 28] = [
    ("", "zzzzzzzz = 1"),
    ("Host", "[host]\nzzzzzzzz = 1"),
    ("Tls", "[host.tls]\nzzzzzzzz = 1"),
    ("Certificate", "[[host.tls.certificates]]\nzzzzzzzz = 1"),
    ("Observe", "[observe]\nzzzzzzzz = 1"),
    ("Tariff", "[tariff]\nzzzzzzzz = 1"),
    ("Limits", "[limits]\nzzzzzzzz = 1"),
    ("Limits", "[functions.it.limits]\nzzzzzzzz = 1"),
    ("Release", "[release]\nzzzzzzzz = 1"),
    ("RollbackWhen", "[release.rollback-when]\nzzzzzzzz = 1"),
    ("Store", "[stores.it]\nzzzzzzzz = 1"),
    ("Database", "[databases.it]\nzzzzzzzz = 1"),
    ("Reference", "[databases.it.url]\nenv = \"A\"\nzzzzzzzz = 1"),
    ("Reference", "[stores.it.url]\nenv = \"A\"\nzzzzzzzz = 1"),
    ("VariableReference", "[variables.it]\nenv = \"A\"\nzzzzzzzz = 1"),
    ("Function", "[functions.it]\nzzzzzzzz = 1"),
    ("Files", "[[functions.it.files]]\nzzzzzzzz = 1"),
    ("Link", "[middleware.it]\nzzzzzzzz = 1"),
    ("Cors", "[middleware.it.cors]\nzzzzzzzz = 1"),
    ("BasicAuth", "[middleware.it.basic-auth]\nzzzzzzzz = 1"),
    ("Bearer", "[middleware.it.bearer]\nzzzzzzzz = 1"),
    ("RateLimit", "[middleware.it.rate-limit]\nzzzzzzzz = 1"),
    ("RateLimitHeader", "[middleware.it.rate-limit.by]\nzzzzzzzz = 1"),
    ("Compress", "[middleware.it.compress]\nzzzzzzzz = 1"),
    ("Static", "[middleware.it.static]\nzzzzzzzz = 1"),
    ("Redirect", "[middleware.it.redirect]\nzzzzzzzz = 1"),
    ("Headers", "[middleware.it.headers]\nzzzzzzzz = 1"),
    ("Changes", "[middleware.it.headers.request]\nzzzzzzzz = 1"),
];

#[test]
fn the_keys_of_each_table_are_those_that_the_host_knows() {
    let schema = schema();
    let folder = tempfile::tempdir().unwrap();
    for (place, text) in PLACES {
        std::fs::write(folder.path().join("functions.toml"), text).unwrap();
        let ended = fnhost(folder.path()).arg("check").output().unwrap();
        let told = String::from_utf8(ended.stderr).unwrap();
        let line = told.lines().find(|line| line.contains(" = help: the keys of ")).expect(&told);
        let known: BTreeSet<&str> = line.split_once(" are: ").unwrap().1.split(", ").collect();
        let table = if place.is_empty() { &schema } else { &schema["definitions"][place] };
        let described: BTreeSet<&str> = table["properties"].as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(described, known, "{place}");
        assert_eq!(table["additionalProperties"], json!(false), "{place}");
    }
    // None is left out, but for the one in which every other key is a name.
    let tables = schema["definitions"].as_object().unwrap().iter().filter(|(_, table)| table["properties"].is_object());
    let tables: BTreeSet<&str> = tables.map(|(name, _)| name.as_str()).filter(|name| *name != "Middleware").collect();
    assert_eq!(tables, PLACES.iter().map(|(place, _)| *place).filter(|place| !place.is_empty()).collect());
}

#[test]
fn everything_is_described() {
    fn undescribed(at: &str, schema: &Value, found: &mut Vec<String>) {
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let at = format!("{at}/{name}");
            if property["description"].as_str().is_none_or(str::is_empty) {
                found.push(at.clone());
            }
        }
    }
    let (schema, mut found) = (schema(), Vec::new());
    undescribed("", &schema, &mut found);
    for (name, table) in schema["definitions"].as_object().unwrap() {
        undescribed(name, table, &mut found);
    }
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn units_and_names_are_held_to_their_form() {
    let validator = validator();
    let app = |more: &str| format!("name = \"a\"\n[functions.f]\ncomponent = \"f.wasm\"\nroutes = [\"/\"]\n{more}\n");
    for good in [
        "limits = { timeout = \"none\", cpu = \"1.5 s\", memory = \"64 MiB\", queue = 1 }",
        "env = { A = \"b\" }\noutbound = [\"tcp://10.0.0.0/8:*\"]",
        "files = [{ from = \"a\", to = \"/a\", writable = true }]",
    ] {
        assert_eq!(errors_of(&validator, &app(good)), Vec::<String>::new(), "{good}");
    }
    for bad in [
        "limits = { cpu = \"none\" }",
        "limits = { cpu = \"10\" }",
        "limits = { memory = \"64 mib\" }",
        "limits = { queue = 0 }",
        "limits = { queue = \"1\" }",
        "env = { \"A=\" = \"b\" }",
        "outbound = [\"ftp://a\"]",
        "files = [{ from = \"a\", to = \"a\" }]",
        "build-dir = \"a\"",
        "[functions.Upper]\ncomponent = \"f.wasm\"\nroutes = [\"/u\"]",
        "[variables]\na = { env = \"A\", file = \"b\" }",
    ] {
        assert!(!errors_of(&validator, &app(bad)).is_empty(), "{bad}");
    }
}
