//! What the exchange needs of the world besides its client's connection: a clock, timers, and a way to dial.
//!
//! The data plane runs on [`Ring`]; a simulation brings its own.

use std::{
    future::{Future, poll_fn},
    io,
    pin::pin,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use crate::{
    limits::TIMER_TICK,
    snapshot::ServerAddress,
    timers::{Sleep, Timers},
    transport::{Transport, socket::Socket},
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

    /// The present, as of the last turn of the timers: good enough for deadlines, and free.
    fn recently(&self) -> Instant;

    /// A timer that ends at `at`.
    fn sleep_until(&self, at: Instant) -> Self::Sleep;

    /// Opens a connection; dropping the future gives it up.
    async fn connect(&self, address: &ServerAddress) -> io::Result<Self::Stream>;

    /// Whether nothing, not even the end of the stream, has arrived on a connection that should be quiet.
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

async fn race<E: Environment, F: Future>(
    env: &E,
    future: F,
    deadline: impl Fn() -> Instant,
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
        match sleep.as_mut().as_pin_mut() {
            Some(sleep) => sleep.poll(cx).map(|()| Err(Elapsed)),
            None => Poll::Pending,
        }
    })
    .await
}

/// Lets every other task have its turn. For loops that might find something to do for ever.
pub(crate) async fn give_way() {
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

/// The real world: the kernel's sockets and clock, a timer wheel.
pub(crate) struct Ring {
    timers: Rc<Timers>,
}

impl Ring {
    /// Starts the wheel's task; to be called on a worker's runtime.
    pub(crate) fn start() -> Ring {
        let timers = Rc::new(Timers::new(Instant::now()));
        let wheel = timers.clone();
        drop(monoio::spawn(async move {
            loop {
                monoio::time::sleep(TIMER_TICK).await;
                wheel.advance(Instant::now());
            }
        }));
        Ring { timers }
    }
}

impl Environment for Ring {
    type Stream = Socket;
    type Sleep = Sleep;

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn recently(&self) -> Instant {
        self.timers.recently()
    }

    fn sleep_until(&self, at: Instant) -> Sleep {
        Sleep::new(self.timers.clone(), at)
    }

    async fn connect(&self, address: &ServerAddress) -> io::Result<Socket> {
        Socket::connect(address).await
    }

    fn is_quiet(&self, stream: &Socket) -> bool {
        stream.is_quiet()
    }
}
