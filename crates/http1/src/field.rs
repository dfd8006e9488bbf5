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
    /// What `name`, a token, means here, in any case.
    #[must_use]
    #[inline]
    pub fn of(name: &[u8]) -> Self {
        let ends = Ends::of(name);
        let known = &PLACES[ends.place()];
        if known.ends == ends && known.is_spelled(name) {
            return known.field;
        }
        match ends.first {
            FORWARDED_START if begins_with(name, FORWARDED_PREFIX) => Self::XForwarded,
            CONTROL_START if begins_with(name, CONTROL_PREFIX) => Self::AccessControl,
            _ if ends.may_hold_underscore(name) && is_lookalike(name) => Self::Lookalike,
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

/// The known names, at least two bytes and in lower case.
const KNOWN: [Known; 47] = {
    use KnownField as K;
    [
        known(b"te", K::Te),
        known(b"via", K::Via),
        known(b"age", K::Control),
        known(b"host", K::Host),
        known(b"date", K::Date),
        known(b"vary", K::Control),
        known(b"range", K::Control),
        // CGI gives its programs a `Proxy` field as HTTP_PROXY, which some of them then use.
        known(b"proxy", K::ProxyConnection),
        known(b"origin", K::Origin),
        known(b"cookie", K::Cookie),
        known(b"server", K::Server),
        known(b"expect", K::Expect),
        known(b"pragma", K::Control),
        known(b"upgrade", K::Upgrade),
        known(b"trailer", K::Trailer),
        known(b"expires", K::Control),
        known(b"warning", K::Control),
        known(b"if-match", K::Control),
        known(b"if-range", K::Control),
        known(b"location", K::Control),
        known(b"forwarded", K::Forwarded),
        known(b"x-real-ip", K::XRealIp),
        known(b"connection", K::Connection),
        known(b"user-agent", K::UserAgent),
        known(b"set-cookie", K::SetCookie),
        known(b"keep-alive", K::KeepAlive),
        known(b"retry-after", K::Control),
        known(b"content-type", K::ContentType),
        known(b"x-request-id", K::XRequestId),
        known(b"max-forwards", K::Control),
        known(b"authorization", K::Authorization),
        known(b"cache-control", K::Control),
        known(b"content-range", K::ContentRange),
        known(b"if-none-match", K::Control),
        known(b"content-length", K::ContentLength),
        known(b"http2-settings", K::Http2Settings),
        known(b"x-forwarded-for", K::XForwardedFor),
        known(b"content-encoding", K::ContentEncoding),
        known(b"proxy-connection", K::ProxyConnection),
        known(b"www-authenticate", K::Authentication),
        known(b"transfer-encoding", K::TransferEncoding),
        known(b"x-forwarded-proto", K::XForwardedProto),
        known(b"if-modified-since", K::Control),
        known(b"proxy-authenticate", K::Authentication),
        known(b"proxy-authorization", K::Authentication),
        known(b"if-unmodified-since", K::Control),
        known(b"access-control-allow-origin", K::AccessControlAllowOrigin),
    ]
};

/// A name with what it means.
struct Known {
    name: &'static [u8],
    ends: Ends,
    field: KnownField,
}

const fn known(name: &'static [u8], field: KnownField) -> Known {
    Known { name, ends: Ends::of(name), field }
}

impl Known {
    /// Whether `name`, which has the same ends, is the same in between.
    fn is_spelled(&self, name: &[u8]) -> bool {
        name.len() == self.name.len() && between(name).map(Ends::of) == between(self.name).map(Ends::of)
    }
}

/// The bytes of a name that are not in its [`Ends`]; in a known name so few that they are in theirs.
fn between(name: &[u8]) -> Option<&[u8]> {
    name.get(WORD_BYTES..name.len().saturating_sub(WORD_BYTES))
}

/// Each known name at its [`place`](Ends::place), so that a name is compared with one other; nothing stands elsewhere.
static PLACES: [Known; PLACE_COUNT] = {
    let mut places = [const { known(b"", KnownField::Other) }; PLACE_COUNT];
    let mut index = 0;
    while index < KNOWN.len() {
        let Known { name, ends, field } = KNOWN[index];
        let place = ends.place();
        assert!(places[place].name.is_empty(), "two names have one place: choose another SPREAD");
        places[place] = Known { name, ends, field };
        index += 1;
    }
    places
};

/// Nearly three times as many as names, so that a [`SPREAD`] is soon found that gives each a place of its own.
const PLACE_COUNT: usize = 1 << PLACE_BITS;
/// See [`PLACE_COUNT`].
const PLACE_BITS: u32 = 7;
/// Found by trying odd numbers; the compiler says when it does not serve any more.
const SPREAD: u64 = 0x3ee1_967e_0c73_b97d;
/// In bits, so that names of a few bytes, whose first and last word would be alike, differ all the same.
const ROTATION: u32 = 21;

/// The first and the last eight bytes of a name, which overlap in a name of fewer than 16; of one that is shorter than
/// eight, all its bytes in `first`. In lower case, and what tells names up to that length apart.
///
/// A known name is so recognised by two comparisons, and nothing is copied.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Ends {
    first: u64,
    last: u64,
}

impl Ends {
    const fn of(name: &[u8]) -> Self {
        let (first, last) = match (name.first_chunk(), name.last_chunk()) {
            (Some(first), Some(last)) => (u64::from_le_bytes(*first), u64::from_le_bytes(*last)),
            _ => (short(name), 0),
        };
        Self { first: first | LOWER_CASE, last: last | LOWER_CASE }
    }

    /// Where in [`PLACES`] such a name stands, if it is known.
    const fn place(self) -> usize {
        let [.., top] = (self.first.rotate_left(ROTATION) ^ self.last).wrapping_mul(SPREAD).to_le_bytes();
        (top >> (u8::BITS - PLACE_BITS)) as usize
    }

    /// False only if there is no `_` in `name`.
    fn may_hold_underscore(self, name: &[u8]) -> bool {
        holds_folded_underscore(self.first)
            || holds_folded_underscore(self.last)
            || between(name).is_some_and(|bytes| bytes.contains(&b'_'))
    }
}

/// All bytes of a name of fewer than eight, so that names of one length differ where their bytes do.
const fn short(name: &[u8]) -> u64 {
    match (name.first_chunk(), name.last_chunk(), name) {
        (Some(first), Some(last), _) => {
            u32::from_le_bytes(*first) as u64 | (u32::from_le_bytes(*last) as u64) << 32
        }
        (_, _, [a, b, c]) => u32::from_le_bytes([*a, *b, *c, 0]) as u64,
        (_, _, [a, b]) => u32::from_le_bytes([*a, *b, 0, 0]) as u64,
        (_, _, [a]) => *a as u64,
        _ => 0,
    }
}

const fn holds_folded_underscore(word: u64) -> bool {
    let zero_there = word ^ (ONES * (b'_' | 0x20) as u64);
    zero_there.wrapping_sub(ONES) & !zero_there & (ONES * 0x80) != 0
}

/// Whether `name` begins with `prefix`, which has at most 16 bytes, in any case.
fn begins_with(name: &[u8], prefix: &[u8]) -> bool {
    name.get(..prefix.len()).is_some_and(|start| Ends::of(start) == Ends::of(prefix))
}

/// Length in bytes of the words that names are compared by.
const WORD_BYTES: usize = 8;
const ONES: u64 = 0x0101_0101_0101_0101;
/// The bit that tells lower case from upper case, in each byte. In the bytes of a token it maps nothing else onto a letter,
/// a digit or `-`, of which known names are made.
const LOWER_CASE: u64 = ONES * 0x20;

const FORWARDED_PREFIX: &[u8] = b"x-forwarded-";
const FORWARDED_START: u64 = Ends::of(FORWARDED_PREFIX).first;
const CONTROL_PREFIX: &[u8] = b"access-control-";
const CONTROL_START: u64 = Ends::of(CONTROL_PREFIX).first;

#[cold]
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
const _: () = assert!(KNOWN_NAME_BYTES_MAX <= 4 * WORD_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_name_is_found_in_both_cases() {
        for Known { name, field, .. } in &KNOWN {
            assert!((2..=KNOWN_NAME_BYTES_MAX).contains(&name.len()), "{}", name.escape_ascii());
            assert!(name.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-')));
            assert_eq!(KnownField::of(name), *field);
            assert_eq!(KnownField::of(&name.to_ascii_uppercase()), *field);
        }
    }

    /// Checked by changing each byte of each known name to each other that a token may hold.
    #[test]
    fn a_name_with_another_byte_is_another_name() {
        for known in &KNOWN {
            for at in 0..known.name.len() {
                for byte in (0..=u8::MAX).filter(|byte| is_tchar(*byte)) {
                    let mut name = known.name.to_owned();
                    name[at] = byte;
                    let naive = KNOWN.iter().find(|other| name.eq_ignore_ascii_case(other.name));
                    let expected = match naive {
                        Some(known) => known.field,
                        None if starts(&name, b"x-forwarded-") => KnownField::XForwarded,
                        None if starts(&name, b"access-control-") => KnownField::AccessControl,
                        None if byte == b'_' && known.name[at] == b'-' => KnownField::Lookalike,
                        None => KnownField::Other,
                    };
                    assert_eq!(KnownField::of(&name), expected, "{}", name.escape_ascii());
                }
            }
        }
    }

    fn starts(name: &[u8], prefix: &[u8]) -> bool {
        name.to_ascii_lowercase().starts_with(prefix)
    }

    #[test]
    fn an_underscore_is_found_wherever_it_stands() {
        for len in 1..40 {
            for at in 0..len {
                let mut name = vec![b'a'; len];
                assert!(!Ends::of(&name).may_hold_underscore(&name));
                name[at] = b'_';
                assert!(Ends::of(&name).may_hold_underscore(&name), "{at} of {len}");
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
