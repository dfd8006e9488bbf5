//! What the exchange needs of the world besides its client's connection: a clock, timers, and a way to dial.
//!
//! The data plane runs on [`Ring`]; a simulation brings its own.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    io::{self, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    pin::pin,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use monoio::net::TcpStream;
use nix::time::{ClockId, clock_gettime};
use ringfence_tls::SessionError;

use crate::{
    buffers::Buffers,
    limits::{STALL_COUNTED, TIMER_TICK},
    snapshot::{Server, ServerAddress, ServerTls},
    timers::{Sleep, Timers},
    transport::{
        Transport,
        socket::{Socket, looking_at_sockets},
        tls::{HandshakeError, Tls},
        upstream::UpstreamStream,
    },
    turns::{Turn, Turns, Underway},
    workers::Driver,
};

/// A clock, timers and upstream connections.
#[allow(async_fn_in_trait, reason = "one thread per core: no future here has to be Send")]
pub(crate) trait Environment: 'static {
    /// A connection to an upstream server.
    type Stream: Transport + 'static;
    /// Ends at an instant.
    type Sleep: Future<Output = ()>;

    /// The present.
    fn now(&self) -> Instant;

    /// The present to within some milliseconds: good enough for deadlines, and nearly free.
    fn recently(&self) -> Instant;

    /// A timer that ends at `at`.
    fn sleep_until(&self, at: Instant) -> Self::Sleep;

    /// Lets the kernel and every other task have their turn, and then those who came before. For what might find
    /// something to do for ever, and for what comes in crowds.
    async fn give_way(&self, turn: Turn);

    /// Whether a request that comes now should give way first.
    fn is_crowded(&self) -> bool;

    /// Where requests on their way to origins are counted.
    fn underway(&self) -> &Underway;

    /// Takes note of bytes of a body moved; whether it is time to [`give_way`](Self::give_way).
    fn spend(&self, bytes: usize) -> bool;

    /// Opens a connection within `limit` ([`io::ErrorKind::TimedOut`]), a TLS handshake included; dropping the future gives
    /// it up. What `announcement` says goes first, in the clear. TLS takes its memory from `buffers`.
    async fn connect(
        &self,
        server: &Server,
        announcement: Option<&[u8]>,
        buffers: &Buffers,
        limit: Duration,
    ) -> io::Result<Self::Stream>;

    /// Whether nothing to be read, not even the end of the stream, has arrived on a connection that should be quiet.
    fn is_quiet(&self, stream: &Self::Stream) -> bool;
}

/// The wait went past its deadline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Elapsed;

/// Waits for `future`, but not longer than `duration`. A future that is ready costs neither timer nor clock.
pub(crate) async fn within<E: Environment, F: Future>(
    env: &E,
    duration: Duration,
    future: F,
) -> Result<F::Output, Elapsed> {
    race(env, future, || env.recently() + duration).await
}

/// Waits for `future`, but not beyond `at`.
pub(crate) async fn before<E: Environment, F: Future>(
    env: &E,
    at: Instant,
    future: F,
) -> Result<F::Output, Elapsed> {
    race(env, future, || at).await
}

/// Waits for `future`, but not beyond `deadline`, which is asked when the future is not ready at once.
pub(crate) async fn race<E: Environment, F: Future>(
    env: &E,
    future: F,
    mut deadline: impl FnMut() -> Instant,
) -> Result<F::Output, Elapsed> {
    let mut future = pin!(future);
    let mut sleep = pin!(None::<E::Sleep>);
    poll_fn(|cx| {
        if let Poll::Ready(output) = future.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        if sleep.is_none() {
            sleep.set(Some(env.sleep_until(deadline())));
        }
        match sleep.as_mut().as_pin_mut().map(|sleep| sleep.poll(cx)) {
            // What has come counts, also when the ring has not told of it yet: it does so a few at a time, and a worker
            // that did not run for a while (SIGSTOP, a frozen container) finds timers and bytes at once.
            Some(Poll::Ready(())) => match looking_at_sockets(|| future.as_mut().poll(cx)) {
                Poll::Ready(output) => Poll::Ready(Ok(output)),
                Poll::Pending => Poll::Ready(Err(Elapsed)),
            },
            _ => Poll::Pending,
        }
    })
    .await
}

/// The real world: the kernel's sockets and clocks, a timer wheel.
pub(crate) struct Ring {
    timers: Rc<Timers>,
    clock: Rc<WorkingClock>,
    turns: Rc<Turns>,
    underway: Underway,
}

