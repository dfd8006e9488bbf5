//! `ringfence-load`: floods of one request, scenarios of a homeserver's day, idle connections, and an origin for them.
//!
//! A runtime per thread that shares nothing; what a thread counts is added up when all have ended. The way of a
//! request: [`flood`] or [`scenario`] decides when ([`arrivals`], [`crowd`]), a [`slot`] plays one peer with its
//! connection and tickets, [`connection`] moves the bytes, [`response`] finds the end of the answer, [`stats`] keeps
//! what it cost.
#![forbid(unsafe_code)]

mod arrivals;
mod body;
mod buffers;
mod cli;
mod connection;
mod crowd;
mod fault;
mod flood;
mod idle;
mod matrix;
mod origin;
mod random;
mod report;
mod request;
mod response;
mod runtime;
mod scenario;
mod scenarios;
mod slot;
mod stats;
mod target;
mod tls;
mod worker;

use std::process::ExitCode;

/// As in ringfence itself.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cli::main()
}
