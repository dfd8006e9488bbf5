//! Field lines: which cross, which are removed, replaced or added (RFC 9110 §7.6, DESIGN "What homeservers need").

use std::collections::HashSet;
use std::net::IpAddr;

use ringfence_tests::{Client, Head, Origin, Proxy, message};

/// What the origin sees of a request with these field lines, each ending in CRLF.
fn forwarded(proxy: &Proxy, origin: &Origin, field_lines: &str) -> Head {
    forwarded_from("127.0.0.1", proxy, origin, field_lines)
}

fn forwarded_from(peer: &str, proxy: &Proxy, origin: &Origin, field_lines: &str) -> Head {
    let before = origin.received().concat().len();
    let peer: IpAddr = peer.parse().expect("an address");
    let mut client = Client::connect_from(peer, proxy.address);
    let head = format!("GET /_matrix/x HTTP/1.1\r\n{field_lines}\r\n");
    assert_eq!(client.request(head).status(), 200);
    let received = origin.received().concat();
    Head::parse(&received.as_bytes()[before..]).expect("the origin sees a well-formed head")
}

fn names(head: &Head) -> Vec<&str> {
    head.fields.iter().map(|(name, _)| name.as_str()).collect()
}

/// Values of one field, over several requests of one test.
fn value(head: &Head, name: &str) -> String {
    head.value(name).unwrap_or("(none)").to_owned()
}

const HOST_LINE: &str = "Host: matrix.example.com\r\n";

#[test]
fn other_fields_cross_in_order_and_as_spelled() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    let lines = [
        "hOsT: matrix.example.com",
        "x-LOWER-upper: 1",
        "Accept:*/*",
        "X-Empty:",
        "X-Spaces: \t a  b \t ",
        "Cookie: a=b",
        "Cookie: c=d",
        "x-lower-UPPER: 2",
        "!#$%&'*+-.^_`|~09azAZ: odd but legal",
        "X-High: caf\u{e9}",
        "Accept-Encoding: gzip, br",
    ];
    let lines = lines.map(|line| format!("{line}\r\n")).concat();
    let mut client = proxy.client();
    let request = format!("GET /_matrix/x HTTP/1.1\r\n{lines}\r\n");
    let request: Vec<u8> = request.chars().map(|char| u8::try_from(u32::from(char)).unwrap()).collect();
    assert_eq!(client.request(request).status(), 200);
    let received = origin.received().concat();
    assert!(received.contains(&format!("GET /_matrix/x HTTP/1.1\r\n{lines}")), "{received}");
}

#[test]
fn response_fields_cross_in_order_and_as_spelled() {
    let lines = "server: a\r\nX-B:  b \r\nSet-Cookie: a=1\r\nset-cookie: b=2\r\nX-A: a\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\n";
    let origin = Origin::serving(move |_| message::response("200 Fine, thanks", lines, "body"));
    let proxy = Proxy::to(&origin).start();
    let response = proxy.client().get("/_matrix/x");
    let raw = ringfence_tests::latin1(&response.head.raw);
    assert!(raw.starts_with(&format!("HTTP/1.1 200 Fine, thanks\r\n{lines}")), "{raw}");
    assert_eq!(response.text(), "body");
}

#[test]
fn hop_by_hop_fields_of_a_request_end_here() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    let head = forwarded(
        &proxy,
        &origin,
        "Host: matrix.example.com\r\nConnection: keep-alive, X-Mine , x-other,\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\n\
         TE: trailers\r\nProxy-Connection: keep-alive\r\nProxy-Authorization: Basic eA==\r\nX-OTHER: 2\r\nX-Stays: 3\r\n\
         Trailer: X-T\r\n",
    );
    let names: HashSet<String> = names(&head).iter().map(|name| name.to_ascii_lowercase()).collect();
    for gone in ["x-mine", "keep-alive", "te", "proxy-connection", "x-other"] {
        assert!(!names.contains(gone), "{gone} crossed: {head:?}");
    }
    assert!(!head.lists("connection", "x-mine") && names.contains("x-stays"), "{head:?}");
}

#[test]
fn hop_by_hop_fields_of_a_response_end_here() {
    let lines = "Connection: X-Mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nProxy-Connection: close\r\nX-Stays: 2\r\n";
    let origin = Origin::serving(move |_| message::response("200 OK", lines, ""));
    let proxy = Proxy::to(&origin).start();
    let head = proxy.client().get("/_matrix/x").head;
    for gone in ["x-mine", "keep-alive", "proxy-connection"] {
        assert!(head.values(gone).is_empty(), "{gone} crossed: {head:?}");
    }
    assert!(!head.lists("connection", "x-mine"));
    assert_eq!(head.value("x-stays"), Some("2"));
}

