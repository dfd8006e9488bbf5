//! Who uses the proxy meanwhile, and what the homeserver answers.
//!
//! Clients behave like real ones: they send the next request over the same connection after a pause, open another one when an
//! answer says `Connection: close`, and never send a request twice. So whatever is lost is seen.
#![forbid(unsafe_code)]

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringfence_tests::client::HOST;
use ringfence_tests::{Authority, Client, KIB, MS, Message, Peer, Proxy, SECOND, message, pattern, pause};
use rustls::ClientConfig;

use crate::{HAND_OVER, tally::Tally};

/// Everybody, until they are told to leave.
pub(crate) struct Crowd {
    threads: Vec<JoinHandle<()>>,
    stop: Arc<AtomicBool>,
}

/// What came of a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Taken {
    /// The right answer; the connection lives on.
    Right,
    /// The right answer, and the last one: it says `Connection: close`.
    Last,
    /// None, or a wrong one.
    Fault,
}

/// One of them.
struct Visitor {
    number: u64,
    to: SocketAddr,
    tls: Option<Arc<ClientConfig>>,
    random: u64,
    stop: Arc<AtomicBool>,
    tally: Arc<Tally>,
}

type Way = fn(&mut Visitor);

/// What they do, how many of them, and whether at the listener that comes and goes; half of the others over TLS.
const KINDS: &[(Way, u64, bool)] = &[
    (keep_alive, 500, false),
    (long_poll, 100, false),
    (tunnel, 20, false),
    (pipeline, 10, false),
    (come_and_go, 8, false),
    (visit_spare, 4, true),
    (stay_at_spare, 10, true),
];

impl Crowd {
    /// Lets them come.
    pub(crate) fn gather(proxy: &Proxy, spare: SocketAddr, seed: u64, tally: &Arc<Tally>) -> Crowd {
        let (tls, plain) = (proxy.addresses[0], proxy.addresses[1]);
        let stop = Arc::new(AtomicBool::new(false));
        let config = Authority::shared().client_config();
        let mut threads = Vec::new();
        for &(kind, count, at_spare) in KINDS {
            for index in 0..count {
                let number = threads.len() as u64;
                let is_tls = !at_spare && index % 2 == 0;
                let mut visitor = Visitor {
                    number,
                    to: if at_spare {
                        spare
                    } else if is_tls {
                        tls
                    } else {
                        plain
                    },
                    tls: is_tls.then(|| config.clone()),
                    random: seed.wrapping_add(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
                    stop: stop.clone(),
                    tally: tally.clone(),
                };
                let thread = thread::Builder::new().stack_size(STACK_BYTES);
                threads.push(thread.spawn(move || kind(&mut visitor)).expect("a thread"));
            }
        }
        Crowd { threads, stop }
    }

    /// Lets them go, each after its last answer.
    pub(crate) fn leave(self, tally: &Tally) {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            if thread.join().is_err() {
                tally.fault("a visitor gave up".to_owned());
            }
        }
    }
}

impl Visitor {
    fn stays(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// Below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random % bound
    }

    fn rest(&mut self) {
        let time = Duration::from_millis(self.below(300));
        pause(time);
    }

    fn fault(&self, what: &str) {
        self.tally.fault(format!("visitor {} ({}): {what}", self.number, self.to));
    }

    fn connect(&self) -> Option<Client> {
        let made = match &self.tls {
            None => Client::try_connect(self.to).map_err(|error| error.to_string()),
            Some(config) => Client::tls_with(self.to, HOST, config.clone()),
        };
        match made {
            Ok(client) => {
                Tally::add(&self.tally.connections, 1);
                Some(client)
            }
            Err(error) => {
                self.fault(&format!("no connection: {error}"));
                pause(100 * MS);
                None
            }
        }
    }

