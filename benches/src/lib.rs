//! Benchmarks: see the files in `benches/`.
#![forbid(unsafe_code)]
