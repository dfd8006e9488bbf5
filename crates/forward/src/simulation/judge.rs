//! What must hold, whatever the seed: of the bytes on both sides when all is over, and of every wait on the way.

use std::{collections::BTreeMap, rc::Rc, time::Duration};

use super::{
    client::ClientRecord,
    message::{Body, Framing, Head, Parsed},
    origin::OriginRecord,
    reply::Reply,
    request::{Kind, Request},
    wire::Ended,
    world::World,
};
use crate::limits::{TIMER_TICK, WARM};

/// Judges everything that passed over every connection.
pub(super) fn judge(world: &World) -> Result<(), String> {
    let (clients, origins) = (world.clients.borrow(), world.origins.borrow());
    let requests: BTreeMap<u32, &Request> =
        clients.iter().flat_map(|client| &client.requests).map(|request| (request.id, request)).collect();
    let mut tries = BTreeMap::<u32, usize>::new();
    for (index, origin) in origins.iter().enumerate() {
        let asked = Upstream { origin, requests: &requests }.judge();
        for id in asked.map_err(|what| format!("to origin {index}: {what}"))? {
            *tries.entry(id).or_default() += 1;
        }
    }
    for (id, count) in tries {
        let most = if requests[&id].is_idempotent() { 2 } else { 1 };
        if count > most {
            return Err(format!("request {id:06x} was sent {count} times"));
        }
    }
    let replies: Vec<Rc<Reply>> = origins.iter().flat_map(|origin| origin.replies.borrow().clone()).collect();
    for (index, client) in clients.iter().enumerate() {
        let downstream = Downstream { world, client, replies: &replies };
        downstream.judge().map_err(|what| format!("to client {index}: {what}"))?;
    }
    Ok(())
}

/// The bytes to an origin.
struct Upstream<'a> {
    origin: &'a OriginRecord,
    requests: &'a BTreeMap<u32, &'a Request>,
}

impl Upstream<'_> {
    /// The exchanges whose requests begin there.
    fn judge(&self) -> Result<Vec<u32>, String> {
        let written = self.origin.log.written.borrow();
        let mut asked = Vec::new();
        let mut at = 0;
        while at < written.len() {
            self.judge_turn(at, asked.len())?;
            let head = match Head::parse(&written[at..]) {
                Parsed::Whole(head) => head,
                Parsed::Partial => return Ok(with_cut_head(asked, &written[at..])),
                Parsed::Wrong(what) => return Err(what),
            };
            let request = self.judge_head(&head)?;
            asked.push(request.id);
            let body = Body::parse(head.request_framing()?, &written[at + head.len..])?;
            judge_content(request, &body)?;
            at += head.len + body.consumed;
        }
        Ok(asked)
    }

    /// A request is sent only when the reply before it was read whole, and nothing behind it was there.
    fn judge_turn(&self, at: usize, index: usize) -> Result<(), String> {
        let turns = self.origin.log.turns.borrow();
        let turn = turns.iter().find(|turn| turn.at == at).ok_or("a request in the middle of a write")?;
        let replies = self.origin.replies.borrow();
        let before = match index {
            0 => 0,
            _ => {
                let reply = replies.get(index - 1).ok_or("a request before the last was answered")?;
                if !reply.reusable {
                    return Err(format!("a request behind the last reply, of {:06x}", reply.id));
                }
                reply.end()
            }
        };
        if turn.read != before || turn.unread != 0 {
            return Err(format!("request {index} sent at {turn:?}, the reply before ends at {before}"));
        }
        Ok(())
    }

    fn judge_head(&self, head: &Head) -> Result<&Request, String> {
        let id = head.exchange().ok_or("a request of no exchange")?;
        let request = self.requests.get(&id).ok_or_else(|| format!("exchange {id:06x} is unknown"))?;
        if !request.kind.is_for_an_origin() {
            return Err(format!("{:?} request {id:06x} reached an origin", request.kind));
        }
        let start_line = format!("{} {} HTTP/1.1", request.method, request.target);
        let host = format!("h{id:06x}.example");
        let as_sent = head.start_line == start_line && head.field("host") == Some(&*host);
        if !as_sent || head.field("x-forwarded-for") != Some("192.0.2.7") || head.field("x-hop").is_some() {
            return Err(format!("request {id:06x} came as {head:?}"));
        }
        Ok(request)
    }
}

