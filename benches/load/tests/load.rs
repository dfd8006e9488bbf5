//! The binary itself: against its own origin, and through ringfence over TLS.
// Helpers of tests are tests too, which the lint does not see.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn load() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ringfence-load"))
}

/// Starts the command and waits for the first line that it prints.
fn started(command: &mut Command) -> (Running, String, BufReader<std::process::ChildStdout>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let running = Running(child);
    let mut line = String::new();
    output.read_line(&mut line).unwrap();
    (running, line.trim().to_owned(), output)
}

/// An origin with this much news a second for each long poll, and its address.
fn origin(wakes: &str) -> (Running, String) {
    let (running, line, _) = started(load().args(["origin", "--listen", "127.0.0.1:0", "--wakes", wakes]));
    (running, line.strip_prefix("listening on ").expect("the origin says where it listens").to_owned())
}

/// Runs the command with `--json`; whether it succeeded, and the object that it printed.
fn report(arguments: &[&str]) -> (bool, Value) {
    let output = load().args(arguments).arg("--json").output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let report = serde_json::from_str(&text);
    (
        output.status.success(),
        report.unwrap_or_else(|error| panic!("{arguments:?} printed {text:?}: {error}")),
    )
}

fn count(report: &Value, path: &str) -> u64 {
    report.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no number at {path} of {report}"))
}

/// A server on a port of its own that gives each connection to `serve`.
fn server(serve: impl Fn(TcpStream) + Send + Sync + Copy + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        listener.incoming().flatten().for_each(|stream| drop(thread::spawn(move || serve(stream))))
    });
    address
}

/// Reads one request without a body; whether there was one.
fn request(stream: &mut TcpStream) -> bool {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if !matches!(stream.read(&mut byte), Ok(1)) {
            return false;
        }
        head.push(byte[0]);
    }
    true
}

#[test]
fn a_flood_of_a_number_of_requests_makes_exactly_that_many() {
    let (_origin, address) = origin("1");
    let url = format!("http://{address}/bytes/300000");
    let (good, report) =
        report(&["flood", "--url", &url, "--connections", "8", "--requests", "100", "--threads", "2"]);
    assert!(good, "{report}");
    assert_eq!((count(&report, "/requests"), count(&report, "/statuses/200")), (100, 100));
    assert_eq!((count(&report, "/opened_before"), count(&report, "/connections_opened")), (8, 0));
    // 100 bodies and their heads.
    assert!((30_000_000..30_100_000).contains(&count(&report, "/bytes_received")), "{report}");
    assert!(count(&report, "/latency_us/max") >= count(&report, "/latency_us/p50"), "{report}");
    assert!(count(&report, "/latency_us/p50") > 0, "{report}");
}

#[test]
fn uploads_arrive_whole_whatever_their_size() {
    let (_origin, address) = origin("1");
    for body in [0, 1, 16 * 1024, 16 * 1024 + 1, 3_000_000] {
        let (url, body_text) = (format!("http://{address}/upload"), body.to_string());
        let (good, report) = report(&[
            "flood",
            "--url",
            &url,
            "--method",
            "PUT",
            "--body",
            &body_text,
            "--connections",
            "2",
            "--requests",
            "10",
        ]);
        assert!(good, "{body}: {report}");
        let sent = count(&report, "/bytes_sent");
        assert!((10 * body..10 * body + 2000).contains(&sent), "{body}: {report}");
    }
}

#[test]
fn without_keep_alive_each_request_has_a_connection_of_its_own() {
    let (_origin, address) = origin("1");
    let url = format!("http://{address}/bytes/10");
    let (good, report) =
        report(&["flood", "--url", &url, "--connections", "4", "--requests", "50", "--handshake", "new"]);
    assert!(good, "{report}");
    assert_eq!((count(&report, "/requests"), count(&report, "/connections_opened")), (50, 50));
}

#[test]
fn an_open_loop_has_the_rate_that_was_asked_for() {
    let (_origin, address) = origin("1");
    let url = format!("http://{address}/bytes/10");
    let (good, report) =
        report(&["flood", "--url", &url, "--rate", "500", "--seconds", "2", "--warmup", "0.2"]);
    assert!(good, "{report}");
    // Five standard deviations of 1000 arrivals.
    assert!((840..1160).contains(&count(&report, "/requests")), "{report}");
}

