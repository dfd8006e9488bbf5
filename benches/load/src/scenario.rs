//! `scenario`: plays a table of [`scenarios`](crate::scenarios) and says what became of each class of requests.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use rustls::client::ClientConfig;
use serde_json::{Map, Value, json};

use crate::crowd::{self, Crowd, Make};
use crate::flood::Common;
use crate::matrix::{self, Parties};
use crate::random::Random;
use crate::report::Tally;
use crate::scenarios::{Activity, Kind, Peers, SCENARIOS, Scenario, Side};
use crate::slot::Slot;
use crate::target::Target;
use crate::worker::Worker;
use crate::{idle, runtime, tls};

/// Which scenario, and where.
#[derive(Args, Clone, Debug)]
pub(crate) struct Play {
    /// One of those that --list names.
    #[arg(required_unless_present = "list")]
    name: Option<String>,
    /// Where clients go: http:// or https://
    #[arg(long, required_unless_present = "list", value_name = "URL")]
    client: Option<String>,
    /// Where remote servers go: http:// or https://
    #[arg(long, required_unless_present = "list", value_name = "URL")]
    federation: Option<String>,
    /// How long to measure.
    #[arg(long, default_value_t = 30.0)]
    seconds: f64,
    /// How long to run before measuring, in seconds. Long polls begin spread over it; a burst begins after it.
    #[arg(long, default_value_t = 2.0)]
    warmup: f64,
    /// Multiplies peers and rates.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Repeats the same arrivals.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The homeserver's name, for requests that carry it.
    #[arg(long, default_value = "localhost")]
    server_name: String,
    /// Clients' access token.
    #[arg(long, default_value = "syt_bG9hZA_TUnOtAvAlIdToKeNhErE_0aBcDe")]
    access_token: String,
    /// Names the scenarios and what they are.
    #[arg(long)]
    list: bool,
    #[command(flatten)]
    common: Common,
}

/// Plays and reports; whether all went well.
pub(crate) fn run(play: &Play) -> Result<bool, String> {
    if play.list {
        SCENARIOS.iter().for_each(list);
        return Ok(true);
    }
    let name = play.name.as_deref().unwrap_or_default();
    let scenario = SCENARIOS.iter().find(|scenario| scenario.name == name);
    let scenario = scenario.ok_or_else(|| format!("there is no scenario {name}; --list names them"))?;
    let positive = |number: f64| number.is_finite() && number > 0.0;
    if !positive(play.scale) || !positive(play.seconds) || !positive(play.warmup) {
        return Err("--scale, --seconds and --warmup are more than 0".to_owned());
    }
    let targets = [&play.client, &play.federation]
        .map(|url| Target::parse(url.as_deref().unwrap_or_default()).map(Rc::new));
    let [client, federation] = targets;
    let stage = Stage {
        play,
        scenario,
        classes: classes(scenario),
        client: client?,
        federation: federation?,
        config: tls::config(&play.common)?,
    };
    let peers = scenario.crowds.iter().map(|crowd| stage.count(crowd)).sum();
    runtime::raise_descriptors(peers)?;
    let (tally, idle) = runtime::run(stage.run()).map_err(|error| format!("no runtime: {error}"))??;
    Ok(stage.report(&tally, &idle))
}

fn list(scenario: &Scenario) {
    println!("{}: {}", scenario.name, scenario.about);
    for crowd in scenario.crowds {
        let peers: Vec<_> = crowd
            .peers
            .iter()
            .map(|(count, handshake)| format!("{count} {handshake:?}").to_lowercase())
            .collect();
        println!("  {:<20} {:<36} {:?}", crowd.name, peers.join(", "), crowd.activity);
        for (weight, kind) in crowd.mix {
            println!("    {weight:>3} × {kind:?}");
        }
    }
}

/// The names of the kinds of requests, each once.
fn classes(scenario: &Scenario) -> Vec<&'static str> {
    let mut names = Vec::new();
    for (_, kind) in scenario.crowds.iter().flat_map(|crowd| crowd.mix) {
        if !names.contains(&kind.name()) {
            names.push(kind.name());
        }
    }
    names
}

struct Stage<'a> {
    play: &'a Play,
    scenario: &'static Scenario,
    classes: Vec<&'static str>,
    client: Rc<Target>,
    federation: Rc<Target>,
    config: Arc<ClientConfig>,
}

