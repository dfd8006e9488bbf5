//! Nothing is held back: bytes pass when they come, in both directions, at once (DESIGN "What homeservers need" 6, 8).

use std::time::Instant;

use ringfence_tests::message::{self, Framing};
use ringfence_tests::{KIB, MIB, MS, Origin, Proxy, SECOND, pattern, pause};

const POST: &str = "POST /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\n";

#[test]
fn a_dribbled_response_passes_at_once() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n");
        for byte in ["h", "e", "l", "l", "o"] {
            pause(150 * MS);
            peer.send(byte);
        }
        peer.end();
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send("GET /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n");
    assert_eq!(client.read_head().unwrap().status(), 200);
    let begun = Instant::now();
    let mut arrivals = Vec::new();
    for byte in ["h", "e", "l", "l", "o"] {
        client.expect(byte);
        arrivals.push(begun.elapsed());
    }
    assert!(arrivals[4] - arrivals[0] > 400 * MS, "the bytes were gathered: {arrivals:?}");
}

#[test]
fn a_response_head_passes_before_its_body() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        peer.end();
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send("GET /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n");
    assert_eq!(client.read_head().unwrap().status(), 200);
}

#[test]
fn each_chunk_passes_when_it_comes() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        // Each step waits for the client to say that it has the one before: a proxy that gathers hangs here.
        for word in ["one", "two", "three"] {
            peer.send(message::chunk(word));
            peer.expect("+");
        }
        peer.send("0\r\n\r\n");
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send(format!("{POST}Content-Length: 3\r\n\r\n"));
    client.read_head().unwrap();
    for word in ["one", "two", "three"] {
        assert_eq!(client.read_chunk(), Ok(Ok(Some(word.as_bytes().to_vec()))));
        client.send("+");
    }
    assert_eq!(client.read_chunk(), Ok(Ok(None)));
}

