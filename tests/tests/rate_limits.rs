//! How often a client address may use each class of endpoints, and what it is told beyond that.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use ringfence_tests::matrix::{assert_cors, assert_error, assert_json_error};
use ringfence_tests::message::{self, Message};
use ringfence_tests::{Client, KIB, Origin, Proxy, SECOND, pattern, pause, wait_until};

const HOST_LINE: &str = "Host: matrix.example.com\r\n";
const LOGIN: &str = "/_matrix/client/v3/login";

fn post(target: &str, body: &str) -> String {
    format!("POST {target} HTTP/1.1\r\n{HOST_LINE}Content-Length: {}\r\n\r\n{body}", body.len())
}

fn get(target: &str, field_lines: &str) -> String {
    format!("GET {target} HTTP/1.1\r\n{HOST_LINE}{field_lines}\r\n")
}

fn mirror() -> Origin {
    Origin::serving(|request| message::ok(request.head.target()))
}

/// How many requests have reached the origin.
fn requests_of(origin: &Origin) -> usize {
    origin.received().iter().map(|bytes| bytes.matches("\r\nX-Request-ID: ").count()).sum()
}

/// A proxy with these lines in `[rate_limits]`.
fn limited(origin: &Origin, lines: &str) -> ringfence_tests::proxy::ProxyBuilder {
    Proxy::to(origin).extra(&format!("[rate_limits]\n{lines}"))
}

/// Fails the test unless this is a whole refusal; returns `retry_after_ms`.
fn assert_refused(response: &Message) -> u64 {
    assert_error(response, 429, "M_LIMIT_EXCEEDED");
    let body: serde_json::Value = serde_json::from_slice(&response.body).expect("JSON");
    let millis = body["retry_after_ms"].as_u64().expect("a number of milliseconds");
    let seconds: u64 =
        response.head.value("retry-after").and_then(|value| value.parse().ok()).expect("Retry-After");
    assert_eq!(seconds, millis.div_ceil(1000), "{body}");
    assert!(seconds >= 1);
    assert!(response.head.lists("access-control-expose-headers", "Retry-After"));
    assert!(response.head.value("x-request-id").is_some());
    millis
}

#[test]
fn beyond_the_burst_a_client_is_told_when_to_come_again() {
    let origin = mirror();
    let proxy = limited(&origin, "login = \"20/min burst 3\"").start();
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.request(post(LOGIN, "{}")).status(), 200);
    }
    let millis = assert_refused(&client.request(post(LOGIN, "{}")));
    assert!((2000..=3000).contains(&millis), "{millis} ms for one in three seconds");
    // The connection goes on, and other classes are not concerned.
    assert_eq!(client.get("/_matrix/client/v3/sync").status(), 200);
    assert_eq!(requests_of(&origin), 4);
    let log = proxy.access_log(5);
    assert!(log[3].contains(" status=429 ") && log[3].contains(LOGIN), "{log:?}");
    // Another address has its own.
    let mut other = Client::connect_from(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 2)), proxy.address);
    assert_eq!(other.request(post(LOGIN, "{}")).status(), 200);
}

#[test]
fn who_waits_as_told_is_served() {
    let origin = mirror();
    let proxy = limited(&origin, "other = \"1/s burst 1\"").start();
    let mut client = proxy.client();
    assert_eq!(client.get("/_matrix/x").status(), 200);
    let millis = assert_refused(&client.get("/_matrix/x"));
    pause(std::time::Duration::from_millis(millis));
    assert_eq!(client.get("/_matrix/x").status(), 200);
    assert_refused(&client.get("/_matrix/x"));
}

/// Asking for the flows, the same through OPTIONS, and what has no limit by default.
#[test]
fn what_costs_nothing_is_not_limited() {
    let origin = mirror();
    let proxy = limited(&origin, "login = \"1/h burst 1\"\nother = \"1/h burst 1\"").start();
    let mut client = proxy.client();
    for _ in 0..20 {
        assert_eq!(client.get(LOGIN).status(), 200);
        assert_eq!(client.get("/_matrix/client/v3/register/available?username=a").status(), 200);
        let preflight = client.request(format!("OPTIONS {LOGIN} HTTP/1.1\r\n{HOST_LINE}\r\n"));
        assert_eq!(preflight.status(), 200);
    }
    assert_eq!(client.request(post(LOGIN, "")).status(), 200);
    assert_refused(&client.request(post(LOGIN, "")));
    // Without a word about it.
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    for index in 0..400 {
        assert_eq!(client.get("/_matrix/client/v3/sync?timeout=0").status(), 200, "{index}");
    }
}

