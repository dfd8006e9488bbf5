//! The response's way to the client.

use std::{future::poll_fn, mem, task::Poll};

use ringfence_http1::{BodyFraming, HeadError, HeadScan, KnownField, OutgoingHead, ResponseHead, Version};

use super::{Answered, Exchange, Link};
use crate::{
    buffers::Buffer,
    environment::{Environment, before},
    failure::Failure,
    fields::{self, Returned},
    limits::{BULK_BUFFER_BYTES, INTERIM_RESPONSES_LIKELY, INTERIM_RESPONSES_MAX, RELAY_BUFFER_BYTES},
    pace::Pace,
    relay::{self, Body, Coding, Fault, Leftover, Message, Piece, Terms, read_now, relay},
    transport::Transport,
    turns::Turn,
};

/// Bytes of the origin that have arrived; `start` is where those begin that are not used up.
struct Arrived {
    buffer: Buffer,
    start: usize,
    end: usize,
}

impl Arrived {
    fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The rest of the response, spoken for by nobody.
    fn into_leftover(self, used: usize) -> Leftover {
        Leftover::new(self.buffer, self.start + used, self.end)
    }
}

impl<E: Environment, T: Transport> Exchange<'_, E, T> {
    /// Passes on what the origin answers, interim responses first.
    pub(super) async fn download(&self, link: &Link<'_, E::Stream>) -> Result<Answered, Failure> {
        let origin = &link.stream;
        self.await_answer(origin).await?;
        let (mut head, mut outgoing) = (self.worker.response_head(), self.worker.outgoing_head());
        let (head, outgoing) = (&mut *head, &mut *outgoing);
        let mut arrived = None;
        let mut interim_responses = 0;
        let arrived = loop {
            let mut part = self.read_head(origin, arrived.take(), interim_responses == 0, head).await?;
            if !head.is_interim() {
                break part;
            }
            interim_responses += 1;
            if interim_responses > INTERIM_RESPONSES_MAX {
                return Err(Failure::InterimFlood);
            }
            if interim_responses > INTERIM_RESPONSES_LIKELY {
                self.worker.env.give_way(Turn::Bulk).await;
            }
            // A client of HTTP/1.0 does not expect more than one response (RFC 9110 §15.2).
            if self.head.version() == Version::Http11 {
                fields::interim_response(head, outgoing);
                // A refusal behind half a head would be read as the rest of it.
                self.progress.response_started.set(true);
                self.send_head(outgoing, &part).await?;
                self.progress.response_started.set(false);
                self.progress.invited.set(true);
                // The upload, a part of this task, has to hear of it.
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    Poll::Ready(())
                })
                .await;
            }
            part.start += head.head_len();
            // No buffer is held while nothing is in it: after 102 (Processing) minutes may pass.
            arrived = Some(part).filter(|part| part.start < part.end);
        };
        link.asking.answered();
        self.progress.status.set(Some(head.status()));
        if self.worker.log.is_on() {
            self.progress.answered.set(self.progress.asked_at.get().map(|at| self.worker.env.now() - at));
        }
        if head.status() == 101 {
            self.upgrade(head, outgoing, arrived).await
        } else {
            self.pass_on(origin, head, outgoing, arrived).await
        }
    }

    /// Reads up to the end of a response head and judges it.
    async fn read_head(
        &self,
        origin: &E::Stream,
        mut arrived: Option<Arrived>,
        is_first: bool,
        head: &mut ResponseHead,
    ) -> Result<Arrived, Failure> {
        let limits = &self.live.snapshot.limits.head;
        let mut scan = HeadScan::new();
        // For the first head the caller has waited.
        let mut is_there = is_first;
        loop {
            if let Some(part) = &arrived
                && head
                    .read(part.bytes(), &mut scan, self.head.method(), limits)
                    .map_err(Failure::ResponseHead)?
            {
                return arrived.ok_or(Failure::UpstreamClosed);
            }
            if !mem::take(&mut is_there) {
                self.await_answer(origin).await?;
            }
            let mut part = arrived.take().unwrap_or_else(|| self.empty_buffer());
            if part.end == part.buffer.len() {
                part = self.larger_buffer(&part)?;
            }
            match read_now(origin, &mut part.buffer[part.end..]).await {
                None => {}
                Some(Ok(0) | Err(_)) if is_first && part.end == 0 => return Err(Failure::UpstreamClosed),
                Some(Ok(0) | Err(_)) => return Err(Failure::ResponseHeadCutShort),
                Some(Ok(read)) => part.end += read,
            }
            arrived = Some(part).filter(|part| part.start < part.end);
        }
    }

    fn empty_buffer(&self) -> Arrived {
        Arrived { buffer: self.worker.buffers.take(RELAY_BUFFER_BYTES), start: 0, end: 0 }
    }

    fn larger_buffer(&self, part: &Arrived) -> Result<Arrived, Failure> {
        let bytes = part.bytes();
        let mut buffer = self.worker.buffers.take(bytes.len() + RELAY_BUFFER_BYTES);
        if buffer.len() <= bytes.len() {
            return Err(Failure::ResponseHead(HeadError::HeadTooLarge));
        }
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(Arrived { buffer, start: 0, end: bytes.len() })
    }

    /// Waits for bytes of the origin, until `upstream_first_byte` after the request last moved.
    async fn await_answer(&self, origin: &E::Stream) -> Result<(), Failure> {
        let (env, limit) = (&self.worker.env, self.live.snapshot.timeouts.upstream_first_byte);
        loop {
            let since = self.progress.uploaded_at.get().unwrap_or(self.started);
            if before(env, since + limit, origin.readable()).await.is_ok() {
                return Ok(());
            }
            if self.progress.uploaded_at.get() <= Some(since) {
                return Err(Failure::UpstreamSilent);
            }
        }
    }

    async fn send_head(&self, outgoing: &OutgoingHead, arrived: &Arrived) -> Result<(), Failure> {
        let message = Message { head: Some((outgoing, arrived.bytes())), ..Message::default() };
        relay::send(&self.worker.env, self.client, &message, &self.paces.takes)
            .await
            .map_err(response_failure)
    }

    async fn upgrade(
        &self,
        head: &ResponseHead,
        outgoing: &mut OutgoingHead,
        arrived: Arrived,
    ) -> Result<Answered, Failure> {
        if !(self.head.upgrades() && head.upgrades()) {
            return Err(Failure::UnaskedUpgrade);
        }
        self.rewrite(head, outgoing, BodyFraming::NONE, false);
        self.progress.response_started.set(true);
        self.send_head(outgoing, &arrived).await?;
        Ok(Answered::Upgraded(arrived.into_leftover(head.head_len())))
    }

    /// Sends the final response.
    async fn pass_on(
        &self,
        origin: &E::Stream,
        head: &ResponseHead,
        outgoing: &mut OutgoingHead,
        arrived: Arrived,
    ) -> Result<Answered, Failure> {
        let (worker, progress, timeouts) = (self.worker, &self.progress, &self.live.snapshot.timeouts);
        let (framing, mut coding) = spelling(head.framing(), self.head.version());
        let is_chunked = framing == BodyFraming::Chunked && coding == Coding::AsItCame;
        if is_chunked && fields::names_fields(head.fields(), arrived.bytes()) {
            coding = Coding::WithoutTrailers;
        }
        let close = self.close_reason(framing);
        self.rewrite(head, outgoing, framing, close.is_some());

        let mut body = Body::new(head.framing(), u64::MAX);
        let (head_bytes, behind) = arrived.bytes().split_at(head.head_len());
        let first = Piece::take(&mut body, behind, coding).map_err(|fault| response_failure(fault.into()))?;
        progress.response_started.set(true);
        let takes = &self.paces.takes;
        let sent = first.send(&worker.env, self.client, Some((outgoing, head_bytes)), None, takes).await;
        sent.map_err(response_failure)?;
        progress.bytes_out.set(first.taken.content);

        let quiet = if first.taken.ended {
            first.taken.consumed == behind.len()
        } else {
            drop(arrived);
            let origin_sends = Pace::patient(timeouts.upstream_silence);
            let terms = Terms { sender: &origin_sends, receiver: takes, read_bytes_max: BULK_BUFFER_BYTES };
            let on_content = |content| progress.bytes_out.set(progress.bytes_out.get() + content);
            let (env, buffers) = (&worker.env, &worker.buffers);
            let leftover = relay(env, buffers, origin, self.client, &mut body, coding, terms, on_content)
                .await
                .map_err(response_failure)?;
            leftover.bytes().is_empty()
        };
        // Bytes behind a response belong to no request of ours: such a connection is not trusted with another.
        let reusable = quiet && head.close_reason().is_none() && progress.request_sent.get();
        Ok(Answered::Whole { reusable, close })
    }

    fn rewrite(&self, head: &ResponseHead, outgoing: &mut OutgoingHead, framing: BodyFraming, close: bool) {
        let returned = Returned { request_id: &self.request_id, framing, close, date: None };
        if head.fields().iter().any(|line| line.known == KnownField::Date) {
            return fields::response(head, &returned, outgoing);
        }
        let dated = |date: &str| {
            fields::response(head, &Returned { date: Some(date), ..returned }, outgoing);
        };
        self.worker.calendar.http_date(dated);
    }

    /// Why the client's connection ends with this response, as far as is known when its head is sent.
    fn close_reason(&self, framing: BodyFraming) -> Option<&'static str> {
        if let Some(reason) = self.head.close_reason() {
            return Some(reason.as_str());
        }
        if framing == BodyFraming::UntilClose {
            return Some("until-close");
        }
        if self.progress.request_length.get().is_none() {
            return Some("answered-early");
        }
        self.worker.leaves(self.peer.listener)
    }
}

/// The framing that a client of this version can be sent, and what it takes to make it.
fn spelling(framing: BodyFraming, version: Version) -> (BodyFraming, Coding) {
    match (framing, version) {
        (BodyFraming::Length(_), _) => (framing, Coding::AsItCame),
        (BodyFraming::Chunked, Version::Http11) => (framing, Coding::AsItCame),
        (BodyFraming::Chunked, Version::Http10) => (BodyFraming::UntilClose, Coding::Unchunk),
        (BodyFraming::UntilClose, Version::Http11) => (BodyFraming::Chunked, Coding::Chunk),
        (BodyFraming::UntilClose, Version::Http10) => (framing, Coding::AsItCame),
    }
}

fn response_failure(fault: Fault) -> Failure {
    match fault {
        Fault::SenderClosed => Failure::ResponseCutShort,
        Fault::SenderSilent => Failure::ResponseSilent,
        Fault::ReceiverClosed => Failure::ClientGone,
        Fault::ReceiverSilent => Failure::ClientUnwilling,
        Fault::Malformed(error) => Failure::ResponseBody(error),
        // A response has no limit of ours.
        Fault::TooLarge => Failure::ResponseCutShort,
    }
}
