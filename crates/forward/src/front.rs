//! A client's connection from its first byte to its last: idle, a request, idle again.
//!
//! While it is idle, a connection is a small future without buffers. When bytes arrive and it is its turn, the working
//! state is allocated; it stays for [`WARM`] after a response, so that steady traffic allocates nothing. While others wait
//! for a turn it does not stay: the next of them gets the very memory, which is in the processor's cache.

use std::{
    future::{Future, poll_fn},
    mem,
    pin::pin,
    task::Poll,
    time::{Duration, Instant},
};

use ringfence_http1::{HeadError, HeadScan, RequestHead};

use crate::{
    counters::count,
    environment::{Environment, before, within},
    exchange::{Exchange, Next, Paces},
    inbox::Inbox,
    limits::{LINGER_SILENCE, RELAY_BUFFER_BYTES, WARM},
    peer::Peer,
    relay::read_now,
    respond::Refusal,
    transport::{Transport, socket::looking_at_sockets},
    turns::Turn,
    worker::{Live, Worker},
};

/// Serves requests until either side ends the connection.
pub(crate) async fn serve_connection<E: Environment, T: Transport>(
    worker: &Worker<E>,
    client: &T,
    peer: &Peer,
) {
    let _registration = worker.wakers.register().await;
    // The first request has to begin soon; between two there may be a pause.
    let mut patience = worker.live.borrow().snapshot.timeouts.header_read;
    let mut has_rested = false;
    loop {
        match idle(worker, client, patience).await {
            Idle::Readable => {}
            Idle::Over => {
                say_goodbye(worker, client).await;
                return;
            }
        }
        if has_rested {
            client.rested();
        }
        let arrived = worker.env.now();
        // Before anything is taken for it.
        if worker.env.is_crowded() {
            worker.env.give_way(Turn::Request).await;
        }
        // Boxed, so that an idle connection does not carry the size of a busy one.
        match Box::pin(serve_busy(worker, client, peer, arrived)).await {
            Busy::Quiet => has_rested = true,
            Busy::Aside => has_rested = false,
            Busy::Ended => return,
        }
        patience = worker.live.borrow().snapshot.timeouts.keep_alive_idle;
    }
}

enum Idle {
    Readable,
    /// Too long, or the worker is draining.
    Over,
}

/// Waits for bytes of the client.
async fn idle<E: Environment>(worker: &Worker<E>, client: &impl Transport, patience: Duration) -> Idle {
    let readable = poll_fn(|cx| {
        if client.poll_readable(cx).is_ready() {
            return Poll::Ready(Idle::Readable);
        }
        if !worker.draining.get() {
            return Poll::Pending;
        }
        // A request that has come is served, also when the ring has not told of it yet.
        Poll::Ready(match looking_at_sockets(|| client.poll_readable(cx)) {
            Poll::Ready(()) => Idle::Readable,
            Poll::Pending => Idle::Over,
        })
    });
    within(&worker.env, patience, readable).await.unwrap_or(Idle::Over)
}

enum Busy {
    /// Nothing has come for a while.
    Quiet,
    /// It is another's turn.
    Aside,
    /// The connection is over.
    Ended,
}

/// Serves requests, of which the first arrived at `arrived`, for as long as they come at once.
async fn serve_busy<E: Environment, T: Transport>(
    worker: &Worker<E>,
    client: &T,
    peer: &Peer,
    arrived: Instant,
) -> Busy {
    let mut inbox = Inbox::default();
    let paces = Paces::new(&worker.live.borrow().snapshot);
    let mut started = arrived;
    loop {
        let live = worker.live.borrow().clone();
        // Taken anew for each request: what was last given back is still in the processor's cache.
        let mut head = worker.request_head();
        let read = read_head(worker, &live, client, &mut inbox, &mut head).await;
        let exchange = Exchange::new(worker, &live, peer, client, &paces, &head, started);
        let next = match read {
            HeadRead::Complete => {
                let unfinished = Unfinished(client);
                let next = exchange.run(&mut inbox).await;
                mem::forget(unfinished);
                next
            }
            HeadRead::Refused(refusal) => exchange.refuse_head(refusal, inbox.bytes()).await,
            HeadRead::Closed => Next::Close("client-closed"),
        };
        if !matches!(read, HeadRead::Closed) {
            count(&worker.counters.requests);
        }
        let linger_max = live.snapshot.timeouts.linger;
        drop(head);
        match next {
            Next::Continue => {}
            Next::Close(_) if inbox.is_empty() => {
                close(worker, client, linger_max).await;
                return Busy::Ended;
            }
            // It has sent more than it was answered; what it still sends must not reset its answer away.
            Next::Close(_) | Next::Linger(_) => {
                linger(worker, client, linger_max).await;
                return Busy::Ended;
            }
            Next::Abort(_) => {
                client.abort();
                return Busy::Ended;
            }
        }
        if inbox.is_empty() {
            if worker.env.is_crowded() {
                return Busy::Aside;
            }
            if !matches!(idle(worker, client, WARM).await, Idle::Readable) {
                return Busy::Quiet;
            }
            if worker.env.is_crowded() {
                return Busy::Aside;
            }
            started = worker.env.now();
        } else {
            started = worker.env.now();
            // Pipelined requests take turns with other connections.
            worker.env.give_way(Turn::Pipelined).await;
        }
    }
}

/// An exchange under way: if it is dropped there, by a panic or at the end of a drain, its connection is cut. An answer
/// that ends when the connection closes would look complete otherwise.
struct Unfinished<'a, T: Transport>(&'a T);

