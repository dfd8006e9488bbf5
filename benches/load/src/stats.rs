//! What requests cost: counts, faults and a latency histogram for each class of them.

use std::collections::BTreeMap;
use std::ops::Sub;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::{Value, json};

use crate::fault::Fault;

/// What became of the requests of one class.
#[derive(Clone, Debug)]
pub(crate) struct ClassStats {
    /// Ended, well or not.
    pub(crate) requests: u64,
    /// Those of them that failed.
    pub(crate) errors: u64,
    /// Responses by status code.
    pub(crate) statuses: BTreeMap<u16, u64>,
    /// Errors by kind.
    pub(crate) faults: BTreeMap<String, u64>,
    latency_us: Histogram<u64>,
}

/// Things that a thread counts as they happen.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counters {
    /// Connections that were opened.
    pub(crate) opened: u64,
    /// Full TLS handshakes.
    pub(crate) handshakes_full: u64,
    /// Resumed ones.
    pub(crate) handshakes_resumed: u64,
    /// Connections that should have stayed and had to be opened again.
    pub(crate) reconnects: u64,
    /// Arrivals that began more than [`LATE`] after they were due.
    pub(crate) late: u64,
    /// Bytes received, TLS and all.
    pub(crate) bytes_received: u64,
    /// Bytes sent, TLS and all.
    pub(crate) bytes_sent: u64,
}

/// An arrival that begins later than this after its time is counted as late: all connections were busy, or the
/// generator was.
pub(crate) const LATE: Duration = Duration::from_millis(1);

impl ClassStats {
    /// Nothing yet.
    pub(crate) fn new() -> ClassStats {
        // Three digits; grows on its own up to whatever latency comes.
        let latency_us = Histogram::new(3).expect("three digits are allowed");
        ClassStats { requests: 0, errors: 0, statuses: BTreeMap::new(), faults: BTreeMap::new(), latency_us }
    }

    /// A response that is no error, and its latency where that is known.
    pub(crate) fn succeeded(&mut self, status: u16, latency: Option<Duration>) {
        self.requests += 1;
        *self.statuses.entry(status).or_default() += 1;
        if let Some(latency) = latency {
            // Recording grows the histogram, and fails only for what needs more than 63 bits.
            let _ = self.latency_us.record(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX >> 1));
        }
    }

    /// A request that failed: no latency, since a quick failure is no quick answer.
    pub(crate) fn failed(&mut self, fault: &Fault) {
        self.requests += 1;
        self.errors += 1;
        if let Fault::Status(status) = fault {
            *self.statuses.entry(*status).or_default() += 1;
        }
        *self.faults.entry(fault.kind()).or_default() += 1;
    }

    /// Adds another thread's.
    pub(crate) fn add(&mut self, other: &ClassStats) {
        self.requests += other.requests;
        self.errors += other.errors;
        for (status, count) in &other.statuses {
            *self.statuses.entry(*status).or_default() += count;
        }
        for (fault, count) in &other.faults {
            *self.faults.entry(fault.clone()).or_default() += count;
        }
        self.latency_us += &other.latency_us;
    }

    /// Latency at this quantile (0 to 1), in microseconds.
    pub(crate) fn latency_us(&self, quantile: f64) -> u64 {
        self.latency_us.value_at_quantile(quantile)
    }

    /// Percentiles as a JSON object.
    pub(crate) fn latency_json(&self) -> Value {
        json!({
            "p50": self.latency_us(0.5),
            "p90": self.latency_us(0.9),
            "p99": self.latency_us(0.99),
            "p999": self.latency_us(0.999),
            "max": self.latency_us.max(),
            "mean": (self.latency_us.mean() * 10.0).round() / 10.0,
        })
    }
}

impl Counters {
    /// Adds another thread's.
    pub(crate) fn add(&mut self, other: &Counters) {
        for (mine, theirs) in self.each().into_iter().zip({ *other }.each()) {
            *mine += *theirs;
        }
    }

    fn each(&mut self) -> [&mut u64; 7] {
        [
            &mut self.opened,
            &mut self.handshakes_full,
            &mut self.handshakes_resumed,
            &mut self.reconnects,
            &mut self.late,
            &mut self.bytes_received,
            &mut self.bytes_sent,
        ]
    }
}

impl Sub for Counters {
    type Output = Counters;

    fn sub(mut self, mut before: Counters) -> Counters {
        for (now, then) in self.each().into_iter().zip(before.each()) {
            *now -= *then;
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_those_of_the_sorted_latencies_within_a_thousandth() {
        let mut random = crate::random::Random::new(11);
        let mut latencies: Vec<u64> = (0..50_000).map(|_| random.size(&(10..=2_000_000))).collect();
        let (mut even, mut odd) = (ClassStats::new(), ClassStats::new());
        for (index, latency) in latencies.iter().enumerate() {
            let half = if index % 2 == 0 { &mut even } else { &mut odd };
            half.succeeded(200, Some(Duration::from_micros(*latency)));
        }
        even.add(&odd);
        latencies.sort_unstable();
        for (quantile, place) in [(0.5, 25_000), (0.9, 45_000), (0.99, 49_500), (0.999, 49_950)] {
            let sorted = latencies[place - 1] as f64;
            let found = even.latency_us(quantile) as f64;
            assert!((found / sorted - 1.0).abs() < 0.002, "{quantile}: {found}, sorted {sorted}");
        }
        assert_eq!((even.requests, even.statuses[&200]), (50_000, 50_000));
    }

    #[test]
    fn failures_are_counted_by_kind_and_have_no_latency() {
        let mut stats = ClassStats::new();
        stats.failed(&Fault::Status(502));
        stats.failed(&Fault::Overflow);
        assert_eq!((stats.requests, stats.errors, stats.statuses[&502]), (2, 2, 1));
        assert_eq!((stats.faults["status 502"], stats.latency_us(1.0)), (1, 0));
    }
}
