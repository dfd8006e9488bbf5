//! Requests beyond what a client may ask of a class of endpoints.

use std::time::Duration;

use bytes::Bytes;

use super::{Exchange, Next};
use crate::{
    counters::count,
    environment::{Environment, before},
    fields::Client,
    inbox::Inbox,
    limits::{REFUSED_BODY_BYTES_MAX, REFUSED_BODY_WAIT},
    relay::{Body, read_now},
    respond::{Answer, Refusal},
    transport::Transport,
};

impl<E: Environment, T: Transport> Exchange<'_, E, T> {
    /// Takes the request from what its client may still ask for; how long it has to wait if that is nothing.
    ///
    /// Where the class has no limit, nothing is touched that workers share.
    pub(super) fn over_rate(&self, client: Client, head_bytes: &[u8]) -> Option<Duration> {
        let (snapshot, method) = (&self.live.snapshot, self.head.method());
        let limits = &snapshot.rate_limits;
        if limits.of_class.is_empty() {
            return None;
        }
        let class = self.class(head_bytes);
        let limit = limits.counting(class, method, client.address)?;
        self.worker.allowances.take(client.address, class, limit.rate, self.worker.env.now()).err()
    }

    /// Says when to come again. The connection goes on: a client that has to make a new one for each try costs more than
    /// what it is refused.
    pub(super) async fn refuse_over_rate(&self, inbox: &mut Inbox, style: usize, wait: Duration) -> Next {
        count(&self.worker.counters.refusals[Refusal::RateLimited as usize]);
        self.drop_small_body(inbox).await;
        let snapshot = &self.live.snapshot;
        let refusal = snapshot.refusals[style].of(Refusal::RateLimited);
        // Rounded up: who comes at that time is served.
        let millis = u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        let retry_after = format!("Retry-After: {}\r\n", millis.div_ceil(1000));
        let answer = Answer {
            status: refusal.status,
            field_lines: Bytes::from([&refusal.field_lines[..], retry_after.as_bytes()].concat()),
            content: (snapshot.rate_limits.content)(millis),
        };
        self.answer(&answer).await
    }

    /// Reads a body that is small and on its way, so that the next request can be told from it. Where that does not come to
    /// its end, the connection is closed as after every refusal.
    async fn drop_small_body(&self, inbox: &mut Inbox) {
        if self.progress.request_length.get().is_some() {
            return;
        }
        let (env, head_len) = (&self.worker.env, self.head.head_len());
        let deadline = env.recently() + REFUSED_BODY_WAIT;
        loop {
            let behind = &inbox.bytes()[head_len..];
            let Ok(taken) = Body::new(self.head.framing(), REFUSED_BODY_BYTES_MAX as u64).take(behind) else {
                return;
            };
            if taken.ended {
                return self.progress.request_length.set(Some(head_len + taken.consumed));
            }
            if self.announces_more() || (self.head.expects_continue() && behind.is_empty()) {
                return;
            }
            if before(env, deadline, self.client.readable()).await.is_err() {
                return;
            }
            let bytes_max = head_len + 2 * REFUSED_BODY_BYTES_MAX;
            let Some(room) = inbox.room(&self.worker.buffers, bytes_max) else { return };
            match read_now(self.client, room).await {
                None => {}
                Some(Ok(0) | Err(_)) => return,
                Some(Ok(read)) => inbox.fill(read),
            }
        }
    }

    /// Whether the body is known to be longer than what is read to be dropped.
    fn announces_more(&self) -> bool {
        use ringfence_http1::BodyFraming::Length;
        matches!(self.head.framing(), Length(length) if length > REFUSED_BODY_BYTES_MAX as u64)
    }
}
