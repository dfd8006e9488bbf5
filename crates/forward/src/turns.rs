//! Rationed turns: what may go on for ever, or comes in thousands at once, is let on a few at a time, in order, and the
//! kernel and every other task have their turn in between.
//!
//! So a crowd of flooders shares a fixed part of each turn of the loop, however large it is, and who asks for little
//! waits for one such part and not for the crowd.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    future::poll_fn,
    task::{Poll, Waker},
    time::Instant,
};

use crate::limits::{
    BULK_TURNS, CROWD_SPAN, DIAL_TURNS, HANDSHAKE_TURNS, PIPELINED_TURNS, REQUEST_TURNS, REQUESTS_UNDERWAY,
    TURN_BYTES,
};

/// What somebody wants to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Accepting: a listener each, so that few come and none has to queue behind who was accepted.
    Accept,
    /// A TLS handshake, up to the answer to the client's first message.
    Handshake,
    /// A TLS connection to an origin: a request waits for it, which should not queue behind clients who only shake hands.
    Dial,
    /// A request that came while [many](Underway::are_many) others are under way.
    Request,
    /// A request that was already there when the one before it was answered: who pipelines does not hold up who waits for
    /// an answer before asking again.
    Pipelined,
    /// A body, after [`TURN_BYTES`] of bodies in this turn.
    Bulk,
}

impl Turn {
    const ALL: [Turn; 6] =
        [Turn::Accept, Turn::Handshake, Turn::Dial, Turn::Request, Turn::Pipelined, Turn::Bulk];

    /// How many are let on in one turn of the loop.
    const fn ration(self) -> usize {
        match self {
            Turn::Accept => usize::MAX,
            Turn::Handshake => HANDSHAKE_TURNS,
            Turn::Dial => DIAL_TURNS,
            Turn::Request => REQUEST_TURNS,
            Turn::Pipelined => PIPELINED_TURNS,
            Turn::Bulk => BULK_TURNS,
        }
    }
}

/// Who waits for a turn.
#[derive(Default)]
pub(crate) struct Turns {
    queues: RefCell<[Queue; Turn::ALL.len()]>,
    /// The task that goes round while somebody waits.
    usher: RefCell<Option<Waker>>,
    /// Bytes of bodies moved in this turn, or since somebody last waited.
    bytes: Cell<usize>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waker>,
    /// How many have ever been let on; the next to be let on has this number.
    admitted: u64,
}

impl Turns {
    /// Waits until it is the caller's turn. Dropping the wait leaves an empty place in the queue.
    pub(crate) async fn take(&self, turn: Turn) {
        let mut number = None;
        poll_fn(|cx| {
            let queue = &mut self.queues.borrow_mut()[turn as usize];
            if number.is_some_and(|number| number < queue.admitted) {
                return Poll::Ready(());
            }
            if number.is_none() {
                number = Some(queue.admitted + queue.waiting.len() as u64);
                queue.waiting.push_back(cx.waker().clone());
                if let Some(usher) = self.usher.borrow_mut().take() {
                    usher.wake();
                }
            }
            Poll::Pending
        })
        .await;
    }

    /// Whether somebody waits for such a turn.
    pub(crate) fn is_awaited(&self, turn: Turn) -> bool {
        !self.queues.borrow()[turn as usize].waiting.is_empty()
    }

    /// Takes note of bytes moved; whether this turn of the loop has seen enough of them.
    pub(crate) fn spend(&self, bytes: usize) -> bool {
        self.bytes.set(self.bytes.get() + bytes);
        self.bytes.get() >= TURN_BYTES
    }

