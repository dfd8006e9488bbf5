//! The PROXY protocol, versions 1 and 2: how a balancer tells whose connection it passes on (HAProxy,
//! `doc/proxy-protocol.txt`).
//!
//! Pure: the verdict on some bytes depends on them alone, and never changes when more arrive. Who is no balancer must not
//! be able to speak it: whom it is believed is decided by the caller, before the first byte.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use crate::limits::KIB;

/// A whole header at the start of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its bytes; what follows belongs to the client.
    pub length: usize,
    /// The client (an IPv4 address in IPv6 is an IPv4 address); `None`: the connection is the sender's own, or the
    /// client has no address that could be told.
    pub client: Option<SocketAddr>,
}

/// Why bytes are no header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Malformed {
    /// They begin like neither version.
    Start,
    /// A line of version 1 that is not as it has to be.
    Line,
    /// A line longer than [`LINE_BYTES_MAX`], or a header longer than [`HEADER_BYTES_MAX`].
    Length,
    /// Neither version 2, nor a command of it.
    Version,
    /// An address family or a transport that version 2 does not have.
    Family,
    /// Addresses or additions that end beyond the header.
    CutShort,
    /// A checksum that does not match.
    Checksum,
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Malformed::Start => "no PROXY header",
            Malformed::Line => "a PROXY line that is malformed",
            Malformed::Length => "a PROXY header that is too long",
            Malformed::Version => "a PROXY header of an unknown version or command",
            Malformed::Family => "a PROXY header with an unknown address family",
            Malformed::CutShort => "a PROXY header whose parts end beyond it",
            Malformed::Checksum => "a PROXY header whose checksum does not match",
        })
    }
}

/// Longest header of version 1, in bytes with CRLF: what the longest addresses take (§2.1).
pub const LINE_BYTES_MAX: usize = 107;

/// Longest header of version 2, in bytes. Receivers should take 536 (§2.2); certificates' names and a cloud's identifiers
/// are some hundred more.
pub const HEADER_BYTES_MAX: usize = 2 * KIB;

const LINE_START: &[u8] = b"PROXY ";
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family and transport, length of the rest.
const FIXED: usize = SIGNATURE.len() + 4;

const LOCAL: u8 = 0x20;
const PROXY: u8 = 0x21;
const INET_STREAM: u8 = 0x11;
const INET6_STREAM: u8 = 0x21;

/// Looks for a header at the start of `bytes`; `None`: more are needed.
///
/// # Errors
/// When they do not begin with a header, whatever follows.
pub fn parse(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    if begins_like(bytes, LINE_START) {
        return line(bytes);
    }
    if begins_like(bytes, SIGNATURE) {
        return binary(bytes);
    }
    Err(Malformed::Start)
}

/// Whether one of both begins with the other.
fn begins_like(bytes: &[u8], start: &[u8]) -> bool {
    bytes.iter().zip(start).all(|(a, b)| a == b)
}

/// Version 1: a line (§2.1).
fn line(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let within = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
    let Some(end) = within.iter().position(|byte| matches!(byte, b'\r' | b'\n')) else {
        return if within.len() < LINE_BYTES_MAX - 1 { Ok(None) } else { Err(Malformed::Length) };
    };
    match within[end..] {
        [b'\r'] if end < LINE_BYTES_MAX - 1 => return Ok(None),
        [b'\r'] => return Err(Malformed::Length),
        [b'\r', b'\n', ..] => {}
        _ => return Err(Malformed::Line),
    }
    let text = std::str::from_utf8(&within[LINE_START.len().min(end)..end]);
    let client = match text {
        // Whatever else it says is to be ignored.
        _ if is_unknown(&within[..end]) => None,
        Ok(text) => Some(line_client(text).ok_or(Malformed::Line)?),
        Err(_) => return Err(Malformed::Line),
    };
    Ok(Some(Header { length: end + 2, client }))
}

fn is_unknown(line: &[u8]) -> bool {
    line.strip_prefix(b"PROXY UNKNOWN").is_some_and(|rest| rest.is_empty() || rest[0] == b' ')
}

/// The client of a line: family, both addresses, both ports, with one space between them.
fn line_client(text: &str) -> Option<SocketAddr> {
    let mut words = text.split(' ');
    let mut word = || words.next();
    let (family, client, server) = (word()?, word()?, word()?);
    let (client_port, _) = (port(word()?)?, port(word()?)?);
    if words.next().is_some() {
        return None;
    }
    let client = match family {
        "TCP4" => IpAddr::V4(client.parse::<Ipv4Addr>().ok()?),
        "TCP6" => IpAddr::V6(client.parse::<Ipv6Addr>().ok()?),
        _ => return None,
    };
    let server_is_sound = match family {
        "TCP4" => server.parse::<Ipv4Addr>().is_ok(),
        _ => server.parse::<Ipv6Addr>().is_ok(),
    };
    server_is_sound.then(|| SocketAddr::new(client.to_canonical(), client_port))
}

