//! Moving a message from one connection to the other: heads with the body bytes beside them in one write, then the
//! rest of the body through one recycled buffer, or through the kernel alone where nobody has to look at it ([`lane`]).
//!
//! Framing is checked while the bytes pass; nothing is held back, nothing is passed on that does not belong to the
//! message. A buffer is held only between a read and its write.

mod lane;

use std::{
    cell::Cell,
    future::poll_fn,
    io::{self, IoSlice},
    task::Poll,
};

use ringfence_http1::{
    BodyFraming, ChunkedDecoder, ChunkedError, ChunkedPart, LAST_CHUNK, OutgoingHead, chunk_header,
};

use crate::{
    buffers::{Buffer, Buffers},
    environment::Environment,
    limits::{
        BULK_AFTER_BYTES, BULK_BUFFER_BYTES, HEAD_BUFFER_BYTES, MIDDLE_BUFFER_BYTES, RELAY_BUFFER_BYTES,
        SPLICED_BYTES_MIN,
    },
    pace::Pace,
    transport::Transport,
    turns::Turn,
};
use lane::Lane;

/// Where a body is between its head and its end.
pub(crate) struct Body {
    state: State,
    content_left: u64,
}

enum State {
    /// This many bytes are to come.
    Length(u64),
    Chunked(ChunkedDecoder),
    UntilClose,
}

/// What a byte of chunk framing costs more than one of content: it is looked at, and not only moved.
const FRAMING_WEIGHT: usize = 64;

/// What [`Body::take`] found at the start of some bytes.
pub(crate) struct Taken {
    /// Bytes that belong to this message.
    pub(crate) consumed: usize,
    /// Content among them, in bytes.
    pub(crate) content: u64,
    /// The message ends with them.
    pub(crate) ended: bool,
}

impl Taken {
    /// Bytes that are not content.
    fn framing(&self) -> usize {
        self.consumed - usize::try_from(self.content).unwrap_or(self.consumed)
    }
}

impl Body {
    /// The start of a body with at most `content_max` bytes of content.
    pub(crate) fn new(framing: BodyFraming, content_max: u64) -> Body {
        let state = match framing {
            BodyFraming::Length(length) => State::Length(length),
            BodyFraming::Chunked => State::Chunked(ChunkedDecoder::new()),
            BodyFraming::UntilClose => State::UntilClose,
        };
        Body { state, content_left: content_max }
    }

    /// Looks at the bytes that come next.
    pub(crate) fn take(&mut self, input: &[u8]) -> Result<Taken, BodyFault> {
        let taken = match &mut self.state {
            State::Length(left) => {
                let consumed = usize::try_from(*left).map_or(input.len(), |left| left.min(input.len()));
                *left -= consumed as u64;
                Taken { consumed, content: consumed as u64, ended: *left == 0 }
            }
            State::Chunked(decoder) => {
                let advanced = decoder.advance(input).map_err(BodyFault::Malformed)?;
                Taken { consumed: advanced.consumed, content: advanced.data, ended: advanced.ended }
            }
            State::UntilClose => Taken { consumed: input.len(), content: input.len() as u64, ended: false },
        };
        self.count(taken.content)?;
        // Nor is the size of a chunk passed on that could never come whole: it might be read as another number.
        match &self.state {
            State::Chunked(decoder) if decoder.announced() > self.content_left => Err(BodyFault::TooLarge),
            _ => Ok(taken),
        }
    }

    fn count(&mut self, content: u64) -> Result<(), BodyFault> {
        self.content_left = self.content_left.checked_sub(content).ok_or(BodyFault::TooLarge)?;
        Ok(())
    }

    /// Bytes to come, if that is known.
    fn left(&self) -> Option<u64> {
        match self.state {
            State::Length(left) => Some(left),
            State::Chunked(_) | State::UntilClose => None,
        }
    }

    /// Takes bytes that nobody looks at: at most those that are [left](Self::left).
    fn pass(&mut self, bytes: u64) -> Result<(), BodyFault> {
        let State::Length(left) = &mut self.state else { unreachable!("its bytes are looked at") };
        *left = left.checked_sub(bytes).expect("no more is taken than is left");
        self.count(bytes)
    }

    /// How much of `capacity` to read, so that bytes of a next message stay where they are if that can be known.
    fn wanted(&self, capacity: usize) -> usize {
        match self.state {
            State::Length(left) => usize::try_from(left).map_or(capacity, |left| left.min(capacity)),
            State::Chunked(_) | State::UntilClose => capacity,
        }
    }

