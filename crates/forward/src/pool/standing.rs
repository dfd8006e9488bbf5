//! How a server has done lately, as one worker knows it: whether it takes requests in its turn, or is ejected.
//!
//! Pure: time is an argument. What counts is told by [`Asking`](super::Asking): dials that fail eject at once, requests that
//! are not answered when there are [`UNANSWERED_MAX`] in a row. An answer is an answer, whatever its status: homeservers say
//! 502 and 504 for other servers.

use std::{
    cell::Cell,
    time::{Duration, Instant},
};

use crate::limits::{SERVER_RETRY_AFTER, SERVER_RETRY_AFTER_MAX, TRIAL_MAX, UNANSWERED_MAX};

/// What is remembered of a server.
#[derive(Default)]
pub(crate) struct Standing {
    /// Requests in a row that it took and did not answer.
    unanswered: Cell<u32>,
    /// How often in a row it was ejected.
    ejected_in_a_row: Cell<u32>,
    /// How often at all: what began before an ejection says nothing new after it.
    ejections: Cell<u32>,
    /// Ejected until then; afterwards one request at a time tries it, until one succeeds.
    until: Cell<Option<Instant>>,
    /// Since when a request tries it.
    trial: Cell<Option<Instant>>,
}

/// What a request brings along that began with a server in this state.
#[derive(Clone, Copy)]
pub(super) struct Stake {
    ejections: u32,
    /// Since when it tries the server, if it does.
    trial: Option<Instant>,
}

impl Standing {
    /// Whether it takes requests in its turn.
    pub(super) fn is_open(&self, now: Instant) -> bool {
        self.until.get().is_none_or(|until| until <= now && !self.is_on_trial(now))
    }

    /// When it comes back, if it is ejected.
    pub(super) fn until(&self) -> Option<Instant> {
        self.until.get()
    }

    /// How often it was ejected, since the start.
    pub(super) fn ejections(&self) -> u32 {
        self.ejections.get()
    }

    /// A request begins. After an ejection the first one is the trial, and another one when that takes too long.
    pub(super) fn begin(&self, now: Instant) -> Stake {
        let is_trial = self.until.get().is_some() && self.is_open(now);
        let trial = is_trial.then_some(now);
        if is_trial {
            self.trial.set(trial);
        }
        Stake { ejections: self.ejections.get(), trial }
    }

    /// A request ends, however it did.
    pub(super) fn end(&self, stake: Stake) {
        if stake.trial.is_some() && stake.trial == self.trial.get() {
            self.trial.set(None);
        }
    }

    /// A dial succeeded. Who does not answer has to do that.
    pub(super) fn dialled(&self, stake: Stake) {
        if self.is_of_now(stake) && self.unanswered.get() < UNANSWERED_MAX {
            self.readmit();
        }
    }

    /// A dial failed.
    pub(super) fn dial_failed(&self, stake: Stake, now: Instant) {
        if self.is_of_now(stake) {
            self.eject(now);
        }
    }

    /// A request was answered.
    pub(super) fn answered(&self, stake: Stake) {
        if self.is_of_now(stake) {
            self.unanswered.set(0);
            self.readmit();
        }
    }

    /// A request was taken and not answered.
    pub(super) fn unanswered(&self, stake: Stake, now: Instant) {
        if !self.is_of_now(stake) {
            return;
        }
        self.unanswered.set(self.unanswered.get().saturating_add(1));
        if self.unanswered.get() >= UNANSWERED_MAX {
            self.eject(now);
        }
    }

    /// Whether a request tries it, not for too long yet.
    fn is_on_trial(&self, now: Instant) -> bool {
        self.trial.get().is_some_and(|since| now.saturating_duration_since(since) < TRIAL_MAX)
    }

    fn is_of_now(&self, stake: Stake) -> bool {
        stake.ejections == self.ejections.get()
    }

    fn readmit(&self) {
        self.until.set(None);
        self.ejected_in_a_row.set(0);
        self.trial.set(None);
    }

    fn eject(&self, now: Instant) {
        // Where all are ejected all are tried: that one still fails is known.
        if self.until.get().is_some_and(|until| until > now) {
            return;
        }
        self.until.set(Some(now + back_off(self.ejected_in_a_row.get())));
        self.ejected_in_a_row.set(self.ejected_in_a_row.get().saturating_add(1));
        self.ejections.set(self.ejections.get().wrapping_add(1));
        self.trial.set(None);
    }
}

