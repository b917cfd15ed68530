//! The JSON schema of functions.toml, for editors: what may stand where, and what it means.
//!
//! The file itself is walked by hand (`file`), so these types are a second description of it. They are never made of
//! anything; tests hold them against what the host accepts, and their keys against those that it knows at each place.

#![expect(dead_code, reason = "only their shape and their words are wanted")]

mod middleware;

use middleware::Middleware;
use schemars::generate::SchemaSettings;
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema, Schema};
use serde_json::Value;
use std::collections::BTreeMap;

/// The schema, as JSON.
pub fn text() -> String {
    let settings = SchemaSettings::draft07()
        .with(|settings| settings.transforms.insert(0, Box::new(RecursiveTransform(without_null))));
    let schema = settings.into_generator().into_root_schema_for::<FunctionsToml>();
    // Objects and strings cannot fail to become JSON.
    serde_json::to_string_pretty(&schema).unwrap_or_default() + "\n"
}

/// What may be left out is not there; TOML has no `null`.
fn without_null(schema: &mut Schema) {
    let Some(object) = schema.as_object_mut() else { return };
    if let Some(Value::Array(types)) = object.get_mut("type") {
        types.retain(|name| name != "null");
        if let [one] = types.as_slice() {
            let one = one.clone();
            object.insert("type".to_owned(), one);
        }
    }
    if let Some(Value::Array(choices)) = object.get_mut("anyOf") {
        choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
        if let [Value::Object(one)] = choices.as_slice() {
            let one = one.clone();
            object.remove("anyOf");
            object.extend(one);
        }
    }
}

/// An app: its functions, their routes, and what they may use. Or, with `host`, `observe` and `tariff` alone, how to host
/// apps that come from elsewhere.
#[derive(JsonSchema)]
#[schemars(
    rename = "functions.toml",
    rename_all = "kebab-case",
    deny_unknown_fields,
    extend("anyOf" = [
        { "required": ["name", "functions"] },
        { "propertyNames": { "enum": ["host", "observe", "tariff"] }, "minProperties": 1 }
    ])
)]
struct FunctionsToml {
    /// The app's name.
    name: Option<Name>,
    /// How it is hosted. The machine's, and not deployed.
    host: Option<Host>,
    /// What is kept and told of requests. The machine's, and not deployed.
    observe: Option<Observe>,
    /// What usage costs; nothing when absent, and what is left out is free.
    tariff: Option<Tariff>,
    /// What every function may use; a function's own `limits` override key by key.
    limits: Option<Limits>,
    /// How a release becomes live.
    release: Option<Release>,
    /// Key-value stores of the app. A function names those that it uses in its `stores`.
    stores: Option<BTreeMap<Name, Store>>,
    /// Databases of the app. A function names those that it uses in its `databases`.
    databases: Option<BTreeMap<Name, Database>>,
    /// Values that functions may read. A function names those that it uses in its `variables`.
    variables: Option<BTreeMap<VariableName, Variable>>,
    /// What stands before functions.
    middleware: Option<Middleware>,
    /// The functions.
    #[schemars(extend("minProperties" = 1))]
    functions: Option<BTreeMap<Name, Function>>,
}

/// How the app is hosted.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Host {
    /// Where to listen: an IP address and a port, such as `127.0.0.1:3000`. Port 0 takes a free one.
    listen: Option<String>,
    /// Where the admin API listens; `off` for nowhere.
    admin: Option<String>,
    /// The folder of releases, components, compiled code and the admin token.
    state: Option<String>,
    /// Sandboxes alive at once, all functions together.
    concurrency: Option<Count>,
    /// Functions whose code is kept mapped; of more, those that were called lately are.
    loaded_functions: Option<Count>,
    /// Connections open at once.
    connections: Option<Count>,
    /// Those among them of one client: of one address, or of one network of IPv6.
    connections_per_client: Option<Count>,
    /// Requests on one connection, which is closed behind the last.
    requests_per_connection: Option<Count>,
    /// Whose word on a request's client is taken: addresses and networks of proxies, such as `10.0.0.0/8`.
    trusted_proxies: Option<Vec<String>>,
    /// Whose connections begin with a head of the PROXY protocol: addresses and networks.
    proxy_protocol: Option<Vec<String>>,
    /// A connection that does not finish its request head in time is closed.
    header_timeout: Option<Time>,
    /// How long a client may pause in the middle of an upload.
    body_timeout: Option<Time>,
    /// A connection on which nothing is asked for so long is closed.
    idle_timeout: Option<Time>,
    /// How long a client may take nothing of its answer.
    write_timeout: Option<Time>,
    /// TLS: for functions, for the admin API, or for both.
    tls: Option<Tls>,
    /// How long requests may go on once the host was asked to stop.
    shutdown_grace: Option<Time>,
    /// Whether responses carry `Server-Timing`.
    server_timing: Option<bool>,
    /// Releases of each app that are kept; the live one and its canary always are.
    keep_releases: Option<Count>,
    /// The largest component that can be deployed.
    max_component: Option<Size>,
}

