//! What can end an exchange early, on which side, and what the client is told of it.

use std::fmt;

use ringfence_http1::{ChunkedError, HeadError};

use crate::respond::Refusal;

/// Why an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The time for draining was over.
    Cut,
    /// The client closed or reset the connection before it had its answer.
    ClientGone,
    /// The client stopped sending in the middle of a body.
    ClientSilent,
    /// The client takes no more of its answer.
    ClientUnwilling,
    /// The request body is not well-formed.
    RequestBody(ChunkedError),
    /// The request body is longer than the rule allows.
    RequestTooLarge,
    /// No server of the upstream had room, and too many requests wait for one already.
    QueueFull,
    /// No server of the upstream had room in time.
    QueueTimeout,
    /// No server of the upstream could be reached.
    ConnectFailed,
    /// A connection to the upstream was not established in time.
    ConnectTimeout,
    /// The upstream closed or reset the connection before any byte of a final response head.
    UpstreamClosed,
    /// The upstream sent no final response head in time.
    UpstreamSilent,
    /// The upstream's response head is not well-formed, or is too large.
    ResponseHead(HeadError),
    /// The upstream closed in the middle of a response head.
    ResponseHeadCutShort,
    /// The upstream switched protocols although nobody asked.
    UnaskedUpgrade,
    /// The upstream sent more interim responses than we pass on.
    InterimFlood,
    /// The upstream's response body is not well-formed.
    ResponseBody(ChunkedError),
    /// The upstream closed in the middle of a response body.
    ResponseCutShort,
    /// The upstream fell silent in the middle of a response body.
    ResponseSilent,
}

impl Failure {
    /// What the client is told while nothing of a response has been sent; `None`: it is not there to be told.
    pub(crate) const fn refusal(self) -> Option<Refusal> {
        match self {
            Failure::ClientGone | Failure::ClientUnwilling => None,
            Failure::Cut => Some(Refusal::Overloaded),
            Failure::QueueFull | Failure::QueueTimeout => Some(Refusal::Busy),
            Failure::ClientSilent => Some(Refusal::RequestTimeout),
            Failure::RequestBody(_) => Some(Refusal::Malformed),
            Failure::RequestTooLarge => Some(Refusal::ContentTooLarge),
            Failure::ConnectTimeout | Failure::UpstreamSilent => Some(Refusal::GatewayTimeout),
            Failure::ConnectFailed
            | Failure::UpstreamClosed
            | Failure::ResponseHead(_)
            | Failure::ResponseHeadCutShort
            | Failure::UnaskedUpgrade
            | Failure::InterimFlood
            | Failure::ResponseBody(_)
            | Failure::ResponseCutShort
            | Failure::ResponseSilent => Some(Refusal::BadGateway),
        }
    }

    /// A word for the access log.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Failure::Cut => "drain-over",
            Failure::ClientGone => "client-gone",
            Failure::ClientSilent => "client-silent",
            Failure::ClientUnwilling => "client-unwilling",
            Failure::RequestBody(_) => "request-body-malformed",
            Failure::RequestTooLarge => "request-too-large",
            Failure::QueueFull => "queue-full",
            Failure::QueueTimeout => "queue-timeout",
            Failure::ConnectFailed => "upstream-connect-failed",
            Failure::ConnectTimeout => "upstream-connect-timeout",
            Failure::UpstreamClosed => "upstream-closed",
            Failure::UpstreamSilent => "upstream-silent",
            Failure::ResponseHead(_) => "response-head-malformed",
            Failure::ResponseHeadCutShort => "response-head-cut-short",
            Failure::UnaskedUpgrade => "unasked-upgrade",
            Failure::InterimFlood => "interim-flood",
            Failure::ResponseBody(_) => "response-body-malformed",
            Failure::ResponseCutShort => "response-cut-short",
            Failure::ResponseSilent => "response-silent",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())?;
        match self {
            Failure::RequestBody(error) | Failure::ResponseBody(error) => write!(f, ": {error}"),
            Failure::ResponseHead(error) => write!(f, ": {error}"),
            _ => Ok(()),
        }
    }
}