    /// One request and its answer, as [`take`](Self::take).
    fn ask(&mut self, client: &mut Client, round: u64) -> Taken {
        let size = if self.below(20) == 0 { 20 * KIB } else { 200 };
        let (method, body) = match self.below(4) {
            0 => ("POST", pattern(300)),
            1 => ("PUT", pattern(4 * KIB)),
            _ => ("GET", Vec::new()),
        };
        let target = format!("/_matrix/years/{}/{round}?size={size}", self.number);
        let length =
            if method == "GET" { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {HOST}\r\n{length}\r\n");
        let _ = client.try_send([head.as_bytes(), &body].concat());
        self.take(client, method, &expected(&target, &body, size))
    }

    /// Takes an answer; what is wrong with it is noted.
    fn take(&self, client: &mut Client, method: &str, expected: &[u8]) -> Taken {
        match client.try_response_to(method) {
            Ok(answer) if answer.status() == 200 && answer.cut.is_none() && answer.body == expected => {
                Tally::add(&self.tally.requests, 1);
                let closes = answer.head.lists("connection", "close");
                Tally::add(&self.tally.told_to_close, u64::from(closes));
                if closes { Taken::Last } else { Taken::Right }
            }
            Ok(answer) => {
                let text: String = answer.text().chars().take(200).collect();
                self.fault(&format!("{method}: {} cut {:?} {text:?}", answer.status(), answer.cut));
                Taken::Fault
            }
            Err(error) => {
                self.fault(&format!("{method}: no answer: {error:?}"));
                Taken::Fault
            }
        }
    }
}

fn keep_alive(visitor: &mut Visitor) {
    let mut kept: Option<Client> = None;
    for round in 0.. {
        if !visitor.stays() {
            break;
        }
        let Some(mut client) = kept.take().or_else(|| visitor.connect()) else { continue };
        if visitor.ask(&mut client, round) == Taken::Right {
            kept = Some(client);
        }
        visitor.rest();
    }
}

fn long_poll(visitor: &mut Visitor) {
    let mut kept: Option<Client> = None;
    while visitor.stays() {
        let Some(mut client) = kept.take().or_else(|| visitor.connect()) else { continue };
        client.set_patience(LONG_POLL_MAX + 10 * SECOND);
        let wait = 1000 + visitor.below(u64::try_from(LONG_POLL_MAX.as_millis()).unwrap_or(0) - 1000);
        let target = format!("/_matrix/client/v3/sync?since={}&wait={wait}", visitor.number);
        let _ = client.try_send(format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        let taken = visitor.take(&mut client, "GET", &expected(&target, b"", 0));
        Tally::add(&visitor.tally.long_polls, u64::from(taken != Taken::Fault));
        if taken == Taken::Right {
            kept = Some(client);
        }
    }
}

fn tunnel(visitor: &mut Visitor) {
    while visitor.stays() {
        let opened = Instant::now();
        let Some(mut client) = visitor.connect() else { continue };
        let _ = client.try_send(format!(
            "GET /_matrix/years/tunnel HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
        ));
        match client.read_head() {
            Ok(head) if head.status() == 101 => Tally::add(&visitor.tally.tunnels, 1),
            other => {
                visitor.fault(&format!("no tunnel: {other:?}"));
                continue;
            }
        }
        while visitor.stays() {
            if client.try_send("ping").is_ok() && client.read_exactly(4).is_ok_and(|echo| echo == b"ping") {
                Tally::add(&visitor.tally.echoes, 1);
                visitor.rest();
                continue;
            }
            let cut = Instant::now();
            match visitor.tally.hand_over_after(opened) {
                Some(begun) if cut >= begun + HAND_OVER => Tally::add(&visitor.tally.tunnels_cut_in_time, 1),
                Some(begun) => visitor.fault(&format!("tunnel cut {:?} after an upgrade", cut - begun)),
                None => visitor.fault("tunnel cut although nobody has upgraded"),
            }
            break;
        }
    }
}

/// Three requests at once. What stands behind an answer that says `Connection: close` is asked again elsewhere.
fn pipeline(visitor: &mut Visitor) {
    let mut kept: Option<Client> = None;
    while visitor.stays() {
        let Some(mut client) = kept.take().or_else(|| visitor.connect()) else { continue };
        let target = |part: u64| format!("/_matrix/years/pipelined/{part}");
        let requests: String =
            (0..3).map(|part| format!("GET {} HTTP/1.1\r\nHost: {HOST}\r\n\r\n", target(part))).collect();
        let _ = client.try_send(requests);
        let mut left = 3;
        let mut answers =
            (0..3).map(|part| visitor.take(&mut client, "GET", &expected(&target(part), b"", 0)));
        let last = answers.by_ref().inspect(|_| left -= 1).find(|taken| *taken != Taken::Right);
        match last {
            None => kept = Some(client),
            Some(_) => Tally::add(&visitor.tally.pipelined_again, left),
        }
        visitor.rest();
    }
}

/// A connection for each request.
fn come_and_go(visitor: &mut Visitor) {
    for round in 0.. {
        if !visitor.stays() {
            break;
        }
        if let Some(mut client) = visitor.connect() {
            visitor.ask(&mut client, round);
        }
        pause(5 * MS);
    }
}

/// At the listener that comes and goes: refused while it is away, and served once connected.
fn visit_spare(visitor: &mut Visitor) {
    for round in 0.. {
        if !visitor.stays() {
            break;
        }
        if let Some(mut client) = connect_to_spare(visitor) {
            visitor.ask(&mut client, round);
        }
        pause(5 * MS);
    }
}

/// Connections there end with an answer that says so.
fn stay_at_spare(visitor: &mut Visitor) {
    let mut kept: Option<Client> = None;
    for round in 0.. {
        if !visitor.stays() {
            break;
        }
        if let Some(mut client) = kept.take().or_else(|| connect_to_spare(visitor))
            && visitor.ask(&mut client, round) == Taken::Right
        {
            kept = Some(client);
        }
        visitor.rest();
    }
}

fn connect_to_spare(visitor: &Visitor) -> Option<Client> {
    match Client::try_connect(visitor.to) {
        Ok(client) => {
            Tally::add(&visitor.tally.connections, 1);
            Some(client)
        }
        Err(error) => {
            match error.kind() {
                ErrorKind::ConnectionRefused => Tally::add(&visitor.tally.spare_refused, 1),
                _ => visitor.fault(&format!("no connection: {error}")),
            }
            pause(50 * MS);
            None
        }
    }
}

/// The homeserver's side of a connection.
pub(crate) fn serve(peer: &mut Peer) {
    while let Some(request) = peer.request() {
        if request.head.lists("connection", "upgrade") {
            return echo(peer);
        }
        if let Some(wait) = parameter(&request, "wait") {
            pause(Duration::from_millis(wait));
        }
        let size = usize::try_from(parameter(&request, "size").unwrap_or(0)).unwrap_or(0);
        let answer = message::ok(expected(request.head.target(), &request.body, size));
        if peer.try_send(answer).is_err() {
            return;
        }
        // Connections in the pool may rest for long.
        peer.set_patience(Duration::from_secs(600));
    }
}

fn echo(peer: &mut Peer) {
    peer.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    while let Ok(bytes) = peer.read_exactly(4) {
        if peer.try_send(bytes).is_err() {
            return;
        }
    }
}

fn parameter(request: &Message, name: &str) -> Option<u64> {
    let (_, rest) = request.head.target().split_once(&format!("{name}="))?;
    rest.split('&').next()?.parse().ok()
}

/// What is answered: what was asked, so that an answer to another question is seen.
fn expected(target: &str, body: &[u8], size: usize) -> Vec<u8> {
    [format!("{target} {}\n", body.len()).as_bytes(), body, &pattern(size)].concat()
}

/// The longest long poll: shorter than the hand-over, so that each is answered.
const LONG_POLL_MAX: Duration = Duration::from_secs(10);

/// Stack of a visitor's thread, in bytes: a TLS handshake in a debug build, and not 8 MiB a thread.
const STACK_BYTES: usize = 1 << 20;
