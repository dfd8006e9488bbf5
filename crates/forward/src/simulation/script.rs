//! Both sides of the proxy as one script says: what a fuzzer plays, byte by byte and event by event.
//!
//! [`play`] runs the proxy's real code between the script's parties and tells what passed. What that has to be is
//! judged outside (`fuzz/src/exchange.rs`); here is only seen to what no bytes show: that no wait has no end, that
//! nothing spins, and that every buffer comes back.
//!
//! A script is two bytes of seed (capacities, timeouts, awkwardness of the transports, order of tasks) and then bytes
//! that clients and origins send. 0xff is no byte of them: with the byte behind it, it says who sends what follows, or
//! what happens now, see [`Cue`]. After each cue the proxy works until it waits.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::pending,
    io::{self, IoSlice},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use super::{
    executor::Role,
    snapshot,
    wire::{Ended, Log, Wire},
    world::{Simulated, World},
};
use crate::{
    allowance::Allowances,
    environment::Environment,
    front,
    peer::Peer,
    snapshot::{Action, PathMatch, Snapshot},
    transport::{Transport, pipe::Pipe},
    worker::{Live, Worker},
};

/// What passed over every connection of a script.
#[derive(Debug)]
pub struct Transcript {
    /// Connections of clients, in the order in which they were opened.
    pub clients: Vec<Passed>,
    /// Connections to origins, in the order in which they were dialled.
    pub origins: Vec<Passed>,
    /// After each turn in which something was written to an origin: which, and how many bytes that made in all.
    pub asked: Vec<(usize, usize)>,
}

/// What passed over a connection.
#[derive(Debug)]
pub struct Passed {
    /// What the peer sent, arrived or not.
    pub sent: Vec<u8>,
    /// The peer closed its direction in order.
    pub closed: bool,
    /// What the proxy wrote.
    pub written: Vec<u8>,
    /// The proxy's writes.
    pub writes: Vec<Write>,
    /// The proxy ended the connection by a reset, and not in order.
    pub reset: bool,
}

/// A write of the proxy.
#[derive(Clone, Copy, Debug)]
pub struct Write {
    /// Where it begins among the bytes written.
    pub at: usize,
    /// Bytes that the proxy had read on this connection by then.
    pub read: usize,
    /// Bytes that it could have read.
    pub unread: usize,
}

/// Content that the proxy takes in one request, in bytes: so few that an input of a fuzzer can exceed them.
pub const CONTENT_BYTES_MAX: u64 = 1000;

/// Field lines of a head. With those that the proxy adds they stay below the 100 that the judge takes.
pub const FIELD_COUNT_MAX: usize = 90;

/// Connections of clients, and connections to origins, in one script. Enough to take turns at a pooled one.
const CONNECTIONS_MAX: usize = 4;

/// Cues of one script that are followed; an input of a fuzzer needs no more.
const CUES_MAX: usize = 400;

/// Polls of one script that mean that it has no end; the longest ones take some thousands.
const POLLS_MAX: usize = 1_000_000;

/// How long a connection may see no movement: two waits of 12 s on different peers, one after the other, and a linger.
const SILENCE_MAX: Duration = Duration::from_secs(40);

/// Plays a script to its end.
///
/// # Errors
/// What went wrong with time or memory.
///
/// # Panics
/// As the code under test does, and when a task is polled again and again without any movement.
pub fn play(script: &[u8]) -> Result<Transcript, String> {
    let (seed, script) = script.split_at(script.len().min(2));
    let seed = seed.iter().fold(0, |seed, byte| seed << 8 | u64::from(*byte));
    let stage = Stage::new(seed);
    let result = stage.perform(script);
    // Tasks and world hold each other.
    stage.world.executor.cancel(Role::Connection);
    result.map(|()| stage.into_transcript())
}

/// What a byte behind 0xff says.
#[derive(Clone, Copy, Debug)]
enum Cue {
    /// `0` to `3`: what follows is sent by this client, which connects if it has not.
    Client(usize),
    /// `a` to `d`: by the origin, on the connection that was dialled first, second and so on.
    Origin(usize),
    /// `o`: by the origin on the connection that was dialled last.
    LastOrigin,
    /// `f`: the sender closes its direction.
    Close,
    /// `r`: the sender resets its connection.
    Reset,
    /// `x`: the sender closes its connection and reads no more.
    Leave,
    /// `s`, `g`: the sender stops reading; it goes on.
    Deafen,
    Listen,
    /// `w`: nothing happens until the next deadline.
    Wait,
    /// `n`, `h`: the next dialling is refused; it is not answered.
    RefuseDialling,
    IgnoreDialling,
    /// `D`, `L`, `S`: the worker drains, gets a new configuration, sweeps its pools.
    Drain,
    Reload,
    Sweep,
    /// Anything else: what was sent comes in a piece of its own.
    Split,
}

