//! The request target crosses byte for byte, or is refused: it is never repaired (RFC 9112 §3.2, DESIGN).
//!
//! Federation signatures cover its bytes: one normalised `%2F` makes a remote server refuse the homeserver behind us.

use ringfence_tests::matrix::assert_error;
use ringfence_tests::wire::End;
use ringfence_tests::{KIB, Message, Origin, Proxy, latin1, message};

/// An origin that answers with the request target that it saw.
fn mirror() -> Origin {
    Origin::serving(|request| message::ok(request.head.target()))
}

fn proxy_for_every_path(origin: &Origin) -> Proxy {
    let route = format!("[[route]]\npath = \"/\"\nupstream = \"{}\"", origin.url());
    Proxy::to(origin).extra(&route).start()
}

/// Targets of Matrix and from hell, in origin-form.
const TARGETS: &[&str] = &[
    "/",
    "/_matrix/client/versions",
    "/_matrix/client/v3/directory/room/%23room%3Aexample.com",
    "/_matrix/client/v3/directory/room/%23a%2Fb%3Fc%3Bd%25e%3Aexample.com",
    "/_matrix/client/v3/rooms/!room:hs",
    "/_matrix/client/v3/rooms/!room%3Ahs/send/m.room.message/txn1",
    "/_matrix/client/v3/rooms/%21room%3ahs/send/m.room.message/%2f%2F",
    "/_matrix/client/v3/rooms/!r:hs/state/m.room.name/",
    "/_matrix/client/v3/rooms/!r:hs/state/m.room.name",
    "/_matrix/client/v3/user/@alice:example.com/filter",
    "/_matrix/client/v3/user/%40alice%3Aexample.com/filter",
    "/_matrix/client/v3/sync?since=s1_2_3&timeout=30000&filter=%7B%22room%22%3A%7B%7D%7D",
    "/_matrix/client/v3/keys/changes?from=s1&to=s2",
    "/_matrix/federation/v1/send/1234567890",
    "/_matrix/federation/v1/event/$event%3Ahs",
    "/_matrix/federation/v1/event/$abc-_DEF+ghi",
    "/_matrix/federation/v1/query/directory?room_alias=%23a%2fb%3Ahs",
    "/_matrix/federation/v1/state_ids/!r:hs?event_id=%24e",
    "/_matrix/key/v2/server/ed25519%3Aauto",
    "/_matrix/media/v3/download/hs/abc?allow_redirect=true",
    "/_matrix/x/%2F",
    "/_matrix/x/%2f",
    "/_matrix/x/%23",
    "/_matrix/x/%3F",
    "/_matrix/x/%3f",
    "/_matrix/x/%25",
    "/_matrix/x/%2525",
    "/_matrix/x/%00",
    "/_matrix/x/%0d%0a",
    "/_matrix/x/%20",
    "/_matrix/x/+",
    "/_matrix/x/%zz",
    "/_matrix/x/%",
    "/_matrix/x/%2",
    "/_matrix/x/%C3%A9",
    "/_matrix/x/%c3%A9%FF",
    "/_matrix/x/%41",
    "/_matrix/x/~%7E",
    "/_matrix/x/.",
    "/_matrix/x/..",
    "/_matrix/x/./y",
    "/_matrix/x/../y",
    "/_matrix/x/%2e%2e/y",
    "/_matrix/x/%2E/y",
    "/_matrix/x/...",
    "/_matrix//x",
    "/_matrix/x//",
    "//_matrix/x",
    "///",
    "//example.com/x",
    "/_matrix/x;",
    "/_matrix/x;a=b;c=d/y",
    "/_matrix/x?",
    "/_matrix/x??",
    "/_matrix/x?a?b",
    "/_matrix/x?&&==&",
    "/_matrix/x?a=/../b//c",
    "/_matrix/x?a=%zz",
    "/_matrix/x?[]{}|^",
    "/_matrix/x/[]{}|^",
    "/_matrix/x/\\y",
    "/_matrix/x/\"<>`",
    "/_matrix/x/!$&'()*+,;=:@-._~",
    "/_MATRIX/X",
    "/_matrix/x?http://example.com/",
    "/http://example.com/_matrix",
    "/?",
    "/*",
];

#[test]
fn sixty_targets_arrive_byte_for_byte() {
    const { assert!(TARGETS.len() >= 60) };
    let origin = mirror();
    let proxy = proxy_for_every_path(&origin);
    let mut client = proxy.client();
    for target in TARGETS {
        let response = client.get(target);
        assert_eq!((response.status(), response.text().as_str()), (200, *target));
    }
    let mut sent: Vec<String> = TARGETS.iter().map(|target| format!("GET {target} HTTP/1.1")).collect();
    let mut arrived = origin.request_lines();
    // The route has connections of its own, so the order says nothing.
    sent.sort();
    arrived.sort();
    assert_eq!(arrived, sent);
}

#[test]
fn targets_arrive_byte_for_byte_in_pieces_of_one_byte() {
    let origin = mirror();
    let proxy = proxy_for_every_path(&origin);
    let mut client = proxy.client();
    let target = "/_matrix/x/%2F..//%zz?[]{}|^";
    let request = format!("GET {target} HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n");
    client.send_slowly(request, 1, ringfence_tests::MS).unwrap();
    assert_eq!(client.response().text(), target);
}

