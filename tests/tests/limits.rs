//! Every limit is one well-formed answer and then a close that the client survives (DESIGN "What homeservers need" 7, 15).

use std::io::Read;
use std::net::TcpStream;
use std::time::Instant;

use ringfence_tests::client::HOST;
use ringfence_tests::matrix::{assert_cors, assert_error};
use ringfence_tests::message::{self, Framing};
use ringfence_tests::wire::{End, Unreadable};
use ringfence_tests::{Client, KIB, MIB, MS, Origin, Proxy, SECOND, pattern, pause};

const POST: &str = "POST /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\n";

#[test]
fn a_head_over_the_limit_is_refused_with_431() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).limits("head_bytes_max = \"4 KiB\"").start();
    let mut client = proxy.client();
    let below = format!("GET /_matrix/x HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n", "x".repeat(3 * KIB));
    assert_eq!(client.request(below).status(), 200);
    let above = format!("GET /_matrix/x HTTP/1.1\r\nHost: a\r\nX-A: {}\r\n\r\n", "x".repeat(5 * KIB));
    assert_eq!(client.request(above).status(), 431);
    client.expect_close();
}

#[test]
fn a_head_without_end_is_refused_with_431() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n");
    // Far more than the limit: the client writes it all before it reads.
    let lines = format!("X-A: {}\r\n", "x".repeat(1000));
    client.send(lines.repeat(500));
    assert_eq!(client.response().status(), 431);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn more_field_lines_than_the_limit_are_refused_with_431() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).limits("field_count_max = 20").start();
    let head =
        |count: usize| format!("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n{}\r\n", "X-A: b\r\n".repeat(count));
    let mut client = proxy.client();
    assert_eq!(client.request(head(19)).status(), 200);
    assert_eq!(client.request(head(20)).status(), 431);
    client.expect_close();
}

#[test]
fn a_hundred_field_lines_pass_by_default() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    let lines = "X-A: b\r\n".repeat(99);
    assert_eq!(
        proxy.client().request(format!("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n{lines}\r\n")).status(),
        200
    );
}

fn with_body_limit(origin: &Origin) -> Proxy {
    Proxy::to(origin).limits("body_bytes_max = \"1 MiB\"").start()
}

#[test]
fn a_stated_length_over_the_limit_is_refused_before_the_body() {
    let origin = Origin::answering("");
    let proxy = with_body_limit(&origin);
    let mut client = proxy.client();
    let begun = Instant::now();
    client.send(format!("{POST}Content-Length: {}\r\n\r\n", MIB + 1));
    assert_error(&client.response(), 413, "M_TOO_LARGE");
    assert!(begun.elapsed() < 2 * SECOND);
    assert_eq!(origin.connections(), 0);
}

#[test]
fn an_expectation_over_the_limit_is_refused_without_100() {
    let origin = Origin::answering("");
    let proxy = with_body_limit(&origin);
    let mut client = proxy.client();
    client.send(format!("{POST}Expect: 100-continue\r\nContent-Length: {}\r\n\r\n", 2 * MIB));
    let response = client.response();
    assert!(response.interim.is_empty());
    assert_error(&response, 413, "M_TOO_LARGE");
}

#[test]
fn a_client_that_writes_everything_first_reads_its_413() {
    let origin = Origin::answering("");
    let proxy = with_body_limit(&origin);
    let size = 24 * MIB;
    let mut client = proxy.client();
    client.send(format!("{POST}Content-Length: {size}\r\n\r\n"));
    client.send(pattern(size));
    assert_error(&client.response(), 413, "M_TOO_LARGE");
}

#[test]
fn a_tls_client_that_writes_everything_first_reads_its_413() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).tls().limits("body_bytes_max = \"1 MiB\"").start();
    let size = 8 * MIB;
    let mut client = proxy.tls_client();
    client.send(format!("{POST}Content-Length: {size}\r\n\r\n"));
    client.send(pattern(size));
    assert_error(&client.response(), 413, "M_TOO_LARGE");
}