#[test]
fn connection_may_not_name_fields_of_framing_or_routing() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    for named in ["Content-Length", "Host", "Transfer-Encoding"] {
        let mut client = proxy.client();
        let head = format!(
            "POST /_matrix/x HTTP/1.1\r\n{HOST_LINE}Connection: {named}\r\nContent-Length: 3\r\n\r\nabc"
        );
        assert_eq!(client.request(head).status(), 400, "{named}");
    }
    assert_eq!(origin.connections(), 0);
}

#[test]
fn duplicate_authorization_lines_cross_in_order() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    let first = "X-Matrix origin=\"a\",key=\"ed25519:1\",sig=\"x\"";
    let second = "X-Matrix origin=\"a\",key=\"ed25519:2\",sig=\"y\"";
    let lines = format!("Authorization: {first}\r\n{HOST_LINE}authorization: {second}\r\n");
    let head = forwarded(&proxy, &origin, &lines);
    assert_eq!(head.values("authorization"), [first, second]);
}

#[test]
fn x_forwarded_for_is_one_line_with_the_peer() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    let forged = "X-Forwarded-For: 6.6.6.6\r\nx-forwarded-for: 7.7.7.7, 8.8.8.8\r\nX-FORWARDED-FOR:\r\n";
    let head = forwarded(&proxy, &origin, &format!("{HOST_LINE}{forged}"));
    assert_eq!(value(&head, "x-forwarded-for"), "127.0.0.1");
    let head = forwarded_from("127.0.0.9", &proxy, &origin, HOST_LINE);
    assert_eq!(value(&head, "x-forwarded-for"), "127.0.0.9");
}

#[test]
fn other_forwarding_fields_of_clients_are_removed() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    let forged = "Forwarded: for=6.6.6.6;proto=https\r\nX-Real-IP: 6.6.6.6\r\nX-Forwarded-Host: evil\r\n\
                  X-Forwarded-Port: 1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Server: evil\r\n";
    let head = forwarded(&proxy, &origin, &format!("{HOST_LINE}{forged}"));
    let text = ringfence_tests::latin1(&head.raw);
    assert!(!text.contains("6.6.6.6") && !text.contains("evil"), "{text}");
    for gone in ["forwarded", "x-real-ip", "x-forwarded-host", "x-forwarded-port", "x-forwarded-server"] {
        assert!(head.values(gone).is_empty(), "{gone}");
    }
    assert_eq!(value(&head, "x-forwarded-proto"), "http");
}

#[test]
fn connection_cannot_remove_what_the_proxy_adds() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    let lines = format!("{HOST_LINE}Connection: X-Forwarded-For, X-Forwarded-Proto, X-Request-ID, Via\r\n");
    let head = forwarded(&proxy, &origin, &lines);
    assert_eq!(value(&head, "x-forwarded-for"), "127.0.0.1");
    assert_eq!(value(&head, "x-forwarded-proto"), "http");
    assert_eq!(value(&head, "x-request-id").len(), 32);
}

#[test]
fn a_trusted_proxy_is_believed_from_the_right() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).top("trusted_proxies = [\"127.0.0.0/8\", \"10.0.0.0/8\"]").start();
    for (forwarded_for, client) in [
        ("X-Forwarded-For: 203.0.113.7\r\n", "203.0.113.7"),
        ("X-Forwarded-For: 6.6.6.6, 203.0.113.7\r\n", "203.0.113.7"),
        ("X-Forwarded-For: 6.6.6.6, 203.0.113.7, 10.1.2.3\r\n", "203.0.113.7"),
        ("X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 203.0.113.7\r\n", "203.0.113.7"),
        ("X-Forwarded-For: 203.0.113.7,10.1.2.3\r\nX-Forwarded-For: 10.9.9.9\r\n", "203.0.113.7"),
        ("X-Forwarded-For: 2001:db8::7\r\n", "2001:db8::7"),
        ("X-Forwarded-For: 6.6.6.6, rubbish, 10.1.2.3\r\n", "10.1.2.3"),
        ("", "127.0.0.1"),
    ] {
        let head = forwarded(&proxy, &origin, &format!("{HOST_LINE}{forwarded_for}"));
        assert_eq!(value(&head, "x-forwarded-for"), client, "from {forwarded_for:?}");
    }
    let head = forwarded(&proxy, &origin, &format!("{HOST_LINE}X-Forwarded-Proto: https\r\n"));
    assert_eq!(value(&head, "x-forwarded-proto"), "https");
}

