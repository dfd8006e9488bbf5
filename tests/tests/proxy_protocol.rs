//! The PROXY protocol on both sides: whose connection a balancer passes on, and what an upstream is told of that (HAProxy,
//! `doc/proxy-protocol.txt`).

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use ringfence_tests::client::HOST;
use ringfence_tests::matrix::assert_error;
use ringfence_tests::message;
use ringfence_tests::place::Place;
use ringfence_tests::proxy::ProxyBuilder;
use ringfence_tests::wire::End;
use ringfence_tests::{Client, MS, Origin, PATIENCE, Proxy, SECOND, pause, wait_until};

const GET: &str = "GET /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n";
const LINE: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n";
const FROM_LOOPBACK: &str = "proxy_protocol_from = [\"127.0.0.1\", \"127.0.0.16/28\"]";

/// A header of version 2 with these addresses.
fn binary(family: u8, client: &[u8], server: &[u8], ports: [u16; 2], additions: &[u8]) -> Vec<u8> {
    let ports = ports.map(u16::to_be_bytes).concat();
    let block = [client, server, &ports, additions].concat();
    let length = u16::try_from(block.len()).expect("a short block").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", &[0x21, family][..], &length, &block].concat()
}

fn ipv4_header() -> Vec<u8> {
    binary(0x11, &[192, 0, 2, 7], &[198, 51, 100, 1], [4711, 443], b"\x02\x00\x0bexample.com")
}

fn ipv6_header() -> Vec<u8> {
    let client = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
    binary(0x21, &client, &[0; 16], [4711, 443], b"")
}

/// Tells each client who it is.
fn mirror() -> Origin {
    Origin::serving(|request| message::ok(request.head.value("x-forwarded-for").unwrap_or_default()))
}

fn announced(origin: &Origin) -> ProxyBuilder {
    Proxy::to(origin).first_listener(FROM_LOOPBACK)
}

/// How often the process says that it has closed such a connection.
fn refused(proxy: &mut Proxy) -> u64 {
    assert!(proxy.stop().status.success());
    let log = proxy.stderr();
    let rest = log.split("proxy_headers_refused=").nth(1).expect("the count");
    rest.split_whitespace().next().and_then(|count| count.parse().ok()).expect("a number")
}

