//! The record layer of TLS 1.3: against rustls' client, and against records that break each rule.

use super::forger::{ALERT, DATA, Forger, HANDSHAKE, KEY_UPDATE, SUITES, client_with, forger, forger_with};
use super::*;
use crate::config::build;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::{
    AlertDescription, CipherSuite, CipherSuiteCommon, ContentType, Error, HandshakeType, InvalidMessage,
    PeerMisbehaved, SupportedCipherSuite, Tls13CipherSuite,
};

const CHANGE_CIPHER_SPEC: u8 = 20;
/// A `KeyUpdate` that asks for one in return (RFC 8446 §4.6.3).
const KEY_UPDATE_REQUESTED: [u8; 5] = [24, 0, 0, 1, 1];
/// The longest inner plaintext: content, and its type (RFC 8446 §5.2); in bytes.
const INNER_BYTES_MAX: usize = (1 << 14) + 1;

/// Both ways at once, each suite, random sizes and pieces, key updates of both sides, close; against rustls' client. Replay
/// with `RINGFENCE_SEED=N`.
#[test]
fn random_traffic_is_what_rustls_makes_and_understands() {
    let authority = Authority::root();
    for seed in seeds(60) {
        let mut random = Random::new(seed);
        let suite = SUITES[usize::try_from(seed % 3).unwrap()];
        // So few records that keys change many times.
        let records_max = 2 + random.next() % 40;
        let config = config_with(&authority, records_max);
        let mut pair = Pair::random(client_with(&authority, suite), &config, &mut random);
        let (mut up, mut down) = (Vec::new(), Vec::new());
        for _ in 0..random.len(60) {
            let more_up = noise(random.next(), random.len(20_000));
            // At most one key wears out in a call: there is no room for more key updates, nor need with real limits.
            let records = usize::try_from(records_max - 1).unwrap();
            let more_down = noise(random.next(), random.len(records * YOUNG_RECORD_BYTES_MAX));
            if random.next().is_multiple_of(3) {
                pair.client.refresh_traffic_keys().unwrap();
            }
            pair.client.writer().write_all(&more_up).unwrap();
            let (first, second) = more_down.split_at(random.len(more_down.len()));
            pair.server.session.encrypt(&[first, second], &mut pair.server.outgoing).unwrap();
            if random.next().is_multiple_of(2) {
                pair.pump_in(|| random.len(30_000)).unwrap();
            }
            up.extend(more_up);
            down.extend(more_down);
        }
        pair.client.send_close_notify();
        pair.pump_in(|| random.len(30_000)).unwrap();
        assert!(pair.server.session.has_peer_closed());
        pair.server.session.close_notify(&mut pair.server.outgoing);
        pair.pump_in(|| random.len(30_000)).unwrap();
        assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
        assert!(pair.server.data == up && pair.client_data == down, "seed {seed}");
        assert!(pair.server.incoming.is_empty());
    }
}

/// A fault, and what is to become of it.
struct Fault {
    name: &'static str,
    make: Make,
    error: SessionError,
    alert: Option<AlertDescription>,
}

type Make = Box<dyn Fn(&mut Forger) -> Vec<u8>>;

fn fault(
    name: &'static str,
    error: impl Into<Error>,
    alert: AlertDescription,
    make: impl Fn(&mut Forger) -> Vec<u8> + 'static,
) -> Fault {
    Fault { name, make: Box::new(make), error: error.into().into(), alert: Some(alert) }
}

/// One that rustls answers by nothing.
fn silent(
    name: &'static str,
    error: impl Into<Error>,
    make: impl Fn(&mut Forger) -> Vec<u8> + 'static,
) -> Fault {
    Fault { name, make: Box::new(make), error: error.into().into(), alert: None }
}

fn inappropriate(got: u8) -> Error {
    Error::InappropriateMessage {
        expect_types: vec![ContentType::ApplicationData, ContentType::Handshake],
        got_type: ContentType::from(got),
    }
}

