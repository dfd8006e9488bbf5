//! What surrounds the tokeniser, httparse: its preconditions, and what it refused in our words (RFC 9112 §2.2 to §5).
//!
//! Naming a reason is off the hot path: it walks the head again, slowly, and never accepts anything. What httparse is
//! lenient in (empty lines before the start-line, bare LF, obs-text in a target, bytes behind the head) is refused
//! here, in [`section`](crate::section) and in [`target`](crate::target).

use httparse::Error;

use crate::field::{is_tchar, is_token, is_value_byte};
use crate::{HeadError, HeadLimits};

/// The kind of start-line that was expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartLine {
    Request,
    Status,
}

/// What is known of where the head ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    /// Where the bytes end.
    Known,
    /// Anywhere in them: what follows is not looked at. An error says nothing then but that this is not plainly a head.
    Sought,
}

/// What the tokeniser may read of `head`, and where the start-line begins in it.
///
/// Of a head that is too large the front is read all the same: its start-line is wanted for the log.
pub(crate) fn window<'b>(head: &'b [u8], expected: StartLine, limits: &HeadLimits) -> (&'b [u8], usize) {
    let window = &head[..head.len().min(limits.head_bytes())];
    match expected {
        StartLine::Request if window.starts_with(b"\r\n") => (window, 2),
        _ => (window, 0),
    }
}

/// Judges what the tokeniser returned for the window from `start` on, and returns the head.
pub(crate) fn verdict<'b>(
    result: httparse::Result<usize>,
    start: usize,
    buf: &'b [u8],
    expected: StartLine,
    extent: Extent,
    limits: &HeadLimits,
) -> Result<&'b [u8], HeadError> {
    if let Ok(httparse::Status::Complete(len)) = result
        && !matches!(buf[start], b'\r' | b'\n')
        && (extent == Extent::Sought || (start + len == buf.len() && buf.len() <= limits.head_bytes()))
    {
        return Ok(&buf[..start + len]);
    }
    match extent {
        Extent::Known => Err(fault(result, start, buf, expected, limits)),
        Extent::Sought => Err(HeadError::NotOneHead),
    }
}

/// Why these bytes are not one head.
#[cold]
fn fault(
    result: httparse::Result<usize>,
    start: usize,
    head: &[u8],
    expected: StartLine,
    limits: &HeadLimits,
) -> HeadError {
    if head.len() > limits.head_bytes() {
        return HeadError::HeadTooLarge;
    }
    match (result, head.get(start)) {
        (_, Some(b'\r' | b'\n')) => line_ends(head).unwrap_or(HeadError::LeadingEmptyLine),
        (Ok(_), _) => line_ends(head).unwrap_or(HeadError::NotOneHead),
        (Err(error), _) => reason(error, head, expected),
    }
}

fn reason(error: Error, head: &[u8], expected: StartLine) -> HeadError {
    if let Some(error) = line_ends(head) {
        return error;
    }
    match (error, expected) {
        (Error::TooManyHeaders, _) => HeadError::TooManyFields,
        (Error::HeaderName | Error::HeaderValue, _) => field_line(head),
        (_, StartLine::Request) => request_line(head),
        (_, StartLine::Status) => status_line(head),
    }
}

/// The first bare CR, bare LF or NUL.
fn line_ends(head: &[u8]) -> Option<HeadError> {
    let mut previous = 0;
    for (at, byte) in head.iter().enumerate() {
        match byte {
            0 => return Some(HeadError::Nul),
            b'\n' if previous != b'\r' => return Some(HeadError::BareLf),
            b'\r' if head.get(at + 1).is_some_and(|next| *next != b'\n') => return Some(HeadError::BareCr),
            _ => previous = *byte,
        }
    }
    None
}

fn request_line(head: &[u8]) -> HeadError {
    let line = lines(head).next().unwrap_or_default();
    let mut parts = line.split(|byte| *byte == b' ');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(method), Some(target), Some(version), None) if is_token(method) && !target.is_empty() => {
            if target.iter().any(|byte| !byte.is_ascii_graphic()) {
                HeadError::TargetByte
            } else {
                version_or(version, HeadError::RequestLine)
            }
        }
        _ => HeadError::RequestLine,
    }
}

fn status_line(head: &[u8]) -> HeadError {
    let line = lines(head).next().unwrap_or_default();
    let version = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    version_or(version, HeadError::StatusLine)
}

fn version_or(version: &[u8], otherwise: HeadError) -> HeadError {
    match version {
        b"HTTP/1.0" | b"HTTP/1.1" => otherwise,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            HeadError::UnsupportedVersion
        }
        _ => otherwise,
    }
}

fn field_line(head: &[u8]) -> HeadError {
    lines(head).skip(1).find_map(field_line_reason).unwrap_or(HeadError::FieldName)
}

fn field_line_reason(line: &[u8]) -> Option<HeadError> {
    let name_len = line.iter().take_while(|byte| is_tchar(**byte)).count();
    match (name_len, line.get(name_len)) {
        (0, None) => None,
        (0, Some(b' ' | b'\t')) => Some(HeadError::ObsFold),
        (0, Some(b':')) => Some(HeadError::FieldNameEmpty),
        (_, Some(b' ' | b'\t')) => Some(HeadError::SpaceBeforeColon),
        (_, Some(b':')) => {
            let is_value = line[name_len + 1..].iter().all(|byte| is_value_byte(*byte));
            (!is_value).then_some(HeadError::FieldValue)
        }
        _ => Some(HeadError::FieldName),
    }
}

/// The lines of a head whose line ends are all CRLF, an empty first one left out.
fn lines(head: &[u8]) -> impl Iterator<Item = &[u8]> {
    let head = head.strip_prefix(b"\r\n").unwrap_or(head);
    head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line))
}
