//! Buffers that a thread's connections take while bytes move and give back: idle connections hold none.

use std::cell::RefCell;

/// The buffers of one thread.
#[derive(Debug)]
pub(crate) struct Buffers {
    /// For received bytes: as long as what is in them.
    pub(crate) incoming: [Pool; 2],
    /// For bytes to send: always as long as they can be, so that encryption writes into them without clearing first.
    pub(crate) outgoing: [Pool; 2],
}

/// Which of the two sizes.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Size {
    /// Holds every response head and one TLS record.
    Small = 0,
    /// For bodies that move in bulk.
    Large = 1,
}

/// Free buffers of one size. Never more than there are connections that held one at the same time.
#[derive(Debug)]
pub(crate) struct Pool {
    bytes: usize,
    filled: bool,
    free: RefCell<Vec<Vec<u8>>>,
}

impl Buffers {
    /// No buffer yet.
    pub(crate) fn new() -> Buffers {
        let pool = |bytes, filled| Pool { bytes, filled, free: RefCell::new(Vec::new()) };
        Buffers {
            incoming: [pool(SMALL_BYTES, false), pool(LARGE_BYTES, false)],
            outgoing: [pool(SMALL_BYTES, true), pool(LARGE_BYTES, true)],
        }
    }

    /// An empty buffer to receive into.
    pub(crate) fn incoming(&self, size: Size) -> Vec<u8> {
        self.incoming[size as usize].take()
    }

    /// Gives a buffer of [`incoming`](Self::incoming) back.
    pub(crate) fn put_incoming(&self, mut buffer: Vec<u8>) {
        buffer.clear();
        let size = usize::from(buffer.capacity() >= LARGE_BYTES);
        self.incoming[size].free.borrow_mut().push(buffer);
    }

    /// A buffer to send from, its content arbitrary.
    pub(crate) fn outgoing(&self, size: Size) -> Vec<u8> {
        self.outgoing[size as usize].take()
    }

    /// Gives a buffer of [`outgoing`](Self::outgoing) back.
    pub(crate) fn put_outgoing(&self, buffer: Vec<u8>) {
        let size = usize::from(buffer.len() >= LARGE_BYTES);
        self.outgoing[size].free.borrow_mut().push(buffer);
    }
}

impl Pool {
    fn take(&self) -> Vec<u8> {
        self.free
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| if self.filled { vec![0; self.bytes] } else { Vec::with_capacity(self.bytes) })
    }
}

/// 20 KiB: one TLS record of the largest kind (16 KiB and its overhead) and the beginning of the next.
pub(crate) const SMALL_BYTES: usize = 20 * 1024;

/// 260 KiB: 256 KiB of content and what TLS adds to each 16 KiB of them.
pub(crate) const LARGE_BYTES: usize = 260 * 1024;

/// How much content goes into one large buffer, in bytes: the bulk size at which ringfence itself moves bodies.
pub(crate) const BULK_BYTES: usize = 256 * 1024;

/// What uploads and downloads consist of.
pub(crate) static ZEROS: [u8; BULK_BYTES] = [0; BULK_BYTES];
