//! Responses as the seed draws them, good and bad.

use std::{cell::Cell, fmt};

use super::{
    message::Framing,
    request::{bad_chunks, chunks, content, content_len},
    rng::Rng,
    world::World,
};

/// What an origin answers to a request, and how.
pub(super) struct Reply {
    /// Of its exchange.
    pub(super) id: u32,
    pub(super) status: u16,
    /// Empty where none is sent.
    pub(super) content: Vec<u8>,
    /// All its bytes, interim responses included.
    pub(super) wire: Vec<u8>,
    pub(super) until_close: bool,
    /// The connection can carry another request behind it.
    pub(super) reusable: bool,
    /// It is one that may be passed on.
    pub(super) valid: bool,
    /// How many of its bytes are sent, and what happens then.
    pub(super) stop: Option<(usize, Stop)>,
    pub(super) pauses: bool,
    /// A pause of it may go beyond any deadline.
    pub(super) dawdles: bool,
    pub(super) piece_bytes_max: usize,
    /// Bytes behind it.
    pub(super) extra: Vec<u8>,
    /// Where among the bytes of its connection it begins.
    start: Cell<usize>,
    /// All of it was sent.
    pub(super) whole: Cell<bool>,
    /// The origin's closing followed in order.
    pub(super) closed: Cell<bool>,
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reply")
            .field("id", &format_args!("{:06x}", self.id))
            .field("status", &self.status)
            .field("content_bytes", &self.content.len())
            .field("wire", &format_args!("{}", self.wire[..self.wire.len().min(300)].escape_ascii()))
            .field("wire_bytes", &self.wire.len())
            .field("start", &self.start.get())
            .field("reusable", &self.reusable)
            .field("valid", &self.valid)
            .field("stop", &self.stop)
            .field("dawdles", &self.dawdles)
            .field("extra", &format_args!("{}", self.extra.escape_ascii()))
            .field("whole", &self.whole.get())
            .field("closed", &self.closed.get())
            .finish_non_exhaustive()
    }
}

/// How a reply is broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stop {
    Close,
    Reset,
    Silence,
}

impl Reply {
    pub(super) fn draw(world: &World, id: u32, method: &str, start: usize) -> Reply {
        let (rng, calm) = (&world.rng, world.calm);
        let mut reply = Reply {
            id,
            status: *rng.pick(&[200, 200, 200, 200, 404, 500, 204, 304]),
            content: Vec::new(),
            wire: Vec::new(),
            until_close: false,
            reusable: true,
            valid: true,
            stop: None,
            pauses: rng.once_in(3),
            dawdles: !calm && rng.once_in(12),
            piece_bytes_max: *rng.pick(&[20, 500, 10_000, 1_000_000]),
            extra: Vec::new(),
            start: Cell::new(start),
            whole: Cell::default(),
            closed: Cell::default(),
        };
        reply.write_interim(rng, calm);
        if !calm && rng.once_in(15) {
            reply.write_bad(rng, method);
        } else {
            reply.write_final(rng, method);
        }
        if !calm {
            reply.draw_fault(rng);
        }
        reply
    }

    /// Whether a client that waits for it is owed it.
    pub(super) fn is_sound(&self) -> bool {
        self.valid && self.stop.is_none() && !self.dawdles && self.whole.get()
    }

    /// Whether an end was there to be seen.
    pub(super) fn is_complete(&self) -> bool {
        self.whole.get() && (!self.until_close || self.closed.get())
    }

    /// One past its last byte among the bytes of its connection.
    pub(super) fn end(&self) -> usize {
        self.start.get() + self.wire.len()
    }

    pub(super) fn starts_later(&self, at: usize) {
        self.start.set(at);
    }

    fn write_interim(&mut self, rng: &Rng, calm: bool) {
        let count = match rng.below(50) {
            0 if !calm => 20,
            1..=6 => rng.between(1, 3),
            _ => 0,
        };
        // More than are passed on.
        self.valid &= count < 17;
        for _ in 0..count {
            self.wire
                .extend(format!("HTTP/1.1 103 Early\r\nX-Exchange: {:06x}\r\n\r\n", self.id).into_bytes());
        }
    }

