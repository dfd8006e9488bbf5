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
    time::{Duration, Instant},
};

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};

use crate::{
    allowance::Allowances,
    counters::Counters,
    environment::{Environment, Ring, before, within},
    gate::{Clients, Gate},
    limits::{RING_COMPLETIONS, RING_ENTRIES, SWEEP_TICKS, TICK},
    listen,
    record::LogSender,
    relay::read_now,
    snapshot::Snapshot,
    transport::{Transport, socket::Socket},
    worker::Worker,
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
    /// For each worker the sockets that it accepts from.
    pub sockets: Vec<Vec<ListenerSocket>>,
    /// Where access log lines go; `None`: nowhere.
    pub log: Option<LogSender>,
    /// `None`: io_uring, or epoll where it is refused.
    pub driver: Option<Driver>,
}

/// A socket that one worker accepts connections from.
pub struct ListenerSocket {
    /// Index into [`Snapshot::listeners`].
    pub listener: usize,
    /// It listens already.
    pub socket: OwnedFd,
    /// Somebody else holds it too and goes on listening: it is let go of in the end, not shut.
    pub is_lent: bool,
}

/// The running workers.
pub struct Workers {
    workers: Vec<Handle>,
    gate: Arc<Gate>,
}

struct Handle {
    mailbox: Sender<Message>,
    bell: UnixStream,
    counters: Arc<Counters>,
    thread: thread::JoinHandle<()>,
}

enum Message {
    Apply { snapshot: Arc<Snapshot>, sockets: Vec<ListenerSocket>, done: Sender<()> },
    HandOver,
    Drain,
}

impl Handle {
    /// A worker that is gone hears nothing, and need not.
    fn tell(&mut self, message: Message) {
        let _ = self.mailbox.send(message);
        let _ = self.bell.write_all(b"!");
    }
}

/// How long workers may take to take over a configuration: a loop turn, that of an overloaded machine.
const APPLY_WAIT: Duration = Duration::from_secs(5);

