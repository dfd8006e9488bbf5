//! What has to be true of all bytes that pass, whatever clients and origins send: judged by the oracle of http1 alone.
//!
//! - Each origin's connection carries requests that a strict parser reads one way only, each the request of one client
//!   in its order, with the same method, target, fields and content; none looks complete that is not; the next one
//!   follows only when the answer before was read to its end and nothing was behind it.
//! - Each client's connection carries answers that a strict parser reads one way only, in the order of its requests,
//!   each either the proxy's own or what an origin answered to this very request; none looks complete that the
//!   origin's bytes did not complete.
//!
//! The id that the proxy gives an exchange, and that no peer can forge, tells which answer and request belong together.

use std::collections::BTreeMap;

use ringfence_forward::script::{self, Passed, Transcript};

use crate::reference::{
    chunked,
    head::{self, Field, Framing, Head, Start},
};

/// Plays `input` as a script and judges what passed.
pub fn exchange(input: &[u8]) {
    let transcript = script::play(input).unwrap_or_else(|fault| panic!("{fault}"));
    if let Err(fault) = judge(&transcript) {
        panic!("{fault}\n{}", story(&transcript));
    }
}

fn judge(transcript: &Transcript) -> Result<(), String> {
    let mut forwarded = Vec::new();
    for (index, origin) in transcript.origins.iter().enumerate() {
        let read = read_origin(index, origin, transcript);
        forwarded.extend(read.map_err(|fault| format!("to origin {index}: {fault}"))?);
    }
    forwarded.sort_by_key(|request| (request.turn, request.origin, request.start));
    for (index, client) in transcript.clients.iter().enumerate() {
        let own: Vec<_> = forwarded.iter().filter(|request| request.client == index).collect();
        let verdict = Client { requests: requests(&client.sent), passed: client, transcript }.judge(&own);
        verdict.map_err(|fault| format!("client {index}: {fault}"))?;
    }
    match forwarded.iter().find(|request| request.client >= transcript.clients.len()) {
        Some(request) => Err(format!("a request of nobody: {:?}", request.message.head)),
        None => Ok(()),
    }
}

/// A message, as far as it came.
struct Message<'b> {
    head: Head,
    /// One past its head.
    head_end: usize,
    /// Everything behind its head.
    behind: &'b [u8],
    /// Its content so far.
    content: Vec<u8>,
    /// Length of its body; `None`: it does not end.
    body: Option<usize>,
}

impl<'b> Message<'b> {
    /// The message whose head ends at `head_end`; what ends by close ends if `closed`.
    fn read(head: Head, bytes: &'b [u8], head_end: usize, closed: bool) -> Message<'b> {
        let behind = &bytes[head_end..];
        let (content, body) = match head.framing {
            Framing::Length(length) => {
                let length = usize::try_from(length).unwrap_or(usize::MAX);
                let there = length.min(behind.len());
                (behind[..there].to_vec(), (there == length).then_some(length))
            }
            Framing::UntilClose => (behind.to_vec(), closed.then_some(behind.len())),
            Framing::Chunked => match chunked::parse(behind) {
                chunked::Body::Ended { consumed, data } => (data, Some(consumed)),
                _ => (chunks_so_far(behind), None),
            },
        };
        Message { head, head_end, behind, content, body }
    }

    fn end(&self) -> Option<usize> {
        Some(self.head_end + self.body?)
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut named = self.head.fields.iter().filter(|field| field.name.eq_ignore_ascii_case(name));
        named.next().filter(|_| named.next().is_none()).map(|field| field.value.as_str())
    }

    fn status(&self) -> u16 {
        match self.head.start {
            Start::Response { status, .. } => status,
            Start::Request { .. } => 0,
        }
    }

    fn method(&self) -> &str {
        match &self.head.start {
            Start::Request { method, .. } => method,
            Start::Response { .. } => "",
        }
    }
}

/// The data of chunks up to the first that is not all there or not right.
fn chunks_so_far(body: &[u8]) -> Vec<u8> {
    let (mut data, mut rest) = (Vec::new(), body);
    while let Some(end) = rest.windows(2).position(|pair| pair == b"\r\n") {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count().min(end);
        let size =
            std::str::from_utf8(&rest[..digits]).ok().and_then(|text| usize::from_str_radix(text, 16).ok());
        let Some(size @ 1..) = size else { break };
        let chunk = &rest[end + 2..];
        data.extend_from_slice(&chunk[..size.min(chunk.len())]);
        let Some(behind) = chunk.get(size..).and_then(|behind| behind.strip_prefix(b"\r\n")) else { break };
        rest = behind;
    }
    data
}

/// A request that an origin was sent.
struct Forwarded<'b> {
    origin: usize,
    /// Where it begins among the bytes to its origin, and in which turn that was written.
    start: usize,
    turn: usize,
    client: usize,
    id: String,
    message: Message<'b>,
    /// It came on a connection that had carried another before.
    pooled: bool,
    /// What the origin's bytes answer to it.
    answer: Option<Message<'b>>,
}