    /// Whether so much is to come that it fills the largest buffer.
    fn is_large(&self) -> bool {
        matches!(self.state, State::Length(left) if left >= BULK_BUFFER_BYTES as u64)
    }

    /// Whether the sender's closing ends the body as it should.
    fn ends_by_close(&self) -> bool {
        matches!(self.state, State::UntilClose)
    }
}

/// What is wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyFault {
    Malformed(ChunkedError),
    TooLarge,
}

/// Why a relay stopped before the end of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The sender closed or reset its connection.
    SenderClosed,
    /// The sender fell silent.
    SenderSilent,
    /// The receiver closed or reset its connection.
    ReceiverClosed,
    /// The receiver takes no more.
    ReceiverSilent,
    /// The sender broke the framing.
    Malformed(ChunkedError),
    /// The body is longer than it may be.
    TooLarge,
}

impl From<BodyFault> for Fault {
    fn from(fault: BodyFault) -> Fault {
        match fault {
            BodyFault::Malformed(error) => Fault::Malformed(error),
            BodyFault::TooLarge => Fault::TooLarge,
        }
    }
}

/// How a body is spelled for its receiver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Coding {
    /// Byte for byte.
    AsItCame,
    /// Content that ends by close becomes chunks, so that the receiver can tell its end from a fault.
    Chunk,
    /// Chunks as they came, but without the trailer section.
    WithoutTrailers,
    /// Chunks become content that ends by close, for a client of HTTP/1.0.
    Unchunk,
}

/// A head with bytes behind it, or bytes alone: what goes out in one write.
#[derive(Clone, Copy, Default)]
pub(crate) struct Message<'a> {
    /// The head and the bytes that its spans point into.
    pub(crate) head: Option<(&'a OutgoingHead, &'a [u8])>,
    /// What follows.
    pub(crate) tail: [&'a [u8]; 3],
    /// Set when the whole head is with the receiver's kernel.
    pub(crate) head_sent: Option<&'a Cell<bool>>,
}

impl Message<'_> {
    fn len(&self) -> usize {
        self.head.map_or(0, |(head, _)| head.len()) + self.tail.iter().map(|part| part.len()).sum::<usize>()
    }

    /// Fills `out` with what remains after `skip` bytes; returns how many slices that are.
    fn slices<'b>(&'b self, mut skip: usize, out: &mut [IoSlice<'b>; SLICES_MAX]) -> usize {
        let mut filled = 0;
        if let Some((head, input)) = self.head {
            if skip < head.len() {
                filled = head.slices(input, skip, &mut out[..SLICES_MAX - self.tail.len()]);
                let in_slices: usize = out[..filled].iter().map(|slice| slice.len()).sum();
                if skip + in_slices < head.len() {
                    return filled;
                }
            }
            skip = skip.saturating_sub(head.len());
        }
        for part in self.tail {
            let rest = &part[skip.min(part.len())..];
            skip -= part.len() - rest.len();
            if !rest.is_empty() {
                out[filled] = IoSlice::new(rest);
                filled += 1;
            }
        }
        filled
    }
}

/// Slices handed to one write. A head with more runs than this, which leaves out a dozen lines here and there, takes a second
/// write; making the array costs each of them.
const SLICES_MAX: usize = 16;

/// Writes all of `message`, as long as the receiver keeps its pace.
pub(crate) async fn send<E: Environment, T: Transport>(
    env: &E,
    to: &T,
    message: &Message<'_>,
    pace: &Pace,
) -> Result<(), Fault> {
    let (length, mut taken) = (message.len(), 0);
    let head_length = message.head.map_or(0, |(head, _)| head.len());
    // What the transport has taken and the kernel has not.
    let mut unsent = to.unsent();
    while taken < length || unsent > 0 {
        let step = poll_fn(|cx| {
            if taken == length {
                return to.poll_flush(cx).map_ok(|()| 0);
            }
            let mut slices = [IoSlice::new(&[]); SLICES_MAX];
            let filled = message.slices(taken, &mut slices);
            to.poll_write(cx, &slices[..filled])
        });
        let step = pace.wait_watching(env, step, stock_of(to)).await.map_err(|_| Fault::ReceiverSilent)?;
        let step = step.map_err(|_| Fault::ReceiverClosed)?;
        taken += step;
        let before = unsent + step;
        unsent = to.unsent();
        if let Some(head_sent) = message.head_sent
            && taken - unsent.min(taken) >= head_length
        {
            head_sent.set(true);
        }
        pace.moved(before.saturating_sub(unsent));
    }
    Ok(())
}

