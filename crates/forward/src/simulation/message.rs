//! A parser of HTTP/1.1 messages that shares no code with the one under test: naive, whole messages at a time.
//!
//! Strict where a peer could be led astray (line ends, lengths that conflict); what it calls
//! [`Wrong`](Parsed::Wrong) must not leave the proxy.

/// What stands at the start of some bytes.
#[derive(Debug)]
pub(super) enum Parsed<T> {
    Whole(T),
    /// The bytes end before it does.
    Partial,
    Wrong(String),
}

/// A head.
#[derive(Clone, Debug, Default)]
pub(super) struct Head {
    pub(super) start_line: String,
    /// Names in lower case.
    pub(super) fields: Vec<(String, String)>,
    pub(super) len: usize,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    Length(usize),
    Chunked,
    UntilClose,
}

/// A body, as far as it is there.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) content: Vec<u8>,
    /// Bytes of the input that belong to it.
    pub(super) consumed: usize,
    /// Its end is there. Never of a body that ends by close.
    pub(super) ended: bool,
}

impl Head {
    pub(super) fn parse(bytes: &[u8]) -> Parsed<Head> {
        let Some(len) = end_of_head(bytes) else { return Parsed::Partial };
        match Head::of_lines(&bytes[..len - 4], len) {
            Ok(head) => Parsed::Whole(head),
            Err(what) => Parsed::Wrong(what),
        }
    }

    fn of_lines(bytes: &[u8], len: usize) -> Result<Head, String> {
        let text = std::str::from_utf8(bytes).map_err(|_| "a head that is not ASCII".to_owned())?;
        let mut lines = text.split("\r\n");
        let start_line = lines.next().unwrap_or_default().to_owned();
        let fields = lines.map(field).collect::<Result<Vec<_>, _>>()?;
        if text.replace("\r\n", "").bytes().any(|byte| byte < b' ' && byte != b'\t') {
            return Err(format!("control bytes in {text:?}"));
        }
        Ok(Head { start_line, fields, len })
    }

    /// The only value of a field.
    pub(super) fn field(&self, name: &str) -> Option<&str> {
        let mut values = self.fields.iter().filter(|(known, _)| known == name);
        let value = values.next().map(|(_, value)| &**value);
        if values.next().is_some() { Some("(twice)") } else { value }
    }

    /// The exchange that the message says it belongs to.
    pub(super) fn exchange(&self) -> Option<u32> {
        u32::from_str_radix(self.field("x-exchange")?, 16).ok()
    }

    pub(super) fn status(&self) -> Option<u16> {
        let rest = self.start_line.strip_prefix("HTTP/1.1 ")?;
        rest.get(..3).filter(|_| rest.get(3..4) == Some(" "))?.parse().ok()
    }

    pub(super) fn closes(&self) -> bool {
        self.field("connection").is_some_and(|options| options.eq_ignore_ascii_case("close"))
    }

    /// How the body of a request ends (RFC 9112 §6.3).
    pub(super) fn request_framing(&self) -> Result<Framing, String> {
        Ok(self.declared()?.unwrap_or(Framing::Length(0)))
    }

    /// How the body of a final response to `method` ends (RFC 9112 §6.3).
    pub(super) fn response_framing(&self, method: &str) -> Result<Framing, String> {
        let declared = self.declared()?;
        if method == "HEAD" || matches!(self.status(), Some(204 | 304)) {
            return Ok(Framing::Length(0));
        }
        Ok(declared.unwrap_or(Framing::UntilClose))
    }

    fn declared(&self) -> Result<Option<Framing>, String> {
        match (self.field("transfer-encoding"), self.field("content-length")) {
            (None, None) => Ok(None),
            (Some("chunked"), None) => Ok(Some(Framing::Chunked)),
            (None, Some(length)) if length.bytes().all(|byte| byte.is_ascii_digit()) => {
                let length = length.parse().map_err(|_| format!("Content-Length {length:?}"))?;
                Ok(Some(Framing::Length(length)))
            }
            conflict => Err(format!("framing {conflict:?}")),
        }
    }
}

impl Body {
    /// The body at the start of `bytes`.
    pub(super) fn parse(framing: Framing, bytes: &[u8]) -> Result<Body, String> {
        match framing {
            Framing::UntilClose => Ok(Body { content: bytes.to_vec(), consumed: bytes.len(), ended: false }),
            Framing::Length(length) => {
                let consumed = length.min(bytes.len());
                Ok(Body { content: bytes[..consumed].to_vec(), consumed, ended: consumed == length })
            }
            Framing::Chunked => Body::parse_chunked(bytes),
        }
    }

    fn parse_chunked(bytes: &[u8]) -> Result<Body, String> {
        let mut body = Body::default();
        loop {
            let rest = &bytes[body.consumed..];
            let Some(line) = line(rest)? else { return Ok(Body { consumed: bytes.len(), ..body }) };
            let digits = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(digits, 16).map_err(|_| format!("chunk size {line:?}"))?;
            body.consumed += line.len() + 2;
            if size == 0 {
                return body.parse_trailers(bytes);
            }
            let data = &bytes[body.consumed..];
            body.content.extend_from_slice(&data[..size.min(data.len())]);
            if data.len() < size + 2 {
                return Ok(Body { consumed: bytes.len(), ..body });
            }
            if &data[size..size + 2] != b"\r\n" {
                return Err("no CRLF behind a chunk".into());
            }
            body.consumed += size + 2;
        }
    }

    fn parse_trailers(mut self, bytes: &[u8]) -> Result<Body, String> {
        loop {
            let Some(line) = line(&bytes[self.consumed..])? else {
                return Ok(Body { consumed: bytes.len(), ..self });
            };
            self.consumed += line.len() + 2;
            if line.is_empty() {
                return Ok(Body { ended: true, ..self });
            }
            let (name, _) = field(line)?;
            if ["content-length", "transfer-encoding", "host"].contains(&&*name) {
                return Err(format!("trailer {line:?}"));
            }
        }
    }
}

fn end_of_head(bytes: &[u8]) -> Option<usize> {
    let ends_here = |at: &usize| bytes[*at] == b'\n' && bytes[..*at].ends_with(b"\r\n\r");
    (0..bytes.len()).find(ends_here).map(|at| at + 1)
}

fn field(line: &str) -> Result<(String, String), String> {
    let (name, value) = line.split_once(':').ok_or_else(|| format!("field line {line:?}"))?;
    if name.is_empty() || name.bytes().any(|byte| byte <= b' ' || byte >= 0x7f) {
        return Err(format!("field line {line:?}"));
    }
    Ok((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()))
}

/// Up to the first CRLF; lines of a chunked body are short.
fn line(bytes: &[u8]) -> Result<Option<&str>, String> {
    let Some(end) = bytes.iter().position(|byte| *byte == b'\n') else { return Ok(None) };
    let line = bytes[..end].strip_suffix(b"\r").and_then(|line| std::str::from_utf8(line).ok());
    match line {
        Some(line) if !line.contains('\r') => Ok(Some(line)),
        _ => Err(format!("line {:?}", &bytes[..=end.min(80)])),
    }
}
