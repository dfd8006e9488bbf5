//! What happens when the machine, the origin or the client fails, at every stage: each fault with its expected outcome.

mod clock;
mod ended;
mod ring;
mod stopped;
mod truncated;

use std::fs;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use ringfence_tests::client::HOST;
use ringfence_tests::hardship::{
    IO_URING_ENTER, IO_URING_REGISTER, IO_URING_SETUP, SmallDisk, folder, limit_descriptors, processor_time,
    without_calls,
};
use ringfence_tests::matrix::assert_error;
use ringfence_tests::place::Place;
use ringfence_tests::preload::{Preload, Word};
use ringfence_tests::wire::{End, Transport, Wire};
use ringfence_tests::{
    Client, KIB, MIB, MS, Origin, Peer, Proxy, SECOND, message, pattern, pause, wait_until,
};
use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

const GET: &str = "GET /_matrix/x HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n";

/// Whether a new client is answered with 200.
fn is_served(proxy: &Proxy) -> bool {
    let Ok(mut client) = Client::try_connect(proxy.address) else { return false };
    client.set_patience(SECOND);
    client.try_send(GET).is_ok()
        && client.try_response_to("GET").is_ok_and(|response| response.status() == 200)
}

mod descriptors {
    use super::*;

    #[test]
    fn exhausted_descriptors_pause_accepting_without_a_spin_and_return() {
        for driver in ["uring", "epoll"] {
            let origin = Origin::answering("in");
            let proxy = Proxy::to(&origin).env("RINGFENCE_DRIVER", driver).start();
            let mut first = proxy.client();
            assert_eq!(first.get("/_matrix/x").text(), "in");
            limit_descriptors(&proxy, 4);
            let waiting: Vec<Client> = (0..64).map(|_| proxy.client()).collect();
            pause(200 * MS);

            let (before, lines) = (processor_time(&proxy), proxy.stderr().lines().count());
            pause(2 * SECOND);
            let spent = processor_time(&proxy) - before;
            assert!(spent < 300 * MS, "{driver}: {spent:?} of processor time in two seconds of waiting");
            let told = proxy.stderr().lines().count() - lines;
            assert!(told <= 4, "{driver}: {told} lines of log in two seconds of waiting");
            assert!(proxy.stderr().contains("cannot accept"), "{driver}: nothing is told");

            assert_eq!(first.get("/_matrix/x").text(), "in", "a connection from before suffers");
            drop(waiting);
            wait_until("a new client's answer", 5 * SECOND, || is_served(&proxy));
        }
    }

    #[test]
    fn those_who_waited_for_a_descriptor_are_served_when_there_is_one() {
        let origin = Origin::answering("in");
        let proxy = Proxy::to(&origin).start();
        let mut holders: Vec<Client> = (0..8).map(|_| proxy.client()).collect();
        holders.iter_mut().for_each(|holder| assert_eq!(holder.get("/_matrix/x").text(), "in"));
        limit_descriptors(&proxy, 0);
        let mut waiting = proxy.client();
        waiting.send(GET);
        assert!(waiting.is_silent_for(300 * MS));
        drop(holders);
        assert_eq!(waiting.response().text(), "in");
    }

    #[test]
    fn no_descriptor_for_the_origin_is_one_answer_and_the_connection_lives() {
        let origin = Origin::serving(|request| message::ok(request.head.target()));
        let proxy = Proxy::to(&origin).start();
        let mut client = proxy.client();
        assert_eq!(client.get("/nowhere").status(), 404);
        limit_descriptors(&proxy, 0);
        let response = client.get("/_matrix/x");
        assert!(matches!(response.status(), 502 | 503), "{response:?}");
        ringfence_tests::matrix::assert_json_error(&response, "M_UNKNOWN");
        limit_descriptors(&proxy, 1000);
        assert_eq!(client.get("/_matrix/x").text(), "/_matrix/x");
    }

    #[test]
    fn sigterm_ends_a_proxy_without_descriptors() {
        let origin = Origin::answering("in");
        let mut proxy = Proxy::to(&origin).timeouts("drain = \"1s\"").start();
        assert!(is_served(&proxy));
        limit_descriptors(&proxy, 1);
        let _waiting: Vec<Client> = (0..16).map(|_| proxy.client()).collect();
        pause(100 * MS);
        let stopped = proxy.stop();
        assert!(stopped.status.success() && stopped.took < 3 * SECOND, "{stopped:?}");
    }
}

