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
        for (half, digits) in state.into_iter().zip(id.chunks_exact_mut(16)) {
            for (byte, pair) in mix(half).to_be_bytes().into_iter().zip(digits.chunks_exact_mut(2)) {
                pair.copy_from_slice(
                    &[byte >> 4, byte & 0xf].map(|digit| b"0123456789abcdef"[usize::from(digit)]),
                );
            }
        }
        id
    }
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
    fn ids_are_32_lower_case_hex_digits_and_differ() {
        let ids = RequestIds::new();
        let seen: std::collections::HashSet<_> = (0..10_000).map(|_| ids.next()).collect();
        assert_eq!(seen.len(), 10_000);
        assert!(seen.iter().flatten().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')));
    }
}
