//! What the targets in `fuzz/` call that has no door of its own: the two writers of problems (RFC 9457). In no other build.

use super::admin;
use super::respond;
use crate::names::{Name, RequestId};
use crate::receipt::Outcome;
use http::Response;

/// What a client reads of `outcome`.
pub fn problem(outcome: Outcome, function: Option<&Name>, id: RequestId) -> Vec<u8> {
    respond::words(outcome, function.map(Name::as_str), id)
}

/// What a client of the admin API reads of the problem of this `kind`, about this `text`.
pub async fn admin_problem(kind: u8, text: String) -> Response<Vec<u8>> {
    let (head, body) = admin::problem_of(kind, text).into_parts();
    // It is in memory already, and has no errors.
    let body = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    Response::from_parts(head, body.into())
}