#[test]
fn an_open_loop_counts_the_wait_for_a_connection() {
    // 40 arrivals a second for one connection, on which each answer takes 50 ms: 20 a second.
    let address = server(|mut stream| {
        while request(&mut stream) {
            let (_open, silence) = mpsc::channel::<()>();
            let _ = silence.recv_timeout(Duration::from_millis(50));
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
        }
    });
    let url = format!("http://{address}/");
    let (_, report) = report(&[
        "flood",
        "--url",
        &url,
        "--rate",
        "40",
        "--connections",
        "1",
        "--seconds",
        "2",
        "--warmup",
        "0",
    ]);
    // At the end some 40 have waited for up to a second; a closed loop would report 50 ms.
    assert!(count(&report, "/latency_us/max") > 400_000, "{report}");
    assert!(count(&report, "/late") > 20, "{report}");
}

#[test]
fn a_bad_status_and_bad_framing_are_errors() {
    let refusing = server(|mut stream| {
        while request(&mut stream) {
            let _ = stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 2\r\n\r\n{}");
        }
    });
    let url = format!("http://{refusing}/");
    let arguments = ["flood", "--url", &url, "--connections", "1", "--requests", "5"];
    let (good, refused) = report(&arguments);
    assert!(!good);
    assert_eq!((count(&refused, "/errors"), count(&refused, "/statuses/503")), (5, 5));
    assert!(report(&[&arguments[..], &["--accept", "503"]].concat()).0);

    let cut = server(|mut stream| {
        if request(&mut stream) {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\ntoo short");
        }
    });
    let url = format!("http://{cut}/");
    let (good, report) = report(&["flood", "--url", &url, "--connections", "1", "--requests", "3"]);
    assert!(!good);
    assert_eq!((count(&report, "/errors"), count(&report, "/error_kinds/closed within the body")), (3, 3));
}

#[test]
fn a_connection_that_was_closed_in_between_is_opened_again_and_no_error() {
    let address = server(|mut stream| {
        for _ in 0..2 {
            if request(&mut stream) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        }
    });
    let url = format!("http://{address}/");
    let (good, report) = report(&["flood", "--url", &url, "--connections", "1", "--requests", "10"]);
    assert!(good, "{report}");
    assert_eq!(count(&report, "/reconnects"), 4, "{report}");
}

#[test]
fn idle_connections_are_held_and_those_that_are_closed_are_counted() {
    let (origin, address) = origin("1");
    let url = format!("http://{address}/bytes/1");
    let mut idle = load();
    idle.args(["idle", "--url", &url, "--connections", "300", "--json"]);
    let (mut holding, line, mut output) = started(&mut idle);
    assert_eq!(line, "ready");
    drop(origin);
    // It looks every few milliseconds; SIGTERM asks for the report.
    let (_open, silence) = mpsc::channel::<()>();
    let _ = silence.recv_timeout(Duration::from_millis(300));
    let pid = holding.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &pid]).status().unwrap().success());
    let mut text = String::new();
    output.read_to_string(&mut text).unwrap();
    let report: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((count(&report, "/connections"), count(&report, "/closed")), (300, 300));
    assert!(!holding.0.wait().unwrap().success());
}

#[test]
fn every_scenario_runs_against_the_origin() {
    let (_origin, address) = origin("2");
    let url = format!("http://{address}");
    let play = |name: &str, seconds, scale| {
        let arguments = ["scenario", name, "--client", &url, "--federation", &url, "--seconds", seconds];
        let arguments = [&arguments[..], &["--warmup", "0.3", "--scale", scale]].concat();
        let (good, report) = report(&arguments);
        assert!(good, "{name}: {report}");
        report
    };
    let small = play("small-homeserver", "2", "4");
    for class in ["transaction", "sync", "send"] {
        assert!(count(&small, &format!("/classes/{class}/requests")) > 0, "{class}: {small}");
    }
    assert!(count(&small, "/classes/sync/latency_us/max") > 0, "when news came is known: {small}");
    play("busy-homeserver", "1", "0.05");
    play("media", "1", "0.1");
    let burst = play("federation-burst", "2", "0.05");
    // 50 a second of 200 servers, each of them another one, and none connected before.
    assert!(count(&burst, "/connections_opened") > 60, "{burst}");
    let idle = play("idle-10k", "1", "0.02");
    assert_eq!((count(&idle, "/idle/connections"), count(&idle, "/idle/closed")), (200, 0));
}

