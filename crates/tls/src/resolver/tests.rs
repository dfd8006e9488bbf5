use super::*;
use crate::fixtures::Authority;
use rcgen::{KeyPair, PKCS_RSA_SHA256};

const ECDSA: &[SignatureScheme] = &[SignatureScheme::ECDSA_NISTP256_SHA256];
const RSA: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256];
const BOTH: &[SignatureScheme] = &[SignatureScheme::RSA_PSS_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256];

/// The index of the certificate chosen, as they were listed.
fn chosen(resolver: &CertificateResolver, name: Option<&str>, schemes: &[SignatureScheme]) -> usize {
    let key = resolver.choose(name, schemes).unwrap();
    resolver.keys.iter().position(|other| Arc::ptr_eq(key, other)).unwrap()
}

fn resolver(names: &[&[&str]]) -> CertificateResolver {
    let authority = Authority::root();
    CertificateResolver::new(names.iter().map(|names| authority.certificate(names)).collect())
}

#[test]
fn an_exact_name_goes_before_a_wildcard() {
    let resolver = resolver(&[&["default.test"], &["*.example.com"], &["matrix.example.com"]]);
    assert_eq!(chosen(&resolver, Some("matrix.example.com"), ECDSA), 2);
    assert_eq!(chosen(&resolver, Some("other.example.com"), ECDSA), 1);
}

#[test]
fn a_wildcard_covers_exactly_one_label() {
    let resolver = resolver(&[&["default.test"], &["*.example.com"]]);
    assert_eq!(chosen(&resolver, Some("a.example.com"), ECDSA), 1);
    for name in ["example.com", "a.b.example.com", ".example.com", "example.com.", "com"] {
        assert_eq!(chosen(&resolver, Some(name), ECDSA), 0, "{name}");
    }
}

#[test]
fn case_and_the_trailing_dot_do_not_matter() {
    let resolver = resolver(&[&["default.test"], &["Matrix.Example.com", "*.wild.test"]]);
    for name in ["matrix.example.com", "MATRIX.example.COM", "matrix.example.com.", "A.Wild.TEST."] {
        assert_eq!(chosen(&resolver, Some(name), ECDSA), 1, "{name}");
    }
}

#[test]
fn the_first_certificate_is_the_default() {
    let resolver = resolver(&[&["first.test"], &["second.test"]]);
    for name in [None, Some("unknown.test"), Some(""), Some("."), Some("*.first.test")] {
        assert_eq!(chosen(&resolver, name, ECDSA), 0, "{name:?}");
    }
}

#[test]
fn of_several_for_one_name_the_first_that_the_client_can_verify_is_chosen() {
    let authority = Authority::root();
    let names = ["pair.test", "*.pair.test"];
    let rsa = authority.issue_with(&names, KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap(), |_| ());
    let certificates = [authority.issue(&names), rsa, authority.issue(&names)];
    let resolver = CertificateResolver::new(certificates.iter().map(|issued| issued.certificate()).collect());
    for name in [Some("pair.test"), Some("a.pair.test"), Some("unknown.test"), None] {
        assert_eq!(chosen(&resolver, name, ECDSA), 0, "{name:?}");
        assert_eq!(chosen(&resolver, name, BOTH), 0, "{name:?}");
        assert_eq!(chosen(&resolver, name, RSA), 1, "{name:?}");
        // Nothing fits: rustls says so to the client.
        assert_eq!(chosen(&resolver, name, &[SignatureScheme::ED25519]), 0, "{name:?}");
    }
}

#[test]
fn a_certificate_without_names_serves_as_the_default() {
    let resolver = resolver(&[&[], &["second.test"]]);
    assert_eq!(chosen(&resolver, None, ECDSA), 0);
    assert_eq!(chosen(&resolver, Some("second.test"), ECDSA), 1);
}
