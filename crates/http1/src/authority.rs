//! Host and port (RFC 9110 §4.2, §7.2; RFC 3986 §3.2).
//!
//! Stricter than the grammar of a URI: a host is a name of unreserved characters, an IPv4 address or an IPv6 address
//! in brackets. Percent-encoding, sub-delimiters, user information, zone identifiers and future address forms are
//! refused: DNS knows none of them, and two recipients read them differently.

use std::net::Ipv6Addr;

/// The parts of `host [":" port]`, as they are spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Authority<'b> {
    /// The host; an IPv6 address keeps its brackets.
    pub host: &'b [u8],
    /// The port, 1 to 65535, if one is named.
    pub port: Option<u16>,
}

impl<'b> Authority<'b> {
    /// Splits a strictly well-formed authority; `None` for any other.
    #[must_use]
    pub fn split(authority: &'b [u8]) -> Option<Self> {
        let host_len = match authority {
            [b'[', ..] => ipv6_literal_len(authority)?,
            _ => authority.iter().position(|byte| !UNRESERVED[usize::from(*byte)]).unwrap_or(authority.len()),
        };
        if host_len == 0 {
            return None;
        }
        let (host, rest) = authority.split_at(host_len);
        match rest {
            [] => Some(Self { host, port: None }),
            [b':', digits @ ..] => Some(Self { host, port: Some(port(digits)?) }),
            _ => None,
        }
    }
}

/// Length in bytes of the address in brackets with which `authority` begins.
fn ipv6_literal_len(authority: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b']', authority)?;
    let address = std::str::from_utf8(&authority[1..end]).ok()?;
    address.parse::<Ipv6Addr>().ok().map(|_| end + 1)
}

fn port(digits: &[u8]) -> Option<u16> {
    if digits.is_empty() || digits.len() > PORT_DIGITS_MAX {
        return None;
    }
    let port = digits.iter().try_fold(0_u32, |value, digit| {
        digit.is_ascii_digit().then(|| value * 10 + u32::from(digit - b'0'))
    })?;
    u16::try_from(port).ok().filter(|port| *port > 0)
}

/// Which bytes are unreserved (RFC 3986 §2.3).
static UNRESERVED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0_u8;
    while byte < 0x80 {
        table[byte as usize] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        byte += 1;
    }
    table
};

/// As many digits as 65535 has.
const PORT_DIGITS_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_an_address_with_or_without_a_port() {
        for (text, host, port) in [
            ("example.com", "example.com", None),
            ("Example.COM.:8448", "Example.COM.", Some(8448)),
            ("a_b~c-1", "a_b~c-1", None),
            ("192.0.2.1:1", "192.0.2.1", Some(1)),
            ("[2001:db8::1]", "[2001:db8::1]", None),
            ("[::ffff:192.0.2.1]:65535", "[::ffff:192.0.2.1]", Some(65535)),
        ] {
            let authority = Authority { host: host.as_bytes(), port };
            assert_eq!(Authority::split(text.as_bytes()), Some(authority), "{text}");
        }
    }

    #[test]
    fn any_other_authority_is_refused() {
        for text in [
            "",
            ":80",
            "h:",
            "h:0",
            "h:65536",
            "h:99999",
            "h:080000",
            "h:8a",
            "h:+1",
            "h:1:2",
            "u@h",
            "u:p@h",
            "h/",
            "h,i",
            "h i",
            " h",
            "[::1",
            "::1",
            "[::1]x",
            "[::1]:",
            "[]",
            "[::g]",
            "[fe80::1%25eth0]",
            "[v1.x]",
            "]",
            "h%2e",
            "h\u{e9}",
            "a[::1]",
            "h?x",
            "h#x",
            "h\\",
        ] {
            assert_eq!(Authority::split(text.as_bytes()), None, "{text}");
        }
    }
}