/// A head that was cut counts as sent if its exchange can be told.
fn with_cut_head(mut asked: Vec<u32>, head: &[u8]) -> Vec<u32> {
    let text = String::from_utf8_lossy(head);
    let id = text.split("X-Exchange: ").nth(1).and_then(|rest| rest.get(..6));
    asked.extend(id.and_then(|id| u32::from_str_radix(id, 16).ok()));
    asked
}

fn judge_content(request: &Request, body: &Body) -> Result<(), String> {
    let id = request.id;
    if !request.content.starts_with(&body.content) {
        return Err(format!("request {id:06x} has foreign content"));
    }
    if body.ended && (request.kind != Kind::Forwarded || body.content != request.content) {
        return Err(format!("{:?} request {id:06x} looks complete", request.kind));
    }
    Ok(())
}

/// The bytes to a client.
struct Downstream<'a> {
    world: &'a World,
    client: &'a ClientRecord,
    replies: &'a [Rc<Reply>],
}

/// What a client was told of one request.
#[derive(PartialEq, Eq)]
enum Told {
    /// An answer that looks complete; the connection ends with it or does not.
    Whole { closes: bool, by_proxy: bool },
    /// A part of one.
    Cut,
    /// No byte.
    Nothing,
}

impl Downstream<'_> {
    fn judge(&self) -> Result<(), String> {
        let written = self.client.log.written.borrow();
        let (mut at, mut closed) = (0, false);
        for (index, request) in self.client.requests.iter().enumerate() {
            let (told, len) = self
                .judge_answer(request, &written[at..])
                .map_err(|what| format!("request {:06x}, {:?}: {what}", request.id, request.kind))?;
            at += len;
            if closed && told != Told::Nothing {
                return Err(format!("an answer to {:06x} behind the last", request.id));
            }
            let delivered = self.client.seen.borrow().len() >= at;
            self.judge_debt(index, request, &told, closed, delivered)
                .map_err(|what| format!("request {:06x}, {:?}: {what}", request.id, request.kind))?;
            closed |= !matches!(told, Told::Whole { closes: false, .. });
        }
        if at < written.len() {
            let rest = String::from_utf8_lossy(&written[at..]);
            return Err(format!("{} bytes that nobody asked for: {rest:.80}", rest.len()));
        }
        Ok(())
    }

    /// What the start of `bytes` says to `request`, and how long that is.
    fn judge_answer(&self, request: &Request, bytes: &[u8]) -> Result<(Told, usize), String> {
        let mut at = 0;
        loop {
            let head = match Head::parse(&bytes[at..]) {
                Parsed::Whole(head) => head,
                Parsed::Partial if at == bytes.len() && at == 0 => return Ok((Told::Nothing, 0)),
                Parsed::Partial => return self.judge_cut().map(|()| (Told::Cut, bytes.len())),
                Parsed::Wrong(what) => return Err(what),
            };
            at += head.len;
            match head.status().ok_or_else(|| format!("status line {:?}", head.start_line))? {
                100 | 102..=199 if request.http10 => return Err("an interim response in HTTP/1.0".into()),
                100 | 102..=199 if head.exchange().is_none_or(|id| id == request.id) => {}
                100..=199 => return Err(format!("foreign or unasked {head:?}")),
                status => return self.judge_final(request, &head, status, &bytes[at..], at),
            }
        }
    }

    fn judge_final(
        &self,
        request: &Request,
        head: &Head,
        status: u16,
        rest: &[u8],
        at: usize,
    ) -> Result<(Told, usize), String> {
        let by_proxy = head.field("x-made-by").is_some();
        // The method may be among what has not come.
        let method_unknown = by_proxy && head.closes() && !self.has_read_head_of(request);
        let framing = head.response_framing(if method_unknown { "" } else { request.method })?;
        let body = Body::parse(framing, rest)?;
        if head.field("date").is_none_or(|date| date == "(twice)") || head.field("x-hop").is_some() {
            return Err(format!("fields of {head:?}"));
        }
        if by_proxy {
            self.judge_own(request, method_unknown, status, &body)?;
        } else if head.exchange() != Some(request.id) {
            return Err(format!("an answer to {:?}: {}", head.exchange(), head.start_line));
        } else {
            self.judge_passed(request, status, &body)?;
        }
        let closed = self.client.log.ended.get().map(|(ended, _)| ended) == Some(Ended::Closed);
        let whole = body.ended || (framing == Framing::UntilClose && closed);
        if !whole {
            self.judge_cut()?;
            return Ok((Told::Cut, at + body.consumed));
        }
        if !by_proxy {
            self.judge_whole(request, status, &body)?;
        }
        let closes = head.closes() || framing == Framing::UntilClose;
        Ok((Told::Whole { closes, by_proxy }, at + body.consumed))
    }

    fn has_read_head_of(&self, request: &Request) -> bool {
        let index = self.client.requests.iter().take_while(|other| other.id != request.id).count();
        self.client.log.read.get() >= self.client.start_of(index) + request.head_len
    }

    /// Where an answer stops in its middle, the connection has ended.
    fn judge_cut(&self) -> Result<(), String> {
        match self.client.log.ended.get() {
            Some(_) => Ok(()),
            None => Err("an answer stops and its connection goes on".into()),
        }
    }

    /// An answer of the proxy's own fits the request.
    fn judge_own(
        &self,
        request: &Request,
        method_unknown: bool,
        status: u16,
        body: &Body,
    ) -> Result<(), String> {
        let expected = match request.kind {
            Kind::Local => status == 200,
            Kind::Unrouted => status == 404,
            Kind::BadHead => (400..=599).contains(&status),
            Kind::Forwarded => matches!(status, 502 | 504),
            Kind::TooLarge => matches!(status, 413 | 502 | 504),
            Kind::BadBody => matches!(status, 400 | 502 | 504),
        };
        // A client that dawdles or stalls may be told so.
        let slow = status == 408 && !self.client.behaves();
        // So may who has waited for a server to have room.
        let busy = status == 503 && self.world.requests_max.is_some() && request.kind.is_for_an_origin();
        // Whoever has no answer when the drain is over is told so.
        let cut =
            status == 503 && self.world.cut.get() && !matches!(request.kind, Kind::Local | Kind::Unrouted);
        if !(expected || slow || busy || cut) {
            return Err(format!("the proxy says {status}"));
        }
        if body.ended
            && (method_unknown || request.method != "HEAD")
            && !body.content.ends_with(b"|made by the proxy")
        {
            return Err(format!("foreign content in the proxy's {status}"));
        }
        Ok(())
    }

    /// A passed on answer, however much of it there is, is a part of one that was given.
    fn judge_passed(&self, request: &Request, status: u16, body: &Body) -> Result<(), String> {
        let of_it = |reply: &Reply| {
            reply.id == request.id && reply.status == status && reply.content.starts_with(&body.content)
        };
        if self.replies.iter().any(|reply| of_it(reply)) {
            return Ok(());
        }
        Err(format!("no origin gave this {status}, {} bytes", body.content.len()))
    }

    /// What looks complete is what an origin sent completely.
    fn judge_whole(&self, request: &Request, status: u16, body: &Body) -> Result<(), String> {
        let whole = self.replies.iter().filter(|reply| reply.id == request.id && reply.status == status);
        let is_it = |reply: &&Rc<Reply>| reply.valid && reply.is_complete() && reply.content == body.content;
        match whole.into_iter().find(is_it) {
            Some(_) => Ok(()),
            None => Err(format!("a {status} of {} bytes looks complete", body.content.len())),
        }
    }

    /// A client that behaves is owed an answer to everything before the connection's end.
    fn judge_debt(
        &self,
        index: usize,
        request: &Request,
        told: &Told,
        closed: bool,
        delivered: bool,
    ) -> Result<(), String> {
        let read = self.client.log.read.get() > self.client.start_of(index);
        if closed || !self.client.behaves() || self.world.cut.get() {
            return Ok(());
        }
        let owed_reply = self.replies.iter().any(|reply| reply.id == request.id && reply.is_sound());
        let may_fail = matches!(request.kind, Kind::BadBody | Kind::TooLarge);
        let was_reset = self.client.log.ended.get().map(|(ended, _)| ended) == Some(Ended::Reset);
        // Exception: who goes on sending behind what ends the connection may lose the answer to a reset, if none of
        // that had come when the connection was closed.
        let behind = self.client.start_of(index + 1);
        let sent_on = was_reset && self.client.sent.get() > behind && self.client.log.read.get() <= behind;
        match told {
            // Exception: what is found wrong with a body while an interim response is being written has no other answer.
            Told::Nothing if may_fail && was_reset => Ok(()),
            // Read by nobody: the connection ended before it came, by timeout or drain.
            Told::Nothing if read => Err("no answer".into()),
            Told::Cut if sent_on && request.http10 => Ok(()),
            Told::Cut if owed_reply && !may_fail => Err("a sound answer was cut".into()),
            Told::Cut if self.world.calm && !may_fail => Err("an answer was cut".into()),
            Told::Whole { by_proxy: true, .. } if request.kind == Kind::Forwarded && owed_reply => {
                Err("a sound answer was replaced".into())
            }
            Told::Whole { by_proxy: true, .. } if request.kind == Kind::Forwarded && self.world.calm => {
                Err("no origin was asked".into())
            }
            Told::Whole { closes: true, .. } if sent_on => Ok(()),
            // The reset that cuts a later answer takes with it what was not read yet.
            Told::Whole { closes: false, .. } if was_reset => Ok(()),
            Told::Whole { .. } if !delivered => Err("the answer did not reach the client".into()),
            _ => Ok(()),
        }
    }
}

