//! Offsets into the caller's buffer.

/// Bytes of the caller's buffer, as offsets: no borrow outlives a read.
///
/// Offsets count from the first byte of the slice that was parsed. 32 bits are enough, because
/// [`HEAD_BYTES_CAP`](crate::HEAD_BYTES_CAP) bounds every head.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub start: u32,
    /// Offset one past the last byte.
    pub end: u32,
}

impl Span {
    /// The bytes that the span names in `buf`, the buffer it was made from.
    ///
    /// # Panics
    /// If `buf` is shorter than the buffer that the span was made from: a bug of the caller.
    #[must_use]
    pub fn of(self, buf: &[u8]) -> &[u8] {
        &buf[self.start as usize..self.end as usize]
    }

    /// Length in bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether it names no byte.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// `start..end`, both at most [`HEAD_BYTES_CAP`](crate::HEAD_BYTES_CAP).
    pub(crate) const fn new(start: usize, end: usize) -> Self {
        debug_assert!(start <= end);
        Self { start: offset(start), end: offset(end) }
    }

    /// Where `part`, a slice of `whole`, lies in it.
    pub(crate) fn within(part: &[u8], whole: &[u8]) -> Self {
        let start = part.as_ptr().addr() - whole.as_ptr().addr();
        debug_assert!(start + part.len() <= whole.len());
        Self::new(start, start + part.len())
    }
}

#[expect(clippy::cast_possible_truncation, reason = "heads longer than HEAD_BYTES_CAP are refused before")]
const fn offset(at: usize) -> u32 {
    debug_assert!(at <= crate::HEAD_BYTES_CAP);
    at as u32
}
