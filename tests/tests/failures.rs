//! What the client sees when the homeserver or the client itself fails (DESIGN "What homeservers need" 9, 10).

use std::sync::mpsc;
use std::time::Instant;

use ringfence_tests::matrix::assert_error;
use ringfence_tests::message;
use ringfence_tests::place::Place;
use ringfence_tests::wire::{End, Unreadable};
use ringfence_tests::{Client, MIB, MS, Origin, Proxy, SECOND, pattern, pause};

const GET: &str = "GET /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n";

#[test]
fn a_refused_upstream_is_a_502_at_once() {
    let nobody = Place::v4();
    let proxy = Proxy::builder().upstream(&format!("http://{}", nobody.address())).start();
    let mut client = proxy.client();
    for _ in 0..3 {
        let begun = Instant::now();
        let response = client.get("/_matrix/x");
        assert_error(&response, 502, "M_UNKNOWN");
        assert!(begun.elapsed() < SECOND, "took {:?}", begun.elapsed());
    }
}

#[test]
fn a_missing_unix_socket_is_a_502() {
    let folder = tempfile::tempdir().unwrap();
    let proxy = Proxy::builder().upstream(&format!("unix:{}/none.sock", folder.path().display())).start();
    assert_error(&proxy.client().get("/_matrix/x"), 502, "M_UNKNOWN");
}

#[test]
fn an_upload_to_a_refused_upstream_reads_its_502() {
    let nobody = Place::v4();
    let proxy = Proxy::builder().upstream(&format!("http://{}", nobody.address())).start();
    let mut client = proxy.client();
    let size = 8 * MIB;
    client.send(format!("POST /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n"));
    client.send(pattern(size));
    assert_error(&client.response(), 502, "M_UNKNOWN");
}

#[test]
fn an_upstream_that_comes_back_is_used_at_once() {
    let place = Place::v4();
    let proxy = Proxy::builder().upstream(&format!("http://{}", place.address())).start();
    let mut client = proxy.client();
    assert_eq!(client.get("/_matrix/x").status(), 502);
    let _origin = Origin::each_at(place, |peer| peer.serve(&|_| message::ok("back")));
    ringfence_tests::wait_until("the upstream's return", 3 * SECOND, || {
        client.get("/_matrix/x").status() == 200
    });
}

#[test]
fn a_silent_upstream_is_a_504_at_its_deadline() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        peer.end();
    });
    let proxy = Proxy::to(&origin).timeouts("upstream_first_byte = \"600ms\"").start();
    let begun = Instant::now();
    let response = proxy.client().get("/_matrix/x");
    assert_error(&response, 504, "M_UNKNOWN");
    assert!(begun.elapsed() > 500 * MS && begun.elapsed() < 4 * SECOND, "after {:?}", begun.elapsed());
    assert!(origin.connection(1).end_within(2 * SECOND).is_some(), "the upstream request was not aborted");
}

#[test]
fn an_interim_response_does_not_stop_the_first_byte_deadline() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        peer.send("HTTP/1.1 103 Early Hints\r\n\r\n");
        peer.end();
    });
    let proxy = Proxy::to(&origin).timeouts("upstream_first_byte = \"600ms\"").start();
    assert_eq!(proxy.client().get("/_matrix/x").status(), 504);
}

/// An origin that sends these bytes after the request head, and then closes or resets.
fn breaking(bytes: impl AsRef<[u8]> + Send + Sync + 'static, resets: bool) -> Origin {
    Origin::each(move |peer| {
        if peer.request_head().is_some() {
            peer.send(bytes.as_ref());
            pause(100 * MS);
            if resets {
                peer.reset();
            }
        }
    })
}

#[test]
fn a_length_delimited_response_cut_short_breaks_the_clients_connection() {
    for resets in [false, true] {
        let origin = breaking("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf", resets);
        let proxy = Proxy::to(&origin).start();
        let response = proxy.client().get("/_matrix/x");
        assert_eq!((response.status(), response.text().as_str()), (200, "half"));
        assert!(matches!(response.cut, Some(End::Closed | End::Reset)), "{:?}", response.cut);
    }
}

#[test]
fn a_chunked_response_cut_short_gets_no_last_chunk() {
    for (bytes, resets) in [
        ("3\r\nabc\r\n", false),
        ("3\r\nabc\r\n", true),
        ("3\r\nabc\r\n9\r\nab", false),
        ("3\r\nabc\r\n0\r\n", false),
    ] {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let origin = breaking(format!("{head}{bytes}"), resets);
        let proxy = Proxy::to(&origin).start();
        let response = proxy.client().get("/_matrix/x");
        assert!(!response.is_complete(), "{bytes:?} looks complete: {response:?}");
    }
}

