//! How long a peer may keep us waiting while a message moves.
//!
//! A peer has credit for one silence. Waiting uses it up, and bytes earn it back: all of it, or, where the peer owes a
//! data rate, as much as they take at that rate. Then whoever sends or takes one byte a minute is out after the first
//! minutes; a phone that loses its network for half of one is not.

use std::{cell::Cell, future::Future, pin::pin, time::Duration};

use crate::environment::{Elapsed, Environment, race};

/// The patience with one peer and direction.
pub(crate) struct Pace {
    silence_max: Duration,
    /// Bytes per second that the peer owes; zero: none, it may be as slow as it likes, but not silent.
    rate_min: u32,
    /// Waiting that it may still cause.
    credit: Cell<Duration>,
}

impl Pace {
    /// With a peer that may be as slow as it likes, but not silent.
    pub(crate) fn patient(silence_max: Duration) -> Pace {
        Pace::owing(silence_max, 0)
    }

    /// With a peer that owes `rate_min` bytes per second, beyond what `silence_max` forgives.
    pub(crate) fn owing(silence_max: Duration, rate_min: u32) -> Pace {
        Pace { silence_max, rate_min, credit: Cell::new(silence_max) }
    }

    /// Waits for the peer until its credit is used up. A future that is ready costs neither timer nor clock.
    pub(crate) async fn wait<E: Environment, F: Future>(
        &self,
        env: &E,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        self.wait_at_most(env, self.credit.get(), future).await
    }

    /// Waits for the peer until `take_stock` says that it has moved no bytes for as long as it may: it is called every
    /// now and then, for bytes that `future` does not tell of.
    pub(crate) async fn wait_watching<E: Environment, F: Future>(
        &self,
        env: &E,
        future: F,
        mut take_stock: impl FnMut() -> usize,
    ) -> Result<F::Output, Elapsed> {
        let mut future = pin!(future);
        loop {
            let part = self.credit.get().min(self.silence_max / PARTS);
            if let Ok(output) = self.wait_at_most(env, part, future.as_mut()).await {
                return Ok(output);
            }
            match take_stock() {
                0 if self.credit.get().is_zero() => return Err(Elapsed),
                0 => {}
                bytes => self.moved(bytes),
            }
        }
    }

    async fn wait_at_most<E: Environment, F: Future>(
        &self,
        env: &E,
        limit: Duration,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let mut since = None;
        let output = race(env, future, || *since.insert(env.recently()) + limit).await;
        if let Some(since) = since {
            self.credit.set(self.credit.get().saturating_sub(env.recently() - since));
        }
        output
    }

    /// The peer has sent or taken something: this many bytes that count.
    pub(crate) fn moved(&self, bytes: usize) {
        if self.credit.get() == self.silence_max {
            return;
        }
        let earned = match self.rate_min {
            0 => self.silence_max,
            rate => Duration::from_secs(bytes as u64) / rate,
        };
        self.credit.set(self.silence_max.min(self.credit.get() + earned));
    }
}

/// Into how many parts a silence is divided to take stock.
const PARTS: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    fn spend(pace: &Pace, seconds: u64) {
        pace.credit.set(pace.credit.get() - Duration::from_secs(seconds));
    }

    #[test]
    fn bytes_earn_what_the_rate_says_and_no_more_than_one_silence() {
        let pace = Pace::owing(Duration::from_secs(60), 512);
        spend(&pace, 50);
        pace.moved(512 * 20);
        assert_eq!(pace.credit.get(), Duration::from_secs(30));
        pace.moved(usize::MAX >> 1);
        assert_eq!(pace.credit.get(), Duration::from_secs(60));
    }

    #[test]
    fn a_dribbler_runs_out_of_credit() {
        let pace = Pace::owing(Duration::from_secs(60), 512);
        for _ in 0..6 {
            spend(&pace, 10);
            pace.moved(1);
        }
        assert!(pace.credit.get() < Duration::from_millis(20));
    }

    #[test]
    fn who_owes_nothing_has_all_credit_again_with_each_byte() {
        let pace = Pace::patient(Duration::from_secs(60));
        spend(&pace, 59);
        pace.moved(1);
        assert_eq!(pace.credit.get(), Duration::from_secs(60));
    }
}
