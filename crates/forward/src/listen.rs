//! Listening sockets: bound by the control plane, one for each worker and address (`SO_REUSEPORT`), accepted from by
//! their worker alone.

mod announced;

use std::{
    future::{Future, poll_fn},
    io,
    net::{IpAddr, SocketAddr},
    os::fd::OwnedFd,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use ringfence_tls::{ServerConfig, SessionError};
use socket2::{Domain, Socket as Socket2, Type};

use crate::{
    counters::{Handshake, count},
    environment::{Environment, Ring, before, within},
    front,
    gate::{Gate, Pass},
    limits::{ACCEPT_PAUSE, ACCEPTS_PER_TURN, CONNECTING_MAX, LISTEN_BACKLOG, TURN_AWAY, TURNED_AWAY_MAX},
    peer::Peer,
    respond::{Refusal, reason_phrase},
    snapshot::{Snapshot, contains},
    transport::{
        Transport,
        socket::{self, Socket},
        tls::{HandshakeError, Tls},
    },
    turns::Turn,
    worker::Worker,
};

/// Binds `address` once for each worker.
///
/// A `[::]` address takes IPv4 as well. An address that another process listens on is an error, although the kernel
/// would let two processes of one user share it.
pub fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<OwnedFd>> {
    // Bound and no more: who connected to it while it listened would be reset.
    drop(bound_socket(address, false)?);
    (0..workers)
        .map(|_| {
            let socket = bound_socket(address, true)?;
            socket.listen(LISTEN_BACKLOG)?;
            Ok(socket.into())
        })
        .collect()
}

fn bound_socket(address: SocketAddr, shared: bool) -> io::Result<Socket2> {
    let socket = Socket2::new(Domain::for_address(address), Type::STREAM.nonblocking().cloexec(), None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket::bound_unsent(&socket)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Accepts connections until the worker drains or hands over, or the listener is configured no more. `is_lent`: somebody
/// else holds the socket too, and goes on listening.
pub(crate) async fn accept_loop(
    worker: Rc<Worker<Ring>>,
    gate: Arc<Gate>,
    socket: Socket,
    listener: usize,
    is_lent: bool,
) {
    let _registration = worker.wakers.register().await;
    // Descriptors or memory are short; told when it begins and when it ends.
    let mut starved = false;
    let mut accept = || accept_some(&worker, &gate, &socket, listener, &mut starved);
    loop {
        let closed = poll_fn(|cx| match socket.poll_readable(cx) {
            _ if worker.is_closed(listener) => Poll::Ready(true),
            Poll::Ready(()) => Poll::Ready(false),
            Poll::Pending => Poll::Pending,
        });
        if closed.await {
            break;
        }
        if accept() == Backlog::OutOfReach {
            monoio::time::sleep(ACCEPT_PAUSE).await;
        }
        worker.env.give_way(Turn::Accept).await;
    }
    let is_ours_alone = !is_lent && !worker.handed_over.get();
    if is_ours_alone {
        socket.begin_no_connection();
        // Who has begun to connect would be reset in the middle of it.
        let until = worker.env.recently() + CONNECTING_MAX;
        while !worker.draining.get()
            && worker.env.recently() < until
            && before(&worker.env, until, socket.readable()).await.is_ok()
        {
            if accept() == Backlog::OutOfReach {
                monoio::time::sleep(ACCEPT_PAUSE).await;
            }
            worker.env.give_way(Turn::Accept).await;
        }
    }
    // Whoever holds it too will serve what waits there.
    let is_left_to_others = is_lent && worker.draining.get();
    if !is_left_to_others {
        // Who has connected in time would be reset. As many as a backlog holds: others may come faster than they are accepted.
        for _ in 0..LISTEN_BACKLOG as usize / ACCEPTS_PER_TURN {
            if accept() != Backlog::MayHoldMore {
                break;
            }
        }
    }
    if is_ours_alone {
        // Dropping it is not enough: the ring's own hold on it would keep the backlog filling.
        socket.stop_listening();
    }
    worker.has_stopped_accepting(listener);
}

/// What is known of a backlog after some of it was accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Backlog {
    Empty,
    MayHoldMore,
    /// Nothing can be accepted at present.
    OutOfReach,
}

/// Accepts as many connections as one turn has.
fn accept_some(
    worker: &Rc<Worker<Ring>>,
    gate: &Arc<Gate>,
    socket: &Socket,
    listener: usize,
    starved: &mut bool,
) -> Backlog {
    for _ in 0..ACCEPTS_PER_TURN {
        match socket.accept() {
            Ok((connection, Some(address))) => {
                if std::mem::take(starved) {
                    tracing::warn!("connections are accepted again");
                }
                admit(worker, gate, connection, address, listener);
            }
            Ok((_, None)) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Backlog::Empty,
            // The client gave up between its handshake and now.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                if !std::mem::replace(starved, true) {
                    tracing::warn!(%error, "cannot accept connections; trying again every {ACCEPT_PAUSE:?}");
                }
                return Backlog::OutOfReach;
            }
        }
    }
    Backlog::MayHoldMore
}