/// RFC 8446 §5.2, §5.3: what the tag covers; and sizes.
fn faults_of_protection() -> Vec<Fault> {
    use AlertDescription::{BadRecordMac, RecordOverflow};
    let data = |forger: &mut Forger| forger.record(DATA, b"data");
    let mut faults: Vec<_> = (5..5 + 4 + 1 + 16)
        .map(|position| {
            fault("a changed byte", Error::DecryptError, BadRecordMac, move |forger| {
                let mut record = data(forger);
                record[position] ^= 1;
                record
            })
        })
        .collect();
    faults.extend([
        fault("a byte more", Error::DecryptError, BadRecordMac, move |forger| {
            let mut record = data(forger);
            record[4] += 1;
            record.push(0);
            record
        }),
        fault("a byte less", Error::DecryptError, BadRecordMac, move |forger| {
            let mut record = data(forger);
            record[4] -= 1;
            record.truncate(5 + usize::from(record[4]));
            record
        }),
        fault("nothing at all", Error::DecryptError, BadRecordMac, |_| vec![23, 3, 3, 0, 0]),
        fault("shorter than a tag", Error::DecryptError, BadRecordMac, |_| {
            [&[23, 3, 3, 0, 15][..], &[0; 15]].concat()
        }),
        fault("a record lost", Error::DecryptError, BadRecordMac, move |forger| {
            data(forger);
            data(forger)
        }),
        fault("a record again", Error::DecryptError, BadRecordMac, move |forger| {
            let record = forger.record(DATA, b"");
            record.repeat(2)
        }),
        fault("long, and changed", Error::DecryptError, BadRecordMac, |forger| {
            let mut record = forger.record(DATA, &[7; INNER_BYTES_MAX - 1]);
            record[9000] ^= 1;
            record
        }),
        fault("a header too long", Error::PeerSentOversizedRecord, RecordOverflow, |_| {
            vec![23, 3, 3, 0x41, 0x01]
        }),
        fault("too long by far", Error::PeerSentOversizedRecord, RecordOverflow, |_| {
            vec![23, 3, 3, 0xff, 0xff]
        }),
        fault("too much content", Error::PeerSentOversizedRecord, RecordOverflow, |forger| {
            forger.record(DATA, &[7; INNER_BYTES_MAX])
        }),
        fault("too much padding", Error::PeerSentOversizedRecord, RecordOverflow, |forger| {
            forger.inner(&[&[7; 100][..], &[DATA], &[0; INNER_BYTES_MAX - 100]].concat())
        }),
        fault("the longest record", Error::PeerSentOversizedRecord, RecordOverflow, |forger| {
            let record = forger.record(DATA, &[7; (1 << 14) + 256 - 17]);
            assert_eq!(record.len(), 5 + (1 << 14) + 256);
            record
        }),
    ]);
    faults
}

