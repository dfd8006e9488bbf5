use super::*;

const MIB: usize = 1024 * 1024;

#[test]
fn megabytes_pass_both_ways_unchanged() {
    let (authority, config) = server();
    for version in [TLS12, TLS13] {
        let mut pair = Pair::connected(client(&authority, &[version]), &config);
        let (up, down) = (noise(1, 3 * MIB), noise(2, 5 * MIB));
        pair.client.set_buffer_limit(None);
        pair.client.writer().write_all(&up).unwrap();
        for chunk in down.chunks(256 * 1024) {
            pair.server.send(chunk);
        }
        pair.pump_in(|| 100_000).unwrap();
        assert_eq!(sha256(&pair.server.data), sha256(&up));
        assert_eq!(sha256(&pair.client_data), sha256(&down));
    }
}

#[test]
fn data_does_not_depend_on_read_boundaries_or_on_the_room_for_plaintext() {
    let (authority, config) = server();
    let up = noise(3, 40_000);
    for version in [TLS12, TLS13] {
        for (len, room) in
            [(1, 16_384), (13, 1), (1000, 1000), (usize::MAX, 7), (usize::MAX, 16_384), (16_401, 40_000)]
        {
            let mut pair = Pair::connected(client(&authority, &[version]), &config);
            pair.server.plaintext_bytes = room;
            pair.client.set_buffer_limit(None);
            pair.client.writer().write_all(&up).unwrap();
            pair.client.send_close_notify();
            pair.pump_in(|| len).unwrap();
            assert!(pair.server.data == up, "by {len} into {room}");
            assert!(pair.server.session.has_peer_closed() && pair.server.incoming.is_empty());
        }
    }
}

#[test]
fn sixteen_records_are_taken_in_one_call() {
    let (authority, config) = server();
    let mut pair = Pair::connected(client(&authority, &[TLS13]), &config);
    let up = noise(4, 16 * RECORD_PLAINTEXT_BYTES_MAX);
    pair.client.set_buffer_limit(None);
    pair.client.writer().write_all(&up).unwrap();
    let mut incoming = written_by(&mut pair.client);
    assert_eq!(record_lens(&incoming).len(), 16);
    // The start of a seventeenth stays.
    let incoming_len = incoming.len();
    incoming.extend_from_slice(&[23, 3, 3]);
    let mut plaintext = vec![0; incoming.len()];
    let received = pair.server.session.receive(&mut incoming, &mut plaintext, &mut Vec::new()).unwrap();
    let expected = Received {
        consumed: incoming_len,
        produced: up.len(),
        state: SessionState::Open,
        plaintext_is_full: false,
    };
    assert_eq!(received, expected);
    assert!(plaintext[..up.len()] == up);
}

#[test]
fn plaintext_that_does_not_fit_is_kept_and_comes_first() {
    let (authority, config) = server();
    let mut pair = Pair::connected(client(&authority, &[TLS13]), &config);
    pair.client.writer().write_all(b"0123456789").unwrap();
    let mut incoming = written_by(&mut pair.client);
    pair.client.writer().write_all(b"abc").unwrap();
    pair.client.send_close_notify();
    incoming.extend(written_by(&mut pair.client));
    let (session, mut outgoing) = (&mut pair.server.session, Vec::new());
    let mut plaintext = [0; 4];
    let mut data = Vec::new();
    let mut states = Vec::new();
    loop {
        let received = session.receive(&mut incoming, &mut plaintext, &mut outgoing).unwrap();
        incoming.drain(..received.consumed);
        data.extend_from_slice(&plaintext[..received.produced]);
        states.push(received.state);
        if !received.plaintext_is_full {
            break;
        }
        assert!(received.produced == 4 && !session.has_peer_closed());
    }
    assert_eq!(data, b"0123456789abc");
    // 4 + 4 + 2 and 2 of "abc" + 1: the close comes with the last byte, not before it.
    assert_eq!(
        states,
        [SessionState::Open, SessionState::Open, SessionState::Open, SessionState::PeerClosed]
    );
    assert!(session.unread.capacity() == 0);
}

#[test]
fn a_call_without_room_for_plaintext_still_moves_the_handshake() {
    let (authority, config) = server();
    let mut pair = Pair::new(client(&authority, &[TLS13]), &config);
    let mut flights = 0;
    while pair.client.is_handshaking() || pair.server.session.is_handshaking() {
        let mut incoming = written_by(&mut pair.client);
        let mut outgoing = Vec::new();
        let received = pair.server.session.receive(&mut incoming, &mut [], &mut outgoing).unwrap();
        assert!(received.consumed == incoming.len() && !received.plaintext_is_full);
        read_by(&mut pair.client, &outgoing, &mut Vec::new()).unwrap();
        flights += 1;
        assert!(flights < 5);
    }
    // One record is taken in without room, then no more.
    pair.client.writer().write_all(b"one").unwrap();
    let mut incoming = written_by(&mut pair.client);
    let one_len = incoming.len();
    pair.client.writer().write_all(b"two").unwrap();
    incoming.extend(written_by(&mut pair.client));
    let received = pair.server.session.receive(&mut incoming, &mut [], &mut Vec::new()).unwrap();
    assert_eq!((received.consumed, received.produced, received.plaintext_is_full), (one_len, 0, true));
    pair.server.feed(&incoming[one_len..]).unwrap();
    assert_eq!(pair.server.data, b"onetwo");
}

