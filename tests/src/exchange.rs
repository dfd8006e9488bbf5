//! Exchanges of the corpus: scripts for both sides of the proxy, and their performance.
//!
//! A script is a file of steps. A step begins with a line `#! who does what`; the bytes that it sends, if it sends
//! any, follow up to the line end before the next step. `tests/corpus/README.md` lists the steps.

use crate::judge::{self, Judgement, Verdict};
use crate::message::{Head, Message};
use crate::stage::{Connection, Reader, Stage};
use crate::strict::{self, Front};
use crate::wire::End;
use crate::{MS, latin1, pause};

/// One step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    line: String,
    bytes: Vec<u8>,
}

/// Takes a script apart.
#[must_use]
pub fn steps(script: &[u8]) -> Vec<Step> {
    let text = latin1(script);
    let text = text.strip_prefix("#! ").expect("a script begins with a step");
    let step = |step: &str| {
        let (line, bytes) = step.split_once('\n').unwrap_or((step, ""));
        let bytes = bytes.chars().map(|char| u8::try_from(char).expect("one character a byte")).collect();
        Step { line: line.to_owned(), bytes }
    };
    text.split("\n#! ").map(step).collect()
}

/// Performs a script; the faults tell what went otherwise.
#[must_use]
pub fn perform(stage: &mut Stage, script: &[u8], tls: bool) -> Judgement {
    stage.served.clear();
    // Nothing of the exchanges before is used again: what a connection's second request meets is part of a script.
    stage.ledger.connections.iter_mut().for_each(Connection::close);
    stage.ledger.connections.clear();
    let reader = stage.connect(tls);
    let mut play = Play { stage, reader, current: 0, seen: 0 };
    for step in steps(script) {
        if let Err(why) = play.perform(&step) {
            let what = format!(
                "at {:?}: {why}; the client has {:?}, {:?}",
                step.line,
                play.reader.text(),
                play.reader.ended
            );
            return Judgement::of(Verdict::Wrong(what));
        }
    }
    let Play { mut reader, .. } = play;
    let mut judgement = Judgement::of(Verdict::Forwarded);
    if let Some(why) = judge::ambiguity(stage) {
        judgement.verdict = Verdict::Ambiguous(why);
    }
    stage.ledger.connections.iter_mut().for_each(Connection::take_all);
    judge::follow_up(stage, &mut reader, &mut judgement, tls);
    judgement
}

struct Play<'s> {
    stage: &'s mut Stage,
    reader: Reader,
    /// The origin's connection that was read last.
    current: usize,
    /// Whole requests that the origin has seen.
    seen: usize,
}