impl Cue {
    fn of(byte: u8) -> Cue {
        match byte {
            b'0'..=b'3' => Cue::Client(usize::from(byte - b'0')),
            b'a'..=b'd' => Cue::Origin(usize::from(byte - b'a')),
            b'o' => Cue::LastOrigin,
            b'f' => Cue::Close,
            b'r' => Cue::Reset,
            b'x' => Cue::Leave,
            b's' => Cue::Deafen,
            b'g' => Cue::Listen,
            b'w' => Cue::Wait,
            b'n' => Cue::RefuseDialling,
            b'h' => Cue::IgnoreDialling,
            b'D' => Cue::Drain,
            b'L' => Cue::Reload,
            b'S' => Cue::Sweep,
            _ => Cue::Split,
        }
    }
}

/// The marker before a cue.
const CUE: u8 = 0xff;

struct Stage {
    world: Rc<World>,
    worker: Rc<Worker<Simulated>>,
    clients: RefCell<Vec<Party>>,
    origins: Rc<Origins>,
    asked: RefCell<Vec<(usize, usize)>>,
    polls: Cell<usize>,
}

/// Who sends what comes next.
#[derive(Clone, Copy)]
enum Sender {
    Client(usize),
    Origin(usize),
    Nobody,
}

/// What becomes of the next dialling.
#[derive(Clone, Copy, Default)]
enum Dialling {
    #[default]
    Accepted,
    Refused,
    Ignored,
}

impl Stage {
    fn new(seed: u64) -> Stage {
        let world = World::new(seed, 2);
        let origins = world.origins_of_script.get_or_init(Rc::default).clone();
        let env = Simulated(world.clone());
        let allowances = Allowances::new(env.now());
        let worker = Worker::new(env, open_snapshot(&world), None, Arc::default(), allowances, 1);
        Stage {
            world,
            worker,
            clients: RefCell::default(),
            origins,
            asked: RefCell::default(),
            polls: Cell::default(),
        }
    }

    fn perform(&self, script: &[u8]) -> Result<(), String> {
        let mut sender = self.client(0);
        // No cue stands before the first bytes.
        let mut rest = script;
        for _ in 0..CUES_MAX {
            let end = rest.iter().position(|byte| *byte == CUE).unwrap_or(rest.len());
            self.with(sender, |party| party.send(&rest[..end]));
            self.settle()?;
            let Some(cue) = rest.get(end + 1) else { break };
            sender = self.follow(Cue::of(*cue), sender);
            rest = &rest[end + 2..];
        }
        self.settle()?;
        self.wait_for_the_end()
    }

    /// Does what a cue says; returns who sends from here on.
    fn follow(&self, cue: Cue, sender: Sender) -> Sender {
        match cue {
            Cue::Client(index) => return self.client(index),
            Cue::Origin(index) => return Sender::Origin(index),
            Cue::LastOrigin => {
                let dialled = self.origins.parties.borrow().len();
                return dialled.checked_sub(1).map_or(Sender::Nobody, Sender::Origin);
            }
            Cue::Close => self.with(sender, |party| party.deeds.push_back(Deed::Close)),
            Cue::Reset => self.with(sender, |party| party.deeds.push_back(Deed::Reset)),
            Cue::Leave => self.with(sender, |party| party.deeds.push_back(Deed::Leave)),
            Cue::Deafen => self.with(sender, |party| party.deaf = true),
            Cue::Listen => self.with(sender, |party| party.deaf = false),
            Cue::Wait => {
                self.world.advance();
            }
            Cue::RefuseDialling => self.origins.next.set(Dialling::Refused),
            Cue::IgnoreDialling => self.origins.next.set(Dialling::Ignored),
            Cue::Drain => self.worker.drain(),
            Cue::Reload => self.worker.apply(open_snapshot(&self.world)),
            Cue::Sweep => self.worker.sweep(),
            Cue::Split => {}
        }
        sender
    }

