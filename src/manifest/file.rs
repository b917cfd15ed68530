//! What functions.toml may say: its tables as they are written, with the place of every value.
//!
//! Nothing is resolved or defaulted here, and nothing is read but the text; `check` makes a `Manifest` of it. The
//! tables are walked by hand rather than through serde so that one run reports every mistake in the file instead of
//! the first. **Invariant:** a key that nobody asked for is an error.

pub(super) mod data;
pub(super) mod middleware;
pub(super) mod tls;

use super::diagnostic::{Diagnostic, did_you_mean};
use data::{DataFile, FilesFile};
use middleware::MiddlewareFile;
use std::cell::RefCell;
use std::ops::Range;
use tls::TlsFile;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// The tables that say how to host, and nothing of an app.
const HOST_TABLES: [&str; 3] = ["host", "observe", "tariff"];

/// The whole file.
#[derive(Debug, Default)]
pub(super) struct ManifestFile {
    pub(super) name: Option<Spanned<String>>,
    pub(super) host: HostFile,
    /// Whether it says nothing but how to host.
    pub(super) is_host_alone: bool,
    pub(super) limits: LimitsFile,
    pub(super) release: ReleaseFile,
    pub(super) data: DataFile,
    pub(super) middleware: MiddlewareFile,
    /// In the order of the file.
    pub(super) functions: Vec<(Spanned<String>, FunctionFile)>,
}

/// `[host]`, and the tables beside it that are the machine's as well.
#[derive(Debug, Default)]
pub(super) struct HostFile {
    pub(super) listen: Option<Spanned<String>>,
    pub(super) admin: Option<Spanned<String>>,
    pub(super) state: Option<Spanned<String>>,
    pub(super) concurrency: Option<Spanned<i64>>,
    pub(super) loaded_functions: Option<Spanned<i64>>,
    pub(super) connections: Option<Spanned<i64>>,
    pub(super) connections_per_client: Option<Spanned<i64>>,
    pub(super) requests_per_connection: Option<Spanned<i64>>,
    pub(super) trusted_proxies: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) proxy_protocol: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) header_timeout: Option<Spanned<String>>,
    pub(super) body_timeout: Option<Spanned<String>>,
    pub(super) idle_timeout: Option<Spanned<String>>,
    pub(super) write_timeout: Option<Spanned<String>>,
    pub(super) shutdown_grace: Option<Spanned<String>>,
    pub(super) server_timing: Option<Spanned<bool>>,
    pub(super) keep_releases: Option<Spanned<i64>>,
    pub(super) max_component: Option<Spanned<String>>,
    pub(super) tls: Option<TlsFile>,
    pub(super) observe: ObserveFile,
    pub(super) tariff: Option<TariffFile>,
}

/// `[observe]`
#[derive(Debug, Default)]
pub(super) struct ObserveFile {
    pub(super) metrics: Option<Spanned<bool>>,
    pub(super) usage: Option<Spanned<bool>>,
    pub(super) keep_usage_days: Option<Spanned<i64>>,
    pub(super) keep_receipts: Option<Spanned<i64>>,
    pub(super) keep_logs: Option<Spanned<String>>,
    pub(super) otlp: Option<Spanned<String>>,
    pub(super) otlp_sample: Option<Spanned<String>>,
}

/// `[tariff]`
#[derive(Debug, Default)]
pub(super) struct TariffFile {
    pub(super) currency: Option<Spanned<String>>,
    pub(super) per_million_requests: Option<Spanned<f64>>,
    pub(super) per_cpu_hour: Option<Spanned<f64>>,
    pub(super) per_gb_second: Option<Spanned<f64>>,
    pub(super) per_gb_out: Option<Spanned<f64>>,
}

/// `[release]`
#[derive(Debug, Default)]
pub(super) struct ReleaseFile {
    pub(super) sticky: Option<Spanned<String>>,
    pub(super) rollback_when: Option<(RollbackFile, Range<usize>)>,
}

/// `rollback-when` of `[release]`
#[derive(Debug, Default)]
pub(super) struct RollbackFile {
    pub(super) errors: Option<Spanned<String>>,
    pub(super) handler_p99: Option<Spanned<String>>,
    pub(super) window: Option<Spanned<String>>,
    pub(super) requests: Option<Spanned<i64>>,
}

