//! What would happen to a request, without anything being sent, for `ringfence explain`: nobody else is meant to use it.
//!
//! Decides nothing itself: the head goes through the parser, the routing and the rewriting of `exchange`, in its order.

use std::net::IpAddr;

use bytes::Bytes;
use ringfence_http1::{HeadError, HeadScan, OutgoingHead, RequestHead};

pub use crate::route::Verdict;
use crate::{
    fields::{self, Forwarded},
    front,
    request_id::{RequestId, RequestIds},
    respond::{self, Answer, Refusal},
    route::{self, Decision},
    snapshot::Snapshot,
};

/// A request that nobody sends.
pub struct Question<'a> {
    /// The head, from the request line to the empty line.
    pub head: &'a [u8],
    /// Index of the listener that it would come through.
    pub listener: usize,
    /// Whether that would be over TLS, whatever the snapshot has to speak it with.
    pub tls: bool,
    /// Who would connect.
    pub peer: IpAddr,
}

/// What would happen to it.
pub struct Explanation {
    /// Whom the proxy would take for the client; nobody, where the head cannot be read.
    pub asker: Option<Asker>,
    /// What is routed by: the target up to the query.
    pub path: Vec<u8>,
    /// Index of the site and whether it claims the host; none, where no site would be looked at.
    pub site: Option<(usize, bool)>,
    /// What the rules of the site say, one by one, up to the one that decides.
    pub verdicts: Vec<Verdict>,
    /// Largest request body that would be forwarded, in bytes of content, by the rule that decides.
    pub content_max: u64,
    /// Whether it would count against the rate limit of its class.
    pub is_limited: bool,
    /// How it ends.
    pub outcome: Outcome,
}

/// Who makes a request, as the homeserver is told.
pub struct Asker {
    /// The address.
    pub address: IpAddr,
    /// Whether everyone who spoke for it could be understood.
    pub is_certain: bool,
    /// `http` or `https`.
    pub scheme: String,
}

/// How it ends.
pub enum Outcome {
    /// It would go to a server.
    Forwarded {
        /// Index into [`Snapshot::upstreams`].
        upstream: usize,
        /// The head as it would be sent; the request id is an example.
        head: Vec<u8>,
    },
    /// The proxy would answer it itself.
    Answered {
        /// Why.
        reason: Reason,
        /// The head as it would be sent; the request id is an example, and so is the date.
        head: Vec<u8>,
        /// The content, also for HEAD, which is not sent it.
        content: Bytes,
    },
}

/// Why the proxy answers itself.
pub enum Reason {
    /// The head breaks HTTP.
    Malformed(String),
    /// What routing says to it.
    Refused(Refusal),
    /// The listener redirects.
    Redirect,
    /// A rule has an answer ready, or it came as far as its `Max-Forwards` let it.
    Answer,
}

/// Explains what `snapshot` makes of a request.
pub fn explain(snapshot: &Snapshot, question: &Question<'_>) -> Explanation {
    let mut head = RequestHead::default();
    match parse(&mut head, question.head, snapshot) {
        Ok(()) => explain_head(snapshot, question, &head),
        Err(error) => {
            let answer = snapshot.refusals[0].of(front::refusal_of(error));
            let outcome = answered(Reason::Malformed(error.to_string()), answer, true);
            Explanation {
                asker: None,
                path: Vec::new(),
                site: None,
                verdicts: Vec::new(),
                content_max: snapshot.limits.body_bytes_max,
                is_limited: false,
                outcome,
            }
        }
    }
}

fn parse(head: &mut RequestHead, bytes: &[u8], snapshot: &Snapshot) -> Result<(), HeadError> {
    let limits = &snapshot.limits.head;
    match HeadScan::new().scan(bytes, limits)? {
        Some(length) if length == bytes.len() => head.parse(bytes, limits),
        _ => Err(HeadError::NotOneHead),
    }
}

fn explain_head(snapshot: &Snapshot, question: &Question<'_>, head: &RequestHead) -> Explanation {
    let bytes = question.head;
    let listener = &snapshot.listeners[question.listener];
    let scheme: &[u8] = if question.tls { b"https" } else { b"http" };
    let client = fields::client(question.peer.to_canonical(), scheme, &snapshot.trusted_proxies, head, bytes);
    let path = route::path(head, bytes);
    let host = head.authority().map(|span| span.of(bytes));
    let site = route::site(snapshot, host).ok();
    let (mut verdicts, mut content_max) = (Vec::new(), snapshot.limits.body_bytes_max);
    for rule in site.filter(|_| !listener.redirect).into_iter().flat_map(|site| &snapshot.sites[site].rules) {
        verdicts.push(route::judge(rule, listener, client, head.method(), path));
        if verdicts.last() == Some(&Verdict::Taken) {
            content_max = rule.body_bytes_max.unwrap_or(content_max);
            break;
        }
    }
    let close = head.close_reason().is_some() || !head.framing().is_empty();
    let decision = route::decide(snapshot, listener, client, head, bytes);
    let class = (snapshot.classify)(head.method_span().of(bytes), path);
    let is_limited = decision.limited_style().is_some()
        && snapshot.rate_limits.counting(class, head.method(), client.address).is_some();
    let outcome = match decision {
        Decision::Refuse(refusal, style) => {
            answered(Reason::Refused(refusal), snapshot.refusals[style].of(refusal), close)
        }
        Decision::Redirect => answered(Reason::Redirect, &route::redirect(snapshot, head, bytes), close),
        Decision::Answer(answer, _) => answered(Reason::Answer, answer, close),
        Decision::Forward(way) => {
            let mut out = OutgoingHead::default();
            fields::request(
                head,
                bytes,
                &Forwarded { client, request_id: &example(), host: way.host },
                &mut out,
            );
            Outcome::Forwarded { upstream: way.upstream, head: concat(&out, bytes) }
        }
    };
    let asker = Asker {
        address: client.address,
        is_certain: client.is_certain,
        scheme: String::from_utf8_lossy(client.scheme).into_owned(),
    };
    Explanation {
        asker: Some(asker),
        path: path.to_owned(),
        site: site.map(|index| (index, route::claimed_site(snapshot, host).is_some())),
        verdicts,
        content_max,
        is_limited,
        outcome,
    }
}

fn answered(reason: Reason, answer: &Answer, close: bool) -> Outcome {
    let mut out = OutgoingHead::default();
    respond::head(answer, DATE, &example(), close, &mut out);
    Outcome::Answered { reason, head: concat(&out, b""), content: answer.content.clone() }
}

fn example() -> RequestId {
    RequestIds::new().next()
}

/// The date of RFC 9110 §5.6.7.
const DATE: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn concat(head: &OutgoingHead, input: &[u8]) -> Vec<u8> {
    let mut slices = vec![std::io::IoSlice::new(b""); head.slice_count()];
    let filled = head.slices(input, 0, &mut slices);
    slices[..filled].iter().flat_map(|slice| slice.iter().copied()).collect()
}
