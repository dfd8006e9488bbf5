//! A certificate chain and its private key: read from PEM (RFC 7468) and checked.
//!
//! Everything that would make each handshake fail later is refused here, with the file and what to
//! do about it. Expiry is not: a proxy that restarts with an expired certificate still serves the
//! clients that do not look (many federation peers retry for days), and refusing to start would turn
//! a warning into an outage. [`Certificate::validity_problem`] tells, and the caller warns.

mod error;

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls::pki_types::pem::{self, PemObject, SectionKind};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SigningKey};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

pub use error::{CertificateError, CertificateFault};

use crate::config::provider;

/// One certificate chain with its key, checked: the key belongs to the leaf, each element was issued
/// by the next one, and the names and dates are read.
#[derive(Debug, Clone)]
pub struct Certificate {
    chain_path: PathBuf,
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    /// Leaf first.
    validity: Vec<Validity>,
}

impl Certificate {
    /// Reads a chain (leaf first) and the leaf's private key from PEM files.
    ///
    /// # Errors
    /// Names the file at fault and what to do: unreadable, no certificate or no key in it, an
    /// encrypted key, a key of another certificate, a chain in the wrong order. An expired
    /// certificate is not an error here, see [`Certificate::validity_problem`].
    pub fn load(chain: &Path, key: &Path) -> Result<Certificate, CertificateError> {
        let chain_pem = read(chain)?;
        let key_pem = read(key)?;
        build(&chain_pem, chain, &key_pem, key)
    }

    /// As [`Certificate::load`], from memory. `origin` stands for the file's path in errors.
    ///
    /// # Errors
    /// As [`Certificate::load`], without the reading.
    pub fn from_pem(chain_pem: &[u8], key_pem: &[u8], origin: &str) -> Result<Certificate, CertificateError> {
        build(chain_pem, origin.as_ref(), key_pem, origin.as_ref())
    }

    /// The names it answers for: lower-case DNS names (`*.` wildcards among them) and IP addresses of
    /// its subject alternative names (RFC 5280 §4.2.1.6). The subject's common name is not among
    /// them: clients have long stopped looking there (RFC 9525 §6.3).
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// When the leaf starts to be valid.
    pub fn not_before(&self) -> SystemTime {
        system_time(self.validity[0].not_before)
    }

    /// When the leaf stops being valid.
    pub fn not_after(&self) -> SystemTime {
        system_time(self.validity[0].not_after)
    }

    /// The file that the chain came from, or the `origin` given to [`Certificate::from_pem`].
    pub fn chain_path(&self) -> &Path {
        &self.chain_path
    }

    /// What is wrong with the dates of the chain at `now`: the first element that is
    /// [expired](CertificateFault::Expired) or [not yet valid](CertificateFault::NotYetValid).
    ///
    /// To be asked at start and again while running, and to be logged as a warning.
    pub fn validity_problem(&self, now: SystemTime) -> Option<CertificateError> {
        let fault = self.validity.iter().enumerate().find_map(|(index, validity)| {
            let element = index + 1;
            let Validity { not_before, not_after } = *validity;
            if now > system_time(not_after) {
                Some(CertificateFault::Expired { element, at: not_after.to_string() })
            } else if now < system_time(not_before) {
                Some(CertificateFault::NotYetValid { element, from: not_before.to_string() })
            } else {
                None
            }
        })?;
        Some(CertificateError::new(&self.chain_path, fault))
    }

    pub(crate) fn into_key(self) -> Arc<CertifiedKey> {
        self.key
    }
}

/// Dates between which one element of a chain is valid, both included (RFC 5280 §4.1.2.5).
#[derive(Debug, Clone, Copy)]
struct Validity {
    not_before: ASN1Time,
    not_after: ASN1Time,
}

fn read(path: &Path) -> Result<Vec<u8>, CertificateError> {
    fs::read(path).map_err(|error| CertificateError::new(path, CertificateFault::Unreadable(error)))
}

fn build(
    chain_pem: &[u8],
    chain_path: &Path,
    key_pem: &[u8],
    key_path: &Path,
) -> Result<Certificate, CertificateError> {
    let in_chain = |fault| CertificateError::new(chain_path, fault);
    let in_key = |fault| CertificateError::new(key_path, fault);
    let chain = certificates_in(chain_pem).map_err(in_chain)?;
    let parsed = parse_chain(&chain).map_err(in_chain)?;
    let key = private_key_in(key_pem).map_err(in_key)?;
    let signing_key = provider()
        .key_provider
        .load_private_key(key)
        .map_err(|error| in_key(CertificateFault::UnusableKey(error)))?;
    check_key(&parsed, signing_key.as_ref()).map_err(|fault| match fault {
        CertificateFault::KeyMismatch => in_key(fault),
        in_the_chain => in_chain(in_the_chain),
    })?;
    check_order(&parsed).map_err(in_chain)?;
    let names = subject_names(&parsed[0]).map_err(in_chain)?;
    let validity = parsed.iter().map(validity_of).collect();
    let certified = CertifiedKey::new(chain.clone(), signing_key);
    // Our own comparison has passed; this finds what only rustls refuses (X.509 version 1).
    match certified.keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
        Err(error) => return Err(in_chain(CertificateFault::UnusableCertificate(error))),
    }
    Ok(Certificate { chain_path: chain_path.to_owned(), key: Arc::new(certified), names, validity })
}