#[test]
fn defaults_hold_login_register_and_federation() {
    let origin = mirror();
    let proxy = Proxy::to(&origin).start();
    for (request, burst) in [
        (post(LOGIN, "{}"), 20),
        (post("/_matrix/client/v3/register", "{}"), 10),
        (get("/_matrix/federation/v1/event/$e", ""), 300),
        (get("/_matrix/key/v2/server", ""), 100),
    ] {
        let mut client = proxy.client();
        let passed = (0..1000).take_while(|_| client.request(&request).status() == 200).count();
        assert!((burst..2 * burst).contains(&passed), "{passed} of burst {burst}: {request}");
    }
}

/// What is refused has bodies of every kind; none of it is taken for a request, and none goes upstream.
#[test]
fn a_small_body_is_dropped_and_the_connection_goes_on() {
    let origin =
        Origin::serving(|request| message::ok([request.head.target().as_bytes(), &request.body].concat()));
    let proxy = limited(&origin, "login = \"1/h burst 1\"").start();
    let mut client = proxy.client();
    assert_eq!(client.request(post(LOGIN, "first")).status(), 200);
    let smuggled = "GET /_matrix/smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let put_in = |body: &str| post(LOGIN, body);
    let chunked = format!("POST {LOGIN} HTTP/1.1\r\n{HOST_LINE}Transfer-Encoding: chunked\r\n\r\n");
    let chunks = format!("{:x}\r\n{smuggled}\r\n0\r\nX-Trailer: a\r\n\r\n", smuggled.len());
    for request in
        [put_in(""), put_in("{}"), put_in(smuggled), put_in(&"x".repeat(16 * KIB)), chunked + &chunks]
    {
        // In one piece, in two with the body late, and with the next request behind it.
        let head = request.find("\r\n\r\n").unwrap() + 4;
        assert_refused(&client.request(&request));
        for cut in [head - 1, head, (head + request.len()) / 2] {
            client.send(&request[..cut]);
            pause(20 * ringfence_tests::MS);
            client.send(&request[cut..]);
            assert_refused(&client.response());
        }
        client.send(format!("{request}{}", get("/_matrix/next", "")));
        assert_refused(&client.response());
        assert_eq!(client.response().text(), "/_matrix/next");
    }
    assert!(origin.received().iter().all(|bytes| !bytes.contains("smuggled")));
    assert_eq!(requests_of(&origin), 6);
}

#[test]
fn a_body_that_does_not_come_or_is_large_ends_the_connection_after_the_answer() {
    let origin = mirror();
    let proxy = limited(&origin, "login = \"1/h burst 1\"").start();
    assert_eq!(proxy.client().request(post(LOGIN, "{}")).status(), 200);
    let head = |field_lines: &str| format!("POST {LOGIN} HTTP/1.1\r\n{HOST_LINE}{field_lines}\r\n");
    for (head, body, within) in [
        // Never comes: told after the time for such bodies.
        (head("Content-Length: 100\r\n"), vec![], 5),
        // Waits to be asked for.
        (head("Content-Length: 100\r\nExpect: 100-continue\r\n"), vec![], 1),
        (head("Content-Length: 200000\r\n"), pattern(200_000), 1),
        (head("Transfer-Encoding: chunked\r\n"), message::chunk(pattern(200_000)), 1),
        (head("Transfer-Encoding: chunked\r\n"), b"no chunk\r\n".to_vec(), 1),
    ] {
        let mut client = proxy.client();
        let begun = Instant::now();
        client.send(&head);
        client.send(body);
        let response = client.response();
        assert_refused(&response);
        assert!(response.head.lists("connection", "close"), "{head}");
        assert!(begun.elapsed() < within * SECOND, "{head} took {:?}", begun.elapsed());
        client.half_close();
        client.expect_close();
    }
    assert_eq!(requests_of(&origin), 1);
}

/// One table for all workers, wherever the kernel puts a connection.
#[test]
fn workers_share_the_buckets() {
    let origin = mirror();
    let proxy = limited(&origin, "other = \"1/h burst 40\"").workers(4).start();
    let statuses = (0..100).map(|_| proxy.client().get("/_matrix/x").status());
    assert_eq!(statuses.filter(|status| *status == 200).count(), 40);
}

