//! What a worker counts: written by that worker alone, read by the control plane at any time.
//!
//! Plain stores to memory that no other worker writes: no locked instruction, no shared cache line. A reader may see one
//! number of an exchange before another.

use std::{
    ops::Deref,
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use ringfence_http1::Method;

use crate::respond::Refusal;

/// Counts of one worker, who writes them all the time: no cache line is another worker's too (processors fetch two at once).
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Counters {
    /// Connections accepted and admitted.
    pub connections: AtomicU64,
    /// Connections turned away by a limit.
    pub connections_refused: AtomicU64,
    /// Connections closed on a listener of the PROXY protocol: from elsewhere, or without a header that is sound and in
    /// time.
    pub proxy_headers_refused: AtomicU64,
    /// Requests answered, by whomever.
    pub requests: AtomicU64,
    /// Requests that had to wait for a server to have room.
    pub queued: AtomicU64,
    /// TLS handshakes that succeeded, by [`Handshake`].
    pub handshakes: [AtomicU64; Handshake::ALL.len()],
    /// TLS handshakes that failed.
    pub handshakes_failed: AtomicU64,
    /// Panics caught; each ended one connection.
    pub panics: AtomicU64,
    /// Answers of our own instead of the origin's, by [`Refusal`].
    pub refusals: [AtomicU64; Refusal::ALL.len()],
    /// Exchanges by what they were; only while the snapshot says that they are measured.
    pub exchanges: Exchanges,
    /// Time and bytes by class, as [`Snapshot::classify`](crate::snapshot::Snapshot::classify) tells it.
    pub classes: [ClassCounters; CLASSES_MAX],

    /// Connections of clients that are open. This and what follows is written every `TICK`.
    pub open: AtomicU64,
    /// Servers of all upstreams, in the order of the snapshot.
    pub servers: Servers,
    /// The worker's thread, for the system's accounts of it.
    pub thread: AtomicU32,
}

/// A server of an upstream, as one worker sees it.
#[derive(Debug, Default)]
pub struct ServerGauges {
    /// Idle connections to it.
    pub idle: AtomicU64,
    /// Requests that are with it.
    pub in_flight: AtomicU64,
    /// 1 while it is ejected: passed over, because it failed.
    pub avoided: AtomicU64,
    /// Dials that failed, since the start.
    pub dials_failed: AtomicU64,
    /// How often it was ejected, since the start.
    pub ejections: AtomicU64,
}

/// All of them.
#[derive(Debug)]
pub struct Servers(Box<[ServerGauges; SERVERS_MAX]>);

impl Default for Servers {
    fn default() -> Self {
        Servers(Box::new(std::array::from_fn(|_| ServerGauges::default())))
    }
}

impl Deref for Servers {
    type Target = [ServerGauges; SERVERS_MAX];

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// Servers that can be watched one by one: more than anybody has behind one edge. Those beyond are served all the same.
pub const SERVERS_MAX: usize = 64;

/// How a TLS handshake went that succeeded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Handshake {
    /// TLS 1.2, with certificate and key exchange.
    Tls12Full,
    /// TLS 1.2, resumed by a ticket.
    Tls12Resumed,
    /// TLS 1.3, with certificate and key exchange.
    Tls13Full,
    /// TLS 1.3, resumed by a ticket.
    Tls13Resumed,
}

impl Handshake {
    /// Every kind, in the order of its discriminant.
    pub const ALL: [Handshake; 4] =
        [Handshake::Tls12Full, Handshake::Tls12Resumed, Handshake::Tls13Full, Handshake::Tls13Resumed];

    pub(crate) fn of(version: ringfence_tls::Version, resumed: bool) -> Handshake {
        match (version, resumed) {
            (ringfence_tls::Version::Tls12, false) => Handshake::Tls12Full,
            (ringfence_tls::Version::Tls12, true) => Handshake::Tls12Resumed,
            (ringfence_tls::Version::Tls13, false) => Handshake::Tls13Full,
            (ringfence_tls::Version::Tls13, true) => Handshake::Tls13Resumed,
        }
    }
}

/// Classes that can be told apart: those of Matrix, and room.
pub const CLASSES_MAX: usize = 16;

/// Time and bytes of the exchanges of one class.
#[derive(Debug, Default)]
pub struct ClassCounters {
    /// From the request's first byte to the end of the answer.
    pub total: Histogram,
    /// From the request at the origin to the head of its answer.
    pub upstream: Histogram,
    /// Request content that was taken, in bytes.
    pub bytes_in: AtomicU64,
    /// Response content that was given, in bytes.
    pub bytes_out: AtomicU64,
}

/// How often something took how long.
#[derive(Debug, Default)]
pub struct Histogram {
    buckets: [AtomicU64; BUCKETS.len() + 1],
    sum_micros: AtomicU64,
}

/// Upper ends of the buckets, in microseconds: from what a cached answer takes to the longest poll. Prometheus' own
/// defaults, with more of the fast ones and of the slow ones.
pub const BUCKETS: [u64; 15] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    10_000_000, 30_000_000, 60_000_000,
];

