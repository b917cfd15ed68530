//! Releases: `/v1/apps/{app}/releases`, and what is done with them.

use super::components::json;
use super::problem::Problem;
use super::{Admin, CLIENT_TIMEOUT, blocking};
use crate::api::{
    ChangeRequest, Changed, DeployRequest, FunctionInfo, MigrationText, ReleaseInfo, ReleaseList, State as ReleaseState,
};
use crate::limits::{self, Share};
use crate::manifest::{FILE_BYTES_MAX, FunctionSpec, Manifest};
use crate::names::Name;
use crate::release::data::{self, Migrations};
use crate::release::deploy::{Deploy, Deployed, Deployments, Expect};
use crate::release::install::Progress;
use crate::storage::artifacts::Digest256;
use crate::storage::releases::{Pointers, ReleaseRecord};
use crate::storage::sql::migrations::{self, BYTES_MAX, Migration};
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use http_body_util::{BodyExt as _, Limited};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// The most bytes of a message.
const MESSAGE_BYTES_MAX: usize = 1000;
/// The most bytes of a body of JSON: a manifest, and a sha256 for each of its functions.
const JSON_BYTES_MAX: usize = 64 << 20;

/// A parameter of the path, as axum has it.
pub(super) type PathText = Result<Path<String>, axum::extract::rejection::PathRejection>;

pub(super) fn name(path: PathText) -> Result<Name, Problem> {
    let Path(text) = path.map_err(|error| Problem::BadName(error.to_string()))?;
    Name::new(&text).map_err(|_| Problem::BadName(text))
}

/// Makes a release of components that were uploaded before: 201, or 200 if it is what is live already.
pub(super) async fn deploy(State(admin): State<Arc<Admin>>, path: PathText, body: Body) -> Result<Response, Problem> {
    let app = name(path)?;
    let request: DeployRequest = read(body).await?;
    let deployed = blocking(move || {
        let deploy = understand(&app, request)?;
        let deployed = admin.host.deployments.deploy(&deploy, &Logged)?;
        Ok(Changed { app: app.to_string(), number: deployed.number, unchanged: deployed.unchanged })
    });
    let changed = deployed.await?;
    let status = if changed.unchanged { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, [(CONTENT_TYPE, "application/json")], json(&changed)).into_response())
}

fn understand(app: &Name, request: DeployRequest) -> Result<Deploy, Problem> {
    let DeployRequest { manifest, components, mut middleware, migrations, message, canary, base, force } = request;
    if message.len() > MESSAGE_BYTES_MAX || message.contains(char::is_control) {
        let wrong = format!("A message is one line, of {MESSAGE_BYTES_MAX} bytes at the most.");
        return Err(Problem::BadRequest(wrong));
    }
    let canary = canary.map(|text| share(&text)).transpose()?;
    if manifest.len() as u64 > FILE_BYTES_MAX {
        return Err(Problem::TooLarge("A functions.toml", FILE_BYTES_MAX));
    }
    let manifest = Manifest::of_upload(manifest).map_err(|error| Problem::BadManifest(error.to_string()))?;
    if manifest.name != *app {
        let wrong = format!("functions.toml names the app `{}`, and the path `{app}`.", manifest.name);
        return Err(Problem::BadRequest(wrong));
    }
    let unknown = components.keys().find(|name| !manifest.functions.iter().any(|spec| spec.name.as_str() == **name));
    if let Some(name) = unknown {
        return Err(Problem::BadRequest(format!("functions.toml has no function `{name}`.")));
    }
    let migrations = understand_migrations(&manifest, migrations)?;
    let component_of = |spec: &FunctionSpec| {
        let text = components.get(spec.name.as_str());
        let text =
            text.ok_or_else(|| Problem::BadRequest(format!("The function `{}` has no component.", spec.name)))?;
        Digest256::try_from(text.clone()).map_err(|_| Problem::BadDigest)
    };
    let components = manifest.functions.iter().map(component_of).collect::<Result<_, _>>()?;
    let mut links = Vec::new();
    for (name, _) in manifest.middleware_components() {
        let text = middleware.remove(name.as_str());
        let text = text.ok_or_else(|| Problem::BadRequest(format!("The middleware `{name}` has no component.")))?;
        links.push(Digest256::try_from(text).map_err(|_| Problem::BadDigest)?);
    }
    if let Some(name) = middleware.keys().next() {
        return Err(Problem::BadRequest(format!("functions.toml has no middleware `{name}` that is a component.")));
    }
    Ok(Deploy { manifest, components, middleware: links, migrations, message, canary, expect: Expect { base, force } })
}

fn understand_migrations(
    manifest: &Manifest,
    mut sent: BTreeMap<String, Vec<MigrationText>>,
) -> Result<Migrations, Problem> {
    let mut understood = Migrations::new();
    for database in data::migrated(manifest) {
        let texts = sent.remove(database.as_str()).ok_or_else(|| {
            Problem::BadRequest(format!("The migrations of the database `{database}` are not in the request."))
        })?;
        let mut named: Vec<Migration> =
            texts.into_iter().map(|MigrationText { name, sql }| Migration { name, sql }).collect();
        named.sort_by(|one, other| one.name.cmp(&other.name));
        let bad =
            |migration: &&Migration| !migrations::is_name(&migration.name) || migration.sql.len() as u64 > BYTES_MAX;
        if let Some(migration) = named.iter().find(bad) {
            let wrong = format!(
                "A migration has a name that ends with .sql, and {BYTES_MAX} bytes at the most; {:?} is none.",
                migration.name
            );
            return Err(Problem::BadRequest(wrong));
        }
        if named.windows(2).any(|pair| matches!(pair, [one, other] if one.name == other.name)) {
            return Err(Problem::BadRequest(format!("Two migrations of `{database}` have the same name.")));
        }
        understood.push((database.clone(), named));
    }
    match sent.keys().next() {
        Some(unknown) => {
            Err(Problem::BadRequest(format!("functions.toml has no migrations for a database `{unknown}`.")))
        }
        None => Ok(understood),
    }
}