/// The requests on a connection to an origin, each with its answer.
fn read_origin<'b>(
    index: usize,
    origin: &'b Passed,
    transcript: &Transcript,
) -> Result<Vec<Forwarded<'b>>, String> {
    let written = &origin.written;
    let (mut requests, mut at, mut answered) = (Vec::new(), 0, Some(0));
    while at < written.len() {
        let Some(head_len) = head::end(&written[at..]).map_err(|()| "a head that cannot become one")? else {
            break;
        };
        let bytes = &written[at..at + head_len];
        let head = head::request(bytes).ok_or_else(|| format!("a bad head {}", bytes.escape_ascii()))?;
        let message = Message::read(head, written, at + head_len, false);
        if message.head.framing == Framing::Chunked
            && chunked::parse(message.behind) == chunked::Body::Refused
        {
            return Err("chunks that are wrong".into());
        }
        let end_of_last = answered.ok_or("a request behind the last answer of its connection")?;
        if let Some((name, _)) = kept(&message.head.fields).find(|(name, _)| is_dangerous_lookalike(name)) {
            return Err(format!("a field {name}"));
        }
        judge_turn(origin, at, end_of_last, requests.is_empty())?;
        let answer = response(&origin.sent, end_of_last, message.method() == "HEAD", origin.closed);
        let switched = message.head.upgrades && answer.as_ref().is_some_and(|answer| answer.status() == 101);
        answered = answer.as_ref().filter(|answer| !answer.head.closes).and_then(Message::end);
        let end = message.end();
        requests.push(Forwarded {
            origin: index,
            start: at,
            turn: turn_of(transcript, index, at),
            client: client_of(&message)?,
            id: one_field(&message, "x-request-id")?,
            message,
            pooled: at > 0,
            answer,
        });
        match end {
            Some(end) if !switched => at = end,
            _ => break,
        }
    }
    Ok(requests)
}

/// A request follows only where nothing is left of the answer before it.
fn judge_turn(origin: &Passed, at: usize, end_of_last: usize, is_first: bool) -> Result<(), String> {
    let write =
        origin.writes.iter().find(|write| write.at == at).ok_or("a request in the middle of a write")?;
    if !is_first && (write.read != end_of_last || write.unread != 0) {
        return Err(format!("a request at {write:?}, the answer before ends at {end_of_last}"));
    }
    Ok(())
}

fn turn_of(transcript: &Transcript, origin: usize, at: usize) -> usize {
    let is_it = |(other, written): &(usize, usize)| *other == origin && *written > at;
    transcript.asked.iter().position(is_it).unwrap_or(usize::MAX)
}

fn client_of(message: &Message<'_>) -> Result<usize, String> {
    let address = one_field(message, "x-forwarded-for")?;
    let clients = 0..=usize::from(u8::MAX);
    let client = clients.into_iter().find(|index| script::client_address(*index).ip().to_string() == address);
    client.ok_or_else(|| format!("a request for {address:?}"))
}

fn one_field(message: &Message<'_>, name: &str) -> Result<String, String> {
    message.field(name).map(str::to_owned).ok_or_else(|| format!("not one {name} in {:?}", message.head))
}

/// The final response at `at` of what a peer sent, behind interim ones.
fn response(bytes: &[u8], mut at: usize, to_head: bool, closed: bool) -> Option<Message<'_>> {
    loop {
        let head_len = head::end(bytes.get(at..)?).ok()??;
        let head = head::response(&bytes[at..at + head_len], to_head)?;
        at += head_len;
        if !is_interim(&head) {
            return Some(Message::read(head, bytes, at, closed));
        }
    }
}

fn is_interim(head: &Head) -> bool {
    matches!(head.start, Start::Response { status: 100 | 102..=199, .. })
}

