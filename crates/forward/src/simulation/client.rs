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
    script: Script,
    /// What the proxy did on this connection.
    pub(super) log: Rc<Log>,
    /// The proxy's task that serves it.
    pub(super) connection: Cell<usize>,
    /// Bytes sent.
    pub(super) sent: Cell<usize>,
    /// Bytes read.
    pub(super) seen: RefCell<Vec<u8>>,
    /// Final responses read to their ends.
    pub(super) answered: Cell<usize>,
    /// The head of the next one has been read.
    pub(super) answering: Cell<bool>,
    /// Interim responses to the present request.
    interim: Cell<usize>,
    /// Where in `seen` the present response begins.
    at: Cell<usize>,
    /// The last response said that the connection ends, or it has ended.
    over: Cell<bool>,
}

struct Script {
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
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pause {
    None,
    Short,
    Long,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    Prompt,
    Slow,
    /// Not beyond this many bytes.
    UpTo(usize),
}

/// What a client does behind some byte.
#[derive(Clone, Copy)]
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
            answered: Cell::default(),
            answering: Cell::default(),
            interim: Cell::default(),
            at: Cell::default(),
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

    /// Looks at what has come for the ends of responses.
    fn follow(&self) {
        let seen = self.seen.borrow();
        while let Some(request) = self.requests.get(self.answered.get()) {
            let rest = &seen[self.at.get()..];
            // What is wrong is found out by the judge.
            let Parsed::Whole(head) = Head::parse(rest) else { return };
            if matches!(head.status(), Some(100 | 102..=199)) {
                self.at.set(self.at.get() + head.len);
                self.interim.set(self.interim.get() + 1);
                continue;
            }
            self.answering.set(true);
            let Ok(framing) = head.response_framing(request.method) else { return };
            let Ok(body) = Body::parse(framing, &rest[head.len..]) else { return };
            if head.closes() {
                self.over.set(true);
            }
            if !body.ended {
                return;
            }
            self.at.set(self.at.get() + head.len + body.consumed);
            self.answered.set(self.answered.get() + 1);
            self.answering.set(false);
            self.interim.set(0);
        }
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
            self.record.follow();
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
        let enough = || record.answered.get() >= count || record.over.get();
        // The reading half is part of the same task: whatever changes this polls it.
        poll_fn(|_| if enough() { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    /// Waits a second at most for an interim or a final response to a request.
    async fn go_ahead(&self, index: usize) {
        let record = &self.record;
        let mut patience = pin!(self.world.sleep(Duration::from_secs(1)));
        let heard = || record.interim.get() > 0 || record.answered.get() > index || record.over.get();
        poll_fn(|cx| if heard() { Poll::Ready(()) } else { patience.as_mut().poll(cx) }).await;
    }

    /// `Err`: nothing more will be sent.
    async fn send(&self, bytes: &[u8]) -> Result<(), Option<Ending>> {
        let (world, script, sent) = (&self.world, &self.record.script, &self.record.sent);
        let mut rest = bytes;
        while !rest.is_empty() {
            if script.listens && self.record.over.get() {
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
