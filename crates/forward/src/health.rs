//! What asking a server after its health has come to.
//!
//! The control plane asks and writes it down ([`Health::answered`]); workers read one flag, and who watches reads the rest.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

/// Whether a server that is asked after its health is up. A server that was not asked yet is.
#[derive(Debug, Default)]
pub struct Health {
    /// Sent as `Host`.
    pub host: String,
    /// What is asked for.
    pub path: String,
    is_down: AtomicBool,
    probes_passed: AtomicU64,
    probes_failed: AtomicU64,
    falls: AtomicU64,
    change: Mutex<Option<Change>>,
}

/// When a server went down or came back, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When it was found out.
    pub since: SystemTime,
    /// What the last answer was.
    pub why: String,
}

/// How often a server was asked, since it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProbeCounts {
    /// Answers that say that it is well.
    pub passed: u64,
    /// Other answers, and none.
    pub failed: u64,
    /// How often it went down.
    pub falls: u64,
}

impl Health {
    /// That of a server which will be asked for `path` under the name `host`.
    pub fn new(host: String, path: String) -> Health {
        Health { host, path, ..Health::default() }
    }

    /// Whether it has failed to answer well.
    pub fn is_down(&self) -> bool {
        self.is_down.load(Relaxed)
    }

    /// Counts an answer.
    pub fn answered(&self, well: bool) {
        // Each has a counter of its own: a difference of two would fall when it is read between their additions.
        if well { &self.probes_passed } else { &self.probes_failed }.fetch_add(1, Relaxed);
    }

    /// From now on it is down, or up again.
    pub fn changes(&self, is_down: bool, why: String) {
        self.falls.fetch_add(u64::from(is_down), Relaxed);
        *self.change.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Change { since: SystemTime::now(), why });
        self.is_down.store(is_down, Relaxed);
    }

    /// What made it what it is; `None`: it has always been up.
    pub fn change(&self) -> Option<Change> {
        self.change.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How often it was asked.
    pub fn counts(&self) -> ProbeCounts {
        ProbeCounts {
            passed: self.probes_passed.load(Relaxed),
            failed: self.probes_failed.load(Relaxed),
            falls: self.falls.load(Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn an_answer_that_is_not_well_never_counts_as_passed() {
        const ANSWERS: u64 = 200_000;
        let health = Health::default();
        thread::scope(|scope| {
            scope.spawn(|| (0..ANSWERS).for_each(|_| health.answered(false)));
            while health.counts().failed < ANSWERS {
                assert_eq!(health.counts().passed, 0);
            }
        });
    }
}
