//! The world around the proxy's code: clock, timers, servers to dial, and the books that the judge reads.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    future::{Future, pending, poll_fn},
    io,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use super::{
    client::ClientRecord,
    executor::{Executor, Role},
    origin::{self, OriginRecord},
    rng::Rng,
    wire::Wire,
};
use crate::{
    buffers::Buffers,
    environment::{Environment, within},
    limits::{TIMER_TICK, Timeouts},
    snapshot::{Server, ServerAddress},
    timers::{self, Timers},
    transport::{Transport as _, pipe::Pipe},
    turns::{Turn, Underway},
};

/// All that one seed determines.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) executor: Executor,
    pub(super) timeouts: Timeouts,
    underway: Underway,
    /// Origins and the ways to them are sound: every client that behaves gets its answers.
    pub(super) calm: bool,
    /// Connections were cut by the end of the drain.
    pub(super) cut: Cell<bool>,
    pub(super) clients: RefCell<Vec<Rc<ClientRecord>>>,
    pub(super) origins: RefCell<Vec<Rc<OriginRecord>>>,
    /// Requests that a server may have, but where it is calm.
    pub(super) requests_max: Option<usize>,
    servers: Vec<Reachable>,
    epoch: Instant,
    now: Cell<Instant>,
    timers: Rc<Timers>,
    /// Instants that somebody sleeps until, and how many do.
    deadlines: RefCell<BTreeMap<Instant, usize>>,
    /// Polls and calls since something last moved.
    work: Cell<u32>,
    /// When something last moved for a task, by its index.
    moved_at: RefCell<BTreeMap<usize, Instant>>,
    violation: RefCell<Option<String>>,
    /// Where diallings lead if a script says so, and not the seed.
    #[cfg(fuzzing)]
    pub(super) origins_of_script: std::cell::OnceCell<Rc<super::script::Origins>>,
}

/// How a server takes connections.
#[derive(Clone, Copy)]
enum Reachable {
    Always,
    Sometimes,
    Never,
}

/// Polls and calls of a transport without any byte, end or instant between them that mean a busy loop. The
/// awkwardness of a [`Wire`] stays far below.
const WORK_MAX: u32 = 10_000;

/// No timeout that is drawn is longer.
const DEADLINE_MAX: Duration = Duration::from_secs(12);

impl World {
    pub(super) fn new(seed: u64, servers: usize) -> Rc<World> {
        let rng = Rng::new(seed);
        let seconds = |least, most| Duration::from_millis(1000 * rng.between(least, most) as u64);
        let timeouts = Timeouts {
            tls_handshake: seconds(2, 12),
            header_read: seconds(2, 12),
            keep_alive_idle: seconds(2, 12),
            upstream_connect: seconds(2, 4),
            queue: seconds(1, 8),
            upstream_first_byte: seconds(2, 12),
            downstream_silence: seconds(2, 12),
            upstream_silence: seconds(2, 12),
            upstream_idle: seconds(1, 12),
            tunnel_idle: seconds(2, 12),
            linger: seconds(2, 8),
            drain: seconds(2, 8),
            hand_over: seconds(2, 8),
        };
        let calm = rng.once_in(4);
        let requests_max = (!calm && rng.once_in(2)).then(|| rng.between(1, 2));
        let server = || match rng.below(8) {
            _ if calm => Reachable::Always,
            0 => Reachable::Never,
            1 | 2 => Reachable::Sometimes,
            _ => Reachable::Always,
        };
        let servers = (0..servers).map(|_| server()).collect();
        let epoch = Instant::now();
        Rc::new(World {
            rng,
            executor: Executor::default(),
            timeouts,
            underway: Underway::default(),
            calm,
            cut: Cell::new(false),
            clients: RefCell::default(),
            origins: RefCell::default(),
            requests_max,
            servers,
            epoch,
            now: Cell::new(epoch),
            timers: Rc::new(Timers::new(epoch)),
            deadlines: RefCell::default(),
            work: Cell::new(0),
            moved_at: RefCell::default(),
            violation: RefCell::default(),
            #[cfg(fuzzing)]
            origins_of_script: std::cell::OnceCell::new(),
        })
    }

    pub(super) fn now(&self) -> Instant {
        self.now.get()
    }

    /// Remembers the first thing that went wrong.
    pub(super) fn violate(&self, what: impl Into<String>) {
        self.violation.borrow_mut().get_or_insert_with(|| what.into());
    }

    pub(super) fn verdict(&self) -> Result<(), String> {
        self.violation.borrow().clone().map_or(Ok(()), Err)
    }

    /// Goes to the next instant that somebody waits for; `false`: nobody does.
    pub(super) fn advance(&self) -> bool {
        let Some(next) = self.deadlines.borrow().keys().next().copied() else { return false };
        let tick = TIMER_TICK.as_nanos();
        let ticks = (next - self.epoch).as_nanos().div_ceil(tick);
        let at = self.epoch + TIMER_TICK * u32::try_from(ticks).unwrap();
        self.now.set(at.max(self.now.get()));
        self.timers.advance(self.now.get());
        let mut deadlines = self.deadlines.borrow_mut();
        *deadlines = deadlines.split_off(&(self.now.get() + Duration::from_nanos(1)));
        self.work.set(0);
        true
    }

