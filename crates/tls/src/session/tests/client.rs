//! The client's side against rustls' own server (its buffered API).

use std::time::Instant;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::ServerConnection;

use super::*;
use crate::client::{Client, TICKETS_LIFE, Trust};

/// A session of ours and the server of rustls that it speaks with.
struct Link {
    client: Session,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// All plaintext that came out at the client's end.
    data: Vec<u8>,
    plaintext_bytes: usize,
    server: ServerConnection,
    server_data: Vec<u8>,
}

impl Link {
    fn new(client: &Client, name: &str, server: &Arc<rustls::ServerConfig>) -> Link {
        Link::with(client.config(), name, server)
    }

    fn with(config: Arc<ClientConfig>, name: &str, server: &Arc<rustls::ServerConfig>) -> Link {
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let mut outgoing = Vec::new();
        let session = Session::client(config, name, &mut outgoing).unwrap();
        Link {
            client: session,
            incoming: Vec::new(),
            outgoing,
            data: Vec::new(),
            plaintext_bytes: 20_000,
            server: ServerConnection::new(Arc::clone(server)).unwrap(),
            server_data: Vec::new(),
        }
    }

    fn feed(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        self.incoming.extend_from_slice(bytes);
        loop {
            let mut plaintext = vec![0; self.plaintext_bytes];
            let received = self.client.receive(&mut self.incoming, &mut plaintext, &mut self.outgoing)?;
            self.incoming.drain(..received.consumed);
            self.data.extend_from_slice(&plaintext[..received.produced]);
            if !received.plaintext_is_full {
                return Ok(());
            }
        }
    }

    /// Moves bytes both ways until both are quiet, in pieces as long as `next_len` says.
    fn pump_in(&mut self, mut next_len: impl FnMut() -> usize) -> Result<(), SessionError> {
        loop {
            let to_server = std::mem::take(&mut self.outgoing);
            let mut rest = &to_server[..];
            while !rest.is_empty() {
                let (mut piece, after) = rest.split_at(next_len().min(rest.len()));
                rest = after;
                while !piece.is_empty() {
                    self.server.read_tls(&mut piece).unwrap();
                    // What it says is what the client is told by an alert.
                    let _ = self.server.process_new_packets();
                    let _ = self.server.reader().read_to_end(&mut self.server_data);
                }
            }
            let mut to_client = Vec::new();
            while self.server.wants_write() {
                self.server.write_tls(&mut to_client).unwrap();
            }
            if to_client.is_empty() && to_server.is_empty() {
                return Ok(());
            }
            let mut rest = &to_client[..];
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(next_len().min(rest.len()));
                rest = after;
                self.feed(piece)?;
            }
        }
    }

    fn pump(&mut self) {
        self.pump_in(|| usize::MAX).unwrap();
    }

    fn send(&mut self, bytes: &[u8]) {
        self.client.encrypt(&[bytes], &mut self.outgoing).unwrap();
    }
}

fn trusting(authority: &Authority) -> Client {
    Client::new(Trust::Authorities(vec![authority.der()])).unwrap()
}

fn server_for(
    authority: &Authority,
    names: &[&str],
    version: &'static SupportedProtocolVersion,
) -> rustls::ServerConfig {
    let issued = authority.issue(names);
    let chain = vec![CertificateDer::from_pem_slice(issued.leaf_pem.as_bytes()).unwrap()];
    let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).unwrap();
    rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[version])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .unwrap()
}

#[test]
fn a_client_is_served_at_any_split() {
    let authority = Authority::root();
    let client = trusting(&authority);
    for (version, expected) in [(TLS12, Version::Tls12), (TLS13, Version::Tls13)] {
        for seed in 0..40 {
            let mut random = Random::new(seed);
            let mut config = server_for(&authority, &["example.com"], version);
            // Messages cut into records, as far as it goes.
            config.max_fragment_size = (seed % 3 == 0).then_some(64);
            let mut link = Link::new(&client, "example.com", &Arc::new(config));
            link.plaintext_bytes = random.len(20_000);
            link.pump_in(|| random.len(3_000)).unwrap_or_else(|error| panic!("{version:?} {seed}: {error}"));
            assert_eq!(link.client.state(), SessionState::Open, "{version:?} {seed}");
            assert_eq!(link.client.version(), Some(expected));
            let (up, down) = (noise(seed, random.len(100_000)), noise(seed + 100, random.len(60_000)));
            link.send(&up);
            link.server.writer().write_all(&down).unwrap();
            link.pump_in(|| random.len(30_000)).unwrap();
            assert!(link.data == down && link.server_data == up, "{version:?} {seed}");
            link.client.close_notify(&mut link.outgoing);
            link.server.send_close_notify();
            link.pump();
            assert!(link.client.has_peer_closed());
        }
    }
}

#[test]
fn a_client_resumes_by_the_tickets_that_came() {
    let authority = Authority::root();
    for version in [TLS12, TLS13] {
        let mut config = server_for(&authority, &["example.com"], version);
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        let (config, client) = (Arc::new(config), trusting(&authority));
        for (round, split) in [usize::MAX, 1, 7, 100].into_iter().enumerate() {
            let mut link = Link::new(&client, "example.com", &config);
            link.pump_in(|| split).unwrap();
            assert_eq!(link.client.resumed(), round > 0, "{version:?} {round}");
            link.send(b"still there?");
            link.pump();
            assert_eq!(link.server_data, b"still there?");
        }
        // Somebody else's sessions are not resumed.
        let mut link = Link::new(&trusting(&authority), "example.com", &config);
        link.pump();
        assert!(!link.client.resumed());
    }
}

