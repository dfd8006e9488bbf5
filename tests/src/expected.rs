//! What a message of the corpus should have become behind ringfence: which lines are left, which are added.
//!
//! Written for the judge, apart from the proxy's own rules; reads what the corpus calls acceptable, and no more.

use crate::message::{Framing, Head, Message};
use crate::strict;
use crate::wire::End;

type Fields = Vec<(String, String)>;

/// A request as the origin should see it.
#[derive(Clone, Debug)]
pub struct Expected {
    /// Its method.
    pub method: String,
    /// Its request line.
    pub start_line: String,
    /// Its content.
    pub body: Vec<u8>,
    /// Whether the client's connection ends with it.
    pub closes: bool,
    fields: Fields,
    trailers: Fields,
    version: &'static str,
    upgrades: bool,
}

/// A response as the client should see it.
#[derive(Clone, Debug)]
pub struct ExpectedResponse {
    status: u16,
    body: Vec<u8>,
    fields: Fields,
    trailers: Fields,
    interim: Vec<String>,
}

/// The requests in `bytes` that an origin should see: all up to one that ends the connection.
#[must_use]
pub fn requests(mut bytes: &[u8]) -> Vec<Expected> {
    let mut requests = Vec::new();
    while let Some((message, length)) =
        message(bytes.strip_prefix(b"\r\n").unwrap_or(bytes), Head::request_framing)
    {
        let skipped = if bytes.starts_with(b"\r\n") { 2 } else { 0 };
        bytes = &bytes[skipped + length..];
        let request = Expected::of(message);
        let closes = request.closes;
        requests.push(request);
        if closes {
            break;
        }
    }
    requests
}

impl Expected {
    fn of(message: Message) -> Expected {
        let head = &message.head;
        let is_http10 = head.is_http10();
        let has_body = message.framing != Framing::Length(0);
        let protocols = head.values("upgrade");
        let upgrades = head.lists("connection", "upgrade")
            && !is_http10
            && !has_body
            && head.method() == "GET"
            && protocols.len() == 1
            && protocols[0].trim().eq_ignore_ascii_case("websocket");
        let method = head.method().to_owned();
        let identifies = |name: &str| {
            name.starts_with("x-forwarded-") || ["forwarded", "x-real-ip", "x-request-id"].contains(&name)
        };
        // What CGI and WSGI would take for a line that is ringfence's to write, or for the framing.
        let is_lookalike = |name: &str| {
            let meant = name.replace('_', "-");
            meant != name
                && (identifies(&meant) || ["content-length", "host", "transfer-encoding"].contains(&&*meant))
        };
        let drops = |name: &str| identifies(name) || is_lookalike(name) || (name == "expect" && is_http10);
        let mut fields =
            remaining(head, &head.fields, |name| drops(name) || (name == "upgrade" && !upgrades));
        count_down(&method, &mut fields);
        Expected {
            start_line: format!("{method} {} HTTP/1.1", origin_form(&method, head.target())),
            closes: is_http10 || head.lists("connection", "close"),
            version: if is_http10 { "1.0" } else { "1.1" },
            trailers: remaining(head, &message.trailers, |_| false),
            body: message.body.clone(),
            method,
            fields,
            upgrades,
        }
    }
}

/// Where `request`, as the origin saw it, is not what ringfence should have made of `wanted`.
#[must_use]
pub fn faults(request: &Message, wanted: &Expected, tls: bool) -> Vec<String> {
    let head = &request.head;
    let mut faults = Vec::new();
    let mut fault = |is_right: bool, what: String| {
        if !is_right {
            faults.push(what);
        }
    };
    let scheme = if tls { "https" } else { "http" };
    fault(
        head.values("x-forwarded-for") == ["127.0.0.1"],
        format!("X-Forwarded-For: {:?}", head.values("x-forwarded-for")),
    );
    fault(
        head.values("x-forwarded-proto") == [scheme],
        format!("X-Forwarded-Proto: {:?}", head.values("x-forwarded-proto")),
    );
    let ids = head.values("x-request-id");
    let is_id = |id: &&str| {
        id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    fault(ids.len() == 1 && ids.iter().all(is_id), format!("X-Request-ID: {ids:?}"));
    let connection = if wanted.upgrades { vec!["upgrade"] } else { Vec::new() };
    fault(head.values("connection") == connection, format!("Connection: {:?}", head.values("connection")));
    let via = format!("{} ringfence", wanted.version);
    fault(
        head.values("via").last() == Some(&via.as_str()),
        format!("Via: {:?} without {via:?}", head.values("via")),
    );

    let added = ["connection", "transfer-encoding", "x-forwarded-for", "x-forwarded-proto", "x-request-id"];
    let mut got: Fields = head.fields.clone();
    let last_via = got.iter().rposition(|(name, _)| name.eq_ignore_ascii_case("via"));
    last_via.map(|at| got.remove(at));
    got.retain(|(name, _)| !added.contains(&name.to_ascii_lowercase().as_str()));
    if !wanted.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        got.retain(|(name, _)| !name.eq_ignore_ascii_case("host"));
    }
    fault(got == wanted.fields, format!("fields {got:?} instead of {:?}", wanted.fields));
    fault(
        request.trailers == wanted.trailers,
        format!("trailers {:?} instead of {:?}", request.trailers, wanted.trailers),
    );
    faults
}

