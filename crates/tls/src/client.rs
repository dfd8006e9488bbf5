//! The configuration of sessions with servers: whom to believe that a server is the one that is meant.
//!
//! As for listeners there is one choice of versions and cryptography, and no switch for it; what differs is the [`Trust`].

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::certificate::{CertificateError, CertificateFault, hint};
use crate::config::{ALPN_HTTP_1_1, provider};

/// Whom to believe that a server is the one that is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trust {
    /// These authorities.
    Authorities(Vec<CertificateDer<'static>>),
    /// Everybody: whoever stands between can read and change all.
    Everybody,
}

impl Trust {
    /// Trusts the authorities in a PEM file.
    ///
    /// # Errors
    /// When the file cannot be read or has no certificate, or something in it is no certificate.
    pub fn load(file: &Path) -> Result<Trust, CertificateError> {
        let in_file = |fault| CertificateError::new(file, fault);
        let pem = fs::read(file).map_err(|error| in_file(CertificateFault::Unreadable(error)))?;
        let authorities = CertificateDer::pem_slice_iter(&pem)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| in_file(CertificateFault::BrokenPem(error.to_string())))?;
        if authorities.is_empty() {
            return Err(in_file(CertificateFault::NoAuthority { hint: hint(&pem) }));
        }
        let mut roots = RootCertStore::empty();
        for (index, authority) in authorities.iter().enumerate() {
            roots.add(authority.clone()).map_err(|error| {
                in_file(CertificateFault::BrokenCertificate { element: index + 1, reason: error.to_string() })
            })?;
        }
        Ok(Trust::Authorities(authorities))
    }
}

/// How sessions with servers begin that are trusted alike, and the tickets that such servers have issued.
///
/// To be shared by all workers: a session that one has begun can then be resumed by every other. A resumed session is not
/// verified again, so servers that are trusted in another way have another one of these, and tickets are forgotten after
/// [`TICKETS_LIFE`].
#[derive(Debug)]
pub struct Client {
    trust: Trust,
    present: Mutex<Present>,
}

/// What sessions begin with now.
#[derive(Debug)]
struct Present {
    config: Arc<ClientConfig>,
    since: Instant,
}

impl Client {
    /// Without any tickets. Authorities that cannot be read, as the system has some, are left out.
    ///
    /// # Errors
    /// [`CertificateFault::Setup`] when the cryptographic library cannot be set up, or when nobody is trusted.
    pub fn new(trust: Trust) -> Result<Client, CertificateError> {
        let present = Present { config: Arc::new(client_config(&trust)?), since: Instant::now() };
        Ok(Client { trust, present: Mutex::new(present) })
    }

    /// Whom it trusts.
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// What a session begins with, and where its tickets go.
    pub fn config(&self) -> Arc<ClientConfig> {
        self.config_at(Instant::now())
    }

    /// Sessions that began before the tickets were forgotten leave theirs where nobody looks any more: so nothing that began
    /// with them goes on.
    pub(crate) fn config_at(&self, now: Instant) -> Arc<ClientConfig> {
        let mut present = self.present.lock().unwrap_or_else(PoisonError::into_inner);
        if now.saturating_duration_since(present.since) >= TICKETS_LIFE {
            let mut config = ClientConfig::clone(&present.config);
            config.resumption = no_tickets_yet();
            *present = Present { config: Arc::new(config), since: now };
        }
        present.config.clone()
    }
}

fn client_config(trust: &Trust) -> Result<ClientConfig, CertificateError> {
    let setup = |error| CertificateError::general(CertificateFault::Setup(error));
    let provider = provider();
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Authorities(authorities) => {
            let mut roots = RootCertStore::empty();
            roots.add_parsable_certificates(authorities.iter().cloned());
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
                .build()
                .map_err(|error| setup(Error::General(error.to_string())))?
        }
        Trust::Everybody => Arc::new(Unverified(provider.clone())),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(setup)?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    config.alpn_protocols = vec![ALPN_HTTP_1_1.to_vec()];
    config.resumption = no_tickets_yet();
    // Early data can be replayed (RFC 8446 §8), and not every Matrix request bears that.
    config.enable_early_data = false;
    // As for listeners: the session takes the keys over, and it cuts the records.
    config.enable_secret_extraction = true;
    config.max_fragment_size = None;
    Ok(config)
}

fn no_tickets_yet() -> Resumption {
    Resumption::in_memory_sessions(TICKET_SERVERS_MAX * TICKETS_PER_SERVER)
}

/// How long tickets are kept at most: after this long a server has to show its certificate again.
///
/// A session that is resumed brings new tickets, so that otherwise one certificate would be believed for ever, also when
/// its time is over. A day is little beside what certificates are valid for, and much beside one handshake in full.
pub const TICKETS_LIFE: Duration = Duration::from_secs(24 * 3600);

/// Servers whose tickets are kept: more than configurations have.
const TICKET_SERVERS_MAX: usize = 256;

/// Tickets of TLS 1.3 that rustls keeps for one server. It divides the size that it is given by this.
const TICKETS_PER_SERVER: usize = 8;

/// Believes every certificate, but not that somebody has one whose key it does not hold.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _leaf: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
