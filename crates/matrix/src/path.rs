//! Which request paths are administrative, however they are spelled.
//!
//! A request target is forwarded byte for byte, and homeservers read it in different ways: Synapse routes on raw
//! segments, Palpo decodes and merges slashes, others resolve dots, cut path parameters or ignore case. So a
//! path is administrative here if **any** reading could end at one of [`ADMIN_PREFIXES`]. The readings are not
//! enumerated: one walk over the segments accepts a superset of them, and the tests hold it against a naive
//! enumeration. Nothing is allocated, and nothing is changed.
//!
//! The walk, over the raw, the decoded and the twice decoded path: `/` and `\` separate segments; a segment
//! ends at `;` (path parameters), `?`, `#` or NUL; control bytes and spaces are dropped, NUL too in a second walk; empty
//! and `.` segments vanish; what two slashes at the start introduce may be an authority; case is ignored. Without a `..` segment the path is administrative if its first segments are those of
//! a prefix. With one, the order in which a server merges, cuts and resolves decides where it leads, so it is
//! administrative as soon as the segments of a prefix occur in it in their order. A separator after the end of a
//! segment is treated in the same way.

/// Paths that homeservers keep for operators, with all that lies below them.
///
/// - `/_synapse/admin`: Synapse's admin API, which Palpo and others speak too;
/// - `/_synapse/metrics`, `/_synapse/replication`, `/_synapse/mas`: metrics, worker replication and what Matrix
///   Authentication Service calls; all meant for the machine room;
/// - `/_palpo/admin`: the same admin API under Palpo's name;
/// - `/_dendrite`: Dendrite's admin API and health checks.
///
/// Conduit and its descendants are administered from a room and have none.
pub const ADMIN_PREFIXES: [&str; 6] = [
    "/_synapse/admin",
    "/_synapse/metrics",
    "/_synapse/replication",
    "/_synapse/mas",
    "/_palpo/admin",
    "/_dendrite",
];

/// Whether any reading of this raw path (the request target up to `?`) leads to one of [`ADMIN_PREFIXES`].
pub fn is_admin(raw_path: &[u8]) -> bool {
    if is_plain_matrix(raw_path) {
        return false;
    }
    let raw = raw_path.iter().copied();
    leads_to_admin(raw.clone())
        || (raw_path.contains(&b'%')
            && (leads_to_admin(Decoded(raw.clone())) || leads_to_admin(Decoded(Decoded(raw)))))
}

/// A cheap sieve for nearly all traffic: true only where the walk would find nothing.
///
/// The first segment is `_matrix` in every view, so only a `..` could lead elsewhere, and then a segment of the
/// path would have to be the first of a prefix. Those begin with `_s`, `_p` or `_d`; where no escape yields `_`
/// or `%` (so that the second decoding changes nothing), that is seen in the raw bytes.
fn is_plain_matrix(raw_path: &[u8]) -> bool {
    let Some(rest) = raw_path.strip_prefix(b"/_matrix/") else { return false };
    rest.iter().enumerate().all(|(at, byte)| match byte {
        b'_' => rest.get(at + 1).is_none_or(|next| !begins_prefix(*next)),
        b'%' => escaped_byte(&rest[at + 1..]).is_some_and(|byte| byte != b'_' && byte != b'%'),
        _ => true,
    })
}

/// Whether this byte after `_` could continue to the first segment of a prefix; dropped and escaped bytes could.
fn begins_prefix(byte: u8) -> bool {
    matches!(byte.to_ascii_lowercase(), b's' | b'p' | b'd' | b'%' | 0x7f | ..=b' ')
}

fn escaped_byte(digits: &[u8]) -> Option<u8> {
    match digits {
        [high, low, ..] => Some(hex_digit(*high)? << 4 | hex_digit(*low)?),
        _ => None,
    }
}

fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// Percent-decoding (RFC 3986 §2.1) of a stream of bytes; what is no escape stays as it is.
#[derive(Clone)]
struct Decoded<I>(I);

impl<I: Iterator<Item = u8> + Clone> Iterator for Decoded<I> {
    type Item = u8;