#[test]
fn malformed_chunks_of_a_response_never_look_complete() {
    for bytes in ["3\r\nabcd\r\n0\r\n\r\n", "x\r\n0\r\n\r\n", "3\r\nabc\r\n0\r\nContent-Length: 1\r\n\r\n"] {
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        let origin = breaking(format!("{head}{bytes}"), false);
        let proxy = Proxy::to(&origin).start();
        let mut client = proxy.client();
        client.send(GET);
        match client.try_response_to("GET") {
            Ok(response) => assert!(response.status() == 502 || !response.is_complete(), "{response:?}"),
            Err(error) => {
                assert!(matches!(error, Unreadable::NoHead(..) | Unreadable::Malformed(_)), "{error:?}")
            }
        }
    }
}

#[test]
fn a_response_cut_short_is_no_whole_response_for_http_1_0() {
    // Dechunked, its only end is the connection's: that must not look like an orderly one.
    for resets in [false, true] {
        let origin = breaking("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", resets);
        let proxy = Proxy::to(&origin).start();
        let response = proxy.client().request("GET /_matrix/x HTTP/1.0\r\nHost: a\r\n\r\n");
        assert_eq!(response.cut, Some(End::Reset), "resets: {resets}");
    }
}

#[test]
fn a_close_or_reset_before_or_in_a_head_is_a_502() {
    for bytes in ["", "HTTP/1.1 200 OK\r\nX-A: b\r\n", "HTT"] {
        for resets in [false, true] {
            let origin = breaking(bytes, resets);
            let proxy = Proxy::to(&origin).start();
            let mut client = proxy.client();
            assert_error(&client.get("/_matrix/x"), 502, "M_UNKNOWN");
            assert_error(&client.get("/_matrix/x"), 502, "M_UNKNOWN");
        }
    }
}

#[test]
fn a_head_that_is_not_http_is_a_502() {
    for bytes in [
        "SSH-2.0-OpenSSH_9.2\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 abc OK\r\n\r\n",
        "HTTP/1.1 200 OK\nX: y\n\n",
        "\x15\x03\x03\0\x02\x02\x46\r\n\r\n",
        "<html>\r\n\r\n",
    ] {
        let origin = breaking(bytes, false);
        let proxy = Proxy::to(&origin).start();
        assert_error(&proxy.client().get("/_matrix/x"), 502, "M_UNKNOWN");
    }
}

#[test]
fn an_oversized_response_head_is_a_502() {
    let origin = breaking(format!("HTTP/1.1 200 OK\r\nX-A: {}\r\n\r\n", "x".repeat(MIB)), false);
    let proxy = Proxy::to(&origin).start();
    assert_error(&proxy.client().get("/_matrix/x"), 502, "M_UNKNOWN");
}

#[test]
fn interim_responses_without_end_are_a_502() {
    let origin = breaking("HTTP/1.1 103 Early Hints\r\n\r\n".repeat(10_000), false);
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    let response = client.request("GET /_matrix/x HTTP/1.0\r\nHost: a\r\n\r\n");
    assert_eq!(response.status(), 502);
}

