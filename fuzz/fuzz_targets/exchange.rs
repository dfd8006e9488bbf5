//! `fuzz/run exchange`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringfence_fuzz::exchange(input));