mod access_log {
    use super::*;

    #[test]
    fn a_full_disk_loses_lines_and_no_requests() {
        let origin = Origin::answering("in");
        let mut proxy = Proxy::to(&origin).server("access_log = \"/dev/full\"").start();
        for _ in 0..4 {
            assert!(is_served(&proxy));
            pause(300 * MS);
        }
        let stopped = proxy.stop();
        assert!(stopped.status.success() && stopped.took < 2 * SECOND, "{stopped:?}");
        let told = proxy.stderr().matches("the access log cannot be written").count();
        assert_eq!(told, 1, "told once, not for each batch:\n{}", proxy.stderr());
    }

    #[test]
    fn lines_are_whole_when_the_disk_has_room_again() {
        let Some(disk) = SmallDisk::mount(64) else {
            return println!("not tested: this process may not mount");
        };
        let origin = Origin::answering("in");
        let log = disk.path().join("access.log");
        let server = format!(
            "access_log = \"{}\"\naccess_log_format = \"json\"\naccess_log_targets = \"full\"",
            log.display()
        );
        let proxy = Proxy::to(&origin).server(&server).start();
        let mut client = proxy.client();
        let long = format!("/_matrix/{}", "x".repeat(KIB));
        for _ in 0..100 {
            assert_eq!(client.get(&long).text(), "in");
        }
        wait_until("the full disk", 5 * SECOND, || proxy.stderr().contains("cannot be written"));
        // Lines are handed on four times a second: those still on their way would fill the room once more.
        pause(SECOND);
        fs::OpenOptions::new().write(true).open(&log).and_then(|file| file.set_len(0)).unwrap();
        wait_until("a line after the disk has room", 5 * SECOND, || {
            client.get("/_matrix/again");
            fs::read_to_string(&log).is_ok_and(|text| text.contains("/_matrix/again"))
        });
        let text = fs::read_to_string(&log).unwrap();
        let broken = text.lines().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_err());
        assert_eq!(broken.collect::<Vec<_>>(), Vec::<&str>::new(), "lines that are no JSON");
        wait_until("the word that it works again", SECOND, || proxy.stderr().contains("written again"));
    }

    #[test]
    fn a_disk_that_fills_in_the_middle_of_a_line_leaves_no_joined_lines() {
        let Some(disk) = SmallDisk::mount(64) else {
            return println!("not tested: this process may not mount");
        };
        let origin = Origin::answering("in");
        let (log, ballast) = (disk.path().join("access.log"), disk.path().join("ballast"));
        fs::write(&ballast, vec![b'x'; 32 * KIB]).unwrap();
        let server = format!(
            "access_log = \"{}\"\naccess_log_format = \"json\"\naccess_log_targets = \"full\"",
            log.display()
        );
        let proxy = Proxy::to(&origin).server(&server).start();
        let mut client = proxy.client();
        let long = format!("/_matrix/{}", "x".repeat(KIB));
        for _ in 0..60 {
            assert_eq!(client.get(&long).text(), "in");
        }
        wait_until("the full disk", 5 * SECOND, || proxy.stderr().contains("cannot be written"));
        // Lines are handed on four times a second: those still on their way would fill the room once more.
        pause(SECOND);
        fs::remove_file(&ballast).unwrap();
        wait_until("a line after the disk has room", 5 * SECOND, || {
            client.get("/_matrix/again");
            fs::read_to_string(&log).is_ok_and(|text| text.contains("/_matrix/again"))
        });
        let text = fs::read_to_string(&log).unwrap();
        let whole = |line: &&str| serde_json::from_str::<serde_json::Value>(line).is_ok();
        // The line in which the disk ended may be cut; the one after it may not be lost in it.
        assert!(text.lines().rfind(|line| line.contains("/_matrix/again")).as_ref().is_some_and(whole));
        assert!(text.lines().filter(|line| !whole(line)).count() <= 1, "{text}");
        assert!(
            text.lines().filter(|line| line.matches("\"time\"").count() > 1).count() == 0,
            "joined lines"
        );
    }

    #[test]
    fn a_log_file_that_is_removed_or_truncated_holds_up_nobody() {
        let origin = Origin::answering("in");
        let mut proxy = Proxy::to(&origin).start();
        let log = folder(&proxy).join("access.log");
        assert!(is_served(&proxy));
        assert_eq!(proxy.access_log(1).len(), 1);
        // As logrotate's copytruncate does: the next line stands at the beginning, not behind a hole.
        fs::OpenOptions::new().write(true).open(&log).and_then(|file| file.set_len(0)).unwrap();
        assert!(is_served(&proxy));
        let lines = proxy.access_log(1);
        assert!(lines.len() == 1 && !lines[0].contains('\0'), "{lines:?}");
        fs::remove_file(&log).unwrap();
        for _ in 0..3 {
            assert!(is_served(&proxy));
        }
        assert!(proxy.stop().status.success());
    }

    #[test]
    fn a_log_that_cannot_be_opened_is_told_at_the_start() {
        let origin = Origin::answering("");
        let output = Proxy::to(&origin).server("access_log = \"/nowhere/access.log\"").start_in_vain();
        assert!(!output.status.success());
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(told.contains("/nowhere/access.log") && !told.contains("panic"), "{told}");
    }
}

