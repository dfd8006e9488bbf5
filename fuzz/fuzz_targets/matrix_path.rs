//! `fuzz/run matrix_path`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringfence_fuzz::matrix_path(input));
