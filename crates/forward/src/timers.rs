//! Deadlines of one worker: a hashed timer wheel.
//!
//! Nearly every wait has a deadline and nearly none is reached: setting one and giving it up cost a few loads and
//! stores, and it takes 24 bytes of a future. (A timer of monoio takes 640, and an idle connection is mostly that.)
//! Exact to [`TIMER_TICK`]. Time is an argument.

use std::{
    cell::{Cell, RefCell},
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use crate::limits::TIMER_TICK;

/// The wheel.
pub(crate) struct Timers {
    origin: Instant,
    /// Ticks since `origin` that have been worked off.
    tick: Cell<u32>,
    wheel: RefCell<Wheel>,
}

struct Wheel {
    /// First entry of each slot's list.
    slots: [u32; SLOTS],
    entries: Vec<Entry>,
    /// First of the unused entries, linked by `next`.
    vacant: u32,
}

struct Entry {
    at: u32,
    previous: u32,
    next: u32,
    /// `None`: it has fired, or is unused.
    waker: Option<Waker>,
}

/// One turn of the wheel is 16 s: most deadlines pass by fewer than five times before they are met.
const SLOTS: usize = 512;
const TURN: u32 = 512;
const _: () = assert!(SLOTS == TURN as usize);
const NONE: u32 = u32::MAX;
/// In 64 bits: a division of 128 would be a call of its own for each wait.
const TICK_MILLIS: u64 = millis(TIMER_TICK);

const fn millis(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1000).saturating_add(duration.subsec_millis() as u64)
}

impl Timers {
    pub(crate) fn new(origin: Instant) -> Timers {
        let wheel = Wheel { slots: [NONE; SLOTS], entries: Vec::new(), vacant: NONE };
        Timers { origin, tick: Cell::new(0), wheel: RefCell::new(wheel) }
    }

    /// Fires what is due at `now`.
    pub(crate) fn advance(&self, now: Instant) {
        let (before, after) = (self.tick.get(), self.ticks_until(now, false));
        self.tick.set(after.max(before));
        let mut wheel = self.wheel.borrow_mut();
        // After a long pause every slot is due, once.
        let first = before.saturating_add(1).max(after.saturating_sub(TURN - 1));
        for tick in first..=after {
            wheel.fire(tick as usize % SLOTS, after);
        }
    }

    /// Ticks from the origin to `at`; a deadline is rounded up, so that it is never met early.
    fn ticks_until(&self, at: Instant, round_up: bool) -> u32 {
        let elapsed = millis(at.saturating_duration_since(self.origin));
        let ticks = if round_up { elapsed.div_ceil(TICK_MILLIS) } else { elapsed / TICK_MILLIS };
        // 4 years; later deadlines are never met, and the clock stops at it.
        u32::try_from(ticks).unwrap_or(NONE - 1).min(NONE - 1)
    }
}

impl Wheel {
    fn insert(&mut self, at: u32, waker: Waker) -> u32 {
        let index = match self.vacant {
            NONE => {
                self.entries.push(Entry { at: 0, previous: NONE, next: NONE, waker: None });
                u32::try_from(self.entries.len() - 1).expect("fewer waits than 2^32")
            }
            vacant => {
                self.vacant = self.entries[vacant as usize].next;
                vacant
            }
        };
        let slot = at as usize % SLOTS;
        let next = std::mem::replace(&mut self.slots[slot], index);
        self.entries[index as usize] = Entry { at, previous: NONE, next, waker: Some(waker) };
        if next != NONE {
            self.entries[next as usize].previous = index;
        }
        index
    }

    fn unlink(&mut self, index: u32) {
        let Entry { at, previous, next, .. } = self.entries[index as usize];
        match previous {
            NONE => self.slots[at as usize % SLOTS] = next,
            previous => self.entries[previous as usize].next = next,
        }
        if next != NONE {
            self.entries[next as usize].previous = previous;
        }
    }

    /// Gives an entry up, fired or not.
    fn remove(&mut self, index: u32) {
        if self.entries[index as usize].waker.take().is_some() {
            self.unlink(index);
        }
        self.entries[index as usize].next = std::mem::replace(&mut self.vacant, index);
    }