/// What stands in a client's bytes where a request should.
enum Asked<'b> {
    Request(Message<'b>),
    /// No head: its bytes.
    Nonsense(&'b [u8]),
}

/// Everything that a client's bytes ask for. Behind what has no end, or says that it is the last, stands nothing.
fn requests(sent: &[u8]) -> Vec<Asked<'_>> {
    let (mut requests, mut at) = (Vec::new(), 0);
    while !matches!(sent[at..], [] | [b'\r', b'\n']) {
        let head_len = head::end(&sent[at..]).ok().flatten();
        let head = head_len.and_then(|len| Some((len, head::request(&sent[at..at + len])?)));
        let Some((len, head)) = head else {
            requests.push(Asked::Nonsense(&sent[at..]));
            break;
        };
        let closes = head.closes;
        let message = Message::read(head, sent, at + len, false);
        let end = message.end();
        requests.push(Asked::Request(message));
        match end {
            Some(end) if !closes => at = end,
            _ => break,
        }
    }
    requests
}

struct Client<'b> {
    requests: Vec<Asked<'b>>,
    passed: &'b Passed,
    transcript: &'b Transcript,
}

/// A final answer to a client, and what came with it.
struct Answer<'b> {
    message: Message<'b>,
    id: String,
    /// Interim responses before it.
    interim: usize,
}

impl<'b> Client<'b> {
    /// `forwarded` are this client's requests as they reached origins, in that order.
    fn judge(&self, forwarded: &[&Forwarded<'_>]) -> Result<(), String> {
        let answers = self.answers()?;
        let numbers = self.number(forwarded, &answers)?;
        for (number, answer) in answers.iter().enumerate() {
            let verdict = self.judge_answer(number, answer, forwarded, &numbers);
            verdict.map_err(|fault| format!("answer {number}: {fault}"))?;
        }
        let switched = answers.last().is_some_and(|answer| answer.message.status() == 101);
        match switched && numbers.values().any(|number| *number >= answers.len()) {
            true => Err("a request out of a tunnel".into()),
            false => Ok(()),
        }
    }

    /// The answers that the client was given, one a request, as far as they go.
    fn answers(&self) -> Result<Vec<Answer<'b>>, String> {
        let written = &self.passed.written;
        let (mut answers, mut at) = (Vec::new(), Some(0));
        for asked in &self.requests {
            let Some(start) = at.filter(|start| *start < written.len()) else { break };
            let Some(answer) = self.read_answer(asked, start)? else { return Ok(answers) };
            let (message, head) = (&answer.message, &answer.message.head);
            let goes_on = !head.closes && head.framing != Framing::UntilClose;
            if message.status() == 101 || message.body.is_none() {
                answers.push(answer);
                return Ok(answers);
            }
            // Nothing may follow the last one.
            at = message.end().filter(|end| goes_on || *end < written.len());
            if !goes_on && at.is_some() {
                return Err("bytes behind the last answer".into());
            }
            answers.push(answer);
        }
        match at {
            Some(end) if end < written.len() => Err("bytes that nobody asked for".into()),
            _ => Ok(answers),
        }
    }

