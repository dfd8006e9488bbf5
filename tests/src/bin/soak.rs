//! Mixed traffic for a while, after which memory and descriptors of the proxy have to be back at their start.
//!
//! Every kind of visitor runs on threads of its own: keep-alive clients, new TLS connections, uploads, downloads, long
//! polls, tunnels, slow readers, requests that are refused, connections that idle, and clients that leave in the middle
//! of everything. Every answer is checked. The start is measured after a first spell of the same traffic and a rest, so
//! that what is kept on purpose (stacks, buffers of the allocator, session tickets) counts on both sides.
//!
//! Usage: `soak [--minutes N] [--seed N]`; `N` may be a fraction. The run ends within two minutes after that time. The
//! last line is `N passed, N failed`; the exit status tells the same.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant, SystemTime};

use ringfence_tests::arguments::Arguments;
use ringfence_tests::client::HOST;
use ringfence_tests::place::Place;
use ringfence_tests::{
    Authority, Client, KIB, MIB, MS, Message, Origin, Peer, Proxy, SECOND, message, pattern, pause,
};
use rustls::ClientConfig;

/// Someone who visits the proxy once; what is wrong with what came back otherwise.
type Visit = fn(&mut Visitor) -> Result<(), String>;

/// Each kind with its threads, and how long a thread rests between two visits.
const KINDS: &[(&str, Visit, usize, Duration)] = &[
    ("keep-alive", keep_alive, 2, Duration::from_millis(2)),
    ("new TLS connections", new_tls_connection, 2, Duration::from_millis(10)),
    ("uploads", upload, 1, Duration::from_millis(50)),
    ("chunked uploads", chunked_upload, 1, Duration::from_millis(50)),
    ("downloads", download, 1, Duration::from_millis(50)),
    ("long polls", long_poll, 4, Duration::from_millis(10)),
    ("tunnels", tunnel, 1, Duration::from_millis(50)),
    ("slow readers", slow_reader, 2, Duration::from_millis(50)),
    ("refused requests", refused, 1, Duration::from_millis(20)),
    ("idle connections", idle, 2, Duration::from_millis(50)),
    ("clients that leave", leave, 2, Duration::from_millis(5)),
];

/// A thread of visits.
struct Visitor {
    plain: SocketAddr,
    tls: SocketAddr,
    config: Arc<ClientConfig>,
    random: Random,
    kept: Option<Client>,
    stop: Arc<AtomicBool>,
}

/// A spell of traffic that goes on until it is stopped.
struct Traffic {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
    counts: Arc<Vec<AtomicU64>>,
    faults: Arc<Mutex<Vec<String>>>,
}

/// Memory and descriptors at a moment.
#[derive(Clone, Copy)]
struct Sample {
    resident_kib: u64,
    descriptors: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::read("tests/soak [--minutes N] [--seed N]", &[], &["--minutes", "--seed"]);
    let minutes = arguments.value("--minutes").unwrap_or(MINUTES_DEFAULT);
    let seed = arguments.value("--seed").unwrap_or_else(seed_from_clock);
    let time = Duration::from_secs_f64(minutes * 60.0);
    println!("{minutes} minutes of mixed traffic, seed {seed}");
    let origin = Origin::each_unrecorded(Place::v4(), serve);
    let proxy = Proxy::to(&origin)
        .tls()
        .listener("role = \"client\"")
        .workers(2)
        .server("access_log = \"/dev/null\"")
        .limits("body_bytes_max = \"16 MiB\"")
        .timeouts(
            "upstream_idle = \"2s\"\nkeep_alive_idle = \"5s\"\nheader_read = \"3s\"\ntls_handshake = \"3s\"\n\
             upstream_silence = \"15s\"\ndownstream_silence = \"5s\"\nlinger = \"3s\"",
        )
        .start();

    let first_spell = (time / 4).min(FIRST_SPELL_MAX);
    let mut faults = Traffic::start(&proxy, seed).run_for(first_spell, &proxy);
    let start = settle(&proxy, None);
    println!("start after a first spell and a rest: {start}");
    faults.extend(Traffic::start(&proxy, seed + 1).run_for(time.saturating_sub(first_spell), &proxy));
    let end = settle(&proxy, Some(start));
    println!("end after a rest: {end}");
    judge(start, end, faults, proxy)
}

