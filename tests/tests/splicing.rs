//! Bodies between plain sockets, which the kernel moves through pipes: the same bytes and the same rules as through buffers.

use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::Instant;

use ringfence_tests::message::{self, Framing};
use ringfence_tests::wire::Transport;
use ringfence_tests::{Client, End, KIB, MIB, MS, Origin, Proxy, SECOND, pattern, pause, wait_until};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use socket2::SockRef;

/// Descriptors of pipes that the proxy has opened, two each: who starts the tests may have left it some.
fn pipe_ends(proxy: &Proxy) -> usize {
    let inherited = descriptors_of_pipes("self");
    descriptors_of_pipes(&proxy.pid().to_string()).iter().filter(|pipe| !inherited.contains(pipe)).count()
}

fn descriptors_of_pipes(process: &str) -> Vec<PathBuf> {
    let descriptors = fs::read_dir(format!("/proc/{process}/fd")).expect("the proxy lives");
    let target = |entry: fs::DirEntry| fs::read_link(entry.path()).ok();
    let is_pipe = |path: &PathBuf| path.to_string_lossy().starts_with("pipe:");
    descriptors.flatten().filter_map(target).filter(is_pipe).collect()
}

fn put(size: usize) -> String {
    format!("PUT /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: {size}\r\n\r\n")
}

fn echo() -> Origin {
    Origin::serving(|request| message::ok(&request.body))
}

fn assert_echoes(client: &mut Client, size: usize) {
    let body = pattern(size);
    client.send(put(size));
    // Not in one write with the head: all of it is left when the relay begins.
    let sender = client.send_in_background(body.clone());
    let response = client.response();
    sender.join().expect("the sender ends").expect("all is sent");
    assert!(response.is_complete() && response.body == body, "a body of {size} bytes changed");
}

/// Where a rule of the relay changes: what is worth a pipe, a large piece, a pipe and the largest buffer, and what comes
/// before the kernel may hold more.
const TURNING_POINTS: [usize; 5] = [16 * KIB, 32 * KIB, 256 * KIB, 512 * KIB, 2 * MIB];

#[test]
fn bodies_of_every_length_cross_unchanged_on_both_drivers_and_kinds_of_socket() {
    for driver in ["uring", "epoll"] {
        for origin in
            [echo(), Origin::each_on_unix_socket(|peer| peer.serve(&|request| message::ok(&request.body)))]
        {
            let proxy = Proxy::to(&origin).env("RINGFENCE_DRIVER", driver).start();
            let mut client = proxy.client();
            for size in TURNING_POINTS.iter().flat_map(|&size| [size - 1, size, size + 1, size + 5000]) {
                assert_echoes(&mut client, size);
            }
            assert!(pipe_ends(&proxy) > 0, "{driver}: nothing went through a pipe");
        }
    }
}

#[test]
fn a_request_right_behind_a_large_body_is_not_taken_for_a_part_of_it() {
    let origin = echo();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    let body = pattern(MIB + 77);
    let large = [put(body.len()).into_bytes(), body.clone()].concat();
    let small = [put(5).as_bytes(), b"small"].concat();
    let bytes = [&large[..], &small, &large];
    let sender = client.send_in_background(bytes.concat());
    for expected in [&body[..], b"small", &body] {
        assert!(client.response().body == expected, "a body of {} bytes changed", expected.len());
    }
    sender.join().unwrap().unwrap();
}

