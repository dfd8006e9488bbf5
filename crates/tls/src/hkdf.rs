//! HKDF (RFC 5869) for the key schedule of TLS 1.3 (RFC 8446 §7.1).
//!
//! aws-lc-rs' own extracts anew for each key that is expanded from an extracted secret, and takes in the secret anew for
//! every key expanded from it. A handshake expands some twenty keys from seven secrets; with SHA-384, where processors have
//! no instructions for it, that was a fifth of a resumed handshake. Here a secret is taken in once. The hash and HMAC are
//! aws-lc's.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use rustls::crypto::hmac::Tag;
use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};
use rustls::crypto::{CryptoProvider, aws_lc_rs as defaults};
use rustls::{CipherSuiteCommon, SupportedCipherSuite, Tls13CipherSuite};
use zeroize::Zeroizing;

/// Puts this in place of aws-lc-rs' own, in every suite of TLS 1.3.
pub(crate) fn replace_in(provider: &mut CryptoProvider) {
    for suite in &mut provider.cipher_suites {
        if let Some(ours) = SUITES.iter().find(|ours| ours.common.suite == suite.suite()) {
            *suite = SupportedCipherSuite::Tls13(ours);
        }
    }
}

static SUITES: LazyLock<Vec<Tls13CipherSuite>> = LazyLock::new(|| {
    let suites = defaults::default_provider().cipher_suites;
    suites.iter().filter_map(SupportedCipherSuite::tls13).map(with_this).collect()
});

fn with_this(suite: &Tls13CipherSuite) -> Tls13CipherSuite {
    let CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit } = suite.common;
    Tls13CipherSuite {
        common: CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit },
        hkdf_provider: if hash_provider.output_len() == SHA384.hash_bytes() { &SHA384 } else { &SHA256 },
        aead_alg: suite.aead_alg,
        quic: suite.quic,
    }
}

static SHA256: HkdfOnce = HkdfOnce(hmac::HMAC_SHA256);
static SHA384: HkdfOnce = HkdfOnce(hmac::HMAC_SHA384);

struct HkdfOnce(hmac::Algorithm);

impl HkdfOnce {
    fn hash_bytes(&self) -> usize {
        self.0.digest_algorithm().output_len()
    }

    /// RFC 5869 §2.2.
    fn extract(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        let salt = hmac::Key::new(self.0, salt.unwrap_or(&ZEROS[..self.hash_bytes()]));
        let mut extracted = Zeroizing::new(ZEROS);
        let extracted = &mut extracted[..self.hash_bytes()];
        sign(&salt, &[secret], extracted);
        Box::new(Expander(hmac::Key::new(self.0, extracted)))
    }
}

impl Hkdf for HkdfOnce {
    fn extract_from_zero_ikm(&self, salt: Option<&[u8]>) -> Box<dyn HkdfExpander> {
        self.extract(salt, &ZEROS[..self.hash_bytes()])
    }

    fn extract_from_secret(&self, salt: Option<&[u8]>, secret: &[u8]) -> Box<dyn HkdfExpander> {
        self.extract(salt, secret)
    }

    fn expander_for_okm(&self, okm: &OkmBlock) -> Box<dyn HkdfExpander> {
        Box::new(Expander(hmac::Key::new(self.0, okm.as_ref())))
    }

    fn hmac_sign(&self, key: &OkmBlock, message: &[u8]) -> Tag {
        Tag::new(hmac::sign(&hmac::Key::new(self.0, key.as_ref()), message).as_ref())
    }
}

/// A secret, taken in.
struct Expander(hmac::Key);

impl HkdfExpander for Expander {
    /// RFC 5869 §2.3.
    fn expand_slice(&self, info: &[&[u8]], output: &mut [u8]) -> Result<(), OutputLengthError> {
        let mut block = Zeroizing::new(ZEROS);
        let block = &mut block[..self.hash_len()];
        let blocks = output.len().div_ceil(block.len());
        let blocks = u8::try_from(blocks).map_err(|_| OutputLengthError)?;
        for (number, part) in (1..=blocks).zip(output.chunks_mut(block.len())) {
            let mut context = hmac::Context::with_key(&self.0);
            if number > 1 {
                context.update(block);
            }
            info.iter().for_each(|piece| context.update(piece));
            context.update(&[number]);
            block.copy_from_slice(context.sign().as_ref());
            part.copy_from_slice(&block[..part.len()]);
        }
        Ok(())
    }

    fn expand_block(&self, info: &[&[u8]]) -> OkmBlock {
        let mut block = Zeroizing::new(ZEROS);
        let block = &mut block[..self.hash_len()];
        // One block of output is never too long.
        let _ = self.expand_slice(info, block);
        OkmBlock::new(block)
    }

