//! One peer: a homeserver or a client with its tickets and, perhaps, its connection.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use clap::ValueEnum;
use rustls::client::ClientConfig;

use crate::connection::Connection;
use crate::fault::Fault;
use crate::request::Request;
use crate::response::Response;
use crate::target::Target;
use crate::tls;
use crate::worker::Worker;

/// How a peer uses connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Handshake {
    /// One connection carries all requests.
    Keep,
    /// A connection for each request, and over TLS a full handshake.
    New,
    /// A connection for each request, resumed with a ticket of an earlier one.
    Resumed,
}

/// A peer.
pub(crate) struct Slot {
    /// Its number within the run: who it says it is.
    pub(crate) number: usize,
    handshake: Handshake,
    target: Rc<Target>,
    tls: Option<Arc<ClientConfig>>,
    source: Option<SocketAddr>,
    connection: Option<Connection>,
    has_connected: bool,
}

impl Slot {
    /// A peer without a connection.
    pub(crate) fn new(
        number: usize,
        handshake: Handshake,
        target: &Rc<Target>,
        shared: &Arc<ClientConfig>,
        source: Option<SocketAddr>,
    ) -> Slot {
        let tls = target.tls.then(|| tls::with_tickets(shared, handshake != Handshake::New));
        Slot {
            number,
            handshake,
            target: target.clone(),
            tls,
            source,
            connection: None,
            has_connected: false,
        }
    }

    /// Whether each request of it goes over a connection of its own.
    pub(crate) fn closes(&self) -> bool {
        self.handshake != Handshake::Keep
    }

    /// Opens the connection that it keeps.
    pub(crate) async fn open(&mut self, worker: &Worker) -> Result<(), Fault> {
        let (connection, handshake) =
            Connection::open(&self.target, self.tls.as_ref(), self.source, &worker.wire).await?;
        worker.count_opened(handshake);
        self.has_connected = true;
        self.connection = Some(connection);
        Ok(())
    }

    /// Its connection, now somebody else's.
    pub(crate) fn take_connection(&mut self) -> Option<Connection> {
        self.connection.take()
    }

    /// Sends a request and reads the response, over a new connection where there is none or it turns out to be
    /// closed. The connection is put back or closed by [`settle`](Self::settle), which is not part of the latency.
    pub(crate) async fn perform(&mut self, request: &Request, worker: &Worker) -> Result<Response, Fault> {
        let was_open = self.connection.is_some();
        match self.attempt(request, worker).await {
            // The peer closed while the request was on its way: that is nobody's fault (RFC 9112 §9.3.1).
            Err(Fault::Unanswered(_)) if was_open => self.attempt(request, worker).await,
            outcome => outcome,
        }
    }

    async fn attempt(&mut self, request: &Request, worker: &Worker) -> Result<Response, Fault> {
        if self.connection.is_none() {
            if self.has_connected && !self.closes() {
                worker.count(|counters| counters.reconnects += 1);
            }
            self.open(worker).await?;
        }
        let Some(mut connection) = self.connection.take() else {
            return Err(Fault::Framing("no connection"));
        };
        let mut response = Response::default();
        connection.exchange(request, &mut response, &worker.wire).await?;
        self.connection = Some(connection);
        Ok(response)
    }

    /// Keeps the connection for the next request, or closes it.
    pub(crate) async fn settle(&mut self, response: &Response, worker: &Worker) {
        if (self.closes() || !response.keeps_alive)
            && let Some(connection) = self.connection.take()
        {
            connection.close(&worker.wire).await;
        }
    }
}