/// Counts what a receiver has taken since the last call, also while the socket tells of no room: it does so in lumps of some
/// 100 KiB, and a slow receiver is not silent in between.
fn stock_of(to: &impl Transport) -> impl FnMut() -> usize {
    let mut held = None;
    move || {
        let now = to.held();
        held.replace(now).map_or(0, |before: usize| before.saturating_sub(now))
    }
}

/// What a relay bears and takes.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) sender: &'a Pace,
    pub(crate) receiver: &'a Pace,
    /// Bytes read at once. What lies behind a chunked body is known only when it is there: little is read where it
    /// would have to be kept.
    pub(crate) read_bytes_max: usize,
}

/// Bytes behind the end of a body: in a buffer, from an offset to another.
pub(crate) struct Leftover {
    buffer: Buffer,
    start: usize,
    end: usize,
}

impl Leftover {
    pub(crate) fn new(buffer: Buffer, start: usize, end: usize) -> Leftover {
        Leftover { buffer, start, end }
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }
}

/// Moves the rest of `body`. `on_content` hears of each piece when it is with the receiver's kernel.
#[allow(clippy::too_many_arguments, reason = "the two ends, the body between them, and their limits")]
pub(crate) async fn relay<E: Environment>(
    env: &E,
    buffers: &Buffers,
    from: &impl Transport,
    to: &impl Transport,
    body: &mut Body,
    coding: Coding,
    terms: Terms<'_>,
    mut on_content: impl FnMut(u64),
) -> Result<Leftover, Fault> {
    let mut moved = 0;
    let mut bulk = false;
    let mut pieces_are_large = true;
    loop {
        terms.sender.wait(env, from.readable()).await.map_err(|_| Fault::SenderSilent)?;
        let passed = if pieces_are_large
            && let Some(lane) = Lane::between(from, to, coding)
            && let Some(mut pipe) = lane.enter(buffers.pipes(), body, moved)
        {
            if moved >= BULK_AFTER_BYTES {
                from.expect_bulk();
            }
            let taken = lane.take(&mut pipe, body, terms)?;
            lane.give(env, &mut pipe, terms.receiver).await?;
            taken
        } else {
            0
        };
        if passed > 0 {
            moved += passed;
            pieces_are_large = passed >= SPLICED_BYTES_MIN;
            on_content(passed as u64);
            if body.left() == Some(0) {
                return Ok(Leftover::new(buffers.take(HEAD_BUFFER_BYTES), 0, 0));
            }
            if env.spend(passed) {
                env.give_way(Turn::Bulk).await;
            }
            continue;
        }
        let large = body.is_large().then(|| buffers.take_large(BULK_BUFFER_BYTES));
        let mut buffer = match large.flatten() {
            Some(buffer) => buffer,
            None if !bulk => buffers.take(RELAY_BUFFER_BYTES),
            None if moved < BULK_AFTER_BYTES => buffers.take_bulk(MIDDLE_BUFFER_BYTES),
            None => buffers.take_bulk(BULK_BUFFER_BYTES),
        };
        if moved >= BULK_AFTER_BYTES && buffer.len() >= BULK_BUFFER_BYTES {
            from.expect_bulk();
        }
        let wanted = body.wanted(buffer.len().min(terms.read_bytes_max));
        let read = match read_now(from, &mut buffer[..wanted]).await {
            None => continue,
            Some(Ok(0)) if body.ends_by_close() => {
                let last = if coding == Coding::Chunk { LAST_CHUNK } else { b"" };
                let message = Message { tail: [last, b"", b""], ..Message::default() };
                send(env, to, &message, terms.receiver).await?;
                return Ok(Leftover::new(buffer, 0, 0));
            }
            Some(Ok(0) | Err(_)) => return Err(Fault::SenderClosed),
            Some(Ok(read)) => read,
        };
        moved += read;
        pieces_are_large = read >= SPLICED_BYTES_MIN;
        bulk = read >= RELAY_BUFFER_BYTES && terms.read_bytes_max > RELAY_BUFFER_BYTES;
        let content = Piece::take(body, &buffer[..read], coding)?;
        terms.sender.moved(usize::try_from(content.taken.content).unwrap_or(usize::MAX));
        content.send(env, to, None, None, terms.receiver).await?;
        on_content(content.taken.content);
        if content.taken.ended {
            let start = content.taken.consumed;
            return Ok(Leftover::new(buffer, start, read));
        }
        let cost = read + content.taken.framing() * FRAMING_WEIGHT;
        drop(buffer);
        // Between a fast sender and a fast receiver nothing ever waits; the other connections have to live too.
        if env.spend(cost) {
            env.give_way(Turn::Bulk).await;
        }
    }
}

