//! ringfence forward.
#![forbid(unsafe_code)]
