//! `[middleware]` as it is written: the list for all functions, and a table for each.

use super::data::ValueFile;
use super::{Table, owned};
use std::ops::Range;
use toml::Spanned;

/// `[middleware]`
#[derive(Debug, Default)]
pub(in crate::manifest) struct MiddlewareFile {
    /// What stands before every function.
    pub(in crate::manifest) all: Option<Spanned<Vec<Spanned<String>>>>,
    pub(in crate::manifest) tables: Vec<(Spanned<String>, LinkFile)>,
}

/// `[middleware.NAME]`
#[derive(Debug, Default)]
pub(in crate::manifest) struct LinkFile {
    pub(in crate::manifest) component: Option<Spanned<String>>,
    pub(in crate::manifest) build: Option<Spanned<String>>,
    pub(in crate::manifest) build_dir: Option<Spanned<String>>,
    /// Those of the host's own, each with the place of its key.
    pub(in crate::manifest) built_in: Vec<(Range<usize>, BuiltInFile)>,
}

/// What the host has built in.
#[derive(Debug)]
pub(in crate::manifest) enum BuiltInFile {
    Cors(CorsFile),
    BasicAuth(BasicAuthFile),
    Bearer(BearerFile),
    RateLimit(RateLimitFile),
    Compress(CompressFile),
    Static(StaticFile),
    Redirect(RedirectFile),
    Headers(HeadersFile),
}

/// `cors`
#[derive(Debug, Default)]
pub(in crate::manifest) struct CorsFile {
    pub(in crate::manifest) origins: Option<Spanned<Vec<Spanned<String>>>>,
    pub(in crate::manifest) methods: Option<Spanned<Vec<Spanned<String>>>>,
    pub(in crate::manifest) headers: Option<Spanned<Vec<Spanned<String>>>>,
    pub(in crate::manifest) expose: Option<Spanned<Vec<Spanned<String>>>>,
    pub(in crate::manifest) credentials: Option<Spanned<bool>>,
    pub(in crate::manifest) max_age: Option<Spanned<String>>,
}

/// `basic-auth`
#[derive(Debug, Default)]
pub(in crate::manifest) struct BasicAuthFile {
    pub(in crate::manifest) realm: Option<Spanned<String>>,
    pub(in crate::manifest) users: Vec<(Spanned<String>, ValueFile)>,
    pub(in crate::manifest) strip: Option<Spanned<bool>>,
}

/// `bearer`
#[derive(Debug, Default)]
pub(in crate::manifest) struct BearerFile {
    pub(in crate::manifest) realm: Option<Spanned<String>>,
    pub(in crate::manifest) tokens: Option<Spanned<Vec<ValueFile>>>,
    pub(in crate::manifest) jwks: Option<Spanned<String>>,
    pub(in crate::manifest) issuer: Option<Spanned<String>>,
    pub(in crate::manifest) audience: Option<Spanned<String>>,
    pub(in crate::manifest) algorithms: Option<Spanned<Vec<Spanned<String>>>>,
    pub(in crate::manifest) leeway: Option<Spanned<String>>,
    pub(in crate::manifest) strip: Option<Spanned<bool>>,
}

/// `rate-limit`
#[derive(Debug, Default)]
pub(in crate::manifest) struct RateLimitFile {
    pub(in crate::manifest) requests: Option<Spanned<i64>>,
    pub(in crate::manifest) per: Option<Spanned<String>>,
    pub(in crate::manifest) burst: Option<Spanned<i64>>,
    pub(in crate::manifest) by: Option<KeyFile>,
}

/// `by` of `rate-limit`
#[derive(Debug)]
pub(in crate::manifest) enum KeyFile {
    Word(Spanned<String>),
    Header(Option<Spanned<String>>, Range<usize>),
}

/// `compress`
#[derive(Debug, Default)]
pub(in crate::manifest) struct CompressFile {
    pub(in crate::manifest) min_size: Option<Spanned<String>>,
}

/// `static`
#[derive(Debug, Default)]
pub(in crate::manifest) struct StaticFile {
    pub(in crate::manifest) from: Option<Spanned<String>>,
    pub(in crate::manifest) index: Option<Spanned<String>>,
}

/// `redirect`
#[derive(Debug, Default)]
pub(in crate::manifest) struct RedirectFile {
    pub(in crate::manifest) to: Option<Spanned<String>>,
    pub(in crate::manifest) status: Option<Spanned<i64>>,
}

/// `headers`
#[derive(Debug, Default)]
pub(in crate::manifest) struct HeadersFile {
    pub(in crate::manifest) request: ChangesFile,
    pub(in crate::manifest) response: ChangesFile,
}

/// `request` and `response` of `headers`
#[derive(Debug, Default)]
pub(in crate::manifest) struct ChangesFile {
    pub(in crate::manifest) set: Vec<(Spanned<String>, Spanned<String>)>,
    pub(in crate::manifest) remove: Option<Spanned<Vec<Spanned<String>>>>,
}

pub(super) fn read(mut table: Table<'_>) -> MiddlewareFile {
    // `all` is a list, and everything else a table, so no middleware can be called `all`.
    let all = table.strings("all");
    let tables = table.tables_but("middleware", &["all"], read_link);
    MiddlewareFile { all, tables }
}

