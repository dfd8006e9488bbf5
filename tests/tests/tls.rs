//! TLS at the front: versions, certificates by name, resumption, and orderly ends.

use std::sync::Arc;

use ringfence_tests::client::HOST;
use ringfence_tests::message;
use ringfence_tests::wire::End;
use ringfence_tests::{Authority, Client, MS, Origin, Proxy, SECOND, pause};
use rustls::client::Resumption;
use rustls::version::{TLS12, TLS13};
use rustls::{CipherSuite, ClientConfig, HandshakeKind, ProtocolVersion, SupportedProtocolVersion};

fn config(version: &'static SupportedProtocolVersion) -> ClientConfig {
    Authority::shared().client_config_for(&[version])
}

fn connect(proxy: &Proxy, name: &str, config: ClientConfig) -> Client {
    Client::tls_with(proxy.address, name, Arc::new(config)).expect("the handshake completes")
}

#[test]
fn tls_1_2_and_1_3_are_spoken() {
    let origin = Origin::answering("secret");
    let proxy = Proxy::to(&origin).tls().start();
    for (version, negotiated) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let mut client = connect(&proxy, HOST, config(version));
        assert_eq!(client.session().protocol_version(), Some(negotiated));
        assert_eq!(client.session().alpn_protocol(), Some(&b"http/1.1"[..]));
        assert_eq!(client.get("/_matrix/x").text(), "secret");
        assert_eq!(client.get("/_matrix/y").text(), "secret");
    }
    let log = proxy.access_log(4);
    assert!(log[0].contains("tls=1.2") && log[3].contains("tls=1.3"), "{log:?}");
}

#[test]
fn aes_128_is_taken_of_a_client_that_lists_aes_256_before_it() {
    let origin = Origin::answering("ok");
    let proxy = Proxy::to(&origin).tls().start();
    let suites = [
        (&TLS12, CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
        (&TLS13, CipherSuite::TLS13_AES_128_GCM_SHA256),
    ];
    for (version, expected) in suites {
        let config = config(version);
        let offered = &config.crypto_provider().cipher_suites;
        let first = offered.iter().find(|suite| suite.version().version == version.version).unwrap();
        assert!(format!("{:?}", first.suite()).contains("AES_256"), "{first:?}");
        let mut client = connect(&proxy, HOST, config);
        assert_eq!(client.session().negotiated_cipher_suite().unwrap().suite(), expected);
        assert_eq!(client.get("/_matrix/x").text(), "ok");
    }
}

#[test]
fn the_certificate_is_chosen_by_server_name() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin)
        .tls_for(&[HOST, "example.com"])
        .tls_for(&["fed.example.com"])
        .tls_for(&["*.wild.example.com", "wild.example.com"])
        .start();
    for (name, index) in [
        (HOST, 0),
        ("example.com", 0),
        ("EXAMPLE.com", 0),
        ("fed.example.com", 1),
        ("a.wild.example.com", 2),
        ("wild.example.com", 2),
    ] {
        let mut client = connect(&proxy, name, config(&TLS13));
        let shown = client.session().peer_certificates().unwrap()[0].clone();
        assert_eq!(shown, proxy.certificates[index].der, "for {name}");
    }
}

#[test]
fn peers_without_a_known_name_get_the_first_certificate() {
    let origin = Origin::answering("by address");
    let proxy = Proxy::to(&origin).tls_for(&[HOST, "127.0.0.1"]).tls_for(&["fed.example.com"]).start();
    // By address there is no SNI at all, as peers on the federation port do.
    let mut client = connect(&proxy, "127.0.0.1", config(&TLS13));
    assert_eq!(client.session().peer_certificates().unwrap()[0], proxy.certificates[0].der);
    assert_eq!(client.get("/_matrix/x").text(), "by address");

    let refused = Client::tls_with(proxy.address, "unknown.example.net", Arc::new(config(&TLS13)));
    assert!(
        refused.unwrap_err().contains("not valid for name"),
        "the first certificate is shown, and does not match"
    );
}

#[test]
fn a_wildcard_covers_one_label_only() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).tls_for(&[HOST]).tls_for(&["*.wild.example.com"]).start();
    let refused = Client::tls_with(proxy.address, "a.b.wild.example.com", Arc::new(config(&TLS13)));
    assert!(refused.is_err());
}

#[test]
fn sessions_are_resumed_across_connections_and_workers() {
    let origin = Origin::answering("again");
    let proxy = Proxy::to(&origin).tls().workers(2).start();
    for version in [&TLS12, &TLS13] {
        let mut config = config(version);
        config.resumption = Resumption::in_memory_sessions(64);
        let config = Arc::new(config);
        let mut resumed = 0;
        for _ in 0..12 {
            let mut client = Client::tls_with(proxy.address, HOST, Arc::clone(&config)).unwrap();
            assert_eq!(client.get("/_matrix/x").text(), "again");
            resumed += usize::from(client.session().handshake_kind() == Some(HandshakeKind::Resumed));
        }
        assert_eq!(resumed, 11, "{version:?}: any worker resumes what another began");
    }
}

#[test]
fn an_application_protocol_that_nobody_speaks_is_refused() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).tls().start();
    let mut config = config(&TLS13);
    config.alpn_protocols = vec![b"smtp".to_vec()];
    let refused = Client::tls_with(proxy.address, HOST, Arc::new(config)).unwrap_err();
    assert!(refused.contains("NoApplicationProtocol"), "{refused}");
}