#[test]
fn a_body_of_exactly_the_limit_passes() {
    let origin = Origin::serving(|request| message::ok(request.body.len().to_string()));
    let proxy = with_body_limit(&origin);
    let mut client = proxy.client();
    let request = format!("{POST}Content-Length: {MIB}\r\n\r\n");
    assert_eq!(client.request([request.as_bytes(), &pattern(MIB)].concat()).text(), MIB.to_string());
    let chunked = format!("{POST}Transfer-Encoding: chunked\r\n\r\n");
    let body = [message::chunk(pattern(MIB)), b"0\r\n\r\n".to_vec()].concat();
    assert_eq!(client.request([chunked.as_bytes(), &body].concat()).text(), MIB.to_string());
}

#[test]
fn a_chunked_body_over_the_limit_is_refused_on_the_way() {
    let origin = Origin::each(|peer| {
        let request = peer.request().expect("a head came");
        assert!(
            request.framing == Framing::Chunked && !request.is_complete(),
            "an oversized body was completed"
        );
    });
    let proxy = with_body_limit(&origin);
    let mut client = proxy.client();
    client.send(format!("{POST}Transfer-Encoding: chunked\r\n\r\n"));
    for piece in pattern(4 * MIB).chunks(100 * KIB) {
        client.send(message::chunk(piece));
    }
    client.send("0\r\n\r\n");
    assert_error(&client.response(), 413, "M_TOO_LARGE");
    assert!(origin.connection(1).end_within(2 * SECOND).is_some());
}

#[test]
fn a_route_has_a_body_limit_of_its_own() {
    let origin = Origin::serving(|request| message::ok(request.body.len().to_string()));
    let route = format!(
        "[[route]]\npath = \"/_matrix/media\"\nupstream = \"{}\"\nbody_bytes_max = \"4 MiB\"",
        origin.url()
    );
    let proxy = Proxy::to(&origin).limits("body_bytes_max = \"1 MiB\"").extra(&route).start();
    let request = |path: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 2 * MIB);
        [head.as_bytes(), &pattern(2 * MIB)].concat()
    };
    assert_eq!(proxy.client().request(request("/_matrix/media/v3/upload")).status(), 200);
    assert_eq!(proxy.client().request(request("/_matrix/client/v3/x")).status(), 413);
}

#[test]
fn a_slow_head_is_refused_with_408() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).timeouts("header_read = \"600ms\"").start();
    let mut client = proxy.client();
    let begun = Instant::now();
    // Each byte alone is in time; the head is not.
    let slow = "GET /_matrix/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
    let _ = client.send_slowly(slow, 1, 20 * MS);
    assert_eq!(client.response().status(), 408);
    client.expect_close();
    assert!(begun.elapsed() < 5 * SECOND, "after {:?}", begun.elapsed());
    assert_eq!(origin.connections(), 0);
}

#[test]
fn a_connection_that_never_sends_is_closed() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).timeouts("header_read = \"500ms\"\nkeep_alive_idle = \"500ms\"").start();
    let mut client = proxy.client();
    let begun = Instant::now();
    let (_, end) = client.read_to_end();
    assert_eq!(end, End::Closed);
    assert!(begun.elapsed() < 4 * SECOND, "after {:?}", begun.elapsed());
}

#[test]
fn a_handshake_that_never_comes_is_closed() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).tls().timeouts("tls_handshake = \"500ms\"").start();
    for first in [&b""[..], b"\x16\x03\x01\x02\x00\x01\x00"] {
        let mut client = Client::connect(proxy.address);
        client.send(first);
        let begun = Instant::now();
        let (_, end) = client.read_to_end();
        assert!(matches!(end, End::Closed | End::Reset), "{end:?}");
        assert!(begun.elapsed() > 300 * MS && begun.elapsed() < 4 * SECOND, "after {:?}", begun.elapsed());
    }
}

