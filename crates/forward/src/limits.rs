//! Every bound of the data plane: its name, unit, default and reason.
//!
//! Owns the numbers only; each is kept where the comment says. A configuration may change those that are
//! fields of [`Limits`] and [`Timeouts`]; the constants below are properties of the machine room.

use std::time::Duration;

use ringfence_http1::HeadLimits;

/// Bytes in a kibibyte.
pub const KIB: usize = 1024;
/// Bytes in a mebibyte.
pub const MIB: u64 = 1024 * 1024;

/// What one peer may ask of us. Counts and bytes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Size, field lines and target of a request head, and of a response head.
    pub head: HeadLimits,
    /// Largest request body, in bytes of content (chunk framing not counted). A rule may set its own.
    ///
    /// 50 MiB is Synapse's `max_upload_size`.
    pub body_bytes_max: u64,
    /// Connections of all workers together.
    ///
    /// 65 536 idle TLS connections cost some 400 MB, which a homeserver's machine has.
    pub connections_max: usize,
    /// Connections from one client address (IPv6: one /64).
    ///
    /// Large enough for an office or a mobile carrier behind one address, far below `connections_max`.
    pub connections_per_address_max: usize,
    /// What a client owes, in bytes per second: of content that it sends, or of responses that it takes. It counts
    /// while we wait for the client and averages over what goes beyond one `downstream_silence`. Zero: nothing.
    ///
    /// Apache's default is 500; a GPRS phone has some 2 000.
    pub data_rate_min: u32,
    /// Requests that wait for a server of one upstream, of all workers, where `Upstream::requests_max` caps.
    ///
    /// Each keeps its client's connection busy, some 10 KiB: 1024 cost 10 MiB, and a homeserver that is behind by as many has
    /// no use for more.
    pub queue_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head: HeadLimits::default(),
            body_bytes_max: 50 * MIB,
            connections_max: 65_536,
            connections_per_address_max: 1024,
            data_rate_min: 512,
            queue_max: 1024,
        }
    }
}

/// How long each wait may last.
#[derive(Clone, Debug)]
pub struct Timeouts {
    /// From accept to the end of the TLS handshake. Ten seconds carry a full handshake over the worst mobile link.
    pub tls_handshake: Duration,
    /// From the first byte of a request head (or from the end of the handshake) to its last.
    /// A head is a few segments; nginx waits 60 s, which is what slow-head attacks live on.
    pub header_read: Duration,
    /// Silence between two requests on a connection. nginx's 75 s, so that clients tuned to it find the same.
    pub keep_alive_idle: Duration,
    /// From dialling an upstream server to an established connection, its TLS handshake included. It is near; more means it is
    /// down.
    pub upstream_connect: Duration,
    /// How long a request waits for a server to have room. Clients give up after 10 s and more; who is told sooner comes again.
    pub queue: Duration,
    /// From the end of the request to the first byte of the final response head.
    /// Longer than any long poll: Synapse cuts `timeout` of `/sync` at some minutes.
    pub upstream_first_byte: Duration,
    /// The client's silence in the middle of a message: it sends no content, or takes nothing of its response.
    /// Phones lose their network for tens of seconds.
    pub downstream_silence: Duration,
    /// The origin's silence in the middle of a message: it sends no content, or takes nothing of the request.
    pub upstream_silence: Duration,
    /// How long a pooled upstream connection may rest. Below the 60 s after which Synapse closes it,
    /// so that a request seldom meets a closing connection.
    pub upstream_idle: Duration,
    /// Silence in both directions of a tunnel (WebSocket).
    pub tunnel_idle: Duration,
    /// How long a client that is still sending after its final answer is read from, so that it reads the answer.
    pub linger: Duration,
    /// How long exchanges in flight may go on after SIGTERM.
    pub drain: Duration,
    /// How long connections may stay open here after another process has taken over: long polls and WebSockets end at
    /// their own time, and whoever is idle is not cut.
    pub hand_over: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            tls_handshake: Duration::from_secs(10),
            header_read: Duration::from_secs(15),
            keep_alive_idle: Duration::from_secs(75),
            upstream_connect: Duration::from_secs(3),
            queue: Duration::from_secs(10),
            upstream_first_byte: Duration::from_secs(300),
            downstream_silence: Duration::from_secs(60),
            upstream_silence: Duration::from_secs(120),
            upstream_idle: Duration::from_secs(20),
            tunnel_idle: Duration::from_secs(3600),
            linger: Duration::from_secs(30),
            drain: Duration::from_secs(30),
            hand_over: Duration::from_secs(300),
        }
    }
}

