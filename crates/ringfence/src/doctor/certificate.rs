//! What a peer thinks of a certificate chain: its names, its dates, and who vouches for it. Pure.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use rustls::{
    CertificateError, Error, RootCertStore,
    client::{verify_server_cert_signed_by_trust_anchor, verify_server_name},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
};
use x509_parser::{certificate::X509Certificate, extensions::GeneralName, prelude::FromDer};

/// What is thought of a chain.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Judgement {
    /// What it is, in a few words.
    pub(super) summary: String,
    /// Why peers refuse it: what is wrong, and what to do.
    pub(super) faults: Vec<(String, String)>,
    /// It ends soon.
    pub(super) ends_soon: bool,
}

/// Whom to trust: the authorities in a file, or those of the system.
pub(super) fn roots(file: Option<&Path>) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    match file {
        Some(file) => {
            let fault = |error: &dyn std::fmt::Display| format!("--ca {}: {error}", file.display());
            for certificate in CertificateDer::pem_file_iter(file).map_err(|error| fault(&error))? {
                roots.add(certificate.map_err(|error| fault(&error))?).map_err(|error| fault(&error))?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    match roots.is_empty() {
        true => {
            Err("no certificate authority is known; install ca-certificates, or name a file by --ca"
                .to_owned())
        }
        false => Ok(roots),
    }
}

/// Judges the chain that a server showed to somebody who meant `name`.
pub(super) fn judge(
    chain: &[CertificateDer<'_>],
    name: &str,
    roots: &RootCertStore,
    now: SystemTime,
) -> Judgement {
    let Some((leaf, intermediates)) = chain.split_first() else {
        let fault = ("no certificate is shown".to_owned(), "show one".to_owned());
        return Judgement { summary: "none".to_owned(), faults: vec![fault], ends_soon: false };
    };
    let (Ok(parsed), Ok((_, read))) = (ParsedCertificate::try_from(leaf), X509Certificate::from_der(leaf))
    else {
        let fault = ("the certificate cannot be read".to_owned(), "have it issued anew".to_owned());
        return Judgement { summary: "unreadable".to_owned(), faults: vec![fault], ends_soon: false };
    };
    let mut faults = Vec::new();
    if !names(&parsed, name) {
        let names = subject_names(&read);
        faults.push((
            format!("the certificate is for {names}, not for {name}"),
            format!("show one for {name}; other servers and clients refuse this one"),
        ));
    }
    faults.extend(anchoring_fault(&parsed, &read, intermediates, roots, now));
    let end = read.validity().not_after;
    let left = Duration::from_secs(u64::try_from(end.timestamp()).unwrap_or(0))
        .checked_sub(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let days = left.map_or(0, |left| left.as_secs() / SECONDS_A_DAY);
    Judgement {
        summary: format!("for {}, {days} days left", subject_names(&read)),
        ends_soon: left.is_some_and(|left| left < RENEWAL_MARGIN),
        faults,
    }
}

/// Seconds of a day, without leap seconds, which certificates do not know.
const SECONDS_A_DAY: u64 = 86_400;

/// As `ringfence check`: what ends sooner should have been renewed. Let's Encrypt's clients renew when 30 days are left;
/// half of that means that renewal has failed for a while.
const RENEWAL_MARGIN: Duration = Duration::from_secs(14 * SECONDS_A_DAY);

fn names(certificate: &ParsedCertificate<'_>, name: &str) -> bool {
    let bare = name.trim_start_matches('[').trim_end_matches(']');
    ServerName::try_from(bare).is_ok_and(|name| verify_server_name(certificate, &name).is_ok())
}

/// Why no authority vouches for the chain now.
fn anchoring_fault(
    certificate: &ParsedCertificate<'_>,
    read: &X509Certificate<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &RootCertStore,
    now: SystemTime,
) -> Option<(String, String)> {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let now = UnixTime::since_unix_epoch(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
    let error = verify_server_cert_signed_by_trust_anchor(certificate, roots, intermediates, now, algorithms)
        .err()?;
    let told = match error {
        Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. }) => (
            format!(
                "the certificate, or one that vouches for it, ended: the leaf on {}",
                read.validity().not_after
            ),
            "renew it, and have the proxy load the new one".to_owned(),
        ),
        Error::InvalidCertificate(
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. },
        ) => (
            format!("the certificate begins on {}", read.validity().not_before),
            "look at this machine's clock, or wait".to_owned(),
        ),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) if read.issuer() == read.subject() => (
            "the certificate is self-signed: nobody vouches for it".to_owned(),
            "have one issued by an authority that everybody trusts, such as Let's Encrypt".to_owned(),
        ),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) if intermediates.is_empty() => (
            format!(
                "the certificate comes alone, and its issuer {} is no authority that is trusted",
                read.issuer()
            ),
            "show the whole chain (fullchain.pem, not cert.pem): the intermediate certificate is missing"
                .to_owned(),
        ),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => (
            "no authority that is trusted vouches for the chain".to_owned(),
            "have it issued by an authority that everybody trusts; --ca names another one".to_owned(),
        ),
        other => (format!("the chain is refused: {other}"), "have it issued anew".to_owned()),
    };
    Some(told)
}

