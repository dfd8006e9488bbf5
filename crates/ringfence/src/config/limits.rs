//! `[limits]` and `[timeouts]`: what each means, its default, and between which values it makes sense.

use std::time::Duration;

use super::{
    reader::Table,
    schema::{Key, Schema},
    units::{GIB, KIB, MIB, format_duration},
};

/// A number that may be configured.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bound<T> {
    /// What it is for and why it is as it is, for operators.
    pub(crate) about: &'static str,
    pub(crate) default: T,
    pub(crate) min: T,
    pub(crate) max: T,
}

/// Declares bounds whose doc comments are also what `docs/config.md` says of their keys.
macro_rules! bounds {
    ($($(#[doc = $about:literal])+ pub(crate) const $name:ident: Bound<$of:ty> = Bound { $($fields:tt)+ };)+) => {
        $($(#[doc = $about])+ pub(crate) const $name: Bound<$of> =
            Bound { about: concat!($($about),+), $($fields)+ };)+
    };
}

bounds! {
    /// Largest head of a request or a response, from its first line to the empty line, in bytes. nginx accepts 32 KiB in
    /// all by default, so that a homeserver moved from nginx refuses nothing new. 4 KiB is what an ordinary federation
    /// request with several signatures needs; beyond 256 KiB one request could hold as much memory as a large body.
    pub(crate) const HEAD_BYTES: Bound<u64> = Bound { default: 32 * KIB, min: 4 * KIB, max: 256 * KIB };

    /// Most field lines in a head. Browsers send some 25, federation peers some 10; 100 is Apache's default. The
    /// parser has room for 256.
    pub(crate) const FIELD_COUNT: Bound<u64> = Bound { default: 100, min: 16, max: 256 };

    /// Largest request body, in bytes of content. 50 MiB is Synapse's `max_upload_size`. Below 1 KiB nobody could
    /// log in; 1 TiB means no limit.
    pub(crate) const BODY_BYTES: Bound<u64> = Bound { default: 50 * MIB, min: KIB, max: 1024 * GIB };

    /// Client connections of all workers together. 65 536 idle TLS connections cost some 400 MB, which a homeserver's
    /// machine has. A million is beyond what one address's ports and descriptors carry.
    pub(crate) const CONNECTIONS: Bound<u64> = Bound { default: 65_536, min: 16, max: 1_000_000 };

    /// Connections from one client address (IPv6: one /64). Large enough for an office or a mobile carrier behind one
    /// address, far below `connections_max`.
    pub(crate) const CONNECTIONS_PER_ADDRESS: Bound<u64> = Bound { default: 1024, min: 1, max: 1_000_000 };

    /// What a client owes of a body that it sends or of a response that it takes, in bytes per second, averaged over what
    /// goes beyond one `downstream_silence`. Apache asks for 500; a GPRS phone has some 2 000. 0 is nothing; more than
    /// 64 KiB would shut out mobile networks on a bad day.
    pub(crate) const DATA_RATE: Bound<u64> = Bound { default: 512, min: 0, max: 64 * KIB };

    /// Requests that wait for a server of one upstream to have room, those of all workers, where `requests_max` caps; more are
    /// answered 503. Each keeps a client's connection busy, some 10 KiB: 1024 cost 10 MiB, and a homeserver that is behind by
    /// as many catches up sooner without them. 0: nobody waits.
    pub(crate) const QUEUE: Bound<u64> = Bound { default: 1024, min: 0, max: 1_000_000 };

    /// Requests that each server of the upstream may have at a time, those of all workers; others wait for as long as
    /// `timeouts.queue`, first come first served, or are answered 503 with `Retry-After`. 0 is no cap. A long poll (`/sync`)
    /// and a WebSocket count for as long as they last, so count one or two for each user that is online, and the requests that
    /// the homeserver can work on beside them: for 500 users some 1500. A worker that serves no `/sync` is better off with few,
    /// some 50 for each of its cores.
    pub(crate) const REQUESTS: Bound<u64> = Bound { default: 0, min: 0, max: 1_000_000 };

    /// A server's share of the requests beside the weights of the others: 3 is three times as many as 1. Shares of more than
    /// 1 to 100 are nobody's intention.
    pub(crate) const WEIGHT: Bound<u64> = Bound { default: 1, min: 1, max: 100 };

    /// Worker threads; 0 is one per core. More than 1024 cores are not to be had.
    pub(crate) const WORKERS: Bound<u64> = Bound { default: 0, min: 0, max: 1024 };

    /// From accept to the end of the TLS handshake. Ten seconds carry a full handshake over the worst mobile link.
    pub(crate) const TLS_HANDSHAKE: Bound<Duration> = Bound { default: secs(10), min: SHORTEST, max: mins(5) };

    /// From the first byte of a request head to its last. A head is a few segments; slow-head attacks live on more.
    pub(crate) const HEADER_READ: Bound<Duration> = Bound { default: secs(15), min: SHORTEST, max: mins(5) };

    /// Silence between two requests on a connection. nginx's 75 s: clients tuned to it find the same.
    pub(crate) const KEEP_ALIVE_IDLE: Bound<Duration> = Bound { default: secs(75), min: SHORTEST, max: mins(60) };

    /// From dialling an upstream to an established connection, its TLS handshake included. It is near; more means that it is
    /// down.
    pub(crate) const UPSTREAM_CONNECT: Bound<Duration> = Bound { default: secs(3), min: SHORTEST, max: mins(1) };

    /// How long a request waits for a server to have room, where `requests_max` caps. Most clients wait longer, and who is
    /// told 503 after 10 s comes again.
    pub(crate) const QUEUE_WAIT: Bound<Duration> = Bound { default: secs(10), min: SHORTEST, max: mins(5) };

    /// From the end of the request to the first byte of the response. Longer than any long poll, which clients ask
    /// for in minutes.
    pub(crate) const UPSTREAM_FIRST_BYTE: Bound<Duration> = Bound { default: mins(5), min: SHORTEST, max: mins(60) };

    /// A client's silence in the middle of a message: it sends no content, or takes nothing of its response. Phones lose
    /// their network for tens of seconds.
    pub(crate) const DOWNSTREAM_SILENCE: Bound<Duration> = Bound { default: secs(60), min: SHORTEST, max: mins(60) };

    /// The upstream's silence in the middle of a message: it sends no content, or takes nothing of a request. Twice the
    /// client's, since a homeserver at work deserves more patience than a radio link.
    pub(crate) const UPSTREAM_SILENCE: Bound<Duration> = Bound { default: secs(120), min: SHORTEST, max: mins(60) };

    /// How long a pooled upstream connection may rest. Below the 60 s after which Synapse closes it, so that a
    /// request seldom meets a closing connection.
    pub(crate) const UPSTREAM_IDLE: Bound<Duration> = Bound { default: secs(20), min: SHORTEST, max: mins(10) };

    /// Silence in both directions of a tunnel (WebSocket). Those have keep-alives of their own, in minutes.
    pub(crate) const TUNNEL_IDLE: Bound<Duration> = Bound { default: mins(60), min: SHORTEST, max: mins(24 * 60) };

    /// How long a client that still sends after its final answer is read from, so that it reads the answer. The
    /// time in which a slow uplink empties its buffers.
    pub(crate) const LINGER: Bound<Duration> = Bound { default: secs(30), min: SHORTEST, max: mins(5) };

    /// How long exchanges in flight may go on after SIGTERM: the 30 s of an ordinary long poll.
    pub(crate) const DRAIN: Bound<Duration> = Bound { default: secs(30), min: SHORTEST, max: mins(60) };

    /// How long connections may stay open in a process that was upgraded, until they end on their own: five minutes are
    /// more than a long poll takes. WebSockets are cut then, so a site that lives on them may choose hours.
    pub(crate) const HAND_OVER: Bound<Duration> = Bound { default: mins(5), min: SHORTEST, max: mins(24 * 60) };

    /// How often each server of an upstream with a `health_path` is asked after its health. Twice five seconds are what a
    /// server that fails is still sent requests; asking costs it less than one client does.
    pub(crate) const HEALTH_INTERVAL: Bound<Duration> =
        Bound { default: secs(5), min: Duration::from_millis(100), max: mins(5) };

    /// How long the answer of a server that is asked after its health may take, at most `health_interval`. A homeserver that
    /// needs two seconds for a constant is no use to clients.
    pub(crate) const HEALTH_WAIT: Bound<Duration> = Bound { default: secs(2), min: SHORTEST, max: mins(1) };
}

/// No wait is shorter: a busy machine needs that long to schedule a thread.
const SHORTEST: Duration = Duration::from_millis(10);

const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

const fn mins(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

/// What peers may ask for. Bytes and counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// See [`HEAD_BYTES`].
    pub(crate) head_bytes_max: u64,
    /// See [`FIELD_COUNT`].
    pub(crate) field_count_max: u64,
    /// See [`BODY_BYTES`].
    pub(crate) body_bytes_max: u64,
    /// See [`CONNECTIONS`].
    pub(crate) connections_max: u64,
    /// See [`CONNECTIONS_PER_ADDRESS`].
    pub(crate) connections_per_address_max: u64,
    /// See [`DATA_RATE`].
    pub(crate) data_rate_min: u64,
    /// See [`QUEUE`].
    pub(crate) queue_max: u64,
}

pub(crate) const LIMITS_SCHEMA: Schema = Schema {
    heading: "[limits]",
    about: "What peers may ask for.",
    keys: &[
        Key::size("head_bytes_max", &HEAD_BYTES),
        Key::count("field_count_max", &FIELD_COUNT),
        Key::size("body_bytes_max", &BODY_BYTES),
        Key::count("connections_max", &CONNECTIONS),
        Key::count("connections_per_address_max", &CONNECTIONS_PER_ADDRESS),
        Key::size("data_rate_min", &DATA_RATE),
        Key::count("queue_max", &QUEUE),
    ],
};

impl Limits {
    pub(crate) fn read(table: &Table<'_>) -> Self {
        Self {
            head_bytes_max: table.size("head_bytes_max", &HEAD_BYTES),
            field_count_max: table.count("field_count_max", &FIELD_COUNT),
            body_bytes_max: table.size("body_bytes_max", &BODY_BYTES),
            connections_max: table.count("connections_max", &CONNECTIONS),
            connections_per_address_max: table.count("connections_per_address_max", &CONNECTIONS_PER_ADDRESS),
            data_rate_min: table.size("data_rate_min", &DATA_RATE),
            queue_max: table.count("queue_max", &QUEUE),
        }
    }
}

/// How long each wait may last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Timeouts {
    /// See [`TLS_HANDSHAKE`].
    pub(crate) tls_handshake: Duration,
    /// See [`HEADER_READ`].
    pub(crate) header_read: Duration,
    /// See [`KEEP_ALIVE_IDLE`].
    pub(crate) keep_alive_idle: Duration,
    /// See [`UPSTREAM_CONNECT`].
    pub(crate) upstream_connect: Duration,
    /// See [`QUEUE_WAIT`].
    pub(crate) queue: Duration,
    /// See [`UPSTREAM_FIRST_BYTE`].
    pub(crate) upstream_first_byte: Duration,
    /// See [`DOWNSTREAM_SILENCE`].
    pub(crate) downstream_silence: Duration,
    /// See [`UPSTREAM_SILENCE`].
    pub(crate) upstream_silence: Duration,
    /// See [`UPSTREAM_IDLE`].
    pub(crate) upstream_idle: Duration,
    /// See [`TUNNEL_IDLE`].
    pub(crate) tunnel_idle: Duration,
    /// See [`LINGER`].
    pub(crate) linger: Duration,
    /// See [`DRAIN`].
    pub(crate) drain: Duration,
    /// See [`HAND_OVER`].
    pub(crate) hand_over: Duration,
    /// See [`HEALTH_INTERVAL`].
    pub(crate) health_interval: Duration,
    /// See [`HEALTH_WAIT`].
    pub(crate) health_wait: Duration,
}

pub(crate) const TIMEOUTS_SCHEMA: Schema = Schema {
    heading: "[timeouts]",
    about: "How long each wait may last. Every wait on a peer ends at one of these.",
    keys: &[
        Key::duration("tls_handshake", &TLS_HANDSHAKE),
        Key::duration("header_read", &HEADER_READ),
        Key::duration("keep_alive_idle", &KEEP_ALIVE_IDLE),
        Key::duration("upstream_connect", &UPSTREAM_CONNECT),
        Key::duration("queue", &QUEUE_WAIT),
        Key::duration("upstream_first_byte", &UPSTREAM_FIRST_BYTE),
        Key::duration("downstream_silence", &DOWNSTREAM_SILENCE),
        Key::duration("upstream_silence", &UPSTREAM_SILENCE),
        Key::duration("upstream_idle", &UPSTREAM_IDLE),
        Key::duration("tunnel_idle", &TUNNEL_IDLE),
        Key::duration("linger", &LINGER),
        Key::duration("drain", &DRAIN),
        Key::duration("hand_over", &HAND_OVER),
        Key::duration("health_interval", &HEALTH_INTERVAL),
        Key::duration("health_wait", &HEALTH_WAIT),
    ],
};

impl Timeouts {
    pub(crate) fn read(table: &Table<'_>) -> Self {
        let health_interval = table.duration("health_interval", &HEALTH_INTERVAL);
        Self {
            tls_handshake: table.duration("tls_handshake", &TLS_HANDSHAKE),
            header_read: table.duration("header_read", &HEADER_READ),
            keep_alive_idle: table.duration("keep_alive_idle", &KEEP_ALIVE_IDLE),
            upstream_connect: table.duration("upstream_connect", &UPSTREAM_CONNECT),
            queue: table.duration("queue", &QUEUE_WAIT),
            upstream_first_byte: table.duration("upstream_first_byte", &UPSTREAM_FIRST_BYTE),
            downstream_silence: table.duration("downstream_silence", &DOWNSTREAM_SILENCE),
            upstream_silence: table.duration("upstream_silence", &UPSTREAM_SILENCE),
            upstream_idle: table.duration("upstream_idle", &UPSTREAM_IDLE),
            tunnel_idle: table.duration("tunnel_idle", &TUNNEL_IDLE),
            linger: table.duration("linger", &LINGER),
            drain: table.duration("drain", &DRAIN),
            hand_over: table.duration("hand_over", &HAND_OVER),
            health_interval,
            health_wait: health_wait(table, health_interval),
        }
    }
}

/// At most the interval: a server is asked one thing at a time.
fn health_wait(table: &Table<'_>, interval: Duration) -> Duration {
    let wait = table.duration("health_wait", &HEALTH_WAIT);
    if wait > interval && table.has("health_wait") {
        let [told, most] = [wait, interval].map(format_duration);
        let message = format!("`health_wait` is {told}; it may be up to `health_interval`, which is {most}");
        table.note(table.place_of("health_wait"), message);
    }
    wait.min(interval)
}
