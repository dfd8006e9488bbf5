//! Field lines (RFC 9112 §5), tokens and lists (RFC 9110 §5.6), and the names that mean something to a proxy.

use crate::Span;

/// One field line of a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FieldLine {
    /// The name, as spelled.
    pub name: Span,
    /// The value without the whitespace around it.
    pub value: Span,
    /// The whole line with its CRLF.
    pub line: Span,
    /// What the name means here.
    pub known: KnownField,
    /// Whether it belongs to this connection only and must not be forwarded (RFC 9110 §7.6.1).
    ///
    /// Also set on the `Content-Length: 0` of a 204 response, which must not be forwarded either (§8.6).
    pub hop_by_hop: bool,
}

/// Field names that a proxy, a rule or a log has to recognise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KnownField {
    /// Any name that is not below.
    Other,
    /// `Connection`.
    Connection,
    /// `Content-Length`.
    ContentLength,
    /// `Transfer-Encoding`.
    TransferEncoding,
    /// `Host`.
    Host,
    /// `Expect`.
    Expect,
    /// `Upgrade`.
    Upgrade,
    /// `HTTP2-Settings`.
    Http2Settings,
    /// `Keep-Alive`.
    KeepAlive,
    /// `Proxy-Connection`, and `Proxy`, which means nothing and has been abused.
    ProxyConnection,
    /// `TE`.
    Te,
    /// `Trailer`.
    Trailer,
    /// `Forwarded` (RFC 7239).
    Forwarded,
    /// `X-Forwarded-For`.
    XForwardedFor,
    /// `X-Forwarded-Proto`.
    XForwardedProto,
    /// Any other `X-Forwarded-*`.
    XForwarded,
    /// `X-Real-IP`.
    XRealIp,
    /// `X-Request-ID`.
    XRequestId,
    /// `Via`.
    Via,
    /// `Authorization`.
    Authorization,
    /// `Date`.
    Date,
    /// `Server`.
    Server,
    /// `Origin`.
    Origin,
    /// `User-Agent`.
    UserAgent,
    /// `Access-Control-Allow-Origin`.
    AccessControlAllowOrigin,
    /// Another `Access-Control-*`.
    AccessControl,
    /// `Content-Type`.
    ContentType,
    /// `Content-Encoding`.
    ContentEncoding,
    /// `Content-Range`.
    ContentRange,
    /// `Cookie`.
    Cookie,
    /// `Set-Cookie`.
    SetCookie,
    /// `Proxy-Authorization`, `Proxy-Authenticate` and `WWW-Authenticate`.
    Authentication,
    /// One of these names, but for `_` in place of `-`: software that takes the one for the other (CGI, WSGI) would
    /// believe it.
    Lookalike,
    /// Controls and conditionals that must be known before the body: `Cache-Control`, `If-*`, `Range` and the like.
    Control,
}

impl KnownField {
    /// What `name` means here, in any case.
    #[must_use]
    pub fn of(name: &[u8]) -> Self {
        let [first, .., last] = name else { return Self::Other };
        // Names of one length that begin and end alike are rare: nearly every other name is known to be none by these.
        let ends = [first.to_ascii_lowercase(), last.to_ascii_lowercase()];
        let is_it = |candidate: &[u8]| {
            candidate[0] == ends[0]
                && candidate[candidate.len() - 1] == ends[1]
                && name.eq_ignore_ascii_case(candidate)
        };
        match candidates(name.len()).iter().find(|(candidate, _)| is_it(candidate)) {
            Some((_, field)) => *field,
            None if ends[0] == b'x' && begins_with(name, b"x-forwarded-") => Self::XForwarded,
            None if ends[0] == b'a' && begins_with(name, b"access-control-") => Self::AccessControl,
            None if name.contains(&b'_') && is_lookalike(name) => Self::Lookalike,
            None => Self::Other,
        }
    }

