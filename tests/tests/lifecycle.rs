//! The process: start, log lines, `check`, faults of a configuration, and the orderly end.

use std::process::Output;
use std::time::Instant;

use ringfence_tests::client::HOST;
use ringfence_tests::place::Place;
use ringfence_tests::proxy::{CONFIG, check, check_in, ringfence};
use ringfence_tests::wire::End;
use ringfence_tests::{Authority, Client, MIB, MS, Origin, Proxy, SECOND, message, pattern, pause};
use rustix::process::Signal;

/// An origin whose answer to `…/slow` takes a second.
fn slow_origin() -> Origin {
    Origin::serving(|request| {
        if request.head.target().ends_with("/slow") {
            pause(SECOND);
        }
        message::ok("whole")
    })
}

#[test]
fn sigterm_lets_a_long_poll_finish_and_closes_what_is_idle() {
    for signal in [Signal::TERM, Signal::INT] {
        let origin = slow_origin();
        let mut proxy = Proxy::to(&origin).workers(2).start();
        let mut idle = proxy.client();
        assert_eq!(idle.get("/_matrix/x").text(), "whole");
        let mut never_used = proxy.client();
        let mut busy = proxy.client();
        busy.send("GET /_matrix/slow HTTP/1.1\r\nHost: a\r\n\r\n");
        ringfence_tests::wait_until("the long poll", 2 * SECOND, || {
            origin.received().concat().contains("/slow")
        });

        let begun = Instant::now();
        proxy.signal(signal);
        idle.expect_close();
        never_used.expect_close();
        assert!(begun.elapsed() < 800 * MS, "idle connections were closed after {:?}", begun.elapsed());
        ringfence_tests::wait_until("the listener's close", 800 * MS, || {
            Client::try_connect(proxy.address).is_err()
        });

        let response = busy.response();
        assert_eq!(response.text(), "whole");
        assert!(response.head.lists("connection", "close"), "{:?}", response.head);
        busy.expect_close();
        let stopped = proxy.stopped_within(3 * SECOND).expect("the process ends after the last exchange");
        assert!(stopped.status.success(), "{:?}", stopped.status);
    }
}

#[test]
fn sigterm_lets_a_download_over_tls_finish() {
    let origin = Origin::serving(|_| message::ok(pattern(16 * MIB)));
    let mut proxy = Proxy::to(&origin).tls().start();
    let mut client = proxy.tls_client();
    client.send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
    client.read_head().unwrap();
    proxy.signal(Signal::TERM);
    pause(300 * MS);
    assert!(client.read_exactly(16 * MIB).unwrap() == pattern(16 * MIB), "the download changed");
    assert_eq!(client.end(), End::Closed);
    assert!(proxy.stopped_within(3 * SECOND).expect("the process ends").status.success());
}

#[test]
fn the_drain_has_a_deadline() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        peer.end();
    });
    let mut proxy = Proxy::to(&origin).timeouts("drain = \"600ms\"").start();
    let mut client = proxy.client();
    client.send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
    let record = origin.connection(1);
    ringfence_tests::wait_until("the request", 2 * SECOND, || record.text().contains("\r\n\r\n"));
    let stopped = proxy.stop();
    assert!(stopped.took > 400 * MS && stopped.took < 4 * SECOND, "after {:?}", stopped.took);
    let end = client.end();
    assert!(matches!(end, End::Closed | End::Reset), "{end:?}");
}

#[test]
fn an_idle_proxy_ends_at_once() {
    let origin = Origin::answering("");
    let mut proxy = Proxy::to(&origin).tls().start();
    let mut idle = proxy.tls_client();
    assert_eq!(idle.get("/_matrix/x").status(), 200);
    let stopped = proxy.stop();
    assert!(stopped.status.success() && stopped.took < 2 * SECOND, "{stopped:?}");
    assert_eq!(idle.end(), End::Closed);
}

fn smoke(proxy: &Proxy) {
    for _ in 0..3 {
        let mut client = proxy.tls_client();
        assert_eq!(client.get("/_matrix/x").status(), 200);
        let head = format!("POST /_matrix/x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {MIB}\r\n\r\n");
        client.send(head);
        client.send(pattern(MIB));
        assert!(client.response().body == pattern(MIB), "the echo differs");
        assert_eq!(client.get("/").status(), 404);
        assert_eq!(client.get("/.well-known/matrix/client").status(), 200);
    }
}

#[test]
fn each_driver_says_its_name_and_serves() {
    for driver in ["uring", "epoll"] {
        let origin = Origin::serving(|request| message::ok(&request.body));
        let proxy = Proxy::to(&origin).tls().workers(2).server("log = \"debug\"");
        let mut proxy = proxy.env("RINGFENCE_DRIVER", driver).start();
        smoke(&proxy);
        assert!(proxy.stop().status.success());
        let log = proxy.stderr();
        assert!(log.contains(if driver == "uring" { "io_uring" } else { "epoll" }), "{driver}: {log}");
    }
}

