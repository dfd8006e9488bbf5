//! `[[route]]`: what else this proxy passes on, such as a web client or a bridge.

use std::path::Path;

use ringfence_matrix::ServerName;

use super::{
    limits::BODY_BYTES,
    reader::{At, Table},
    schema::{Key, REQUIRED, Schema},
    upstream::{self, Upstream},
};

/// A path prefix of some hosts, and where it leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Hosts in lower case, without port; empty means every host.
    pub(crate) hosts: Vec<String>,
    /// Matched on segment boundaries of the raw path. Ends in a slash only if it is `/`.
    pub(crate) path: At<String>,
    pub(crate) upstream: Upstream,
    /// Instead of the general limit, in bytes.
    pub(crate) body_bytes_max: Option<u64>,
}

pub(crate) const SCHEMA: Schema = Schema {
    heading: "[[route]]",
    about: "What else is passed on, such as a web client or a bridge, once for each. The longest path wins. What no \
        homeserver and no route takes is answered 404.",
    keys: &[
        Key::text("hosts", "list of host names", "every host", "The hosts that it is about, without ports."),
        Key::text(
            "path",
            "path",
            REQUIRED,
            "A path prefix, matched as it stands in the request and at slashes: `/bot` means `/bot` and `/bot/x`, not \
             `/bots`.",
        ),
        upstream::KEY,
        upstream::CA_KEY,
        upstream::NAME_KEY,
        upstream::VERIFY_KEY,
        upstream::BALANCE_KEY,
        upstream::REQUESTS_MAX_KEY,
        upstream::SEND_PROXY_PROTOCOL_KEY,
        upstream::HEALTH_PATH_KEY,
        Key::optional_size(
            "body_bytes_max",
            &BODY_BYTES,
            "that of `[limits]`",
            "Largest request body on this route.",
        ),
    ],
};

impl Route {
    /// Reads one table; `None` where there is not enough to go on. Relative paths are meant from `folder`.
    pub(crate) fn read(table: &Table<'_>, folder: &Path) -> Option<Self> {
        let hosts = hosts(table);
        let path = table.required_string("path", "add the path prefix that it is about, as in path = \"/\"");
        let path = path.and_then(|text| match path_fault(text.value) {
            None => Some(At { value: text.value.to_owned(), place: text.place }),
            Some(fault) => {
                table.note(text.place, format!("`path` is {:?}, {fault}", text.value));
                None
            }
        });
        let upstream = upstream::read_required(table, folder);
        let body_bytes_max = table.optional_size("body_bytes_max", &BODY_BYTES);
        Some(Self { hosts, path: path?, upstream: upstream?, body_bytes_max })
    }

    /// Whether some request is meant by both.
    fn collides_with(&self, other: &Route) -> bool {
        let same_host = self.hosts.iter().any(|host| other.hosts.contains(host));
        self.path.value == other.path.value
            && (same_host || (self.hosts.is_empty() && other.hosts.is_empty()))
    }
}

/// Notes routes of which only one could ever be taken.
pub(crate) fn check_duplicates(table: &Table<'_>, routes: &[Route]) {
    for (index, route) in routes.iter().enumerate() {
        if routes[..index].iter().any(|other| other.collides_with(route)) {
            let message =
                format!("there is a route for {} of this host already; remove one of them", route.path.value);
            table.note(route.path.place, message);
        }
    }
}

fn hosts(table: &Table<'_>) -> Vec<String> {
    if table.is_empty_list("hosts") {
        let message = "`hosts` is empty; name at least one host, or remove it to mean every host";
        table.note(table.place_of("hosts"), message);
    }
    let mut hosts: Vec<String> = Vec::new();
    for text in table.strings("hosts") {
        match ServerName::parse(text.value) {
            Ok(name) if name.port().is_some() => {
                let message =
                    format!("`hosts` has {:?}; remove the port, a host is meant on every port", text.value);
                table.note(text.place, message);
            }
            Ok(name) if hosts.contains(&name.host_key()) => {
                table.note(text.place, format!("`hosts` has {:?} twice; remove one of them", text.value));
            }
            Ok(name) => hosts.push(name.host_key()),
            Err(error) => {
                table.note(
                    text.place,
                    format!("`hosts` has {:?}, but {error}; write a host name", text.value),
                );
            }
        }
    }
    hosts
}

/// What is wrong with a path prefix, and what to do.
fn path_fault(path: &str) -> Option<String> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && byte != b'?' && byte != b'#';
    if !path.starts_with('/') {
        return Some(format!("which does not begin with a slash; write \"/{path}\""));
    }
    if !path.bytes().all(allowed) {
        return Some(
            "but a path has no query, no spaces and only ASCII; write it as it stands in a request"
                .to_owned(),
        );
    }
    if path != "/" && path.ends_with('/') {
        let shorter = path.trim_end_matches('/');
        let shorter = if shorter.is_empty() { "/" } else { shorter };
        return Some(format!(
            "which ends with a slash; write \"{shorter}\", which means itself and everything below it"
        ));
    }
    None
}
