//! Which server of an upstream is next.
//!
//! Servers that are down by their health are tried when no other is left that has room, and those that are ejected when all that
//! are left are, the one that comes back soonest first: a full server is waited for rather than an ejected one tried. Among
//! the others the upstream's [`Balance`] decides, of those that have room. A server is tried once for each order, that is for
//! each request.

use std::{cmp::Ordering, time::Instant};

use super::{Asking, Pool};
use crate::snapshot::Balance;

/// The servers that a request has tried, a bit for each.
pub(crate) struct Order<'p, S> {
    pool: &'p Pool<S>,
    tried: u64,
}

/// What is next for a request.
pub(crate) enum Choice<'p, S> {
    /// This server.
    Server(Asking<'p, S>),
    /// To wait: those that are left have as many requests as they may, or others wait already.
    Wait,
    /// Nothing: all have been tried.
    Nobody,
}

/// The same among some servers, as bits.
pub(super) enum Pick {
    Server {
        server: usize,
        /// Those that it was taken from in turn, itself among them.
        among: u64,
    },
    Wait,
    Nobody,
}

impl<S> Pool<S> {
    /// The servers in the order in which a request is to try them.
    pub(crate) fn order(&self) -> Order<'_, S> {
        Order { pool: self, tried: 0 }
    }
}

impl<'p, S> Order<'p, S> {
    /// The next server to try. `has_waited`: it is this request's turn in the line.
    pub(crate) fn next(&mut self, now: Instant, has_waited: bool) -> Choice<'p, S> {
        if !has_waited && self.pool.is_awaited() && self.tried != self.pool.all() {
            return Choice::Wait;
        }
        let mut full = 0;
        loop {
            match self.pool.pick(self.tried, full, now) {
                Pick::Wait => return Choice::Wait,
                Pick::Nobody => return Choice::Nobody,
                Pick::Server { server, among } => match self.pool.begin(server, now) {
                    Some(asking) => {
                        if self.tried == 0 {
                            self.pool.pay(server, among);
                        }
                        self.tried |= bit(server);
                        return Choice::Server(asking);
                    }
                    // Another worker was faster.
                    None => full |= bit(server),
                },
            }
        }
    }
}

impl<S> Pool<S> {
    /// Every server.
    fn all(&self) -> u64 {
        u64::MAX >> (u64::BITS as usize - self.members.len())
    }

    pub(super) fn pick(&self, tried: u64, full: u64, now: Instant) -> Pick {
        let left = self.all() & !tried;
        let admitted = self.those(left, |server| self.is_admitted(server, now));
        let open = self.those(admitted, |server| self.is_well(server));
        // Ejected ones only where all that are left are.
        let last = if admitted == 0 { left } else { admitted };
        let free_of = |those: u64| self.those(those & !full, |server| self.has_room(server));
        let free = [open, last].into_iter().map(free_of).find(|free| *free != 0).unwrap_or_default();
        match (left, free) {
            (0, _) => Pick::Nobody,
            (_, 0) => Pick::Wait,
            _ if free.is_power_of_two() => Pick::Server { server: first(free), among: free },
            _ if admitted == 0 => {
                let server = self.soonest(free);
                Pick::Server { server, among: bit(server) }
            }
            _ => self.balanced(free),
        }
    }

    /// Whether it is not ejected.
    fn is_admitted(&self, server: usize, now: Instant) -> bool {
        self.members[server].state.standing.is_open(now)
    }

    /// Whether it answers well when it is asked after its health, if it is.
    fn is_well(&self, server: usize) -> bool {
        self.members[server].health.as_ref().is_none_or(|health| !health.is_down())
    }

    /// The ejected server that comes back first.
    fn soonest(&self, among: u64) -> usize {
        let until = |server: &usize| self.members[*server].state.standing.until();
        servers(among).min_by_key(until).unwrap_or_default()
    }

    fn balanced(&self, free: u64) -> Pick {
        let among = match self.balance {
            Balance::RoundRobin => free,
            Balance::LeastConnections => self.least_loaded(free),
        };
        Pick::Server { server: self.in_turn(among), among }
    }

    /// Those with the fewest requests for their weight.
    fn least_loaded(&self, among: u64) -> u64 {
        let compared = |one: usize, other: usize| {
            let load = |server: usize| self.members[server].state.in_flight.get() as u64;
            let weight = |server: usize| u64::from(self.members[server].weight);
            (load(one) * weight(other)).cmp(&(load(other) * weight(one)))
        };
        let keep = |least: u64, server: usize| match least {
            0 => bit(server),
            _ => match compared(server, first(least)) {
                Ordering::Less => bit(server),
                Ordering::Equal => least | bit(server),
                Ordering::Greater => least,
            },
        };
        servers(among).fold(0, keep)
    }

    /// Smooth weighted round-robin, as nginx has it: everybody gains their weight, the richest is taken and pays for all.
    fn in_turn(&self, among: u64) -> usize {
        let richer =
            |best: usize, server: usize| if self.gained(server) > self.gained(best) { server } else { best };
        servers(among).reduce(richer).unwrap_or_default()
    }

    /// What was taken in turn is paid for, once a request goes there. Only the first server of a request is, so that one that
    /// fails does not cost others their turns.
    pub(super) fn pay(&self, taken: usize, among: u64) {
        let mut total = 0;
        for server in servers(among) {
            total += i64::from(self.members[server].weight);
            self.members[server].credit.set(self.gained(server));
        }
        let credit = &self.members[taken].credit;
        credit.set(credit.get() - total);
    }

    /// Its credit with its weight.
    fn gained(&self, server: usize) -> i64 {
        let member = &self.members[server];
        member.credit.get() + i64::from(member.weight)
    }

    fn those(&self, among: u64, is_meant: impl Fn(usize) -> bool) -> u64 {
        servers(among).filter(|server| is_meant(*server)).fold(0, |those, server| those | bit(server))
    }
}

pub(super) fn bit(server: usize) -> u64 {
    1 << server
}

fn first(among: u64) -> usize {
    among.trailing_zeros() as usize
}

fn servers(mut among: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let server = first(among);
        among &= among.checked_sub(1)?;
        Some(server)
    })
}