#[test]
fn connections_of_one_address_are_limited() {
    let origin = Origin::answering("in");
    let proxy = Proxy::to(&origin).limits("connections_per_address_max = 4").start();
    let from = |ip: &str| Client::connect_from(ip.parse().unwrap(), proxy.address);
    let mut within: Vec<Client> = (0..4).map(|_| from("127.0.0.7")).collect();
    for client in &mut within {
        assert_eq!(client.get("/_matrix/x").text(), "in");
    }
    let mut beyond = from("127.0.0.7");
    let _ = beyond.try_send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
    match beyond.try_response_to("GET") {
        Ok(response) => assert!(matches!(response.status(), 429 | 503), "{response:?}"),
        Err(error) => assert!(matches!(error, Unreadable::NoHead(End::Closed | End::Reset, _)), "{error:?}"),
    }
    assert_eq!(from("127.0.0.8").get("/_matrix/x").text(), "in", "another address is not concerned");
    drop(within.pop());
    ringfence_tests::wait_until("room after a close", 3 * SECOND, || {
        let mut client = from("127.0.0.7");
        let _ = client.try_send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
        client.try_response_to("GET").is_ok_and(|response| response.status() == 200)
    });
}

#[test]
fn connections_in_all_are_limited() {
    let origin = Origin::answering("in");
    let proxy = Proxy::to(&origin).limits("connections_max = 16").start();
    let mut within: Vec<Client> = (0..16).map(|_| proxy.client()).collect();
    for client in &mut within {
        assert_eq!(client.get("/_matrix/x").text(), "in");
    }
    let mut beyond = proxy.client();
    beyond.set_patience(SECOND);
    let _ = beyond.try_send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
    // Refused with 503, closed, or left waiting in the backlog; never served beyond the limit.
    let served = beyond.try_response_to("GET").is_ok_and(|response| response.status() == 200);
    assert!(!served, "a seventeenth connection was served");
    drop(within);
    ringfence_tests::wait_until("room after closes", 3 * SECOND, || {
        let mut client = proxy.client();
        let _ = client.try_send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
        client.try_response_to("GET").is_ok_and(|response| response.status() == 200)
    });
}

#[test]
fn a_body_that_falls_silent_is_refused_and_aborted_upstream() {
    let origin = Origin::each(|peer| {
        let request = peer.request().expect("a head came");
        assert!(!request.is_complete());
    });
    let proxy = Proxy::to(&origin).timeouts("downstream_silence = \"500ms\"").start();
    let mut client = proxy.client();
    let begun = Instant::now();
    client.send(format!("{POST}Content-Length: 100\r\n\r\nhalf"));
    let response = client.response();
    assert_eq!(response.status(), 408);
    assert_cors(&response);
    assert!(begun.elapsed() > 400 * MS && begun.elapsed() < 4 * SECOND, "after {:?}", begun.elapsed());
    assert!(origin.connection(1).end_within(2 * SECOND).is_some());
}

#[test]
fn a_client_is_not_silent_while_it_waits_for_100_and_is_afterwards() {
    let origin = Origin::each(|peer| {
        if peer.request_head().is_some_and(|head| head.target().ends_with("/invited")) {
            peer.send("HTTP/1.1 100 Continue\r\n\r\n");
        }
        peer.end();
    });
    let timeouts = "downstream_silence = \"400ms\"\nupstream_first_byte = \"1500ms\"";
    let proxy = Proxy::to(&origin).timeouts(timeouts).start();
    for (target, status) in [("/_matrix/never", 504), ("/_matrix/invited", 408)] {
        let mut client = proxy.client();
        client.send(format!(
            "PUT {target} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
        ));
        assert_eq!(client.response().status(), status, "{target}");
    }
}

