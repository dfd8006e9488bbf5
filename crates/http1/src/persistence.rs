//! Whether a connection outlives a message (RFC 9112 §9.3).

use std::fmt;

use crate::BodyFraming;
use crate::connection::ConnectionOptions;

/// The HTTP versions that are spoken here. Any other is refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1.
    #[default]
    Http11,
}

/// Why a connection ends with this message: a value for the log, not a flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The client speaks HTTP/1.0. Its `keep-alive` is not honoured in requests, because an old proxy between
    /// may have forwarded an option that it did not understand (RFC 9112 §9.3, appendix C.2.2).
    ClientHttp10,
    /// The client sent `Connection: close`.
    ClientConnectionClose,
    /// The origin speaks HTTP/1.0 and did not say `keep-alive`.
    OriginHttp10,
    /// The origin sent `Connection: close`.
    OriginConnectionClose,
    /// The body ends where the origin closes (RFC 9112 §6.3, rule 8).
    UntilCloseBody,
    /// The connection speaks another protocol from here on (101, or 2xx to `CONNECT`).
    SwitchedProtocols,
}

impl CloseReason {
    /// A word for the access log.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ClientHttp10 => "client-http10",
            Self::ClientConnectionClose => "client-close",
            Self::OriginHttp10 => "origin-http10",
            Self::OriginConnectionClose => "origin-close",
            Self::UntilCloseBody => "until-close-body",
            Self::SwitchedProtocols => "switched-protocols",
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why the client's connection ends with the exchange.
pub(crate) fn of_request(version: Version, options: ConnectionOptions) -> Option<CloseReason> {
    if options.close {
        return Some(CloseReason::ClientConnectionClose);
    }
    (version == Version::Http10).then_some(CloseReason::ClientHttp10)
}

/// Why the origin's connection ends with the response.
pub(crate) fn of_response(
    version: Version,
    options: ConnectionOptions,
    framing: BodyFraming,
) -> Option<CloseReason> {
    if options.close {
        return Some(CloseReason::OriginConnectionClose);
    }
    if version == Version::Http10 && !options.keep_alive {
        return Some(CloseReason::OriginHttp10);
    }
    (framing == BodyFraming::UntilClose).then_some(CloseReason::UntilCloseBody)
}
