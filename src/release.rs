//! Which functions answer, and how they come to.

pub mod install;
pub mod live;
pub mod routes;

use crate::manifest::RoutePattern;
use crate::runtime::engine::Engines;
use crate::runtime::function::Function;
use routes::RouteTable;
use std::sync::Arc;

/// An immutable set of functions and routes. Built whole, beside whatever is live, and never changed.
pub struct Release {
    /// The functions, in the order of functions.toml.
    pub functions: Vec<Arc<Function>>,
    /// Who answers what.
    pub routes: RouteTable<Route>,
    /// What the functions run on; it lives as long as they do.
    pub engines: Arc<Engines>,
}

/// One route of a release.
pub struct Route {
    /// Who answers.
    pub function: Arc<Function>,
    /// Its place in [`Release::functions`].
    pub function_index: usize,
    /// What functions.toml says.
    pub pattern: RoutePattern,
    /// The pattern as a header value.
    pub label: http::HeaderValue,
    /// The names of the headers that carry its parameters, in their order.
    pub param_headers: Vec<http::HeaderName>,
    /// How many bytes of a path belong to the route, before its first parameter and the slash there.
    pub prefix_bytes: usize,
}