    /// Something moved: a byte, the end of a stream, an attempt to connect.
    pub(super) fn note_move(&self) {
        self.work.set(0);
        self.moved_at.borrow_mut().insert(self.executor.current(), self.now());
    }

    /// When something last moved for a task.
    pub(super) fn moved_at(&self, task: usize) -> Instant {
        self.moved_at.borrow().get(&task).copied().unwrap_or(self.epoch)
    }

    /// Somebody works; without any movement that must come to an end.
    pub(super) fn count_work(&self) {
        self.work.set(self.work.get() + 1);
        assert!(self.work.get() < WORK_MAX, "a busy loop in task {}", self.executor.current());
    }

    pub(super) fn sleep_until(self: &Rc<Self>, at: Instant) -> Sleep {
        *self.deadlines.borrow_mut().entry(at).or_default() += 1;
        Sleep { inner: timers::Sleep::new(self.timers.clone(), at), world: self.clone(), at }
    }

    pub(super) async fn sleep(self: &Rc<Self>, duration: Duration) {
        self.sleep_until(self.now() + duration).await;
    }

    /// A pause of a peer that is no fault of it.
    pub(super) async fn rest(self: &Rc<Self>) {
        let milliseconds = self.rng.between(1, 64) as u64;
        self.sleep(Duration::from_millis(milliseconds)).await;
    }

    /// A pause that may go beyond any deadline.
    pub(super) async fn dawdle(self: &Rc<Self>) {
        let milliseconds = self.rng.between(500, 14_000) as u64;
        self.sleep(Duration::from_millis(milliseconds)).await;
    }

    async fn dial(self: &Rc<Self>, server: usize) -> io::Result<Wire> {
        self.note_move();
        #[cfg(fuzzing)]
        if let Some(origins) = self.origins_of_script.get() {
            return origins.dial(self).await;
        }
        match self.servers[server] {
            Reachable::Always => {}
            Reachable::Sometimes => match self.rng.below(4) {
                0 => return Err(io::ErrorKind::ConnectionRefused.into()),
                1 => self.dawdle().await,
                2 => self.rest().await,
                _ => {}
            },
            Reachable::Never if self.rng.once_in(3) => return pending().await,
            Reachable::Never => return Err(io::ErrorKind::ConnectionRefused.into()),
        }
        let (near, far) = Pipe::pair(self.capacity());
        let (wire, log) = Wire::new(self.clone(), near);
        let record = Rc::new(OriginRecord::new(log));
        self.origins.borrow_mut().push(record.clone());
        self.executor.spawn(Role::Origin, origin::serve(self.clone(), far, record));
        self.note_move();
        Ok(wire)
    }

    /// Bytes that a connection holds in one direction.
    pub(super) fn capacity(&self) -> usize {
        *self.rng.pick(&[100, 2_000, 20_000, 500_000])
    }
}

/// A wait for an instant.
pub(super) struct Sleep {
    inner: timers::Sleep,
    world: Rc<World>,
    at: Instant,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let mut deadlines = self.world.deadlines.borrow_mut();
        if let Some(count) = deadlines.get_mut(&self.at) {
            *count -= 1;
            if *count == 0 {
                deadlines.remove(&self.at);
            }
        }
    }
}

/// What the proxy's code sees of the world. Server `n` listens on port `n`.
pub(super) struct Simulated(pub(super) Rc<World>);

impl Environment for Simulated {
    type Stream = Wire;
    type Sleep = Sleep;

    fn now(&self) -> Instant {
        self.0.now()
    }

    fn recently(&self) -> Instant {
        self.0.now()
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        let wait = at.saturating_duration_since(self.0.now());
        if wait > DEADLINE_MAX + TIMER_TICK {
            self.0.violate(format!("a deadline {wait:?} away"));
        }
        self.0.sleep_until(at)
    }

    fn is_crowded(&self) -> bool {
        self.0.rng.once_in(20)
    }

    fn underway(&self) -> &Underway {
        &self.0.underway
    }

    fn spend(&self, _bytes: usize) -> bool {
        self.0.rng.once_in(20)
    }

    async fn give_way(&self, _turn: Turn) {
        let mut yielded = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }

    async fn connect(
        &self,
        server: &Server,
        announcement: Option<&[u8]>,
        _buffers: &Buffers,
        limit: Duration,
    ) -> io::Result<Wire> {
        let ServerAddress::Tcp(addresses) = &server.address else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let server = usize::from(addresses[0].port());
        let dialled = within(self, limit, self.0.dial(server)).await;
        let wire = dialled.unwrap_or(Err(io::ErrorKind::TimedOut.into()))?;
        wire.write_all(announcement.unwrap_or_default()).await?;
        Ok(wire)
    }

    fn is_quiet(&self, stream: &Wire) -> bool {
        stream.is_quiet()
    }
}

/// The address of server `n`.
pub(super) fn address(server: usize) -> ServerAddress {
    let port = u16::try_from(server).unwrap();
    ServerAddress::Tcp(vec![SocketAddr::from(([127, 0, 0, 1], port))])
}
