//! Why a session ended, and at whose door it lies.

use std::error::Error;
use std::fmt;

use rustls::CertificateError;

/// Why a session cannot go on. None can be recovered from: send what is in `outgoing`, then close.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum SessionError {
    /// The first byte is a letter, as in a request line: plain HTTP on a TLS port. No alert is made,
    /// so that the caller may answer in kind.
    PlainHttp,
    /// The peer offers nothing that is supported here: protocol version, cipher suite, group,
    /// signature scheme or application protocol.
    Incompatible(rustls::Error),
    /// The server's certificate does not verify: no authority that is trusted vouches for it, it is for other names, or its
    /// time is over.
    Certificate(rustls::Error),
    /// The peer ended the session by an alert (RFC 8446 §6.2), for instance because it does not
    /// trust the certificate.
    Alert(rustls::Error),
    /// The peer broke the protocol, or something between here and there changed its bytes.
    Protocol(rustls::Error),
    /// The peer left more unfinished than [`HELD_BYTES_MAX`](super::HELD_BYTES_MAX).
    TooMuchHeld,
    /// As many records as the cipher bears were sent under one key (TLS 1.2 cannot change it).
    KeyExhausted,
    /// The handshake is not complete, so there is no key to encrypt with. The caller's mistake.
    Handshaking,
    /// The session failed before or its writing half is closed. The caller's mistake.
    Ended,
    /// The library failed in a way that the peer is not to blame for.
    Internal(rustls::Error),
}

impl SessionError {
    /// Whether the peer caused it; else it is to be reported as an error of ours.
    pub fn is_peers_fault(&self) -> bool {
        match self {
            Self::PlainHttp
            | Self::Incompatible(_)
            | Self::Certificate(_)
            | Self::Alert(_)
            | Self::Protocol(_)
            | Self::TooMuchHeld => true,
            Self::KeyExhausted | Self::Handshaking | Self::Ended | Self::Internal(_) => false,
        }
    }
}

impl From<rustls::Error> for SessionError {
    fn from(error: rustls::Error) -> SessionError {
        use rustls::Error as Tls;
        match error {
            Tls::PeerIncompatible(_) | Tls::NoApplicationProtocol => Self::Incompatible(error),
            Tls::InvalidCertificate(_) | Tls::NoCertificatesPresented => Self::Certificate(error),
            Tls::AlertReceived(_) => Self::Alert(error),
            Tls::InappropriateMessage { .. }
            | Tls::InappropriateHandshakeMessage { .. }
            | Tls::InvalidMessage(_)
            | Tls::PeerMisbehaved(_)
            | Tls::PeerSentOversizedRecord
            | Tls::DecryptError => Self::Protocol(error),
            _ => Self::Internal(error),
        }
    }
}

impl fmt::Display for SessionError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PlainHttp => formatter.write_str("plain HTTP on a TLS port"),
            Self::Incompatible(error) => write!(formatter, "no common ground with the peer: {error}"),
            Self::Certificate(error) => {
                write!(formatter, "the certificate does not verify: {}", CertificateFault(error))
            }
            Self::Alert(error) => write!(formatter, "the peer gave up: {error}"),
            Self::Protocol(error) => write!(formatter, "the peer broke the TLS protocol: {error}"),
            Self::TooMuchHeld => formatter.write_str("the peer sent an oversized handshake message"),
            Self::KeyExhausted => formatter.write_str("the session sent all that its key bears"),
            Self::Handshaking => formatter.write_str("the TLS handshake is not complete"),
            Self::Ended => formatter.write_str("the TLS session has ended"),
            Self::Internal(error) => write!(formatter, "TLS failed: {error}"),
        }
    }
}

impl Error for SessionError {}

/// What is wrong with a certificate, in words: rustls has none for the commonest.
struct CertificateFault<'a>(&'a rustls::Error);

impl fmt::Display for CertificateFault<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rustls::Error::InvalidCertificate(fault) = self.0 else { return self.0.fmt(formatter) };
        match fault {
            CertificateError::UnknownIssuer => {
                formatter.write_str("no authority that is trusted vouches for it")
            }
            CertificateError::BadSignature => {
                formatter.write_str("its signature is not that of the authority that it names")
            }
            CertificateError::Expired => formatter.write_str("its time is over"),
            CertificateError::ExpiredContext { time, not_after } => {
                let days = time.as_secs().saturating_sub(not_after.as_secs()) / SECONDS_A_DAY;
                write!(formatter, "its time is over since {days} days")
            }
            CertificateError::NotValidYet => formatter.write_str("it is not valid yet"),
            CertificateError::NotValidForName => formatter.write_str("it is for other names"),
            other => other.fmt(formatter),
        }
    }
}

/// Seconds of a day, without leap seconds, which certificates do not know.
const SECONDS_A_DAY: u64 = 86_400;
