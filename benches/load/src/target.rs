//! The URL of what is put under load.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs as _};

use rustls::pki_types::ServerName;

/// Where requests go.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// Over TLS.
    pub(crate) tls: bool,
    /// Host and port as the URL has them: the value of Host.
    pub(crate) authority: String,
    /// Resolved once.
    pub(crate) address: SocketAddr,
    /// For SNI and for verification.
    pub(crate) name: ServerName<'static>,
    /// Path and query.
    pub(crate) request_target: String,
}

impl Target {
    /// Reads `http://HOST[:PORT][/PATH]` or the same with `https`, and resolves the host.
    pub(crate) fn parse(url: &str) -> Result<Target, String> {
        let (tls, rest) = match (url.strip_prefix("http://"), url.strip_prefix("https://")) {
            (Some(rest), _) => (false, rest),
            (_, Some(rest)) => (true, rest),
            _ => return Err(format!("{url}: neither http:// nor https://")),
        };
        let path_at = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, path) = rest.split_at(path_at);
        let (host, port) = match authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) {
            Some((host, port)) => (host, port.parse().map_err(|_| format!("{url}: {port} is no port"))?),
            None => (authority, if tls { 443 } else { 80 }),
        };
        let host = host.trim_matches(['[', ']']);
        let address = (host, port).to_socket_addrs().map_err(|error| format!("{host}: {error}"))?.next();
        let request_target = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Target {
            tls,
            authority: authority.to_owned(),
            address: address.ok_or_else(|| format!("{host} has no address"))?,
            name: ServerName::try_from(host.to_owned()).map_err(|_| format!("{host}: not a host name"))?,
            request_target,
        })
    }

    /// A source address for peer number `index`, so that peers are as many hosts as they play and ports never run
    /// out. On loopback only: elsewhere the machine has the addresses that it has.
    pub(crate) fn source(&self, index: usize) -> Option<SocketAddr> {
        let IpAddr::V4(address) = self.address.ip() else { return None };
        let octet = |number: usize| u8::try_from(number % SOURCES_MAX).unwrap_or(0);
        let source = [127, 1, octet(index / SOURCES_MAX), octet(index) + 1];
        address.is_loopback().then(|| SocketAddr::from((source, 0)))
    }
}

/// Source addresses of each /24, so that none is a network's or its broadcast address; 62 500 in all.
const SOURCES_MAX: usize = 250;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = Target::parse("https://localhost:8448/_matrix/x?y=%2F").unwrap();
        assert!(target.tls);
        assert_eq!((target.address.port(), target.authority.as_str()), (8448, "localhost:8448"));
        assert_eq!(target.request_target, "/_matrix/x?y=%2F");
        let target = Target::parse("http://127.0.0.1").unwrap();
        assert_eq!(
            (target.address.to_string().as_str(), target.request_target.as_str()),
            ("127.0.0.1:80", "/")
        );
        assert_eq!(Target::parse("http://[::1]:81/a").unwrap().address.to_string(), "[::1]:81");
        assert!(Target::parse("ftp://127.0.0.1").is_err() && Target::parse("http://127.0.0.1:x").is_err());
    }

    #[test]
    fn sources_differ_and_are_loopback() {
        let target = Target::parse("http://127.0.0.1:8008").unwrap();
        let sources: std::collections::HashSet<_> =
            (0..60_000).filter_map(|index| target.source(index)).collect();
        assert_eq!(sources.len(), 60_000);
        assert!(sources.iter().all(|source| source.ip().is_loopback()));
    }
}