#[test]
fn a_server_that_is_down_is_skipped() {
    let nobody = Place::v4();
    let origin = Origin::answering("up");
    let proxy =
        Proxy::builder().upstream(&format!("http://{}", nobody.address())).upstream(&origin.url()).start();
    for _ in 0..10 {
        let mut client = proxy.client();
        assert_eq!(client.get("/_matrix/x").text(), "up");
        let post = client.request("POST /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(post.text(), "up");
    }
}

#[test]
fn a_skipped_server_is_tried_again() {
    let place = Place::v4();
    let first = Origin::answering("first");
    let url = format!("http://{}", place.address());
    let proxy = Proxy::builder().upstream(&url).upstream(&first.url()).start();
    for _ in 0..4 {
        assert_eq!(proxy.client().get("/_matrix/x").text(), "first");
    }
    let _second = Origin::each_at(place, |peer| peer.serve(&|_| message::ok("second")));
    ringfence_tests::wait_until("requests to the server that came back", 30 * SECOND, || {
        pause(50 * MS);
        proxy.client().get("/_matrix/x").text() == "second"
    });
}

#[test]
fn several_servers_share_the_requests() {
    let (left, right) = (Origin::answering("left"), Origin::answering("right"));
    let proxy = Proxy::builder().upstream(&left.url()).upstream(&right.url()).start();
    let mut client = proxy.client();
    let answers: Vec<String> = (0..20).map(|_| client.get("/_matrix/x").text()).collect();
    let lefts = answers.iter().filter(|answer| *answer == "left").count();
    assert!((8..=12).contains(&lefts), "{answers:?}");
}

/// An origin that takes a request and waits, as a long poll does.
fn waiting() -> Origin {
    Origin::each(|peer| {
        peer.request_head();
        peer.set_patience(20 * SECOND);
        peer.end();
    })
}

#[test]
fn a_client_that_leaves_aborts_the_upstream_request() {
    type Leave = fn(Client);
    for leave in [(|client| drop(client)) as Leave, |client| client.reset()] {
        let origin = waiting();
        let proxy = Proxy::to(&origin).start();
        let mut client = proxy.client();
        client.send(GET);
        let record = origin.connection(1);
        ringfence_tests::wait_until("the request", SECOND, || record.text().contains("\r\n\r\n"));
        leave(client);
        let left = Instant::now();
        let (ended, _) = record.end_within(5 * SECOND).expect("the upstream connection is closed");
        assert!(ended.saturating_duration_since(left) < SECOND, "after {:?}", ended - left);
    }
}

#[test]
fn a_tls_client_that_leaves_aborts_the_upstream_request() {
    for resets in [false, true] {
        let origin = waiting();
        let proxy = Proxy::to(&origin).tls().start();
        let mut client = proxy.tls_client();
        client.send(GET);
        let record = origin.connection(1);
        if resets {
            client.reset();
        } else {
            client.close_notify();
            drop(client);
        }
        assert!(record.end_within(2 * SECOND).is_some(), "the upstream connection stays");
    }
}

#[test]
fn a_client_that_leaves_in_its_upload_aborts_the_upstream_request() {
    for rest in ["Content-Length: 100\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n"] {
        let origin = Origin::each(|peer| {
            let request = peer.request().expect("a head came");
            assert!(!request.is_complete(), "half an upload looks complete");
        });
        let proxy = Proxy::to(&origin).start();
        let mut client = proxy.client();
        client.send(format!("POST /_matrix/x HTTP/1.1\r\nHost: a\r\n{rest}"));
        let record = origin.connection(1);
        ringfence_tests::wait_until("half of the upload", 3 * SECOND, || record.text().contains("half"));
        drop(client);
        assert!(record.end_within(2 * SECOND).is_some(), "the upstream connection stays");
    }
}

#[test]
fn a_client_that_leaves_in_its_download_aborts_the_upstream_request() {
    let (report, sent) = mpsc::channel();
    let origin = Origin::each(move |peer| {
        peer.request_head();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1000 * MIB));
        let piece = pattern(MIB);
        let pieces = (0..1000).take_while(|_| peer.try_send(&piece).is_ok()).count();
        report.send(pieces).expect("the test waits");
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send(GET);
    client.read_head().unwrap();
    client.read_exactly(MIB).unwrap();
    drop(client);
    let pieces = sent.recv_timeout(5 * SECOND).expect("the upstream connection is closed");
    assert!(pieces < 1000, "the proxy took a whole download for nobody");
}

#[test]
fn a_body_that_falls_silent_is_cut_at_upstream_silence() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        peer.end();
    });
    let proxy = Proxy::to(&origin).timeouts("upstream_silence = \"500ms\"").start();
    let begun = Instant::now();
    let response = proxy.client().get("/_matrix/x");
    assert_eq!(response.text(), "half");
    assert!(matches!(response.cut, Some(End::Closed | End::Reset)));
    assert!(begun.elapsed() > 400 * MS && begun.elapsed() < 4 * SECOND, "after {:?}", begun.elapsed());
}

#[test]
fn the_proxy_survives_whatever_its_clients_did() {
    let origin = Origin::answering("alive");
    let proxy = Proxy::to(&origin).start();
    for _ in 0..50 {
        proxy.client().reset();
        let mut half = proxy.client();
        half.send("GET /_matrix/x HT");
        half.reset();
        let mut whole = proxy.client();
        whole.send(GET.repeat(3));
        whole.reset();
    }
    assert_eq!(proxy.client().get("/_matrix/x").text(), "alive");
}