    /// The client of this number, or the next one that there is not yet.
    fn client(&self, index: usize) -> Sender {
        let mut clients = self.clients.borrow_mut();
        if index < clients.len() {
            return Sender::Client(index);
        }
        if clients.len() == CONNECTIONS_MAX || self.worker.draining.get() {
            return Sender::Nobody;
        }
        let index = clients.len();
        let (near, far) = Pipe::pair(self.world.capacity());
        let (wire, log) = Wire::new(self.world.clone(), near);
        let worker = self.worker.clone();
        let task = self.world.executor.spawn(Role::Connection, async move {
            let peer = Peer { listener: 0, address: client_address(index), tls: None };
            front::serve_connection(&worker, &wire, &peer).await;
        });
        clients.push(Party::new(far, log, Some((task, self.world.now()))));
        Sender::Client(index)
    }

    fn with(&self, sender: Sender, act: impl FnOnce(&mut Party)) {
        let (parties, index) = match sender {
            Sender::Client(index) => (&self.clients, index),
            Sender::Origin(index) => (&self.origins.parties, index),
            Sender::Nobody => return,
        };
        if let Some(party) = parties.borrow_mut().get_mut(index) {
            act(party);
        }
    }

    /// Lets everybody work until all wait for something.
    fn settle(&self) -> Result<(), String> {
        loop {
            while self.world.executor.step(&self.world.rng) {
                self.world.count_work();
                self.note_asked();
                self.polls.set(self.polls.get() + 1);
                if self.polls.get() > POLLS_MAX {
                    return Err("it goes on and on".into());
                }
            }
            self.world.verdict()?;
            let mut moved = false;
            for party in
                self.clients.borrow_mut().iter_mut().chain(self.origins.parties.borrow_mut().iter_mut())
            {
                moved |= party.act();
            }
            if !moved {
                return self.look();
            }
        }
    }

    fn note_asked(&self) {
        let mut asked = self.asked.borrow_mut();
        for (index, origin) in self.origins.parties.borrow_mut().iter_mut().enumerate() {
            let written = origin.log.written.borrow().len();
            if written > origin.noted {
                origin.noted = written;
                asked.push((index, written));
            }
        }
    }

    /// Whether some connection waits beyond every deadline.
    fn look(&self) -> Result<(), String> {
        let (world, now) = (&self.world, self.world.now());
        for (index, client) in self.clients.borrow().iter().enumerate() {
            let Some((task, opened)) = client.task.filter(|_| !client.log.dropped.get()) else { continue };
            let silence = now - world.moved_at(task).max(opened);
            if silence > SILENCE_MAX {
                return Err(format!("client {index}: nothing has moved for {silence:?}"));
            }
        }
        Ok(())
    }

    /// Nobody does anything more: every connection has to end by itself, and every buffer to come back.
    fn wait_for_the_end(&self) -> Result<(), String> {
        while self.world.executor.alive() > 0 {
            if !self.world.advance() {
                return Err("a connection waits for nothing".into());
            }
            self.settle()?;
        }
        // What is left are pooled connections.
        self.worker.drain();
        self.worker.live.replace(Live::new(open_snapshot(&self.world)));
        match self.worker.buffers.out() {
            0 => self.world.verdict(),
            out => Err(format!("{out} buffers did not come back")),
        }
    }

    fn into_transcript(self) -> Transcript {
        let passed = |parties: &RefCell<Vec<Party>>| parties.take().into_iter().map(Passed::of).collect();
        Transcript {
            clients: passed(&self.clients),
            origins: passed(&self.origins.parties),
            asked: self.asked.take(),
        }
    }
}

impl Passed {
    fn of(party: Party) -> Passed {
        let writes = party.log.turns.take().into_iter();
        Passed {
            sent: party.sent,
            closed: party.closed,
            written: party.log.written.take(),
            writes: writes.map(|turn| Write { at: turn.at, read: turn.read, unread: turn.unread }).collect(),
            reset: matches!(party.log.ended.get(), Some((Ended::Reset, _))),
        }
    }
}

/// The address of a client, by which the origin can tell it from the others.
pub fn client_address(index: usize) -> SocketAddr {
    let last = u8::try_from(index).unwrap_or(u8::MAX);
    ([192, 0, 2, last], 4000).into()
}

