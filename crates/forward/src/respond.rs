//! Answers of the proxy's own making: one table from what went wrong to a status and a body.
//!
//! The core knows no Matrix: the bodies and the extra field lines (CORS) are given by the binary, one
//! [`RefusalAnswers`] a style.

use std::io::Write as _;

use bytes::Bytes;
use ringfence_http1::OutgoingHead;

use crate::request_id::RequestId;

/// A complete answer, kept ready in memory.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Whole field lines, each ending in CRLF, without Content-Length, Date and Connection, which are added.
    pub field_lines: Bytes,
    /// Content.
    pub content: Bytes,
}

/// Why the proxy answers instead of the origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Refusal {
    /// The request head or body breaks RFC 9110 or 9112.
    Malformed,
    /// No rule forwards this path.
    Unrouted,
    /// `strict_hosts`: nobody claims this Host.
    MisdirectedHost,
    /// The head did not arrive in time, or the body fell silent.
    RequestTimeout,
    /// The content is longer than `body_bytes_max`.
    ContentTooLarge,
    /// The target is longer than `target_bytes_max`.
    TargetTooLong,
    /// An expectation other than `100-continue`.
    ExpectationFailed,
    /// The head is larger than `head_bytes_max` or has more than `field_count_max` field lines.
    HeadTooLarge,
    /// A transfer coding other than `chunked`, or CONNECT.
    NotImplemented,
    /// A version other than 1.0 and 1.1.
    VersionNotSupported,
    /// Too many connections from this address.
    TooManyConnections,
    /// Too many requests of one class from this address.
    RateLimited,
    /// Too many connections in all.
    Overloaded,
    /// Every server of the upstream has as many requests as it may, and none came to its end in time, or too many wait.
    Busy,
    /// The upstream refused the connection, broke it, or sent no HTTP.
    BadGateway,
    /// The upstream did not answer in time.
    GatewayTimeout,
}

impl Refusal {
    /// Every refusal, in the order of its discriminant.
    pub const ALL: [Refusal; 16] = [
        Refusal::Malformed,
        Refusal::Unrouted,
        Refusal::MisdirectedHost,
        Refusal::RequestTimeout,
        Refusal::ContentTooLarge,
        Refusal::TargetTooLong,
        Refusal::ExpectationFailed,
        Refusal::HeadTooLarge,
        Refusal::NotImplemented,
        Refusal::VersionNotSupported,
        Refusal::TooManyConnections,
        Refusal::RateLimited,
        Refusal::Overloaded,
        Refusal::Busy,
        Refusal::BadGateway,
        Refusal::GatewayTimeout,
    ];

    /// Its status code (RFC 9110 §15, RFC 6585).
    pub const fn status(self) -> u16 {
        match self {
            Refusal::Malformed => 400,
            Refusal::Unrouted => 404,
            Refusal::MisdirectedHost => 421,
            Refusal::RequestTimeout => 408,
            Refusal::ContentTooLarge => 413,
            Refusal::TargetTooLong => 414,
            Refusal::ExpectationFailed => 417,
            Refusal::HeadTooLarge => 431,
            Refusal::NotImplemented => 501,
            Refusal::VersionNotSupported => 505,
            Refusal::TooManyConnections => 429,
            Refusal::RateLimited => 429,
            Refusal::Overloaded => 503,
            Refusal::Busy => 503,
            Refusal::BadGateway => 502,
            Refusal::GatewayTimeout => 504,
        }
    }

    /// What it says to a person, where the configuration gives no body of its own.
    pub const fn message(self) -> &'static str {
        match self {
            Refusal::Malformed => "The request is not well-formed HTTP/1.1.",
            Refusal::Unrouted => "Unrecognized request.",
            Refusal::MisdirectedHost => "This server does not serve that host.",
            Refusal::RequestTimeout => "The request did not arrive in time.",
            Refusal::ContentTooLarge => "The request body is too large.",
            Refusal::TargetTooLong => "The request target is too long.",
            Refusal::ExpectationFailed => "The expectation cannot be met.",
            Refusal::HeadTooLarge => "The request head is too large.",
            Refusal::NotImplemented => "The request asks for what this server does not implement.",
            Refusal::VersionNotSupported => "This HTTP version is not supported here.",
            Refusal::TooManyConnections => "Too many connections from your address.",
            Refusal::RateLimited => "Too many requests from your address.",
            Refusal::Overloaded => "The server is overloaded.",
            Refusal::Busy => "The homeserver is busy. Try again soon.",
            Refusal::BadGateway => "The homeserver cannot be reached.",
            Refusal::GatewayTimeout => "The homeserver did not answer in time.",
        }
    }
}

/// One answer for each [`Refusal`].
#[derive(Clone, Debug)]
pub struct RefusalAnswers {
    answers: Vec<Answer>,
}

impl RefusalAnswers {
    /// Asks `make` once for each refusal.
    pub fn new(make: impl Fn(Refusal) -> Answer) -> Self {
        Self { answers: Refusal::ALL.into_iter().map(make).collect() }
    }

    /// The answer to give.
    pub fn of(&self, refusal: Refusal) -> &Answer {
        &self.answers[refusal as usize]
    }
}

/// Builds the head of an answer of the proxy's own making.
pub(crate) fn head(answer: &Answer, date: &str, request_id: &RequestId, close: bool, out: &mut OutgoingHead) {
    out.clear();
    let mut line = [0; STATUS_LINES_BYTES_MAX];
    let mut rest = &mut line[..];
    // Fits, see the bound.
    let _ = write!(rest, "HTTP/1.1 {} {}\r\n", answer.status, reason_phrase(answer.status));
    if answer.status != 204 {
        let _ = write!(rest, "Content-Length: {}\r\n", answer.content.len());
    }
    let unused = rest.len();
    out.push_owned(&line[..STATUS_LINES_BYTES_MAX - unused]);
    for part in [b"Date: ", date.as_bytes(), b"\r\n", &answer.field_lines, b"X-Request-ID: ", request_id] {
        out.push_owned(part);
    }
    out.push_owned(if close { b"\r\nConnection: close\r\n\r\n" } else { b"\r\n\r\n" });
}

/// A status line with the longest reason phrase and a length of 20 digits take 90 bytes.
const STATUS_LINES_BYTES_MAX: usize = 128;

/// The reason phrase of a status that this proxy makes itself (RFC 9110 §15).
pub(crate) const fn reason_phrase(status: u16) -> &'static str {
    match status {
        200 => "OK",
        204 => "No Content",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}