    /// Whether it is about one connection, named by `Connection` or not (RFC 9110 §7.6.1, RFC 9113 §3.2.1).
    #[must_use]
    pub const fn is_hop_by_hop(self) -> bool {
        matches!(
            self,
            Self::Connection
                | Self::Http2Settings
                | Self::KeepAlive
                | Self::ProxyConnection
                | Self::Te
                | Self::TransferEncoding
                | Self::Upgrade
        )
    }

    /// Whether a trailer section may not carry it (RFC 9110 §6.5.1).
    ///
    /// Every name that means something here frames, routes, authenticates, controls or describes the message, and
    /// comes too late behind its content. Unknown names pass.
    #[must_use]
    pub const fn is_forbidden_in_trailers(self) -> bool {
        !matches!(self, Self::Other)
    }
}

/// The known names of this length, at least two bytes and in lower case.
const fn candidates(len: usize) -> &'static [(&'static [u8], KnownField)] {
    use KnownField as K;
    match len {
        2 => &[(b"te", K::Te)],
        3 => &[(b"via", K::Via), (b"age", K::Control)],
        4 => &[(b"host", K::Host), (b"date", K::Date), (b"vary", K::Control)],
        // CGI gives its programs a `Proxy` field as HTTP_PROXY, which some of them then use.
        5 => &[(b"range", K::Control), (b"proxy", K::ProxyConnection)],
        6 => &[
            (b"origin", K::Origin),
            (b"cookie", K::Cookie),
            (b"server", K::Server),
            (b"expect", K::Expect),
            (b"pragma", K::Control),
        ],
        7 => &[
            (b"upgrade", K::Upgrade),
            (b"trailer", K::Trailer),
            (b"expires", K::Control),
            (b"warning", K::Control),
        ],
        8 => &[(b"if-match", K::Control), (b"if-range", K::Control), (b"location", K::Control)],
        9 => &[(b"forwarded", K::Forwarded), (b"x-real-ip", K::XRealIp)],
        10 => &[
            (b"connection", K::Connection),
            (b"user-agent", K::UserAgent),
            (b"set-cookie", K::SetCookie),
            (b"keep-alive", K::KeepAlive),
        ],
        11 => &[(b"retry-after", K::Control)],
        12 => &[
            (b"content-type", K::ContentType),
            (b"x-request-id", K::XRequestId),
            (b"max-forwards", K::Control),
        ],
        13 => &[
            (b"authorization", K::Authorization),
            (b"cache-control", K::Control),
            (b"content-range", K::ContentRange),
            (b"if-none-match", K::Control),
        ],
        14 => &[(b"content-length", K::ContentLength), (b"http2-settings", K::Http2Settings)],
        15 => &[(b"x-forwarded-for", K::XForwardedFor)],
        16 => &[
            (b"content-encoding", K::ContentEncoding),
            (b"proxy-connection", K::ProxyConnection),
            (b"www-authenticate", K::Authentication),
        ],
        17 => &[
            (b"transfer-encoding", K::TransferEncoding),
            (b"x-forwarded-proto", K::XForwardedProto),
            (b"if-modified-since", K::Control),
        ],
        18 => &[(b"proxy-authenticate", K::Authentication)],
        19 => &[(b"proxy-authorization", K::Authentication), (b"if-unmodified-since", K::Control)],
        27 => &[(b"access-control-allow-origin", K::AccessControlAllowOrigin)],
        _ => &[],
    }
}

fn is_lookalike(name: &[u8]) -> bool {
    let mut hyphenated = [0; LOOKALIKE_BYTES_MAX];
    let Some(hyphenated) = hyphenated.get_mut(..name.len().min(LOOKALIKE_BYTES_MAX)) else { return false };
    for (to, from) in hyphenated.iter_mut().zip(name) {
        *to = if *from == b'_' { b'-' } else { *from };
    }
    begins_with(hyphenated, b"x-forwarded-")
        || begins_with(hyphenated, b"access-control-")
        || (hyphenated.len() == name.len() && KnownField::of(hyphenated) != KnownField::Other)
}

