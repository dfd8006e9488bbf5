//! Upstream servers of one worker: which one to try next, and the idle connections to each.
//!
//! Policy without I/O: time is an argument, connections are opaque.

mod line;
mod order;
mod standing;
#[cfg(test)]
mod tests;

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use self::standing::{Stake, Standing};
pub(crate) use self::{
    line::{Line, Waiting},
    order::{Choice, Order},
};
use crate::{
    health::Health,
    limits::SERVERS_OF_UPSTREAM_MAX,
    slots::Slots,
    snapshot::{Balance, Server, Upstream},
};

/// The servers of one upstream, as one worker sees them.
pub(crate) struct Pool<S> {
    members: Vec<Member<S>>,
    balance: Balance,
    /// Where requests wait while no server has room; shared with the pool that follows this one. `None`: there is no cap.
    line: Option<Rc<Line>>,
}

/// A server as a member of its upstream.
struct Member<S> {
    /// Shared with the pool that follows this one after a change of the configuration.
    state: Rc<ServerState<S>>,
    /// Shared with the other workers; looked at where there is a cap.
    slots: Arc<Slots>,
    weight: u32,
    /// What asking it after its health has come to, if it is asked.
    health: Option<Arc<Health>>,
    /// What it is ahead of the others or behind them in taking turns, in requests times the sum of weights.
    credit: Cell<i64>,
}

/// What is known of a server, and the idle connections to it.
pub(crate) struct ServerState<S> {
    idle: RefCell<VecDeque<Idle<S>>>,
    standing: Standing,
    /// Requests that are with it.
    in_flight: Cell<usize>,
    /// Dials that failed, since the start.
    dials_failed: Cell<u64>,
    /// No configuration names it any more; exchanges that have begun may still be with it.
    left: Cell<bool>,
}

/// A server as those see it who watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ServerStock {
    pub(crate) idle: usize,
    pub(crate) in_flight: usize,
    pub(crate) avoided: bool,
    pub(crate) dials_failed: u64,
    pub(crate) ejections: u64,
}

/// A request that goes to a server, or is with it; dropping it is its end.
pub(crate) struct Asking<'p, S> {
    pool: &'p Pool<S>,
    /// Index of the server.
    pub(crate) server: usize,
    stake: Stake,
}

impl<S> Asking<'_, S> {
    /// A connection to the server was made.
    pub(crate) fn dialled(&self) {
        self.state().standing.dialled(self.stake);
    }

    /// None could be made.
    pub(crate) fn dial_failed(&self, now: Instant) {
        let state = self.state();
        state.standing.dial_failed(self.stake, now);
        state.dials_failed.set(state.dials_failed.get() + 1);
    }

    /// The server has answered, whatever.
    pub(crate) fn answered(&self) {
        self.state().standing.answered(self.stake);
    }

    /// The server took the request and did not answer.
    pub(crate) fn unanswered(&self, now: Instant) {
        self.state().standing.unanswered(self.stake, now);
    }

    fn state(&self) -> &ServerState<S> {
        &self.pool.members[self.server].state
    }
}

impl<S> Drop for Asking<'_, S> {
    fn drop(&mut self) {
        let Member { state, slots, .. } = &self.pool.members[self.server];
        state.in_flight.set(state.in_flight.get() - 1);
        state.standing.end(self.stake);
        if let Some(line) = &self.pool.line {
            slots.give_back();
            line.call();
        }
    }
}

struct Idle<S> {
    stream: S,
    since: Instant,
}

impl<S> ServerState<S> {
    /// The server where it is now: with the idle connections to where it was, which may still work.
    pub(crate) fn elsewhere(&self) -> Self {
        Self { idle: RefCell::new(self.idle.take()), ..Self::default() }
    }
}

impl<S> Default for ServerState<S> {
    fn default() -> Self {
        Self {
            idle: RefCell::default(),
            standing: Standing::default(),
            in_flight: Cell::new(0),
            dials_failed: Cell::new(0),
            left: Cell::new(false),
        }
    }
}

