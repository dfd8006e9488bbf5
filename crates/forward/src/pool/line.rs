//! The line in which requests of one worker wait until a server of an upstream has room, first come first served.
//!
//! Whoever gives a slot back on this worker calls the first at once; for slots of other workers the first looks again every
//! [`QUEUE_LOOK`](crate::limits::QUEUE_LOOK). How lines of several workers take turns is up to [`Queue`].

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use crate::slots::Queue;

/// The line.
#[derive(Default)]
pub(crate) struct Line {
    /// What the workers share; it bounds the line too.
    queue: Arc<Queue>,
    places: RefCell<VecDeque<Place>>,
    ticket: Cell<u64>,
}

struct Place {
    ticket: u64,
    is_called: bool,
    waker: Waker,
}

/// A place in the line; dropping it leaves.
pub(crate) struct Waiting<'l> {
    line: &'l Line,
    ticket: u64,
    since: Instant,
}

impl Line {
    pub(crate) fn new(queue: Arc<Queue>) -> Line {
        Line { queue, ..Line::default() }
    }

    /// Whether it is this queue that it is a part of.
    pub(crate) fn is_part_of(&self, queue: &Arc<Queue>) -> bool {
        Arc::ptr_eq(&self.queue, queue)
    }

    /// Whether somebody waits, here or on another worker.
    pub(super) fn is_awaited(&self) -> bool {
        self.queue.waiting() > 0
    }

    /// Takes the last place; `None`: `max` requests wait already. Who is first by that is called at once: those that wait on
    /// other workers do not wait for the same room, or have left meanwhile.
    pub(super) fn enter(&self, max: usize, now: Instant) -> Option<Waiting<'_>> {
        if !self.queue.enter(max) {
            return None;
        }
        let ticket = self.ticket.get();
        self.ticket.set(ticket + 1);
        let mut places = self.places.borrow_mut();
        let is_called = places.is_empty();
        places.push_back(Place { ticket, is_called, waker: Waker::noop().clone() });
        Some(Waiting { line: self, ticket, since: now })
    }

    /// There may be room: the first is to look.
    pub(crate) fn call(&self) {
        if let Some(first) = self.places.borrow_mut().front_mut() {
            first.is_called = true;
            first.waker.wake_by_ref();
        }
    }
}

impl Waiting<'_> {
    /// Whether it is first in its line.
    pub(crate) fn is_first(&self) -> bool {
        self.line.places.borrow().front().is_some_and(|first| first.ticket == self.ticket)
    }

    /// Whether it may look for room; `is_room`: some server has it, whether this request may have that one or not.
    pub(super) fn may_look(&self, now: Instant, is_room: bool) -> bool {
        self.is_first() && self.line.queue.may_take(self.since, now, is_room)
    }

    /// Ready when it has been called.
    pub(crate) fn poll_called(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut places = self.line.places.borrow_mut();
        let Ok(index) = places.binary_search_by_key(&self.ticket, |place| place.ticket) else {
            return Poll::Pending;
        };
        let place = &mut places[index];
        if std::mem::take(&mut place.is_called) {
            return Poll::Ready(());
        }
        place.waker.clone_from(cx.waker());
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        {
            let mut places = self.line.places.borrow_mut();
            if let Ok(index) = places.binary_search_by_key(&self.ticket, |place| place.ticket) {
                places.remove(index);
            }
        }
        self.line.queue.leave(self.since);
        // Whoever is first now: room for more than one may have come.
        self.line.call();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_called(waiting: &Waiting<'_>) -> bool {
        waiting.poll_called(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn the_first_is_called_and_the_next_when_it_has_left() {
        let (line, now) = (Line::default(), Instant::now());
        let first = line.enter(3, now).unwrap();
        let second = line.enter(3, now).unwrap();
        let third = line.enter(3, now).unwrap();
        assert!(
            is_called(&first) && !is_called(&first),
            "whoever comes to an empty line looks before it sleeps"
        );
        assert!(line.enter(3, now).is_none(), "the line has an end");
        line.call();
        assert!(is_called(&first) && !is_called(&first) && !is_called(&second));
        drop(second);
        drop(first);
        assert!(third.may_look(now, true) && is_called(&third));
        drop(third);
        assert!(!line.is_awaited());
    }
}