impl Ring {
    /// Starts the tasks of the wheel and of the turns; to be called on a worker's runtime, which has this driver.
    pub(crate) fn start(driver: Driver) -> io::Result<Ring> {
        let clock = Rc::new(WorkingClock::start());
        let timers = Rc::new(Timers::new(clock.origin));
        let (wheel, beats) = (timers.clone(), clock.clone());
        drop(monoio::spawn(async move {
            loop {
                monoio::time::sleep(TIMER_TICK).await;
                wheel.advance(beats.beat(coarse_clock()));
            }
        }));
        let turnstile = Turnstile::new(driver)?;
        let turns = Rc::new(Turns::default());
        drop(monoio::spawn(usher(turns.clone(), turnstile)));
        Ok(Ring { timers, clock, turns, underway: Underway::default() })
    }
}

impl Environment for Ring {
    type Stream = UpstreamStream;
    type Sleep = Sleep;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn recently(&self) -> Instant {
        self.clock.at(coarse_clock())
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep::new(self.timers.clone(), at)
    }

    async fn give_way(&self, turn: Turn) {
        self.turns.take(turn).await;
    }

    fn is_crowded(&self) -> bool {
        self.turns.is_awaited(Turn::Request) || self.underway.are_many(|| self.now())
    }

    fn underway(&self) -> &Underway {
        &self.underway
    }

    fn spend(&self, bytes: usize) -> bool {
        self.turns.spend(bytes)
    }

    async fn connect(
        &self,
        server: &Server,
        announcement: Option<&[u8]>,
        buffers: &Buffers,
        limit: Duration,
    ) -> io::Result<UpstreamStream> {
        if server.tls.is_some() {
            // Before the limit runs: a wait for our own turn is no fault of the server.
            self.give_way(Turn::Dial).await;
        }
        match &server.address {
            ServerAddress::Unix(path) => {
                let socket = async {
                    let socket = Socket::connect_unix(path).await?;
                    self.begin(socket, server, announcement, buffers).await
                };
                within(self, limit, socket).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
            }
            ServerAddress::Tcp(addresses) => {
                // An address that swallows everything must not keep the others from being tried.
                let share = limit / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
                let mut last = io::ErrorKind::AddrNotAvailable.into();
                for address in addresses {
                    let stream = async {
                        let socket = Socket::connect_tcp(address).await?;
                        self.begin(socket, server, announcement, buffers).await
                    };
                    match within(self, share, stream).await {
                        Ok(Ok(stream)) => return Ok(stream),
                        Ok(Err(error)) => last = error,
                        Err(Elapsed) => last = io::ErrorKind::TimedOut.into(),
                    }
                }
                Err(last)
            }
        }
    }

    fn is_quiet(&self, stream: &UpstreamStream) -> bool {
        stream.is_quiet()
    }
}

impl Ring {
    /// Says what comes before the first request.
    async fn begin(
        &self,
        socket: Socket,
        server: &Server,
        announcement: Option<&[u8]>,
        buffers: &Buffers,
    ) -> io::Result<UpstreamStream> {
        if let Some(announcement) = announcement {
            // A new connection's send buffer takes it whole.
            socket.write_all(announcement).await?;
        }
        match &server.tls {
            None => Ok(UpstreamStream::Plain(socket)),
            Some(tls) => self.shake_hands(socket, &server.name, tls, buffers).await,
        }
    }

    async fn shake_hands(
        &self,
        socket: Socket,
        server: &str,
        tls: &ServerTls,
        buffers: &Buffers,
    ) -> io::Result<UpstreamStream> {
        let (config, name) = (tls.client.config(), tls.name.clone());
        let client = Tls::client(socket, config, name, buffers.clone()).map_err(io::Error::other)?;
        match client.handshake().await {
            Ok(_) => Ok(UpstreamStream::over_tls(client)),
            Err(HandshakeError::Io(error)) => Err(error),
            Err(HandshakeError::Session(error)) => {
                if let SessionError::Certificate(_) = error
                    && tls.may_warn(self.now())
                {
                    tracing::warn!(server, name = %tls.name.to_str(), "no TLS with the upstream: {error}");
                }
                Err(io::Error::new(io::ErrorKind::InvalidData, error))
            }
        }
    }
}

/// Lets those on who wait for a turn, once a turn of the loop.
///
/// A task that only woke itself would not do: while any task is ready, monoio 0.2.4 asks the kernel for no completions
/// and turns no timers. This waits for something that comes soon, so that the loop goes round: the [`Turnstile`].
async fn usher(turns: Rc<Turns>, turnstile: Turnstile) {
    loop {
        turns.somebody().await;
        turnstile.pass().await;
        turns.admit();
    }
}

