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
        let words = words(name);
        if let Some(known) = candidates(name.len()).iter().find(|known| known.words == words) {
            return known.field;
        }
        match words {
            [FORWARDED_START, rest, ..] if rest & FIRST_4_BYTES == FORWARDED_REST => Self::XForwarded,
            [CONTROL_START, rest, ..] if rest & FIRST_7_BYTES == CONTROL_REST => Self::AccessControl,
            _ if name.contains(&b'_') && is_lookalike(name) => Self::Lookalike,
            _ => Self::Other,
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
const fn candidates(len: usize) -> &'static [Known] {
    use KnownField as K;
    match len {
        2 => const { &[known(b"te", K::Te)] },
        3 => const { &[known(b"via", K::Via), known(b"age", K::Control)] },
        4 => const { &[known(b"host", K::Host), known(b"date", K::Date), known(b"vary", K::Control)] },
        // CGI gives its programs a `Proxy` field as HTTP_PROXY, which some of them then use.
        5 => const { &[known(b"range", K::Control), known(b"proxy", K::ProxyConnection)] },
        6 => {
            const {
                &[
                    known(b"origin", K::Origin),
                    known(b"cookie", K::Cookie),
                    known(b"server", K::Server),
                    known(b"expect", K::Expect),
                    known(b"pragma", K::Control),
                ]
            }
        }
        7 => {
            const {
                &[
                    known(b"upgrade", K::Upgrade),
                    known(b"trailer", K::Trailer),
                    known(b"expires", K::Control),
                    known(b"warning", K::Control),
                ]
            }
        }
        8 => {
            const {
                &[
                    known(b"if-match", K::Control),
                    known(b"if-range", K::Control),
                    known(b"location", K::Control),
                ]
            }
        }
        9 => const { &[known(b"forwarded", K::Forwarded), known(b"x-real-ip", K::XRealIp)] },
        10 => {
            const {
                &[
                    known(b"connection", K::Connection),
                    known(b"user-agent", K::UserAgent),
                    known(b"set-cookie", K::SetCookie),
                    known(b"keep-alive", K::KeepAlive),
                ]
            }
        }
        11 => const { &[known(b"retry-after", K::Control)] },
        12 => {
            const {
                &[
                    known(b"content-type", K::ContentType),
                    known(b"x-request-id", K::XRequestId),
                    known(b"max-forwards", K::Control),
                ]
            }
        }
        13 => {
            const {
                &[
                    known(b"authorization", K::Authorization),
                    known(b"cache-control", K::Control),
                    known(b"content-range", K::ContentRange),
                    known(b"if-none-match", K::Control),
                ]
            }
        }
        14 => {
            const { &[known(b"content-length", K::ContentLength), known(b"http2-settings", K::Http2Settings)] }
        }
        15 => const { &[known(b"x-forwarded-for", K::XForwardedFor)] },
        16 => {
            const {
                &[
                    known(b"content-encoding", K::ContentEncoding),
                    known(b"proxy-connection", K::ProxyConnection),
                    known(b"www-authenticate", K::Authentication),
                ]
            }
        }
        17 => {
            const {
                &[
                    known(b"transfer-encoding", K::TransferEncoding),
                    known(b"x-forwarded-proto", K::XForwardedProto),
                    known(b"if-modified-since", K::Control),
                ]
            }
        }
        18 => const { &[known(b"proxy-authenticate", K::Authentication)] },
        19 => {
            const { &[known(b"proxy-authorization", K::Authentication), known(b"if-unmodified-since", K::Control)] }
        }
        27 => const { &[known(b"access-control-allow-origin", K::AccessControlAllowOrigin)] },
        _ => &[],
    }
}

/// A name with what it means.
struct Known {
    words: [u64; 4],
    field: KnownField,
}

const fn known(name: &[u8], field: KnownField) -> Known {
    Known { words: words(name), field }
}

/// The first 32 bytes of a name in lower case, zeros behind them. No known name is longer.
const fn words(name: &[u8]) -> [u64; 4] {
    let mut bytes = [[0; 8]; 4];
    let (start, _) =
        name.split_at(if name.len() < KNOWN_NAME_BYTES_MAX { name.len() } else { KNOWN_NAME_BYTES_MAX });
    bytes.as_flattened_mut().split_at_mut(start.len()).0.copy_from_slice(start);
    let [a, b, c, d] = bytes;
    [lower(a), lower(b), lower(c), lower(d)]
}

/// Eight bytes at once; like [`u8::to_ascii_lowercase`], it changes `A` to `Z` and nothing else.
const fn lower(bytes: [u8; 8]) -> u64 {
    let word = u64::from_le_bytes(bytes);
    let low_bits = word & (ONES * 0x7f);
    // The high bit of each byte tells: beyond Z, from A on, not ASCII.
    let beyond_z = low_bits + ONES * (0x7f - b'Z' as u64);
    let from_a = low_bits + ONES * (0x80 - b'A' as u64);
    let is_upper = (from_a ^ beyond_z) & !word & (ONES * 0x80);
    word | is_upper >> 2
}

const ONES: u64 = 0x0101_0101_0101_0101;

const FORWARDED_START: u64 = words(b"x-forwarded-")[0];
const FORWARDED_REST: u64 = words(b"x-forwarded-")[1];
const CONTROL_START: u64 = words(b"access-control-")[0];
const CONTROL_REST: u64 = words(b"access-control-")[1];
/// Masks of the first bytes of a word: four in `ded-`, seven in `ontrol-`.
const FIRST_4_BYTES: u64 = 0xffff_ffff;
/// See [`FIRST_4_BYTES`].
const FIRST_7_BYTES: u64 = 0x00ff_ffff_ffff_ffff;

fn is_lookalike(name: &[u8]) -> bool {
    let mut hyphenated = [0; KNOWN_NAME_BYTES_MAX];
    // Behind the end of a longer name, only families can be told, and those are told by their beginning.
    let mut length = 0;
    for (to, from) in hyphenated.iter_mut().zip(name) {
        *to = if *from == b'_' { b'-' } else { *from };
        length += 1;
    }
    match KnownField::of(&hyphenated[..length]) {
        KnownField::Other => false,
        KnownField::XForwarded | KnownField::AccessControl => true,
        _ => length == name.len(),
    }
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
            for known in candidates(len) {
                let bytes = known.words.map(u64::to_le_bytes).concat();
                let (name, rest) = bytes.split_at(len);
                assert!(is_token(name) && rest.iter().all(|byte| *byte == 0), "{}", name.escape_ascii());
                assert_eq!(name.to_ascii_lowercase(), name);
            }
        }
    }

    #[test]
    fn eight_bytes_are_lowered_as_each_of_them() {
        for byte in 0..=u8::MAX {
            for others in [0, b'A', b'Z', b'[', 0x80, 0xff] {
                let mut bytes = [others; 8];
                bytes[3] = byte;
                assert_eq!(
                    lower(bytes).to_le_bytes(),
                    bytes.map(|byte| byte.to_ascii_lowercase()),
                    "{byte} {others}"
                );
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
