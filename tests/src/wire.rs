//! One side of a connection: raw bytes out, and in by bytes or by HTTP messages, with a deadline on every wait.
//!
//! Shared by [`Origin`](crate::Origin) and [`Client`](crate::Client). How a connection ended is a value ([`End`]),
//! because tests are about that: a FIN, a reset, a TLS stream without its `close_notify`, or nothing at all.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, ConnectionCommon, ServerConfig, ServerConnection, SideData};
use socket2::SockRef;

use crate::message::{Framing, Head, Message};
use crate::origin::Record;
use crate::{PATIENCE, latin1, pause};

/// Why no more bytes come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer closed in order: a FIN, over TLS a `close_notify`.
    Closed,
    /// The peer's FIN came without the `close_notify` that TLS wants before it.
    Truncated,
    /// The connection was reset, or broke in another way.
    Reset,
    /// A TLS error, in rustls' words.
    Tls(String),
    /// Nothing came within the deadline; the connection is still open.
    Deadline,
}

/// A response that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// The connection ended inside a head, or before it; these bytes of it had come.
    NoHead(End, String),
    /// What came breaks the protocol.
    Malformed(String),
}

/// One side of a connection.
#[derive(Debug)]
pub struct Wire {
    transport: Transport,
    buffer: Vec<u8>,
    consumed: usize,
    patience: Duration,
    record: Option<Arc<Record>>,
}

/// What carries the bytes.
#[derive(Debug)]
pub enum Transport {
    /// Plain TCP.
    Tcp(TcpStream),
    /// A Unix stream socket.
    Unix(UnixStream),
    /// The client's side of TLS over TCP.
    Tls(Box<ClientConnection>, TcpStream),
    /// The server's side of TLS over TCP.
    TlsServer(Box<ServerConnection>, TcpStream),
}

impl Wire {
    /// Takes over a connection.
    #[must_use]
    pub fn new(transport: Transport) -> Wire {
        if let Transport::Tcp(stream) | Transport::Tls(_, stream) | Transport::TlsServer(_, stream) =
            &transport
        {
            let _ = stream.set_nodelay(true);
        }
        Wire { transport, buffer: Vec::new(), consumed: 0, patience: PATIENCE, record: None }
    }

    /// Keeps what arrives in `record` as well.
    #[must_use]
    pub fn recorded(mut self, record: Arc<Record>) -> Wire {
        self.record = Some(record);
        self
    }

    /// Sets how long each of the following waits may last.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// What carries the bytes.
    pub fn transport(&mut self) -> &mut Transport {
        &mut self.transport
    }