impl Histogram {
    pub(crate) fn record(&self, duration: Duration) {
        let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let bucket = BUCKETS.iter().position(|end| micros <= *end).unwrap_or(BUCKETS.len());
        count(&self.buckets[bucket]);
        add(&self.sum_micros, micros);
    }

    /// How many fell into each bucket; the last is for what took longer than all ends.
    pub fn buckets(&self) -> [u64; BUCKETS.len() + 1] {
        std::array::from_fn(|index| self.buckets[index].load(Ordering::Relaxed))
    }

    /// All of it together.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros.load(Ordering::Relaxed))
    }
}

/// What an exchange was.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ExchangeKind {
    /// Index of the listener.
    pub listener: u16,
    /// As `classify` told it.
    pub class: u8,
    /// Index into [`METHODS`].
    pub method: u8,
    /// The status that the client was sent; 0: it left before it was answered.
    pub status: u16,
}

/// Names of methods, by [`ExchangeKind::method`]; whatever else clients invent is `OTHER`.
pub const METHODS: [&str; 10] =
    ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "OTHER"];

/// The index of a method's name.
pub(crate) const fn method_index(method: Method) -> u8 {
    method as u8
}

impl ExchangeKind {
    /// Never 0: that is a vacant slot.
    fn to_bits(self) -> u32 {
        let Self { listener, class, method, status } = self;
        1 << 31
            | (u32::from(listener) & 0x3ff) << 20
            | (u32::from(class) & 0x3f) << 14
            | (u32::from(method) & 0xf) << 10
            | u32::from(status) & 0x3ff
    }

    fn from_bits(bits: u32) -> Self {
        let part = |shift: u32, mask: u32| (bits >> shift) & mask;
        let narrow = |value: u32| u16::try_from(value).unwrap_or(0);
        Self {
            listener: narrow(part(20, 0x3ff)),
            class: part(14, 0x3f).to_le_bytes()[0],
            method: part(10, 0xf).to_le_bytes()[0],
            status: narrow(part(0, 0x3ff)),
        }
    }
}

/// How many exchanges there were of each kind: a table of bounded size with open addressing. One writer.
#[derive(Debug)]
pub struct Exchanges {
    slots: Box<[Slot; EXCHANGE_KINDS_MAX]>,
    /// Those for whose kind there was no room.
    uncounted: AtomicU64,
}

#[derive(Debug, Default)]
struct Slot {
    kind: AtomicU32,
    count: AtomicU64,
}

/// Kinds of exchanges that one worker tells apart: 16 KiB. Two listeners, twelve classes, and a dozen of methods and
/// statuses for each fill a third of it.
const EXCHANGE_KINDS_MAX: usize = 1024;

/// Slots looked at for a kind: with a table two thirds full, one in some thousand kinds finds none.
const PROBES_MAX: usize = 32;