/// Names of an access log line, in order.
const NAMES: [&str; 15] = [
    "client",
    "peer",
    "listener",
    "class",
    "method",
    "target",
    "status",
    "in",
    "out",
    "upstream",
    "upstream_ms",
    "total_ms",
    "id",
    "tls",
    "close",
];

#[test]
fn the_access_log_has_one_line_a_request() {
    let origin = Origin::serving(|_| message::ok("12345"));
    let proxy = Proxy::to(&origin).server("access_log_targets = \"full\"").start();
    let mut client = proxy.client();
    let peer = client.local_address();
    client.request("POST /_matrix/a%2F?b=\"c\" HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    client.get("/nowhere");
    client.get("/_matrix/#");
    let lines = proxy.access_log(3);
    assert_eq!(lines.len(), 3, "{lines:#?}");
    let (time, rest) = lines[0].split_once(' ').unwrap();
    assert!(time.len() == 24 && time.ends_with('Z') && time.as_bytes()[10] == b'T', "{time}");
    let names: Vec<&str> = rest.split(' ').filter_map(|pair| Some(pair.split_once('=')?.0)).collect();
    assert_eq!(names, NAMES);
    let expected = [
        format!("client={} peer={peer} listener={} class=other method=POST", peer.ip(), proxy.address),
        "target=\"/_matrix/a%2F?b=\\\"c\\\"\" status=200 in=3 out=5".to_owned(),
        format!("upstream={}", origin.address()),
        "tls=- close=-".to_owned(),
    ];
    assert!(expected.iter().all(|part| lines[0].contains(part)), "{} lacks one of {expected:#?}", lines[0]);
    assert!(
        lines[1].contains("target=\"/nowhere\" status=404") && lines[1].contains("upstream=- "),
        "{}",
        lines[1]
    );
    assert!(lines[2].contains("status=400") && !lines[2].contains("close=-"), "{}", lines[2]);
}

#[test]
fn the_access_log_can_be_json() {
    let origin = Origin::answering("12345");
    let proxy = Proxy::to(&origin)
        .tls()
        .server("access_log_format = \"json\"\naccess_log_targets = \"full\"")
        .start();
    let mut client = proxy.tls_client();
    client.get("/_matrix/a\"b\\c");
    let lines = proxy.access_log(1);
    let line: serde_json::Value = serde_json::from_str(&lines[0]).expect("a line is JSON");
    let object = line.as_object().unwrap();
    assert!(NAMES.iter().all(|name| object.contains_key(*name)) && object.contains_key("time"), "{line}");
    assert_eq!((&line["method"], &line["status"], &line["tls"]), (&"GET".into(), &200.into(), &"1.3".into()));
    assert_eq!(line["target"], "/_matrix/a\"b\\c");
    assert_eq!((line["in"].as_u64(), line["out"].as_u64()), (Some(0), Some(5)));
}

#[test]
fn the_access_log_tells_of_clients_that_left() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        peer.end();
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
    let record = origin.connection(1);
    ringfence_tests::wait_until("the request", 2 * SECOND, || record.text().contains("\r\n\r\n"));
    drop(client);
    let line = proxy.access_log(1).concat();
    assert!(line.contains("client-gone"), "{line}");
}

#[test]
fn the_access_log_can_be_off_or_standard_output() {
    let origin = Origin::answering("");
    let mut off = Proxy::to(&origin).server("access_log = \"off\"").start();
    off.client().get("/_matrix/x");
    off.stop();
    assert_eq!(off.stdout(), "");
    let mut on = Proxy::to(&origin).server("access_log = \"stdout\"").start();
    on.client().get("/_matrix/x");
    on.stop();
    assert_eq!(on.stdout().lines().count(), 1, "{}", on.stdout());
    assert!(on.stdout().contains("target=\"/_matrix/*\""), "{}", on.stdout());
}

