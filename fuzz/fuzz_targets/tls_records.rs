//! `fuzz/run tls_records`
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringfence_fuzz::tls_records(input));