fn read_link(mut table: Table<'_>) -> LinkFile {
    let mut built_in = Vec::new();
    let mut note = |table: &Table<'_>, key: &str, file: Option<BuiltInFile>| {
        let span = table.entries.get_key_value(key).map(|(key, _)| key.span());
        built_in.extend(span.zip(file));
    };
    let cors = table.table("cors").map(read_cors).map(BuiltInFile::Cors);
    note(&table, "cors", cors);
    let basic_auth = table.table("basic-auth").map(read_basic_auth).map(BuiltInFile::BasicAuth);
    note(&table, "basic-auth", basic_auth);
    let bearer = table.table("bearer").map(read_bearer).map(BuiltInFile::Bearer);
    note(&table, "bearer", bearer);
    let rate_limit = table.table("rate-limit").map(read_rate_limit).map(BuiltInFile::RateLimit);
    note(&table, "rate-limit", rate_limit);
    let compress = table.table("compress").map(read_compress).map(BuiltInFile::Compress);
    note(&table, "compress", compress);
    let files = table.table("static").map(read_static).map(BuiltInFile::Static);
    note(&table, "static", files);
    let redirect = table.table("redirect").map(read_redirect).map(BuiltInFile::Redirect);
    note(&table, "redirect", redirect);
    let headers = table.table("headers").map(read_headers).map(BuiltInFile::Headers);
    note(&table, "headers", headers);
    built_in.sort_by_key(|(span, _)| span.start);
    let link = LinkFile {
        component: table.string("component"),
        build: table.string("build"),
        build_dir: table.string("build-dir"),
        built_in,
    };
    table.finish();
    link
}

fn read_cors(mut table: Table<'_>) -> CorsFile {
    let cors = CorsFile {
        origins: table.strings("origins"),
        methods: table.strings("methods"),
        headers: table.strings("headers"),
        expose: table.strings("expose"),
        credentials: table.boolean("credentials"),
        max_age: table.string("max-age"),
    };
    table.finish();
    cors
}

fn read_basic_auth(mut table: Table<'_>) -> BasicAuthFile {
    let users = table.table("users").map(|users| {
        let value = |(name, value): (&Spanned<_>, &Spanned<_>)| {
            let name = owned(name);
            let value = users.value_of(name.get_ref(), value, false)?;
            Some((name, value))
        };
        let mut users: Vec<_> = users.entries.iter().filter_map(value).collect();
        users.sort_by_key(|(name, _)| name.span().start);
        users
    });
    let basic_auth =
        BasicAuthFile { realm: table.string("realm"), users: users.unwrap_or_default(), strip: table.boolean("strip") };
    table.finish();
    basic_auth
}

fn read_bearer(mut table: Table<'_>) -> BearerFile {
    let bearer = BearerFile {
        realm: table.string("realm"),
        tokens: table.values("tokens"),
        jwks: table.string("jwks"),
        issuer: table.string("issuer"),
        audience: table.string("audience"),
        algorithms: table.strings("algorithms"),
        leeway: table.string("leeway"),
        strip: table.boolean("strip"),
    };
    table.finish();
    bearer
}

fn read_rate_limit(mut table: Table<'_>) -> RateLimitFile {
    let rate_limit = RateLimitFile {
        requests: table.integer("requests"),
        per: table.string("per"),
        burst: table.integer("burst"),
        by: table.key("by"),
    };
    table.finish();
    rate_limit
}

fn read_compress(mut table: Table<'_>) -> CompressFile {
    let compress = CompressFile { min_size: table.string("min-size") };
    table.finish();
    compress
}

fn read_static(mut table: Table<'_>) -> StaticFile {
    let files = StaticFile { from: table.string("from"), index: table.string("index") };
    table.finish();
    files
}

fn read_redirect(mut table: Table<'_>) -> RedirectFile {
    let redirect = RedirectFile { to: table.string("to"), status: table.integer("status") };
    table.finish();
    redirect
}

fn read_headers(mut table: Table<'_>) -> HeadersFile {
    let headers = HeadersFile {
        request: table.table("request").map(read_changes).unwrap_or_default(),
        response: table.table("response").map(read_changes).unwrap_or_default(),
    };
    table.finish();
    headers
}

fn read_changes(mut table: Table<'_>) -> ChangesFile {
    let changes = ChangesFile { set: table.string_map("set"), remove: table.strings("remove") };
    table.finish();
    changes
}

impl Table<'_> {
    /// A list of strings, or of tables that say where a value is to be had.
    fn values(&mut self, key: &'static str) -> Option<Spanned<Vec<ValueFile>>> {
        let value = self.get(key)?;
        let Some(array) = value.get_ref().as_array() else {
            self.wrong_type(key, value, "a list, as in [{ env = \"NAME\" }]");
            return None;
        };
        let values = array.iter().filter_map(|item| self.value_of(key, item, false)).collect();
        Some(Spanned::new(value.span(), values))
    }

    /// For what a limit counts.
    fn key(&mut self, key: &'static str) -> Option<KeyFile> {
        let value = self.get(key)?;
        if let Some(word) = super::as_string(value) {
            return Some(KeyFile::Word(word));
        }
        let Some(entries) = value.get_ref().as_table() else {
            self.wrong_type(key, value, "a string in quotes, or `{ header = \"…\" }`");
            return None;
        };
        let mut table = Table::new(format!("`{key}`"), entries, self.errors);
        let header = table.string("header");
        table.finish();
        Some(KeyFile::Header(header, value.span()))
    }
}
