//! `fuzz/run request_head`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringfence_fuzz::request_head(input));