impl<S> Pool<S> {
    /// A pool for this upstream; `state` tells what is known of a server, `line` who waits.
    pub(crate) fn new(
        upstream: &Upstream,
        mut state: impl FnMut(&Server) -> Rc<ServerState<S>>,
        line: impl FnOnce() -> Rc<Line>,
    ) -> Self {
        let count = upstream.servers.len();
        assert!((1..=SERVERS_OF_UPSTREAM_MAX).contains(&count), "an upstream of {count} servers");
        let members = upstream.servers.iter().map(|server| {
            server.slots.set_max(upstream.requests_max);
            let (state, slots) = (state(server), server.slots.clone());
            let health = server.health.clone();
            Member { state, slots, weight: server.weight, health, credit: Cell::new(0) }
        });
        Pool {
            members: members.collect(),
            balance: upstream.balance,
            line: upstream.requests_max.map(|_| line()),
        }
    }

    /// What is known of a server, for a pool that follows this one.
    pub(crate) fn server(&self, index: usize) -> Rc<ServerState<S>> {
        self.members[index].state.clone()
    }

    /// Who waits for a server to have room, if there is a cap.
    pub(crate) fn line(&self) -> Option<&Rc<Line>> {
        self.line.as_ref()
    }

    /// What is known of each server.
    pub(crate) fn stock(&self, now: Instant) -> impl Iterator<Item = ServerStock> + '_ {
        self.members.iter().map(move |Member { state, .. }| ServerStock {
            idle: state.idle.borrow().len(),
            in_flight: state.in_flight.get(),
            avoided: state.standing.until().is_some_and(|until| until > now),
            dials_failed: state.dials_failed.get(),
            ejections: u64::from(state.standing.ejections()),
        })
    }

    /// Takes a place in the line; `None`: `max` requests wait already, those of all workers.
    pub(crate) fn wait(&self, max: usize, now: Instant) -> Option<Waiting<'_>> {
        self.line.as_ref()?.enter(max, now)
    }

    /// Whether this request may look for room now.
    pub(crate) fn may_look(&self, waiting: &Waiting<'_>, now: Instant) -> bool {
        let is_room = (0..self.members.len()).any(|server| self.has_room(server));
        waiting.may_look(now, is_room)
    }

    /// Whether somebody waits for a server to have room.
    fn is_awaited(&self) -> bool {
        self.line.as_ref().is_some_and(|line| line.is_awaited())
    }

    fn has_room(&self, server: usize) -> bool {
        self.line.is_none() || self.members[server].slots.has_room()
    }

    /// A request goes to this server, if that has room.
    fn begin(&self, server: usize, now: Instant) -> Option<Asking<'_, S>> {
        let Member { state, slots, .. } = &self.members[server];
        if self.line.is_some() && !slots.take() {
            return None;
        }
        state.in_flight.set(state.in_flight.get() + 1);
        Some(Asking { pool: self, server, stake: state.standing.begin(now) })
    }

    /// The idle connection used last.
    pub(crate) fn check_out(&self, server: usize) -> Option<S> {
        self.members[server].state.idle.borrow_mut().pop_back().map(|idle| idle.stream)
    }

    /// Keeps a connection for the next request, unless there are `count_max` already or nobody will ask for one.
    pub(crate) fn check_in(&self, server: usize, stream: S, now: Instant, count_max: usize) {
        let ServerState { idle, left, .. } = &*self.members[server].state;
        let mut idle = idle.borrow_mut();
        if idle.len() < count_max && !left.get() {
            idle.push_back(Idle { stream, since: now });
        }
    }

    /// Drops the connections that are idle for `idle_max` or that `is_dead`.
    pub(crate) fn sweep(&self, now: Instant, idle_max: Duration, mut is_dead: impl FnMut(&S) -> bool) {
        for Member { state, .. } in &self.members {
            state.idle.borrow_mut().retain(|idle| {
                now.saturating_duration_since(idle.since) < idle_max && !is_dead(&idle.stream)
            });
        }
    }

    /// Another pool has followed this one: drops the idle connections to servers that it does not know, now and later.
    pub(crate) fn followed(&self) {
        for Member { state, .. } in &self.members {
            // Nobody else holds it.
            if Rc::strong_count(state) == 1 {
                state.left.set(true);
                state.idle.borrow_mut().clear();
            }
        }
    }

    /// Drops every idle connection.
    pub(crate) fn clear(&self) {
        for Member { state, .. } in &self.members {
            state.idle.borrow_mut().clear();
        }
    }
}