    /// Sends everything; fails the test when the peer does not take it.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("the peer takes what is sent");
    }

    /// Sends everything, or says why the peer does not take it.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        let patience = Some(self.patience);
        match &mut self.transport {
            Transport::Tcp(stream) => {
                stream.set_write_timeout(patience)?;
                stream.write_all(bytes.as_ref())
            }
            Transport::Unix(stream) => {
                stream.set_write_timeout(patience)?;
                stream.write_all(bytes.as_ref())
            }
            Transport::Tls(session, stream) => {
                stream.set_write_timeout(patience)?;
                write_tls(session, stream, bytes.as_ref())
            }
            Transport::TlsServer(session, stream) => {
                stream.set_write_timeout(patience)?;
                write_tls(session, stream, bytes.as_ref())
            }
        }
    }

    /// Sends `bytes` in pieces of `piece` bytes with a pause after each; stops early when the peer has closed.
    pub fn send_slowly(
        &mut self,
        bytes: impl AsRef<[u8]>,
        piece: usize,
        between: Duration,
    ) -> io::Result<()> {
        for part in bytes.as_ref().chunks(piece) {
            self.try_send(part)?;
            pause(between);
        }
        Ok(())
    }

    /// Ends this direction and leaves the other one open: a FIN, over TLS after a `close_notify`.
    pub fn half_close(&mut self) {
        let _ = match &mut self.transport {
            Transport::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Transport::Unix(stream) => stream.shutdown(Shutdown::Write),
            Transport::Tls(session, stream) => {
                session.send_close_notify();
                flush_tls(session, stream).and_then(|()| stream.shutdown(Shutdown::Write))
            }
            Transport::TlsServer(session, stream) => {
                session.send_close_notify();
                flush_tls(session, stream).and_then(|()| stream.shutdown(Shutdown::Write))
            }
        };
    }

    /// Sends `close_notify` and leaves TCP open; nothing on other transports.
    pub fn close_notify(&mut self) {
        if let Transport::Tls(session, stream) = &mut self.transport {
            session.send_close_notify();
            let _ = flush_tls(session, stream);
        }
    }

    /// Ends TCP in this direction without the `close_notify` that TLS wants before it.
    pub fn truncate(&mut self) {
        if let Transport::Tls(_, stream) | Transport::TlsServer(_, stream) = &self.transport {
            let _ = stream.shutdown(Shutdown::Write);
        }
    }

    /// Goes on as the server of a TLS session; what has come and was not taken belongs to it. The handshake is shaken with the
    /// next read.
    pub fn accept_tls(&mut self, config: &Arc<ServerConfig>) {
        let Transport::Tcp(stream) = &self.transport else { panic!("TLS is spoken over TCP") };
        let stream = stream.try_clone().expect("a descriptor can be doubled");
        let mut session =
            ServerConnection::new(Arc::clone(config)).expect("a configuration that can be used");
        let taken = self.take(self.unread().len());
        // Reading nothing would be the end.
        if !taken.is_empty() {
            session.read_tls(&mut &taken[..]).expect("memory can be read");
            let _ = session.process_new_packets();
        }
        self.transport = Transport::TlsServer(Box::new(session), stream);
    }

    /// Sends what the server's session has to say of its own accord.
    pub fn flush_tls(&mut self) {
        if let Transport::TlsServer(session, stream) = &mut self.transport {
            let _ = flush_tls(session, stream);
        }
    }

    /// The server's session after [`accept_tls`](Wire::accept_tls).
    pub fn server_session(&mut self) -> &mut ServerConnection {
        let Transport::TlsServer(session, _) = &mut self.transport else { panic!("TLS is not spoken here") };
        session
    }

    /// Resets the connection: the peer sees `ECONNRESET` instead of an end.
    pub fn reset(self) {
        if let Transport::Tcp(stream) | Transport::Tls(_, stream) | Transport::TlsServer(_, stream) =
            &self.transport
        {
            SockRef::from(stream).set_linger(Some(Duration::ZERO)).expect("lingering can be set");
        }
    }

    /// Reads more bytes into the buffer, or says why there are none.
    pub fn fill(&mut self, deadline: Instant) -> Result<(), End> {
        self.buffer.drain(..self.consumed);
        self.consumed = 0;
        let length = self.buffer.len();
        self.buffer.resize(length + READ_BYTES, 0);
        let read = read_some(&mut self.transport, &mut self.buffer[length..], deadline);
        self.buffer.truncate(length + read.as_ref().map_or(0, |&count| count));
        if let Some(record) = &self.record {
            record.note(&self.buffer[length..], read.as_ref().err());
        }
        read.map(|_| ())
    }

    /// The bytes that have come and that nobody has taken.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.buffer[self.consumed..]
    }

    /// Takes exactly `count` bytes; what came instead, and why, otherwise.
    pub fn read_exactly(&mut self, count: usize) -> Result<Vec<u8>, (Vec<u8>, End)> {
        let deadline = self.deadline();
        while self.unread().len() < count {
            if let Err(end) = self.fill(deadline) {
                return Err((self.take(self.unread().len()), end));
            }
        }
        Ok(self.take(count))
    }

    /// Takes bytes that must be these; fails the test otherwise.
    pub fn expect(&mut self, bytes: impl AsRef<[u8]>) {
        let bytes = bytes.as_ref();
        let taken = self.read_exactly(bytes.len()).unwrap_or_else(|(got, end)| {
            panic!("expected {:?}, got {:?} and then {end:?}", latin1(bytes), latin1(&got))
        });
        assert_eq!(latin1(&taken), latin1(bytes));
    }

    /// Takes everything until the connection ends, and says how it ended. [`End::Deadline`] when it does not.
    pub fn read_to_end(&mut self) -> (Vec<u8>, End) {
        let deadline = self.deadline();
        loop {
            if let Err(end) = self.fill(deadline) {
                return (self.take(self.unread().len()), end);
            }
        }
    }

    /// Waits for the end of the connection, throwing away what still comes.
    pub fn end(&mut self) -> End {
        let deadline = self.deadline();
        loop {
            self.consumed = self.buffer.len();
            if let Err(end) = self.fill(deadline) {
                return end;
            }
        }
    }

    /// Whether nothing arrives for `time`, not even an end.
    pub fn is_silent_for(&mut self, time: Duration) -> bool {
        self.unread().is_empty() && self.fill(Instant::now() + time) == Err(End::Deadline)
    }

    /// Reads one head; the bytes that came of it and why it is not whole, otherwise.
    pub fn read_head(&mut self) -> Result<Head, Unreadable> {
        let deadline = self.deadline();
        let mut searched = 0;
        let length = loop {
            let found = find(&self.unread()[searched..], b"\r\n\r\n");
            if let Some(at) = found {
                break searched + at + 4;
            }
            searched = self.unread().len().saturating_sub(3);
            self.fill(deadline).map_err(|end| Unreadable::NoHead(end, latin1(self.unread())))?;
        };
        Head::parse(&self.take(length)).map_err(Unreadable::Malformed)
    }

    /// Reads a whole request; `None` when the connection ends instead of a head. Fails the test on a malformed one.
    pub fn request(&mut self) -> Option<Message> {
        let head = self.request_head()?;
        let framing = head.request_framing().unwrap_or_else(|error| panic!("ambiguous request: {error}"));
        let mut message = Message::begun(head, Vec::new(), framing);
        self.read_body(&mut message).unwrap_or_else(|error| panic!("malformed request body: {error}"));
        Some(message)
    }

    /// Reads a request head; `None` when the connection ends before its first byte.
    pub fn request_head(&mut self) -> Option<Head> {
        match self.read_head() {
            Ok(head) => Some(head),
            Err(Unreadable::NoHead(_, bytes)) if bytes.is_empty() => None,
            Err(error) => panic!("expected a request head: {error:?}"),
        }
    }

    /// Reads interim heads, the final head and the body of the response to a request of `method`.
    pub fn try_response_to(&mut self, method: &str) -> Result<Message, Unreadable> {
        let mut interim = Vec::new();
        let head = loop {
            let head = self.read_head()?;
            if !head.start_line.starts_with("HTTP/1.") || head.status() < 100 {
                return Err(Unreadable::Malformed(head.start_line));
            }
            if head.status() == 101 || head.status() >= 200 {
                break head;
            }
            interim.push(head);
        };
        let framing = head.response_framing(method).map_err(Unreadable::Malformed)?;
        let mut message = Message::begun(head, interim, framing);
        self.read_body(&mut message).map_err(Unreadable::Malformed)?;
        Ok(message)
    }

    /// Reads one chunk; `None` at the last one. The cut when the connection ends instead.
    pub fn read_chunk(&mut self) -> Result<Result<Option<Vec<u8>>, End>, String> {
        let line = match self.read_line() {
            Ok(line) => line,
            Err(end) => return Ok(Err(end)),
        };
        let digits = line.split(';').next().unwrap_or_default();
        let is_size = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
        let size = is_size.then(|| usize::from_str_radix(digits, 16).ok()).flatten();
        let size = size.ok_or_else(|| format!("not a chunk size: {line:?}"))?;
        if size == 0 {
            return Ok(Ok(None));
        }
        let content = match self.read_exactly(size + 2) {
            Ok(content) => content,
            Err((_, end)) => return Ok(Err(end)),
        };
        match content.strip_suffix(b"\r\n") {
            Some(content) => Ok(Ok(Some(content.to_vec()))),
            None => Err("a chunk does not end in CRLF".to_owned()),
        }
    }

    fn read_body(&mut self, message: &mut Message) -> Result<(), String> {
        match message.framing {
            Framing::Length(length) => match self.read_exactly(length) {
                Ok(body) => message.body = body,
                Err((body, end)) => (message.body, message.cut) = (body, Some(end)),
            },
            Framing::UntilClose => {
                let (body, end) = self.read_to_end();
                message.body = body;
                message.cut = (end != End::Closed).then_some(end);
            }
            Framing::Chunked => loop {
                match self.read_chunk()? {
                    Ok(Some(content)) => message.body.extend(content),
                    Ok(None) => return self.read_trailers(message),
                    Err(end) => {
                        message.cut = Some(end);
                        break;
                    }
                }
            },
        }
        Ok(())
    }

    fn read_trailers(&mut self, message: &mut Message) -> Result<(), String> {
        loop {
            match self.read_line() {
                Ok(line) if line.is_empty() => return Ok(()),
                Ok(line) => {
                    let (name, value) = line.split_once(':').ok_or_else(|| format!("trailer {line:?}"))?;
                    message.trailers.push((name.to_owned(), value.trim().to_owned()));
                }
                Err(end) => {
                    message.cut = Some(end);
                    return Ok(());
                }
            }
        }
    }

    fn read_line(&mut self) -> Result<String, End> {
        let deadline = self.deadline();
        loop {
            if let Some(at) = find(self.unread(), b"\r\n") {
                let line = self.take(at + 2);
                return Ok(latin1(&line[..at]));
            }
            self.fill(deadline)?;
        }
    }

    fn take(&mut self, count: usize) -> Vec<u8> {
        let taken = self.unread()[..count].to_vec();
        self.consumed += count;
        taken
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }
}