fn admit(
    worker: &Rc<Worker<Ring>>,
    gate: &Arc<Gate>,
    connection: OwnedFd,
    address: SocketAddr,
    listener: usize,
) {
    let address = SocketAddr::new(address.ip().to_canonical(), address.port());
    let live = worker.live.borrow().clone();
    let snapshot = &live.snapshot;
    let is_proxy = is_exempt(snapshot, address.ip());
    let balancers = snapshot.listeners[listener].proxy_protocol_from.as_deref();
    if balancers.is_some_and(|balancers| !contains(balancers, address.ip())) {
        count(&worker.counters.proxy_headers_refused);
        tracing::debug!(peer = %address, "no balancer of this listener");
        return;
    }
    // Whose it is a balancer says in its first bytes.
    match gate.admit(address.ip(), is_proxy || balancers.is_some(), &snapshot.limits) {
        Ok(pass) => {
            count(&worker.counters.connections);
            worker.open.set(worker.open.get() + 1);
            let worker = worker.clone();
            match balancers {
                None => drop(monoio::spawn(async move {
                    serve(&worker, connection, address, listener, pass).await;
                })),
                // A task of its own, since it is larger.
                Some(_) => drop(monoio::spawn(async move {
                    serve_announced(&worker, connection, address, listener, pass).await;
                })),
            }
        }
        Err(refusal) => {
            count(&worker.counters.connections_refused);
            count(&worker.counters.refusals[refusal as usize]);
            // Fails only when descriptors run out; there is nobody to tell.
            let Ok(socket) = Socket::new(connection) else { return };
            if may_be_told(worker, snapshot, listener) {
                let worker = worker.clone();
                monoio::spawn(async move { turn_away(&worker, &socket, refusal, address.ip()).await });
            }
        }
    }
}

/// Whether connections of this address are not counted against its limit: a load balancer is not one client, and who is
/// exempt from limits is from this one too.
fn is_exempt(snapshot: &Snapshot, address: IpAddr) -> bool {
    contains(&snapshot.trusted_proxies, address) || contains(&snapshot.rate_limits.exempt, address)
}

/// Whether a client over a limit is told so. Over TLS an answer would cost a handshake, which is what the limit is there
/// to save.
fn may_be_told(worker: &Worker<Ring>, snapshot: &Snapshot, listener: usize) -> bool {
    snapshot.listeners[listener].tls.is_none() && worker.turned_away.get() < TURNED_AWAY_MAX
}

/// Serves one connection. A panic on the way ends this connection and nothing else.
async fn serve(
    worker: &Rc<Worker<Ring>>,
    connection: OwnedFd,
    address: SocketAddr,
    listener: usize,
    pass: Pass,
) {
    let _pass = pass;
    let mut connection = pin!(serve_socket(worker, connection, address, listener));
    poll_fn(|cx| poll_caught(worker, connection.as_mut(), cx)).await;
    worker.open.set(worker.open.get() - 1);
}

/// Serves one connection that a balancer has opened for somebody, who is told first.
async fn serve_announced(
    worker: &Rc<Worker<Ring>>,
    connection: OwnedFd,
    balancer: SocketAddr,
    listener: usize,
    mut pass: Pass,
) {
    let mut connection = pin!(async {
        let client = announced::client(worker, &connection, balancer, listener, &mut pass);
        if let Some(client) = Box::pin(client).await {
            serve_socket(worker, connection, client, listener).await;
        }
    });
    poll_fn(|cx| poll_caught(worker, connection.as_mut(), cx)).await;
    worker.open.set(worker.open.get() - 1);
}

/// Polls what serves one client; a panic in it is counted and ends it. The panic hook has logged what and where.
fn poll_caught(
    worker: &Worker<Ring>,
    task: Pin<&mut impl Future<Output = ()>>,
    cx: &mut Context<'_>,
) -> Poll<()> {
    catch_unwind(AssertUnwindSafe(|| task.poll(cx))).unwrap_or_else(|_| {
        count(&worker.counters.panics);
        Poll::Ready(())
    })
}

