//! Host, method and path to a route.
//!
//! Owns the one table that requests are looked up in. A request goes to the route with the most exact host (a name,
//! then `*.` and a name, then none); among those, with the most exact path, segment by segment (static, then `{name}`,
//! then `{*rest}`); among those, to the one that has its method before the one that has none. HEAD is answered by GET
//! routes where no HEAD route is.
//!
//! **Invariant:** what a look-up costs depends on the length of the path, not on how many routes there are: each level
//! of the tree is left on at most two edges, and hosts and static segments are hashed.

use crate::manifest::{HostPattern, RoutePattern, Segment};
use http::Method;
use std::collections::{BTreeSet, HashMap};

/// Routes by host and path. `T` is what a route leads to.
#[derive(Debug)]
pub struct RouteTable<T> {
    routes: Vec<T>,
    exact_hosts: HashMap<String, Tree>,
    /// By the name behind `*.`.
    label_hosts: HashMap<String, Tree>,
    any_host: Tree,
}

/// A route that answers a request.
#[derive(Debug)]
pub struct Match<'t, 'r, T> {
    /// Where it leads.
    pub route: &'t T,
    /// The values of its parameters, in the pattern's order, as they stand in the path.
    pub params: Vec<&'r str>,
}

/// Why no route answers.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// No route has this host and path.
    #[error("no route")]
    NoRoute,
    /// Routes have this host and path, and other methods: these.
    #[error("no route for this method")]
    NoMethod {
        /// The methods that would be answered, in order.
        allow: Vec<String>,
    },
}

/// The paths of one host, a node for each prefix.
#[derive(Debug, Default)]
struct Tree {
    nodes: Vec<Node>,
}

#[derive(Debug, Default)]
struct Node {
    statics: HashMap<String, usize>,
    param: Option<usize>,
    /// Routes that end here.
    ends: Vec<Claim>,
    /// Routes whose rest begins here.
    rests: Vec<Claim>,
}

/// A route at the end of a path.
#[derive(Debug)]
struct Claim {
    method: Option<String>,
    route: usize,
}

impl<T> Default for RouteTable<T> {
    fn default() -> Self {
        Self { routes: Vec::new(), exact_hosts: HashMap::new(), label_hosts: HashMap::new(), any_host: Tree::default() }
    }
}

impl<T> RouteTable<T> {
    /// Adds a route. Two routes for the same requests are refused before (`manifest`); here the first would win.
    pub fn insert(&mut self, pattern: &RoutePattern, route: T) {
        let tree = match &pattern.host {
            None => &mut self.any_host,
            Some(HostPattern::Exact(name)) => self.exact_hosts.entry(name.clone()).or_default(),
            Some(HostPattern::AnyLabelOf(name)) => self.label_hosts.entry(name.clone()).or_default(),
        };
        tree.insert(pattern, self.routes.len());
        self.routes.push(route);
    }

    /// All routes, as they were added.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.routes.iter()
    }

    /// The route for a request to `host` (without its port) of `path` (as it stands in the target).
    pub fn find<'t, 'r>(&'t self, host: &str, method: &Method, path: &'r str) -> Result<Match<'t, 'r, T>, RouteError> {
        let mut search = Search { method, segments: path.split('/').skip(1).collect(), path, allow: BTreeSet::new() };
        for tree in self.trees_for(host) {
            let mut params = Vec::new();
            if let Some(route) = search.descend(tree, 0, 0, &mut params).and_then(|index| self.routes.get(index)) {
                return Ok(Match { route, params });
            }
        }
        if search.allow.is_empty() {
            return Err(RouteError::NoRoute);
        }
        Err(RouteError::NoMethod { allow: search.allow.into_iter().collect() })
    }

    /// The trees whose hosts match, the most exact first.
    fn trees_for(&self, host: &str) -> impl Iterator<Item = &Tree> {
        let (exact, label) = if self.exact_hosts.is_empty() && self.label_hosts.is_empty() {
            (None, None)
        } else {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            let behind = host.split_once('.').map(|(_, behind)| behind);
            (self.exact_hosts.get(&host), behind.and_then(|name| self.label_hosts.get(name)))
        };
        exact.into_iter().chain(label).chain(std::iter::once(&self.any_host))
    }
}