#[test]
fn a_peer_outside_of_trusted_proxies_is_not_believed() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).top("trusted_proxies = [\"127.0.0.5/32\"]").start();
    let lines = format!("{HOST_LINE}X-Forwarded-For: 203.0.113.7\r\nX-Forwarded-Proto: https\r\n");
    let trusted = forwarded_from("127.0.0.5", &proxy, &origin, &lines);
    assert_eq!(value(&trusted, "x-forwarded-for"), "203.0.113.7");
    let other = forwarded_from("127.0.0.6", &proxy, &origin, &lines);
    assert_eq!(value(&other, "x-forwarded-for"), "127.0.0.6");
    assert_eq!(value(&other, "x-forwarded-proto"), "http");
}

#[test]
fn x_forwarded_proto_says_https_behind_tls() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).tls().start();
    let mut client = proxy.tls_client();
    client.request(format!("GET /_matrix/x HTTP/1.1\r\n{HOST_LINE}X-Forwarded-Proto: http\r\n\r\n"));
    let received = origin.received().concat();
    let head = Head::parse(received.as_bytes()).unwrap();
    assert_eq!(value(&head, "x-forwarded-proto"), "https");
}

#[test]
fn the_request_id_is_ours_and_the_same_everywhere() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    let mut ids = HashSet::new();
    for _ in 0..5 {
        let before = origin.received().concat().len();
        let mut client = proxy.client();
        let request =
            format!("GET /_matrix/x HTTP/1.1\r\n{HOST_LINE}X-Request-ID: 1\r\nx-request-id: evil\r\n\r\n");
        let response = client.request(request);
        let head = Head::parse(&origin.received().concat().as_bytes()[before..]).unwrap();
        let id = value(&head, "x-request-id");
        assert!(id.len() == 32 && id.bytes().all(|byte| b"0123456789abcdef".contains(&byte)), "{id}");
        assert_eq!(response.head.value("x-request-id"), Some(id.as_str()));
        ids.insert(id);
    }
    assert_eq!(ids.len(), 5, "request ids repeat");
    let log = proxy.access_log(5).concat();
    assert!(ids.iter().all(|id| log.contains(&format!("id={id}"))), "{log}");
}

#[test]
fn the_origins_own_request_id_is_replaced() {
    let origin = Origin::serving(|_| message::response("200 OK", "X-Request-ID: theirs\r\n", ""));
    let proxy = Proxy::to(&origin).start();
    let response = proxy.client().get("/_matrix/x");
    assert_eq!(response.head.value("x-request-id").map(str::len), Some(32));
}

#[test]
fn host_crosses_byte_for_byte_with_its_port() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    for host in
        ["matrix.example.com:8448", "MATRIX.Example.COM", "127.0.0.1:1", "[::1]:8448", "other.example.net"]
    {
        let head = forwarded(&proxy, &origin, &format!("Host: {host}\r\n"));
        assert_eq!(value(&head, "host"), host);
    }
}

#[test]
fn via_names_the_proxy_once_to_the_origin() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    let head = forwarded(&proxy, &origin, &format!("{HOST_LINE}Via: 1.0 other\r\n"));
    assert_eq!(head.values("via"), ["1.0 other", "1.1 ringfence"]);
}

#[test]
fn malformed_field_lines_are_refused_with_400() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).start();
    for lines in [
        "Host: a\r\nX-A : b\r\n",
        "Host: a\r\n : b\r\n",
        "Host: a\r\n: b\r\n",
        "Host: a\r\nX-A b\r\n",
        "Host: a\r\nX A: b\r\n",
        "Host: a\r\nX-A: b\r\n folded\r\n",
        "Host: a\r\nX-A: b\0c\r\n",
        "Host: a\r\nX-A: b\rc\r\n",
        "Host: a\r\nX-A: b\nX-B: c\r\n",
        "Host: a\r\nX-A: b\x01c\r\n",
        "Host: a\r\nX(A): b\r\n",
        "X-A: b\r\n",
        "Host: a\r\nHost: a\r\n",
        "Host: a, b\r\n",
        "Host: a b\r\n",
        "Host: user@a\r\n",
        "Host: a/b\r\n",
        "Host: a:b\r\n",
    ] {
        let mut client = proxy.client();
        client.send(format!("GET /_matrix/x HTTP/1.1\r\n{lines}\r\n"));
        assert_eq!(client.response().status(), 400, "for {lines:?}");
        client.expect_close();
    }
    assert_eq!(origin.connections(), 0);
}
