//! HTTP/1.1 messages without I/O (RFC 9112): heads as spans, body framing, chunked coding, persistence.
//!
//! The caller owns every buffer. Nothing here reads a socket or a clock, and nothing allocates once the reusable
//! values ([`RequestHead`], [`ResponseHead`], [`OutgoingHead`]) have grown to their size.
//!
//! How a message passes:
//! 1. [`HeadScan`] finds the end of the head, over any number of reads, looking at each byte once.
//! 2. [`RequestHead::parse`] or [`ResponseHead::parse`] judges it; [`RequestHead::read`] and [`ResponseHead::read`] do
//!    both, and at once for a head that comes whole. What is kept are [`Span`]s, offsets into the caller's buffer,
//!    because no borrow outlives a read.
//! 3. [`BodyFraming`] says how the body ends; [`ChunkedDecoder`] finds the boundaries of a chunked one in place.
//! 4. [`OutgoingHead`] lists the slices of the next hop's head for one vectored write: unchanged field lines are
//!    runs of the input, in order and as spelled.
//!
//! What is ambiguous is refused, never repaired: the origin behind us may repair it another way (RFC 9112 §11.2).
#![forbid(unsafe_code)]

mod authority;
mod chunked;
mod connection;
mod error;
mod field;
mod framing;
mod limits;
mod method;
mod outgoing;
mod persistence;
mod request;
mod response;
mod scan;
mod section;
mod span;
mod target;
mod tokenise;

pub use authority::Authority;
pub use chunked::{
    Advanced, CHUNK_SIZE_DIGITS_MAX, CHUNK_SIZE_MAX, ChunkHeader, ChunkedDecoder, ChunkedError, ChunkedPart,
    EXTENSION_BYTES_MAX, EXTENSIONS_BYTES_MAX, LAST_CHUNK, TRAILER_BYTES_MAX, chunk_header,
};
pub use connection::CONNECTION_OPTION_COUNT_MAX;
pub use error::HeadError;
pub use field::{FieldLine, KnownField, list_elements};
pub use framing::{BodyFraming, CONTENT_LENGTH_MAX};
pub use limits::{
    FIELD_COUNT_CAP, FIELD_COUNT_MAX, HEAD_BYTES_CAP, HEAD_BYTES_MAX, HeadLimits, TARGET_BYTES_MAX,
};
pub use method::Method;
pub use outgoing::OutgoingHead;
pub use persistence::{CloseReason, Version};
pub use request::RequestHead;
pub use response::ResponseHead;
pub use scan::HeadScan;
pub use span::Span;
pub use target::TargetForm;
