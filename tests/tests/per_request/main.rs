//! What a request costs where that can be counted exactly: allocations and system calls.
//!
//! Not under `tests/memory-safety`: its checkers take the place of malloc, and that for leaks does not work under strace.
#![cfg(not(system_allocator))]
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod allocations;
mod measured;
mod system_calls;
