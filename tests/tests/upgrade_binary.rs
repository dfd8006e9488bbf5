//! Upgrade: another process takes over the listening sockets, and the one before finishes what it has begun.
#![allow(clippy::unwrap_used, reason = "helpers of tests, too, fail by a panic")]

use std::fs;
use std::io::{ErrorKind, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt, FdMapping};
use ringfence_tests::client::HOST;
use ringfence_tests::place::Place;
use ringfence_tests::systemd::Systemd;
use ringfence_tests::wire::End;
use ringfence_tests::{Client, MS, Message, Origin, Proxy, SECOND, message, pause, proxy, wait_until};
use rustix::process::Signal;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const UPGRADE: &str = "GET /_matrix/ws HTTP/1.1\r\nHost: matrix.example.com\r\nConnection: Upgrade\r\n\
     Upgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

const SWITCHING: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// Switches protocols and repeats what comes.
fn echoing() -> Origin {
    Origin::each(|peer| {
        while let Some(head) = peer.request_head() {
            if !head.lists("connection", "upgrade") {
                peer.send(message::ok("here"));
                continue;
            }
            peer.send(SWITCHING);
            while let Ok(bytes) = peer.read_exactly(4) {
                if peer.try_send(bytes).is_err() {
                    return;
                }
            }
            return;
        }
    })
}

fn switched(mut client: Client) -> Client {
    client.send(UPGRADE);
    assert_eq!(client.read_head().expect("an answer").status(), 101);
    client
}

fn echoes(client: &mut Client) -> bool {
    client.try_send("ping").is_ok() && client.read_exactly(4).is_ok()
}

/// Answers what it is asked, but /held only once it is let go.
fn holding() -> (Origin, Arc<AtomicBool>) {
    let released = Arc::new(AtomicBool::new(false));
    let release = released.clone();
    let origin = Origin::serving(move |request: &Message| {
        if request.head.target().contains("held") {
            wait_until("the release", 20 * SECOND, || release.load(Ordering::SeqCst));
        }
        message::ok("here")
    });
    (origin, released)
}

/// Puts a shell script where the binary is.
fn replace_by_script(proxy: &Proxy, script: &str) {
    let beside = proxy.folder().join("script");
    fs::write(&beside, format!("#!/bin/sh\n{script}\n")).expect("the test can do this");
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).expect("the test can do this");
    fs::rename(beside, proxy.binary()).expect("the test can do this");
}

fn replace_by_binary(proxy: &Proxy) {
    let beside = proxy.folder().join("beside");
    fs::copy(proxy::binary(), &beside).expect("the test can do this");
    fs::rename(beside, proxy.binary()).expect("the test can do this");
}

fn assert_last(answer: &Message) {
    assert_eq!((answer.status(), answer.head.value("connection")), (200, Some("close")));
}

fn assert_stays(answer: &Message) {
    assert_eq!((answer.status(), answer.head.value("connection")), (200, None));
}

#[test]
fn the_new_process_serves_and_the_old_one_ends_with_its_last_answer() {
    let origin = Origin::answering("here");
    let mut proxy = Proxy::to(&origin).admin().own_binary().workers(2).start();
    let mut idle = proxy.client();
    let mut used = proxy.client();
    assert_stays(&used.get("/_matrix/x"));
    replace_by_binary(&proxy);
    let told = proxy.tell("upgrade");
    assert!(told.contains("has taken over"), "{told}");
    assert_stays(&proxy.client().get("/_matrix/x"));
    // The old process has to hear of it.
    pause(300 * MS);
    for client in [&mut idle, &mut used] {
        assert_last(&client.get("/_matrix/x"));
        client.expect_close();
    }
    let stopped = proxy.stopped_within(3 * SECOND).expect("nothing is left to do");
    assert!(stopped.status.success());
    assert_eq!(proxy.processes(), [proxy.newest()]);
    assert_stays(&proxy.client().get("/_matrix/x"));
}

#[test]
fn a_signal_upgrades_too() {
    let origin = Origin::answering("here");
    let mut proxy = Proxy::to(&origin).admin().start();
    proxy.signal(Signal::USR2);
    assert!(proxy.stopped_within(5 * SECOND).expect("nothing is left to do").status.success());
    let second = proxy.newest();
    proxy.signal_newest(Signal::USR2);
    wait_until("the end of the second process", 5 * SECOND, || !proxy.is_running(second));
    assert_eq!(proxy.followers().len(), 2);
    assert_stays(&proxy.client().get("/_matrix/x"));
}

