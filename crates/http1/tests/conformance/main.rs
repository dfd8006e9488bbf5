//! Whole messages against a naive oracle: the corpus at every split point, mutations, targets byte for byte.
//!
//! The oracle in `reference` is slow, allocates at will and shares no code with the crate: it splits text into lines
//! and applies the rules one by one. The fuzz targets include it too.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "helpers of tests may panic as tests do")]

mod bodies;
mod corpus;
mod heads;
mod mutation;
mod observe;
mod outgoing;
mod reference;
mod targets;