/// The names of its subject alternative names (RFC 5280 §4.2.1.6), the first few.
fn subject_names(certificate: &X509Certificate<'_>) -> String {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let told: Vec<_> = names
        .iter()
        .filter_map(|name| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            GeneralName::IPAddress([a, b, c, d]) => Some(format!("{a}.{b}.{c}.{d}")),
            GeneralName::IPAddress(octets) => {
                <[u8; 16]>::try_from(*octets).ok().map(|octets| std::net::Ipv6Addr::from(octets).to_string())
            }
            _ => None,
        })
        .collect();
    match told.len() {
        0 => "no name".to_owned(),
        count if count > NAMES_TOLD_MAX => {
            format!("{} and {} more", told[..NAMES_TOLD_MAX].join(", "), count - NAMES_TOLD_MAX)
        }
        _ => told.join(", "),
    }
}

/// Names of a certificate that are told: shared ones have a hundred.
const NAMES_TOLD_MAX: usize = 4;

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};

    use super::*;

    struct Authority(CertifiedIssuer<'static, KeyPair>);

    impl Authority {
        fn root() -> Self {
            Self::named("root")
        }

        fn named(name: &str) -> Self {
            let (params, key) = (Self::params(name), KeyPair::generate().unwrap());
            Self(CertifiedIssuer::self_signed(params, key).unwrap())
        }

        fn below(other: &Authority) -> Self {
            let (params, key) = (Self::params("intermediate"), KeyPair::generate().unwrap());
            Self(CertifiedIssuer::signed_by(params, key, &other.0).unwrap())
        }

        fn params(name: &str) -> CertificateParams {
            let mut params = CertificateParams::new(Vec::new()).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.distinguished_name.push(DnType::CommonName, name);
            params
        }

        fn issue(&self, names: &[&str]) -> CertificateDer<'static> {
            let mut params =
                CertificateParams::new(names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
                    .unwrap();
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2030, 1, 1);
            params.signed_by(&KeyPair::generate().unwrap(), &self.0).unwrap().der().clone()
        }

        fn trusted(&self) -> RootCertStore {
            let mut roots = RootCertStore::empty();
            roots.add(self.0.der().clone()).unwrap();
            roots
        }
    }

    /// Seconds since 1970 of the first day of a year, nearly.
    fn year(year: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs((year - 1970) * 31_557_600)
    }

    fn faults(judgement: &Judgement) -> String {
        judgement.faults.iter().map(|(what, advice)| format!("{what}; {advice}\n")).collect()
    }

    #[test]
    fn a_sound_chain_has_no_fault_and_tells_its_names_and_days() {
        let root = Authority::root();
        let intermediate = Authority::below(&root);
        let chain = [intermediate.issue(&["example.com", "*.example.com"]), intermediate.0.der().clone()];
        for name in ["example.com", "matrix.example.com"] {
            let judgement = judge(&chain, name, &root.trusted(), year(2026));
            assert_eq!(judgement.faults, [], "{name}");
            assert!(judgement.summary.starts_with("for example.com, *.example.com, 14"), "{judgement:?}");
            assert!(!judgement.ends_soon);
        }
        let soon = year(2030) - Duration::from_secs(5 * SECONDS_A_DAY);
        assert!(judge(&chain, "example.com", &root.trusted(), soon).ends_soon);
    }

    #[test]
    fn each_fault_is_told_apart() {
        let root = Authority::root();
        let intermediate = Authority::below(&root);
        let leaf = intermediate.issue(&["example.com"]);
        let whole = [leaf.clone(), intermediate.0.der().clone()];
        let trusted = root.trusted();
        let told = |chain: &[CertificateDer<'_>], name: &str, roots: &RootCertStore, now| {
            faults(&judge(chain, name, roots, now))
        };
        assert!(
            told(&whole, "other.example", &trusted, year(2026))
                .contains("is for example.com, not for other.example")
        );
        assert!(told(&whole, "example.com", &trusted, year(2031)).contains("renew it"));
        assert!(told(&whole, "example.com", &trusted, year(2019)).contains("begins on"));
        assert!(
            told(&[leaf], "example.com", &trusted, year(2026))
                .contains("the intermediate certificate is missing")
        );
        let stranger = Authority::named("stranger");
        assert!(
            told(&whole, "example.com", &stranger.trusted(), year(2026))
                .contains("no authority that is trusted")
        );
        let params = CertificateParams::new(["example.com".to_owned()]).unwrap();
        let own = [params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()];
        assert!(told(&own, "example.com", &stranger.trusted(), year(2026)).contains("self-signed"));
        assert!(told(&[], "example.com", &trusted, year(2026)).contains("no certificate is shown"));
    }

    #[test]
    fn both_a_wrong_name_and_an_expired_chain_are_told() {
        let root = Authority::root();
        let chain = [root.issue(&["192.0.2.1"])];
        let judgement = judge(&chain, "example.com", &root.trusted(), year(2031));
        assert_eq!(judgement.faults.len(), 2, "{judgement:?}");
        assert!(judge(&chain, "192.0.2.1", &root.trusted(), year(2026)).faults.is_empty());
    }
}