/// Every path leads to the one origin but `/local`, and small contents are too large already.
fn open_snapshot(world: &World) -> Arc<Snapshot> {
    let mut shared = snapshot(world);
    if let Some(snapshot) = Arc::get_mut(&mut shared) {
        snapshot.limits.body_bytes_max = CONTENT_BYTES_MAX;
        snapshot.limits.head.field_count_max = FIELD_COUNT_MAX;
        // The next request comes to the connection of the last one.
        snapshot.upstreams[0].servers.truncate(1);
        // What is refused for want of room is no fault of a script's peers.
        snapshot.upstreams.iter_mut().for_each(|upstream| upstream.requests_max = None);
        let rules = &mut snapshot.sites[0].rules;
        rules.retain(|rule| matches!(&rule.action, Action::Answer(_) | Action::Forward(0)));
        rules.sort_by_key(|rule| matches!(rule.action, Action::Forward(_)));
        if let Some(last) = rules.last_mut() {
            last.paths = PathMatch::Prefix((*b"/").into());
        }
    }
    shared
}

/// Who sits at the far end of a connection of the proxy.
struct Party {
    /// `None`: it has left.
    pipe: Option<Pipe>,
    log: Rc<Log>,
    /// The proxy's task that serves a client, and since when.
    task: Option<(usize, Instant)>,
    /// What it is about to do.
    deeds: VecDeque<Deed>,
    sent: Vec<u8>,
    closed: bool,
    deaf: bool,
    /// Bytes written to it that were noted.
    noted: usize,
}

enum Deed {
    Send(Vec<u8>),
    Close,
    Reset,
    Leave,
}

impl Party {
    fn new(pipe: Pipe, log: Rc<Log>, task: Option<(usize, Instant)>) -> Party {
        Party {
            pipe: Some(pipe),
            log,
            task,
            deeds: VecDeque::new(),
            sent: Vec::new(),
            closed: false,
            deaf: false,
            noted: 0,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.deeds.push_back(Deed::Send(bytes.to_vec()));
        }
    }

    /// Reads what has come, and does the next deed as far as it goes. Returns whether anything moved.
    fn act(&mut self) -> bool {
        let heard = self.hear();
        self.do_next() || heard
    }

    fn hear(&mut self) -> bool {
        let Some(pipe) = self.pipe.as_ref().filter(|pipe| !self.deaf && pipe.unread() > 0) else {
            return false;
        };
        let read = pipe.poll_read(&mut Context::from_waker(Waker::noop()), &mut [0; 4096]);
        matches!(read, Poll::Ready(Ok(1..)))
    }

    fn do_next(&mut self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        let (Some(pipe), Some(deed)) = (&self.pipe, self.deeds.pop_front()) else { return false };
        match deed {
            Deed::Send(mut bytes) => match pipe.poll_write(cx, &[IoSlice::new(&bytes)]) {
                Poll::Ready(Ok(count)) => {
                    self.sent.extend(bytes.drain(..count));
                    if !bytes.is_empty() {
                        self.deeds.push_front(Deed::Send(bytes));
                    }
                }
                Poll::Ready(Err(_)) => self.deeds.clear(),
                Poll::Pending => {
                    self.deeds.push_front(Deed::Send(bytes));
                    return false;
                }
            },
            // Fails when the connection is gone already.
            Deed::Close => self.closed |= matches!(pipe.poll_close_write(cx), Poll::Ready(Ok(()))),
            Deed::Reset => pipe.abort(),
            Deed::Leave => {
                self.closed |= pipe.unread() == 0;
                self.pipe = None;
            }
        }
        true
    }
}

/// What becomes of diallings, and the origins that they reached.
#[derive(Default)]
pub(super) struct Origins {
    parties: RefCell<Vec<Party>>,
    next: Cell<Dialling>,
}

impl Origins {
    pub(super) async fn dial(&self, world: &Rc<World>) -> io::Result<Wire> {
        match self.next.take() {
            Dialling::Accepted if self.parties.borrow().len() < CONNECTIONS_MAX => {}
            Dialling::Ignored => return pending().await,
            _ => return Err(io::ErrorKind::ConnectionRefused.into()),
        }
        let (near, far) = Pipe::pair(world.capacity());
        let (wire, log) = Wire::new(world.clone(), near);
        self.parties.borrow_mut().push(Party::new(far, log, None));
        Ok(wire)
    }
}
