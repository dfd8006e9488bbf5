//! The strictest reader of HTTP/1.1 in this repository: what a byte-recording origin or client makes of a stream.
//!
//! Any byte that two recipients might read differently is malformed here, and a message is whole only when its last
//! byte is there. Written for the judge, apart from the proxy's parser.

use crate::latin1;
use crate::message::{Framing, Head, Message};
use crate::wire::End;

/// What the front of a stream is.
#[derive(Clone, Debug)]
pub enum Front {
    /// Nothing has come.
    Nothing,
    /// A message that goes on; its head, once that is there.
    Partial(Option<Head>),
    /// A whole message and its length in bytes.
    Whole(Message, usize),
    /// Not one message with one framing, because of this.
    Malformed(String),
}

/// The requests at the front of `bytes`, and what stands behind them.
#[must_use]
pub fn requests(mut bytes: &[u8]) -> (Vec<Message>, Front) {
    let mut whole = Vec::new();
    loop {
        match request(bytes) {
            Front::Whole(message, length) => {
                whole.push(message);
                bytes = &bytes[length..];
            }
            rest => return (whole, rest),
        }
    }
}

/// The request at the front of `bytes`, as an origin is sent it: origin-form or `*`, HTTP/1.1.
#[must_use]
pub fn request(bytes: &[u8]) -> Front {
    let judge = |head: &Head| {
        request_line(&head.start_line)?;
        host(head)?;
        head.request_framing()
    };
    front(bytes, judge, None).unwrap_or_else(Front::Malformed)
}

/// The response to `method` at the front of `bytes`; its interim responses are part of it. `ended` is how the stream
/// ended, if it did.
#[must_use]
pub fn response(bytes: &[u8], method: &str, ended: Option<&End>) -> Front {
    let mut interim = Vec::new();
    let mut at = 0;
    loop {
        let judge = |head: &Head| status_line(head).and_then(|()| head.response_framing(method));
        match front(&bytes[at..], judge, ended) {
            Ok(Front::Whole(message, length)) if is_interim(message.status()) => {
                at += length;
                interim.push(message.head);
            }
            Ok(Front::Whole(message, length)) => {
                return Front::Whole(Message { interim, ..message }, at + length);
            }
            Ok(Front::Nothing) if at > 0 => return Front::Partial(None),
            other => return other.unwrap_or_else(Front::Malformed),
        }
    }
}

fn is_interim(status: u16) -> bool {
    (100..200).contains(&status) && status != 101
}

fn front(
    bytes: &[u8],
    judge: impl Fn(&Head) -> Result<Framing, String>,
    ended: Option<&End>,
) -> Result<Front, String> {
    if bytes.is_empty() {
        return Ok(Front::Nothing);
    }
    let Some(head_len) = find(bytes, b"\r\n\r\n").map(|at| at + 4) else {
        return line_ends(bytes).map(|()| Front::Partial(None));
    };
    let head = Head::parse(&bytes[..head_len])?;
    for (name, value) in &head.fields {
        if value.bytes().any(|byte| byte < b' ' && byte != b'\t') || value.contains('\x7f') {
            return Err(format!("control byte in {name}: {value:?}"));
        }
    }
    let framing = judge(&head)?;
    let mut message = Message::begun(head, Vec::new(), framing);
    Ok(match body(&bytes[head_len..], &mut message, ended)? {
        Some(body_len) => Front::Whole(message, head_len + body_len),
        None => Front::Partial(Some(message.head)),
    })
}

/// Reads the body of `message` at the front of `bytes` and returns its length; `None` while it goes on.
pub fn body(bytes: &[u8], message: &mut Message, ended: Option<&End>) -> Result<Option<usize>, String> {
    match message.framing {
        Framing::Length(length) => Ok(fixed(bytes, length, message)),
        Framing::UntilClose if ended == Some(&End::Closed) => {
            message.body = bytes.to_vec();
            Ok(Some(bytes.len()))
        }
        Framing::UntilClose => Ok(None),
        Framing::Chunked => chunked(bytes, message),
    }
}

fn fixed(bytes: &[u8], length: usize, message: &mut Message) -> Option<usize> {
    message.body = bytes.get(..length)?.to_vec();
    Some(length)
}

/// The length of the chunked body at the front of `bytes`; `None` while it goes on.
fn chunked(bytes: &[u8], message: &mut Message) -> Result<Option<usize>, String> {
    let mut at = 0;
    loop {
        let Some((line, length)) = line(&bytes[at..])? else { return Ok(None) };
        at += length;
        let size = chunk_size(&line)?;
        if size == 0 {
            break;
        }
        let Some(data) = bytes.get(at..at.saturating_add(size).saturating_add(2)) else {
            return Ok(None);
        };
        let data = data.strip_suffix(b"\r\n").ok_or("a chunk's data does not end in CRLF")?;
        message.body.extend(data);
        at += size + 2;
    }
    loop {
        let Some((line, length)) = line(&bytes[at..])? else { return Ok(None) };
        at += length;
        if line.is_empty() {
            return Ok(Some(at));
        }
        message.trailers.push(trailer(&line)?);
    }
}