/// The clock of deadlines. It does not count time in which this thread did not run (SIGSTOP, a frozen container, a
/// suspended machine) beyond [`STALL_COUNTED`]: peers could not be heard then, and are not to be cut for it.
struct WorkingClock {
    origin: Instant,
    /// The coarse clock at the last beat, and what is to be taken off it.
    beat: Cell<Duration>,
    off: Cell<Duration>,
    /// What the coarse clock showed when it was last asked, and the present that this was: it stands still for milliseconds,
    /// and is asked some times a request.
    known: Cell<(Duration, Instant)>,
}

impl WorkingClock {
    fn start() -> WorkingClock {
        let coarse = coarse_clock();
        let origin = Instant::now();
        let known = Cell::new((coarse, origin));
        WorkingClock { origin, beat: Cell::new(coarse), off: Cell::new(coarse), known }
    }

    /// The present, when the coarse clock shows `coarse`. Between beats it stands still after [`STALL_COUNTED`].
    fn at(&self, coarse: Duration) -> Instant {
        let (shown, present) = self.known.get();
        if shown == coarse {
            return present;
        }
        let counted = coarse.min(self.beat.get() + STALL_COUNTED);
        let present = self.origin + counted.saturating_sub(self.off.get());
        self.known.set((coarse, present));
        present
    }

    /// This thread runs. To be called every [`TIMER_TICK`].
    fn beat(&self, coarse: Duration) -> Instant {
        let stalled = coarse.saturating_sub(self.beat.replace(coarse)).saturating_sub(STALL_COUNTED);
        self.off.set(self.off.get() + stalled);
        self.at(coarse)
    }
}

/// Exact to a few milliseconds, and read for a fraction of what the exact one costs.
fn coarse_clock() -> Duration {
    // By way of libc: rustix looks for the kernel's clock page itself, and does not survive valgrind.
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map(Duration::from).unwrap_or_default()
}

/// Lets pass who has waited for everything that was ready before.
///
/// A ring with deferred task work tells of completions in their order and, since Linux 6.13, some twenty at a time: a wait
/// that is over at once would overtake them, turn for turn, and while the loop has tasks monoio does not even ask. So the
/// wait is for a byte that is sent when the kernel knows of the wait: its completion queues behind the others. Epoll knows
/// of a descriptor all the time, and tells of it in its turn.
struct Turnstile {
    /// Always readable: waiting for it takes one submission to a ring.
    open: Option<TcpStream>,
    bar: Socket,
    /// What is written here is read at the bar.
    push: UnixStream,
}

impl Turnstile {
    fn new(driver: Driver) -> io::Result<Turnstile> {
        let open = match driver {
            Driver::Uring => {
                let (mut far, open) = UnixStream::pair()?;
                far.write_all(b"!")?;
                // What is written stays readable after its writer is gone.
                Some(TcpStream::from_std(OwnedFd::from(open).into())?)
            }
            Driver::Epoll => None,
        };
        let (push, bar) = UnixStream::pair()?;
        bar.set_nonblocking(true)?;
        Ok(Turnstile { open, bar: Socket::new(bar.into())?, push })
    }

    async fn pass(&self) {
        let waits = poll_fn(|cx| Poll::Ready(self.bar.poll_readable(cx).is_pending())).await;
        debug_assert!(waits, "the bar is down");
        if let Some(open) = &self.open {
            // An error would end a wait as well.
            let _ = open.readable(false).await;
        }
        let _ = (&self.push).write(b"!");
        // Room for one more than there is, so that the bar is known to be empty.
        let _ = self.bar.read(&mut [0; 2]).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_do_not_run_while_the_worker_does_not() {
        let clock = WorkingClock::start();
        let (begun, start) = (clock.beat.get(), clock.origin);
        let hour = Duration::from_secs(3600);
        assert_eq!(clock.at(begun + TIMER_TICK), start + TIMER_TICK);
        assert_eq!(clock.beat(begun + TIMER_TICK), start + TIMER_TICK);
        // Before the first beat behind a pause the clock tells the same as after it.
        let resumed = begun + TIMER_TICK + hour;
        assert_eq!(clock.at(resumed), start + TIMER_TICK + STALL_COUNTED);
        assert_eq!(clock.beat(resumed), start + TIMER_TICK + STALL_COUNTED);
        assert_eq!(clock.at(resumed + TIMER_TICK), start + TIMER_TICK * 2 + STALL_COUNTED);
    }
}
