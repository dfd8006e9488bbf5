//! Why a head was refused.

use std::fmt;

/// Each reason to refuse a head. The side is the caller's to know: it parsed a request or a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeadError {
    /// A CR that no LF follows (RFC 9112 §2.2).
    BareCr,
    /// An LF that follows no CR (RFC 9112 §2.2).
    BareLf,
    /// A NUL byte (RFC 9110 §5.5).
    Nul,
    /// More than one empty line before a request line, or any before a status line (RFC 9112 §2.2).
    LeadingEmptyLine,
    /// Longer than [`HeadLimits::head_bytes_max`](crate::HeadLimits::head_bytes_max).
    HeadTooLarge,
    /// More lines than [`HeadLimits::field_count_max`](crate::HeadLimits::field_count_max).
    TooManyFields,
    /// Longer than [`HeadLimits::target_bytes_max`](crate::HeadLimits::target_bytes_max).
    TargetTooLong,
    /// The bytes handed to `parse` are not one head that ends with its empty line.
    NotOneHead,
    /// Not `method SP request-target SP HTTP-version` (RFC 9112 §3).
    RequestLine,
    /// Not `HTTP-version SP status-code [SP reason-phrase]` (RFC 9112 §4).
    StatusLine,
    /// A status code outside 100 to 599 (RFC 9110 §15).
    StatusCode,
    /// A well-formed HTTP version that is neither 1.0 nor 1.1.
    UnsupportedVersion,
    /// A byte of the target that is not visible ASCII.
    TargetByte,
    /// A `#` in the target: a fragment is never sent (RFC 9112 §3.2).
    TargetFragment,
    /// A form of the target that the method does not take, or none of the four (RFC 9112 §3.2).
    TargetForm,
    /// The authority in the target is not `host [":" port]`, or it carries user information (RFC 9110 §4.2.4).
    TargetAuthority,
    /// A field line without a colon, or with a name that is not a token (RFC 9112 §5).
    FieldName,
    /// A field line that begins with its colon (RFC 9112 §5).
    FieldNameEmpty,
    /// Whitespace between a field name and its colon (RFC 9112 §5.1).
    SpaceBeforeColon,
    /// A field line that begins with whitespace: a folded line (RFC 9112 §5.2).
    ObsFold,
    /// A control byte in a field value (RFC 9110 §5.5).
    FieldValue,
    /// An HTTP/1.1 request without `Host` (RFC 9112 §3.2).
    HostMissing,
    /// More than one `Host` line (RFC 9112 §3.2).
    HostDuplicate,
    /// A `Host` that is not exactly one `host [":" port]` (RFC 9110 §7.2).
    HostMalformed,
    /// An absolute-form target and a `Host` that differ (RFC 9112 §3.2.2).
    HostMismatch,
    /// A `Content-Length` that is not a decimal number (RFC 9110 §8.6).
    ContentLengthMalformed,
    /// More than one length, equal or not, in one line or several (RFC 9110 §8.6).
    ContentLengthDuplicate,
    /// A length above [`CONTENT_LENGTH_MAX`](crate::CONTENT_LENGTH_MAX).
    ContentLengthTooLarge,
    /// `Content-Length` beside `Transfer-Encoding` (RFC 9112 §6.3).
    ContentLengthWithTransferEncoding,
    /// `Transfer-Encoding` in an HTTP/1.0 message (RFC 9112 §6.1).
    TransferEncodingInHttp10,
    /// A `Transfer-Encoding` that is not a list of plain tokens in one line (RFC 9112 §6.1).
    TransferEncodingMalformed,
    /// `chunked` twice, or followed by another coding (RFC 9112 §6.1).
    ChunkedNotLast,
    /// A transfer coding other than `chunked` (RFC 9112 §6.1).
    TransferCodingUnknown,
    /// A response that can have no body but frames one (RFC 9110 §6.4.1, §8.6).
    BodyNotAllowed,
    /// A `Connection` value that is not a list of tokens (RFC 9110 §7.6.1).
    ConnectionMalformed,
    /// More options than [`CONNECTION_OPTION_COUNT_MAX`](crate::CONNECTION_OPTION_COUNT_MAX).
    ConnectionOptionsTooMany,
    /// `Connection` names a field that frames or routes the message (RFC 9110 §7.6.1).
    ConnectionOptionForbidden,
    /// An expectation other than one `100-continue` (RFC 9110 §10.1.1).
    ExpectationUnknown,
}

impl HeadError {
    /// The status of the answer when the refused head is a request: 400, 414, 417, 431, 501 or 505.
    ///
    /// A refused response is always the origin's fault: the caller answers 502 whatever stands here.
    #[must_use]
    pub const fn suggested_status(self) -> u16 {
        match self {
            Self::TargetTooLong => 414,
            Self::ExpectationUnknown => 417,
            Self::HeadTooLarge | Self::TooManyFields => 431,
            Self::TransferCodingUnknown => 501,
            Self::UnsupportedVersion => 505,
            _ => 400,
        }
    }

    /// What is wrong, in a few words for a log line or an error body.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BareCr => "bare CR in the head",
            Self::BareLf => "bare LF in the head",
            Self::Nul => "NUL byte in the head",
            Self::LeadingEmptyLine => "empty lines before the start-line",
            Self::HeadTooLarge => "head too large",
            Self::TooManyFields => "too many field lines",
            Self::TargetTooLong => "request target too long",
            Self::NotOneHead => "not exactly one head",
            Self::RequestLine => "malformed request line",
            Self::StatusLine => "malformed status line",
            Self::StatusCode => "status code outside 100 to 599",
            Self::UnsupportedVersion => "unsupported HTTP version",
            Self::TargetByte => "request target holds a byte that is not visible ASCII",
            Self::TargetFragment => "request target holds a fragment",
            Self::TargetForm => "form of the request target does not fit the method",
            Self::TargetAuthority => "malformed authority in the request target",
            Self::FieldName => "malformed field name",
            Self::FieldNameEmpty => "empty field name",
            Self::SpaceBeforeColon => "whitespace before the colon of a field line",
            Self::ObsFold => "folded field line",
            Self::FieldValue => "control byte in a field value",
            Self::HostMissing => "no Host field",
            Self::HostDuplicate => "more than one Host field",
            Self::HostMalformed => "malformed Host field",
            Self::HostMismatch => "Host differs from the request target",
            Self::ContentLengthMalformed => "malformed Content-Length",
            Self::ContentLengthDuplicate => "more than one Content-Length",
            Self::ContentLengthTooLarge => "Content-Length too large",
            Self::ContentLengthWithTransferEncoding => "Content-Length beside Transfer-Encoding",
            Self::TransferEncodingInHttp10 => "Transfer-Encoding in HTTP/1.0",
            Self::TransferEncodingMalformed => "malformed Transfer-Encoding",
            Self::ChunkedNotLast => "chunked is not the last transfer coding or stands twice",
            Self::TransferCodingUnknown => "unknown transfer coding",
            Self::BodyNotAllowed => "framing of a body where none is allowed",
            Self::ConnectionMalformed => "malformed Connection field",
            Self::ConnectionOptionsTooMany => "too many connection options",
            Self::ConnectionOptionForbidden => "Connection names a field of framing or routing",
            Self::ExpectationUnknown => "unknown expectation",
        }
    }
}

impl fmt::Display for HeadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for HeadError {}