/// RFC 8446 §5, §5.4: types of records; nothing goes in the clear, and nothing goes without one.
fn faults_of_type() -> Vec<Fault> {
    use AlertDescription::{DecodeError, UnexpectedMessage};
    let mut faults: Vec<_> = [0, 1, 100, INNER_BYTES_MAX]
        .map(|bytes| {
            let error = PeerMisbehaved::IllegalTlsInnerPlaintext;
            fault("zeros only", error, UnexpectedMessage, move |forger| forger.inner(&vec![0; bytes]))
        })
        .into();
    for content_type in [0, 1, 19, CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, 24, b'G', 128, 255] {
        faults.push(fault("in the clear", inappropriate(content_type), UnexpectedMessage, move |_| {
            vec![content_type, 3, 3, 0, 2, 1, 0]
        }));
    }
    faults.push(fault("an alert in the clear", inappropriate(ALERT), UnexpectedMessage, |_| {
        vec![21, 3, 3, 0, 2, 2, 40]
    }));
    faults.push(fault(
        "middlebox compatibility",
        inappropriate(CHANGE_CIPHER_SPEC),
        UnexpectedMessage,
        |_| vec![20, 3, 3, 0, 1, 1],
    ));
    for content_type in [ALERT, HANDSHAKE] {
        faults.push(fault("relabelled", inappropriate(content_type), UnexpectedMessage, move |forger| {
            let mut record = forger.record(DATA, b"data");
            record[0] = content_type;
            record
        }));
        faults.push(fault("an empty one", inappropriate(content_type), UnexpectedMessage, move |forger| {
            forger.record(content_type, b"")
        }));
    }
    for content_type in [1, 19, 24, 128, 255] {
        faults.push(fault("another type", inappropriate(content_type), UnexpectedMessage, move |forger| {
            forger.record(content_type, &[1])
        }));
    }
    faults.push(fault(
        "a protected change_cipher_spec",
        PeerMisbehaved::IllegalMiddleboxChangeCipherSpec,
        UnexpectedMessage,
        |forger| forger.record(CHANGE_CIPHER_SPEC, &[1]),
    ));
    for version in [0, 2, 4, 0xfe] {
        let error = InvalidMessage::UnknownProtocolVersion;
        faults.push(fault("another protocol", error, DecodeError, move |_| vec![23, version, 3, 0, 20]));
    }
    faults
}

/// RFC 8446 §6.
fn faults_of_alerts() -> Vec<Fault> {
    use AlertDescription::{DecodeError, IllegalParameter};
    let mut faults = vec![
        fault("half an alert", InvalidMessage::MissingData("AlertDescription"), DecodeError, |forger| {
            forger.record(ALERT, &[2])
        }),
        fault("a long alert", InvalidMessage::TrailingData("AlertMessagePayload"), DecodeError, |forger| {
            forger.record(ALERT, &[1, 0, 0])
        }),
    ];
    for description in [10, 20, 40, 80, 100, 112, 255] {
        let error = Error::AlertReceived(AlertDescription::from(description));
        faults.push(silent("a fatal alert", error.clone(), move |forger| {
            forger.record(ALERT, &[2, description])
        }));
        faults.push(fault("a warning", error, DecodeError, move |forger| {
            forger.record(ALERT, &[1, description])
        }));
    }
    let canceled = Error::AlertReceived(AlertDescription::UserCanceled);
    faults.push(silent("fatally canceled", canceled, |forger| forger.record(ALERT, &[2, 90])));
    for level in [0, 3, 255] {
        let error = Error::AlertReceived(AlertDescription::CloseNotify);
        faults.push(fault("an unknown level", error, IllegalParameter, move |forger| {
            forger.record(ALERT, &[level, 0])
        }));
    }
    faults
}

