//! The record layer's outside (RFC 8446 §5.1): how large records are made, and where they end.
//!
//! Pure.

/// Most plaintext in one record, in bytes (RFC 8446 §5.1).
pub const RECORD_PLAINTEXT_BYTES_MAX: usize = 1 << 14;

/// Most plaintext in a record while a connection is young, in bytes.
///
/// A client can use a record only when it has all of it. With its header and tag this fits three TCP
/// segments of 1448 bytes, so that within the first window (10 segments) a browser has something to
/// parse after a third of it.
pub const YOUNG_RECORD_BYTES_MAX: usize = 4 * 1024;

/// How long a connection is young, in bytes sent: by then the congestion window has opened and
/// nothing is gained by small records, which cost more per byte.
pub const YOUNG_BYTES: usize = 64 * 1024;

/// Most bytes that a record is longer than its plaintext: header (5), explicit nonce (8) and tag (16)
/// of TLS 1.2 with AES-GCM (RFC 5288 §3). TLS 1.3 needs 22 (RFC 8446 §5.2).
pub(super) const RECORD_OVERHEAD_MAX: usize = 5 + 8 + 16;

/// Header of a record, in bytes (RFC 8446 §5.1).
pub(super) const HEADER_BYTES: usize = 5;

const _: () = assert!(YOUNG_RECORD_BYTES_MAX + RECORD_OVERHEAD_MAX <= 3 * 1448);
const _: () = assert!(YOUNG_BYTES.is_multiple_of(YOUNG_RECORD_BYTES_MAX));

/// Chooses record sizes: towards clients small ones until [`YOUNG_BYTES`] are sent, then full ones.
#[derive(Debug)]
pub(super) struct RecordSizes {
    young_bytes: usize,
    young_bytes_left: usize,
}

impl RecordSizes {
    /// Small ones first.
    pub(super) fn young() -> RecordSizes {
        RecordSizes { young_bytes: YOUNG_BYTES, young_bytes_left: YOUNG_BYTES }
    }

    /// Never small ones: a server has no use for the beginning of a request before the rest.
    pub(super) fn full() -> RecordSizes {
        RecordSizes { young_bytes: 0, young_bytes_left: 0 }
    }

    /// As at the start of the connection.
    pub(super) fn rested(&mut self) {
        self.young_bytes_left = self.young_bytes;
    }

    /// Most plaintext for the next record.
    pub(super) fn next_max(&self) -> usize {
        if self.young_bytes_left > 0 { YOUNG_RECORD_BYTES_MAX } else { RECORD_PLAINTEXT_BYTES_MAX }
    }

    pub(super) fn record_sent(&mut self, bytes: usize) {
        self.young_bytes_left = self.young_bytes_left.saturating_sub(bytes);
    }

    /// How many records `bytes` will take.
    pub(super) fn count(&self, bytes: usize) -> usize {
        let small = self.young_bytes_left.div_ceil(YOUNG_RECORD_BYTES_MAX);
        let large_bytes = bytes.saturating_sub(small * YOUNG_RECORD_BYTES_MAX);
        small.min(bytes.div_ceil(YOUNG_RECORD_BYTES_MAX)) + large_bytes.div_ceil(RECORD_PLAINTEXT_BYTES_MAX)
    }
}

/// A piece of several slices.
pub(super) enum Piece<'a> {
    /// It lies in one of them.
    Whole(&'a [u8]),
    /// Several have a part of it.
    Parts,
}

/// Several slices read as one, in pieces that are contiguous: in place where a slice is long enough,
/// copied together where slices meet.
pub(super) struct Gather<'a> {
    slices: &'a [&'a [u8]],
    /// What is left of the slice before `slices`.
    current: &'a [u8],
}

