//! The server configuration that all workers share.
//!
//! One choice for every listener: TLS 1.2 and 1.3, authenticated encryption with forward secrecy
//! only (the provider has nothing else), `http/1.1` by ALPN, resumption by tickets. There are no
//! switches: a setting that could make a listener weaker than its neighbour is not offered.
//!
//! # Cipher suites
//! Of a client that likes some AES-GCM best, AES-128-GCM with SHA-256 is taken if it has that: a handshake hashes some ninety
//! blocks, and SHA-256 has instructions of its own in nearly every processor of a server, which SHA-384 has not (an eighth of
//! what a handshake costs). Libraries list AES-256 first without anybody's choice; who wants nothing else offers nothing
//! else. A client without AES instructions lists ChaCha20 first, and it knows its own processor: then the order is the
//! client's. Servers in Go choose likewise.

use std::sync::Arc;
use std::time::Instant;

use rustls::CipherSuite;
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

/// What the sessions of a listener share: certificates, ticket keys, cryptography.
#[derive(Debug)]
pub struct ServerConfig {
    /// Takes the client's first cipher suite.
    by_client: Arc<rustls::ServerConfig>,
    /// Takes AES-128-GCM, if the client has it.
    by_server: Arc<rustls::ServerConfig>,
}

impl ServerConfig {
    /// The one for a client that begins with these bytes. Those of a `ClientHello` up to its cipher suites come in one
    /// segment; otherwise the order is the client's.
    pub(crate) fn suiting(&self, incoming: &[u8]) -> &Arc<rustls::ServerConfig> {
        match cipher_suites(incoming) {
            Some(suites) if likes_aes_gcm(suites) => &self.by_server,
            _ => &self.by_client,
        }
    }
}

/// What a `ClientHello` at the start of a connection has as `cipher_suites` (RFC 8446 §4.1.2).
fn cipher_suites(incoming: &[u8]) -> Option<&[u8]> {
    // The headers of a record of handshake and of a ClientHello, then version and random.
    let [22, _, _, _, _, 1, _, _, _, rest @ ..] = incoming else { return None };
    let rest = rest.get(2 + 32..)?;
    let (session_id_bytes, rest) = rest.split_first()?;
    let rest = rest.get(usize::from(*session_id_bytes)..)?;
    let (bytes, rest) = rest.split_first_chunk()?;
    rest.get(..usize::from(u16::from_be_bytes(*bytes)))
}

/// Whether the first of a client's cipher suites that is known here is AES-GCM of whatever length.
fn likes_aes_gcm(suites: &[u8]) -> bool {
    let suites =
        suites.chunks_exact(2).map(|suite| CipherSuite::from(u16::from_be_bytes([suite[0], suite[1]])));
    suites.into_iter().find_map(is_aes_gcm).unwrap_or(false)
}

/// `None`: not one of those that are offered here.
fn is_aes_gcm(suite: CipherSuite) -> Option<bool> {
    use CipherSuite as S;
    match suite {
        S::TLS13_AES_128_GCM_SHA256
        | S::TLS13_AES_256_GCM_SHA384
        | S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
        | S::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384
        | S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
        | S::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => Some(true),
        S::TLS13_CHACHA20_POLY1305_SHA256
        | S::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
        | S::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => Some(false),
        _ => None,
    }
}

fn is_aes_128(suite: CipherSuite) -> bool {
    use CipherSuite as S;
    matches!(
        suite,
        S::TLS13_AES_128_GCM_SHA256
            | S::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256
            | S::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256
    )
}

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
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(setup)?
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![ALPN_HTTP_1_1.to_vec()];
    config.ticketer = match before {
        Some(before) => before.by_client.ticketer.clone(),
        None => Arc::new(Tickets::new(Ticketer::new, Instant::now()).map_err(setup)?),
    };
    config.send_tls13_tickets = TLS13_TICKETS;
    // Tickets carry the state: a cache of session ids would be a lock and memory for nothing.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    // Early data can be replayed (RFC 8446 §8), and not every Matrix request bears that.
    config.max_early_data_size = 0;
    // The session takes the keys over and makes the records of TLS 1.3 itself. Nobody else has a connection to ask for them.
    config.enable_secret_extraction = true;
    // Records are cut by the session, which knows how young a connection is.
    config.max_fragment_size = None;
    config.ignore_client_order = false;
    let mut by_server = config.clone();
    by_server.ignore_client_order = true;
    Ok(Arc::new(ServerConfig { by_client: Arc::new(config), by_server: Arc::new(by_server) }))
}

/// aws-lc-rs with its defaults but for HKDF, see [`hkdf`], and with AES-128-GCM first. They put the hybrid group
/// X25519MLKEM768 first.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| !is_aes_128(suite.suite()));
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
    fn every_suite_is_known_and_aes_128_comes_first() {
        let suites: Vec<_> = provider().cipher_suites.iter().map(|suite| suite.suite()).collect();
        assert!(suites.iter().all(|suite| is_aes_gcm(*suite).is_some()), "{suites:?}");
        assert_eq!(suites.iter().position(|suite| !is_aes_128(*suite)), Some(3), "{suites:?}");
    }

    #[test]
    fn cipher_suites_are_found_in_a_whole_client_hello_and_nowhere_else() {
        for session_id_bytes in [0, 32] {
            let mut hello = vec![22, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
            hello.extend([7; 32]);
            hello.push(session_id_bytes);
            hello.extend(vec![8; session_id_bytes.into()]);
            hello.extend([0, 4, 0x0a, 0x0a, 0x13, 0x02]);
            for end in 0..hello.len() {
                assert_eq!(cipher_suites(&hello[..end]), None);
            }
            assert_eq!(cipher_suites(&hello), Some(&[0x0a, 0x0a, 0x13, 0x02][..]));
            assert!(likes_aes_gcm(&[0x0a, 0x0a, 0x13, 0x02]), "GREASE is not known");
            for (at, other) in [(0, 21), (5, 2)] {
                let was = std::mem::replace(&mut hello[at], other);
                assert_eq!(cipher_suites(&hello), None);
                hello[at] = was;
            }
        }
        assert!(!likes_aes_gcm(&[0x13, 0x03, 0x13, 0x01]), "ChaCha20");
        assert!(!likes_aes_gcm(&[]) && !likes_aes_gcm(&[0x13]) && !likes_aes_gcm(&[0x00, 0x2f]));
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