mod certificates {
    use super::*;

    /// Starts with a second certificate made of these files; returns what is told.
    fn told_of(chain: Option<&[u8]>, key: Option<&[u8]>) -> String {
        let files = tempfile::tempdir().expect("a temporary folder");
        for (name, content) in [("chain.pem", chain), ("key.pem", key)] {
            if let Some(content) = content {
                fs::write(files.path().join(name), content).expect("a file can be written");
            }
        }
        let origin = Origin::answering("");
        let at = files.path().display();
        let extra = format!("[[certificate]]\nchain = \"{at}/chain.pem\"\nkey = \"{at}/key.pem\"");
        let output = Proxy::to(&origin).tls().extra(&extra).start_in_vain();
        assert!(!output.status.success(), "it starts");
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!told.contains("panic"), "{told}");
        told
    }

    #[test]
    fn missing_or_broken_files_stop_the_start_and_are_named() {
        let whole = ringfence_tests::Authority::shared().certificate(&["a.example.com"]);
        let (chain, key) = (whole.chain_pem.as_bytes(), whole.key_pem.as_bytes());
        let cut = &chain[..chain.len() / 2];
        let garbage: &[u8] = &pattern(3000);
        for (what, chain, key, named) in [
            ("no files", None, None, "chain.pem"),
            ("no chain", None, Some(key), "chain.pem"),
            ("no key", Some(chain), None, "key.pem"),
            ("an empty chain", Some(&b""[..]), Some(key), "chain.pem"),
            ("an empty key", Some(chain), Some(&b""[..]), "key.pem"),
            ("garbage for a chain", Some(garbage), Some(key), "chain.pem"),
            ("garbage for a key", Some(chain), Some(garbage), "key.pem"),
            ("a chain that is cut", Some(cut), Some(key), "chain.pem"),
            ("chain and key exchanged", Some(key), Some(chain), "pem"),
        ] {
            let told = told_of(chain, key);
            assert!(told.contains(named), "{what}: {named} is not named in\n{told}");
        }
    }

    #[test]
    fn a_folder_or_a_dangling_link_for_a_key_is_told() {
        let files = tempfile::tempdir().unwrap();
        let whole = ringfence_tests::Authority::shared().certificate(&["a.example.com"]);
        let (chain, _) = whole.write(files.path(), "a");
        fs::create_dir(files.path().join("folder")).unwrap();
        symlink("nowhere", files.path().join("link")).unwrap();
        for key in ["folder", "link"] {
            let origin = Origin::answering("");
            let (chain, key) = (chain.display(), files.path().join(key));
            let extra = format!("[[certificate]]\nchain = \"{chain}\"\nkey = \"{}\"", key.display());
            let output = Proxy::to(&origin).tls().extra(&extra).start_in_vain();
            let told = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(!output.status.success() && told.contains(&*key.to_string_lossy()), "{told}");
        }
    }

    #[test]
    fn files_swapped_for_garbage_while_serving_change_nothing() {
        let origin = Origin::answering("in");
        let mut proxy = Proxy::to(&origin).tls().start();
        assert_eq!(proxy.tls_client().get("/_matrix/x").text(), "in");
        for name in ["c0.chain.pem", "c0.key.pem"] {
            fs::write(folder(&proxy).join(name), pattern(3000)).unwrap();
        }
        proxy.signal(Signal::HUP);
        pause(200 * MS);
        assert_eq!(proxy.tls_client().get("/_matrix/x").text(), "in");
        assert!(proxy.stop().status.success());
    }
}