/// A port in decimal, without leading zeros.
fn port(text: &str) -> Option<u16> {
    let is_decimal =
        text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    is_decimal.then(|| text.parse().ok()).flatten()
}

/// Version 2: a binary header (§2.2).
fn binary(bytes: &[u8]) -> Result<Option<Header>, Malformed> {
    let fixed = &bytes[bytes.len().min(SIGNATURE.len())..bytes.len().min(FIXED)];
    let command = fixed.first().copied();
    if command.is_some_and(|command| !matches!(command, LOCAL | PROXY)) {
        return Err(Malformed::Version);
    }
    let &[command, family, high, low] = fixed else { return Ok(None) };
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > HEADER_BYTES_MAX {
        return Err(Malformed::Length);
    }
    // Of its own connections it may say what it likes.
    let addresses = if command == LOCAL { 0 } else { address_bytes(family)? };
    if length < FIXED + addresses {
        return Err(Malformed::CutShort);
    }
    let Some(header) = bytes.get(..length) else { return Ok(None) };
    if command == LOCAL || addresses == 0 {
        return Ok(Some(Header { length, client: None }));
    }
    check_additions(header, FIXED + addresses)?;
    Ok(Some(Header { length, client: binary_client(family, &header[FIXED..]) }))
}

/// Bytes of both addresses with their ports; zero where none can be told.
fn address_bytes(family: u8) -> Result<usize, Malformed> {
    match (family >> 4, family & 15) {
        (0..=3, 0) | (0, 1 | 2) => Ok(0),
        (1, 1 | 2) => Ok(12),
        (2, 1 | 2) => Ok(36),
        (3, 1 | 2) => Ok(216),
        _ => Err(Malformed::Family),
    }
}

/// The client's address and port; none for datagrams and Unix sockets, which are nobody's that could come in here.
fn binary_client(family: u8, addresses: &[u8]) -> Option<SocketAddr> {
    let (address, port_at) = match family {
        INET_STREAM => (IpAddr::from(*addresses.first_chunk::<4>()?), 8),
        INET6_STREAM => (IpAddr::from(*addresses.first_chunk::<16>()?), 32),
        _ => return None,
    };
    let port = u16::from_be_bytes(*addresses.get(port_at..)?.first_chunk()?);
    Some(SocketAddr::new(address.to_canonical(), port))
}

/// Additions (TLVs) behind the addresses: type, length, value. Only the checksum concerns us (§2.2.3).
fn check_additions(header: &[u8], mut at: usize) -> Result<(), Malformed> {
    let mut checksum_at = None;
    while at < header.len() {
        let &[kind, high, low] = header[at..].first_chunk().ok_or(Malformed::CutShort)?;
        let length = usize::from(u16::from_be_bytes([high, low]));
        let value = at + 3;
        if value + length > header.len() {
            return Err(Malformed::CutShort);
        }
        if kind == CHECKSUM && (length != 4 || checksum_at.replace(value).is_some()) {
            return Err(Malformed::Checksum);
        }
        at = value + length;
    }
    let Some(at) = checksum_at else { return Ok(()) };
    // It is that of the header in which it is zero.
    let parts = [&header[..at], &[0; 4], &header[at + 4..]];
    let is_right = crc32c(parts.into_iter().flatten()).to_be_bytes() == header[at..at + 4];
    if is_right { Ok(()) } else { Err(Malformed::Checksum) }
}

/// The addition that holds a CRC-32C (`PP2_TYPE_CRC32C`).
const CHECKSUM: u8 = 3;

/// CRC-32C (RFC 9260, appendix A), bit by bit: it is rare, and of some tens of bytes.
fn crc32c<'a>(bytes: impl Iterator<Item = &'a u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    })
}

/// The header of version 2 for a connection that is nobody's but ours, as one that asks after a server's health (§2.2).
pub fn local_header() -> Vec<u8> {
    [SIGNATURE, &[LOCAL, 0, 0, 0]].concat()
}

/// The header of version 2 that says whose connection this is and where it came in, for an upstream.
///
/// Addresses of different families are both told as IPv6.
pub fn header(client: SocketAddr, listener: SocketAddr) -> Vec<u8> {
    let (client_ip, mut listener_ip) = (client.ip().to_canonical(), listener.ip().to_canonical());
    // What listens everywhere listens on the client's family too.
    if listener_ip.is_unspecified() && client_ip.is_ipv4() {
        listener_ip = Ipv4Addr::UNSPECIFIED.into();
    }
    let mut header = [SIGNATURE, &[PROXY]].concat();
    match (client_ip, listener_ip) {
        (IpAddr::V4(client), IpAddr::V4(listener)) => {
            header.extend([INET_STREAM, 0, 12]);
            header.extend([client.octets(), listener.octets()].as_flattened());
        }
        (client, listener) => {
            header.extend([INET6_STREAM, 0, 36]);
            header.extend([client, listener].map(|address| as_ipv6(address).octets()).as_flattened());
        }
    }
    header.extend([client, listener].map(|address| address.port().to_be_bytes()).as_flattened());
    header
}

fn as_ipv6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod reference;
#[cfg(test)]
mod tests;
