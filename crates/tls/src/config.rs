//! The server configuration that all workers share.
//!
//! One choice for every listener: TLS 1.2 and 1.3, authenticated encryption with forward secrecy
//! only (the provider has nothing else), `http/1.1` by ALPN, resumption by tickets. There are no
//! switches: a setting that could make a listener weaker than its neighbour is not offered.

use std::sync::Arc;
use std::time::Instant;

use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::aws_lc_rs::{self, Ticketer};
use rustls::server::NoServerSessionStorage;

use crate::certificate::{Certificate, CertificateError, CertificateFault};
use crate::hkdf;
use crate::resolver::CertificateResolver;
use crate::tickets::Tickets;

/// The protocol name offered by ALPN (RFC 7301 §6). A client that offers only others is refused with
/// `no_application_protocol` (§3.2); one that offers none is served.
pub const ALPN_HTTP_1_1: &[u8] = b"http/1.1";

/// Tickets sent after a full or resumed TLS 1.3 handshake.
///
/// Two, because a ticket is to be used once (RFC 8446 §C.4) and clients of HTTP/1.1 open several
/// connections at a time; more would cost each handshake bytes and cryptography that few clients use.
pub const TLS13_TICKETS: usize = 2;

/// Makes the configuration for `certificates`; the first one is the default.
///
/// To be made once and shared by all workers: a ticket that one worker issued is then good at every
/// other. One made by [`server_config_after`] has the ticket keys of the one before it.
///
/// # Tickets
/// AES-256-CBC with HMAC-SHA-256 (RFC 5077 §4), a new key every [`TICKET_KEY_LIFE`], the previous one
/// accepted for as long again. Rotation needs no timer: the first ticket after the interval
/// makes the new key. Every ticket made or opened takes two *read* locks for some 2 µs
/// of cryptography; readers do not exclude each other, so workers share two cache lines (their reader
/// counts) per ticket and nothing else, which is noise beside the handshake around it.
///
/// [`TICKET_KEY_LIFE`]: crate::TICKET_KEY_LIFE
///
/// # Errors
/// [`CertificateFault::NoneConfigured`] without a certificate, [`CertificateFault::Setup`] when the
/// cryptographic library cannot start (no randomness).
pub fn server_config(certificates: Vec<Certificate>) -> Result<Arc<ServerConfig>, CertificateError> {
    build(provider(), certificates, None)
}

/// As [`server_config`], with the ticket keys of the configuration `before`, so that clients resume
/// their sessions across a reload.
///
/// # Errors
/// As [`server_config`].
pub fn server_config_after(
    certificates: Vec<Certificate>,
    before: &ServerConfig,
) -> Result<Arc<ServerConfig>, CertificateError> {
    build(provider(), certificates, Some(before))
}

/// With any cryptography: tests wear keys out sooner.
pub(crate) fn build(
    provider: Arc<CryptoProvider>,
    certificates: Vec<Certificate>,
    before: Option<&ServerConfig>,
) -> Result<Arc<ServerConfig>, CertificateError> {
    if certificates.is_empty() {
        return Err(CertificateError::general(CertificateFault::NoneConfigured));
    }
    let setup = |error| CertificateError::general(CertificateFault::Setup(error));
    let resolver = Arc::new(CertificateResolver::new(certificates));
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(setup)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN_HTTP_1_1.to_vec()];
    config.ticketer = match before {
        Some(before) => before.ticketer.clone(),
        None => Arc::new(Tickets::new(Ticketer::new, Instant::now()).map_err(setup)?),
    };
    config.send_tls13_tickets = TLS13_TICKETS;
    // Tickets carry the state: a cache of session ids would be a lock and memory for nothing.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // A client without AES instructions lists ChaCha20 first, and it knows its own processor.
    config.ignore_client_order = false;
    // Early data can be replayed (RFC 8446 §8), and not every Matrix request bears that.
    config.max_early_data_size = 0;
    // The session takes the keys over and makes the records of TLS 1.3 itself. Nobody else has a connection to ask for them.
    config.enable_secret_extraction = true;
    // Records are cut by the session, which knows how young a connection is.
    config.max_fragment_size = None;
    Ok(Arc::new(config))
}

/// aws-lc-rs with its defaults but for HKDF, see [`hkdf`]. They put the hybrid group X25519MLKEM768 first.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    hkdf::replace_in(&mut provider);
    Arc::new(provider)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::NamedGroup;

    #[test]
    fn a_configuration_without_a_certificate_is_refused() {
        let error = server_config(Vec::new()).unwrap_err();
        assert!(matches!(error.fault(), CertificateFault::NoneConfigured), "{error}");
    }

    #[test]
    fn the_hybrid_group_is_preferred() {
        let groups: Vec<_> = provider().kx_groups.iter().map(|group| group.name()).collect();
        assert_eq!(groups[0], NamedGroup::X25519MLKEM768);
        assert!(groups.contains(&NamedGroup::X25519) && groups.contains(&NamedGroup::secp256r1));
    }

    #[test]
    fn every_suite_authenticates_its_ciphertext_and_keeps_forward_secrecy() {
        for suite in &provider().cipher_suites {
            let name = format!("{:?}", suite.suite());
            assert!(name.contains("GCM") || name.contains("CHACHA20_POLY1305"), "{name}");
            assert!(name.starts_with("TLS13_") || name.contains("_ECDHE_"), "{name}");
        }
    }
}
