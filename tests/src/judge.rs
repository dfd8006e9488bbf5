//! What a proxy makes of a case of the corpus: one verdict, by what reaches a strict origin and a strict client.
//!
//! The same judge sits over ringfence, whose every verdict has to be the right one, and over its peers, whose verdicts
//! are counted (`tests/differential`).

use crate::corpus::{Case, Folder};
use crate::expected::{self, Expected, ExpectedResponse};
use crate::message::{self, Message};
use crate::stage::{PROBE, Reader, SMUGGLED_TARGET, Stage};
use crate::strict::{self, Front};
use crate::wire::End;
use crate::{client::HOST, latin1};

/// What became of a case, strictest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Answered by the proxy itself with this status, 0: closed without a word; nothing went on.
    Refused(u16),
    /// Went on as messages that a strict recipient reads in one way.
    Forwarded,
    /// Went on in part and was visibly cut.
    Cut,
    /// Went on as bytes that can be read in two ways.
    Ambiguous(String),
    /// Wrong: other content, hidden requests, complete-looking where it is not, another exchange's answer.
    Wrong(String),
}

/// A verdict and what else is not as it should be.
#[derive(Clone, Debug)]
pub struct Judgement {
    /// What became of the case.
    pub verdict: Verdict,
    /// Rules of ringfence that were broken beside it.
    pub faults: Vec<String>,
}

impl Judgement {
    /// A verdict alone.
    pub(crate) fn of(verdict: Verdict) -> Judgement {
        Judgement { verdict, faults: Vec::new() }
    }
}

/// Sends a request of the corpus and judges what becomes of it.
#[must_use]
pub fn request(stage: &mut Stage, case: &Case, tls: bool) -> Judgement {
    stage.served.clear();
    stage.ledger.forget();
    let wanted = match case.folder {
        Folder::Accept if case.status.is_none() => expected::requests(&case.bytes),
        _ => Vec::new(),
    };
    let mut reader = stage.connect(tls);
    let _ = reader.client.try_send(&case.bytes);
    match case.folder {
        Folder::Accept => {}
        Folder::Reject => drop(reader.client.try_send(SMUGGLED)),
        Folder::Incomplete => reader.client.half_close(),
    }
    let answers = answers(stage, &mut reader, case, &wanted);
    let mut judgement = Judgement::of(verdict_of_request(stage, case, &wanted, &answers));
    if case.folder == Folder::Accept && case.status.is_none() {
        judgement.faults = faults(&stage.served, &wanted, tls);
    }
    judgement.faults.extend(answers.fault(case, &wanted));
    follow_up(stage, &mut reader, &mut judgement, tls);
    judgement.faults.extend(leftovers(stage, &mut reader));
    judgement
}

/// What the client was answered.
struct Answers {
    whole: Vec<Message>,
    malformed: Option<String>,
    ended: Option<End>,
    rest: String,
}

impl Answers {
    /// What is wrong with the answers to this case, if ringfence gave them.
    fn fault(&self, case: &Case, wanted: &[Expected]) -> Option<String> {
        let closes = wanted.last().is_some_and(|last| last.closes);
        let as_expected = match (case.folder, case.status) {
            (Folder::Accept, None) => {
                self.whole.len() == wanted.len() && (!closes || self.ended == Some(End::Closed))
            }
            (Folder::Accept, Some(_)) => !self.whole.is_empty(),
            (Folder::Reject, _) => self.whole.len() == 1 && self.ended == Some(End::Closed),
            (Folder::Incomplete, _) => {
                self.whole.iter().all(|answer| answer.status() >= 400) && self.ended.is_some()
            }
        };
        let statuses: Vec<u16> = self.whole.iter().map(Message::status).collect();
        (!as_expected || self.malformed.is_some() || !self.rest.is_empty()).then(|| {
            format!(
                "answered {statuses:?}, then {:?}, left {:?}, malformed {:?}",
                self.ended, self.rest, self.malformed
            )
        })
    }
}

/// Serves and reads until the case is over: everything answered, or closed, or nothing happens any more.
fn answers(stage: &mut Stage, reader: &mut Reader, case: &Case, wanted: &[Expected]) -> Answers {
    let mut whole: Vec<Message> = Vec::new();
    let mut malformed = None;
    let closes = wanted.last().is_some_and(|last| last.closes);
    stage.until(reader, |stage, reader| {
        stage.serve();
        let method =
            wanted.get(whole.len()).map_or_else(|| method_of(&case.bytes), |wanted| wanted.method.clone());
        match strict::response(reader.client.unread(), &method, reader.ended.as_ref()) {
            Front::Whole(answer, length) if length > 0 => {
                reader.take(length);
                whole.push(answer);
            }
            Front::Malformed(why) => malformed = Some(why),
            _ => {}
        }
        let is_over = match case.folder {
            Folder::Accept if case.status.is_some() => !whole.is_empty(),
            Folder::Accept => whole.len() == wanted.len() && !closes,
            // A proxy that lets the case through answers the request behind it as well.
            Folder::Reject => whole.len() > 1,
            Folder::Incomplete => false,
        };
        (reader.ended.is_some() || malformed.is_some() || is_over).then_some(())
    });
    Answers { whole, malformed, ended: reader.ended.clone(), rest: reader.text() }
}

