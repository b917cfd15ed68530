//! What must also be true of functions.toml: names, units, bounds, routes. Fills in the defaults.
//!
//! Reads the text alone: whether files exist and what they hold is looked at when they are installed.

mod data;
mod middleware;
mod tls;

use super::data::DataSpec;
use super::diagnostic::Diagnostic;
use super::file::{
    FunctionFile, HostFile, LimitsFile, ManifestFile, ObserveFile, ReleaseFile, RollbackFile, TariffFile, place,
};
use super::middleware::MiddlewareSpec;
use super::pattern::RoutePattern;
use super::{Build, FunctionSpec, HostConfig, ObserveConfig, ReleaseConfig, RollbackWhen, RouteSpec, Sticky};
use crate::grants::{OutboundGrant, OutboundGrants};
use crate::limits::{
    self, BODY_BYTES_MAX, COMPONENT_BYTES_MAX, COUNT_MAX, LOG_BYTES_MAX, LOG_BYTES_MIN, Limits, MEMORY_BYTES_MAX,
    MEMORY_BYTES_MIN, RECEIPTS_MAX, Share, UnitError,
};
use crate::names::{HOST_HEADERS, Name};
use crate::network::Network;
use crate::usage::Tariff;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;
use toml::Spanned;

/// The highest price: above it a typing error is likelier than a need.
const PRICE_MAX: f64 = 1e9;

/// What a checked file comes to.
pub(super) struct Checked {
    pub(super) name: Name,
    pub(super) host: HostConfig,
    pub(super) release: ReleaseConfig,
    pub(super) data: DataSpec,
    pub(super) middleware: Vec<MiddlewareSpec>,
    pub(super) functions: Vec<FunctionSpec>,
}

/// Checks `file`, whose relative paths start at `folder`. Every mistake is reported, not the first alone; a value that
/// is wrong is replaced by its default so that the checks behind it can go on.
pub(super) fn check(file: ManifestFile, folder: &Path) -> (Option<Checked>, Vec<Diagnostic>) {
    let mut errors = Vec::new();
    let name = if let Some(written) = file.name {
        check_name(&written, "app", &mut errors)
    } else {
        let missing = Diagnostic::new(0..0, "the app has no name");
        errors.push(missing.help("write `name = \"my-app\"` at the top of the file"));
        None
    };
    let host = check_host(file.host, folder, &mut errors);
    let release = check_release(file.release, &mut errors);
    let shared = check_limits(&file.limits, &Limits::default(), &mut errors);
    let data = data::check(file.data, folder, &mut errors);
    let mut middleware = middleware::check(file.middleware, folder, &mut errors);
    if file.functions.is_empty() {
        let none = Diagnostic::new(0..0, "the file declares no function");
        errors.push(none.help("add a table such as `[functions.hello]` with `component` and `routes`"));
    }
    let functions: Vec<FunctionSpec> = file
        .functions
        .into_iter()
        .filter_map(|(name, mut function)| {
            let chain = middleware.chain(function.middleware.take(), &mut errors);
            let function = check_function(&name, function, &shared, &data, folder, &mut errors);
            function.map(|function| FunctionSpec { middleware: chain, ..function })
        })
        .collect();
    let middleware = middleware.finish(&mut errors);
    check_routes_differ(&functions, &mut errors);
    (name.map(|name| Checked { name, host, release, data, middleware, functions }), errors)
}

fn check_name(written: &Spanned<String>, what: &str, errors: &mut Vec<Diagnostic>) -> Option<Name> {
    match Name::new(written.get_ref()) {
        Ok(name) => Some(name),
        Err(error) => {
            let bad =
                Diagnostic::new(written.span(), format!("`{}` cannot name the {what}: {error}", written.get_ref()));
            errors.push(match Name::nearest(written.get_ref()) {
                Some(name) => bad.help(format!("`{name}` would do")),
                None => bad,
            });
            None
        }
    }
}

