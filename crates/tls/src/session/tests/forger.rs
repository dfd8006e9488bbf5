//! Makes records that no well-behaved client would send, with the client's own keys, and reads what comes back.

use super::*;
use aws_lc_rs::aead::{
    AES_128_GCM, AES_256_GCM, Aad, Algorithm, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey,
};
use rustls::{CipherSuite, ConnectionTrafficSecrets};

pub(super) const ALERT: u8 = 21;
pub(super) const HANDSHAKE: u8 = 22;
pub(super) const DATA: u8 = 23;
/// A complete `KeyUpdate` that asks for none in return (RFC 8446 §4.6.3).
pub(super) const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// The three suites of TLS 1.3 that there are here.
pub(super) const SUITES: [CipherSuite; 3] = [
    CipherSuite::TLS13_AES_128_GCM_SHA256,
    CipherSuite::TLS13_AES_256_GCM_SHA384,
    CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
];

/// The client's place in a session that is open.
pub(super) struct Forger {
    to_server: Keys,
    from_server: Keys,
    version: Version,
}

struct Keys {
    key: LessSafeKey,
    iv: [u8; 12],
    sequence: u64,
}

impl Forger {
    pub(super) fn instead_of(pair: Pair, version: Version) -> (Forger, Server) {
        let secrets = pair.client.dangerous_extract_secrets().unwrap();
        let (to_server, from_server) = (Keys::new(secrets.tx), Keys::new(secrets.rx));
        (Forger { to_server, from_server, version }, pair.server)
    }

    pub(super) fn record(&mut self, content_type: u8, content: &[u8]) -> Vec<u8> {
        match self.version {
            Version::Tls13 => self.inner(&[content, &[content_type]].concat()),
            Version::Tls12 => self.to_server.seal_tls12(content_type, content),
        }
    }

    /// A record of TLS 1.3 with this inside: content, type and padding, or none of these.
    pub(super) fn inner(&mut self, inner: &[u8]) -> Vec<u8> {
        self.to_server.seal_tls13(inner)
    }

    /// Type and content of each record of TLS 1.3 that the server has sent.
    pub(super) fn read(&mut self, mut records: &[u8]) -> Vec<(u8, Vec<u8>)> {
        let mut read = Vec::new();
        for len in record_lens(records) {
            let (record, rest) = records.split_at(len);
            records = rest;
            let header: [u8; 5] = record[..5].try_into().unwrap();
            assert_eq!(header[..3], [DATA, 3, 3]);
            let nonce = self.from_server.next_nonce();
            let mut sealed = record[5..].to_vec();
            let opened = self.from_server.key.open_in_place(nonce, Aad::from(header), &mut sealed).unwrap();
            let (content_type, content) = opened.split_last().unwrap();
            read.push((*content_type, content.to_vec()));
        }
        read
    }
}

impl Keys {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Keys {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => panic!("another suite"),
        };
        let key = LessSafeKey::new(UnboundKey::new(algorithm, key.as_ref()).unwrap());
        Keys { key, iv: iv.as_ref().try_into().unwrap(), sequence }
    }

    /// RFC 8446 §5.3.
    fn next_nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        nonce.iter_mut().skip(4).zip(self.sequence.to_be_bytes()).for_each(|(byte, other)| *byte ^= other);
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// RFC 8446 §5.2.
    fn seal_tls13(&mut self, inner: &[u8]) -> Vec<u8> {
        let mut sealed = inner.to_vec();
        let len = u16::try_from(sealed.len() + 16).unwrap().to_be_bytes();
        let header = [23, 3, 3, len[0], len[1]];
        let nonce = self.next_nonce();
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut sealed).unwrap();
        [&header[..], &sealed].concat()
    }

    /// RFC 5246 §6.2.3.3, RFC 5288 §3.
    fn seal_tls12(&mut self, content_type: u8, content: &[u8]) -> Vec<u8> {
        let sequence = self.sequence.to_be_bytes();
        self.sequence += 1;
        let mut nonce = self.iv;
        nonce[4..].copy_from_slice(&sequence);
        let mut sealed = content.to_vec();
        let len = u16::try_from(content.len()).unwrap().to_be_bytes();
        let additional = [&sequence[..], &[content_type, 3, 3], &len].concat();
        let nonce = Nonce::assume_unique_for_key(nonce);
        self.key.seal_in_place_append_tag(nonce, Aad::from(additional), &mut sealed).unwrap();
        let len = u16::try_from(8 + sealed.len()).unwrap().to_be_bytes();
        [&[content_type, 3, 3], &len[..], &sequence, &sealed].concat()
    }
}

pub(super) fn forger(version: &'static SupportedProtocolVersion) -> (Forger, Server) {
    let (authority, config) = server();
    let pair = Pair::connected(extractable(client(&authority, &[version])), &config);
    let version = pair.server.session.version().unwrap();
    Forger::instead_of(pair, version)
}

pub(super) fn forger_with(suite: CipherSuite) -> (Forger, Server) {
    let (authority, config) = server();
    let pair = Pair::connected(extractable(client_with(&authority, suite)), &config);
    assert_eq!(pair.client.negotiated_cipher_suite().unwrap().suite(), suite);
    Forger::instead_of(pair, Version::Tls13)
}

fn extractable(mut settings: ClientConfig) -> ClientConfig {
    settings.enable_secret_extraction = true;
    settings
}

/// A client that offers one suite of TLS 1.3.
pub(super) fn client_with(authority: &Authority, suite: CipherSuite) -> ClientConfig {
    let mut only = rustls::crypto::aws_lc_rs::default_provider();
    only.cipher_suites.retain(|one| one.suite() == suite);
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    ClientConfig::builder_with_provider(Arc::new(only))
        .with_protocol_versions(&[TLS13])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}
