//! The harness of ringfence's tests: three builders around the real binary.
//!
//! [`Origin`] plays the homeserver byte for byte, [`Proxy`] starts `ringfence run` with a configuration of its own,
//! [`Client`] speaks to it in raw bytes over TCP or TLS. Everything blocks on plain threads, so that a test reads in the
//! order in which things happen, and every wait has a deadline, so that a hanging proxy is a failure and not a stuck
//! run. Traffic stays on loopback; ports are reserved while a test uses them ([`place`]).
#![forbid(unsafe_code)]

pub mod arguments;
pub mod authority;
pub mod client;
pub mod corpus;
pub mod examination;
pub mod exchange;
pub mod expected;
pub mod hardship;
pub mod homeserver;
pub mod judge;
pub mod matrix;
pub mod message;
pub mod origin;
pub mod other_proxy;
pub mod place;
pub mod preload;
pub mod proxy;
pub mod stage;
pub mod strict;
pub mod systemd;
pub mod wire;

use std::sync::mpsc;
use std::time::{Duration, Instant};

pub use authority::Authority;
pub use client::Client;
pub use message::{Head, Message};
pub use origin::{Origin, Peer};
pub use proxy::Proxy;
pub use wire::{End, Wire};

/// One millisecond, to write durations as products.
pub const MS: Duration = Duration::from_millis(1);

/// One second, to write durations as products.
pub const SECOND: Duration = Duration::from_secs(1);

/// How long a wait of the harness lasts before it is a failure, unless a test says otherwise.
///
/// Far above what anything here needs, because the machine may be shared with builds.
pub const PATIENCE: Duration = Duration::from_secs(10);

/// One KiB, in bytes.
pub const KIB: usize = 1024;

/// One MiB, in bytes.
pub const MIB: usize = 1024 * KIB;

/// Lets time pass where the passing of time is the point of the test.
///
/// Whoever waits for an event uses [`wait_until`] or a read with a deadline.
pub fn pause(duration: Duration) {
    let (_held_open, silence) = mpsc::channel::<()>();
    let _ = silence.recv_timeout(duration);
}

/// Waits until `condition` holds, looking every few milliseconds; fails the test after `within`.
pub fn wait_until(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        pause(5 * MS);
    }
}

/// Bytes that differ at every position of a large body, so that a lost, doubled or moved piece shows.
pub fn pattern(length: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(length + 8);
    let mut index = 0_u64;
    while bytes.len() < length {
        bytes.extend_from_slice(&index.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
        index += 1;
    }
    bytes.truncate(length);
    bytes
}

/// `bytes` as text, one character a byte (ISO 8859-1), so that nothing is lost however odd the bytes are.
pub fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}
