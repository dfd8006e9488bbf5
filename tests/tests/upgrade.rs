//! `Upgrade` (RFC 9110 §7.8): tunnels in both directions with half-close, and what is not tunnelled.

use ringfence_tests::matrix::assert_error;
use ringfence_tests::wire::{End, Unreadable};
use ringfence_tests::{Client, MIB, MS, Origin, Peer, Proxy, SECOND, message, pattern};

const UPGRADE: &str = "GET /_matrix/ws HTTP/1.1\r\nHost: matrix.example.com\r\nConnection: Upgrade\r\n\
     Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// An origin that switches protocols and then runs `tunnel`.
fn switching(tunnel: impl Fn(&mut Peer) + Send + Sync + 'static) -> Origin {
    Origin::each(move |peer| {
        let head = peer.request_head().expect("a request");
        assert!(head.lists("connection", "upgrade"), "{head:?}");
        assert_eq!(head.value("upgrade"), Some("websocket"));
        assert_eq!(head.value("sec-websocket-version"), Some("13"));
        peer.send(SWITCHING);
        tunnel(peer);
    })
}

fn upgraded(mut client: Client) -> Client {
    client.send(UPGRADE);
    let head = client.read_head().expect("an answer");
    assert_eq!(head.status(), 101);
    assert!(head.lists("connection", "upgrade"), "{head:?}");
    assert_eq!(head.value("upgrade"), Some("websocket"));
    assert_eq!(head.value("sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    client
}

#[test]
fn bytes_cross_a_tunnel_both_ways() {
    let origin = switching(|peer| {
        peer.expect("ping");
        peer.send("pong");
        peer.expect("\0\r\n\r\nHTTP/1.1");
        peer.send("\x01\x02");
        assert_eq!(peer.end(), End::Closed);
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = upgraded(proxy.client());
    client.send("ping");
    client.expect("pong");
    client.send("\0\r\n\r\nHTTP/1.1");
    client.expect("\x01\x02");
    drop(client);
    assert!(origin.connection(1).end_within(2 * SECOND).is_some());
}

#[test]
fn bytes_behind_the_heads_belong_to_the_tunnel() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        peer.send(format!("{SWITCHING}first words"));
        peer.expect("early words");
        peer.end();
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send(format!("{UPGRADE}early words"));
    assert_eq!(client.read_head().unwrap().status(), 101);
    client.expect("first words");
    drop(client);
    drop(origin);
}

#[test]
fn a_tunnel_over_tls_crosses_both_ways() {
    let origin = switching(|peer| {
        peer.expect("ping");
        peer.send("pong");
        peer.end();
    });
    let proxy = Proxy::to(&origin).tls().start();
    let mut client = upgraded(proxy.tls_client());
    client.send("ping");
    client.expect("pong");
}

#[test]
fn a_clients_half_close_leaves_the_other_direction_open() {
    let origin = switching(|peer| {
        let (bytes, end) = peer.read_to_end();
        assert_eq!((bytes.as_slice(), end), (&b"last words"[..], End::Closed));
        peer.send("answer after the end");
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = upgraded(proxy.client());
    client.send("last words");
    client.half_close();
    assert_eq!(client.read_to_end(), (b"answer after the end".to_vec(), End::Closed));
}

#[test]
fn an_origins_half_close_leaves_the_other_direction_open() {
    let origin = switching(|peer| {
        peer.send("last words");
        peer.half_close();
        peer.expect("answer after the end");
        assert_eq!(peer.end(), End::Closed);
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = upgraded(proxy.client());
    assert_eq!(client.read_to_end(), (b"last words".to_vec(), End::Closed));
    client.send("answer after the end");
    client.half_close();
    assert!(origin.connection(1).end_within(2 * SECOND).is_some());
}

#[test]
fn megabytes_cross_a_tunnel_both_ways_at_once() {
    let size = 8 * MIB;
    let origin = switching(move |peer| {
        let mut left = size;
        while left > 0 {
            let piece = peer.read_exactly(left.min(50_000)).expect("bytes of the tunnel");
            peer.send(&piece);
            left -= piece.len();
        }
        peer.end();
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = upgraded(proxy.client());
    client.set_patience(60 * SECOND);
    let sender = client.send_in_background(pattern(size));
    let echoed = client.read_exactly(size).expect("the echo");
    sender.join().unwrap().unwrap();
    assert!(echoed == pattern(size), "the echo differs");
}

#[test]
fn an_idle_tunnel_ends_at_its_deadline() {
    let origin = switching(|peer| {
        peer.end();
    });
    let proxy = Proxy::to(&origin).timeouts("tunnel_idle = \"500ms\"").start();
    let mut client = upgraded(proxy.client());
    assert!(client.is_silent_for(300 * MS));
    assert!(matches!(client.end(), End::Closed | End::Reset));
    assert!(origin.connection(1).end_within(2 * SECOND).is_some());
}

#[test]
fn an_origin_may_decline_an_upgrade() {
    let origin = Origin::answering("no, HTTP");
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    for _ in 0..2 {
        let response = client.request(UPGRADE);
        assert_eq!((response.status(), response.text().as_str()), (200, "no, HTTP"));
    }
}

#[test]
fn an_upgrade_that_nobody_asked_for_is_a_502() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        peer.send(SWITCHING);
        peer.end();
    });
    let proxy = Proxy::to(&origin).start();
    assert_error(&proxy.client().get("/_matrix/x"), 502, "M_UNKNOWN");
}

#[test]
fn connect_is_refused() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    for target in ["matrix.example.com:443", "127.0.0.1:22"] {
        let mut client = proxy.client();
        client.send(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n"));
        let status = client.response().status();
        assert!(matches!(status, 400 | 405 | 501), "{status}");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn h2c_is_not_offered_to_the_origin() {
    let origin = Origin::answering("HTTP/1.1 it is");
    let proxy = Proxy::to(&origin).start();
    let request = "GET /_matrix/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\
                   HTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n";
    assert_eq!(proxy.client().request(request).text(), "HTTP/1.1 it is");
    let received = origin.received().concat().to_ascii_lowercase();
    assert!(!received.contains("h2c") && !received.contains("http2-settings"), "{received}");
}

#[test]
fn the_preface_of_http_2_is_refused() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
    match client.try_response_to("GET") {
        Ok(response) => assert!(matches!(response.status(), 400 | 505), "{response:?}"),
        Err(error) => assert!(matches!(error, Unreadable::NoHead(End::Closed | End::Reset, _)), "{error:?}"),
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn upgrade_without_its_connection_option_is_not_forwarded() {
    let origin = Origin::answering("plain");
    let proxy = Proxy::to(&origin).start();
    let request = "GET /_matrix/x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\n\r\n";
    assert_eq!(proxy.client().request(request).text(), "plain");
    assert!(!origin.received().concat().to_ascii_lowercase().contains("upgrade:"));
}

#[test]
fn requests_behind_an_upgrade_reach_no_origin_as_requests() {
    // What follows an Upgrade belongs to the tunnel if there is one, and is the next request if not.
    let origin = Origin::serving(|request| message::ok(request.head.target()));
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send(format!("{UPGRADE}GET /_matrix/next HTTP/1.1\r\nHost: a\r\n\r\n"));
    assert_eq!(client.response().text(), "/_matrix/ws");
    if let Ok(next) = client.try_response_to("GET") {
        assert_eq!(next.text(), "/_matrix/next");
    }
}
