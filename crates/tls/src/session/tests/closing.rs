use super::*;

#[test]
fn the_peers_close_ends_its_direction_only() {
    let (authority, config) = server();
    for version in [TLS12, TLS13] {
        let mut pair = Pair::connected(client(&authority, &[version]), &config);
        pair.client.writer().write_all(b"last words").unwrap();
        pair.client.send_close_notify();
        pair.pump();
        assert_eq!(pair.server.data, b"last words");
        assert_eq!(pair.server.session.state(), SessionState::PeerClosed);
        assert!(pair.server.session.has_peer_closed());
        pair.server.send(b"answer");
        pair.server.session.close_notify(&mut pair.server.outgoing);
        read_by(&mut pair.client, &std::mem::take(&mut pair.server.outgoing), &mut pair.client_data).unwrap();
        assert_eq!(pair.client_data, b"answer");
        assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
    }
}

#[test]
fn our_close_comes_after_our_data_and_once() {
    let (authority, config) = server();
    for version in [TLS12, TLS13] {
        let mut pair = Pair::connected(client(&authority, &[version]), &config);
        pair.server.send(b"all");
        pair.server.session.close_notify(&mut pair.server.outgoing);
        assert_eq!(record_lens(&pair.server.outgoing).len(), 2);
        let len = pair.server.outgoing.len();
        pair.server.session.close_notify(&mut pair.server.outgoing);
        assert_eq!(pair.server.outgoing.len(), len);
        assert_eq!(pair.server.session.encrypt(&[b"more"], &mut Vec::new()), Err(SessionError::Ended));
        // Receiving goes on.
        pair.client.writer().write_all(b"still here").unwrap();
        pair.client.send_close_notify();
        pair.pump();
        assert_eq!(pair.client_data, b"all");
        assert_eq!(pair.server.data, b"still here");
        assert!(pair.server.session.has_peer_closed());
    }
}

#[test]
fn a_transport_that_ends_early_is_told_from_a_close() {
    let (authority, config) = server();
    let mut pair = Pair::connected(client(&authority, &[TLS13]), &config);
    pair.client.writer().write_all(b"half a message").unwrap();
    pair.pump();
    assert_eq!(pair.server.data, b"half a message");
    assert!(!pair.server.session.has_peer_closed());
}

#[test]
fn what_follows_the_peers_close_is_ignored() {
    let (authority, config) = server();
    let mut pair = Pair::connected(client(&authority, &[TLS13]), &config);
    pair.client.send_close_notify();
    let mut bytes = written_by(&mut pair.client);
    bytes.extend_from_slice(b"GET / HTTP/1.1\r\n");
    for piece in [&bytes[..], b"more", b""] {
        pair.server.feed(piece).unwrap();
        assert!(pair.server.incoming.is_empty() && pair.server.data.is_empty());
        assert_eq!(pair.server.session.state(), SessionState::PeerClosed);
    }
}

#[test]
fn the_answer_to_a_key_update_goes_before_a_close() {
    let (authority, config) = server();
    let mut pair = Pair::connected(client(&authority, &[TLS13]), &config);
    pair.client.refresh_traffic_keys().unwrap();
    pair.pump();
    pair.server.session.close_notify(&mut pair.server.outgoing);
    assert_eq!(record_lens(&pair.server.outgoing).len(), 2);
    pair.pump();
    assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
}

#[test]
fn in_a_handshake_there_is_nothing_to_encrypt_or_to_close() {
    let (authority, config) = server();
    let mut pair = Pair::new(client(&authority, &[TLS13]), &config);
    let mut outgoing = Vec::new();
    assert_eq!(pair.server.session.encrypt(&[b"early"], &mut outgoing), Err(SessionError::Handshaking));
    pair.server.session.close_notify(&mut outgoing);
    assert!(outgoing.is_empty());
    // Neither has done any harm.
    pair.pump();
    pair.server.send(b"in time");
    pair.pump();
    assert_eq!(pair.client_data, b"in time");
}
