//! The `ringfence` command; what it does stands in the library beside it.
#![forbid(unsafe_code)]

use std::process::ExitCode;

/// Small allocations from several threads are what a proxy does all day; mimalloc is made for it.
///
/// `tests/memory-safety` leaves it out (`--cfg system_allocator`): its checkers watch the system's allocator only.
#[cfg(not(system_allocator))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    ringfence::main()
}
