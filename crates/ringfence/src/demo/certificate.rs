//! A throwaway certificate authority and the one certificate that it signs, valid for this machine's own names.
//!
//! The authority's key never leaves memory: whoever finds the authority's certificate after the demo can forge
//! nothing with it.

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use rcgen::{KeyUsagePurpose, date_time_ymd};

/// What the demo writes to files, each in PEM.
pub(super) struct Certificates {
    /// The authority that clients have to trust.
    pub(super) authority: String,
    /// The certificate for `localhost`, `127.0.0.1` and `::1`.
    pub(super) leaf: String,
    /// The private key of `leaf`.
    pub(super) leaf_key: String,
}

/// Makes an authority and a certificate, both valid from yesterday for [`VALID_DAYS`].
pub(super) fn make() -> Result<Certificates, rcgen::Error> {
    let today = TimeZone::UTC.to_datetime(Timestamp::now()).date();
    let (authority_pem, authority) = make_authority(today)?;
    let mut params = CertificateParams::new(NAMES.map(str::to_owned))?;
    set_validity(&mut params, today);
    params.distinguished_name.push(DnType::CommonName, "localhost");
    params.use_authority_key_identifier_extension = true;
    params.key_usages.push(KeyUsagePurpose::DigitalSignature);
    params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    let key = KeyPair::generate()?;
    let leaf = params.signed_by(&key, &authority)?;
    Ok(Certificates { authority: authority_pem, leaf: leaf.pem(), leaf_key: key.serialize_pem() })
}

fn make_authority(today: Date) -> Result<(String, Issuer<'static, KeyPair>), rcgen::Error> {
    let mut params = CertificateParams::new([])?;
    set_validity(&mut params, today);
    params.distinguished_name.push(DnType::CommonName, "ringfence demo, valid for a few days");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages.push(KeyUsagePurpose::KeyCertSign);
    params.key_usages.push(KeyUsagePurpose::CrlSign);
    let key = KeyPair::generate()?;
    let pem = params.self_signed(&key)?.pem();
    Ok((pem, Issuer::new(params, key)))
}

/// Midnights in UTC: from yesterday, because a client's clock may be a few hours behind.
fn set_validity(params: &mut CertificateParams, today: Date) {
    let midnight = |date: Date| {
        date_time_ymd(date.year().into(), date.month().unsigned_abs(), date.day().unsigned_abs())
    };
    params.not_before = midnight(today.saturating_sub(1.day()));
    params.not_after = midnight(today.saturating_add(VALID_DAYS.days()));
}

/// The names by which a client on this machine may call the demo.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Days that the certificates hold: longer than anyone leaves a demo running.
const VALID_DAYS: i64 = 7;
