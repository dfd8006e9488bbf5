//! What is routed where, as plain data: what Matrix needs, and the `[[route]]`s of the configuration.
//!
//! Default deny: what no entry matches is answered 404. The longest path wins, and of two equal ones the
//! operator's route, so that a route can stand above or below what is built in.

use ringfence_matrix::{ADMIN_PREFIXES, CLIENT_PATH, SERVER_PATH, SUPPORT_PATH};

use crate::config::{Config, Homeserver, Route, Upstream};

/// What homeservers serve to everyone, besides the discovery documents.
const PUBLIC_PREFIXES: [&str; 2] = ["/_matrix", "/_synapse/client"];

/// Hosts that are served alike.
#[derive(Debug)]
pub(crate) struct Site<'a> {
    /// In lower case, without port.
    pub(crate) hosts: Vec<String>,
    /// What is sent upstream for a client that names no host.
    pub(crate) host: String,
    /// The first that matches decides.
    pub(crate) entries: Vec<Entry<'a>>,
}

/// A path and where it leads.
#[derive(Debug)]
pub(crate) struct Entry<'a> {
    pub(crate) path: &'a str,
    pub(crate) target: Target<'a>,
}

/// Where a path leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target<'a> {
    /// The path and all below it, to the homeserver with this number.
    Homeserver(usize),
    /// The same, for those who may see administrative paths.
    Admin(usize),
    /// The path and all below it, to the upstream of the route with this number.
    Route(usize),
    /// This very path, to a JSON document; `None` where the operator gave none.
    Document(Option<&'a str>),
}

impl Target<'_> {
    /// Its upstream among [`upstreams`], if it has one.
    pub(crate) fn upstream_index(self, config: &Config) -> Option<usize> {
        match self {
            Target::Homeserver(index) | Target::Admin(index) => Some(index),
            Target::Route(index) => Some(config.homeservers.len() + index),
            Target::Document(_) => None,
        }
    }
}

/// Every upstream: those of the homeservers, then those of the routes.
pub(crate) fn upstreams(config: &Config) -> impl Iterator<Item = &Upstream> {
    let of_homeservers = config.homeservers.iter().map(|homeserver| &homeserver.upstream);
    of_homeservers.chain(config.routes.iter().map(|route| &route.upstream))
}

/// What a server of this upstream is called when nobody else says it: the first host that leads there.
pub(crate) fn upstream_host(config: &Config, upstream: usize) -> String {
    let route = upstream.checked_sub(config.homeservers.len()).map(|index| &config.routes[index]);
    let of_route = route.and_then(|route| route.hosts.first());
    let homeserver = if route.is_some() { 0 } else { upstream };
    of_route.cloned().unwrap_or_else(|| config.homeservers[homeserver].public_host.value.to_string())
}

/// Every site. The first serves hosts that nobody claims as well: the first homeserver.
pub(crate) fn sites(config: &Config) -> Vec<Site<'_>> {
    let fallback = Plan { homeserver: Some(0), routes: routes_of(config, None) };
    let mut plans = vec![(fallback, Vec::new())];
    for host in hosts(config) {
        let plan = Plan { homeserver: homeserver_of(config, &host), routes: routes_of(config, Some(&host)) };
        match plans.iter_mut().find(|(known, _)| *known == plan) {
            Some((_, hosts)) => hosts.push(host),
            None => plans.push((plan, vec![host])),
        }
    }
    plans.into_iter().map(|(plan, hosts)| plan.into_site(config, hosts)).collect()
}

/// What makes hosts alike.
#[derive(PartialEq, Eq)]
struct Plan {
    homeserver: Option<usize>,
    routes: Vec<usize>,
}

impl Plan {
    fn into_site(self, config: &Config, hosts: Vec<String>) -> Site<'_> {
        let homeserver = self.homeserver.map(|index| (index, &config.homeservers[index]));
        let mut entries: Vec<_> = self
            .routes
            .iter()
            .map(|index| Entry { path: &config.routes[*index].path.value, target: Target::Route(*index) })
            .collect();
        if let Some((index, homeserver)) = homeserver {
            entries.extend(built_in(index, homeserver));
        }
        // Stable: of equal paths the route stays in front.
        entries.sort_by_key(|entry| std::cmp::Reverse(entry.path.len()));
        let host = match homeserver {
            Some((_, homeserver)) => homeserver.public_host.value.to_string(),
            None => hosts.first().cloned().unwrap_or_default(),
        };
        Site { hosts, host, entries }
    }
}

/// What every homeserver needs.
fn built_in(index: usize, homeserver: &Homeserver) -> impl Iterator<Item = Entry<'_>> {
    let documents = [
        (CLIENT_PATH, Some(homeserver.well_known_client.as_str())),
        (SERVER_PATH, Some(homeserver.well_known_server.as_str())),
        (SUPPORT_PATH, homeserver.well_known_support.as_deref()),
    ];
    let documents =
        documents.into_iter().map(|(path, document)| Entry { path, target: Target::Document(document) });
    let public =
        PUBLIC_PREFIXES.into_iter().map(move |path| Entry { path, target: Target::Homeserver(index) });
    let admin = ADMIN_PREFIXES.into_iter().map(move |path| Entry { path, target: Target::Admin(index) });
    documents.chain(public).chain(admin)
}

/// Every host that a homeserver or a route claims, once, in the order of the file.
fn hosts(config: &Config) -> Vec<String> {
    let of_homeservers = config.homeservers.iter().flat_map(Homeserver::host_keys);
    let of_routes = config.routes.iter().flat_map(|route: &Route| route.hosts.iter().cloned());
    let mut hosts: Vec<String> = Vec::new();
    for host in of_homeservers.chain(of_routes) {
        if !hosts.contains(&host) {
            hosts.push(host);
        }
    }
    hosts
}

fn homeserver_of(config: &Config, host: &str) -> Option<usize> {
    config.homeservers.iter().position(|homeserver| homeserver.host_keys().any(|key| key == host))
}

/// The routes that a host has; without a host, those of every host.
fn routes_of(config: &Config, host: Option<&str>) -> Vec<usize> {
    let applies = |route: &Route| {
        route.hosts.is_empty() || host.is_some_and(|host| route.hosts.iter().any(|h| h == host))
    };
    // A route for this very host comes before one for every host.
    let (own, general): (Vec<usize>, Vec<usize>) = (0..config.routes.len())
        .filter(|index| applies(&config.routes[*index]))
        .partition(|index| !config.routes[*index].hosts.is_empty());
    own.into_iter().chain(general).collect()
}

#[cfg(test)]
mod tests;