/// Connections that are held: how many, and how many of them were closed by the other side.
struct Held {
    connections: usize,
    closed: Rc<Cell<u64>>,
}

/// When peers begin, when the measurement does, and when both end.
#[derive(Clone, Copy)]
struct Times {
    begin: Instant,
    from: Instant,
    until: Instant,
}

impl Stage<'_> {
    async fn run(&self) -> Result<(Tally, Held), String> {
        let worker = Rc::new(Worker::new(self.play.seed, self.classes.len(), &self.play.common.accept));
        let mut held = Held { connections: 0, closed: Rc::default() };
        let mut ready = Vec::new();
        let mut number = 0;
        for peers in self.scenario.crowds {
            let slots = self.slots(peers, &mut number);
            let make = self.make(peers);
            let slots = open(slots, peers.activity, &worker, &make).await?;
            if peers.activity == Activity::Idle {
                held.connections += slots.len();
                idle::watch(slots, &worker, &held.closed);
            } else {
                ready.push((peers, make, slots));
            }
        }

        let begin = Instant::now();
        let from = begin + Duration::from_secs_f64(self.play.warmup);
        let until = from + Duration::from_secs_f64(self.play.seconds);
        worker.record_within(from, until);
        let times = Times { begin, from, until };
        let begin = |(peers, make, slots)| self.begin(peers, make, slots, &worker, times);
        let crowds: Vec<_> = ready.into_iter().filter_map(begin).collect();
        monoio::time::sleep(from.saturating_duration_since(Instant::now())).await;
        let (before, cpu_before) = (worker.counters(), runtime::cpu_seconds());
        monoio::time::sleep(until.saturating_duration_since(Instant::now())).await;
        let (after, cpu_after) = (worker.counters(), runtime::cpu_seconds());
        let unfinished = worker.quiet(GRACE).await as u64;
        crowds.iter().for_each(|crowd| crowd.give_up());
        let tally = Tally {
            classes: worker.classes.take(),
            counters: after - before,
            opened: before.opened,
            unfinished,
            seconds: self.play.seconds,
            cpu_seconds: cpu_after - cpu_before,
            faults: Vec::new(),
        };
        Ok((tally, held))
    }

    /// Lets the peers do what they do; the crowd, where requests may wait.
    fn begin(
        &self,
        peers: &'static Peers,
        make: Make,
        slots: Vec<Slot>,
        worker: &Rc<Worker>,
        times: Times,
    ) -> Option<Rc<Crowd>> {
        if peers.activity == Activity::LongPoll {
            let class = self.class(&peers.mix[0].1);
            for slot in slots {
                let delay =
                    times.from.duration_since(times.begin).mul_f64(worker.random.borrow_mut().fraction());
                drop(monoio::spawn(crowd::long_poll(slot, worker.clone(), make.clone(), class, delay)));
            }
            return None;
        }
        let bursts = matches!(peers.activity, Activity::Burst { .. });
        let begin = if bursts { times.from } else { times.begin };
        let classes = peers.mix.iter().map(|(_, kind)| self.class(kind)).collect();
        let crowd = Crowd::new(slots, worker.clone(), make, classes, peers.activity.pick());
        let (arriving, scale) = (crowd.clone(), self.play.scale);
        let rate = move |after: Duration| scale * peers.activity.rate(after.as_secs_f64());
        let choose = move |random: &mut Random| weighted(peers.mix, random);
        drop(monoio::spawn(async move {
            if let Err(error) = arriving.arrive(begin, times.until, rate, choose).await {
                eprintln!("no timer: {error}");
            }
        }));
        Some(crowd)
    }

    fn slots(&self, peers: &Peers, number: &mut usize) -> Vec<Slot> {
        let target = self.target(peers.side);
        let mut slots = Vec::new();
        for (count, handshake) in peers.peers {
            for _ in 0..self.scaled(*count) {
                let source = target.source(*number);
                slots.push(Slot::new(*number, *handshake, target, &self.config, source));
                *number += 1;
            }
        }
        slots
    }

    /// How these peers' requests are made.
    fn make(&self, peers: &'static Peers) -> Make {
        let authority = self.target(peers.side).authority.clone();
        let (server_name, access_token) = (self.play.server_name.clone(), self.play.access_token.clone());
        Rc::new(move |slot, kind, random, request| {
            let parties = Parties {
                authority: &authority,
                server_name: &server_name,
                peer: slot.number,
                access_token: &access_token,
                closes: slot.closes(),
            };
            matrix::write(&peers.mix[kind].1, &parties, random, request);
        })
    }

    fn class(&self, kind: &Kind) -> usize {
        self.classes.iter().position(|name| *name == kind.name()).unwrap_or(0)
    }

    fn target(&self, side: Side) -> &Rc<Target> {
        match side {
            Side::Client => &self.client,
            Side::Federation => &self.federation,
        }
    }

    fn count(&self, peers: &Peers) -> usize {
        peers.peers.iter().map(|(count, _)| self.scaled(*count)).sum()
    }

    /// A number of peers at the scale of this run, at least one.
    fn scaled(&self, count: usize) -> usize {
        // Casts of floats saturate; how many peers the machine can hold is asked before they are made.
        #[allow(clippy::cast_possible_truncation)]
        let count = (count as f64 * self.play.scale).round() as usize;
        count.max(1)
    }

    fn report(&self, tally: &Tally, held: &Held) -> bool {
        let mut faults = Vec::new();
        if tally.totals().0 == 0 {
            faults.push("no request was completed in the measured time".to_owned());
        }
        let closed = held.closed.get();
        if closed > 0 {
            faults.push(format!("{closed} idle connections were closed"));
        }
        if self.play.common.json {
            let (requests, errors) = tally.totals();
            let mut object = Map::new();
            object.insert("scenario".into(), json!(self.scenario.name));
            object.insert("requests".into(), json!(requests));
            object.insert("errors".into(), json!(errors));
            let classes = self.classes.iter().zip(&tally.classes);
            let classes =
                classes.map(|(name, class)| ((*name).to_owned(), tally.class_json(class, 0).into()));
            object.insert("classes".into(), Value::Object(classes.collect()));
            object.insert("idle".into(), json!({ "connections": held.connections, "closed": closed }));
            object.extend(tally.common_json(&faults));
            println!("{}", Value::Object(object));
        } else {
            let names: Vec<_> = self.classes.iter().map(|name| (*name).to_owned()).collect();
            tally.print_table(&names);
            tally.print_common(&faults);
            println!("{} idle connections, {closed} of them closed by the other side", held.connections);
        }
        tally.is_good() && faults.is_empty()
    }
}

