//! `fnhost invoke`: one request to a function, without a server.
//!
//! It goes the way of any request but for the network: grants, limits and data are the function's own.

use super::logging::{self, Format};
use super::receipts;
use super::request::{self, Asked, Target};
use super::{DEFAULT_FILE, Ended};
use crate::api::ReceiptInfo;
use crate::names::{RequestId, strip_host_headers};
use crate::receipt::{Outcome, Receipt};
use crate::release::{Release, data};
use crate::runtime::probe::{self, ProbeError};
use crate::server;
use anyhow::Context as _;
use bytes::Bytes;
use clap::Args;
use http::header::CONTENT_LENGTH;
use http::response::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use http_body_util::Full;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write as _};
use std::path::PathBuf;
use std::time::SystemTime;

/// The arguments of `invoke`.
#[derive(Debug, Args)]
#[command(
    after_help = "The body of the response goes to stdout; what the guest prints, and the receipt, to stderr.\n\n\
                  Exit codes: 0 for a status below 400, 4 for 4xx, 5 for 5xx and for a function that fails, 1 if the \
                  function could not be called, 2 if the command line makes no sense."
)]
pub(super) struct InvokeArgs {
    /// The file that describes the app.
    #[arg(short, long, value_name = "FILE", default_value = DEFAULT_FILE)]
    config: PathBuf,
    /// The function.
    name: String,
    /// The method; POST with a body, or else what the function's first route has.
    #[arg(short = 'X', long)]
    method: Option<Method>,
    /// The path and query; the function's first route without parameters, if nobody says otherwise.
    #[arg(long, value_parser = path)]
    path: Option<PathAndQuery>,
    /// A header, as `NAME: VALUE`. May be given many times.
    #[arg(short = 'H', long = "header", value_name = "HEADER")]
    headers: Vec<String>,
    /// The body, as it is; `@FILE` for what is in a file, `@-` for what comes on stdin.
    #[arg(short, long, value_name = "DATA")]
    data: Option<String>,
    /// Print the status and the headers before the body.
    #[arg(short, long)]
    include: bool,
}

fn path(text: &str) -> Result<PathAndQuery, String> {
    if !text.starts_with('/') {
        return Err("a path begins with `/`".to_owned());
    }
    text.parse().map_err(|error: http::uri::InvalidUri| error.to_string())
}

pub(super) fn run(args: &InvokeArgs) -> anyhow::Result<()> {
    let manifest = request::function_of(&args.config, &args.name)?;
    // What guests print are lines of the log.
    let logging = logging::start(Format::Text)?;
    let release = request::release_of(&manifest)?;
    let migrations =
        data::migrations_of(&manifest).map_err(|errors| anyhow::Error::msg(manifest.errors_at(errors).to_string()))?;
    release.data.migrate(&migrations)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let called = runtime.block_on(invoke(args, &release))?;
    // All of them come first.
    drop(logging);
    let code = match &called {
        Called::Refused(outcome) => exit_code_of(server::status_of(*outcome).as_u16()),
        Called::Done { receipt, error, head_sent } => {
            tell(receipt, error.as_ref());
            exit_code(receipt, *head_sent)
        }
    };
    if code == 0 { Ok(()) } else { Err(Ended(code).into()) }
}

/// What became of a request.
enum Called {
    /// The function was not called.
    Refused(Outcome),
    Done {
        receipt: Box<Receipt>,
        error: Option<ProbeError>,
        head_sent: bool,
    },
}

