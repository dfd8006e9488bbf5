//! Where an upstream may be: TCP over IPv4 and IPv6, names, Unix sockets, several at once.

use ringfence_tests::place::Place;
use ringfence_tests::{Client, MIB, Origin, Proxy, message, pattern};

#[test]
fn an_upstream_on_a_unix_socket_is_served() {
    let origin = Origin::each_on_unix_socket(|peer| peer.serve(&|request| message::ok(&request.body)));
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    let size = 4 * MIB;
    let head =
        format!("POST /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\nContent-Length: {size}\r\n\r\n");
    for _ in 0..2 {
        client.send(&head);
        client.send(pattern(size));
        assert!(client.response().body == pattern(size), "the body changed");
    }
    assert!(origin.received().concat().contains("\r\nHost: matrix.example.com\r\n"));
}

#[test]
fn a_unix_socket_that_comes_back_is_used_again() {
    let mut origin = Origin::each_on_unix_socket(|peer| peer.serve(&|_| message::ok("up")));
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    assert_eq!(client.get("/_matrix/x").text(), "up");
    origin.kill();
    assert_eq!(client.get("/_matrix/x").status(), 502);
    origin.resume();
    ringfence_tests::wait_until("the return", 3 * ringfence_tests::SECOND, || {
        client.get("/_matrix/x").status() == 200
    });
}

#[test]
fn an_upstream_on_ipv6_is_served() {
    let origin = Origin::each_at(Place::v6(), |peer| peer.serve(&|_| message::ok("six")));
    assert!(origin.url().contains("[::1]:"));
    let proxy = Proxy::to(&origin).start();
    assert_eq!(proxy.client().get("/_matrix/x").text(), "six");
}

#[test]
fn an_upstream_by_name_is_served() {
    let origin = Origin::answering("named");
    let proxy = Proxy::builder().upstream(&format!("http://localhost:{}", origin.address().port())).start();
    assert_eq!(proxy.client().get("/_matrix/x").text(), "named");
}

#[test]
fn a_client_on_ipv6_is_served_and_named() {
    let origin =
        Origin::serving(|request| message::ok(request.head.value("x-forwarded-for").unwrap_or_default()));
    let proxy = Proxy::to(&origin).at(Place::v6()).start();
    assert_eq!(Client::connect(proxy.address).get("/_matrix/x").text(), "::1");
}

#[test]
fn a_dual_stack_listener_names_ipv4_clients_as_ipv4() {
    let origin =
        Origin::serving(|request| message::ok(request.head.value("x-forwarded-for").unwrap_or_default()));
    let proxy = Proxy::to(&origin).at(Place::dual_stack()).start();
    let port = proxy.address.port();
    assert_eq!(Client::connect(([127, 0, 0, 1], port).into()).get("/_matrix/x").text(), "127.0.0.1");
    assert_eq!(Client::connect((std::net::Ipv6Addr::LOCALHOST, port).into()).get("/_matrix/x").text(), "::1");
}

#[test]
fn upstreams_of_several_kinds_share_the_requests() {
    let tcp = Origin::answering("tcp");
    let unix = Origin::each_on_unix_socket(|peer| peer.serve(&|_| message::ok("unix")));
    let proxy = Proxy::builder().upstream(&tcp.url()).upstream(&unix.url()).start();
    let mut client = proxy.client();
    let mut answers: Vec<String> = (0..4).map(|_| client.get("/_matrix/x").text()).collect();
    answers.sort();
    assert_eq!(answers, ["tcp", "tcp", "unix", "unix"]);
}