    fn fire(&mut self, slot: usize, now: u32) {
        let mut index = self.slots[slot];
        while index != NONE {
            let entry = &mut self.entries[index as usize];
            let next = entry.next;
            if entry.at <= now {
                // Waking only queues the task: it does not come back here.
                if let Some(waker) = entry.waker.take() {
                    waker.wake();
                }
                self.unlink(index);
            }
            index = next;
        }
    }
}

/// Ends when its deadline is past.
pub(crate) struct Sleep {
    timers: Rc<Timers>,
    at: u32,
    /// `NONE` before the first poll.
    entry: u32,
}

impl Sleep {
    pub(crate) fn new(timers: Rc<Timers>, at: Instant) -> Sleep {
        let at = timers.ticks_until(at, true);
        Sleep { timers, at, entry: NONE }
    }
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.timers.tick.get() >= self.at {
            return Poll::Ready(());
        }
        if self.entry == NONE {
            let entry = self.timers.wheel.borrow_mut().insert(self.at, cx.waker().clone());
            self.entry = entry;
        } else if let Some(waker) = &mut self.timers.wheel.borrow_mut().entries[self.entry as usize].waker {
            waker.clone_from(cx.waker());
        }
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        if self.entry != NONE {
            self.timers.wheel.borrow_mut().remove(self.entry);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
        time::Duration,
    };

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn poll(sleep: Pin<&mut Sleep>, count: &Arc<Count>) -> Poll<()> {
        sleep.poll(&mut Context::from_waker(&Waker::from(count.clone())))
    }

    #[test]
    fn a_deadline_is_met_never_early_and_at_most_one_tick_late() {
        for milliseconds in [0, 1, 31, 32, 33, 500, 16_384, 16_385, 100_000] {
            let origin = Instant::now();
            let timers = Rc::new(Timers::new(origin));
            let wait = Duration::from_millis(milliseconds);
            let mut sleep = pin!(Sleep::new(timers.clone(), origin + wait));
            let count = Arc::default();
            let mut now = origin;
            while poll(sleep.as_mut(), &count).is_pending() {
                assert_eq!(count.0.load(Ordering::Relaxed), 0);
                now += TIMER_TICK;
                timers.advance(now);
            }
            assert!(now >= origin + wait, "{milliseconds} ms: early");
            assert!(now < origin + wait + TIMER_TICK, "{milliseconds} ms: late");
            assert_eq!(count.0.load(Ordering::Relaxed), usize::from(milliseconds > 0), "woken once");
        }
    }

    #[test]
    fn after_a_pause_everything_due_fires() {
        let origin = Instant::now();
        let timers = Rc::new(Timers::new(origin));
        let count = Arc::default();
        let mut sleeps: Vec<_> = (0..2000)
            .map(|index| Box::pin(Sleep::new(timers.clone(), origin + Duration::from_millis(37 * index))))
            .collect();
        for sleep in &mut sleeps {
            let _ = poll(sleep.as_mut(), &count);
        }
        timers.advance(origin + Duration::from_secs(60));
        let due = sleeps
            .iter_mut()
            .filter_map(|sleep| poll(sleep.as_mut(), &count).is_ready().then_some(()))
            .count();
        assert_eq!(due, 60_000 / 37 + 1);
    }

    #[test]
    fn memory_is_that_of_the_waits_there_are() {
        let origin = Instant::now();
        let timers = Rc::new(Timers::new(origin));
        let count = Arc::default();
        for round in 0..1000_u64 {
            let mut sleeps: Vec<_> = (0..5)
                .map(|index| {
                    Box::pin(Sleep::new(
                        timers.clone(),
                        origin + Duration::from_millis(round * 7 + index * 100),
                    ))
                })
                .collect();
            for sleep in &mut sleeps {
                let _ = poll(sleep.as_mut(), &count);
            }
            timers.advance(origin + Duration::from_millis(round * 10));
        }
        let wheel = timers.wheel.borrow();
        assert_eq!(wheel.entries.len(), 5);
        assert!(wheel.slots.iter().all(|slot| *slot == NONE));
    }
}