fn certificates_in(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, CertificateFault> {
    let chain = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<Vec<_>, pem::Error>>()
        .map_err(|error| CertificateFault::BrokenPem(error.to_string()))?;
    if chain.is_empty() {
        return Err(CertificateFault::NoCertificate { hint: hint(pem) });
    }
    Ok(chain)
}

fn private_key_in(pem: &[u8]) -> Result<PrivateKeyDer<'static>, CertificateFault> {
    // Before decoding: what is encrypted the old way does not decode (RFC 1421 §4.6.1.1).
    if ENCRYPTION_MARKS.iter().any(|mark| contains(pem, mark)) {
        return Err(CertificateFault::EncryptedKey);
    }
    match PrivateKeyDer::pem_slice_iter(pem).next() {
        Some(Ok(key)) => Ok(key),
        Some(Err(error)) => Err(CertificateFault::BrokenPem(error.to_string())),
        None => Err(CertificateFault::NoKey { hint: hint(pem) }),
    }
}

/// What a file holds that does not hold what it should.
pub(crate) fn hint(content: &[u8]) -> &'static str {
    let kinds = pem::SliceIter::<(SectionKind, Vec<u8>)>::new(content).flatten().map(|(kind, _)| kind);
    let mut hint = if content.is_empty() { "it is empty" } else { "it is no PEM file" };
    // DER starts with a SEQUENCE.
    if content.first() == Some(&0x30) {
        hint = "it looks like DER; convert it with `openssl x509` or `openssl pkey`, -inform DER";
    }
    for kind in kinds {
        hint = match kind {
            SectionKind::Certificate => "it holds a certificate; are chain and key swapped?",
            SectionKind::PrivateKey | SectionKind::RsaPrivateKey | SectionKind::EcPrivateKey => {
                "it holds a private key; are chain and key swapped?"
            }
            SectionKind::Csr => "it holds a certificate request, which is what the CA is sent",
            _ => "it holds other PEM sections only",
        };
    }
    hint
}

fn contains(content: &[u8], mark: &[u8]) -> bool {
    content.windows(mark.len()).any(|window| window == mark)
}

fn parse_chain<'a>(
    chain: &'a [CertificateDer<'static>],
) -> Result<Vec<X509Certificate<'a>>, CertificateFault> {
    chain.iter().enumerate().map(|(index, der)| parse(index + 1, der)).collect()
}

fn parse(element: usize, der: &[u8]) -> Result<X509Certificate<'_>, CertificateFault> {
    let broken = |reason| CertificateFault::BrokenCertificate { element, reason };
    match X509Certificate::from_der(der) {
        Ok(([], certificate)) => Ok(certificate),
        Ok((rest, _)) => Err(broken(format!("{} bytes follow it", rest.len()))),
        Err(error) => Err(broken(error.to_string())),
    }
}

/// The key is that of the first element; if it is that of another one, the order is what is wrong.
fn check_key(chain: &[X509Certificate<'_>], key: &dyn SigningKey) -> Result<(), CertificateFault> {
    let Some(public_key) = key.public_key() else { return Ok(()) };
    let position = chain.iter().position(|element| element.public_key().raw == public_key.as_ref());
    match position {
        Some(0) => Ok(()),
        Some(index) => Err(CertificateFault::LeafNotFirst { element: index + 1 }),
        None => Err(CertificateFault::KeyMismatch),
    }
}

/// Each element is issued by the one after it (RFC 8446 §4.4.2), by name as in RFC 5280 §6.1.3 (a)(4).
fn check_order(chain: &[X509Certificate<'_>]) -> Result<(), CertificateFault> {
    for (index, pair) in chain.windows(2).enumerate() {
        let [issued, issuer] = pair else { continue };
        let element = index + 2;
        if issued.as_raw() == issuer.as_raw() {
            return Err(CertificateFault::Repeated { element });
        }
        if issued.issuer().as_raw() != issuer.subject().as_raw() {
            let is_issuer =
                |other: &X509Certificate<'_>| other.subject().as_raw() == issued.issuer().as_raw();
            return Err(CertificateFault::WrongOrder {
                element,
                subject: issuer.subject().to_string(),
                expected: issued.issuer().to_string(),
                expected_at: chain.iter().position(is_issuer).map(|index| index + 1),
            });
        }
    }
    Ok(())
}

fn subject_names(leaf: &X509Certificate<'_>) -> Result<Vec<String>, CertificateFault> {
    let alternatives = leaf.subject_alternative_name().map_err(|error| {
        CertificateFault::BrokenCertificate { element: 1, reason: format!("subjectAltName: {error}") }
    })?;
    let names = alternatives.iter().flat_map(|extension| &extension.value.general_names);
    Ok(names.filter_map(server_name).collect())
}

/// A name that a server can have; others (mail addresses, URIs) are not about servers.
fn server_name(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            v4.or(v6).ok().map(|address| address.to_string())
        }
        _ => None,
    }
}

fn validity_of(certificate: &X509Certificate<'_>) -> Validity {
    let validity = certificate.validity();
    Validity { not_before: validity.not_before, not_after: validity.not_after }
}

fn system_time(time: ASN1Time) -> SystemTime {
    let seconds = Duration::from_secs(time.timestamp().unsigned_abs());
    if time.timestamp() < 0 { SystemTime::UNIX_EPOCH - seconds } else { SystemTime::UNIX_EPOCH + seconds }
}

/// Labels and headers of keys that need a password: PKCS #8, and what OpenSSL wrote before it.
const ENCRYPTION_MARKS: [&[u8]; 2] = [b"-----BEGIN ENCRYPTED PRIVATE KEY-----", b"Proc-Type: 4,ENCRYPTED"];

#[cfg(test)]
mod tests;
