//! Which certificate a client is shown (RFC 6066 §3, RFC 9525 §6.3).
//!
//! The names are those in the certificates themselves, so that nothing has to be configured twice.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use rustls::SignatureScheme;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::certificate::Certificate;

/// Chooses a certificate by the name that the client asks for.
///
/// The exact name first, then a wildcard (`*.example.com` covers one label), else the first
/// certificate: peers on the federation port come by IP address, without a name. Names are compared
/// without case and without a trailing dot. Of several certificates for one name the first listed
/// wins whose key the client can verify, so that an ECDSA and an RSA certificate can stand side by side.
#[derive(Debug)]
pub struct CertificateResolver {
    keys: Vec<Arc<CertifiedKey>>,
    /// Indices into `keys` by lower-case name, in the order listed; a wildcard under its `*.` name.
    by_name: HashMap<String, Vec<usize>>,
    /// For clients without a name or with an unknown one: the first certificate, then those that
    /// share its first name.
    default: Vec<usize>,
}

impl CertificateResolver {
    /// A resolver over `certificates`, the default one first.
    pub fn new(certificates: Vec<Certificate>) -> CertificateResolver {
        let mut by_name: HashMap<String, Vec<usize>> = HashMap::new();
        for (index, certificate) in certificates.iter().enumerate() {
            for name in certificate.names() {
                let listed = by_name.entry(comparable(name).into_owned()).or_default();
                if listed.last() != Some(&index) {
                    listed.push(index);
                }
            }
        }
        let first_name = certificates.first().and_then(|first| first.names().first());
        let default = first_name.and_then(|name| by_name.get(comparable(name).as_ref()));
        let default = default.cloned().unwrap_or_else(|| vec![0]);
        let keys = certificates.into_iter().map(Certificate::into_key).collect();
        CertificateResolver { keys, by_name, default }
    }

    /// The certificate for `server_name`, given the signature schemes that the client can verify.
    /// `None` only when there are no certificates at all.
    pub fn choose(
        &self,
        server_name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<&Arc<CertifiedKey>> {
        let candidates = server_name.and_then(|name| self.named(name)).unwrap_or(&self.default);
        let keys = || candidates.iter().filter_map(|index| self.keys.get(*index));
        keys().find(|key| key.key.choose_scheme(schemes).is_some()).or_else(|| keys().next())
    }

    fn named(&self, name: &str) -> Option<&Vec<usize>> {
        let name = comparable(name);
        self.by_name.get(name.as_ref()).or_else(|| {
            let (first_label, parent) = name.split_once('.')?;
            // A wildcard stands for one label that is there (RFC 9525 §6.3).
            (!first_label.is_empty()).then(|| self.by_name.get(&format!("*.{parent}")))?
        })
    }
}

impl ResolvesServerCert for CertificateResolver {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(client_hello.server_name(), client_hello.signature_schemes()).cloned()
    }
}

/// `name` as it is compared: lower case, without the dot of the root.
fn comparable(name: &str) -> Cow<'_, str> {
    let name = name.strip_suffix('.').unwrap_or(name);
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    }
}

#[cfg(test)]
mod tests;
