//! Requests as the seed draws them, good and bad, and the content that tells whose it is.

use super::rng::Rng;

/// A request of a client.
pub(super) struct Request {
    /// Of its exchange; no two are alike.
    pub(super) id: u32,
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) kind: Kind,
    pub(super) http10: bool,
    pub(super) expects: bool,
    pub(super) content: Vec<u8>,
    /// All its bytes.
    pub(super) wire: Vec<u8>,
    /// How many of them are the head.
    pub(super) head_len: usize,
}

/// What should become of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It goes to an origin.
    Forwarded,
    /// The proxy answers it with 200.
    Local,
    /// 404.
    Unrouted,
    /// 413, from the head alone or when the body has grown too long.
    TooLarge,
    /// The head is refused.
    BadHead,
    /// The body is refused, wherever it has come to.
    BadBody,
}

/// Content that the proxy takes in one request, in bytes.
pub(super) const CONTENT_BYTES_MAX: usize = 64 * 1024;

impl Kind {
    pub(super) fn is_for_an_origin(self) -> bool {
        matches!(self, Kind::Forwarded | Kind::TooLarge | Kind::BadBody)
    }
}

impl Request {
    pub(super) fn draw(rng: &Rng, id: u32) -> Request {
        let kind = match rng.below(40) {
            0..=2 => Kind::Local,
            3 | 4 => Kind::Unrouted,
            5 => Kind::TooLarge,
            6 | 7 => Kind::BadHead,
            8 => Kind::BadBody,
            _ => Kind::Forwarded,
        };
        let method =
            *rng.pick(&["GET", "GET", "GET", "POST", "POST", "POST", "PUT", "DELETE", "HEAD", "OPTIONS"]);
        let method =
            if matches!(kind, Kind::TooLarge | Kind::BadBody | Kind::BadHead) { "POST" } else { method };
        let path = match kind {
            Kind::Local => "local",
            Kind::Unrouted => "nowhere",
            _ => *rng.pick(&["e", "e", "f"]),
        };
        let rest = *rng.pick(&["", "/a%2Fb", "//..%2e/?q=%00&r=/", "?x=1"]);
        let target = format!("/{path}/{id:06x}{rest}");
        let http10 = rng.once_in(10) && !matches!(kind, Kind::BadBody);
        let mut request = Request {
            id,
            method,
            target,
            kind,
            http10,
            expects: false,
            content: Vec::new(),
            wire: Vec::new(),
            head_len: 0,
        };
        request.write(rng);
        request
    }

    /// Whether it may reach an origin twice (RFC 9110 §9.2.2).
    pub(super) fn is_idempotent(&self) -> bool {
        self.method != "POST"
    }

    fn write(&mut self, rng: &Rng) {
        if self.kind == Kind::BadHead {
            self.wire = bad_head(rng, self.id).into_bytes();
            self.head_len = self.wire.len();
            return;
        }
        let has_body = matches!(self.method, "POST" | "PUT") || rng.once_in(12);
        let chunked = self.kind == Kind::BadBody || (has_body && !self.http10 && rng.once_in(2));
        self.content = match (self.kind, has_body) {
            (Kind::TooLarge, _) => content('q', self.id, CONTENT_BYTES_MAX + rng.between(1, 9000)),
            (_, false) => Vec::new(),
            (Kind::BadBody, _) => content('q', self.id, rng.between(1, 3000)),
            (_, true) => content('q', self.id, content_len(rng, CONTENT_BYTES_MAX)),
        };
        let mut head = format!("{} {} HTTP/1.{}\r\n", self.method, self.target, u8::from(!self.http10));
        head += &format!("Host: h{:06x}.example\r\nX-Exchange: {:06x}\r\n", self.id, self.id);
        if chunked {
            head += "Transfer-Encoding: chunked\r\n";
        } else if has_body {
            head += &format!("Content-Length: {}\r\n", self.content.len());
        }
        self.expects = (chunked || !self.content.is_empty()) && rng.once_in(6);
        if self.expects {
            head += "Expect: 100-continue\r\n";
        }
        head +=
            *rng.pick(&["", "", "", "Connection: x-hop\r\nX-Hop: 1\r\n", "X-Forwarded-For: 192.0.2.66\r\n"]);
        if !head.contains("Connection") && rng.once_in(10) {
            head += "Connection: close\r\n";
        }
        head += "\r\n";
        self.head_len = head.len();
        self.wire = head.into_bytes();
        match (self.kind, chunked) {
            (Kind::BadBody, _) => self.wire.extend(bad_chunks(rng, &self.content)),
            (_, true) => self.wire.extend(chunks(rng, &self.content)),
            (_, false) => self.wire.extend(&self.content),
        }
    }
}

