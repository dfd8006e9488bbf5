//! Server names (Matrix appendices, "Server Name"): a host and, if need be, a port.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr},
};

/// The port that a server listens on when its name carries none (Server-Server API, "Server discovery").
pub const FEDERATION_PORT: u16 = 8448;

/// The port of a base URL that carries none (RFC 9110 §4.2.2).
pub const HTTPS_PORT: u16 = 443;

/// Longest host, in bytes: what the grammar allows a DNS name.
const HOST_BYTES_MAX: usize = 255;

/// A name by the grammar: a DNS name, an IPv4 address or an IPv6 address in brackets, and an optional port.
///
/// Compared as spelled: the specification makes `example.com` and `EXAMPLE.com` two servers.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerName {
    host: String,
    port: Option<u16>,
}

impl ServerName {
    /// Reads a name as a person would write it: no scheme, no path.
    pub fn parse(text: &str) -> Result<Self, ServerNameError> {
        let (host, port) = split_port(text);
        check_host(host)?;
        let port = port.map(parse_port).transpose()?;
        Ok(Self { host: host.to_owned(), port })
    }

    /// The host without port, as spelled; IPv6 addresses in brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, if the name carries one.
    pub fn port(&self) -> Option<u16> {
        self.port
    }

    /// The host in lower case: the form in which Host fields are looked up.
    pub fn host_key(&self) -> String {
        self.host.to_ascii_lowercase()
    }

    /// The same host with this port.
    pub fn with_port(&self, port: u16) -> Self {
        Self { host: self.host.clone(), port: Some(port) }
    }

    /// Whether the host is an address. No certificate authority for names vouches for those.
    pub fn is_address(&self) -> bool {
        self.host.starts_with('[') || self.host.parse::<Ipv4Addr>().is_ok()
    }
}

impl fmt::Display for ServerName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(formatter, "{}:{port}", self.host),
            None => formatter.write_str(&self.host),
        }
    }
}

/// Why a text is no server name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerNameError {
    /// Nothing before the port.
    Empty,
    /// `https://` or the like in front.
    Scheme,
    /// Looks like four numbers, but is not an IPv4 address.
    Ipv4,
    /// Brackets around something else than an IPv6 address, or an IPv6 address without them.
    Ipv6,
    /// A byte that no DNS name has.
    Character(char),
    /// A label of a DNS name is empty or begins or ends with a hyphen (RFC 1123 §2.1).
    Label,
    /// Longer than a DNS name can be.
    TooLong,
    /// The port is not a number from 1 to 65535.
    Port,
}

impl fmt::Display for ServerNameError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ServerNameError::Empty => formatter.write_str("the host is empty"),
            ServerNameError::Scheme => formatter.write_str("it has a scheme"),
            ServerNameError::Ipv4 => formatter.write_str("the IPv4 address is not four numbers up to 255"),
            ServerNameError::Ipv6 => {
                formatter.write_str("an IPv6 address stands in brackets, as in [2001:db8::1]")
            }
            ServerNameError::Character(found) => write!(formatter, "{found:?} cannot be part of a host name"),
            ServerNameError::Label => {
                formatter.write_str("a part between dots is empty or begins or ends with a hyphen")
            }
            ServerNameError::TooLong => write!(formatter, "the host is longer than {HOST_BYTES_MAX} bytes"),
            ServerNameError::Port => formatter.write_str("the port is not a number from 1 to 65535"),
        }
    }
}

impl std::error::Error for ServerNameError {}

/// Splits at the colon that cannot belong to the host.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if let Some(end) = text.rfind(']') {
        let (host, rest) = text.split_at(end + 1);
        return match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => (text, None),
        };
    }
    match text.split_once(':') {
        // A second colon: an IPv6 address without brackets, or a scheme. Kept whole, so that the message is about that.
        Some((host, port)) if !port.contains(':') && !port.starts_with("//") => (host, Some(port)),
        _ => (text, None),
    }
}

fn parse_port(text: &str) -> Result<u16, ServerNameError> {
    let digits = (1..=5).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(ServerNameError::Port),
    }
}

