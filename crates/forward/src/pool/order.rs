//! Which server of an upstream is next.
//!
//! Servers that are down by their health are tried when no other is left, and those that are ejected after them, the one that
//! comes back soonest first. Among the others the
//! upstream's [`Balance`] decides, of those that have room. A server is tried once for each order, that is for each request.

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
enum Pick {
    Server(usize),
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
                Pick::Server(server) => match self.pool.begin(server, now) {
                    Some(asking) => {
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

    fn pick(&self, tried: u64, full: u64, now: Instant) -> Pick {
        let left = self.all() & !tried;
        let admitted = self.those(left, |server| self.is_admitted(server, now));
        let open = self.those(admitted, |server| self.is_well(server));
        let wanted = [open, admitted, left].into_iter().find(|those| *those != 0).unwrap_or_default();
        let free = self.those(wanted & !full, |server| self.has_room(server));
        match (left, free) {
            (0, _) => Pick::Nobody,
            (_, 0) => Pick::Wait,
            _ if free.is_power_of_two() => Pick::Server(first(free)),
            _ if admitted == 0 => Pick::Server(self.soonest(free)),
            _ => Pick::Server(self.balanced(free, tried == 0)),
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

    fn balanced(&self, among: u64, is_first: bool) -> usize {
        match self.balance {
            Balance::RoundRobin => self.in_turn(among, is_first),
            Balance::LeastConnections => self.in_turn(self.least_loaded(among), is_first),
        }
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
    /// Only the first choice of a request is paid for, so that one that fails does not cost others their turns.
    fn in_turn(&self, among: u64, is_first: bool) -> usize {
        let gained = |server: usize| {
            let member = &self.members[server];
            member.credit.get() + i64::from(member.weight)
        };
        let richer = |best: usize, server: usize| if gained(server) > gained(best) { server } else { best };
        let taken = servers(among).reduce(richer).unwrap_or_default();
        if is_first {
            let mut total = 0;
            for server in servers(among) {
                total += i64::from(self.members[server].weight);
                self.members[server].credit.set(gained(server));
            }
            let credit = &self.members[taken].credit;
            credit.set(credit.get() - total);
        }
        taken
    }

    fn those(&self, among: u64, is_meant: impl Fn(usize) -> bool) -> u64 {
        servers(among).filter(|server| is_meant(*server)).fold(0, |those, server| those | bit(server))
    }
}

fn bit(server: usize) -> u64 {
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