#[test]
fn a_slow_but_steady_upload_passes() {
    let origin = Origin::serving(|request| message::ok(&request.body));
    let proxy = Proxy::to(&origin).timeouts("downstream_silence = \"500ms\"").start();
    let mut client = proxy.client();
    client.send(format!("{POST}Content-Length: 2000\r\n\r\n"));
    // 1 666 B/s, over three times what a client owes.
    client.send_slowly(pattern(2000), 200, 120 * MS).unwrap();
    assert!(client.response().body == pattern(2000));
}

#[test]
fn a_body_that_dribbles_is_refused_although_it_is_never_silent() {
    let origin = Origin::each(|peer| drop(peer.request()));
    let proxy = Proxy::to(&origin).timeouts("downstream_silence = \"500ms\"").start();
    // Content byte by byte; chunks of one byte; an extension that pays for nothing.
    let dribbles = [
        ("Content-Length: 1000", "x".repeat(100)),
        ("Transfer-Encoding: chunked", "1\r\nx\r\n".repeat(20)),
        ("Transfer-Encoding: chunked", format!("1;{}", "e".repeat(100))),
    ];
    for (index, (framing, dribble)) in dribbles.into_iter().enumerate() {
        let mut client = proxy.client();
        let begun = Instant::now();
        client.send(format!("{POST}{framing}\r\n\r\n"));
        // Six seconds of it.
        client.send_slowly(dribble, 1, 60 * MS).unwrap();
        assert_eq!(client.response().status(), 408, "{framing}");
        let (ended, _) = origin.connection(index + 1).end_within(SECOND).expect("the upstream request ends");
        assert!(ended - begun < 3 * SECOND, "{framing}: it lived for {:?}", ended - begun);
    }
}

#[test]
fn a_response_that_is_taken_too_slowly_is_cut_although_it_always_moves() {
    let origin = Origin::serving(|_| message::ok(vec![b'x'; 64 * MIB]));
    let proxy = Proxy::to(&origin)
        .limits("data_rate_min = \"64 KiB\"")
        .timeouts("downstream_silence = \"2s\"")
        .start();
    let mut client = Client::connect_with_small_window(proxy.address, 4 * KIB);
    client.send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_head().unwrap();
    let begun = Instant::now();
    // Some 16 KiB a second.
    while begun.elapsed() < 20 * SECOND && client.read_exactly(4 * KIB).is_ok() {
        pause(250 * MS);
    }
    assert!(begun.elapsed() < 15 * SECOND, "it lives on after {:?}", begun.elapsed());
    assert!(proxy.access_log(1)[0].contains("close=client-unwilling"), "{:?}", proxy.access_log(1));
}

/// What TLS has encrypted and the kernel has not taken yet moves on while the client reads.
#[test]
fn a_steady_tls_download_is_not_silent_while_one_buffer_of_it_is_sent() {
    let size = 2 * MIB;
    let origin = Origin::serving(move |_| message::ok(pattern(size)));
    let silence = "downstream_silence = \"2s\"\nupstream_silence = \"2s\"";
    let proxy = Proxy::to(&origin).tls().timeouts(silence).start();
    let mut client = Client::tls_with_small_window(proxy.address, HOST, 32 * KIB);
    client.send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_head().unwrap();
    let mut body = Vec::new();
    while body.len() < size {
        let piece = client.read_exactly((size - body.len()).min(20 * KIB));
        body.extend(piece.unwrap_or_else(|(_, end)| panic!("{end:?} after {} bytes", body.len())));
        // At first fast, so that the largest buffers are in use; then at 40 KiB/s for longer than one of them lasts.
        if (800 * KIB..1100 * KIB).contains(&body.len()) {
            pause(500 * MS);
        }
    }
    assert!(body == pattern(size), "the body changed");
}

