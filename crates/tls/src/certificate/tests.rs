use super::*;
use crate::fixtures::{Authority, Issued};
use rcgen::{KeyPair, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256, date_time_ymd};
use tempfile::TempDir;

/// 2026-01-01 00:00:00 UTC.
const NEW_YEAR_2026: Duration = Duration::from_secs(1_767_225_600);

/// Loads from files with this content; the error's text must name the file at fault.
fn load(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>) -> Result<Certificate, CertificateError> {
    let folder = TempDir::new().unwrap();
    let (chain_path, key_path) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    fs::write(&chain_path, chain).unwrap();
    fs::write(&key_path, key).unwrap();
    Certificate::load(&chain_path, &key_path)
}

fn fault_of(chain: impl AsRef<[u8]>, key: impl AsRef<[u8]>, file: &str) -> (CertificateFault, String) {
    let error = load(chain, key).unwrap_err();
    assert!(error.file().unwrap().ends_with(file), "{error}");
    assert!(error.to_string().contains(&format!("{file}: ")), "{error}");
    assert!(!error.is_warning());
    let text = error.to_string();
    (*error.into_fault(), text)
}

fn leaf() -> (Authority, Issued) {
    let authority = Authority::root();
    let issued = authority.issue(&["example.com"]);
    (authority, issued)
}

#[test]
fn a_chain_and_its_key_are_loaded() {
    let root = Authority::root();
    let intermediate = root.intermediate("Intermediate");
    let issued = intermediate.issue(&["Example.com", "*.example.com", "192.0.2.7", "2001:db8::1"]);
    let chain = format!("{}{}{}", issued.leaf_pem, intermediate.pem(), root.pem());
    let certificate = load(chain, &issued.key_pem).unwrap();
    assert_eq!(certificate.names(), ["example.com", "*.example.com", "192.0.2.7", "2001:db8::1"]);
    assert!(certificate.chain_path().ends_with("chain.pem"));
    assert_eq!(certificate.key.cert.len(), 3);
    assert!(certificate.not_before() < certificate.not_after());
}

#[test]
fn text_around_the_sections_does_not_matter() {
    let (_, issued) = leaf();
    let chain = format!("Subject: example\r\n{}trailing", issued.leaf_pem.replace('\n', "\r\n"));
    let key = format!("# the key\n{}{}", issued.leaf_pem, issued.key_pem);
    assert!(load(chain, key).is_ok());
}

#[test]
fn every_usual_kind_of_key_is_accepted() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_ED25519, &PKCS_RSA_SHA256] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let issued = Authority::root().issue_with(&["example.com"], key, |_| ());
        load(&issued.leaf_pem, &issued.key_pem).unwrap();
    }
}

#[test]
fn a_missing_file_is_named_with_the_systems_reason() {
    let (_, issued) = leaf();
    let folder = TempDir::new().unwrap();
    let (there, missing) = (folder.path().join("there.pem"), folder.path().join("missing.pem"));
    fs::write(&there, &issued.leaf_pem).unwrap();
    for (chain, key) in [(&missing, &there), (&there, &missing)] {
        let error = Certificate::load(chain, key).unwrap_err();
        assert_eq!(error.file(), Some(missing.as_path()));
        let CertificateFault::Unreadable(reason) = error.fault() else { panic!("{error}") };
        assert_eq!(reason.kind(), std::io::ErrorKind::NotFound);
        assert!(std::error::Error::source(&error).is_some());
    }
}

#[test]
fn a_chain_file_without_a_certificate_is_refused_with_a_hint() {
    let (_, issued) = leaf();
    let der = CertificateDer::from_pem_slice(issued.leaf_pem.as_bytes()).unwrap();
    let cases: [(&[u8], &str); 4] =
        [(b"", "empty"), (b"hello", "no PEM"), (issued.key_pem.as_bytes(), "swapped"), (&der, "DER")];
    for (chain, hint) in cases {
        let (fault, text) = fault_of(chain, &issued.key_pem, "chain.pem");
        assert!(matches!(fault, CertificateFault::NoCertificate { .. }), "{text}");
        assert!(text.contains(hint), "{text}");
    }
}

#[test]
fn a_key_file_without_a_key_is_refused_with_a_hint() {
    let (_, issued) = leaf();
    for (key, hint) in [("", "empty"), ("hello", "no PEM"), (&issued.leaf_pem, "swapped")] {
        let (fault, text) = fault_of(&issued.leaf_pem, key, "key.pem");
        assert!(matches!(fault, CertificateFault::NoKey { .. }), "{text}");
        assert!(text.contains(hint), "{text}");
    }
}

#[test]
fn an_encrypted_key_is_refused_in_both_notations() {
    let (_, issued) = leaf();
    let pkcs8 = issued.key_pem.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let traditional = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,00\n\nAAAA\n\
                       -----END RSA PRIVATE KEY-----\n";
    for key in [pkcs8.as_str(), traditional] {
        let (fault, text) = fault_of(&issued.leaf_pem, key, "key.pem");
        assert!(matches!(fault, CertificateFault::EncryptedKey), "{text}");
        assert!(text.contains("openssl pkey"), "{text}");
    }
}

