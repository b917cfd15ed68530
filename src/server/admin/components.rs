//! Components on their way in: `/v1/components/{sha256}`.

use super::problem::Problem;
use super::{Admin, CLIENT_TIMEOUT, blocking};
use crate::api::ComponentInfo;
use crate::storage::artifacts::Digest256;
use crate::storage::components::{ComponentStoreError, Incoming};
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use http_body_util::BodyExt as _;
use std::sync::Arc;

/// How every WebAssembly binary begins (core specification, 5.5.16; components have it as well).
const MAGIC: &[u8] = b"\0asm";

/// Whether the component is there: 200 or 404, without a body.
pub(super) async fn head(State(admin): State<Arc<Admin>>, path: PathDigest) -> Result<StatusCode, Problem> {
    let digest = digest(path)?;
    if admin.host.deployments.components().has(&digest) { Ok(StatusCode::OK) } else { Err(Problem::NoComponent) }
}

/// Takes a component in: to disk as it comes, hashed on the way. It can then be part of a release.
pub(super) async fn put(
    State(admin): State<Arc<Admin>>,
    path: PathDigest,
    request: Request,
) -> Result<Response, Problem> {
    let digest = digest(path)?;
    let most = admin.host.settings.component_bytes_max;
    let declared = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    let mut upload = Upload { body: request.into_body(), most };
    if declared.is_some_and(|length| length > most) {
        return Err(upload.refuse().await);
    }
    let components = admin.host.deployments.components().clone();
    let mut incoming = components.begin().map_err(Problem::Store)?;
    let mut begins = Vec::with_capacity(MAGIC.len());
    while let Some(piece) = upload.next().await? {
        begins.extend(piece.iter().take(MAGIC.len() - begins.len()));
        if !MAGIC.starts_with(&begins) {
            return Err(Problem::NotWasm);
        }
        if incoming.bytes() + piece.len() as u64 > most {
            return Err(upload.refuse().await);
        }
        incoming = write(incoming, piece).await?;
    }
    if begins != MAGIC {
        return Err(Problem::NotWasm);
    }
    let bytes = incoming.bytes();
    blocking(move || incoming.finish(&digest).map_err(Problem::Store)).await?;
    let taken = ComponentInfo { component: digest.to_string(), bytes };
    Ok((StatusCode::CREATED, [(CONTENT_TYPE, "application/json")], json(&taken)).into_response())
}

/// The last segment of the path, as axum has it.
pub(super) type PathDigest = Result<Path<String>, axum::extract::rejection::PathRejection>;

fn digest(path: PathDigest) -> Result<Digest256, Problem> {
    let Path(text) = path.map_err(|_| Problem::BadDigest)?;
    Digest256::try_from(text).map_err(|_| Problem::BadDigest)
}

pub(super) fn json(value: &impl serde::Serialize) -> Vec<u8> {
    // Shapes of strings and numbers, which cannot fail to become JSON.
    serde_json::to_vec(value).unwrap_or_default()
}

/// Off the threads that serve requests: a disk may take its time.
async fn write(mut incoming: Incoming, piece: Bytes) -> Result<Incoming, Problem> {
    let written = move || {
        incoming.write(&piece)?;
        Ok(incoming)
    };
    blocking(move || written().map_err(|error: ComponentStoreError| Problem::Store(error))).await
}

/// A body on its way in.
struct Upload {
    body: Body,
    most: u64,
}

impl Upload {
    /// The next piece; a client that pauses for too long is given up.
    async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        loop {
            let frame = tokio::time::timeout(CLIENT_TIMEOUT, self.body.frame()).await.map_err(|_| Problem::Stalled)?;
            let Some(frame) = frame else { return Ok(None) };
            let frame = frame.map_err(|error| Problem::BadRequest(format!("The upload broke off: {error}.")))?;
            match frame.into_data() {
                Ok(piece) if !piece.is_empty() => return Ok(Some(piece)),
                // Trailers, and nothing.
                _ => {}
            }
        }
    }

    /// Says that it is too large. As much again is read and thrown away, for most clients read no answer before they have
    /// sent all.
    async fn refuse(mut self) -> Problem {
        let mut thrown = 0;
        while let Ok(Some(piece)) = self.next().await {
            thrown += piece.len() as u64;
            if thrown > self.most {
                break;
            }
        }
        Problem::TooLarge("A component", self.most)
    }
}
