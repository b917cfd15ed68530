//! What the admin API says and is told: the JSON that `server::admin` and the commands share.
//!
//! Owns shapes and nothing else; `openapi.json` describes the same to everybody else, and a test holds the two together.
//! Times are RFC 3339, sizes are bytes, shares are written as `10%`.

use crate::receipt::Receipt;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// The version of the API, before every path.
pub const PREFIX: &str = "/v1";

/// A release to be made: `POST /v1/apps/{app}/releases`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeployRequest {
    /// The text of functions.toml.
    pub manifest: String,
    /// The sha256 of each function's component, by the function's name.
    pub components: BTreeMap<String, String>,
    /// The sha256 of each middleware that is a component, by its name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub middleware: BTreeMap<String, String>,
    /// The migrations of each embedded database that has some, by its name, in their order.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub migrations: BTreeMap<String, Vec<MigrationText>>,
    /// What its author says of it.
    #[serde(default)]
    pub message: String,
    /// The part of the requests that it gets at first, if it is to be tried.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<String>,
    /// The release that has to be live, or nothing is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Whatever is live or under way will do.
    #[serde(default)]
    pub force: bool,
}

/// What is done to a database, once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MigrationText {
    /// The name of its file, by which it is known again.
    pub name: String,
    /// Its statements.
    pub sql: String,
}

/// A change of what answers: `POST /v1/apps/{app}/promote` and `/rollback`. All of it may be left out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ChangeRequest {
    /// The release to go back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<u64>,
    /// The release that has to be live, or nothing is changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<u64>,
    /// Whatever is live or under way will do.
    #[serde(default)]
    pub force: bool,
}

/// What a change came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Changed {
    /// The app.
    pub app: String,
    /// The release that answers now, or is on trial now.
    pub number: u64,
    /// It did so already.
    pub unchanged: bool,
}

/// What a release is to its app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It answers.
    Live,
    /// It answers a part of the requests, on trial.
    Canary,
    /// It can be gone back to.
    Old,
}

impl State {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Canary => "canary",
            Self::Old => "old",
        }
    }
}

/// A release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseInfo {
    /// Its number.
    pub number: u64,
    /// What it is to its app.
    pub state: State,
    /// The canary's part of the requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub share: Option<String>,
    /// When it was made.
    pub created: String,
    /// Where it came from: `file` or `deploy`.
    pub source: String,
    /// What its author said of it.
    pub message: String,
    /// What became of it, where there is something to say.
    pub note: String,
    /// The sizes of its components together.
    pub bytes: u64,
    /// Its functions.
    pub functions: Vec<FunctionInfo>,
}

/// A function of a release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionInfo {
    /// Its name.
    pub name: String,
    /// The sha256 of its component.
    pub component: String,
    /// That of each middleware component that is composed with it; the first sees a request first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub middleware: Vec<String>,
    /// What its component was found to be.
    pub kind: String,
    /// The size of its component.
    pub bytes: u64,
}

/// The releases of an app: `GET /v1/apps/{app}/releases`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReleaseList {
    /// The app.
    pub app: String,
    /// The newest first.
    pub releases: Vec<ReleaseInfo>,
}

/// What of an app answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppInfo {
    /// Its name.
    pub name: String,
    /// The live release.
    pub live: Option<u64>,
    /// The release on trial.
    pub canary: Option<u64>,
    /// Its part of the requests.
    pub share: Option<String>,
    /// Functions of the live release.
    pub functions: u64,
    /// Routes of the live release.
    pub routes: u64,
}

/// The apps of a host: `GET /v1/apps`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppList {
    /// By name.
    pub apps: Vec<AppInfo>,
}

/// A host: `GET /v1/status`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatusInfo {
    /// Of fnhost.
    pub version: String,
    /// Where it serves.
    pub listen: String,
    /// Whether by HTTPS. Older hosts do not say it.
    #[serde(default)]
    pub tls: bool,
    /// Since it began to serve.
    pub uptime_seconds: u64,
    /// Where sandboxes get their memory from: `pool-scanned`, `pool-cleared` or `on-demand`.
    pub allocation: Vec<String>,
    /// Sandboxes alive.
    pub sandboxes: u32,
    /// Sandboxes that there may be.
    pub sandboxes_max: u32,
    /// Components whose code is mapped.
    pub loaded: u64,
    /// Whether it is on its way out.
    pub draining: bool,
    /// Its apps.
    pub apps: Vec<AppInfo>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}

/// Whether a host lives, and whether it serves: `GET /v1/health` and `GET /v1/ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthInfo {
    /// `ok`, or what is the matter.
    pub status: String,
}

/// A component that was taken in: `PUT /v1/components/{sha256}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComponentInfo {
    /// Its sha256.
    pub component: String,
    /// Its size.
    pub bytes: u64,
}

/// Why something was not done (RFC 9457).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemInfo {
    /// Always `about:blank`: `code` says which problem it is.
    #[serde(default)]
    pub r#type: String,
    /// The status in words.
    #[serde(default)]
    pub title: String,
    /// The status.
    #[serde(default)]
    pub status: u16,
    /// What is the matter.
    #[serde(default)]
    pub detail: String,
    /// A stable name of the problem.
    #[serde(default)]
    pub code: String,
    /// With `missing_components`: the sha256 of those that have to be uploaded first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<String>,
}