#[test]
fn what_is_under_way_at_hand_over_is_finished() {
    let (origin, released) = holding();
    let mut proxy = Proxy::to(&origin).admin().start();
    let head = format!("Host: {HOST}\r\n\r\n");
    let mut polling = proxy.client();
    polling.send(format!("GET /_matrix/held HTTP/1.1\r\n{head}"));
    let mut pipelining = proxy.client();
    pipelining.send(format!("GET /_matrix/held HTTP/1.1\r\n{head}GET /_matrix/x HTTP/1.1\r\n{head}"));
    let mut uploading = proxy.client();
    uploading.send(format!("POST /_matrix/x HTTP/1.1\r\nContent-Length: 6\r\n{head}abc"));
    let mut asking = proxy.client();
    asking.send("GET /_matrix/x HTTP/1.1\r\nHo");
    wait_until("the connections", 5 * SECOND, || proxy.metric("ringfence_connections_open ") == 4.0);
    proxy.tell("upgrade");
    pause(300 * MS);
    released.store(true, Ordering::SeqCst);
    assert_last(&polling.response());
    polling.expect_close();
    // What comes behind an answer that says so is not answered (RFC 9112 §9.6); it is asked again elsewhere.
    assert_last(&pipelining.response());
    pipelining.expect_close();
    // It would be waited for: it may still send what it has been told not to.
    drop(pipelining);
    uploading.send("def");
    assert_last(&uploading.response_to("POST"));
    asking.send(format!("st: {HOST}\r\n\r\n"));
    assert_last(&asking.response());
    assert!(proxy.stopped_within(3 * SECOND).expect("nothing is left to do").status.success());
}

#[test]
fn a_tls_handshake_that_has_begun_is_finished() {
    let origin = Origin::answering("here");
    let proxy = Proxy::to(&origin).tls().admin().start();
    let waiting: Vec<_> =
        (0..8).map(|_| std::net::TcpStream::connect(proxy.address).expect("a connection")).collect();
    wait_until("the connections", 5 * SECOND, || proxy.metric("ringfence_connections_open ") == 8.0);
    proxy.tell("upgrade");
    pause(300 * MS);
    for stream in waiting {
        let mut client = Client::tls_on(stream, HOST).expect("the handshake completes");
        assert_last(&client.get("/_matrix/x"));
    }
    assert_stays(&proxy.tls_client().get("/_matrix/x"));
}

#[test]
fn tunnels_run_to_the_end_of_the_hand_over() {
    let origin = echoing();
    let mut proxy = Proxy::to(&origin).admin().timeouts("hand_over = \"2s\"\ndrain = \"1s\"").start();
    let mut tunnel = switched(proxy.client());
    assert!(echoes(&mut tunnel));
    proxy.tell("upgrade");
    let begun = Instant::now();
    while begun.elapsed() < 2 * SECOND - 100 * MS {
        assert!(echoes(&mut tunnel), "cut after {:?}", begun.elapsed());
        pause(50 * MS);
    }
    assert_ne!(tunnel.end(), End::Deadline);
    assert!(begun.elapsed() < 6 * SECOND, "{:?}", begun.elapsed());
    assert!(proxy.stopped_within(3 * SECOND).is_some());
}

#[test]
fn a_new_process_that_does_not_start_changes_nothing() {
    let origin = Origin::answering("here");
    let proxy = Proxy::to(&origin).admin().own_binary().start();
    let mut client = proxy.client();
    let good = proxy.config();
    let refused = |failures: f64, word: &str| {
        let output = proxy.command("upgrade");
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(word), "{word} is not told: {}", text(&output));
        assert_eq!(proxy.metric("ringfence_upgrades_failed_total "), failures);
        assert_eq!(proxy.processes(), [proxy.pid()]);
    };
    replace_by_script(&proxy, "exit 1");
    refused(1.0, "ended before it served");
    fs::remove_file(proxy.binary()).expect("the test can do this");
    refused(2.0, "cannot be started");
    fs::write(proxy.binary(), "rubbish").expect("the test can do this");
    refused(3.0, "cannot be started");
    replace_by_binary(&proxy);
    let extra = Place::v4();
    let listener = format!("[[listener]]\naddress = \"{}\"\ntls = false\n", extra.address());
    proxy.set_config(&format!("{good}\n{listener}bogus = 1\n"));
    refused(4.0, "bogus");
    assert!(text(&proxy.command("upgrade")).contains("ringfence.toml:"));
    assert_stays(&client.get("/_matrix/x"));
    proxy.set_config(&good);
    proxy.tell("upgrade");
}

