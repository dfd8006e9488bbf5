//! Connections that a balancer opens for its clients, and begins by saying for whom: the PROXY protocol.

use std::{future::poll_fn, io, net::SocketAddr, os::fd::OwnedFd, rc::Rc};

use super::{is_exempt, may_be_told, turn_away};
use crate::{
    counters::count,
    environment::{Ring, within},
    gate::Pass,
    proxy_protocol::{self, HEADER_BYTES_MAX, Malformed},
    transport::{Transport, socket::Socket},
    worker::Worker,
};

/// The client of a connection that `balancer` has opened: what its header says, or the balancer itself. From here on the
/// connection counts as that client's. `None`: it ends here.
pub(super) async fn client(
    worker: &Rc<Worker<Ring>>,
    connection: &OwnedFd,
    balancer: SocketAddr,
    listener: usize,
    pass: &mut Pass,
) -> Option<SocketAddr> {
    // Waits of its own, which end with the header; fails only when descriptors run out.
    let socket = connection.try_clone().and_then(Socket::new).ok()?;
    let live = worker.live.borrow().clone();
    let limit = live.snapshot.timeouts.header_read;
    let fault = match within(&worker.env, limit, worker.unless_draining(read_header(&socket))).await {
        Ok(None | Some(Ok(Announced::Nothing))) => return None,
        Ok(Some(Ok(Announced::Own))) => return Some(balancer),
        Ok(Some(Ok(Announced::Client(client)))) => {
            let exempt = is_exempt(&live.snapshot, client.ip());
            let Err(refusal) = pass.hand_to(client.ip(), exempt, &live.snapshot.limits) else {
                return Some(client);
            };
            count(&worker.counters.connections_refused);
            count(&worker.counters.refusals[refusal as usize]);
            if may_be_told(worker, &live.snapshot, listener) {
                turn_away(worker, &socket, refusal, client.ip()).await;
            }
            return None;
        }
        Ok(Some(Err(fault))) => fault.to_string(),
        Err(_) => "no PROXY header in time".to_owned(),
    };
    count(&worker.counters.proxy_headers_refused);
    tracing::debug!(peer = %balancer, fault, "connection of a balancer closed");
    None
}

enum Announced {
    /// The connection is this client's.
    Client(SocketAddr),
    /// It is the balancer's own, such as a check of health.
    Own,
    /// It was closed without a byte: a simpler check.
    Nothing,
}

/// Reads the header, and not a byte behind it: what follows may be a TLS handshake, which is read elsewhere.
///
/// Looks at what has arrived and takes what is known to belong to the header, so that nothing that was seen wakes this again.
async fn read_header(socket: &Socket) -> io::Result<Announced> {
    let mut bytes = vec![0; HEADER_BYTES_MAX];
    let mut read = 0;
    loop {
        let seen = match poll_fn(|cx| socket.poll_peek(cx, &mut bytes[read..])).await {
            Ok(0) | Err(_) if read == 0 => return Ok(Announced::Nothing),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            seen => seen?,
        };
        let header = proxy_protocol::parse(&bytes[..read + seen]).map_err(malformed)?;
        let until = header.map_or(read + seen, |header| header.length);
        while read < until {
            match socket.read(&mut bytes[read..until]).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                count => read += count,
            }
        }
        if let Some(header) = header {
            return Ok(header.client.map_or(Announced::Own, Announced::Client));
        }
    }
}

fn malformed(fault: Malformed) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, fault.to_string())
}