#[test]
fn bytes_behind_a_large_answer_end_the_origins_connection_and_reach_nobody() {
    let origin = Origin::each(|peer| {
        while peer.request_head().is_some() {
            let _ = peer.try_send([message::ok(pattern(MIB)), b"HTTP/1.1 200 OK\r\n".to_vec()].concat());
        }
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    for _ in 0..3 {
        assert!(client.get("/_matrix/x").body == pattern(MIB));
        assert!(client.is_silent_for(50 * MS));
    }
    assert_eq!(origin.connections(), 3);
}

#[test]
fn a_body_may_come_in_pieces_of_any_size() {
    let origin = echo();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    let body = pattern(MIB);
    client.send(put(body.len()));
    let mut rest = &body[..];
    for size in [1, 100 * KIB, 1, 1, 3000, 200 * KIB, 40 * KIB, 2, 300 * KIB].into_iter().cycle() {
        let (piece, behind) = rest.split_at(size.min(rest.len()));
        client.send(piece);
        // Long enough for the proxy to see the piece alone.
        pause(10 * MS);
        rest = behind;
        if rest.is_empty() {
            break;
        }
    }
    assert!(client.response().body == body, "the body changed");
}

/// It stops splice(2) for ever, and recv(2) leaves it out.
#[test]
fn an_urgent_byte_in_a_body_is_left_out_and_stops_nothing() {
    let origin = echo();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    let body = pattern(MIB);
    client.send(put(body.len()));
    let (first, second) = body.split_at(300 * KIB);
    client.send(first);
    let Transport::Tcp(stream) = client.transport() else { panic!("plain") };
    assert_eq!(SockRef::from(&*stream).send_out_of_band(b"!").unwrap(), 1);
    client.send(second);
    assert!(client.response().body == body, "the body changed");
}

#[test]
fn what_was_under_way_when_one_side_broke_reaches_nobody_else() {
    let origin = Origin::each(|peer| match peer.index {
        // The first one takes the head and no more than its socket holds, until the pipe is full too.
        0 => {
            peer.request_head();
            pause(300 * MS);
            peer.reset();
        }
        _ => peer.serve(&|request| message::ok(&request.body)),
    });
    let proxy = Proxy::to(&origin).start();
    let mut broken = proxy.client();
    broken.send(put(32 * MIB));
    let sender = broken.send_in_background(vec![b'!'; 32 * MIB]);
    assert_eq!(broken.response().status(), 502);
    drop(broken);
    let _ = sender.join().unwrap();
    for _ in 0..3 {
        assert_echoes(&mut proxy.client(), MIB + 1);
    }
}

#[test]
fn a_client_that_resets_in_a_large_upload_aborts_the_upstream_request() {
    let origin = Origin::each(|peer| {
        let request = peer.request().expect("a head came");
        assert!(matches!(request.framing, Framing::Length(_)) && !request.is_complete());
    });
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    client.send(put(8 * MIB));
    client.send(pattern(2 * MIB));
    let record = origin.connection(1);
    wait_until("some of the upload", 5 * SECOND, || record.bytes().len() > MIB);
    client.reset();
    assert!(record.end_within(3 * SECOND).is_some(), "the upstream connection stays");
    assert!(proxy.access_log(1)[0].contains("client-gone"), "{:?}", proxy.access_log(1));
}

#[test]
fn a_large_answer_cut_short_breaks_the_clients_connection() {
    for resets in [false, true] {
        let origin = Origin::each(move |peer| {
            peer.request_head();
            peer.send([answer_head(8 * MIB).as_bytes(), &pattern(2 * MIB)].concat());
            // All of it has been taken by then, so that a reset takes nothing of it back.
            pause(300 * MS);
            if resets {
                peer.reset();
            }
        });
        let proxy = Proxy::to(&origin).start();
        let mut client = proxy.client();
        client.send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
        client.read_head().unwrap();
        let (body, end) = client.read_to_end();
        assert!(pattern(8 * MIB).starts_with(&body) && body.len() < 8 * MIB, "{} bytes", body.len());
        assert!(matches!(end, End::Reset), "{end:?}: it looks whole");
        assert!(proxy.access_log(1)[0].contains("response-cut-short"), "{:?}", proxy.access_log(1));
    }
}

fn answer_head(size: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n")
}

#[test]
fn a_large_upload_that_falls_silent_is_refused() {
    let origin = Origin::each(|peer| {
        let request = peer.request().expect("a head came");
        assert!(!request.is_complete());
    });
    let proxy = Proxy::to(&origin).timeouts("downstream_silence = \"500ms\"").start();
    let mut client = proxy.client();
    client.send(put(8 * MIB));
    client.send(pattern(MIB));
    assert_eq!(client.response().status(), 408);
}

#[test]
fn an_origin_that_takes_nothing_of_a_large_upload_holds_a_pipe_until_upstream_silence() {
    let origin = Origin::each(|peer| {
        peer.request_head();
        // It keeps the connection and reads no more.
        pause(8 * SECOND);
    });
    let deadlines = "upstream_silence = \"1s\"\nupstream_first_byte = \"4s\"";
    let proxy = Proxy::to(&origin).timeouts(deadlines).start();
    let mut client = proxy.client();
    client.send(put(32 * MIB));
    let sender = client.send_in_background(vec![b'x'; 32 * MIB]);
    wait_until("a pipe that is full", SECOND, || pipe_ends(&proxy) == 2);
    let begun = Instant::now();
    wait_until("the end of the pipe", 3 * SECOND, || pipe_ends(&proxy) == 0);
    assert!(begun.elapsed() > 700 * MS, "after {:?}", begun.elapsed());
    assert_eq!(client.response().status(), 504);
    drop(client);
    let _ = sender.join().expect("the sender ends");
}

#[test]
fn pipes_are_few_while_many_clients_read_nothing_and_others_are_served() {
    const CLIENTS: usize = 50;
    /// `KERNEL_PIPES_MAX`, two descriptors each.
    const ENDS_MAX: usize = 2 * 32;
    let answer = message::ok(pattern(4 * MIB));
    let origin = Origin::serving(move |_| answer.clone());
    let proxy = Proxy::to(&origin).start();
    let mut slow: Vec<Client> =
        (0..CLIENTS).map(|_| Client::connect_with_small_window(proxy.address, 16 * KIB)).collect();
    for client in &mut slow {
        client.send("GET /_matrix/x HTTP/1.1\r\nHost: a\r\n\r\n");
        client.read_head().unwrap();
    }
    wait_until("pipes that are full", 5 * SECOND, || pipe_ends(&proxy) > 0);
    for _ in 0..3 {
        assert!(proxy.client().get("/_matrix/x").body == pattern(4 * MIB), "the body changed");
        assert!(pipe_ends(&proxy) <= ENDS_MAX, "{} ends of pipes", pipe_ends(&proxy));
    }
    drop(slow);
    wait_until("the end of pipes that nobody needs", 10 * SECOND, || pipe_ends(&proxy) == 0);
}

#[test]
fn descriptors_are_back_at_their_start_when_nobody_has_needed_pipes_for_a_while() {
    let origin = echo();
    let proxy = Proxy::to(&origin).timeouts("upstream_idle = \"1s\"").start();
    let before = proxy.descriptors();
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_echoes(&mut proxy.client(), 3 * MIB));
        }
    });
    wait_until("the end of what the bodies needed", 10 * SECOND, || proxy.descriptors() <= before);
}

#[test]
fn a_body_moves_although_the_system_grants_no_pipe() {
    let origin = echo();
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    // Both connections are there; nothing more may be opened.
    assert_eq!(client.get("/_matrix/x").status(), 200);
    let count = proxy.descriptors() as u64;
    let pid = i32::try_from(proxy.pid()).ok().and_then(Pid::from_raw);
    let limit = Rlimit { current: Some(count), maximum: Some(count) };
    prlimit(pid, Resource::Nofile, limit).unwrap();
    assert_echoes(&mut client, 5 * MIB);
    assert_eq!(pipe_ends(&proxy), 0);
}
