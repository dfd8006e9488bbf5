//! `fuzz/run response_head`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringfence_fuzz::response_head(input));
