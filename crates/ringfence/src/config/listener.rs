//! `[[listener]]`: addresses to listen on, and for whom.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::{
    problem::Place,
    reader::{At, Table},
    schema::{Key, REQUIRED, Schema},
};

/// An address to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    /// `[::]` takes IPv4 too.
    pub(crate) address: At<SocketAddr>,
    pub(crate) role: Role,
    pub(crate) tls: bool,
    /// Networks that reach administrative paths through it.
    pub(crate) admin_from: Vec<IpNet>,
    /// Balancers that begin each connection with a header of the PROXY protocol; `None`: there is none.
    pub(crate) proxy_protocol_from: Option<Vec<IpNet>>,
}

/// Whom a listener is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// Clients.
    Client,
    /// Other servers.
    Federation,
    /// Whoever comes without TLS, and is sent away to come back with it.
    Redirect,
}

impl Role {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Role::Client => "client",
            Role::Federation => "federation",
            Role::Redirect => "redirect",
        }
    }
}

const ROLES: [(&str, Role); 3] =
    [("client", Role::Client), ("federation", Role::Federation), ("redirect", Role::Redirect)];

pub(crate) const SCHEMA: Schema = Schema {
    heading: "[[listener]]",
    about: "An address to listen on, once for each. Without any there are two, with TLS: `[::]:443` for clients and \
        `[::]:8448` for other homeservers.",
    keys: &[
        Key::text(
            "address",
            "IP address and port",
            REQUIRED,
            "Where to listen; `[::]:443` is every address of the machine, IPv4 too.",
        ),
        Key::text(
            "role",
            "`\"client\"`, `\"federation\"` or `\"redirect\"`",
            "\"client\"",
            "For whom it is. A redirect forwards nothing: it sends whoever comes without TLS to the same target with https.",
        ),
        Key::text(
            "tls",
            "`true` or `false`",
            "`true`, but `false` for a redirect",
            "`false` for a listener behind something that ends TLS; the homeserver is then told what that one says \
             (`trusted_proxies`).",
        ),
        Key::text(
            "admin_from",
            "list of networks",
            "[]",
            "Clients in these networks reach administrative paths (`/_synapse/admin` and their like) through it; all others \
             are answered 403.",
        ),
        Key::text(
            "proxy_protocol_from",
            "list of networks",
            "off",
            "Networks of the balancers before this listener. Every connection has to come from one of them and to begin with a \
             header of the PROXY protocol, version 1 or 2, which says who the client is; any other is closed and counted.",
        ),
    ],
};

/// The listeners of a file that spells out none: the ports that Matrix uses, on IPv6 and IPv4.
pub(crate) fn defaults() -> Vec<Listener> {
    let listener = |port, role| Listener {
        address: At { value: SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port), place: Place::FILE },
        role,
        tls: true,
        admin_from: Vec::new(),
        proxy_protocol_from: None,
    };
    vec![
        listener(ringfence_matrix::HTTPS_PORT, Role::Client),
        listener(ringfence_matrix::FEDERATION_PORT, Role::Federation),
    ]
}

impl Listener {
    /// Reads one table; `None` where it has no usable address.
    pub(crate) fn read(table: &Table<'_>) -> Option<Self> {
        let advice = "add where to listen, as in address = \"[::]:443\"";
        let address = table.required_string("address", advice).and_then(|text| address(table, text));
        let role = table.word("role", &ROLES).map_or(Role::Client, |role| role.value);
        let tls = table.boolean("tls");
        let admin_from = networks(table, "admin_from");
        if role == Role::Redirect {
            check_redirect(table, tls);
        }
        let proxy_protocol_from = proxy_protocol_from(table);
        let tls = tls.map_or(role != Role::Redirect, |tls| tls.value);
        Some(Self { address: address?, role, tls, admin_from, proxy_protocol_from })
    }
}

fn proxy_protocol_from(table: &Table<'_>) -> Option<Vec<IpNet>> {
    let key = "proxy_protocol_from";
    if table.is_empty_list(key) {
        let message = "is empty, so that nobody could connect; name the balancers, or remove it";
        table.note(table.place_of(key), format!("`{key}` {message}"));
    }
    table.has(key).then(|| networks(table, key))
}

/// Notes what a redirect cannot have.
fn check_redirect(table: &Table<'_>, tls: Option<At<bool>>) {
    if let Some(At { value: true, place }) = tls {
        table.note(
            place,
            "a redirect leads from plain http to https; remove `tls`, or take role = \"client\"",
        );
    }
    if table.has("admin_from") {
        let message = "`admin_from` has no effect on a redirect, which forwards nothing; remove it";
        table.note(table.place_of("admin_from"), message);
    }
}

/// Notes listeners that cannot stand side by side.
pub(crate) fn check_addresses(table: &Table<'_>, listeners: &[Listener]) {
    for (index, listener) in listeners.iter().enumerate() {
        let address = listener.address.value;
        if let Some(other) = listeners[..index].iter().find(|other| collide(other.address.value, address)) {
            let message =
                format!("{address} and {} are the same port; remove one of them", other.address.value);
            table.note(listener.address.place, message);
        }
    }
}

/// Whether both take the same connections. Port 0 is any free one.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    // `[::]` is dual-stack and takes what `0.0.0.0` takes.
    let takes_all = |address: SocketAddr| address.ip() == IpAddr::V6(Ipv6Addr::UNSPECIFIED);
    let same_host = a.ip() == b.ip()
        || takes_all(a) && b.ip().is_unspecified()
        || takes_all(b) && a.ip().is_unspecified();
    a.port() == b.port() && a.port() != 0 && same_host
}

fn address(table: &Table<'_>, text: At<&str>) -> Option<At<SocketAddr>> {
    let parsed = text.value.parse();
    if parsed.is_err() {
        let advice = match text.value.rsplit_once(':') {
            Some(("" | "*", port)) if port.parse::<u16>().is_ok() => {
                format!("write \"[::]:{port}\" for every address")
            }
            _ if text.value.parse::<IpAddr>().is_ok() => {
                "add a port, as in \"127.0.0.1:8443\" or \"[::1]:8443\"".to_owned()
            }
            _ => "write an IP address and a port, as in \"[::]:443\" or \"127.0.0.1:8443\"".to_owned(),
        };
        table.note(
            text.place,
            format!("`address` is {:?}, which is no address with a port; {advice}", text.value),
        );
    }
    Some(At { value: parsed.ok()?, place: text.place })
}

/// A list of networks; an address is the network of itself.
pub(crate) fn networks(table: &Table<'_>, key: &str) -> Vec<IpNet> {
    let network = |text: At<&str>| match parse_network(text.value) {
        Ok(network) => Some(network),
        Err(advice) => {
            table.note(text.place, format!("`{key}` has {:?}, which is no network; {advice}", text.value));
            None
        }
    };
    table.strings(key).into_iter().filter_map(network).collect()
}

/// Reads a network; the error says what to do.
fn parse_network(text: &str) -> Result<IpNet, String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let network: IpNet = text
        .parse()
        .map_err(|_| "write an address or a network, as in \"10.0.0.0/8\" or \"2001:db8::/32\"".to_owned())?;
    if network != network.trunc() {
        return Err(format!("write \"{}\", or an address without /", network.trunc()));
    }
    Ok(network)
}
