use std::collections::BTreeMap;

use super::{
    order::{Pick, bit},
    *,
};
use crate::{
    limits::{QUEUE_LEAD_MAX, SERVER_RETRY_AFTER, TRIAL_MAX, UNANSWERED_MAX, UPSTREAM_IDLE_MAX},
    simulation::rng::Rng,
    snapshot::{Server, ServerAddress},
};

fn upstream(weights: &[u32], balance: Balance) -> Upstream {
    let server = |weight: &u32| Server {
        name: String::new(),
        address: ServerAddress::Tcp(Vec::new()),
        tls: None,
        weight: *weight,
        slots: Arc::default(),
        health: None,
    };
    Upstream {
        servers: weights.iter().map(server).collect(),
        sends_proxy_header: false,
        balance,
        requests_max: None,
        queue: Arc::default(),
    }
}

fn pool_for(upstream: &Upstream) -> Pool<u32> {
    Pool::new(upstream, |_| Rc::default(), || Rc::new(Line::new(upstream.queue.clone())))
}

fn pool(weights: &[u32], balance: Balance) -> Pool<u32> {
    pool_for(&upstream(weights, balance))
}

fn equals(count: usize) -> Pool<u32> {
    pool(&vec![1; count], Balance::RoundRobin)
}

fn next<'p>(order: &mut Order<'p, u32>, now: Instant) -> Option<Asking<'p, u32>> {
    match order.next(now, false) {
        Choice::Server(asking) => Some(asking),
        Choice::Wait | Choice::Nobody => None,
    }
}

fn order(pool: &Pool<u32>, now: Instant) -> Vec<usize> {
    let mut order = pool.order();
    std::iter::from_fn(|| next(&mut order, now).map(|asking| asking.server)).collect()
}

/// The servers of so many requests, each of which ends before the next.
fn takers(pool: &Pool<u32>, count: usize, now: Instant) -> Vec<usize> {
    (0..count).map(|_| next(&mut pool.order(), now).unwrap().server).collect()
}

fn fail_dial(pool: &Pool<u32>, server: usize, now: Instant) {
    pool.begin(server, now).unwrap().dial_failed(now);
}

#[test]
fn servers_take_turns() {
    let (pool, now) = (equals(3), Instant::now());
    assert_eq!(order(&pool, now), [0, 1, 2]);
    assert_eq!(order(&pool, now), [1, 2, 0]);
    assert_eq!(order(&pool, now), [2, 0, 1]);
    assert_eq!(order(&pool, now), [0, 1, 2]);
}

#[test]
fn servers_that_are_down_come_last_and_are_all_tried_in_turn_when_all_are() {
    let (mut upstream, now) = (upstream(&[1, 1, 1], Balance::RoundRobin), Instant::now());
    for server in &mut upstream.servers {
        server.health = Some(Arc::default());
    }
    let pool = pool_for(&upstream);
    let sets = |server: usize, is_down| {
        upstream.servers[server].health.as_ref().unwrap().changes(is_down, String::new());
    };
    sets(0, true);
    for _ in 0..3 {
        assert_eq!(order(&pool, now)[2], 0);
    }
    // One that is down is tried before one that is ejected, and one that is both last.
    fail_dial(&pool, 1, now);
    assert_eq!(order(&pool, now), [2, 0, 1]);
    fail_dial(&pool, 0, now + Duration::from_millis(1));
    assert_eq!(order(&pool, now), [2, 1, 0]);
    let later = now + 2 * SERVER_RETRY_AFTER;
    sets(1, true);
    sets(2, true);
    let first: Vec<usize> = (0..6).map(|_| order(&pool, later)[0]).collect();
    for server in 0..3 {
        assert!(first.contains(&server), "{first:?}");
    }
}

#[test]
fn a_lone_server_that_is_down_is_always_tried() {
    let mut upstream = upstream(&[1], Balance::RoundRobin);
    let health = Arc::<Health>::default();
    health.changes(true, String::new());
    upstream.servers[0].health = Some(health);
    assert_eq!(order(&pool_for(&upstream), Instant::now()), [0]);
}