#[test]
fn a_client_without_alpn_is_served() {
    let origin = Origin::answering("plain");
    let proxy = Proxy::to(&origin).tls().start();
    let mut config = config(&TLS13);
    config.alpn_protocols.clear();
    assert_eq!(connect(&proxy, HOST, config).get("/_matrix/x").text(), "plain");
}

#[test]
fn http_1_1_is_chosen_among_several_protocols() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).tls().start();
    let mut config = config(&TLS13);
    config.alpn_protocols = vec![b"h3".to_vec(), b"http/1.1".to_vec()];
    assert_eq!(connect(&proxy, HOST, config).session().alpn_protocol(), Some(&b"http/1.1"[..]));
}

#[test]
fn plain_http_to_a_tls_port_is_closed_and_reaches_nobody() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).tls().start();
    let mut client = Client::connect(proxy.address);
    client.send("GET /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n");
    let end = client.end();
    assert!(matches!(end, End::Closed | End::Reset), "{end:?}");
    assert_eq!(origin.connections(), 0);
}

#[test]
fn the_proxy_ends_with_close_notify() {
    let origin = Origin::answering("bye");
    let proxy = Proxy::to(&origin).tls().timeouts("keep_alive_idle = \"400ms\"").start();
    for version in [&TLS12, &TLS13] {
        let mut client = connect(&proxy, HOST, config(version));
        let response = client.request("GET /_matrix/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
        assert_eq!(response.text(), "bye");
        assert_eq!(client.end(), End::Closed, "after Connection: close");

        let mut client = connect(&proxy, HOST, config(version));
        assert_eq!(client.get("/_matrix/x").text(), "bye");
        assert_eq!(client.end(), End::Closed, "after idling");
    }
}

#[test]
fn a_clients_close_notify_is_answered_by_one() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).tls().start();
    for version in [&TLS12, &TLS13] {
        let mut client = connect(&proxy, HOST, config(version));
        assert_eq!(client.get("/_matrix/x").status(), 200);
        client.close_notify();
        assert_eq!(client.end(), End::Closed);
    }
}

#[test]
fn a_refusal_over_tls_ends_with_close_notify() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).tls().start();
    let mut client = proxy.tls_client();
    assert_eq!(client.get("/_matrix/#x").status(), 400);
    assert_eq!(client.end(), End::Closed);
}

#[test]
fn a_truncated_response_does_not_look_complete() {
    // Close-delimited for HTTP/1.0: a close_notify would say that this was all.
    for (head, request) in [
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "GET /_matrix/x HTTP/1.0\r\nHost: a\r\n\r\n"),
        ("Content-Length: 100\r\n\r\nabc", "GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n"),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", "GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n"),
    ] {
        let origin = Origin::each(move |peer| {
            peer.request_head();
            peer.send(format!("HTTP/1.1 200 OK\r\n{head}"));
            pause(100 * MS);
        });
        let proxy = Proxy::to(&origin).tls().start();
        let response = proxy.tls_client().request(request);
        assert_eq!(response.text(), "abc");
        assert!(
            matches!(response.cut, Some(End::Truncated | End::Reset)),
            "{:?} after {head:?}",
            response.cut
        );
    }
}

#[test]
fn a_request_split_over_many_records_is_one_request() {
    let origin = Origin::serving(|request| message::ok(&request.body));
    let proxy = Proxy::to(&origin).tls().start();
    let mut client = proxy.tls_client();
    let request = "POST /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nbody";
    client.send_slowly(request, 1, MS).unwrap();
    assert_eq!(client.response().text(), "body");
}

#[test]
fn pipelined_requests_over_tls_are_answered_in_order() {
    let origin = Origin::serving(|request| message::ok(request.head.target()));
    let proxy = Proxy::to(&origin).tls().start();
    let mut client = proxy.tls_client();
    let request = |index| format!("GET /_matrix/{index} HTTP/1.1\r\nHost: a\r\n\r\n");
    client.send((0..8).map(request).collect::<String>());
    for index in 0..8 {
        assert_eq!(client.response().text(), format!("/_matrix/{index}"));
    }
}

#[test]
fn a_long_poll_over_tls_wakes_at_once() {
    let origin = Origin::each(|peer| {
        while peer.request_head().is_some() {
            pause(400 * MS);
            peer.send(message::ok("event"));
        }
    });
    let proxy = Proxy::to(&origin).tls().start();
    let mut client = proxy.tls_client();
    for _ in 0..3 {
        let begun = std::time::Instant::now();
        assert_eq!(client.get("/_matrix/client/v3/sync").text(), "event");
        assert!(begun.elapsed() < 2 * SECOND);
    }
}

#[test]
fn many_handshakes_at_once_complete() {
    let origin = Origin::answering("in");
    let proxy = Proxy::to(&origin).tls().workers(2).start();
    let address = proxy.address;
    let threads: Vec<_> = (0..16)
        .map(|_| {
            std::thread::spawn(move || {
                (0..5).all(|_| Client::tls(address, HOST).get("/_matrix/x").text() == "in")
            })
        })
        .collect();
    assert!(threads.into_iter().all(|thread| thread.join().unwrap()));
}
