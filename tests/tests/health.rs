//! Servers that are asked after their health (`health_path`): who is down gets no requests while another is up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};

use ringfence_tests::proxy::{ProxyBuilder, check};
use ringfence_tests::{Authority, Message, Origin, PATIENCE, Proxy, SECOND, message, pause, wait_until};
use rustix::process::Signal;
use serde_json::Value;

/// A homeserver whose health is the test's.
struct Homeserver {
    origin: Origin,
    state: Arc<State>,
}

struct State {
    /// The status of `/health`; [`HANGS`]: it says nothing.
    health: AtomicU16,
    probes: AtomicUsize,
    requests: AtomicUsize,
}

/// Instead of a status: the question stays without an answer for as long as anybody waits.
const HANGS: u16 = 0;

/// Asks often, and gives answers the time that a busy machine needs.
const TIMEOUTS: &str = "health_interval = \"300ms\"\nhealth_wait = \"300ms\"";

impl Homeserver {
    fn start() -> Homeserver {
        let state = State::new();
        let shared = Arc::clone(&state);
        Homeserver { origin: Origin::serving(move |request| shared.answer(request)), state }
    }

    fn on_unix_socket() -> Homeserver {
        let state = State::new();
        let shared = Arc::clone(&state);
        let answer = move |request: &Message| shared.answer(request);
        Homeserver { origin: Origin::each_on_unix_socket(move |peer| peer.serve(&answer)), state }
    }

    /// Over TLS, with a certificate for `hs.internal`.
    fn over_tls() -> Homeserver {
        let state = State::new();
        let shared = Arc::clone(&state);
        let config = Authority::shared().certificate(&["hs.internal"]).server_config();
        let origin = Origin::each(move |peer| {
            peer.accept_tls(&config);
            peer.serve(&|request: &Message| shared.answer(request));
        });
        Homeserver { origin, state }
    }

    fn says(&self, status: u16) {
        self.state.health.store(status, Ordering::SeqCst);
    }

    fn probes(&self) -> usize {
        self.state.probes.load(Ordering::SeqCst)
    }

    fn requests(&self) -> usize {
        self.state.requests.load(Ordering::SeqCst)
    }
}

impl State {
    fn new() -> Arc<State> {
        Arc::new(State {
            health: AtomicU16::new(200),
            probes: AtomicUsize::new(0),
            requests: AtomicUsize::new(0),
        })
    }

    fn answer(&self, request: &Message) -> Vec<u8> {
        if request.head.target() != "/health" {
            self.requests.fetch_add(1, Ordering::SeqCst);
            return message::ok("here");
        }
        self.probes.fetch_add(1, Ordering::SeqCst);
        let health = self.health.load(Ordering::SeqCst);
        if health == HANGS {
            pause(SECOND);
        }
        message::response(&format!("{} Whatever", health.max(200)), "", "OK")
    }
}

fn asked(builder: ProxyBuilder) -> ProxyBuilder {
    builder.admin().timeouts(TIMEOUTS).extra("health_path = \"/health\"")
}

/// What `/status` tells of the homeserver's servers.
fn servers(proxy: &Proxy) -> Vec<Value> {
    let status: Value = serde_json::from_str(&proxy.admin("/status").unwrap_or_default()).expect("JSON");
    status["upstreams"][0]["servers"].as_array().expect("servers").clone()
}

fn wait_for(proxy: &Proxy, server: usize, up: bool) {
    let what = if up { "the server's return" } else { "the server's fall" };
    wait_until(what, PATIENCE, || servers(proxy)[server]["health"]["up"] == up);
}

/// Sends that many requests, which all have to be answered.
fn send(proxy: &Proxy, count: usize) {
    let mut client = proxy.client();
    for _ in 0..count {
        assert_eq!(client.get("/_matrix/x").status(), 200);
    }
}

#[test]
fn a_server_that_is_not_well_gets_no_requests_until_it_is() {
    let (one, other) = (Homeserver::start(), Homeserver::start());
    let proxy = asked(Proxy::to(&one.origin).upstream(&other.origin.url())).workers(2).start();
    send(&proxy, 4);
    assert_eq!((one.requests(), other.requests()), (2, 2));
    one.says(500);
    wait_for(&proxy, 0, false);
    let before = one.requests();
    for _ in 0..10 {
        send(&proxy, 2);
    }
    assert_eq!(one.requests(), before, "it still takes connections, and gets no requests");
    one.says(204);
    wait_for(&proxy, 0, true);
    send(&proxy, 4);
    assert_eq!(one.requests(), before + 2);
    let log = proxy.stderr();
    assert_eq!(log.matches("a server is down: others are asked first").count(), 1, "{log}");
    assert_eq!(log.matches("a server is up again").count(), 1, "{log}");
    assert!(log.contains("why=\"status 500\"") && log.contains("why=\"status 204\""), "{log}");
}