/// Size of the buffer in which a head is first read, in bytes.
///
/// Holds the head of nearly every Matrix request and a federation transaction of a few events; one page,
/// since a parked long poll keeps it.
pub const HEAD_BUFFER_BYTES: usize = 4 * KIB;

/// The largest `head_bytes_max` that can be configured, in bytes: a head and what comes with it fit one buffer.
pub const HEAD_BYTES_CAP: usize = 256 * KIB;

/// Size of the relay's first buffer for a body, in bytes: one TLS record of plaintext.
pub const RELAY_BUFFER_BYTES: usize = 16 * KIB;

/// Size of the relay's buffer once a body fills the first one, in bytes.
pub const MIDDLE_BUFFER_BYTES: usize = 64 * KIB;

/// Size of the relay's buffer once [`BULK_AFTER_BYTES`] have moved, in bytes.
///
/// Measured: 64 KiB and 1 MiB both cost more CPU per byte.
pub const BULK_BUFFER_BYTES: usize = 256 * KIB;

/// What a body has moved before it gets the largest buffers, ours and the kernel's, in bytes: more than the kernel takes
/// for a receiver that reads nothing, so that such receivers do not keep them from the others.
pub const BULK_AFTER_BYTES: usize = 512 * KIB;

/// Bytes that one worker's buffers of these two sizes may take together; beyond it bodies move in small ones.
///
/// 32 bulk transfers at a time and core; ten thousand slow downloads stay at 16 KiB each, and 20 KiB more over TLS.
pub const BULK_BYTES_MAX: usize = 32 * BULK_BUFFER_BYTES;

/// What is left of a body when it is worth a kernel pipe instead of a buffer, in bytes.
///
/// Measured: with 4 KiB left both cost the same, with 16 KiB a pipe saves a fifth of the CPU time of the whole request.
pub const SPLICE_AFTER_BYTES: u64 = 16 * KIB as u64;

/// A piece of a body that keeps it on the way through pipes, in bytes; after a smaller one a buffer is next.
///
/// A pipe, and then the socket behind it, keeps whole the pages in which segments came, however little is in them: whoever
/// sends single bytes would occupy thousands of times as much. At this size it is 8 times at most.
pub const SPLICED_BYTES_MIN: usize = 32 * KIB;

/// Size of a kernel pipe, in bytes: places for as many pages.
///
/// Measured: 64 KiB costs a quarter more CPU time for each byte; 512 KiB and 1 MiB some 5 % less on uploads, and more on
/// downloads. A user without privileges may have 256 such pipes (`fs.pipe-user-pages-soft`).
pub const KERNEL_PIPE_BYTES: usize = 256 * KIB;

/// Kernel pipes of one worker, of two descriptors each; when all are in use, bodies move through buffers.
///
/// As many as there may be bulk buffers: 8 MiB.
pub const KERNEL_PIPES_MAX: usize = 32;

/// Idle connections that one worker keeps to one upstream server, at most.
///
/// One a busy client connection at 1 024 connections a worker; fewer would close and reopen under full load.
pub const UPSTREAM_IDLE_MAX: usize = 1024;

/// Idle connections that all workers together keep to one upstream server: each its share.
///
/// A homeserver has a descriptor and a socket for each, and a machine of 64 cores would keep 65 536 without it: more than
/// there are ports towards one address.
pub const UPSTREAM_IDLE_TOTAL_MAX: usize = 4096;

