//! The seam between the exchange and the bytes: everything that reads or writes a connection does it here.
//!
//! A transport is polled, borrows the caller's buffers only during a call, and takes `&self`, so that one task
//! can read and write at once. Nothing is ever in flight inside a buffer: a wait can be dropped at any time.
//! [`socket`] waits through the ring (or epoll) and moves bytes by direct non-blocking system calls; [`tls`]
//! wraps another transport; [`upstream`] is one of the two; [`pipe`] is memory, for simulation.

mod fd;
pub mod pipe;
pub mod socket;
pub mod tls;
pub mod upstream;

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    task::{Context, Poll},
    time::Duration,
};

/// A connection: two independent byte streams.
///
/// At most one task polls each direction. Errors are final for their direction.
#[allow(async_fn_in_trait, reason = "one thread per core: no future here has to be Send")]
pub trait Transport {
    /// Ready when [`poll_read`](Self::poll_read) may make progress, including on end of stream or error.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Reads some bytes; zero is the end of the stream. `buf` is not empty.
    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>>;

    /// Takes some bytes, in the order of the slices; not zero unless the slices are empty.
    fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>>;

    /// Bytes that [`poll_write`](Self::poll_write) has taken and the kernel has not.
    fn unsent(&self) -> usize {
        0
    }

    /// Bytes that were written and have not reached the peer, as far as can be known.
    fn held(&self) -> usize;

    /// Hands some of the [unsent](Self::unsent) ones to the kernel; ready at once when there are none.
    fn poll_flush(&self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    /// Says that no more bytes will be written; reading goes on.
    fn poll_close_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;

    /// Bounds how long the kernel keeps what the peer does not take, also when the connection is closed: it would for
    /// minutes, and count it to nobody.
    fn bound_afterlife(&self, _silence_max: Duration) {}

    /// Makes the end of this connection look like the failure that it is: a reset, not an end of stream.
    fn abort(&self);

    /// Much is arriving: the kernel may hold more of it.
    fn expect_bulk(&self) {}

    /// The socket whose bytes are the very ones that this transport reads and writes; the kernel can then move them itself.
    fn plain_socket(&self) -> Option<&socket::Socket> {
        None
    }

    /// The connection has been idle for a while: whatever was tuned to its past does not hold any more.
    fn rested(&self) {}

    /// Waits until reading may make progress; holds no buffer.
    async fn readable(&self) {
        poll_fn(|cx| self.poll_readable(cx)).await;
    }

    /// Reads some bytes; zero is the end of the stream.
    async fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        poll_fn(|cx| self.poll_read(cx, buf)).await
    }

    /// Writes and flushes every byte of `bytes`.
    async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            written += poll_fn(|cx| self.poll_write(cx, &[IoSlice::new(&bytes[written..])])).await?;
        }
        self.flush().await
    }

    /// Waits until everything written is with the kernel.
    async fn flush(&self) -> io::Result<()> {
        while self.unsent() > 0 {
            poll_fn(|cx| self.poll_flush(cx)).await?;
        }
        Ok(())
    }

    /// Says that no more bytes will be written.
    async fn close_write(&self) -> io::Result<()> {
        poll_fn(|cx| self.poll_close_write(cx)).await
    }
}
