//! Upstreams: where requests go, as URLs.

use std::{fmt, path::PathBuf};

use ringfence_forward::{limits::SERVERS_OF_UPSTREAM_MAX, snapshot::Balance};
use ringfence_matrix::ServerName;

use super::{
    limits::{REQUESTS, WEIGHT},
    reader::{At, Entry, Table},
    schema::{Key, REQUIRED, Schema},
};

/// The port of an `http` URL that names none (RFC 9110 §4.2.1).
const HTTP_PORT: u16 = 80;

/// Longest path of a Unix socket, in bytes: what `sockaddr_un` holds, without its final NUL (unix(7)).
pub(super) const SOCKET_PATH_BYTES_MAX: usize = 107;

/// The key beside it.
pub(super) const SEND_PROXY_PROTOCOL_KEY: Key = Key::text(
    "send_proxy_protocol",
    "`true` or `false`",
    "false",
    "Connections to the upstream begin with a header of the PROXY protocol, version 2, with the client's address. Such a \
     connection is one client's alone and is not kept for another request, so that each costs a connection more.",
);

/// The key that [`read_required`] reads.
pub(crate) const KEY: Key = Key::text(
    "upstream",
    "URL, or `{ url = URL, weight = NUMBER }`, or a list of these",
    REQUIRED,
    "Where its requests go: `http://HOST:PORT` or `unix:/PATH`, without a path behind it, because request targets pass \
     unchanged. Several share the requests. One that refuses connections is passed over for 2 s, or \
     one that leaves three requests in a row without an answer; then one request tries it, and each failure doubles the time \
     to at most 1 min. When all are, all are tried.",
);

/// The key beside it that says which server is next.
pub(super) const BALANCE_KEY: Key = Key::text(
    "balance",
    "`\"round-robin\"` or `\"least-connections\"`",
    "\"round-robin\"",
    "Which of several servers is next: each in its turn, or the one with the fewest requests for its weight. Each worker counts \
     its own requests.",
);

/// The key beside it that bounds what one server has to do.
pub(super) const REQUESTS_MAX_KEY: Key = Key::count("requests_max", &REQUESTS);

/// An entry of the key in full.
pub(crate) const ENTRY_SCHEMA: Schema = Schema {
    heading: "[[homeserver.upstream]]",
    about: "A server of an upstream in full, also as `upstream = [{ url = \"http://10.0.0.1:8008\", weight = 3 }]`, and likewise \
        in `[[route]]`.",
    keys: &[
        Key::text("url", "URL", REQUIRED, "Where it is, as `upstream` has it."),
        Key::count("weight", &WEIGHT),
    ],
};

/// Servers that answer the same requests; at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Upstream {
    pub(crate) servers: Vec<At<Server>>,
    /// The share of each server, in the order of `servers`.
    pub(crate) weights: Vec<u32>,
    pub(crate) balance: Balance,
    /// Requests that each server may have at a time, those of all workers.
    pub(crate) requests_max: Option<usize>,
    /// Whether each connection begins with a header of the PROXY protocol (version 2) that names its client.
    pub(crate) send_proxy_protocol: bool,
}

/// One server, as configured. Names are not resolved yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// A host name or address (IPv6 without brackets) and a port.
    Tcp { host: String, port: u16 },
    /// A Unix stream socket.
    Unix(PathBuf),
}

/// As it stands in logs: what the configuration says, without `http://`.
impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::Tcp { host, port } if host.contains(':') => write!(formatter, "[{host}]:{port}"),
            Server::Tcp { host, port } => write!(formatter, "{host}:{port}"),
            Server::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// Reads the key `upstream`, which has to be there, and those that say how it is reached.
pub(crate) fn read_required(table: &Table<'_>) -> Option<Upstream> {
    if !table.has("upstream") {
        let message = "no `upstream`; add where requests go, as in upstream = \"http://127.0.0.1:8008\"";
        table.note(table.place, format!("{} has {message}", table.heading()));
        return None;
    }
    let entries = table.entries("upstream", &ENTRY_SCHEMA);
    if entries.is_empty() && table.is_empty_list("upstream") {
        table.note(table.place_of("upstream"), "`upstream` is empty; write at least one URL");
    }
    if entries.len() > SERVERS_OF_UPSTREAM_MAX {
        let message = format!(
            "`upstream` has {} servers; it may have {SERVERS_OF_UPSTREAM_MAX}, put a balancer between",
            entries.len()
        );
        table.note(table.place_of("upstream"), message);
    }
    let (mut servers, mut weights) = (Vec::<At<Server>>::new(), Vec::new());
    for entry in &entries {
        let Some((text, weight)) = url_and_weight(entry) else { continue };
        match parse(text.value) {
            Ok(server) if servers.iter().any(|known| known.value == server) => {
                table.note(text.place, format!("upstream {server} is listed twice; remove one of them"));
            }
            Ok(value) => {
                servers.push(At { value, place: text.place });
                weights.push(weight);
            }
            Err(fault) => table.note(text.place, format!("`upstream` is {:?}: {fault}", text.value)),
        }
    }
    let send_proxy_protocol = table.boolean("send_proxy_protocol").is_some_and(|send| send.value);
    let words = [("round-robin", Balance::RoundRobin), ("least-connections", Balance::LeastConnections)];
    let balance = table.word("balance", &words).map(|word| word.value).unwrap_or_default();
    let requests_max = usize::try_from(table.count("requests_max", &REQUESTS)).ok().filter(|max| *max > 0);
    (!servers.is_empty()).then_some(Upstream { servers, weights, balance, requests_max, send_proxy_protocol })
}