/// Checks what a file says of how to host.
pub(super) fn check_host(file: HostFile, folder: &Path, errors: &mut Vec<Diagnostic>) -> HostConfig {
    let default = HostConfig::default();
    let listen = file.listen.and_then(|written| address(&written, "", errors)).unwrap_or(default.listen);
    let admin = match file.admin {
        None => default.admin,
        Some(written) if written.get_ref() == "off" => None,
        Some(written) => address(&written, "; or `off`", errors),
    };
    let state = file.state.as_ref().map_or(default.state.as_path(), |written| Path::new(written.get_ref()));
    HostConfig {
        listen,
        admin,
        state: folder.join(state),
        concurrency: count(file.concurrency.as_ref(), default.concurrency, "concurrency", errors),
        loaded_functions: count(file.loaded_functions.as_ref(), default.loaded_functions, "loaded-functions", errors),
        connections: count(file.connections.as_ref(), default.connections, "connections", errors),
        connections_per_client: count(
            file.connections_per_client.as_ref(),
            default.connections_per_client,
            "connections-per-client",
            errors,
        ),
        requests_per_connection: count(
            file.requests_per_connection.as_ref(),
            default.requests_per_connection,
            "requests-per-connection",
            errors,
        ),
        trusted_proxies: networks(file.trusted_proxies, errors),
        proxy_protocol: networks(file.proxy_protocol, errors),
        tls: tls::check(file.tls, listen, folder, errors),
        header_timeout: duration(file.header_timeout.as_ref(), default.header_timeout, errors),
        body_timeout: duration(file.body_timeout.as_ref(), default.body_timeout, errors),
        idle_timeout: duration(file.idle_timeout.as_ref(), default.idle_timeout, errors),
        write_timeout: duration(file.write_timeout.as_ref(), default.write_timeout, errors),
        shutdown_grace: duration(file.shutdown_grace.as_ref(), default.shutdown_grace, errors),
        server_timing: file.server_timing.map_or(default.server_timing, Spanned::into_inner),
        keep_releases: count(file.keep_releases.as_ref(), default.keep_releases, "keep-releases", errors),
        component_bytes_max: size(
            file.max_component.as_ref(),
            default.component_bytes_max,
            COMPONENT_BYTES_MAX,
            errors,
        ),
        observe: check_observe(&file.observe, errors),
        tariff: file.tariff.map(|tariff| check_tariff(&tariff, errors)),
    }
}

fn check_observe(file: &ObserveFile, errors: &mut Vec<Diagnostic>) -> ObserveConfig {
    let default = ObserveConfig::default();
    let log_bytes = match &file.keep_logs {
        None => default.log_bytes,
        Some(written) if written.get_ref() == "off" => None,
        Some(written) => {
            let bytes = size(Some(written), LOG_BYTES_MIN, LOG_BYTES_MAX, errors);
            if bytes < LOG_BYTES_MIN {
                let small = Diagnostic::new(written.span(), "log lines are kept in files of 1 MiB and more");
                errors.push(small.help("write `1 MiB` or more, or `off`"));
            }
            Some(bytes)
        }
    };
    let share = |text: &str| limits::parse_share(text);
    let help = "write a part of a hundred, such as `10%`";
    let is_true = |written: &Option<Spanned<bool>>, default| written.as_ref().map_or(default, |truth| *truth.get_ref());
    ObserveConfig {
        metrics: is_true(&file.metrics, default.metrics),
        usage: is_true(&file.usage, default.usage),
        usage_days: count(file.keep_usage_days.as_ref(), default.usage_days, "keep-usage-days", errors),
        receipts: file.keep_receipts.as_ref().map_or(default.receipts, |written| check_receipts(written, errors)),
        log_bytes,
        otlp: file.otlp.as_ref().and_then(|written| check_otlp(written, errors)),
        otlp_sample: amount(file.otlp_sample.as_ref(), default.otlp_sample, share, help, errors),
    }
}

fn check_receipts(written: &Spanned<i64>, errors: &mut Vec<Diagnostic>) -> u32 {
    match u32::try_from(*written.get_ref()) {
        Ok(count) if count <= RECEIPTS_MAX => count,
        _ => {
            let bad = Diagnostic::new(written.span(), format!("`keep-receipts` cannot be {}", written.get_ref()));
            errors.push(bad.help(format!("write a whole number up to {RECEIPTS_MAX}, or 0 for none")));
            0
        }
    }
}

fn check_otlp(written: &Spanned<String>, errors: &mut Vec<Diagnostic>) -> Option<http::Uri> {
    let parsed = written.get_ref().parse::<http::Uri>().ok();
    let usable = parsed.filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.path() == "/");
    if usable.is_none() {
        let bad = Diagnostic::new(written.span(), format!("`{}` is no receiver of OTLP", written.get_ref()));
        errors.push(bad.help("write its URL for gRPC, such as `http://127.0.0.1:4317`"));
    }
    usable
}