    /// For the usher: waits until somebody waits.
    pub(crate) async fn somebody(&self) {
        poll_fn(|cx| {
            if self.queues.borrow().iter().any(|queue| !queue.waiting.is_empty()) {
                return Poll::Ready(());
            }
            *self.usher.borrow_mut() = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// For the usher: one turn of the loop is over, the next ones are let on.
    pub(crate) fn admit(&self) {
        self.bytes.set(0);
        for turn in Turn::ALL {
            let queue = &mut self.queues.borrow_mut()[turn as usize];
            let admitted = queue.waiting.len().min(turn.ration());
            queue.admitted += admitted as u64;
            // Waking only queues a task: nobody comes back here.
            queue.waiting.drain(..admitted).for_each(Waker::wake);
            queue.waiting.shrink_to(QUEUE_LIKELY);
        }
    }
}

/// Requests on their way to origins, of those that began in the present [`CROWD_SPAN`].
///
/// What has begun is finished before more begins: then the few under way find what they need in the processor's cache,
/// ours and the kernel's state of the connections to the origin first of all. Otherwise a thousand clients in a row would
/// each find that the others have driven it out. Requests that take longer, as long polls do, are forgotten with their span.
#[derive(Default)]
pub(crate) struct Underway {
    since: Cell<Option<Instant>>,
    count: Cell<usize>,
}

impl Underway {
    /// Whether a request should give way before it begins. Few need no clock.
    pub(crate) fn are_many(&self, now: impl FnOnce() -> Instant) -> bool {
        self.count.get() >= REQUESTS_UNDERWAY && self.is_present(now())
    }

    /// One more; dropping what this returns says that it is answered.
    pub(crate) fn begin(&self, now: Instant) -> Begun<'_> {
        if !self.is_present(now) {
            self.since.set(Some(now));
            self.count.set(0);
        }
        self.count.set(self.count.get() + 1);
        Begun { underway: self, since: self.since.get() }
    }

    fn is_present(&self, now: Instant) -> bool {
        self.since.get().is_some_and(|since| now.saturating_duration_since(since) < CROWD_SPAN)
    }
}

/// A request under way.
pub(crate) struct Begun<'a> {
    underway: &'a Underway,
    since: Option<Instant>,
}

impl Drop for Begun<'_> {
    fn drop(&mut self) {
        if self.since == self.underway.since.get() {
            self.underway.count.set(self.underway.count.get() - 1);
        }
    }
}

/// Places that a queue keeps, so that one crowd's memory is not kept for ever.
const QUEUE_LIKELY: usize = 1024;

#[cfg(test)]
mod tests {
    use std::{
        future::Future,
        pin::Pin,
        task::{Context, Waker},
    };

    use super::*;

    fn poll(wait: &mut Pin<Box<impl Future<Output = ()>>>) -> bool {
        wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn a_crowd_is_let_on_in_order_and_a_ration_at_a_time() {
        let turns = Turns::default();
        let mut waits: Vec<_> = (0..3 * REQUEST_TURNS).map(|_| Box::pin(turns.take(Turn::Request))).collect();
        assert!(waits.iter_mut().all(|wait| !poll(wait)));
        for round in 1..=3 {
            turns.admit();
            let ready = waits.iter_mut().filter_map(|wait| poll(wait).then_some(())).count();
            assert_eq!(ready, REQUEST_TURNS, "round {round}");
            waits.drain(..REQUEST_TURNS);
        }
    }

    #[test]
    fn requests_give_way_while_many_are_under_way_and_not_to_long_polls() {
        let (underway, now) = (Underway::default(), Instant::now());
        let mut begun: Vec<_> = (0..REQUESTS_UNDERWAY).map(|_| underway.begin(now)).collect();
        assert!(underway.are_many(|| now));
        begun.pop();
        assert!(!underway.are_many(|| now), "one of them is answered");
        begun.push(underway.begin(now));
        let later = now + CROWD_SPAN;
        assert!(!underway.are_many(|| later), "they are long polls");
        begun.push(underway.begin(later));
        assert_eq!(underway.count.get(), 1);
        begun.drain(..REQUESTS_UNDERWAY);
        assert_eq!(underway.count.get(), 1, "those of before do not count any more");
        drop(begun);
        assert_eq!(underway.count.get(), 0);
    }

    #[test]
    fn one_kind_does_not_wait_for_another() {
        for (many, one) in [(Turn::Request, Turn::Accept), (Turn::Handshake, Turn::Dial)] {
            let turns = Turns::default();
            let mut crowd: Vec<_> = (0..1000).map(|_| Box::pin(turns.take(many))).collect();
            crowd.iter_mut().for_each(|wait| assert!(!poll(wait)));
            let mut other = Box::pin(turns.take(one));
            assert!(!poll(&mut other));
            turns.admit();
            assert!(poll(&mut other), "{one:?}");
        }
    }

    #[test]
    fn the_usher_sleeps_while_nobody_waits() {
        let turns = Turns::default();
        let mut usher = Box::pin(turns.somebody());
        assert!(!poll(&mut usher));
        let mut wait = Box::pin(turns.take(Turn::Bulk));
        assert!(!poll(&mut wait));
        assert!(poll(&mut usher));
        turns.admit();
        assert!(!poll(&mut Box::pin(turns.somebody())));
    }
}
