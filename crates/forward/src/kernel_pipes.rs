//! Pipes of the kernel, through which it moves bytes from one socket to another without copying them (splice(2)).
//!
//! A pipe is taken when bytes are there to be moved and goes back when they have moved, as a buffer does. One that is
//! dropped with bytes in it is closed: they belong to a body that nobody moves any more.

use std::{
    cell::Cell,
    os::fd::{BorrowedFd, OwnedFd},
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::{
    limits::{KERNEL_PIPE_BYTES, KERNEL_PIPES_MAX},
    shelf::Shelf,
};

/// The pipes of one worker.
#[derive(Default)]
pub(crate) struct KernelPipes {
    idle: Shelf<Ends>,
    /// On loan.
    out: Cell<usize>,
    /// The system has granted none since the last [`trim`](Self::trim).
    refused: Cell<bool>,
}

/// An empty pipe on loan, to be filled once and drained; dropping it gives it back.
pub(crate) struct KernelPipe<'a> {
    /// There until dropped.
    ends: Option<Ends>,
    /// Bytes in it.
    held: usize,
    home: &'a KernelPipes,
}

struct Ends {
    read: OwnedFd,
    write: OwnedFd,
}

impl KernelPipes {
    /// A pipe, unless all are out or the system grants none. Half of them are for bodies that are known to move fast.
    pub(crate) fn take(&self, moves_fast: bool) -> Option<KernelPipe<'_>> {
        let out_max = if moves_fast { KERNEL_PIPES_MAX } else { KERNEL_PIPES_MAX / 2 };
        if self.out.get() >= out_max {
            return None;
        }
        let ends = self.idle.take().or_else(|| self.open())?;
        self.out.set(self.out.get() + 1);
        Some(KernelPipe { ends: Some(ends), held: 0, home: self })
    }

    fn open(&self) -> Option<Ends> {
        if self.refused.get() {
            return None;
        }
        let ends = Ends::open().ok();
        self.refused.set(ends.is_none());
        ends
    }

    /// Closes pipes that nobody needs any more; the system may be asked for others again.
    pub(crate) fn trim(&self) {
        self.idle.trim();
        self.refused.set(false);
    }
}

impl Ends {
    fn open() -> rustix::io::Result<Ends> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        fcntl_setpipe_size(&write, KERNEL_PIPE_BYTES)?;
        Ok(Ends { read, write })
    }
}

impl KernelPipe<'_> {
    /// Bytes in it.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    /// Takes up to `bytes_max` bytes of a socket. [`AGAIN`](rustix::io::Errno::AGAIN): it has none, or one that is urgent.
    pub(crate) fn fill(&mut self, from: BorrowedFd<'_>, bytes_max: usize) -> rustix::io::Result<usize> {
        debug_assert_eq!(self.held, 0, "a full pipe would look like an empty socket");
        let Some(ends) = &self.ends else { return Ok(0) };
        self.held = splice(from, None, &ends.write, None, bytes_max, SpliceFlags::NONBLOCK)?;
        Ok(self.held)
    }

    /// Gives some of it to a socket. Nothing is said of more to come: the kernel would wait for that.
    pub(crate) fn drain(&mut self, to: BorrowedFd<'_>) -> rustix::io::Result<usize> {
        let Some(ends) = &self.ends else { return Ok(0) };
        let moved = splice(&ends.read, None, to, None, self.held, SpliceFlags::NONBLOCK)?;
        self.held -= moved;
        Ok(moved)
    }
}

impl Drop for KernelPipe<'_> {
    fn drop(&mut self) {
        self.home.out.set(self.home.out.get() - 1);
        if let Some(ends) = self.ends.take()
            && self.held == 0
        {
            self.home.idle.give(ends, KERNEL_PIPES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read, Write},
        os::{fd::AsFd, unix::net::UnixStream},
    };

    use super::*;

    #[test]
    fn a_pipe_that_is_drained_is_used_again_and_one_with_bytes_in_it_never() {
        let (mut near, far) = UnixStream::pair().unwrap();
        let (back, mut end) = UnixStream::pair().unwrap();
        let pipes = KernelPipes::default();
        near.write_all(b"whole").unwrap();
        let mut pipe = pipes.take(true).unwrap();
        assert_eq!(pipe.fill(far.as_fd(), 100), Ok(5));
        assert_eq!(pipe.drain(back.as_fd()), Ok(5));
        drop(pipe);
        assert_eq!(pipes.idle.len(), 1);

        near.write_all(b"partial").unwrap();
        let mut pipe = pipes.take(true).unwrap();
        assert_eq!(pipe.fill(far.as_fd(), 4), Ok(4));
        drop(pipe);
        assert_eq!((pipes.idle.len(), pipes.out.get()), (0, 0));

        let mut pipe = pipes.take(true).unwrap();
        assert_eq!(pipe.fill(far.as_fd(), 100), Ok(3));
        assert_eq!(pipe.drain(back.as_fd()), Ok(3));
        let mut bytes = [0; 8];
        end.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"wholeial");
    }

    #[test]
    fn there_are_no_more_pipes_than_the_bound_and_half_are_for_bodies_that_move_fast() {
        let pipes = KernelPipes::default();
        let slow: Vec<_> = (0..KERNEL_PIPES_MAX).map_while(|_| pipes.take(false)).collect();
        assert_eq!(slow.len(), KERNEL_PIPES_MAX / 2);
        let fast: Vec<_> = (0..KERNEL_PIPES_MAX).map_while(|_| pipes.take(true)).collect();
        assert_eq!(slow.len() + fast.len(), KERNEL_PIPES_MAX);
        drop((slow, fast));
        assert_eq!(pipes.idle.len(), KERNEL_PIPES_MAX);
        (0..10).for_each(|_| pipes.trim());
        assert_eq!(pipes.idle.len(), 0);
    }

    #[test]
    fn a_pipe_has_the_size_that_the_bound_counts_with() {
        let ends = Ends::open().unwrap();
        assert_eq!(rustix::pipe::fcntl_getpipe_size(&ends.read), Ok(KERNEL_PIPE_BYTES));
    }
}
