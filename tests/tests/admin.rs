//! The admin listener: what its routes answer to whom, and that every number is what was sent.

use std::collections::BTreeMap;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::mpsc::{self, Sender};

use ringfence_tests::place::Place;
use ringfence_tests::proxy::{ProxyBuilder, ringfence};
use ringfence_tests::{Client, Message, Origin, PATIENCE, Proxy, message, wait_until};
use rustix::process::Signal;
use serde_json::Value;

/// Adds an admin listener on TCP.
fn watched(builder: ProxyBuilder) -> (ProxyBuilder, Place) {
    let place = Place::v4();
    let builder = builder.server(&format!("admin = \"{}\"", place.address()));
    (builder, place)
}

fn ask(admin: SocketAddr, method: &str, path: &str) -> Message {
    Client::connect(admin).request(format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n\r\n"))
}

fn status(admin: SocketAddr) -> Value {
    serde_json::from_str(&ask(admin, "GET", "/status").text()).expect("/status is JSON")
}

/// What `/metrics` says: the value of each sample, by name and labels as they are written.
fn metrics(admin: SocketAddr) -> BTreeMap<String, f64> {
    samples(&ask(admin, "GET", "/metrics").text())
}

fn samples(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a sample has a value");
        (name.to_owned(), value.parse().expect("a value is a number"))
    };
    lines.map(sample).collect()
}

/// The sum of all samples whose name and labels contain every part.
fn sum(metrics: &BTreeMap<String, f64>, parts: &[&str]) -> f64 {
    let meant = metrics.iter().filter(|(name, _)| parts.iter().all(|part| name.contains(part)));
    meant.map(|(_, value)| value).sum()
}