/// `[limits]` and `[functions.NAME.limits]`
#[derive(Debug, Default)]
pub(super) struct LimitsFile {
    pub(super) timeout: Option<Spanned<String>>,
    pub(super) cpu: Option<Spanned<String>>,
    pub(super) memory: Option<Spanned<String>>,
    pub(super) concurrency: Option<Spanned<i64>>,
    pub(super) queue: Option<Spanned<i64>>,
    pub(super) queue_wait: Option<Spanned<String>>,
    pub(super) request_body: Option<Spanned<String>>,
    pub(super) outbound_requests: Option<Spanned<i64>>,
    pub(super) outbound_connections: Option<Spanned<i64>>,
}

/// `[functions.NAME]`
#[derive(Debug, Default)]
pub(super) struct FunctionFile {
    pub(super) component: Option<Spanned<String>>,
    pub(super) build: Option<Spanned<String>>,
    pub(super) build_dir: Option<Spanned<String>>,
    pub(super) routes: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) env: Vec<(Spanned<String>, Spanned<String>)>,
    pub(super) config: Vec<(Spanned<String>, Spanned<String>)>,
    pub(super) outbound: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) stores: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) databases: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) variables: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) files: Vec<FilesFile>,
    pub(super) middleware: Option<Spanned<Vec<Spanned<String>>>>,
    pub(super) limits: LimitsFile,
}

/// Reads `source`. What could not be read is left out of the result and is among the errors.
pub(super) fn read(source: &str) -> (ManifestFile, Vec<Diagnostic>) {
    let (document, syntax) = DeTable::parse_recoverable(source);
    if !syntax.is_empty() {
        // What a recovering parser makes of a broken file would only be reported as more mistakes.
        let errors = syntax.iter().map(|error| Diagnostic::new(error.span().unwrap_or(0..0), error.message()));
        return (ManifestFile::default(), errors.collect());
    }
    let errors = RefCell::new(Vec::new());
    let file = read_document(Table::new("the file", document.get_ref(), &errors));
    (file, errors.into_inner())
}

fn read_document(mut table: Table<'_>) -> ManifestFile {
    let file = ManifestFile {
        name: table.string("name"),
        host: HostFile {
            observe: table.table("observe").map(read_observe).unwrap_or_default(),
            tariff: table.table("tariff").map(read_tariff),
            ..table.table("host").map(read_host).unwrap_or_default()
        },
        is_host_alone: !table.entries.is_empty()
            && table.entries.keys().all(|key| HOST_TABLES.contains(&key.get_ref().as_ref())),
        limits: table.table("limits").map(read_limits).unwrap_or_default(),
        release: table.table("release").map(read_release).unwrap_or_default(),
        data: data::read(&mut table),
        middleware: table.table("middleware").map(middleware::read).unwrap_or_default(),
        functions: table.table("functions").map(|table| table.tables("functions", read_function)).unwrap_or_default(),
    };
    table.finish();
    file
}

fn read_host(mut table: Table<'_>) -> HostFile {
    let tls_span = table.entries.get("tls").map(Spanned::span).unwrap_or_default();
    let host = HostFile {
        listen: table.string("listen"),
        admin: table.string("admin"),
        state: table.string("state"),
        concurrency: table.integer("concurrency"),
        loaded_functions: table.integer("loaded-functions"),
        connections: table.integer("connections"),
        connections_per_client: table.integer("connections-per-client"),
        requests_per_connection: table.integer("requests-per-connection"),
        trusted_proxies: table.strings("trusted-proxies"),
        proxy_protocol: table.strings("proxy-protocol"),
        header_timeout: table.string("header-timeout"),
        body_timeout: table.string("body-timeout"),
        idle_timeout: table.string("idle-timeout"),
        write_timeout: table.string("write-timeout"),
        shutdown_grace: table.string("shutdown-grace"),
        server_timing: table.boolean("server-timing"),
        keep_releases: table.integer("keep-releases"),
        max_component: table.string("max-component"),
        tls: table.table("tls").map(|table| tls::read(table, tls_span)),
        ..HostFile::default()
    };
    table.finish();
    host
}

fn read_observe(mut table: Table<'_>) -> ObserveFile {
    let observe = ObserveFile {
        metrics: table.boolean("metrics"),
        usage: table.boolean("usage"),
        keep_usage_days: table.integer("keep-usage-days"),
        keep_receipts: table.integer("keep-receipts"),
        keep_logs: table.string("keep-logs"),
        otlp: table.string("otlp"),
        otlp_sample: table.string("otlp-sample"),
    };
    table.finish();
    observe
}