    /// The answer at `at`; `None`: its head is cut.
    fn read_answer(&self, asked: &Asked<'_>, mut at: usize) -> Result<Option<Answer<'b>>, String> {
        let written = &self.passed.written;
        let (to_head, http10) = match asked {
            Asked::Request(request) => (request.method() == "HEAD", request.head.version_minor == 0),
            Asked::Nonsense(_) => (false, false),
        };
        let mut interim = 0;
        loop {
            let end = head::end(&written[at..]).map_err(|()| "a head that cannot become one")?;
            let Some(head_len) = end else { return Ok(None) };
            let bytes = &written[at..at + head_len];
            let head = head::response(bytes, to_head);
            let head = head.ok_or_else(|| format!("a bad head {}", bytes.escape_ascii()))?;
            at += head_len;
            if !is_interim(&head) {
                if head.framing == Framing::UntilClose && !http10 {
                    return Err("an answer of HTTP/1.1 that ends by close".into());
                }
                let message = Message::read(head, written, at, !self.passed.reset);
                return Ok(Some(Answer { id: one_field(&message, "x-request-id")?, message, interim }));
            }
            interim += 1;
            if http10 {
                return Err("an interim response in HTTP/1.0".into());
            }
        }
    }

    /// Which of the client's requests each of the forwarded ones is, by id. One may have been sent twice.
    fn number(
        &self,
        forwarded: &[&Forwarded<'_>],
        answers: &[Answer<'_>],
    ) -> Result<BTreeMap<String, usize>, String> {
        let mut numbers = BTreeMap::new();
        let mut last_try = BTreeMap::<&str, &Forwarded<'_>>::new();
        let mut next = 0;
        for request in forwarded {
            // One without an answer follows those with one.
            let answered = answers.iter().position(|answer| answer.id == request.id);
            let candidates = answered.map_or(answers.len()..self.requests.len(), |number| number..number + 1);
            let number = match last_try.insert(&request.id, request) {
                None => candidates.into_iter().find(|number| *number >= next && self.fits(*number, request)),
                Some(before) => {
                    let again = before.pooled && !request.pooled && is_idempotent(request.message.method());
                    numbers.get(&request.id).copied().filter(|number| again && self.fits(*number, request))
                }
            };
            let number = number.ok_or_else(|| format!("nobody asked for {:?}", request.message.head))?;
            numbers.insert(request.id.clone(), number);
            next = next.max(number + 1);
        }
        Ok(numbers)
    }

    /// Whether a forwarded request can be the client's request of this number.
    fn fits(&self, number: usize, forwarded: &Forwarded<'_>) -> bool {
        let Asked::Request(asked) = &self.requests[number] else { return false };
        let (asked_head, head) = (&asked.head, &forwarded.message.head);
        let (
            Start::Request { method: asked_method, origin_form, authority, .. },
            Start::Request { method, target, .. },
        ) = (&asked_head.start, &head.start)
        else {
            return false;
        };
        let host = forwarded.message.field("host").unwrap_or_default();
        let authority = authority.as_deref().unwrap_or("fallback.example");
        let same_body = match forwarded.message.body {
            Some(_) => asked.body.is_some() && asked.content == forwarded.message.content,
            // Not byte for byte: a trailer section may be dropped.
            None => asked.content.starts_with(&forwarded.message.content),
        };
        let via = format!("1.{} ringfence", asked_head.version_minor);
        let fields = kept(&asked_head.fields).chain([("via".to_owned(), via.as_str())]);
        asked_method == method
            && origin_form == target
            && head.version_minor == 1
            && host.eq_ignore_ascii_case(authority)
            && asked_head.framing == head.framing
            && asked_head.upgrades == head.upgrades
            && kept(&head.fields).filter(is_not_lookalike).eq(fields.filter(is_not_lookalike))
            && same_body
    }

    fn judge_answer(
        &self,
        number: usize,
        answer: &Answer<'_>,
        forwarded: &[&Forwarded<'_>],
        numbers: &BTreeMap<String, usize>,
    ) -> Result<(), String> {
        let (asked, told) = (&self.requests[number], &answer.message);
        if numbers.get(&answer.id).is_some_and(|asked| *asked != number) {
            return Err("an answer to another request".into());
        }
        if answer.interim > 0 && !numbers.values().any(|other| *other == number) {
            return Err("an interim response to what no origin was asked".into());
        }
        if is_own(told, asked) {
            return Ok(());
        }
        let origin = forwarded.iter().rev().find(|request| request.id == answer.id);
        let origin = origin.ok_or("no origin was asked for this answer")?;
        let given = origin.answer.as_ref().ok_or("no origin gave this answer")?;
        judge_passed_on(told, given)?;
        if told.status() == 101 { self.judge_switch(asked, origin, told, given) } else { Ok(()) }
    }

    /// Behind a 101, each side gets what the other one sent.
    fn judge_switch(
        &self,
        asked: &Asked<'_>,
        origin: &Forwarded<'_>,
        told: &Message<'_>,
        given: &Message<'_>,
    ) -> Result<(), String> {
        let Asked::Request(request) = asked else { return Err("a switch that nobody asked for".into()) };
        let upstream = &self.transcript.origins[origin.origin].written;
        let up = &upstream[origin.message.head_end..];
        let is_asked = request.head.upgrades && given.head.upgrades;
        if !is_asked || !request.behind.starts_with(up) || !given.behind.starts_with(told.behind) {
            return Err("foreign bytes in a tunnel".into());
        }
        Ok(())
    }
}

/// Whether the proxy made this answer: a whole one, or the start of it.
fn is_own(message: &Message<'_>, asked: &Asked<'_>) -> bool {
    let may_be_bare = match asked {
        Asked::Request(request) => request.method() == "HEAD",
        // The proxy knows the method of what it refused.
        Asked::Nonsense(bytes) => bytes.strip_prefix(b"\r\n").unwrap_or(bytes).starts_with(b"HEAD "),
    };
    let forwards_spent = match asked {
        Asked::Request(request) => matches!(request.method(), "OPTIONS" | "TRACE") && message.status() == 200,
        Asked::Nonsense(_) => false,
    };
    let content = format!("{}|made by the proxy", message.status());
    let is_its_content = message.content == content.as_bytes()
        || (message.body.is_none() && content.as_bytes().starts_with(&message.content))
        || (may_be_bare && message.content.is_empty());
    let must_close = match asked {
        Asked::Request(request) => request.body.is_none(),
        Asked::Nonsense(_) => true,
    };
    let is_marked = message.field("x-made-by") == Some("proxy") && is_its_content;
    let is_spent = forwards_spent
        && message.field("x-made-by").is_none()
        && message.field("content-length") == Some("0");
    (is_marked || is_spent) && (message.head.closes || !must_close)
}

/// What a client is told is what the origin said, and complete only if that was.
fn judge_passed_on(told: &Message<'_>, answer: &Message<'_>) -> Result<(), String> {
    let (Start::Response { status, reason }, Start::Response { status: given, reason: because }) =
        (&told.head.start, &answer.head.start)
    else {
        return Err("no response".into());
    };
    let has_date = answer.head.fields.iter().any(|field| field.name.eq_ignore_ascii_case("date"));
    let without_ours = |(name, _): &(String, &str)| has_date || name != "date";
    if (status, reason) != (given, because) {
        return Err(format!("{status} {reason:?} in place of {given} {because:?}"));
    }
    if !kept(&told.head.fields).filter(without_ours).eq(kept(&answer.head.fields)) {
        return Err(format!("fields {:?} in place of {:?}", told.head.fields, answer.head.fields));
    }
    let matches = match told.body {
        Some(_) => answer.body.is_some() && told.content == answer.content,
        None => answer.content.starts_with(&told.content),
    };
    match matches {
        true => Ok(()),
        false => Err(format!(
            "{} bytes of content, complete: {}; the origin gave {}, complete: {}",
            told.content.len(),
            told.body.is_some(),
            answer.content.len(),
            answer.body.is_some()
        )),
    }
}

/// The fields that pass through unchanged, in their order.
fn kept(fields: &[Field]) -> impl Iterator<Item = (String, &str)> {
    let named = fields.iter().filter(|field| field.is_forwarded);
    let named = named.map(|field| (field.name.to_ascii_lowercase(), field.value.as_str()));
    named.filter(|(name, _)| !name.starts_with("x-forwarded-") && !SPECIAL.contains(&name.as_str()))
}

/// Fields that the proxy takes away, replaces or may add.
const SPECIAL: [&str; 10] = [
    "connection",
    "expect",
    "forwarded",
    "host",
    "max-forwards",
    "te",
    "transfer-encoding",
    "upgrade",
    "x-real-ip",
    "x-request-id",
];

/// Whether some software (CGI, WSGI) takes the name for one that frames a message or tells of its client.
fn is_dangerous_lookalike(name: &str) -> bool {
    let hyphenated = name.replace('_', "-");
    let is_taken = SPECIAL.contains(&hyphenated.as_str()) || hyphenated == "content-length";
    name.contains('_') && (is_taken || hyphenated.starts_with("x-forwarded-"))
}

/// Of a request, names with `_` may be taken away.
fn is_not_lookalike((name, _): &(String, &str)) -> bool {
    !name.contains('_')
}

/// Methods that may be sent again (RFC 9110 §9.2.2).
fn is_idempotent(method: &str) -> bool {
    ["GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"].contains(&method)
}

fn story(transcript: &Transcript) -> String {
    let side = |name: &str, (index, passed): (usize, &Passed)| {
        format!(
            "{name} {index} sent{}: {}\n  was sent{}: {}\n",
            if passed.closed { " and closed" } else { "" },
            passed.sent.escape_ascii(),
            if passed.reset { " and reset" } else { "" },
            passed.written.escape_ascii()
        )
    };
    let clients = transcript.clients.iter().enumerate().map(|passed| side("client", passed));
    let origins = transcript.origins.iter().enumerate().map(|passed| side("origin", passed));
    clients.chain(origins).collect()
}