#[test]
fn every_route_has_its_status_and_type() {
    let origin = Origin::answering("");
    let (builder, place) = watched(Proxy::to(&origin));
    let _proxy = builder.start();
    let admin = place.address();
    for (path, content_type) in [
        ("/", "text/html; charset=utf-8"),
        ("/metrics", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
        ("/status", "application/json"),
        ("/connections", "application/json"),
        ("/healthz", "text/plain; charset=utf-8"),
        ("/readyz", "text/plain; charset=utf-8"),
    ] {
        let answer = ask(admin, "GET", path);
        assert_eq!(answer.status(), 200, "{path}");
        assert_eq!(answer.head.value("content-type"), Some(content_type), "{path}");
        assert_eq!(answer.head.value("cache-control"), Some("no-store"), "{path}");
        assert_eq!(ask(admin, "POST", path).status(), 405, "POST {path}");
    }
    assert_eq!(ask(admin, "GET", "/nothing").status(), 404);
    for command in ["/reload", "/upgrade"] {
        assert_eq!(ask(admin, "GET", command).status(), 405);
        // Every user of the machine can come here.
        assert_eq!(ask(admin, "POST", command).status(), 403, "POST {command} over TCP");
    }
}

#[test]
fn the_page_may_ask_this_listener_and_nobody_else() {
    let origin = Origin::answering("");
    let (builder, place) = watched(Proxy::to(&origin));
    let _proxy = builder.start();
    let page = ask(place.address(), "GET", "/");
    let policy = page.head.value("content-security-policy").expect("a policy");
    assert!(policy.contains("default-src 'none'") && policy.contains("connect-src 'self'"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    let html = page.text();
    for elsewhere in ["http://", "https://", "src=", "@import", "url("] {
        assert!(!html.replace("http://www.w3.org/2000/svg", "").contains(elsewhere), "{elsewhere}");
    }
}

#[test]
fn over_tcp_only_names_of_loopback_are_answered() {
    let origin = Origin::answering("");
    let (builder, place) = watched(Proxy::to(&origin));
    let _proxy = builder.start();
    let port = place.address().port();
    for (host, expected) in [
        ("localhost", 200),
        (&*format!("localhost:{port}"), 200),
        (&*format!("127.0.0.1:{port}"), 200),
        ("[::1]:9180", 200),
        // A page of another site whose name was made to lead here (DNS rebinding).
        (&*format!("evil.example:{port}"), 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example", 421),
        ("192.0.2.1", 421),
        ("", 421),
    ] {
        for path in ["/", "/status", "/metrics", "/healthz"] {
            let answer = Client::connect(place.address())
                .request(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            assert_eq!(answer.status(), expected, "{host} {path}");
        }
    }
    let without = Client::connect(place.address()).request("GET /status HTTP/1.0\r\n\r\n");
    assert_eq!(without.status(), 421);
}

/// An origin that answers each path in its own way.
fn homeserver() -> Origin {
    Origin::serving(|request| match request.head.target() {
        "/_matrix/client/v3/login" => message::response("403 Forbidden", "", "no"),
        target if target.starts_with("/_matrix/media") => {
            message::response("500 Internal Server Error", "", "broken")
        }
        _ => message::ok("12345"),
    })
}

/// Sends some of everything; how many requests that were.
fn send_some_of_everything(proxy: &Proxy) -> u64 {
    let mut client = proxy.client();
    for _ in 0..3 {
        assert_eq!(client.get("/_matrix/client/v3/sync?timeout=0").status(), 200);
    }
    for txn in 0..2 {
        let target = format!("/_matrix/client/v3/rooms/!r:hs/send/m.room.message/{txn}");
        client.request(format!("PUT {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"));
    }
    client.request("POST /_matrix/client/v3/login HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{}");
    assert_eq!(client.get("/_matrix/media/v3/download/hs/abc").status(), 500);
    assert_eq!(client.get("/nowhere").status(), 404);
    8
}

fn counted(admin: SocketAddr, requests: u64) -> Value {
    // Counted when it is over, which is after the client has its answer.
    wait_until("the last request's count", PATIENCE, || status(admin)["requests"] == requests);
    status(admin)
}

#[test]
fn status_tells_what_was_sent() {
    let origin = homeserver();
    let (builder, place) = watched(Proxy::to(&origin).workers(2));
    let proxy = builder.start();
    let sent = send_some_of_everything(&proxy);
    let status = counted(place.address(), sent);
    let class = |name: &str| {
        let classes = status["classes"].as_array().expect("classes");
        classes.iter().find(|class| class["class"] == name).cloned().expect("the class")
    };
    for (name, requests, statuses, bytes_in, bytes_out, forwarded) in [
        ("sync", 3, r#"{"2xx":3}"#, 0, 15, 3),
        ("send", 2, r#"{"2xx":2}"#, 6, 10, 2),
        ("login", 1, r#"{"4xx":1}"#, 2, 2, 1),
        ("media_down", 1, r#"{"5xx":1}"#, 0, 6, 1),
        ("keys", 0, "{}", 0, 0, 0),
    ] {
        let class = class(name);
        assert_eq!(class["requests"], requests, "{name}");
        assert_eq!(class["status"].to_string(), statuses, "{name}");
        assert_eq!(
            (&class["bytes_in"], &class["bytes_out"]),
            (&bytes_in.into(), &bytes_out.into()),
            "{name}"
        );
        let inside = |part: &str| -> u64 {
            class[part]["buckets"].as_array().expect("buckets").iter().filter_map(Value::as_u64).sum()
        };
        assert_eq!((inside("total"), inside("upstream")), (requests, forwarded), "{name}");
    }
    assert_eq!((&class("other")["requests"], &status["refusals"]["Unrouted"]), (&1.into(), &1.into()));
    assert_eq!(status["errors"].to_string(), r#"{"own":0,"upstream":1}"#);
    assert_eq!(status["listeners"][0]["requests"], sent);
    assert_eq!(status["upstreams"][0]["servers"][0]["server"], origin.address().to_string());
    assert_eq!(status["upstreams"][0]["servers"][0]["up"], true);
    assert_eq!((&status["pid"], &status["state"]), (&proxy.pid().into(), &"serving".into()));
}

#[test]
fn metrics_tell_what_status_tells() {
    let origin = homeserver();
    let (builder, place) = watched(Proxy::to(&origin).workers(2));
    let proxy = builder.start();
    let sent = send_some_of_everything(&proxy);
    let status = counted(place.address(), sent);
    let metrics = metrics(place.address());
    let number = |value: &Value| value.as_f64().unwrap_or(f64::NAN);
    assert_eq!(sum(&metrics, &["ringfence_requests_total"]), sent as f64);
    for class in status["classes"].as_array().expect("classes") {
        let label = format!("class=\"{}\"", class["class"].as_str().expect("a name"));
        let of_class = |name: &str| sum(&metrics, &[name, &label]);
        assert_eq!(of_class("ringfence_exchanges_total{"), number(&class["requests"]), "{label}");
        assert_eq!(of_class("ringfence_request_content_bytes_total{"), number(&class["bytes_in"]), "{label}");
        assert_eq!(
            of_class("ringfence_response_content_bytes_total{"),
            number(&class["bytes_out"]),
            "{label}"
        );
        for (name, part) in [("request", "total"), ("upstream", "upstream")] {
            let seconds = of_class(&format!("ringfence_{name}_duration_seconds_sum{{"));
            assert!((seconds - number(&class[part]["sum_ms"]) / 1e3).abs() < 1e-6, "{label} {name}");
        }
        for (code, count) in class["status"].as_object().expect("statuses") {
            let first = format!("status=\"{}", &code[..1]);
            let metric = sum(&metrics, &["ringfence_exchanges_total{", &label, &first]);
            assert_eq!(metric, number(count), "{label} {code}");
        }
    }
    let kind = |class: &str, method: &str, status: &str| {
        let listener = format!("listener=\"{}\"", proxy.address);
        let labels = [("class", class), ("method", method), ("status", status)];
        let labels = labels.map(|(name, value)| format!("{name}=\"{value}\""));
        sum(&metrics, &["ringfence_exchanges_total{", &listener, &labels[0], &labels[1], &labels[2]])
    };
    assert_eq!(kind("sync", "GET", "200"), 3.0);
    assert_eq!(kind("send", "PUT", "200"), 2.0);
    assert_eq!(kind("login", "POST", "403"), 1.0);
    assert_eq!(kind("media_down", "GET", "500"), 1.0);
    assert_eq!(kind("other", "GET", "404"), 1.0);
    for (reason, count) in status["refusals"].as_object().expect("refusals") {
        let label = format!("reason=\"{reason}\"");
        assert_eq!(sum(&metrics, &["ringfence_refusals_total{", &label]), number(count), "{reason}");
    }
    assert_eq!(sum(&metrics, &["ringfence_upstream_up{"]), 1.0);
    assert_eq!(sum(&metrics, &["ringfence_connections_max"]), 65_536.0);
}

#[test]
fn histograms_are_cumulative_and_agree_with_their_counts() {
    let origin = homeserver();
    let (builder, place) = watched(Proxy::to(&origin));
    let proxy = builder.start();
    counted(place.address(), send_some_of_everything(&proxy));
    let text = ask(place.address(), "GET", "/metrics").text();
    let mut buckets = BTreeMap::<String, Vec<(f64, f64)>>::new();
    for line in text.lines().filter(|line| line.contains("_bucket{")) {
        let (before, end) = line.split_once("le=\"").expect("a bucket has an end");
        let (end, rest) = end.split_once('"').expect("a quoted label");
        let end = if end == "+Inf" { f64::INFINITY } else { end.parse().expect("a number") };
        let value = rest.rsplit_once(' ').and_then(|(_, value)| value.parse().ok()).expect("a count");
        // `le` may stand first or last.
        let series = format!("{before}{}", rest.rsplit_once(' ').map_or("", |(labels, _)| labels));
        buckets.entry(series).or_default().push((end, value));
    }
    assert_eq!(buckets.len(), 2 * 12, "two histograms for each class");
    let metrics = samples(&text);
    let mut all = 0.0;
    for (series, buckets) in &buckets {
        assert!(buckets.is_sorted_by(|one, next| one.0 < next.0 && one.1 <= next.1), "{series}: {buckets:?}");
        let (last, count) = *buckets.last().expect("buckets");
        assert!(last.is_infinite(), "{series} ends with +Inf");
        let (name, labels) = series.split_once("_bucket{").expect("a bucket");
        let class = labels.split("class=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a class");
        assert_eq!(sum(&metrics, &[&format!("{name}_count{{"), &format!("\"{class}\"")]), count, "{series}");
        all += count;
    }
    assert_eq!(all, 8.0 + 7.0, "all of total, and all but the one that was refused of upstream");
}

#[test]
fn metrics_are_openmetrics_text() {
    let origin = homeserver();
    let (builder, place) = watched(Proxy::to(&origin));
    let proxy = builder.start();
    counted(place.address(), send_some_of_everything(&proxy));
    let text = ask(place.address(), "GET", "/metrics").text();
    assert!(text.ends_with("# EOF\n"));
    let mut families = BTreeMap::new();
    let mut family = String::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a type");
            assert!(families.insert(name.to_owned(), kind.to_owned()).is_none(), "{name} comes twice");
            family = name.to_owned();
        } else if !line.starts_with('#') {
            let name = line.split(['{', ' ']).next().expect("a name");
            let suffix = name.strip_prefix(&family).unwrap_or_else(|| panic!("{line} stands under {family}"));
            let allowed: &[&str] = match &*families[&family] {
                "counter" => &["_total"],
                "gauge" => &[""],
                "histogram" => &["_bucket", "_sum", "_count"],
                "info" => &["_info"],
                kind => panic!("unknown type {kind}"),
            };
            assert!(allowed.contains(&suffix), "{line} in a {}", families[&family]);
        }
    }
    assert_eq!(samples(&text).len(), text.lines().filter(|line| !line.starts_with('#')).count(), "doubles");
    parse_with_prometheus_client(&text);
}

/// Once more by a parser that is not ours, where it is installed.
fn parse_with_prometheus_client(text: &str) {
    let script = "import sys\nfrom prometheus_client.openmetrics.parser import text_string_to_metric_families\n\
                  families = list(text_string_to_metric_families(sys.stdin.read()))\nassert len(families) > 20\n";
    let python = std::env::var("PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has_it =
        Command::new(&python).args(["-c", "import prometheus_client"]).stderr(Stdio::null()).status();
    if !has_it.is_ok_and(|status| status.success()) {
        return println!("not parsed by prometheus_client: it is not installed");
    }
    let mut parser =
        Command::new(&python).args(["-c", script]).stdin(Stdio::piped()).spawn().expect("python starts");
    std::io::Write::write_all(&mut parser.stdin.take().expect("a pipe"), text.as_bytes()).expect("written");
    assert!(parser.wait().expect("python ends").success(), "prometheus_client refuses it:\n{text}");
}

#[test]
fn servers_that_refuse_connections_are_told() {
    let mut origin = Origin::answering("");
    let (builder, place) = watched(Proxy::to(&origin));
    let proxy = builder.start();
    assert_eq!(proxy.client().get("/_matrix/x").status(), 200);
    let server = || status(place.address())["upstreams"][0]["servers"][0].clone();
    wait_until("the idle connection", PATIENCE, || server()["idle"] == 1);
    origin.kill();
    assert_eq!(proxy.client().get("/_matrix/x").status(), 502);
    wait_until("the refused dial", PATIENCE, || server()["dials_failed"] == 1 && server()["up"] == false);
    let numbers = metrics(place.address());
    assert_eq!(sum(&numbers, &["ringfence_upstream_dials_failed_total{"]), 1.0);
    assert_eq!(status(place.address())["errors"].to_string(), r#"{"own":1,"upstream":0}"#);
}

/// A homeserver that answers each request when it is told to.
fn holding() -> (Sender<()>, Origin) {
    let (hold, held) = mpsc::channel();
    let held = Mutex::new(held);
    let origin = Origin::serving(move |_| {
        let _ = held.lock().expect("one request").recv_timeout(PATIENCE);
        message::ok("")
    });
    (hold, origin)
}

#[test]
fn requests_in_flight_are_told_by_server() {
    let (hold, origin) = holding();
    let (builder, place) = watched(Proxy::to(&origin));
    let proxy = builder.start();
    let mut client = proxy.client();
    client.send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
    let in_flight = || status(place.address())["upstreams"][0]["servers"][0]["in_flight"].clone();
    wait_until("the request", PATIENCE, || in_flight() == 1);
    hold.send(()).expect("the origin waits");
    assert_eq!(client.response().status(), 200);
    wait_until("its end", PATIENCE, || in_flight() == 0);
}

#[test]
fn connections_are_told_by_client() {
    let origin = Origin::answering("");
    let (builder, place) = watched(Proxy::to(&origin));
    let proxy = builder.start();
    let connect = |last: u8| Client::connect_from([127, 0, 0, last].into(), proxy.address);
    let _open: Vec<Client> = [2, 3, 3, 3, 4, 4].map(connect).into();
    let connections = || -> Value {
        serde_json::from_str(&ask(place.address(), "GET", "/connections").text()).expect("JSON")
    };
    wait_until("six connections", PATIENCE, || connections()["open"] == 6);
    let told = connections();
    assert_eq!((&told["clients"], &told["max"]), (&3.into(), &65_536.into()));
    assert_eq!(told["most"][0].to_string(), r#"{"client":"127.0.0.3","open":3}"#);
    assert_eq!(told["most"][1].to_string(), r#"{"client":"127.0.0.4","open":2}"#);
}

#[test]
fn readyz_says_no_while_draining_and_healthz_says_yes() {
    let (hold, origin) = holding();
    let (builder, place) = watched(Proxy::to(&origin));
    let mut proxy = builder.start();
    let mut client = proxy.client();
    client.send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
    let in_flight = || status(place.address())["upstreams"][0]["servers"][0]["in_flight"].clone();
    wait_until("the request", PATIENCE, || in_flight() == 1);
    proxy.signal(Signal::TERM);
    wait_until("the word that it leaves", PATIENCE, || {
        ask(place.address(), "GET", "/readyz").status() == 503
    });
    assert_eq!(ask(place.address(), "GET", "/healthz").status(), 200);
    assert_eq!(status(place.address())["state"], "leaving");
    hold.send(()).expect("the origin waits");
    assert_eq!(client.response().status(), 200);
    let stopped = proxy.stopped_within(PATIENCE).expect("it ends");
    assert!(stopped.status.success(), "{stopped:?}");
    assert!(TcpStream::connect(place.address()).is_err(), "the admin listener ends with the process");
}

/// Whether a Unix socket at `path` answers this request with this status.
fn answers(path: &Path, request: &str, status: u16) -> bool {
    let mut stream = UnixStream::connect(path).expect("the socket is open to its owner");
    std::io::Write::write_all(&mut stream, request.as_bytes()).expect("the request is sent");
    let mut answer = String::new();
    std::io::Read::read_to_string(&mut stream, &mut answer).expect("an answer");
    answer.starts_with(&format!("HTTP/1.1 {status} "))
}

#[test]
fn the_socket_is_for_owner_and_group_and_takes_commands() {
    let origin = Origin::answering("");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("admin.sock");
    let mut proxy = Proxy::to(&origin).server(&format!("admin = \"unix:{}\"", path.display())).start();
    let mode = fs::metadata(&path).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o660);
    let get = "GET /status HTTP/1.1\r\nHost: whatever.example\r\nConnection: close\r\n\r\n";
    assert!(answers(&path, get, 200), "any Host over the socket");
    let reload = "POST /reload HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
    assert!(answers(&path, reload, 200));
    assert!(proxy.stop().status.success());
    assert!(!path.exists(), "the socket is removed at the end");
}

#[test]
fn admin_off_listens_nowhere() {
    let origin = Origin::answering("");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let proxy = Proxy::to(&origin).server("admin = \"off\"").start();
    let sockets = fs::read_to_string(format!("/proc/{}/net/unix", proxy.pid())).unwrap_or_default();
    let inodes: Vec<String> = fs::read_dir(format!("/proc/{}/fd", proxy.pid()))
        .expect("its descriptors")
        .flatten()
        .filter_map(|entry| {
            fs::read_link(entry.path())
                .ok()?
                .to_str()?
                .strip_prefix("socket:[")?
                .strip_suffix(']')
                .map(str::to_owned)
        })
        .collect();
    // Sockets with a path have it in the last column.
    let named = sockets
        .lines()
        .filter(|line| line.contains('/') && inodes.iter().any(|inode| line.contains(inode.as_str())));
    assert_eq!(named.collect::<Vec<_>>(), Vec::<&str>::new());
    let config = folder.path().join("off.toml");
    fs::write(&config, "[server]\nadmin = \"off\"\n").expect("written");
    let output = ringfence(&["reload", "--config", &config.to_string_lossy()]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("server.admin is \"off\""), "{output:?}");
}

#[test]
fn top_prints_what_status_tells() {
    let origin = homeserver();
    let (builder, place) = watched(Proxy::to(&origin));
    let proxy = builder.start();
    counted(place.address(), send_some_of_everything(&proxy));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("ringfence.toml");
    fs::write(&config, format!("[server]\nadmin = \"{}\"\n", place.address())).expect("written");
    let output = ringfence(&["top", "--once", "--config", &config.to_string_lossy()]);
    assert!(output.status.success(), "{output:?}");
    let shown = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(shown.contains("serving  up ") && shown.contains(&format!("pid {}", proxy.pid())), "{shown}");
    let line = |name: &str| shown.lines().find(|line| line.starts_with(name)).expect("a line").to_owned();
    for (class, requests) in
        [("sync", "3"), ("send", "2"), ("login", "1"), ("media_down", "1"), ("keys", "0")]
    {
        assert_eq!(line(class).split_whitespace().last(), Some(requests), "{shown}");
    }
    assert!(line(&origin.address().to_string()).contains(" up "), "{shown}");
    assert!(!shown.contains('\x1b'), "no escape sequences where there is no terminal: {shown}");
}

#[test]
fn top_says_whom_it_cannot_reach() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = folder.path().join("ringfence.toml");
    fs::write(&config, "[server]\nadmin = \"unix:nobody.sock\"\n").expect("written");
    let output = ringfence(&["top", "--config", &config.to_string_lossy()]);
    assert!(!output.status.success());
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("nobody.sock") && told.contains("is ringfence running"), "{told}");
}