fn read_tariff(mut table: Table<'_>) -> TariffFile {
    let tariff = TariffFile {
        currency: table.string("currency"),
        per_million_requests: table.number("per-million-requests"),
        per_cpu_hour: table.number("per-cpu-hour"),
        per_gb_second: table.number("per-gb-second"),
        per_gb_out: table.number("per-gb-out"),
    };
    table.finish();
    tariff
}

fn read_release(mut table: Table<'_>) -> ReleaseFile {
    let span = table.entries.get("rollback-when").map(Spanned::span).unwrap_or_default();
    let release = ReleaseFile {
        sticky: table.string("sticky"),
        rollback_when: table.table("rollback-when").map(|table| (read_rollback(table), span)),
    };
    table.finish();
    release
}

fn read_rollback(mut table: Table<'_>) -> RollbackFile {
    let rollback = RollbackFile {
        errors: table.string("errors"),
        handler_p99: table.string("handler-p99"),
        window: table.string("window"),
        requests: table.integer("requests"),
    };
    table.finish();
    rollback
}

fn read_limits(mut table: Table<'_>) -> LimitsFile {
    let limits = LimitsFile {
        timeout: table.string("timeout"),
        cpu: table.string("cpu"),
        memory: table.string("memory"),
        concurrency: table.integer("concurrency"),
        queue: table.integer("queue"),
        queue_wait: table.string("queue-wait"),
        request_body: table.string("request-body"),
        outbound_requests: table.integer("outbound-requests"),
        outbound_connections: table.integer("outbound-connections"),
    };
    table.finish();
    limits
}

fn read_function(mut table: Table<'_>) -> FunctionFile {
    let function = FunctionFile {
        component: table.string("component"),
        build: table.string("build"),
        build_dir: table.string("build-dir"),
        routes: table.strings("routes"),
        env: table.string_map("env"),
        config: table.string_map("config"),
        outbound: table.strings("outbound"),
        stores: table.strings("stores"),
        databases: table.strings("databases"),
        variables: table.strings("variables"),
        files: table.files("files"),
        middleware: table.strings("middleware"),
        limits: table.table("limits").map(read_limits).unwrap_or_default(),
    };
    table.finish();
    function
}

fn owned(text: &Spanned<std::borrow::Cow<'_, str>>) -> Spanned<String> {
    Spanned::new(text.span(), text.get_ref().to_string())
}

/// A table under reading. It hands out its keys by type and reports what does not fit.
struct Table<'f> {
    what: String,
    entries: &'f DeTable<'f>,
    asked: Vec<&'static str>,
    errors: &'f RefCell<Vec<Diagnostic>>,
}

impl<'f> Table<'f> {
    fn new(what: impl Into<String>, entries: &'f DeTable<'f>, errors: &'f RefCell<Vec<Diagnostic>>) -> Self {
        Self { what: what.into(), entries, asked: Vec::new(), errors }
    }

    fn get(&mut self, key: &'static str) -> Option<&'f Spanned<DeValue<'f>>> {
        self.asked.push(key);
        self.entries.get(key)
    }

    fn wrong_type(&self, key: &str, value: &Spanned<DeValue<'_>>, wanted: &str) {
        let found = value.get_ref().type_str();
        let wrong = Diagnostic::new(value.span(), format!("`{key}` is {wanted}, and this is of type {found}"));
        self.error(match (wanted.contains("string"), value.get_ref().is_str()) {
            (true, false) => wrong.help("text stands in quotes, and so do times and sizes: `\"30s\"`, `\"64 MiB\"`"),
            (false, true) => wrong.help("take the quotes away"),
            _ => wrong,
        });
    }

    fn error(&self, diagnostic: Diagnostic) {
        self.errors.borrow_mut().push(diagnostic);
    }

    fn string(&mut self, key: &'static str) -> Option<Spanned<String>> {
        let value = self.get(key)?;
        let text = as_string(value);
        if text.is_none() {
            self.wrong_type(key, value, "a string in quotes");
        }
        text
    }

    fn integer(&mut self, key: &'static str) -> Option<Spanned<i64>> {
        let value = self.get(key)?;
        // One that is beyond all bounds is checked as the largest there is.
        let read = |digits: &str, radix| i64::from_str_radix(digits, radix).unwrap_or(i64::MAX);
        let number = value.get_ref().as_integer().map(|number| read(number.as_str(), number.radix()));
        if number.is_none() {
            self.wrong_type(key, value, "a whole number");
        }
        number.map(|number| Spanned::new(value.span(), number))
    }

