//! What changes in a head on its way through (RFC 9110 §7.6). Pure.
//!
//! Every other field line goes on in its place and as it was spelled.

use std::{
    io::{self, Write as _},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;
use ringfence_http1::{
    BodyFraming, FieldLine, KnownField, Method, OutgoingHead, RequestHead, ResponseHead, TargetForm, Version,
    list_elements,
};

use crate::{request_id::RequestId, snapshot::contains};

/// Who made a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    /// Whether everyone who spoke for it could be understood; if not, `address` is the last who could.
    pub(crate) is_certain: bool,
    /// `http` or `https`.
    pub(crate) scheme: &'static [u8],
}

/// What the origin is told of the client.
pub(crate) struct Forwarded<'a> {
    pub(crate) client: Client,
    pub(crate) request_id: &'a RequestId,
    /// Sent as `Host` when the client (HTTP/1.0) named none.
    pub(crate) host: &'a [u8],
}

/// The client: what the peer is, or what a trusted proxy says of its own client.
///
/// `X-Forwarded-For` is walked from the right past trusted addresses, so that nothing a client invents counts.
pub(crate) fn client(
    peer: IpAddr,
    scheme: &'static [u8],
    trusted: &[IpNet],
    head: &RequestHead,
    head_bytes: &[u8],
) -> Client {
    if !contains(trusted, peer) {
        return Client { address: peer, is_certain: true, scheme };
    }
    let values = |known| {
        head.fields()
            .iter()
            .rev()
            .filter(move |line| line.known == known)
            .map(|line| line.value.of(head_bytes))
    };
    let (mut address, mut is_certain) = (peer, true);
    for element in values(KnownField::XForwardedFor).flat_map(|value| value.rsplit(|byte| *byte == b',')) {
        // What cannot be read ends the walk: whatever stands left of it is hearsay.
        let Some(next) = address_of(element) else {
            is_certain = false;
            break;
        };
        address = next.to_canonical();
        if !contains(trusted, address) {
            break;
        }
    }
    let scheme = match values(KnownField::XForwardedProto).next() {
        Some(value) if value.eq_ignore_ascii_case(b"https") => &b"https"[..],
        Some(value) if value.eq_ignore_ascii_case(b"http") => &b"http"[..],
        _ => scheme,
    };
    Client { address, is_certain, scheme }
}

/// The address in an element of `X-Forwarded-For`; some proxies write its port behind it.
fn address_of(element: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(element).ok()?.trim();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    text.parse().ok().or_else(with_port)
}

/// Builds the head to send to the origin.
pub(crate) fn request(
    head: &RequestHead,
    head_bytes: &[u8],
    forwarded: &Forwarded<'_>,
    out: &mut OutgoingHead,
) {
    out.clear();
    if head.version() == Version::Http11 && head.target_form() == TargetForm::Origin {
        out.push_input(head.start_line());
    } else {
        out.push_input(head.method_span());
        out.push_owned(b" ");
        out.push_owned(head.path_prefix());
        out.push_input(head.path_and_query());
        out.push_owned(b" HTTP/1.1\r\n");
    }
    let upgrade = head.upgrades();
    let forwards_left = max_forwards(head, head_bytes).unwrap_or(None);
    let lines = head.fields().iter().filter(|line| request_line_passes(line, head.version(), upgrade));
    match forwards_left {
        None => out.push_input_lines(lines.map(|line| line.line)),
        Some(left) => lines.for_each(|line| match is_max_forwards(line, head_bytes) {
            true => push_max_forwards(left.saturating_sub(1), out),
            false => out.push_input(line.line),
        }),
    }
    if head.host().is_none() {
        out.push_owned(b"Host: ");
        match head.authority() {
            Some(authority) => out.push_input(authority),
            None => out.push_owned(forwarded.host),
        }
        out.push_owned(b"\r\n");
    }
    push_framing(head.framing(), out);
    if upgrade {
        out.push_owned(b"Connection: upgrade\r\n");
    }
    push_forwarded(forwarded, head.version(), out);
}

fn request_line_passes(line: &FieldLine, version: Version, upgrade: bool) -> bool {
    match line.known {
        KnownField::Upgrade => upgrade,
        KnownField::Forwarded
        | KnownField::XForwardedFor
        | KnownField::XForwardedProto
        | KnownField::XForwarded
        | KnownField::XRealIp
        | KnownField::XRequestId
        | KnownField::Lookalike => false,
        // A client of HTTP/1.0 does not know 100 (Continue) and must not be sent one (RFC 9110 §10.1.1).
        KnownField::Expect => version == Version::Http11 && !line.hop_by_hop,
        _ => !line.hop_by_hop,
    }
}

/// How often a request may still be forwarded, where its method says that this counts (RFC 9110 §7.6.2).
///
/// # Errors
/// When it is said twice, or not by a number that can be counted down.
pub(crate) fn max_forwards(head: &RequestHead, head_bytes: &[u8]) -> Result<Option<u64>, NotANumber> {
    if !matches!(head.method(), Method::Options | Method::Trace) {
        return Ok(None);
    }
    let mut lines = head.fields().iter().filter(|line| is_max_forwards(line, head_bytes));
    let Some(line) = lines.next() else { return Ok(None) };
    let digits = line.value.of(head_bytes);
    let is_number = lines.next().is_none() && digits.iter().all(u8::is_ascii_digit);
    let number =
        std::str::from_utf8(digits).ok().filter(|_| is_number).and_then(|digits| digits.parse().ok());
    number.map(Some).ok_or(NotANumber)
}

/// A `Max-Forwards` that cannot be counted down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotANumber;

fn is_max_forwards(line: &FieldLine, head_bytes: &[u8]) -> bool {
    line.known == KnownField::Control && line.name.of(head_bytes).eq_ignore_ascii_case(b"max-forwards")
}