fn chunk_size(line: &str) -> Result<usize, String> {
    let digits = line.bytes().take_while(u8::is_ascii_hexdigit).count();
    let extension = line[digits..].trim_start_matches([' ', '\t']);
    let is_well_formed =
        line.len() == digits || (extension.starts_with(';') && !line.ends_with([' ', '\t', ';']));
    let size = (1..=16).contains(&digits).then(|| usize::from_str_radix(&line[..digits], 16).ok()).flatten();
    let size = size.filter(|_| is_well_formed && line.bytes().all(|byte| byte >= b' ' || byte == b'\t'));
    size.ok_or_else(|| format!("not a chunk size: {line:?}"))
}

fn trailer(line: &str) -> Result<(String, String), String> {
    let bytes: Vec<u8> = line.chars().filter_map(|char| u8::try_from(char).ok()).collect();
    let head = Head::parse(&[b"T\r\n", &bytes[..], b"\r\n\r\n"].concat())?;
    let (name, value) = head.fields.into_iter().next().ok_or("no trailer")?;
    let frames = ["content-length", "transfer-encoding", "host", "authorization", "connection", "trailer"];
    if frames.contains(&name.to_ascii_lowercase().as_str()) {
        return Err(format!("{name} in a trailer section"));
    }
    Ok((name, value))
}

/// The line at the front of `bytes`, without its CRLF, and its length with it; `None` while it goes on.
fn line(bytes: &[u8]) -> Result<Option<(String, usize)>, String> {
    let end = find(bytes, b"\r\n");
    line_ends(&bytes[..end.map_or(bytes.len(), |end| end + 2)])?;
    Ok(end.map(|end| (latin1(&bytes[..end]), end + 2)))
}

/// Refuses bare CR and bare LF; a CR at the very end may become a line end.
fn line_ends(bytes: &[u8]) -> Result<(), String> {
    for (at, byte) in bytes.iter().enumerate() {
        let is_bare = match byte {
            b'\n' => at == 0 || bytes[at - 1] != b'\r',
            b'\r' => bytes.get(at + 1).is_some_and(|next| *next != b'\n'),
            _ => *byte == 0,
        };
        if is_bare {
            return Err(format!("bare CR, LF or NUL at {at} of {:?}", latin1(bytes)));
        }
    }
    Ok(())
}

fn request_line(line: &str) -> Result<(), String> {
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = parts[..] else { return Err(format!("request line {line:?}")) };
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    let is_target = target.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if method.is_empty()
        || !method.bytes().all(is_token)
        || !is_target
        || !(target.starts_with('/') || target == "*")
    {
        return Err(format!("request line {line:?}"));
    }
    Ok(())
}

fn host(head: &Head) -> Result<(), String> {
    let values = head.values("host");
    let [value] = values[..] else { return Err(format!("Host: {values:?}")) };
    let is_host_byte = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~:[]".contains(&byte);
    if value.is_empty() || !value.bytes().all(is_host_byte) {
        return Err(format!("Host: {value:?}"));
    }
    Ok(())
}

fn status_line(head: &Head) -> Result<(), String> {
    let is_known = head.start_line.starts_with("HTTP/1.1 ") || head.start_line.starts_with("HTTP/1.0 ");
    let (status, framed) = (head.status(), ["content-length", "transfer-encoding"]);
    if !is_known || !(100..600).contains(&status) {
        return Err(format!("status line {:?}", head.start_line));
    }
    let has_no_body = status < 200 || status == 204;
    match framed.iter().find(|name| has_no_body && !head.values(name).is_empty()) {
        Some(name) => Err(format!("{name} in a {status}")),
        None => Ok(()),
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_malformed(bytes: &str) -> bool {
        matches!(request(bytes.as_bytes()), Front::Malformed(_))
    }

    #[test]
    fn one_message_with_one_framing_is_whole() {
        let (whole, rest) = requests(
            b"GET /a HTTP/1.1\r\nHost: h\r\n\r\nPUT /b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\nT: 1\r\n\r\nGE",
        );
        assert_eq!((whole.len(), whole[1].text().as_str(), whole[1].trailers.len()), (2, "x", 1));
        assert!(matches!(rest, Front::Partial(None)));
    }

    #[test]
    fn what_can_be_read_in_two_ways_is_malformed() {
        for bytes in [
            "GET /a HTTP/1.0\r\nHost: h\r\n\r\n",
            "GET  /a HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /a HTTP/1.1\nHost: h\n",
            "GET /a HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: h\r\nX: a\x0b\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\n",
            "GET /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1;\nx",
            "GET /a HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nHost: x\r\n\r\n",
        ] {
            assert!(is_malformed(bytes), "{bytes:?}");
        }
    }

    #[test]
    fn a_response_ends_as_its_framing_says() {
        let until_close = b"HTTP/1.1 200 OK\r\n\r\nabc";
        assert!(matches!(response(until_close, "GET", None), Front::Partial(Some(_))));
        assert!(matches!(response(until_close, "GET", Some(&End::Closed)), Front::Whole(_, 22)));
        assert!(matches!(response(until_close, "GET", Some(&End::Truncated)), Front::Partial(Some(_))));
        let interim = b"HTTP/1.1 103 Hints\r\n\r\nHTTP/1.1 204 None\r\n\r\n";
        let Front::Whole(message, 43) = response(interim, "GET", None) else { panic!("not whole") };
        assert_eq!((message.status(), message.interim.len()), (204, 1));
    }
}
