//! Who is at the other end of a client's connection.

use std::net::SocketAddr;

/// The peer of a client's connection.
pub(crate) struct Peer {
    /// Index of the listener that accepted it.
    pub(crate) listener: usize,
    /// Its address; an IPv4 address that came through an IPv6 socket is an IPv4 address.
    pub(crate) address: SocketAddr,
    /// The TLS version, for the log; `None` without TLS.
    pub(crate) tls: Option<&'static str>,
}

impl Peer {
    /// The scheme that the client used.
    pub(crate) const fn scheme(&self) -> &'static [u8] {
        if self.tls.is_some() { b"https" } else { b"http" }
    }
}