/// The part of both that falls to one of so many workers.
pub(crate) fn upstream_idle_max(workers: usize) -> usize {
    (UPSTREAM_IDLE_TOTAL_MAX / workers.max(1)).clamp(1, UPSTREAM_IDLE_MAX)
}

/// How long nobody is warned again that the certificate of an upstream server does not verify, by whichever worker: every dial
/// would say the same.
pub const WARN_AGAIN_AFTER: Duration = Duration::from_secs(60);

/// How long a server that failed is passed over while another one works: the shortest restart. Each time that it fails again
/// after that doubles it.
pub const SERVER_RETRY_AFTER: Duration = Duration::from_secs(2);

/// Where that ends: a server that is down for long costs one request a minute and worker its connect timeout, and one that
/// is back waits a minute at most.
pub const SERVER_RETRY_AFTER_MAX: Duration = Duration::from_secs(60);

/// How long the request that tries a server keeps others from trying it, so that a long poll does not keep away a server that is
/// back: longer than the default of `upstream_connect`, so that a dead one costs one client that time, not several.
pub const TRIAL_MAX: Duration = Duration::from_secs(5);

/// Requests in a row that a server takes and does not answer until it is passed over: one or two may be the fault of these
/// very requests.
pub const UNANSWERED_MAX: u32 = 3;

/// Servers of one upstream: what a request has tried is a bit for each in a word.
pub const SERVERS_OF_UPSTREAM_MAX: usize = 64;

/// How often the first of a worker's waiting requests looks whether another worker has made room: as exact as deadlines are.
/// Room that its own worker makes it is told of at once.
pub const QUEUE_LOOK: Duration = TIMER_TICK;

/// What one worker's waiting requests may be ahead of another's, in time that they have waited. More than some
/// [`QUEUE_LOOK`]s, since room stays unused while those look who come first then; far below what clients notice.
pub const QUEUE_LEAD_MAX: Duration = Duration::from_millis(250);

/// Interim (1xx) responses passed on before a final one must come. A flood of them is an attack by the origin.
pub const INTERIM_RESPONSES_MAX: u32 = 16;

/// Interim responses that a sound origin might send: 100 (Continue) and some hints. For more of them an exchange has to
/// queue with the bodies that move fast.
pub const INTERIM_RESPONSES_LIKELY: u32 = 2;

/// How long a connection keeps its working memory after a response, waiting for the next request.
///
/// In steady keep-alive traffic nothing is allocated; after this the connection shrinks to its idle size.
pub const WARM: Duration = Duration::from_secs(1);

/// Connections accepted in one turn of the loop: some 0.1 ms.
pub const ACCEPTS_PER_TURN: usize = 16;

/// Pause after `accept` failed for want of descriptors or memory, so that the loop does not spin.
pub const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long who has begun to connect may take to come to its end when a listener is removed: the round trip of nearly all
/// clients. A reload that removes one takes as long.
pub const CONNECTING_MAX: Duration = Duration::from_millis(250);

/// Connections waiting in the kernel to be accepted, per worker. The kernel cuts it at `net.core.somaxconn`.
pub const LISTEN_BACKLOG: i32 = 4096;

/// Bytes handed to the kernel and not yet sent that make a socket unwritable (`TCP_NOTSENT_LOWAT`).
///
/// It bounds the send queue of a peer that never reads.
pub const NOTSENT_BYTES_MAX: u32 = 128 * 1024;

/// The kernel's receive buffer of a connection to an origin, in bytes (`SO_RCVBUF`; the kernel doubles it for its own
/// overhead).
///
/// One that tunes itself holds more for each client that reads nothing. Once [`BULK_AFTER_BYTES`] of a body have moved,
/// the kernel may tune it: a small one costs half as much CPU time again for each byte.
pub const UPSTREAM_RECEIVE_BYTES: usize = 128 * KIB;

/// Where that ends, in bytes as the kernel counts them, with its overhead: what has grown is kept, since the origin was
/// promised room, and a promise taken back means bytes thrown away and 200 ms until they are sent again. More brings nothing
/// beside an origin: a download of 1 MiB costs a third more CPU time with 512 KiB, and no less without a bound.
pub const UPSTREAM_RECEIVE_BYTES_MAX: usize = 1024 * KIB;

