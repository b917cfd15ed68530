//! What must be true of middleware, and of the chains in which functions name it.
//!
//! What each kind that is built in may say is in `built_in`.

mod built_in;

use super::super::diagnostic::{Diagnostic, did_you_mean};
use super::super::file::middleware::{LinkFile, MiddlewareFile};
use super::super::file::place;
use super::super::middleware::{MiddlewareComponent, MiddlewareKind, MiddlewareSpec};
use super::{check_build, check_name};
use crate::names::Name;
use std::collections::HashSet;
use std::path::Path;
use toml::Spanned;

const KINDS: &str = "component, cors, basic-auth, bearer, rate-limit, compress, static, redirect, headers";

type Listed = Option<Spanned<Vec<Spanned<String>>>>;

/// The middleware of an app, while the chains of its functions are checked.
pub(super) struct Middleware {
    all: Vec<Spanned<String>>,
    /// All names that there are, also of what is wrong: it is told of once.
    names: Vec<Spanned<String>>,
    specs: Vec<MiddlewareSpec>,
    listed: HashSet<String>,
}

/// Checks the tables.
pub(super) fn check(file: MiddlewareFile, folder: &Path, errors: &mut Vec<Diagnostic>) -> Middleware {
    let mut names = Vec::new();
    let mut specs = Vec::new();
    for (name, link) in file.tables {
        specs.extend(check_link(&name, link, folder, errors));
        names.push(name);
    }
    let mut middleware = Middleware { all: Vec::new(), names, specs, listed: HashSet::new() };
    let all = file.all.map(Spanned::into_inner).unwrap_or_default();
    middleware.all = middleware.known(all, &[], errors);
    middleware.check_order(&middleware.all, errors);
    middleware
}

impl Middleware {
    /// The chain of a function that lists these: what stands before every function, and then those.
    pub(super) fn chain(&mut self, written: Listed, errors: &mut Vec<Diagnostic>) -> Vec<Name> {
        let own = written.map(Spanned::into_inner).unwrap_or_default();
        let all = self.all.clone();
        let own = self.known(own, &all, errors);
        let checked = errors.len();
        let chain: Vec<Spanned<String>> = all.into_iter().chain(own.iter().cloned()).collect();
        // What is wrong among those of all functions was told before.
        if !own.is_empty() {
            self.check_order(&chain, errors);
        }
        if errors.len() > checked {
            return Vec::new();
        }
        chain.iter().filter_map(|name| Name::new(name.get_ref()).ok()).collect()
    }

    /// What there is, when all functions were checked; nobody listed what is told of here.
    pub(super) fn finish(self, errors: &mut Vec<Diagnostic>) -> Vec<MiddlewareSpec> {
        for name in self.names.iter().filter(|name| !self.listed.contains(name.get_ref().as_str())) {
            let idle = Diagnostic::new(name.span(), format!("no function has the middleware `{}`", name.get_ref()));
            let help = "list it in `middleware` of a function, or in `all` of [middleware]; or take it out";
            errors.push(idle.help(help));
        }
        self.specs
    }

    /// Those of `written` that there are, and that stand there, and in `before`, once.
    fn known(
        &mut self,
        written: Vec<Spanned<String>>,
        before: &[Spanned<String>],
        errors: &mut Vec<Diagnostic>,
    ) -> Vec<Spanned<String>> {
        let mut known: Vec<Spanned<String>> = Vec::with_capacity(written.len());
        for name in written {
            let text = name.get_ref();
            if !self.names.iter().any(|other| other.get_ref() == text) {
                let names = self.names.iter().map(|name| name.get_ref().as_str());
                let told = Diagnostic::new(name.span(), format!("the app has no middleware `{text}`"));
                let help = did_you_mean(text, names).unwrap_or_else(|| format!("add a table `[middleware.{text}]`"));
                errors.push(told.help(help));
            } else if let Some(other) = before.iter().chain(&known).find(|other| other.get_ref() == text) {
                let told = Diagnostic::new(name.span(), format!("`{text}` would stand twice before the function"));
                errors.push(told.other(other.span(), "it is listed here").help("take one of them out"));
            } else {
                self.listed.insert(text.clone());
                known.push(name);
            }
        }
        known
    }

    /// What is the host's own runs before there is a sandbox, and components run in it.
    fn check_order(&self, chain: &[Spanned<String>], errors: &mut Vec<Diagnostic>) {
        let mut component: Option<&Spanned<String>> = None;
        for name in chain {
            let Some(spec) = self.specs.iter().find(|spec| spec.name.as_str() == name.get_ref()) else { continue };
            match (&spec.kind, component) {
                (MiddlewareKind::Component(_), _) => component = component.or(Some(name)),
                (MiddlewareKind::BuiltIn(_), None) => {}
                (MiddlewareKind::BuiltIn(kind), Some(component)) => {
                    let message = format!(
                        "`{}` is built in ({}), and stands behind the component `{}`",
                        name.get_ref(),
                        kind.as_str(),
                        component.get_ref()
                    );
                    let told = Diagnostic::new(name.span(), message);
                    let help = "what is built in runs before there is a sandbox, and components run in it: list it before them";
                    errors.push(told.other(component.span(), "the component is listed here").help(help));
                    return;
                }
            }
        }
    }
}

fn check_link(
    name: &Spanned<String>,
    file: LinkFile,
    folder: &Path,
    errors: &mut Vec<Diagnostic>,
) -> Option<MiddlewareSpec> {
    let checked_name = check_name(name, "middleware", errors);
    let build_span = place(file.build.as_ref(), place(file.build_dir.as_ref(), name.span()));
    let builds = file.build.is_some() || file.build_dir.is_some();
    let build = check_build(file.build, file.build_dir, folder, errors);
    let mut built_in = file.built_in.into_iter();
    let kind = match (file.component, built_in.next()) {
        (None, None) => {
            let none = Diagnostic::new(name.span(), format!("the middleware `{}` does nothing", name.get_ref()));
            errors.push(none.help(format!("write one of: {KINDS}")));
            return None;
        }
        (Some(component), None) => {
            let (path, span) = (folder.join(component.get_ref()), component.span());
            MiddlewareKind::Component(MiddlewareComponent { path, span, build })
        }
        (None, Some((_, kind))) => {
            if builds {
                let told = Diagnostic::new(build_span, "there is nothing to build in what the host has built in");
                errors.push(told.help("take it out"));
            }
            if let Some((span, _)) = built_in.next() {
                errors.push(two(name, span));
            }
            MiddlewareKind::BuiltIn(built_in::check(name, kind, folder, errors)?)
        }
        (Some(_), Some((span, _))) => {
            errors.push(two(name, span));
            return None;
        }
    };
    Some(MiddlewareSpec { name: checked_name?, kind, span: name.span() })
}

fn two(name: &Spanned<String>, span: std::ops::Range<usize>) -> Diagnostic {
    let told = Diagnostic::new(span, format!("the middleware `{}` is two things", name.get_ref()));
    told.help("give each a table of its own, and list both")
}
