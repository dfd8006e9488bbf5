//! ringfence's forwarding core: a request comes in, goes to an origin, an answer comes back.
//!
//! One worker a core, and workers share nothing on the way of a request. Start reading at `exchange`, the whole
//! exchange on one page. Around it: `front` reads requests off a connection, [`transport`] is the seam to sockets, TLS
//! and simulation, [`snapshot`] is what the control plane configures, [`limits`] names every bound.
//!
//! Knows HTTP/1.1 (RFC 9110, RFC 9112) and nothing of Matrix: rules, answers and error bodies are given to it.
#![deny(unsafe_code)]

pub mod buffers;
#[doc(hidden)]
pub mod explain;
pub mod limits;
pub mod proxy_protocol;
pub mod respond;
pub mod snapshot;
#[doc(hidden)]
pub mod stages;
pub mod transport;

mod allowance;
mod counters;
mod date;
mod environment;
mod exchange;
mod failure;
mod fields;
mod front;
mod gate;
mod health;
mod inbox;
mod kernel_pipes;
mod listen;
mod pace;
mod peer;
mod pool;
mod record;
mod relay;
mod request_id;
mod route;
mod shelf;
#[cfg(any(test, fuzzing))]
#[cfg_attr(not(test), allow(dead_code, unused_imports, reason = "a fuzzer plays scripts only"))]
#[allow(clippy::unwrap_used, reason = "a panic is the report")]
mod simulation;
mod slots;
mod timers;
mod turns;
mod wakers;
mod worker;
mod workers;

#[cfg(fuzzing)]
pub use simulation::script;

pub use counters::{
    BUCKETS, CLASSES_MAX, ClassCounters, Counters, ExchangeKind, Exchanges, Handshake, Histogram, METHODS,
    SERVERS_MAX, ServerGauges,
};
pub use gate::Clients;
pub use health::{Change, Health, ProbeCounts};
pub use listen::bind;
pub use record::{Batches, LogFormat, LogLayout, LogSender, WriteTarget, log_queue};
pub use workers::{Driver, ListenerSocket, Plan, Totals, Workers};