impl Play<'_> {
    fn perform(&mut self, step: &Step) -> Result<(), String> {
        let words: Vec<&str> = step.line.split(' ').collect();
        match words[..] {
            ["client", "sends"] => {
                self.reader.client.try_send(&step.bytes).map_err(|error| error.to_string())
            }
            ["client", "sends", "in", "vain"] => {
                let _ = self.reader.client.try_send(&step.bytes);
                Ok(())
            }
            ["client", "reads", "bytes", ref bytes @ ..] => self.client_reads_bytes(&bytes.join(" ")),
            ["client", "reads", status, "interim"] => self.client_reads_interim(status),
            ["client", "reads", status, how, ref body @ ..] => {
                self.client_reads(status, how, &body.join(" "))
            }
            ["client", "sees", "the", "end"] => self.client_sees_the_end(),
            ["client", "half-closes"] => {
                self.reader.client.half_close();
                Ok(())
            }
            ["client", "leaves"] => self.client_leaves(),
            ["origin", "reads", "request"] => self.origin_reads_request(),
            ["origin", "reads", "head"] => self.origin_reads_head(),
            ["origin", "reads", "bytes", ref bytes @ ..] => self.origin_reads_bytes(&bytes.join(" ")),
            ["origin", "sends"] => self.on_origin(|connection| connection.send(&step.bytes)),
            ["origin", "closes"] => self.on_origin(Connection::close),
            ["origin", "resets"] => self.on_origin(Connection::reset),
            ["origin", "sees", "the", "end"] => self.origin_sees_the_end(),
            ["origin", "has", "seen", count, "requests"] => self.origin_has_seen(count),
            ["pause"] => {
                pause(PAUSE_MS * MS);
                Ok(())
            }
            _ => Err("no such step".to_owned()),
        }
    }

    fn until<R>(&mut self, found: impl FnMut(&mut Stage, &mut Reader) -> Option<R>) -> Option<R> {
        self.stage.until(&mut self.reader, found)
    }

    fn client_reads(&mut self, status: &str, how: &str, body: &str) -> Result<(), String> {
        let method = if how == "bodiless" { "HEAD" } else { "GET" };
        let front = self.until(|_, reader| {
            match strict::response(reader.client.unread(), method, reader.ended.as_ref()) {
                Front::Nothing | Front::Partial(_) if reader.ended.is_none() => None,
                front => Some(front),
            }
        });
        match (front, how) {
            (Some(Front::Whole(answer, length)), "whole" | "bodiless") => {
                self.reader.take(length);
                self.reader.closing = answer.head.lists("connection", "close") || answer.head.is_http10();
                fits(&answer, status, body)
            }
            (Some(Front::Partial(Some(head))), "cut") if head.status().to_string() == status => Ok(()),
            (front, _) => Err(format!("there is {front:?}")),
        }
    }

    fn client_reads_interim(&mut self, status: &str) -> Result<(), String> {
        let head_len =
            |reader: &Reader| reader.client.unread().windows(4).position(|window| window == b"\r\n\r\n");
        let length = self.until(|_, reader| head_len(reader)).ok_or("there is no head")? + 4;
        let head = Head::parse(&self.reader.client.unread()[..length])?;
        self.reader.take(length);
        if head.status().to_string() == status {
            Ok(())
        } else {
            Err(format!("there is {:?}", head.start_line))
        }
    }

    fn client_reads_bytes(&mut self, bytes: &str) -> Result<(), String> {
        let came = self.until(|_, reader| (reader.text().len() >= bytes.len()).then(|| reader.text()));
        self.reader.take(bytes.len());
        if came.as_deref() == Some(bytes) { Ok(()) } else { Err(format!("there is {came:?}")) }
    }

    fn client_sees_the_end(&mut self) -> Result<(), String> {
        let ended = self.until(|_, reader| reader.ended.clone());
        let is_over = ended.is_some() && self.reader.text().is_empty();
        if is_over { Ok(()) } else { Err(format!("there is {ended:?} behind {:?}", self.reader.text())) }
    }

    /// The client's connection is reset; the rest of the play goes on without it.
    fn client_leaves(&mut self) -> Result<(), String> {
        let tls = self.stage.tls.is_some();
        let next = self.stage.connect(tls);
        std::mem::replace(&mut self.reader, next).client.reset();
        Ok(())
    }

    fn origin_reads_request(&mut self) -> Result<(), String> {
        let taken = self.until(|stage, _| stage.ledger.take_request());
        let (index, _) = taken.ok_or_else(|| format!("the origin has {:?}", self.stage.ledger.unread()))?;
        (self.current, self.seen) = (index, self.seen + 1);
        Ok(())
    }

    fn origin_reads_head(&mut self) -> Result<(), String> {
        let has_head = |front| matches!(front, Front::Partial(Some(_)));
        let connections = |stage: &mut Stage| {
            stage.ledger.connections.iter().position(|connection| has_head(connection.front()))
        };
        let index = self.until(|stage, _| connections(stage));
        self.current = index.ok_or_else(|| format!("the origin has {:?}", self.stage.ledger.unread()))?;
        Ok(())
    }

    fn origin_reads_bytes(&mut self, bytes: &str) -> Result<(), String> {
        let current = self.current;
        let found = self.until(|stage, _| {
            let unread = latin1(stage.ledger.connections.get(current)?.unread());
            (unread.len() >= bytes.len()).then_some(unread)
        });
        self.on_origin(Connection::take_all)?;
        if found.as_deref() == Some(bytes) { Ok(()) } else { Err(format!("the origin has {found:?}")) }
    }

    fn origin_sees_the_end(&mut self) -> Result<(), String> {
        let current = self.current;
        let ended = self.until(|stage, _| stage.ledger.connections.get(current)?.ended.clone());
        ended.map(|_| ()).ok_or_else(|| "the connection is open".to_owned())
    }

    fn origin_has_seen(&mut self, count: &str) -> Result<(), String> {
        self.stage.ledger.look();
        while self.stage.ledger.take_request().is_some() {
            self.seen += 1;
        }
        if self.seen.to_string() == count {
            Ok(())
        } else {
            Err(format!("the origin has seen {}", self.seen))
        }
    }

    fn on_origin(&mut self, act: impl FnOnce(&mut Connection)) -> Result<(), String> {
        self.stage.ledger.connections.get_mut(self.current).map(act).ok_or_else(|| "no connection".to_owned())
    }
}

fn fits(answer: &Message, status: &str, body: &str) -> Result<(), String> {
    let is_status = answer.status().to_string() == status;
    if is_status && (body.is_empty() || answer.text() == body) && answer.cut != Some(End::Deadline) {
        return Ok(());
    }
    Err(format!("there is {} {:?}", answer.status(), answer.text()))
}

/// How long a script's pause lasts, in milliseconds: long enough that the proxy has looked at what came before it.
const PAUSE_MS: u32 = 15;