/// Brings peers into the state in which they begin.
async fn open(
    slots: Vec<Slot>,
    activity: Activity,
    worker: &Rc<Worker>,
    make: &Make,
) -> Result<Vec<Slot>, String> {
    match activity {
        Activity::Burst { .. } => Ok(slots),
        Activity::Idle => crowd::open_all(slots, worker, Some(make)).await,
        Activity::Steady { .. } | Activity::LongPoll => {
            let (kept, mut others): (Vec<_>, Vec<_>) = slots.into_iter().partition(|slot| !slot.closes());
            let mut slots = crowd::open_all(kept, worker, None).await?;
            slots.append(&mut others);
            Ok(slots)
        }
    }
}

/// One of them by weight: its index.
fn weighted(mix: &[(u32, Kind)], random: &mut Random) -> usize {
    let total: u32 = mix.iter().map(|(weight, _)| weight).sum();
    let mut left = u32::try_from(random.below(total as usize)).unwrap_or(0);
    for (index, (weight, _)) in mix.iter().enumerate() {
        match left.checked_sub(*weight) {
            Some(rest) => left = rest,
            None => return index,
        }
    }
    0
}

/// How long requests under way at the end may take.
const GRACE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slot::Handshake;

    #[test]
    fn kinds_come_as_often_as_their_weight() {
        let mix = &[(1, Kind::Keys), (3, Kind::Send)];
        let mut random = Random::new(2);
        let second = (0..40_000).filter(|_| weighted(mix, &mut random) == 1).count();
        assert!((29_000..31_000).contains(&second), "{second} of 40 000");
    }

    #[test]
    fn scenarios_are_consistent() {
        for scenario in SCENARIOS {
            for crowd in scenario.crowds {
                assert!(!crowd.mix.is_empty(), "{}: {}", scenario.name, crowd.name);
                if matches!(crowd.activity, Activity::Idle | Activity::LongPoll) {
                    let keep = crowd.peers.iter().all(|(_, handshake)| *handshake == Handshake::Keep);
                    assert!(keep && crowd.mix.len() == 1, "{}: {}", scenario.name, crowd.name);
                }
            }
        }
    }
}