fn judge(start: Sample, end: Sample, mut faults: Vec<String>, mut proxy: Proxy) -> ExitCode {
    let mut passed = VISITS.load(Ordering::SeqCst);
    let mut check = |holds: bool, what: String| match holds {
        true => passed += 1,
        false => faults.push(what),
    };
    check(end.descriptors <= start.descriptors, format!("descriptors did not return: {start} became {end}"));
    check(end.resident_kib <= start.allowance_kib(), format!("memory did not return: {start} became {end}"));
    check(
        proxy.tls_client().get("/_matrix/small").status() == 200,
        "the proxy does not answer any more".to_owned(),
    );
    check(!proxy.has_panicked(), format!("the proxy panicked:\n{}", proxy.stderr()));
    check(proxy.stop().status.success(), "the proxy does not end in order".to_owned());
    faults.iter().take(FAULTS_SHOWN_MAX).for_each(|fault| println!("FAULT {fault}"));
    println!("{passed} passed, {} failed", faults.len());
    if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Waits, for a bounded time, until nothing falls any more and, if given, the goal is met.
fn settle(proxy: &Proxy, goal: Option<Sample>) -> Sample {
    let begun = Instant::now();
    let mut last = Sample::of(proxy);
    while begun.elapsed() < SETTLE_TIME_MAX {
        pause(SETTLE_STEP);
        let now = Sample::of(proxy);
        let is_steady =
            now.descriptors == last.descriptors && now.resident_kib + KIB_OF_NOISE >= last.resident_kib;
        let is_there = goal.is_none_or(|goal| {
            now.descriptors <= goal.descriptors && now.resident_kib <= goal.allowance_kib()
        });
        last = now;
        if is_steady && is_there && begun.elapsed() > SETTLE_TIME_MIN {
            break;
        }
    }
    last
}

impl Sample {
    fn of(proxy: &Proxy) -> Sample {
        Sample { resident_kib: proxy.resident_kib(), descriptors: proxy.descriptors() }
    }

    /// What the end may measure: an allocator gives pages back in its own time, a leak grows with the traffic.
    fn allowance_kib(self) -> u64 {
        self.resident_kib + self.resident_kib / 4 + RESIDENT_SLACK_KIB
    }
}

impl std::fmt::Display for Sample {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} KiB resident, {} descriptors", self.resident_kib, self.descriptors)
    }
}

impl Traffic {
    fn start(proxy: &Proxy, seed: u64) -> Traffic {
        let stop = Arc::new(AtomicBool::new(false));
        let counts: Arc<Vec<AtomicU64>> = Arc::new(KINDS.iter().map(|_| AtomicU64::new(0)).collect());
        let faults = Arc::new(Mutex::new(Vec::new()));
        let config = Authority::shared().client_config();
        let mut threads = Vec::new();
        for (kind, &(name, visit, count, rest)) in KINDS.iter().enumerate() {
            for thread in 0..count {
                let number = u64::try_from(kind * 100 + thread).unwrap_or(0);
                let mut visitor = Visitor {
                    plain: proxy.addresses[1],
                    tls: proxy.addresses[0],
                    config: Arc::clone(&config),
                    random: Random(seed.wrapping_mul(1000) + number),
                    kept: None,
                    stop: Arc::clone(&stop),
                };
                let (counts, faults) = (Arc::clone(&counts), Arc::clone(&faults));
                threads.push(thread::spawn(move || {
                    while !visitor.stop.load(Ordering::SeqCst) {
                        let outcome = visit(&mut visitor);
                        note(name, outcome, &counts[kind], &faults);
                        pause(rest);
                    }
                }));
            }
        }
        Traffic { threads, stop, counts, faults }
    }

