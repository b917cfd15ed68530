//! What must be true of an app's data, and of the names by which functions are granted it.

use super::super::data::{
    DataGrants, DataSpec, DatabasePlace, DatabaseSpec, FilesSpec, StorePlace, StoreSpec, ValueSpec, VariableSpec,
};
use super::super::diagnostic::{Diagnostic, did_you_mean};
use super::super::file::data::{DataFile, DatabaseFile, FilesFile, ReferenceFile, StoreFile, ValueFile};
use super::super::file::{FunctionFile, place};
use super::{check_name, count, duration, size};
use crate::limits::{DATA_BYTES_MAX, DATABASE_BYTES, DURATION_MAX, POOL, POOL_MAX, STORE_BYTES};
use crate::names::Name;
use std::ops::Range;
use std::path::Path;
use toml::Spanned;

const WHERE: &str =
    "write the value in quotes, or where it is to be had: `{ env = \"NAME\" }` or `{ file = \"path\" }`";

/// Checks the tables of an app's data.
pub(super) fn check(file: DataFile, folder: &Path, errors: &mut Vec<Diagnostic>) -> DataSpec {
    let stores =
        file.stores.into_iter().filter_map(|(name, store)| check_store(&name, store, folder, errors)).collect();
    let databases = file.databases.into_iter();
    let databases = databases.filter_map(|(name, database)| check_database(&name, database, folder, errors)).collect();
    let variables = file.variables.into_iter();
    let variables = variables.filter_map(|(name, value)| check_variable(name, value, folder, errors)).collect();
    DataSpec { stores, databases, variables }
}

fn check_store(
    name: &Spanned<String>,
    file: StoreFile,
    folder: &Path,
    errors: &mut Vec<Diagnostic>,
) -> Option<StoreSpec> {
    let checked_name = check_name(name, "store", errors);
    let size_span = file.size.as_ref().map(Spanned::span);
    let size_bytes_max = size(file.size.as_ref(), STORE_BYTES, DATA_BYTES_MAX, errors);
    let ttl = file.ttl.as_ref().map(|written| duration(Some(written), DURATION_MAX, errors));
    let prefix_span = file.prefix.as_ref().map(Spanned::span);
    let place = match file.url {
        None => StorePlace::Embedded,
        Some(ValueFile::Plain(written)) if written.get_ref() == "memory:" => StorePlace::Memory,
        Some(written) => {
            let url = check_url(written, &["redis", "rediss"], "`memory:`, or ", folder, errors)?;
            if let Some(span) = &size_span {
                let told = Diagnostic::new(span.clone(), "the size of a server's store is the server's to bound");
                errors.push(told.help("take `size` out, and set `maxmemory` there"));
            }
            StorePlace::Redis { url, prefix: file.prefix.map(Spanned::into_inner).unwrap_or_default() }
        }
    };
    if let Some(span) = prefix_span
        && !matches!(place, StorePlace::Redis { .. })
    {
        let told = Diagnostic::new(span, "`prefix` is for a store of a server, which others may use as well");
        errors.push(told.help("take it out"));
    }
    Some(StoreSpec { name: checked_name?, place, ttl, size_bytes_max, span: name.span() })
}

fn check_database(
    name: &Spanned<String>,
    file: DatabaseFile,
    folder: &Path,
    errors: &mut Vec<Diagnostic>,
) -> Option<DatabaseSpec> {
    let checked_name = check_name(name, "database", errors);
    let embedded_only = [file.migrations.as_ref().map(Spanned::span), file.size.as_ref().map(Spanned::span)];
    let place = if let Some(written) = file.url {
        for span in embedded_only.into_iter().flatten() {
            let told = Diagnostic::new(span, "this is for an embedded database, and this one is a server's");
            errors.push(told.help("take it out, or `url`"));
        }
        let url = check_url(written, &["postgres", "postgresql"], "", folder, errors)?;
        let pool = count(file.pool.as_ref(), POOL, "pool", errors);
        if let Some(written) = file.pool.as_ref().filter(|_| pool > POOL_MAX) {
            let told = Diagnostic::new(written.span(), format!("a pool has at most {POOL_MAX} connections"));
            errors.push(told.help("a server does its work best with a few for each of its cores"));
        }
        DatabasePlace::Postgres { url, pool }
    } else {
        if let Some(written) = &file.pool {
            let told = Diagnostic::new(written.span(), "`pool` is for the connections to a server");
            errors.push(told.help("take it out, or write the server's `url`"));
        }
        let size_bytes_max = size(file.size.as_ref(), DATABASE_BYTES, DATA_BYTES_MAX, errors);
        DatabasePlace::Sqlite { migrations: file.migrations.map(|path| folder.join(path.get_ref())), size_bytes_max }
    };
    Some(DatabaseSpec { name: checked_name?, place, span: name.span() })
}

fn check_variable(
    name: Spanned<String>,
    file: ValueFile,
    folder: &Path,
    errors: &mut Vec<Diagnostic>,
) -> Option<VariableSpec> {
    let span = name.span();
    let well_named = |text: &str| {
        text.len() <= 128
            && text.starts_with(|first: char| first.is_ascii_lowercase())
            && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_')
    };
    if !well_named(name.get_ref()) {
        let told = Diagnostic::new(span.clone(), format!("`{}` cannot name a variable", name.get_ref()));
        errors.push(told.help("write a-z, 0-9 and `_`, a letter first"));
        return None;
    }
    let secret = match &file {
        ValueFile::Plain(_) => false,
        ValueFile::Reference(reference, _) => reference.secret.as_ref().is_some_and(|secret| *secret.get_ref()),
    };
    if secret && let ValueFile::Reference(ReferenceFile { default: Some(default), .. }, _) = &file {
        let told = Diagnostic::new(default.span(), "a secret does not stand in the file");
        errors.push(told.help("take `default` out: a missing secret is refused when the app is installed"));
    }
    let value = check_value(file, folder, errors)?;
    Some(VariableSpec { name: name.into_inner(), value, secret, span })
}

