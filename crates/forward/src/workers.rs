//! The threads of the data plane: started, told to drain, waited for.

use std::{
    io::{self, Write as _},
    mem,
    os::{fd::OwnedFd, unix::net::UnixStream},
    rc::Rc,
    sync::{
        Arc,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
    time::Duration,
};

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use crate::{
    environment::{Environment, Ring, before, within},
    gate::Gate,
    limits::{RING_COMPLETIONS, RING_ENTRIES, SWEEP_TICKS, TICK},
    listen,
    record::LogSender,
    relay::read_now,
    snapshot::Snapshot,
    transport::{Transport, socket::Socket},
    worker::{Counters, Worker},
};

/// How the workers wait for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    /// io_uring, with the best flags that the kernel has.
    Uring,
    /// epoll. Slower, otherwise the same.
    Epoll,
}

/// What to start.
pub struct Plan {
    /// The configuration to begin with.
    pub snapshot: Arc<Snapshot>,
    /// For each worker the sockets that it accepts from, one for each listener of the snapshot, in its order.
    pub sockets: Vec<Vec<OwnedFd>>,
    /// Where access log lines go; `None`: nowhere.
    pub log: Option<LogSender>,
    /// `None`: io_uring, or epoll where it is refused.
    pub driver: Option<Driver>,
}

/// The running workers.
pub struct Workers {
    workers: Vec<Handle>,
}

struct Handle {
    mailbox: Sender<Message>,
    bell: UnixStream,
    counters: Arc<Counters>,
    thread: thread::JoinHandle<()>,
}

enum Message {
    Drain,
}

impl Workers {
    /// Starts one thread for each entry of `plan.sockets` and waits until all of them accept connections.
    ///
    /// # Errors
    /// When a thread, a ring or a socket cannot be made: the first such error; nothing is left running.
    pub fn start(plan: Plan) -> io::Result<Workers> {
        let gate = Gate::new();
        let mut workers = Workers { workers: Vec::new() };
        let (started, starts) = channel();
        for (index, sockets) in plan.sockets.into_iter().enumerate() {
            let (mailbox, messages) = channel();
            let (bell, ringing) = UnixStream::pair()?;
            ringing.set_nonblocking(true)?;
            let counters = Arc::new(Counters::default());
            let seat = Seat {
                sockets,
                snapshot: plan.snapshot.clone(),
                log: plan.log.clone(),
                driver: plan.driver,
                gate: gate.clone(),
                counters: counters.clone(),
                messages,
                ringing: Some(ringing.into()),
                started: started.clone(),
            };
            let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || seat.run())?;
            workers.workers.push(Handle { mailbox, bell, counters, thread });
        }
        drop(started);
        let mut without_ring = false;
        for _ in 0..workers.workers.len() {
            let (driver, name) =
                starts.recv().map_err(|_| io::Error::other("a worker ended before it began"))??;
            tracing::debug!(driver = name, "worker started");
            without_ring |= driver == Driver::Epoll && plan.driver.is_none();
        }
        if without_ring {
            tracing::warn!("io_uring is not available here; using epoll, which costs more CPU time");
        }
        Ok(workers)
    }

    /// Tells the workers to stop accepting, to end idle connections and to finish what is in flight.
    pub fn drain(&mut self) {
        for worker in &mut self.workers {
            // A worker that is gone has drained.
            let _ = worker.mailbox.send(Message::Drain);
            let _ = worker.bell.write_all(b"!");
        }
    }

    /// Whether a worker has ended although it was not told to.
    pub fn has_lost_one(&self) -> bool {
        self.workers.iter().any(|worker| worker.thread.is_finished())
    }

    /// Waits for the workers' threads. They end when their connections have, at the latest `Timeouts::drain` after
    /// [`drain`](Self::drain). Returns what they have counted.
    pub fn join(self) -> Totals {
        let mut totals = Totals::default();
        for worker in self.workers {
            totals.panicked |= worker.thread.join().is_err();
            totals.add(&worker.counters);
        }
        totals
    }
}

/// The sum of all workers' counters.
#[derive(Clone, Copy, Debug, Default)]
pub struct Totals {
    /// See [`Counters`].
    pub connections: u64,
    /// See [`Counters`].
    pub connections_refused: u64,
    /// See [`Counters`].
    pub requests: u64,
    /// See [`Counters`].
    pub handshakes_failed: u64,
    /// See [`Counters`].
    pub panics: u64,
    /// A worker itself ended by a panic.
    pub panicked: bool,
}

impl Totals {
    fn add(&mut self, counters: &Counters) {
        use std::sync::atomic::Ordering::Relaxed;
        self.connections += counters.connections.load(Relaxed);
        self.connections_refused += counters.connections_refused.load(Relaxed);
        self.requests += counters.requests.load(Relaxed);
        self.handshakes_failed += counters.handshakes_failed.load(Relaxed);
        self.panics += counters.panics.load(Relaxed);
    }
}

