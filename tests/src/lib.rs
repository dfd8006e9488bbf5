//! The harness of ringfence's tests.
#![forbid(unsafe_code)]
