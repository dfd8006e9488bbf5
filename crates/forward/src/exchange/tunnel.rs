//! After 101 (Switching Protocols): bytes both ways, of whatever protocol.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Instant,
};

use super::Exchange;
use crate::{
    environment::{Environment, before},
    inbox::Inbox,
    limits::RELAY_BUFFER_BYTES,
    pace::Pace,
    relay::{self, Fault, Leftover, Message, read_now},
    transport::Transport,
    turns::Turn,
};

impl<E: Environment, T: Transport> Exchange<'_, E, T> {
    /// Moves bytes until both sides have closed, one has failed, or neither has sent for `tunnel_idle`. One side's
    /// closing is passed on; the other direction lives on. What has come already goes first.
    pub(super) async fn tunnel(&self, origin: &E::Stream, inbox: &mut Inbox, from_origin: Leftover) {
        let head_len = self.head.head_len();
        let timeouts = &self.live.snapshot.timeouts;
        let (up_pace, down_pace) =
            (Pace::patient(timeouts.upstream_silence), Pace::patient(timeouts.downstream_silence));
        let early = async {
            self.pass_early(origin, &up_pace, &inbox.bytes()[head_len..], &self.progress.bytes_in).await?;
            self.pass_early(self.client, &down_pace, from_origin.bytes(), &self.progress.bytes_out).await
        };
        if early.await.is_err() {
            return;
        }
        drop(from_origin);
        inbox.truncate(head_len);

        let moved_at = Cell::new(self.worker.env.recently());
        let mut up = pin!(self.carry(self.client, origin, &up_pace, &moved_at, &self.progress.bytes_in));
        let mut down = pin!(self.carry(origin, self.client, &down_pace, &moved_at, &self.progress.bytes_out));
        let (mut up_ended, mut down_ended) = (false, false);
        poll_fn(|cx| {
            let (up_poll, down_poll) =
                (poll_unless(up_ended, up.as_mut(), cx), poll_unless(down_ended, down.as_mut(), cx));
            for (ended, direction) in [(&mut up_ended, up_poll), (&mut down_ended, down_poll)] {
                match direction {
                    Poll::Ready(Err(_)) => return Poll::Ready(()),
                    Poll::Ready(Ok(())) => *ended = true,
                    Poll::Pending => {}
                }
            }
            if up_ended && down_ended { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    async fn pass_early(
        &self,
        to: &impl Transport,
        pace: &Pace,
        bytes: &[u8],
        count: &Cell<u64>,
    ) -> Result<(), Fault> {
        let message = Message { tail: [bytes, b"", b""], ..Message::default() };
        relay::send(&self.worker.env, to, &message, pace).await?;
        count.set(count.get() + bytes.len() as u64);
        Ok(())
    }

    /// One direction: until `from` closes, which `to` is then told.
    async fn carry(
        &self,
        from: &impl Transport,
        to: &impl Transport,
        pace: &Pace,
        moved_at: &Cell<Instant>,
        count: &Cell<u64>,
    ) -> Result<(), Fault> {
        let (env, timeouts) = (&self.worker.env, &self.live.snapshot.timeouts);
        loop {
            let since = moved_at.get();
            if before(env, since + timeouts.tunnel_idle, from.readable()).await.is_err() {
                if moved_at.get() == since {
                    return Err(Fault::SenderSilent);
                }
                continue;
            }
            let mut buffer = self.worker.buffers.take(RELAY_BUFFER_BYTES);
            let read = match read_now(from, &mut buffer).await {
                None => continue,
                Some(Err(_)) => return Err(Fault::SenderClosed),
                Some(Ok(0)) => {
                    return match pace.wait(env, to.close_write()).await {
                        Ok(Ok(())) => Ok(()),
                        Ok(Err(_)) => Err(Fault::ReceiverClosed),
                        Err(_) => Err(Fault::ReceiverSilent),
                    };
                }
                Some(Ok(read)) => read,
            };
            let message = Message { tail: [&buffer[..read], b"", b""], ..Message::default() };
            relay::send(env, to, &message, pace).await?;
            count.set(count.get() + read as u64);
            moved_at.set(env.recently());
            if env.spend(read) {
                env.give_way(Turn::Bulk).await;
            }
        }
    }
}

fn poll_unless<F: Future<Output = Result<(), Fault>>>(
    ended: bool,
    future: Pin<&mut F>,
    cx: &mut Context<'_>,
) -> Poll<Result<(), Fault>> {
    if ended { Poll::Pending } else { future.poll(cx) }
}
