//! Bounds of a message head.

const KIB: usize = 1024;

/// Largest head accepted by default, from start-line to the empty line, in bytes.
///
/// The total that nginx accepts by default, so that a homeserver moved from nginx refuses nothing new.
pub const HEAD_BYTES_MAX: usize = 32 * KIB;

/// Most field lines accepted by default.
///
/// Apache's default; browsers send some 25, federation peers some 10.
pub const FIELD_COUNT_MAX: usize = 100;

/// Largest request target accepted by default, in bytes.
///
/// Matrix filters and tokens in a query reach several KiB; 8 KiB must pass (RFC 9112 §3), twice that has room.
pub const TARGET_BYTES_MAX: usize = 16 * KIB;

/// Highest [`HeadLimits::head_bytes_max`] that has an effect, in bytes.
///
/// Keeps every offset far inside the 32 bits of a [`Span`](crate::Span).
pub const HEAD_BYTES_CAP: usize = 1024 * KIB;

/// Highest [`HeadLimits::field_count_max`] that has an effect.
///
/// The tokeniser works on an array of this many slots on the stack: 8 KiB, not initialised.
pub const FIELD_COUNT_CAP: usize = 256;

const _: () = assert!(TARGET_BYTES_MAX < HEAD_BYTES_MAX);
const _: () = assert!(HEAD_BYTES_MAX <= HEAD_BYTES_CAP);
const _: () = assert!(HEAD_BYTES_CAP <= u32::MAX as usize);
const _: () = assert!(FIELD_COUNT_MAX <= FIELD_COUNT_CAP);

/// What a head may measure. One value serves a whole worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimits {
    /// Bytes from the start-line to the empty line, both included; at most [`HEAD_BYTES_CAP`].
    pub head_bytes_max: usize,
    /// Field lines; at most [`FIELD_COUNT_CAP`].
    pub field_count_max: usize,
    /// Bytes of the request target.
    pub target_bytes_max: usize,
}

impl HeadLimits {
    pub(crate) fn head_bytes(&self) -> usize {
        self.head_bytes_max.min(HEAD_BYTES_CAP)
    }

    pub(crate) fn field_count(&self) -> usize {
        self.field_count_max.min(FIELD_COUNT_CAP)
    }
}

impl Default for HeadLimits {
    fn default() -> Self {
        Self {
            head_bytes_max: HEAD_BYTES_MAX,
            field_count_max: FIELD_COUNT_MAX,
            target_bytes_max: TARGET_BYTES_MAX,
        }
    }
}
