//! Random numbers that a seed repeats: SplitMix64, which is enough for arrivals and sizes.

use std::ops::RangeInclusive;
use std::time::Duration;

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub(crate) struct Random(u64);

impl Random {
    /// The stream of this seed.
    pub(crate) fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// 64 random bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// Uniform in (0, 1]: never zero, so that it has a logarithm.
    pub(crate) fn fraction(&mut self) -> f64 {
        // 53 bits fill the mantissa.
        ((self.bits() >> 11) + 1) as f64 / (1_u64 << 53) as f64
    }

    /// Uniform in `0..end`; `end` is not zero.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        let product = u128::from(self.bits()) * end as u128;
        // The upper half of a product with `end` is below `end`.
        usize::try_from(product >> 64).unwrap_or(0)
    }

    /// Log-uniform in `range`: as many from 1 to 2 as from 32 to 64, as sizes of events and files are.
    pub(crate) fn size(&mut self, range: &RangeInclusive<u64>) -> u64 {
        let (low, high) = (*range.start() as f64, *range.end() as f64);
        let size = low * (high / low).powf(self.fraction());
        // Casts of floats saturate, and then it is clamped.
        #[allow(clippy::cast_possible_truncation)]
        let size = size.round() as u64;
        size.clamp(*range.start(), *range.end())
    }

    /// The time to the next arrival of a Poisson process with this many arrivals a second.
    pub(crate) fn interval(&mut self, per_second: f64) -> Duration {
        Duration::from_secs_f64(-self.fraction().ln() / per_second)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_of_arrivals_are_exponential_with_the_mean_of_the_rate() {
        let mut random = Random::new(7);
        let intervals: Vec<f64> = (0..200_000).map(|_| random.interval(500.0).as_secs_f64()).collect();
        let mean = intervals.iter().sum::<f64>() / intervals.len() as f64;
        assert!((mean * 500.0 - 1.0).abs() < 0.01, "mean {mean}");
        // Exponential: the standard deviation is the mean, and 1/e of all are longer than it.
        let variance = intervals.iter().map(|it| (it - mean).powi(2)).sum::<f64>() / intervals.len() as f64;
        assert!((variance.sqrt() / mean - 1.0).abs() < 0.02, "deviation {}", variance.sqrt());
        let longer = intervals.iter().filter(|it| **it > mean).count() as f64 / intervals.len() as f64;
        assert!((longer - (-1.0_f64).exp()).abs() < 0.01, "longer than the mean: {longer}");
    }

    #[test]
    fn the_same_seed_gives_the_same_stream_and_another_one_does_not() {
        let stream =
            |seed| (0..8).scan(Random::new(seed), |random, _| Some(random.bits())).collect::<Vec<_>>();
        assert_eq!(stream(3), stream(3));
        assert_ne!(stream(3), stream(4));
    }

    #[test]
    fn sizes_stay_in_their_range_and_reach_both_ends() {
        let mut random = Random::new(1);
        let sizes: Vec<u64> = (0..20_000).map(|_| random.size(&(1..=50))).collect();
        assert_eq!((sizes.iter().min(), sizes.iter().max()), (Some(&1), Some(&50)));
        let picks: Vec<usize> = (0..2000).map(|_| random.below(3)).collect();
        assert!((0..3).all(|pick| picks.iter().filter(|it| **it == pick).count() > 500), "{picks:?}");
    }
}
