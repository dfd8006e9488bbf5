//! Sessions against rustls' own client (its buffered API), over memory. The pump below plays the part
//! of two TCP streams that cut wherever the test says.

mod client;
mod closing;
mod data;
mod forger;
mod handshake;
mod refusals;
mod tls13;

use std::io::{Read, Write};
use std::sync::Arc;

use rustls::client::ClientConnection;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use super::*;
use crate::config::{provider, server_config};
use crate::fixtures::Authority;

const TLS12: &SupportedProtocolVersion = &rustls::version::TLS12;
const TLS13: &SupportedProtocolVersion = &rustls::version::TLS13;

/// A session and the buffers that its caller keeps.
struct Server {
    session: Session,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// All plaintext that came out.
    data: Vec<u8>,
    /// How long the plaintext buffer is that each call is given.
    plaintext_bytes: usize,
}

impl Server {
    fn new(config: &Arc<ServerConfig>) -> Server {
        let session = Session::new(Arc::clone(config));
        Server {
            session,
            incoming: Vec::new(),
            outgoing: Vec::new(),
            data: Vec::new(),
            plaintext_bytes: 20_000,
        }
    }

    /// One read from the transport, and what a caller does with it.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.incoming.extend_from_slice(bytes);
        loop {
            let mut plaintext = vec![0xee; self.plaintext_bytes];
            let received = self.session.receive(&mut self.incoming, &mut plaintext, &mut self.outgoing)?;
            self.incoming.drain(..received.consumed);
            self.data.extend_from_slice(&plaintext[..received.produced]);
            // Behind it, long records of TLS 1.3 leave their type and padding, nothing else.
            let behind = (received.produced + 1).min(plaintext.len());
            assert!(plaintext[behind..].iter().all(|byte| *byte == 0xee || *byte == 0));
            assert_eq!(received.state, self.session.state());
            if !received.plaintext_is_full {
                assert!(self.session.unread.is_empty() && self.session.unread.capacity() == 0);
                return Ok(());
            }
            assert_eq!(received.produced, self.plaintext_bytes, "said to be full");
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        let before = self.outgoing.len();
        let appended = self.session.encrypt(&[bytes], &mut self.outgoing).unwrap();
        assert_eq!(self.outgoing.len(), before + appended);
    }
}

/// A client and a server, and what the client has received.
struct Pair {
    client: ClientConnection,
    server: Server,
    client_data: Vec<u8>,
}

impl Pair {
    fn new(client: ClientConfig, config: &Arc<ServerConfig>) -> Pair {
        Pair::named(client, "example.com", config)
    }

    fn named(client: ClientConfig, name: &str, config: &Arc<ServerConfig>) -> Pair {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let client = ClientConnection::new(Arc::new(client), name).unwrap();
        Pair { client, server: Server::new(config), client_data: Vec::new() }
    }

    /// With writes, pieces and records of random sizes, and the handshake done.
    fn random(mut client: ClientConfig, config: &Arc<ServerConfig>, random: &mut Random) -> Pair {
        client.max_fragment_size = Some(32 + random.len(16_000));
        let mut pair = Pair::new(client, config);
        pair.server.plaintext_bytes = random.len(40_000);
        pair.client.set_buffer_limit(None);
        pair.pump_in(|| random.len(3000)).unwrap();
        pair
    }

    /// Moves bytes both ways until both are quiet, in pieces as long as `next_len` says.
    fn pump_in(&mut self, mut next_len: impl FnMut() -> usize) -> Result<(), SessionError> {
        loop {
            let to_server = written_by(&mut self.client);
            let mut rest = &to_server[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(next_len().min(rest.len()));
                rest = after;
                self.server.feed(piece)?;
            }
            let to_client = std::mem::take(&mut self.server.outgoing);
            if to_client.is_empty() && to_server.is_empty() {
                return Ok(());
            }
            let mut rest = &to_client[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(next_len().min(rest.len()));
                rest = after;
                read_by(&mut self.client, piece, &mut self.client_data).unwrap();
            }
        }
    }

    fn pump(&mut self) {
        self.pump_in(|| usize::MAX).unwrap();
    }

    fn connected(client: ClientConfig, config: &Arc<ServerConfig>) -> Pair {
        let mut pair = Pair::new(client, config);
        pair.pump();
        assert!(!pair.client.is_handshaking() && !pair.server.session.is_handshaking());
        pair
    }
}

/// Everything that the client has to send.
fn written_by(client: &mut ClientConnection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while client.wants_write() {
        client.write_tls(&mut bytes).unwrap();
    }
    bytes
}

/// Gives the client ciphertext and collects its plaintext.
fn read_by(client: &mut ClientConnection, mut bytes: &[u8], data: &mut Vec<u8>) -> Result<(), rustls::Error> {
    while !bytes.is_empty() {
        client.read_tls(&mut bytes).unwrap();
        client.process_new_packets()?;
        match client.reader().read_to_end(data) {
            Ok(_) => {}
            Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock),
        }
    }
    Ok(())
}

fn client(authority: &Authority, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
    client_with(provider(), authority, versions)
}

fn client_with(
    provider: Arc<CryptoProvider>,
    authority: &Authority,
    versions: &[&'static SupportedProtocolVersion],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der()).unwrap();
    ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth()
}

/// A server for `example.com`, and its authority.
fn server() -> (Authority, Arc<ServerConfig>) {
    let authority = Authority::root();
    let config = server_config(vec![authority.certificate(&["example.com"])]).unwrap();
    (authority, config)
}

/// Bytes that look random and differ by `seed`.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut random = Random::new(seed);
    std::iter::repeat_with(|| random.next().to_le_bytes()).flatten().take(len).collect()
}

fn sha256(bytes: &[u8]) -> Vec<u8> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref().to_vec()
}

/// Plaintext lengths are not seen from outside; this gives those of whole records, headers included.
fn record_lens(mut ciphertext: &[u8]) -> Vec<usize> {
    let mut lens = Vec::new();
    while let [_, _, _, high, low, ..] = ciphertext {
        let len = 5 + usize::from(u16::from_be_bytes([*high, *low]));
        lens.push(len);
        ciphertext = &ciphertext[len..];
    }
    assert!(ciphertext.is_empty(), "whole records only");
    lens
}

/// So many seeds, others in each run, or the one of `RINGFENCE_SEED`; each is printed.
fn seeds(count: u64) -> impl Iterator<Item = u64> {
    let given = std::env::var("RINGFENCE_SEED").ok().and_then(|seed| seed.parse().ok());
    let first = given.unwrap_or_else(|| u64::from(std::process::id()) << 32);
    (first..first + if given.is_some() { 1 } else { count }).inspect(|seed| println!("RINGFENCE_SEED={seed}"))
}

/// SplitMix64: small, and the same everywhere for a seed.
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Random {
        Random(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 1 to `max`; small ones as likely as large ones.
    fn len(&mut self, max: usize) -> usize {
        let bits = self.next() % u64::from(usize::BITS - max.leading_zeros());
        let below = 1 << (bits + 1);
        usize::try_from(1 + self.next() % below).unwrap().min(max)
    }
}

#[test]
fn an_idle_session_is_small() {
    let bytes = size_of::<Session>();
    println!("a Session is {bytes} bytes");
    assert!(bytes <= 256, "{bytes}");
}
