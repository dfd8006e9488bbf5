//! The pure stages of an exchange one by one, for `benches/`: nobody else is meant to use them.
//!
//! What `exchange` does between its waits, with the same functions in the same order.

use std::{net::IpAddr, sync::Arc};

use ringfence_http1::{OutgoingHead, RequestHead, ResponseHead};

use crate::{
    fields::{self, Client, Forwarded, Returned},
    request_id::{RequestId, RequestIds},
    route,
    snapshot::{Rule, Snapshot},
};

/// What these stages need of a worker.
pub struct Stages {
    snapshot: Arc<Snapshot>,
    request_id: RequestId,
    date: &'static str,
}

impl Stages {
    /// For requests that come in through the first listener of this configuration.
    pub fn new(snapshot: Arc<Snapshot>) -> Stages {
        Stages { snapshot, request_id: RequestIds::new().next(), date: "Sun, 06 Nov 1994 08:49:37 GMT" }
    }

    /// Finds the rule for a request; `None`: it is refused.
    pub fn rule(&self, peer: IpAddr, head: &RequestHead, head_bytes: &[u8]) -> Option<&Rule> {
        let client = self.client(peer, head, head_bytes);
        let listener = &self.snapshot.listeners[0];
        route::lookup(&self.snapshot, listener, client, head, head_bytes).ok().map(|routed| routed.rule)
    }

    /// Builds the head for the origin.
    pub fn outgoing_request(
        &self,
        peer: IpAddr,
        head: &RequestHead,
        head_bytes: &[u8],
        out: &mut OutgoingHead,
    ) {
        let client = self.client(peer, head, head_bytes);
        let host = &self.snapshot.sites[0].host;
        fields::request(head, head_bytes, &Forwarded { client, request_id: &self.request_id, host }, out);
    }

    /// Builds the head for the client, on a connection that goes on.
    pub fn outgoing_response(&self, head: &ResponseHead, out: &mut OutgoingHead) {
        let date = Some(self.date);
        let framing = head.framing();
        fields::response(head, &Returned { request_id: &self.request_id, framing, close: false, date }, out);
    }

    fn client(&self, peer: IpAddr, head: &RequestHead, head_bytes: &[u8]) -> Client {
        fields::client(peer, b"https", &self.snapshot.trusted_proxies, head, head_bytes)
    }
}
