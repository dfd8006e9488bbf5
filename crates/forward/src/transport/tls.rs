//! A TLS session over another transport.
//!
//! Ciphertext waits in a recycled buffer only while a record is incomplete, or while the kernel takes no more; a
//! connection that waits holds none. What is encrypted goes out in that order: data first, then what the session
//! itself had to say meanwhile, and nothing is encrypted while any of it is still here.

use std::{
    cell::RefCell,
    future::poll_fn,
    io::{self, IoSlice},
    sync::Arc,
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use ringfence_tls::{
    ClientConfig, HELD_BYTES_MAX, RECORD_PLAINTEXT_BYTES_MAX, ServerConfig, ServerName, Session,
    SessionError, Version,
};

use super::Transport;
use crate::{
    buffers::{Buffer, Buffers},
    limits::{BULK_BUFFER_BYTES, KIB, RELAY_BUFFER_BYTES},
};

/// One side of a TLS connection.
pub struct Tls<T> {
    inner: T,
    buffers: Buffers,
    state: RefCell<State>,
}

struct State {
    session: Session,
    incoming: Option<Incoming>,
    /// The session has plaintext that did not fit where it was asked for.
    plaintext_waits: bool,
    outgoing: Option<Outgoing>,
    /// Handshake messages and alerts; behind `outgoing`.
    control: Vec<u8>,
    /// Something could not be encrypted, as with a key of TLS 1.2 that is worn out: who waits for what the peer answers is
    /// told, because the peer was not asked.
    has_failed: bool,
}

struct Incoming {
    buffer: Buffer,
    start: usize,
    end: usize,
    /// Bytes came that the session has not seen.
    fresh: bool,
    /// The last read filled all the room that there was: more of it waits in the kernel.
    filled: bool,
}

struct Outgoing {
    buffer: Buffer,
    sent: usize,
    end: usize,
}

impl<T: Transport> Tls<T> {
    /// The server's side of a session at its start.
    pub fn new(inner: T, config: Arc<ServerConfig>, buffers: Buffers) -> Tls<T> {
        Tls::begun(inner, Session::new(config), Vec::new(), buffers)
    }

    /// The client's side of a session with the server `name`, at its start.
    pub fn client(
        inner: T,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        buffers: Buffers,
    ) -> Result<Tls<T>, SessionError> {
        let mut hello = Vec::new();
        let session = Session::client(config, name, &mut hello)?;
        Ok(Tls::begun(inner, session, hello, buffers))
    }

    fn begun(inner: T, session: Session, control: Vec<u8>, buffers: Buffers) -> Tls<T> {
        let state = State {
            session,
            incoming: None,
            plaintext_waits: false,
            outgoing: None,
            control,
            has_failed: false,
        };
        Tls { inner, buffers, state: RefCell::new(state) }
    }

    /// Takes the handshake to its end. On failure the peer has been told by an alert, as far as it listens.
    pub async fn handshake(&self) -> Result<Version, HandshakeError> {
        poll_fn(|cx| self.poll_handshake(cx)).await
    }

    /// Whether the handshake resumed an earlier session.
    pub fn resumed(&self) -> bool {
        self.state.borrow().session.resumed()
    }

    /// The connection underneath; what is written to it is in the clear.
    pub fn inner(&self) -> &T {
        &self.inner
    }

    /// Whether nothing is there to be read, not even the end or a part of a record. What the session keeps for itself, as
    /// tickets that came since the last read, is taken out of the way. Nothing is flushed: who waits to write waits on.
    pub fn is_quiet(&self) -> bool {
        let cx = &mut Context::from_waker(Waker::noop());
        let mut state = self.state.borrow_mut();
        state.poll_receive(&self.inner, &self.buffers, &mut [0; 1], cx).is_pending()
            && state.incoming.is_none()
    }

    fn poll_handshake(&self, cx: &mut Context<'_>) -> Poll<Result<Version, HandshakeError>> {
        let mut state = self.state.borrow_mut();
        loop {
            let received = state.receive(&mut [], &self.buffers);
            let flushed = state.poll_flush(&self.inner, cx);
            received.map_err(HandshakeError::Session)?;
            if !state.session.is_handshaking() {
                ready!(flushed).map_err(HandshakeError::Io)?;
                return Poll::Ready(
                    state.session.version().ok_or(HandshakeError::Io(io::ErrorKind::Other.into())),
                );
            }
            if let Poll::Ready(Err(error)) = flushed {
                return Poll::Ready(Err(HandshakeError::Io(error)));
            }
            ready!(state.poll_fill(&self.inner, &self.buffers, 0, cx)).map_err(HandshakeError::Io)?;
        }
    }
}

/// Why there is no session.
#[derive(Debug)]
pub enum HandshakeError {
    /// The connection underneath failed or ended.
    Io(io::Error),
    /// The peer did not shake hands as it should.
    Session(SessionError),
}

impl<T: Transport> Transport for Tls<T> {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let state = self.state.borrow();
        let has_news = state.incoming.as_ref().is_some_and(|incoming| incoming.fresh);
        if has_news || state.plaintext_waits || state.has_failed || state.session.has_peer_closed() {
            return Poll::Ready(());
        }
        self.inner.poll_readable(cx)
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut state = self.state.borrow_mut();
        let received = state.poll_receive(&self.inner, &self.buffers, buf, cx);
        // What the session had to say goes out now or with the next write; an alert before an error is a courtesy.
        let _ = state.poll_flush(&self.inner, cx);
        received
    }

    fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut state = self.state.borrow_mut();
        ready!(state.poll_flush(&self.inner, cx))?;
        let mut parts: [&[u8]; PARTS_MAX] = [&[]; PARTS_MAX];
        let (mut count, mut taken) = (0, 0);
        for slice in slices.iter().filter(|slice| !slice.is_empty()) {
            if count == PARTS_MAX || taken == BULK_BUFFER_BYTES {
                break;
            }
            parts[count] = &slice[..slice.len().min(BULK_BUFFER_BYTES - taken)];
            taken += parts[count].len();
            count += 1;
        }
        state.encrypt(&parts[..count], &self.buffers)?;
        match state.poll_flush(&self.inner, cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            // What the kernel did not take waits here; the next write or flush goes on with it.
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Ready(Ok(taken)),
        }
    }

    fn unsent(&self) -> usize {
        self.state.borrow().unsent()
    }

    fn held(&self) -> usize {
        self.unsent() + self.inner.held()
    }

    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        let before = state.unsent();
        match state.poll_flush(&self.inner, cx) {
            Poll::Pending if state.unsent() < before => Poll::Ready(Ok(())),
            flushed => flushed,
        }
    }

    fn poll_close_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = self.state.borrow_mut();
        let State { session, control, .. } = &mut *state;
        session.close_notify(control);
        ready!(state.poll_flush(&self.inner, cx))?;
        self.inner.poll_close_write(cx)
    }

    fn bound_afterlife(&self, silence_max: Duration) {
        self.inner.bound_afterlife(silence_max);
    }

    fn abort(&self) {
        self.inner.abort();
    }

    fn expect_bulk(&self) {
        self.inner.expect_bulk();
    }

    fn rested(&self) {
        self.state.borrow_mut().session.rested();
        self.inner.rested();
    }
}