mod io_uring {
    use super::*;

    const EPERM: u32 = 1;
    const ENOSYS: u32 = 38;

    #[test]
    fn where_io_uring_is_refused_epoll_serves_and_one_line_says_so() {
        // Containers refuse with the one, kernels without io_uring with the other.
        for errno in [EPERM, ENOSYS] {
            let origin = Origin::serving(|request| message::ok(&request.body));
            let calls = [IO_URING_SETUP, IO_URING_ENTER, IO_URING_REGISTER];
            let builder = Proxy::to(&origin).tls().workers(2);
            let mut proxy = without_calls(&calls, errno, || builder.start());
            let mut client = proxy.tls_client();
            let head = format!("POST /_matrix/x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {MIB}\r\n\r\n");
            client.send(head);
            client.send(pattern(MIB));
            assert!(client.response().body == pattern(MIB), "the echo differs");
            assert!(proxy.stop().status.success());
            let log = proxy.stderr();
            assert_eq!(log.lines().filter(|line| line.contains("epoll")).count(), 1, "{log}");
        }
    }

    #[test]
    fn a_ring_that_cannot_be_entered_is_epoll_too_or_told_and_never_a_spin() {
        let origin = Origin::answering("in");
        let builder = Proxy::to(&origin).timeouts("drain = \"1s\"");
        let calls = [IO_URING_ENTER];
        let started = without_calls(&calls, EPERM, || {
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.start()))
        });
        // Ending at once with an error is an answer as well: the harness then panics in `start`.
        let Ok(mut proxy) = started else { return };
        assert!(is_served(&proxy), "it neither serves nor ends:\n{}", proxy.stderr());
        assert!(proxy.stop().status.success());
    }
}

mod upstream {
    use super::*;

    /// A listener whose backlog is full: further connections are neither accepted nor refused.
    pub(super) fn black_hole() -> (Socket, Vec<Socket>, String) {
        let socket = || Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let (listener, any_port) = (socket(), SocketAddr::from(([127, 0, 0, 1], 0)));
        listener.bind(&any_port.into()).and_then(|()| listener.listen(0)).expect("it can listen");
        let address = listener.local_addr().expect("a bound socket has an address");
        let fill = |_| {
            let socket = socket();
            // Not blocking: the last ones never connect, which is the point.
            let _ = socket.set_nonblocking(true).and_then(|()| socket.connect(&address));
            socket
        };
        let filling: Vec<Socket> = (0..4).map(fill).collect();
        pause(50 * MS);
        let url = format!("http://{}", address.as_socket().expect("an internet address"));
        (listener, filling, url)
    }

    #[test]
    fn a_black_hole_is_a_504_at_the_connect_deadline() {
        let (_listener, _filling, url) = black_hole();
        let proxy = Proxy::builder().upstream(&url).timeouts("upstream_connect = \"600ms\"").start();
        let (mut client, begun) = (proxy.client(), Instant::now());
        assert_error(&client.get("/_matrix/x"), 504, "M_UNKNOWN");
        assert!(begun.elapsed() > 500 * MS && begun.elapsed() < 3 * SECOND, "after {:?}", begun.elapsed());
        assert_error(&client.get("/_matrix/x"), 504, "M_UNKNOWN");
    }

    #[test]
    fn a_client_that_leaves_a_black_hole_leaves_nothing_behind_the_connect_deadline() {
        let (_listener, _filling, url) = black_hole();
        let proxy = Proxy::builder().upstream(&url).timeouts("upstream_connect = \"1s\"").start();
        let before = proxy.descriptors();
        let mut client = proxy.client();
        client.send(GET);
        wait_until("the attempt", 2 * SECOND, || proxy.descriptors() >= before + 2);
        client.reset();
        wait_until("the end of the attempt", 3 * SECOND, || proxy.descriptors() <= before);
    }

    #[test]
    fn a_half_close_instead_of_an_answer_is_a_502() {
        let origin = Origin::each(|peer| {
            peer.request_head();
            peer.half_close();
            peer.end();
        });
        let proxy = Proxy::to(&origin).start();
        let mut client = proxy.client();
        assert_error(&client.get("/_matrix/x"), 502, "M_UNKNOWN");
        assert_error(&client.get("/_matrix/x"), 502, "M_UNKNOWN");
    }