impl Tree {
    fn insert(&mut self, pattern: &RoutePattern, route: usize) {
        if self.nodes.is_empty() {
            self.nodes.push(Node::default());
        }
        let claim = Claim { method: pattern.method.clone(), route };
        let mut at = 0;
        for segment in &pattern.segments {
            let next = self.nodes.len();
            let Some(node) = self.nodes.get_mut(at) else { return };
            at = match segment {
                Segment::Static(text) => *node.statics.entry(text.clone()).or_insert(next),
                Segment::Param(_) => *node.param.get_or_insert(next),
                Segment::Rest(_) => {
                    node.rests.push(claim);
                    return;
                }
            };
            if at == next {
                self.nodes.push(Node::default());
            }
        }
        if let Some(node) = self.nodes.get_mut(at) {
            node.ends.push(claim);
        }
    }
}

/// One look-up.
struct Search<'a, 'r> {
    method: &'a Method,
    path: &'r str,
    segments: Vec<&'r str>,
    allow: BTreeSet<String>,
}

impl<'r> Search<'_, 'r> {
    /// The best route below node `at`, with `depth` segments matched. Tries the more exact edge first and comes back
    /// if it leads nowhere; every node belongs to one path, so none is visited twice.
    fn descend(&mut self, tree: &Tree, at: usize, depth: usize, params: &mut Vec<&'r str>) -> Option<usize> {
        let node = tree.nodes.get(at)?;
        if let Some(segment) = self.segments.get(depth).copied() {
            if let Some(next) = node.statics.get(segment)
                && let Some(found) = self.descend(tree, *next, depth + 1, params)
            {
                return Some(found);
            }
            if let Some(next) = node.param
                && !segment.is_empty()
            {
                params.push(segment);
                if let Some(found) = self.descend(tree, next, depth + 1, params) {
                    return Some(found);
                }
                params.pop();
            }
        } else if let Some(found) = self.choose(&node.ends) {
            return Some(found);
        }
        let found = self.choose(&node.rests)?;
        params.push(self.rest_from(depth));
        Some(found)
    }

    /// The route of `claims` that answers this method; if none does, the methods are noted.
    fn choose(&mut self, claims: &[Claim]) -> Option<usize> {
        let with = |wanted: Option<&str>| claims.iter().find(|claim| claim.method.as_deref() == wanted);
        let found = with(Some(self.method.as_str()))
            .or_else(|| if self.method == Method::HEAD { with(Some("GET")) } else { None })
            .or_else(|| with(None));
        if found.is_none() {
            for method in claims.iter().filter_map(|claim| claim.method.as_deref()) {
                self.allow.insert(method.to_owned());
                if method == "GET" {
                    self.allow.insert("HEAD".to_owned());
                }
            }
        }
        found.map(|claim| claim.route)
    }

    /// What is left of the path behind `depth` segments, without the slash before it.
    fn rest_from(&self, depth: usize) -> &'r str {
        let matched: usize = self.segments.iter().take(depth).map(|segment| segment.len() + 1).sum();
        self.path.get(matched + 1..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(routes: &[&'static str]) -> RouteTable<&'static str> {
        let mut table = RouteTable::default();
        for route in routes {
            table.insert(&RoutePattern::parse(route).unwrap(), *route);
        }
        table
    }

    fn find(
        table: &RouteTable<&'static str>,
        request: &'static str,
    ) -> Result<(&'static str, Vec<&'static str>), RouteError> {
        let (method, place) = request.split_once(' ').unwrap();
        let (host, path) = place.split_at(place.find('/').unwrap());
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        table.find(host, &method, path).map(|found| (*found.route, found.params))
    }

    #[test]
    fn static_beats_param_beats_rest() {
        let table = table(&["/{*all}", "/a/{x}", "/a/b", "/a/{x}/c", "/a/b/{*r}"]);
        assert_eq!(find(&table, "GET /a/b"), Ok(("/a/b", vec![])));
        assert_eq!(find(&table, "GET /a/z"), Ok(("/a/{x}", vec!["z"])));
        assert_eq!(find(&table, "GET /a/b/c"), Ok(("/a/b/{*r}", vec!["c"])));
        assert_eq!(find(&table, "GET /a/z/c"), Ok(("/a/{x}/c", vec!["z"])));
        assert_eq!(find(&table, "GET /a/z/d"), Ok(("/{*all}", vec!["a/z/d"])));
    }

    #[test]
    fn a_rest_may_be_empty() {
        let table = table(&["/v1/{*rest}"]);
        assert_eq!(find(&table, "GET /v1"), Ok(("/v1/{*rest}", vec![""])));
        assert_eq!(find(&table, "GET /v1/"), Ok(("/v1/{*rest}", vec![""])));
        assert_eq!(find(&table, "GET /v1/a//b/"), Ok(("/v1/{*rest}", vec!["a//b/"])));
        assert_eq!(find(&table, "GET /v2"), Err(RouteError::NoRoute));
        assert_eq!(find(&self::table(&["/{*rest}"]), "GET /"), Ok(("/{*rest}", vec![""])));
    }

    #[test]
    fn a_param_is_one_segment_and_not_empty() {
        let table = table(&["/hello/{name}"]);
        assert_eq!(find(&table, "GET /hello/%C3%A9"), Ok(("/hello/{name}", vec!["%C3%A9"])));
        assert_eq!(find(&table, "GET /hello/"), Err(RouteError::NoRoute));
        assert_eq!(find(&table, "GET /hello/a/"), Err(RouteError::NoRoute));
        assert_eq!(find(&table, "GET /hello"), Err(RouteError::NoRoute));
    }

    #[test]
    fn a_host_beats_none_and_a_name_beats_a_label() {
        let table = table(&["/{*all}", "example.com/x", "*.example.com/x", "api.example.com/x"]);
        assert_eq!(find(&table, "GET example.com/x").unwrap().0, "example.com/x");
        assert_eq!(find(&table, "GET EXAMPLE.com./x").unwrap().0, "example.com/x");
        assert_eq!(find(&table, "GET www.example.com/x").unwrap().0, "*.example.com/x");
        assert_eq!(find(&table, "GET api.example.com/x").unwrap().0, "api.example.com/x");
        assert_eq!(find(&table, "GET a.b.example.com/x").unwrap().0, "/{*all}");
        assert_eq!(find(&table, "GET example.com/y").unwrap().0, "/{*all}");
    }

    #[test]
    fn a_method_beats_none_on_the_same_path() {
        let table = table(&["/x", "GET /x", "POST /y", "GET /y", "/y/{*r}"]);
        assert_eq!(find(&table, "GET /x").unwrap().0, "GET /x");
        assert_eq!(find(&table, "PUT /x").unwrap().0, "/x");
        assert_eq!(find(&table, "HEAD /y").unwrap().0, "GET /y");
        assert_eq!(find(&table, "PUT /y").unwrap().0, "/y/{*r}");
    }

    #[test]
    fn a_wrong_method_names_the_right_ones() {
        let table = table(&["GET /x", "POST /x", "example.com/y", "DELETE /{z}"]);
        let allow =
            |names: &[&str]| Err(RouteError::NoMethod { allow: names.iter().map(ToString::to_string).collect() });
        assert_eq!(find(&table, "PUT /x"), allow(&["DELETE", "GET", "HEAD", "POST"]));
        assert_eq!(find(&table, "GET /q"), allow(&["DELETE"]));
        assert_eq!(find(&table, "GET /q/q"), Err(RouteError::NoRoute));
    }

    #[test]
    fn odd_targets_match_nothing() {
        let table = table(&["/", "/a"]);
        assert_eq!(find(&table, "GET /").unwrap().0, "/");
        let star = table.find("", &Method::OPTIONS, "*").map(|found| *found.route);
        assert_eq!(star, Err(RouteError::NoRoute));
        assert_eq!(find(&table, "GET //a"), Err(RouteError::NoRoute));
    }
}