impl State {
    /// Lets the session look at what has come, if it has not done so; returns how much plaintext it made of it.
    fn receive(&mut self, plaintext: &mut [u8], buffers: &Buffers) -> Result<usize, SessionError> {
        let news = self.incoming.as_mut().filter(|incoming| incoming.fresh);
        if news.is_none() && !self.plaintext_waits {
            return Ok(0);
        }
        let received = match &mut self.incoming {
            Some(incoming) => {
                incoming.fresh = false;
                let bytes = &mut incoming.buffer[incoming.start..incoming.end];
                let received = self.session.receive(bytes, plaintext, &mut self.control)?;
                incoming.start += received.consumed;
                // More of it can be decrypted once there is room.
                incoming.fresh = received.plaintext_is_full;
                received
            }
            None => self.session.receive(&mut [], plaintext, &mut self.control)?,
        };
        self.plaintext_waits = received.plaintext_is_full;
        self.incoming.take_if(|incoming| incoming.start == incoming.end);
        if let Some(incoming) = &mut self.incoming
            && !incoming.fresh
        {
            incoming.settle(buffers);
        }
        Ok(received.produced)
    }

    /// Reads until there is plaintext or the end. A session that has failed hands out what has come by now.
    fn poll_receive<T: Transport>(
        &mut self,
        inner: &T,
        buffers: &Buffers,
        plaintext: &mut [u8],
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let received = self.receive(plaintext, buffers);
            let produced = received.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            if produced > 0 || self.session.has_peer_closed() {
                return Poll::Ready(Ok(produced));
            }
            match self.poll_fill(inner, buffers, plaintext.len(), cx) {
                Poll::Pending if self.has_failed => {
                    return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
                }
                filled => ready!(filled)?,
            }
        }
    }

    /// Reads ciphertext for so many `bytes` of plaintext. A buffer in which a record waits for its rest grows as far as that
    /// needs, or as far as is wanted where the sender fills it; an empty one goes back if nothing is there: a few bytes of a
    /// record cost their sender's connection a page.
    fn poll_fill<T: Transport>(
        &mut self,
        inner: &T,
        buffers: &Buffers,
        bytes: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if self.incoming.is_none() {
            ready!(inner.poll_readable(cx));
        }
        let wanted = ciphertext_bytes(bytes);
        let incoming = self.incoming.get_or_insert_with(|| Incoming::empty(buffers.take(wanted)));
        let room_end = incoming.make_room(wanted, buffers);
        let read = match inner.poll_read(cx, &mut incoming.buffer[incoming.end..room_end]) {
            Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Poll::Ready(Ok(read)) => read,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Pending => {
                self.incoming.take_if(|incoming| incoming.start == incoming.end);
                return Poll::Pending;
            }
        };
        incoming.end += read;
        incoming.fresh = true;
        incoming.filled = incoming.end == room_end;
        Poll::Ready(Ok(()))
    }

    fn encrypt(&mut self, parts: &[&[u8]], buffers: &Buffers) -> io::Result<()> {
        let mut buffer = buffers.take(self.session.encrypted_bytes_max(parts));
        let encrypted = self.session.encrypt_into(parts, &mut buffer);
        self.has_failed |= encrypted.is_err();
        let end = encrypted.map_err(|error| io::Error::new(io::ErrorKind::BrokenPipe, error))?;
        self.outgoing = Some(Outgoing { buffer, sent: 0, end });
        Ok(())
    }

    fn unsent(&self) -> usize {
        self.outgoing.as_ref().map_or(0, |outgoing| outgoing.end - outgoing.sent) + self.control.len()
    }

    /// Hands everything to the kernel.
    fn poll_flush<T: Transport>(&mut self, inner: &T, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(outgoing) = &mut self.outgoing {
            let rest = &outgoing.buffer[outgoing.sent..outgoing.end];
            if rest.is_empty() {
                self.outgoing = None;
                break;
            }
            outgoing.sent += ready!(inner.poll_write(cx, &[IoSlice::new(rest)]))?;
        }
        while !self.control.is_empty() {
            let sent = ready!(inner.poll_write(cx, &[IoSlice::new(&self.control)]))?;
            self.control.drain(..sent);
            if self.control.is_empty() {
                // Seldom used after the handshake: not worth its memory in ten thousand idle connections.
                self.control = Vec::new();
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl Incoming {
    fn empty(buffer: Buffer) -> Incoming {
        Incoming { buffer, start: 0, end: 0, fresh: false, filled: false }
    }

    /// Makes room behind the bytes, at the front or in a larger buffer, and tells where it ends: where there are as many as
    /// are `wanted` for bulk. The session bounds what it leaves here, so that growing ends ([`HELD_BYTES_MAX`]).
    fn make_room(&mut self, wanted: usize, buffers: &Buffers) -> usize {
        let length = self.end - self.start;
        let least = (length + 1).min(HELD_BYTES_MAX);
        let needed = if self.filled { least.max(wanted) } else { least };
        if needed > self.buffer.len() {
            self.move_to(buffers.take(needed));
        } else if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
        }
        (self.start, self.end) = (0, length);
        let is_bulk = wanted >= RELAY_BUFFER_BYTES && wanted > length;
        if is_bulk { wanted.min(self.buffer.len()) } else { self.buffer.len() }
    }

    /// What is there of a record waits for the rest in a buffer of a record's size, and not in the large one that it came in.
    fn settle(&mut self, buffers: &Buffers) {
        if self.buffer.len() > RECORD_BUFFER_BYTES && self.end - self.start < RECORD_BUFFER_BYTES {
            self.move_to(buffers.take(RECORD_BUFFER_BYTES));
        }
    }

    fn move_to(&mut self, mut buffer: Buffer) {
        let length = self.end - self.start;
        buffer[..length].copy_from_slice(&self.buffer[self.start..self.end]);
        self.buffer = buffer;
        (self.start, self.end) = (0, length);
    }
}

/// How much ciphertext to read for so much plaintext: as many full records as that fills, so that no part of one is left over.
fn ciphertext_bytes(bytes: usize) -> usize {
    match bytes {
        ..RELAY_BUFFER_BYTES => bytes,
        _ => bytes + bytes.div_ceil(RECORD_PLAINTEXT_BYTES_MAX) * RECORD_OVERHEAD_BYTES,
    }
}

/// What a record of TLS 1.3 is longer than its content (RFC 8446 §5.2), in bytes. With those of TLS 1.2, which have up to 29
/// (RFC 5288 §3), some part of one is left over.
const RECORD_OVERHEAD_BYTES: usize = 5 + 1 + 16;

/// Room for any record, in bytes: content of 16 KiB, and 2 KiB more in TLS 1.2 (RFC 5246 §6.2.3).
const RECORD_BUFFER_BYTES: usize = 20 * KIB;

/// Slices encrypted at once; the rest is taken by the next write.
const PARTS_MAX: usize = 48;

#[cfg(test)]
mod tests;