/// RFC 8446 §4.6.3, §5.1.
fn faults_of_handshake_messages() -> Vec<Fault> {
    use AlertDescription::{DecodeError, IllegalParameter, UnexpectedMessage};
    let mut faults = Vec::new();
    for message_type in [0, 1, 2, 4, 5, 8, 11, 13, 15, 20, 25, 254, 255] {
        for body in [&[][..], &[0, 0, 1, 0], &[0xff, 0xff, 0xff]] {
            let error = Error::InappropriateHandshakeMessage {
                expect_types: vec![HandshakeType::KeyUpdate],
                got_type: HandshakeType::from(message_type),
            };
            faults.push(fault("another message", error, UnexpectedMessage, move |forger| {
                forger.record(HANDSHAKE, &[&[message_type][..], body].concat())
            }));
        }
    }
    let empty = InvalidMessage::MissingData("KeyUpdateRequest");
    faults.push(fault("an empty key update", empty, DecodeError, |forger| {
        forger.record(HANDSHAKE, &[24, 0, 0, 0])
    }));
    for length in [[0, 0, 2], [0, 1, 1], [1, 0, 1], [0, 0xea, 0x60]] {
        let error = InvalidMessage::TrailingData("KeyUpdate");
        faults.push(fault("a long key update", error, DecodeError, move |forger| {
            forger.record(HANDSHAKE, &[&[24][..], &length].concat())
        }));
        // Nothing of a message is kept that cannot become a key update.
        faults.push(fault("a long one in pieces", error, DecodeError, move |forger| {
            [forger.record(HANDSHAKE, &[24]), forger.record(HANDSHAKE, &length)].concat()
        }));
    }
    for request in [2, 3, 128, 255] {
        let error = InvalidMessage::InvalidKeyUpdate;
        faults.push(fault("an unknown request", error, IllegalParameter, move |forger| {
            forger.record(HANDSHAKE, &[24, 0, 0, 1, request])
        }));
    }
    for behind in [&KEY_UPDATE[..], &[24], &[1]] {
        let error = PeerMisbehaved::KeyEpochWithPendingFragment;
        faults.push(fault("more behind it", error, UnexpectedMessage, move |forger| {
            forger.record(HANDSHAKE, &[&KEY_UPDATE[..], behind].concat())
        }));
    }
    for (content_type, content) in [(DATA, &b"data"[..]), (DATA, b""), (ALERT, &[1, 0]), (ALERT, &[2, 40])] {
        let error = PeerMisbehaved::MessageInterleavedWithHandshakeMessage;
        faults.push(silent("between", error, move |forger| {
            [forger.record(HANDSHAKE, &KEY_UPDATE[..2]), forger.record(content_type, content)].concat()
        }));
    }
    faults
}

#[test]
fn what_breaks_the_protection_of_records_is_refused() {
    assert_refused(&faults_of_protection());
}

#[test]
fn what_is_of_another_type_is_refused() {
    assert_refused(&faults_of_type());
}

#[test]
fn every_alert_but_two_ends_the_session() {
    assert_refused(&faults_of_alerts());
}

#[test]
fn every_handshake_message_but_key_updates_is_refused() {
    assert_refused(&faults_of_handshake_messages());
}

/// Each fault, in one piece and byte by byte, gives its error, and tells the peer by its alert, encrypted.
fn assert_refused(faults: &[Fault]) {
    for suite in SUITES {
        let host = Host::new(suite);
        for (index, fault) in faults.iter().enumerate() {
            for piece_bytes in [usize::MAX, 1] {
                let (mut forger, mut server) = host.forger();
                // Long records come into short memory, too.
                server.plaintext_bytes = if index.is_multiple_of(2) { 20_000 } else { 700 };
                server.feed(&forger.record(DATA, b"before")).unwrap();
                let records = (fault.make)(&mut forger);
                let told = format!("{suite:?}: {}: {:02x?}", fault.name, &records[..records.len().min(40)]);
                // Byte by byte as far as that makes a difference.
                let pieces = if records.len() < 200 { piece_bytes } else { piece_bytes.max(1000) };
                let error =
                    records.chunks(pieces.min(records.len())).find_map(|piece| server.feed(piece).err());
                assert_eq!(error.as_ref(), Some(&fault.error), "{told}");
                assert_eq!(server.data, b"before", "{told}");
                let alerts: Vec<_> =
                    fault.alert.iter().map(|alert| (ALERT, vec![2, u8::from(*alert)])).collect();
                assert_eq!(forger.read(&server.outgoing), alerts, "{told}");
                assert_eq!(server.feed(b""), Err(SessionError::Ended));
                assert_eq!(server.session.encrypt(&[b"x"], &mut Vec::new()), Err(SessionError::Ended));
                let mut more = Vec::new();
                server.session.close_notify(&mut more);
                assert!(more.is_empty(), "after a fatal alert there is nothing to close");
            }
        }
    }
}

/// A server and clients of one suite.
struct Host {
    config: Arc<ServerConfig>,
    settings: ClientConfig,
}

