//! TLS sessions fed with whatever a peer may send, wherever it is split.
//!
//! The first three bytes say how: the peer (bytes as they are, or a real client whose flights are tampered with), the
//! lengths of the pieces, and how large the caller's plaintext buffer is.

use std::sync::{Arc, OnceLock};

use ringfence_tls::{
    Certificate, HELD_BYTES_MAX, ServerConfig, Session, SessionError, SessionState, server_config,
};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore, SupportedProtocolVersion,
    pki_types::{CertificateDer, ServerName},
    version::{TLS12, TLS13},
};

/// Feeds a session; see the module.
pub fn client_hello(input: &[u8]) {
    let Some(([peer, piece, room], bytes)) = input.split_first_chunk() else { return };
    let (piece, room) = (usize::from(*piece) + 1, ROOMS[usize::from(*room) % ROOMS.len()]);
    match peer % 8 {
        0 => check_tampered(bytes, piece, room, &TLS13),
        1 => check_tampered(bytes, piece, room, &TLS12),
        // As often as it takes to reach the bounds on what is held.
        2 => check_bytes(&bytes.repeat(usize::from(peer / 8) * 4 + 1), piece * 16, room),
        _ => check_bytes(bytes, piece, room),
    }
}

/// Bytes of plaintext that a caller has room for.
const ROOMS: [usize; 4] = [1, 100, 5000, 20_000];

/// Most that a session has to say at once, in bytes: its first flight, with a certificate of some 1 KiB and a hybrid
/// key share of as much.
const SAID_BYTES_MAX: usize = 16 * 1024;

/// The verdict on plain bytes does not depend on where they are split.
fn check_bytes(bytes: &[u8], piece: usize, room: usize) {
    let feed = |piece: usize| {
        let mut peer = Server::new(room);
        bytes.chunks(piece).find_map(|piece| peer.feed(piece).err()).map(|error| error.to_string())
    };
    let verdict = feed(piece);
    // Large pieces may hold what is too much at once, where small ones are refused for something else before.
    if bytes.len() < HELD_BYTES_MAX {
        assert_eq!(verdict, feed(bytes.len().max(1)), "pieces of {piece} bytes");
    }
}

/// A client and a server that talk, while `changes` change bytes of the client's: pairs of a distance and a mask.
fn check_tampered(changes: &[u8], piece: usize, room: usize, version: &'static SupportedProtocolVersion) {
    let mut client = client(version);
    let mut server = Server::new(room);
    let mut changes = changes.chunks_exact(2);
    let mut at_next = changes.next().map(|change| (usize::from(change[0]) * 8, change[1]));
    let mut tampered = false;
    for _ in 0..ROUNDS_MAX {
        let mut flight = Vec::new();
        while client.wants_write() && client.write_tls(&mut flight).is_ok() {}
        for byte in &mut flight {
            match &mut at_next {
                Some((0, mask)) => {
                    *byte ^= *mask;
                    tampered |= *mask != 0;
                    at_next = changes.next().map(|change| (usize::from(change[0]) * 8, change[1]));
                }
                Some((distance, _)) => *distance -= 1,
                None => {}
            }
        }
        let quiet = flight.is_empty() && server.outgoing.is_empty();
        if quiet || flight.chunks(piece).any(|piece| server.feed(piece).is_err()) {
            break;
        }
        if !server.session.is_handshaking()
            && server.session.encrypt(&[b"answer"], &mut server.outgoing).is_err()
        {
            break;
        }
        let said = std::mem::take(&mut server.outgoing);
        let mut rest = &said[..];
        while !rest.is_empty() && matches!(client.read_tls(&mut rest), Ok(1..)) {
            if client.process_new_packets().is_err() {
                break;
            }
        }
        if !client.is_handshaking() && server.data.len() < 100 {
            // Fails when the client has given up.
            let _ = std::io::Write::write_all(&mut client.writer(), b"a request of some length");
        }
    }
    if !tampered {
        assert_eq!(server.session.state(), SessionState::Open, "an honest client was refused");
        assert!(server.data.starts_with(b"a request of some length"), "its data was lost");
    }
}

/// Rounds of both sides: two make a handshake, and some more carry data.
const ROUNDS_MAX: usize = 8;

/// A session and what its caller keeps.
pub(crate) struct Server {
    pub(crate) session: Session,
    incoming: Vec<u8>,
    pub(crate) outgoing: Vec<u8>,
    pub(crate) data: Vec<u8>,
    room: usize,
}

impl Server {
    pub(crate) fn new(room: usize) -> Server {
        let session = Session::new(certified().1.clone());
        Server { session, incoming: Vec::new(), outgoing: Vec::new(), data: Vec::new(), room }
    }

    /// What a caller does with one read.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.incoming.extend_from_slice(bytes);
        loop {
            let (held, said) = (self.incoming.len(), self.outgoing.len());
            let mut plaintext = vec![0; self.room];
            let received = self.session.receive(&mut self.incoming, &mut plaintext, &mut self.outgoing);
            assert!(
                self.outgoing.len() - said <= SAID_BYTES_MAX,
                "{} bytes said",
                self.outgoing.len() - said
            );
            let received = received.inspect_err(|error| check_refused(&mut self.session, error))?;
            assert!(received.consumed <= held && received.produced <= self.room, "{received:?}");
            assert_eq!(received.state, self.session.state());
            self.incoming.drain(..received.consumed);
            self.data.extend_from_slice(&plaintext[..received.produced]);
            if !received.plaintext_is_full {
                assert!(self.incoming.len() < HELD_BYTES_MAX, "{} bytes held", self.incoming.len());
                return Ok(());
            }
            assert!(received.produced > 0 || received.consumed > 0, "neither progress nor a wish");
        }
    }
}

/// A session that failed stays so.
fn check_refused(session: &mut Session, error: &SessionError) {
    assert!(error.is_peers_fault(), "{error}");
    let mut outgoing = Vec::new();
    let again = session.receive(&mut [22, 3, 3, 0, 0], &mut [0; 64], &mut outgoing);
    assert_eq!(again, Err(SessionError::Ended));
    assert!(session.encrypt(&[b"answer"], &mut outgoing).is_err());
    session.close_notify(&mut outgoing);
    assert!(outgoing.is_empty(), "it speaks on");
}

/// The server's certificate and configuration, made once.
pub(crate) fn certified() -> &'static (CertificateDer<'static>, Arc<ServerConfig>) {
    static CERTIFIED: OnceLock<(CertificateDer<'static>, Arc<ServerConfig>)> = OnceLock::new();
    CERTIFIED.get_or_init(|| {
        let made = rcgen::generate_simple_self_signed(["example.com".to_owned()]).expect("a certificate");
        let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
        let certificate = Certificate::from_pem(chain.as_bytes(), key.as_bytes(), "a certificate");
        let config = server_config(vec![certificate.expect("what rcgen made")]).expect("a configuration");
        (made.cert.der().clone(), config)
    })
}

fn client(version: &'static SupportedProtocolVersion) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(certified().0.clone()).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_protocol_versions(&[version])
        .expect("a version that is supported")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("example.com").expect("a name");
    ClientConnection::new(Arc::new(config), name).expect("a client")
}
