//! What workers share of an upstream whose servers take only so many requests at a time: how many each has, and how many
//! wait.
//!
//! The exception from "workers share nothing that is written per request": one atomic addition and one subtraction for each
//! request, and only where the configuration caps. Who waits stands in a line of its own worker ([`crate::pool`]); here is
//! what keeps lines of several workers fair to each other.

use std::{
    sync::atomic::{AtomicU64, AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use crate::limits::QUEUE_LEAD_MAX;

/// Requests that a server has, those of all workers, and how many it may have.
#[derive(Debug)]
pub struct Slots {
    taken: AtomicUsize,
    max: AtomicUsize,
}

impl Default for Slots {
    fn default() -> Self {
        Self { taken: AtomicUsize::new(0), max: AtomicUsize::new(usize::MAX) }
    }
}

impl Slots {
    /// How many requests have one. Those that began while there was no cap are not among them.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    /// Changes how many there are; `None`: no end of them. Requests that have begun go on.
    pub(crate) fn set_max(&self, max: Option<usize>) {
        self.max.store(max.unwrap_or(usize::MAX), Ordering::Relaxed);
    }

    pub(crate) fn has_room(&self) -> bool {
        self.taken() < self.max.load(Ordering::Relaxed)
    }

    /// Takes one, unless another worker was faster.
    pub(crate) fn take(&self) -> bool {
        let max = self.max.load(Ordering::Relaxed);
        let one_more = |taken: usize| (taken < max).then_some(taken + 1);
        self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    pub(crate) fn give_back(&self) {
        let before = self.taken.fetch_sub(1, Ordering::Relaxed);
        debug_assert!(before > 0, "a slot is given back once");
    }
}

/// Requests that wait for a server of one upstream, those of all workers.
#[derive(Debug)]
pub struct Queue {
    origin: Instant,
    waiting: AtomicUsize,
    /// Since when somebody waits whom other workers have overtaken for too long, in milliseconds since `origin`.
    claim: AtomicU64,
}

/// No claim.
const NOBODY: u64 = u64::MAX;

impl Default for Queue {
    fn default() -> Self {
        Self { origin: Instant::now(), waiting: AtomicUsize::new(0), claim: AtomicU64::new(NOBODY) }
    }
}

impl Queue {
    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// One more waits, unless `max` do.
    pub(crate) fn enter(&self, max: usize) -> bool {
        let one_more = |waiting: usize| (waiting < max).then_some(waiting + 1);
        self.waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).is_ok()
    }

    /// Who has waited since then waits no more.
    pub(crate) fn leave(&self, since: Instant) {
        self.withdraw(self.millis(since));
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether the first of a worker's line, who has waited since then, may take a slot now: not while somebody elsewhere
    /// has waited for [`QUEUE_LEAD_MAX`] longer. Who has waited that long says so to the others, unless there `is_room`: then it
    /// waits for a server that its own worker likes better, and others need not wait for that.
    pub(crate) fn may_take(&self, since: Instant, now: Instant, is_room: bool) -> bool {
        let since_millis = self.millis(since);
        if is_room {
            self.withdraw(since_millis);
        }
        let claim = self.claim.load(Ordering::Relaxed);
        if !is_room && since_millis < claim && now.saturating_duration_since(since) > QUEUE_LEAD_MAX {
            self.claim.fetch_min(since_millis, Ordering::Relaxed);
        }
        since_millis <= claim.saturating_add(millis(QUEUE_LEAD_MAX))
    }

    /// Ends the claim of who has waited since then.
    fn withdraw(&self, since_millis: u64) {
        let _ = self.claim.compare_exchange(since_millis, NOBODY, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn millis(&self, at: Instant) -> u64 {
        millis(at.saturating_duration_since(self.origin))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(NOBODY - 1)
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, thread};

    use super::*;

    #[test]
    fn slots_are_never_more_than_there_are_whoever_takes_them() {
        let (slots, most) = (Arc::new(Slots::default()), Arc::new(AtomicUsize::new(0)));
        slots.set_max(Some(3));
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if slots.take() {
                            most.fetch_max(slots.taken(), Ordering::Relaxed);
                            slots.give_back();
                        }
                    }
                });
            }
        });
        assert_eq!(slots.taken(), 0);
        assert!((1..=3).contains(&most.load(Ordering::Relaxed)));
    }

    #[test]
    fn a_lower_cap_waits_for_those_that_have_begun() {
        let slots = Slots::default();
        assert!((0..5).all(|_| slots.take()), "no cap");
        slots.set_max(Some(2));
        assert!(!slots.has_room() && !slots.take());
        (0..4).for_each(|_| slots.give_back());
        assert!(slots.take() && !slots.take());
        slots.set_max(Some(3));
        assert!(slots.take());
    }

    #[test]
    fn the_queue_has_an_end() {
        let (queue, now) = (Queue::default(), Instant::now());
        assert!(queue.enter(2) && queue.enter(2) && !queue.enter(2));
        queue.leave(now);
        assert!(queue.enter(2));
        assert_eq!(queue.waiting(), 2);
    }

    #[test]
    fn who_has_waited_much_longer_elsewhere_comes_first() {
        let queue = Queue::default();
        let early = queue.origin + Duration::from_secs(1);
        let late = early + QUEUE_LEAD_MAX + Duration::from_millis(10);
        let about_as_early = early + QUEUE_LEAD_MAX;
        let may_take = |since| queue.may_take(since, late, false);
        assert!(queue.may_take(early, early, false) && may_take(late), "nobody claims yet");
        assert!(may_take(early), "and now somebody does");
        assert!(!may_take(late));
        assert!(may_take(about_as_early), "a small lead stalls nobody");
        assert!(queue.enter(9));
        queue.leave(early);
        assert!(may_take(late));
    }

    #[test]
    fn who_waits_although_there_is_room_holds_nobody_up() {
        let queue = Queue::default();
        let early = queue.origin + Duration::from_secs(1);
        let late = early + QUEUE_LEAD_MAX + Duration::from_millis(10);
        assert!(queue.may_take(early, late, true) && queue.may_take(late, late, true));
        assert!(queue.may_take(early, late, false) && !queue.may_take(late, late, true), "it claims");
        assert!(queue.may_take(early, late, true) && queue.may_take(late, late, true), "and no more");
    }
}