#[test]
fn a_client_that_never_reads_is_cut_at_downstream_silence() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        peer.set_patience(20 * SECOND);
        let size = 64 * MIB;
        let _ = peer.try_send(message::ok(vec![b'x'; size]));
        peer.end();
    });
    let proxy = Proxy::to(&origin).timeouts("downstream_silence = \"700ms\"").start();
    let mut client = Client::connect_with_small_window(proxy.address, 64 * KIB);
    client.send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(origin.connection(1).end_within(8 * SECOND).is_some(), "the upstream connection stays");
    client.read_head().unwrap();
    let (body, end) = client.read_to_end();
    assert!(
        body.len() < 64 * MIB && matches!(end, End::Closed | End::Reset),
        "{} bytes, {end:?}",
        body.len()
    );
}

/// What is left of an answer when its connection is closed is the kernel's, and that forgets it too.
#[test]
fn an_answer_that_nobody_reads_is_not_kept_by_the_kernel() {
    let origin = Origin::serving(|_| message::ok(vec![b'x'; 100 * KIB]));
    let proxy = Proxy::to(&origin).timeouts("downstream_silence = \"1s\"").start();
    let mut client = Client::connect_with_small_window(proxy.address, KIB);
    client.send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n");
    // Lines of this table: number, local and remote address in hex, state, …
    let sockets = || {
        let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
        let port = format!(":{:04X}", proxy.address.port());
        let is_held = |line: &&str| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            columns[1].ends_with(&port) && columns[3] != "0A"
        };
        table.lines().skip(1).filter(is_held).count()
    };
    ringfence_tests::wait_until("the answer", 5 * SECOND, || sockets() > 0 && proxy.access_log(1).len() == 1);
    ringfence_tests::wait_until("the kernel's forgetting", 12 * SECOND, || sockets() == 0);
    drop(client);
}

#[test]
fn a_slow_reader_gets_its_whole_download() {
    let size = 6 * MIB;
    let origin = Origin::serving(move |_| message::ok(pattern(size)));
    let proxy = Proxy::to(&origin).timeouts("downstream_silence = \"1s\"").start();
    let mut client = Client::connect_with_small_window(proxy.address, 64 * KIB);
    client.send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_head().unwrap();
    let mut body = Vec::new();
    while body.len() < size {
        body.extend(client.read_exactly((size - body.len()).min(300 * KIB)).unwrap());
        pause(50 * MS);
    }
    assert!(body == pattern(size), "the body changed");
}

#[test]
fn a_refused_client_that_never_stops_sending_is_cut_at_linger() {
    let origin = Origin::answering("");
    let proxy =
        Proxy::to(&origin).limits("body_bytes_max = \"1 KiB\"").timeouts("linger = \"700ms\"").start();
    let mut client = proxy.client();
    client.send(format!("{POST}Content-Length: {}\r\n\r\n", 1000 * MIB));
    let begun = Instant::now();
    let mut sent = 0;
    while begun.elapsed() < 8 * SECOND && client.try_send([b'x'; 1000]).is_ok() {
        sent += 1000;
        pause(5 * MS);
    }
    assert!(begun.elapsed() < 5 * SECOND, "still read after {:?} and {sent} bytes", begun.elapsed());
}

#[test]
fn a_tls_port_survives_rubbish() {
    let origin = Origin::answering("alive");
    let proxy = Proxy::to(&origin).tls().start();
    for rubbish in [vec![0; 1000], vec![0xff; 20_000], b"\x16\x03\x01\xff\xff".repeat(100), pattern(5000)] {
        let mut client = Client::connect(proxy.address);
        let _ = client.try_send(rubbish);
        client.half_close();
        let end = client.end();
        assert!(matches!(end, End::Closed | End::Reset), "{end:?}");
    }
    assert_eq!(proxy.tls_client().get("/_matrix/x").text(), "alive");
    let mut probe = TcpStream::connect(proxy.address).unwrap();
    probe.set_read_timeout(Some(50 * MS)).unwrap();
    assert!(probe.read(&mut [0; 1]).is_err(), "a connection is open and silent before the handshake");
}
