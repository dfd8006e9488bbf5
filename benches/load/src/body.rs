//! Where a message body ends (RFC 9112 §6.3): by length, by its last chunk, or when the peer closes.
//!
//! Sans I/O: bytes are given as they come, content is skipped and not kept. Not the proxy's own reader: what judges its
//! answers must not be wrong in the same place.

/// The rest of a message body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    /// This many bytes are still to come.
    Length(u64),
    /// In chunks (RFC 9112 §7.1).
    Chunked(Chunked),
    /// Until the peer closes.
    UntilClose,
}

/// What comes next in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Chunked {
    /// Digits of a chunk size; the number of digits so far, and their value.
    Size(u32, u64),
    /// A chunk extension, up to the end of its line.
    Extension(u64),
    /// The LF that ends a chunk size of this value.
    SizeLf(u64),
    /// This many bytes of chunk data, at least one.
    Data(u64),
    /// The CR, then the LF, after chunk data.
    DataCr,
    /// See [`DataCr`](Self::DataCr).
    DataLf,
    /// The beginning of a line of the trailer section, or of the empty line that ends it.
    LineStart,
    /// Inside a trailer field.
    Line,
    /// The last LF.
    LastLf,
    /// Nothing: it has ended.
    End,
}

impl Body {
    /// The body that begins now in chunks.
    pub(crate) const CHUNKED: Body = Body::Chunked(Chunked::Size(0, 0));

    /// Takes what belongs to the body from the beginning of `bytes`; says how many bytes that were.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        match self {
            Body::Length(left) => {
                let taken = bytes.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                *left -= taken as u64;
                Ok(taken)
            }
            Body::Chunked(chunked) => chunked.feed(bytes),
            Body::UntilClose => Ok(bytes.len()),
        }
    }

    /// Whether nothing more belongs to it.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self, Body::Length(0) | Body::Chunked(Chunked::End))
    }

    /// How much is known to come, in bytes.
    pub(crate) fn expected(&self) -> u64 {
        match self {
            Body::Length(left) | Body::Chunked(Chunked::Data(left)) => *left,
            Body::Chunked(_) | Body::UntilClose => 0,
        }
    }
}

impl Chunked {
    fn feed(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        let mut at = 0;
        while at < bytes.len() && *self != Chunked::End {
            if let Chunked::Data(left) = self {
                let taken = (bytes.len() - at).min(usize::try_from(*left).unwrap_or(usize::MAX));
                at += taken;
                *left -= taken as u64;
                if *left == 0 {
                    *self = Chunked::DataCr;
                }
            } else {
                *self = self.after(bytes[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    fn after(self, byte: u8) -> Result<Chunked, &'static str> {
        Ok(match (self, byte) {
            (Chunked::Size(digits, value), _) if byte.is_ascii_hexdigit() && digits < SIZE_DIGITS_MAX => {
                let digit = char::from(byte).to_digit(16).unwrap_or(0);
                Chunked::Size(digits + 1, value << 4 | u64::from(digit))
            }
            (Chunked::Size(1.., value), b'\r') => Chunked::SizeLf(value),
            (Chunked::Size(1.., value), b';' | b' ' | b'\t') => Chunked::Extension(value),
            (Chunked::Extension(value), b'\r') => Chunked::SizeLf(value),
            (Chunked::Extension(value), _) => Chunked::Extension(value),
            (Chunked::SizeLf(0), b'\n') => Chunked::LineStart,
            (Chunked::SizeLf(value), b'\n') => Chunked::Data(value),
            (Chunked::DataCr, b'\r') => Chunked::DataLf,
            (Chunked::DataLf, b'\n') => Chunked::Size(0, 0),
            (Chunked::LineStart, b'\r') => Chunked::LastLf,
            (Chunked::Line, b'\n') => Chunked::LineStart,
            (Chunked::LineStart | Chunked::Line, _) => Chunked::Line,
            (Chunked::LastLf, b'\n') => Chunked::End,
            _ => return Err("broken chunked framing"),
        })
    }
}

/// Hexadecimal digits of a chunk size: 15 always fit 64 bits with room to add.
const SIZE_DIGITS_MAX: u32 = 15;

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds `bytes` in pieces of `step`; how many belonged to the body.
    fn taken(mut body: Body, bytes: &[u8], step: usize) -> Result<usize, &'static str> {
        let mut total = 0;
        for piece in bytes.chunks(step) {
            let taken = body.feed(piece)?;
            total += taken;
            if body.has_ended() {
                return Ok(total);
            }
            assert_eq!(taken, piece.len(), "an unfinished body leaves nothing");
        }
        Err("incomplete")
    }

    #[test]
    fn a_chunked_body_ends_after_its_trailer_section_at_every_read_boundary_9112_7_1() {
        let body = b"5\r\nhello\r\n1A;x=\"y\"\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nA: b\r\n\r\n";
        let with_more = [&body[..], b"HTTP/1.1"].concat();
        for step in 1..=with_more.len() {
            assert_eq!(taken(Body::CHUNKED, &with_more, step), Ok(body.len()), "pieces of {step}");
        }
    }

    #[test]
    fn broken_chunks_are_faults() {
        for broken in ["\r\n", "g\r\n", "5\r\nhelloX", "5\nhello", "1000000000000000\r\n", "0\r\n\rX"] {
            let error = taken(Body::CHUNKED, broken.as_bytes(), 1);
            assert_eq!(error, Err("broken chunked framing"), "{broken:?}");
        }
    }

    #[test]
    fn a_body_with_a_length_takes_that_much() {
        assert_eq!(taken(Body::Length(5), b"hello world", 2), Ok(5));
        assert_eq!(taken(Body::Length(12), b"hello world", 2), Err("incomplete"));
    }
}
