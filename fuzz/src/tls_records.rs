//! Records of an open TLS 1.3 session as a peer may make them that has the keys, wherever they are split.
//!
//! The first three bytes choose the suite, the lengths of the pieces, and how large the caller's plaintext buffer is. Then
//! follow steps. The peer's half is written from RFC 8446 alone: key schedule from the traffic secrets on, records, updates.

use std::sync::{Arc, Mutex};

use aws_lc_rs::{aead, hkdf};
use ringfence_tls::SessionError;
use rustls::{ClientConfig, ClientConnection, KeyLog, RootCertStore, pki_types::ServerName, version::TLS13};

use crate::client_hello::{Server, certified};

/// Plays the steps; see the module.
pub fn tls_records(input: &[u8]) {
    let Some(([suite, piece, room], steps)) = input.split_first_chunk() else { return };
    let mut story = Story::new(usize::from(*suite) % 3, ROOMS[usize::from(*room) % ROOMS.len()]);
    let piece = usize::from(*piece) + 1;
    let mut steps = steps.iter().copied();
    let mut result = Ok(());
    for _ in 0..STEPS_MAX {
        let Some(step) = steps.next() else { break };
        result = story.step(step, &mut steps, piece);
        if result.is_err() {
            break;
        }
    }
    story.check(result.err());
}

/// Bytes of plaintext that a caller has room for.
const ROOMS: [usize; 5] = [1, 100, 600, 5000, 20_000];

/// Steps of one input; more say nothing new.
const STEPS_MAX: usize = 200;

/// Key updates in a row that are certainly borne.
const KEY_UPDATES_BORNE: usize = 32;

/// Empty records in a row that are certainly borne.
const EMPTY_BORNE: usize = 32;

/// Content types (RFC 8446 §5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// What both sides have said and have to say.
struct Story {
    server: Server,
    to_server: Keys,
    from_server: Keys,
    /// All data that the peer has sent in good order.
    said: Vec<u8>,
    /// Whether it has sent anything that may be refused.
    is_honest: bool,
    closed: bool,
    key_updates: usize,
    empty: usize,
    /// Data that the session was given and has not been read yet.
    answers: Vec<u8>,
}

impl Story {
    fn new(suite: usize, room: usize) -> Story {
        let (server, to_server, from_server) = open(suite, room);
        Story {
            server,
            to_server,
            from_server,
            said: Vec::new(),
            is_honest: true,
            closed: false,
            key_updates: 0,
            empty: 0,
            answers: Vec::new(),
        }
    }

    fn step(
        &mut self,
        step: u8,
        rest: &mut impl Iterator<Item = u8>,
        piece: usize,
    ) -> Result<(), SessionError> {
        let argument = rest.next().unwrap_or(0);
        match step % 8 {
            // Data.
            0 => self.data(&vec![argument; usize::from(argument)], piece),
            1 => self.data(&vec![argument; usize::from(argument) * 65], piece),
            // Any inner plaintext: content, type and padding are the input's.
            2 => {
                let inner: Vec<_> = rest.take(usize::from(argument)).collect();
                self.is_honest = false;
                if inner.len() <= 1 << 14
                    && let Some(end) = inner.iter().rposition(|byte| *byte != 0)
                    && inner[end] == DATA
                {
                    self.said.extend_from_slice(&inner[..end]);
                }
                let record = self.to_server.seal(&inner);
                self.feed(&record, piece)
            }
            3 => {
                self.key_updates += 1;
                self.empty = 0;
                self.is_honest &= self.key_updates <= KEY_UPDATES_BORNE;
                let message = [24, 0, 0, 1, argument % 2];
                let cut = usize::from(argument / 2) % message.len();
                let mut records = Vec::new();
                for part in [&message[..cut], &message[cut..]].into_iter().filter(|part| !part.is_empty()) {
                    records.extend(self.to_server.seal(&[part, &[HANDSHAKE]].concat()));
                }
                self.to_server.update();
                self.feed(&records, piece)
            }
            4 => {
                let answer = vec![argument; usize::from(argument) * 33];
                let (first, second) = answer.split_at(answer.len() / 3);
                let sent = self.server.session.encrypt(&[first, second], &mut self.server.outgoing);
                sent.expect("nothing has closed this half");
                self.answers.extend_from_slice(&answer);
                self.read_answers();
                Ok(())
            }
            // Anything at all, not protected.
            5 => {
                let bytes: Vec<_> = rest.take(usize::from(argument)).collect();
                self.is_honest &= bytes.is_empty();
                self.feed(&bytes, piece)
            }
            // A record that was changed on its way.
            6 => {
                let mut record = self.to_server.seal(&[b"changed".as_slice(), &[DATA]].concat());
                let position = usize::from(argument) % record.len();
                // The minor version means nothing.
                record[if position == 2 { 0 } else { position }] ^= 0x40;
                self.is_honest = false;
                self.feed(&record, piece)
            }
            _ => {
                self.closed = true;
                let record = self.to_server.seal(&[1 + argument % 2, 0, ALERT]);
                self.feed(&record, piece)
            }
        }
    }

