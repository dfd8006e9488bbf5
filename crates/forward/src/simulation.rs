//! Deterministic simulation: the proxy's real code from the first byte of a connection to its last, between clients
//! and origins that do whatever a seed tells them.
//!
//! A seed draws everything: requests and replies, good and bad, where they are split, delayed, broken off or
//! followed by stray bytes, capacities, timeouts, the order in which woken tasks run, and the step at which the worker
//! drains. Time is virtual ([`world`]), connections are memory ([`wire`]), and [`judge`] holds the result against what
//! must be true of all of them, with a parser of its own ([`message`]).
//!
//! `RINGFENCE_SEEDS=200000 cargo test -p ringfence-forward simulation` tries as many; `RINGFENCE_SEED=7` replays one.
//!
//! Left out: TLS and sockets (the seam is [`Transport`](crate::transport::Transport)), accepting, tunnels, and stray
//! bytes of an origin that come after the next request was sent, which nobody can tell from an answer.

mod client;
mod executor;
mod judge;
mod message;
mod origin;
mod reply;
mod request;
pub(crate) mod rng;
#[cfg(fuzzing)]
pub mod script;
mod story;
mod wire;
mod world;

use std::{
    cell::Cell,
    collections::BTreeMap,
    env,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ringfence_http1::HeadLimits;

use self::{
    executor::Role,
    judge::Phase,
    world::{Simulated, World},
};
use crate::{
    allowance::Allowances,
    environment::Environment,
    limits::Limits,
    respond::{Answer, RefusalAnswers},
    snapshot::{
        Action, Balance, Listener, MethodMatch, PathMatch, RateLimits, Rule, Server, Site, Snapshot,
        Upstream, keep_shared,
    },
    worker::{Live, Worker},
};

/// Seeds tried when nothing else is said: some ten seconds of a debug build.
const SEEDS: u64 = 3000;

/// Steps within which the drain and the reload of the configuration fall.
const EVENT_STEPS: usize = 1500;

/// Steps of one simulation that mean that it has no end: a hundred times what the longest ones take.
const STEPS_MAX: usize = 3_000_000;

/// Servers of both upstreams together.
const SERVERS: usize = 3;

#[test]
fn nothing_breaks_whatever_peers_do() {
    let number = |name| env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let (first, count) = match number("RINGFENCE_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("RINGFENCE_SEEDS").unwrap_or(SEEDS)),
    };
    let next = AtomicU64::new(first);
    let started = Instant::now();
    let failures: Vec<String> = thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let work = || {
            let seeds = || Some(next.fetch_add(1, Ordering::Relaxed)).filter(|seed| *seed < first + count);
            std::iter::from_fn(seeds).find_map(try_seed)
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().filter_map(|thread| thread.join().unwrap()).collect()
    });
    assert!(failures.is_empty(), "\n{}", failures.join("\n"));
    println!("{count} seeds in {:.1?}", started.elapsed());
}

/// What went wrong with a seed, if anything did.
fn try_seed(seed: u64) -> Option<String> {
    let verdict = catch_unwind(AssertUnwindSafe(|| Simulation::new(seed).run()));
    let what = match verdict {
        Ok(Ok(())) => return None,
        Ok(Err(what)) => what,
        Err(panic) => match (panic.downcast_ref::<String>(), panic.downcast_ref::<&str>()) {
            (Some(what), _) => what.clone(),
            (None, what) => what.copied().unwrap_or("a panic").to_owned(),
        },
    };
    Some(format!("RINGFENCE_SEED={seed}: {what}"))
}

