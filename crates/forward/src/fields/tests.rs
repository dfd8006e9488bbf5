use std::io::IoSlice;

use ringfence_http1::HeadLimits;

use super::*;

const ID: &RequestId = b"0123456789abcdef0123456789abcdef";
const OURS: &str = "X-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\n\
    X-Request-ID: 0123456789abcdef0123456789abcdef\r\nVia: 1.1 ringfence\r\n\r\n";

fn parsed(head: &str) -> RequestHead {
    let mut request = RequestHead::with_capacity(8);
    request.parse(head.as_bytes(), &HeadLimits::default()).unwrap();
    request
}

fn text(out: &OutgoingHead, input: &str) -> String {
    let mut slices = [IoSlice::new(&[]); 64];
    let count = out.slices(input.as_bytes(), 0, &mut slices);
    slices[..count].iter().map(|slice| std::str::from_utf8(slice).unwrap()).collect()
}

fn sent(head: &str) -> String {
    let mut out = OutgoingHead::with_capacity(1, 1);
    let client = Client { address: "192.0.2.7".parse().unwrap(), is_certain: true, scheme: b"https" };
    request(
        &parsed(head),
        head.as_bytes(),
        &Forwarded { client, request_id: ID, host: b"hs.example" },
        &mut out,
    );
    text(&out, head)
}

fn returned(head: &str, framing: BodyFraming, close: bool) -> String {
    let mut response_head = ResponseHead::with_capacity(8);
    response_head.parse(head.as_bytes(), Method::Get, &HeadLimits::default()).unwrap();
    let mut out = OutgoingHead::with_capacity(1, 1);
    let is_dated = response_head.fields().iter().any(|line| line.known == KnownField::Date);
    let date = Some("NOW").filter(|_| !is_dated);
    response(&response_head, &Returned { request_id: ID, framing, close, date }, &mut out);
    text(&out, head)
}

#[test]
fn end_to_end_fields_pass_in_order_and_as_spelled() {
    let head = "PUT /_matrix/x%2Fy?a=%2F HTTP/1.1\r\nhOST: a.example:8448\r\nAuthorization: X-Matrix one\r\n\
        accept:  */* \r\nAuthorization: X-Matrix two\r\nContent-Length: 3\r\n\r\n";
    assert_eq!(sent(head), head.strip_suffix("\r\n").unwrap().to_owned() + OURS);
}

#[test]
fn hop_by_hop_fields_and_those_named_by_connection_are_removed() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nConnection: close, x-secret\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nTE: trailers\r\n\
        Proxy-Connection: x\r\nUpgrade: h2c\r\nHTTP2-Settings: x\r\nX-Kept: 1\r\n\r\n";
    assert_eq!(sent(head), "GET / HTTP/1.1\r\nHost: a\r\nX-Kept: 1\r\n".to_owned() + OURS);
}

#[test]
fn what_clients_say_of_themselves_is_removed() {
    let head = "GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 1.2.3.4\r\nx-forwarded-host: b\r\nForwarded: for=1\r\n\
        X-Real-IP: 1.2.3.4\r\nX-Request-ID: mine\r\nX-Forwarded-Proto: https\r\n\r\n";
    assert_eq!(sent(head), "GET / HTTP/1.1\r\nHost: a\r\n".to_owned() + OURS);
}

#[test]
fn absolute_form_becomes_origin_form() {
    for (target, sent_target) in
        [("http://a/b%2Fc?d", "/b%2Fc?d"), ("http://a", "/"), ("http://a?q", "/?q"), ("/plain", "/plain")]
    {
        let head = format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(sent(&head), format!("GET {sent_target} HTTP/1.1\r\nHost: a\r\n{OURS}"));
    }
    assert!(sent("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n").starts_with("OPTIONS * HTTP/1.1\r\n"));
}

#[test]
fn a_client_of_http_1_0_is_spoken_for_in_http_1_1() {
    let head = "POST /x HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n";
    assert_eq!(
        sent(head),
        "POST /x HTTP/1.1\r\nContent-Length: 1\r\nHost: hs.example\r\n".to_owned()
            + &OURS.replace("Via: 1.1", "Via: 1.0")
    );
}