impl Host {
    fn new(suite: CipherSuite) -> Host {
        let (authority, config) = server();
        let mut settings = client_with(&authority, suite);
        settings.enable_secret_extraction = true;
        settings.resumption = Resumption::in_memory_sessions(8);
        Host { config, settings }
    }

    fn forger(&self) -> (Forger, Server) {
        let pair = Pair::connected(self.settings.clone(), &self.config);
        Forger::instead_of(pair, Version::Tls13)
    }
}

#[test]
fn a_record_is_what_rfc_8446_says_in_each_suite() {
    for suite in SUITES {
        let (mut forger, mut server) = forger_with(suite);
        for bytes in [0, 1, 15, 16, 17, 511, 512, 4096, 16_384] {
            let content = noise(1, bytes);
            server.feed(&forger.record(DATA, &content)).unwrap();
            // §5.4: padding is taken off.
            server
                .feed(
                    &forger.inner(&[&content[..], &[DATA], &[0; 1][..usize::from(bytes < 16_384)]].concat()),
                )
                .unwrap();
            assert!(server.data == [&content[..], &content].concat(), "{suite:?}, {bytes}");
            server.data.clear();
            server.session.rested();
            server.send(&content);
            let expected: Vec<_> =
                content.chunks(YOUNG_RECORD_BYTES_MAX).map(|chunk| (DATA, chunk.to_vec())).collect();
            assert!(forger.read(&std::mem::take(&mut server.outgoing)) == expected, "{suite:?}, {bytes}");
        }
        let padded = [&b"much padding"[..], &[DATA], &[0; 16_000]].concat();
        server.feed(&forger.inner(&padded)).unwrap();
        assert_eq!(server.data, b"much padding");
    }
}

#[test]
fn a_version_of_the_same_major_number_means_nothing() {
    for minor in [0, 1, 2, 4, 255] {
        let (mut forger, mut server) = forger(TLS13);
        let mut record = forger.record(DATA, b"data");
        record[2] = minor;
        server.feed(&record).unwrap();
        assert_eq!(server.data, b"data");
    }
}

#[test]
fn the_peers_close_is_taken_at_either_level_and_what_follows_is_ignored() {
    for level in [1, 2] {
        let (mut forger, mut server) = forger(TLS13);
        let records = [forger.record(ALERT, &[level, 0]), b"GET / HTTP/1.1".to_vec()].concat();
        server.feed(&records).unwrap();
        assert!(server.session.has_peer_closed() && server.incoming.is_empty());
        server.send(b"answer");
        server.session.close_notify(&mut server.outgoing);
        let expected = [(DATA, b"answer".to_vec()), (ALERT, vec![1, 0])];
        assert_eq!(forger.read(&server.outgoing), expected);
    }
}

#[test]
fn a_cancelling_user_is_ignored_four_times() {
    let (mut forger, mut server) = forger(TLS13);
    for _ in 0..4 {
        server.feed(&forger.record(ALERT, &[1, 90])).unwrap();
        server.feed(&forger.record(DATA, b"x")).unwrap();
    }
    let error = server.feed(&forger.record(ALERT, &[1, 90])).unwrap_err();
    assert_eq!(error, SessionError::Protocol(PeerMisbehaved::TooManyWarningAlertsReceived.into()));
    assert_eq!(server.data, b"xxxx");
}

#[test]
fn data_starts_the_count_of_empty_records_again() {
    let (mut forger, mut server) = forger(TLS13);
    for _ in 0..3 {
        (0..32).for_each(|_| server.feed(&forger.record(DATA, b"")).unwrap());
        server.feed(&forger.record(DATA, b"x")).unwrap();
    }
    assert_eq!(server.data, b"xxx");
}