/// What a client should see when an origin sends `bytes` in answer to `method` and ends the connection like that;
/// `None` when that is no whole response.
#[must_use]
pub fn response(bytes: &[u8], method: &str, ended: &End) -> Option<ExpectedResponse> {
    let mut interim = Vec::new();
    let mut at = 0;
    loop {
        let framing = |head: &Head| head.response_framing(method);
        let (message, length) = message_until(&bytes[at..], framing, Some(ended))?;
        let status = message.status();
        if status >= 200 || status == 101 {
            return Some(ExpectedResponse::of(message, interim));
        }
        at += length;
        interim.push(message.head.start_line.replacen("HTTP/1.0", "HTTP/1.1", 1));
    }
}

impl ExpectedResponse {
    fn of(message: Message, interim: Vec<String>) -> ExpectedResponse {
        let head = &message.head;
        let status = message.status();
        let drops = |name: &str| {
            ["x-request-id", "upgrade"].contains(&name) || (name == "content-length" && status == 204)
        };
        ExpectedResponse {
            fields: remaining(head, &head.fields, drops),
            trailers: remaining(head, &message.trailers, |_| false),
            body: message.body.clone(),
            status,
            interim,
        }
    }
}

/// Where status or content of `answer` are others.
#[must_use]
pub fn response_difference(answer: &Message, wanted: &ExpectedResponse) -> Option<String> {
    let same = answer.status() == wanted.status && answer.body == wanted.body;
    let (got, want) = (answer.body.len(), wanted.body.len());
    (!same).then(|| format!("{} with {got} bytes instead of {} with {want}", answer.status(), wanted.status))
}

/// Where `answer` is not what ringfence should have made of `wanted`.
#[must_use]
pub fn response_faults(answer: &Message, wanted: &ExpectedResponse) -> Vec<String> {
    let mut got = answer.head.fields.clone();
    let has_date = wanted.fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("date"));
    let added = ["transfer-encoding", "x-request-id", "connection"];
    got.retain(|(name, _)| {
        let name = name.to_ascii_lowercase();
        !added.contains(&name.as_str()) && (has_date || name != "date")
    });
    let interim: Vec<&str> = answer.interim.iter().map(|head| head.start_line.as_str()).collect();
    let mut faults = Vec::new();
    if got != wanted.fields {
        faults.push(format!("fields {got:?} instead of {:?}", wanted.fields));
    }
    if answer.trailers != wanted.trailers {
        faults.push(format!("trailers {:?} instead of {:?}", answer.trailers, wanted.trailers));
    }
    if interim != wanted.interim {
        faults.push(format!("interim responses {interim:?} instead of {:?}", wanted.interim));
    }
    if answer.head.values("x-request-id").len() != 1 {
        faults.push(format!("X-Request-ID: {:?}", answer.head.values("x-request-id")));
    }
    faults
}

/// The fields that go beyond this connection (RFC 9110 §7.6.1), without those that `drops` names in lower case.
fn remaining(head: &Head, fields: &Fields, drops: impl Fn(&str) -> bool) -> Fields {
    let own = [
        "connection",
        "http2-settings",
        "keep-alive",
        "proxy",
        "proxy-connection",
        "te",
        "transfer-encoding",
    ];
    let stays = |name: &str| {
        let lower = name.to_ascii_lowercase();
        let is_named = head.lists("connection", &lower) && lower != "upgrade";
        !own.contains(&lower.as_str()) && !is_named && !drops(&lower)
    };
    fields.iter().filter(|(name, _)| stays(name)).cloned().collect()
}

/// One hop less is left (RFC 9110 §7.6.2).
fn count_down(method: &str, fields: &mut Fields) {
    let is_counted =
        |name: &str| ["OPTIONS", "TRACE"].contains(&method) && name.eq_ignore_ascii_case("max-forwards");
    for (_, value) in fields.iter_mut().filter(|(name, _)| is_counted(name)) {
        *value = value.parse::<u32>().map_or(value.clone(), |hops| hops.saturating_sub(1).to_string());
    }
}

/// The target as an origin is sent it (RFC 9112 §3.2.1, §3.2.4).
fn origin_form(method: &str, target: &str) -> String {
    let Some((_, rest)) = target.split_once("://").filter(|_| !target.starts_with('/')) else {
        return target.to_owned();
    };
    let path = rest.find(['/', '?']).map_or("", |at| &rest[at..]);
    match path {
        "" if method == "OPTIONS" => "*".to_owned(),
        "" => "/".to_owned(),
        path if path.starts_with('?') => format!("/{path}"),
        path => path.to_owned(),
    }
}

fn message(bytes: &[u8], framing: impl Fn(&Head) -> Result<Framing, String>) -> Option<(Message, usize)> {
    message_until(bytes, framing, None)
}

fn message_until(
    bytes: &[u8],
    framing: impl Fn(&Head) -> Result<Framing, String>,
    ended: Option<&End>,
) -> Option<(Message, usize)> {
    let head_len = bytes.windows(4).position(|window| window == b"\r\n\r\n")? + 4;
    let head = Head::parse(&bytes[..head_len]).ok()?;
    let framing = framing(&in_lower_case(&head)).ok()?;
    let mut message = Message::begun(head, Vec::new(), framing);
    let body_len = strict::body(&bytes[head_len..], &mut message, ended).ok()??;
    Some((message, head_len + body_len))
}

/// The coding's name in lower case, as the strict reader wants it (RFC 9112 §7: case does not matter).
fn in_lower_case(head: &Head) -> Head {
    let mut head = head.clone();
    for (name, value) in &mut head.fields {
        if name.eq_ignore_ascii_case("transfer-encoding") {
            value.make_ascii_lowercase();
        }
    }
    head
}