/// TLS, with a certificate for each name. Their files are read again when they change.
#[derive(JsonSchema)]
#[schemars(
    rename_all = "kebab-case",
    deny_unknown_fields,
    extend(
        "anyOf" = [{ "required": ["certificates"] }, { "required": ["admin-certificates"] }],
        "dependencies" = { "redirect-http": ["certificates"] }
    )
)]
struct Tls {
    /// What functions are served by: HTTPS in place of HTTP.
    #[schemars(length(min = 1))]
    certificates: Option<Vec<Certificate>>,
    /// The same for the admin API.
    #[schemars(length(min = 1))]
    admin_certificates: Option<Vec<Certificate>>,
    /// Where plain HTTP is answered with the way to HTTPS (308): an IP address and a port, such as `0.0.0.0:80`.
    redirect_http: Option<String>,
}

/// A certificate, and its key.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Certificate {
    /// A PEM file of the certificate and of those that lead from it to an authority.
    cert: String,
    /// A PEM file of its private key.
    key: String,
}

/// What is kept and told of requests.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Observe {
    /// Whether there are counts and histograms (`/metrics`).
    metrics: Option<bool>,
    /// Whether usage is added up.
    usage: Option<bool>,
    /// For how many days it is kept.
    keep_usage_days: Option<Count>,
    /// How many of the latest receipts are kept in memory; 0 for none.
    #[schemars(range(min = 0, max = 100_000))]
    keep_receipts: Option<u32>,
    /// How much of the log is kept in the state folder; `off` for nothing.
    keep_logs: Option<SizeOrOff>,
    /// Where traces are told: the URL of an OTLP receiver for gRPC, such as `http://127.0.0.1:4317`.
    #[schemars(extend("pattern" = "^https?://[^/]+/?$"))]
    otlp: Option<String>,
    /// The part of the traces begun here that is told.
    otlp_sample: Option<Share>,
}

/// What usage costs.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Tariff {
    /// Three letters (ISO 4217), such as `USD`.
    #[schemars(extend("pattern" = "^[A-Z]{3}$"))]
    currency: Option<String>,
    /// A million requests.
    per_million_requests: Option<Price>,
    /// An hour of CPU time.
    per_cpu_hour: Option<Price>,
    /// A GB of memory for a second.
    per_gb_second: Option<Price>,
    /// A GB of response bodies.
    per_gb_out: Option<Price>,
}

/// How a release becomes live.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Release {
    /// By what clients are told apart, so that each sees one release only: `cookie`, or `header:NAME`.
    #[schemars(extend("pattern" = "^(cookie|header:.+)$"))]
    sticky: Option<String>,
    /// What ends a canary by itself.
    rollback_when: Option<RollbackWhen>,
}

/// When a canary ends by itself: when it does worse than this, and the live release does not.
#[derive(JsonSchema)]
#[schemars(
    rename_all = "kebab-case",
    deny_unknown_fields,
    extend("anyOf" = [{ "required": ["errors"] }, { "required": ["handler-p99"] }])
)]
struct RollbackWhen {
    /// Its part of errors, over that of the live release.
    errors: Option<Share>,
    /// The 99th percentile of its handlers' time.
    handler_p99: Option<Time>,
    /// Over how long both are looked at.
    window: Option<Time>,
    /// How many requests it must have had within the window.
    requests: Option<Count>,
}