impl<'a> Gather<'a> {
    pub(super) fn new(slices: &'a [&'a [u8]]) -> Gather<'a> {
        Gather { slices, current: &[] }
    }

    /// The next piece: `bytes_max` long, or shorter when it is the last. `None` at the end.
    ///
    /// `scratch` holds `bytes_max` bytes or all that is left.
    pub(super) fn next_piece<'p>(&mut self, bytes_max: usize, scratch: &'p mut [u8]) -> Option<&'p [u8]>
    where
        'a: 'p,
    {
        match self.next(bytes_max)? {
            Piece::Whole(piece) => Some(piece),
            Piece::Parts => {
                let room = bytes_max.min(scratch.len());
                let filled = self.fill(&mut scratch[..room]);
                Some(&scratch[..filled])
            }
        }
    }

    /// The next piece as it lies, or that it is to be put together by [`Gather::fill`]. `None` at the end.
    pub(super) fn next(&mut self, bytes_max: usize) -> Option<Piece<'a>> {
        self.skip_empty();
        if self.current.is_empty() {
            return None;
        }
        if self.current.len() >= bytes_max || self.slices.iter().all(|slice| slice.is_empty()) {
            return Some(Piece::Whole(self.take(bytes_max)));
        }
        Some(Piece::Parts)
    }

    /// Copies what comes next, as much as there is room for.
    pub(super) fn fill(&mut self, room: &mut [u8]) -> usize {
        let mut filled = 0;
        while filled < room.len() && !self.current.is_empty() {
            let part = self.take(room.len() - filled);
            room[filled..filled + part.len()].copy_from_slice(part);
            filled += part.len();
            self.skip_empty();
        }
        filled
    }

    fn take(&mut self, bytes_max: usize) -> &'a [u8] {
        let (part, rest) = self.current.split_at(bytes_max.min(self.current.len()));
        self.current = rest;
        part
    }

    fn skip_empty(&mut self) {
        while let ([first, rest @ ..], true) = (self.slices, self.current.is_empty()) {
            self.current = first;
            self.slices = rest;
        }
    }
}

/// Where the last complete record in `incoming` ends, given that one starts at `start`.
pub(super) fn complete_records_end(incoming: &[u8], start: usize) -> usize {
    let mut end = start;
    while let Some([_, _, _, high, low]) = incoming.get(end..end + HEADER_BYTES) {
        let record_end = end + HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low]));
        if record_end > incoming.len() {
            break;
        }
        end = record_end;
    }
    end
}

/// Where the record ends that starts at `start`, if it is complete; else where `incoming` does.
pub(super) fn next_record_end(incoming: &[u8], start: usize) -> usize {
    let Some([_, _, _, high, low]) = incoming.get(start..start + HEADER_BYTES) else { return incoming.len() };
    (start + HEADER_BYTES + usize::from(u16::from_be_bytes([*high, *low]))).min(incoming.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pieces(slices: &[&[u8]], bytes_max: usize) -> Vec<Vec<u8>> {
        let mut gather = Gather::new(slices);
        let mut scratch = vec![0; bytes_max];
        std::iter::from_fn(|| gather.next_piece(bytes_max, &mut scratch).map(<[u8]>::to_vec)).collect()
    }

    #[test]
    fn pieces_are_full_but_the_last_however_the_slices_are_cut() {
        let all: Vec<u8> = (0..40).collect();
        for bytes_max in 1..45 {
            let expected: Vec<_> = all.chunks(bytes_max).map(<[u8]>::to_vec).collect();
            for first in 0..=40 {
                for second in first..=40 {
                    let slices = [&all[..first], &[], &all[first..second], &all[second..], &[]];
                    assert_eq!(pieces(&slices, bytes_max), expected, "{bytes_max} {first} {second}");
                }
            }
        }
        assert!(pieces(&[], 5).is_empty() && pieces(&[&[], &[]], 5).is_empty());
    }

    #[test]
    fn a_lone_slice_is_not_copied() {
        let bytes = [7; 10];
        let slices = [&bytes[..], &[]];
        let mut gather = Gather::new(&slices);
        // No scratch at all: copying would panic.
        assert_eq!(gather.next_piece(6, &mut []), Some(&bytes[..6]));
        assert_eq!(gather.next_piece(6, &mut []), Some(&bytes[6..]));
        assert_eq!(gather.next_piece(6, &mut []), None);
    }

    #[test]
    fn the_count_of_records_is_exact() {
        for sent in [0, 1, 4095, 4096, 60_000, 65_535, 65_536, 1 << 20] {
            for bytes in [0, 1, 4096, 4097, 16_384, 65_535, 65_536, 65_537, 81_920, 81_921, 300_000] {
                let mut sizes = RecordSizes::young();
                sizes.record_sent(sent);
                let expected = sizes.count(bytes);
                let (mut left, mut records) = (bytes, 0);
                while left > 0 {
                    let piece = left.min(sizes.next_max());
                    sizes.record_sent(piece);
                    left -= piece;
                    records += 1;
                }
                assert_eq!(records, expected, "after {sent}, {bytes}");
            }
        }
    }

    #[test]
    fn records_end_where_their_headers_say() {
        let bytes = [22, 3, 3, 0, 2, 9, 9, 23, 3, 3, 0, 0, 23, 3, 3, 0, 1];
        assert_eq!(complete_records_end(&bytes, 0), 12);
        assert_eq!(complete_records_end(&bytes, 7), 12);
        assert_eq!(complete_records_end(&bytes[..11], 0), 7);
        assert_eq!(complete_records_end(&bytes[..6], 0), 0);
        assert_eq!(complete_records_end(&[], 0), 0);
    }
}