/// Content that says at every sixteenth byte whose it is and where that is.
pub(super) fn content(side: char, id: u32, len: usize) -> Vec<u8> {
    let mut content: Vec<u8> =
        (0..len.div_ceil(16)).flat_map(|at| format!("{side}{id:06x}.{at:07x}|").into_bytes()).collect();
    content.truncate(len);
    content
}

/// Mostly little, at times much.
pub(super) fn content_len(rng: &Rng, most: usize) -> usize {
    match rng.below(60) {
        0 => rng.between(0, most),
        1..=4 => rng.between(0, most.min(20_000)),
        5..=10 => 0,
        _ => rng.between(1, 600),
    }
}

/// `content` in chunks of drawn sizes, with extensions and trailers at times.
pub(super) fn chunks(rng: &Rng, content: &[u8]) -> Vec<u8> {
    let mut wire = data_chunks(rng, content);
    wire.extend_from_slice(rng.pick::<&[u8]>(&[
        &b"0\r\n\r\n"[..],
        b"0\r\n\r\n",
        b"000;last\r\nX-Checksum: 1\r\n\r\n",
    ]));
    wire
}

fn data_chunks(rng: &Rng, content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    let mut rest = content;
    let size_max = 1 + content.len() / rng.between(1, 6);
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at(rng.between(1, size_max).min(rest.len()));
        let extension = rng.pick(&["", "", "", ";a=\"b;\\\"\""]);
        wire.extend_from_slice(format!("{:x}{extension}\r\n", chunk.len()).as_bytes());
        wire.extend_from_slice(chunk);
        wire.extend_from_slice(b"\r\n");
        rest = behind;
    }
    wire
}

/// A chunked body that goes wrong behind `content`, which is not empty (RFC 9112 §7.1).
pub(super) fn bad_chunks(rng: &Rng, content: &[u8]) -> Vec<u8> {
    let mut wire = data_chunks(rng, content);
    if rng.once_in(6) {
        // Something else where the line end of the last chunk should be.
        wire.truncate(wire.len() - 2);
        wire.extend_from_slice(b"XX0\r\n\r\n");
        return wire;
    }
    wire.extend_from_slice(rng.pick::<&[u8]>(&[
        b"zz\r\n\r\n",
        b"-1\r\n\r\n",
        b"0\nX: y\r\n\r\n",
        b"10000000000000000\r\n\r\n",
        b"0\r\nContent-Length: 3\r\n\r\n",
    ]));
    wire
}

/// A request head that has to be refused (RFC 9112 §2.2, §3.2, §5.1, §6.1, §6.3).
fn bad_head(rng: &Rng, id: u32) -> String {
    let line = format!("POST /e/{id:06x} HTTP/1.1\r\n");
    let host = "Host: a.example\r\n";
    match rng.below(12) {
        0 => format!("{line}{host}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        1 => format!("{line}{host}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd"),
        2 => format!("{line}{host}Content-Length: +3\r\n\r\nabc"),
        3 => format!("{line}{host}X: y\nContent-Length: 3\r\n\r\nabc"),
        4 => format!("{line}{host}Content-Length : 3\r\n\r\nabc"),
        5 => format!("{line}{host}X: y\r\n Content-Length: 3\r\n\r\nabc"),
        6 => format!("{line}Content-Length: 0\r\n\r\n"),
        7 => format!("{line}{host}X: \0\r\n\r\n"),
        8 => format!("{line}{host}Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"),
        9 => format!("GET /e/{id:06x} HTTP/2.0\r\n{host}\r\n"),
        10 => "\u{16}\u{3}\u{1}\0\r\n\r\n".to_owned(),
        _ => format!("{line}{host}X-Long: {}\r\n\r\n", "x".repeat(40_000)),
    }
}
