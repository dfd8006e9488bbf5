//! What was counted, and whether it is as it must be.
#![forbid(unsafe_code)]

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use crate::Plan;

/// Counts of everything, by whoever saw it.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) connections: AtomicU64,
    pub(crate) requests: AtomicU64,
    /// Answers that said `Connection: close`.
    pub(crate) told_to_close: AtomicU64,
    pub(crate) long_polls: AtomicU64,
    /// Requests behind an answer that said `Connection: close`, sent again on another connection.
    pub(crate) pipelined_again: AtomicU64,
    pub(crate) tunnels: AtomicU64,
    pub(crate) echoes: AtomicU64,
    pub(crate) tunnels_cut_in_time: AtomicU64,
    /// To the listener that comes and goes, while it was away.
    pub(crate) spare_refused: AtomicU64,
    pub(crate) reloads: AtomicU64,
    pub(crate) reloads_refused: AtomicU64,
    pub(crate) swaps: AtomicU64,
    pub(crate) swaps_refused: AtomicU64,
    pub(crate) upgrades: AtomicU64,
    pub(crate) upgrades_failed: AtomicU64,
    pub(crate) processes: AtomicU64,
    pub(crate) lines: AtomicU64,
    pub(crate) lines_torn: AtomicU64,
    /// When each upgrade began.
    hand_overs: Mutex<Vec<Instant>>,
    faults: Mutex<Vec<String>>,
}

impl Tally {
    pub(crate) fn add(counter: &AtomicU64, count: u64) {
        counter.fetch_add(count, Ordering::Relaxed);
    }

    /// Something that must not be, in words.
    pub(crate) fn fault(&self, what: String) {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        if faults.len() < FAULTS_SHOWN_MAX {
            println!("FAULT {what}");
        }
        faults.push(what);
    }

    /// An upgrade has succeeded that was begun then.
    pub(crate) fn handed_over(&self, begun: Instant) {
        self.hand_overs.lock().unwrap_or_else(PoisonError::into_inner).push(begun);
        Tally::add(&self.upgrades, 1);
    }

    /// The first upgrade that began, or was under way, after `since`.
    pub(crate) fn hand_over_after(&self, since: Instant) -> Option<Instant> {
        let hand_overs = self.hand_overs.lock().unwrap_or_else(PoisonError::into_inner);
        hand_overs.iter().copied().find(|&begun| begun + UPGRADE_TIME_MAX > since)
    }

    /// Prints everything.
    pub(crate) fn judge(&self, plan: Plan, dials: usize) -> ExitCode {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let answered = of(&self.requests) + of(&self.tunnels);
        let lines = [
            ("connections", of(&self.connections)),
            ("requests answered", of(&self.requests)),
            ("answers that said Connection: close", of(&self.told_to_close)),
            ("long polls answered, among them", of(&self.long_polls)),
            ("pipelined requests asked again behind such an answer", of(&self.pipelined_again)),
            ("tunnels", of(&self.tunnels)),
            ("echoes in tunnels", of(&self.echoes)),
            ("tunnels cut after the hand-over was over", of(&self.tunnels_cut_in_time)),
            ("connections refused while a listener was not configured", of(&self.spare_refused)),
            ("connections to the homeserver", dials as u64),
            ("lines in the access log", of(&self.lines)),
            ("reloads", of(&self.reloads)),
            ("broken configs refused", of(&self.reloads_refused)),
            ("certificate swaps seen by new handshakes", of(&self.swaps)),
            ("broken certificates refused", of(&self.swaps_refused)),
            ("upgrades", of(&self.upgrades)),
            ("upgrades that failed as they should", of(&self.upgrades_failed)),
            ("processes that ended with status 0", of(&self.processes)),
        ];
        lines.iter().for_each(|(what, count)| println!("{count:>9} {what}"));
        let expected = [
            ("reloads", of(&self.reloads), plan.reloads),
            ("swaps", of(&self.swaps), plan.swaps),
            ("upgrades", of(&self.upgrades), plan.upgrades),
            ("processes", of(&self.processes), plan.upgrades + 1),
            ("lines in the access log", of(&self.lines), answered),
            ("torn lines", of(&self.lines_torn), 0),
        ];
        for (what, count, wanted) in expected {
            if count != wanted {
                self.fault(format!("{what}: {count} instead of {wanted}"));
            }
        }
        let never = [
            ("long poll was answered", of(&self.long_polls)),
            ("answer said Connection: close", of(&self.told_to_close)),
            ("broken config was refused", of(&self.reloads_refused)),
            ("broken certificate was refused", of(&self.swaps_refused)),
            ("upgrade failed", of(&self.upgrades_failed)),
            ("tunnel echoed", of(&self.echoes)),
        ];
        never.iter().filter(|(_, count)| *count == 0).for_each(|(what, _)| self.fault(format!("no {what}")));
        let faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner).len();
        println!("{} passed, {faults} failed", of(&self.requests));
        if faults == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }
}

/// How long an upgrade may take from being asked for until it is done: the tunnel may have been opened in between.
const UPGRADE_TIME_MAX: std::time::Duration = std::time::Duration::from_secs(3);

/// How many faults are printed: the first ones tell the story.
const FAULTS_SHOWN_MAX: usize = 30;
