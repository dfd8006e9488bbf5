//! Kills and restarts the homeserver under load, and checks every answer.
//!
//! A few verifying clients send requests whose answers must repeat the target and a number of theirs, over plain and
//! TLS connections, with and without bodies, while `wrk` adds a load that nobody reads. The origin goes down and comes
//! back again and again. Allowed are whole, right answers and clean 502s of the proxy; anything else (a wrong or mixed
//! answer, half an answer that looks whole, another status, a hang) is a failure. A connection that ends in the middle
//! of an answer is right only while the origin goes down: the origin's own answer was cut then.
//!
//! Usage: `upstream-restart [--seconds N]`. The last line is `N passed, N failed`; the exit status tells the same.
#![forbid(unsafe_code)]

use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringfence_tests::arguments::Arguments;
use ringfence_tests::client::HOST;
use ringfence_tests::place::Place;
use ringfence_tests::wire::{End, Unreadable};
use ringfence_tests::{Client, KIB, MS, Message, Origin, Proxy, SECOND, message, pattern, pause};

/// What the clients saw, together.
#[derive(Debug, Default)]
struct Tally {
    right: AtomicU64,
    clean_502: AtomicU64,
    cut_short: AtomicU64,
    /// Faults, in words; the first ones are enough.
    faults: Mutex<Vec<String>>,
    stop: AtomicBool,
}

/// How one request ended, and whether the connection ends with it.
enum Outcome {
    Right {
        closes: bool,
    },
    Clean502 {
        closes: bool,
    },
    /// The connection ended before or inside of the answer, visibly.
    CutShort,
}