fn read_some(transport: &mut Transport, buffer: &mut [u8], deadline: Instant) -> Result<usize, End> {
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(End::Deadline);
        }
        let left = Some(left.max(Duration::from_millis(1)));
        let read = match transport {
            Transport::Tcp(stream) => stream.set_read_timeout(left).and_then(|()| stream.read(buffer)),
            Transport::Unix(stream) => stream.set_read_timeout(left).and_then(|()| stream.read(buffer)),
            Transport::Tls(session, stream) => {
                let set = stream.set_read_timeout(left);
                set.and_then(|()| read_tls(session, stream, buffer))
            }
            Transport::TlsServer(session, stream) => {
                let set = stream.set_read_timeout(left);
                set.and_then(|()| read_tls(session, stream, buffer))
            }
        };
        match read {
            Ok(0) => return Err(End::Closed),
            Ok(count) => return Ok(count),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                ErrorKind::UnexpectedEof => return Err(End::Truncated),
                ErrorKind::InvalidData => return Err(End::Tls(error.to_string())),
                _ => return Err(End::Reset),
            },
        }
    }
}

fn read_tls<D: SideData>(
    session: &mut ConnectionCommon<D>,
    stream: &mut TcpStream,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        match session.reader().read(buffer) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            done => return done,
        }
        let received = session.read_tls(stream)?;
        let processed = session.process_new_packets();
        let _ = flush_tls(session, stream);
        processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error.to_string()))?;
        if received == 0 && session.is_handshaking() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
    }
}

fn write_tls<D: SideData>(
    session: &mut ConnectionCommon<D>,
    stream: &mut TcpStream,
    bytes: &[u8],
) -> io::Result<()> {
    for piece in bytes.chunks(TLS_PIECE_BYTES) {
        session.writer().write_all(piece)?;
        flush_tls(session, stream)?;
    }
    Ok(())
}

fn flush_tls<D: SideData>(session: &mut ConnectionCommon<D>, stream: &mut TcpStream) -> io::Result<()> {
    while session.wants_write() {
        session.write_tls(stream)?;
    }
    Ok(())
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Most bytes taken by one read: a socket buffer's worth, in bytes.
const READ_BYTES: usize = 64 * 1024;

/// Most plaintext handed to rustls before it is flushed, in bytes: below its own default buffer limit of 64 KiB.
const TLS_PIECE_BYTES: usize = 16 * 1024;
