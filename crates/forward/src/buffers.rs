//! Buffers of a worker: a few fixed sizes, recycled, the largest ones under a budget.
//!
//! A buffer is taken when bytes are there to be moved and goes back when they have moved; a connection that
//! waits holds none. Taking and giving back is a push and a pop.

use std::{
    cell::Cell,
    ops::{Deref, DerefMut},
    rc::Rc,
};

use crate::{
    kernel_pipes::KernelPipes,
    limits::{
        BULK_BUFFER_BYTES, BULK_BYTES_MAX, HEAD_BUFFER_BYTES, HEAD_BYTES_CAP, KIB, MIDDLE_BUFFER_BYTES,
        RELAY_BUFFER_BYTES,
    },
    shelf::Shelf,
};

/// The buffers of one worker.
#[derive(Clone)]
pub struct Buffers {
    stock: Rc<Stock>,
}

struct Stock {
    sizes: [OneSize; SIZES.len()],
    pipes: KernelPipes,
}

/// A buffer on loan; dropping it gives it back.
pub struct Buffer {
    bytes: Vec<u8>,
    size: usize,
    stock: Rc<Stock>,
}

impl Buffers {
    /// No buffer is allocated before the first one is taken.
    #[allow(clippy::new_without_default, reason = "a worker makes exactly one")]
    pub fn new() -> Buffers {
        let stock = Stock { sizes: SIZES.map(|_| OneSize::default()), pipes: KernelPipes::default() };
        Buffers { stock: Rc::new(stock) }
    }

    /// The smallest buffer that holds `bytes`, or the largest there is.
    pub fn take(&self, bytes: usize) -> Buffer {
        let size = SIZES.iter().position(|size| *size >= bytes).unwrap_or(SIZES.len() - 1);
        let OneSize { shelf, out } = &self.stock.sizes[size];
        out.set(out.get() + 1);
        let bytes = shelf.take().unwrap_or_else(|| vec![0; SIZES[size]]);
        Buffer { bytes, size, stock: self.stock.clone() }
    }

    /// A buffer for a body that moves fast, or the small one when the worker's budget is spent.
    pub fn take_bulk(&self, bytes: usize) -> Buffer {
        self.take_within(BULK_BYTES_MAX, bytes).unwrap_or_else(|| self.take(RELAY_BUFFER_BYTES))
    }

    /// A buffer for a large body of which nobody knows yet whether it will move fast: half of the budget is for those that
    /// do.
    pub fn take_large(&self, bytes: usize) -> Option<Buffer> {
        self.take_within(BULK_BYTES_MAX / 2, bytes)
    }

    fn take_within(&self, budget: usize, bytes: usize) -> Option<Buffer> {
        let bulk = self.stock.sizes.iter().zip(SIZES).skip(BULK);
        let bytes_out = bulk.map(|(size, bytes)| size.out.get() * bytes).sum::<usize>();
        (bytes_out + bytes <= budget).then(|| self.take(bytes))
    }

    /// For what needs no buffer, because the kernel moves it.
    pub(crate) fn pipes(&self) -> &KernelPipes {
        &self.stock.pipes
    }

    /// Frees buffers and pipes that nobody needs any more.
    pub(crate) fn trim(&self) {
        self.stock.sizes.iter().for_each(|size| size.shelf.trim());
        self.stock.pipes.trim();
    }

    /// How many buffers are on loan, of all sizes.
    pub fn out(&self) -> usize {
        self.stock.sizes.iter().map(|size| size.out.get()).sum()
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
        let OneSize { shelf, out } = &self.stock.sizes[self.size];
        out.set(out.get() - 1);
        shelf.give(std::mem::take(&mut self.bytes), IDLE_BYTES_MAX / SIZES[self.size]);
    }
}

#[derive(Default)]
struct OneSize {
    shelf: Shelf<Vec<u8>>,
    /// On loan.
    out: Cell<usize>,
}

/// What a worker keeps of each size for the next taker, in bytes. More than that goes back to the system.
const IDLE_BYTES_MAX: usize = 4 * 1024 * KIB;

/// 20, 72 and 288 KiB hold the content of the size before after encryption.
const SIZES: [usize; 8] = [
    HEAD_BUFFER_BYTES,
    RELAY_BUFFER_BYTES,
    20 * KIB,
    32 * KIB,
    MIDDLE_BUFFER_BYTES,
    72 * KIB,
    BULK_BUFFER_BYTES,
    288 * KIB,
];
/// The first of the sizes that are under the budget.
const BULK: usize = 4;
const _: () = assert!(SIZES[BULK] == MIDDLE_BUFFER_BYTES);
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
        let count = BULK_BYTES_MAX / BULK_BUFFER_BYTES;
        let bulk: Vec<_> = (0..count).map(|_| buffers.take_bulk(BULK_BUFFER_BYTES)).collect();
        assert!(bulk.iter().all(|buffer| buffer.len() == BULK_BUFFER_BYTES));
        assert_eq!(buffers.take_bulk(MIDDLE_BUFFER_BYTES).len(), RELAY_BUFFER_BYTES);
        drop(bulk);
        assert_eq!(buffers.take_bulk(BULK_BUFFER_BYTES).len(), BULK_BUFFER_BYTES);
    }

    #[test]
    fn bodies_that_have_not_moved_yet_leave_half_of_the_budget_to_those_that_have() {
        let buffers = Buffers::new();
        let count = BULK_BYTES_MAX / 2 / BULK_BUFFER_BYTES;
        let large: Vec<_> = (0..count).map(|_| buffers.take_large(BULK_BUFFER_BYTES)).collect();
        assert!(large.iter().all(Option::is_some));
        assert!(buffers.take_large(BULK_BUFFER_BYTES).is_none());
        assert_eq!(buffers.take_bulk(BULK_BUFFER_BYTES).len(), BULK_BUFFER_BYTES);
    }

    #[test]
    fn idle_buffers_beyond_the_bound_are_freed() {
        let buffers = Buffers::new();
        drop((0..IDLE_BYTES_MAX / HEAD_BUFFER_BYTES + 10).map(|_| buffers.take(1)).collect::<Vec<_>>());
        assert_eq!(buffers.stock.sizes[0].shelf.len(), IDLE_BYTES_MAX / HEAD_BUFFER_BYTES);
    }
}
