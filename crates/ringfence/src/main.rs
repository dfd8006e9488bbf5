//! ringfence: an io_uring edge proxy for Matrix homeservers.
#![forbid(unsafe_code)]

fn main() {}
