//! Certificates made for the tests: an authority, and what it issues.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;

use crate::Certificate;

/// A certificate authority; the root, or one below it.
pub(crate) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A leaf in PEM, without its issuers.
pub(crate) struct Issued {
    pub(crate) leaf_pem: String,
    pub(crate) key_pem: String,
}

impl Authority {
    pub(crate) fn root() -> Authority {
        let issuer = CertifiedIssuer::self_signed(ca_params("Root"), KeyPair::generate().unwrap());
        Authority { issuer: issuer.unwrap() }
    }

    pub(crate) fn intermediate(&self, name: &str) -> Authority {
        let key = KeyPair::generate().unwrap();
        Authority { issuer: CertifiedIssuer::signed_by(ca_params(name), key, &self.issuer).unwrap() }
    }

    pub(crate) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(crate) fn der(&self) -> CertificateDer<'static> {
        CertificateDer::from_pem_slice(self.pem().as_bytes()).unwrap()
    }

    pub(crate) fn issue(&self, names: &[&str]) -> Issued {
        self.issue_with(names, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), |_| ())
    }

    pub(crate) fn issue_with(
        &self,
        names: &[&str],
        key: KeyPair,
        adjust: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        adjust(&mut params);
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        Issued { leaf_pem: leaf.pem(), key_pem: key.serialize_pem() }
    }

    pub(crate) fn certificate(&self, names: &[&str]) -> Certificate {
        self.issue(names).certificate()
    }
}

impl Issued {
    pub(crate) fn certificate(&self) -> Certificate {
        Certificate::from_pem(self.leaf_pem.as_bytes(), self.key_pem.as_bytes(), "test").unwrap()
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}
