//! The oracle: RFC 9112 as strictly as ringfence reads it, written for clarity only.

pub(crate) mod chunked;
pub(crate) mod head;