impl Tally {
    fn note(&self, outcome: &Result<Outcome, String>) {
        let count = match outcome {
            Ok(Outcome::Right { .. }) => &self.right,
            Ok(Outcome::Clean502 { .. }) => &self.clean_502,
            Ok(Outcome::CutShort) => &self.cut_short,
            Err(fault) => {
                return self.faults.lock().unwrap_or_else(PoisonError::into_inner).push(fault.clone());
            }
        };
        count.fetch_add(1, Ordering::SeqCst);
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::read("tests/upstream-restart [--seconds N]", &[], &["--seconds"]);
    let seconds = arguments.value("--seconds").unwrap_or(SECONDS_DEFAULT);
    let mut origin = Origin::serving_unrecorded(Place::v4(), answer);
    let proxy = Proxy::to(&origin)
        .tls()
        .listener("role = \"client\"")
        .workers(2)
        .server("access_log = \"off\"")
        .start();
    let tally = Arc::new(Tally::default());
    let clients: Vec<JoinHandle<()>> =
        (0..CLIENTS).map(|number| start_client(number, &proxy, &tally)).collect();
    let load = start_wrk(&proxy, seconds);

    let begun = Instant::now();
    let mut down_checks = Vec::new();
    let mut restarts = 0;
    while begun.elapsed() < Duration::from_secs(seconds) {
        pause(UP_TIME);
        origin.kill();
        down_checks.push(check_while_down(&proxy));
        pause(DOWN_TIME);
        origin.resume();
        down_checks.push(check_recovery(&proxy));
        restarts += 1;
    }
    tally.stop.store(true, Ordering::SeqCst);
    let hung = clients.into_iter().filter_map(|client| client.join().err()).count();
    let wrk = load.map(|load| load.wait_with_output().expect("wrk's output can be read"));
    println!("{restarts} restarts in {:.1} s", begun.elapsed().as_secs_f64());
    if let Some(wrk) = &wrk {
        println!("{}", String::from_utf8_lossy(&wrk.stdout).trim());
    }
    report(&tally, &down_checks, hung)
}

fn report(tally: &Tally, down_checks: &[Result<(), String>], hung: usize) -> ExitCode {
    let (right, clean, cut) = (&tally.right, &tally.clean_502, &tally.cut_short);
    let [right, clean, cut] = [right, clean, cut].map(|count| count.load(Ordering::SeqCst));
    println!("{right} right answers, {clean} clean 502s, {cut} answers visibly cut by the origin's death");
    let mut faults = tally.faults.lock().unwrap_or_else(PoisonError::into_inner).clone();
    faults.extend(down_checks.iter().filter_map(|check| check.clone().err()));
    if hung > 0 {
        faults.push(format!("{hung} clients gave up"));
    }
    if right == 0 || clean == 0 {
        faults.push("the load met no origin that was up, or none that was down".to_owned());
    }
    // Only what was on the wire when the origin died may be cut; that is at most one answer a client and death.
    let deaths = u64::try_from(down_checks.len() / 2).unwrap_or(u64::MAX);
    if cut > deaths * CLIENTS {
        faults.push(format!("{cut} answers were cut by {deaths} deaths of the origin"));
    }
    faults.iter().take(FAULTS_SHOWN_MAX).for_each(|fault| println!("FAULT {fault}"));
    let passed = right + clean + u64::try_from(down_checks.iter().flatten().count()).unwrap_or(0);
    println!("{passed} passed, {} failed", faults.len());
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The origin: repeats target, number and body, with a size that the target asks for.
fn answer(request: &Message) -> Vec<u8> {
    let number = request.head.value("x-number").unwrap_or("-");
    let size = request.head.target().rsplit('=').next().and_then(|size| size.parse().ok()).unwrap_or(0);
    let told = format!("{} {number} {}\n", request.head.target(), request.body.len());
    message::ok([told.as_bytes(), &request.body, &pattern(size)].concat())
}

/// What [`answer`] says to this request.
fn expected(target: &str, number: &str, body: &[u8], size: usize) -> Vec<u8> {
    [format!("{target} {number} {}\n", body.len()).as_bytes(), body, &pattern(size)].concat()
}

fn start_client(number: u64, proxy: &Proxy, tally: &Arc<Tally>) -> JoinHandle<()> {
    let (tls, plain) = (proxy.addresses[0], proxy.addresses[1]);
    let tally = Arc::clone(tally);
    let connect = move || match number % 2 {
        0 => Client::connect(plain),
        _ => Client::tls(tls, HOST),
    };
    thread::spawn(move || {
        let mut client = connect();
        for round in 0.. {
            if tally.stop.load(Ordering::SeqCst) {
                break;
            }
            let outcome = ask(&mut client, number, round);
            tally.note(&outcome);
            if !matches!(outcome, Ok(Outcome::Right { closes: false } | Outcome::Clean502 { closes: false }))
            {
                client = connect();
            }
        }
    })
}

/// One request and its answer, byte for byte. `Err` says what is wrong with the answer.
fn ask(client: &mut Client, number: u64, round: u64) -> Result<Outcome, String> {
    let size = [0, 100, 20 * KIB, 300 * KIB][usize::try_from(round % 4).unwrap_or(0)];
    let (method, body) = match round % 3 {
        0 => ("GET", Vec::new()),
        1 => ("POST", pattern(1000)),
        _ => ("PUT", pattern(40 * KIB)),
    };
    let target = format!("/_matrix/restart/{number}/{round}?%2F=..//&size={size}");
    let id = format!("{number}.{round}");
    let length = if method == "GET" { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let head = format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\nX-Number: {id}\r\n{length}\r\n");
    let sent = client.try_send([head.as_bytes(), &body].concat());
    let response = match client.try_response_to(method) {
        Ok(response) => response,
        Err(Unreadable::NoHead(End::Closed | End::Reset | End::Truncated, bytes)) if bytes.is_empty() => {
            return Err(format!("{id}: closed without an answer; sent: {sent:?}"));
        }
        Err(error) => return Err(format!("{id}: {error:?}")),
    };
    judge(&response, &id, &expected(&target, &id, &body, size))
}

fn judge(response: &Message, id: &str, expected: &[u8]) -> Result<Outcome, String> {
    let closes = response.head.lists("connection", "close");
    match (response.status(), &response.cut) {
        (200, None) if response.body == expected => Ok(Outcome::Right { closes }),
        (200, Some(End::Closed | End::Reset | End::Truncated)) if expected.starts_with(&response.body) => {
            Ok(Outcome::CutShort)
        }
        (502, None) if response.text().contains("\"errcode\"") => Ok(Outcome::Clean502 { closes }),
        (status, cut) => {
            let shown: String = response.text().chars().take(200).collect();
            Err(format!("{id}: {status}, cut: {cut:?}, {} bytes: {shown:?}", response.body.len()))
        }
    }
}

/// While the origin is down, answers are 502 and quick.
fn check_while_down(proxy: &Proxy) -> Result<(), String> {
    let begun = Instant::now();
    let response = Client::connect(proxy.addresses[1]).get("/_matrix/down");
    match response.status() {
        502 if begun.elapsed() < SECOND => Ok(()),
        status => Err(format!("while down: {status} after {:?}", begun.elapsed())),
    }
}

/// When the origin is back, requests reach it at once.
fn check_recovery(proxy: &Proxy) -> Result<(), String> {
    let begun = Instant::now();
    while begun.elapsed() < RECOVERY_TIME_MAX {
        if Client::connect(proxy.addresses[1]).get("/_matrix/up").status() == 200 {
            return Ok(());
        }
        pause(20 * MS);
    }
    Err(format!("no recovery within {RECOVERY_TIME_MAX:?}"))
}

/// Load beside the verifying clients; `None` where `wrk` is not installed.
fn start_wrk(proxy: &Proxy, seconds: u64) -> Option<Child> {
    let mut wrk = Command::new("wrk");
    wrk.args(["-t1", "-c32", "--latency", &format!("-d{seconds}s"), "-H", &format!("Host: {HOST}")]);
    wrk.arg(format!("http://{}/_matrix/wrk?size=100", proxy.addresses[1]));
    let started = wrk.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
    started.inspect_err(|error| println!("without wrk: {error}")).ok()
}

/// How long the load lasts if nothing is said, in seconds: some six deaths.
const SECONDS_DEFAULT: u64 = 10;

/// Clients that check every byte: enough to keep requests of each kind in flight at any moment.
const CLIENTS: u64 = 8;

/// How long the origin lives: long enough for pools to fill.
const UP_TIME: Duration = Duration::from_millis(1000);

/// How long it stays down: long enough for every client to meet a refusal.
const DOWN_TIME: Duration = Duration::from_millis(500);

/// How soon requests have to reach an origin that is back.
const RECOVERY_TIME_MAX: Duration = Duration::from_secs(2);

/// How many faults are printed: the first ones tell the story.
const FAULTS_SHOWN_MAX: usize = 20;
