//! The proxy's end of a connection: a [`Pipe`] that is as fickle as the seed says, and a record of all that passes.

use std::{
    cell::{Cell, RefCell},
    io::{self, IoSlice},
    rc::Rc,
    task::{Context, Poll},
    time::Instant,
};

use super::world::World;
use crate::transport::{Transport, pipe::Pipe};

/// A connection of the proxy.
pub(super) struct Wire {
    pipe: Pipe,
    world: Rc<World>,
    log: Rc<Log>,
    /// Once in this many calls something is awkward: few bytes, none for now, readiness without bytes.
    awkward_once_in: usize,
}

/// What passed over a connection, as the proxy did it.
#[derive(Default)]
pub(super) struct Log {
    /// Bytes that the proxy has read.
    pub(super) read: Cell<usize>,
    /// Bytes that the proxy has written.
    pub(super) written: RefCell<Vec<u8>>,
    /// What had arrived whenever something was written.
    pub(super) turns: RefCell<Vec<Turn>>,
    /// How and when the proxy ended its direction.
    pub(super) ended: Cell<Option<(Ended, Instant)>>,
    /// The proxy holds it no more.
    pub(super) dropped: Cell<bool>,
}

/// A write.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// Where it starts among the bytes written.
    pub(super) at: usize,
    /// Bytes read until then.
    pub(super) read: usize,
    /// Bytes that were there to be read.
    pub(super) unread: usize,
}

/// How the proxy ended its direction of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ended {
    Closed,
    Reset,
}

/// Writes to one connection that mean that they have no end. The longest answers take some 50 000 of them through the
/// narrowest connection.
const WRITES_MAX: usize = 200_000;

impl Wire {
    pub(super) fn new(world: Rc<World>, pipe: Pipe) -> (Wire, Rc<Log>) {
        let log = Rc::new(Log::default());
        let awkward_once_in = *world.rng.pick(&[3, 10, 100]);
        (Wire { pipe, world, log: log.clone(), awkward_once_in }, log)
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.pipe.is_quiet()
    }

    fn is_awkward(&self) -> bool {
        self.world.count_work();
        self.world.rng.once_in(self.awkward_once_in)
    }

    /// Not now, but soon.
    fn put_off<T>(&self, cx: &Context<'_>) -> Poll<T> {
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// How many of `wanted` bytes move at once.
    fn portion(&self, wanted: usize) -> usize {
        let rng = &self.world.rng;
        match (wanted, self.is_awkward()) {
            (0, _) | (_, false) => wanted,
            (_, true) => rng.between(1, if rng.once_in(2) { wanted } else { wanted.min(8) }),
        }
    }

    fn end(&self, ended: Ended) {
        self.world.note_move();
        if self.log.ended.get().is_none_or(|(before, _)| before == Ended::Closed && ended == Ended::Reset) {
            self.log.ended.set(Some((ended, self.world.now())));
        }
    }

    fn note_written(&self, slices: &[IoSlice<'_>], count: usize) {
        self.world.note_move();
        let (mut written, mut turns) = (self.log.written.borrow_mut(), self.log.turns.borrow_mut());
        let read = self.log.read.get();
        assert!(turns.len() < WRITES_MAX, "writing without end in task {}", self.world.executor.current());
        turns.push(Turn { at: written.len(), read, unread: self.pipe.unread() });
        let mut left = count;
        for slice in slices {
            let taken = slice.len().min(left);
            written.extend_from_slice(&slice[..taken]);
            left -= taken;
        }
    }
}

impl Transport for Wire {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        if self.is_awkward() && self.world.rng.once_in(8) {
            // Counts as a movement: a deadline may begin anew.
            self.world.note_move();
            return Poll::Ready(());
        }
        self.pipe.poll_readable(cx)
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        assert!(!buf.is_empty(), "reading into an empty buffer");
        if self.is_awkward() && self.world.rng.once_in(2) {
            return self.put_off(cx);
        }
        let portion = self.portion(buf.len());
        let read = self.pipe.poll_read(cx, &mut buf[..portion]);
        if let Poll::Ready(result) = &read {
            let count = *result.as_ref().unwrap_or(&0);
            self.log.read.set(self.log.read.get() + count);
            // The end of the stream can be read again and again: that is no movement.
            if count > 0 {
                self.world.note_move();
            }
        }
        read
    }

    fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        // A connection that has rested takes a first write at once: were it put off, stray bytes of the origin could
        // come between the look for them and the request.
        let goes_on = self.log.turns.borrow().last().is_some_and(|turn| turn.read == self.log.read.get());
        if goes_on && self.is_awkward() && self.world.rng.once_in(2) {
            return self.put_off(cx);
        }
        let wanted = slices.iter().map(|slice| slice.len()).sum();
        let portion = self.portion(wanted);
        let mut left = portion;
        let cut: Vec<_> = slices
            .iter()
            .map(|slice| {
                let taken = slice.len().min(left);
                left -= taken;
                IoSlice::new(&slice[..taken])
            })
            .collect();
        let written = self.pipe.poll_write(cx, &cut);
        if let Poll::Ready(Ok(count)) = &written {
            assert!(*count > 0 || wanted == 0, "a write of nothing");
            self.note_written(&cut, *count);
        }
        written
    }

    fn held(&self) -> usize {
        self.pipe.held()
    }

    fn poll_close_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.is_awkward() {
            return self.put_off(cx);
        }
        let closed = self.pipe.poll_close_write(cx);
        if matches!(closed, Poll::Ready(Ok(()))) {
            self.end(Ended::Closed);
        }
        closed
    }

    fn abort(&self) {
        self.end(Ended::Reset);
        self.pipe.abort();
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.end(if self.pipe.unread() > 0 { Ended::Reset } else { Ended::Closed });
        self.log.dropped.set(true);
    }
}