/// How long a server is ejected that was ejected so often before.
fn back_off(ejected_before: u32) -> Duration {
    let factor = 1_u32.checked_shl(ejected_before).unwrap_or(u32::MAX);
    SERVER_RETRY_AFTER.saturating_mul(factor).min(SERVER_RETRY_AFTER_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn fail_dial(standing: &Standing, now: Instant) {
        let stake = standing.begin(now);
        standing.dial_failed(stake, now);
        standing.end(stake);
    }

    fn fail_to_answer(standing: &Standing, now: Instant) {
        let stake = standing.begin(now);
        standing.dialled(stake);
        standing.unanswered(stake, now);
        standing.end(stake);
    }

    #[test]
    fn back_off_doubles_from_2_to_60_seconds() {
        let (standing, mut now) = (Standing::default(), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..40 {
            fail_dial(&standing, now);
            let until = standing.until().unwrap();
            assert!(!standing.is_open(until - MS) && standing.is_open(until));
            waits.push((until - now).as_secs());
            now = until;
        }
        assert_eq!(waits[..7], [2, 4, 8, 16, 32, 60, 60]);
        assert!(waits[7..].iter().all(|wait| *wait == 60));
        let stake = standing.begin(now);
        standing.dialled(stake);
        assert!(standing.is_open(now));
        fail_dial(&standing, now);
        assert_eq!(standing.until(), Some(now + SERVER_RETRY_AFTER), "a success resets it");
    }

    #[test]
    fn dials_that_fail_together_count_once() {
        let (standing, now) = (Standing::default(), Instant::now());
        let stakes: Vec<_> = (0..100).map(|_| standing.begin(now)).collect();
        for (step, stake) in (0..).zip(&stakes) {
            standing.dial_failed(*stake, now + step * 50 * MS);
        }
        assert_eq!(standing.until(), Some(now + SERVER_RETRY_AFTER));
        fail_dial(&standing, now + MS);
        assert_eq!(standing.until(), Some(now + SERVER_RETRY_AFTER), "tried for want of others");
    }

    #[test]
    fn one_request_at_a_time_tries_a_server_whose_time_is_over() {
        let (standing, now) = (Standing::default(), Instant::now());
        fail_dial(&standing, now);
        let later = standing.until().unwrap();
        let trial = standing.begin(later);
        assert!(!standing.is_open(later));
        let beside = standing.begin(later);
        standing.end(beside);
        assert!(!standing.is_open(later), "the trial goes on");
        standing.end(trial);
        assert!(standing.is_open(later), "its client has left: somebody else's turn");
        let trial = standing.begin(later);
        standing.dialled(trial);
        assert!(standing.is_open(later));
        standing.end(trial);
    }

    #[test]
    fn a_trial_that_takes_long_is_followed_by_another() {
        let (standing, now) = (Standing::default(), Instant::now());
        fail_dial(&standing, now);
        let later = standing.until().unwrap();
        let long_poll = standing.begin(later);
        assert!(!standing.is_open(later + TRIAL_MAX - MS) && standing.is_open(later + TRIAL_MAX));
        let second = standing.begin(later + TRIAL_MAX);
        standing.end(long_poll);
        assert!(!standing.is_open(later + TRIAL_MAX), "the second goes on");
        standing.answered(second);
        assert!(standing.is_open(later + TRIAL_MAX));
    }

    #[test]
    fn three_requests_in_a_row_without_an_answer_eject() {
        let (standing, now) = (Standing::default(), Instant::now());
        fail_to_answer(&standing, now);
        fail_to_answer(&standing, now);
        let answered = standing.begin(now);
        standing.answered(answered);
        fail_to_answer(&standing, now);
        fail_to_answer(&standing, now);
        assert!(standing.is_open(now));
        fail_to_answer(&standing, now);
        assert_eq!(standing.until(), Some(now + SERVER_RETRY_AFTER));
        let later = now + SERVER_RETRY_AFTER;
        let trial = standing.begin(later);
        standing.dialled(trial);
        assert!(!standing.is_open(later), "that it takes connections is not what was missed");
        standing.unanswered(trial, later);
        standing.end(trial);
        assert_eq!(standing.until(), Some(later + 2 * SERVER_RETRY_AFTER));
        let trial = standing.begin(standing.until().unwrap());
        standing.answered(trial);
        standing.end(trial);
        assert!(standing.is_open(later));
    }

    #[test]
    fn answers_to_requests_from_before_do_not_bring_back_a_server_that_takes_no_connections() {
        let (standing, now) = (Standing::default(), Instant::now());
        let before = standing.begin(now);
        fail_dial(&standing, now);
        standing.answered(before);
        assert!(!standing.is_open(now));
        let for_want_of_others = standing.begin(now);
        standing.answered(for_want_of_others);
        assert!(standing.is_open(now));
    }
}
