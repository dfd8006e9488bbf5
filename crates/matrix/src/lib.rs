//! ringfence matrix.
#![forbid(unsafe_code)]
