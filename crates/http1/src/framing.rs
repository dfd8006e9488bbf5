//! Message body length (RFC 9112 §6.3).
//!
//! Pure: no I/O, no clock, no allocation. Ambiguous framing is refused, never
//! repaired: the origin behind us may repair it another way (§11.2).

use crate::field::{is_token, list_elements};
use crate::section::{Section, Seen};
use crate::{HeadError, Method, Span, Version};

/// Largest `Content-Length` accepted, in bytes.
///
/// The largest number that a recipient which counts in signed 64 bits reads as we do.
pub const CONTENT_LENGTH_MAX: u64 = i64::MAX.unsigned_abs();

/// How the recipient finds the end of a message body (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFraming {
    /// Ends with the last chunk and its trailer section (§7.1).
    Chunked,
    /// Exactly this many bytes; zero when there is no body.
    Length(u64),
    /// Ends when the origin closes. Responses only (rule 8).
    UntilClose,
}

impl BodyFraming {
    /// No body.
    pub const NONE: Self = Self::Length(0);

    /// Whether no byte of a body follows the head.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        matches!(self, Self::Length(0))
    }
}

impl Default for BodyFraming {
    fn default() -> Self {
        Self::NONE
    }
}

/// How the body of a request ends.
pub(crate) fn of_request(section: &Section, version: Version, head: &[u8]) -> Result<BodyFraming, HeadError> {
    Ok(declared(section, version, head)?.unwrap_or(BodyFraming::NONE))
}

/// How the body of the response to `request_method` ends.
pub(crate) fn of_response(
    section: &Section,
    version: Version,
    status: u16,
    request_method: Method,
    head: &[u8],
) -> Result<BodyFraming, HeadError> {
    let declared = declared(section, version, head)?;
    match (status, declared) {
        // Real servers send it, and it says what is true; the line itself must not be forwarded.
        (204, Some(BodyFraming::Length(0))) => Ok(BodyFraming::NONE),
        (100..=199 | 204, Some(_)) => Err(HeadError::BodyNotAllowed),
        (100..=199 | 204 | 304, _) => Ok(BodyFraming::NONE),
        _ if request_method == Method::Head || switches_protocols(status, request_method) => {
            Ok(BodyFraming::NONE)
        }
        _ => Ok(declared.unwrap_or(BodyFraming::UntilClose)),
    }
}

/// Whether another protocol follows the response: 101, and 2xx to `CONNECT` (RFC 9112 §6.3, rule 2).
pub(crate) fn switches_protocols(status: u16, request_method: Method) -> bool {
    status == 101 || (request_method == Method::Connect && (200..=299).contains(&status))
}

/// The framing that the fields declare.
fn declared(section: &Section, version: Version, head: &[u8]) -> Result<Option<BodyFraming>, HeadError> {
    let coding = transfer_coding(section.transfer_encoding, version, head)?;
    let length = content_length(section.content_length, head)?;
    match (coding, length) {
        (Some(_), Some(_)) => Err(HeadError::ContentLengthWithTransferEncoding),
        (coding, length) => Ok(coding.or(length)),
    }
}

/// Equal lengths said twice are refused too, although RFC 9110 §8.6 would allow to merge them: the list would have to
/// be repaired before it is forwarded, and a sender that repeats it was itself put together from two opinions.
fn content_length(seen: Seen, head: &[u8]) -> Result<Option<BodyFraming>, HeadError> {
    match seen {
        Seen::Never => Ok(None),
        Seen::Repeatedly => Err(HeadError::ContentLengthDuplicate),
        Seen::Once(value) => length(value.of(head)).map(|length| Some(BodyFraming::Length(length))),
    }
}

fn length(value: &[u8]) -> Result<u64, HeadError> {
    let mut length = Some(0_u64);
    for byte in value {
        if !byte.is_ascii_digit() {
            return Err(match value.contains(&b',') {
                true => HeadError::ContentLengthDuplicate,
                false => HeadError::ContentLengthMalformed,
            });
        }
        length = length.and_then(|length| length.checked_mul(10)?.checked_add(u64::from(byte - b'0')));
    }
    if value.is_empty() {
        return Err(HeadError::ContentLengthMalformed);
    }
    length.filter(|length| *length <= CONTENT_LENGTH_MAX).ok_or(HeadError::ContentLengthTooLarge)
}

fn transfer_coding(seen: Seen, version: Version, head: &[u8]) -> Result<Option<BodyFraming>, HeadError> {
    match (seen, version) {
        (Seen::Never, _) => Ok(None),
        (_, Version::Http10) => Err(HeadError::TransferEncodingInHttp10),
        (Seen::Repeatedly, _) => Err(HeadError::TransferEncodingMalformed),
        (Seen::Once(value), _) => chunked(value, head).map(Some),
    }
}

/// Exactly `chunked`. Other codings would have to be understood by us to be sure where the body ends (§6.1).
fn chunked(value: Span, head: &[u8]) -> Result<BodyFraming, HeadError> {
    let (mut chunked, mut unknown) = (false, false);
    for coding in list_elements(value.of(head)) {
        if !is_token(coding) {
            return Err(HeadError::TransferEncodingMalformed);
        }
        if chunked {
            return Err(HeadError::ChunkedNotLast);
        }
        chunked = is_chunked(coding);
        unknown |= !chunked;
    }
    if unknown { Err(HeadError::TransferCodingUnknown) } else { Ok(BodyFraming::Chunked) }
}

fn is_chunked(coding: &[u8]) -> bool {
    coding.eq_ignore_ascii_case(b"chunked")
}