#[test]
fn where_all_servers_are_down_all_are_tried() {
    let (one, other) = (Homeserver::start(), Homeserver::start());
    let proxy = asked(Proxy::to(&one.origin).upstream(&other.origin.url())).start();
    one.says(503);
    other.says(404);
    wait_for(&proxy, 0, false);
    wait_for(&proxy, 1, false);
    send(&proxy, 4);
    assert_eq!((one.requests(), other.requests()), (2, 2));
    assert!(
        proxy.admin("/readyz").is_some_and(|answer| answer.starts_with("ready")),
        "it serves nevertheless"
    );
}

#[test]
fn a_server_that_hangs_is_down() {
    let (one, other) = (Homeserver::start(), Homeserver::start());
    let proxy = asked(Proxy::to(&one.origin).upstream(&other.origin.url())).start();
    one.says(HANGS);
    wait_for(&proxy, 0, false);
    assert_eq!(servers(&proxy)[0]["health"]["why"], "no answer within 300ms");
    send(&proxy, 4);
    assert_eq!((one.requests(), other.requests()), (0, 4));
}

#[test]
fn a_server_that_is_gone_is_down_and_comes_back() {
    let (mut one, other) = (Homeserver::start(), Homeserver::start());
    let proxy = asked(Proxy::to(&one.origin).upstream(&other.origin.url())).start();
    one.origin.kill();
    wait_for(&proxy, 0, false);
    let why = servers(&proxy)[0]["health"]["why"].to_string();
    assert!(why.contains("no connection"), "{why}");
    // Nobody has met it: no dial has failed.
    send(&proxy, 4);
    assert_eq!(servers(&proxy)[0]["dials_failed"], 0);
    one.origin.resume();
    wait_for(&proxy, 0, true);
    send(&proxy, 2);
    assert_eq!((one.requests(), other.requests()), (1, 5));
}

#[test]
fn a_server_on_a_unix_socket_is_asked_too() {
    let (one, other) = (Homeserver::on_unix_socket(), Homeserver::start());
    let proxy = asked(Proxy::to(&one.origin).upstream(&other.origin.url())).start();
    one.says(500);
    wait_for(&proxy, 0, false);
    send(&proxy, 4);
    assert_eq!((one.requests(), other.requests()), (0, 4));
    one.says(200);
    wait_for(&proxy, 0, true);
}

#[test]
fn a_server_over_tls_is_asked_over_tls_and_has_to_be_the_one_that_is_meant() {
    let homeserver = Homeserver::over_tls();
    let builder = asked(Proxy::builder().upstream(&homeserver.origin.url().replace("http://", "https://")));
    let builder = builder.file("ca.pem", &Authority::shared().pem());
    let proxy = builder.extra("upstream_ca = \"ca.pem\"\nupstream_name = \"hs.internal\"").start();
    wait_until("good answers", PATIENCE, || servers(&proxy)[0]["health"]["passed"].as_u64() > Some(1));
    assert_eq!(servers(&proxy)[0]["health"]["failed"], 0);
    assert!(homeserver.probes() >= 2);
    proxy.set_config(&proxy.config().replace("\"hs.internal\"", "\"other.internal\""));
    proxy.tell("reload");
    wait_for(&proxy, 0, false);
    let why = servers(&proxy)[0]["health"]["why"].to_string();
    assert!(why.contains("certificate"), "{why}");
}

#[test]
fn a_question_names_the_host_and_who_asks() {
    let homeserver = Homeserver::start();
    let proxy = asked(Proxy::to(&homeserver.origin)).start();
    wait_until("a question", PATIENCE, || homeserver.probes() > 0);
    let asked = homeserver.origin.received().concat();
    let asked = asked.split("\r\n\r\n").next().expect("a head");
    let mut lines: Vec<&str> = asked.lines().collect();
    assert_eq!(lines.remove(0), "GET /health HTTP/1.1");
    lines.sort_unstable_by_key(|line| line.to_ascii_lowercase());
    let agent = format!("user-agent: ringfence/{} health", env!("CARGO_PKG_VERSION"));
    assert_eq!(lines, ["accept: */*", "connection: close", "host: matrix.example.com", &*agent]);
    drop(proxy);
}

