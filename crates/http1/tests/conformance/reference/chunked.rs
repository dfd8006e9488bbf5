//! Chunked bodies, parsed whole (RFC 9112 §7.1).

/// What a whole input is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// A message of `consumed` bytes with this content.
    Ended { consumed: usize, data: Vec<u8> },
    /// The input ends before the message does.
    Unfinished,
    /// The first complete element that is wrong makes it so.
    Refused,
}

impl Body {
    /// Whether a decoder that refuses the first wrong byte, where the oracle waits for a whole line, may say `other`.
    pub(crate) fn allows(&self, other: &Self) -> bool {
        self == other || (*self == Self::Unfinished && *other == Self::Refused)
    }
}

pub(crate) fn parse(input: &[u8]) -> Body {
    let (mut at, mut data, mut extensions) = (0, Vec::new(), 0);
    loop {
        let Some(line) = line(&input[at..]) else { return Body::Unfinished };
        let Some((size, extension)) = size_line(line) else { return Body::Refused };
        extensions += extension;
        if extensions > 16 * 1024 {
            return Body::Refused;
        }
        at += line.len() + 2;
        if size == 0 {
            return trailers(input, at, data);
        }
        let size = usize::try_from(size).unwrap();
        if input.len() - at < size {
            return Body::Unfinished;
        }
        data.extend_from_slice(&input[at..at + size]);
        match &input[at + size..] {
            [b'\r', b'\n', ..] => at += size + 2,
            [] | [b'\r'] => return Body::Unfinished,
            _ => return Body::Refused,
        }
    }
}

/// Up to the first CRLF, which wrong line ends before it may be part of.
fn line(input: &[u8]) -> Option<&[u8]> {
    let end = input.windows(2).position(|pair| pair == b"\r\n")?;
    Some(&input[..end])
}

/// The size and the length of the extensions.
fn size_line(line: &[u8]) -> Option<(u64, usize)> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let extensions = &line[digits..];
    if !(1..=16).contains(&digits) || extensions.len() > 256 || !are_extensions(extensions) {
        return None;
    }
    let size = u64::from_str_radix(std::str::from_utf8(&line[..digits]).unwrap(), 16).unwrap();
    (size <= i64::MAX.unsigned_abs()).then_some((size, extensions.len()))
}

/// `*( BWS ";" BWS name [ BWS "=" BWS value ] )`, by trying to take one extension after the other off the front.
fn are_extensions(mut rest: &[u8]) -> bool {
    while !rest.is_empty() {
        let Some(after) = space(rest).strip_prefix(b";").map(space) else { return false };
        let Some(after) = token(after) else { return false };
        rest = match space(after).strip_prefix(b"=").map(space) {
            None => after,
            Some(value) => match quoted(value).or_else(|| token(value)) {
                Some(after) => after,
                None => return false,
            },
        };
    }
    true
}

fn space(bytes: &[u8]) -> &[u8] {
    let len = bytes.iter().take_while(|byte| matches!(byte, b' ' | b'\t')).count();
    &bytes[len..]
}

fn token(bytes: &[u8]) -> Option<&[u8]> {
    let len = bytes.iter().take_while(|byte| super::head::is_tchar(**byte as char)).count();
    (len > 0).then(|| &bytes[len..])
}

fn quoted(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes.strip_prefix(b"\"")?;
    loop {
        rest = match rest {
            [b'"', after @ ..] => return Some(after),
            [b'\\', byte, after @ ..] | [byte, after @ ..] if super::head::is_value_char(*byte as char) => {
                after
            }
            _ => return None,
        };
    }
}

fn trailers(input: &[u8], start: usize, data: Vec<u8>) -> Body {
    let mut at = start;
    loop {
        let Some(line) = line(&input[at..]) else { return Body::Unfinished };
        at += line.len() + 2;
        if line.is_empty() {
            return Body::Ended { consumed: at, data };
        }
        if at - start > 8 * 1024 || !is_trailer(line) {
            return Body::Refused;
        }
    }
}

fn is_trailer(line: &[u8]) -> bool {
    let text: String = line.iter().map(|byte| *byte as char).collect();
    let Some((name, value)) = text.split_once(':') else { return false };
    // Some software takes `_` for `-`.
    let lower = name.to_ascii_lowercase().replace('_', "-");
    !name.is_empty()
        && name.chars().all(super::head::is_tchar)
        && value.chars().all(super::head::is_value_char)
        && !FORBIDDEN.contains(&lower.as_str())
        && !lower.starts_with("x-forwarded-")
        && !lower.starts_with("access-control-")
}

/// RFC 9110 §6.5.1, spelled out.
const FORBIDDEN: &[&str] = &[
    "age",
    "authorization",
    "cache-control",
    "connection",
    "content-encoding",
    "content-length",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "expect",
    "expires",
    "forwarded",
    "host",
    "http2-settings",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "keep-alive",
    "location",
    "max-forwards",
    "origin",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy",
    "proxy-connection",
    "range",
    "retry-after",
    "server",
    "set-cookie",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "x-real-ip",
    "x-request-id",
];
