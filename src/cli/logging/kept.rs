//! Log lines on their way to where they are kept.
//!
//! What is kept does not depend on how lines are shown: one object of JSON each, as `api::LogLine` has it, written by hand
//! into a buffer, because a guest may print many.

use crate::storage::logs::LogStore;
use std::cell::RefCell;
use std::fmt::{self, Write as _};
use std::sync::{Arc, OnceLock, Weak};
use std::time::SystemTime;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// The store, once there is one. It ends with its host, which may be before the last line.
#[derive(Clone, Default)]
pub(super) struct Kept(Arc<OnceLock<Weak<LogStore>>>);

thread_local! {
    /// The line that is being made, and its message.
    static LINE: RefCell<(String, String)> = const { RefCell::new((String::new(), String::new())) };
}

impl Kept {
    pub(super) fn begin(&self, store: &Arc<LogStore>) {
        // There is one store for one host in one process.
        let _ = self.0.set(Arc::downgrade(store));
    }
}

impl<S: Subscriber> Layer<S> for Kept {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let Some(store) = self.0.get().and_then(Weak::upgrade) else { return };
        LINE.with_borrow_mut(|(line, message)| {
            line.clear();
            message.clear();
            let time = humantime::format_rfc3339_micros(SystemTime::now());
            let metadata = event.metadata();
            // Writing to a string cannot fail. A level is a word, and a target a path of Rust.
            let _ = write!(
                line,
                "{{\"time\":\"{time}\",\"level\":\"{}\",\"target\":\"{}\"",
                metadata.level(),
                metadata.target()
            );
            event.record(&mut Members { line, message });
            line.push_str(",\"message\":");
            push_json(line, message);
            line.push('}');
            store.append(line);
        });
    }
}

/// The fields of an event, as members of an object.
struct Members<'l> {
    line: &'l mut String,
    message: &'l mut String,
}

impl Members<'_> {
    fn name(&mut self, field: &Field) {
        self.line.push(',');
        push_json(self.line, field.name());
        self.line.push(':');
    }
}

impl Visit for Members<'_> {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.message.push_str(value);
        } else if !value.is_empty() {
            self.name(field);
            push_json(self.line, value);
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.name(field);
        let _ = write!(self.line, "{value}");
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.name(field);
        let _ = write!(self.line, "{value}");
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.name(field);
        let _ = write!(self.line, "{value}");
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            let _ = write!(self.message, "{value:?}");
        } else {
            self.name(field);
            push_json(self.line, &format!("{value:?}"));
        }
    }
}

fn push_json(line: &mut String, text: &str) {
    // A string cannot fail to become JSON.
    line.push_str(&serde_json::to_string(text).unwrap_or_default());
}
