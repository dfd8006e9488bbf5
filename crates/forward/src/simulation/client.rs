//! Clients: what they send and when, how they read, and how they misbehave.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::Duration,
};

use super::{
    executor::Role,
    message::{Body, Head, Parsed},
    request::Request,
    wire::{Log, Wire},
    world::{Simulated, World},
};
use crate::{
    front,
    peer::Peer,
    transport::{Transport, pipe::Pipe},
    worker::Worker,
};

/// The books of one client.
pub(super) struct ClientRecord {
    pub(super) requests: Vec<Request>,
    pub(super) script: Script,
    /// What the proxy did on this connection.
    pub(super) log: Rc<Log>,
    /// The proxy's task that serves it.
    pub(super) connection: Cell<usize>,
    /// Bytes sent.
    pub(super) sent: Cell<usize>,
    /// Bytes read.
    pub(super) seen: RefCell<Vec<u8>>,
    /// Where among the responses it is with reading.
    pub(super) heard: Cell<Progress>,
    /// Where among the responses the proxy is with writing.
    told: Cell<Progress>,
    /// Nothing more can be read.
    over: Cell<bool>,
}

/// A place in the stream of responses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// Bytes looked at.
    len: usize,
    /// Where the present response begins.
    at: usize,
    /// Final responses with their ends.
    pub(super) answered: usize,
    /// The head of the next one is there.
    pub(super) answering: bool,
    /// Interim responses to the present request.
    interim: usize,
    /// A response says that the connection ends.
    closes: bool,
}

#[derive(Debug)]
pub(super) struct Script {
    /// Requests do not wait for answers.
    pipelines: bool,
    piece_bytes_max: usize,
    pause: Pause,
    fault: Option<(usize, Fault)>,
    reading: Reading,
    /// Leaves when it has its answers; otherwise the proxy has to end the connection.
    leaves: bool,
    /// Stops sending when told that the connection ends.
    listens: bool,
}

/// What happens between two pieces, at times.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pause {
    None,
    Short,
    Long,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Prompt,
    Slow,
    /// Not beyond this many bytes.
    UpTo(usize),
}

/// What a client does behind some byte.
#[derive(Clone, Copy, Debug)]
enum Fault {
    Reset,
    Close,
    HalfClose,
    Stall,
}

/// How a client ends.
enum Ending {
    Close,
    Reset,
}

/// Puts a client into the world, with a connection that the proxy serves.
pub(super) fn start(world: &Rc<World>, worker: &Rc<Worker<Simulated>>, first_id: u32) {
    let rng = &world.rng;
    let ids = first_id..first_id + u32::try_from(rng.between(1, 5)).unwrap();
    let requests: Vec<_> = ids.map(|id| Request::draw(rng, id)).collect();
    let script = Script::draw(world, requests.iter().map(|request| request.wire.len()).sum());
    let (near, far) = Pipe::pair(world.capacity());
    let (wire, log) = Wire::new(world.clone(), near);
    let record = Rc::new(ClientRecord::new(requests, script, log));
    let served = worker.clone();
    let connection = world.executor.spawn(Role::Connection, async move {
        let peer = Peer { listener: 0, address: ([192, 0, 2, 7], 4000).into(), tls: None };
        front::serve_connection(&served, &wire, &peer).await;
    });
    record.connection.set(connection);
    world.clients.borrow_mut().push(record.clone());
    let client = Client { world: world.clone(), pipe: far, record };
    world.executor.spawn(Role::Client, async move { client.run().await });
}

impl Script {
    fn draw(world: &World, len: usize) -> Script {
        let rng = &world.rng;
        let fault = match rng.below(12) {
            0 => Some(Fault::Reset),
            1 => Some(Fault::Close),
            2 => Some(Fault::HalfClose),
            3 => Some(Fault::Stall),
            _ => None,
        };
        Script {
            pipelines: rng.once_in(3),
            piece_bytes_max: *rng.pick(&[8, 100, 3000, 100_000]),
            pause: *rng.pick(&[Pause::None, Pause::None, Pause::Short, Pause::Short, Pause::Long]),
            fault: fault.map(|fault| (rng.between(0, len), fault)),
            reading: match rng.below(10) {
                0 => Reading::Slow,
                1 => Reading::UpTo(rng.below(2000)),
                _ => Reading::Prompt,
            },
            leaves: rng.once_in(2),
            listens: rng.once_in(2),
        }
    }
}

impl ClientRecord {
    fn new(requests: Vec<Request>, script: Script, log: Rc<Log>) -> ClientRecord {
        ClientRecord {
            requests,
            script,
            log,
            connection: Cell::default(),
            sent: Cell::default(),
            seen: RefCell::default(),
            heard: Cell::default(),
            told: Cell::default(),
            over: Cell::default(),
        }
    }

    /// Whether everything is owed to it.
    pub(super) fn behaves(&self) -> bool {
        let script = &self.script;
        script.fault.is_none() && script.pause != Pause::Long && script.reading == Reading::Prompt
    }

    /// Where among the bytes of all requests one of them begins.
    pub(super) fn start_of(&self, index: usize) -> usize {
        self.requests[..index].iter().map(|request| request.wire.len()).sum()
    }

    /// Where among the responses the proxy is with writing.
    pub(super) fn told(&self) -> Progress {
        let progress = self.told.get().follow(&self.log.written.borrow(), &self.requests);
        self.told.set(progress);
        progress
    }
}

impl Progress {
    /// A part of a response is there.
    pub(super) fn is_partial(self) -> bool {
        self.at < self.len
    }

