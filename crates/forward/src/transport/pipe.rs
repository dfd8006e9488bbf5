//! A connection in memory: two bounded byte queues that end as TCP's do. For tests and simulation.
//!
//! Where systems differ, the harsher one is the model: a reset takes with it what has not been read yet, and who
//! closes with unread bytes resets (RFC 1122 §4.2.2.13). The first write to a peer that is gone succeeds, and makes it
//! known.

use std::{
    cell::RefCell,
    collections::VecDeque,
    io::{self, IoSlice},
    rc::Rc,
    task::{Context, Poll, Waker},
};

use super::Transport;

/// One end of a connection in memory.
pub struct Pipe {
    incoming: Rc<RefCell<Queue>>,
    outgoing: Rc<RefCell<Queue>>,
}

impl Pipe {
    /// Two ends; each direction holds at most `capacity` bytes that nobody has read yet.
    pub fn pair(capacity: usize) -> (Pipe, Pipe) {
        let queue = || Rc::new(RefCell::new(Queue { capacity, ..Queue::default() }));
        let (there, back) = (queue(), queue());
        (Pipe { incoming: there.clone(), outgoing: back.clone() }, Pipe { incoming: back, outgoing: there })
    }

    /// Bytes that have arrived and were not read.
    pub fn unread(&self) -> usize {
        self.incoming.borrow().bytes.len()
    }

    /// Whether nothing, not even the end of the stream, has arrived.
    pub fn is_quiet(&self) -> bool {
        let incoming = self.incoming.borrow();
        incoming.bytes.is_empty() && incoming.end.is_none()
    }

    /// Ready when the peer has closed or reset its direction, read or not.
    pub fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut incoming = self.incoming.borrow_mut();
        if incoming.end.is_some() {
            return Poll::Ready(());
        }
        incoming.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    /// Ends both directions; nothing more arrives on either side.
    fn reset(&self) {
        self.incoming.borrow_mut().reset();
        self.outgoing.borrow_mut().reset();
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        if self.unread() > 0 {
            return self.reset();
        }
        self.incoming.borrow_mut().abandon();
        self.outgoing.borrow_mut().end(End::Closed);
    }
}

impl Transport for Pipe {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut incoming = self.incoming.borrow_mut();
        if incoming.end.is_some() || !incoming.bytes.is_empty() {
            return Poll::Ready(());
        }
        incoming.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut incoming = self.incoming.borrow_mut();
        if !incoming.bytes.is_empty() {
            let read = io::Read::read(&mut incoming.bytes, buf);
            incoming.wake_writer();
            return Poll::Ready(read);
        }
        match incoming.end {
            Some(End::Closed) => Poll::Ready(Ok(0)),
            Some(End::Reset) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => {
                incoming.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        let mut outgoing = self.outgoing.borrow_mut();
        if outgoing.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if !outgoing.abandoned {
            return outgoing.accept(cx, slices, wanted);
        }
        drop(outgoing);
        self.reset();
        Poll::Ready(Ok(wanted))
    }

    fn held(&self) -> usize {
        self.outgoing.borrow().bytes.len()
    }

    fn poll_close_write(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut outgoing = self.outgoing.borrow_mut();
        if outgoing.end == Some(End::Reset) {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        outgoing.end(End::Closed);
        Poll::Ready(Ok(()))
    }

    fn abort(&self) {
        self.reset();
    }
}

/// One direction.
#[derive(Default)]
struct Queue {
    capacity: usize,
    bytes: VecDeque<u8>,
    end: Option<End>,
    /// The reader is gone, and the writer does not know yet.
    abandoned: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

impl Queue {
    /// Takes what there is room for of `wanted` bytes.
    fn accept(
        &mut self,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
        wanted: usize,
    ) -> Poll<io::Result<usize>> {
        let room = self.capacity.saturating_sub(self.bytes.len());
        if room == 0 && wanted > 0 {
            self.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let mut left = room;
        for slice in slices {
            let taken = slice.len().min(left);
            self.bytes.extend(&slice[..taken]);
            left -= taken;
        }
        self.wake_reader();
        Poll::Ready(Ok(room - left))
    }

    fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.wake_reader();
        self.wake_writer();
    }

    fn reset(&mut self) {
        self.bytes.clear();
        self.end = Some(End::Reset);
        self.wake_reader();
        self.wake_writer();
    }

    fn abandon(&mut self) {
        self.abandoned = true;
        self.wake_writer();
    }

    fn wake_reader(&mut self) {
        if let Some(waker) = self.reader.take() {
            waker.wake();
        }
    }

    fn wake_writer(&mut self) {
        if let Some(waker) = self.writer.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pipe: &Pipe) -> Poll<Result<usize, io::ErrorKind>> {
        let read = pipe.poll_read(&mut Context::from_waker(Waker::noop()), &mut [0; 16]);
        read.map_err(|error| error.kind())
    }

    fn write(pipe: &Pipe, bytes: &[u8]) -> Poll<Result<usize, io::ErrorKind>> {
        let slices = [IoSlice::new(bytes)];
        pipe.poll_write(&mut Context::from_waker(Waker::noop()), &slices).map_err(|error| error.kind())
    }

    #[test]
    fn a_full_pipe_takes_no_more_until_it_is_read() {
        let (near, far) = Pipe::pair(3);
        assert_eq!(write(&near, b"abcd"), Poll::Ready(Ok(3)));
        assert_eq!(write(&near, b"d"), Poll::Pending);
        assert_eq!((far.unread(), read(&far)), (3, Poll::Ready(Ok(3))));
        assert_eq!(write(&near, b"d"), Poll::Ready(Ok(1)));
    }

    #[test]
    fn what_was_written_before_an_orderly_close_is_read() {
        let (near, far) = Pipe::pair(8);
        assert_eq!(write(&near, b"ab"), Poll::Ready(Ok(2)));
        drop(near);
        assert_eq!(read(&far), Poll::Ready(Ok(2)));
        assert_eq!(read(&far), Poll::Ready(Ok(0)));
    }

    #[test]
    fn closing_with_unread_bytes_resets_and_takes_what_was_on_its_way() {
        let (near, far) = Pipe::pair(8);
        assert_eq!(write(&far, b"unread"), Poll::Ready(Ok(6)));
        assert_eq!(write(&near, b"answer"), Poll::Ready(Ok(6)));
        drop(near);
        assert_eq!(read(&far), Poll::Ready(Err(io::ErrorKind::ConnectionReset)));
        assert_eq!(write(&far, b"more"), Poll::Ready(Err(io::ErrorKind::BrokenPipe)));
    }

    #[test]
    fn the_first_write_to_a_closed_peer_succeeds_and_brings_the_reset() {
        let (near, far) = Pipe::pair(8);
        assert_eq!(write(&near, b"answer"), Poll::Ready(Ok(6)));
        drop(near);
        assert_eq!(write(&far, b"more"), Poll::Ready(Ok(4)));
        assert_eq!(read(&far), Poll::Ready(Err(io::ErrorKind::ConnectionReset)));
        assert_eq!(write(&far, b"more"), Poll::Ready(Err(io::ErrorKind::BrokenPipe)));
    }
}