    fn hash_len(&self) -> usize {
        self.0.algorithm().digest_algorithm().output_len()
    }
}

fn sign(key: &hmac::Key, pieces: &[&[u8]], tag: &mut [u8]) {
    let mut context = hmac::Context::with_key(key);
    pieces.iter().for_each(|piece| context.update(piece));
    tag.copy_from_slice(context.sign().as_ref());
}

/// As long as the longest hash that rustls knows, in bytes; all zeros.
const ZEROS: [u8; OkmBlock::MAX_LEN] = [0; OkmBlock::MAX_LEN];

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(hex: &str) -> Vec<u8> {
        (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
    }

    fn expanded(expander: &dyn HkdfExpander, info: &[&[u8]], bytes: usize) -> Vec<u8> {
        let mut output = vec![0; bytes];
        expander.expand_slice(info, &mut output).map_err(|_| ()).unwrap();
        output
    }

    /// RFC 5869 §A.1 to §A.3.
    #[test]
    fn the_vectors_of_rfc_5869_come_out() {
        let counted = |from: u8, to: u8| (from..=to).collect::<Vec<_>>();
        let cases = [
            (
                vec![0x0b; 22],
                Some(counted(0, 0x0c)),
                counted(0xf0, 0xf9),
                "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865",
            ),
            (
                counted(0, 0x4f),
                Some(counted(0x60, 0xaf)),
                counted(0xb0, 0xff),
                "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c65e590e09\
                 da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87",
            ),
            (
                vec![0x0b; 22],
                None,
                vec![],
                "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8",
            ),
        ];
        for (secret, salt, info, expected) in cases {
            let expander = SHA256.extract_from_secret(salt.as_deref(), &secret);
            let expected = bytes(expected);
            assert_eq!(expanded(&*expander, &[&info], expected.len()), expected);
        }
    }

    #[test]
    fn it_agrees_with_the_one_that_it_replaces() {
        let suites = defaults::default_provider().cipher_suites;
        let mut seen = 0;
        for theirs in suites.iter().filter_map(SupportedCipherSuite::tls13) {
            let ours = with_this(theirs).hkdf_provider;
            let theirs = theirs.hkdf_provider;
            let okm = OkmBlock::new(&[7; 48][..theirs.extract_from_zero_ikm(None).hash_len()]);
            let pairs = [
                (ours.extract_from_zero_ikm(None), theirs.extract_from_zero_ikm(None)),
                (ours.extract_from_zero_ikm(Some(b"salt")), theirs.extract_from_zero_ikm(Some(b"salt"))),
                (ours.extract_from_secret(None, b"x"), theirs.extract_from_secret(None, b"x")),
                (
                    ours.extract_from_secret(Some(&[1; 200]), b""),
                    theirs.extract_from_secret(Some(&[1; 200]), b""),
                ),
                (ours.expander_for_okm(&okm), theirs.expander_for_okm(&okm)),
            ];
            for (ours, theirs) in pairs {
                assert_eq!(ours.hash_len(), theirs.hash_len());
                for info in [&[][..], &[&b"one"[..], b"", b"two"], &[&[9; 300]]] {
                    for bytes in [0, 1, 12, 16, 32, 33, 48, 49, 200, 255 * ours.hash_len()] {
                        assert!(expanded(&*ours, info, bytes) == expanded(&*theirs, info, bytes), "{bytes}");
                    }
                    assert_eq!(ours.expand_block(info).as_ref(), theirs.expand_block(info).as_ref());
                }
                let mut much = vec![0; 255 * ours.hash_len() + 1];
                assert!(ours.expand_slice(&[], &mut much).is_err());
            }
            assert_eq!(ours.hmac_sign(&okm, b"said").as_ref(), theirs.hmac_sign(&okm, b"said").as_ref());
            seen += 1;
        }
        assert_eq!(seen, 3);
    }

    #[test]
    fn every_suite_of_tls_1_3_has_it_and_is_otherwise_the_same() {
        let before = defaults::default_provider();
        let mut after = before.clone();
        replace_in(&mut after);
        assert_eq!(before.cipher_suites, after.cipher_suites);
        for (before, after) in before.cipher_suites.iter().zip(&after.cipher_suites) {
            let (Some(before), Some(after)) = (before.tls13(), after.tls13()) else { continue };
            assert!(!std::ptr::addr_eq(before.hkdf_provider, after.hkdf_provider));
            assert!(std::ptr::addr_eq(before.aead_alg, after.aead_alg));
            assert_eq!(before.common.confidentiality_limit, after.common.confidentiality_limit);
            assert_eq!(before.common.hash_provider.algorithm(), after.common.hash_provider.algorithm());
        }
    }
}