/// What a function may use.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Limits {
    /// Wall clock, from the permit to the end of the body; `none` for long streams.
    timeout: Option<TimeOrNone>,
    /// CPU time.
    cpu: Option<Time>,
    /// All linear memories and tables of a sandbox together; 4 GiB at the most.
    memory: Option<Size>,
    /// Sandboxes of the function alive at once.
    concurrency: Option<Count>,
    /// Requests that may wait for a permit.
    queue: Option<Count>,
    /// How long one of them may wait.
    queue_wait: Option<Time>,
    /// The largest upload.
    request_body: Option<Size>,
    /// Calls out, and connections, that one request may make.
    outbound_requests: Option<Count>,
    /// Connections out that all requests together may have, kept ones included.
    outbound_connections: Option<Count>,
}

/// A key-value store: in the state folder, or where `url` says.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Store {
    /// `memory:`, or `redis://host:port`; one with a password is referred to, as in `{ env = "NAME" }`.
    url: Option<Text>,
    /// What the host writes before each key on a server that others use as well.
    prefix: Option<String>,
    /// For how long a value is kept that is not written again; for ever when absent.
    ttl: Option<Time>,
    /// Keys and values together.
    size: Option<Size>,
}

/// A database: SQLite in the state folder, or PostgreSQL where `url` says.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Database {
    /// `postgres://host:port/database`; one with a password is referred to, as in `{ env = "NAME" }`.
    url: Option<Text>,
    /// Connections to the server, of the whole host.
    #[schemars(range(min = 1, max = 1000))]
    pool: Option<u32>,
    /// A folder of `*.sql`, done once each in the order of their names.
    migrations: Option<String>,
    /// The largest that it may be.
    size: Option<Size>,
}

/// A text, or where it is to be had.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Text {
    /// The text itself.
    Plain(String),
    /// Where it is to be had.
    Reference(Reference),
}

/// A variable: a text, or where it is to be had.
#[derive(JsonSchema)]
#[schemars(untagged)]
enum Variable {
    /// The text itself.
    Plain(String),
    /// Where it is to be had.
    Reference(VariableReference),
}

/// Where a value is to be had: an environment variable of the host, or a file.
#[derive(JsonSchema)]
#[schemars(
    rename_all = "kebab-case",
    deny_unknown_fields,
    extend("oneOf" = [{ "required": ["env"] }, { "required": ["file"] }])
)]
struct Reference {
    /// An environment variable of the host, or of `.env` beside the file.
    env: Option<String>,
    /// What it is if the environment has none.
    default: Option<String>,
    /// A file, read without the end of its last line.
    file: Option<String>,
}

/// Where a variable is to be had: an environment variable of the host, or a file.
#[derive(JsonSchema)]
#[schemars(
    rename_all = "kebab-case",
    deny_unknown_fields,
    extend("oneOf" = [{ "required": ["env"] }, { "required": ["file"] }])
)]
struct VariableReference {
    /// An environment variable of the host, or of `.env` beside the file.
    env: Option<String>,
    /// What it is if the environment has none. A secret has no default.
    default: Option<String>,
    /// A file, read without the end of its last line.
    file: Option<String>,
    /// It is never shown.
    secret: Option<bool>,
}

/// A function: a component, its routes, and what it may use.
#[derive(JsonSchema)]
#[schemars(
    rename_all = "kebab-case",
    deny_unknown_fields,
    extend("dependencies" = { "build-dir": ["build"] })
)]
struct Function {
    /// The `.wasm` file, relative to this one.
    component: String,
    /// The command that makes it, for the shell.
    build: Option<String>,
    /// The folder that the command runs in, and whose files are its sources.
    build_dir: Option<String>,
    /// The requests that it answers.
    #[schemars(length(min = 1))]
    routes: Vec<Route>,
    /// Its environment.
    env: Option<BTreeMap<EnvName, String>>,
    /// Its configuration (`wasi:config/store`).
    config: Option<BTreeMap<String, String>>,
    /// Whom it may call; nobody when absent.
    outbound: Option<Vec<Outbound>>,
    /// The key-value stores that it may use.
    stores: Option<Vec<Name>>,
    /// The databases that it may use.
    databases: Option<Vec<Name>>,
    /// The variables that it may read.
    variables: Option<Vec<VariableName>>,
    /// Folders of the host that it sees.
    files: Option<Vec<Files>>,
    /// What stands before it, behind what stands before all.
    middleware: Option<Vec<Name>>,
    /// What it may use, where that is not what `[limits]` says.
    limits: Option<Limits>,
}