/// The admin socket of the process that goes on is not lost to one that came as far as to bind it.
#[test]
fn an_upgrade_that_fails_late_leaves_the_admin_socket() {
    let origin = Origin::answering("here");
    let proxy = Proxy::to(&origin).admin().start();
    let good = proxy.config();
    proxy.set_config(&good.replace("[server]\n", "[server]\nuser = \"no-such-user\"\n"));
    let output = proxy.command("upgrade");
    if rustix::process::geteuid().is_root() {
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains("no-such-user"), "{}", text(&output));
    }
    proxy.set_config(&good);
    assert_eq!(proxy.admin("/readyz").as_deref(), Some("ready\n"));
    proxy.tell("upgrade");
    let left = fs::read_dir(proxy.folder()).expect("the test can do this").flatten();
    let sockets = left.filter(|entry| entry.file_name().to_string_lossy().starts_with("admin."));
    assert_eq!(sockets.count(), 1, "what was bound beside is removed");
}

#[test]
fn the_number_of_workers_may_change() {
    let origin = Origin::answering("here");
    let proxy = Proxy::to(&origin).admin().workers(2).start();
    let config = proxy.config();
    for workers in [3, 1, 2] {
        proxy.set_config(&config.replace("workers = 2", &format!("workers = {workers}")));
        proxy.tell("upgrade");
        let page = proxy.admin("/metrics").expect("the test can do this");
        assert_eq!(page.matches("ringfence_worker_requests_total{").count(), workers);
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        assert_eq!(proxy.client().get("/_matrix/x").status(), 200);
                    }
                });
            }
        });
    }
}

/// What was in the way of the new process would serve nobody: a socket that listens while nobody accepts.
#[test]
fn the_old_process_keeps_no_listening_socket() {
    let origin = echoing();
    for driver in ["uring", "epoll"] {
        let mut proxy = Proxy::to(&origin).admin().workers(2).env("RINGFENCE_DRIVER", driver).start();
        let mut tunnel = switched(proxy.client());
        proxy.tell("upgrade");
        let (old, new) = (proxy.pid(), proxy.newest());
        pause(500 * MS);
        proxy.signal_newest(Signal::KILL);
        wait_until("the end of the new process", 5 * SECOND, || !proxy.has_sockets(new));
        assert!(proxy.is_running(old));
        // The kernel takes a killed process' ring apart a moment later.
        wait_until("a refusal", 2 * SECOND, || {
            Client::try_connect(proxy.address)
                .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        });
        proxy.start_again();
        assert_stays(&proxy.client().get("/_matrix/x"));
        assert!(echoes(&mut tunnel), "{driver}");
        proxy::send(old, Signal::KILL);
    }
}

#[test]
fn a_process_that_is_about_to_follow_does_not_outlive_the_end() {
    let origin = Origin::answering("here");
    let mut proxy = Proxy::to(&origin).admin().own_binary().start();
    let begun = proxy.folder().join("begun");
    replace_by_script(&proxy, &format!("touch {}\nwhile :; do sleep 0.1; done", begun.display()));
    proxy.signal(Signal::USR2);
    wait_until("the new process", 5 * SECOND, || begun.exists());
    assert_eq!(proxy.metric("ringfence_config_generation "), 1.0);
    proxy.signal(Signal::TERM);
    let stopped = proxy.stopped_within(3 * SECOND).expect("it ends although an upgrade is under way");
    assert!(stopped.status.success());
    wait_until("the end of the new process", SECOND, || proxy.processes().is_empty());
}