    /// Lets the traffic go on for this long, with samples in between; returns the faults.
    fn run_for(self, time: Duration, proxy: &Proxy) -> Vec<String> {
        let begun = Instant::now();
        let step = (time / SAMPLES).max(SECOND);
        while begun.elapsed() < time {
            pause(step.min(time.saturating_sub(begun.elapsed())).max(MS));
            let visits = VISITS.load(Ordering::SeqCst);
            println!("{:7.1} s  {}, {visits} visits", begun.elapsed().as_secs_f64(), Sample::of(proxy));
        }
        self.stop.store(true, Ordering::SeqCst);
        let died = self.threads.into_iter().filter_map(|thread| thread.join().err()).count();
        for ((name, ..), count) in KINDS.iter().zip(self.counts.iter()) {
            println!("  {:8} {name}", count.load(Ordering::SeqCst));
        }
        let mut faults = std::mem::take(&mut *self.faults.lock().unwrap_or_else(PoisonError::into_inner));
        faults.extend((0..died).map(|_| "a visitor's thread died".to_owned()));
        faults
    }
}

fn note(name: &str, outcome: Result<(), String>, count: &AtomicU64, faults: &Mutex<Vec<String>>) {
    match outcome {
        Ok(()) => {
            count.fetch_add(1, Ordering::SeqCst);
            VISITS.fetch_add(1, Ordering::SeqCst);
        }
        Err(fault) => {
            faults.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{name}: {fault}"));
            // A proxy that is down would fill the list at once.
            pause(100 * MS);
        }
    }
}

/// Visits that went well, of all spells.
static VISITS: AtomicU64 = AtomicU64::new(0);

/// The homeserver: bodies of any size, an echo, a long poll, a tunnel.
fn serve(peer: &mut Peer) {
    while let Some(request) = peer.request() {
        // What comes behind a body that was cut is the rest of it.
        if !request.is_complete() {
            return;
        }
        if request.head.value("upgrade").is_some() {
            return echo_tunnel(peer);
        }
        let number = request.head.target().rsplit('/').next().and_then(|number| number.parse().ok());
        let answer = match request.head.target().split('/').nth(2) {
            Some("size") => message::ok(pattern(number.unwrap_or(0))),
            Some("poll") => {
                pause(MS * u32::try_from(number.unwrap_or(0)).unwrap_or(0));
                message::ok("woken")
            }
            Some("echo") => message::ok(&request.body),
            _ => message::ok("small"),
        };
        if peer.try_send(answer).is_err() {
            return;
        }
    }
}

fn echo_tunnel(peer: &mut Peer) {
    let switching = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let mut alive = peer.try_send(switching).is_ok();
    while alive {
        alive = match peer.read_exactly(TUNNEL_PIECE_BYTES) {
            Ok(piece) => peer.try_send(piece).is_ok(),
            Err(_) => false,
        };
    }
}

impl Visitor {
    fn connect_plain(&self) -> Result<Client, String> {
        Client::try_connect(self.plain).map_err(|error| error.to_string())
    }

    fn connect_tls(&self) -> Result<Client, String> {
        Client::tls_with(self.tls, HOST, Arc::clone(&self.config))
    }

    fn connect(&mut self) -> Result<Client, String> {
        if self.random.below(2) == 0 { self.connect_plain() } else { self.connect_tls() }
    }

    fn connect_small(&self) -> Client {
        Client::connect_with_small_window(self.plain, 64 * KIB)
    }
}

fn keep_alive(visitor: &mut Visitor) -> Result<(), String> {
    let mut client = match visitor.kept.take() {
        Some(client) => client,
        None => visitor.connect()?,
    };
    expect(&exchange(&mut client, "GET", "/_matrix/small", "", b"")?, 200, b"small")?;
    if visitor.random.below(1000) > 0 {
        visitor.kept = Some(client);
    }
    Ok(())
}

fn new_tls_connection(visitor: &mut Visitor) -> Result<(), String> {
    // Sometimes a client that knows no session.
    if visitor.random.below(4) == 0 {
        visitor.config = Authority::shared().client_config();
    }
    let mut client = visitor.connect_tls()?;
    expect(&exchange(&mut client, "GET", "/_matrix/small", "", b"")?, 200, b"small")?;
    client.close_notify();
    Ok(())
}