fn check_tariff(file: &TariffFile, errors: &mut Vec<Diagnostic>) -> Tariff {
    let mut price = |written: &Option<Spanned<f64>>| {
        let Some(written) = written else { return 0.0 };
        if (0.0..=PRICE_MAX).contains(written.get_ref()) {
            return *written.get_ref();
        }
        let bad = Diagnostic::new(written.span(), format!("{} is no price", written.get_ref()));
        errors.push(bad.help(format!("write a number from 0 to {PRICE_MAX}")));
        0.0
    };
    let (per_million_requests, per_cpu_hour) = (price(&file.per_million_requests), price(&file.per_cpu_hour));
    let (per_gb_second, per_gb_out) = (price(&file.per_gb_second), price(&file.per_gb_out));
    let currency = file.currency.as_ref().map_or("USD".to_owned(), |written| {
        let code = written.get_ref();
        if code.len() != 3 || !code.bytes().all(|byte| byte.is_ascii_uppercase()) {
            let bad = Diagnostic::new(written.span(), format!("`{code}` is no currency"));
            errors.push(bad.help("write its three letters (ISO 4217), such as `USD` or `EUR`"));
        }
        code.clone()
    });
    Tariff { currency, per_million_requests, per_cpu_hour, per_gb_second, per_gb_out }
}

fn address(written: &Spanned<String>, or_else: &str, errors: &mut Vec<Diagnostic>) -> Option<SocketAddr> {
    if let Ok(address) = written.get_ref().parse::<SocketAddr>() {
        return Some(address);
    }
    let bad = Diagnostic::new(written.span(), format!("`{}` is no address to listen on", written.get_ref()));
    let help = format!("write an IP address and a port, such as `127.0.0.1:3000` or `0.0.0.0:80`{or_else}");
    errors.push(bad.help(help));
    None
}

fn networks(written: Option<Spanned<Vec<Spanned<String>>>>, errors: &mut Vec<Diagnostic>) -> Vec<Network> {
    let mut networks = Vec::new();
    for text in written.map(Spanned::into_inner).unwrap_or_default() {
        if let Ok(network) = text.get_ref().parse() {
            networks.push(network);
        } else {
            let bad = Diagnostic::new(text.span(), format!("`{}` is no address and no network", text.get_ref()));
            errors.push(bad.help("write an IP address, or a network such as `10.0.0.0/8`"));
        }
    }
    networks
}

fn check_release(file: ReleaseFile, errors: &mut Vec<Diagnostic>) -> ReleaseConfig {
    let sticky = file.sticky.map_or(Sticky::No, |written| check_sticky(&written, errors));
    let rollback_when = file.rollback_when.map(|(file, span)| check_rollback(&file, span, errors));
    ReleaseConfig { sticky, rollback_when }
}

fn check_sticky(written: &Spanned<String>, errors: &mut Vec<Diagnostic>) -> Sticky {
    let text = written.get_ref();
    if text == "cookie" {
        return Sticky::Cookie;
    }
    if let Some(name) = text.strip_prefix("header:")
        && let Ok(name) = name.parse::<http::HeaderName>()
        && !name.as_str().starts_with(HOST_HEADERS)
    {
        return Sticky::Header(name);
    }
    let bad = Diagnostic::new(written.span(), format!("`{text}` tells no clients apart"));
    errors
        .push(bad.help("write `cookie`, or `header:` and the name of a header that each client has its own value in"));
    Sticky::No
}

fn check_rollback(file: &RollbackFile, span: Range<usize>, errors: &mut Vec<Diagnostic>) -> RollbackWhen {
    let default = RollbackWhen::default();
    let share = |text: &str| limits::parse_share(text);
    let help = "write a part of a hundred, such as `2%`";
    if file.errors.is_none() && file.handler_p99.is_none() {
        let idle = Diagnostic::new(span, "`rollback-when` has nothing to watch");
        errors.push(idle.help("write `errors`, `handler-p99`, or both, as in `{ errors = \"2%\", window = \"60s\" }`"));
    }
    RollbackWhen {
        errors: file.errors.as_ref().map(|written| amount(Some(written), Share::ALL, share, help, errors)),
        handler_p99: file.handler_p99.as_ref().map(|written| duration(Some(written), Duration::MAX, errors)),
        window: duration(file.window.as_ref(), default.window, errors),
        requests: count(file.requests.as_ref(), default.requests, "requests", errors),
    }
}

