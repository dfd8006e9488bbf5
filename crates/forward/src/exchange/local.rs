//! Answers of the proxy's own making.

use std::io::Write as _;

use bytes::Bytes;
use ringfence_http1::{Method, TargetForm};

use super::{Exchange, Next};
use crate::{
    counters::count,
    environment::Environment,
    failure::Failure,
    relay::{self, Message},
    respond::{Answer, Refusal, reason_phrase},
    route,
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
        self.record(received, next);
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

    /// Sends the client to the same target on `https` (RFC 9110 §15.4.9).
    pub(super) async fn redirect(&self, head_bytes: &[u8]) -> Next {
        let fallback = &self.live.snapshot.sites[0].host[..];
        let host = route::without_port(self.head.authority().map_or(fallback, |span| span.of(head_bytes)));
        let target = match self.head.target_form() {
            TargetForm::Origin | TargetForm::Absolute => self.head.path_and_query().of(head_bytes),
            TargetForm::Authority | TargetForm::Asterisk => b"/",
        };
        let slash = self.head.path_prefix();
        let field_lines = [b"Location: https://", host, slash, target, b"\r\n"].concat().into();
        self.send_answer(&Answer { status: 308, field_lines, content: Bytes::new() }, None).await
    }

    async fn send_answer(&self, answer: &Answer, failure: Option<&'static str>) -> Next {
        let worker = self.worker;
        let close = match self.head.close_reason() {
            Some(reason) => Some(reason.as_str()),
            None if self.progress.request_length.get().is_none() => Some(failure.unwrap_or("body-unread")),
            None => worker.leaves(self.peer.listener),
        };
        let mut out = worker.outgoing_head();
        let mut line = [0; STATUS_LINES_BYTES_MAX];
        let mut rest = &mut line[..];
        // Fits, see the bound.
        let _ = write!(rest, "HTTP/1.1 {} {}\r\n", answer.status, reason_phrase(answer.status));
        if answer.status != 204 {
            let _ = write!(rest, "Content-Length: {}\r\n", answer.content.len());
        }
        let unused = rest.len();
        out.push_owned(&line[..STATUS_LINES_BYTES_MAX - unused]);
        worker
            .calendar
            .http_date(|date| [b"Date: ", date.as_bytes(), b"\r\n"].map(|part| out.push_owned(part)));
        out.push_owned(&answer.field_lines);
        out.push_owned(b"X-Request-ID: ");
        out.push_owned(&self.request_id);
        out.push_owned(if close.is_some() { b"\r\nConnection: close\r\n\r\n" } else { b"\r\n\r\n" });

        let content: &[u8] = if self.head.method() == Method::Head { b"" } else { &answer.content };
        let message = Message { head: Some((&*out, b"")), tail: [content, b"", b""] };
        self.progress.status.set(Some(answer.status));
        self.progress.bytes_out.set(content.len() as u64);
        match relay::send(&worker.env, self.client, &message, &self.paces.takes).await {
            Ok(()) => self.next(close),
            Err(_) => Next::Abort(Failure::ClientGone.as_str()),
        }
    }
}

/// A status line with the longest reason phrase and a length of 20 digits take 90 bytes.
const STATUS_LINES_BYTES_MAX: usize = 128;