fn upload(visitor: &mut Visitor) -> Result<(), String> {
    let mut client = visitor.connect()?;
    let body = pattern(1 + visitor.random.below(8 * MIB));
    let length = format!("Content-Length: {}\r\n", body.len());
    expect(&exchange(&mut client, "PUT", "/_matrix/echo", &length, &body)?, 200, &body)
}

fn chunked_upload(visitor: &mut Visitor) -> Result<(), String> {
    let mut client = visitor.connect()?;
    let body = pattern(1 + visitor.random.below(2 * MIB));
    let mut coded = Vec::new();
    let mut rest = body.as_slice();
    while !rest.is_empty() {
        let (piece, after) = rest.split_at((1 + visitor.random.below(100 * KIB)).min(rest.len()));
        coded.extend(message::chunk(piece));
        rest = after;
    }
    coded.extend(b"0\r\n\r\n");
    let response = exchange(&mut client, "POST", "/_matrix/echo", "Transfer-Encoding: chunked\r\n", &coded)?;
    expect(&response, 200, &body)
}

fn download(visitor: &mut Visitor) -> Result<(), String> {
    let mut client = visitor.connect()?;
    let size = visitor.random.below(16 * MIB);
    let response = exchange(&mut client, "GET", &format!("/_matrix/size/{size}"), "", b"")?;
    expect(&response, 200, &pattern(size))
}

fn long_poll(visitor: &mut Visitor) -> Result<(), String> {
    let mut client = match visitor.kept.take() {
        Some(client) => client,
        None => visitor.connect()?,
    };
    let target = format!("/_matrix/poll/{}", visitor.random.below(3000));
    expect(&exchange(&mut client, "GET", &target, "", b"")?, 200, b"woken")?;
    visitor.kept = Some(client);
    Ok(())
}

fn tunnel(visitor: &mut Visitor) -> Result<(), String> {
    let mut client = visitor.connect()?;
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    send(&mut client, head("GET", "/_matrix/ws", upgrade))?;
    let switched = client.read_head().map_err(|error| format!("{error:?}"))?;
    if switched.status() != 101 {
        return Err(switched.start_line);
    }
    for _ in 0..visitor.random.below(50) {
        let piece = pattern(TUNNEL_PIECE_BYTES);
        send(&mut client, &piece)?;
        let echoed = client.read_exactly(piece.len()).map_err(|(_, end)| format!("tunnel ended: {end:?}"))?;
        if echoed != piece {
            return Err("the tunnel's echo differs".to_owned());
        }
    }
    Ok(())
}

fn slow_reader(visitor: &mut Visitor) -> Result<(), String> {
    let mut client = visitor.connect_small();
    let size = 4 * MIB;
    send(&mut client, head("GET", &format!("/_matrix/size/{size}"), ""))?;
    client.read_head().map_err(|error| format!("{error:?}"))?;
    let mut body = Vec::new();
    while body.len() < size && !visitor.stop.load(Ordering::SeqCst) {
        let piece = client.read_exactly((size - body.len()).min(100 * KIB));
        body.extend(piece.map_err(|(_, end)| format!("download ended: {end:?}"))?);
        pause(20 * MS);
    }
    if pattern(size).starts_with(&body) { Ok(()) } else { Err("a slow download differs".to_owned()) }
}

fn refused(visitor: &mut Visitor) -> Result<(), String> {
    let mut client = visitor.connect()?;
    let (target, fields, body, status) = match visitor.random.below(4) {
        0 => ("/nowhere", "", Vec::new(), 404),
        1 => ("/_matrix/#", "", Vec::new(), 400),
        2 => ("/_synapse/admin/v1/x", "", Vec::new(), 403),
        _ => ("/_matrix/echo", "Content-Length: 20971520\r\n", pattern(20 * MIB), 413),
    };
    let method = if body.is_empty() { "GET" } else { "POST" };
    let response = exchange(&mut client, method, target, fields, &body)?;
    if response.status() == status { Ok(()) } else { Err(format!("{target}: {}", response.head.start_line)) }
}

