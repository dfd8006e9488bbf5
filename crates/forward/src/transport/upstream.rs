//! A connection to an upstream server: a socket, or TLS over one.

use std::{
    cell::Cell,
    io::{self, IoSlice},
    task::{Context, Poll, Waker},
    time::Duration,
};

use super::{Transport, socket::Socket, socket::looking_at_sockets, tls::Tls};

/// Plain or not.
pub enum UpstreamStream {
    /// The bytes of the socket are those of the exchange.
    Plain(Socket),
    /// Boxed: plain connections should not have the room for it.
    Tls(Box<OverTls>),
}

/// A TLS session with a server.
pub struct OverTls {
    tls: Tls<Socket>,
    /// Nothing was sent since the connection has rested: no exchange is cut when it ends.
    is_idle: Cell<bool>,
}

impl Drop for OverTls {
    /// An idle connection is closed in order (RFC 8446 §6.1): the server need not take it for cut. One in use is cut.
    fn drop(&mut self) {
        if self.is_idle.get() {
            // What the kernel does not take at once is not worth a wait.
            let _ = self.tls.poll_close_write(&mut Context::from_waker(Waker::noop()));
        }
    }
}

impl UpstreamStream {
    /// After the handshake.
    pub fn over_tls(tls: Tls<Socket>) -> UpstreamStream {
        UpstreamStream::Tls(Box::new(OverTls { tls, is_idle: Cell::new(true) }))
    }

    /// Whether nothing has come by now that an exchange would read: a look at the socket itself, one system call where
    /// nothing has come at all.
    ///
    /// A server that speaks TLS 1.3 issues tickets when it likes, which are not meant for the exchange.
    pub fn is_quiet(&self) -> bool {
        match self {
            UpstreamStream::Plain(socket) => socket.is_quiet(),
            UpstreamStream::Tls(session) => looking_at_sockets(|| session.tls.is_quiet()),
        }
    }
}

macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            UpstreamStream::Plain($inner) => $call,
            UpstreamStream::Tls(session) => {
                let $inner = &session.tls;
                $call
            }
        }
    };
}

impl Transport for UpstreamStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        either!(self, stream => stream.poll_readable(cx))
    }

    fn poll_read(&self, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        either!(self, stream => stream.poll_read(cx, buf))
    }

    fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        if let UpstreamStream::Tls(session) = self {
            session.is_idle.set(false);
        }
        either!(self, stream => stream.poll_write(cx, slices))
    }

    fn unsent(&self) -> usize {
        either!(self, stream => stream.unsent())
    }

    fn held(&self) -> usize {
        either!(self, stream => stream.held())
    }

    fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_flush(cx))
    }

    fn poll_close_write(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, stream => stream.poll_close_write(cx))
    }

    fn bound_afterlife(&self, silence_max: Duration) {
        either!(self, stream => stream.bound_afterlife(silence_max));
    }

    fn abort(&self) {
        either!(self, stream => stream.abort());
    }

    fn expect_bulk(&self) {
        either!(self, stream => stream.expect_bulk());
    }

    fn plain_socket(&self) -> Option<&Socket> {
        either!(self, stream => stream.plain_socket())
    }

    fn rested(&self) {
        if let UpstreamStream::Tls(session) = self {
            session.is_idle.set(true);
        }
        either!(self, stream => stream.rested());
    }
}