/// What a connection of a client waits for, as far as can be seen from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// For a request.
    Idle { first: bool },
    /// For the rest of a head.
    Head(usize),
    /// For the rest of the request, or the answer.
    Exchange,
    /// For the rest of the answer.
    Answer,
    /// For its end: the proxy has closed its direction.
    End,
    /// Nothing: it is gone.
    Gone,
}

impl Phase {
    pub(super) fn of(client: &ClientRecord) -> Phase {
        if client.log.dropped.get() {
            return Phase::Gone;
        }
        if client.log.ended.get().is_some() {
            return Phase::End;
        }
        let (told, read) = (client.told(), client.log.read.get());
        let index = told.answered;
        let start = client.start_of(index);
        match client.requests.get(index) {
            _ if told.answering || told.is_partial() => Phase::Answer,
            _ if read <= start => Phase::Idle { first: index == 0 },
            Some(request) if read < start + request.head_len && request.kind != Kind::BadHead => {
                Phase::Head(index)
            }
            _ => Phase::Exchange,
        }
    }

    /// How long nothing may move in it; for a head, how long it may take in all.
    pub(super) fn limit(self, world: &World, draining: bool) -> Option<Duration> {
        let timeouts = &world.timeouts;
        let limit = match self {
            Phase::Idle { first: true } | Phase::Head(_) => timeouts.header_read,
            // A drain ends the idle at once; who was about to read a head finds out when none comes.
            Phase::Idle { .. } if draining => timeouts.header_read,
            Phase::Idle { first: false } => timeouts.header_read.max(timeouts.keep_alive_idle + WARM),
            // A request waits for a server to have room, and then for a connection to it.
            Phase::Exchange => (timeouts.queue + timeouts.upstream_connect)
                .max(timeouts.upstream_first_byte)
                .max(timeouts.downstream_silence)
                .max(timeouts.upstream_silence)
                .max(timeouts.header_read),
            Phase::Answer => timeouts.upstream_silence.max(timeouts.downstream_silence),
            Phase::End => timeouts.linger,
            Phase::Gone => return None,
        };
        // Deadlines are rounded up to ticks, at most twice.
        Some(limit + TIMER_TICK * 3)
    }
}