/// A line of the log: `GET /v1/logs`, and each event of `GET /v1/logs/tail`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogLine {
    /// RFC 3339, to the microsecond, in UTC.
    pub time: String,
    /// `INFO`, `WARN` or `ERROR`.
    pub level: String,
    /// `guest` for what a guest printed; else the part of the host that says it.
    pub target: String,
    /// What it says.
    pub message: String,
    /// The app that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request_id: Option<String>,
    /// Whatever else it says.
    #[serde(default, flatten)]
    pub fields: BTreeMap<String, serde_json::Value>,
}

impl LogLine {
    /// Whether this text is somewhere in it, in capitals or not.
    pub fn has_text(&self, text: &str) -> bool {
        let text = text.to_lowercase();
        let named = [&self.app, &self.function, &self.request_id].into_iter().flatten();
        let fields = self.fields.values().map(ToString::to_string);
        let all = [self.message.clone(), self.level.clone(), self.target.clone()];
        all.into_iter().chain(named.cloned()).chain(fields).any(|field| field.to_lowercase().contains(&text))
    }
}

/// Lines of the log: `GET /v1/logs`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct LogList {
    /// The last that were asked for, in their order.
    pub lines: Vec<LogLine>,
}

/// What one request cost: `GET /v1/receipts/{id}`, and each event of `GET /v1/receipts/tail`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptInfo {
    /// The host's name of the request.
    pub request_id: String,
    /// When it ended: RFC 3339.
    pub ended: String,
    /// Its trace, where traces are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The app; none where no route was found.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The number of the release that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
    /// The function that answered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The kind of its component.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// The method of the request.
    pub method: String,
    /// The status that was sent; 0 where the client was gone before it.
    pub status: u16,
    /// How it ended.
    pub outcome: String,
    /// Nanoseconds of each phase.
    pub queue_ns: u64,
    /// Making the store.
    pub store_ns: u64,
    /// Instantiating.
    pub instantiate_ns: u64,
    /// Until the head.
    pub handler_ns: u64,
    /// Until the end.
    pub body_ns: u64,
    /// CPU time, in nanoseconds.
    pub cpu_ns: u64,
    /// Peak memory.
    pub memory_peak_bytes: u64,
    /// Bytes of the upload that were read.
    pub bytes_in: u64,
    /// Bytes of the response body.
    pub bytes_out: u64,
}

impl ReceiptInfo {
    /// Of a receipt.
    pub fn of(receipt: &Receipt) -> Self {
        let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            request_id: receipt.request_id.to_string(),
            ended: humantime::format_rfc3339_micros(receipt.ended).to_string(),
            trace_id: receipt.trace.map(|context| format!("{:032x}", context.trace)),
            app: receipt.app.as_ref().map(ToString::to_string),
            release: receipt.release,
            function: receipt.function.as_ref().map(ToString::to_string),
            kind: receipt.kind.map(|kind| kind.as_str().to_owned()),
            method: receipt.method.to_string(),
            status: receipt.status,
            outcome: receipt.outcome.as_str().to_owned(),
            queue_ns: nanos(receipt.phases.queue),
            store_ns: nanos(receipt.phases.store),
            instantiate_ns: nanos(receipt.phases.instantiate),
            handler_ns: nanos(receipt.phases.handler),
            body_ns: nanos(receipt.phases.body),
            cpu_ns: nanos(receipt.cpu),
            memory_peak_bytes: receipt.memory_peak_bytes,
            bytes_in: receipt.bytes_in,
            bytes_out: receipt.bytes_out,
        }
    }
}

/// Receipts: `GET /v1/receipts`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptList {
    /// The last that were asked for, in their order.
    pub receipts: Vec<ReceiptInfo>,
}

/// What was used: `GET /v1/usage`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageInfo {
    /// What it is added up by.
    pub by: String,
    /// From when, to the hour.
    pub since: String,
    /// Until when.
    pub until: String,
    /// The currency of the costs, where there is a tariff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// The parts.
    pub rows: Vec<UsageRow>,
    /// All of them together.
    pub total: UsageRow,
}

/// A part of what was used. What it is not added up by is left out.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct UsageRow {
    /// The hour: RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hour: Option<String>,
    /// The app; empty for requests that no route was found for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// The function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// The number of the release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub release: Option<u64>,
    /// Requests.
    pub requests: u64,
    /// Of those, the ones that were refused, or that the host failed at; they cost nothing.
    pub refused: u64,
    /// Of those, the ones that did not end well.
    pub errors: u64,
    /// CPU time, in milliseconds.
    pub cpu_ms: f64,
    /// Peak memory times time, in gigabytes (10^9 bytes) times seconds.
    pub gb_seconds: f64,
    /// Bytes of uploads.
    pub bytes_in: u64,
    /// Bytes of response bodies.
    pub bytes_out: u64,
    /// Cold starts, in microseconds.
    pub cold_start_us: f64,
    /// What that costs, where there is a tariff.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<f64>,
}

/// A function that answers, and what it has done since the host started: `GET /v1/functions`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionFigures {
    /// The app.
    pub app: String,
    /// Its name.
    pub function: String,
    /// The number of the live release.
    pub release: u64,
    /// What its component was found to be.
    pub kind: String,
    /// Requests that reached it.
    pub requests: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// Median and 99th percentile of cold starts, in nanoseconds.
    pub cold_start_ns: [u64; 2],
    /// The same until the head.
    pub handler_ns: [u64; 2],
    /// The same of CPU time.
    pub cpu_ns: [u64; 2],
    /// The most that one sandbox's memories and tables had together.
    pub memory_peak_bytes: u64,
}

/// The functions that answer: `GET /v1/functions`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionFiguresList {
    /// By app, in the order of functions.toml.
    pub functions: Vec<FunctionFigures>,
}