    fn data(&mut self, content: &[u8], piece: usize) -> Result<(), SessionError> {
        if content.len() > 1 << 14 {
            self.is_honest = false;
        } else if !self.closed {
            self.said.extend_from_slice(content);
        }
        if content.is_empty() {
            self.empty += 1;
            self.is_honest &= self.empty <= EMPTY_BORNE;
        } else {
            (self.empty, self.key_updates) = (0, 0);
        }
        let record = self.to_server.seal(&[content, &[DATA]].concat());
        self.feed(&record, piece)
    }

    fn feed(&mut self, bytes: &[u8], piece: usize) -> Result<(), SessionError> {
        bytes.chunks(piece).try_for_each(|piece| self.server.feed(piece))
    }

    /// Opens what the session has said: data as it was given, and what belongs beside it.
    fn read_answers(&mut self) -> Vec<u8> {
        let mut last = Vec::new();
        let records = std::mem::take(&mut self.server.outgoing);
        let mut rest = &records[..];
        while let Some((content_type, content)) = self.from_server.open(&mut rest) {
            match content_type {
                DATA => {
                    assert!(self.answers.starts_with(&content), "other data than was given");
                    self.answers.drain(..content.len());
                }
                HANDSHAKE => {
                    assert_eq!(content, [24, 0, 0, 1, 0]);
                    self.from_server.update();
                }
                ALERT => assert_eq!((content.len(), rest.len()), (2, 0), "an alert is short, and the last"),
                other => panic!("a record of type {other}"),
            }
            last = content;
        }
        assert!(self.answers.is_empty(), "data that was not sent");
        last
    }

    fn check(mut self, error: Option<SessionError>) {
        assert!(self.said.starts_with(&self.server.data), "data that nobody sent");
        let last = self.read_answers();
        match error {
            None if self.is_honest => {
                assert!(self.server.data == self.said, "data was lost");
                assert_eq!(self.server.session.has_peer_closed(), self.closed);
            }
            None => {}
            Some(error) => {
                assert!(!self.is_honest, "an honest peer was refused: {error}");
                assert!(last.is_empty() || last[0] == 2, "{error} said by {last:?}");
            }
        }
    }
}

/// A session after its handshake, and the peer's keys.
fn open(suite: usize, room: usize) -> (Server, Keys, Keys) {
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    provider.cipher_suites = vec![provider.cipher_suites[suite]];
    let mut roots = RootCertStore::empty();
    roots.add(certified().0.clone()).expect("a root");
    let mut config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[&TLS13])
        .expect("a version that is supported")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let secrets = Arc::new(Secrets::default());
    config.key_log = secrets.clone();
    let name = ServerName::try_from("example.com").expect("a name");
    let mut client = ClientConnection::new(Arc::new(config), name).expect("a client");
    let mut server = Server::new(room);
    while client.is_handshaking() || server.session.is_handshaking() {
        let mut flight = Vec::new();
        while client.wants_write() && client.write_tls(&mut flight).is_ok() {}
        server.feed(&flight).expect("an honest client");
        let said = std::mem::take(&mut server.outgoing);
        let mut rest = &said[..];
        while !rest.is_empty() && matches!(client.read_tls(&mut rest), Ok(1..)) {
            client.process_new_packets().expect("an honest server");
        }
    }
    let is_wide = suite_name(&client).contains("SHA384");
    let algorithm = match suite_name(&client) {
        name if name.contains("AES_128") => &aead::AES_128_GCM,
        name if name.contains("AES_256") => &aead::AES_256_GCM,
        _ => &aead::CHACHA20_POLY1305,
    };
    let hash = if is_wide { hkdf::HKDF_SHA384 } else { hkdf::HKDF_SHA256 };
    let to_server = Keys::new(algorithm, hash, secrets.of("CLIENT_TRAFFIC_SECRET_0"), 0);
    // One record of the server has gone: its tickets.
    let from_server = Keys::new(algorithm, hash, secrets.of("SERVER_TRAFFIC_SECRET_0"), 1);
    (server, to_server, from_server)
}

