//! Peers that cannot be served or that break the protocol: each is told why, where TLS has a way.

use super::forger::{ALERT, DATA, HANDSHAKE, KEY_UPDATE, forger};
use super::*;
use rustls::{AlertDescription, PeerMisbehaved};

/// The error of the session, and what the client makes of the alert that came with it.
fn refusal(pair: &mut Pair) -> (SessionError, rustls::Error) {
    let error = pair.pump_in(|| usize::MAX).unwrap_err();
    let alert = std::mem::take(&mut pair.server.outgoing);
    assert!(!alert.is_empty(), "the peer is told: {error}");
    assert_eq!(pair.server.feed(b"more"), Err(SessionError::Ended));
    assert_eq!(pair.server.session.encrypt(&[b"x"], &mut Vec::new()), Err(SessionError::Ended));
    (error, read_by(&mut pair.client, &alert, &mut Vec::new()).unwrap_err())
}

#[test]
fn a_client_that_wants_another_protocol_is_told_so() {
    let (authority, config) = server();
    for version in [TLS12, TLS13] {
        let mut settings = client(&authority, &[version]);
        settings.alpn_protocols = vec![b"h2".to_vec()];
        let (error, seen) = refusal(&mut Pair::new(settings, &config));
        assert_eq!(error, SessionError::Incompatible(rustls::Error::NoApplicationProtocol));
        assert!(error.is_peers_fault());
        assert_eq!(seen, rustls::Error::AlertReceived(AlertDescription::NoApplicationProtocol));
    }
}

#[test]
fn a_client_that_does_not_trust_the_certificate_is_reported() {
    let (_, config) = server();
    // By another name: a root of the same name would fail by its signature.
    let other = Authority::root().intermediate("Other");
    for version in [TLS12, TLS13] {
        let mut pair = Pair::new(client(&other, &[version]), &config);
        pair.server.feed(&written_by(&mut pair.client)).unwrap();
        let flight = std::mem::take(&mut pair.server.outgoing);
        read_by(&mut pair.client, &flight, &mut Vec::new()).unwrap_err();
        let error = pair.server.feed(&written_by(&mut pair.client)).unwrap_err();
        let expected = rustls::Error::AlertReceived(AlertDescription::UnknownCA);
        assert_eq!(error, SessionError::Alert(expected), "{error}");
        assert!(pair.server.outgoing.is_empty());
    }
}

#[test]
fn a_client_that_can_verify_no_certificate_of_ours_is_told_so() {
    let authority = Authority::root();
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let issued = authority.issue_with(&["example.com"], key, |_| ());
    let config = server_config(vec![issued.certificate()]).unwrap();
    for version in [TLS12, TLS13] {
        let mut pair = Pair::new(client(&authority, &[version]), &config);
        let mut hello = written_by(&mut pair.client);
        // The list of schemes (extension 13), with Ed25519 (0x0807) changed to something unassigned.
        let is_list = |bytes: &[u8]| bytes[..3] == [0, 13, 0] && bytes[4] == 0 && bytes[5] + 2 == bytes[3];
        let list = hello.windows(6).position(is_list).unwrap() + 6;
        let position = list + hello[list..].windows(2).position(|scheme| scheme == [8, 7]).unwrap();
        hello[position + 1] = 0x7f;
        let error = pair.server.feed(&hello).unwrap_err();
        assert!(matches!(error, SessionError::Incompatible(_)), "{error:?}");
        if version == TLS12 {
            assert_eq!(pair.server.outgoing, plain_alert(HANDSHAKE_FAILURE));
        } else {
            // After the server's hello, and encrypted.
            assert_eq!(record_lens(&pair.server.outgoing).last(), Some(&(5 + 2 + 1 + 16)));
        }
    }
}