#[test]
fn behind_a_trusted_proxy_the_forwarded_address_counts() {
    let origin = mirror();
    let proxy = limited(&origin, "other = \"1/h burst 1\"").top("trusted_proxies = [\"127.0.0.1\"]").start();
    let mut client = proxy.client();
    let mut ask = |forwarded: &str| {
        client.request(get("/_matrix/x", &format!("X-Forwarded-For: {forwarded}\r\n"))).status()
    };
    assert_eq!((ask("192.0.2.1"), ask("192.0.2.1")), (200, 429));
    assert_eq!(ask("192.0.2.2"), 200);
    // What the client itself wrote does not make it another.
    assert_eq!(ask("198.51.100.7, 192.0.2.2"), 429);
    // One /64 is one household or server.
    assert_eq!((ask("2001:db8::1"), ask("2001:db8::2"), ask("2001:db8:0:1::1")), (200, 429, 200));
    // The same address as IPv4 in IPv6.
    assert_eq!(ask("::ffff:192.0.2.1"), 429);
}

#[test]
fn a_field_of_an_untrusted_client_does_not_give_it_another_bucket() {
    let origin = mirror();
    let proxy = limited(&origin, "other = \"1/h burst 1\"").start();
    let ask = |forwarded: &str| {
        proxy.client().request(get("/_matrix/x", &format!("X-Forwarded-For: {forwarded}\r\n"))).status()
    };
    assert_eq!((ask("192.0.2.1"), ask("192.0.2.2"), ask("192.0.2.3")), (200, 429, 429));
}

#[test]
fn exempt_networks_have_no_limit_of_requests_or_connections() {
    let origin = mirror();
    let lines = "other = \"1/h burst 1\"\nexempt = [\"127.0.0.2\", \"127.0.3.0/24\"]";
    let proxy = limited(&origin, lines).limits("connections_per_address_max = 1").start();
    for from in [Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::new(127, 0, 3, 77)] {
        let mut clients: Vec<_> = (0..5).map(|_| Client::connect_from(from.into(), proxy.address)).collect();
        for client in &mut clients {
            assert_eq!((client.get("/_matrix/x").status(), client.get("/_matrix/x").status()), (200, 200));
        }
    }
    let mut client = proxy.client();
    assert_eq!(client.get("/_matrix/x").status(), 200);
    assert_refused(&client.get("/_matrix/x"));
    assert_error(&proxy.client().response(), 429, "M_LIMIT_EXCEEDED");
    wait_until("five lines more", 5 * SECOND, || proxy.access_log(22).len() == 22);
}

#[test]
fn discovery_documents_and_routes_can_be_limited_too() {
    let origin = mirror();
    let lines = "well_known = \"1/h burst 1\"\nother = \"1/h burst 1\"";
    let route = format!("\n[[route]]\npath = \"/\"\nupstream = \"{}\"", origin.url());
    let proxy = limited(&origin, &format!("{lines}{route}")).start();
    let mut client = proxy.client();
    assert_eq!(client.get("/.well-known/matrix/client").status(), 200);
    assert_refused(&client.get("/.well-known/matrix/client"));
    assert_eq!(client.get("/index.html").status(), 200);
    // What other origins may read on the operator's own routes is not ours to say.
    let refused = client.get("/index.html");
    assert_eq!(refused.status(), 429);
    assert_json_error(&refused, "M_LIMIT_EXCEEDED");
    assert!(refused.head.value("retry-after").is_some());
    assert!(refused.head.value("access-control-allow-origin").is_none());
    assert_cors(&client.get("/.well-known/matrix/client"));
    let head = client.request(format!("HEAD /index.html HTTP/1.1\r\n{HOST_LINE}\r\n"));
    assert_eq!((head.status(), head.body.len()), (429, 0));
}

#[test]
fn a_config_that_turns_all_off_limits_nothing() {
    let origin = mirror();
    let classes = ["login", "register", "federation_send", "federation_read", "key_server"];
    let lines = classes.map(|class| format!("{class} = \"off\"\n")).concat();
    let proxy = limited(&origin, &lines).start();
    let mut client = proxy.client();
    for _ in 0..50 {
        assert_eq!(client.request(post(LOGIN, "{}")).status(), 200);
    }
}