    #[test]
    fn a_half_close_behind_an_answer_costs_the_connection_and_nothing_else() {
        let origin = Origin::each(|peer| {
            if peer.request_head().is_some() {
                peer.send(message::ok("whole"));
                peer.half_close();
                peer.end();
            }
        });
        let proxy = Proxy::to(&origin).start();
        let mut client = proxy.client();
        for _ in 0..4 {
            assert_eq!(client.get("/_matrix/x").text(), "whole");
            pause(20 * MS);
        }
        assert_eq!(origin.connections(), 4);
        let ends = (1..=4).filter(|&count| origin.connection(count).end_within(2 * SECOND).is_some());
        assert_eq!(ends.count(), 4, "a connection that the origin half-closed stays open");
    }

    #[test]
    fn an_answer_before_the_upload_is_read_reaches_the_client() {
        type After = fn(&mut Peer);
        let after: [(&str, After); 3] = [
            ("stays", |peer| drop(peer.end())),
            ("closes", |_| ()),
            ("resets", |peer| {
                pause(50 * MS);
                peer.reset();
            }),
        ];
        for (what, then) in after {
            let origin = Origin::each(move |peer| {
                peer.request_head();
                peer.send(message::response("403 Forbidden", "", "no"));
                then(peer);
            });
            let proxy = Proxy::to(&origin).timeouts("linger = \"5s\"").start();
            let mut client = proxy.client();
            client
                .send(format!("POST /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 8 * MIB));
            let sending = client.send_in_background(pattern(8 * MIB));
            let response = client.response();
            assert_eq!((response.status(), response.text().as_str()), (403, "no"), "an origin that {what}");
            let _ = sending.join();
        }
    }

    #[test]
    fn a_reset_at_any_byte_of_an_answer_is_never_a_whole_one() {
        let answer = "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n0123456789";
        let origin = Origin::each(move |peer| {
            let Some(head) = peer.request_head() else { return };
            let cut: usize = head.target().rsplit('/').next().unwrap().parse().unwrap();
            peer.send(&answer[..cut]);
            pause(10 * MS);
            peer.reset();
        });
        let proxy = Proxy::to(&origin).start();
        for cut in 0..answer.len() {
            let response = proxy.client().get(&format!("/_matrix/{cut}"));
            let is_whole = response.status() == 200 && response.is_complete();
            assert!(!is_whole, "cut at {cut}: {response:?}");
        }
        // The whole answer is one, whatever comes behind it.
        let whole = proxy.client().get(&format!("/_matrix/{}", answer.len()));
        assert!(whole.is_complete() && whole.text() == "0123456789", "{whole:?}");
    }
}

/// What a client is doing when it resets, or when SIGTERM comes.
const STAGES: &[(&str, Stage)] = &[
    ("nothing yet", |_| ()),
    ("in a head", |client| client.send("GET /_matrix/x HTTP/1.1\r\nHo")),
    ("waiting for an answer", |client| client.send("GET /_matrix/wait HTTP/1.1\r\nHost: a\r\n\r\n")),
    ("in an upload", |client| {
        client.send("POST /_matrix/sink HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf");
    }),
    ("in a chunked upload", |client| {
        client.send("POST /_matrix/sink HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nhalf");
    }),
    ("waiting for 100", |client| {
        client.send(
            "POST /_matrix/sink HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        );
    }),
    ("in a download", |client| {
        client.send("GET /_matrix/large HTTP/1.1\r\nHost: a\r\n\r\n");
        client.read_head().expect("an answer begins");
    }),
    ("between two requests", |client| assert_eq!(client.get("/_matrix/small").text(), "small")),
    ("in a second head", |client| {
        assert_eq!(client.get("/_matrix/small").text(), "small");
        client.send("GET /");
    }),
    ("behind pipelined requests", |client| client.send(GET.replace("/x", "/small").repeat(20))),
    ("in a tunnel", |client| {
        client.send(
            "GET /_matrix/tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        assert_eq!(client.read_head().expect("an answer").status(), 101);
    }),
    ("lingering behind a refusal", |client| {
        client.send(format!("POST /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", 999 * MIB));
        assert_eq!(client.response().status(), 413);
        client.send("more");
    }),
];

type Stage = fn(&mut Client);

/// An origin for every stage.
fn origin() -> Origin {
    Origin::each(|peer| {
        while let Some(head) = peer.request_head() {
            match head.target() {
                "/_matrix/large" => {
                    let _ =
                        peer.try_send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1000 * MIB));
                    while peer.try_send(pattern(MIB)).is_ok() {}
                    return;
                }
                "/_matrix/tunnel" => {
                    peer.send(
                        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
                    );
                    return drop(peer.end());
                }
                "/_matrix/small" => drop(peer.try_send(message::ok("small"))),
                _ => return drop(peer.end()),
            }
        }
    })
}

mod client {
    use super::*;

    #[test]
    fn a_reset_at_every_stage_leaves_nothing_behind() {
        for driver in ["uring", "epoll"] {
            for tls in [false, true] {
                let origin = origin();
                let mut builder = Proxy::to(&origin).env("RINGFENCE_DRIVER", driver);
                builder = builder.timeouts("upstream_idle = \"300ms\"");
                let proxy = if tls { builder.tls() } else { builder }.start();
                let before = proxy.descriptors();
                for (what, stage) in STAGES {
                    let mut client = if tls { proxy.tls_client() } else { proxy.client() };
                    stage(&mut client);
                    pause(30 * MS);
                    client.reset();
                    wait_until(
                        &format!("no descriptor left behind by a reset {what}, TLS {tls}"),
                        5 * SECOND,
                        || proxy.descriptors() <= before,
                    );
                }
            }
        }
    }

    #[test]
    fn a_close_at_every_stage_leaves_nothing_behind() {
        for tls in [false, true] {
            let origin = origin();
            let builder = Proxy::to(&origin).timeouts("upstream_idle = \"300ms\"");
            let proxy = if tls { builder.tls() } else { builder }.start();
            let before = proxy.descriptors();
            for (what, stage) in STAGES {
                let mut client = if tls { proxy.tls_client() } else { proxy.client() };
                stage(&mut client);
                pause(30 * MS);
                // Without a close_notify over TLS, as clients do that are killed.
                drop(client);
                wait_until(
                    &format!("no descriptor left behind by a close {what}, TLS {tls}"),
                    5 * SECOND,
                    || proxy.descriptors() <= before,
                );
            }
        }
    }

    /// From the first moment on in which the kernel takes connections.
    #[test]
    fn who_connects_while_it_starts_is_served() {
        let (preload, place, origin) = (Preload::new(), Place::v4(), Origin::answering("in"));
        preload.set(Word::ListenPauseMs, 200);
        let address = place.address();
        let early = std::thread::spawn(move || {
            let mut client = None;
            wait_until("a listener", 10 * SECOND, || {
                client = Client::try_connect(address).ok();
                client.is_some()
            });
            client.map(|mut client| client.get("/_matrix/x").status())
        });
        let builder = Proxy::to(&origin).at(place).workers(2);
        let _proxy = preload.for_proxy(builder).start();
        preload.assert_loaded();
        assert_eq!(early.join().expect("an answer"), Some(200));
    }

    #[test]
    fn a_reset_in_a_handshake_leaves_nothing_behind() {
        let origin = origin();
        let proxy = Proxy::to(&origin).tls().start();
        let before = proxy.descriptors();
        for bytes in [&b""[..], b"\x16", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"] {
            let mut client = Client::connect(proxy.address);
            client.send(bytes);
            pause(30 * MS);
            client.reset();
            wait_until("no descriptor left behind", 3 * SECOND, || proxy.descriptors() <= before);
        }
        // Between the server's flight and the client's.
        let (session, stream) = stopped::half_shaken(&proxy);
        Wire::new(Transport::Tls(Box::new(session), stream)).reset();
        wait_until("no descriptor left behind", 3 * SECOND, || proxy.descriptors() <= before);
        assert_eq!(proxy.tls_client().get("/_matrix/small").text(), "small", "the next client");
    }
}

mod sigterm {
    use super::*;

    /// What the drain may take beyond its deadline.
    const SLACK: Duration = Duration::from_secs(2);

    fn ends_in_order(mut proxy: Proxy, what: &str) {
        let stopped = proxy.stop();
        assert!(stopped.took < SECOND + SLACK, "{what}: {stopped:?}");
        assert!(stopped.status.success(), "{what}: {stopped:?}\n{}", proxy.stderr());
    }

    #[test]
    fn it_ends_the_process_at_every_stage_of_a_client() {
        let ends = |tls: bool, what: &str, stage: Stage| {
            let origin = origin();
            let builder = Proxy::to(&origin).timeouts("drain = \"1s\"");
            let proxy = if tls { builder.tls() } else { builder }.start();
            let mut client = if tls { proxy.tls_client() } else { proxy.client() };
            stage(&mut client);
            pause(30 * MS);
            ends_in_order(proxy, &format!("{what}, TLS {tls}"));
        };
        for tls in [false, true] {
            // Each takes its whole drain: side by side.
            std::thread::scope(|scope| {
                for &(what, stage) in STAGES {
                    scope.spawn(move || ends(tls, what, stage));
                }
            });
        }
    }

    #[test]
    fn it_ends_the_process_at_every_stage_of_many_clients_with_epoll() {
        let origin = origin();
        let builder = Proxy::to(&origin).workers(2).timeouts("drain = \"1s\"");
        let proxy = builder.env("RINGFENCE_DRIVER", "epoll").start();
        let mut clients: Vec<Client> = STAGES.iter().map(|_| proxy.client()).collect();
        STAGES.iter().zip(&mut clients).for_each(|((_, stage), client)| stage(client));
        pause(30 * MS);
        ends_in_order(proxy, "all at once");
    }

    #[test]
    fn it_ends_a_handshake_that_does_not_go_on() {
        let origin = origin();
        let proxy = Proxy::to(&origin).tls().timeouts("drain = \"1s\"").start();
        let mut half = TcpStream::connect(proxy.address).unwrap();
        half.write_all(b"\x16\x03\x01").unwrap();
        let mut client = Client::connect(proxy.address);
        pause(50 * MS);
        ends_in_order(proxy, "in a handshake");
        assert!(matches!(client.end(), End::Closed | End::Reset));
    }

    #[test]
    fn it_ends_the_process_whatever_the_origin_does_not() {
        type Script = fn(&mut Peer);
        let scripts: [(&str, Script); 3] = [
            ("answers nothing", |peer| drop((peer.request_head(), peer.end()))),
            ("stops in a head", |peer| {
                peer.request_head();
                peer.send("HTTP/1.1 200 OK\r\nContent-Le");
                peer.end();
            }),
            ("stops in a body", |peer| {
                peer.request_head();
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
                peer.end();
            }),
        ];
        for (what, script) in scripts {
            let origin = Origin::each(script);
            let proxy = Proxy::to(&origin).timeouts("drain = \"1s\"").start();
            let mut client = proxy.client();
            client.send(GET);
            let record = origin.connection(1);
            wait_until("the request", 2 * SECOND, || record.text().contains("\r\n\r\n"));
            pause(30 * MS);
            ends_in_order(proxy, &format!("an origin that {what}"));
            let response = client.try_response_to("GET");
            assert!(
                !response.is_ok_and(|response| response.status() == 200 && response.is_complete()),
                "{what}"
            );
        }
    }

    #[test]
    fn it_comes_before_the_first_connection() {
        for _ in 0..5 {
            let origin = origin();
            let proxy = Proxy::to(&origin).workers(2).start();
            ends_in_order(proxy, "at once");
        }
    }

    #[test]
    fn a_second_one_ends_a_drain_at_once() {
        let origin = origin();
        let mut proxy = Proxy::to(&origin).timeouts("drain = \"8s\"").start();
        let mut client = proxy.client();
        client.send("GET /_matrix/wait HTTP/1.1\r\nHost: a\r\n\r\n");
        let record = origin.connection(1);
        wait_until("the request", 2 * SECOND, || record.text().contains("\r\n\r\n"));
        proxy.signal(Signal::TERM);
        wait_until("the drain", 2 * SECOND, || proxy.stderr().contains("draining"));
        proxy.signal(Signal::TERM);
        let stopped = proxy.stopped_within(2 * SECOND).expect("a second signal ends it");
        assert!(!stopped.status.success());
    }

    #[test]
    fn a_reserved_place_is_free_again_after_it() {
        let place = Place::v4();
        let address = place.address();
        let origin = origin();
        let proxy = Proxy::to(&origin).at(place).start();
        assert_eq!(proxy.address, address);
        ends_in_order(proxy, "idle");
        assert!(TcpStream::connect(address).is_err());
    }
}