#[test]
fn plain_http_is_recognised_by_its_first_byte() {
    let (_, config) = server();
    for text in ["G", "GET / HTTP/1.1\r\nHost: example.com\r\n\r\n", "OPTIONS * HTTP/1.1\r\n", "get"] {
        let mut server = Server::new(&config);
        assert_eq!(server.feed(text.as_bytes()), Err(SessionError::PlainHttp), "{text}");
        // The caller may want to answer in plain HTTP.
        assert!(server.outgoing.is_empty());
    }
}

#[test]
fn garbage_is_refused_with_an_alert() {
    let (_, config) = server();
    let garbage: [&[u8]; 5] = [
        b"\x00\x00\x00\x00\x00\x00",
        // SSLv2, long gone.
        b"\x80\x2e\x01\x00\x02\x00\x15\x00",
        // Of an unknown version, empty, and longer than a record can be.
        b"\x16\x09\x01\x00\x10",
        b"\x16\x03\x01\x00\x00",
        b"\x16\x03\x01\xff\xff",
    ];
    for bytes in garbage {
        for len in [1, bytes.len()] {
            let mut server = Server::new(&config);
            let error = bytes.chunks(len).find_map(|chunk| server.feed(chunk).err()).unwrap();
            assert!(matches!(error, SessionError::Protocol(rustls::Error::InvalidMessage(_))), "{error}");
            assert_eq!(server.outgoing, plain_alert(50), "{bytes:?}");
        }
    }
}

#[test]
fn data_before_the_handshake_is_refused() {
    let (_, config) = server();
    let mut server = Server::new(&config);
    let error = server.feed(b"\x17\x03\x03\x00\x04data").unwrap_err();
    assert!(matches!(error, SessionError::Protocol(_)), "{error}");
    assert_eq!(server.outgoing, plain_alert(10));
}

#[test]
fn random_bytes_never_panic() {
    let (authority, config) = server();
    for seed in 0..500 {
        let mut random = Random::new(seed);
        let mut pair = Pair::new(client(&authority, &[TLS12, TLS13]), &config);
        if seed % 2 == 0 {
            pair.pump();
        }
        let len = random.len(5000);
        let mut bytes = noise(random.next(), len);
        // Half of them look like a record at least.
        if seed % 4 > 1 {
            let header = [20 + u8::try_from(random.next() % 4).unwrap(), 3, 3, 0, 40];
            bytes.splice(0..0, header);
        }
        for chunk in bytes.chunks(random.len(100)) {
            if pair.server.feed(chunk).is_err() {
                break;
            }
        }
        let _ = pair.server.session.encrypt(&[b"x"], &mut Vec::new());
        pair.server.session.close_notify(&mut Vec::new());
    }
}

#[test]
fn a_flipped_bit_anywhere_in_the_clients_bytes_never_panics() {
    let (authority, config) = server();
    for version in [TLS12, TLS13] {
        let hello = written_by(&mut Pair::new(client(&authority, &[version]), &config).client);
        for position in (0..hello.len()).step_by(3) {
            let mut bytes = hello.clone();
            bytes[position] ^= 1 << (position % 8);
            let mut server = Server::new(&config);
            if let Err(error) = server.feed(&bytes) {
                assert!(error.is_peers_fault(), "byte {position}: {error}");
            }
        }
    }
}

#[test]
fn changed_ciphertext_is_refused_with_bad_record_mac() {
    let (authority, config) = server();
    for version in [TLS12, TLS13] {
        let mut pair = Pair::connected(client(&authority, &[version]), &config);
        pair.client.writer().write_all(b"data").unwrap();
        let mut bytes = written_by(&mut pair.client);
        *bytes.last_mut().unwrap() ^= 1;
        let error = pair.server.feed(&bytes).unwrap_err();
        assert_eq!(error, SessionError::Protocol(rustls::Error::DecryptError));
        let alert = std::mem::take(&mut pair.server.outgoing);
        let seen = read_by(&mut pair.client, &alert, &mut Vec::new()).unwrap_err();
        assert_eq!(seen, rustls::Error::AlertReceived(AlertDescription::BadRecordMac));
    }
}