fn suite_name(client: &ClientConnection) -> String {
    format!("{:?}", client.negotiated_cipher_suite().expect("a complete handshake").suite())
}

/// What the client's library writes down for such as this.
#[derive(Debug, Default)]
struct Secrets(Mutex<Vec<(String, Vec<u8>)>>);

impl KeyLog for Secrets {
    fn log(&self, label: &str, _: &[u8], secret: &[u8]) {
        self.0.lock().expect("no panic").push((label.to_owned(), secret.to_vec()));
    }
}

impl Secrets {
    fn of(&self, label: &str) -> Vec<u8> {
        let secrets = self.0.lock().expect("no panic");
        secrets.iter().find(|(one, _)| one == label).expect("a secret of that name").1.clone()
    }
}

/// One direction, by RFC 8446 §5.2, §5.3, §7.2, §7.3.
struct Keys {
    algorithm: &'static aead::Algorithm,
    hash: hkdf::Algorithm,
    secret: Vec<u8>,
    key: aead::LessSafeKey,
    iv: Vec<u8>,
    sequence: u64,
}

impl Keys {
    fn new(
        algorithm: &'static aead::Algorithm,
        hash: hkdf::Algorithm,
        secret: Vec<u8>,
        sequence: u64,
    ) -> Keys {
        let key = expand_label(hash, &secret, "key", algorithm.key_len());
        let key = aead::LessSafeKey::new(aead::UnboundKey::new(algorithm, &key).expect("its length"));
        let iv = expand_label(hash, &secret, "iv", aead::NONCE_LEN);
        Keys { algorithm, hash, secret, key, iv, sequence }
    }

    fn update(&mut self) {
        let next = expand_label(self.hash, &self.secret, "traffic upd", self.secret.len());
        *self = Keys::new(self.algorithm, self.hash, next, 0);
    }

    fn nonce(&mut self) -> aead::Nonce {
        let sequence = [&[0; 4][..], &self.sequence.to_be_bytes()].concat();
        self.sequence += 1;
        let nonce: Vec<u8> = self.iv.iter().zip(sequence).map(|(iv, byte)| iv ^ byte).collect();
        aead::Nonce::try_assume_unique_for_key(&nonce).expect("its length")
    }

    fn seal(&mut self, inner: &[u8]) -> Vec<u8> {
        let len = u16::try_from(inner.len() + 16).expect("a record").to_be_bytes();
        let header = [DATA, 3, 3, len[0], len[1]];
        let (nonce, mut sealed) = (self.nonce(), inner.to_vec());
        self.key.seal_in_place_append_tag(nonce, aead::Aad::from(header), &mut sealed).expect("a record");
        [&header[..], &sealed].concat()
    }

    fn open(&mut self, records: &mut &[u8]) -> Option<(u8, Vec<u8>)> {
        let (header, rest) = records.split_first_chunk::<5>()?;
        assert_eq!(header[..3], [DATA, 3, 3]);
        let (sealed, rest) = rest.split_at(usize::from(u16::from_be_bytes([header[3], header[4]])));
        *records = rest;
        let (nonce, mut sealed) = (self.nonce(), sealed.to_vec());
        let opened = self.key.open_in_place(nonce, aead::Aad::from(header), &mut sealed);
        let (content_type, content) = opened.expect("what the session made").split_last().expect("a type");
        Some((*content_type, content.to_vec()))
    }
}

/// RFC 8446 §7.1.
fn expand_label(hash: hkdf::Algorithm, secret: &[u8], label: &str, bytes: usize) -> Vec<u8> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let label = ["tls13 ", label].concat();
    let (length, label_length) = (bytes as u16, label.len() as u8);
    let info = [&length.to_be_bytes()[..], &[label_length], label.as_bytes(), &[0]];
    let prk = hkdf::Prk::new_less_safe(hash, secret);
    let mut expanded = vec![0; bytes];
    let okm = prk.expand(&info, Length(bytes)).expect("a length that can be");
    okm.fill(&mut expanded).expect("the same length");
    expanded
}
