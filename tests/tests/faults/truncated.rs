//! Over TLS a connection ends with `close_notify`; one that just ends was cut, perhaps by an attacker (RFC 8446 §6.1).
//! Nothing that was cut may become a whole message on the other side. Also how tickets age.

use std::net::Shutdown;
use std::sync::Arc;

use ringfence_tests::{Authority, Message};
use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, SupportedProtocolVersion};

use super::*;

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

fn connect(proxy: &Proxy, version: &'static SupportedProtocolVersion) -> Client {
    let config = Authority::shared().client_config_for(&[version]);
    Client::tls_with(proxy.address, HOST, Arc::new(config)).expect("the handshake completes")
}

/// Ends the client's direction by a bare FIN.
fn cut(client: &mut Client) {
    let Transport::Tls(_, stream) = client.transport() else { panic!("not over TLS") };
    stream.shutdown(Shutdown::Write).expect("a connection can be shut down");
}

#[test]
fn a_request_that_is_cut_is_never_whole_upstream() {
    let chunked =
        "POST /_matrix/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    let sized = "POST /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello";
    let whole = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = whole.clone();
    // Fails on a head that is cut, and says so: an origin sees whole heads only.
    let origin = Origin::each(move |peer| {
        while let Some(request) = peer.request().filter(Message::is_complete) {
            seen.lock().unwrap().push(request.text());
        }
    });
    let proxy = Proxy::to(&origin).tls().start();
    let before = proxy.descriptors();
    for version in VERSIONS {
        for request in [chunked, sized] {
            for length in 1..request.len() {
                let mut client = connect(&proxy, version);
                client.send(&request[..length]);
                cut(&mut client);
                client.set_patience(5 * SECOND);
                let response = client.try_response_to("POST");
                assert!(
                    !response.is_ok_and(|response| response.status() < 400),
                    "{version:?}: an answer to {:?}",
                    &request[..length]
                );
            }
        }
    }
    wait_until("the end of all connections", 5 * SECOND, || proxy.descriptors() <= before);
    assert_eq!(*whole.lock().unwrap(), Vec::<String>::new(), "requests that were cut, and whole upstream");
}

#[test]
fn a_close_notify_in_a_body_is_no_end_of_it_either() {
    let origin = Origin::each(|peer| {
        if let Some(request) = peer.request_head() {
            assert_eq!(request.target(), "/_matrix/x");
            assert!(peer.read_exactly(5).is_err(), "a body that was not sent");
        }
    });
    let proxy = Proxy::to(&origin).tls().start();
    for version in VERSIONS {
        let mut client = connect(&proxy, version);
        client.send("POST /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhell");
        client.close_notify();
        client.set_patience(5 * SECOND);
        assert!(!client.try_response_to("POST").is_ok_and(|response| response.status() < 400), "{version:?}");
    }
    let record = origin.connection(VERSIONS.len());
    assert!(record.end_within(5 * SECOND).is_some(), "the origin waits for the rest");
}

/// A body that ends with the connection: its end is the only word that it was all of it (RFC 9112 §6.3 rule 8).
#[test]
fn an_answer_delimited_by_its_end_is_closed_when_whole_and_cut_when_cut() {
    type Script = fn(&mut Peer);
    let endings: [(&str, bool, Script); 3] = [
        ("whole", true, |peer| peer.send("HTTP/1.1 200 OK\r\n\r\nabc")),
        ("reset", false, |peer| {
            peer.send("HTTP/1.1 200 OK\r\n\r\nabc");
            pause(100 * MS);
            peer.reset();
        }),
        ("silent", false, |peer| {
            peer.send("HTTP/1.1 200 OK\r\n\r\nabc");
            peer.end();
        }),
    ];
    for version in VERSIONS {
        for (what, is_whole, ending) in endings {
            for protocol in ["HTTP/1.0", "HTTP/1.1"] {
                let origin = Origin::each(move |peer| {
                    peer.request_head();
                    ending(peer);
                });
                let proxy = Proxy::to(&origin).tls().timeouts("upstream_silence = \"300ms\"").start();
                let mut client = connect(&proxy, version);
                let response = client.request(format!("GET /_matrix/x {protocol}\r\nHost: a\r\n\r\n"));
                assert_eq!(response.text(), "abc", "{version:?}, {protocol}, {what}");
                assert_eq!(
                    response.is_complete(),
                    is_whole,
                    "{version:?}, {protocol}, {what}: {:?}",
                    response.cut
                );
                assert_ne!(response.cut, Some(End::Deadline), "{version:?}, {protocol}, {what}");
            }
        }
    }
}

#[test]
fn an_answer_cut_by_the_end_of_the_drain_is_no_whole_one() {
    for version in VERSIONS {
        for protocol in ["HTTP/1.0", "HTTP/1.1"] {
            let origin = Origin::each(|peer| {
                peer.request_head();
                peer.send("HTTP/1.1 200 OK\r\n\r\nabc");
                peer.end();
            });
            let mut proxy = Proxy::to(&origin).tls().timeouts("drain = \"300ms\"").start();
            let mut client = connect(&proxy, version);
            client.send(format!("GET /_matrix/x {protocol}\r\nHost: a\r\n\r\n"));
            assert_eq!(client.read_head().expect("an answer").status(), 200);
            assert!(proxy.stop().status.success());
            let end = client.end();
            assert!(matches!(end, End::Truncated | End::Reset), "{version:?}, {protocol}: {end:?}");
        }
    }
}

const HOUR: i64 = 3600;

/// A ticket is good while its key is kept: until the second change after it was made, of which there is at most one every
/// six hours, and none without a handshake. The clock is moved, not the test.
#[test]
fn tickets_end_with_their_keys() {
    for version in VERSIONS {
        let preload = Preload::new();
        let origin = Origin::answering("in");
        let proxy = preload.for_proxy(Proxy::to(&origin).tls().workers(2)).start();
        preload.assert_loaded();
        // Each has a session of its own, made now, and comes back once, later.
        let clients: Vec<_> = [1, 5, 7, 14, 30]
            .map(|hours| {
                let mut config = Authority::shared().client_config_for(&[version]);
                config.resumption = Resumption::in_memory_sessions(8);
                let config = Arc::new(config);
                assert_eq!(kind(&proxy, &config), HandshakeKind::Full, "{version:?}");
                assert_eq!(kind(&proxy, &config), HandshakeKind::Resumed, "{version:?}: at once");
                (hours, config)
            })
            .into();
        for (hours, config) in clients {
            preload.set(Word::ClockJumpSeconds, hours * HOUR);
            let expected = if hours < 12 { HandshakeKind::Resumed } else { HandshakeKind::Full };
            assert_eq!(kind(&proxy, &config), expected, "{version:?}: after {hours} hours");
            assert_eq!(
                kind(&proxy, &config),
                HandshakeKind::Resumed,
                "{version:?}: {hours} hours, a new ticket"
            );
        }
    }
}

fn kind(proxy: &Proxy, config: &Arc<rustls::ClientConfig>) -> HandshakeKind {
    let mut client = Client::tls_with(proxy.address, HOST, config.clone()).expect("the handshake completes");
    // Tickets of TLS 1.3 come behind the handshake: with the answer at the latest.
    assert_eq!(client.get("/_matrix/x").text(), "in");
    match client.session().handshake_kind().expect("a handshake") {
        HandshakeKind::FullWithHelloRetryRequest => HandshakeKind::Full,
        kind => kind,
    }
}