#[test]
fn a_client_hello_that_never_ends_is_bounded() {
    let (_, config) = server();
    let mut server = Server::new(&config);
    // A message of 60 000 bytes, in records of one byte.
    let header = [1, 0, 0xea, 0x60];
    let mut fed = 0;
    let error = header.iter().chain(std::iter::repeat(&0)).find_map(|byte| {
        fed += 6;
        server.feed(&[22, 3, 1, 0, 1, *byte]).err()
    });
    assert_eq!(error, Some(SessionError::TooMuchHeld));
    assert!((HELD_BYTES_MAX..HELD_BYTES_MAX + 6).contains(&fed), "{fed}");
    assert_eq!(server.outgoing, plain_alert(50));
}

/// The `ClientHello` by which a client of TLS 1.2 would negotiate anew, without the header of its record.
fn renegotiation() -> Vec<u8> {
    let (authority, config) = server();
    written_by(&mut Pair::new(client(&authority, &[TLS12]), &config).client).split_off(5)
}

#[test]
fn asking_for_plaintext_only_does_no_harm_while_a_message_is_unfinished() {
    let (mut forger, mut server) = forger(TLS12);
    let message = renegotiation();
    server.feed(&forger.record(HANDSHAKE, &message[..3])).unwrap();
    let held = server.session.held;
    assert!(held > 0);
    let received = server.session.receive(&mut [], &mut [0; 9], &mut Vec::new()).unwrap();
    let nothing = Received { consumed: 0, produced: 0, state: SessionState::Open, plaintext_is_full: false };
    assert_eq!((received, server.session.held), (nothing, held));
    server.feed(&forger.record(HANDSHAKE, &message[3..])).unwrap();
    assert!(server.incoming.is_empty());
}

#[test]
fn a_client_hello_that_says_it_is_too_long_is_refused_at_once() {
    let (_, config) = server();
    let error = Server::new(&config).feed(&[22, 3, 1, 0, 5, 1, 1, 0, 0, 0]).unwrap_err();
    assert!(matches!(error, SessionError::Protocol(_)), "{error}");
}

#[test]
fn forged_records_are_genuine() {
    for version in [TLS12, TLS13] {
        let (mut forger, mut server) = forger(version);
        for text in ["one", "two"] {
            server.feed(&forger.record(DATA, text.as_bytes())).unwrap();
        }
        assert_eq!(server.data, b"onetwo");
    }
}

#[test]
fn sending_works_while_a_handshake_message_is_unfinished() {
    for (version, message) in [(TLS12, renegotiation()), (TLS13, KEY_UPDATE.to_vec())] {
        let (mut forger, mut server) = forger(version);
        for part in [&message[..1], &message[1..4]] {
            let record = forger.record(HANDSHAKE, part);
            for piece in record.chunks(9) {
                server.feed(piece).unwrap();
                // rustls decrypts in place and keeps what it needs at the front.
                server.send(b"meanwhile");
            }
            assert_eq!(server.session.held, server.incoming.len());
            assert_eq!(server.session.held > 0, version == TLS12);
        }
        server.feed(&forger.record(HANDSHAKE, &message[4..])).unwrap();
        assert_eq!((server.session.held, server.incoming.len()), (0, 0));
        server.send(b"after");
        server.session.close_notify(&mut server.outgoing);
    }
}

/// rustls keeps such a record, and from then on drops less than it has looked at.
#[test]
fn an_empty_handshake_fragment_of_tls_1_2_changes_nothing() {
    for piece_bytes in [1, 1000] {
        let (mut forger, mut server) = forger(TLS12);
        for text in [&b"a request"[..], b"another"] {
            let records = [forger.record(HANDSHAKE, b""), forger.record(DATA, text)].concat();
            records.chunks(piece_bytes).for_each(|piece| server.feed(piece).unwrap());
            server.send(b"an answer");
        }
        assert_eq!(server.data, b"a requestanother");
        server.feed(&forger.record(ALERT, &[1, 0])).unwrap();
        assert!(server.session.has_peer_closed());
        server.session.close_notify(&mut server.outgoing);
        server.feed(b"").unwrap();
    }
}