    fn next(&mut self) -> Option<u8> {
        let byte = self.0.next()?;
        if byte != b'%' {
            return Some(byte);
        }
        let mut ahead = self.0.clone();
        let high = ahead.next().and_then(hex_digit);
        let low = ahead.next().and_then(hex_digit);
        match (high, low) {
            (Some(high), Some(low)) => {
                self.0 = ahead;
                Some(high << 4 | low)
            }
            _ => Some(b'%'),
        }
    }
}

/// Walks one view of the path, and what is left of it where NUL is dropped instead of ending a segment.
fn leads_to_admin(view: impl Iterator<Item = u8> + Clone) -> bool {
    walk(view.clone()) || (view.clone().any(|byte| byte == 0) && walk(view.filter(|byte| *byte != 0)))
}

fn walk(view: impl Iterator<Item = u8>) -> bool {
    let mut walk = Walk::default();
    let mut segment = Segment::default();
    for byte in view {
        match byte {
            b'/' | b'\\' => {
                // What is cut off may hold separators: a backslash, or one that a second decoding makes.
                walk.ambiguous |= segment.cut;
                walk.enter(std::mem::take(&mut segment));
            }
            _ => segment.push(byte),
        }
    }
    walk.enter(segment);
    walk.leads_to_admin()
}

/// Room for the longest segment of a prefix, in bytes; a longer segment is none of them.
const SEGMENT_BYTES_MAX: usize = 12;
const _: () = assert!(SEGMENT_BYTES_MAX > "replication".len());

/// The folded bytes of the segment being read.
#[derive(Default)]
struct Segment {
    bytes: [u8; SEGMENT_BYTES_MAX],
    /// Bytes seen; may exceed what is kept.
    length: usize,
    /// Past the end that some servers see: the rest counts for nothing.
    cut: bool,
}

impl Segment {
    fn push(&mut self, byte: u8) {
        self.cut |= matches!(byte, b';' | b'?' | b'#' | 0);
        if self.cut || byte <= b' ' || byte == 0x7f {
            return;
        }
        if let Some(slot) = self.bytes.get_mut(self.length) {
            *slot = byte.to_ascii_lowercase();
        }
        self.length += 1;
    }

    /// The bytes, or something that is no segment of a prefix if there were too many.
    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length.min(SEGMENT_BYTES_MAX)]
    }
}

/// What the segments so far amount to.
#[derive(Default)]
struct Walk {
    /// Segments entered, without empty, `.` and `..` ones.
    depth: usize,
    /// Empty and `.` segments before the first of these.
    leading: usize,
    /// Bit `i`: the first segment of prefix `i` occurred.
    begun: u8,
    /// Bit `i`: it was the very first segment.
    begun_at_root: u8,
    /// A whole prefix occurred in its order, anywhere.
    scattered: bool,
    /// A whole prefix occurred at the root.
    rooted: bool,
    /// A `..` occurred, a backslash after the end of a segment, or what may be an authority.
    ambiguous: bool,
}

const _: () = assert!(ADMIN_PREFIXES.len() <= u8::BITS as usize);

impl Walk {
    fn enter(&mut self, segment: Segment) {
        match segment.as_bytes() {
            b"" | b"." => {
                self.leading += usize::from(self.depth == 0);
                // Two slashes at the start may introduce an authority (RFC 3986 §4.2).
                self.ambiguous |= self.leading == 2;
                return;
            }
            b".." => {
                self.ambiguous = true;
                return;
            }
            bytes => self.compare(bytes),
        }
        self.depth += 1;
    }

    fn compare(&mut self, segment: &[u8]) {
        for (index, prefix) in ADMIN_PREFIXES.iter().enumerate() {
            let bit = 1 << index;
            let (first, second) = prefix[1..].split_once('/').unwrap_or((&prefix[1..], ""));
            if segment == second.as_bytes() {
                self.scattered |= self.begun & bit != 0;
                self.rooted |= self.depth == 1 && self.begun_at_root & bit != 0;
            }
            if segment == first.as_bytes() {
                self.begun |= bit;
                self.begun_at_root |= if self.depth == 0 { bit } else { 0 };
                self.scattered |= second.is_empty();
                self.rooted |= second.is_empty() && self.depth == 0;
            }
        }
    }

    fn leads_to_admin(&self) -> bool {
        self.rooted || (self.ambiguous && self.scattered)
    }
}

#[cfg(test)]
mod tests;
