//! How the generator speaks TLS: 1.3 only, tickets for each peer of its own, any certificate unless told otherwise.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ClientConfig, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use crate::flood::Common;

/// The configuration that the peers of a run share; each makes [`its own`](with_tickets) of it.
///
/// Without `ca` any certificate is accepted, and its signature not even checked: the generator is for one's own
/// machines, and the check would cost it as much as the handshake costs the server.
pub(crate) fn config(common: &Common) -> Result<Arc<ClientConfig>, String> {
    let mut provider = aws_lc_rs::default_provider();
    if let Some(name) = &common.cipher_suite {
        provider
            .cipher_suites
            .retain(|suite| suite.suite().as_str().map(as_registered).as_ref() == Some(name));
        if provider.cipher_suites.is_empty() {
            return Err(format!("--cipher-suite {name}: none of TLS 1.3 that is known here"));
        }
    }
    if !common.post_quantum {
        let classic = |group: &&dyn rustls::crypto::SupportedKxGroup| {
            group.name() != rustls::NamedGroup::X25519MLKEM768
        };
        provider.kx_groups.retain(classic);
    }
    let provider = Arc::new(provider);
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(|error| error.to_string())?;
    let mut config = match &common.ca {
        Some(path) => builder.with_root_certificates(roots(path)?).with_no_client_auth(),
        None => builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

/// A peer's own configuration: its tickets are not another's, and without `resumes` it keeps none.
pub(crate) fn with_tickets(shared: &Arc<ClientConfig>, resumes: bool) -> Arc<ClientConfig> {
    let mut own = ClientConfig::clone(shared);
    own.resumption =
        if resumes { Resumption::in_memory_sessions(TICKETS_MAX) } else { Resumption::disabled() };
    Arc::new(own)
}

/// The registry's name of what rustls calls `TLS13_AES_128_GCM_SHA256` (RFC 8446 §B.4).
fn as_registered(name: &str) -> String {
    name.replacen("TLS13_", "TLS_", 1)
}

fn roots(path: &Path) -> Result<RootCertStore, String> {
    let fault = |error: String| format!("{}: {error}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|error| fault(error.to_string()))? {
        let certificate = certificate.map_err(|error| fault(error.to_string()))?;
        roots.add(certificate).map_err(|error| fault(error.to_string()))?;
    }
    Ok(roots)
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Tickets that one peer keeps: as many as rustls keeps for one server.
const TICKETS_MAX: usize = 8;