#[test]
fn a_target_of_8_kib_arrives_whole() {
    let origin = mirror();
    let proxy = proxy_for_every_path(&origin);
    let target = format!("/_matrix/client/v3/sync?filter={}", "%7B".repeat(8 * KIB / 3));
    assert!(target.len() >= 8 * KIB);
    assert_eq!(proxy.client().get(&target).text(), target);
}

#[test]
fn a_target_over_16_kib_is_refused_with_414() {
    let origin = mirror();
    let proxy = proxy_for_every_path(&origin);
    let mut client = proxy.client();
    let response = client.get(&format!("/_matrix/{}", "x".repeat(17 * KIB)));
    assert_eq!(response.status(), 414);
    client.expect_close();
    assert_eq!(origin.connections(), 0);
}

/// Sends a request line that has to be refused, and checks that the origin sees none of it.
fn refused(request_line: &[u8]) -> Message {
    let origin = mirror();
    let proxy = proxy_for_every_path(&origin);
    let mut client = proxy.client();
    client.send([request_line, b"\r\nHost: matrix.example.com\r\n\r\n"].concat());
    let response = client.response();
    let (after, end) = client.read_to_end();
    assert_eq!((latin1(&after).as_str(), end), ("", End::Closed), "after {:?}", latin1(request_line));
    assert_eq!(origin.connections(), 0, "{:?} reached the origin", latin1(request_line));
    response
}

#[test]
fn targets_outside_of_the_grammar_are_refused_with_400() {
    let targets: &[&[u8]] = &[
        b"/_matrix/x#fragment",
        b"/_matrix/#",
        b"/_matrix/x?a#b",
        b"/_matrix/a b",
        b"/_matrix/a\tb",
        b"/_matrix/\x01",
        b"/_matrix/\x1f",
        b"/_matrix/\x7f",
        b"/_matrix/\0",
        b"/_matrix/\x80",
        b"/_matrix/\xc3\xa9",
        b"/_matrix/\xff?x",
        b"/_matrix/a\rb",
        b"",
        b" /_matrix/x",
        b"_matrix/x",
        b"?x",
        b"..",
        b"*",
        b"*/x",
        b"matrix.example.com:443",
        b"http:///_matrix/x",
        b"http:/_matrix/x",
        b"http://user@matrix.example.com/_matrix/x",
    ];
    for target in targets {
        let response = refused(&[b"GET ", *target, b" HTTP/1.1"].concat());
        assert_eq!(response.status(), 400, "for {:?}", latin1(target));
        assert!(response.is_complete());
    }
}

#[test]
fn a_refused_target_under_matrix_is_answered_as_matrix_json() {
    let response = refused(b"GET /_matrix/x#y HTTP/1.1");
    assert_eq!(response.status(), 400);
    ringfence_tests::matrix::assert_cors(&response);
}

#[test]
fn asterisk_form_passes_with_options_only() {
    let origin = mirror();
    let proxy = proxy_for_every_path(&origin);
    let response = proxy.client().request("OPTIONS * HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n");
    assert_eq!((response.status(), response.text().as_str()), (200, "*"));
    for method in ["GET", "POST", "PUT", "HEAD"] {
        let request = format!("{method} * HTTP/1.1\r\nHost: matrix.example.com\r\nContent-Length: 0\r\n\r\n");
        assert_eq!(proxy.client().request(request).status(), 400, "{method}");
    }
    assert_eq!(origin.request_lines(), ["OPTIONS * HTTP/1.1"]);
}

#[test]
fn absolute_form_is_sent_in_origin_form() {
    let origin = mirror();
    let proxy = proxy_for_every_path(&origin);
    let mut client = proxy.client();
    for (absolute, expected) in [
        ("http://matrix.example.com/_matrix/x", "/_matrix/x"),
        ("http://matrix.example.com/_matrix/x%2f?a=%2F&b", "/_matrix/x%2f?a=%2F&b"),
        ("HTTP://matrix.example.com/_matrix/x", "/_matrix/x"),
        ("http://matrix.example.com//_matrix/../x", "//_matrix/../x"),
        ("http://matrix.example.com/", "/"),
        ("http://matrix.example.com", "/"),
        ("http://matrix.example.com?x", "/?x"),
    ] {
        let response = client.get(absolute);
        assert_eq!((response.status(), response.text().as_str()), (200, expected), "for {absolute}");
    }
    let hosts: Vec<bool> = origin.received().iter().map(|bytes| bytes.contains("http://")).collect();
    assert!(!hosts.contains(&true), "absolute-form reached the origin");
}

#[test]
fn absolute_form_that_contradicts_host_is_refused() {
    let origin = mirror();
    let proxy = proxy_for_every_path(&origin);
    for absolute in ["http://other.example.com/_matrix/x", "http://matrix.example.com:8080/_matrix/x"] {
        let response = proxy.client().get(absolute);
        assert_error(&response, 400, "M_UNKNOWN");
    }
    assert_eq!(origin.connections(), 0);
}
