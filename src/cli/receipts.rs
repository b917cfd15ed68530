//! `fnhost receipt` and `fnhost tail`: what requests cost.

use super::client::{self, HostArgs};
use crate::api::ReceiptInfo;
use crate::limits::show_nanos;
use crate::names::{Name, RequestId};
use crate::receipt::Outcome;
use clap::Args;
use clap::builder::PossibleValuesParser;
use std::fmt::Write as _;

/// The width of the bar of phases.
const BAR: u64 = 40;

/// The arguments of `receipt`.
#[derive(Debug, Args)]
pub(super) struct ReceiptArgs {
    #[command(flatten)]
    host: HostArgs,
    /// The request: `x-request-id` of its response.
    #[arg(value_parser = super::request_id)]
    id: RequestId,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// The arguments of `tail`.
#[derive(Debug, Args)]
pub(super) struct TailArgs {
    #[command(flatten)]
    host: HostArgs,
    /// Of this function alone.
    #[arg(value_parser = Name::new)]
    name: Option<Name>,
    /// Of this app alone.
    #[arg(long, value_name = "NAME", value_parser = Name::new)]
    app: Option<Name>,
    /// That end like this alone.
    #[arg(long, value_name = "CODE", value_parser = PossibleValuesParser::new(Outcome::ALL.map(Outcome::as_str)))]
    outcome: Option<String>,
    /// Prints JSON, one object a line.
    #[arg(long)]
    json: bool,
}

pub(super) fn receipt(args: &ReceiptArgs) -> anyhow::Result<()> {
    let client = args.host.client()?;
    let receipt: ReceiptInfo = client::block_on(client.get(&format!("/receipts/{}", args.id)))?;
    super::print(&if args.json { serde_json::to_string_pretty(&receipt)? + "\n" } else { render(&receipt) });
    Ok(())
}

pub(super) fn tail(args: &TailArgs) -> anyhow::Result<()> {
    let client = args.host.client()?;
    let query = client::query(&[
        ("app", args.app.as_ref().map(Name::as_str)),
        ("function", args.name.as_ref().map(Name::as_str)),
        ("outcome", args.outcome.as_deref()),
    ]);
    client::block_on(async {
        client.warn_of_unknown(args.app.as_ref(), args.name.as_ref()).await?;
        let path = format!("/receipts/tail{query}");
        let following = client.follow(&path, |name, data| match name {
            "receipt" if args.json => super::print_more(&format!("{data}\n")),
            "receipt" => super::print_more(&line(&serde_json::from_str(data)?)),
            "missed" if !args.json => super::print_more(&format!("[{data} requests missed: they came too fast]\n")),
            _ => Ok(()),
        });
        following.await
    })
}

fn who(receipt: &ReceiptInfo) -> String {
    match (&receipt.app, &receipt.function, receipt.release) {
        (Some(app), Some(function), Some(release)) => format!("{app}/{function} r{release}"),
        (Some(app), Some(function), None) => format!("{app}/{function}"),
        _ => "-".to_owned(),
    }
}

fn phases(receipt: &ReceiptInfo) -> [(&'static str, u64); 5] {
    [
        ("queue", receipt.queue_ns),
        ("store", receipt.store_ns),
        ("instantiate", receipt.instantiate_ns),
        ("handler", receipt.handler_ns),
        ("body", receipt.body_ns),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "shown with one decimal")]
fn mebibytes(bytes: u64) -> f64 {
    bytes as f64 / 1_048_576.0
}

/// One line: when, how it ended, who, where the time went, what it cost.
pub(super) fn line(receipt: &ReceiptInfo) -> String {
    let time = receipt.ended.get(11..23).unwrap_or(&receipt.ended);
    let mut text = format!("{time} {:>3} {:7} {:<24}", receipt.status, receipt.method, who(receipt));
    for (name, nanos) in phases(receipt) {
        let _ = write!(text, " {name} {}", show_nanos(nanos));
    }
    let _ = write!(
        text,
        " cpu {} mem {:.1}MiB in {} out {} {}",
        show_nanos(receipt.cpu_ns),
        mebibytes(receipt.memory_peak_bytes),
        receipt.bytes_in,
        receipt.bytes_out,
        receipt.request_id,
    );
    if receipt.outcome != "ok" {
        let _ = write!(text, " {}", receipt.outcome);
    }
    text + "\n"
}

/// All of a receipt, with a bar for each phase.
fn render(receipt: &ReceiptInfo) -> String {
    let mut text = String::new();
    let mut field = |name: &str, value: &str| {
        let _ = writeln!(text, "{name:14} {value}");
    };
    field("request", &receipt.request_id);
    field("ended", &receipt.ended);
    field("function", &who(receipt));
    field("answer", &format!("{} {}, {}", receipt.method, receipt.status, receipt.outcome));
    if let Some(trace) = &receipt.trace_id {
        field("trace", trace);
    }
    let total: u64 = phases(receipt).iter().map(|(_, nanos)| nanos).sum();
    for (name, nanos) in phases(receipt) {
        let length = (nanos * BAR).div_ceil(total.max(1));
        field(name, &format!("{:>8}  {}", show_nanos(nanos), "#".repeat(usize::try_from(length).unwrap_or(0))));
    }
    field("in all", &format!("{:>8}", show_nanos(total)));
    field("cold start", &format!("{:>8}", show_nanos(receipt.store_ns + receipt.instantiate_ns)));
    field("CPU", &format!("{:>8}", show_nanos(receipt.cpu_ns)));
    field("memory", &format!("{:.1} MiB at most", mebibytes(receipt.memory_peak_bytes)));
    field("bytes", &format!("{} in, {} out", receipt.bytes_in, receipt.bytes_out));
    text
}
