//! HTTP/1.1 messages as a strict reader sees them: heads, and whole messages with how they were framed.
//!
//! Written apart from the proxy's own parser on purpose, and naively: a mistake there must not be shared by the judge.
//! Text is ISO 8859-1, one character a byte ([`latin1`]), so comparisons are byte for byte.

use crate::latin1;
use crate::wire::End;

/// A request or response head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// Every byte, from the start-line to the empty line.
    pub raw: Vec<u8>,
    /// Request line or status line, without its line end.
    pub start_line: String,
    /// Field lines in order: the name as spelled, the value without surrounding whitespace.
    pub fields: Vec<(String, String)>,
}

impl Head {
    /// Parses a head that ends with its empty line; the error says what is wrong with it.
    pub fn parse(raw: &[u8]) -> Result<Head, String> {
        let text = latin1(raw);
        let text = text.strip_suffix("\r\n\r\n").ok_or("a head ends with an empty line")?;
        let mut lines = text.split("\r\n");
        let start_line = lines.next().unwrap_or_default().to_owned();
        if start_line.is_empty() || text.replace("\r\n", "").contains(['\r', '\n', '\0']) {
            return Err(format!("bare CR, LF or NUL, or no start-line in {text:?}"));
        }
        let fields = lines.map(parse_field_line).collect::<Result<_, _>>()?;
        Ok(Head { raw: raw.to_vec(), start_line, fields })
    }

    /// The values of every field line of this name (any case), in order.
    #[must_use]
    pub fn values(&self, name: &str) -> Vec<&str> {
        let same = |field: &&(String, String)| field.0.eq_ignore_ascii_case(name);
        self.fields.iter().filter(same).map(|field| field.1.as_str()).collect()
    }

    /// The value of the only field line of this name; fails the test when there are several.
    #[must_use]
    pub fn value(&self, name: &str) -> Option<&str> {
        let values = self.values(name);
        assert!(values.len() <= 1, "several {name} lines: {values:?}");
        values.first().copied()
    }

    /// Whether a comma-separated field holds `element`, in any case.
    #[must_use]
    pub fn lists(&self, name: &str, element: &str) -> bool {
        let values = self.values(name);
        let mut elements = values.iter().flat_map(|value| value.split(','));
        elements.any(|listed| listed.trim().eq_ignore_ascii_case(element))
    }

    /// The method of a request line.
    #[must_use]
    pub fn method(&self) -> &str {
        self.start_line.split(' ').next().unwrap_or_default()
    }

    /// The request target, byte for byte.
    #[must_use]
    pub fn target(&self) -> &str {
        let rest = self.start_line.split_once(' ').map(|(_, rest)| rest);
        rest.and_then(|rest| rest.rsplit_once(' ')).map_or("", |(target, _)| target)
    }

    /// The status code of a status line; 0 when there is none.
    #[must_use]
    pub fn status(&self) -> u16 {
        let code = self.start_line.split(' ').nth(1);
        code.filter(|code| code.len() == 3).and_then(|code| code.parse().ok()).unwrap_or(0)
    }

    /// Whether this is a head of HTTP/1.0.
    #[must_use]
    pub fn is_http10(&self) -> bool {
        self.start_line.starts_with("HTTP/1.0 ") || self.start_line.ends_with(" HTTP/1.0")
    }

    /// How the body of a request with this head ends (RFC 9112 §6.3).
    pub fn request_framing(&self) -> Result<Framing, String> {
        Ok(self.stated_framing()?.unwrap_or(Framing::Length(0)))
    }

    /// How the body of a response with this head to a request of `method` ends (RFC 9112 §6.3).
    pub fn response_framing(&self, method: &str) -> Result<Framing, String> {
        let status = self.status();
        let stated = self.stated_framing()?;
        if method == "HEAD" || status < 200 || status == 204 || status == 304 {
            return Ok(Framing::Length(0));
        }
        Ok(stated.unwrap_or(Framing::UntilClose))
    }

    fn stated_framing(&self) -> Result<Option<Framing>, String> {
        match (self.values("transfer-encoding").as_slice(), self.values("content-length").as_slice()) {
            ([], []) => Ok(None),
            (["chunked"], []) => Ok(Some(Framing::Chunked)),
            ([], [length]) => parse_decimal(length).map(|length| Some(Framing::Length(length))),
            (codings, lengths) => Err(format!("framing by {codings:?} and {lengths:?}")),
        }
    }
}

fn parse_field_line(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("no colon in {line:?}"))?;
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(format!("not a field name in {line:?}"));
    }
    Ok((name.to_owned(), value.trim_matches([' ', '\t']).to_owned()))
}

/// Reads a decimal number of digits only.
pub fn parse_decimal(text: &str) -> Result<usize, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = is_number.then(|| text.parse().ok()).flatten();
    number.ok_or_else(|| format!("not a length: {text:?}"))
}

/// How a message body ends (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// By the last chunk and its trailer section.
    Chunked,
    /// After this many bytes.
    Length(usize),
    /// With the connection.
    UntilClose,
}

/// A whole message, or what arrived of it.
#[derive(Clone, Debug)]
pub struct Message {
    /// The final head.
    pub head: Head,
    /// Heads of interim (1xx) responses before it.
    pub interim: Vec<Head>,
    /// How the body was framed.
    pub framing: Framing,
    /// The body without chunked coding.
    pub body: Vec<u8>,
    /// The trailer section of a chunked body.
    pub trailers: Vec<(String, String)>,
    /// What cut the message short; `None`: it is complete.
    pub cut: Option<End>,
}

impl Message {
    /// A message whose body has yet to be read.
    #[must_use]
    pub fn begun(head: Head, interim: Vec<Head>, framing: Framing) -> Message {
        Message { head, interim, framing, body: Vec::new(), trailers: Vec::new(), cut: None }
    }

    /// The status code of a response.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.head.status()
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        latin1(&self.body)
    }

    /// Whether nothing is missing at the end.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.cut.is_none()
    }
}

/// A response of this status with a `Content-Length` body; further field lines end in CRLF each.
#[must_use]
pub fn response(status: &str, field_lines: &str, body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    let head = format!("HTTP/1.1 {status}\r\n{field_lines}Content-Length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

/// A 200 response with a `Content-Length` body.
#[must_use]
pub fn ok(body: impl AsRef<[u8]>) -> Vec<u8> {
    response("200 OK", "", body)
}

/// `body` as one chunk (RFC 9112 §7.1), without the last one.
#[must_use]
pub fn chunk(body: impl AsRef<[u8]>) -> Vec<u8> {
    let body = body.as_ref();
    [format!("{:x}\r\n", body.len()).as_bytes(), body, b"\r\n"].concat()
}