#[test]
fn a_websocket_upgrade_is_asked_for_again() {
    let head = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let ours =
        "GET /x HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n".to_owned() + OURS;
    assert_eq!(sent(head), ours);
}

#[test]
fn chunked_is_said_again_behind_the_rest() {
    let head = "PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nX: 1\r\n\r\n";
    assert_eq!(
        sent(head),
        "PUT /x HTTP/1.1\r\nHost: a\r\nX: 1\r\nTransfer-Encoding: chunked\r\n".to_owned() + OURS
    );
}

#[test]
fn responses_lose_what_is_the_origin_s_connection_s_and_gain_id_and_date() {
    let head = "HTTP/1.1 200 Fine\r\nServer: S\r\nConnection: close, x-hop\r\nX-Hop: 1\r\nX-Request-ID: theirs\r\n\
        Content-Length: 2\r\n\r\n";
    assert_eq!(
        returned(head, BodyFraming::Length(2), false),
        "HTTP/1.1 200 Fine\r\nServer: S\r\nContent-Length: 2\r\n\
         X-Request-ID: 0123456789abcdef0123456789abcdef\r\nDate: NOW\r\n\r\n"
    );
}

#[test]
fn an_origin_of_http_1_0_is_answered_for_in_http_1_1() {
    let head = "HTTP/1.0 404 \r\nDate: THEN\r\n\r\n";
    assert_eq!(
        returned(head, BodyFraming::Chunked, true),
        "HTTP/1.1 404 \r\nDate: THEN\r\nTransfer-Encoding: chunked\r\n\
         X-Request-ID: 0123456789abcdef0123456789abcdef\r\nConnection: close\r\n\r\n"
    );
}

#[test]
fn only_trusted_proxies_are_believed_and_only_up_to_the_first_stranger() {
    let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()];
    for (peer, forwarded_for, expected) in [
        ("198.51.100.1", "X-Forwarded-For: 1.1.1.1\r\n", "198.51.100.1"),
        ("10.0.0.1", "X-Forwarded-For: 1.1.1.1\r\n", "1.1.1.1"),
        ("10.0.0.1", "X-Forwarded-For: 6.6.6.6, 1.1.1.1, 10.0.0.2\r\n", "1.1.1.1"),
        ("10.0.0.1", "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: 1.1.1.1,2001:db8::1\r\n", "1.1.1.1"),
        ("10.0.0.1", "X-Forwarded-For: 6.6.6.6, nonsense, 10.0.0.3\r\n", "10.0.0.3"),
        ("10.0.0.1", "X-Forwarded-For: ::ffff:1.1.1.1\r\n", "1.1.1.1"),
        ("10.0.0.1", "X-Forwarded-For: 10.0.0.9\r\n", "10.0.0.9"),
        ("10.0.0.1", "X-Forwarded-For: 1.1.1.1:80\r\n", "1.1.1.1"),
        ("10.0.0.1", "X-Forwarded-For: [2001:db9::1]:80, 10.0.0.2:9\r\n", "2001:db9::1"),
        ("10.0.0.1", "X-Forwarded-For: \r\n", "10.0.0.1"),
        ("10.0.0.1", "", "10.0.0.1"),
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{forwarded_for}\r\n");
        let found = client(peer.parse().unwrap(), b"http", &trusted, &parsed(&head), head.as_bytes());
        assert_eq!(found.address, expected.parse::<IpAddr>().unwrap(), "{peer} {forwarded_for:?}");
    }
}

#[test]
fn a_client_whom_a_trusted_proxy_cannot_spell_is_nobody_certain() {
    let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
    for (forwarded_for, is_certain) in [
        ("", true),
        ("X-Forwarded-For: nonsense, 1.1.1.1\r\n", true),
        ("X-Forwarded-For: nonsense\r\n", false),
        ("X-Forwarded-For: unknown, 10.0.0.3\r\n", false),
        ("X-Forwarded-For: 1.1.1.1, \r\n", false),
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{forwarded_for}\r\n");
        let peer = "10.0.0.1".parse().unwrap();
        let found = client(peer, b"http", &trusted, &parsed(&head), head.as_bytes());
        assert_eq!(found.is_certain, is_certain, "{forwarded_for:?}");
    }
}