    fn number(&mut self, key: &'static str) -> Option<Spanned<f64>> {
        let value = self.get(key)?;
        let float = value.get_ref().as_float().and_then(|float| float.as_str().parse().ok());
        // One that is beyond all bounds is checked as such.
        let whole = || value.get_ref().as_integer().map(|whole| whole.as_str().parse().unwrap_or(f64::INFINITY));
        let number = float.or_else(whole);
        if number.is_none() {
            self.wrong_type(key, value, "a number");
        }
        number.map(|number| Spanned::new(value.span(), number))
    }

    fn boolean(&mut self, key: &'static str) -> Option<Spanned<bool>> {
        let value = self.get(key)?;
        let truth = value.get_ref().as_bool();
        if truth.is_none() {
            self.wrong_type(key, value, "`true` or `false`");
        }
        truth.map(|truth| Spanned::new(value.span(), truth))
    }

    fn strings(&mut self, key: &'static str) -> Option<Spanned<Vec<Spanned<String>>>> {
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list of strings, as in [\"…\"]");
            return None;
        };
        let mut texts = Vec::with_capacity(array.len());
        for item in array {
            match as_string(item) {
                Some(text) => texts.push(text),
                None => self.wrong_type(key, item, "a list of strings"),
            }
        }
        Some(Spanned::new(value.span(), texts))
    }

    fn string_map(&mut self, key: &'static str) -> Vec<(Spanned<String>, Spanned<String>)> {
        let Some(table) = self.table(key) else { return Vec::new() };
        let mut pairs = Vec::with_capacity(table.entries.len());
        for (name, value) in table.entries {
            match as_string(value) {
                Some(text) => pairs.push((owned(name), text)),
                None => table.wrong_type(name.get_ref(), value, "a string in quotes"),
            }
        }
        pairs
    }

    fn table(&mut self, key: &'static str) -> Option<Table<'f>> {
        let value = self.get(key)?;
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a table");
            return None;
        };
        let what = if self.what == "the file" { format!("[{key}]") } else { format!("`{key}` of {}", self.what) };
        Some(Table::new(what, entries, self.errors))
    }

    /// Its entries, each of which is a table with a name that people gave, in the order of the file.
    fn tables<T>(&self, kind: &str, read: impl Fn(Table<'f>) -> T) -> Vec<(Spanned<String>, T)> {
        self.tables_but(kind, &[], read)
    }

    /// The same without `others`, which are no such tables.
    fn tables_but<T>(&self, kind: &str, others: &[&str], read: impl Fn(Table<'f>) -> T) -> Vec<(Spanned<String>, T)> {
        let mut tables: Vec<_> = self
            .entries
            .iter()
            .filter(|(key, _)| !others.contains(&key.get_ref().as_ref()))
            .filter_map(|(key, value)| {
                let Some(entries) = value.get_ref().as_table() else {
                    self.wrong_type(key.get_ref(), value, "a table");
                    return None;
                };
                let what = format!("[{kind}.{}]", key.get_ref());
                Some((owned(key), read(Table::new(what, entries, self.errors))))
            })
            .collect();
        // The parser sorts keys; people wrote them in another order.
        tables.sort_by_key(|(name, _)| name.span().start);
        tables
    }

    /// Reports the keys that nobody asked for.
    fn finish(self) {
        for (key, _) in self.entries.iter().filter(|(key, _)| !self.asked.contains(&key.get_ref().as_ref())) {
            let unknown = Diagnostic::new(key.span(), format!("unknown key `{}` in {}", key.get_ref(), self.what));
            let help = did_you_mean(key.get_ref(), self.asked.iter().copied())
                .unwrap_or_else(|| format!("the keys of {} are: {}", self.what, self.asked.join(", ")));
            self.error(unknown.help(help));
        }
    }
}

fn as_string(value: &Spanned<DeValue<'_>>) -> Option<Spanned<String>> {
    value.get_ref().as_str().map(|text| Spanned::new(value.span(), text.to_owned()))
}

/// The place of a value that may be missing: its own, or `fallback`.
pub(super) fn place<T>(value: Option<&Spanned<T>>, fallback: Range<usize>) -> Range<usize> {
    value.map_or(fallback, Spanned::span)
}
