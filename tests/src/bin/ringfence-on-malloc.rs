//! `ringfence` with the C library's allocator in place of mimalloc, so that `tests/per_request` can count what Rust
//! and C allocate in one place. Nothing else differs.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ringfence::main()
}