/// An empty record is not data, or a peer could ask for new keys for ever and send nothing.
#[test]
fn empty_records_do_not_start_the_count_of_key_updates_again() {
    let host = Host::new(SUITES[0]);
    let mut pair = Pair::connected(host.settings.clone(), &host.config);
    let error = (0..40).find_map(|_| {
        pair.client.refresh_traffic_keys().unwrap();
        pair.server.feed(&written_by(&mut pair.client)).err()
    });
    assert_eq!(error, Some(SessionError::Protocol(PeerMisbehaved::TooManyKeyUpdateRequests.into())));
}

#[test]
fn key_updates_are_answered_once_before_the_next_data_under_the_old_key() {
    let (mut forger, mut server) = forger(TLS13);
    // In one piece, and cut everywhere.
    server.feed(&forger.record(HANDSHAKE, &KEY_UPDATE_REQUESTED)).unwrap();
    assert!(server.outgoing.is_empty(), "nothing is sent before there is data");
    server.send(b"answer");
    let lens = record_lens(&server.outgoing);
    assert_eq!(lens, [5 + 5 + 17, 5 + 6 + 17]);
    assert_eq!(forger.read(&server.outgoing[..lens[0]]), [(HANDSHAKE, KEY_UPDATE.to_vec())]);
    server.outgoing.clear();
    server.send(b"more");
    assert_eq!(record_lens(&server.outgoing), [5 + 4 + 17], "the answer goes once");
}

#[test]
fn several_key_updates_are_answered_by_one() {
    let (authority, config) = server();
    let mut pair = Pair::connected(client(&authority, &[TLS13]), &config);
    for _ in 0..10 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client.writer().write_all(b"x").unwrap();
    }
    pair.pump_in(|| 1).unwrap();
    assert_eq!(pair.server.data, [b'x'; 10]);
    pair.server.send(b"answer");
    assert_eq!(record_lens(&pair.server.outgoing), [5 + 5 + 17, 5 + 6 + 17]);
    pair.pump();
    assert_eq!(pair.client_data, b"answer");
}

#[test]
fn a_key_update_may_be_cut_into_records_and_bytes() {
    for cut in 1..5 {
        let (mut forger, mut server) = forger(TLS13);
        let records = [
            forger.record(DATA, b"before"),
            forger.record(HANDSHAKE, &KEY_UPDATE_REQUESTED[..cut]),
            forger.record(HANDSHAKE, &KEY_UPDATE_REQUESTED[cut..]),
        ]
        .concat();
        records.chunks(1).for_each(|byte| server.feed(byte).unwrap());
        assert!(server.incoming.is_empty());
        server.send(b"answer");
        let first = record_lens(&server.outgoing)[0];
        assert_eq!(forger.read(&server.outgoing[..first]), [(HANDSHAKE, KEY_UPDATE.to_vec())]);
        // What comes now is under the next key.
        assert_eq!(
            server.feed(&forger.record(DATA, b"old key")),
            Err(SessionError::Protocol(Error::DecryptError))
        );
    }
}

#[test]
fn a_key_update_right_behind_the_handshake_is_answered() {
    let (authority, config) = server();
    let mut pair = Pair::new(client(&authority, &[TLS13]), &config);
    pair.server.feed(&written_by(&mut pair.client)).unwrap();
    let flight = std::mem::take(&mut pair.server.outgoing);
    read_by(&mut pair.client, &flight, &mut Vec::new()).unwrap();
    // The client's Finished, a key update and data come in one read.
    pair.client.refresh_traffic_keys().unwrap();
    pair.client.writer().write_all(b"at once").unwrap();
    pair.server.feed(&written_by(&mut pair.client)).unwrap();
    assert_eq!(pair.server.data, b"at once");
    pair.server.send(b"answer");
    pair.pump();
    assert_eq!(pair.client_data, b"answer");
}

