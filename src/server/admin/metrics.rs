//! `/metrics`: what monitoring reads.

use super::problem::Problem;
use super::{Admin, blocking};
use crate::server::observe::metrics;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::header::CONTENT_TYPE;
use std::sync::Arc;

/// `OpenMetrics` 1.0.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// All metrics.
pub(super) async fn metrics(State(admin): State<Arc<Admin>>) -> Result<Response, Problem> {
    if !admin.host.settings.observe.metrics {
        return Err(Problem::Off("metrics are", "metrics"));
    }
    let text = blocking(move || {
        metrics::text_of(Arc::clone(&admin.host)).map_err(|_| Problem::Host("metrics could not be written".to_owned()))
    });
    Ok(([(CONTENT_TYPE, OPEN_METRICS)], text.await?).into_response())
}
