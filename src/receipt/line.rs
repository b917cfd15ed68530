//! A receipt as a line of the log: the same fields in the same order, as text and as JSON.
//!
//! One is written for each request, so they are written by hand: no value needs escaping, because ids, names, kinds and
//! codes are the host's own, and a method is a token (RFC 9110, 9.1), which has neither quotes nor backslashes.

use super::Receipt;
use crate::names::RequestId;
use std::time::Duration;

/// How fields look.
struct Style {
    between: &'static str,
    before_name: &'static str,
    behind_name: &'static str,
    /// Around a value that is the host's own name of something.
    around_name: &'static str,
}

const TEXT: Style = Style { between: " ", before_name: "", behind_name: "=", around_name: "" };
const JSON: Style = Style { between: ",", before_name: "\"", behind_name: "\":", around_name: "\"" };

impl Receipt {
    /// Appends `name=value` pairs, with spaces between them.
    pub fn write_text(&self, line: &mut String) {
        self.write(line, &TEXT);
    }

    /// Appends the members of a JSON object, without its braces.
    pub fn write_json(&self, line: &mut String) {
        self.write(line, &JSON);
    }

    fn write(&self, line: &mut String, style: &'static Style) {
        let mut fields = Fields { line, style, first: true };
        fields.add("request_id", self.request_id.encode(&mut [0; 32]), style.around_name);
        if let Some(trace) = &self.trace {
            fields.add("trace_id", RequestId::of_u128(trace.trace).encode(&mut [0; 32]), style.around_name);
        }
        if let Some(app) = &self.app {
            fields.add("app", app.as_str(), style.around_name);
        }
        if let Some(release) = self.release {
            fields.add_number("release", release);
        }
        if let Some(function) = &self.function {
            fields.add("function", function.as_str(), style.around_name);
        }
        if let Some(kind) = self.kind {
            fields.add("kind", kind.as_str(), "\"");
        }
        fields.add("method", self.method.as_str(), "\"");
        fields.add_number("status", self.status.into());
        fields.add("outcome", self.outcome.as_str(), "\"");
        fields.add_nanos("queue_ns", self.phases.queue);
        fields.add_nanos("store_ns", self.phases.store);
        fields.add_nanos("instantiate_ns", self.phases.instantiate);
        fields.add_nanos("handler_ns", self.phases.handler);
        fields.add_nanos("body_ns", self.phases.body);
        fields.add_nanos("cpu_ns", self.cpu);
        fields.add_number("memory_peak_bytes", self.memory_peak_bytes);
        fields.add_number("bytes_in", self.bytes_in);
        fields.add_number("bytes_out", self.bytes_out);
    }
}

struct Fields<'l> {
    line: &'l mut String,
    style: &'static Style,
    first: bool,
}

impl Fields<'_> {
    fn add(&mut self, name: &str, value: &str, around: &str) {
        let between = if std::mem::take(&mut self.first) { "" } else { self.style.between };
        let parts = [between, self.style.before_name, name, self.style.behind_name, around, value, around];
        for part in parts {
            self.line.push_str(part);
        }
    }

    fn add_number(&mut self, name: &str, value: u64) {
        self.add(name, itoa::Buffer::new().format(value), "");
    }

    fn add_nanos(&mut self, name: &str, duration: Duration) {
        self.add_number(name, u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_text_has_every_field() {
        let receipt = Receipt::sample();
        let mut line = String::new();
        receipt.write_text(&mut line);
        let id = receipt.request_id;
        assert_eq!(
            line,
            format!(
                "request_id={id} app=demo release=7 function=hello kind=\"http-0.2\" method=\"GET\" status=200 outcome=\"ok\" \
                 queue_ns=0 store_ns=1500 instantiate_ns=0 handler_ns=0 body_ns=0 cpu_ns=20000 memory_peak_bytes=1048576 \
                 bytes_in=0 bytes_out=14"
            )
        );
    }

    #[test]
    fn a_line_of_json_is_json_with_or_without_a_function() {
        for function in [Receipt::sample().function, None] {
            let receipt = Receipt { function, kind: None, ..Receipt::sample() };
            let mut line = "{".to_owned();
            receipt.write_json(&mut line);
            line.push('}');
            let parsed: serde_json::Value = serde_json::from_str(&line).unwrap();
            assert_eq!(parsed["request_id"], receipt.request_id.to_string());
            assert_eq!(parsed["store_ns"], 1500);
            assert_eq!(parsed.get("function").is_some(), receipt.function.is_some());
        }
    }
}
