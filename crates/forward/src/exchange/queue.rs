//! Requests that wait until a server of their upstream has room.

use std::future::poll_fn;

use super::Exchange;
use crate::{
    counters::count,
    environment::{Environment, before},
    failure::Failure,
    limits::QUEUE_LOOK,
    pool::{Asking, Choice, Order, Pool},
    transport::Transport,
};

impl<E: Environment, T: Transport> Exchange<'_, E, T> {
    /// Waits in the line, not longer than `queue` from the first time on that this request waits. `None`: every server has been
    /// tried.
    pub(super) async fn wait_for_room<'p>(
        &self,
        pool: &'p Pool<E::Stream>,
        order: &mut Order<'p, E::Stream>,
    ) -> Result<Option<Asking<'p, E::Stream>>, Failure> {
        let (env, snapshot) = (&self.worker.env, &self.live.snapshot);
        let since = env.recently();
        let waiting = pool.wait(snapshot.limits.queue_max, since).ok_or(Failure::QueueFull)?;
        count(&self.worker.counters.queued);
        let deadline = self.progress.queue_until.get().unwrap_or(since + snapshot.timeouts.queue);
        self.progress.queue_until.set(Some(deadline));
        loop {
            let next_look = if waiting.is_first() { env.recently() + QUEUE_LOOK } else { deadline };
            // Whether it was called or its time has come: it looks.
            let called = poll_fn(|cx| waiting.poll_called(cx));
            let _ = before(env, next_look.min(deadline), called).await;
            let now = env.recently();
            if pool.may_look(&waiting, now) {
                match order.next(now, true) {
                    Choice::Server(asking) => return Ok(Some(asking)),
                    Choice::Nobody => return Ok(None),
                    Choice::Wait => {}
                }
            }
            if now >= deadline {
                return Err(Failure::QueueTimeout);
            }
        }
    }
}
