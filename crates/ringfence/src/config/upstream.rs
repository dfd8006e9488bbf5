//! Upstreams: where requests go, as URLs, and how servers over TLS are verified.

use std::{
    fmt,
    net::IpAddr,
    path::{Path, PathBuf},
};

use hyper::http::uri::PathAndQuery;
use ringfence_forward::{limits::SERVERS_OF_UPSTREAM_MAX, snapshot::Balance};
use ringfence_matrix::ServerName;
use ringfence_tls::ServerName as PeerName;

use super::{
    limits::{REQUESTS, WEIGHT},
    reader::{At, Entry, Table},
    schema::{Key, REQUIRED, Schema},
};

/// The port of an `http` URL that names none (RFC 9110 §4.2.1).
const HTTP_PORT: u16 = 80;

/// The port of an `https` URL that names none (RFC 9110 §4.2.2).
const HTTPS_PORT: u16 = 443;

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

/// The keys beside it that are about servers over TLS.
pub(super) const CA_KEY: Key = Key::text(
    "upstream_ca",
    "file",
    "the system's authorities",
    "Authorities that vouch for an `https` upstream, in PEM, instead of those that the system trusts. A relative path is \
     meant from the folder of the config file.",
);
pub(super) const NAME_KEY: Key = Key::text(
    "upstream_name",
    "host name or IP address",
    "the host of the URL",
    "The name that an `https` upstream is asked for (SNI), and that its certificate has to have.",
);
pub(super) const VERIFY_KEY: Key = Key::text(
    "upstream_verify",
    "`true` or `false`",
    "true",
    "`false` believes every certificate of an `https` upstream: who stands between can then read and change everything. For \
     trying out; `upstream_ca` with the certificate of a private authority is as easy.",
);

/// The key beside it.
pub(super) const HEALTH_PATH_KEY: Key = Key::text(
    "health_path",
    "path",
    "none: servers are not asked",
    "Each server of the upstream is asked for this path every `health_interval`; one that does not answer with a status from \
     200 to 399 twice in a row gets no requests while another is up. `/health` for Synapse, `/_matrix/client/versions` for \
     other homeservers. A query may follow.",
);

/// The key that [`read_required`] reads.
pub(crate) const KEY: Key = Key::text(
    "upstream",
    "URL, or `{ url = URL, weight = NUMBER }`, or a list of these",
    REQUIRED,
    "Where its requests go: `http://HOST:PORT`, `https://HOST:PORT` or `unix:/PATH`, without a path behind it, because request \
     targets pass unchanged. Several share the requests. One that refuses connections is passed over for 2 s, or \
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
    /// What each server is asked for to see whether it is up.
    pub(crate) health_path: Option<String>,
    /// Who has to vouch for its servers over TLS.
    pub(crate) authorities: Authorities,
    /// The name that they have, if not that of their URL.
    pub(crate) name: Option<PeerName<'static>>,
}

/// Who has to vouch for a server over TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Authorities {
    /// Those that the system trusts.
    System,
    /// Those in a file.
    File(At<PathBuf>),
    /// Nobody.
    Nobody,
}

impl Upstream {
    /// Its servers over TLS, each with the name that its certificate has to have.
    pub(crate) fn tls_name(&self, server: &Server) -> Option<PeerName<'static>> {
        match server {
            Server::Tcp { tls: true, host, .. } => self.name.clone().or_else(|| peer_name(host)),
            Server::Tcp { .. } | Server::Unix(_) => None,
        }
    }

    /// Whether one of its servers speaks TLS.
    pub(crate) fn speaks_tls(&self) -> bool {
        self.servers.iter().any(|server| server.value.speaks_tls())
    }
}

/// One server, as configured. Names are not resolved yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// A host name or address (IPv6 without brackets) and a port.
    Tcp { tls: bool, host: String, port: u16 },
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl Server {
    /// The name that has to be looked up to reach it, and its port. An address is none, and neither is `localhost`, which is
    /// always this machine (RFC 6761 §6.3).
    pub(crate) fn name_and_port(&self) -> Option<(&str, u16)> {
        match self {
            Server::Tcp { host, port, .. }
                if host.parse::<IpAddr>().is_err() && !host.eq_ignore_ascii_case("localhost") =>
            {
                Some((host, *port))
            }
            _ => None,
        }
    }

    /// Whether its URL is `https`.
    pub(crate) fn speaks_tls(&self) -> bool {
        matches!(self, Server::Tcp { tls: true, .. })
    }
}

/// As it stands in logs: what the configuration says, without `http://`.
impl fmt::Display for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Server::Tcp { tls, host, port } => {
                let scheme = if *tls { "https://" } else { "" };
                match host.contains(':') {
                    true => write!(formatter, "{scheme}[{host}]:{port}"),
                    false => write!(formatter, "{scheme}{host}:{port}"),
                }
            }
            Server::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// Reads the key `upstream`, which has to be there, and those that say how it is reached.