impl Workers {
    /// Starts one thread for each entry of `plan.sockets` and waits until all of them accept connections.
    ///
    /// # Errors
    /// When a thread, a ring or a socket cannot be made: the first such error; nothing is left running.
    pub fn start(plan: Plan) -> io::Result<Workers> {
        let (gate, allowances) = (Gate::new(), Allowances::new(Instant::now()));
        let mut workers = Workers { workers: Vec::new(), gate: gate.clone() };
        let (started, starts) = channel();
        let count = plan.sockets.len();
        for (index, sockets) in plan.sockets.into_iter().enumerate() {
            let (mailbox, messages) = channel();
            let (bell, ringing) = UnixStream::pair()?;
            ringing.set_nonblocking(true)?;
            let counters = Arc::new(Counters::default());
            let seat = Seat {
                workers: count,
                sockets,
                snapshot: plan.snapshot.clone(),
                log: plan.log.clone(),
                driver: plan.driver,
                gate: gate.clone(),
                allowances: allowances.clone(),
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

    /// Goes on with another configuration: exchanges that begin now are served by `snapshot`, whose first listeners are those
    /// of the one before. No connection is closed. `sockets` are those of added listeners, for each worker. Returns when
    /// every worker has it.
    ///
    /// # Errors
    /// When a worker does not say so within some seconds; it will have it when it comes to it.
    pub fn apply(&mut self, snapshot: &Arc<Snapshot>, sockets: Vec<Vec<ListenerSocket>>) -> io::Result<()> {
        let (done, dones) = channel();
        let mut sockets = sockets.into_iter();
        for worker in &mut self.workers {
            let (snapshot, sockets) = (snapshot.clone(), sockets.next().unwrap_or_default());
            worker.tell(Message::Apply { snapshot, sockets, done: done.clone() });
        }
        drop(done);
        for _ in &self.workers {
            dones.recv_timeout(APPLY_WAIT).map_err(|_| io::Error::other("a worker does not answer"))?;
        }
        Ok(())
    }

    /// Tells the workers that another process accepts connections from the same sockets now. They stop to do so, and end
    /// connections with the next answer over each or when it has been idle too long. What is left after
    /// `Timeouts::hand_over` is [drained](Self::drain).
    pub fn hand_over(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.tell(Message::HandOver));
    }

    /// Tells the workers to stop accepting, to end idle connections and to finish what is in flight.
    pub fn drain(&mut self) {
        self.workers.iter_mut().for_each(|worker| worker.tell(Message::Drain));
    }

    /// What each worker has counted so far.
    pub fn counters(&self) -> Vec<Arc<Counters>> {
        self.workers.iter().map(|worker| worker.counters.clone()).collect()
    }

    /// Who has connections open.
    pub fn clients(&self) -> Clients {
        Clients::of(&self.gate)
    }

    /// Whether a worker has ended although it was not told to.
    pub fn has_lost_one(&self) -> bool {
        self.workers.iter().any(|worker| worker.thread.is_finished())
    }

    /// Whether every worker has ended: [`join`](Self::join) will not wait.
    pub fn have_ended(&self) -> bool {
        self.workers.iter().all(|worker| worker.thread.is_finished())
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
    pub proxy_headers_refused: u64,
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
        self.proxy_headers_refused += counters.proxy_headers_refused.load(Relaxed);
        self.requests += counters.requests.load(Relaxed);
        self.handshakes_failed += counters.handshakes_failed.load(Relaxed);
        self.panics += counters.panics.load(Relaxed);
    }
}

/// What a worker's thread is given.
struct Seat {
    /// How many there are.
    workers: usize,
    sockets: Vec<ListenerSocket>,
    snapshot: Arc<Snapshot>,
    log: Option<LogSender>,
    driver: Option<Driver>,
    gate: Arc<Gate>,
    allowances: Arc<Allowances>,
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
        let (counters, allowances) = (self.counters.clone(), self.allowances.clone());
        let worker =
            Worker::new(ring, self.snapshot.clone(), self.log.take(), counters, allowances, self.workers);
        // As the system calls it; Linux has no more than 2^22 of them.
        let thread = nix::unistd::gettid().as_raw().unsigned_abs();
        self.counters.thread.store(thread, std::sync::atomic::Ordering::Relaxed);
        for socket in mem::take(&mut self.sockets) {
            if let Err(error) = self.accept_from(&worker, socket) {
                return drop(self.started.send(Err(error)));
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

    fn accept_from(&self, worker: &Rc<Worker<Ring>>, socket: ListenerSocket) -> io::Result<()> {
        let ListenerSocket { listener, socket, is_lent } = socket;
        let (worker, gate, socket) = (worker.clone(), self.gate.clone(), Socket::new(socket)?);
        worker.accepting.borrow_mut().push(listener);
        drop(monoio::spawn(listen::accept_loop(worker, gate, socket, listener, is_lent)));
        Ok(())
    }

    /// Does what the control plane says until it says to stop, and the last connection has ended.
    async fn obey(&self, worker: &Rc<Worker<Ring>>, bell: &Socket) {
        let mut handed_over_until = None;
        while !worker.draining.get() {
            match handed_over_until {
                None => bell.readable().await,
                Some(_) if worker.is_done() => return,
                Some(until) if worker.env.recently() >= until => {
                    worker.drain();
                    break;
                }
                Some(_) => drop(within(&worker.env, HAND_OVER_LOOK, bell.readable()).await),
            }
            let mut rings = [0; 16];
            let hung_up = matches!(read_now(bell, &mut rings).await, Some(Ok(0) | Err(_)));
            for message in self.messages.try_iter() {
                match message {
                    Message::Apply { snapshot, sockets, done } => {
                        worker.apply(snapshot);
                        for socket in sockets {
                            if let Err(error) = self.accept_from(worker, socket) {
                                tracing::error!(%error, "a listener cannot be accepted from");
                            }
                        }
                        // Who asked may bind the addresses of retired listeners again, which takes that they are free.
                        while worker.accepts_for_retired() {
                            monoio::time::sleep(DRAIN_LOOK).await;
                        }
                        // Who asked may have lost patience.
                        let _ = done.send(());
                    }
                    Message::HandOver => {
                        worker.hand_over();
                        let limit = worker.live.borrow().snapshot.timeouts.hand_over;
                        handed_over_until = Some(worker.env.recently() + limit);
                    }
                    Message::Drain => worker.drain(),
                }
            }
            if hung_up {
                worker.drain();
            }
        }
        let deadline = worker.env.recently() + worker.live.borrow().snapshot.timeouts.drain;
        let empty = async || {
            while !worker.is_done() {
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
        worker.take_stock();
        if turn % SWEEP_TICKS == 0 {
            worker.sweep();
        }
    }
}

/// How long clients have, when the time for draining is over, to take what they are told.
const DRAIN_LAST: Duration = Duration::from_secs(1);

/// How often a worker that has handed over looks whether its last connection has ended: for some minutes, beside others
/// that do the work.
const HAND_OVER_LOOK: Duration = Duration::from_millis(100);

/// How often a worker looks whether a listener has come to its end, or, draining, its last connection.
const DRAIN_LOOK: Duration = Duration::from_millis(10);
