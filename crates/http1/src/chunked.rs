//! Chunked transfer coding (RFC 9112 §7.1).
//!
//! Finds boundaries in place and copies nothing: a relay sends the bytes as they came, or picks the data out of them.
//! Sizes, extensions and trailers are checked byte by byte, data is skipped. Whitespace around a size, signs, bare LF
//! and whatever else recipients read differently is refused.

use std::fmt;
use std::ops::Range;

use crate::KnownField;
use crate::field::{KNOWN_NAME_BYTES_MAX, is_tchar, is_value_byte};

/// The last chunk with an empty trailer section.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Most digits of a chunk size: as many as 64 bits need.
pub const CHUNK_SIZE_DIGITS_MAX: usize = 16;

/// Largest chunk size, in bytes: the largest that a recipient which counts in signed 64 bits reads as we do.
pub const CHUNK_SIZE_MAX: u64 = i64::MAX.unsigned_abs();

/// Longest extension part of one chunk, in bytes, from the first `;` (or whitespace before it) to the CR.
///
/// Extensions in use (signed uploads) take some 90 bytes; more only serves to hide bytes from a count of the content.
pub const EXTENSION_BYTES_MAX: usize = 256;

/// Longest extensions of all chunks of a message together, in bytes.
///
/// Room for 180 signed chunks; beyond it a peer makes us read much for little content (CVE-2023-39326).
pub const EXTENSIONS_BYTES_MAX: usize = 16 * 1024;

/// Longest trailer section, in bytes, without the empty line that ends it.
///
/// A quarter of a head: trailers carry checksums and timings.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// What a run of bytes of a chunked body is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChunkedPart {
    /// Nothing was consumed: the input is empty.
    NeedMore,
    /// Chunk sizes, extensions and line ends.
    Framing,
    /// Content: this range of the input.
    Data(Range<usize>),
    /// Field lines of the trailer section (§7.1.2): to be forwarded or dropped, never merged into the head.
    Trailer,
    /// Framing up to the end of the message; every later call consumes nothing and says so again.
    End,
}

/// What [`ChunkedDecoder::advance`] found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Advanced {
    /// Bytes of the input that belong to this message.
    pub consumed: usize,
    /// Bytes of content among them.
    pub data: u64,
    /// Whether the message ended. Then `input[consumed..]` belongs to the next one.
    pub ended: bool,
}

/// Why a chunked body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkedError {
    /// Not 1 to [`CHUNK_SIZE_DIGITS_MAX`] hexadecimal digits followed by an extension or CRLF.
    Size,
    /// Above [`CHUNK_SIZE_MAX`].
    SizeTooLarge,
    /// Not `;name[=value]` with a token or a quoted string as value.
    Extension,
    /// Longer than [`EXTENSION_BYTES_MAX`] in one chunk or [`EXTENSIONS_BYTES_MAX`] in all.
    ExtensionTooLong,
    /// A line or a chunk's data that does not end with CRLF.
    LineEnd,
    /// A trailer line that is no strict field line.
    TrailerLine,
    /// A trailer that would change framing, routing, authentication or the meaning of the content (RFC 9110 §6.5.1).
    TrailerForbidden,
    /// Longer than [`TRAILER_BYTES_MAX`].
    TrailerTooLong,
}

impl ChunkedError {
    /// What is wrong, in a few words for a log line or an error body.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Size => "malformed chunk size",
            Self::SizeTooLarge => "chunk size too large",
            Self::Extension => "malformed chunk extension",
            Self::ExtensionTooLong => "chunk extensions too long",
            Self::LineEnd => "no CRLF where a line of the chunked coding ends",
            Self::TrailerLine => "malformed trailer field line",
            Self::TrailerForbidden => "field not allowed in the trailer section",
            Self::TrailerTooLong => "trailer section too long",
        }
    }
}

impl fmt::Display for ChunkedError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl std::error::Error for ChunkedError {}

/// Finds the boundaries of a chunked body in place; copies nothing. One value a message.
#[derive(Clone, Debug)]
pub struct ChunkedDecoder {
    state: State,
    /// Of the current chunk: its size while that is read, then the bytes of data that are still to come.
    left: u64,
    /// Bytes of the current chunk's extensions.
    extension: usize,
    /// Bytes of all extensions.
    extensions: usize,
    /// Bytes of the trailer section.
    trailer: usize,
    /// The start of the current trailer's name: enough to know it.
    name: [u8; KNOWN_NAME_BYTES_MAX],
    name_len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In the size, behind this many digits.
    Size(usize),
    Extension(Extension),
    /// Behind the CR of the line with the size.
    SizeLf,
    Data,
    DataCr,
    DataLf,
    /// Where a trailer line or the final empty line begins.
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    /// Behind the CR of the final empty line.
    EndLf,
    Ended,
    Refused(ChunkedError),
}