impl<T: Transport> Drop for Unfinished<'_, T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum HeadRead {
    /// It stands at the start of the inbox.
    Complete,
    /// It cannot be served.
    Refused(Refusal),
    /// The client closed before it was complete.
    Closed,
}

/// Reads until the inbox starts with a whole head, and parses it.
async fn read_head<E: Environment>(
    worker: &Worker<E>,
    live: &Live<E>,
    client: &impl Transport,
    inbox: &mut Inbox,
    head: &mut RequestHead,
) -> HeadRead {
    let limits = &live.snapshot.limits.head;
    let mut scan = HeadScan::new();
    let mut deadline = None::<Instant>;
    loop {
        let error = match head.read(inbox.bytes(), &mut scan, limits) {
            Ok(true) => return HeadRead::Complete,
            Ok(false) => match read_more(worker, live, client, inbox, &mut deadline).await {
                More::Some => continue,
                More::Closed => return HeadRead::Closed,
                More::Late if inbox.bytes().len() <= scan.skipped() => return HeadRead::Closed,
                More::Late => {
                    // For the log: what can be told of the request line.
                    let _ = head.parse(inbox.bytes(), limits);
                    return HeadRead::Refused(Refusal::RequestTimeout);
                }
            },
            Err(error) => error,
        };
        tracing::debug!(%error, "request refused");
        return HeadRead::Refused(refusal_of(error));
    }
}

enum More {
    Some,
    Closed,
    Late,
}

/// Reads some bytes into the inbox. The time for a head runs from the first time that it was not complete.
async fn read_more<E: Environment>(
    worker: &Worker<E>,
    live: &Live<E>,
    client: &impl Transport,
    inbox: &mut Inbox,
    deadline: &mut Option<Instant>,
) -> More {
    let room_max = live.snapshot.limits.head.head_bytes_max + RELAY_BUFFER_BYTES;
    loop {
        if let Some(room) = inbox.room(&worker.buffers, room_max) {
            match read_now(client, room).await {
                Some(Ok(0) | Err(_)) => return More::Closed,
                Some(Ok(read)) => {
                    inbox.fill(read);
                    return More::Some;
                }
                None => inbox.release_if_empty(),
            }
        } else {
            // Never full: the scan refuses a head before it fills the room (see `head_bytes_cap`).
            return More::Late;
        }
        let at = *deadline.get_or_insert_with(|| worker.env.recently() + live.snapshot.timeouts.header_read);
        if before(&worker.env, at, client.readable()).await.is_err() {
            return More::Late;
        }
    }
}

pub(crate) fn refusal_of(error: HeadError) -> Refusal {
    match error.suggested_status() {
        414 => Refusal::TargetTooLong,
        417 => Refusal::ExpectationFailed,
        431 => Refusal::HeadTooLarge,
        501 => Refusal::NotImplemented,
        505 => Refusal::VersionNotSupported,
        _ => Refusal::Malformed,
    }
}

/// Says that nothing more is sent. Returns whether that is with the kernel: a client that reads nothing does not hold
/// up the end of its connection for long.
async fn say_goodbye<E: Environment>(worker: &Worker<E>, client: &impl Transport) -> bool {
    client.bound_afterlife(worker.live.borrow().snapshot.timeouts.downstream_silence);
    matches!(within(&worker.env, LINGER_SILENCE, client.close_write()).await, Ok(Ok(())))
}

/// Ends a connection whose client is not expected to send more. If it does all the same, a plain close would reset the
/// connection and could take the last response with it.
async fn close<E: Environment>(worker: &Worker<E>, client: &impl Transport, linger_max: Duration) {
    if !say_goodbye(worker, client).await {
        return;
    }
    let mut byte = [0];
    if matches!(read_now(client, &mut byte).await, Some(Ok(1))) {
        linger(worker, client, linger_max).await;
    }
}

/// Ends a connection whose client may still be sending: reads and forgets until it closes, falls silent or
/// `linger_max` is over, so that it comes to read its answer (RFC 9112 §9.6).
pub(crate) async fn linger<E: Environment>(
    worker: &Worker<E>,
    client: &impl Transport,
    linger_max: Duration,
) {
    client.bound_afterlife(worker.live.borrow().snapshot.timeouts.downstream_silence);
    let (env, deadline) = (&worker.env, worker.env.recently() + linger_max);
    let mut forget = pin!(async {
        if client.close_write().await.is_err() {
            return;
        }
        while within(env, LINGER_SILENCE, client.readable()).await.is_ok() {
            let mut buffer = worker.buffers.take(RELAY_BUFFER_BYTES);
            match read_now(client, &mut buffer).await {
                Some(Ok(0) | Err(_)) => return,
                Some(Ok(read)) if env.spend(read) => {
                    drop(buffer);
                    env.give_way(Turn::Bulk).await;
                }
                _ => {}
            }
        }
    });
    let _ = before(env, deadline, poll_fn(|cx| forget.as_mut().poll(cx))).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{environment::Ring, transport::socket::Socket};

    fn future_size<A, B, C, D, F>(_: impl FnOnce(A, B, C, D) -> F) -> usize {
        size_of::<F>()
    }

    /// What a connection takes while it is busy, without its buffers.
    #[test]
    fn the_state_of_a_busy_connection_is_small() {
        let size = future_size(
            |worker: &'static Worker<Ring>, client: &'static Socket, peer: &'static Peer, arrived| {
                serve_busy(worker, client, peer, arrived)
            },
        );
        println!("busy connection: {size} bytes");
        assert!(size <= 5632, "{size} bytes");
    }
}
