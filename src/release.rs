//! Which functions answer, and how they come to.

pub mod canary;
pub mod data;
pub mod deploy;
pub mod install;
pub mod live;
mod middleware;
pub mod routes;
mod turns;

use crate::manifest::{ReleaseConfig, RoutePattern};
use crate::middleware::{Asked, Chain};
use crate::names::{Name, strip_host_headers};
use crate::receipt::totals::FunctionTotals;
use crate::runtime::function::Function;
use crate::runtime::residents::Residents;
use data::AppData;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use routes::RouteTable;
use std::net::IpAddr;
use std::sync::Arc;

const ROUTE_HEADER: HeaderName = HeaderName::from_static("fnhost-route");

/// An immutable, numbered set of functions and routes of an app. Built whole, beside whatever is live, and never changed.
pub struct Release {
    /// Whose it is.
    pub app: Name,
    /// Its number; 0 for one that was not recorded, and will not be served.
    pub number: u64,
    /// How it becomes live.
    pub config: ReleaseConfig,
    /// The functions, in the order of functions.toml.
    pub functions: Vec<Arc<Function>>,
    /// Who answers what.
    pub routes: RouteTable<Arc<Route>>,
    /// The data of its app, open.
    pub data: AppData,
    /// What keeps the code of the functions; it lives as long as they do.
    pub residents: Arc<Residents>,
}

/// One route of a release.
pub struct Route {
    /// Whose it is.
    pub app: Name,
    /// The number of its release.
    pub release: u64,
    /// Who answers.
    pub function: Arc<Function>,
    /// What of the middleware before it is the host's own.
    pub chain: Arc<Chain>,
    /// What the function has done so far, in all its releases.
    pub totals: Arc<FunctionTotals>,
    /// What functions.toml says.
    pub pattern: RoutePattern,
    /// The pattern as a header value.
    pub label: HeaderValue,
    /// The number as one.
    pub release_label: HeaderValue,
    /// The names of the headers that carry its parameters, in their order.
    pub param_headers: Vec<HeaderName>,
    /// How many bytes of a path belong to the route, before its first parameter and the slash there.
    pub prefix_bytes: usize,
}

impl Route {
    /// What middleware may want to know of a request by `client`.
    pub fn asked(&self, client: IpAddr) -> Asked<'_> {
        let route = self.label.to_str().unwrap_or_default();
        Asked { client, route, route_prefix_bytes: self.prefix_bytes }
    }

    /// Replaces whatever a client said in the host's own headers by what the host knows: the route, and its parameters.
    pub fn mark(&self, headers: &mut HeaderMap, params: &[&str]) {
        strip_host_headers(headers);
        headers.insert(ROUTE_HEADER, self.label.clone());
        for (name, value) in self.param_headers.iter().zip(params) {
            // A path was parsed as a URI, so it has nothing that a header could not carry; it may be raw UTF-8.
            if let Ok(value) = HeaderValue::from_bytes(value.as_bytes()) {
                headers.insert(name.clone(), value);
            }
        }
    }
}