/// What a worker's thread is given.
struct Seat {
    sockets: Vec<OwnedFd>,
    snapshot: Arc<Snapshot>,
    log: Option<LogSender>,
    driver: Option<Driver>,
    gate: Arc<Gate>,
    counters: Arc<Counters>,
    messages: Receiver<Message>,
    ringing: Option<OwnedFd>,
    started: Sender<io::Result<(Driver, &'static str)>>,
}

impl Seat {
    /// Builds the runtime on this thread, which is the one that uses it, and works until drained.
    fn run(mut self) {
        if self.driver != Some(Driver::Epoll) {
            for (name, ring) in rings() {
                if let Err(error) = works(&ring) {
                    tracing::debug!(name, %error, "the kernel refuses such a ring");
                    continue;
                }
                let built = RuntimeBuilder::<IoUringDriver>::new()
                    .uring_builder(ring)
                    .with_entries(RING_ENTRIES)
                    .enable_timer()
                    .build();
                match built {
                    Ok(mut runtime) => {
                        runtime.block_on(self.work(Driver::Uring, name));
                        // What is left in it are connections past the drain's deadline: the process ends them.
                        return mem::forget(runtime);
                    }
                    Err(error) => tracing::debug!(name, %error, "the kernel refuses such a ring"),
                }
            }
        }
        match RuntimeBuilder::<LegacyDriver>::new().enable_timer().build() {
            Ok(mut runtime) => {
                runtime.block_on(self.work(Driver::Epoll, "epoll"));
                mem::forget(runtime);
            }
            Err(error) => drop(self.started.send(Err(error))),
        }
    }

    async fn work(&mut self, driver: Driver, name: &'static str) {
        let ring = match Ring::start(driver) {
            Ok(ring) => ring,
            Err(error) => return drop(self.started.send(Err(error))),
        };
        let worker = Worker::new(ring, self.snapshot.clone(), self.log.take(), self.counters.clone());
        for (listener, socket) in mem::take(&mut self.sockets).into_iter().enumerate() {
            match Socket::new(socket) {
                Ok(socket) => {
                    worker.listening.set(worker.listening.get() + 1);
                    drop(monoio::spawn(listen::accept_loop(
                        worker.clone(),
                        self.gate.clone(),
                        socket,
                        listener,
                    )));
                }
                Err(error) => return drop(self.started.send(Err(error))),
            }
        }
        let bell = match self.ringing.take().map(Socket::new) {
            Some(Ok(bell)) => bell,
            Some(Err(error)) => return drop(self.started.send(Err(error))),
            None => return,
        };
        drop(monoio::spawn(tick(worker.clone())));
        let _ = self.started.send(Ok((driver, name)));
        self.obey(&worker, &bell).await;
        worker.log.flush();
    }

    /// Does what the control plane says until it says to stop, and the last connection has ended.
    async fn obey(&self, worker: &Rc<Worker<Ring>>, bell: &Socket) {
        while !worker.draining.get() {
            bell.readable().await;
            let mut rings = [0; 16];
            let hung_up = matches!(read_now(bell, &mut rings).await, Some(Ok(0) | Err(_)));
            for Message::Drain in self.messages.try_iter() {
                worker.drain();
            }
            if hung_up {
                worker.drain();
            }
        }
        let deadline = worker.env.recently() + worker.live.borrow().snapshot.timeouts.drain;
        let empty = async || {
            while worker.listening.get() + worker.open.get() > 0 {
                monoio::time::sleep(DRAIN_LOOK).await;
            }
        };
        if before(&worker.env, deadline, empty()).await.is_err() {
            tracing::warn!(connections = worker.open.get(), "drain deadline passed; connections are cut");
            worker.cut();
            let _ = within(&worker.env, DRAIN_LAST, empty()).await;
        }
    }
}

/// Ring configurations, the best first.
fn rings() -> [(&'static str, io_uring::Builder); 3] {
    let ring = || {
        let mut builder = io_uring::IoUring::builder();
        builder.setup_cqsize(RING_COMPLETIONS);
        builder
    };
    let (mut deferred, mut cooperative) = (ring(), ring());
    deferred.setup_single_issuer().setup_defer_taskrun().setup_coop_taskrun();
    cooperative.setup_coop_taskrun();
    [
        ("io_uring, deferred task work", deferred),
        ("io_uring, cooperative task work", cooperative),
        ("io_uring", ring()),
    ]
}

/// Whether a ring of this kind can be made and entered: a filter of system calls may allow the one and not the other.
fn works(builder: &io_uring::Builder) -> io::Result<()> {
    builder.build(1)?.submit_and_wait(0).map(drop)
}

/// Regular work: hands the log on, looks after the pools.
async fn tick(worker: Rc<Worker<Ring>>) {
    for turn in 1_u32.. {
        monoio::time::sleep(TICK).await;
        worker.log.flush();
        if turn % SWEEP_TICKS == 0 {
            worker.sweep();
        }
    }
}

/// How long clients have, when the time for draining is over, to take what they are told.
const DRAIN_LAST: Duration = Duration::from_secs(1);

/// How often a draining worker looks whether its last connection has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
