//! Message body length in both directions (RFC 9112 §6), and that ambiguous framing is refused, not repaired (§11.2).

use ringfence_tests::message::{self, Framing};
use ringfence_tests::{KIB, MIB, Origin, Proxy, pattern};

const GET: &str = "GET /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n";
const HEAD: &str = "HEAD /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n";
const POST: &str = "POST /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\n";

/// An origin that answers with the body that it got, and tells in fields how that was framed.
fn echo() -> Origin {
    Origin::serving(|request| {
        let trailers: Vec<String> =
            request.trailers.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let lines = format!("X-Framing: {:?}\r\nX-Trailers: {}\r\n", request.framing, trailers.join("&"));
        message::response("200 OK", &lines, &request.body)
    })
}

/// An origin that answers each request of a connection with these bytes, and closes after them if told so.
fn fixed(bytes: &'static str, closes: bool) -> Origin {
    Origin::each(move |peer| {
        while let Some(head) = peer.request_head() {
            assert!(head.request_framing().is_ok());
            peer.send(bytes);
            if closes {
                break;
            }
        }
    })
}

#[test]
fn content_length_of_a_request_stays_content_length() {
    let origin = echo();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    for size in [0, 1, 1000, 100 * KIB, 3 * MIB] {
        let body = pattern(size);
        let head = format!("{POST}Content-Length: {size}\r\n\r\n");
        let response = client.request([head.as_bytes(), &body].concat());
        assert_eq!(response.head.value("x-framing"), Some(format!("Length({size})").as_str()));
        assert!(response.body == body, "a body of {size} bytes changed");
    }
}

#[test]
fn a_chunked_request_arrives_chunked_with_its_trailers() {
    let origin = echo();
    let proxy = Proxy::to(&origin).start();
    let body = pattern(200 * KIB);
    let mut request = format!("{POST}Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n").into_bytes();
    for (index, piece) in body.chunks(7001).enumerate() {
        request.extend(message::chunk(&piece[..1 + index]));
        request.extend(message::chunk(&piece[1 + index..]));
    }
    request.extend(b"0\r\nX-Sum: 42\r\n\r\n");
    let mut client = proxy.client();
    let response = client.request(request);
    assert_eq!(response.head.value("x-framing"), Some("Chunked"));
    assert_eq!(response.head.value("x-trailers"), Some("X-Sum=42"));
    assert!(response.body == body, "a chunked body changed");
    assert_eq!(client.get("/_matrix/again").status(), 200);
}

#[test]
fn chunks_are_understood_wherever_reads_divide_them() {
    let origin = echo();
    let proxy = Proxy::to(&origin).start();
    let chunks = "1\r\na\r\n00a;ext=\"v\"\r\n0123456789\r\nA\r\nabcdefghij\r\n0\r\nT: v\r\n\r\n";
    let mut client = proxy.client();
    client
        .send_slowly(format!("{POST}Transfer-Encoding: chunked\r\n\r\n{chunks}"), 1, ringfence_tests::MS)
        .unwrap();
    let response = client.response();
    assert_eq!(response.text(), "a0123456789abcdefghij");
    assert_eq!(response.head.value("x-trailers"), Some("T=v"));
}

#[test]
fn content_length_of_a_response_stays_content_length() {
    let body = pattern(MIB);
    let expected = body.clone();
    let origin = Origin::serving(move |_| message::ok(&body));
    let proxy = Proxy::to(&origin).start();
    let response = proxy.client().get("/_matrix/x");
    assert_eq!(response.framing, Framing::Length(MIB));
    assert!(response.body == expected, "the body changed");
}

