//! How long a peer may keep us waiting while a message moves.
//!
//! One silence has a limit, and so has their sum where a peer owes a data rate: it starts with credit for one such
//! silence, waiting uses it up, bytes earn it back. Whoever sends or takes one byte a minute is out after the first
//! minutes; a phone that loses its network for half of one is not.

use std::{cell::Cell, future::Future, time::Duration};

use crate::environment::{Elapsed, Environment, race};

/// The patience with one peer and direction.
pub(crate) struct Pace {
    silence_max: Duration,
    /// Bytes per second that the peer owes; zero: none.
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

    /// Waits for the peer. A future that is ready costs neither timer nor clock.
    pub(crate) async fn wait<E: Environment, F: Future>(
        &self,
        env: &E,
        future: F,
    ) -> Result<F::Output, Elapsed> {
        let mut since = None;
        let deadline = || *since.insert(env.recently()) + self.credit.get();
        let output = race(env, future, deadline).await;
        if let Some(since) = since.filter(|_| self.rate_min > 0) {
            self.credit.set(self.credit.get().saturating_sub(env.recently() - since));
        }
        output
    }

    /// The peer has sent or taken this many bytes.
    pub(crate) fn moved(&self, bytes: usize) {
        if self.credit.get() < self.silence_max {
            let earned = Duration::from_secs(bytes as u64) / self.rate_min;
            self.credit.set(self.silence_max.min(self.credit.get() + earned));
        }
    }
}

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
    fn who_owes_nothing_keeps_all_credit() {
        let pace = Pace::patient(Duration::from_secs(60));
        pace.moved(0);
        assert_eq!(pace.credit.get(), Duration::from_secs(60));
    }
}