#[test]
fn a_reload_during_an_upgrade_is_done_by_whoever_serves_then() {
    let origin = Origin::answering("here");
    let proxy = Proxy::to(&origin).admin().own_binary().start();
    let other = proxy.folder().join("other");
    fs::copy(proxy::binary(), &other).expect("the test can do this");
    let begun = proxy.folder().join("begun");
    replace_by_script(
        &proxy,
        &format!("touch {}\nsleep 1\nexec {} \"$@\"", begun.display(), other.display()),
    );
    let done = |proxy: &Proxy| proxy.metric("ringfence_reloads_total{result=\"done\"}");
    thread::scope(|scope| {
        let upgrade = scope.spawn(|| proxy.tell("upgrade"));
        wait_until("the new process", 5 * SECOND, || begun.exists());
        proxy.signal(Signal::HUP);
        let reload = scope.spawn(|| proxy.tell("reload"));
        assert!(upgrade.join().expect("the test can do this").contains("has taken over"));
        assert!(reload.join().expect("the test can do this").contains("reloaded"));
    });
    // The old process, which is done at once, has passed the signal on.
    wait_until("the second reload", 5 * SECOND, || done(&proxy) == 2.0);
}

#[test]
fn no_line_of_the_access_log_is_lost_or_torn() {
    let origin = Origin::answering("here");
    let mut proxy = Proxy::to(&origin).admin().workers(2).start();
    let log = proxy.folder().join("access.log");
    let (address, ended) = (proxy.address, AtomicBool::new(false));
    let asked: u32 = thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|number| {
                let ended = &ended;
                scope.spawn(move || {
                    let (mut client, mut asked) = (Client::connect(address), 0);
                    while !ended.load(Ordering::SeqCst) {
                        let answer = client.get(&format!("/_matrix/log/{number}.{asked}"));
                        asked += 1;
                        if answer.head.lists("connection", "close") {
                            client = Client::connect(address);
                        }
                    }
                    asked
                })
            })
            .collect();
        for round in 0..3 {
            proxy.tell("upgrade");
            pause(100 * MS);
            // As logrotate does it.
            fs::rename(&log, proxy.folder().join(format!("access.log.{round}")))
                .expect("the test can do this");
            proxy.processes().into_iter().for_each(|pid| proxy::send(pid, Signal::USR1));
            pause(200 * MS);
        }
        ended.store(true, Ordering::SeqCst);
        clients.into_iter().map(|client| client.join().expect("the test can do this")).sum()
    });
    assert!(proxy.stopped_within(5 * SECOND).is_some());
    proxy.signal_newest(Signal::TERM);
    wait_until("the end of all processes", 5 * SECOND, || proxy.processes().is_empty());
    let files = fs::read_dir(proxy.folder()).expect("the test can do this").flatten();
    let logs = files.filter(|file| file.file_name().to_string_lossy().starts_with("access.log"));
    let lines: Vec<String> = logs
        .flat_map(|file| {
            let text = fs::read_to_string(file.path()).expect("the test can do this");
            text.lines().map(str::to_owned).collect::<Vec<_>>()
        })
        .collect();
    let whole = |line: &&String| {
        line.matches(" peer=").count() == 1
            && line.matches("target=\"/_matrix/").count() == 1
            && line.contains(" close=")
    };
    assert_eq!(lines.iter().filter(whole).count(), lines.len(), "lines that are not whole");
    assert_eq!(u32::try_from(lines.len()).expect("the test can do this"), asked);
}

#[test]
fn the_admin_socket_is_that_of_the_newest_process_and_goes_with_it() {
    let origin = echoing();
    let mut proxy = Proxy::to(&origin).admin().start();
    // Keeps the old process.
    let mut tunnel = switched(proxy.client());
    proxy.tell("upgrade");
    assert_eq!(proxy.metric("ringfence_connections_open "), 0.0, "the new process is asked");
    assert_eq!(proxy.admin("/readyz").as_deref(), Some("ready\n"));
    // What a killed process leaves is in nobody's way.
    proxy.signal_newest(Signal::KILL);
    let killed = proxy.newest();
    wait_until("the end of the new process", 5 * SECOND, || !proxy.has_sockets(killed));
    assert!(proxy.admin_socket().exists() && proxy.admin("/readyz").is_none());
    proxy.start_again();
    assert_eq!(proxy.admin("/readyz").as_deref(), Some("ready\n"));
    assert!(echoes(&mut tunnel));
    assert!(proxy.stop().status.success());
    assert!(!proxy.admin_socket().exists());
}

/// Also while the kernel still takes apart what the killed process had.
#[test]
fn a_killed_process_is_followed_at_once() {
    let origin = Origin::answering("here");
    let mut proxy = Proxy::to(&origin).admin().workers(2).start();
    for _ in 0..10 {
        let _idle: Vec<_> = (0..50).map(|_| proxy.client()).collect();
        proxy.kill();
        proxy.start_again();
        assert_stays(&proxy.client().get("/_matrix/x"));
    }
}