/// Reads if something is there by now.
pub(crate) async fn read_now(from: &impl Transport, buf: &mut [u8]) -> Option<io::Result<usize>> {
    poll_fn(|cx| match from.poll_read(cx, buf) {
        Poll::Ready(read) => Poll::Ready(Some(read)),
        Poll::Pending => Poll::Ready(None),
    })
    .await
}

/// Some bytes of a body, checked, on their way.
pub(crate) struct Piece<'a> {
    bytes: &'a [u8],
    coding: Coding,
    /// Where decoding starts over to find the content in the bytes.
    decoder: Option<ChunkedDecoder>,
    pub(crate) taken: Taken,
}

impl<'a> Piece<'a> {
    /// Takes the bytes of `input` that belong to `body`.
    pub(crate) fn take(body: &mut Body, input: &'a [u8], coding: Coding) -> Result<Piece<'a>, BodyFault> {
        let decoder = match (&body.state, coding) {
            (State::Chunked(decoder), Coding::Unchunk | Coding::WithoutTrailers) => Some(decoder.clone()),
            _ => None,
        };
        let taken = body.take(input)?;
        Ok(Piece { bytes: &input[..taken.consumed], coding, decoder, taken })
    }

    /// Sends it, behind `head` if there is one.
    pub(crate) async fn send<E: Environment>(
        &self,
        env: &E,
        to: &impl Transport,
        head: Option<(&OutgoingHead, &[u8])>,
        head_sent: Option<&Cell<bool>>,
        pace: &Pace,
    ) -> Result<(), Fault> {
        match self.coding {
            Coding::Unchunk | Coding::WithoutTrailers if self.decoder.is_some() => {
                self.send_parts(env, to, head, head_sent, pace).await
            }
            Coding::AsItCame | Coding::Unchunk | Coding::WithoutTrailers => {
                send(env, to, &Message { head, tail: [self.bytes, b"", b""], head_sent }, pace).await
            }
            Coding::Chunk if self.bytes.is_empty() => {
                send(env, to, &Message { head, head_sent, ..Message::default() }, pace).await
            }
            Coding::Chunk => {
                let size = chunk_header(self.bytes.len() as u64);
                send(
                    env,
                    to,
                    &Message { head, tail: [size.as_slice(), self.bytes, b"\r\n"], head_sent },
                    pace,
                )
                .await
            }
        }
    }

    async fn send_parts<E: Environment>(
        &self,
        env: &E,
        to: &impl Transport,
        head: Option<(&OutgoingHead, &[u8])>,
        head_sent: Option<&Cell<bool>>,
        pace: &Pace,
    ) -> Result<(), Fault> {
        send(env, to, &Message { head, head_sent, ..Message::default() }, pace).await?;
        let Some(mut decoder) = self.decoder.clone() else { return Ok(()) };
        let mut rest = self.bytes;
        while !rest.is_empty() {
            let (consumed, part) = decoder.next(rest).map_err(Fault::Malformed)?;
            let passes: &[u8] = match (part, self.coding) {
                (ChunkedPart::Data(range), Coding::Unchunk) => &rest[range],
                (_, Coding::Unchunk) | (ChunkedPart::Trailer, _) => b"",
                _ => &rest[..consumed],
            };
            send(env, to, &Message { tail: [passes, b"", b""], ..Message::default() }, pace).await?;
            rest = &rest[consumed.max(1)..];
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_body_that_is_known_to_be_large_starts_with_the_largest_buffer() {
        let is_large = |framing| Body::new(framing, u64::MAX).is_large();
        assert!(is_large(BodyFraming::Length(BULK_BUFFER_BYTES as u64)));
        assert!(!is_large(BodyFraming::Length(BULK_BUFFER_BYTES as u64 - 1)));
        assert!(!is_large(BodyFraming::Chunked));
        assert!(!is_large(BodyFraming::UntilClose));
    }
}