/// RFC 8446 §5.5, with a limit that a test can reach: the last record under a key is the update.
#[test]
fn a_key_is_changed_before_it_wears_out() {
    let authority = Authority::root();
    for suite in SUITES {
        let config = config_with(&authority, 10);
        let mut pair = Pair::connected(client_with(&authority, suite), &config);
        // The record with the tickets was one.
        let mut sent = 1;
        for round in 0..100_u8 {
            pair.server.send(&[round]);
            let mut expected = vec![5 + 1 + 17];
            if sent % 10 == 9 {
                expected.insert(0, 5 + 5 + 17);
                sent = 0;
            }
            assert_eq!(record_lens(&pair.server.outgoing), expected, "{suite:?}, round {round}");
            sent += 1;
            // Now and then the client's answers come back.
            if round % 7 == 0 {
                pair.client.writer().write_all(&[round]).unwrap();
            }
            pair.pump();
        }
        assert!(pair.client_data == (0..100).collect::<Vec<u8>>());
        assert_eq!(pair.server.data.len(), 15);
    }
}

#[test]
fn no_sequence_number_is_used_twice() {
    let (mut forger, mut server) = forger(TLS13);
    let Connection::Tls13(session) = &mut server.session.connection else { panic!("TLS 1.3") };
    session.exhaust();
    assert_eq!(server.session.encrypt(&[b"x"], &mut server.outgoing), Err(SessionError::KeyExhausted));
    assert!(server.outgoing.is_empty());
    assert_eq!(server.feed(&forger.record(DATA, b"x")), Err(SessionError::KeyExhausted));
    assert!(server.outgoing.is_empty(), "there is no number for an alert either");
}

#[test]
fn after_our_close_no_alert_is_sent() {
    let (mut forger, mut server) = forger(TLS13);
    server.session.close_notify(&mut server.outgoing);
    server.outgoing.clear();
    let error = server.feed(&forger.record(HANDSHAKE, &[1, 0, 0, 0])).unwrap_err();
    assert!(matches!(error, SessionError::Protocol(Error::InappropriateHandshakeMessage { .. })));
    assert!(server.outgoing.is_empty());
}

#[test]
fn tickets_are_sent_before_the_session_is_taken_over() {
    for suite in SUITES {
        let host = Host::new(suite);
        for round in 0..4 {
            let mut pair = Pair::connected(host.settings.clone(), &host.config);
            assert_eq!(pair.server.session.resumed(), round > 0);
            assert_eq!(pair.client.tls13_tickets_received(), 2);
            assert!(matches!(pair.server.session.connection, Connection::Tls13(_)));
            pair.server.send(b"data");
            pair.pump();
            assert_eq!(pair.client_data, b"data");
        }
    }
}

#[test]
fn tls_1_2_stays_with_rustls() {
    let (authority, config) = server();
    let pair = Pair::connected(client(&authority, &[TLS12]), &config);
    assert!(matches!(pair.server.session.connection, Connection::Rustls(_)));
}

#[test]
fn no_secret_is_shown() {
    let (_, server) = forger(TLS13);
    let shown = format!("{:?}", server.session);
    assert_eq!(shown, "Session { state: Open, version: Some(Tls13), reading: Open, writing: Open, .. }");
}

/// A server whose keys bear so few records.
fn config_with(authority: &Authority, records_max: u64) -> Arc<ServerConfig> {
    let mut worn = CryptoProvider::clone(&provider());
    for suite in &mut worn.cipher_suites {
        if let SupportedCipherSuite::Tls13(known) = *suite {
            let CipherSuiteCommon { suite: name, hash_provider, .. } = known.common;
            let common = CipherSuiteCommon { suite: name, hash_provider, confidentiality_limit: records_max };
            let Tls13CipherSuite { hkdf_provider, aead_alg, quic, .. } = *known;
            // For the rest of the test, as suites are.
            let worn: &'static _ =
                Box::leak(Box::new(Tls13CipherSuite { common, hkdf_provider, aead_alg, quic }));
            *suite = SupportedCipherSuite::Tls13(worn);
        }
    }
    let certificates = vec![authority.certificate(&["example.com"])];
    build(Arc::new(worn), certificates, None).unwrap()
}
