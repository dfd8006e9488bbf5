//! A connection to an upstream server: a socket, or TLS over one.

use std::{
    io::{self, IoSlice},
    task::{Context, Poll},
    time::Duration,
};

use super::{Transport, socket::Socket, socket::looking_at_sockets, tls::Tls};

/// Plain or not.
pub enum UpstreamStream {
    /// The bytes of the socket are those of the exchange.
    Plain(Socket),
    /// Boxed: plain connections should not have the room for it.
    Tls(Box<Tls<Socket>>),
}

impl UpstreamStream {
    /// Whether nothing has come by now that an exchange would read: a look at the socket itself, one system call where
    /// nothing has come at all.
    ///
    /// A server that speaks TLS 1.3 issues tickets when it likes, which are not meant for the exchange.
    pub fn is_quiet(&self) -> bool {
        match self {
            UpstreamStream::Plain(socket) => socket.is_quiet(),
            UpstreamStream::Tls(tls) => looking_at_sockets(|| tls.is_quiet()),
        }
    }
}

macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream {
            UpstreamStream::Plain($inner) => $call,
            UpstreamStream::Tls($inner) => $call,
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
        either!(self, stream => stream.rested());
    }
}