#[test]
fn lines_of_the_last_requests_are_not_lost_at_the_end() {
    let origin = Origin::answering("");
    let mut proxy = Proxy::to(&origin).server("access_log = \"stdout\"").start();
    let mut client = proxy.client();
    for _ in 0..100 {
        client.get("/_matrix/x");
    }
    proxy.stop();
    assert_eq!(proxy.stdout().lines().count(), 100);
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn all_faults_of_a_configuration_are_told_at_once_with_their_places() {
    let output = check(
        "strict_host = true\n\
         [server]\n\
         workers = \"two\"\n\
         [limits]\n\
         head_bytes_max = \"32 KiX\"\n\
         [[listener]]\n\
         address = \"127.0.0.1\"\n\
         tls = false\n\
         [[homeserver]]\n\
         server_name = \"example.com\"\n\
         upstrem = \"http://127.0.0.1:8008\"\n",
    );
    assert!(!output.status.success());
    let told = text(&output);
    for place in [":1:", ":3:", ":5:", ":7:", ":11:"] {
        assert!(told.contains(&format!("{CONFIG}{place}")), "nothing about line {place} in\n{told}");
    }
    for word in ["strict_hosts", "upstream"] {
        assert!(told.contains(word), "the nearest known key {word} is not named in\n{told}");
    }
    assert!(!told.contains("panicked"), "{told}");
}

#[test]
fn a_missing_configuration_is_told() {
    for command in ["run", "check"] {
        let output = ringfence(&[command, "--config", "no/such/file.toml"]);
        assert!(!output.status.success());
        assert!(text(&output).contains("no/such/file.toml"), "{}", text(&output));
    }
}

const WHOLE: &str = "[[homeserver]]\nserver_name = \"example.com\"\npublic_host = \"matrix.example.com\"\n\
     upstream = \"http://127.0.0.1:8008\"\n[[certificate]]\nchain = \"c.chain.pem\"\nkey = \"c.key.pem\"\n\
     [[listener]]\naddress = \"127.0.0.1:18443\"\n[[route]]\nhosts = [\"example.com\"]\npath = \"/web\"\n\
     upstream = \"http://127.0.0.1:8080\"\n";

#[test]
fn check_tells_what_will_listen_where_and_what_goes_where() {
    let folder = tempfile::tempdir().unwrap();
    Authority::shared().certificate(&[HOST, "*.example.com"]).write(folder.path(), "c");
    let output = check_in(folder.path(), WHOLE);
    let told = text(&output);
    assert!(output.status.success(), "{told}");
    for word in
        ["127.0.0.1:18443", HOST, "*.example.com", "127.0.0.1:8008", "/_matrix", "/web", "127.0.0.1:8080"]
    {
        assert!(told.contains(word), "{word} is not told in\n{told}");
    }
}

#[test]
fn faults_of_certificates_are_told() {
    let authority = Authority::shared();
    let names = [HOST];
    let (one, other) = (authority.certificate(&names), authority.certificate(&names));
    let expired =
        authority.certificate_like(&names, |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let cases = [
        ("key of another", one.chain_pem.clone(), other.key_pem.clone(), "c.key.pem"),
        ("expired", expired.chain_pem.clone(), expired.key_pem.clone(), "expired"),
        ("wrong order", authority.pem() + &one.chain_pem, one.key_pem.clone(), "order"),
        ("no certificate", String::new(), one.key_pem.clone(), "c.chain.pem"),
        ("no key", one.chain_pem.clone(), "rubbish".to_owned(), "c.key.pem"),
    ];
    for (what, chain, key, word) in cases {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("c.chain.pem"), chain).unwrap();
        std::fs::write(folder.path().join("c.key.pem"), key).unwrap();
        let output = check_in(folder.path(), WHOLE);
        let told = text(&output);
        // An expired certificate may be served (its replacement is on the way), but never silently.
        assert!(!output.status.success() || what == "expired", "{what} passes:\n{told}");
        assert!(told.contains(word), "{what}: {word} is not named in\n{told}");
    }
    let missing = check_in(tempfile::tempdir().unwrap().path(), WHOLE);
    assert!(!missing.status.success() && text(&missing).contains("c.chain.pem"), "{}", text(&missing));
}

#[test]
fn a_port_that_another_program_has_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let origin = Origin::answering("");
    let extra = format!("[[listener]]\naddress = \"{address}\"\ntls = false");
    let output = Proxy::to(&origin).extra(&extra).start_in_vain();
    assert!(!output.status.success());
    assert!(text(&output).contains(&address.to_string()), "{}", text(&output));
}

#[test]
fn help_and_version_are_told() {
    let help = text(&ringfence(&["--help"]));
    assert!(["run", "check", "demo"].iter().all(|command| help.contains(command)), "{help}");
    assert!(text(&ringfence(&["--version"])).starts_with("ringfence "));
}

#[test]
fn two_proxies_share_no_port_by_chance() {
    // The harness reserves its ports; this is what the other tests stand on.
    let origin = Origin::answering("first");
    let first = Proxy::to(&origin).start();
    let places: Vec<Place> = (0..50).map(|_| Place::v4()).collect();
    assert!(places.iter().all(|place| place.address() != first.address));
}

/// With the ports bound and the keys read, nothing of root is left in any thread; without root the key says so.
#[test]
fn root_is_given_up_before_anyone_is_served() {
    let origin = Origin::answering("in");
    let proxy = Proxy::to(&origin).tls().workers(2).server("user = \"nobody\"").start();
    assert_eq!(proxy.tls_client().get("/_matrix/x").text(), "in");
    if !rustix::process::geteuid().is_root() {
        assert!(proxy.stderr().contains("server.user has no effect"), "{}", proxy.stderr());
        return;
    }
    let mut threads = 0;
    for thread in std::fs::read_dir(format!("/proc/{}/task", proxy.pid())).unwrap() {
        let status = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
        for name in ["Uid:", "Gid:", "Groups:"] {
            let ids = status.lines().find_map(|line| line.strip_prefix(name)).expect("the line is there");
            assert!(ids.split_whitespace().all(|id| id != "0"), "{name}{ids}");
        }
        let capable = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap().trim();
        assert_eq!(u64::from_str_radix(capable, 16), Ok(0), "CapEff: {capable}");
        threads += 1;
    }
    assert!(threads >= 3, "{threads} threads");
}
