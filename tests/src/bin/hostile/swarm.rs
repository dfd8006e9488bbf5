//! Thousands of attacking connections on one thread, each of which follows the same [`Script`].
//!
//! A connection that the proxy ends is opened again, so that their number stays what the attack wants. The thread gives
//! way to the good clients and the origin on its core: what they wait for is the proxy and not the attacker.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringfence_tests::KIB;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use socket2::{Domain, SockRef, Socket, Type};

/// What every connection of an attack does.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Sent at once.
    pub(crate) opening: Vec<u8>,
    /// Sent then, again and again.
    pub(crate) refrain: Vec<u8>,
    /// How often; `None`: as fast as it is taken.
    pub(crate) every: Option<Duration>,
    /// What becomes of answers.
    pub(crate) reading: Reading,
    /// When the attacker itself ends a connection, to open the next.
    pub(crate) leaving: Leaving,
    /// Where connections come from.
    pub(crate) sources: Sources,
    /// Connections opened at most each second.
    pub(crate) openings_per_second: usize,
    /// Connections held at most.
    pub(crate) connections_max: usize,
}

/// What becomes of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reading {
    /// They are read and thrown away.
    All,
    /// They stay where they are, behind a small receive window.
    Nothing,
    /// A byte is taken each time that the refrain is sent.
    Dribble,
}

/// When the attacker itself ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Leaving {
    /// It does not.
    Never,
    /// By a reset as soon as the opening is sent.
    AtOnce,
    /// By a reset at the first bytes of an answer.
    AtFirstBytes,
}

/// Where connections come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sources {
    /// A hundred from each of many addresses, below any limit for one.
    Many,
    /// All from one.
    One,
}

/// What came of an attack.
#[derive(Clone, Debug, Default)]
pub(crate) struct Outcome {
    /// Most connections that were open at one time.
    pub(crate) held_max: usize,
    /// Connections opened.
    pub(crate) opened: u64,
    /// Of those, ended by the proxy.
    pub(crate) ended: u64,
    /// Attempts that failed.
    pub(crate) failed: u64,
    /// The longest life of a connection, in milliseconds, of those ended by the proxy and of those still there.
    pub(crate) oldest_ms: u128,
    /// Status codes that connections were answered first, and how often.
    pub(crate) statuses: BTreeMap<String, u64>,
    /// Bytes that the proxy took.
    pub(crate) sent: u64,
    /// Bytes that came back.
    pub(crate) received: u64,
}

/// Connections that are not opened here, as they come.
pub(crate) type Prepared = Receiver<std::io::Result<TcpStream>>;

/// A running attack.
pub(crate) struct Swarm {
    stop: Arc<AtomicBool>,
    attacking: JoinHandle<Outcome>,
}

impl Swarm {
    /// Attacks `to` with `count` connections, opened here or `prepared` elsewhere.
    pub(crate) fn start(script: Script, to: SocketAddr, count: usize, prepared: Option<Prepared>) -> Swarm {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let attacking = thread::spawn(move || {
            give_way();
            Attack::new(script, to, count, prepared).run(&stopped)
        });
        Swarm { stop, attacking }
    }

    /// Closes every connection and tells what came of them.
    pub(crate) fn end(self) -> Outcome {
        self.stop.store(true, Ordering::SeqCst);
        self.attacking.join().expect("the attack's thread does not panic")
    }
}

struct Attack {
    script: Script,
    to: SocketAddr,
    epoll: rustix::fd::OwnedFd,
    slots: Vec<Option<Connection>>,
    /// Where connections come from that are not opened here.
    prepared: Option<Prepared>,
    open: usize,
    begun: Instant,
    refrained: u64,
    outcome: Outcome,
    scratch: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    opened: Instant,
    /// Bytes of the opening, and then of the refrain, that have been taken.
    sent: usize,
    is_answered: bool,
}

/// What a connection's turn leaves it in.
#[derive(PartialEq, Eq)]
enum Turn {
    Stays,
    EndedByProxy,
    Left,
}

impl Attack {
    fn new(script: Script, to: SocketAddr, count: usize, prepared: Option<Prepared>) -> Attack {
        Attack {
            script,
            to,
            epoll: epoll::create(CreateFlags::CLOEXEC).expect("an epoll instance"),
            slots: (0..count).map(|_| None).collect(),
            prepared,
            open: 0,
            begun: Instant::now(),
            refrained: 0,
            outcome: Outcome::default(),
            scratch: vec![0; 16 * KIB],
        }
    }

