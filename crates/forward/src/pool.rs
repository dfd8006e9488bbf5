//! Upstream servers of one worker: which one to try next, and the idle connections to each.
//!
//! Policy without I/O: time is an argument, connections are opaque.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    time::{Duration, Instant},
};

use crate::limits::{SERVER_RETRY_AFTER, UPSTREAM_IDLE_MAX};

/// The servers of one upstream, as one worker sees them.
pub(crate) struct Pool<S> {
    /// Shared with the pool that follows this one after a change of the configuration.
    servers: Vec<Rc<ServerState<S>>>,
    turn: Cell<usize>,
}

/// What is known of a server, and the idle connections to it.
pub(crate) struct ServerState<S> {
    idle: RefCell<VecDeque<Idle<S>>>,
    /// The last dial failed; passed over until then while others work.
    avoid_until: Cell<Option<Instant>>,
    /// Requests that are with it.
    in_flight: Cell<usize>,
    /// Dials that failed, since the start.
    dials_failed: Cell<u64>,
}

/// A server as those see it who watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerStock {
    pub(crate) idle: usize,
    pub(crate) in_flight: usize,
    pub(crate) avoided: bool,
    pub(crate) dials_failed: u64,
}

/// A request that is with a server; dropping it is its end.
pub(crate) struct InFlight<'p>(&'p Cell<usize>);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

struct Idle<S> {
    stream: S,
    since: Instant,
}

impl<S> Default for ServerState<S> {
    fn default() -> Self {
        Self {
            idle: RefCell::default(),
            avoid_until: Cell::new(None),
            in_flight: Cell::new(0),
            dials_failed: Cell::new(0),
        }
    }
}

impl<S> Pool<S> {
    /// A pool for `servers` servers, at least one.
    pub(crate) fn new(servers: usize) -> Self {
        Pool::of((0..servers).map(|_| Rc::default()).collect())
    }

    /// A pool of these servers, at least one.
    pub(crate) fn of(servers: Vec<Rc<ServerState<S>>>) -> Self {
        assert!(!servers.is_empty(), "an upstream has at least one server");
        Pool { servers, turn: Cell::new(0) }
    }

    /// What is known of a server, for a pool that follows this one.
    pub(crate) fn server(&self, index: usize) -> Rc<ServerState<S>> {
        self.servers[index].clone()
    }

    /// What is known of each server.
    pub(crate) fn stock(&self, now: Instant) -> impl Iterator<Item = ServerStock> + '_ {
        self.servers.iter().map(move |server| ServerStock {
            idle: server.idle.borrow().len(),
            in_flight: server.in_flight.get(),
            avoided: server.avoid_until.get().is_some_and(|until| until > now),
            dials_failed: server.dials_failed.get(),
        })
    }

    /// A request goes to this server.
    pub(crate) fn begin(&self, server: usize) -> InFlight<'_> {
        let in_flight = &self.servers[server].in_flight;
        in_flight.set(in_flight.get() + 1);
        InFlight(in_flight)
    }

    /// The servers in the order in which to try them: from the one whose turn it is, those that failed lately last.
    pub(crate) fn order(&self, now: Instant) -> impl Iterator<Item = usize> + '_ {
        let count = self.servers.len();
        let first = self.turn.get();
        self.turn.set((first + 1) % count);
        let ring = move || (0..count).map(move |step| (first + step) % count);
        // Judged now, so that a server that fails while this order is followed is not tried again at its end.
        let avoided = (0..count.min(AVOIDABLE_MAX))
            .filter(|server| self.servers[*server].avoid_until.get().is_some_and(|until| until > now))
            .fold(0_u64, |avoided, server| avoided | 1 << server);
        let is_avoided = move |server: &usize| *server < AVOIDABLE_MAX && avoided >> *server & 1 == 1;
        ring().filter(move |server| !is_avoided(server)).chain(ring().filter(is_avoided))
    }

    /// A dial to this server failed.
    pub(crate) fn record_failure(&self, server: usize, now: Instant) {
        let server = &self.servers[server];
        server.avoid_until.set(Some(now + SERVER_RETRY_AFTER));
        server.dials_failed.set(server.dials_failed.get() + 1);
    }

    /// A dial to this server succeeded.
    pub(crate) fn record_success(&self, server: usize) {
        self.servers[server].avoid_until.set(None);
    }

    /// The idle connection used last.
    pub(crate) fn check_out(&self, server: usize) -> Option<S> {
        self.servers[server].idle.borrow_mut().pop_back().map(|idle| idle.stream)
    }

    /// Keeps a connection for the next request, unless there are [`UPSTREAM_IDLE_MAX`] already.
    pub(crate) fn check_in(&self, server: usize, stream: S, now: Instant) {
        let mut idle = self.servers[server].idle.borrow_mut();
        if idle.len() < UPSTREAM_IDLE_MAX {
            idle.push_back(Idle { stream, since: now });
        }
    }

    /// Drops the connections that are idle for `idle_max` or that `is_dead`.
    pub(crate) fn sweep(&self, now: Instant, idle_max: Duration, mut is_dead: impl FnMut(&S) -> bool) {
        for server in &self.servers {
            server.idle.borrow_mut().retain(|idle| {
                now.saturating_duration_since(idle.since) < idle_max && !is_dead(&idle.stream)
            });
        }
    }

    /// Drops every idle connection.
    pub(crate) fn clear(&self) {
        for server in &self.servers {
            server.idle.borrow_mut().clear();
        }
    }
}