#[test]
fn the_client_of_a_header_is_the_peer_everywhere() {
    let origin = mirror();
    let proxy = announced(&origin).start();
    for (header, client) in [
        (LINE.to_vec(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 ::1 4711 443\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 4711 443\r\n".to_vec(), "192.0.2.7"),
        (ipv4_header(), "192.0.2.7"),
        (ipv6_header(), "2001:db8::7"),
        // The balancer's own connections, and clients without an address.
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"PROXY UNKNOWN 1 2 3\r\n".to_vec(), "127.0.0.1"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(), "127.0.0.1"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\0\0\x03abc".to_vec(), "127.0.0.1"),
    ] {
        // In one piece, and byte by byte.
        let mut client_whole = proxy.client();
        assert_eq!(client_whole.request_behind(&header).text(), client);
        assert_eq!(client_whole.get("/_matrix/x").text(), client, "of the next request too");
        let mut client_slow = proxy.client();
        for byte in &header {
            client_slow.send([*byte]);
            pause(MS);
        }
        assert_eq!(client_slow.get("/_matrix/x").text(), client);
    }
    let log = proxy.access_log(27);
    assert!(log[0].contains(" peer=192.0.2.7:4711 "), "{}", log[0]);
    assert!(log[3].contains(" peer=[2001:db8::7]:4711 "), "{}", log[3]);
}

/// Sends a header with a request behind it in one piece.
trait Behind {
    fn request_behind(&mut self, header: &[u8]) -> message::Message;
}

impl Behind for Client {
    fn request_behind(&mut self, header: &[u8]) -> message::Message {
        self.send([header, GET.as_bytes()].concat());
        self.response()
    }
}

#[test]
fn a_tls_handshake_follows_the_header_without_a_byte_lost() {
    let origin = mirror();
    let proxy = announced(&origin).tls().start();
    for (header, client) in
        [(LINE.to_vec(), "192.0.2.7"), (ipv4_header(), "192.0.2.7"), (ipv6_header(), "2001:db8::7")]
    {
        let mut over_tls = Client::tls_behind(&header, proxy.address, HOST).expect("a handshake");
        assert_eq!(over_tls.get("/_matrix/x").text(), client);
    }
    assert!(Client::tls_behind(b"", proxy.address, HOST).is_err(), "a handshake without a header");
}

#[test]
fn what_is_no_header_is_closed_without_an_answer_and_counted() {
    let origin = mirror();
    let mut proxy = announced(&origin).start();
    let mut count = 0;
    for bytes in [
        GET.as_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711\r\n",
        b"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\nGET / HTTP/1.1\r\n\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\x0c",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff",
    ] {
        let mut client = proxy.client();
        client.send(bytes);
        let (answer, end) = client.read_to_end();
        assert!(answer.is_empty() && matches!(end, End::Closed | End::Reset), "{answer:?} {end:?}");
        count += 1;
    }
    // Cut short.
    let mut client = proxy.client();
    client.send(&LINE[..20]);
    client.half_close();
    assert!(matches!(client.end(), End::Closed | End::Reset));
    count += 1;
    // A check of health that says nothing is no fault.
    for _ in 0..3 {
        let mut client = proxy.client();
        client.half_close();
        assert!(matches!(client.end(), End::Closed | End::Reset));
    }
    assert_eq!(proxy.client().request_behind(LINE).text(), "192.0.2.7");
    assert_eq!(refused(&mut proxy), count);
    assert_eq!(origin.received().iter().map(|bytes| bytes.matches("GET").count()).sum::<usize>(), 1);
}

#[test]
fn a_header_has_to_come_in_time() {
    let origin = mirror();
    let mut proxy = announced(&origin).timeouts("header_read = \"500ms\"").start();
    for sent in [&b""[..], b"P", &LINE[..LINE.len() - 1]] {
        let begun = Instant::now();
        let mut client = proxy.client();
        client.send(sent);
        assert!(matches!(client.end(), End::Closed | End::Reset));
        assert!((400 * MS..5 * SECOND).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }
    assert_eq!(refused(&mut proxy), 3);
}

#[test]
fn others_than_the_balancers_are_closed_whatever_they_say() {
    let origin = mirror();
    let mut proxy = announced(&origin).start();
    let from = |last| IpAddr::V4(Ipv4Addr::new(127, 0, 0, last));
    for bytes in [LINE, GET.as_bytes(), b""] {
        let mut stranger = Client::connect_from(from(2), proxy.address);
        let _ = stranger.try_send(bytes);
        let (answer, end) = stranger.read_to_end();
        assert!(answer.is_empty() && matches!(end, End::Closed | End::Reset), "{answer:?} {end:?}");
    }
    assert_eq!(Client::connect_from(from(17), proxy.address).request_behind(LINE).text(), "192.0.2.7");
    assert_eq!(refused(&mut proxy), 3);
}

/// A listener without the key takes no header: it would let every client choose its address.
#[test]
fn a_header_that_nobody_asked_for_is_malformed() {
    let origin = mirror();
    let proxy = Proxy::to(&origin).start();
    assert_error(&proxy.client().request_behind(LINE), 400, "M_UNKNOWN");
}

#[test]
fn limits_count_for_the_client_and_not_for_the_balancer() {
    let origin = mirror();
    let proxy = announced(&origin)
        .limits("connections_per_address_max = 2")
        .extra("[rate_limits]\nother = \"1/h burst 2\"\nexempt = [\"192.0.2.99\"]")
        .start();
    let line = |last: u8| format!("PROXY TCP4 192.0.2.{last} 198.51.100.1 4711 443\r\n");
    let mut clients: Vec<Client> = Vec::new();
    for last in 1..=4 {
        for _ in 0..2 {
            let mut client = proxy.client();
            assert_eq!(client.request_behind(line(last).as_bytes()).status(), 200);
            clients.push(client);
        }
        // One connection too many, and one request.
        let mut third = proxy.client();
        third.send(line(last));
        assert_error(&third.response(), 429, "M_LIMIT_EXCEEDED");
        third.expect_close();
        let last_one = clients.last_mut().expect("a client");
        assert_error(&last_one.get("/_matrix/x"), 429, "M_LIMIT_EXCEEDED");
    }
    let mut exempt: Vec<Client> = (0..5).map(|_| proxy.client()).collect();
    for client in &mut exempt {
        assert_eq!(client.request_behind(line(99).as_bytes()).status(), 200);
    }
    // Places are given back.
    clients.clear();
    wait_until("a place", PATIENCE, || {
        let mut client = proxy.client();
        client.send(line(1));
        client.is_silent_for(50 * MS)
    });
}

/// A web proxy behind the balancer is believed as if it had connected itself.
#[test]
fn forwarding_fields_of_a_trusted_client_count_behind_a_header_too() {
    let origin = mirror();
    let proxy = announced(&origin).top("trusted_proxies = [\"192.0.2.7\"]").start();
    let request = GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n");
    let mut client = proxy.client();
    client.send([LINE, request.as_bytes()].concat());
    assert_eq!(client.response().text(), "203.0.113.9");
    let mut client = proxy.client();
    client.send([&ipv6_header(), request.as_bytes()].concat());
    assert_eq!(client.response().text(), "2001:db8::7");
}

#[test]
fn haproxy_in_front_tells_its_clients() {
    let origin = mirror();
    for tls in [false, true] {
        let proxy = if tls { announced(&origin).tls().start() } else { announced(&origin).start() };
        for option in ["send-proxy", "send-proxy-v2", "send-proxy-v2 proxy-v2-options crc32c,unique-id"] {
            let place = Place::v4();
            let config = format!(
                "defaults\n mode tcp\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n\
                 frontend f\n bind {}\n default_backend b\n unique-id-format %ID\nbackend b\n server s {} {option}\n",
                place.address(),
                proxy.address
            );
            let Some(_haproxy) = Balancer::haproxy(&config, place.address()) else { return };
            let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
            let text = if tls {
                Client::tls(place.address(), HOST).get("/_matrix/x").text()
            } else {
                Client::connect_from(from, place.address()).get("/_matrix/x").text()
            };
            assert_eq!(text, if tls { "127.0.0.1" } else { "127.0.0.77" }, "{option}");
        }
    }
}

/// Answers one request of each connection behind the header that it begins with, with that header in hex.
fn told_origin(header_bytes: usize) -> Origin {
    Origin::each(move |peer| {
        let header = peer.read_exactly(header_bytes).expect("a header");
        let hex: String = header.iter().map(|byte| format!("{byte:02x}")).collect();
        peer.serve(&|_: &message::Message| message::ok(&hex));
    })
}

const SIGNATURE_HEX: &str = "0d0a0d0a000d0a515549540a";

#[test]
fn an_upstream_is_told_of_each_client_and_connections_are_not_shared() {
    let origin = told_origin(28);
    let proxy = Proxy::to(&origin).extra("send_proxy_protocol = true").start();
    let listener = format!("7f000001{{}}{:04x}", proxy.address.port());
    let from = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));
    let mut clients = [proxy.client(), Client::connect_from(from, proxy.address)];
    for (client, address) in clients.iter_mut().zip(["7f000001", "7f000009"]) {
        let port = format!("{:04x}", client.local_address().port());
        let expected = format!("{SIGNATURE_HEX}2111000c{address}{}", listener.replace("{}", &port));
        for _ in 0..3 {
            assert_eq!(client.get("/_matrix/x").text(), expected);
        }
        let post = format!("POST /_matrix/x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 3\r\n\r\nabc");
        assert_eq!(client.request(post).text(), expected);
    }
    assert_eq!(origin.connections(), 8, "one for each request");
    // Nothing but the header stands before the request.
    let bytes = origin.connection(1).bytes();
    assert!(bytes[28..].starts_with(b"GET /_matrix/x HTTP/1.1\r\nHost: "), "{}", bytes.escape_ascii());
    for index in 1..=8 {
        assert!(origin.connection(index).end_within(PATIENCE).is_some(), "connection {index} is kept");
    }
}

/// What a trusted proxy or a balancer says of its client is passed on; a port that nobody told is 0.
#[test]
fn an_upstream_is_told_of_the_forwarded_client() {
    let origin = told_origin(52);
    let proxy = announced(&origin)
        .tls()
        .top("trusted_proxies = [\"192.0.2.7\"]")
        .extra("send_proxy_protocol = true")
        .start();
    let port = format!("{:04x}", proxy.address.port());
    let expected = |client: &str, client_port: &str| {
        // The listener's IPv4 address, told in the client's family.
        format!("{SIGNATURE_HEX}21210024{client}00000000000000000000ffff7f000001{client_port}{port}")
    };
    let told = "20010db8000000000000000000000007";
    let mut client = Client::tls_behind(&ipv6_header(), proxy.address, HOST).expect("a handshake");
    assert_eq!(client.get("/_matrix/x").text(), expected(told, "1267"));
    let mut client = Client::tls_behind(LINE, proxy.address, HOST).expect("a handshake");
    let request = GET.replace("\r\n\r\n", "\r\nX-Forwarded-For: 2001:db8::9\r\n\r\n");
    let told = "20010db8000000000000000000000009";
    assert_eq!(client.request(request).text(), expected(told, "0000"));
}

#[test]
fn a_route_is_told_of_clients_and_the_homeserver_beside_it_is_not() {
    let (origin, told) = (mirror(), told_origin(28));
    let route =
        format!("[[route]]\npath = \"/told\"\nupstream = \"{}\"\nsend_proxy_protocol = true", told.url());
    let proxy = Proxy::to(&origin).extra(&route).start();
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/_matrix/x").text(), "127.0.0.1");
        assert!(client.get("/told").text().starts_with(SIGNATURE_HEX));
    }
    assert_eq!((origin.connections(), told.connections()), (1, 3));
}