fn push_max_forwards(left: u64, out: &mut OutgoingHead) {
    let mut line = [0; MAX_FORWARDS_BYTES_MAX];
    let mut rest = &mut line[..];
    // Fits, see the bound.
    let _ = write!(rest, "Max-Forwards: {left}\r\n");
    let unused = rest.len();
    out.push_owned(&line[..MAX_FORWARDS_BYTES_MAX - unused]);
}

/// The name, 20 digits and CRLF take 36 bytes.
const MAX_FORWARDS_BYTES_MAX: usize = 40;

/// Whether `Connection` names fields of its own, so that a trailer section could hold one of them. Such a section is
/// dropped, as it may be (RFC 9110 §6.5.1, §7.6.1).
pub(crate) fn names_fields(fields: &[FieldLine], head_bytes: &[u8]) -> bool {
    fields
        .iter()
        .filter(|line| line.known == KnownField::Connection)
        .flat_map(|line| list_elements(line.value.of(head_bytes)))
        .any(|option| !USUAL_OPTIONS.iter().any(|usual| option.eq_ignore_ascii_case(usual)))
}

/// Connection options that name no field that a trailer section could hold.
const USUAL_OPTIONS: [&[u8]; 5] = [b"", b"close", b"keep-alive", b"te", b"upgrade"];

fn push_forwarded(forwarded: &Forwarded<'_>, version: Version, out: &mut OutgoingHead) {
    let mut lines = [0; FORWARDED_BYTES_MAX];
    let mut rest = &mut lines[..];
    // The array holds the longest address; nothing here can fail.
    let _ = rest.write_all(b"X-Forwarded-For: ");
    let _ = write_address(&mut rest, forwarded.client.address);
    let _ = rest.write_all(b"\r\nX-Forwarded-Proto: ");
    let _ = rest.write_all(forwarded.client.scheme);
    let _ = rest.write_all(b"\r\nX-Request-ID: ");
    let _ = rest.write_all(forwarded.request_id);
    // The version in which the request came (RFC 9110 §7.6.3).
    let _ = rest.write_all(match version {
        Version::Http10 => b"\r\nVia: 1.0 ringfence\r\n\r\n",
        Version::Http11 => b"\r\nVia: 1.1 ringfence\r\n\r\n",
    });
    let unused = rest.len();
    out.push_owned(&lines[..FORWARDED_BYTES_MAX - unused]);
}

/// Writes an address as its `Display` does; for IPv4 at a tenth of that one's cost.
pub(crate) fn write_address(out: &mut impl io::Write, address: IpAddr) -> io::Result<()> {
    let IpAddr::V4(address) = address else { return write!(out, "{address}") };
    let mut text = [0; IPV4_BYTES_MAX];
    let mut length = 0;
    for (index, octet) in address.octets().into_iter().enumerate() {
        if index > 0 {
            text[length] = b'.';
            length += 1;
        }
        for (power, least) in [(100, 100), (10, 10), (1, 0)] {
            if octet >= least {
                text[length] = b'0' + octet / power % 10;
                length += 1;
            }
        }
    }
    out.write_all(&text[..length])
}

/// `255.255.255.255`.
const IPV4_BYTES_MAX: usize = 15;

/// The forwarding lines with an IPv6 address of 39 characters take 156 bytes.
const FORWARDED_BYTES_MAX: usize = 192;

/// What the client is told about the connection and the exchange.
pub(crate) struct Returned<'a> {
    pub(crate) request_id: &'a RequestId,
    /// The body as it goes to the client; differs from the origin's where the client's version cannot have that.
    pub(crate) framing: BodyFraming,
    /// The connection ends with this response.
    pub(crate) close: bool,
    /// Sent when the origin sent no `Date` (RFC 9110 §6.6.1); `None`: it did.
    pub(crate) date: Option<&'a str>,
}

/// Builds the final response head to send to the client.
pub(crate) fn response(head: &ResponseHead, returned: &Returned<'_>, out: &mut OutgoingHead) {
    let upgraded = head.status() == 101;
    push_response_lines(head, upgraded, out);
    push_framing(returned.framing, out);
    out.push_owned(b"X-Request-ID: ");
    out.push_owned(returned.request_id);
    out.push_owned(b"\r\n");
    if let Some(date) = returned.date {
        out.push_owned(b"Date: ");
        out.push_owned(date.as_bytes());
        out.push_owned(b"\r\n");
    }
    if upgraded {
        out.push_owned(b"Connection: upgrade\r\n");
    } else if returned.close {
        out.push_owned(b"Connection: close\r\n");
    }
    out.push_owned(b"\r\n");
}

/// Builds an interim (1xx) response head to send to the client.
pub(crate) fn interim_response(head: &ResponseHead, out: &mut OutgoingHead) {
    push_response_lines(head, false, out);
    out.push_owned(b"\r\n");
}

fn push_response_lines(head: &ResponseHead, upgraded: bool, out: &mut OutgoingHead) {
    out.clear();
    if head.version() == Version::Http11 {
        out.push_input(head.start_line());
    } else {
        out.push_owned(b"HTTP/1.1 ");
        out.push_input(head.status_line_tail());
    }
    let passes = |line: &&FieldLine| match line.known {
        KnownField::Upgrade => upgraded,
        KnownField::XRequestId => false,
        _ => !line.hop_by_hop,
    };
    out.push_input_lines(head.fields().iter().filter(passes).map(|line| line.line));
}

fn push_framing(framing: BodyFraming, out: &mut OutgoingHead) {
    if framing == BodyFraming::Chunked {
        out.push_owned(b"Transfer-Encoding: chunked\r\n");
    }
}

#[cfg(test)]
mod tests;
