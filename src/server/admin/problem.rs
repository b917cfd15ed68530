//! The one place where what went wrong in the admin API becomes a status and a code.
//!
//! **Invariant:** no wildcard arm: a new error must choose its own.

use crate::api::ProblemInfo;
use crate::release::deploy::DeployError;
use crate::release::install::InstallError;
use crate::storage::components::ComponentStoreError;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};

/// What went wrong.
#[derive(Debug)]
pub(super) enum Problem {
    NoToken,
    NoRoute,
    NoMethod,
    BadName(String),
    BadNumber,
    BadDigest,
    BadJson(String),
    BadRequest(String),
    TooLarge(&'static str, u64),
    Stalled,
    NotWasm,
    NoComponent,
    BadRequestId,
    NoReceipt,
    /// Something that functions.toml has switched off, and the key that does.
    Off(&'static str, &'static str),
    /// functions.toml is wrong: the report.
    BadManifest(String),
    Store(ComponentStoreError),
    Deploy(DeployError),
    Host(String),
}

impl From<DeployError> for Problem {
    fn from(error: DeployError) -> Self {
        Self::Deploy(error)
    }
}

impl Problem {
    fn status_and_code(&self) -> (StatusCode, &'static str) {
        match self {
            Self::NoToken => (StatusCode::UNAUTHORIZED, "unauthorized"),
            Self::NoRoute => (StatusCode::NOT_FOUND, "no_route"),
            Self::NoMethod => (StatusCode::METHOD_NOT_ALLOWED, "no_method"),
            Self::BadName(_) => (StatusCode::BAD_REQUEST, "bad_name"),
            Self::BadNumber => (StatusCode::BAD_REQUEST, "bad_number"),
            Self::BadDigest => (StatusCode::BAD_REQUEST, "bad_digest"),
            Self::BadJson(_) => (StatusCode::BAD_REQUEST, "bad_json"),
            Self::BadRequest(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::TooLarge(..) => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            Self::Stalled => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::NotWasm => (StatusCode::UNPROCESSABLE_ENTITY, "not_wasm"),
            Self::NoComponent => (StatusCode::NOT_FOUND, "no_component"),
            Self::BadRequestId => (StatusCode::BAD_REQUEST, "bad_request_id"),
            Self::NoReceipt => (StatusCode::NOT_FOUND, "no_receipt"),
            Self::Off(..) => (StatusCode::NOT_FOUND, "off"),
            Self::BadManifest(_) => (StatusCode::UNPROCESSABLE_ENTITY, "bad_manifest"),
            Self::Store(error) => of_store(error),
            Self::Deploy(error) => of_deploy(error),
            Self::Host(_) => (StatusCode::INTERNAL_SERVER_ERROR, "host"),
        }
    }

    fn detail(&self) -> String {
        match self {
            Self::NoToken => {
                "The admin token is missing or wrong: send it as `Authorization: Bearer TOKEN`.".to_owned()
            }
            Self::NoRoute => "There is no such path in the admin API.".to_owned(),
            Self::NoMethod => "This path has other methods.".to_owned(),
            Self::BadName(name) => {
                format!("`{name}` names no app: names are made of a-z, 0-9 and `-`, and begin with a letter.")
            }
            Self::BadNumber => "A release is named by its number.".to_owned(),
            Self::BadDigest => "A component is named by its sha256, in 64 hex digits.".to_owned(),
            Self::BadJson(what) => format!("The body is not the JSON that this path takes: {what}."),
            Self::BadRequest(what) => what.clone(),
            Self::TooLarge(what, most) => format!("{what} may have {most} bytes at the most."),
            Self::Stalled => "The upload stopped in its middle.".to_owned(),
            Self::NotWasm => "What was sent is no WebAssembly: it does not begin with `\\0asm`.".to_owned(),
            Self::NoComponent => "The host does not have this component.".to_owned(),
            Self::BadRequestId => "A request is named by its id, in 32 hex digits.".to_owned(),
            Self::NoReceipt => {
                "The host has no receipt of this request: it keeps the latest in memory, and the request has \
                                to have ended."
                    .to_owned()
            }
            Self::Off(what, key) => format!("On this host {what} switched off, by `{key}` in [observe]."),
            Self::BadManifest(report) => report.clone(),
            Self::Store(error) => error.to_string(),
            Self::Deploy(error) => error.to_string(),
            Self::Host(what) => format!("The host failed: {what}"),
        }
    }
}

fn of_store(error: &ComponentStoreError) -> (StatusCode, &'static str) {
    match error {
        ComponentStoreError::OtherDigest { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "other_digest"),
        ComponentStoreError::State { .. } => (StatusCode::INSUFFICIENT_STORAGE, "state"),
    }
}

fn of_deploy(error: &DeployError) -> (StatusCode, &'static str) {
    match error {
        DeployError::Install(InstallError::Refused(_)) => (StatusCode::UNPROCESSABLE_ENTITY, "refused"),
        DeployError::Migration(_) => (StatusCode::UNPROCESSABLE_ENTITY, "migration"),
        DeployError::Install(InstallError::State(_)) => (StatusCode::INSUFFICIENT_STORAGE, "state"),
        DeployError::Install(InstallError::Components(error)) => of_store(error),
        DeployError::Install(InstallError::Missing(_)) | DeployError::Missing(_) => {
            (StatusCode::CONFLICT, "missing_components")
        }
        DeployError::Install(InstallError::Engine(_) | InstallError::Link(_)) | DeployError::Outdated { .. } => {
            (StatusCode::INTERNAL_SERVER_ERROR, "host")
        }
        DeployError::Record(_) | DeployError::Taken(_) | DeployError::Lock { .. } => {
            (StatusCode::INSUFFICIENT_STORAGE, "state")
        }
        DeployError::Busy(_) => (StatusCode::CONFLICT, "busy"),
        DeployError::HandingOver => (StatusCode::SERVICE_UNAVAILABLE, "handing_over"),
        DeployError::Moved { .. } => (StatusCode::CONFLICT, "moved"),
        DeployError::Claimed { .. } => (StatusCode::CONFLICT, "claimed"),
        DeployError::NoApp(_) => (StatusCode::NOT_FOUND, "no_app"),
        DeployError::NoRelease { .. } => (StatusCode::NOT_FOUND, "no_release"),
        DeployError::NoCanary(_) => (StatusCode::CONFLICT, "no_canary"),
        DeployError::NoLive(_) => (StatusCode::CONFLICT, "no_live"),
        DeployError::NothingBefore(_) => (StatusCode::CONFLICT, "nothing_before"),
        DeployError::AlreadyLive { .. } => (StatusCode::CONFLICT, "already_live"),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let (status, code) = self.status_and_code();
        let missing = match &self {
            Self::Deploy(DeployError::Missing(missing)) => missing.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        };
        let problem = ProblemInfo {
            r#type: "about:blank".to_owned(),
            title: status.canonical_reason().unwrap_or_default().to_owned(),
            status: status.as_u16(),
            detail: self.detail(),
            code: code.to_owned(),
            missing,
        };
        if status.is_server_error() {
            tracing::error!(code, detail = problem.detail, "the admin API could not do what it was asked for");
        }
        // Strings and numbers cannot fail to become JSON.
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A problem that repeats what somebody has written, or one of the others.
#[cfg(fuzzing)]
pub(in crate::server) fn of_text(kind: u8, text: String) -> Response {
    let problem = match kind % 8 {
        0 => Problem::BadName(text),
        1 => Problem::BadJson(text),
        2 => Problem::BadRequest(text),
        3 => Problem::BadManifest(text),
        4 => Problem::Host(text),
        5 => Problem::NoToken,
        6 => Problem::TooLarge("A component", text.len() as u64),
        _ => Problem::NoReceipt,
    };
    problem.into_response()
}
