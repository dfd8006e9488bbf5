//! A throwaway certificate authority: certificates for the proxy, trust for the client.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore, ServerConfig, SupportedProtocolVersion};

/// A certificate authority that lives as long as the test process.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// The authority of this test process: made once, because key generation and start-up add up.
    pub fn shared() -> &'static Authority {
        static SHARED: OnceLock<Authority> = OnceLock::new();
        SHARED.get_or_init(Authority::new)
    }

    /// An authority that nobody else knows.
    #[must_use]
    pub fn new() -> Authority {
        let (params, key) = Authority::parts("ringfence test authority");
        Authority { issuer: CertifiedIssuer::self_signed(params, key).expect("a self-signed authority") }
    }

    /// An authority that this one vouches for: what it issues is believed only with its own certificate beside it.
    #[must_use]
    pub fn intermediate(&self) -> Authority {
        let (params, key) = Authority::parts("ringfence test intermediate");
        let issuer = CertifiedIssuer::signed_by(params, key, &self.issuer);
        Authority { issuer: issuer.expect("a signed authority") }
    }

    fn parts(name: &str) -> (CertificateParams, KeyPair) {
        let mut params = CertificateParams::new(Vec::new()).expect("no names are valid names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        (params, KeyPair::generate().expect("a key pair"))
    }

    /// Issues a certificate for `names` (DNS names, wildcards, IP addresses).
    #[must_use]
    pub fn certificate(&self, names: &[&str]) -> Certificate {
        self.certificate_like(names, |_| ())
    }

    /// Issues a certificate whose other properties are the test's, for instance one that has expired.
    #[must_use]
    pub fn certificate_like(&self, names: &[&str], adjust: impl Fn(&mut CertificateParams)) -> Certificate {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names.clone()).expect("valid subject names");
        params.distinguished_name.push(DnType::CommonName, names.first().cloned().unwrap_or_default());
        adjust(&mut params);
        let key = KeyPair::generate().expect("a key pair");
        let certificate = params.signed_by(&key, &self.issuer).expect("a signed certificate");
        Certificate {
            der: certificate.der().clone(),
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
        }
    }

    /// The authority's own certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A client's configuration that trusts this authority and offers TLS 1.3 and 1.2 and ALPN `http/1.1`.
    #[must_use]
    pub fn client_config(&self) -> Arc<ClientConfig> {
        Arc::new(self.client_config_for(rustls::ALL_VERSIONS))
    }

    /// The same for some protocol versions only, to be adjusted by the test.
    #[must_use]
    pub fn client_config_for(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("the authority's certificate is well-formed");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let builder = builder.expect("the provider has suites for these versions");
        let mut config = builder.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config
    }
}

impl Default for Authority {
    fn default() -> Authority {
        Authority::new()
    }
}

/// A certificate with its key, ready to be written where a configuration names them.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// The certificate, as a TLS peer shows it.
    pub der: CertificateDer<'static>,
    /// The certificate in PEM.
    pub chain_pem: String,
    /// The private key in PEM.
    pub key_pem: String,
}

impl Certificate {
    /// An origin's configuration with this certificate, for some protocol versions only, to be adjusted by the test.
    #[must_use]
    pub fn server_config_for(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        let key = PrivateKeyDer::from_pem_slice(self.key_pem.as_bytes()).expect("the key is PEM");
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_protocol_versions(versions);
        let builder = builder.expect("the provider has suites for these versions").with_no_client_auth();
        let config = builder.with_single_cert(vec![self.der.clone()], key);
        let mut config = config.expect("the key is that of the certificate");
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config
    }

    /// The same for every version, ready to be used.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        Arc::new(self.server_config_for(rustls::ALL_VERSIONS))
    }

    /// Writes `NAME.chain.pem` and `NAME.key.pem` into `folder` and returns both paths.
    pub fn write(&self, folder: &Path, name: &str) -> (PathBuf, PathBuf) {
        let chain = folder.join(format!("{name}.chain.pem"));
        let key = folder.join(format!("{name}.key.pem"));
        std::fs::write(&chain, &self.chain_pem).expect("the chain can be written");
        std::fs::write(&key, &self.key_pem).expect("the key can be written");
        (chain, key)
    }
}