struct Simulation {
    world: Rc<World>,
    worker: Rc<Worker<Simulated>>,
    /// What it began with.
    snapshot: Arc<Snapshot>,
    /// At which step the next client comes.
    next_client_at: Cell<usize>,
    clients_left: Cell<usize>,
    drain_at: Cell<Option<usize>>,
    reload_at: Cell<Option<usize>>,
    /// Each client's phase when last looked at, and since when it has been that.
    phases: Vec<(Phase, Instant)>,
}

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let world = World::new(seed, SERVERS);
        let env = Simulated(world.clone());
        let allowances = Allowances::new(env.now());
        let snapshot = snapshot(&world);
        let worker = Worker::new(env, snapshot.clone(), None, Arc::default(), allowances, 1);
        let rng = &world.rng;
        let draw = |in_how_many| Cell::new(rng.once_in(in_how_many).then(|| rng.below(EVENT_STEPS)));
        let (drain_at, reload_at) = (draw(3), draw(3));
        let clients_left = Cell::new(rng.between(1, 4));
        let phases = Vec::new();
        let next_client_at = Cell::new(0);
        Simulation { worker, snapshot, next_client_at, clients_left, drain_at, reload_at, phases, world }
    }

    fn run(mut self) -> Result<(), String> {
        let result = self.play().and_then(|()| judge::judge(&self.world));
        if env::var_os("RINGFENCE_SEED").is_some() {
            println!("{}", story::tell(&self.world));
        }
        // Tasks and world hold each other.
        for role in [Role::Connection, Role::Client, Role::Origin, Role::Operator] {
            self.world.executor.cancel(role);
        }
        result
    }

    /// Until nobody is left.
    fn play(&mut self) -> Result<(), String> {
        let world = self.world.clone();
        let mut step = 0;
        loop {
            self.happen(step);
            step += 1;
            if step > STEPS_MAX {
                return Err("it goes on and on".into());
            }
            if world.executor.step(&world.rng) {
                world.count_work();
                continue;
            }
            self.look()?;
            if self.clients_left.get() > 0 && (world.rng.once_in(2) || !world.advance()) {
                step = step.max(self.next_client_at.get());
            } else if self.clients_left.get() > 0 {
                continue;
            } else if world.executor.alive() == 0 {
                return self.finish();
            } else if !self.connections_alive() {
                // What is left are pooled connections.
                self.worker.drain();
                self.worker.live.replace(Live::new(snapshot(&world)));
                if !world.executor.step(&world.rng) && !world.advance() {
                    return Err(format!("stuck after the end: {:?}", world.executor.list_alive()));
                }
            } else if !world.advance() {
                return Err(format!("waiting for nothing: {:?}", world.executor.list_alive()));
            }
        }
    }

    /// What the seed has in store for this step.
    fn happen(&self, step: usize) {
        let world = &self.world;
        if step >= self.next_client_at.get() && self.clients_left.get() > 0 {
            self.clients_left.set(self.clients_left.get() - 1);
            self.next_client_at.set(step + world.rng.below(400));
            let first_id = 16 * u32::try_from(self.clients_left.get() + 1).unwrap();
            if !self.worker.draining.get() {
                client::start(world, &self.worker, first_id);
            }
        }
        let is_due = |at: &Cell<Option<usize>>| {
            let due = at.get().is_some_and(|at| at <= step);
            if due {
                at.set(None);
            }
            due
        };
        if is_due(&self.reload_at) {
            self.reload();
        }
        if is_due(&self.drain_at) {
            self.drain();
        }
        if world.rng.once_in(100) {
            self.worker.sweep();
        }
    }

    /// Like SIGHUP: what follows keeps what is shared.
    fn reload(&self) {
        let mut next = snapshot(&self.world);
        keep_shared(&mut Arc::make_mut(&mut next).upstreams, &self.snapshot.upstreams);
        self.worker.apply(next);
    }

    /// Like SIGTERM: what has not ended when the drain's time is over is cut.
    fn drain(&self) {
        self.worker.drain();
        let (world, worker) = (self.world.clone(), self.worker.clone());
        world.clone().executor.spawn(Role::Operator, async move {
            world.sleep(world.timeouts.drain).await;
            world.cut.set(true);
            worker.cut();
            world.sleep(Duration::from_secs(1)).await;
            world.executor.cancel(Role::Connection);
        });
    }

    /// Looks at the world while everybody waits.
    fn look(&mut self) -> Result<(), String> {
        let world = self.world.clone();
        world.verdict()?;
        let clients = world.clients.borrow();
        let mut resting = true;
        for (index, client) in clients.iter().enumerate() {
            let phase = Phase::of(client);
            let now = world.now();
            if self.phases.len() == index {
                self.phases.push((phase, now));
            }
            if self.phases[index].0 != phase {
                self.phases[index] = (phase, now);
            }
            let since = match phase {
                Phase::Head(_) | Phase::End => self.phases[index].1,
                _ => world.moved_at(client.connection.get()).max(self.phases[index].1),
            };
            if phase.limit(&world, self.worker.draining.get()).is_some_and(|limit| now - since > limit) {
                return Err(format!("client {index} in {phase:?} for {:?}", now - since));
            }
            let idle = matches!(phase, Phase::Idle { .. }) && client.sent.get() == client.log.read.get();
            resting &= idle || phase == Phase::Gone;
        }
        let out = self.worker.buffers.out();
        if resting && out > 0 {
            return Err(format!("{out} buffers are out while every connection rests"));
        }
        Ok(())
    }

    fn connections_alive(&self) -> bool {
        let alive = self.world.executor.list_alive();
        alive.iter().any(|(_, role)| matches!(role, Role::Connection | Role::Client))
    }

    fn finish(&self) -> Result<(), String> {
        for upstream in &self.snapshot.upstreams {
            let taken: usize = upstream.servers.iter().map(|server| server.slots.taken()).sum();
            if taken + upstream.queue.waiting() > 0 {
                return Err(format!(
                    "{taken} slots and {} places did not come back",
                    upstream.queue.waiting()
                ));
            }
        }
        match self.worker.buffers.out() {
            0 => self.world.verdict(),
            out => Err(format!("{out} buffers did not come back")),
        }
    }
}