    fn run(mut self, stop: &AtomicBool) -> Outcome {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let timeout = Timespec { tv_sec: 0, tv_nsec: TURN_NANOSECONDS };
        while !stop.load(Ordering::SeqCst) {
            self.refill();
            self.refrain();
            events.clear();
            let _ = epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout));
            for event in &events {
                self.turn(usize::try_from(event.data.u64()).unwrap_or(0), event.flags);
            }
        }
        let alive = self.slots.iter().flatten().map(|connection| connection.opened.elapsed().as_millis());
        self.outcome.oldest_ms = alive.max().unwrap_or(0).max(self.outcome.oldest_ms);
        self.outcome
    }

    /// Opens connections where there are none, as many as the rate allows by now.
    fn refill(&mut self) {
        if self.open == self.slots.len() {
            return;
        }
        let allowed = self.begun.elapsed().as_millis() * self.script.openings_per_second as u128 / 1000;
        let allowed = u64::try_from(allowed).unwrap_or(u64::MAX);
        let mut room =
            usize::try_from(allowed.saturating_sub(self.attempts())).unwrap_or(0).min(OPENINGS_PER_TURN);
        for index in 0..self.slots.len() {
            if room == 0 {
                break;
            }
            if self.slots[index].is_none() {
                room -= 1;
                match self.next(index) {
                    Some(Ok(stream)) => self.adopt(index, stream),
                    Some(Err(_)) => self.outcome.failed += 1,
                    None => return,
                }
            }
        }
    }

    /// A connection for this slot, if one is to be had by now.
    fn next(&self, index: usize) -> Option<std::io::Result<TcpStream>> {
        match &self.prepared {
            Some(prepared) => prepared.try_recv().ok(),
            None => Some(open(source(self.script.sources, index), self.to, self.script.reading)),
        }
    }

    fn attempts(&self) -> u64 {
        self.outcome.opened + self.outcome.failed
    }

    fn adopt(&mut self, index: usize, stream: TcpStream) {
        let _ = stream.set_nonblocking(true);
        if epoll::add(
            &self.epoll,
            &stream,
            EventData::new_u64(index as u64),
            EventFlags::OUT | EventFlags::RDHUP,
        )
        .is_err()
        {
            self.outcome.failed += 1;
            return;
        }
        let connection = Connection { stream, opened: Instant::now(), sent: 0, is_answered: false };
        self.slots[index] = Some(connection);
        self.outcome.opened += 1;
        self.open += 1;
        self.outcome.held_max = self.outcome.held_max.max(self.open);
    }

    /// Sends the refrain on the share of connections whose time it is.
    fn refrain(&mut self) {
        let Some(every) = self.script.every.filter(|_| !self.script.refrain.is_empty()) else { return };
        let count = self.slots.len() as u128;
        let due = self.begun.elapsed().as_nanos() * count / every.as_nanos();
        let due = u64::try_from(due).unwrap_or(u64::MAX);
        // Nobody is asked twice in one turn, however late it is.
        self.refrained = self.refrained.max(due.saturating_sub(self.slots.len() as u64));
        while self.refrained < due {
            let index = usize::try_from(self.refrained % self.slots.len() as u64).unwrap_or(0);
            self.refrained += 1;
            let Some(connection) = &mut self.slots[index] else { continue };
            if connection.sent < self.script.opening.len() {
                continue;
            }
            if self.script.reading == Reading::Dribble {
                self.outcome.received += connection.stream.read(&mut [0]).unwrap_or(0) as u64;
            } else if let Ok(sent) = connection.stream.write(&self.script.refrain) {
                self.outcome.sent += sent as u64;
            }
        }
    }

    fn turn(&mut self, index: usize, flags: EventFlags) {
        let Some(connection) = &mut self.slots[index] else { return };
        let opening = connection.sent < self.script.opening.len();
        let floods = self.script.every.is_none() && !self.script.refrain.is_empty();
        let mut turn = if flags.intersects(EventFlags::ERR | EventFlags::HUP) {
            Turn::EndedByProxy
        } else {
            Turn::Stays
        };
        if turn == Turn::Stays && flags.contains(EventFlags::OUT) && (opening || floods) {
            turn = connection.write(&self.script, &mut self.outcome);
        }
        if turn != Turn::Left && (flags.contains(EventFlags::IN) || turn == Turn::EndedByProxy) {
            let read = connection.read(&self.script, &mut self.outcome, &mut self.scratch);
            turn = if turn == Turn::EndedByProxy { turn } else { read };
        }
        // A client that does not read would never see the end of the stream; the event tells of it.
        if turn == Turn::Stays && flags.contains(EventFlags::RDHUP) && self.script.reading != Reading::All {
            turn = Turn::EndedByProxy;
        }
        if turn == Turn::Stays {
            let interest = connection.interest(&self.script);
            let _ =
                epoll::modify(&self.epoll, &connection.stream, EventData::new_u64(index as u64), interest);
            return;
        }
        self.close(index, &turn);
    }

    fn close(&mut self, index: usize, turn: &Turn) {
        let Some(connection) = self.slots[index].take() else { return };
        self.open -= 1;
        if *turn == Turn::EndedByProxy {
            self.outcome.ended += 1;
            self.outcome.oldest_ms = self.outcome.oldest_ms.max(connection.opened.elapsed().as_millis());
        } else {
            let _ = SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl Connection {
    /// What to wait for next.
    fn interest(&self, script: &Script) -> EventFlags {
        let mut interest = EventFlags::RDHUP;
        let floods = script.every.is_none() && !script.refrain.is_empty();
        if self.sent < script.opening.len() || floods {
            interest |= EventFlags::OUT;
        }
        if script.reading == Reading::All {
            interest |= EventFlags::IN;
        }
        interest
    }

    fn write(&mut self, script: &Script, outcome: &mut Outcome) -> Turn {
        let opening = script.opening.len();
        let bytes = match self.sent.checked_sub(opening) {
            None => &script.opening[self.sent..],
            Some(refrain) => &script.refrain[refrain % script.refrain.len()..],
        };
        match self.stream.write(bytes) {
            Ok(sent) => {
                self.sent += sent;
                outcome.sent += sent as u64;
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Turn::EndedByProxy,
        }
        let leaves = script.leaving == Leaving::AtOnce && self.sent >= opening;
        if leaves { Turn::Left } else { Turn::Stays }
    }

    fn read(&mut self, script: &Script, outcome: &mut Outcome, scratch: &mut [u8]) -> Turn {
        match self.stream.read(scratch) {
            Ok(0) => return Turn::EndedByProxy,
            Ok(read) => {
                outcome.received += read as u64;
                if !std::mem::replace(&mut self.is_answered, true) {
                    *outcome.statuses.entry(status(&scratch[..read])).or_default() += 1;
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(_) => return Turn::EndedByProxy,
        }
        if script.leaving == Leaving::AtFirstBytes && self.is_answered { Turn::Left } else { Turn::Stays }
    }
}

/// Lets the other threads of the load go first.
pub(crate) fn give_way() {
    // Failing leaves it as eager as they are.
    let _ = rustix::process::setpriority_process(None, ATTACKER_NICE);
}

/// The status code that an answer begins with, or what it is instead.
fn status(bytes: &[u8]) -> String {
    match bytes {
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', _, b' ', digits @ ..] if digits.len() >= 3 => {
            String::from_utf8_lossy(&digits[..3]).into_owned()
        }
        [21, ..] => "alert".to_owned(),
        [22, ..] => "handshake".to_owned(),
        _ => "other".to_owned(),
    }
}

/// The address that connection `index` comes from.
pub(crate) fn source(sources: Sources, index: usize) -> IpAddr {
    let index = u8::try_from(index / CONNECTIONS_PER_ADDRESS).unwrap_or(u8::MAX);
    match sources {
        Sources::Many => Ipv4Addr::new(127, 1, index, 1).into(),
        Sources::One => Ipv4Addr::new(127, 9, 9, 9).into(),
    }
}

/// Begins to connect; whether it succeeds shows later.
fn open(from: IpAddr, to: SocketAddr, reading: Reading) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_nonblocking(true)?;
    // What this end keeps for itself is not the proxy's: neither what it has not sent nor what it has not read.
    socket.set_send_buffer_size(SMALL_BUFFER_BYTES)?;
    if reading != Reading::All {
        socket.set_recv_buffer_size(SMALL_WINDOW_BYTES)?;
    }
    socket.bind(&SocketAddr::new(from, 0).into())?;
    match socket.connect(&to.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(error) => return Err(error),
    }
    Ok(socket.into())
}

/// How nice the attacker is to the good clients and the origin: a tenth of their weight.
const ATTACKER_NICE: i32 = 10;

/// Connections from one address, where there are many addresses.
const CONNECTIONS_PER_ADDRESS: usize = 100;

/// The receive buffer of clients that read little or nothing, in bytes: what they hold is not the proxy's.
pub(crate) const SMALL_WINDOW_BYTES: usize = 4 * KIB;

/// The send buffer of an attacking connection, in bytes.
const SMALL_BUFFER_BYTES: usize = 16 * KIB;

/// How long one turn waits for events, in nanoseconds: as exact as a refrain's time has to be.
const TURN_NANOSECONDS: i64 = 5_000_000;

/// Connections opened in one turn, so that the others get theirs.
const OPENINGS_PER_TURN: usize = 64;

/// Events taken at once.
const EVENTS_MAX: usize = 512;
