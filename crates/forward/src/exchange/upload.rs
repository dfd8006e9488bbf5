//! The request's way to the origin, and the watch over the client that made it.

use std::{
    future::{pending, poll_fn},
    task::{Context, Poll},
};

use ringfence_http1::BodyFraming;

use super::Exchange;
use crate::{
    environment::Environment,
    failure::Failure,
    fields::{self, Forwarded},
    inbox::Inbox,
    limits::{BULK_BUFFER_BYTES, RELAY_BUFFER_BYTES},
    pace::Pace,
    relay::{Body, Coding, Fault, Piece, Terms, read_now, relay},
    transport::Transport,
};

impl<E: Environment, T: Transport> Exchange<'_, E, T> {
    /// Sends the request; then waits for the client to leave. `Ok`: the origin takes no more.
    pub(super) async fn upload(
        &self,
        inbox: &mut Inbox,
        origin: &E::Stream,
        forwarded: &Forwarded<'_>,
        content_max: u64,
    ) -> Result<(), Failure> {
        match self.send_request(inbox, origin, forwarded, content_max).await {
            Ok(()) => Err(self.watch(inbox).await),
            Err(Fault::ReceiverClosed | Fault::ReceiverSilent) => Ok(()),
            Err(Fault::SenderClosed) => Err(Failure::ClientGone),
            // It was answered before it sent its body, and rightly keeps it (RFC 9110 §10.1.1).
            Err(Fault::SenderSilent) if self.progress.response_started.get() => Ok(()),
            Err(Fault::SenderSilent) => Err(Failure::ClientSilent),
            Err(Fault::Malformed(error)) => Err(Failure::RequestBody(error)),
            Err(Fault::TooLarge) => Err(Failure::RequestTooLarge),
        }
    }

    async fn send_request(
        &self,
        inbox: &mut Inbox,
        origin: &E::Stream,
        forwarded: &Forwarded<'_>,
        content_max: u64,
    ) -> Result<(), Fault> {
        let (worker, timeouts, progress) = (self.worker, &self.live.snapshot.timeouts, &self.progress);
        let receiver = Pace::patient(timeouts.upstream_silence);
        let head_len = self.head.head_len();
        let mut body = Body::new(self.head.framing(), content_max);
        let (head_bytes, behind) = inbox.bytes().split_at(head_len);
        let is_chunked = self.head.framing() == BodyFraming::Chunked;
        let coding = match is_chunked && fields::names_fields(self.head.fields(), head_bytes) {
            true => Coding::WithoutTrailers,
            false => Coding::AsItCame,
        };
        let first = Piece::take(&mut body, behind, coding)?;
        let request_length = first.taken.ended.then_some(head_len + first.taken.consumed);
        let waits_for_continue = self.head.expects_continue() && behind.is_empty();
        // What has been read whole stays so, whatever the origin does with it.
        progress.request_length.set(request_length);
        progress.bytes_in.set(first.taken.content);
        {
            // Given back as soon as it is sent: a long poll does not keep it.
            let mut outgoing = worker.outgoing_head();
            fields::request(self.head, head_bytes, forwarded, &mut outgoing);
            let head = Some((&*outgoing, head_bytes));
            first.send(&worker.env, origin, head, Some(&progress.head_sent), &receiver).await?;
        }
        if request_length.is_none() {
            inbox.truncate(head_len);
            progress.streamed.set(true);
            let read_bytes_max = if is_chunked { RELAY_BUFFER_BYTES } else { BULK_BUFFER_BYTES };
            let terms = Terms { sender: &self.paces.sends, receiver: &receiver, read_bytes_max };
            let on_content = |content| {
                progress.bytes_in.set(progress.bytes_in.get() + content);
                progress.uploaded_at.set(Some(worker.env.recently()));
            };
            if waits_for_continue {
                self.await_invitation().await;
            }
            let (env, buffers) = (&worker.env, &worker.buffers);
            let leftover =
                relay(env, buffers, self.client, origin, &mut body, coding, terms, on_content).await?;
            let kept = inbox.append(buffers, leftover.bytes(), self.inbox_bytes_max());
            assert_eq!(kept, leftover.bytes().len(), "one small buffer fits behind every head");
            progress.request_length.set(Some(head_len));
        }
        progress.uploaded_at.set(Some(worker.env.recently()));
        progress.request_sent.set(true);
        Ok(())
    }

    /// Waits for the origin to ask for the content, or for the client to send it unasked. The client is not slow while it
    /// waits for 100 (Continue), the origin is, and that has its own deadline (RFC 9110 §10.1.1).
    async fn await_invitation(&self) {
        let invited = |cx: &mut Context<'_>| match self.progress.invited.get() {
            true => Poll::Ready(()),
            false => self.client.poll_readable(cx),
        };
        poll_fn(invited).await;
    }

    /// Waits until the client closes or resets its connection. What it sends meanwhile is its next request, kept for
    /// later; when there is no room for more of it, leaving goes unnoticed until the response is written.
    pub(super) async fn watch(&self, inbox: &mut Inbox) -> Failure {
        // More would be moved to the front with each request that is answered.
        let ahead_bytes_max = self.head.head_len() + RELAY_BUFFER_BYTES;
        loop {
            self.client.readable().await;
            let Some(room) = inbox.room(&self.worker.buffers, ahead_bytes_max) else {
                return pending().await;
            };
            match read_now(self.client, room).await {
                None => {}
                Some(Ok(0) | Err(_)) => return Failure::ClientGone,
                Some(Ok(read)) => inbox.fill(read),
            }
        }
    }

    /// A head and, behind it, what one read brings.
    fn inbox_bytes_max(&self) -> usize {
        self.live.snapshot.limits.head.head_bytes_max + RELAY_BUFFER_BYTES
    }
}
