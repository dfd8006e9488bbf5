//! Whose connection this is, for an upstream that wants to be told by the PROXY protocol.

use std::net::SocketAddr;

use super::Exchange;
use crate::{environment::Environment, fields::Client, proxy_protocol, transport::Transport};

impl<E: Environment, T: Transport> Exchange<'_, E, T> {
    /// What a connection to this upstream begins with.
    ///
    /// The client is the one that the origin is told of in `X-Forwarded-For` too; where another proxy has told of it, its port
    /// is not known, and 0.
    pub(super) fn announcement(&self, upstream: usize, client: Client) -> Option<Vec<u8>> {
        let snapshot = &self.live.snapshot;
        if !snapshot.upstreams[upstream].sends_proxy_header {
            return None;
        }
        let peer = self.peer.address;
        let port = if client.address == peer.ip() { peer.port() } else { 0 };
        let listener = snapshot.listeners[self.peer.listener].address;
        Some(proxy_protocol::header(SocketAddr::new(client.address, port), listener))
    }
}