fn check_host(host: &str) -> Result<(), ServerNameError> {
    if host.is_empty() {
        return Err(ServerNameError::Empty);
    }
    if host.contains("://") {
        return Err(ServerNameError::Scheme);
    }
    if host.contains([':', '[', ']']) {
        return check_ipv6(host);
    }
    if let Some(found) = host.chars().find(|found| !is_dns_char(*found)) {
        return Err(ServerNameError::Character(found));
    }
    if host.len() > HOST_BYTES_MAX {
        return Err(ServerNameError::TooLong);
    }
    if host.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return host.parse::<Ipv4Addr>().map(drop).map_err(|_| ServerNameError::Ipv4);
    }
    match host.split('.').all(is_label) {
        true => Ok(()),
        false => Err(ServerNameError::Label),
    }
}

fn check_ipv6(host: &str) -> Result<(), ServerNameError> {
    let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    match inner.map(str::parse::<Ipv6Addr>) {
        Some(Ok(_)) => Ok(()),
        _ => Err(ServerNameError::Ipv6),
    }
}

fn is_dns_char(found: char) -> bool {
    found.is_ascii_alphanumeric() || found == '-' || found == '.'
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_the_specification_are_names() {
        for (text, host, port) in [
            ("matrix.org", "matrix.org", None),
            ("matrix.org:8888", "matrix.org", Some(8888)),
            ("1.2.3.4", "1.2.3.4", None),
            ("1.2.3.4:1234", "1.2.3.4", Some(1234)),
            ("[1234:5678::abcd]", "[1234:5678::abcd]", None),
            ("[1234:5678::abcd]:5678", "[1234:5678::abcd]", Some(5678)),
            ("localhost", "localhost", None),
            ("xn--bcher-kva.example", "xn--bcher-kva.example", None),
        ] {
            let name = ServerName::parse(text).unwrap();
            assert_eq!((name.host(), name.port()), (host, port), "{text}");
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn what_is_no_name_says_why() {
        for (text, error) in [
            ("", ServerNameError::Empty),
            (":8448", ServerNameError::Empty),
            ("https://example.com", ServerNameError::Scheme),
            ("https://example.com:443", ServerNameError::Scheme),
            ("1.2.3.256", ServerNameError::Ipv4),
            ("1.2.3", ServerNameError::Ipv4),
            ("::1", ServerNameError::Ipv6),
            ("2001:db8::1:8448", ServerNameError::Ipv6),
            ("[example.com]", ServerNameError::Ipv6),
            ("[::1]x", ServerNameError::Ipv6),
            ("[fe80::1%eth0]", ServerNameError::Ipv6),
            ("ex_ample.com", ServerNameError::Character('_')),
            ("example.com/path", ServerNameError::Character('/')),
            ("bücher.example", ServerNameError::Character('ü')),
            ("*.example.com", ServerNameError::Character('*')),
            ("example..com", ServerNameError::Label),
            ("example.com.", ServerNameError::Label),
            ("-a.example", ServerNameError::Label),
            ("example.com:", ServerNameError::Port),
            ("example.com:0", ServerNameError::Port),
            ("example.com:65536", ServerNameError::Port),
            ("example.com:+443", ServerNameError::Port),
            ("example.com:000443", ServerNameError::Port),
        ] {
            assert_eq!(ServerName::parse(text), Err(error), "{text}");
        }
        assert_eq!(ServerName::parse(&"a".repeat(256)), Err(ServerNameError::TooLong));
        assert!(ServerName::parse(&"a".repeat(255)).is_ok());
    }

    #[test]
    fn a_name_is_compared_as_spelled_and_looked_up_in_lower_case() {
        let name = ServerName::parse("Example.COM:8448").unwrap();
        assert_ne!(name, ServerName::parse("example.com:8448").unwrap());
        assert_eq!(name.host_key(), "example.com");
        assert!(!name.is_address());
        assert!(ServerName::parse("127.0.0.1:8008").unwrap().is_address());
        assert!(ServerName::parse("[::1]").unwrap().is_address());
    }
}
