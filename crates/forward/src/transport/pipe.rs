//! A connection in memory: two bounded byte queues. For tests and simulation.

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
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.outgoing.borrow_mut().end(End::Closed);
        self.incoming.borrow_mut().end(End::Reset);
    }
}

impl Transport for Pipe {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut queue = self.incoming.borrow_mut();
        if queue.end.is_some() || !queue.bytes.is_empty() {
            return Poll::Ready(());
        }
        queue.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let mut queue = self.incoming.borrow_mut();
        if !queue.bytes.is_empty() {
            let read = io::Read::read(&mut queue.bytes, buf);
            queue.wake_writer();
            return Poll::Ready(read);
        }
        match queue.end {
            Some(End::Closed) => Poll::Ready(Ok(0)),
            Some(End::Reset) => Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            None => {
                queue.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut queue = self.outgoing.borrow_mut();
        if queue.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut room = queue.capacity.saturating_sub(queue.bytes.len());
        let before = queue.bytes.len();
        for slice in slices {
            let taken = slice.len().min(room);
            queue.bytes.extend(&slice[..taken]);
            room -= taken;
        }
        let written = queue.bytes.len() - before;
        if written == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            queue.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        queue.wake_reader();
        Poll::Ready(Ok(written))
    }

    fn poll_flush(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close_write(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.outgoing.borrow_mut().end(End::Closed);
        Poll::Ready(Ok(()))
    }

    fn abort(&self) {
        let mut queue = self.outgoing.borrow_mut();
        queue.bytes.clear();
        queue.end(End::Reset);
    }
}

#[derive(Default)]
struct Queue {
    capacity: usize,
    bytes: VecDeque<u8>,
    end: Option<End>,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Clone, Copy)]
enum End {
    Closed,
    Reset,
}

impl Queue {
    fn end(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.wake_reader();
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
