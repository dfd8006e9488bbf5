//! Origins: sound ones and all the others.

use std::{
    cell::{Cell, RefCell},
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    task::Poll,
};

use super::{
    message::{Body, Framing, Head, Parsed},
    reply::{Reply, Stop},
    wire::Log,
    world::World,
};
use crate::transport::{Transport, pipe::Pipe};

/// The books of one connection to an origin.
pub(super) struct OriginRecord {
    /// What the proxy did on it.
    pub(super) log: Rc<Log>,
    /// What the origin answered, request by request.
    pub(super) replies: RefCell<Vec<Rc<Reply>>>,
    /// Bytes sent.
    pub(super) sent: Cell<usize>,
}

impl OriginRecord {
    pub(super) fn new(log: Rc<Log>) -> OriginRecord {
        OriginRecord { log, replies: RefCell::default(), sent: Cell::default() }
    }
}

/// Serves a connection until either side ends it.
pub(super) async fn serve(world: Rc<World>, pipe: Pipe, record: Rc<OriginRecord>) {
    let mut origin = Origin { world, pipe, record, inbox: Vec::new() };
    while origin.serve_one().await.is_some() {}
}

struct Origin {
    world: Rc<World>,
    pipe: Pipe,
    record: Rc<OriginRecord>,
    inbox: Vec<u8>,
}

/// Of a request, when an answer is given.
#[derive(Clone, Copy, PartialEq, Eq)]
enum When {
    Head,
    Part,
    All,
}

impl Origin {
    /// `None`: the connection is over.
    async fn serve_one(&mut self) -> Option<()> {
        self.rest_between().await?;
        let head = self.read_head().await?;
        let method = head.start_line.split(' ').next().unwrap_or_default().to_owned();
        let Ok(framing) = head.request_framing() else { return None };
        let id = head.exchange()?;
        let when = if self.world.rng.once_in(8) { When::Head } else { When::All };
        let when = if when == When::All && self.world.rng.once_in(10) { When::Part } else { when };
        let reply = Rc::new(Reply::draw(&self.world, id, &method, self.record.sent.get()));
        self.record.replies.borrow_mut().push(reply.clone());
        if head.field("expect").is_some() && self.world.rng.once_in(2) {
            self.send(&reply, b"HTTP/1.1 100 Continue\r\n\r\n").await?;
            reply.starts_later(self.record.sent.get());
        }
        match when {
            When::Head => {}
            When::Part if Body::parse(framing, &self.inbox).ok()?.ended => {}
            When::Part => self.read_some().await?,
            When::All => self.read_body(framing).await?,
        }
        self.answer(&reply).await?;
        if when != When::All {
            // Whoever answers early and stays has to take the rest.
            self.read_body(framing).await?;
        }
        self.inbox.drain(..Body::parse(framing, &self.inbox).ok()?.consumed);
        self.send_extra(&reply).await
    }

    /// Between two requests an origin may leave, also at the very moment when the next one comes.
    async fn rest_between(&mut self) -> Option<()> {
        let is_first = self.record.replies.borrow().is_empty();
        // What it has read already it answers.
        if self.world.calm || is_first || !self.inbox.is_empty() || !self.world.rng.once_in(5) {
            return Some(());
        }
        if self.world.rng.once_in(2) {
            let world = self.world.clone();
            let mut patience =
                pin!(async { if world.rng.once_in(2) { world.rest().await } else { world.dawdle().await } });
            return poll_fn(|cx| match self.pipe.poll_readable(cx) {
                Poll::Ready(()) => Poll::Ready(Some(())),
                Poll::Pending => patience.as_mut().poll(cx).map(|()| None),
            })
            .await;
        }
        self.pipe.readable().await;
        if self.world.rng.once_in(2) {
            self.read_some().await?;
        }
        None
    }

    async fn read_head(&mut self) -> Option<Head> {
        loop {
            match Head::parse(&self.inbox) {
                Parsed::Whole(head) => {
                    self.inbox.drain(..head.len);
                    return Some(head);
                }
                Parsed::Partial => self.read_some().await?,
                // The judge will see it too.
                Parsed::Wrong(_) => return None,
            }
        }
    }

    async fn read_body(&mut self, framing: Framing) -> Option<()> {
        while !Body::parse(framing, &self.inbox).ok()?.ended {
            self.read_some().await?;
        }
        Some(())
    }

    async fn read_some(&mut self) -> Option<()> {
        let mut buffer = [0; 4096];
        if self.world.rng.once_in(30) {
            self.world.rest().await;
        }
        match self.pipe.read(&mut buffer).await {
            Ok(0) | Err(_) => None,
            Ok(read) => {
                self.inbox.extend_from_slice(&buffer[..read]);
                Some(())
            }
        }
    }

    /// Sends the reply, or as much of it as the seed allows.
    async fn answer(&mut self, reply: &Reply) -> Option<()> {
        if reply.dawdles {
            self.world.dawdle().await;
        }
        match reply.stop {
            None => self.send(reply, &reply.wire).await?,
            Some((at, stop)) => {
                self.send(reply, &reply.wire[..at]).await?;
                return self.stop(stop).await;
            }
        }
        reply.whole.set(true);
        if reply.reusable {
            return Some(());
        }
        // A `close` is kept, unless nothing of it was in the head.
        let _ = self.pipe.close_write().await;
        reply.closed.set(true);
        // Reads what is still on its way, so that nothing of the reply is lost.
        while self.read_some().await.is_some() {}
        None
    }

    async fn stop(&self, stop: Stop) -> Option<()> {
        match stop {
            Stop::Close => {}
            Stop::Reset => self.pipe.abort(),
            Stop::Silence => poll_fn(|cx| self.pipe.poll_ended(cx)).await,
        }
        None
    }

    async fn send(&self, reply: &Reply, bytes: &[u8]) -> Option<()> {
        let rng = &self.world.rng;
        let mut rest = bytes;
        while !rest.is_empty() {
            if reply.pauses && rng.once_in(8) {
                if reply.dawdles { self.world.dawdle().await } else { self.world.rest().await }
            }
            let piece = rng.between(1, reply.piece_bytes_max).min(rest.len());
            self.record.sent.set(self.record.sent.get() + piece);
            self.pipe.write_all(&rest[..piece]).await.ok()?;
            rest = &rest[piece..];
        }
        Some(())
    }

    /// Bytes that belong to nothing. Once the next request is on its way nobody could tell them from its answer.
    async fn send_extra(&self, reply: &Reply) -> Option<()> {
        if reply.extra.is_empty() {
            return Some(());
        }
        if reply.pauses {
            self.world.rest().await;
        }
        if self.pipe.unread() == 0 && self.inbox.is_empty() {
            self.record.sent.set(self.record.sent.get() + reply.extra.len());
            self.pipe.write_all(&reply.extra).await.ok()?;
        }
        Some(())
    }
}
