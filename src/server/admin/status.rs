//! How the host is: `/v1/health`, `/v1/ready`, `/v1/status`, `/v1/apps`.

use super::problem::Problem;
use super::releases::{PathText, name, ok};
use super::{Admin, blocking};
use crate::api::{AppInfo, AppList, HealthInfo, StatusInfo};
use crate::limits::Share;
use crate::names::Name;
use crate::release::deploy::Deployments;
use crate::storage::releases::Pointers;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use http::StatusCode;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Whether the process lives: 200.
pub(super) async fn health() -> Response {
    ok(&HealthInfo { status: "ok".to_owned() })
}

/// Whether it serves, and will go on: 200, or 503 on its way out.
pub(super) async fn ready(State(admin): State<Arc<Admin>>) -> Response {
    if admin.host.draining.load(Ordering::Acquire) {
        let stopping = ok(&HealthInfo { status: "stopping".to_owned() });
        return (StatusCode::SERVICE_UNAVAILABLE, stopping).into_response();
    }
    ok(&HealthInfo { status: "ok".to_owned() })
}

/// All of it.
pub(super) async fn status(State(admin): State<Arc<Admin>>) -> Result<Response, Problem> {
    let status = blocking(move || {
        let deployments = &admin.host.deployments;
        let installer = deployments.installer();
        let (sandboxes, sandboxes_max) = installer.sandboxes();
        let allocation = installer.engines().iter().map(|engines| engines.allocation().as_str().to_owned()).collect();
        let of_apps = deployments.warnings().into_iter().map(|(app, warning)| format!("{app}: {warning}"));
        let warnings = of_apps.chain(admin.host.observer.collector.trouble());
        Ok(StatusInfo {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            listen: admin.listen.to_string(),
            tls: !admin.host.settings.tls.certificates.is_empty(),
            uptime_seconds: admin.host.began.elapsed().as_secs(),
            allocation,
            sandboxes,
            sandboxes_max,
            loaded: installer.mapped().components() as u64,
            draining: admin.host.draining.load(Ordering::Acquire),
            apps: all_apps(deployments)?,
            warnings: warnings.collect(),
        })
    });
    Ok(ok(&status.await?))
}

/// The apps.
pub(super) async fn apps(State(admin): State<Arc<Admin>>) -> Result<Response, Problem> {
    let apps = blocking(move || Ok(AppList { apps: all_apps(&admin.host.deployments)? }));
    Ok(ok(&apps.await?))
}

/// One app.
pub(super) async fn app(State(admin): State<Arc<Admin>>, path: PathText) -> Result<Response, Problem> {
    let app = name(path)?;
    let found = blocking(move || {
        let (pointers, _) = admin.host.deployments.releases(&app)?;
        Ok(info(&admin.host.deployments, &app, pointers))
    });
    Ok(ok(&found.await?))
}

fn all_apps(deployments: &Deployments) -> Result<Vec<AppInfo>, Problem> {
    Ok(deployments.apps()?.iter().map(|(app, pointers)| info(deployments, app, *pointers)).collect())
}

fn info(deployments: &Deployments, app: &Name, pointers: Pointers) -> AppInfo {
    let serving = deployments.live().current();
    let live = serving.app(app).map(|serving| &serving.live);
    AppInfo {
        name: app.to_string(),
        live: pointers.live,
        canary: pointers.canary.map(|(number, _)| number),
        share: pointers.canary.and_then(|(_, parts)| Some(Share::of_parts(parts)?.to_string())),
        functions: live.map_or(0, |release| release.functions.len() as u64),
        routes: live.map_or(0, |release| release.routes.iter().count() as u64),
    }
}
