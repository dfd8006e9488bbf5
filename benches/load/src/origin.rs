//! `origin`: a stand-in for a homeserver that costs little, so that what is measured is what stands before it.
//!
//! HTTP/1.1 with keep-alive over plain TCP. Answers each Matrix path with a body of plausible size, holds `/sync` until
//! there is news or its timeout, swallows uploads. It checks nothing: no signature, no token.

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener as StdListener};
use std::rc::Rc;
use std::sync::Mutex;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use monoio::buf::{Slice, SliceMut};
use monoio::io::{AsyncReadRent as _, AsyncWriteRentExt as _};
use monoio::net::{TcpListener, TcpStream};
use socket2::{Domain, Socket, Type};

use crate::body::Body;
use crate::buffers::{BULK_BYTES, Buffers, Size, ZEROS};
use crate::random::Random;
use crate::response::WOKEN_AT;
use crate::runtime;

/// Where to listen.
#[derive(Args, Clone, Debug)]
pub(crate) struct Origin {
    /// Address and port; with port 0 the kernel chooses. The first line of output says which it is.
    #[arg(long, default_value = "127.0.0.1:8008")]
    listen: SocketAddr,
    /// How often there is news for a waiting /sync: times a second, at random.
    #[arg(long, default_value_t = 0.1)]
    wakes: f64,
    /// Threads, each with a listening socket of its own.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    threads: u16,
    /// Repeats the same news.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Serves until it is killed.
pub(crate) fn run(origin: &Origin) -> Result<bool, String> {
    // Whether the limit is too low shows when it is reached.
    runtime::raise_descriptors(0)?;
    let fault = |error: io::Error| format!("{}: {error}", origin.listen);
    let listeners = listeners(origin.listen, usize::from(origin.threads)).map_err(fault)?;
    println!("listening on {}", listeners[0].local_addr().map_err(fault)?);
    io::stdout().flush().map_err(fault)?;
    let listeners = Mutex::new(listeners);
    runtime::on_threads(usize::from(origin.threads), |thread| {
        let listener = listeners.lock().map_err(|_| "a thread panicked")?.pop().ok_or("no listener")?;
        let random = Random::new(origin.seed.wrapping_add(thread as u64));
        let server = Server { buffers: Buffers::new(), random: RefCell::new(random), wakes: origin.wakes };
        runtime::run(Rc::new(server).accept(listener)).and_then(|served| served).map_err(fault)
    })?;
    Ok(true)
}

/// As many listeners of one port: the kernel spreads connections over them.
fn listeners(mut address: SocketAddr, count: usize) -> io::Result<Vec<StdListener>> {
    let mut listeners = Vec::new();
    for _ in 0..count {
        let kind = Type::STREAM.cloexec().nonblocking();
        let socket = Socket::new(Domain::for_address(address), kind, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = StdListener::from(socket);
        address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(listeners)
}

struct Server {
    buffers: Buffers,
    random: RefCell<Random>,
    wakes: f64,
}

/// One request: what of it matters here.
struct Asked {
    /// Length of the head, in bytes.
    head: usize,
    answer: Answer,
    body: Body,
    closes: bool,
    expects: bool,
}

/// What a request is answered with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Answer {
    /// This much JSON, in bytes.
    Json(usize),
    /// This much content that is not text, in bytes.
    Content(u64),
    /// Some JSON when there is news, or after this time.
    News(Duration),
}

impl Server {
    async fn accept(self: Rc<Server>, listener: StdListener) -> io::Result<()> {
        let listener = TcpListener::from_std(listener)?;
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let server = self.clone();
                    drop(monoio::spawn(async move {
                        // Clients leave as they like.
                        let _ = server.serve(stream).await;
                    }));
                }
                Err(error) => {
                    eprintln!("accept: {error}");
                    monoio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve(&self, mut stream: TcpStream) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let mut incoming = Vec::new();
        loop {
            if incoming.is_empty() {
                // An idle connection holds no buffer. Measured: the additional wait costs nothing.
                stream.readable(true).await?;
                incoming = self.buffers.incoming(Size::Small);
            }
            let asked = loop {
                if let Some(asked) = parse(&incoming)? {
                    break asked;
                }
                if incoming.len() == incoming.capacity() {
                    return Err(io::ErrorKind::InvalidData.into());
                }
                let before = incoming.len();
                incoming = read(&mut stream, incoming).await?;
                if incoming.len() == before {
                    self.buffers.put_incoming(incoming);
                    return Ok(());
                }
            };
            incoming.drain(..asked.head);
            if asked.expects {
                stream.write_all(CONTINUE).await.0?;
            }
            incoming = self.swallow(&mut stream, incoming, asked.body).await?;
            if incoming.is_empty() {
                self.buffers.put_incoming(std::mem::take(&mut incoming));
            }
            self.answer(&mut stream, asked.answer, asked.closes).await?;
            if asked.closes {
                return Ok(());
            }
        }
    }

    /// Reads the body and throws it away; what is behind it stays.
    async fn swallow(
        &self,
        stream: &mut TcpStream,
        incoming: Vec<u8>,
        mut body: Body,
    ) -> io::Result<Vec<u8>> {
        let mut incoming = incoming;
        loop {
            let taken =
                body.feed(&incoming).map_err(|what| io::Error::new(io::ErrorKind::InvalidData, what))?;
            if body.has_ended() {
                incoming.drain(..taken);
                return Ok(incoming);
            }
            incoming.clear();
            if body.expected() > incoming.capacity() as u64 {
                let large = self.buffers.incoming(Size::Large);
                self.buffers.put_incoming(std::mem::replace(&mut incoming, large));
            }
            incoming = read(stream, incoming).await?;
            if incoming.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    async fn answer(&self, stream: &mut TcpStream, answer: Answer, closes: bool) -> io::Result<()> {
        if let Answer::News(timeout) = answer {
            let news = self.random.borrow_mut().interval(self.wakes);
            monoio::time::sleep(news.min(timeout)).await;
        }
        let mut outgoing = self.buffers.outgoing(Size::Small);
        let mut rest = 0;
        let mut room = &mut outgoing[..];
        let whole = room.len();
        let connection = if closes { "Connection: close\r\n" } else { "" };
        match answer {
            Answer::Content(count) => {
                write!(
                    room,
                    "{HEAD}application/octet-stream\r\n{connection}Content-Length: {count}\r\n\r\n"
                )?;
                let inline = room.len().min(usize::try_from(count).unwrap_or(usize::MAX));
                room[..inline].fill(0);
                room = &mut room[inline..];
                rest = count - inline as u64;
            }
            Answer::Json(count) => json(&mut room, connection, "", count)?,
            Answer::News(_) => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
                let count = self.random.borrow_mut().size(&NEWS_SIZES);
                let woken = format!("{WOKEN_AT}: {now}\r\n");
                json(&mut room, connection, &woken, usize::try_from(count).unwrap_or(0))?;
            }
        }
        let used = whole - room.len();
        let (sent, outgoing) = stream.write_all(Slice::new(outgoing, 0, used)).await;
        sent?;
        self.buffers.put_outgoing(outgoing.into_inner());
        while rest > 0 {
            let count = BULK_BYTES.min(usize::try_from(rest).unwrap_or(BULK_BYTES));
            stream.write_all(&ZEROS[..count]).await.0?;
            rest -= count as u64;
        }
        Ok(())
    }
}

/// Writes a response with a JSON object of this size (at least that of `{"news":""}`).
fn json(room: &mut &mut [u8], connection: &str, fields: &str, count: usize) -> io::Result<()> {
    let padding = count.saturating_sub(r#"{"news":""}"#.len()).min(JSON_BYTES_MAX);
    let length = padding + r#"{"news":""}"#.len();
    write!(
        room,
        "{HEAD}application/json\r\n{fields}{connection}Content-Length: {length}\r\n\r\n{{\"news\":\""
    )?;
    let (text, rest) = std::mem::take(room).split_at_mut(padding);
    text.fill(b'x');
    *room = rest;
    room.write_all(b"\"}")
}

/// The request at the beginning of `bytes`; `None` while its head is incomplete.
fn parse(bytes: &[u8]) -> io::Result<Option<Asked>> {
    let invalid = |what| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(head) = request.parse(bytes).map_err(|_| invalid("not HTTP"))? else {
        return Ok(None);
    };
    let answer = choose(request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let mut asked =
        Asked { head, answer, body: Body::Length(0), closes: request.version == Some(0), expects: false };
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case("content-length") {
            let length = str::from_utf8(field.value).ok().and_then(|value| value.parse().ok());
            asked.body = Body::Length(length.ok_or_else(|| invalid("Content-Length"))?);
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            asked.body = Body::CHUNKED;
        } else if field.name.eq_ignore_ascii_case("connection") {
            asked.closes |= field.value.eq_ignore_ascii_case(b"close");
        } else if field.name.eq_ignore_ascii_case("expect") {
            asked.expects = true;
        }
    }
    Ok(Some(asked))
}

/// What a homeserver would say to this, by size.
fn choose(method: &str, request_target: &str) -> Answer {
    let (path, query) = request_target.split_once('?').unwrap_or((request_target, ""));
    if let Some(count) = path.strip_prefix("/bytes/").and_then(|count| count.parse().ok()) {
        return Answer::Content(count);
    }
    let parameter = |name| {
        let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.filter(|(key, _)| *key == name).find_map(|(_, value)| value.parse::<u64>().ok())
    };
    let has = |part| path.contains(part);
    if has("/sync") {
        return Answer::News(Duration::from_millis(parameter("timeout").unwrap_or(0)));
    }
    if method == "GET" && (has("/media/") || has("/thumbnail/")) {
        return Answer::Content(parameter("bytes").unwrap_or(MEDIA_BYTES));
    }
    let sizes = SIZES.iter().find(|(part, _)| has(part));
    Answer::Json(sizes.map_or(OTHER_BYTES, |(_, count)| *count))
}

/// Receives behind what is in the buffer, which has room.
async fn read(stream: &mut TcpStream, incoming: Vec<u8>) -> io::Result<Vec<u8>> {
    let (begin, end) = (incoming.len(), incoming.capacity());
    let (result, read) = stream.read(SliceMut::new(incoming, begin, end)).await;
    let count = result?;
    let mut incoming = read.into_inner();
    incoming.truncate(begin + count);
    Ok(incoming)
}

/// Parts of paths and the size of their answers, in bytes; the first that fits.
const SIZES: &[(&str, usize)] = &[
    ("/federation/v1/send/", 200),
    ("/key/v2/server", 900),
    ("/state_ids/", 12 * 1024),
    ("/make_join/", 2 * 1024),
    ("/rooms/", 70),
    ("/upload", 90),
    ("/versions", 1200),
];

/// What other requests are answered with, in bytes.
const OTHER_BYTES: usize = 200;

/// Media whose size is not asked for, in bytes: a thumbnail.
const MEDIA_BYTES: u64 = 32 * 1024;

/// Incremental syncs, in bytes: from one event to a busy minute.
const NEWS_SIZES: std::ops::RangeInclusive<u64> = 500..=8192;

/// Largest JSON, in bytes: with its head it fits a small buffer.
const JSON_BYTES_MAX: usize = 16 * 1024;

/// The beginning of every response, up to the content type.
const HEAD: &str =
    "HTTP/1.1 200 OK\r\nServer: ringfence-load\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: ";

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Fields of a request; a browser behind a proxy sends some twenty.
const FIELDS_MAX: usize = 64;

/// Connections that wait to be accepted: what the kernel allows by default.
const BACKLOG: i32 = 4096;

/// After accept(2) has failed, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_size_of_what_was_asked_for() {
        assert_eq!(choose("GET", "/bytes/1048576"), Answer::Content(1 << 20));
        let sync = "/_matrix/client/v3/sync?since=s1&timeout=30000";
        assert_eq!(choose("GET", sync), Answer::News(Duration::from_secs(30)));
        assert_eq!(choose("GET", "/_matrix/client/v1/media/download/a/b?bytes=77"), Answer::Content(77));
        assert_eq!(choose("PUT", "/_matrix/federation/v1/send/1"), Answer::Json(200));
        assert_eq!(choose("POST", "/_matrix/media/v3/upload"), Answer::Json(90));
    }

    #[test]
    fn a_json_answer_is_json_and_as_long_as_it_says() {
        let mut buffer = vec![0; 20 * 1024];
        for count in [0, 11, 200, 16 * 1024] {
            let mut room = &mut buffer[..];
            json(&mut room, "", "", count).unwrap();
            let used = 20 * 1024 - room.len();
            let text = str::from_utf8(&buffer[..used]).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.ends_with(&format!("Content-Length: {}", body.len())), "{head}");
            assert!(serde_json::from_str::<serde_json::Value>(body).is_ok(), "{body}");
        }
    }

    #[test]
    fn a_request_is_parsed_when_its_head_is_complete() {
        let text = b"PUT /x HTTP/1.1\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
        let whole = text.len() - 3;
        assert!((0..whole).all(|end| parse(&text[..end]).unwrap().is_none()));
        let asked = parse(text).unwrap().unwrap();
        assert_eq!((asked.head, asked.body, asked.closes), (whole, Body::Length(3), true));
    }
}
