//! Connections that are used again, on both sides, and requests that are sent again or never (RFC 9112 §9).

use std::time::Instant;

use ringfence_tests::message;
use ringfence_tests::wire::End;
use ringfence_tests::{KIB, MIB, MS, Origin, Proxy, SECOND, pattern, pause};

const GET: &str = "GET /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n";
const POST: &str = "POST /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\nContent-Length: 4\r\n\r\nbody";

fn mirror() -> Origin {
    Origin::serving(|request| message::ok(request.head.target()))
}

#[test]
fn one_connection_carries_many_requests_on_both_sides() {
    let origin = mirror();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    for index in 0..50 {
        let target = format!("/_matrix/{index}");
        let response = client.get(&target);
        assert_eq!(response.text(), target);
        assert!(!response.head.lists("connection", "close"));
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn an_upstream_connection_is_used_again_after_large_bodies() {
    for (method, up, down) in [("GET", 0, 300 * KIB), ("POST", 300 * KIB, 1), ("PUT", 2 * MIB, 2 * MIB)] {
        let origin = Origin::serving(move |_| message::ok(pattern(down)));
        let proxy = Proxy::to(&origin).start();
        let mut client = proxy.client();
        let head = format!("{method} /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: {up}\r\n\r\n");
        for _ in 0..4 {
            assert_eq!(client.request([head.as_bytes(), &pattern(up)].concat()).body.len(), down);
        }
        assert_eq!(origin.connections(), 1, "{method} with {up} bytes up and {down} down");
    }
}

#[test]
fn clients_share_upstream_connections() {
    let origin = mirror();
    let proxy = Proxy::to(&origin).start();
    for _ in 0..20 {
        assert_eq!(proxy.client().get("/_matrix/x").status(), 200);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    // The first answer takes longest: order must not come from speed.
    let origin = Origin::serving(|request| {
        if request.head.target().ends_with("/0") {
            pause(200 * MS);
        }
        message::ok(format!("{}:{}", request.head.target(), request.text()))
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    let request = |index| {
        format!(
            "PUT /_matrix/{index} HTTP/1.1\r\nHost: matrix.example.com\r\nContent-Length: 2\r\n\r\nb{index}"
        )
    };
    client.send((0..8).map(request).collect::<String>());
    for index in 0..8 {
        assert_eq!(client.response().text(), format!("/_matrix/{index}:b{index}"));
    }
    assert!(client.is_silent_for(100 * MS));
}

#[test]
fn pipelined_requests_after_a_refused_one_are_not_served() {
    let origin = mirror();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send(format!("{GET}GET /_matrix/#bad HTTP/1.1\r\nHost: a\r\n\r\n{GET}"));
    assert_eq!(client.response().status(), 200);
    assert_eq!(client.response().status(), 400);
    client.expect_close();
}

#[test]
fn connection_close_closes_after_the_answer() {
    let origin = mirror();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    let response = client.request("GET /_matrix/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    assert!(response.head.lists("connection", "close"), "{:?}", response.head);
    client.expect_close();
    // The client's wish is its own: the upstream connection is kept.
    assert_eq!(proxy.client().get("/_matrix/x").status(), 200);
    assert_eq!(origin.connections(), 1);
}

#[test]
fn an_http_1_0_client_is_kept_when_it_asks() {
    let origin = mirror();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    let kept = "GET /_matrix/x HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\n\r\n";
    let response = client.request(kept);
    assert_eq!(response.text(), "/_matrix/x");
    if response.head.lists("connection", "keep-alive") {
        assert_eq!(client.request(kept).text(), "/_matrix/x");
    } else {
        client.expect_close();
    }
}

#[test]
fn an_http_1_0_client_is_closed_when_it_does_not_ask() {
    let origin = mirror();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    assert_eq!(client.request("GET /_matrix/x HTTP/1.0\r\nHost: a\r\n\r\n").text(), "/_matrix/x");
    client.expect_close();
}

#[test]
fn an_upstream_that_says_close_is_not_used_again() {
    let origin = Origin::each(|peer| {
        peer.answer(message::response("200 OK", "Connection: close\r\n", "x"));
        assert_eq!(peer.end(), End::Closed);
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    for _ in 0..3 {
        let response = client.get("/_matrix/x");
        assert!(!response.head.lists("connection", "close"), "the origin's close became the client's");
    }
    assert_eq!(origin.connections(), 3);
}

#[test]
fn a_client_that_half_closes_still_gets_its_answer() {
    let origin = Origin::serving(|_| {
        pause(200 * MS);
        message::ok("late")
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send("GET /_matrix/x HTTP/1.0\r\nHost: a\r\n\r\n");
    client.half_close();
    // Either reading is RFC 9112 §9.6: answered in full, or taken for a client that left. Never half an answer.
    match client.try_response_to("GET") {
        Ok(response) => assert!(response.is_complete() && response.text() == "late"),
        Err(error) => {
            assert!(matches!(error, ringfence_tests::wire::Unreadable::NoHead(_, bytes) if bytes.is_empty()))
        }
    }
}

/// Answers one request on the first connection and meets the second one with `stale`; later connections serve.
fn stale_first_connection(stale: fn(&mut ringfence_tests::Peer)) -> Origin {
    Origin::each(move |peer| {
        if peer.index == 0 {
            peer.answer(message::ok("first"));
            stale(peer);
        } else {
            peer.serve(&|request| message::ok(format!("again {}", request.text())));
        }
    })
}

#[test]
fn a_get_on_a_stale_pooled_connection_is_sent_again() {
    for stale in [
        (|peer: &mut ringfence_tests::Peer| drop(peer.request_head())) as fn(&mut ringfence_tests::Peer),
        |peer| {
            peer.request_head();
            peer.reset();
        },
    ] {
        let origin = stale_first_connection(stale);
        let proxy = Proxy::to(&origin).start();
        let mut client = proxy.client();
        assert_eq!(client.request(GET).text(), "first");
        assert_eq!(client.request(GET).text(), "again ");
        assert_eq!(origin.connections(), 2);
    }
}

#[test]
fn a_put_whose_content_has_come_whole_is_sent_again_on_a_stale_connection() {
    for stale in [
        (|peer: &mut ringfence_tests::Peer| drop(peer.request())) as fn(&mut ringfence_tests::Peer),
        |peer| {
            peer.request_head();
            peer.reset();
        },
    ] {
        let origin = stale_first_connection(stale);
        let proxy = Proxy::to(&origin).start();
        let mut client = proxy.client();
        assert_eq!(client.request(GET).text(), "first");
        let response = client
            .request("PUT /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\nContent-Length: 4\r\n\r\nbody");
        assert_eq!(response.text(), "again body");
        assert_eq!(origin.connections(), 2);
    }
}

#[test]
fn a_post_is_never_sent_twice() {
    let origin = stale_first_connection(|peer| drop(peer.request()));
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    assert_eq!(client.request(GET).text(), "first");
    let response = client.request(POST);
    ringfence_tests::matrix::assert_error(&response, 502, "M_UNKNOWN");
    pause(200 * MS);
    assert_eq!(origin.received().concat().matches("POST ").count(), 1);
}

#[test]
fn a_get_that_fails_on_a_fresh_connection_too_is_a_502() {
    let origin = Origin::each(|peer| {
        if peer.index == 0 {
            peer.answer(message::ok("first"));
        }
        peer.request_head();
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    assert_eq!(client.request(GET).text(), "first");
    assert_eq!(client.request(GET).status(), 502);
    pause(200 * MS);
    assert_eq!(origin.received().concat().matches("GET ").count(), 3, "retried other than once");
}

#[test]
fn a_post_does_not_meet_a_connection_whose_close_has_arrived() {
    let origin = Origin::each(|peer| {
        peer.answer(message::ok("first"));
        if peer.index > 0 {
            peer.end();
        }
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    assert_eq!(client.request(GET).status(), 200);
    pause(150 * MS);
    assert_eq!(client.request(POST).status(), 200);
    assert_eq!(origin.connections(), 2);
}

#[test]
fn posts_do_not_fail_right_behind_the_origins_close() {
    // The close and the next request race; the proxy looks at the socket once more before it writes.
    let origin = Origin::each(|peer| {
        peer.answer(message::ok("only one"));
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    for round in 0..30 {
        assert_eq!(client.request(POST).status(), 200, "in round {round}");
        pause(10 * MS);
    }
    assert_eq!(origin.connections(), 30);
}

#[test]
fn an_idle_client_connection_is_closed_in_order() {
    let origin = mirror();
    let proxy = Proxy::to(&origin).timeouts("keep_alive_idle = \"400ms\"").start();
    let mut client = proxy.client();
    assert_eq!(client.get("/_matrix/x").status(), 200);
    let begun = Instant::now();
    client.expect_close();
    assert!(begun.elapsed() > 300 * MS && begun.elapsed() < 4 * SECOND, "after {:?}", begun.elapsed());
}

#[test]
fn an_idle_upstream_connection_is_closed_in_order() {
    let origin = Origin::each(|peer| {
        peer.answer(message::ok("x"));
        peer.end();
    });
    let proxy = Proxy::to(&origin).timeouts("upstream_idle = \"400ms\"").start();
    let mut client = proxy.client();
    assert_eq!(client.get("/_matrix/x").status(), 200);
    let ended = origin.connection(1).end_within(5 * SECOND);
    assert!(ended.is_some_and(|(_, end)| end == End::Closed));
    assert_eq!(client.get("/_matrix/x").status(), 200);
}

#[test]
fn the_origins_close_removes_a_pooled_connection_in_time() {
    let origin = Origin::answering("x");
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.get("/_matrix/x");
    let with_upstream = proxy.descriptors();
    drop(origin);
    ringfence_tests::wait_until("the pooled connection's close", 3 * SECOND, || {
        proxy.descriptors() < with_upstream
    });
}