#[test]
fn a_damaged_key_is_refused() {
    let (_, issued) = leaf();
    let not_base64 = issued.key_pem.replacen("MIG", "M!G", 1);
    let (fault, text) = fault_of(&issued.leaf_pem, not_base64, "key.pem");
    assert!(matches!(fault, CertificateFault::BrokenPem(_)), "{text}");
    let no_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let (fault, text) = fault_of(&issued.leaf_pem, no_key, "key.pem");
    assert!(matches!(fault, CertificateFault::UnusableKey(_)), "{text}");
}

#[test]
fn a_damaged_element_of_the_chain_is_named() {
    let (_, issued) = leaf();
    let broken = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let (fault, text) = fault_of(issued.leaf_pem.clone() + broken, &issued.key_pem, "chain.pem");
    assert!(matches!(fault, CertificateFault::BrokenCertificate { element: 2, .. }), "{text}");
    let cut = &issued.leaf_pem[..issued.leaf_pem.len() / 2];
    let (fault, text) = fault_of(cut, &issued.key_pem, "chain.pem");
    assert!(matches!(fault, CertificateFault::BrokenPem(_)), "{text}");
}

#[test]
fn a_key_of_another_certificate_is_refused() {
    let (authority, issued) = leaf();
    let other = authority.issue(&["example.com"]);
    let (fault, text) = fault_of(&issued.leaf_pem, &other.key_pem, "key.pem");
    assert!(matches!(fault, CertificateFault::KeyMismatch), "{text}");
}

#[test]
fn a_chain_that_does_not_start_with_the_leaf_is_refused() {
    let (authority, issued) = leaf();
    let chain = authority.pem() + &issued.leaf_pem;
    let (fault, text) = fault_of(chain, &issued.key_pem, "chain.pem");
    assert!(matches!(fault, CertificateFault::LeafNotFirst { element: 2 }), "{text}");
}

#[test]
fn an_element_out_of_place_is_named_with_the_one_that_belongs_there() {
    let root = Authority::root();
    let intermediate = root.intermediate("Intermediate");
    let issued = intermediate.issue(&["example.com"]);
    let chain = format!("{}{}{}", issued.leaf_pem, root.pem(), intermediate.pem());
    let (fault, text) = fault_of(chain, &issued.key_pem, "chain.pem");
    let CertificateFault::WrongOrder { element: 2, expected_at: Some(3), expected, .. } = fault else {
        panic!("{text}")
    };
    assert!(expected.contains("Intermediate"), "{text}");
}

#[test]
fn an_element_that_belongs_to_another_chain_is_refused() {
    let (_, issued) = leaf();
    let stranger = Authority::root().intermediate("Stranger");
    let (fault, text) = fault_of(issued.leaf_pem + &stranger.pem(), &issued.key_pem, "chain.pem");
    assert!(matches!(fault, CertificateFault::WrongOrder { element: 2, expected_at: None, .. }), "{text}");
    assert!(text.contains("Stranger"), "{text}");
}

#[test]
fn a_leaf_written_twice_is_refused() {
    let (authority, issued) = leaf();
    let chain = issued.leaf_pem.repeat(2) + &authority.pem();
    let (fault, text) = fault_of(chain, &issued.key_pem, "chain.pem");
    assert!(matches!(fault, CertificateFault::Repeated { element: 2 }), "{text}");
}

#[test]
fn dates_are_a_warning_with_the_date_in_it() {
    let key = KeyPair::generate().unwrap();
    let issued = Authority::root().issue_with(&["example.com"], key, |params| {
        params.not_before = date_time_ymd(2026, 1, 1);
        params.not_after = date_time_ymd(2026, 4, 1);
    });
    let certificate = load(&issued.leaf_pem, &issued.key_pem).unwrap();
    let start = SystemTime::UNIX_EPOCH + NEW_YEAR_2026;
    let day = Duration::from_secs(24 * 60 * 60);
    assert_eq!(certificate.not_before(), start);
    assert_eq!(certificate.not_after(), start + 90 * day);
    for valid in [start, start + day, certificate.not_after()] {
        assert!(certificate.validity_problem(valid).is_none());
    }
    let early = certificate.validity_problem(start - day).unwrap();
    assert!(matches!(early.fault(), CertificateFault::NotYetValid { element: 1, .. }), "{early}");
    let late = certificate.validity_problem(start + 91 * day).unwrap();
    assert!(matches!(late.fault(), CertificateFault::Expired { element: 1, .. }), "{late}");
    for (warning, year) in [(early, "Jan"), (late, "Apr")] {
        assert!(warning.is_warning());
        assert!(warning.to_string().contains(year) && warning.to_string().contains("2026"), "{warning}");
    }
}

#[test]
fn a_certificate_from_memory_is_named_by_its_origin() {
    let error = Certificate::from_pem(b"", b"", "demo").unwrap_err();
    assert!(error.to_string().starts_with("demo: "), "{error}");
}
