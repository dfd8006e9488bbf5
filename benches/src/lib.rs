//! What the pure stages of an exchange cost: [`stages`] on real [`messages`].
//!
//! Measured by time (`cargo bench -p ringfence-benches`) and by instructions (`benches/instructions`).
#![forbid(unsafe_code)]

pub mod messages;
pub mod stages;