async fn serve_socket(worker: &Rc<Worker<Ring>>, connection: OwnedFd, address: SocketAddr, listener: usize) {
    // Both fail only when the client is gone already or descriptors run out; there is nobody to tell.
    let Ok(()) = socket::prepare_accepted(&connection) else { return };
    let Ok(socket) = Socket::new(connection) else { return };
    let config = worker.live.borrow().snapshot.listeners[listener].tls.clone();
    let peer = Peer { listener, address, tls: None };
    match config {
        None => front::serve_connection(&**worker, &socket, &peer).await,
        Some(config) => serve_tls(worker, socket, config, peer).await,
    }
}

async fn serve_tls(worker: &Rc<Worker<Ring>>, socket: Socket, config: Arc<ServerConfig>, mut peer: Peer) {
    // Boxed once: a future that holds it by value holds it several times over.
    let client = Box::new(Tls::new(socket, config, worker.buffers.clone()));
    let limit = worker.live.borrow().snapshot.timeouts.tls_handshake;
    // Boxed: the handshake's size is not carried through the life of the connection.
    let handshake = async {
        // Nothing is worked out for a client that says nothing.
        client.inner().readable().await;
        worker.env.give_way(Turn::Handshake).await;
        client.handshake().await
    };
    let handshake = Box::pin(within(&worker.env, limit, worker.unless_draining(handshake)));
    let failure = match handshake.await {
        Ok(None) => return,
        Ok(Some(Ok(version))) => {
            let kind = Handshake::of(version, client.resumed());
            count(&worker.counters.handshakes[kind as usize]);
            peer.tls = Some(version.as_str());
            return front::serve_connection(&**worker, &*client, &peer).await;
        }
        Ok(Some(Err(error))) => Some(error),
        Err(_) => None,
    };
    count(&worker.counters.handshakes_failed);
    tracing::debug!(peer = %peer.address, ?failure, "TLS handshake failed or took too long");
    if let Some(HandshakeError::Session(SessionError::PlainHttp)) = failure {
        Box::pin(tell(worker, client.inner(), Refusal::Malformed)).await;
    }
}

/// Tells a client over its limit so, without waiting for its request.
async fn turn_away(worker: &Rc<Worker<Ring>>, socket: &Socket, refusal: Refusal, client: IpAddr) {
    tracing::debug!(%client, ?refusal, "connection turned away");
    worker.turned_away.set(worker.turned_away.get() + 1);
    let mut telling = pin!(tell(worker, socket, refusal));
    poll_fn(|cx| poll_caught(worker, telling.as_mut(), cx)).await;
    worker.turned_away.set(worker.turned_away.get() - 1);
}

/// Sends one refusal outside any exchange, and lets the client read it.
async fn tell(worker: &Rc<Worker<Ring>>, socket: &Socket, refusal: Refusal) {
    let live = worker.live.borrow().clone();
    let answer = live.snapshot.refusals[0].of(refusal);
    let status_line = format!("HTTP/1.1 {} {}\r\n", answer.status, reason_phrase(answer.status));
    let framing = format!("Content-Length: {}\r\nConnection: close\r\n\r\n", answer.content.len());
    let response =
        [status_line.as_bytes(), &answer.field_lines, framing.as_bytes(), &answer.content].concat();
    // A new connection's send buffer takes it whole.
    if matches!(within(&worker.env, TURN_AWAY, socket.write_all(&response)).await, Ok(Ok(()))) {
        front::linger(&**worker, socket, TURN_AWAY).await;
    }
}

#[cfg(test)]
mod tests {
    use std::mem::size_of;

    use super::*;

    fn future_size<A, B, C, D, E, F>(_: impl FnOnce(A, B, C, D, E) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn a_panic_ends_its_connection_and_is_counted() {
        let snapshot = crate::simulation::any_snapshot();
        monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().enable_timer().build().unwrap().block_on(
            async move {
                let ring = Ring::start(crate::Driver::Epoll).unwrap();
                let allowances = crate::allowance::Allowances::new(std::time::Instant::now());
                let worker = Worker::new(ring, snapshot, None, Arc::default(), allowances, 1);
                let mut panics = pin!(async { panic!("on purpose") });
                poll_fn(|cx| poll_caught(&worker, panics.as_mut(), cx)).await;
                let mut goes_on = pin!(async {});
                poll_fn(|cx| poll_caught(&worker, goes_on.as_mut(), cx)).await;
                assert_eq!(worker.counters.panics.load(std::sync::atomic::Ordering::Relaxed), 1);
            },
        );
    }

    /// The task of a connection, TLS session included; what it needs while busy is allocated when it is.
    #[test]
    fn the_task_of_an_idle_connection_is_small() {
        let size = future_size(|worker: &'static Rc<Worker<Ring>>, connection, address, listener, pass| {
            serve(worker, connection, address, listener, pass)
        });
        println!("connection task: {size} bytes");
        assert!(size <= 896, "{size} bytes");
    }
}
