//! `fuzz/run client_hello`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringfence_fuzz::client_hello(input));