/// Where in `*( BWS ";" BWS name [ BWS "=" BWS value ] )` (§7.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extension {
    /// In whitespace that a `;` must follow.
    Space,
    /// Behind `;`.
    NameStart,
    Name,
    /// In whitespace behind a name.
    NameSpace,
    /// Behind `=`.
    ValueStart,
    Token,
    Quoted,
    /// Behind a backslash in a quoted string.
    Escape,
    /// Behind the closing quote.
    Unquoted,
}

impl ChunkedDecoder {
    /// Before the first chunk.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            state: State::Size(0),
            left: 0,
            extension: 0,
            extensions: 0,
            trailer: 0,
            name: [0; KNOWN_NAME_BYTES_MAX],
            name_len: 0,
        }
    }

    /// One step over `input`: bytes consumed and what they were. Consumes as much of one kind as there is.
    ///
    /// An error is final: the message cannot be relayed further, and each later call repeats it.
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, ChunkedPart), ChunkedError> {
        match (self.state, input.first()) {
            (State::Refused(error), _) => Err(error),
            (State::Ended, _) => Ok((0, ChunkedPart::End)),
            (_, None) => Ok((0, ChunkedPart::NeedMore)),
            (State::Data, _) => Ok(self.data(input.len())),
            (_, Some(first)) => self.lines(input, self.is_trailer(*first)),
        }
    }

    /// Checks as much of `input` as belongs to this message, for a relay that sends the bytes as they are.
    ///
    /// `Err` says nothing about the bytes before the wrong one: the relay breaks off before `input`.
    pub fn advance(&mut self, input: &[u8]) -> Result<Advanced, ChunkedError> {
        let mut advanced = Advanced::default();
        loop {
            let (consumed, part) = self.next(&input[advanced.consumed..])?;
            advanced.consumed += consumed;
            match part {
                ChunkedPart::Data(range) => advanced.data += range.len() as u64,
                ChunkedPart::Framing | ChunkedPart::Trailer => {}
                ChunkedPart::NeedMore => return Ok(advanced),
                ChunkedPart::End => return Ok(Advanced { ended: true, ..advanced }),
            }
        }
    }

    /// Whether the end of the message was seen.
    #[must_use]
    pub const fn is_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Bytes of data that the current chunk has announced and that are still to come.
    #[must_use]
    pub const fn announced(&self) -> u64 {
        match self.state {
            State::Data => self.left,
            _ => 0,
        }
    }

    fn data(&mut self, available: usize) -> (usize, ChunkedPart) {
        let len = usize::try_from(self.left).map_or(available, |left| left.min(available));
        self.left -= len as u64;
        if self.left == 0 {
            self.state = State::DataCr;
        }
        (len, ChunkedPart::Data(0..len))
    }

    /// Consumes bytes of lines, all of the trailer section or all not.
    fn lines(&mut self, input: &[u8], is_trailer: bool) -> Result<(usize, ChunkedPart), ChunkedError> {
        let mut consumed = 0;
        for byte in input {
            if matches!(self.state, State::Data | State::Ended) || self.is_trailer(*byte) != is_trailer {
                break;
            }
            self.state = self.after(*byte).inspect_err(|error| self.state = State::Refused(*error))?;
            consumed += 1;
        }
        let part = match self.state {
            State::Ended => ChunkedPart::End,
            _ if is_trailer => ChunkedPart::Trailer,
            _ => ChunkedPart::Framing,
        };
        Ok((consumed, part))
    }

    /// Whether `byte`, the next one, belongs to a trailer line.
    const fn is_trailer(&self, byte: u8) -> bool {
        match self.state {
            State::TrailerName | State::TrailerValue | State::TrailerLf => true,
            State::TrailerStart => byte != b'\r',
            _ => false,
        }
    }

    /// The state behind `byte`, which is not data.
    fn after(&mut self, byte: u8) -> Result<State, ChunkedError> {
        match (self.state, byte) {
            (State::Size(digits), _) => self.after_size(digits, byte),
            (State::Extension(extension), _) => self.after_extension(extension, byte),
            (State::SizeLf, b'\n') => Ok(self.after_size_line()),
            (State::DataCr, b'\r') => Ok(State::DataLf),
            (State::DataLf, b'\n') => Ok(State::Size(0)),
            (State::TrailerStart, b'\r') => Ok(State::EndLf),
            (State::TrailerStart | State::TrailerName | State::TrailerValue, _) => self.after_trailer(byte),
            (State::TrailerLf, b'\n') => self.count_trailer().map(|()| State::TrailerStart),
            (State::EndLf, b'\n') => Ok(State::Ended),
            _ => Err(ChunkedError::LineEnd),
        }
    }

    fn after_size(&mut self, digits: usize, byte: u8) -> Result<State, ChunkedError> {
        if let Some(digit) = hex_digit(byte) {
            return self.push_digit(digits, digit);
        }
        match byte {
            _ if digits == 0 => Err(ChunkedError::Size),
            b'\r' => Ok(State::SizeLf),
            b' ' | b'\t' => self.extended(Extension::Space),
            b';' => self.extended(Extension::NameStart),
            _ => Err(ChunkedError::Size),
        }
    }

    fn push_digit(&mut self, digits: usize, digit: u8) -> Result<State, ChunkedError> {
        if digits == CHUNK_SIZE_DIGITS_MAX {
            return Err(ChunkedError::Size);
        }
        self.left = (self.left << 4) | u64::from(digit);
        if self.left > CHUNK_SIZE_MAX { Err(ChunkedError::SizeTooLarge) } else { Ok(State::Size(digits + 1)) }
    }

    fn after_size_line(&mut self) -> State {
        self.extension = 0;
        if self.left > 0 { State::Data } else { State::TrailerStart }
    }

    fn after_extension(&mut self, extension: Extension, byte: u8) -> Result<State, ChunkedError> {
        use Extension as E;
        match (extension, byte) {
            (E::Name | E::Token | E::Unquoted, b'\r') => Ok(State::SizeLf),
            (E::Quoted, b'\\') => self.extended(E::Escape),
            (E::Quoted, b'"') => self.extended(E::Unquoted),
            (E::Quoted | E::Escape, _) if is_value_byte(byte) => self.extended(E::Quoted),
            (E::Space | E::Name | E::NameSpace | E::Token | E::Unquoted, b';') => self.extended(E::NameStart),
            (E::Name | E::NameSpace, b'=') => self.extended(E::ValueStart),
            (E::ValueStart, b'"') => self.extended(E::Quoted),
            (E::NameStart | E::Name, _) if is_tchar(byte) => self.extended(E::Name),
            (E::ValueStart | E::Token, _) if is_tchar(byte) => self.extended(E::Token),
            (E::Space | E::NameStart | E::NameSpace | E::ValueStart, b' ' | b'\t') => {
                self.extended(extension)
            }
            (E::Name, b' ' | b'\t') => self.extended(E::NameSpace),
            (E::Token | E::Unquoted, b' ' | b'\t') => self.extended(E::Space),
            _ => Err(ChunkedError::Extension),
        }
    }

    /// Counts a byte of an extension.
    fn extended(&mut self, extension: Extension) -> Result<State, ChunkedError> {
        self.extension += 1;
        self.extensions += 1;
        if self.extension > EXTENSION_BYTES_MAX || self.extensions > EXTENSIONS_BYTES_MAX {
            return Err(ChunkedError::ExtensionTooLong);
        }
        Ok(State::Extension(extension))
    }

    fn after_trailer(&mut self, byte: u8) -> Result<State, ChunkedError> {
        self.count_trailer()?;
        match (self.state, byte) {
            (State::TrailerName, b':') => self.after_trailer_name(),
            (State::TrailerStart | State::TrailerName, _) if is_tchar(byte) => Ok(self.push_name(byte)),
            (State::TrailerValue, b'\r') => Ok(State::TrailerLf),
            (State::TrailerValue, _) if is_value_byte(byte) => Ok(State::TrailerValue),
            _ => Err(ChunkedError::TrailerLine),
        }
    }

    fn push_name(&mut self, byte: u8) -> State {
        if self.state == State::TrailerStart {
            self.name_len = 0;
        }
        if let Some(slot) = self.name.get_mut(self.name_len) {
            *slot = byte;
            self.name_len += 1;
        }
        State::TrailerName
    }

    fn after_trailer_name(&self) -> Result<State, ChunkedError> {
        if KnownField::of(&self.name[..self.name_len]).is_forbidden_in_trailers() {
            return Err(ChunkedError::TrailerForbidden);
        }
        Ok(State::TrailerValue)
    }

    /// Counts a byte of a trailer line.
    fn count_trailer(&mut self) -> Result<(), ChunkedError> {
        self.trailer += 1;
        if self.trailer > TRAILER_BYTES_MAX { Err(ChunkedError::TrailerTooLong) } else { Ok(()) }
    }
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        Self::new()
    }
}