#[test]
fn a_server_that_wants_the_proxy_protocol_gets_a_local_header() {
    let origin = Origin::each(|peer| {
        peer.expect("\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
        peer.answer(message::ok("OK"));
    });
    let proxy = asked(Proxy::to(&origin).extra("send_proxy_protocol = true")).start();
    wait_until("good answers", PATIENCE, || servers(&proxy)[0]["health"]["passed"].as_u64() > Some(1));
    assert_eq!(servers(&proxy)[0]["health"]["failed"], 0);
}

#[test]
fn health_survives_a_reload_unless_something_else_is_asked() {
    let (one, other) = (Homeserver::start(), Homeserver::start());
    let proxy = asked(Proxy::to(&one.origin).upstream(&other.origin.url())).start();
    one.says(500);
    wait_for(&proxy, 0, false);
    let before = servers(&proxy)[0]["health"].clone();
    // Nobody is asked for a while: what is told now was known before.
    let slow = proxy.config().replace("300ms\"\nhealth_wait", "5min\"\nhealth_wait");
    proxy.set_config(&slow);
    proxy.tell("reload");
    for key in ["up", "since", "why", "falls"] {
        assert_eq!(servers(&proxy)[0]["health"][key], before[key], "{key}");
    }
    send(&proxy, 4);
    assert_eq!(one.requests(), 0);
    proxy.set_config(&slow.replace("\"/health\"", "\"/_matrix/client/versions\""));
    proxy.tell("reload");
    assert_eq!(servers(&proxy)[0]["health"]["up"], true);
    proxy.set_config(&slow.replace("health_path = \"/health\"", ""));
    proxy.tell("reload");
    assert_eq!(servers(&proxy)[0]["health"], Value::Null);
}

#[test]
fn another_interval_holds_from_the_reload_on() {
    let homeserver = Homeserver::start();
    let proxy = asked(Proxy::to(&homeserver.origin)).start();
    let fast = proxy.config();
    proxy.set_config(&fast.replace("300ms\"\nhealth_wait", "5min\"\nhealth_wait"));
    proxy.tell("reload");
    // One question may be under way.
    wait_until("the next question", PATIENCE, || servers(&proxy)[0]["health"]["passed"].as_u64() > Some(0));
    proxy.set_config(&fast);
    proxy.tell("reload");
    let before = homeserver.probes();
    wait_until("more questions", PATIENCE, || homeserver.probes() >= before + 2);
}

#[test]
fn health_is_told_to_those_who_watch() {
    let (one, other) = (Homeserver::start(), Homeserver::start());
    let proxy = asked(Proxy::to(&one.origin).upstream(&other.origin.url())).start();
    one.says(500);
    wait_for(&proxy, 0, false);
    let servers = servers(&proxy);
    assert_eq!((&servers[0]["up"], &servers[1]["up"]), (&false.into(), &true.into()));
    let health = &servers[0]["health"];
    assert_eq!(
        (&health["path"], &health["why"], &health["falls"]),
        (&"/health".into(), &"status 500".into(), &1.into())
    );
    assert!(health["since"].as_f64().is_some() && health["failed"].as_u64() >= Some(2), "{health}");
    assert_eq!((&servers[1]["health"]["why"], &servers[1]["health"]["since"]), (&Value::Null, &Value::Null));
    let metric = |name: &str, server: &Homeserver, more: &str| {
        let server = server.origin.address();
        proxy.metric(&format!("ringfence_{name}{{upstream=\"0\",server=\"{server}\"{more}}}"))
    };
    assert_eq!((metric("upstream_up", &one, ""), metric("upstream_up", &other, "")), (0.0, 1.0));
    assert_eq!((metric("upstream_health", &one, ""), metric("upstream_health", &other, "")), (0.0, 1.0));
    assert_eq!(
        (metric("upstream_falls_total", &one, ""), metric("upstream_falls_total", &other, "")),
        (1.0, 0.0)
    );
    assert!(metric("upstream_probes_total", &one, ",result=\"failed\"") >= 2.0);
    assert_eq!(metric("upstream_probes_total", &other, ",result=\"failed\""), 0.0);
    let top = proxy.command("top");
    let shown = String::from_utf8_lossy(&top.stdout).into_owned();
    assert!(shown.contains("down") && shown.contains("status 500, for "), "{shown}");
}

#[test]
fn a_process_that_has_handed_over_asks_no_more() {
    let homeserver = Homeserver::start();
    let proxy = asked(Proxy::to(&homeserver.origin)).start();
    // An open connection keeps the process.
    let mut client = proxy.client();
    assert_eq!(client.get("/_matrix/x").status(), 200);
    let tunnel = proxy.client();
    proxy.tell("upgrade");
    let before = homeserver.probes();
    wait_until("questions of the new process", PATIENCE, || homeserver.probes() >= before + 2);
    proxy.signal_newest(Signal::KILL);
    wait_until("its end", PATIENCE, || !proxy.has_sockets(proxy.newest()));
    // What it had sent arrives.
    wait_until("quiet", PATIENCE, || {
        let before = homeserver.probes();
        pause(SECOND);
        homeserver.probes() == before
    });
    assert!(proxy.has_sockets(proxy.pid()), "the process before is still there");
    drop(tunnel);
}

#[test]
fn check_tells_what_servers_are_asked_for() {
    let text = "[[homeserver]]\nserver_name = \"example.com\"\nupstream = \"http://127.0.0.1:8008\"\nhealth_path = \"/health\"\n\
                [[listener]]\naddress = \"127.0.0.1:8080\"\ntls = false\n";
    let told = String::from_utf8_lossy(&check(text).stdout).into_owned();
    assert!(told.contains("127.0.0.1:8008, asked for /health every 5s"), "{told}");
}