#[test]
fn a_chunked_response_stays_chunked_with_its_trailers() {
    let answer = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5;a=b\r\nhello\r\n1\r\n!\r\n0\r\nX-Sum: 6\r\n\r\n";
    let origin = fixed(answer, false);
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    for _ in 0..3 {
        let response = client.get("/_matrix/x");
        assert_eq!((response.framing, response.text().as_str()), (Framing::Chunked, "hello!"));
        assert_eq!(response.trailers, [("X-Sum".to_owned(), "6".to_owned())]);
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn a_response_until_close_becomes_chunked_for_http_1_1() {
    let origin = fixed("HTTP/1.1 200 OK\r\n\r\nuntil close", true);
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    for _ in 0..2 {
        let response = client.get("/_matrix/x");
        assert_eq!((response.framing, response.text().as_str()), (Framing::Chunked, "until close"));
        assert!(response.is_complete());
    }
}

#[test]
fn a_response_of_http_1_0_is_understood() {
    let origin = fixed("HTTP/1.0 200 OK\r\nX-Old: yes\r\n\r\nold", true);
    let proxy = Proxy::to(&origin).start();
    let response = proxy.client().get("/_matrix/x");
    assert_eq!((response.status(), response.text().as_str()), (200, "old"));
    assert!(response.head.start_line.starts_with("HTTP/1.1 200"), "{}", response.head.start_line);
}

#[test]
fn a_response_until_close_ends_with_the_connection_for_http_1_0() {
    let origin = fixed("HTTP/1.1 200 OK\r\n\r\nuntil close", true);
    let proxy = Proxy::to(&origin).start();
    let response = proxy.client().request("GET /_matrix/x HTTP/1.0\r\nHost: matrix.example.com\r\n\r\n");
    assert_eq!((response.framing, response.text().as_str()), (Framing::UntilClose, "until close"));
    assert!(response.is_complete());
}

#[test]
fn a_chunked_response_is_dechunked_for_http_1_0() {
    let origin = fixed(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nT: v\r\n\r\n",
        false,
    );
    let proxy = Proxy::to(&origin).start();
    let response = proxy.client().request("GET /_matrix/x HTTP/1.0\r\nHost: matrix.example.com\r\n\r\n");
    assert_eq!((response.framing, response.text().as_str()), (Framing::UntilClose, "abcde"));
    assert!(response.is_complete() && response.head.values("transfer-encoding").is_empty());
}

#[test]
fn an_http_1_0_client_without_host_is_served() {
    let origin = Origin::answering("old friend");
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    let response = client.request("GET /_matrix/x HTTP/1.0\r\n\r\n");
    assert_eq!((response.status(), response.text().as_str()), (200, "old friend"));
    client.expect_close();
    let received = origin.received().concat();
    assert!(
        received.starts_with("GET /_matrix/x HTTP/1.1\r\n") && received.contains("\r\nHost: "),
        "{received}"
    );
}

#[test]
fn responses_without_a_body_do_not_end_the_connection() {
    for (answer, status) in [
        ("HTTP/1.1 204 No Content\r\nX-A: b\r\n\r\n", 204),
        ("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n", 304),
        ("HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 1234\r\n\r\n", 304),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", 200),
    ] {
        let origin = fixed(answer, false);
        let proxy = Proxy::to(&origin).start();
        let mut client = proxy.client();
        for _ in 0..3 {
            let response = client.request(GET);
            assert_eq!((response.status(), response.body.len()), (status, 0));
            assert!(response.head.values("transfer-encoding").is_empty(), "{:?}", response.head);
        }
        assert_eq!(origin.connections(), 1, "after {answer:?}");
    }
}

#[test]
fn a_response_to_head_has_the_length_and_no_body() {
    for line in ["Content-Length: 1234", "Transfer-Encoding: chunked", "X-None: 1"] {
        let answer: &str = Box::leak(format!("HTTP/1.1 200 OK\r\n{line}\r\n\r\n").into_boxed_str());
        let origin = fixed(answer, false);
        let proxy = Proxy::to(&origin).start();
        let mut client = proxy.client();
        for _ in 0..3 {
            let response = client.request(HEAD);
            assert_eq!(response.status(), 200);
            if line.starts_with("Content-Length") {
                assert_eq!(response.head.value("content-length"), Some("1234"));
            }
        }
        assert_eq!(origin.connections(), 1, "after {line}");
    }
}

#[test]
fn a_post_without_a_body_arrives_without_a_body() {
    let origin = echo();
    let proxy = Proxy::to(&origin).start();
    let response = proxy.client().request(format!("{POST}\r\n"));
    assert_eq!(response.head.value("x-framing"), Some("Length(0)"));
}

#[test]
fn a_get_with_a_body_arrives_with_its_body() {
    let origin = echo();
    let proxy = Proxy::to(&origin).start();
    let request = "GET /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\nContent-Length: 3\r\n\r\nabc";
    assert_eq!(proxy.client().request(request).text(), "abc");
}

/// Head lines and what follows them; each must be refused with this status, and the origin must see nothing.
const AMBIGUOUS: &[(u16, &str, &str)] = &[
    (400, "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "0\r\n\r\n"),
    (400, "Content-Length: 3\r\nContent-Length: 4\r\n", "abcd"),
    (400, "Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
    (400, "Content-Length: 3, 3\r\n", "abc"),
    (400, "Content-Length: 3, 4\r\n", "abcd"),
    (400, "Content-Length: +3\r\n", "abc"),
    (400, "Content-Length: -3\r\n", "abc"),
    (400, "Content-Length: 0x3\r\n", "abc"),
    (400, "Content-Length: 3 3\r\n", "abc"),
    (400, "Content-Length: 3.0\r\n", "abc"),
    (400, "Content-Length:\r\n", "abc"),
    (400, "Content-Length: 99999999999999999999999999\r\n", "abc"),
    (400, "Content-Length : 3\r\n", "abc"),
    (400, " Content-Length: 3\r\n", "abc"),
    (400, "X-A: b\r\n Content-Length: 3\r\n", "abc"),
    (400, "Transfer-Encoding : chunked\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: chunked, gzip\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
    (400, "Transfer-Encoding: \"chunked\"\r\n", "0\r\n\r\n"),
    (501, "Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
    (501, "Transfer-Encoding: gzip\r\n", "0\r\n\r\n"),
    (501, "Transfer-Encoding: identity\r\n", "0\r\n\r\n"),
    (501, "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
];

#[test]
fn ambiguous_framing_is_refused_and_reaches_no_origin() {
    let origin = echo();
    let proxy = Proxy::to(&origin).start();
    for (status, lines, body) in AMBIGUOUS {
        let mut client = proxy.client();
        client.send(format!("{POST}{lines}\r\n{body}GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(client.response().status(), *status, "for {lines:?}");
        client.expect_close();
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn transfer_encoding_in_http_1_0_is_refused() {
    let origin = echo();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    let request = "POST /_matrix/x HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(client.request(request).status(), 400);
    client.expect_close();
    assert_eq!(origin.connections(), 0);
}

#[test]
fn malformed_chunks_are_never_completed_towards_the_origin() {
    for chunks in [
        "x\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\nabc\n0\n\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "+3\r\nabc\r\n0\r\n\r\n",
        "0x3\r\nabc\r\n0\r\n\r\n",
        " 3\r\nabc\r\n0\r\n\r\n",
        "3 \r\nabc\r\n0 \r\n\r\nx",
        "\r\nabc\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\nContent-Length: 5\r\n\r\n",
        "3\r\nabc\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "3\r\nabc\r\n0\r\nbad trailer\r\n\r\n",
    ] {
        let origin = Origin::each(|peer| drop(peer.request()));
        let proxy = Proxy::to(&origin).start();
        let mut client = proxy.client();
        client.send(format!("{POST}Transfer-Encoding: chunked\r\n\r\n{chunks}"));
        let status = client.response().status();
        assert_eq!(status, 400, "for {chunks:?}");
        client.expect_close();
        let received = origin.received().concat();
        assert!(!received.ends_with("0\r\n\r\n"), "{chunks:?} arrived complete: {received:?}");
    }
}

#[test]
fn one_empty_line_before_a_request_is_skipped() {
    let origin = echo();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send(format!("\r\n{GET}"));
    assert_eq!(client.response().status(), 200);
}

#[test]
fn other_versions_and_broken_request_lines_are_refused() {
    let origin = echo();
    let proxy = Proxy::to(&origin).start();
    for (line, statuses) in [
        ("GET /_matrix/x HTTP/2.0", &[505][..]),
        ("GET /_matrix/x HTTP/1.2", &[505, 400]),
        ("GET /_matrix/x HTTP/0.9", &[505, 400]),
        ("GET /_matrix/x", &[400]),
        ("GET /_matrix/x HTTP/1.1 ", &[400]),
        ("GET /_matrix/x http/1.1", &[400]),
        ("GET /_matrix/x HTTP/11", &[400]),
        ("GET\t/_matrix/x HTTP/1.1", &[400]),
        ("G(T /_matrix/x HTTP/1.1", &[400]),
        (" GET /_matrix/x HTTP/1.1", &[400]),
        ("\x16\x03\x01\x02", &[400]),
    ] {
        let mut client = proxy.client();
        client.send(format!("{line}\r\nHost: a\r\n\r\n"));
        let status = client.response().status();
        assert!(statuses.contains(&status), "{line:?} was answered {status}");
        client.expect_close();
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn responses_with_ambiguous_framing_become_502() {
    for answer in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nX-A : b\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nX-A: b\r\n c\r\nContent-Length: 3\r\n\r\nabc",
    ] {
        let origin = fixed(answer, true);
        let proxy = Proxy::to(&origin).start();
        let response = proxy.client().get("/_matrix/x");
        ringfence_tests::matrix::assert_error(&response, 502, "M_UNKNOWN");
    }
}

#[test]
fn bytes_after_a_response_are_no_second_response() {
    let origin = Origin::each(|peer| {
        while peer.request_head().is_some() {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabcHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        }
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/_matrix/x").text(), "abc");
    }
    assert_eq!(origin.connections(), 3, "a connection with stray bytes was used again");
}
