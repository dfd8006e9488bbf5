//! The bytes of one client connection that have arrived and are not used up: a head, the start of its body,
//! perhaps the next requests already.
//!
//! A head stays where it was parsed until its exchange ends (spans point at it), what arrives meanwhile is
//! added behind it. Holds no buffer while it holds no byte.

use crate::buffers::{Buffer, Buffers};

/// Received bytes of a client connection.
#[derive(Default)]
pub(crate) struct Inbox {
    buffer: Option<Buffer>,
    filled: usize,
}

impl Inbox {
    /// What has arrived and is not used up.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.buffer.as_ref().map_or(&[], |buffer| &buffer[..self.filled])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.filled == 0
    }

    /// Room behind the bytes for at least one more, as long as they do not exceed `bytes_max`; a larger buffer is
    /// taken if need be. `None`: it is full.
    pub(crate) fn room(&mut self, buffers: &Buffers, bytes_max: usize) -> Option<&mut [u8]> {
        if self.filled >= bytes_max {
            return None;
        }
        let capacity = self.buffer.as_ref().map_or(0, |buffer| buffer.len());
        if self.filled == capacity {
            let mut larger = buffers.take(capacity + 1);
            if larger.len() <= capacity {
                return None;
            }
            larger[..self.filled].copy_from_slice(self.bytes());
            self.buffer = Some(larger);
        }
        self.buffer.as_mut().map(|buffer| &mut buffer[self.filled..])
    }

    /// `count` bytes were written to the start of [`room`](Self::room).
    pub(crate) fn fill(&mut self, count: usize) {
        self.filled += count;
        assert!(self.buffer.as_ref().is_some_and(|buffer| self.filled <= buffer.len()));
    }

    /// Adds `bytes`, cut to what fits; returns how many that were.
    pub(crate) fn append(&mut self, buffers: &Buffers, bytes: &[u8], bytes_max: usize) -> usize {
        let mut added = 0;
        while added < bytes.len() {
            let Some(room) = self.room(buffers, bytes_max) else { break };
            let count = room.len().min(bytes.len() - added);
            room[..count].copy_from_slice(&bytes[added..added + count]);
            self.fill(count);
            added += count;
        }
        added
    }

    /// Uses up the first `count` bytes.
    pub(crate) fn consume(&mut self, count: usize) {
        assert!(count <= self.filled);
        if let Some(buffer) = self.buffer.as_mut().filter(|_| count < self.filled) {
            buffer.copy_within(count..self.filled, 0);
        }
        self.filled -= count;
        if self.filled == 0 {
            self.buffer = None;
        }
    }

    /// Keeps the first `count` bytes and forgets the rest.
    pub(crate) fn truncate(&mut self, count: usize) {
        self.filled = self.filled.min(count);
    }

    /// Gives the buffer back if it holds nothing.
    pub(crate) fn release_if_empty(&mut self) {
        if self.filled == 0 {
            self.buffer = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_no_buffer_while_it_holds_no_byte() {
        let buffers = Buffers::new();
        let mut inbox = Inbox::default();
        inbox.append(&buffers, b"abc", 10);
        assert_eq!(buffers.out(), 1);
        inbox.consume(1);
        assert_eq!(inbox.bytes(), b"bc");
        inbox.consume(2);
        assert_eq!((inbox.bytes(), buffers.out()), (&b""[..], 0));
    }

    #[test]
    fn grows_to_its_bound_and_keeps_its_bytes() {
        let buffers = Buffers::new();
        let mut inbox = Inbox::default();
        let bytes: Vec<u8> = (0..50_000_u32).map(|byte| byte.to_le_bytes()[0]).collect();
        assert_eq!(inbox.append(&buffers, &bytes, 40_000), 65_536.min(bytes.len()));
        assert_eq!(inbox.bytes(), &bytes[..inbox.bytes().len()]);
        assert!(inbox.room(&buffers, 40_000).is_none());
    }
}