fn method_of(bytes: &[u8]) -> String {
    latin1(bytes.split(|byte| *byte == b' ').next().unwrap_or_default())
}

fn verdict_of_request(stage: &mut Stage, case: &Case, wanted: &[Expected], answers: &Answers) -> Verdict {
    stage.ledger.look();
    stage.serve();
    // A probe of the case before, late behind a slow peer, is no part of this one.
    stage.served.retain(|request| !request.head.target().starts_with(PROBE));
    if let Some(why) = ambiguity(stage) {
        return Verdict::Ambiguous(why);
    }
    if let Some(hidden) = stage.served.iter().find(|request| request.head.target().contains("/hidden")) {
        return Verdict::Wrong(format!("executed {:?}", hidden.head.start_line));
    }
    let statuses: Vec<u16> = answers.whole.iter().map(Message::status).collect();
    let status = statuses.first().copied().unwrap_or(0);
    if stage.served.is_empty() {
        return match status {
            // The proxy's own answer, where the case says that it gives one.
            200..=299 if case.status == Some(status) => Verdict::Refused(status),
            0 | 300..=599 => Verdict::Refused(status),
            _ => Verdict::Wrong(format!("answered {statuses:?}, but the origin has seen no request")),
        };
    }
    match case.folder {
        Folder::Incomplete => Verdict::Wrong("an unfinished request was made a whole one".to_owned()),
        Folder::Accept if case.status.is_none() => match difference(&stage.served, wanted) {
            Some(difference) => Verdict::Wrong(difference),
            None => Verdict::Forwarded,
        },
        _ => Verdict::Forwarded,
    }
}

/// Bytes at the origin that no strict reader takes.
pub(crate) fn ambiguity(stage: &Stage) -> Option<String> {
    stage.ledger.connections.iter().find_map(|connection| match connection.front() {
        Front::Malformed(why) => Some(why),
        _ => None,
    })
}

/// Where the messages at the origin differ from those of the case in number, target or content.
fn difference(served: &[Message], wanted: &[Expected]) -> Option<String> {
    if served.len() != wanted.len() {
        let lines: Vec<&str> = served.iter().map(|request| request.head.start_line.as_str()).collect();
        return Some(format!("{} requests instead of {}: {lines:?}", served.len(), wanted.len()));
    }
    served.iter().zip(wanted).find_map(|(request, wanted)| {
        let same = request.head.start_line == wanted.start_line && request.body == wanted.body;
        (!same).then(|| {
            format!(
                "{:?} with {} bytes instead of {:?} with {}",
                request.head.start_line,
                request.body.len(),
                wanted.start_line,
                wanted.body.len()
            )
        })
    })
}

/// Where the fields of the messages at the origin differ from what ringfence should have made of them.
fn faults(served: &[Message], wanted: &[Expected], tls: bool) -> Vec<String> {
    served.iter().zip(wanted).flat_map(|(request, wanted)| expected::faults(request, wanted, tls)).collect()
}

/// The exchanges behind the case get their own answers: on the same connection if it is kept, and on a new one.
pub(crate) fn follow_up(stage: &mut Stage, reader: &mut Reader, judgement: &mut Judgement, tls: bool) {
    reader.look();
    if reader.closing {
        let ended = stage.until(reader, |_, reader| reader.ended.clone());
        if ended != Some(End::Closed) || !reader.text().is_empty() {
            let what = format!("after the last response: {ended:?} and {:?}", reader.text());
            judgement.faults.push(what);
        }
    }
    let kept = if reader.ended.is_none() && !reader.closing { stage.probe(reader) } else { Ok(()) };
    // A connection that is closed instead of kept is within the rules.
    let kept = if reader.ended.is_some() && reader.text().is_empty() { Ok(()) } else { kept };
    for outcome in [kept, stage.probe_anew(tls)] {
        if let Err(why) = outcome {
            if why.starts_with("the answer") {
                judgement.verdict = Verdict::Wrong(why);
            } else {
                judgement.faults.push(format!("next exchange: {why}"));
            }
        }
    }
}

/// Bytes of the case at the origin that are still there, and requests that came late.
fn leftovers(stage: &mut Stage, reader: &mut Reader) -> Vec<String> {
    let is_over = |stage: &Stage| {
        stage
            .ledger
            .connections
            .iter()
            .all(|connection| connection.ended.is_some() || connection.unread().is_empty())
    };
    let over = stage.until(reader, |stage, _| is_over(stage).then_some(()));
    let smuggled = stage.served.iter().find(|request| request.head.target() == SMUGGLED_TARGET);
    let smuggled = smuggled.map(|request| format!("the origin was sent {:?}", request.head.start_line));
    over.is_none()
        .then(|| "an unfinished request is left open at the origin".to_owned())
        .into_iter()
        .chain(smuggled)
        .collect()
}

