//! Answers of the proxy's own making.

use ringfence_http1::Method;

use super::{Exchange, Next};
use crate::{
    counters::count,
    environment::Environment,
    failure::Failure,
    relay::{self, Message},
    respond::{self, Answer, Refusal},
    transport::Transport,
};

impl<E: Environment, T: Transport> Exchange<'_, E, T> {
    /// Sends a ready answer. The connection goes on if the request has no body that nobody reads.
    pub(super) async fn answer(&self, answer: &Answer) -> Next {
        self.send_answer(answer, None).await
    }

    /// Sends the answer to something that cannot be served.
    pub(super) async fn refuse(&self, refusal: Refusal, style: usize) -> Next {
        count(&self.worker.counters.refusals[refusal as usize]);
        self.answer(self.live.snapshot.refusals[style].of(refusal)).await
    }

    /// Refuses a request whose head cannot be served; `received` is what came of it.
    pub(crate) async fn refuse_head(&self, refusal: Refusal, received: &[u8]) -> Next {
        count(&self.worker.counters.refusals[refusal as usize]);
        let answer = self.live.snapshot.refusals[0].of(refusal);
        let next = match self.send_answer(answer, Some("head-refused")).await {
            // Where this request ends is not known.
            Next::Continue | Next::Close(_) => Next::Linger("head-refused"),
            next => next,
        };
        self.record(received, self.peer.address.ip(), next);
        next
    }

    /// Makes the best of a failed exchange.
    pub(super) async fn fail(&self, failure: Failure, style: usize) -> Next {
        tracing::debug!(%failure, peer = %self.peer.address, "exchange failed");
        if self.progress.response_started.get() {
            return Next::Abort(failure.as_str());
        }
        self.progress.status.set(None);
        let Some(refusal) = failure.refusal() else { return Next::Abort(failure.as_str()) };
        count(&self.worker.counters.refusals[refusal as usize]);
        let answer = self.live.snapshot.refusals[style].of(refusal);
        self.send_answer(answer, Some(failure.as_str())).await
    }

    async fn send_answer(&self, answer: &Answer, failure: Option<&'static str>) -> Next {
        let worker = self.worker;
        let close = match self.head.close_reason() {
            Some(reason) => Some(reason.as_str()),
            None if self.progress.request_length.get().is_none() => Some(failure.unwrap_or("body-unread")),
            None => worker.leaves(self.peer.listener),
        };
        let mut out = worker.outgoing_head();
        worker.calendar.http_date(|date| {
            respond::head(answer, date, &self.request_id, close.is_some(), &mut out);
        });
        let content: &[u8] = if self.head.method() == Method::Head { b"" } else { &answer.content };
        let message = Message { head: Some((&*out, b"")), tail: [content, b"", b""], head_sent: None };
        self.progress.status.set(Some(answer.status));
        self.progress.bytes_out.set(content.len() as u64);
        match relay::send(&worker.env, self.client, &message, &self.paces.takes).await {
            Ok(()) => self.next(close),
            Err(_) => Next::Abort(Failure::ClientGone.as_str()),
        }
    }
}
