//! TLS without I/O, for either side (RFC 8446, and RFC 5246 for TLS 1.2).
//!
//! Owns certificates (read, checked, chosen by the name that the client asks for; whose are believed), the configurations
//! that all workers share, and one [`Session`] a connection: ciphertext in, plaintext out, and back.
//! It knows no sockets, no runtime and no HTTP; the caller owns every buffer, so that a connection
//! that waits holds none. The cryptography and the protocol are rustls' (its unbuffered API) with
//! the aws-lc-rs provider.
//!
//! ```no_run
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use ringfence_tls::{Certificate, Session, server_config};
//!
//! let certificate = Certificate::load("fullchain.pem".as_ref(), "privkey.pem".as_ref())?;
//! let config = server_config(vec![certificate])?;
//! let mut session = Session::new(config);
//! let (mut incoming, mut plaintext, mut outgoing) = (vec![], vec![0; 16 * 1024], Vec::new());
//! // After each read: feed what came in, drop what was consumed, send what was appended.
//! let received = session.receive(&mut incoming, &mut plaintext, &mut outgoing)?;
//! incoming.drain(..received.consumed);
//! # Ok(())
//! # }
//! ```
#![forbid(unsafe_code)]

mod certificate;
mod client;
mod config;
#[cfg(test)]
mod fixtures;
mod hkdf;
mod resolver;
mod session;
mod tickets;

pub use certificate::{Certificate, CertificateError, CertificateFault};
pub use client::{Client, TICKETS_LIFE, Trust};
pub use config::{ALPN_HTTP_1_1, ServerConfig, TLS13_TICKETS, server_config, server_config_after};
pub use resolver::CertificateResolver;
pub use rustls::ClientConfig;
pub use rustls::pki_types::{CertificateDer, ServerName};
pub use session::{
    HELD_BYTES_MAX, RECORD_PLAINTEXT_BYTES_MAX, Received, Session, SessionError, SessionState, Version,
    YOUNG_AGAIN_AFTER, YOUNG_BYTES, YOUNG_RECORD_BYTES_MAX,
};
pub use tickets::TICKET_KEY_LIFE;