#[test]
fn the_scheme_of_a_trusted_proxy_counts_if_it_is_one() {
    let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().unwrap()];
    for (peer, line, expected) in [
        ("10.0.0.1", "X-Forwarded-Proto: https\r\n", "https"),
        ("10.0.0.1", "X-Forwarded-Proto: gopher\r\n", "http"),
        ("192.0.2.1", "X-Forwarded-Proto: https\r\n", "http"),
    ] {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\n{line}\r\n");
        let found = client(peer.parse().unwrap(), b"http", &trusted, &parsed(&head), head.as_bytes());
        assert_eq!(found.scheme, expected.as_bytes(), "{peer} {line:?}");
    }
}

#[test]
fn addresses_are_written_as_the_standard_library_writes_them() {
    let octets = [0, 1, 9, 10, 11, 99, 100, 101, 199, 200, 255];
    let addresses = octets.iter().flat_map(|a| octets.map(|b| IpAddr::from([*a, b, 255 - b, *a])));
    for address in addresses.chain(["2001:db8::7".parse().unwrap(), "::ffff:192.0.2.1".parse().unwrap()]) {
        let mut text = Vec::new();
        write_address(&mut text, address).unwrap();
        assert_eq!(String::from_utf8(text).unwrap(), address.to_string());
    }
}

#[test]
fn the_longest_forwarding_lines_fit() {
    let mut out = OutgoingHead::with_capacity(1, 1);
    let client = Client {
        address: "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff".parse().unwrap(),
        is_certain: true,
        scheme: b"https",
    };
    push_forwarded(&Forwarded { client, request_id: ID, host: b"" }, Version::Http11, &mut out);
    assert!(text(&out, "").ends_with("Via: 1.1 ringfence\r\n\r\n"));
}

#[test]
fn max_forwards_counts_down_for_the_methods_that_it_is_for() {
    let head = |method: &str| format!("{method} /x HTTP/1.1\r\nHost: a\r\nmax-forwards: 5\r\n\r\n");
    assert!(sent(&head("OPTIONS")).contains("\r\nMax-Forwards: 4\r\n"));
    assert!(sent(&head("TRACE")).contains("\r\nMax-Forwards: 4\r\n"));
    assert!(sent(&head("GET")).contains("\r\nmax-forwards: 5\r\n"));
}

#[test]
fn max_forwards_that_cannot_be_counted_down_is_told() {
    let said = |lines: &str| {
        let head = format!("OPTIONS / HTTP/1.1\r\nHost: a\r\n{lines}\r\n");
        max_forwards(&parsed(&head), head.as_bytes())
    };
    assert_eq!(said(""), Ok(None));
    assert_eq!(said("Max-Forwards: 007\r\n"), Ok(Some(7)));
    for lines in ["Max-Forwards: 3\r\nMax-Forwards: 0\r\n", "Max-Forwards: +0\r\n", "Max-Forwards: -1\r\n"] {
        assert_eq!(said(lines), Err(NotANumber), "{lines:?}");
    }
    assert_eq!(said("Max-Forwards: 5, 6\r\n"), Err(NotANumber));
    assert_eq!(said("Max-Forwards: \r\n"), Err(NotANumber));
    assert_eq!(said("Max-Forwards: 99999999999999999999\r\n"), Err(NotANumber));
}

#[test]
fn connection_names_fields_beyond_its_usual_options() {
    for (value, names) in
        [("close", false), ("Keep-Alive, TE,upgrade", false), ("x-hop", true), ("close, x-hop", true)]
    {
        let head = format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: {value}\r\n\r\n");
        assert_eq!(names_fields(parsed(&head).fields(), head.as_bytes()), names, "{value}");
    }
}