#[test]
fn haproxy_and_nginx_behind_are_told() {
    let haproxy = |address| {
        format!(
            "defaults\n mode http\n timeout connect 5s\n timeout client 10s\n timeout server 10s\n\
             frontend f\n bind {address} accept-proxy\n\
             http-request return status 200 content-type text/plain lf-string \"%[src] %[src_port]\"\n"
        )
    };
    let nginx = |address| {
        format!(
            "daemon off; master_process off; pid @FOLDER@/pid; error_log stderr;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off; client_body_temp_path @FOLDER@/body; proxy_temp_path @FOLDER@/proxy;\n\
             fastcgi_temp_path @FOLDER@/fastcgi; uwsgi_temp_path @FOLDER@/uwsgi; scgi_temp_path @FOLDER@/scgi;\n\
             server {{ listen {address} proxy_protocol reuseport;\n\
             location / {{ return 200 \"$proxy_protocol_addr $proxy_protocol_port\"; }} }} }}\n"
        )
    };
    let (first, second) = (Place::v4(), Place::v4());
    for (behind, address) in [
        (Balancer::haproxy(&haproxy(first.address()), first.address()), first.address()),
        (
            Balancer::start("/usr/sbin/nginx", &nginx(second.address()), &["-c"], second.address()),
            second.address(),
        ),
    ] {
        let Some(_behind) = behind else { continue };
        let upstream = format!("http://{address}");
        let proxy = Proxy::builder().upstream(&upstream).extra("send_proxy_protocol = true").start();
        let mut client = Client::connect_from(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 78)), proxy.address);
        let expected = format!("127.0.0.78 {}", client.local_address().port());
        assert_eq!(client.get("/_matrix/x").text(), expected);
        assert_eq!(client.get("/_matrix/x").text(), expected);
    }
}

/// Another program of this machine, stopped when it is dropped.
struct Balancer(Child, #[allow(dead_code, reason = "kept until the end")] tempfile::TempDir);

impl Balancer {
    /// HAProxy with this configuration; `None` where there is none.
    fn haproxy(config: &str, address: SocketAddr) -> Option<Balancer> {
        Balancer::start("/usr/sbin/haproxy", config, &["-db", "-f"], address)
    }

    fn start(program: &str, config: &str, arguments: &[&str], address: SocketAddr) -> Option<Balancer> {
        if !Path::new(program).exists() {
            println!("skipped: there is no {program} on this machine");
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("config");
        fs::write(&file, config.replace("@FOLDER@", &folder.path().display().to_string())).expect("a file");
        let mut command = Command::new(program);
        command.args(arguments).arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        let balancer = Balancer(command.spawn().expect("it starts"), folder);
        wait_until("a balancer that listens", PATIENCE, || TcpStream::connect(address).is_ok());
        Some(balancer)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