/// A folder of the host that a function sees.
#[derive(JsonSchema)]
#[schemars(rename_all = "kebab-case", deny_unknown_fields)]
struct Files {
    /// The folder, relative to this file.
    from: String,
    /// Where it is in the sandbox.
    #[schemars(extend("pattern" = "^/"))]
    to: String,
    /// Whether it may write there.
    writable: Option<bool>,
}

/// A name: a-z, 0-9 and `-`, a letter first and no `-` at the end.
#[derive(JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[schemars(extend("pattern" = "^[a-z]([a-z0-9-]*[a-z0-9])?$", "maxLength" = 63))]
struct Name(String);

/// The name of a variable: a-z, 0-9 and `_`, a letter first.
#[derive(JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[schemars(extend("pattern" = "^[a-z][a-z0-9_]*$", "maxLength" = 128))]
struct VariableName(String);

/// The name of a header.
#[derive(JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[schemars(extend("pattern" = r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$"))]
struct HeaderName(String);

/// The name of an environment variable.
#[derive(JsonSchema, PartialEq, Eq, PartialOrd, Ord)]
#[schemars(extend("pattern" = "^[^=]+$"))]
struct EnvName(String);

/// A time: `250us`, `500ms`, `1.5s`, `10m` or `1h`; a week at the most.
#[derive(JsonSchema)]
#[schemars(extend("pattern" = r"^([0-9]+\.?[0-9]*|\.[0-9]+)\s*(us|ms|s|m|h)$"))]
struct Time(String);

/// A time, or `none`.
#[derive(JsonSchema)]
#[schemars(extend("pattern" = r"^(none|([0-9]+\.?[0-9]*|\.[0-9]+)\s*(us|ms|s|m|h))$"))]
struct TimeOrNone(String);

/// A size: `100 B`, `64 KiB`, `16 MiB`, `4 GiB` or `10 MB`.
#[derive(JsonSchema)]
#[schemars(extend("pattern" = r"^([0-9]+\.?[0-9]*|\.[0-9]+)\s*(GiB|MiB|KiB|GB|MB|KB|B)$"))]
struct Size(String);

/// A size, or `off`.
#[derive(JsonSchema)]
#[schemars(extend("pattern" = r"^(off|([0-9]+\.?[0-9]*|\.[0-9]+)\s*(GiB|MiB|KiB|GB|MB|KB|B))$"))]
struct SizeOrOff(String);

/// A part of a hundred: `10%`, `0.5%`.
#[derive(JsonSchema)]
#[schemars(extend("pattern" = r"^([0-9]+\.?[0-9]*|\.[0-9]+)\s*%$"))]
struct Share(String);

/// A route: `[METHOD ][host]/path`, such as `GET /hello/{name}` or `example.com/v1/{*rest}`.
#[derive(JsonSchema)]
#[schemars(extend("pattern" = r"^([A-Z-]+ )?[^/\s]*/[^\s?#]*$", "maxLength" = 2048))]
struct Route(String);

/// Whom a function may call: `scheme://host[:port]`, such as `https://api.example.com` or `http://127.0.0.1:*`.
#[derive(JsonSchema)]
#[schemars(extend("pattern" = "^(https?|postgres|tcp|udp)://.+$"))]
struct Outbound(String);

/// A whole number, at least 1.
#[derive(JsonSchema)]
struct Count(#[schemars(range(min = 1, max = 1_000_000))] u32);

/// A price.
#[derive(JsonSchema)]
struct Price(#[schemars(range(min = 0.0, max = 1e9))] f64);
