//! The config file: from TOML to values that are known to be sound.
//!
//! [`load`] either returns a [`Config`] in which every name, address and number has been checked and every default
//! filled in, or **all** faults of the file with their places. What needs the world (does the certificate
//! exist, does the name resolve) is not looked at here.

mod certificate;
mod homeserver;
mod limits;
mod listener;
mod problem;
mod rate_limits;
mod reader;
mod reference;
mod route;
mod schema;
mod server;
mod units;
mod upstream;

use std::{
    fs,
    path::{Path, PathBuf},
};

use ipnet::IpNet;
use toml::de::DeTable;

pub(crate) use certificate::Certificate;
pub(crate) use homeserver::Homeserver;
pub(crate) use limits::{Limits, Timeouts};
pub(crate) use listener::{Listener, Role};
pub(crate) use problem::{Place, Problem, Problems};
pub(crate) use rate_limits::{RateLimit, RateLimits};
pub(crate) use reference::reference;
pub(crate) use route::Route;
pub(crate) use server::{AccessLog, AccessLogFormat, AccessLogTargets, Admin, Server};
pub(crate) use units::{format_duration, format_size};
pub(crate) use upstream::{Authorities, Server as UpstreamServer, Upstream};

use reader::{Reader, Table};
use schema::{Key, Schema};

/// A whole configuration, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    /// Where it was read from.
    pub(crate) file: PathBuf,
    /// Peers whose forwarding headers are believed.
    pub(crate) trusted_proxies: Vec<IpNet>,
    /// Whether a Host that nobody claims is refused, instead of going to the first homeserver.
    pub(crate) strict_hosts: bool,
    pub(crate) server: Server,
    /// At least one.
    pub(crate) homeservers: Vec<Homeserver>,
    /// The first is for peers that name no host. At least one if a listener speaks TLS.
    pub(crate) certificates: Vec<Certificate>,
    /// At least one.
    pub(crate) listeners: Vec<Listener>,
    pub(crate) routes: Vec<Route>,
    pub(crate) limits: Limits,
    pub(crate) timeouts: Timeouts,
    pub(crate) rate_limits: RateLimits,
}

/// Reads and checks a config file.
pub(crate) fn load(file: &Path) -> Result<Config, Problems> {
    let text = fs::read_to_string(file).map_err(|error| {
        Problems::of_file(file, format!("cannot be read: {error}; name a readable text file"))
    })?;
    parse(file, &text)
}

/// Where the admin listener is, as far as the file tells, whatever else is wrong with it.
pub(crate) fn admin(file: &Path) -> Admin {
    let Ok(text) = fs::read_to_string(file) else { return Admin::Usual };
    let (document, _) = DeTable::parse_recoverable(&text);
    let reader = Reader::new(&text, SCHEMAS);
    let root = Table::root(&reader, &ROOT, document.get_ref());
    Server::read(&root.child("server", &server::SCHEMA), file.parent().unwrap_or(Path::new(""))).admin
}

/// Checks the text of a config file; relative paths in it are meant from the folder of `file`.
///
/// Faults of the TOML itself are told alone: what follows from them would be guesses.
pub(crate) fn parse(file: &Path, text: &str) -> Result<Config, Problems> {
    let (document, faults) = DeTable::parse_recoverable(text);
    if !faults.is_empty() {
        let problems = faults.iter().map(|fault| syntax_problem(text, fault)).collect();
        return Err(Problems::new(file, problems));
    }
    let reader = Reader::new(text, SCHEMAS);
    let config = read(file, &Table::root(&reader, &ROOT, document.get_ref()));
    let problems = reader.into_problems();
    if problems.is_empty() { Ok(config) } else { Err(Problems::new(file, problems)) }
}

fn syntax_problem(text: &str, fault: &toml::de::Error) -> Problem {
    let place = fault.span().map_or(Place::FILE, |span| Place::of(text, span.start));
    Problem { place, message: format!("this is not TOML: {}", fault.message().replace('\n', ", ")) }
}

fn read(file: &Path, root: &Table<'_>) -> Config {
    let folder = file.parent().unwrap_or(Path::new(""));
    let homeservers = root.children("homeserver", &homeserver::SCHEMA);
    if homeservers.is_empty() {
        root.note(Place::FILE, "no [[homeserver]]; add one with `server_name` and `upstream`");
    }
    let homeservers: Vec<_> =
        homeservers.iter().filter_map(|table| Homeserver::read(table, folder)).collect();
    homeserver::check_claims(root, &homeservers);

    let listeners = read_listeners(root);
    let certificates = root.children("certificate", &certificate::SCHEMA);
    if certificates.is_empty() {
        require_no_tls(root, &listeners);
    }
    let certificates = certificates.iter().filter_map(|table| Certificate::read(table, folder)).collect();

    let routes = root.children("route", &route::SCHEMA);
    let routes: Vec<_> = routes.iter().filter_map(|table| Route::read(table, folder)).collect();
    route::check_duplicates(root, &routes);

    Config {
        file: file.to_owned(),
        trusted_proxies: listener::networks(root, "trusted_proxies"),
        strict_hosts: root.boolean("strict_hosts").is_some_and(|strict| strict.value),
        server: Server::read(&root.child("server", &server::SCHEMA), folder),
        homeservers,
        certificates,
        listeners,
        routes,
        limits: Limits::read(&root.child("limits", &limits::LIMITS_SCHEMA)),
        timeouts: Timeouts::read(&root.child("timeouts", &limits::TIMEOUTS_SCHEMA)),
        rate_limits: RateLimits::read(&root.child("rate_limits", &rate_limits::SCHEMA)),
    }
}

fn read_listeners(root: &Table<'_>) -> Vec<Listener> {
    if !root.has("listener") {
        return listener::defaults();
    }
    let listeners: Vec<_> =
        root.children("listener", &listener::SCHEMA).iter().filter_map(Listener::read).collect();
    listener::check_addresses(root, &listeners);
    listeners
}

/// Notes the first listener that speaks TLS, for want of a certificate.
fn require_no_tls(root: &Table<'_>, listeners: &[Listener]) {
    if let Some(listener) = listeners.iter().find(|listener| listener.tls) {
        let message = format!(
            "{} speaks TLS, but there is no [[certificate]]; add one with `chain` and `key`, or set tls = false",
            listener.address.value
        );
        root.note(listener.address.place, message);
    }
}

const ROOT: Schema = Schema {
    heading: "the part above the first table",
    about: "These stand above the first line in brackets.",
    keys: &[
        Key::text(
            "trusted_proxies",
            "list of networks",
            "[]",
            "Peers whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed: the client is the first address from the \
             right that is not in this list. All others' are removed, because anybody can write them.",
        ),
        Key::text(
            "strict_hosts",
            "`true` or `false`",
            "false",
            "A host that nobody claims is answered 421, instead of going to the first homeserver.",
        ),
        Key::table("server"),
        Key::table("homeserver"),
        Key::table("certificate"),
        Key::table("listener"),
        Key::table("route"),
        Key::table("limits"),
        Key::table("timeouts"),
        Key::table("rate_limits"),
    ],
};

/// Every table that there is. A key that several have is told to belong to the first of them.
const SCHEMAS: &[Schema] = &[
    ROOT,
    server::SCHEMA,
    homeserver::SCHEMA,
    upstream::ENTRY_SCHEMA,
    certificate::SCHEMA,
    listener::SCHEMA,
    limits::LIMITS_SCHEMA,
    route::SCHEMA,
    limits::TIMEOUTS_SCHEMA,
    rate_limits::SCHEMA,
];

#[cfg(test)]
mod tests;