#[test]
fn a_certificate_is_verified_again_once_tickets_are_old() {
    let authority = Authority::root();
    for version in [TLS12, TLS13] {
        let mut config = server_for(&authority, &["example.com"], version);
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
        let (config, client, start) = (Arc::new(config), trusting(&authority), Instant::now());
        let resumes = |now| {
            let mut link = Link::with(client.config_at(now), "example.com", &config);
            link.pump();
            link.client.resumed()
        };
        assert!(!resumes(start));
        let mut late = Link::with(client.config_at(start), "example.com", &config);
        assert!(resumes(start) && resumes(start + TICKETS_LIFE / 2), "{version:?}");
        let next = start + TICKETS_LIFE + Duration::from_secs(60);
        client.config_at(next);
        // What began before leaves no tickets for after.
        late.pump();
        assert!(late.client.resumed());
        assert!(!resumes(next), "{version:?}");
        assert!(resumes(next));
    }
}

#[test]
fn tickets_of_every_server_are_kept() {
    let authority = Authority::root();
    let names: Vec<_> = (0..40).map(|index| format!("hs{index}.example.com")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let server = Arc::new(server_for(&authority, &names, TLS13));
    let client = trusting(&authority);
    for is_known in [false, true] {
        for name in &names {
            let mut link = Link::new(&client, name, &server);
            link.pump();
            assert_eq!(link.client.resumed(), is_known, "{name}");
        }
    }
}

#[test]
fn records_to_a_server_are_never_small() {
    let authority = Authority::root();
    for version in [TLS12, TLS13] {
        let server = Arc::new(server_for(&authority, &["example.com"], version));
        let mut link = Link::new(&trusting(&authority), "example.com", &server);
        link.pump();
        for _ in 0..2 {
            link.send(&noise(1, RECORD_PLAINTEXT_BYTES_MAX));
            assert!(
                link.outgoing.len() < RECORD_PLAINTEXT_BYTES_MAX + 2 * RECORD_OVERHEAD_MAX,
                "{version:?}"
            );
            link.pump();
            link.client.rested();
        }
    }
}

#[test]
fn keys_change_when_the_server_wants_it() {
    let authority = Authority::root();
    let config = Arc::new(server_for(&authority, &["example.com"], TLS13));
    let mut link = Link::new(&trusting(&authority), "example.com", &config);
    link.pump();
    for round in 0..100_u8 {
        link.server.refresh_traffic_keys().unwrap();
        link.server.writer().write_all(&[round]).unwrap();
        link.pump();
        link.send(&[round]);
        link.pump();
    }
    let expected: Vec<u8> = (0..100).collect();
    assert!(link.data == expected && link.server_data == expected);
}

#[test]
fn tickets_are_read_however_they_are_cut_and_are_bounded() {
    let authority = Authority::root();
    let mut config = server_for(&authority, &["example.com"], TLS13);
    config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().unwrap();
    config.max_fragment_size = Some(40);
    for (tickets, is_borne) in [(4, true), (32, true), (33, false)] {
        config.send_tls13_tickets = tickets;
        let mut link = Link::new(&trusting(&authority), "example.com", &Arc::new(config.clone()));
        let result = link.pump_in(|| 100);
        assert_eq!(result.is_ok(), is_borne, "{tickets}: {result:?}");
    }
}

#[test]
fn certificates_that_do_not_verify_say_why() {
    let authority = Authority::root();
    for version in [TLS12, TLS13] {
        let server = Arc::new(server_for(&authority, &["example.com"], version));
        for (client, name, why) in [
            (trusting(&authority), "example.org", "example.org"),
            (trusting(&authority), "127.0.0.1", "127.0.0.1"),
            (trusting(&Authority::root()), "example.com", "not that of the authority"),
        ] {
            let mut link = Link::new(&client, name, &server);
            let error = link.pump_in(|| usize::MAX).unwrap_err();
            assert!(matches!(error, SessionError::Certificate(_)) && error.is_peers_fault(), "{error:?}");
            assert!(error.to_string().contains(why), "{error}");
            assert!(!link.outgoing.is_empty(), "the server is told by an alert");
        }
        let mut link = Link::new(&Client::new(Trust::Everybody).unwrap(), "example.org", &server);
        link.pump();
        assert_eq!(link.client.state(), SessionState::Open);
    }
}

#[test]
fn a_server_that_speaks_plain_http_is_told_apart() {
    let authority = Authority::root();
    let server = Arc::new(server_for(&authority, &["example.com"], TLS13));
    let mut link = Link::new(&trusting(&authority), "example.com", &server);
    assert_eq!(link.feed(b"HTTP/1.1 400 Bad Request\r\n"), Err(SessionError::PlainHttp));
}

#[test]
fn our_client_and_our_server_speak_with_each_other() {
    let (authority, config) = server();
    let mut server = Server::new(&config);
    let mut outgoing = Vec::new();
    let name = ServerName::try_from("example.com").unwrap();
    let mut client = Session::client(trusting(&authority).config(), name, &mut outgoing).unwrap();
    for _ in 0..4 {
        server.feed(&std::mem::take(&mut outgoing)).unwrap();
        let mut incoming = std::mem::take(&mut server.outgoing);
        let received = client.receive(&mut incoming, &mut [0; 100], &mut outgoing).unwrap();
        assert_eq!(received.consumed, incoming.len());
    }
    assert_eq!((client.state(), server.session.state()), (SessionState::Open, SessionState::Open));
    client.encrypt(&[b"one ", b"two"], &mut outgoing).unwrap();
    server.feed(&outgoing).unwrap();
    assert_eq!(server.data, b"one two");
}
