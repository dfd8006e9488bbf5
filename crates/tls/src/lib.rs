//! ringfence tls.
#![forbid(unsafe_code)]
