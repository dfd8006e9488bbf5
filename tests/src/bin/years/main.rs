//! What years bring, in minutes: reloads, certificate swaps and binary upgrades under steady load, which nobody may notice.
//!
//! [`crowd`] is who uses the proxy meanwhile: every answer is checked, a request is never sent twice, and a connection that ends
//! is a fault unless an answer has said `Connection: close`. [`operator`] is who reloads and upgrades, now and then with
//! something broken; [`renewals`] is who renews certificates. At the end every process has to have ended well, and the access
//! log has to have a line for every request.
//!
//! Usage: `years [--quick] [--seed N]`. The last line is `N passed, N failed`; the exit status tells the same.
#![forbid(unsafe_code)]

mod crowd;
mod operator;
mod renewals;
mod tally;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use ringfence_tests::arguments::Arguments;
use ringfence_tests::place::Place;
use ringfence_tests::{Origin, Proxy, SECOND, pause, proxy};
use rustix::process::{Pid, Signal, WaitOptions, set_child_subreaper, waitpid};

use crowd::Crowd;
use operator::Operator;
use renewals::Renewals;
use tally::Tally;

/// How much of everything.
#[derive(Clone, Copy)]
pub(crate) struct Plan {
    reloads: u64,
    swaps: u64,
    upgrades: u64,
    /// How long reloads and upgrades are spread over; swaps take what they take.
    time: Duration,
}

const FULL: Plan = Plan { reloads: 50, swaps: 20, upgrades: 10, time: Duration::from_secs(110) };
const QUICK: Plan = Plan { reloads: 10, swaps: 4, upgrades: 2, time: Duration::from_secs(20) };

fn main() -> ExitCode {
    let arguments = Arguments::read("tests/years [--quick] [--seed N]", &["--quick"], &["--seed"]);
    let plan = if arguments.has("--quick") { QUICK } else { FULL };
    let seed = arguments.value("--seed").unwrap_or_else(seed_from_clock);
    println!("seed {seed}");
    // Processes that follow become children of this one when the process before has ended, and their ends can be told.
    set_child_subreaper(Pid::from_raw(1)).expect("a process may take care of its grandchildren");

    let origin = Origin::each_unrecorded(Place::v4(), crowd::serve);
    let mut proxy = Proxy::to(&origin)
        .tls()
        .listener("role = \"client\"")
        .workers(2)
        .admin()
        .own_binary()
        .limits("body_bytes_max = \"64 MiB\"\nconnections_per_address_max = 10000")
        .timeouts(&format!("hand_over = \"{}s\"\ndrain = \"2s\"", HAND_OVER.as_secs()))
        .start();
    let (spare, tally) = (Place::v4(), Arc::new(Tally::default()));
    let crowd = Crowd::gather(&proxy, spare.address(), seed, &tally);
    pause(RAMP);

    let begun = Instant::now();
    // Held by who makes the files in the folder such that they do not fit for a moment.
    let files = Mutex::new(());
    thread::scope(|scope| {
        scope.spawn(|| Renewals::new(&proxy, &files, &tally).run(plan));
        Operator::new(&proxy, &files, spare.address(), &tally).run(plan);
    });
    // Requests that the last process has to answer.
    pause(2 * SECOND);
    println!("{:.1} s of changes", begun.elapsed().as_secs_f64());
    crowd.leave(&tally);
    end_all(&mut proxy, &tally);
    count_lines(&proxy, &tally);
    tally.judge(plan, origin.connections())
}

/// Ends the process that serves, and waits for all to end well.
fn end_all(proxy: &mut Proxy, tally: &Tally) {
    proxy.signal_newest(Signal::TERM);
    let deadline = Instant::now() + HAND_OVER + 10 * SECOND;
    let followers = proxy.followers();
    while !proxy.processes().is_empty() && Instant::now() < deadline {
        pause(20 * ringfence_tests::MS);
    }
    for pid in proxy.processes() {
        tally.fault(format!("process {pid} does not end"));
        proxy::send(pid, Signal::KILL);
    }
    if !proxy.stopped_within(SECOND).is_some_and(|stopped| stopped.status.success()) {
        tally.fault("the first process did not end well".to_owned());
    }
    Tally::add(&tally.processes, 1);
    for pid in followers {
        let id = i32::try_from(pid).ok().and_then(Pid::from_raw);
        match waitpid(id, WaitOptions::empty()) {
            Ok(Some((_, status))) if status.exit_status() == Some(0) => Tally::add(&tally.processes, 1),
            other => tally.fault(format!("process {pid} did not end well: {other:?}")),
        }
    }
    if proxy.admin_socket().exists() {
        tally.fault("the admin socket is still there".to_owned());
    }
    for word in ["panicked", "ERROR panic", "connections are cut"] {
        // Tunnels are cut when the hand-over is over, and only they.
        if word != "connections are cut" && proxy.stderr().contains(word) {
            tally.fault(format!("the log says: {word}"));
        }
    }
}

fn count_lines(proxy: &Proxy, tally: &Tally) {
    let file = fs::File::open(proxy.folder().join("access.log")).expect("the access log is there");
    for line in BufReader::new(file).lines() {
        let line = line.expect("the access log is text");
        let whole = line.matches(" peer=").count() == 1 && line.contains(" close=");
        Tally::add(if whole { &tally.lines } else { &tally.lines_torn }, 1);
    }
}

fn seed_from_clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(1, |since| u64::from(since.subsec_nanos()) | 1)
}

/// How long a process that has handed over keeps tunnels: longer than the longest long poll.
pub(crate) const HAND_OVER: Duration = Duration::from_secs(15);

/// How long the crowd gathers before anything changes.
const RAMP: Duration = Duration::from_secs(3);
