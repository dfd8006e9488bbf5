//! One response as it comes in: its head is read, its body skipped (RFC 9112 §4, §6.3).
//!
//! Sans I/O. Only what a load generator needs: the status, whether the connection stays, and when it ends.

use crate::body::Body;

/// A response on its way in.
#[derive(Debug, Default)]
pub(crate) struct Response {
    state: State,
    /// The head as far as it has come, where it came in pieces.
    head: Vec<u8>,
    /// Its status code; zero before the head has come.
    pub(crate) status: u16,
    /// The connection can carry another request.
    pub(crate) keeps_alive: bool,
    /// When our own origin was done waiting, from [`WOKEN_AT`].
    pub(crate) woken_at_us: Option<u64>,
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Head,
    Body(Body),
    Ended,
}

/// Field of our origin's answers to long polls: microseconds since the Unix epoch when it stopped waiting.
pub(crate) const WOKEN_AT: &str = "Ringfence-Woken-At";

impl Response {
    /// Takes `bytes`, which have to belong to this response.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), &'static str> {
        while !bytes.is_empty() {
            let taken = match &mut self.state {
                State::Head => self.feed_head(bytes)?,
                State::Body(body) => body.feed(bytes)?,
                State::Ended => return Err("bytes after the response"),
            };
            bytes = &bytes[taken..];
            if matches!(self.state, State::Body(body) if body.has_ended()) {
                self.state = State::Ended;
            }
        }
        Ok(())
    }

    /// The peer has closed.
    pub(crate) fn end(&mut self) -> Result<(), &'static str> {
        match self.state {
            State::Head if self.head.is_empty() => Err("closed before the response"),
            State::Head => Err("closed within the head"),
            State::Body(Body::UntilClose) => {
                self.state = State::Ended;
                Ok(())
            }
            State::Body(_) => Err("closed within the body"),
            State::Ended => Ok(()),
        }
    }

    /// Whether all of it has come.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Whether nothing of it has come.
    pub(crate) fn is_untouched(&self) -> bool {
        matches!(self.state, State::Head) && self.head.is_empty()
    }

    /// How much is known to come, in bytes.
    pub(crate) fn expected(&self) -> u64 {
        if let State::Body(body) = self.state { body.expected() } else { 0 }
    }

    /// Reads the head, from `bytes` alone when it is all there, which it nearly always is.
    fn feed_head(&mut self, bytes: &[u8]) -> Result<usize, &'static str> {
        if self.head.is_empty() {
            return Ok(match self.parse(bytes)? {
                Some(length) => length,
                None => {
                    self.head.extend_from_slice(bytes);
                    bytes.len()
                }
            });
        }
        let before = self.head.len();
        let mut head = std::mem::take(&mut self.head);
        head.extend_from_slice(bytes);
        match self.parse(&head)? {
            Some(length) => Ok(length - before),
            None if head.len() > HEAD_BYTES_MAX => Err("a head without end"),
            None => {
                self.head = head;
                Ok(bytes.len())
            }
        }
    }

    /// The length of the head at the beginning of `bytes`; `None` while it is incomplete.
    fn parse(&mut self, bytes: &[u8]) -> Result<Option<usize>, &'static str> {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut head = httparse::Response::new(&mut fields);
        let length = match head.parse(bytes) {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err("not an HTTP/1 response"),
        };
        let status = head.code.unwrap_or(0);
        if status < 200 {
            // Interim: the response itself is still to come (RFC 9110 §15.2).
            return if status == 101 { Err("101 was not asked for") } else { Ok(Some(length)) };
        }
        self.status = status;
        self.keeps_alive = head.version == Some(1);
        let mut body = None;
        for field in head.headers.iter() {
            // By length first: most fields are none of these.
            match field.name.len() {
                10 if field.name.eq_ignore_ascii_case("connection") => {
                    self.keeps_alive &= !field.value.eq_ignore_ascii_case(b"close");
                }
                14 if field.name.eq_ignore_ascii_case("content-length") => {
                    let length = number(field.value).ok_or("Content-Length is no number")?;
                    if body.replace(Body::Length(length)).is_some() {
                        return Err("two framings");
                    }
                }
                17 if field.name.eq_ignore_ascii_case("transfer-encoding") => {
                    let is_chunked = field.value.eq_ignore_ascii_case(b"chunked");
                    if body.replace(Body::CHUNKED).is_some() || !is_chunked {
                        return Err("transfer coding");
                    }
                }
                18 if field.name.eq_ignore_ascii_case(WOKEN_AT) => self.woken_at_us = number(field.value),
                _ => {}
            }
        }
        let body =
            if matches!(status, 204 | 304) { Body::Length(0) } else { body.unwrap_or(Body::UntilClose) };
        self.keeps_alive &= body != Body::UntilClose;
        self.state = if body.has_ended() { State::Ended } else { State::Body(body) };
        Ok(Some(length))
    }
}

fn number(value: &[u8]) -> Option<u64> {
    str::from_utf8(value).ok()?.parse().ok()
}

/// Fields of a response; a homeserver behind a proxy sends some fifteen.
const FIELDS_MAX: usize = 64;

/// Largest response head, in bytes: what comes in one read and is larger than this is no sane answer.
const HEAD_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], step: usize) -> Result<Response, &'static str> {
        let mut response = Response::default();
        bytes.chunks(step).try_for_each(|piece| response.feed(piece))?;
        Ok(response)
    }

    #[test]
    fn a_response_ends_at_the_same_byte_at_every_read_boundary_9112_6_3() {
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
        let length = "HTTP/1.1 404 Not Found\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        let interim = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        for (text, status, keeps_alive) in [(chunked, 200, true), (length, 404, false), (interim, 200, true)]
        {
            for step in 1..=text.len() {
                let response = read(text.as_bytes(), step).unwrap();
                assert!(response.has_ended(), "{text:?} in pieces of {step}");
                assert_eq!((response.status, response.keeps_alive), (status, keeps_alive), "{text:?}");
                let short = read(&text.as_bytes()[..text.len() - 1], step).unwrap();
                assert!(!short.has_ended(), "{text:?} without its last byte");
                let longer = format!("{text}X");
                assert_eq!(read(longer.as_bytes(), step).err(), Some("bytes after the response"));
            }
        }
    }

    #[test]
    fn without_framing_a_response_ends_when_the_peer_closes_9112_6_3() {
        let mut response = read(b"HTTP/1.1 200 OK\r\n\r\nabc", 4).unwrap();
        assert!(!response.has_ended() && !response.keeps_alive);
        assert_eq!(response.end(), Ok(()));
        assert!(response.has_ended());
        let mut cut = read(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", 4).unwrap();
        assert_eq!(cut.end(), Err("closed within the body"));
        assert_eq!(Response::default().end(), Err("closed before the response"));
    }

    #[test]
    fn ambiguous_framing_is_a_fault() {
        for fields in [
            "Content-Length: 1\r\nContent-Length: 1\r\n",
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\n",
            "Transfer-Encoding: gzip\r\n",
            "Content-Length: one\r\n",
        ] {
            let text = format!("HTTP/1.1 200 OK\r\n{fields}\r\n");
            assert!(read(text.as_bytes(), text.len()).is_err(), "{fields}");
        }
    }
}