fn check_limits(file: &LimitsFile, default: &Limits, errors: &mut Vec<Diagnostic>) -> Limits {
    let timeout = match &file.timeout {
        None => default.timeout,
        Some(written) if written.get_ref() == "none" => None,
        Some(written) => Some(duration(Some(written), Duration::MAX, errors)),
    };
    let memory_bytes = size(file.memory.as_ref(), default.memory_bytes, MEMORY_BYTES_MAX, errors);
    if let Some(written) = file.memory.as_ref().filter(|_| memory_bytes < MEMORY_BYTES_MIN) {
        let small =
            Diagnostic::new(written.span(), "a guest's memory grows by pages of 64 KiB, and this is less than one");
        errors.push(small.help("Rust guests start with about 1.1 MiB"));
    }
    Limits {
        timeout,
        cpu: duration(file.cpu.as_ref(), default.cpu, errors),
        memory_bytes,
        concurrency: count(file.concurrency.as_ref(), default.concurrency, "concurrency", errors),
        queue: count(file.queue.as_ref(), default.queue, "queue", errors),
        queue_wait: duration(file.queue_wait.as_ref(), default.queue_wait, errors),
        request_body_bytes: size(file.request_body.as_ref(), default.request_body_bytes, BODY_BYTES_MAX, errors),
        outbound_requests: count(
            file.outbound_requests.as_ref(),
            default.outbound_requests,
            "outbound-requests",
            errors,
        ),
        outbound_connections: count(
            file.outbound_connections.as_ref(),
            default.outbound_connections,
            "outbound-connections",
            errors,
        ),
    }
}

fn duration(written: Option<&Spanned<String>>, default: Duration, errors: &mut Vec<Diagnostic>) -> Duration {
    let read = |text: &str| limits::parse_duration(text);
    amount(written, default, read, "write a number and us, ms, s, m or h, such as `500ms`", errors)
}

fn size(written: Option<&Spanned<String>>, default: u64, ceiling: u64, errors: &mut Vec<Diagnostic>) -> u64 {
    let read = |text: &str| limits::parse_size(text, ceiling);
    amount(written, default, read, "write a number and B, KiB, MiB or GiB, such as `64 MiB`", errors)
}

fn amount<T>(
    written: Option<&Spanned<String>>,
    default: T,
    read: impl Fn(&str) -> Result<T, UnitError>,
    help: &str,
    errors: &mut Vec<Diagnostic>,
) -> T {
    let Some(written) = written else { return default };
    match read(written.get_ref()) {
        Ok(amount) => amount,
        Err(error) => {
            errors.push(Diagnostic::new(written.span(), error.to_string()).help(help));
            default
        }
    }
}

fn count(written: Option<&Spanned<i64>>, default: u32, key: &str, errors: &mut Vec<Diagnostic>) -> u32 {
    let Some(written) = written else { return default };
    match u32::try_from(*written.get_ref()) {
        Ok(count) if (1..=COUNT_MAX).contains(&count) => count,
        _ => {
            let bad = Diagnostic::new(written.span(), format!("`{key}` cannot be {}", written.get_ref()));
            errors.push(bad.help(format!("write a whole number from 1 to {COUNT_MAX}")));
            default
        }
    }
}

fn check_function(
    name: &Spanned<String>,
    mut file: FunctionFile,
    shared: &Limits,
    data: &DataSpec,
    folder: &Path,
    errors: &mut Vec<Diagnostic>,
) -> Option<FunctionSpec> {
    let checked_name = check_name(name, "function", errors);
    let limits = check_limits(&file.limits, shared, errors);
    let data = data::check_grants(&mut file, data, folder, errors);
    let routes = check_routes(name, file.routes, errors);
    let outbound = check_outbound(file.outbound, errors);
    let build = check_build(file.build, file.build_dir, folder, errors);
    check_env(&file.env, errors);
    let Some(component) = file.component else {
        let missing = Diagnostic::new(name.span(), format!("the function `{}` has no component", name.get_ref()));
        errors.push(missing.help("write `component = \"path/to/it.wasm\"`, relative to this file"));
        return None;
    };
    let memory_span = place(file.limits.memory.as_ref(), component.span());
    Some(FunctionSpec {
        name: checked_name?,
        component_span: component.span(),
        memory_span,
        component: folder.join(component.get_ref()),
        build,
        routes,
        env: plain(file.env),
        config: plain(file.config),
        outbound,
        data,
        middleware: Vec::new(),
        limits,
    })
}