    /// Looks for the ends of responses in what has come, which is `bytes`.
    fn follow(mut self, bytes: &[u8], requests: &[Request]) -> Progress {
        if self.len == bytes.len() {
            return self;
        }
        self.len = bytes.len();
        while let Some(request) = requests.get(self.answered) {
            if !self.step(&bytes[self.at..], request.method) {
                break;
            }
        }
        self
    }

    /// Goes behind one response; `false`: it is not all there. What is wrong with it is the judge's to find.
    fn step(&mut self, rest: &[u8], method: &str) -> bool {
        let Parsed::Whole(head) = Head::parse(rest) else { return false };
        if matches!(head.status(), Some(100 | 102..=199)) {
            self.at += head.len;
            self.interim += 1;
            return true;
        }
        self.answering = true;
        self.closes = head.closes();
        let Ok(framing) = head.response_framing(method) else { return false };
        let Ok(body) = Body::parse(framing, &rest[head.len..]) else { return false };
        if body.ended {
            self.at += head.len + body.consumed;
            self.answered += 1;
            (self.answering, self.interim) = (false, 0);
        }
        body.ended
    }
}

struct Client {
    world: Rc<World>,
    pipe: Pipe,
    record: Rc<ClientRecord>,
}

impl Client {
    /// Reads and writes at once. The end of what can be read is the end of it all.
    async fn run(&self) {
        let (mut reading, mut writing) = (pin!(self.read()), pin!(self.write()));
        let mut written = false;
        let ending = poll_fn(|cx| {
            if reading.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Ending::Close);
            }
            if written {
                return Poll::Pending;
            }
            match writing.as_mut().poll(cx) {
                Poll::Ready(Some(ending)) => Poll::Ready(ending),
                Poll::Ready(None) => {
                    written = true;
                    Poll::Pending
                }
                Poll::Pending => Poll::Pending,
            }
        })
        .await;
        if matches!(ending, Ending::Reset) {
            self.pipe.abort();
        }
    }

    async fn read(&self) {
        let mut buffer = vec![0; 4096];
        loop {
            let most = match self.record.script.reading {
                Reading::Prompt => buffer.len(),
                Reading::Slow => {
                    self.world.rest().await;
                    if self.world.rng.once_in(50) {
                        self.world.dawdle().await;
                    }
                    400
                }
                Reading::UpTo(most) => most.saturating_sub(self.record.seen.borrow().len()).min(buffer.len()),
            };
            if most == 0 {
                return poll_fn(|cx| self.pipe.poll_ended(cx)).await;
            }
            let Ok(read @ 1..) = self.pipe.read(&mut buffer[..most]).await else {
                self.record.over.set(true);
                return;
            };
            self.record.seen.borrow_mut().extend_from_slice(&buffer[..read]);
            let heard = self.record.heard.get();
            self.record.heard.set(heard.follow(&self.record.seen.borrow(), &self.record.requests));
        }
    }

    /// `None`: the rest is up to the proxy.
    async fn write(&self) -> Option<Ending> {
        let (record, script) = (&self.record, &self.record.script);
        for (index, request) in record.requests.iter().enumerate() {
            if !script.pipelines {
                self.answers(index).await;
            }
            let (head, body) = request.wire.split_at(request.head_len);
            if let Err(ending) = self.send(head).await {
                return ending;
            }
            if request.expects && !script.pipelines {
                self.go_ahead(index).await;
            }
            if let Err(ending) = self.send(body).await {
                return ending;
            }
        }
        self.answers(record.requests.len()).await;
        script.leaves.then_some(Ending::Close)
    }

    /// Waits until `count` requests are answered or no more will be.
    async fn answers(&self, count: usize) {
        let record = &self.record;
        let enough = || record.heard.get().answered >= count || record.over.get();
        // The reading half is part of the same task: whatever changes this polls it.
        poll_fn(|_| if enough() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Waits a second at most for an interim or a final response to a request.
    async fn go_ahead(&self, index: usize) {
        let record = &self.record;
        let mut patience = pin!(self.world.sleep(Duration::from_secs(1)));
        let heard = || {
            let heard = record.heard.get();
            heard.interim > 0 || heard.answered > index || heard.closes || record.over.get()
        };
        poll_fn(|cx| if heard() { Poll::Ready(()) } else { patience.as_mut().poll(cx) }).await;
    }

    /// `Err`: nothing more will be sent.
    async fn send(&self, bytes: &[u8]) -> Result<(), Option<Ending>> {
        let (world, script, sent) = (&self.world, &self.record.script, &self.record.sent);
        let mut rest = bytes;
        while !rest.is_empty() {
            if script.listens && self.record.heard.get().closes {
                return Err(None);
            }
            self.pause().await;
            let mut piece = world.rng.between(1, script.piece_bytes_max).min(rest.len());
            if let Some((at, fault)) = script.fault {
                piece = piece.min(at - sent.get());
                if piece == 0 {
                    return Err(self.commit(fault).await);
                }
            }
            sent.set(sent.get() + piece);
            self.pipe.write_all(&rest[..piece]).await.map_err(|_| None)?;
            rest = &rest[piece..];
        }
        Ok(())
    }

    async fn pause(&self) {
        let rng = &self.world.rng;
        match self.record.script.pause {
            Pause::Short if rng.once_in(8) => self.world.rest().await,
            Pause::Long if rng.once_in(12) => self.world.dawdle().await,
            _ => {}
        }
    }

    async fn commit(&self, fault: Fault) -> Option<Ending> {
        match fault {
            Fault::Reset => Some(Ending::Reset),
            Fault::Close => Some(Ending::Close),
            Fault::HalfClose => {
                // Fails when the connection is gone already.
                let _ = self.pipe.close_write().await;
                None
            }
            Fault::Stall => None,
        }
    }
}