fn share(text: &str) -> Result<Share, Problem> {
    limits::parse_share(text).map_err(|error| Problem::BadRequest(format!("As a canary's share, {error}.")))
}

/// Has the canary answer everything.
pub(super) async fn promote(State(admin): State<Arc<Admin>>, path: PathText, body: Body) -> Result<Response, Problem> {
    change(admin, path, body, |deployments, app, request| {
        if request.to.is_some() {
            return Err(Problem::BadRequest("`to` is for going back; the canary is what is promoted.".to_owned()));
        }
        Ok(deployments.promote(app, Expect { base: request.base, force: request.force })?)
    })
    .await
}

/// Has an earlier release answer again.
pub(super) async fn rollback(State(admin): State<Arc<Admin>>, path: PathText, body: Body) -> Result<Response, Problem> {
    change(admin, path, body, |deployments, app, request| {
        Ok(deployments.rollback(app, request.to, Expect { base: request.base, force: request.force })?)
    })
    .await
}

async fn change(
    admin: Arc<Admin>,
    path: PathText,
    body: Body,
    make: impl FnOnce(&Deployments, &Name, &ChangeRequest) -> Result<Deployed, Problem> + Send + 'static,
) -> Result<Response, Problem> {
    let app = name(path)?;
    let request: ChangeRequest = read(body).await?;
    let changed = blocking(move || {
        let Deployed { number, unchanged } = make(&admin.host.deployments, &app, &request)?;
        Ok(Changed { app: app.to_string(), number, unchanged })
    });
    Ok(ok(&changed.await?))
}

/// Takes an app away.
pub(super) async fn remove(State(admin): State<Arc<Admin>>, path: PathText) -> Result<StatusCode, Problem> {
    let app = name(path)?;
    blocking(move || Ok(admin.host.deployments.remove(&app, Expect::default())?)).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The releases of an app.
pub(super) async fn list(State(admin): State<Arc<Admin>>, path: PathText) -> Result<Response, Problem> {
    let app = name(path)?;
    let list = blocking(move || {
        let deployments = &admin.host.deployments;
        let (pointers, lines) = deployments.releases(&app)?;
        let releases = lines.iter().map(|line| Ok(info(pointers, deployments.release(&app, line.number)?)));
        Ok(ReleaseList { app: app.to_string(), releases: releases.collect::<Result<_, Problem>>()? })
    });
    Ok(ok(&list.await?))
}

/// One release.
pub(super) async fn one(
    State(admin): State<Arc<Admin>>,
    path: Result<Path<(String, String)>, axum::extract::rejection::PathRejection>,
) -> Result<Response, Problem> {
    let Path((app, number)) = path.map_err(|error| Problem::BadName(error.to_string()))?;
    let app = Name::new(&app).map_err(|_| Problem::BadName(app))?;
    let number: u64 = number.parse().map_err(|_| Problem::BadNumber)?;
    let found = blocking(move || {
        let (pointers, _) = admin.host.deployments.releases(&app)?;
        Ok(info(pointers, admin.host.deployments.release(&app, number)?))
    });
    Ok(ok(&found.await?))
}

fn info(pointers: Pointers, record: ReleaseRecord) -> ReleaseInfo {
    let line = record.line;
    let canary = pointers.canary.filter(|(number, _)| *number == line.number);
    let state = match canary {
        Some(_) => ReleaseState::Canary,
        None if pointers.live == Some(line.number) => ReleaseState::Live,
        None => ReleaseState::Old,
    };
    let functions: Vec<FunctionInfo> = record
        .functions
        .into_iter()
        .map(|function| FunctionInfo {
            name: function.name,
            component: function.component.to_string(),
            middleware: function.before.iter().map(ToString::to_string).collect(),
            kind: function.kind,
            bytes: function.bytes,
        })
        .collect();
    ReleaseInfo {
        number: line.number,
        state,
        share: canary.and_then(|(_, parts)| Some(Share::of_parts(parts)?.to_string())),
        created: humantime::format_rfc3339_seconds(UNIX_EPOCH + Duration::from_millis(line.created_ms)).to_string(),
        source: line.source,
        message: line.message,
        note: line.note,
        bytes: functions.iter().map(|function| function.bytes).sum(),
        functions,
    }
}

pub(super) fn ok(value: &impl serde::Serialize) -> Response {
    ([(CONTENT_TYPE, "application/json")], json(value)).into_response()
}

/// Reads a body of JSON; one that is empty stands for `{}`.
async fn read<T: DeserializeOwned>(body: Body) -> Result<T, Problem> {
    let collected = tokio::time::timeout(CLIENT_TIMEOUT, Limited::new(body, JSON_BYTES_MAX).collect()).await;
    let bytes = match collected.map_err(|_| Problem::Stalled)? {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => {
            return Err(Problem::TooLarge("A body of JSON", JSON_BYTES_MAX as u64));
        }
        Err(error) => return Err(Problem::BadRequest(format!("The body broke off: {error}."))),
    };
    let text: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
    serde_json::from_slice(text).map_err(|error| Problem::BadJson(error.to_string()))
}

/// Nobody waits at a terminal here; the log is told.
struct Logged;

impl Progress for Logged {
    fn compiling(&self, function: &FunctionSpec, done: usize, total: usize) {
        tracing::info!(function = function.name.as_str(), "compiling ({}/{total})", done + 1);
    }
}