#[test]
fn through_ringfence_handshakes_are_full_or_resumed_as_asked_and_counted() {
    let (_origin, upstream) = origin("1");
    let edge = Edge::start(&upstream);
    let url = format!("https://localhost:{}/_matrix/client/versions", edge.port);
    let authority = edge.folder.path().join("authority.pem").display().to_string();
    let flood = |handshake: &str, more: &[&str]| {
        let arguments =
            ["flood", "--url", &url, "--connections", "4", "--requests", "40", "--handshake", handshake];
        let (good, report) = report(&[&arguments[..], more].concat());
        assert!(good, "{handshake}: {report}");
        assert_eq!(count(&report, "/statuses/200"), 40);
        (count(&report, "/handshakes/full"), count(&report, "/handshakes/resumed"))
    };
    assert_eq!(flood("keep", &[]), (0, 0));
    assert_eq!(flood("new", &["--ca", &authority]), (40, 0));
    assert_eq!(flood("new", &["--post-quantum"]), (40, 0));
    for suite in ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"] {
        assert_eq!(flood("new", &["--cipher-suite", suite]), (40, 0));
    }
    assert_eq!(flood("resumed", &[]), (0, 40));

    // Bodies in both directions, over TLS records and more than one buffer.
    let media = format!("https://localhost:{}/_matrix/media/v3/download/a/b?bytes=3000000", edge.port);
    let (good, downloaded) = report(&["flood", "--url", &media, "--connections", "2", "--requests", "6"]);
    assert!(good && count(&downloaded, "/bytes_received") > 18_000_000, "{downloaded}");
    let upload = format!("https://localhost:{}/_matrix/media/v3/upload", edge.port);
    let arguments = ["flood", "--url", &upload, "--method", "POST", "--body", "3000000", "--requests", "6"];
    let (good, uploaded) = report(&arguments);
    assert!(good && count(&uploaded, "/bytes_sent") > 18_000_000, "{uploaded}");
}

/// ringfence with one TLS listener.
struct Edge {
    _running: Running,
    port: u16,
    folder: tempfile::TempDir,
}

impl Edge {
    fn start(upstream: &str) -> Edge {
        let folder = tempfile::tempdir().unwrap();
        write_certificates(folder.path());
        // Free a moment ago; a port that somebody took in between fails the test, and says so.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let config = format!(
            "[server]\nworkers = 1\n\n[rate_limits]\nexempt = [\"127.0.0.0/8\"]\n\n[[homeserver]]\nserver_name = \"localhost\"\nupstream = \"http://{upstream}\"\n\n\
             [[certificate]]\nchain = \"{}\"\nkey = \"{}\"\n\n[[listener]]\naddress = \"127.0.0.1:{port}\"\n",
            path("chain.pem"),
            path("key.pem"),
        );
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let mut command = Command::new(ringfence());
        command.args(["run", "--config", &path("config.toml")]).stdout(Stdio::null()).stderr(log);
        let running = Running(command.spawn().unwrap());
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = fs::read_to_string(folder.path().join("log")).unwrap();
            assert!(Instant::now() < deadline, "ringfence does not listen: {log}");
            thread::yield_now();
        }
        Edge { _running: running, port, folder }
    }
}

fn write_certificates(folder: &Path) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let chain = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
    fs::write(folder.join("authority.pem"), authority.pem()).unwrap();
    fs::write(folder.join("chain.pem"), chain.pem()).unwrap();
    fs::write(folder.join("key.pem"), key.serialize_pem()).unwrap();
}

/// The proxy's binary: `$RINGFENCE`, or what cargo builds beside this one.
fn ringfence() -> PathBuf {
    if let Some(named) = std::env::var_os("RINGFENCE") {
        return named.into();
    }
    let load = Path::new(env!("CARGO_BIN_EXE_ringfence-load"));
    let profile_folder = load.parent().unwrap();
    let profile = match profile_folder.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(profile) => profile,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--package", "ringfence", "--profile", profile, "--target-dir"]);
    build.arg(profile_folder.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
    assert!(build.status().unwrap().success(), "ringfence does not build");
    profile_folder.join("ringfence")
}