pub(super) fn check_value(file: ValueFile, folder: &Path, errors: &mut Vec<Diagnostic>) -> Option<ValueSpec> {
    let (reference, span) = match file {
        ValueFile::Plain(written) => return Some(ValueSpec::Plain(written.into_inner())),
        ValueFile::Reference(reference, span) => (reference, span),
    };
    match (reference.env, reference.file) {
        (Some(name), None) => {
            if name.get_ref().is_empty() || name.get_ref().contains(['=', '\0']) {
                errors.push(Diagnostic::new(name.span(), "an environment variable has a name, and no `=` in it"));
            }
            let default = reference.default.map(Spanned::into_inner);
            Some(ValueSpec::Env { name: name.into_inner(), default })
        }
        (None, Some(path)) => {
            if let Some(default) = reference.default {
                errors
                    .push(Diagnostic::new(default.span(), "`default` is for `env`: a file is there, or it is missed"));
            }
            Some(ValueSpec::File(folder.join(path.get_ref())))
        }
        (None, None) => {
            errors.push(Diagnostic::new(span, "this says of no value where it is to be had").help(WHERE));
            None
        }
        (Some(_), Some(_)) => {
            errors.push(Diagnostic::new(span, "a value comes from one place, and this has two").help(WHERE));
            None
        }
    }
}

/// Where a server is. A URL that is written out has no password in it: the file, and each release, would have it too.
fn check_url(
    file: ValueFile,
    schemes: &[&str],
    or_else: &str,
    folder: &Path,
    errors: &mut Vec<Diagnostic>,
) -> Option<ValueSpec> {
    if let ValueFile::Plain(written) = &file {
        let text = written.get_ref();
        let known = text.split_once("://").filter(|(scheme, rest)| schemes.contains(scheme) && !rest.is_empty());
        let Some((_, rest)) = known else {
            let told = Diagnostic::new(written.span(), format!("`{text}` is no URL of such a server"));
            let scheme = schemes.first().copied().unwrap_or_default();
            errors.push(told.help(format!("write {or_else}`{scheme}://host:port`, or `{{ env = \"NAME\" }}`")));
            return None;
        };
        let authority = rest.split(['/', '?']).next().unwrap_or_default();
        if authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':')) || rest.contains("password=") {
            let told = Diagnostic::new(written.span(), "a password does not stand in the file");
            errors.push(told.help("put the URL into an environment variable, and write `{ env = \"NAME\" }`"));
            return None;
        }
    }
    check_value(file, folder, errors)
}

/// What a function is granted of its app's data.
pub(super) fn check_grants(
    file: &mut FunctionFile,
    data: &DataSpec,
    folder: &Path,
    errors: &mut Vec<Diagnostic>,
) -> DataGrants {
    let stores: Vec<&str> = data.stores.iter().map(|store| store.name.as_str()).collect();
    let databases: Vec<&str> = data.databases.iter().map(|database| database.name.as_str()).collect();
    let variables: Vec<&str> = data.variables.iter().map(|variable| variable.name.as_str()).collect();
    let names = |names: Vec<String>| names.iter().filter_map(|name| Name::new(name).ok()).collect();
    DataGrants {
        stores: names(granted(file.stores.take(), "store", &stores, errors)),
        databases: names(granted(file.databases.take(), "database", &databases, errors)),
        variables: granted(file.variables.take(), "variable", &variables, errors),
        files: std::mem::take(&mut file.files)
            .into_iter()
            .filter_map(|files| check_files(files, folder, errors))
            .collect(),
    }
}

fn granted(
    written: Option<Spanned<Vec<Spanned<String>>>>,
    what: &str,
    known: &[&str],
    errors: &mut Vec<Diagnostic>,
) -> Vec<String> {
    let mut names = Vec::new();
    for name in written.map(Spanned::into_inner).unwrap_or_default() {
        if known.contains(&name.get_ref().as_str()) {
            if !names.contains(name.get_ref()) {
                names.push(name.into_inner());
            }
            continue;
        }
        let told = Diagnostic::new(name.span(), format!("the app has no {what} `{}`", name.get_ref()));
        errors.push(match did_you_mean(name.get_ref(), known.iter().copied()) {
            Some(help) => told.help(help),
            None if what == "variable" => told.help("add it to `[variables]`"),
            None => told.help(format!("add a table `[{what}s.{}]`", name.get_ref())),
        });
    }
    names
}

fn check_files(file: FilesFile, folder: &Path, errors: &mut Vec<Diagnostic>) -> Option<FilesSpec> {
    let span: Range<usize> = file.span;
    let (Some(from), Some(to)) = (&file.from, &file.to) else {
        let told = Diagnostic::new(span, "a folder has a place on the machine, and one in the sandbox");
        errors.push(told.help("write `{ from = \"static\", to = \"/static\" }`"));
        return None;
    };
    let path = to.get_ref();
    if !path.starts_with('/') || path.contains('\0') || path.split('/').any(|part| part == "..") {
        let told = Diagnostic::new(place(file.to.as_ref(), span), format!("`{path}` is no path in a sandbox"));
        errors.push(told.help("write one that begins with `/`, without `..`"));
        return None;
    }
    Some(FilesSpec {
        from: folder.join(from.get_ref()),
        to: path.clone(),
        writable: file.writable.is_some_and(Spanned::into_inner),
        span,
    })
}