#[test]
fn an_upload_streams_before_its_end() {
    let origin = Origin::each(|peer| {
        peer.answer(message::ok("done"));
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send(format!("{POST}Content-Length: 6\r\n\r\nabc"));
    let record = origin.connection(1);
    ringfence_tests::wait_until("half of the upload at the origin", 2 * SECOND, || {
        record.text().ends_with("abc")
    });
    client.send("def");
    assert_eq!(client.response().text(), "done");
}

#[test]
fn a_chunked_upload_streams_before_its_end() {
    let origin = Origin::each(|peer| {
        let request = peer.answer(message::ok("done")).unwrap();
        assert_eq!((request.framing, request.text().as_str()), (Framing::Chunked, "abcdef"));
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send(format!("{POST}Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"));
    let record = origin.connection(1);
    ringfence_tests::wait_until("the first chunk at the origin", 2 * SECOND, || {
        record.text().contains("abc")
    });
    client.send("3\r\ndef\r\n0\r\n\r\n");
    assert_eq!(client.response().text(), "done");
}

/// Echoes a body while it comes. More than all buffers on the way together, so that one direction alone would stall.
fn echo_of(size: usize) -> Origin {
    Origin::each(move |peer| {
        peer.request_head();
        peer.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"));
        let mut left = size;
        while left > 0 {
            let piece = peer.read_exactly(left.min(64 * KIB)).expect("the body");
            peer.send(&piece);
            left -= piece.len();
        }
    })
}

#[test]
fn both_bodies_are_in_flight_at_once() {
    let size = 24 * MIB;
    let origin = echo_of(size);
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.set_patience(60 * SECOND);
    let body = pattern(size);
    let head = format!("{POST}Content-Length: {size}\r\n\r\n");
    let sender = client.send_in_background([head.as_bytes(), &body].concat());
    let response = client.response();
    sender.join().unwrap().unwrap();
    assert!(response.is_complete() && response.body == body, "the echo differs");
}

#[test]
fn large_bodies_cross_unchanged_over_tls() {
    let size = 8 * MIB;
    let origin = Origin::serving(|request| message::ok(&request.body));
    let proxy = Proxy::to(&origin).tls().start();
    let mut client = proxy.tls_client();
    client.set_patience(60 * SECOND);
    let body = pattern(size);
    client.send(format!("{POST}Content-Length: {size}\r\n\r\n"));
    client.send(&body);
    let response = client.response();
    assert!(response.is_complete() && response.body == body, "the body changed");
}

#[test]
fn an_early_answer_is_readable_while_the_upload_goes_on() {
    // Palpo answers 413 at the head and closes while megabytes are still coming (DESIGN 8).
    for resets in [false, true] {
        let origin = Origin::each(move |peer| {
            peer.request_head();
            peer.send(
                "HTTP/1.1 413 Payload Too Large\r\nConnection: close\r\nContent-Length: 5\r\n\r\nlarge",
            );
            if resets {
                pause(100 * MS);
                peer.reset();
            }
        });
        let proxy = Proxy::to(&origin).start();
        let mut client = proxy.client();
        let size = 16 * MIB;
        client.send(format!("{POST}Content-Length: {size}\r\n\r\n"));
        // A client that writes everything before it reads.
        client.send(pattern(size));
        let response = client.response();
        assert_eq!((response.status(), response.text().as_str()), (413, "large"), "resets: {resets}");
    }
}

#[test]
fn an_early_answer_does_not_wait_for_the_upload() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
        peer.end();
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send(format!("{POST}Content-Length: 1000\r\n\r\nfirst bytes"));
    let response = client.response();
    assert_eq!((response.status(), response.text().as_str()), (403, "no"));
}

#[test]
fn an_upload_goes_on_after_an_early_answer_without_close() {
    // The origin may answer first and still take the body: what comes next on the connection is a request again.
    let origin = Origin::each(|peer| {
        while peer.request_head().is_some() {
            peer.send(message::ok("early"));
            pause(50 * MS);
            peer.expect("0123456789");
        }
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send(format!("{POST}Content-Length: 10\r\n\r\n01234"));
    let response = client.response();
    assert_eq!(response.text(), "early");
    if client.try_send("56789").is_ok() && !response.head.lists("connection", "close") {
        let again = client.request(format!("{POST}Content-Length: 10\r\n\r\n0123456789"));
        assert_eq!(again.text(), "early");
    }
}

#[test]
fn expect_100_continue_is_the_origins_to_answer() {
    let origin = Origin::each(|peer| {
        let head = peer.request_head().unwrap();
        assert_eq!(head.value("expect"), Some("100-continue"));
        assert!(peer.is_silent_for(200 * MS), "the body came before the 100");
        peer.send("HTTP/1.1 100 Continue\r\nX-Interim: yes\r\n\r\n");
        peer.expect("body");
        peer.send(message::ok("thanks"));
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send(format!("{POST}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"));
    let interim = client.read_head().unwrap();
    assert_eq!((interim.status(), interim.value("x-interim")), (100, Some("yes")));
    client.send("body");
    assert_eq!(client.response().text(), "thanks");
}

#[test]
fn an_expectation_may_be_refused_without_the_body() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        peer.send("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno");
        peer.end();
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send(format!("{POST}Expect: 100-continue\r\nContent-Length: 4\r\n\r\n"));
    let response = client.response();
    assert_eq!((response.status(), response.interim.len(), response.text().as_str()), (401, 0, "no"));
}

#[test]
fn a_client_that_does_not_wait_for_100_is_served() {
    let origin = Origin::each(|peer| {
        let request = peer.answer(message::ok("thanks")).unwrap();
        assert_eq!(request.text(), "body");
    });
    let proxy = Proxy::to(&origin).start();
    let response =
        proxy.client().request(format!("{POST}Expect: 100-continue\r\nContent-Length: 4\r\n\r\nbody"));
    assert_eq!(response.text(), "thanks");
}

#[test]
fn another_expectation_is_refused_with_417() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    let response = proxy.client().request(format!("{POST}Expect: 200-ok\r\nContent-Length: 0\r\n\r\n"));
    assert_eq!(response.status(), 417);
    assert_eq!(origin.connections(), 0);
}

fn with_early_hints() -> Origin {
    Origin::each(|peer| {
        while peer.request_head().is_some() {
            peer.send("HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n");
            peer.send("HTTP/1.1 102 Processing\r\n\r\n");
            peer.send(message::ok("final"));
        }
    })
}

#[test]
fn interim_responses_pass_to_http_1_1() {
    let origin = with_early_hints();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    for _ in 0..2 {
        let response = client.get("/_matrix/x");
        let statuses: Vec<u16> = response.interim.iter().map(|head| head.status()).collect();
        assert_eq!((statuses, response.text().as_str()), (vec![103, 102], "final"));
        assert_eq!(response.interim[0].value("link"), Some("</a>; rel=preload"));
    }
}

#[test]
fn interim_responses_do_not_pass_to_http_1_0() {
    let origin = with_early_hints();
    let proxy = Proxy::to(&origin).start();
    let response = proxy.client().request("GET /_matrix/x HTTP/1.0\r\nHost: matrix.example.com\r\n\r\n");
    assert_eq!((response.interim.len(), response.status(), response.text().as_str()), (0, 200, "final"));
}

#[test]
fn an_http_1_0_client_is_not_sent_100() {
    let origin = Origin::each(|peer| {
        let request =
            peer.answer("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").unwrap();
        assert!(request.head.values("expect").is_empty());
    });
    let proxy = Proxy::to(&origin).start();
    let request =
        "POST /_matrix/x HTTP/1.0\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\nbody";
    let response = proxy.client().request(request);
    assert_eq!((response.interim.len(), response.status()), (0, 200));
}

#[test]
fn a_long_poll_that_wakes_is_answered_at_once() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        pause(700 * MS);
        peer.send(message::ok("event"));
        peer.end();
    });
    let proxy =
        Proxy::to(&origin).timeouts("upstream_silence = \"300ms\"\ndownstream_silence = \"300ms\"").start();
    let begun = Instant::now();
    let response = proxy.client().get("/_matrix/client/v3/sync?timeout=30000");
    assert_eq!(response.text(), "event");
    assert!(begun.elapsed() < 3 * SECOND, "took {:?}", begun.elapsed());
}

/// Who was answered before it sent its body keeps the body (RFC 9110 §10.1.1); that is no silence to end the answer for.
#[test]
fn an_early_answer_goes_on_although_the_client_keeps_its_body() {
    let origin = Origin::each(|peer| {
        let _ = peer.read_head();
        peer.send("HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n");
        for _ in 0..6 {
            pause(200 * MS);
            peer.send("x");
        }
    });
    let proxy = Proxy::to(&origin).timeouts("downstream_silence = \"300ms\"").start();
    let mut client = proxy.client();
    let request = "PUT /_matrix/x HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n";
    let answer = client.request(request);
    assert!(answer.is_complete(), "{answer:?}");
    assert_eq!(answer.text(), "xxxxxx");
}