#[test]
fn turns_are_by_weight_and_smooth() {
    // The example of nginx's own documentation of its algorithm.
    let (pool, now) = (pool(&[5, 1, 1], Balance::RoundRobin), Instant::now());
    assert_eq!(takers(&pool, 14, now), [0, 0, 1, 0, 2, 0, 0, 0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn fewest_requests_for_its_weight_is_next() {
    let (pool, now) = (pool(&[1, 3], Balance::LeastConnections), Instant::now());
    let mut asking = Vec::new();
    for _ in 0..8 {
        asking.push(next(&mut pool.order(), now).unwrap());
    }
    let of_first = asking.iter().filter(|asking| asking.server == 0).count();
    assert_eq!(of_first, 2, "2 to 6");
    asking.retain(|asking| asking.server != 0);
    assert_eq!(takers(&pool, 3, now), [0, 0, 0], "it is idle");
    asking.clear();
    let takers = takers(&pool, 8, now);
    assert_eq!(
        takers.iter().filter(|server| **server == 0).count(),
        2,
        "in turn where all are idle: {takers:?}"
    );
}

#[test]
fn a_server_that_refused_comes_last_for_a_while() {
    let (pool, now) = (equals(3), Instant::now());
    fail_dial(&pool, 1, now);
    assert_eq!(order(&pool, now), [0, 2, 1]);
    assert!(takers(&pool, 3, now + SERVER_RETRY_AFTER).contains(&1));
    let asking = pool.begin(1, now + SERVER_RETRY_AFTER).unwrap();
    asking.dialled();
    drop(asking);
    assert!(takers(&pool, 3, now).contains(&1), "it takes turns again");
}

#[test]
fn a_lone_server_is_always_tried() {
    let (pool, now) = (equals(1), Instant::now());
    fail_dial(&pool, 0, now);
    assert_eq!(order(&pool, now), [0]);
    let trial = pool.begin(0, now + SERVER_RETRY_AFTER).unwrap();
    assert_eq!(order(&pool, now + SERVER_RETRY_AFTER), [0]);
    drop(trial);
}

#[test]
fn where_all_are_ejected_the_one_that_comes_back_soonest_is_first() {
    let (pool, now) = (equals(3), Instant::now());
    for (server, millis) in [(2, 0), (0, 1), (1, 2)] {
        fail_dial(&pool, server, now + Duration::from_millis(millis));
    }
    assert_eq!(order(&pool, now + Duration::from_millis(3)), [2, 0, 1]);
}

#[test]
fn a_server_that_fails_while_an_order_is_followed_is_not_tried_twice() {
    let (pool, now) = (equals(2), Instant::now());
    let mut order = pool.order();
    let tried = std::iter::from_fn(|| {
        let asking = next(&mut order, now)?;
        asking.dial_failed(now);
        Some(asking.server)
    });
    assert_eq!(tried.collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn only_one_request_waits_for_a_server_on_trial() {
    let (pool, now) = (equals(2), Instant::now());
    fail_dial(&pool, 1, now);
    let later = now + SERVER_RETRY_AFTER;
    let mut asking: Vec<_> = (0..4).map(|_| next(&mut pool.order(), later).unwrap()).collect();
    assert_eq!(asking.iter().filter(|asking| asking.server == 1).count(), 1);
    let trial = asking.iter().position(|asking| asking.server == 1).unwrap();
    asking.remove(trial).dial_failed(later);
    assert_eq!(takers(&pool, 3, later + SERVER_RETRY_AFTER), [0, 0, 0], "twice as long this time");
    assert!(takers(&pool, 3, later + 2 * SERVER_RETRY_AFTER).contains(&1));
}

#[test]
fn with_a_cap_nobody_has_more_and_who_comes_later_waits() {
    let upstream = Upstream { requests_max: Some(2), ..upstream(&[1, 1], Balance::RoundRobin) };
    let (pool, other, now) = (pool_for(&upstream), pool_for(&upstream), Instant::now());
    let mut asking: Vec<_> = (0..4)
        .map(|step| next(&mut if step % 2 == 0 { &pool } else { &other }.order(), now).unwrap())
        .collect();
    assert!(upstream.servers.iter().all(|server| server.slots.taken() == 2));
    assert!(matches!(pool.order().next(now, false), Choice::Wait));
    let waiting = other.wait(9, now).unwrap();
    asking.pop();
    assert!(matches!(pool.order().next(now, false), Choice::Wait), "somebody waits already");
    assert!(matches!(other.order().next(now, true), Choice::Server(_)));
    drop(waiting);
    assert!(matches!(pool.order().next(now, false), Choice::Server(_)));
    drop(asking);
    assert!(upstream.servers.iter().all(|server| server.slots.taken() == 0));
}

#[test]
fn a_full_server_is_waited_for_rather_than_an_ejected_one_tried() {
    let upstream = Upstream { requests_max: Some(1), ..upstream(&[1, 1], Balance::RoundRobin) };
    let (pool, now) = (pool_for(&upstream), Instant::now());
    fail_dial(&pool, 0, now);
    let asking = next(&mut pool.order(), now).unwrap();
    assert_eq!(asking.server, 1);
    assert!(matches!(pool.order().next(now, false), Choice::Wait));
    assert_eq!(next(&mut pool.order(), now + SERVER_RETRY_AFTER).unwrap().server, 0);
}

#[test]
fn a_server_that_is_down_is_tried_rather_than_a_full_one_waited_for() {
    let mut upstream = Upstream { requests_max: Some(1), ..upstream(&[1, 1, 1], Balance::RoundRobin) };
    let (health, now) = (Arc::<Health>::default(), Instant::now());
    health.changes(true, String::new());
    upstream.servers[1].health = Some(health);
    let pool = pool_for(&upstream);
    fail_dial(&pool, 2, now);
    let asking: Vec<_> = (0..2).map(|_| next(&mut pool.order(), now).unwrap()).collect();
    assert_eq!([asking[0].server, asking[1].server], [0, 1]);
    assert!(matches!(pool.order().next(now, false), Choice::Wait), "the third is ejected");
}

#[test]
fn who_waits_for_a_full_server_holds_up_nobody_who_may_have_another() {
    let upstream = Upstream { requests_max: Some(1), ..upstream(&[1, 1], Balance::RoundRobin) };
    let (pool, other, now) = (pool_for(&upstream), pool_for(&upstream), Instant::now());
    fail_dial(&pool, 1, now);
    let full = next(&mut pool.order(), now).unwrap();
    let early = pool.wait(9, now).unwrap();
    let later = now + 2 * QUEUE_LEAD_MAX;
    assert!(pool.may_look(&early, later) && matches!(pool.order().next(later, true), Choice::Wait));
    let late = other.wait(9, later).unwrap();
    assert!(other.may_look(&late, later));
    let Choice::Server(asking) = other.order().next(later, true) else { panic!("it has room") };
    assert_eq!(asking.server, 1);
    // Now there is none: who came first is first.
    assert!(pool.may_look(&early, later) && !other.may_look(&late, later));
    drop(full);
}

#[test]
fn a_server_that_another_worker_has_filled_meanwhile_costs_nobody_a_turn() {
    let (pool, now) = (equals(3), Instant::now());
    let Pick::Server { server, .. } = pool.pick(0, 0, now) else { panic!("all have room") };
    // What the order does when the slot is gone.
    let Pick::Server { server: instead, among } = pool.pick(0, bit(server), now) else {
        panic!("two have room")
    };
    pool.pay(instead, among);
    assert_eq!((server, instead), (0, 1));
    let credits: Vec<i64> = pool.members.iter().map(|member| member.credit.get()).collect();
    assert_eq!(credits, [0, -1, 1]);
}

#[test]
fn the_connection_used_last_is_used_next() {
    let (pool, now) = (equals(1), Instant::now());
    pool.check_in(0, 1, now, 8);
    pool.check_in(0, 2, now, 8);
    assert_eq!(pool.check_out(0), Some(2));
    assert_eq!(pool.check_out(0), Some(1));
    assert_eq!(pool.check_out(0), None);
}

#[test]
fn idle_connections_are_bounded_in_number_and_age() {
    let (pool, now) = (equals(1), Instant::now());
    for stream in 0..u32::try_from(UPSTREAM_IDLE_MAX).unwrap() + 5 {
        pool.check_in(0, stream, now, UPSTREAM_IDLE_MAX);
    }
    assert_eq!(pool.members[0].state.idle.borrow().len(), UPSTREAM_IDLE_MAX);
    pool.sweep(now + Duration::from_secs(1), Duration::from_secs(2), |stream| stream % 2 == 0);
    assert_eq!(pool.members[0].state.idle.borrow().len(), UPSTREAM_IDLE_MAX / 2);
    pool.sweep(now + Duration::from_secs(2), Duration::from_secs(2), |_| false);
    assert_eq!(pool.check_out(0), None);
}

#[test]
fn what_is_known_of_a_server_is_told() {
    let (pool, now) = (equals(2), Instant::now());
    pool.check_in(0, 1, now, 8);
    fail_dial(&pool, 1, now);
    let underway = [pool.begin(0, now), pool.begin(0, now)];
    let known = ServerStock { idle: 1, in_flight: 2, ..ServerStock::default() };
    let failed = ServerStock { avoided: true, dials_failed: 1, ejections: 1, ..ServerStock::default() };
    assert_eq!(pool.stock(now).collect::<Vec<_>>(), [known, failed]);
    drop(underway);
    let later = now + SERVER_RETRY_AFTER;
    let expected = [ServerStock { in_flight: 0, ..known }, ServerStock { avoided: false, ..failed }];
    assert_eq!(pool.stock(later).collect::<Vec<_>>(), expected);
}

/// A server as the oracle sees it: what happened to it, written down plainly.
#[derive(Clone, Default)]
struct Known {
    weight: u32,
    in_flight: usize,
    unanswered: u32,
    ejected_in_a_row: i32,
    /// In milliseconds.
    until: Option<u64>,
    /// The request on trial, and since when.
    trial: Option<(usize, u64)>,
    /// Changes with each ejection.
    era: usize,
}

impl Known {
    fn is_open(&self, now: u64) -> bool {
        self.until.is_none_or(|until| until <= now && !self.is_on_trial(now))
    }

    fn is_on_trial(&self, now: u64) -> bool {
        self.trial.is_some_and(|(_, since)| u128::from(now - since) < TRIAL_MAX.as_millis())
    }

    fn eject(&mut self, now: u64) {
        if self.until.is_none_or(|until| until <= now) {
            self.until = Some(
                now + 2000_u64.saturating_mul(2_u64.pow(self.ejected_in_a_row.min(20) as u32)).min(60_000),
            );
            self.ejected_in_a_row += 1;
            self.trial = None;
            self.era += 1;
        }
    }

    fn readmit(&mut self) {
        (self.until, self.ejected_in_a_row, self.trial) = (None, 0, None);
    }
}

/// Plays one seed against the oracle. Which of several equally good servers is taken is the pool's own affair.
fn play(seed: u64) {
    let rng = Rng::new(seed);
    let cap = rng.once_in(2).then(|| rng.between(1, 3));
    let weights: Vec<u32> =
        (0..rng.between(1, 5)).map(|_| u32::try_from(rng.between(1, 4)).unwrap()).collect();
    let balance = if rng.once_in(2) { Balance::RoundRobin } else { Balance::LeastConnections };
    let upstream = Upstream { requests_max: cap, ..upstream(&weights, balance) };
    let (pool, start) = (pool_for(&upstream), Instant::now());
    let mut known: Vec<_> =
        weights.iter().map(|weight| Known { weight: *weight, ..Known::default() }).collect();
    let mut asking: BTreeMap<usize, (Asking<'_, u32>, usize)> = BTreeMap::new();
    let mut millis = 0;
    for request in 0..300 {
        millis += *rng.pick(&[0, 1, 500, 3000, 70_000]);
        let now = start + Duration::from_millis(millis);
        let chosen = match pool.order().next(now, false) {
            Choice::Server(asking) => Some(asking),
            Choice::Wait => None,
            Choice::Nobody => panic!("nobody at the beginning"),
        };
        let server = chosen.as_ref().map(|asking| asking.server);
        check(&known, server, cap, balance, millis)
            .unwrap_or_else(|what| panic!("request {request}: {what}"));
        if let (Some(chosen), Some(server)) = (chosen, server) {
            let known = &mut known[server];
            known.in_flight += 1;
            if known.until.is_some_and(|until| until <= millis) && !known.is_on_trial(millis) {
                known.trial = Some((request, millis));
            }
            asking.insert(request, (chosen, known.era));
        }
        while !asking.is_empty() && rng.once_in(2) {
            let request = *rng.pick(&asking.keys().copied().collect::<Vec<_>>());
            let (ending, era) = asking.remove(&request).unwrap();
            let known = &mut known[ending.server];
            let counts = known.era == era;
            match rng.below(4) {
                0 => {
                    ending.dial_failed(now);
                    if counts {
                        known.eject(millis);
                    }
                }
                1 => {
                    ending.dialled();
                    ending.answered();
                    if counts {
                        known.unanswered = 0;
                        known.readmit();
                    }
                }
                2 => {
                    ending.unanswered(now);
                    if counts {
                        known.unanswered += 1;
                        if known.unanswered >= UNANSWERED_MAX {
                            known.eject(millis);
                        }
                    }
                }
                // The client has left.
                _ => {}
            }
            known.in_flight -= 1;
            known.trial = known.trial.filter(|(trial, _)| *trial != request);
        }
    }
}

/// Whether this server could be next.
fn check(
    known: &[Known],
    server: Option<usize>,
    cap: Option<usize>,
    balance: Balance,
    now: u64,
) -> Result<(), String> {
    let open: Vec<_> = known.iter().filter(|known| known.is_open(now)).collect();
    let wanted = if open.is_empty() { known.iter().collect() } else { open.clone() };
    let has_room = |known: &&Known| cap.is_none_or(|cap| known.in_flight < cap);
    let free: Vec<_> = wanted.into_iter().filter(has_room).collect();
    let Some(server) = server else {
        return if free.is_empty() { Ok(()) } else { Err("it waits although there is room".to_owned()) };
    };
    let taken = &known[server];
    if !free.iter().any(|known| std::ptr::eq(*known, taken)) {
        return Err(format!("server {server} was not to be had"));
    }
    if open.is_empty() && free.iter().any(|known| known.until < taken.until) {
        return Err(format!("server {server} does not come back soonest"));
    }
    let load = |known: &Known| f64::from(u32::try_from(known.in_flight).unwrap()) / f64::from(known.weight);
    let is_least = free.iter().all(|known| load(taken) <= load(known) + 1e-9);
    if balance == Balance::LeastConnections && !open.is_empty() && !is_least {
        return Err(format!("server {server} has more requests than another"));
    }
    Ok(())
}

#[test]
fn whatever_happens_the_next_server_is_one_that_a_naive_oracle_allows() {
    let seed_of = |name| std::env::var(name).ok().map(|value| value.parse::<u64>().unwrap());
    let seeds = seed_of("RINGFENCE_SEED").map_or(0..500, |seed| seed..seed + 1);
    for seed in seeds {
        let played = std::panic::catch_unwind(|| play(seed));
        assert!(played.is_ok(), "RINGFENCE_SEED={seed}");
    }
}

#[test]
fn turns_are_exact_over_any_time_in_which_nothing_changes() {
    for seed in 0..200 {
        let rng = Rng::new(seed);
        let weights: Vec<u32> =
            (0..rng.between(2, 8)).map(|_| u32::try_from(rng.between(1, 100)).unwrap()).collect();
        let (pool, now) = (pool(&weights, Balance::RoundRobin), Instant::now());
        let total: u32 = weights.iter().sum();
        let mut counts = vec![0; weights.len()];
        takers(&pool, total as usize, now).into_iter().for_each(|server| counts[server] += 1);
        assert_eq!(counts, weights, "seed {seed}");
    }
}
