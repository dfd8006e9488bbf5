//! What a run has to say: one JSON object, or a table for people.

use serde_json::{Map, Value, json};

use crate::stats::{ClassStats, Counters};

/// The result of a run, or of one thread of it.
#[derive(Debug)]
pub(crate) struct Tally {
    /// By class of request.
    pub(crate) classes: Vec<ClassStats>,
    /// While it was measured.
    pub(crate) counters: Counters,
    /// Connections opened before that.
    pub(crate) opened: u64,
    /// Requests that were begun and not answered at the end: errors.
    pub(crate) unfinished: u64,
    /// How long was measured.
    pub(crate) seconds: f64,
    /// CPU time of the generator itself meanwhile.
    pub(crate) cpu_seconds: f64,
    /// Why the run as a whole is no good.
    pub(crate) faults: Vec<String>,
}

impl Tally {
    /// The threads' tallies as one. CPU time is the process's already, and the same in each.
    pub(crate) fn sum(tallies: Vec<Tally>) -> Tally {
        let mut tallies = tallies.into_iter();
        let mut sum = tallies.next().expect("at least one thread");
        for tally in tallies {
            for (mine, theirs) in sum.classes.iter_mut().zip(&tally.classes) {
                mine.add(theirs);
            }
            sum.counters.add(&tally.counters);
            sum.opened += tally.opened;
            sum.unfinished += tally.unfinished;
            sum.seconds = sum.seconds.max(tally.seconds);
            sum.cpu_seconds = sum.cpu_seconds.max(tally.cpu_seconds);
            sum.faults.extend(tally.faults);
        }
        sum
    }

    /// Notes a fault when fewer than 90 % of the handshakes were resumed.
    pub(crate) fn demand_resumption(&mut self) {
        let (full, resumed) = (self.counters.handshakes_full, self.counters.handshakes_resumed);
        if resumed < (full + resumed) * 9 / 10 || resumed == 0 {
            self.faults.push(format!("only {resumed} of {} handshakes were resumed", full + resumed));
        }
    }

    /// All requests and all errors.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let requests = self.classes.iter().map(|class| class.requests).sum::<u64>() + self.unfinished;
        let errors = self.classes.iter().map(|class| class.errors).sum::<u64>() + self.unfinished;
        (requests, errors)
    }

    /// Whether all went well.
    pub(crate) fn is_good(&self) -> bool {
        let (requests, errors) = self.totals();
        errors == 0 && requests > 0 && self.faults.is_empty()
    }

    /// Prints what a flood did; whether all went well.
    pub(crate) fn print_flood(&self, as_json: bool) -> bool {
        let class = &self.classes[0];
        let mut faults = self.faults.clone();
        if self.totals().0 == 0 {
            faults.push("no request was completed in the measured time".to_owned());
        }
        if as_json {
            let mut object = self.class_json(class, self.unfinished);
            object.extend(self.common_json(&faults));
            println!("{}", Value::Object(object));
        } else {
            self.print_table(&["requests".to_owned()]);
            self.print_common(&faults);
        }
        self.is_good()
    }

    /// What belongs to one class of requests.
    pub(crate) fn class_json(&self, class: &ClassStats, unfinished: u64) -> Map<String, Value> {
        let statuses: Map<_, _> =
            class.statuses.iter().map(|(status, count)| (status.to_string(), json!(count))).collect();
        let mut object = Map::new();
        object.insert("requests".into(), json!(class.requests + unfinished));
        object.insert("errors".into(), json!(class.errors + unfinished));
        object.insert("error_kinds".into(), json!(class.faults));
        object.insert("statuses".into(), Value::Object(statuses));
        object.insert("requests_per_second".into(), json!(rounded(class.requests as f64 / self.seconds)));
        object.insert("latency_us".into(), class.latency_json());
        object
    }

    /// What belongs to the run.
    pub(crate) fn common_json(&self, faults: &[String]) -> Map<String, Value> {
        let counters = self.counters;
        let object = json!({
            "bytes_received": counters.bytes_received,
            "bytes_sent": counters.bytes_sent,
            "seconds": rounded(self.seconds),
            "handshakes": { "full": counters.handshakes_full, "resumed": counters.handshakes_resumed },
            "opened_before": self.opened,
            "connections_opened": counters.opened,
            "reconnects": counters.reconnects,
            "late": counters.late,
            "unfinished": self.unfinished,
            "generator_cpu_seconds": rounded(self.cpu_seconds),
            "faults": faults,
        });
        if let Value::Object(object) = object { object } else { Map::new() }
    }

    /// A line for each class.
    pub(crate) fn print_table(&self, names: &[String]) {
        let [count, rate, errors] = ["count", "per s", "errors"];
        println!("{:<14} {count:>9} {rate:>9} {errors:>7}   p50     p90     p99   p99.9     max  (ms)", "");
        for (name, class) in names.iter().zip(&self.classes) {
            let rate = class.requests as f64 / self.seconds;
            print!("{name:<14} {:>9} {rate:>9.1} {:>7}", class.requests, class.errors);
            for quantile in [0.5, 0.9, 0.99, 0.999, 1.0] {
                print!(" {:>7.2}", class.latency_us(quantile) as f64 / 1000.0);
            }
            println!();
            for (fault, count) in &class.faults {
                println!("  {count} × {fault}");
            }
        }
    }

    /// Lines about the run as a whole.
    pub(crate) fn print_common(&self, faults: &[String]) {
        let counters = self.counters;
        println!(
            "{:.2} s, {} MB received, {} MB sent; {} connections before, {} meanwhile ({} reconnects); {} full and {} \
             resumed handshakes; {} late, {} unfinished; the generator took {:.2} s of CPU time",
            self.seconds,
            counters.bytes_received / 1_000_000,
            counters.bytes_sent / 1_000_000,
            self.opened,
            counters.opened,
            counters.reconnects,
            counters.handshakes_full,
            counters.handshakes_resumed,
            counters.late,
            self.unfinished,
            self.cpu_seconds,
        );
        for fault in faults {
            println!("fault: {fault}");
        }
    }
}

fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fewer_than_nine_resumed_handshakes_of_ten_are_a_fault() {
        for (full, resumed, good) in [(10, 90, true), (11, 89, false), (0, 0, false), (0, 5, true)] {
            let mut class = ClassStats::new();
            class.succeeded(200, None);
            let counters =
                Counters { handshakes_full: full, handshakes_resumed: resumed, ..Counters::default() };
            let mut tally = Tally {
                classes: vec![class],
                counters,
                opened: 0,
                unfinished: 0,
                seconds: 1.0,
                cpu_seconds: 0.0,
                faults: Vec::new(),
            };
            tally.demand_resumption();
            assert_eq!(tally.is_good(), good, "{full} full, {resumed} resumed: {:?}", tally.faults);
        }
    }
}
