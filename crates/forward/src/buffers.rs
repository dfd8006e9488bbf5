//! Buffers of a worker: a few fixed sizes, recycled, the largest ones under a budget.
//!
//! A buffer is taken when bytes are there to be moved and goes back when they have moved; a connection that
//! waits holds none. Taking and giving back is a push and a pop.

use std::{
    cell::{Cell, RefCell},
    ops::{Deref, DerefMut},
    rc::Rc,
};

use crate::limits::{
    BULK_BUFFER_BYTES, BULK_BYTES_MAX, HEAD_BUFFER_BYTES, HEAD_BYTES_CAP, KIB, RELAY_BUFFER_BYTES,
};

/// The buffers of one worker.
#[derive(Clone)]
pub struct Buffers {
    shelves: Rc<[Shelf; SIZES.len()]>,
}

/// A buffer on loan; dropping it gives it back.
pub struct Buffer {
    bytes: Vec<u8>,
    size: usize,
    shelves: Rc<[Shelf; SIZES.len()]>,
}

impl Buffers {
    /// No buffer is allocated before the first one is taken.
    #[allow(clippy::new_without_default, reason = "a worker makes exactly one")]
    pub fn new() -> Buffers {
        Buffers { shelves: Rc::new(SIZES.map(|_| Shelf::default())) }
    }

    /// The smallest buffer that holds `bytes`, or the largest there is.
    pub fn take(&self, bytes: usize) -> Buffer {
        let size = SIZES.iter().position(|size| *size >= bytes).unwrap_or(SIZES.len() - 1);
        let shelf = &self.shelves[size];
        shelf.out.set(shelf.out.get() + 1);
        let bytes = shelf.idle.borrow_mut().pop().unwrap_or_else(|| vec![0; SIZES[size]]);
        Buffer { bytes, size, shelves: self.shelves.clone() }
    }

    /// A buffer for a body that moves fast, or the small one when the worker's budget is spent.
    pub fn take_bulk(&self) -> Buffer {
        let bulk_bytes_out =
            self.shelves[BULK..].iter().map(|shelf| shelf.out.get()).sum::<usize>() * BULK_BUFFER_BYTES;
        self.take(if bulk_bytes_out < BULK_BYTES_MAX { BULK_BUFFER_BYTES } else { RELAY_BUFFER_BYTES })
    }

    /// How many buffers are on loan, of all sizes.
    pub fn out(&self) -> usize {
        self.shelves.iter().map(|shelf| shelf.out.get()).sum()
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let shelf = &self.shelves[self.size];
        shelf.out.set(shelf.out.get() - 1);
        let mut idle = shelf.idle.borrow_mut();
        if (idle.len() + 1) * SIZES[self.size] <= IDLE_BYTES_MAX {
            idle.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[derive(Default)]
struct Shelf {
    idle: RefCell<Vec<Vec<u8>>>,
    out: Cell<usize>,
}

/// What a worker keeps of each size for the next taker, in bytes. More than that goes back to the system.
const IDLE_BYTES_MAX: usize = 4 * 1024 * KIB;

/// 20 KiB and 288 KiB hold the content of the size before after encryption.
const SIZES: [usize; 7] =
    [HEAD_BUFFER_BYTES, RELAY_BUFFER_BYTES, 20 * KIB, 32 * KIB, 64 * KIB, BULK_BUFFER_BYTES, 288 * KIB];
/// The first of the sizes that are under the budget.
const BULK: usize = 5;
const _: () = assert!(SIZES[BULK] == BULK_BUFFER_BYTES);
const _: () = assert!(HEAD_BYTES_CAP + RELAY_BUFFER_BYTES <= SIZES[SIZES.len() - 1]);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_given_back_is_taken_again() {
        let buffers = Buffers::new();
        let first = buffers.take(1);
        let address = first.as_ptr();
        assert_eq!(first.len(), HEAD_BUFFER_BYTES);
        drop(first);
        assert_eq!(buffers.out(), 0);
        assert_eq!(buffers.take(HEAD_BUFFER_BYTES).as_ptr(), address);
    }

    #[test]
    fn bulk_buffers_stay_inside_their_budget() {
        let buffers = Buffers::new();
        let bulk: Vec<_> = (0..BULK_BYTES_MAX / BULK_BUFFER_BYTES).map(|_| buffers.take_bulk()).collect();
        assert!(bulk.iter().all(|buffer| buffer.len() == BULK_BUFFER_BYTES));
        assert_eq!(buffers.take_bulk().len(), RELAY_BUFFER_BYTES);
        drop(bulk);
        assert_eq!(buffers.take_bulk().len(), BULK_BUFFER_BYTES);
    }

    #[test]
    fn idle_buffers_beyond_the_bound_are_freed() {
        let buffers = Buffers::new();
        drop((0..IDLE_BYTES_MAX / HEAD_BUFFER_BYTES + 10).map(|_| buffers.take(1)).collect::<Vec<_>>());
        assert_eq!(buffers.shelves[0].idle.borrow().len(), IDLE_BYTES_MAX / HEAD_BUFFER_BYTES);
    }
}
