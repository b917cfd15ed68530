//! The log that is kept: `/v1/logs`.

use super::events::{self, Events};
use super::problem::Problem;
use super::releases::ok;
use super::{Admin, QueryOf, blocking, query};
use crate::api::{LogLine, LogList};
use crate::storage::logs::{Follower, LogQuery, LogStore};
use axum::extract::State;
use axum::response::Response;
use std::sync::Arc;
use std::time::Duration;

/// Lines that are answered with, if nobody says how many.
const LIMIT: usize = 1000;
/// How often whoever follows is told what is new, and the most lines each time: they are looked through where requests are
/// served.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);
const FOLLOW_LINES_MAX: usize = 500;

/// The last lines.
pub(super) async fn find(State(admin): State<Arc<Admin>>, asked: QueryOf<LogQuery>) -> Result<Response, Problem> {
    let (store, query) = prepare(&admin, asked)?;
    let list = blocking(move || Ok(LogList { lines: last(&store, &query)?.0 }));
    Ok(ok(&list.await?))
}

/// The last lines, if so many are asked for, and those that come, as events `line`.
pub(super) async fn tail(State(admin): State<Arc<Admin>>, asked: QueryOf<LogQuery>) -> Result<Response, Problem> {
    let says_limit = matches!(&asked, Ok(query) if query.limit > 0 || query.since.is_some());
    let (store, query) = prepare(&admin, asked)?;
    let (mut first, mut follower) = if says_limit {
        let (store, query) = (Arc::clone(&store), query.clone());
        blocking(move || last(&store, &query)).await?
    } else {
        (Vec::new(), store.follow())
    };
    let accepts_all = query.accepts_all();
    Ok(events::answer(admin, FOLLOW_INTERVAL, move |events: &mut Events| {
        first.drain(..).for_each(|line| events.add_json("line", &line));
        let (lines, missed) = follower.next_lines(FOLLOW_LINES_MAX);
        events.add_missed(missed);
        for line in lines.iter().filter(|line| accepts_all || query.accept(line).is_some()) {
            events.add("line", line);
        }
    }))
}

fn prepare(admin: &Admin, asked: QueryOf<LogQuery>) -> Result<(Arc<LogStore>, LogQuery), Problem> {
    let store = admin.host.logs.as_ref().ok_or(Problem::Off("the log is", "keep-logs"))?;
    let mut query = query(asked)?.checked().map_err(|error| Problem::BadRequest(format!("{error}.")))?;
    if query.limit == 0 {
        query.limit = LIMIT;
    }
    Ok((Arc::clone(store), query))
}

fn last(store: &LogStore, query: &LogQuery) -> Result<(Vec<LogLine>, Follower), Problem> {
    store.find(query).map_err(|error| Problem::Host(format!("the log cannot be read: {error}")))
}
