//! What the tasks of one thread share: the wire, the statistics, and the time in which they count.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use rustls::HandshakeKind;

use crate::connection::Wire;
use crate::fault::Fault;
use crate::random::Random;
use crate::request::Request;
use crate::stats::{ClassStats, Counters};

/// One thread's share of a run.
pub(crate) struct Worker {
    /// Buffers and bytes.
    pub(crate) wire: Wire,
    /// Random choices.
    pub(crate) random: RefCell<Random>,
    /// By class.
    pub(crate) classes: RefCell<Vec<ClassStats>>,
    counters: Cell<Counters>,
    /// What is recorded: from when to when.
    window: Cell<Option<(Instant, Instant)>>,
    /// The last time that counted.
    pub(crate) last: Cell<Option<Instant>>,
    /// Tasks that work on requests.
    pub(crate) busy: Cell<usize>,
    /// Statuses that count as success besides 2xx.
    accepted: Vec<u16>,
    requests: RefCell<Vec<Request>>,
}

impl Worker {
    /// With nothing counted and nothing to be recorded yet.
    pub(crate) fn new(seed: u64, classes: usize, accepted: &[u16]) -> Worker {
        Worker {
            wire: Wire::new(),
            random: RefCell::new(Random::new(seed)),
            classes: RefCell::new(vec![ClassStats::new(); classes]),
            counters: Cell::default(),
            window: Cell::new(None),
            last: Cell::new(None),
            busy: Cell::new(0),
            accepted: accepted.to_vec(),
            requests: RefCell::default(),
        }
    }

    /// Records what is within this time from now on.
    pub(crate) fn record_within(&self, from: Instant, until: Instant) {
        self.window.set(Some((from, until)));
    }

    /// Whether what happens at this time is recorded.
    pub(crate) fn records(&self, when: Instant) -> bool {
        self.window.get().is_some_and(|(from, until)| (from..=until).contains(&when))
    }

    /// Keeps the end of a request that counts at `when`.
    pub(crate) fn record(
        &self,
        class: usize,
        when: Instant,
        outcome: Result<u16, &Fault>,
        latency: Option<Duration>,
    ) {
        if !self.records(when) {
            return;
        }
        self.last.set(Some(when));
        let class = &mut self.classes.borrow_mut()[class];
        match outcome {
            Ok(status) if self.accepts(status) => class.succeeded(status, latency),
            Ok(status) => class.failed(&Fault::Status(status)),
            Err(fault) => class.failed(fault),
        }
    }

    /// Whether this status is what was hoped for.
    pub(crate) fn accepts(&self, status: u16) -> bool {
        (200..300).contains(&status) || self.accepted.contains(&status)
    }

    /// Everything counted so far.
    pub(crate) fn counters(&self) -> Counters {
        Counters {
            bytes_received: self.wire.bytes_received.get(),
            bytes_sent: self.wire.bytes_sent.get(),
            ..self.counters.get()
        }
    }

    /// Counts something.
    pub(crate) fn count(&self, change: impl FnOnce(&mut Counters)) {
        let mut counters = self.counters.get();
        change(&mut counters);
        self.counters.set(counters);
    }

    /// Counts a connection that was opened.
    pub(crate) fn count_opened(&self, handshake: Option<HandshakeKind>) {
        self.count(|counters| {
            counters.opened += 1;
            match handshake {
                Some(HandshakeKind::Resumed) => counters.handshakes_resumed += 1,
                Some(_) => counters.handshakes_full += 1,
                None => {}
            }
        });
    }

    /// An empty request.
    pub(crate) fn request(&self) -> Request {
        self.requests.borrow_mut().pop().unwrap_or_default()
    }

    /// Gives one back.
    pub(crate) fn put_request(&self, mut request: Request) {
        request.head.clear();
        request.zeros = 0;
        self.requests.borrow_mut().push(request);
    }

    /// Waits until no task works on a request; how many still do after `at_most`.
    pub(crate) async fn quiet(&self, at_most: Duration) -> usize {
        let deadline = Instant::now() + at_most;
        while self.busy.get() > 0 && Instant::now() < deadline {
            monoio::time::sleep(LOOK).await;
        }
        self.busy.get()
    }
}

/// How often a run looks whether it is over.
pub(crate) const LOOK: Duration = Duration::from_millis(1);