#[test]
fn closing_works_while_a_handshake_message_is_unfinished() {
    for (version, overhead) in [(TLS12, 5 + 8 + 16), (TLS13, 5 + 1 + 16)] {
        let (mut forger, mut server) = forger(version);
        let part = if version == TLS12 { [1, 0, 0] } else { [24, 0, 0] };
        server.feed(&forger.record(HANDSHAKE, &part)).unwrap();
        server.session.close_notify(&mut server.outgoing);
        assert_eq!(record_lens(&server.outgoing), [2 + overhead]);
    }
}

#[test]
fn an_unfinished_handshake_message_is_bounded_after_the_handshake_too() {
    let (mut forger, mut server) = forger(TLS12);
    let mut message = [1, 0, 0xea, 0x60].into_iter().chain(std::iter::repeat(0));
    let error =
        std::iter::repeat_with(|| server.feed(&forger.record(HANDSHAKE, &[message.next().unwrap()])).err())
            .find_map(|error| error);
    assert_eq!(error, Some(SessionError::TooMuchHeld));
}

#[test]
fn a_flood_of_empty_records_is_refused() {
    for version in [TLS12, TLS13] {
        let (mut forger, mut server) = forger(version);
        let results = (0..33).map(|_| server.feed(&forger.record(DATA, b""))).collect::<Vec<_>>();
        assert!(results[..32].iter().all(Result::is_ok));
        let expected = rustls::Error::PeerMisbehaved(PeerMisbehaved::TooManyEmptyFragments);
        assert_eq!(results[32], Err(SessionError::Protocol(expected)));
        // Data between them starts the count again.
        assert!(server.data.is_empty());
    }
}

#[test]
fn a_flood_of_key_updates_is_refused() {
    let (authority, config) = server();
    let mut pair = Pair::connected(client(&authority, &[TLS13]), &config);
    let error = (0..40).find_map(|_| {
        pair.client.refresh_traffic_keys().unwrap();
        pair.server.feed(&written_by(&mut pair.client)).err()
    });
    let expected = rustls::Error::PeerMisbehaved(PeerMisbehaved::TooManyKeyUpdateRequests);
    assert_eq!(error, Some(SessionError::Protocol(expected)));
}

#[test]
fn renegotiation_is_declined_once_and_then_refused() {
    let (authority, config) = server();
    let hello = written_by(&mut Pair::new(client(&authority, &[TLS12]), &config).client);
    let (mut forger, mut server) = forger(TLS12);
    server.feed(&forger.record(HANDSHAKE, &hello[5..])).unwrap();
    // A warning: alert, encrypted.
    assert_eq!((server.outgoing[0], record_lens(&server.outgoing).len()), (ALERT, 1));
    server.feed(&forger.record(DATA, b"goes on")).unwrap();
    assert_eq!(server.data, b"goes on");
    let error = server.feed(&forger.record(HANDSHAKE, &hello[5..])).unwrap_err();
    let expected = rustls::Error::PeerMisbehaved(PeerMisbehaved::TooManyRenegotiationRequests);
    assert_eq!(error, SessionError::Protocol(expected));
}

#[test]
fn a_fatal_alert_after_the_handshake_is_reported() {
    for version in [TLS12, TLS13] {
        let (mut forger, mut server) = forger(version);
        let error = server.feed(&forger.record(ALERT, &[2, 80])).unwrap_err();
        let expected = rustls::Error::AlertReceived(AlertDescription::InternalError);
        assert_eq!(error, SessionError::Alert(expected));
    }
}