/// How the origin ends its connection behind a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// In order.
    Closes,
    /// By a reset.
    Resets,
    /// Not at all; and another response stands behind the one that was asked for.
    Poisons,
}

/// Has the origin answer with a response of the corpus, or with its first bytes, and judges what the client makes of it.
#[must_use]
pub fn response(stage: &mut Stage, case: &Case, sent: &[u8], ending: Ending, tls: bool) -> Judgement {
    stage.served.clear();
    stage.ledger.forget();
    let method = if case.to_head { "HEAD" } else { "GET" };
    let mut reader = stage.connect(tls);
    let _ = reader.client.try_send(format!("{method} {ASKED} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
    let asked = stage.until(&mut reader, |stage, _| stage.ledger.take_request());
    let Some((index, _)) = asked else {
        return Judgement::of(Verdict::Wrong("the request did not reach the origin".to_owned()));
    };
    // Some readers hold a head back until more arrives; all bytes at once are the usual case.
    stage.ledger.connections[index].send(sent);
    match ending {
        Ending::Closes => stage.ledger.connections[index].close(),
        Ending::Resets => {
            crate::pause(crate::MS);
            stage.ledger.connections[index].reset();
        }
        Ending::Poisons => stage.ledger.connections[index].send(&message::ok("poison")),
    }
    let front = stage.until(&mut reader, |stage, reader| {
        // A peer may ask again elsewhere.
        while let Some((again, _)) = stage.ledger.take_request() {
            stage.ledger.connections[again].send(sent);
            stage.ledger.connections[again].close();
        }
        match strict::response(reader.client.unread(), method, reader.ended.as_ref()) {
            Front::Nothing | Front::Partial(_) if reader.ended.is_none() => None,
            front => Some(front),
        }
    });
    let end = if ending == Ending::Resets { End::Reset } else { End::Closed };
    let wanted = expected::response(sent, method, &end);
    let mut judgement = judgement_of_response(front, case, wanted.as_ref(), &mut reader);
    stage.ledger.connections.iter_mut().for_each(|connection| connection.take_all());
    follow_up(stage, &mut reader, &mut judgement, tls);
    judgement
}

fn judgement_of_response(
    front: Option<Front>,
    case: &Case,
    wanted: Option<&ExpectedResponse>,
    reader: &mut Reader,
) -> Judgement {
    let answer = match front {
        None => {
            return Judgement::of(Verdict::Wrong(format!("the response has no end: {:?}", reader.text())));
        }
        Some(Front::Nothing | Front::Partial(_)) => return Judgement::of(Verdict::Cut),
        Some(Front::Malformed(why)) => return Judgement::of(Verdict::Ambiguous(why)),
        Some(Front::Whole(answer, length)) => {
            reader.take(length);
            answer
        }
    };
    reader.closing = answer.head.lists("connection", "close") || answer.head.is_http10();
    let is_of_the_origin = answer.head.values("server").iter().any(|server| server.starts_with("Synapse"));
    if (500..=504).contains(&answer.status()) && !is_of_the_origin {
        return Judgement::of(Verdict::Refused(answer.status()));
    }
    match wanted {
        _ if case.folder == Folder::Reject => Judgement::of(Verdict::Forwarded),
        None => Judgement::of(Verdict::Wrong("an unfinished response looks complete".to_owned())),
        Some(wanted) => Judgement {
            verdict: expected::response_difference(&answer, wanted)
                .map_or(Verdict::Forwarded, Verdict::Wrong),
            faults: expected::response_faults(&answer, wanted),
        },
    }
}

/// The target of the request that responses of the corpus answer.
const ASKED: &str = "/_matrix/client/versions";

/// What stands behind a request that is refused: it must not be executed either.
const SMUGGLED: &str = "GET /_matrix/smuggled HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n";

/// Whether the response of this case ends when its origin closes.
#[must_use]
pub fn ends_by_close(case: &Case) -> bool {
    let method = if case.to_head { "HEAD" } else { "GET" };
    let whole = |end| expected::response(&case.bytes, method, &end).is_some();
    whole(End::Closed) && !whole(End::Reset)
}

/// The bytes that the origin sends: a file of nothing but an interim response is followed by a final one.
#[must_use]
pub fn sent(case: &Case) -> Vec<u8> {
    let is_interim_only =
        case.bytes.starts_with(b"HTTP/1.1 1") && !case.bytes.windows(10).any(|bytes| bytes == b"HTTP/1.1 2");
    let adds_final = is_interim_only && case.status.is_none() && case.folder == Folder::Accept;
    let last: &[u8] = if adds_final {
        b"HTTP/1.1 200 OK\r\nServer: Synapse/1.99\r\nContent-Length: 2\r\n\r\nok"
    } else {
        b""
    };
    [&case.bytes, last].concat()
}