fn url_and_weight<'a>(entry: &Entry<'a>) -> Option<(At<&'a str>, u32)> {
    match entry {
        Entry::Text(url) => Some((*url, 1)),
        Entry::Table(table) => {
            let weight = table.count("weight", &WEIGHT);
            let url =
                table.required_string("url", "add where it is, as in url = \"http://127.0.0.1:8008\"")?;
            Some((url, u32::try_from(weight).unwrap_or(1)))
        }
    }
}

/// Reads one URL; the error says what is wrong and what to do.
fn parse(text: &str) -> Result<Server, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return parse_socket_path(path);
    }
    if text.starts_with("https://") {
        return Err("upstreams over https are not supported yet; write http:// to a server on this machine or network".to_owned());
    }
    let Some(authority) = text.strip_prefix("http://") else {
        return Err("the scheme is missing or unknown; write http://HOST:PORT or unix:/PATH".to_owned());
    };
    if let Some(end) = authority.find(['/', '?', '#']) {
        return Err(format!(
            "targets are passed on unchanged, so there is no path to add; write http://{}",
            &authority[..end]
        ));
    }
    if authority.contains('@') {
        return Err("it carries a user name; remove everything up to the @".to_owned());
    }
    let name = ServerName::parse(authority).map_err(|error| format!("{error}; write http://HOST:PORT"))?;
    let host = name.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Server::Tcp { host, port: name.port().unwrap_or(HTTP_PORT) })
}

fn parse_socket_path(path: &str) -> Result<Server, String> {
    match path {
        _ if !path.starts_with('/') || path.starts_with("//") => {
            Err("the path is not absolute; write it from the root with one slash, as in unix:/run/synapse/main.sock".to_owned())
        }
        _ if path.len() > SOCKET_PATH_BYTES_MAX => Err(format!(
            "the path is longer than the {SOCKET_PATH_BYTES_MAX} bytes that a socket's may have; move the socket"
        )),
        _ if path.contains('\0') => Err("the path has a NUL byte; remove it".to_owned()),
        _ => Ok(Server::Unix(PathBuf::from(path))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_of_upstreams_are_read_and_named() {
        for (text, name) in [
            ("http://127.0.0.1:8008", "127.0.0.1:8008"),
            ("http://[::1]:8008", "[::1]:8008"),
            ("http://synapse:8008", "synapse:8008"),
            ("http://synapse.internal", "synapse.internal:80"),
            ("unix:/run/synapse/main.sock", "unix:/run/synapse/main.sock"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), name);
        }
        assert_eq!(parse("http://[::1]:8008"), Ok(Server::Tcp { host: "::1".to_owned(), port: 8008 }));
    }

    #[test]
    fn what_is_no_upstream_says_what_to_write() {
        for (text, advice) in [
            ("https://127.0.0.1:8008", "not supported yet"),
            ("127.0.0.1:8008", "write http://HOST:PORT"),
            ("h2c://127.0.0.1:8008", "write http://HOST:PORT"),
            ("", "write http://HOST:PORT"),
            ("http://127.0.0.1:8008/", "write http://127.0.0.1:8008"),
            ("http://127.0.0.1:8008/_matrix", "write http://127.0.0.1:8008"),
            ("http://127.0.0.1:8008?a=b", "write http://127.0.0.1:8008"),
            ("http://user@127.0.0.1:8008", "remove everything up to the @"),
            ("http://", "the host is empty"),
            ("http://127.0.0.1:99999", "from 1 to 65535"),
            ("http://::1:8008", "in brackets"),
            ("unix:run/x.sock", "not absolute"),
            ("unix:///run/x.sock", "with one slash"),
            ("unix:", "not absolute"),
        ] {
            let fault = parse(text).unwrap_err();
            assert!(fault.contains(advice), "{text}: {fault}");
        }
        assert!(parse(&format!("unix:/{}", "a".repeat(107))).unwrap_err().contains("107 bytes"));
    }
}
