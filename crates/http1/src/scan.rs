//! Finding the end of a head (RFC 9112 §2.1), over any number of reads.
//!
//! Each byte is looked at once, so the work is linear in the bytes, not in the reads. The verdict does not depend on
//! where the reads ended: a line end that is wrong is refused at the same byte, a limit at the same length.

use crate::{HeadError, HeadLimits};

/// Finds the end of a head. One value a head.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    /// Bytes of the buffer that were looked at.
    seen: usize,
    /// Where the line begins that has not ended yet.
    line_start: usize,
    /// Bytes of the empty line before the start-line.
    skipped: usize,
}

impl HeadScan {
    /// Nothing seen yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { seen: 0, line_start: 0, skipped: 0 }
    }

    /// Whether no byte has been seen that is known to belong to the head.
    pub(crate) const fn is_new(&self) -> bool {
        self.seen == 0
    }

    /// Looks at what `buf` has more than at the last call. `buf` starts where the message starts.
    ///
    /// `Ok(Some(len))`: `buf[..len]` is the head, its empty line included, to be handed to `parse` as it is.
    /// `Ok(None)`: more bytes are needed. A bare CR, a bare LF and NUL are refused as soon as they are seen; bytes
    /// behind the head are not looked at.
    pub fn scan(&mut self, buf: &[u8], limits: &HeadLimits) -> Result<Option<usize>, HeadError> {
        let limit = limits.head_bytes();
        let window = &buf[..buf.len().min(limit)];
        while let Some(line_end) = self.next_line_end(window)? {
            if self.ends_head(line_end)? {
                return Ok(Some(line_end));
            }
            self.line_start = line_end;
        }
        if buf.len() >= limit { Err(self.too_large()) } else { Ok(None) }
    }

    /// Length in bytes of the one empty line before a request line that is ignored (RFC 9112 §2.2): 0 or 2.
    ///
    /// It is part of the head that [`scan`](Self::scan) measures, and `parse` skips it. While no more bytes than
    /// these have arrived, no request has begun.
    #[must_use]
    pub const fn skipped(&self) -> usize {
        self.skipped
    }

    /// One past the next CRLF.
    fn next_line_end(&mut self, window: &[u8]) -> Result<Option<usize>, HeadError> {
        let Some(at) = memchr::memchr3(b'\r', b'\n', 0, &window[self.seen..]) else {
            self.seen = window.len();
            return Ok(None);
        };
        let at = self.seen + at;
        match (window[at], window.get(at + 1)) {
            (b'\r', Some(b'\n')) => {
                self.seen = at + 2;
                Ok(Some(self.seen))
            }
            (b'\r', None) => {
                self.seen = at;
                Ok(None)
            }
            (b'\r', Some(_)) => Err(HeadError::BareCr),
            (b'\n', _) => Err(HeadError::BareLf),
            _ => Err(HeadError::Nul),
        }
    }

    /// Whether the line that ends at `line_end` is the empty line behind the fields.
    fn ends_head(&mut self, line_end: usize) -> Result<bool, HeadError> {
        let is_empty = line_end - self.line_start == CRLF_BYTES;
        if !is_empty || self.line_start > self.skipped {
            return Ok(is_empty);
        }
        if self.skipped > 0 {
            return Err(HeadError::LeadingEmptyLine);
        }
        self.skipped = CRLF_BYTES;
        Ok(false)
    }

    /// A start-line that does not end within the limit is too long by its target.
    fn too_large(&self) -> HeadError {
        if self.line_start > self.skipped { HeadError::HeadTooLarge } else { HeadError::TargetTooLong }
    }
}

/// Length in bytes of a line end.
const CRLF_BYTES: usize = 2;

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(buf: &[u8]) -> Result<Option<usize>, HeadError> {
        HeadScan::new().scan(buf, &HeadLimits::default())
    }

    #[test]
    fn the_head_ends_behind_the_first_empty_line_and_nothing_behind_it_is_looked_at() {
        assert_eq!(scan(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n\0\n\r"), Ok(Some(27)));
        assert_eq!(scan(b"GET / HTTP/1.1\r\n\r\n"), Ok(Some(18)));
    }

    #[test]
    fn an_unfinished_head_needs_more_bytes() {
        for partial in [&b""[..], b"\r", b"\r\n", b"GET", b"GET / HTTP/1.1\r", b"GET / HTTP/1.1\r\n\r"] {
            assert_eq!(scan(partial), Ok(None));
        }
    }

    #[test]
    fn one_empty_line_before_the_start_line_is_skipped_and_two_are_refused() {
        let mut head = HeadScan::new();
        assert_eq!(head.scan(b"\r\n", &HeadLimits::default()), Ok(None));
        assert_eq!(head.skipped(), 2);
        assert_eq!(head.scan(b"\r\nA\r\n\r\n", &HeadLimits::default()), Ok(Some(7)));
        assert_eq!(head.skipped(), 2);
        assert_eq!(scan(b"\r\n\r\n"), Err(HeadError::LeadingEmptyLine));
    }

    #[test]
    fn wrong_line_ends_and_nul_are_refused_before_the_head_is_complete() {
        assert_eq!(scan(b"GET /\rx"), Err(HeadError::BareCr));
        assert_eq!(scan(b"GET /\r\r\n"), Err(HeadError::BareCr));
        assert_eq!(scan(b"GET /\n"), Err(HeadError::BareLf));
        assert_eq!(scan(b"\n"), Err(HeadError::BareLf));
        assert_eq!(scan(b"GET /\0"), Err(HeadError::Nul));
    }

    #[test]
    fn the_limit_holds_for_the_head_and_not_for_what_follows() {
        let limits = HeadLimits { head_bytes_max: 18, ..HeadLimits::default() };
        let scan = |buf: &[u8]| HeadScan::new().scan(buf, &limits);
        assert_eq!(scan(b"GET / HTTP/1.1\r\n\r\nmore of it"), Ok(Some(18)));
        assert_eq!(scan(b"GET / HTTP/1.1\r\na"), Ok(None));
        assert_eq!(scan(b"GET / HTTP/1.1\r\na:"), Err(HeadError::HeadTooLarge));
        assert_eq!(scan(b"GET /1 HTTP/1.1\r\n\r\n"), Err(HeadError::HeadTooLarge));
        assert_eq!(scan(b"GET /1234567890123"), Err(HeadError::TargetTooLong));
    }

    /// Checked by giving the bytes one by one and comparing with all at once.
    #[test]
    fn the_verdict_does_not_depend_on_read_boundaries() {
        let limits = HeadLimits { head_bytes_max: 24, ..HeadLimits::default() };
        for input in [
            &b"\r\nGET / HTTP/1.1\r\n\r\nrest"[..],
            b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: b\n\r\n",
            b"GET / HTTP/1.1\r\nA: bcd\r\n",
            b"GET /aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        ] {
            let mut scan = HeadScan::new();
            let stepwise = (0..=input.len()).find_map(|len| scan.scan(&input[..len], &limits).transpose());
            assert_eq!(stepwise, HeadScan::new().scan(input, &limits).transpose());
        }
    }
}