impl Default for Exchanges {
    fn default() -> Self {
        Self { slots: Box::new(std::array::from_fn(|_| Slot::default())), uncounted: AtomicU64::new(0) }
    }
}

impl Exchanges {
    pub(crate) fn record(&self, kind: ExchangeKind) {
        let bits = kind.to_bits();
        let first = (bits.wrapping_mul(0x9e37_79b1) >> 16) as usize;
        for step in 0..PROBES_MAX {
            let slot = &self.slots[(first + step) % EXCHANGE_KINDS_MAX];
            match slot.kind.load(Ordering::Relaxed) {
                0 => slot.kind.store(bits, Ordering::Relaxed),
                known if known == bits => {}
                _ => continue,
            }
            return count(&slot.count);
        }
        count(&self.uncounted);
    }

    /// Every kind there was, with its count.
    pub fn iter(&self) -> impl Iterator<Item = (ExchangeKind, u64)> + '_ {
        self.slots.iter().filter_map(|slot| {
            let bits = slot.kind.load(Ordering::Relaxed);
            (bits != 0).then(|| (ExchangeKind::from_bits(bits), slot.count.load(Ordering::Relaxed)))
        })
    }

    /// Exchanges of kinds that found no room in the table.
    pub fn uncounted(&self) -> u64 {
        self.uncounted.load(Ordering::Relaxed)
    }
}

/// Adds one. There is one writer, so that no locked instruction is needed.
pub(crate) fn count(counter: &AtomicU64) {
    add(counter, 1);
}

/// Adds some. There is one writer.
pub(crate) fn add(counter: &AtomicU64, amount: u64) {
    counter.store(counter.load(Ordering::Relaxed).wrapping_add(amount), Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_is_counted_once_in_the_first_bucket_that_holds_it() {
        let histogram = Histogram::default();
        for (micros, bucket) in [(0, 0), (500, 0), (501, 1), (60_000_000, 14), (60_000_001, 15)] {
            let before = histogram.buckets();
            histogram.record(Duration::from_micros(micros));
            let after = histogram.buckets();
            let changed: Vec<_> = (0..after.len()).filter(|index| before[*index] != after[*index]).collect();
            assert_eq!(changed, [bucket], "{micros} µs");
        }
        assert_eq!(histogram.sum(), Duration::from_micros(120_001_002));
    }

    #[test]
    fn every_kind_of_exchange_keeps_its_own_count() {
        let exchanges = Exchanges::default();
        let kinds: Vec<_> = (0..600_u16)
            .map(|number| ExchangeKind {
                listener: number % 3,
                class: (number % 12).to_le_bytes()[0],
                method: (number % 7).to_le_bytes()[0],
                status: 200 + number / 4,
            })
            .collect();
        for (times, kind) in kinds.iter().enumerate() {
            (0..=times % 5).for_each(|_| exchanges.record(*kind));
        }
        let mut expected = std::collections::BTreeMap::<_, u64>::new();
        for (times, kind) in kinds.iter().enumerate() {
            *expected.entry(*kind).or_default() += times as u64 % 5 + 1;
        }
        assert_eq!(exchanges.iter().collect::<std::collections::BTreeMap<_, _>>(), expected);
        assert_eq!(exchanges.uncounted(), 0);
    }

    #[test]
    fn kinds_beyond_the_table_are_counted_together() {
        let exchanges = Exchanges::default();
        for listener in 0..4 {
            for status in 0..1000 {
                exchanges.record(ExchangeKind { listener, class: 1, method: 0, status });
            }
        }
        let counted: u64 = exchanges.iter().map(|(_, count)| count).sum();
        assert_eq!(counted + exchanges.uncounted(), 4000);
        assert!(exchanges.uncounted() > 0);
    }

    #[test]
    fn methods_have_their_names() {
        for (name, index) in METHODS.iter().zip(0..) {
            assert_eq!(method_index(Method::of(name.as_bytes())), index, "{name}");
        }
    }
}
