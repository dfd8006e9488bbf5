//! A request ready to be sent.

/// What is sent: a head with the beginning of the body, then zeros.
#[derive(Debug, Default)]
pub(crate) struct Request {
    /// Head, and whatever of the body is not zeros or is short.
    pub(crate) head: Vec<u8>,
    /// Zeros that follow.
    pub(crate) zeros: u64,
}

impl Request {
    /// Adds a body of zeros, the head being complete: short ones go out together with the head.
    pub(crate) fn add_zeros(&mut self, count: u64) {
        match usize::try_from(count) {
            Ok(count) if count <= INLINE_BYTES_MAX => self.head.resize(self.head.len() + count, 0),
            _ => self.zeros = count,
        }
    }
}

/// Bodies up to this size, in bytes, are sent in one write with their head, as HTTP clients do.
const INLINE_BYTES_MAX: usize = 16 * 1024;
