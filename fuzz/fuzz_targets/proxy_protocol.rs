//! `fuzz/run proxy_protocol`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringfence_fuzz::proxy_protocol(input));