fn idle(visitor: &mut Visitor) -> Result<(), String> {
    let mut clients: Vec<Client> = (0..20).map(|_| visitor.connect()).collect::<Result<_, _>>()?;
    pause(MS * u32::try_from(visitor.random.below(2000)).unwrap_or(0));
    match clients.iter_mut().all(|client| client.unread().is_empty()) {
        true => Ok(()),
        false => Err("bytes on an idle connection".to_owned()),
    }
}

/// Leaves in the middle: of a handshake, a head, an upload, a download, a long poll; in order or with a reset.
fn leave(visitor: &mut Visitor) -> Result<(), String> {
    let stage = visitor.random.below(6);
    let mut client = if stage == 0 {
        Client::try_connect(visitor.tls).map_err(|error| error.to_string())?
    } else {
        visitor.connect()?
    };
    let begun = match stage {
        0 => b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(),
        1 => Vec::new(),
        2 => head("GET", "/_matrix/small", "")[..20].to_vec(),
        3 => {
            [head("PUT", "/_matrix/echo", "Content-Length: 4000000\r\n"), pattern(visitor.random.below(MIB))]
                .concat()
        }
        4 => head("GET", "/_matrix/size/8000000", ""),
        _ => head("GET", "/_matrix/poll/500", ""),
    };
    send(&mut client, begun)?;
    if stage == 4 {
        client
            .read_exactly(visitor.random.below(MIB))
            .map_err(|(_, end)| format!("download ended: {end:?}"))?;
    }
    if visitor.random.below(2) == 0 {
        client.reset();
    }
    Ok(())
}

fn head(method: &str, target: &str, fields: &str) -> Vec<u8> {
    format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n{fields}\r\n").into_bytes()
}

fn send(client: &mut Client, bytes: impl AsRef<[u8]>) -> Result<(), String> {
    client.set_patience(VISIT_PATIENCE);
    client.try_send(bytes).map_err(|error| format!("cannot send: {error}"))
}

fn exchange(
    client: &mut Client,
    method: &str,
    target: &str,
    fields: &str,
    body: &[u8],
) -> Result<Message, String> {
    send(client, [head(method, target, fields).as_slice(), body].concat())?;
    client.try_response_to(method).map_err(|error| format!("{method} {target}: {error:?}"))
}

fn expect(response: &Message, status: u16, body: &[u8]) -> Result<(), String> {
    if response.status() != status || !response.is_complete() {
        return Err(format!("{} and {:?}", response.head.start_line, response.cut));
    }
    if response.body != body {
        return Err(format!("{} bytes instead of {}, or other ones", response.body.len(), body.len()));
    }
    Ok(())
}

/// Sebastiano Vigna's `SplitMix64`: small, and good enough to vary traffic.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.0;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^= word >> 31;
        usize::try_from(word % u64::try_from(bound).unwrap_or(1)).unwrap_or(0)
    }
}

fn seed_from_clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::from(since.subsec_nanos()))
}

/// How long it runs if nothing is said, in minutes: long enough to see growth, short enough to try.
const MINUTES_DEFAULT: f64 = 1.0;

/// Longest first spell: pools, tickets and allocator have seen everything by then.
const FIRST_SPELL_MAX: Duration = Duration::from_secs(60);

/// Longest rest before a measurement: above every deadline of the configuration, and what allocators need to give back.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(45);

/// Shortest rest: the configured idle times have passed then.
const SETTLE_TIME_MIN: Duration = Duration::from_secs(8);

/// Time between two looks while resting.
const SETTLE_STEP: Duration = Duration::from_secs(1);

/// Changes of resident memory that mean nothing, in KiB.
const KIB_OF_NOISE: u64 = 256;

/// What resident memory may gain beside its quarter, in KiB: a few pooled buffers of 256 KiB for each worker.
const RESIDENT_SLACK_KIB: u64 = 4096;

/// Samples printed in a spell.
const SAMPLES: u32 = 30;

/// Bytes that cross a tunnel at once: some WebSocket frames' worth.
const TUNNEL_PIECE_BYTES: usize = 4096;

/// How long a visitor waits for anything: the machine may be busy, a hang is longer.
const VISIT_PATIENCE: Duration = Duration::from_secs(30);

/// How many faults are printed: the first ones tell the story.
const FAULTS_SHOWN_MAX: usize = 20;