async fn invoke(args: &InvokeArgs, release: &Release) -> anyhow::Result<Called> {
    let with_body = args.data.as_ref().map(|_| Method::POST);
    let method = args.method.as_ref().or(with_body.as_ref());
    let asked = Asked { method, path: args.path.as_ref(), headers: &args.headers };
    let mut target = Target::of(release, &asked, |pattern| request::example_path(pattern, None))?;
    let function = &target.route.function;
    let body = match &args.data {
        Some(data) => Some(read_body(data, function.limits.request_body_bytes)?),
        None => None,
    };
    if body.as_ref().is_some_and(|body| body.len() as u64 > function.limits.request_body_bytes) {
        // As a server has it: the function is not called.
        super::warn(&format!("the body is larger than `request-body` of {}", function.name));
        return Ok(Called::Refused(Outcome::BodyTooLarge));
    }
    if let Some(body) = &body {
        target.request.headers_mut().entry(CONTENT_LENGTH).or_insert(body.len().into());
    }
    let id = RequestId::new();
    let call = target.call(id);
    let sent = target.request.map(|()| Full::new(body.unwrap_or_default()));
    let method = sent.method().clone();
    // Whoever reads may have had enough, as `head` has.
    let write = |bytes: &[u8]| {
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).is_ok()
    };
    let head = |parts: &Parts| !args.include || write(show_head(parts).as_bytes());
    let (sample, ended) = probe::relay(function, sent, call, head, |part| write(part)).await;
    let (outcome, status) = match &ended {
        Ok(()) => (Outcome::Ok, sample.status),
        Err(error) => {
            let outcome = outcome_of(error);
            (outcome, if sample.status == 0 { server::status_of(outcome).as_u16() } else { sample.status })
        }
    };
    let receipt = Receipt {
        request_id: id,
        ended: SystemTime::now(),
        trace: None,
        app: Some(release.app.clone()),
        // It is none of a host's.
        release: None,
        function: Some(function.name.clone()),
        kind: Some(function.kind()),
        method,
        outcome,
        status,
        phases: sample.phases,
        cpu: sample.cpu,
        memory_peak_bytes: sample.memory_peak_bytes,
        bytes_in: sample.bytes_in,
        bytes_out: sample.body_bytes,
    };
    Ok(Called::Done { receipt: Box::new(receipt), error: ended.err(), head_sent: sample.status != 0 })
}

#[expect(clippy::print_stderr, reason = "stdout has the response, and nothing else")]
fn tell(receipt: &Receipt, error: Option<&ProbeError>) {
    if let Some(error) = error {
        eprintln!("error: {error}");
    }
    eprint!("{}", receipts::line(&ReceiptInfo::of(receipt)));
}

fn outcome_of(error: &ProbeError) -> Outcome {
    match error {
        ProbeError::Refused(_) => Outcome::Busy,
        ProbeError::Failed(error) => error.outcome(),
    }
}

fn exit_code(receipt: &Receipt, head_sent: bool) -> u8 {
    match receipt.outcome {
        Outcome::Host => 1,
        // The head said otherwise, and the body broke off.
        outcome if outcome != Outcome::Ok && head_sent => 5,
        _ => exit_code_of(receipt.status),
    }
}

fn exit_code_of(status: u16) -> u8 {
    match status {
        0..400 => 0,
        400..500 => 4,
        _ => 5,
    }
}

/// What is to be uploaded. Of more than the function takes, one byte too many is enough.
fn read_body(data: &str, bytes_max: u64) -> anyhow::Result<Bytes> {
    let Some(source) = data.strip_prefix('@') else { return Ok(Bytes::from(data.to_owned())) };
    let mut body = Vec::new();
    let read = |from: &mut dyn Read, body: &mut Vec<u8>| from.take(bytes_max.saturating_add(1)).read_to_end(body);
    if source == "-" {
        read(&mut io::stdin().lock(), &mut body).context("cannot read stdin")?;
    } else {
        let unreadable = || format!("cannot read {source}");
        read(&mut File::open(source).with_context(unreadable)?, &mut body).with_context(unreadable)?;
    }
    Ok(body.into())
}

/// Status and headers, as they would stand on the wire (RFC 9112, 2.1).
fn show_head(parts: &Parts) -> String {
    let mut headers: HeaderMap = parts.headers.clone();
    strip_host_headers(&mut headers);
    let mut text = format!("HTTP/1.1 {}\r\n", parts.status);
    for (name, value) in &headers {
        // Writing to a string cannot fail.
        let _ = write!(text, "{name}: {}\r\n", String::from_utf8_lossy(value.as_bytes()));
    }
    text + "\r\n"
}