#[test]
fn the_service_manager_hears_who_is_in_charge() {
    let systemd = Systemd::new();
    let origin = Origin::answering("");
    let mut proxy = systemd.of(Proxy::to(&origin).admin()).start();
    assert_eq!(systemd.hear(), "READY=1");
    proxy.tell("upgrade");
    let mut heard = [systemd.hear(), systemd.hear()];
    heard.sort_unstable();
    assert_eq!(heard, [format!("MAINPID={}\nREADY=1", proxy.newest()), "READY=1".to_owned()]);
    assert!(proxy.stopped_within(3 * SECOND).is_some());
    assert_eq!(systemd.hear_within(200 * MS), None, "the old process does not say that the service stops");
    proxy.signal_newest(Signal::TERM);
    assert_eq!(systemd.hear(), "STOPPING=1");
}

/// A process that was passed `sockets` as systemd passes them.
struct Activated {
    child: Child,
    folder: tempfile::TempDir,
}

impl Activated {
    fn start(config: &str, sockets: Vec<OwnedFd>) -> Activated {
        let folder = tempfile::tempdir().expect("the test can do this");
        let file = folder.path().join("ringfence.toml");
        let admin = format!(
            "[server]\nworkers = 2\naccess_log = \"off\"\nadmin = \"unix:{}\"\n",
            folder.path().join("admin").display()
        );
        fs::write(&file, format!("{admin}{config}")).expect("the test can do this");
        let count = sockets.len();
        let mappings =
            (3..).zip(sockets).map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd }).collect();
        let mut command = Command::new("sh");
        // The process id is that of the shell, which becomes the proxy.
        command.args(["-c", "LISTEN_PID=$$ exec \"$0\" run --config \"$1\""]).arg(proxy::binary()).arg(&file);
        command.env("LISTEN_FDS", count.to_string()).stdin(Stdio::null());
        command.stderr(fs::File::create(folder.path().join("log")).expect("the test can do this"));
        let child = command
            .fd_mappings(mappings)
            .expect("the test can do this")
            .spawn()
            .expect("the test can do this");
        let activated = Activated { child, folder };
        wait_until("the start", 10 * SECOND, || activated.log().contains(" serving "));
        activated
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).expect("the test can do this")
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("ringfence.toml")
    }

    fn tell(&self, command: &str) -> String {
        let output = proxy::ringfence(&[command, "--config", &self.file().to_string_lossy()]);
        assert!(output.status.success(), "{}", text(&output));
        text(&output)
    }
}