/// Longer than every known name, in bytes.
const LOOKALIKE_BYTES_MAX: usize = 32;

fn begins_with(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
}

/// Whether `bytes` are a token (RFC 9110 §5.6.2).
pub(crate) fn is_token(bytes: &[u8]) -> bool {
    !bytes.is_empty() && bytes.iter().all(|byte| is_tchar(*byte))
}

/// Whether `byte` may stand in a token (RFC 9110 §5.6.2).
pub(crate) const fn is_tchar(byte: u8) -> bool {
    TCHAR[byte as usize]
}

/// Whether `byte` may stand in a field value (RFC 9110 §5.5): HTAB, SP, visible ASCII and obs-text.
pub(crate) const fn is_value_byte(byte: u8) -> bool {
    matches!(byte, b'\t' | b' '..=b'~' | 0x80..)
}

/// The elements of a comma-separated list (RFC 9110 §5.6.1), empty ones included, without whitespace around them.
pub fn list_elements(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(trim_ows)
}

/// `bytes` without optional whitespace around them (RFC 9110 §5.6.3).
fn trim_ows(mut bytes: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] = bytes {
        bytes = rest;
    }
    while let [rest @ .., b' ' | b'\t'] = bytes {
        bytes = rest;
    }
    bytes
}

/// Which bytes are `tchar` (RFC 9110 §5.6.2).
static TCHAR: [bool; 256] = {
    let mut table = [false; 256];
    let tchars = b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut at = 0;
    while at < tchars.len() {
        table[tchars[at] as usize] = true;
        at += 1;
    }
    table
};

/// Length in bytes that no exactly known name exceeds.
pub(crate) const KNOWN_NAME_BYTES_MAX: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_candidate_stands_at_its_length_in_lower_case() {
        for len in 0..=64 {
            for (name, _) in candidates(len) {
                assert_eq!(name.len(), len);
                assert!(name.len() <= KNOWN_NAME_BYTES_MAX);
                assert_eq!(name.to_ascii_lowercase(), *name);
            }
        }
    }

    #[test]
    fn names_are_known_in_any_case_and_families_by_their_prefix() {
        assert_eq!(KnownField::of(b"CONTENT-length"), KnownField::ContentLength);
        assert_eq!(KnownField::of(b"X-Forwarded-Host"), KnownField::XForwarded);
        assert_eq!(KnownField::of(b"x-forwarded-FOR"), KnownField::XForwardedFor);
        assert_eq!(KnownField::of(b"Access-Control-Max-Age"), KnownField::AccessControl);
        assert_eq!(KnownField::of(b"X-Forwarded"), KnownField::Other);
        assert_eq!(KnownField::of(b""), KnownField::Other);
    }

    #[test]
    fn names_that_some_software_takes_for_known_ones_are_told_apart() {
        for name in [
            &b"Content_Length"[..],
            b"x_forwarded_for",
            b"X-Forwarded_Host",
            b"X_REAL-IP",
            b"Transfer_encoding",
        ] {
            assert_eq!(KnownField::of(name), KnownField::Lookalike, "{}", name.escape_ascii());
        }
        for name in
            [&b"x_other"[..], b"_", b"content__length", b"a_name_longer_than_every_known_one_there_is"]
        {
            assert_eq!(KnownField::of(name), KnownField::Other, "{}", name.escape_ascii());
        }
    }

    #[test]
    fn a_token_is_what_rfc_9110_5_6_2_lists() {
        let allowed: Vec<u8> = (0..=255).filter(|byte| is_tchar(*byte)).collect();
        assert_eq!(allowed, b"!#$%&'*+-.0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ^_`abcdefghijklmnopqrstuvwxyz|~");
        assert!(!is_token(b""));
    }

    #[test]
    fn list_elements_keep_empty_ones_and_lose_whitespace() {
        let elements: Vec<&[u8]> = list_elements(b" a\t,, b c ,").collect();
        assert_eq!(elements, [&b"a"[..], b"", b"b c", b""]);
    }
}