#[test]
fn records_are_small_while_a_connection_is_young_and_again_after_a_rest() {
    let (authority, config) = server();
    for (version, overhead) in [(TLS12, 29), (TLS13, 22)] {
        let mut pair = Pair::connected(client(&authority, &[version]), &config);
        let bytes = noise(5, YOUNG_BYTES + 2 * RECORD_PLAINTEXT_BYTES_MAX + 1);
        for _ in 0..2 {
            pair.server.send(&bytes);
            let lens = record_lens(&pair.server.outgoing);
            let mut expected = vec![YOUNG_RECORD_BYTES_MAX + overhead; YOUNG_BYTES / YOUNG_RECORD_BYTES_MAX];
            expected.extend([RECORD_PLAINTEXT_BYTES_MAX + overhead, RECORD_PLAINTEXT_BYTES_MAX + overhead]);
            expected.push(1 + overhead);
            assert_eq!(lens, expected);
            pair.pump();
            pair.server.session.rested();
        }
        assert!(pair.client_data == [&bytes[..], &bytes[..]].concat());
    }
}

#[test]
fn slices_are_gathered_into_full_records() {
    let (authority, config) = server();
    let bytes = noise(6, 100_000);
    for version in [TLS12, TLS13] {
        for cuts in [vec![0, 200], vec![1, 1, 4096, 4097, 70_000], vec![99_999], vec![300, 600, 900]] {
            let mut pair = Pair::connected(client(&authority, &[version]), &config);
            let mut slices = Vec::new();
            let mut start = 0;
            for cut in cuts.into_iter().chain([bytes.len()]) {
                slices.push(&bytes[start..cut]);
                start = cut;
            }
            let bound = pair.server.session.encrypted_bytes_max(&slices);
            let mut outgoing = vec![0; bound];
            let written = pair.server.session.encrypt_into(&slices, &mut outgoing).unwrap();
            let lens = record_lens(&outgoing[..written]);
            // 16 small ones, then 34 464 bytes in 3: as if it were one slice.
            assert_eq!(lens.len(), 19, "{lens:?}");
            read_by(&mut pair.client, &outgoing[..written], &mut pair.client_data).unwrap();
            assert!(pair.client_data == bytes);
        }
    }
}

#[test]
fn the_room_asked_for_always_suffices() {
    let (authority, config) = server();
    for version in [TLS12, TLS13] {
        let mut pair = Pair::connected(client(&authority, &[version]), &config);
        for len in [0, 1, 4096, 4097, 16_384, 16_385, 65_536, 200_000] {
            let bytes = noise(7, len);
            // The client asks for a new key each time, so the answer to that has to go first.
            if version == TLS13 {
                pair.client.refresh_traffic_keys().unwrap();
            }
            pair.pump();
            let halves = [&bytes[..len / 2], &bytes[len / 2..]];
            let mut outgoing = vec![0; pair.server.session.encrypted_bytes_max(&halves)];
            let written = pair.server.session.encrypt_into(&halves, &mut outgoing).unwrap();
            pair.client_data.clear();
            read_by(&mut pair.client, &outgoing[..written], &mut pair.client_data).unwrap();
            assert!(pair.client_data == bytes);
        }
    }
}

#[test]
fn nothing_to_encrypt_makes_no_record() {
    let (authority, config) = server();
    let mut pair = Pair::connected(client(&authority, &[TLS13]), &config);
    let mut outgoing = vec![1, 2, 3];
    assert_eq!(pair.server.session.encrypt(&[&[], &[]], &mut outgoing), Ok(0));
    assert_eq!(pair.server.session.encrypt(&[], &mut outgoing), Ok(0));
    assert_eq!(outgoing, [1, 2, 3]);
}

#[test]
fn key_updates_of_both_sides_are_followed() {
    let (authority, config) = server();
    let mut pair = Pair::connected(client(&authority, &[TLS13]), &config);
    for round in 0..100_u8 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client.writer().write_all(&[round]).unwrap();
        pair.pump_in(|| 3).unwrap();
        pair.server.send(&[round]);
        pair.pump_in(|| 3).unwrap();
    }
    let rounds: Vec<u8> = (0..100).collect();
    assert!(pair.server.data == rounds && pair.client_data == rounds);
}

/// Both ways at once, in random pieces, with random room: replay with `RINGFENCE_SEED=N`.
#[test]
fn random_pieces_change_nothing() {
    let (authority, config) = server();
    for seed in seeds(40) {
        let mut random = Random::new(seed);
        let version = if random.next().is_multiple_of(2) { TLS12 } else { TLS13 };
        let mut pair = Pair::random(client(&authority, &[version]), &config, &mut random);
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for _ in 0..random.len(12) {
            let (more_up, more_down) =
                (noise(random.next(), random.len(50_000)), noise(random.next(), random.len(90_000)));
            if version == TLS13 && random.next().is_multiple_of(3) {
                pair.client.refresh_traffic_keys().unwrap();
            }
            pair.client.writer().write_all(&more_up).unwrap();
            let (first, second) = more_down.split_at(random.len(more_down.len()));
            pair.server.session.encrypt(&[first, second], &mut pair.server.outgoing).unwrap();
            pair.pump_in(|| random.len(30_000)).unwrap();
            up.extend(more_up);
            down.extend(more_down);
        }
        assert_eq!(sha256(&pair.server.data), sha256(&up), "seed {seed}");
        assert_eq!(sha256(&pair.client_data), sha256(&down), "seed {seed}");
        assert!(pair.server.incoming.is_empty());
    }
}
