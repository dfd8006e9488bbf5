//! What each client may still ask of each class of endpoints: token buckets, shared by all workers.
//!
//! The generic cell rate algorithm (ITU-T I.371): of a bucket only the time is kept at which it would be full again, and a
//! request is refused that would push it further ahead of the present than the burst allows. One table of fixed size
//! for all workers, since limits per worker would multiply; it is made of sets of four slots, a slot is one atomic word,
//! and nobody waits for anybody. Memory is taken a page at a time when a page is first needed. Time is an argument.
//!
//! A bucket is found by a keyed hash of client and class, of which a slot holds 20 bits: one in some 260 000 clients
//! shares the bucket of another, and nobody can choose whose. When all four slots of a set are in debt, the one that would be
//! free first gives way. **Under attack** from more networks than there are slots, debts are thus forgotten early: such an
//! attacker has a bucket for each of his networks anyway, and who comes for the first time is never refused for the
//! debts of others. What is left then is `connections_per_address_max` and the homeserver's own limits.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// How often a client may do something: so many in a period, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Time that one request takes up, in [`TIME_UNIT`]s.
    interval: u64,
    /// How far ahead of the present a bucket may be when a request comes, in the same unit.
    slack: u64,
}

impl Rate {
    /// `count` requests in each `period`, and `burst` at once (at least one). The time between two is rounded to the
    /// nearest `TIME_UNIT`.
    pub fn new(count: u32, period: Duration, burst: u32) -> Rate {
        let count = u64::from(count.max(1));
        let interval = ((units(period) + count / 2) / count).max(1);
        Rate { interval, slack: interval.saturating_mul(u64::from(burst.max(1) - 1)) }
    }
}

/// The buckets.
pub(crate) struct Allowances {
    origin: Instant,
    hasher: RandomState,
    pages: Box<[OnceLock<Box<Page>>]>,
}

/// What is allocated at once: one page of the kernel's.
type Page = [AtomicU64; PAGE_SLOTS];

/// Slots of a page of 4 KiB.
const PAGE_SLOTS: usize = 512;

/// Slots in which one bucket may lie: half a cache line.
const SET_SLOTS: usize = 4;

/// Buckets that are remembered at the same time, in slots of 8 bytes: a million addresses in 8 MiB.
const SLOTS_MAX: usize = 1 << 20;

/// What time is counted in. It makes rates of up to a thousand a second exact to 3 %, and those of less than fifty, or of
/// divisors of 16 000, to 0.2 % and better.
const TIME_UNIT: Duration = Duration::from_nanos(62_500);

/// Bits of a slot that hold a time; the others tell whose it is.
const TIME_BITS: u32 = 44;

/// The last time that a slot can hold, in [`TIME_UNIT`]s: 34 years from the start of the process. Time stands still then,
/// and everything is allowed.
const TIME_MAX: u64 = (1 << TIME_BITS) - 1;

/// Tries to write a slot while others do. Each failure is another's success in the same set, so that only a crowd of
/// threads on one bucket gets here; who does is let through.
const ATTEMPTS_MAX: usize = 64;

impl Allowances {
    pub(crate) fn new(origin: Instant) -> Arc<Allowances> {
        let pages = std::iter::repeat_with(OnceLock::new).take(SLOTS_MAX / PAGE_SLOTS).collect();
        Arc::new(Allowances { origin, hasher: RandomState::new(), pages })
    }

    /// Takes one request from the bucket of this client (IPv6: its /64) and class.
    ///
    /// # Errors
    /// When it is empty: how long until one more is allowed. Nothing is taken then.
    pub(crate) fn take(&self, client: IpAddr, class: u8, rate: Rate, now: Instant) -> Result<(), Duration> {
        let hash = self.hasher.hash_one(key(client, class));
        self.take_hashed(hash, rate, units(now.saturating_duration_since(self.origin)).min(TIME_MAX))
    }

    fn take_hashed(&self, hash: u64, rate: Rate, now: u64) -> Result<(), Duration> {
        let (set, owner) = (self.set(hash), hash >> TIME_BITS);
        for _ in 0..ATTEMPTS_MAX {
            let (slot, seen, full_at) = find(set, owner);
            // No bucket of this rate is further ahead; one that was made under another rate is brought in line.
            let ahead = full_at.saturating_sub(now).min(rate.slack.saturating_add(rate.interval));
            if ahead > rate.slack {
                return Err(duration(ahead - rate.slack));
            }
            let next =
                owner << TIME_BITS | now.saturating_add(ahead).saturating_add(rate.interval).min(TIME_MAX);
            // Each slot says all about its bucket: nothing else is ordered by it.
            if slot.compare_exchange(seen, next, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
                return Ok(());
            }
        }
        Ok(())
    }

    /// The slots in which a bucket may lie.
    fn set(&self, hash: u64) -> &[AtomicU64] {
        let sets_of_a_page = PAGE_SLOTS / SET_SLOTS;
        // The low bits; the owner is told by the high ones.
        let set = usize::try_from(hash & TIME_MAX).unwrap_or(usize::MAX) % (SLOTS_MAX / SET_SLOTS);
        let page = self.pages[set / sets_of_a_page]
            .get_or_init(|| Box::new([const { AtomicU64::new(0) }; PAGE_SLOTS]));
        let first = set % sets_of_a_page * SET_SLOTS;
        &page[first..first + SET_SLOTS]
    }
}

/// The slot of this owner, what it holds, and when its bucket is full; or else the one that is free or will be first, with
/// a bucket that is full.
fn find(set: &[AtomicU64], owner: u64) -> (&AtomicU64, u64, u64) {
    let (mut found, mut earliest) = ((&set[0], 0, 0), u64::MAX);
    for slot in set {
        let seen = slot.load(Ordering::Relaxed);
        let full_at = seen & TIME_MAX;
        if seen >> TIME_BITS == owner {
            return (slot, seen, full_at);
        }
        if full_at < earliest {
            (found, earliest) = ((slot, seen, 0), full_at);
        }
    }
    found
}

/// Client and class as one number, which is hashed at once: an IPv4 address, or the network of an IPv6 one.
fn key(client: IpAddr, class: u8) -> u128 {
    let (network, family) = match client {
        IpAddr::V4(address) => (u128::from(u32::from(address)), 4),
        IpAddr::V6(address) => (u128::from(address) >> 64, 6),
    };
    network << 16 | u128::from(class) << 8 | family
}

fn units(duration: Duration) -> u64 {
    let unit = TIME_UNIT.subsec_nanos();
    duration.as_secs().saturating_mul(u64::from(1_000_000_000 / unit))
        + u64::from(duration.subsec_nanos() / unit)
}

fn duration(units: u64) -> Duration {
    Duration::from_nanos(units.saturating_mul(u64::from(TIME_UNIT.subsec_nanos())))
}

#[cfg(test)]
mod tests;