/// Relative paths are meant from `folder`.
pub(crate) fn read_required(table: &Table<'_>, folder: &Path) -> Option<Upstream> {
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
    let health_path = health_path(table);
    let authorities = read_authorities(table, folder);
    let name = table.string("upstream_name").and_then(|text| read_name(table, text));
    let upstream = Upstream {
        servers,
        weights,
        balance,
        requests_max,
        send_proxy_protocol,
        health_path,
        authorities,
        name,
    };
    if !upstream.servers.is_empty() {
        check_tls(table, &upstream);
    }
    (!upstream.servers.is_empty()).then_some(upstream)
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

fn read_authorities(table: &Table<'_>, folder: &Path) -> Authorities {
    let file = table.string("upstream_ca");
    let verifies = table.boolean("upstream_verify").is_none_or(|verify| verify.value);
    match file {
        Some(file) if file.value.is_empty() => {
            table.note(file.place, "`upstream_ca` is empty; write the path of a file");
            Authorities::System
        }
        Some(file) if !verifies => {
            let message = "`upstream_ca` says who vouches for the upstream, and upstream_verify = false that nobody has to; \
                 remove one of them";
            table.note(file.place, message);
            Authorities::System
        }
        Some(file) => Authorities::File(At { value: folder.join(file.value), place: file.place }),
        None if verifies => Authorities::System,
        None => Authorities::Nobody,
    }
}

fn read_name(table: &Table<'_>, text: At<&str>) -> Option<PeerName<'static>> {
    let name = peer_name(text.value);
    if name.is_none() {
        let message = format!(
            "`upstream_name` is {:?}; write the host name or IP address that stands in the certificate",
            text.value
        );
        table.note(text.place, message);
    }
    name
}

fn peer_name(text: &str) -> Option<PeerName<'static>> {
    PeerName::try_from(text.to_owned()).ok()
}

/// Notes keys about TLS where nothing speaks it, and servers that no certificate can name.
fn check_tls(table: &Table<'_>, upstream: &Upstream) {
    for Key { name, .. } in [CA_KEY, NAME_KEY, VERIFY_KEY] {
        if table.has(name) && !upstream.speaks_tls() {
            let message = format!(
                "`{name}` is about servers over TLS, and `upstream` names none; write https://HOST:PORT there, or remove it"
            );
            table.note(table.place_of(name), message);
        }
    }
    for server in &upstream.servers {
        if server.value.speaks_tls()
            && !table.has("upstream_name")
            && upstream.tls_name(&server.value).is_none()
        {
            let message = format!(
                "no certificate can be for the host of {}; set `upstream_name` to the name in its certificate",
                server.value
            );
            table.note(server.place, message);
        }
    }
}

/// What servers are asked for, or a note of what is wrong with it.
fn health_path(table: &Table<'_>) -> Option<String> {
    let text = table.string("health_path")?;
    let fault = match text.value {
        path if !path.starts_with('/') => format!("which does not begin with a slash; write \"/{path}\""),
        // What takes a target apart takes a fragment off.
        path if path.contains('#') || !path.is_ascii() || path.parse::<PathAndQuery>().is_err() => {
            "but a path has only visible ASCII and no #; write it as it stands in a request".to_owned()
        }
        path => return Some(path.to_owned()),
    };
    table.note(text.place, format!("`health_path` is {:?}, {fault}", text.value));
    None
}

/// Reads one URL; the error says what is wrong and what to do.
fn parse(text: &str) -> Result<Server, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return parse_socket_path(path);
    }
    let schemes = [("http://", false, HTTP_PORT), ("https://", true, HTTPS_PORT)];
    let known = schemes
        .iter()
        .find_map(|(scheme, tls, port)| Some((*scheme, *tls, *port, text.strip_prefix(scheme)?)));
    let Some((scheme, tls, default_port, authority)) = known else {
        return Err(
            "the scheme is missing or unknown; write http://HOST:PORT, https://HOST:PORT or unix:/PATH"
                .to_owned(),
        );
    };
    if let Some(end) = authority.find(['/', '?', '#']) {
        return Err(format!(
            "targets are passed on unchanged, so there is no path to add; write {scheme}{}",
            &authority[..end]
        ));
    }
    if authority.contains('@') {
        return Err("it carries a user name; remove everything up to the @".to_owned());
    }
    let name = ServerName::parse(authority).map_err(|error| format!("{error}; write {scheme}HOST:PORT"))?;
    let host = name.host().trim_start_matches('[').trim_end_matches(']').to_owned();
    Ok(Server::Tcp { tls, host, port: name.port().unwrap_or(default_port) })
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
            ("https://hs.internal:8448", "https://hs.internal:8448"),
            ("https://hs.internal", "https://hs.internal:443"),
            ("https://[::1]", "https://[::1]:443"),
            ("unix:/run/synapse/main.sock", "unix:/run/synapse/main.sock"),
        ] {
            assert_eq!(parse(text).unwrap().to_string(), name);
        }
        assert_eq!(
            parse("http://[::1]:8008"),
            Ok(Server::Tcp { tls: false, host: "::1".to_owned(), port: 8008 })
        );
    }

    #[test]
    fn only_names_that_may_change_are_looked_up() {
        for (text, name) in [
            ("http://synapse:8008", Some(("synapse", 8008))),
            ("http://synapse.internal", Some(("synapse.internal", 80))),
            ("http://LOCALHOST:8008", None),
            ("http://127.0.0.1:8008", None),
            ("http://[::1]:8008", None),
            ("unix:/run/x.sock", None),
        ] {
            assert_eq!(parse(text).unwrap().name_and_port(), name, "{text}");
        }
    }

    #[test]
    fn what_is_no_upstream_says_what_to_write() {
        for (text, advice) in [
            ("https://127.0.0.1:8008/x", "write https://127.0.0.1:8008"),
            ("https://", "write https://HOST:PORT"),
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