fn plain(pairs: Vec<(Spanned<String>, Spanned<String>)>) -> Vec<(String, String)> {
    pairs.into_iter().map(|(key, value)| (key.into_inner(), value.into_inner())).collect()
}

fn check_build(
    command: Option<Spanned<String>>,
    build_folder: Option<Spanned<String>>,
    folder: &Path,
    errors: &mut Vec<Diagnostic>,
) -> Option<Build> {
    let span = place(build_folder.as_ref(), 0..0);
    let build_folder = build_folder.map(Spanned::into_inner);
    if let Some(command) = command {
        Some(Build {
            command: command.into_inner(),
            folder: build_folder.map_or_else(|| folder.to_owned(), |relative| folder.join(relative)),
        })
    } else {
        if build_folder.is_some() {
            let alone = Diagnostic::new(span, "`build-dir` says where `build` runs, and there is no `build`");
            errors.push(alone.help("add `build = \"…\"`, or take `build-dir` out"));
        }
        None
    }
}

fn check_env(env: &[(Spanned<String>, Spanned<String>)], errors: &mut Vec<Diagnostic>) {
    for (key, value) in env {
        if key.get_ref().is_empty() || key.get_ref().contains(['=', '\0']) {
            errors.push(Diagnostic::new(key.span(), "an environment variable has a name, and no `=` in it"));
        }
        if value.get_ref().contains('\0') {
            errors.push(Diagnostic::new(value.span(), "an environment variable cannot hold a NUL"));
        }
    }
}

fn check_outbound(written: Option<Spanned<Vec<Spanned<String>>>>, errors: &mut Vec<Diagnostic>) -> OutboundGrants {
    let mut grants = Vec::new();
    for entry in written.map(Spanned::into_inner).unwrap_or_default() {
        match OutboundGrant::parse(entry.get_ref()) {
            Ok(grant) => grants.push(grant),
            Err(error) => {
                let bad = Diagnostic::new(entry.span(), error.to_string());
                errors.push(
                    bad.help("such as `https://api.example.com`, `https://*.example.com:*` or `http://127.0.0.1:8080`"),
                );
            }
        }
    }
    OutboundGrants::new(grants)
}

fn check_routes(
    name: &Spanned<String>,
    written: Option<Spanned<Vec<Spanned<String>>>>,
    errors: &mut Vec<Diagnostic>,
) -> Vec<RouteSpec> {
    const HELP: &str = "such as `GET /hello/{name}`, `/files/{*rest}` or `example.com/v1/{*rest}`";
    let span = place(written.as_ref(), name.span());
    let entries = written.map(Spanned::into_inner).unwrap_or_default();
    if entries.is_empty() {
        let none = Diagnostic::new(span, format!("the function `{}` has no route", name.get_ref()));
        errors.push(none.help(format!("write `routes = [\"…\"]`, {HELP}")));
    }
    let mut routes = Vec::with_capacity(entries.len());
    for entry in entries {
        match RoutePattern::parse(entry.get_ref()) {
            Ok(pattern) => routes.push(RouteSpec { pattern, span: entry.span() }),
            Err(error) => errors.push(Diagnostic::new(entry.span(), error.to_string()).help(HELP)),
        }
    }
    routes
}

/// Two routes that claim the same requests are a mistake, whoever declares them. Routes of different shape never do:
/// the more exact one wins (`release::routes`).
fn check_routes_differ(functions: &[FunctionSpec], errors: &mut Vec<Diagnostic>) {
    let mut taken: HashMap<String, (&Name, Range<usize>)> = HashMap::new();
    for function in functions {
        for route in &function.routes {
            let claim = route.pattern.claim();
            if let Some((owner, span)) = taken.get(&claim) {
                let message = format!("`{}` claims the same requests as a route of `{owner}`", route.pattern);
                let twice = Diagnostic::new(route.span.clone(), message)
                    .other(span.clone(), format!("which `{owner}` has here"))
                    .help("change one of them; names of parameters make no difference");
                errors.push(twice);
            } else {
                taken.insert(claim, (&function.name, route.span.clone()));
            }
        }
    }
}
