//! What requests cost: `/v1/receipts`.

use super::events::{self, Events};
use super::problem::Problem;
use super::releases::{PathText, ok};
use super::{Admin, QueryOf, blocking, query};
use crate::api::{ReceiptInfo, ReceiptList};
use crate::names::{Name, RequestId};
use crate::receipt::{Outcome, Receipt};
use crate::server::Host;
use axum::extract::{Path, State};
use axum::response::Response;
use serde::Deserialize;
use std::sync::Arc;
use std::time::Duration;

/// Receipts that are answered with, if nobody says how many, and the most.
const LIMIT: usize = 100;
const LIMIT_MAX: usize = 10_000;
/// Receipts that are copied at once, to be looked at.
const LOOK_MAX: usize = 1000;
/// How often whoever follows is told what is new.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Which receipts. What is not said does not matter.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ReceiptQuery {
    /// Of this app.
    app: Option<String>,
    /// Of this function.
    function: Option<String>,
    /// That ended like this.
    outcome: Option<String>,
    /// With this text in one of their words: id, app, function, method, status, outcome.
    text: Option<String>,
    /// At most so many: the last ones; or, of those that come, so many each second.
    limit: usize,
}

impl ReceiptQuery {
    fn accepts(&self, receipt: &Receipt) -> bool {
        let is =
            |wanted: &Option<String>, found: Option<&str>| wanted.as_deref().is_none_or(|wanted| found == Some(wanted));
        let (app, function) = (receipt.app.as_ref().map(Name::as_str), receipt.function.as_ref().map(Name::as_str));
        is(&self.app, app)
            && is(&self.function, function)
            && is(&self.outcome, Some(receipt.outcome.as_str()))
            && self.text.as_ref().is_none_or(|text| has_text(receipt, text))
    }

    /// The same as it is compared, if it makes sense.
    fn checked(mut self) -> Result<Self, Problem> {
        if let Some(outcome) = &self.outcome
            && !Outcome::ALL.iter().any(|known| known.as_str() == outcome)
        {
            let known = Outcome::ALL.map(Outcome::as_str).join(", ");
            return Err(Problem::BadRequest(format!("`{outcome}` is no outcome: there are {known}.")));
        }
        self.text = self.text.map(|text| text.to_lowercase());
        Ok(self)
    }
}

fn has_text(receipt: &Receipt, text: &str) -> bool {
    let id = receipt.request_id.to_string();
    let status = receipt.status.to_string();
    let method = receipt.method.as_str().to_lowercase();
    let app = receipt.app.as_ref().map_or("", Name::as_str);
    let function = receipt.function.as_ref().map_or("", Name::as_str);
    [id.as_str(), app, function, &method, &status, receipt.outcome.as_str()].iter().any(|word| word.contains(text))
}

/// That of one request.
pub(super) async fn one(State(admin): State<Arc<Admin>>, path: PathText) -> Result<Response, Problem> {
    let Path(text) = path.map_err(|error| Problem::BadName(error.to_string()))?;
    let id = RequestId::parse(&text).ok_or(Problem::BadRequestId)?;
    let found = blocking(move || Ok(admin.host.observer.collector.read(|books| books.recent.find(id).cloned())));
    found.await?.map(|receipt| ok(&ReceiptInfo::of(&receipt))).ok_or(Problem::NoReceipt)
}

/// The last ones.
pub(super) async fn find(State(admin): State<Arc<Admin>>, asked: QueryOf<ReceiptQuery>) -> Result<Response, Problem> {
    let query = query(asked)?.checked()?;
    let limit = if query.limit == 0 { LIMIT } else { query.limit.min(LIMIT_MAX) };
    let list = blocking(move || {
        let mut receipts = last(&admin.host, &query, limit);
        receipts.reverse();
        Ok(ReceiptList { receipts })
    });
    Ok(ok(&list.await?))
}

/// The last ones that `query` asks for, the newest first. Requests that end meanwhile need the lock, so it is held for some at
/// a time.
fn last(host: &Host, query: &ReceiptQuery, limit: usize) -> Vec<ReceiptInfo> {
    let collector = &host.observer.collector;
    let mut cursor = collector.read(|books| books.recent.now());
    let mut found = Vec::new();
    while found.len() < limit {
        let some = collector.read(|books| books.recent.earlier(&mut cursor, LOOK_MAX));
        if some.is_empty() {
            break;
        }
        let room = limit - found.len();
        found.extend(some.iter().filter(|receipt| query.accepts(receipt)).take(room).map(ReceiptInfo::of));
    }
    found
}

/// Those that come, as events `receipt`.
pub(super) async fn tail(State(admin): State<Arc<Admin>>, asked: QueryOf<ReceiptQuery>) -> Result<Response, Problem> {
    let query = query(asked)?.checked()?;
    if admin.host.settings.observe.receipts == 0 {
        return Err(Problem::Off("receipts are", "keep-receipts"));
    }
    let host = Arc::clone(&admin.host);
    let mut cursor = host.observer.collector.read(|books| books.recent.now());
    // Of many a second, those who only look are content with a few of each moment.
    let each_time = if query.limit == 0 { usize::MAX } else { query.limit.div_ceil(10) };
    Ok(events::answer(admin, FOLLOW_INTERVAL, move |events: &mut Events| {
        // Copied under the lock, and written behind it.
        let (receipts, mut missed) = host.observer.collector.read(|books| {
            let (receipts, missed) = books.recent.follow(&mut cursor);
            (receipts.filter(|receipt| query.accepts(receipt)).cloned().collect::<Vec<Receipt>>(), missed)
        });
        missed += receipts.len().saturating_sub(each_time) as u64;
        receipts.iter().take(each_time).for_each(|receipt| events.add_json("receipt", &ReceiptInfo::of(receipt)));
        events.add_missed(missed);
    }))
}