impl Drop for Activated {
    fn drop(&mut self) {
        for line in self.log().lines() {
            let follower =
                line.split_once("process ").and_then(|(_, rest)| rest.split_once(" has taken over"));
            if let Some(pid) = follower.and_then(|(pid, _)| pid.parse().ok())
                && fs::read_to_string(format!("/proc/{pid}/cmdline"))
                    .is_ok_and(|arguments| arguments.contains(&*self.file().to_string_lossy()))
            {
                proxy::send(pid, Signal::KILL);
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking() {
            eprintln!("--- the proxy's standard error:\n{}", self.log());
        }
    }
}

fn homeserver(origin: &Origin) -> String {
    format!(
        "[[homeserver]]\nserver_name = \"example.com\"\npublic_host = \"{HOST}\"\nupstream = \"{}\"\n",
        origin.url()
    )
}

fn listener(address: std::net::SocketAddr) -> String {
    format!("[[listener]]\naddress = \"{address}\"\ntls = false\nrole = \"client\"\n")
}

#[test]
fn sockets_of_systemd_are_served_and_outlive_the_process() {
    let origin = Origin::answering("here");
    let systemd = TcpListener::bind("127.0.0.1:0").expect("the test can do this");
    let address = systemd.local_addr().expect("the test can do this");
    let own = Place::v4();
    let config = format!("{}{}{}", listener(address), listener(own.address()), homeserver(&origin));
    let mut activated =
        Activated::start(&config, vec![systemd.try_clone().expect("the test can do this").into()]);
    for address in [address, own.address()] {
        assert_stays(&Client::connect(address).get("/_matrix/x"));
    }
    activated.tell("upgrade");
    wait_until("the end of the first process", 5 * SECOND, || {
        activated.child.try_wait().expect("the test can do this").is_some()
    });
    for address in [address, own.address()] {
        assert_stays(&Client::connect(address).get("/_matrix/x"));
    }

    // A listener that is removed and comes back: what is systemd's is still there, what is ours is closed and opened.
    let full = fs::read_to_string(activated.file()).expect("the test can do this");
    let admin_only = full.split("[[listener]]").next().expect("the test can do this").to_owned();
    let spare = Place::v4();
    fs::write(activated.file(), format!("{admin_only}{}{}", listener(spare.address()), homeserver(&origin)))
        .expect("the test can do this");
    activated.tell("reload");
    let refused = Client::try_connect(own.address()).map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let mut waiting = Client::try_connect(address).expect("systemd listens on");
    waiting.send(format!("GET /_matrix/x HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    fs::write(activated.file(), &full).expect("the test can do this");
    activated.tell("reload");
    assert_stays(&waiting.response());
    assert_stays(&Client::connect(own.address()).get("/_matrix/x"));

    // Who comes after the end waits for the next process.
    let log = activated.log();
    let newest = log
        .rsplit_once(" has taken over")
        .expect("the test can do this")
        .0
        .rsplit(' ')
        .next()
        .expect("the test can do this")
        .parse()
        .expect("the test can do this");
    drop(waiting);
    proxy::send(newest, Signal::TERM);
    wait_until("the end", 5 * SECOND, || {
        !Path::new(&format!("/proc/{newest}")).exists() || is_zombie(newest)
    });
    let refused = Client::try_connect(own.address()).map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    let mut waiting = Client::try_connect(address).expect("systemd listens on");
    waiting.send(format!("GET /_matrix/x HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let _next = Activated::start(&config, vec![systemd.try_clone().expect("the test can do this").into()]);
    assert_stays(&waiting.response());
}

fn is_zombie(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}

/// By systemd's own tool, where it is installed.
#[test]
fn systemd_socket_activate_starts_it() {
    let origin = Origin::answering("here");
    let place = Place::v4();
    let folder = tempfile::tempdir().expect("the test can do this");
    let file = folder.path().join("ringfence.toml");
    let config = format!(
        "[server]\nadmin = \"off\"\naccess_log = \"off\"\n{}{}",
        listener(place.address()),
        homeserver(&origin)
    );
    fs::write(&file, config).expect("the test can do this");
    let address = place.address();
    // The tool wants the port for itself.
    drop(place);
    let mut command = Command::new("systemd-socket-activate");
    command.arg(format!("--listen={address}")).arg(proxy::binary()).args(["run", "--config"]).arg(&file);
    let Ok(mut child) = command.stdin(Stdio::null()).stderr(Stdio::null()).spawn() else {
        println!("without systemd-socket-activate");
        return;
    };
    let mut client = None;
    wait_until("the tool", 5 * SECOND, || {
        client = Client::try_connect(address).ok();
        client.is_some()
    });
    assert_stays(&client.expect("the test can do this").get("/_matrix/x"));
    proxy::send(child.id(), Signal::TERM);
    assert!(child.wait().expect("the test can do this").success());
}

/// A backlog that nobody has accepted from at hand-over is served by whoever accepts then.
#[test]
fn connections_come_through_while_processes_change() {
    let origin = Origin::answering("here");
    let proxy = Proxy::to(&origin).tls().listener("role = \"client\"").admin().workers(2).start();
    let (tls, plain) = (proxy.addresses[0], proxy.addresses[1]);
    let ended = AtomicBool::new(false);
    let served: u32 = thread::scope(|scope| {
        let visitors: Vec<_> = (0..8)
            .map(|number| {
                let ended = &ended;
                scope.spawn(move || {
                    let mut served = 0;
                    while !ended.load(Ordering::SeqCst) {
                        let mut client =
                            if number % 2 == 0 { Client::connect(plain) } else { Client::tls(tls, HOST) };
                        assert_eq!(client.get("/_matrix/x").text(), "here");
                        served += 1;
                    }
                    served
                })
            })
            .collect();
        for _ in 0..5 {
            proxy.tell("upgrade");
            pause(Duration::from_millis(100));
        }
        ended.store(true, Ordering::SeqCst);
        visitors.into_iter().map(|visitor| visitor.join().expect("the test can do this")).sum()
    });
    println!("{served} connections");
    assert!(served > 50);
    let _ = std::io::stdout().flush();
}
