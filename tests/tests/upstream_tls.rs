//! Upstreams over TLS: who is believed, what is asked for, and that the exchange is otherwise the same.

use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;

use ringfence_tests::authority::Certificate;
use ringfence_tests::client::HOST;
use ringfence_tests::place::Place;
use ringfence_tests::proxy::ProxyBuilder;
use ringfence_tests::wire::End;
use ringfence_tests::{
    Authority, Client, MIB, MS, Message, Origin, PATIENCE, Peer, Proxy, SECOND, message, pattern, wait_until,
};
use rustls::version::{TLS12, TLS13};
use rustls::{HandshakeKind, ServerConfig, SupportedProtocolVersion};

/// What certificates of origins are for, unless it matters.
const ORIGIN: &str = "hs.internal";

fn certificate() -> Certificate {
    Authority::shared().certificate(&[ORIGIN])
}

/// An origin that runs `script` over TLS.
fn each(config: Arc<ServerConfig>, script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Origin {
    Origin::each(move |peer| {
        peer.accept_tls(&config);
        script(peer);
    })
}

fn serving(
    config: Arc<ServerConfig>,
    answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static,
) -> Origin {
    each(config, move |peer| peer.serve(&answer))
}

/// Answers with how the connection came about: `SNI, kind of handshake, number of the connection`.
fn telling(config: Arc<ServerConfig>) -> Origin {
    each(config, |peer| {
        while peer.request().is_some() {
            let index = peer.index;
            let session = peer.server_session();
            let kind = match session.handshake_kind() {
                Some(HandshakeKind::Resumed) => "resumed",
                _ => "full",
            };
            assert_eq!(session.alpn_protocol(), Some(&b"http/1.1"[..]), "h2 was not offered");
            let told = format!("{} {kind} {index}", session.server_name().unwrap_or("-"));
            peer.send(message::ok(told));
        }
    })
}

fn https(origin: &Origin) -> String {
    origin.url().replace("http://", "https://")
}

/// A proxy that trusts the authority of this process and means [`ORIGIN`].
fn proxy_to(origin: &Origin) -> ProxyBuilder {
    unnamed(origin).extra(&format!("upstream_name = \"{ORIGIN}\""))
}

/// The same, by the address of its URL.
fn unnamed(origin: &Origin) -> ProxyBuilder {
    trusting(Authority::shared(), origin)
}

fn trusting(authority: &Authority, origin: &Origin) -> ProxyBuilder {
    let builder = Proxy::builder().upstream(&https(origin));
    builder.file("ca.pem", &authority.pem()).extra("upstream_ca = \"ca.pem\"")
}

/// The warning about the certificate of an upstream.
fn warning(proxy: &Proxy) -> String {
    let said = || {
        proxy
            .stderr()
            .lines()
            .find(|line| line.contains("the certificate does not verify"))
            .map(str::to_owned)
    };
    wait_until("a warning", PATIENCE, || said().is_some());
    said().unwrap_or_default()
}

#[test]
fn requests_and_answers_cross_in_both_versions_over_one_connection() {
    for version in [&TLS12, &TLS13] {
        let config = Arc::new(certificate().server_config_for(&[version]));
        let origin = serving(config, |request| message::ok(&request.body));
        let proxy = proxy_to(&origin).start();
        let mut client = proxy.client();
        let large = pattern(MIB);
        for body in [&b""[..], b"short", &large, b"short again", &large[..100_000]] {
            let head =
                format!("PUT /_matrix/x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {}\r\n\r\n", body.len());
            let sending = client.send_in_background([head.as_bytes(), body].concat());
            let answer = client.response_to("PUT");
            sending.join().expect("the thread ends").expect("the proxy takes it");
            assert!(answer.is_complete() && answer.body == body, "{version:?}: {} bytes", body.len());
        }
        assert_eq!(origin.connections(), 1, "{version:?}: the connection is kept");
        assert!(origin.connection(1).text().starts_with("PUT /_matrix/x HTTP/1.1\r\n"));
    }
}

#[test]
fn clients_over_tls_reach_origins_over_tls() {
    let large = Arc::new(pattern(MIB));
    let answer = message::ok(&*large);
    let origin = serving(certificate().server_config(), move |_| answer.clone());
    let proxy = proxy_to(&origin).tls().start();
    assert!(proxy.tls_client().get("/_matrix/x").body == *large);
}

#[test]
fn the_configured_name_is_asked_for_and_verified() {
    let origin = telling(certificate().server_config());
    let proxy = proxy_to(&origin).admin().start();
    assert_eq!(proxy.client().get("/_matrix/x").text(), format!("{ORIGIN} full 0"));
    let name = https(&origin);
    assert!(proxy.access_log(1)[0].contains(&name), "{:?}", proxy.access_log(1));
    assert!(proxy.admin("/status").expect("a page").contains(&name));
}

#[test]
fn an_address_is_verified_where_no_name_is_configured() {
    let origin = telling(Authority::shared().certificate(&["127.0.0.1"]).server_config());
    let proxy = unnamed(&origin).start();
    assert_eq!(proxy.client().get("/_matrix/x").text(), "- full 0");
}

#[test]
fn the_host_of_the_url_is_asked_for_and_verified() {
    let origin = telling(Authority::shared().certificate(&["localhost"]).server_config());
    let url = https(&origin).replace("127.0.0.1", "localhost");
    let proxy = Proxy::builder().upstream(&url).file("ca.pem", &Authority::shared().pem());
    let proxy = proxy.extra("upstream_ca = \"ca.pem\"").start();
    assert_eq!(proxy.client().get("/_matrix/x").text(), "localhost full 0");
}

#[test]
fn a_certificate_that_does_not_verify_is_refused_and_told_once() {
    let shared = Authority::shared();
    let expired = shared.certificate_like(&[ORIGIN], |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    for (certificate, versions, why) in [
        (shared.certificate(&["other.internal"]), &[&TLS13], ORIGIN),
        (shared.certificate(&["other.internal"]), &[&TLS12], "other.internal"),
        (Authority::new().certificate(&[ORIGIN]), &[&TLS13], "not that of the authority that it names"),
        (expired, &[&TLS13], "its time is over"),
    ] {
        let config: &[&'static SupportedProtocolVersion] = versions;
        let origin = serving(Arc::new(certificate.server_config_for(config)), |_| message::ok("secret"));
        let proxy = proxy_to(&origin).start();
        for _ in 0..3 {
            let answer = proxy.client().get("/_matrix/x");
            assert_eq!(answer.status(), 502, "{why}");
        }
        let line = warning(&proxy);
        assert!(line.contains("WARN") && line.contains(why) && line.contains(&https(&origin)), "{line}");
        assert_eq!(proxy.stderr().matches("does not verify").count(), 1, "{}", proxy.stderr());
        assert!(origin.received().iter().all(String::is_empty), "no request was sent");
    }
}

#[test]
fn without_verification_any_certificate_is_believed_and_that_is_told() {
    let origin = telling(Authority::new().certificate(&["whoever"]).server_config());
    let proxy = Proxy::builder().upstream(&https(&origin)).extra("upstream_verify = false").start();
    assert_eq!(proxy.client().get("/_matrix/x").text(), "- full 0");
    let log = proxy.stderr();
    assert!(log.contains("WARN") && log.contains("is not verified"), "{log}");
    let checked = proxy.tell("check");
    assert!(checked.contains("not verified") && checked.contains("Warnings"), "{checked}");
}

#[test]
fn the_systems_authorities_are_believed_where_no_file_is_named() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let roots = folder.path().join("roots.pem");
    std::fs::write(&roots, Authority::shared().pem()).expect("a file");
    let origin = telling(certificate().server_config());
    let proxy = Proxy::builder().upstream(&https(&origin)).extra(&format!("upstream_name = \"{ORIGIN}\""));
    let proxy = proxy.env("SSL_CERT_FILE", &roots.display().to_string()).start();
    assert_eq!(proxy.client().get("/_matrix/x").text(), format!("{ORIGIN} full 0"));
}

#[test]
fn sessions_are_resumed() {
    for version in [&TLS12, &TLS13] {
        let mut config = certificate().server_config_for(&[version]);
        config.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new().expect("randomness");
        let origin = each(Arc::new(config), |peer| {
            while peer.request().is_some() {
                let kind = format!("{:?}", peer.server_session().handshake_kind());
                peer.send(message::response("200 OK", "Connection: close\r\n", kind));
                peer.half_close();
            }
        });
        let proxy = proxy_to(&origin).start();
        assert_eq!(proxy.client().get("/_matrix/x").text(), "Some(Full)");
        for _ in 0..3 {
            assert_eq!(proxy.client().get("/_matrix/x").text(), "Some(Resumed)", "{version:?}");
        }
    }
}

#[test]
fn tickets_that_come_late_do_not_cost_the_connection() {
    let mut config = certificate().server_config_for(&[&TLS13]);
    config.send_tls13_tickets = 4;
    let config = Arc::new(config);
    let origin = each(config, |peer| {
        while peer.request().is_some() {
            peer.send(message::ok("here"));
            // As a server that issues tickets when it likes: nothing of the exchange comes with it.
            let _ = peer.server_session().refresh_traffic_keys();
            peer.flush_tls();
        }
    });
    let proxy = proxy_to(&origin).start();
    let mut client = proxy.client();
    for _ in 0..5 {
        assert_eq!(client.get("/_matrix/x").text(), "here");
        let body = "POST /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}";
        client.send(body);
        assert_eq!(client.response_to("POST").text(), "here");
    }
    assert_eq!(origin.connections(), 1);
}

#[test]
fn an_idle_connection_is_closed_in_order_and_one_in_use_is_cut() {
    let config = certificate().server_config();
    let origin = each(config, |peer| peer.serve(&|_: &Message| message::ok("here")));
    let proxy = proxy_to(&origin).timeouts("upstream_idle = \"100ms\"").start();
    assert_eq!(proxy.client().get("/_matrix/x").text(), "here");
    let ended = origin.connection(1).end_within(PATIENCE).map(|(_, end)| end);
    assert_eq!(ended, Some(End::Closed));

    let mut client = proxy.client();
    client.send("POST /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\nhalf of it");
    wait_until("the half", PATIENCE, || origin.connection(2).text().ends_with("half of it"));
    client.reset();
    let ended = origin.connection(2).end_within(PATIENCE).map(|(_, end)| end);
    assert!(matches!(ended, Some(End::Truncated | End::Reset)), "{ended:?}");
}

#[test]
fn an_origin_that_never_shakes_hands_is_given_up_in_time() {
    let origin = Origin::each(|peer| drop(peer.end()));
    let proxy = proxy_to(&origin).timeouts("upstream_connect = \"500ms\"").start();
    assert_eq!(proxy.client().get("/_matrix/x").status(), 504);
}

#[test]
fn an_origin_that_speaks_no_tls_is_a_bad_gateway() {
    let origin = Origin::each(|peer| {
        peer.send("HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n");
        peer.end();
    });
    let proxy = proxy_to(&origin).start();
    assert_eq!(proxy.client().get("/_matrix/x").status(), 502);
}

#[test]
fn a_server_that_does_not_shake_hands_is_passed_over() {
    let (bad, good) = (Origin::each(|_| ()), telling(certificate().server_config()));
    let proxy = proxy_to(&bad).upstream(&https(&good)).start();
    for _ in 0..4 {
        assert_eq!(proxy.client().get("/_matrix/x").text(), format!("{ORIGIN} full 0"));
    }
}

#[test]
fn an_answer_that_ends_by_close_is_whole_only_with_close_notify() {
    for version in [&TLS12, &TLS13] {
        for says_so in [true, false] {
            let config = Arc::new(certificate().server_config_for(&[version]));
            let origin = each(config, move |peer| {
                peer.request().expect("a request");
                peer.send("HTTP/1.1 200 OK\r\n\r\nall that there is");
                if says_so {
                    peer.half_close();
                } else {
                    peer.truncate();
                }
                peer.end();
            });
            let proxy = proxy_to(&origin).start();
            let answer = proxy.client().get("/_matrix/x");
            assert_eq!(answer.text(), "all that there is");
            assert_eq!(answer.is_complete(), says_so, "{version:?}: {answer:?}");
        }
    }
}

#[test]
fn a_tunnel_goes_through() {
    let origin = each(certificate().server_config(), |peer| {
        peer.request_head().expect("a request");
        peer.send(
            "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\nhello",
        );
        peer.expect("ping");
        peer.send("pong");
        assert_eq!(peer.end(), End::Closed);
    });
    let proxy = proxy_to(&origin).start();
    let mut client = proxy.client();
    client.send(format!(
        "GET /_matrix/ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    ));
    assert_eq!(client.read_head().expect("an answer").status(), 101);
    client.expect("hello");
    client.send("ping");
    client.expect("pong");
    client.half_close();
    assert_eq!(client.end(), End::Closed);
}

#[test]
fn the_proxy_header_comes_before_the_handshake() {
    let config = certificate().server_config();
    let origin = Origin::each(move |peer| {
        let header = peer.read_exactly(28).expect("the header of an IPv4 client");
        assert_eq!(&header[..13], b"\r\n\r\n\0\r\nQUIT\n\x21");
        assert_eq!(&header[16..20], &[127, 0, 0, 78]);
        peer.accept_tls(&config);
        assert!(peer.answer(message::ok("told")).is_some());
        peer.end();
    });
    let proxy = proxy_to(&origin).extra("send_proxy_protocol = true").start();
    let from = "127.0.0.78".parse().expect("an address");
    assert_eq!(Client::connect_from(from, proxy.address).get("/_matrix/x").text(), "told");
}

#[test]
fn a_reload_that_changes_nothing_keeps_connections_and_one_that_trusts_others_does_not() {
    let origin = telling(certificate().server_config());
    let proxy = proxy_to(&origin).admin().start();
    let mut client = proxy.client();
    let expected = format!("{ORIGIN} full 0");
    assert_eq!(client.get("/_matrix/x").text(), expected);
    proxy.tell("reload");
    assert_eq!(client.get("/_matrix/x").text(), expected);

    std::fs::write(proxy.folder().join("ca.pem"), Authority::new().pem()).expect("a file");
    proxy.tell("reload");
    assert_eq!(client.get("/_matrix/x").status(), 502, "neither the connection nor its session is used on");
    warning(&proxy);

    std::fs::write(proxy.folder().join("ca.pem"), Authority::shared().pem()).expect("a file");
    proxy.tell("reload");
    wait_until("the server is tried again", PATIENCE, || {
        proxy.client().get("/_matrix/x").text().starts_with(&format!("{ORIGIN} full"))
    });
}

#[test]
fn broken_files_of_authorities_are_told_and_change_nothing() {
    let origin = telling(certificate().server_config());
    let proxy = proxy_to(&origin).admin().start();
    let file = proxy.folder().join("ca.pem");
    for (content, why) in [
        (Some("no certificate at all\n"), "no PEM certificate in it"),
        (Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "is no valid certificate"),
        (None, "cannot be read"),
    ] {
        match content {
            Some(content) => std::fs::write(&file, content).expect("a file"),
            None => std::fs::remove_file(&file).expect("a file that goes"),
        }
        for command in ["reload", "check"] {
            let output = proxy.command(command);
            let told = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
            assert_eq!(output.status.code(), Some(1), "{told}");
            assert!(told.contains("upstream_ca") && told.contains(why) && told.contains("ca.pem"), "{told}");
        }
        assert_eq!(proxy.client().get("/_matrix/x").text(), format!("{ORIGIN} full 0"));
    }
}

/// Another implementation of TLS, with its own idea of when tickets come.
#[test]
fn nginx_behind_is_spoken_to_in_both_versions() {
    for (version, told) in [("TLSv1.2", "TLSv1.2"), ("TLSv1.3", "TLSv1.3")] {
        let place = Place::v4();
        let Some(_nginx) = Nginx::start(place.address(), version) else { return };
        let proxy = Proxy::builder().upstream(&format!("https://{}", place.address()));
        let proxy = proxy.file("ca.pem", &Authority::shared().pem());
        let proxy = proxy.extra(&format!("upstream_ca = \"ca.pem\"\nupstream_name = \"{ORIGIN}\"")).start();
        let mut client = proxy.client();
        let mut answers = Vec::new();
        for target in ["/_matrix/x", "/_matrix/x", "/_matrix/close", "/_matrix/x"] {
            answers.push(client.get(target).text());
        }
        let full = format!("{told} . {ORIGIN}");
        let resumed = format!("{told} r {ORIGIN}");
        assert_eq!(answers, [full.as_str(), full.as_str(), full.as_str(), resumed.as_str()]);
        let large = pattern(MIB);
        let head = format!("PUT /_matrix/put HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {MIB}\r\n\r\n");
        let sending = client.send_in_background([head.as_bytes(), &large].concat());
        assert_eq!(client.response_to("PUT").status(), 201);
        sending.join().expect("the thread ends").expect("the proxy takes it");
        assert!(client.get("/_matrix/put").body == large, "{version}: what was put is there");
    }
}

/// nginx of this machine, stopped when it is dropped.
struct Nginx(Child, #[allow(dead_code, reason = "kept until the end")] tempfile::TempDir);

impl Nginx {
    /// `None` where there is none.
    fn start(address: SocketAddr, version: &str) -> Option<Nginx> {
        let program = Path::new("/usr/sbin/nginx");
        if !program.exists() {
            println!("skipped: there is no {} on this machine", program.display());
            return None;
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let (chain, key) = certificate().write(folder.path(), "nginx");
        let at = folder.path().display();
        let (chain, key) = (chain.display(), key.display());
        let told = "\"$ssl_protocol $ssl_session_reused $ssl_server_name\"";
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log stderr;\n\
             events {{ worker_connections 64; }}\n\
             http {{ access_log off; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy;\n\
             fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi;\n\
             client_max_body_size 10m;\n\
             server {{ listen {address} ssl reuseport; ssl_certificate {chain}; ssl_certificate_key {key};\n\
             ssl_protocols {version}; ssl_session_cache shared:s:1m;\n\
             location / {{ return 200 {told}; }}\n\
             location /_matrix/close {{ keepalive_timeout 0; return 200 {told}; }}\n\
             location /_matrix/put {{ root {at}/files; dav_methods PUT; create_full_put_path on; }} }} }}\n"
        );
        let file = folder.path().join("config");
        std::fs::write(&file, config).expect("a file");
        let mut command = Command::new(program);
        command.arg("-c").arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        let nginx = Nginx(command.spawn().expect("it starts"), folder);
        wait_until("nginx that listens", PATIENCE, || TcpStream::connect(address).is_ok());
        Some(nginx)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn many_connections_at_once_are_made() {
    let place = Place::v4();
    let config = certificate().server_config();
    let origin = Origin::each_at(place, move |peer| {
        peer.accept_tls(&config);
        while peer.request().is_some() {
            ringfence_tests::pause(50 * MS);
            peer.send(message::ok("served"));
        }
    });
    let proxy = proxy_to(&origin).workers(2).start();
    let address = proxy.address;
    let clients: Vec<_> = (0..40)
        .map(|_| {
            thread::spawn(move || {
                let mut client = Client::connect(address);
                client.set_patience(20 * SECOND);
                (0..5).all(|_| client.get("/_matrix/x").text() == "served")
            })
        })
        .collect();
    assert!(clients.into_iter().all(|client| client.join().expect("a client ends")));
}
