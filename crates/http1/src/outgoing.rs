//! The head that is sent on, as slices for one vectored write.

use std::io::IoSlice;

use crate::Span;

/// Unchanged runs of the input head and our own bytes between them, in order.
///
/// Adjacent runs coalesce, so a head of which two lines were removed is three slices. Reusable: it allocates only
/// until it has grown to the largest head that it carried.
#[derive(Clone, Debug, Default)]
pub struct OutgoingHead {
    pieces: Vec<Piece>,
    owned: Vec<u8>,
    len: usize,
}

#[derive(Clone, Copy, Debug)]
enum Piece {
    /// Of the input head.
    Input(Span),
    /// Of `owned`.
    Owned(Span),
}

impl OutgoingHead {
    /// Room for this many slices and this many bytes of our own.
    #[must_use]
    pub fn with_capacity(pieces: usize, owned_bytes: usize) -> Self {
        Self { pieces: Vec::with_capacity(pieces), owned: Vec::with_capacity(owned_bytes), len: 0 }
    }

    /// Empties it and keeps its memory.
    pub fn clear(&mut self) {
        self.pieces.clear();
        self.owned.clear();
        self.len = 0;
    }

    /// Adds bytes of the input head.
    pub fn push_input(&mut self, span: Span) {
        if span.is_empty() {
            return;
        }
        self.len += span.len();
        match self.pieces.last_mut() {
            Some(Piece::Input(last)) if last.end == span.start => last.end = span.end,
            _ => self.pieces.push(Piece::Input(span)),
        }
    }

    /// Adds bytes of the input head, line by line: what lies side by side is put together before it is added.
    pub fn push_input_lines(&mut self, lines: impl IntoIterator<Item = Span>) {
        let mut run = Span::default();
        for line in lines {
            if line.start != run.end {
                self.push_input(run);
                run.start = line.start;
            }
            run.end = line.end;
        }
        self.push_input(run);
    }

    /// Adds bytes of our own: a copy.
    pub fn push_owned(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.len += bytes.len();
        let start = self.owned.len();
        self.owned.extend_from_slice(bytes);
        let span = Span::new(start, self.owned.len());
        match self.pieces.last_mut() {
            Some(Piece::Owned(last)) => last.end = span.end,
            _ => self.pieces.push(Piece::Owned(span)),
        }
    }

    /// Length of the whole head in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was added.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Number of slices that [`slices`](Self::slices) fills when nothing was sent and `out` is long enough.
    #[must_use]
    pub fn slice_count(&self) -> usize {
        self.pieces.len()
    }

    /// Fills `out` with the slices that remain after `skip` bytes were sent; returns how many were filled.
    ///
    /// `input` is the buffer that the spans were made from. When `out` is shorter than the rest needs, the caller
    /// sends what it got and comes back with a larger `skip`.
    pub fn slices<'a>(&'a self, input: &'a [u8], skip: usize, out: &mut [IoSlice<'a>]) -> usize {
        let mut skip = skip;
        let mut filled = 0;
        for piece in &self.pieces {
            let bytes = self.bytes(*piece, input);
            if skip >= bytes.len() {
                skip -= bytes.len();
                continue;
            }
            let Some(slot) = out.get_mut(filled) else { break };
            *slot = IoSlice::new(&bytes[skip..]);
            skip = 0;
            filled += 1;
        }
        filled
    }

    fn bytes<'a>(&'a self, piece: Piece, input: &'a [u8]) -> &'a [u8] {
        match piece {
            Piece::Input(span) => span.of(input),
            Piece::Owned(span) => span.of(&self.owned),
        }
    }
}
