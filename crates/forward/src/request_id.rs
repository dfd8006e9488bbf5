//! Request ids: 32 lower-case hexadecimal digits, never seen twice.

use std::{
    cell::Cell,
    hash::{BuildHasher, RandomState},
};

/// Makes the ids of one worker.
///
/// An id is a label, not a secret: a random start for each worker and a mixing function (SplitMix64) suffice.
pub(crate) struct RequestIds {
    state: Cell<[u64; 2]>,
}

/// An id in its text form.
pub(crate) type RequestId = [u8; 32];

impl RequestIds {
    pub(crate) fn new() -> Self {
        Self { state: Cell::new([0, 1].map(|half: u64| RandomState::new().hash_one(half))) }
    }

    pub(crate) fn next(&self) -> RequestId {
        let state = self.state.get().map(|half| half.wrapping_add(0x9e37_79b9_7f4a_7c15));
        self.state.set(state);
        let mut id = [0; 32];
        for (half, digits) in state.into_iter().zip(id.as_chunks_mut::<16>().0) {
            let mixed = mix(half);
            let (high, low) = (hex_digits(mixed >> 32), hex_digits(mixed & u64::from(u32::MAX)));
            digits[..8].copy_from_slice(&high);
            digits[8..].copy_from_slice(&low);
        }
        id
    }
}

/// The low 32 bits in hexadecimal: all eight digits at once, which takes a tenth of the instructions of a table.
const fn hex_digits(number: u64) -> [u8; 8] {
    // A digit in each byte, the highest first in memory.
    let pairs = (number | number << 16) & 0x0000_ffff_0000_ffff;
    let bytes = (pairs | pairs << 8) & 0x00ff_00ff_00ff_00ff;
    let digits = (bytes | bytes << 4) & 0x0f0f_0f0f_0f0f_0f0f;
    // From ten on, 6 more make a carry into the bit that tells, and there are 39 from `9` + 1 to `a`.
    let letters = ((digits + 0x0606_0606_0606_0606) >> 4) & 0x0101_0101_0101_0101;
    (digits + 0x3030_3030_3030_3030 + letters * (b'a' - b'9' - 1) as u64).to_be_bytes()
}

const fn mix(state: u64) -> u64 {
    let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_digits_are_those_of_the_number() {
        for number in
            (0..32).map(|bit| 1_u64 << bit).chain([0, 0x0123_4567, 0x89ab_cdef, 0x9a9a_f0f0, 0xffff_ffff])
        {
            assert_eq!(hex_digits(number), *format!("{number:08x}").as_bytes());
        }
    }

    #[test]
    fn ids_are_32_lower_case_hex_digits_and_differ() {
        let ids = RequestIds::new();
        let seen: std::collections::HashSet<_> = (0..10_000).map(|_| ids.next()).collect();
        assert_eq!(seen.len(), 10_000);
        assert!(seen.iter().flatten().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')));
    }
}