/// Servers of one upstream that can be passed over: a bit for each in a word. Those beyond are tried in their turn.
const AVOIDABLE_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn order(pool: &Pool<u32>, now: Instant) -> Vec<usize> {
        pool.order(now).collect()
    }

    #[test]
    fn servers_take_turns() {
        let (pool, now) = (Pool::new(3), Instant::now());
        assert_eq!(order(&pool, now), [0, 1, 2]);
        assert_eq!(order(&pool, now), [1, 2, 0]);
        assert_eq!(order(&pool, now), [2, 0, 1]);
        assert_eq!(order(&pool, now), [0, 1, 2]);
    }

    #[test]
    fn a_server_that_refused_comes_last_for_a_while() {
        let (pool, now) = (Pool::new(3), Instant::now());
        pool.record_failure(1, now);
        assert_eq!(order(&pool, now), [0, 2, 1]);
        assert_eq!(order(&pool, now + SERVER_RETRY_AFTER), [1, 2, 0]);
        pool.record_failure(2, now);
        pool.record_success(2);
        assert_eq!(order(&pool, now), [2, 0, 1]);
    }

    #[test]
    fn a_lone_server_is_always_tried() {
        let (pool, now) = (Pool::new(1), Instant::now());
        pool.record_failure(0, now);
        assert_eq!(order(&pool, now), [0]);
    }

    #[test]
    fn a_server_that_fails_while_an_order_is_followed_is_not_tried_twice() {
        let (pool, now) = (Pool::<u32>::new(2), Instant::now());
        let tried: Vec<_> = pool.order(now).inspect(|server| pool.record_failure(*server, now)).collect();
        assert_eq!(tried, [0, 1]);
    }

    #[test]
    fn the_connection_used_last_is_used_next() {
        let (pool, now) = (Pool::new(1), Instant::now());
        pool.check_in(0, 1, now);
        pool.check_in(0, 2, now);
        assert_eq!(pool.check_out(0), Some(2));
        assert_eq!(pool.check_out(0), Some(1));
        assert_eq!(pool.check_out(0), None);
    }

    #[test]
    fn idle_connections_are_bounded_in_number_and_age() {
        let (pool, now) = (Pool::new(1), Instant::now());
        for stream in 0..UPSTREAM_IDLE_MAX + 5 {
            pool.check_in(0, stream, now);
        }
        assert_eq!(pool.servers[0].idle.borrow().len(), UPSTREAM_IDLE_MAX);
        pool.sweep(now + Duration::from_secs(1), Duration::from_secs(2), |stream| stream % 2 == 0);
        assert_eq!(pool.servers[0].idle.borrow().len(), UPSTREAM_IDLE_MAX / 2);
        pool.sweep(now + Duration::from_secs(2), Duration::from_secs(2), |_| false);
        assert_eq!(pool.check_out(0), None);
    }

    #[test]
    fn what_is_known_of_a_server_is_told() {
        let (pool, now) = (Pool::new(2), Instant::now());
        pool.check_in(0, 1, now);
        pool.record_failure(1, now);
        let underway = [pool.begin(0), pool.begin(0)];
        let known = ServerStock { idle: 1, in_flight: 2, avoided: false, dials_failed: 0 };
        let failed = ServerStock { idle: 0, in_flight: 0, avoided: true, dials_failed: 1 };
        assert_eq!(pool.stock(now).collect::<Vec<_>>(), [known, failed]);
        drop(underway);
        let later = now + SERVER_RETRY_AFTER;
        let expected = [ServerStock { in_flight: 0, ..known }, ServerStock { avoided: false, ..failed }];
        assert_eq!(pool.stock(later).collect::<Vec<_>>(), expected);
    }
}
