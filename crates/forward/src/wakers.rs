//! Tasks that wait for something on a connection and also have to hear of the worker's draining.

use std::{
    cell::RefCell,
    future::poll_fn,
    task::{Poll, Waker},
};

/// The wakers of such tasks.
#[derive(Default)]
pub(crate) struct Wakers {
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    wakers: Vec<Option<Waker>>,
    vacant: Vec<u32>,
}

/// A task's place; leaving it ends the registration.
pub(crate) struct Registration<'a> {
    wakers: &'a Wakers,
    slot: u32,
}

impl Wakers {
    /// Registers the task that awaits this.
    pub(crate) async fn register(&self) -> Registration<'_> {
        poll_fn(|cx| Poll::Ready(self.add(cx.waker().clone()))).await
    }

    /// Wakes every registered task.
    pub(crate) fn wake_all(&self) {
        self.slots.borrow().wakers.iter().flatten().for_each(Waker::wake_by_ref);
    }

    fn add(&self, waker: Waker) -> Registration<'_> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.vacant.pop().unwrap_or_else(|| {
            slots.wakers.push(None);
            u32::try_from(slots.wakers.len() - 1).expect("fewer tasks than 2^32")
        });
        slots.wakers[slot as usize] = Some(waker);
        Registration { wakers: self, slot }
    }
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        let mut slots = self.wakers.slots.borrow_mut();
        slots.wakers[self.slot as usize] = None;
        slots.vacant.push(self.slot);
    }
}
