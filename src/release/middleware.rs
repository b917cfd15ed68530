//! The middleware of a release that is built in, made when it is installed.
//!
//! What functions.toml only refers to is looked up here, as that of variables is. Limits belong to an app, not to a release: a
//! deploy gives nobody a fresh allowance, and a canary does not double it.

use super::data::Values;
use crate::manifest::data::ValueSpec;
use crate::manifest::middleware::{
    BasicAuthSpec, BearerSpec, BearerTokens, BuiltInSpec, MiddlewareKind, MiddlewareSpec, RateLimitSpec, StaticSpec,
};
use crate::manifest::{Diagnostic, FunctionSpec, Manifest};
use crate::middleware::{
    BasicAuth, Bearer, BuiltIn, Chain, Compress, Cors, Headers, KeyFile, RateLimit, Redirect, StaticFiles,
};
use crate::names::Name;
use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// The limits of the apps of a host, for as long as some release has them.
#[derive(Default)]
pub(super) struct Limits(Mutex<HashMap<(Name, Name, RateLimitSpec), Weak<RateLimit>>>);

impl Limits {
    fn of(&self, app: &Name, name: &Name, spec: &RateLimitSpec) -> Arc<RateLimit> {
        let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (app.clone(), name.clone(), spec.clone());
        if let Some(limit) = limits.get(&key).and_then(Weak::upgrade) {
            return limit;
        }
        limits.retain(|_, limit| limit.strong_count() > 0);
        let limit = Arc::new(RateLimit::new(name, spec));
        limits.insert(key, Arc::downgrade(&limit));
        limit
    }
}

/// What an app has of it.
pub(super) struct BuiltIns(Vec<(Name, Arc<BuiltIn>)>);

impl BuiltIns {
    /// Makes all that `manifest` describes. Says of each thing that cannot be had where the file asks for it.
    pub(super) fn of(manifest: &Manifest, limits: &Limits) -> Result<Self, Vec<Diagnostic>> {
        let mut errors = Vec::new();
        let mut made = Vec::new();
        let values = Values::of(manifest);
        for spec in &manifest.middleware {
            let MiddlewareKind::BuiltIn(kind) = &spec.kind else { continue };
            match make(manifest, spec, kind, &values, limits) {
                Ok(built_in) => made.push((spec.name.clone(), Arc::new(built_in))),
                Err(cause) => errors.push(cause),
            }
        }
        if errors.is_empty() { Ok(Self(made)) } else { Err(errors) }
    }

    /// What stands before `function`.
    pub(super) fn chain(&self, function: &FunctionSpec) -> Arc<Chain> {
        let link = |name: &Name| self.0.iter().find(|(known, _)| known == name).map(|(_, link)| Arc::clone(link));
        Arc::new(Chain::new(function.middleware.iter().filter_map(link).collect()))
    }
}

fn make(
    manifest: &Manifest,
    spec: &MiddlewareSpec,
    kind: &BuiltInSpec,
    values: &Values,
    limits: &Limits,
) -> Result<BuiltIn, Diagnostic> {
    let refuse = |cause: String| Diagnostic::new(spec.span.clone(), format!("the middleware `{}`: {cause}", spec.name));
    Ok(match kind {
        BuiltInSpec::Cors(cors) => BuiltIn::Cors(Cors::new(cors)),
        BuiltInSpec::BasicAuth(spec) => BuiltIn::BasicAuth(basic_auth(spec, values).map_err(refuse)?),
        BuiltInSpec::Bearer(spec) => BuiltIn::Bearer(bearer(spec, values, manifest.is_upload()).map_err(refuse)?),
        BuiltInSpec::RateLimit(limit) => BuiltIn::RateLimit(limits.of(&manifest.name, &spec.name, limit)),
        BuiltInSpec::Compress(compress) => BuiltIn::Compress(Compress::new(compress)),
        BuiltInSpec::Static(files) => {
            find_folder(files, manifest.is_upload()).map_err(refuse)?;
            BuiltIn::Static(StaticFiles::new(files.clone()))
        }
        BuiltInSpec::Redirect(redirect) => BuiltIn::Redirect(Redirect::new(redirect.clone())),
        BuiltInSpec::Headers(headers) => BuiltIn::Headers(Headers::new(headers.clone())),
    })
}

/// A secret. One that is empty would be known to everybody.
fn secret(value: &ValueSpec, values: &Values) -> Result<String, String> {
    let secret = values.find(value)?;
    if secret.is_empty() { Err("a secret is empty".to_owned()) } else { Ok(secret) }
}

fn basic_auth(spec: &BasicAuthSpec, values: &Values) -> Result<BasicAuth, String> {
    let user = |(name, password): &(String, ValueSpec)| {
        let password = secret(password, values).map_err(|cause| format!("the user `{name}` has no password: {cause}"));
        Ok((name.clone(), password?))
    };
    let users: Vec<(String, String)> = spec.users.iter().map(user).collect::<Result<_, String>>()?;
    Ok(BasicAuth::new(&spec.realm, &users, spec.strip))
}

fn bearer(spec: &BearerSpec, values: &Values, is_upload: bool) -> Result<Bearer, String> {
    match &spec.accepts {
        BearerTokens::Fixed(tokens) => {
            let token = |value| secret(value, values).map_err(|cause| format!("a token cannot be had: {cause}"));
            let tokens: Vec<String> = tokens.iter().map(token).collect::<Result<_, _>>()?;
            Ok(Bearer::fixed(&spec.realm, &tokens, spec.strip))
        }
        BearerTokens::Signed { jwks, issuer, audience, algorithms, leeway } => {
            refuse_foreign(jwks, is_upload)?;
            let keys = KeyFile::open(jwks.clone(), issuer.clone(), audience.clone(), algorithms.as_deref(), *leeway);
            let keys = keys.map_err(|cause| format!("the keys of {} cannot be used: {cause}", jwks.display()))?;
            Ok(Bearer::signed(&spec.realm, keys, spec.strip))
        }
    }
}

fn find_folder(spec: &StaticSpec, is_upload: bool) -> Result<(), String> {
    refuse_foreign(&spec.from, is_upload)?;
    let from = spec.from.display();
    match std::fs::metadata(&spec.from) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(format!("{from} is no folder")),
        Err(cause) => Err(format!("the folder {from} cannot be read: {cause}")),
    }
}

/// An app that was deployed from elsewhere names what is on the host's machine by its whole path.
fn refuse_foreign(path: &Path, is_upload: bool) -> Result<(), String> {
    if is_upload && path.is_relative() {
        let path = path.display();
        return Err(format!(
            "{path} is of the machine that the app was deployed from; write its whole path on the host's"
        ));
    }
    Ok(())
}
