//! What can go wrong with a request.

use std::io;

/// Why a request failed.
#[derive(Debug)]
pub(crate) enum Fault {
    /// No connection.
    Connect(io::Error),
    /// The connection broke.
    Io(io::Error),
    /// The peer closed, or broke the connection, before any byte of the response.
    Unanswered(String),
    /// TLS refused something.
    Tls(String),
    /// Not the HTTP that was expected.
    Framing(&'static str),
    /// A status that counts as an error.
    Status(u16),
    /// No connection was free, and too many requests waited already.
    Overflow,
    /// Not answered when the run ended.
    Unfinished,
}

impl Fault {
    /// A short text, the same for faults of one kind, so that they can be counted.
    pub(crate) fn kind(&self) -> String {
        match self {
            Fault::Connect(error) => format!("connect: {error}"),
            Fault::Io(error) => error.to_string(),
            Fault::Unanswered(how) => format!("no response: {how}"),
            Fault::Tls(what) => format!("TLS: {what}"),
            Fault::Framing(what) => (*what).to_owned(),
            Fault::Status(status) => format!("status {status}"),
            Fault::Overflow => "too many requests waited for a connection".to_owned(),
            Fault::Unfinished => "not answered when the run ended".to_owned(),
        }
    }
}

impl From<rustls::Error> for Fault {
    fn from(error: rustls::Error) -> Fault {
        Fault::Tls(error.to_string())
    }
}