    fn write_final(&mut self, rng: &Rng, method: &str) {
        let http10 = rng.once_in(12);
        let framing = match rng.below(8) {
            0 => Framing::UntilClose,
            1..=3 if !http10 => Framing::Chunked,
            _ => Framing::Length(0),
        };
        let closes = rng.once_in(10);
        self.reusable = self.valid && !closes && !http10;
        let bare = method == "HEAD" || matches!(self.status, 204 | 304);
        let content = content('r', self.id, content_len(rng, 600_000));
        let mut head = format!("HTTP/1.{} {} Drawn\r\n", u8::from(!http10), self.status);
        head += &format!("X-Exchange: {:06x}\r\n", self.id);
        if closes {
            head += "Connection: close, x-hop\r\nX-Hop: 1\r\n";
        }
        match framing {
            _ if self.status == 204 => {}
            Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
            Framing::Length(_) => head += &format!("Content-Length: {}\r\n", content.len()),
            Framing::UntilClose => {}
        }
        head += "\r\n";
        self.wire.extend(head.into_bytes());
        if bare {
            return;
        }
        if framing == Framing::Chunked {
            self.wire.extend(chunks(rng, &content));
        } else {
            self.wire.extend(&content);
        }
        self.until_close = framing == Framing::UntilClose;
        self.reusable &= !self.until_close;
        self.content = content;
    }

    /// What has to become 502, or a visible cut (RFC 9112 §4, §6.1, §6.3, §7.1).
    fn write_bad(&mut self, rng: &Rng, method: &str) {
        let exchange = format!("X-Exchange: {:06x}\r\n", self.id);
        self.status = 200;
        self.valid = false;
        self.reusable = false;
        if method != "HEAD" && rng.once_in(3) {
            self.content = content('r', self.id, rng.between(1, 3000));
            self.wire
                .extend(format!("HTTP/1.1 200 OK\r\n{exchange}Transfer-Encoding: chunked\r\n\r\n").bytes());
            self.wire.extend(bad_chunks(rng, &self.content));
            return;
        }
        let heads = [
            "HTTP/1.1 200 OK\r\n@Content-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n@Content-Length: 1\r\nContent-Length: 2\r\n\r\nab",
            "HTTP/1.1 200 OK\r\n@Transfer-Encoding: gzip\r\n\r\nabc",
            "HTTP/1.0 200 OK\r\n@Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "HTTP/1.1 2x0 OK\r\n@Content-Length: 0\r\n\r\n",
            "ICY 200 OK\r\n@Content-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n@X: y\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n@X: y\r\n Content-Length: 0\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n@Connection: upgrade\r\nUpgrade: x\r\n\r\nabc",
            "HTTP/1.1 200 OK\r\n@Content-Length : 0\r\n\r\n",
            "\r\nHTTP/1.1 200 OK\r\n@Content-Length: 0\r\n\r\n",
        ];
        self.wire.extend(rng.pick(&heads).replace('@', &exchange).into_bytes());
    }

    fn draw_fault(&mut self, rng: &Rng) {
        if rng.once_in(6) {
            let (at, stop) =
                (rng.below(self.wire.len()), *rng.pick(&[Stop::Close, Stop::Reset, Stop::Silence]));
            // An orderly close there would be a complete, shorter reply.
            let stop = if self.until_close && stop == Stop::Close { Stop::Reset } else { stop };
            self.stop = Some((at, stop));
        }
        if rng.once_in(12) {
            let stray =
                format!("HTTP/1.1 200 OK\r\nX-Exchange: {:06x}\r\nContent-Length: 5\r\n\r\nstray", self.id);
            self.extra = rng.pick(&[stray.as_str(), "\r\n", "stray"]).as_bytes().to_vec();
        }
    }
}