const fn hex_digit(byte: u8) -> Option<u8> {
    match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    }
}

/// `size CRLF` of a chunk that we write.
#[derive(Clone, Copy, Debug)]
pub struct ChunkHeader {
    bytes: [u8; CHUNK_SIZE_DIGITS_MAX + 2],
    start: u8,
}

impl ChunkHeader {
    /// The bytes to write before the chunk's data. After the data comes CRLF.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        &self.bytes[usize::from(self.start)..]
    }
}

/// The header of a chunk of `len` bytes, at least one: a chunk of none would end the body.
#[must_use]
pub fn chunk_header(len: u64) -> ChunkHeader {
    debug_assert!(len > 0);
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut bytes = [b'0'; CHUNK_SIZE_DIGITS_MAX + 2];
    bytes[CHUNK_SIZE_DIGITS_MAX..].copy_from_slice(b"\r\n");
    let (mut left, mut start) = (len, CHUNK_SIZE_DIGITS_MAX);
    while left > 0 {
        start -= 1;
        bytes[start] = DIGITS[(left & 0xf) as usize];
        left >>= 4;
    }
    #[expect(clippy::cast_possible_truncation, reason = "at most CHUNK_SIZE_DIGITS_MAX")]
    ChunkHeader { bytes, start: start as u8 }
}