/// How long a client that is read from only so that it reads its answer may be silent.
pub const LINGER_SILENCE: Duration = Duration::from_secs(5);

/// Largest body, in bytes, that is read to be dropped so that the connection of a client over its rate goes on: a login or a
/// registration takes some hundred. Chunks of a few bytes each may take twice that on the wire.
pub const REFUSED_BODY_BYTES_MAX: usize = 16 * KIB;

/// How long such a body may take, before the client is told all the same and its connection closed: it was sent along with its
/// head.
pub const REFUSED_BODY_WAIT: Duration = Duration::from_secs(2);

/// Connections over a limit that a worker is telling so at one time; more are closed without a word.
pub const TURNED_AWAY_MAX: usize = 256;

/// How long such a client has to read its answer.
pub const TURN_AWAY: Duration = Duration::from_secs(2);

/// How often a worker hands its log on and looks after its pools.
pub const TICK: Duration = Duration::from_millis(250);

/// Submission queue entries of a worker's ring. The queue is flushed when full; this is how much one turn batches.
pub const RING_ENTRIES: u32 = 4096;

/// Completion queue entries of a worker's ring. The kernel keeps what overflows, at a cost: all waits of a busy
/// worker may complete in one turn.
pub const RING_COMPLETIONS: u32 = 16 * 1024;

/// Every how many ticks a worker looks after its pools: once a second.
pub const SWEEP_TICKS: u32 = 4;

/// How exact a deadline is: it is met up to this much late. Every deadline here is at least seconds.
pub const TIMER_TICK: Duration = Duration::from_millis(32);

/// Bytes of bodies that a worker moves in one turn of the loop before who asks for more has to queue: some 0.2 ms.
pub const TURN_BYTES: usize = 1024 * KIB;

/// Bodies let on from that queue in one turn of the loop, each with one buffer at least.
pub const BULK_TURNS: usize = 8;

/// TLS handshakes begun in one turn of the loop: some 0.2 ms each with a P-256 certificate, over 1 ms with RSA.
///
/// A turn without other work costs some 2 % of that, so that a burst loses nothing by queueing.
pub const HANDSHAKE_TURNS: usize = 2;

/// TLS connections to origins begun in one turn of the loop: some 0.2 ms each, for keys and a signature to verify.
///
/// Twice as many as clients' handshakes: each has a request that waits for it, and there are only as many as requests.
pub const DIAL_TURNS: usize = 4;

/// Requests begun in one turn of the loop of those that gave way to a crowd: some 0.5 ms.
pub const REQUEST_TURNS: usize = 32;

/// Pipelined requests begun in one turn of the loop: some 0.3 ms.
pub const PIPELINED_TURNS: usize = 16;

/// Requests of one [`CROWD_SPAN`] that may be under way before others wait for a turn: few enough for the cache of a
/// processor, where each needs 5.5 KiB of state, 4 of buffer and the kernel's sockets, many enough that a load of as many
/// connections never waits.
pub const REQUESTS_UNDERWAY: usize = 64;

/// After this time a request that is not answered is one that waits for something, and no sign of a crowd: at 50 000 requests
/// a second, what a worker can do, [`REQUESTS_UNDERWAY`] of them take 1.3 ms.
pub const CROWD_SPAN: Duration = Duration::from_millis(4);

/// How much of a time in which a worker did not run counts for deadlines: more than any turn of an overloaded one takes.
pub const STALL_COUNTED: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_has_a_bounded_number_of_idle_connections_however_many_workers_there_are() {
        for (workers, each) in [(1, 1024), (2, 1024), (4, 1024), (8, 512), (64, 64), (1000, 4), (10_000, 1)] {
            assert_eq!(upstream_idle_max(workers), each, "{workers} workers");
        }
        assert!((1..=4096).all(|workers| upstream_idle_max(workers) * workers <= UPSTREAM_IDLE_TOTAL_MAX));
    }
}
