//! How many system calls a request takes, by kind: counted by strace over all threads of the binary under test.
//!
//! Two runs that differ in the number of requests alone are subtracted, so that start and end do not count. Time shows in
//! the counts, too (a worker's clock ticks every 32 ms), therefore they are bounds and not equalities.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;

use ringfence_tests::{PATIENCE, proxy, wait_until};

use crate::measured::{Measured, get, post, put};

/// One receive and one send on each side. To wait for the client and for the origin takes one call each, which submits
/// the wait and sleeps.
#[test]
fn a_lone_request_takes_two_receives_two_sends_and_two_waits() {
    let calls = Calls::per_request("uring", false, 1, &get());
    assert!(calls.of(&RECEIVES) < 2.05 && calls.of(&SENDS) < 2.05, "{calls:.2?}");
    assert!(calls.of(&["io_uring_enter"]) < 2.3, "{calls:.2?}");
    assert!(calls.all() < 6.4, "{calls:.2?}");
}

/// Head and content come in one read and go on in one write.
#[test]
fn a_lone_put_takes_no_more() {
    let calls = Calls::per_request("uring", false, 1, &put());
    assert!(calls.of(&RECEIVES) < 2.05 && calls.of(&SENDS) < 2.05, "{calls:.2?}");
    assert!(calls.all() < 6.4, "{calls:.2?}");
}

/// The third receive asks whether the origin has closed the connection meanwhile: a POST is not sent a second time.
#[test]
fn a_lone_post_takes_one_receive_more() {
    let calls = Calls::per_request("uring", false, 1, &post());
    assert!(calls.of(&RECEIVES) < 3.05, "{calls:.2?}");
    assert!(calls.all() < 7.4, "{calls:.2?}");
}

/// A record comes in one read and goes out in one write.
#[test]
fn a_lone_request_over_tls_takes_no_more() {
    let calls = Calls::per_request("uring", true, 1, &get());
    assert!(calls.all() < 6.4, "{calls:.2?}");
}

/// One wait serves all connections that have become ready meanwhile: what remains are receives and sends.
#[test]
fn requests_on_64_connections_share_their_waits() {
    let calls = Calls::per_request("uring", false, 64, &get());
    assert!(calls.of(&RECEIVES) < 2.05 && calls.of(&SENDS) < 2.05, "{calls:.2?}");
    assert!(calls.all() < 5.0, "{calls:.2?}");
}

/// monoio's epoll driver asks poll(2) before and behind each of its waits.
#[test]
fn a_lone_request_on_epoll_takes_four_calls_of_poll_more() {
    let calls = Calls::per_request("epoll", false, 1, &get());
    assert!(calls.of(&RECEIVES) < 2.05 && calls.of(&SENDS) < 2.05, "{calls:.2?}");
    assert!(calls.all() < 10.4, "{calls:.2?}");
}

const RECEIVES: [&str; 4] = ["recvfrom", "recvmsg", "read", "readv"];
const SENDS: [&str; 4] = ["sendto", "sendmsg", "write", "writev"];

/// Requests of the shorter run, on all connections together; the longer one has twice as many.
const REQUESTS: usize = 512;

/// System calls by name, for one request.
#[derive(Debug)]
struct Calls(BTreeMap<String, f64>);

impl Calls {
    fn per_request(driver: &str, tls: bool, connections: usize, request: &[u8]) -> Calls {
        let short = count(driver, tls, connections, REQUESTS, request);
        let mut calls = count(driver, tls, connections, 2 * REQUESTS, request);
        for (name, count) in &mut calls {
            *count = (*count - short.get(name).unwrap_or(&0.0)) / REQUESTS as f64;
        }
        // What differs by a few calls has to do with time, not with requests.
        calls.retain(|_, count| *count > 0.005);
        let calls = Calls(calls);
        println!(
            "{driver}, TLS: {tls}, {connections} connections: {:.2} a request: {calls:.2?}",
            calls.all()
        );
        calls
    }

    fn of(&self, names: &[&str]) -> f64 {
        names.iter().filter_map(|name| self.0.get(*name)).sum()
    }

    fn all(&self) -> f64 {
        self.0.values().sum()
    }
}

/// All system calls of a proxy that serves so many requests.
fn count(
    driver: &str,
    tls: bool,
    connections: usize,
    requests: usize,
    request: &[u8],
) -> BTreeMap<String, f64> {
    let mut proxy = Measured::start(tls, |folder| {
        let mut command = Command::new("strace");
        // -D: strace watches from aside, so that the child is the proxy.
        command.args(["-D", "-f", "-c", "-o"]).arg(folder.join(COUNTS)).arg(proxy::binary());
        command.env("RINGFENCE_DRIVER", driver);
        command
    });
    let clients: Vec<_> = (0..connections).map(|_| proxy.client()).collect();
    thread::scope(|scope| {
        for mut client in clients {
            scope.spawn(move || {
                (0..requests / connections).for_each(|_| assert_eq!(client.request(request).status(), 200));
            });
        }
    });
    proxy.end();
    let path = proxy.folder.path().join(COUNTS);
    let table = || fs::read_to_string(&path).unwrap_or_default();
    wait_until("the counts of strace", PATIENCE, || table().trim_end().ends_with(" total"));
    parse(&table())
}

/// The columns `calls` and `syscall` of the table that `strace -c` writes; a column of errors may stand between them.
fn parse(table: &str) -> BTreeMap<String, f64> {
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let counts = rows.filter_map(|row| {
        let (calls, name) = (row.get(3)?.parse().ok()?, *row.last()?);
        (name != "total").then(|| (name.to_owned(), calls))
    });
    let counts: BTreeMap<_, _> = counts.collect();
    assert!(counts.len() > 10, "no table of strace: {table}");
    counts
}

/// Where strace writes its table.
const COUNTS: &str = "counts";