/// Some configuration, for tests that need one.
pub(crate) fn any_snapshot() -> Arc<Snapshot> {
    snapshot(&World::new(0, 3))
}

fn snapshot(world: &World) -> Arc<Snapshot> {
    let rule = |path: &[u8], action| Rule {
        paths: PathMatch::Prefix(path.into()),
        methods: MethodMatch::Any,
        unprivileged_only: false,
        action,
        refusal_style: 0,
        body_bytes_max: None,
    };
    let answer = |status| Answer {
        status,
        field_lines: Bytes::from_static(b"X-Made-By: proxy\r\n"),
        content: format!("{status}|made by the proxy").into(),
    };
    let server = |index, weight| Server {
        name: format!("server {index}"),
        address: world::address(index),
        tls: None,
        weight,
        slots: Arc::default(),
        health: None,
    };
    let upstream = |servers, balance| Upstream {
        servers,
        sends_proxy_header: false,
        balance,
        requests_max: world.requests_max,
        queue: Arc::default(),
    };
    let rules = vec![
        rule(b"/e", Action::Forward(0)),
        rule(b"/f", Action::Forward(1)),
        rule(b"/local", Action::Answer(answer(200))),
    ];
    Arc::new(Snapshot {
        limits: Limits {
            head: HeadLimits::default(),
            body_bytes_max: request::CONTENT_BYTES_MAX as u64,
            queue_max: 2,
            ..Limits::default()
        },
        timeouts: world.timeouts.clone(),
        listeners: vec![Listener {
            address: ([127, 0, 0, 1], 80).into(),
            tls: None,
            privileged_networks: Vec::new(),
            redirect: false,
            retired: false,
            proxy_protocol_from: None,
        }],
        upstreams: vec![
            upstream(vec![server(0, 1), server(1, 3)], Balance::LeastConnections),
            upstream(vec![server(2, 1)], Balance::RoundRobin),
        ],
        sites: vec![Site { rules, host: Bytes::from_static(b"fallback.example") }],
        hosts: BTreeMap::new(),
        strict_hosts: false,
        trusted_proxies: Vec::new(),
        refusals: vec![RefusalAnswers::new(|refusal| answer(refusal.status()))],
        classify: |_, _| 0,
        measures: true,
        rate_limits: RateLimits::off(),
    })
}
