//! Both sides of a proxy in the hands of one thread: a client, and an origin that notes every byte and says only what it
//! is told to.
//!
//! One thread looks after both, so that "nothing more arrived" can be known: what the proxy sent before the answer that
//! was just read has been noted when that answer is judged.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use socket2::SockRef;

use crate::client::HOST;
use crate::message::{self, Message};
use crate::place::Place;
use crate::strict::{self, Front};
use crate::wire::End;
use crate::{Client, MS, PATIENCE, latin1};

/// A client and an origin around a proxy that is already running.
#[derive(Debug)]
pub struct Stage {
    /// The origin's side.
    pub ledger: Ledger,
    /// Where the proxy takes clients over plain TCP.
    pub plain: SocketAddr,
    /// Where the proxy takes clients over TLS.
    pub tls: Option<SocketAddr>,
    /// How long nothing may happen before a wait is given up.
    pub patience: Duration,
    /// The requests that [`serve`](Stage::serve) has answered.
    pub served: Vec<Message>,
    answers: usize,
}

/// An origin that notes every byte.
#[derive(Debug)]
pub struct Ledger {
    place: Place,
    listener: TcpListener,
    /// Every connection that was accepted, and is not forgotten.
    pub connections: Vec<Connection>,
}

/// One connection to the origin.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    bytes: Vec<u8>,
    taken: usize,
    /// How the proxy ended it.
    pub ended: Option<End>,
}

/// The client's side of one connection: what has come, and how it ended.
#[derive(Debug)]
pub struct Reader {
    /// The connection.
    pub client: Client,
    /// How the proxy ended it.
    pub ended: Option<End>,
    /// The proxy has said that it will end it.
    pub closing: bool,
}

impl Stage {
    /// Around the proxy at these addresses, which has this ledger as its upstream.
    #[must_use]
    pub fn new(ledger: Ledger, plain: SocketAddr, tls: Option<SocketAddr>) -> Stage {
        Stage { ledger, plain, tls, patience: PATIENCE, served: Vec::new(), answers: 0 }
    }

    /// A new connection to the proxy.
    #[must_use]
    pub fn connect(&self, tls: bool) -> Reader {
        let client = match self.tls {
            Some(address) if tls => Client::tls(address, HOST),
            _ => Client::connect(self.plain),
        };
        Reader { client, ended: None, closing: false }
    }

    /// Looks at both sides once and waits a millisecond at most.
    pub fn look(&mut self, reader: &mut Reader) -> bool {
        let noted = self.ledger.look();
        let read = reader.look();
        noted || read
    }

    /// Looks at both sides until `found` finds something; `None` when nothing has happened for the patience.
    pub fn until<R>(
        &mut self,
        reader: &mut Reader,
        mut found: impl FnMut(&mut Stage, &mut Reader) -> Option<R>,
    ) -> Option<R> {
        let mut quiet_since = Instant::now();
        loop {
            if let Some(result) = found(self, reader) {
                return Some(result);
            }
            if self.look(reader) {
                quiet_since = Instant::now();
            }
            if quiet_since.elapsed() > self.patience {
                return None;
            }
        }
    }

    /// Answers every whole request that is there and not answered: 200 with the target and a number.
    pub fn serve(&mut self) {
        while let Some((index, request)) = self.ledger.take_request() {
            self.answers += 1;
            let body = format!("{}#{}", request.head.target(), self.answers);
            let mut answer = message::response("200 OK", "Server: ledger\r\n", &body);
            if request.head.method() == "HEAD" {
                answer.truncate(answer.len() - body.len());
            }
            self.ledger.connections[index].send(&answer);
            self.served.push(request);
        }
    }

    /// Asks for something on this connection and serves it; the error tells what came instead of its answer.
    pub fn probe(&mut self, reader: &mut Reader) -> Result<(), String> {
        self.answers += 1;
        let target = format!("{PROBE}{}", self.answers);
        let sent = reader.client.try_send(format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        let answer = self.until(reader, |stage, reader| {
            stage.serve();
            match strict::response(reader.client.unread(), "GET", reader.ended.as_ref()) {
                // The request behind a refused one, which a lenient peer answers late.
                Front::Whole(answer, length) if answer.text().starts_with(SMUGGLED_TARGET) => {
                    reader.take(length);
                    None
                }
                Front::Whole(answer, length) => Some(Ok((answer, length))),
                Front::Malformed(why) => Some(Err(why)),
                _ if reader.ended.is_some() => Some(Err(format!("{:?}", reader.ended))),
                _ => None,
            }
        });
        match answer {
            Some(Ok((answer, length))) if answer.text().starts_with(&format!("{target}#")) => {
                reader.take(length);
                Ok(())
            }
            Some(Ok((answer, _))) => Err(format!("the answer to {target} is {:?}", answer.text())),
            Some(Err(why)) => Err(format!("no answer to {target}: {why}, sent: {sent:?}")),
            None => Err(format!("no answer to {target} in time, sent: {sent:?}")),
        }
    }

    /// [`probe`](Stage::probe) on a new connection.
    pub fn probe_anew(&mut self, tls: bool) -> Result<(), String> {
        let mut reader = self.connect(tls);
        self.probe(&mut reader)
    }
}

/// The target of the request that stands behind each one that is to be refused.
pub const SMUGGLED_TARGET: &str = "/_matrix/smuggled";

/// How the targets of probes begin.
pub const PROBE: &str = "/_matrix/probe-";

impl Ledger {
    /// On a free port of 127.0.0.1.
    #[must_use]
    pub fn new() -> Ledger {
        let place = Place::v4();
        let listener = place.listen();
        listener.set_nonblocking(true).expect("a listener can be non-blocking");
        Ledger { place, listener, connections: Vec::new() }
    }

    /// The address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.place.address()
    }

    /// Takes what has arrived by now; whether that was anything.
    pub fn look(&mut self) -> bool {
        let mut noted = false;
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).expect("a stream can be non-blocking");
            let _ = stream.set_nodelay(true);
            self.connections.push(Connection { stream, bytes: Vec::new(), taken: 0, ended: None });
            noted = true;
        }
        self.connections.iter_mut().fold(noted, |noted, connection| connection.look() | noted)
    }

    /// The next whole request of any connection, with that connection's index.
    pub fn take_request(&mut self) -> Option<(usize, Message)> {
        self.connections.iter_mut().enumerate().find_map(|(index, connection)| match connection.front() {
            Front::Whole(request, length) => {
                connection.taken += length;
                Some((index, request))
            }
            _ => None,
        })
    }

    /// What every connection holds behind the requests that were taken, as text.
    #[must_use]
    pub fn unread(&self) -> Vec<String> {
        self.connections.iter().map(|connection| latin1(connection.unread())).collect()
    }

    /// Forgets connections that have ended, and those on which bytes are left, which are closed.
    pub fn forget(&mut self) {
        self.connections.retain(|connection| connection.ended.is_none() && connection.unread().is_empty());
    }
}

impl Default for Ledger {
    fn default() -> Ledger {
        Ledger::new()
    }
}

impl Connection {
    /// What stands behind the requests that were taken.
    #[must_use]
    pub fn front(&self) -> Front {
        strict::request(self.unread())
    }

    /// The bytes behind the requests that were taken.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.taken..]
    }

    /// Passes over what has arrived.
    pub fn take_all(&mut self) {
        self.taken = self.bytes.len();
    }

    /// Sends these bytes; a peer that is gone is no fault.
    pub fn send(&mut self, bytes: &[u8]) {
        let (mut sent, deadline) = (0, Instant::now() + PATIENCE);
        while sent < bytes.len() && Instant::now() < deadline {
            match self.stream.write(&bytes[sent..]) {
                Ok(count) => sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => crate::pause(MS),
                Err(_) => return,
            }
        }
    }

    /// Ends the origin's direction; what still arrives is noted.
    pub fn close(&mut self) {
        let _ = self.stream.shutdown(Shutdown::Write);
    }

    /// Resets the connection.
    pub fn reset(&mut self) {
        let _ = SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        // The descriptor is closed by replacing it with one that is connected to nobody.
        if let Ok(unconnected) = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None) {
            self.stream = unconnected.into();
        }
        self.ended.get_or_insert(End::Reset);
    }

    fn look(&mut self) -> bool {
        let mut noted = false;
        while self.ended.is_none() {
            let length = self.bytes.len();
            self.bytes.resize(length + READ_BYTES, 0);
            let read = self.stream.read(&mut self.bytes[length..]);
            self.bytes.truncate(length + *read.as_ref().unwrap_or(&0));
            match read {
                Ok(0) => self.ended = Some(End::Closed),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return noted,
                Err(_) => self.ended = Some(End::Reset),
            }
            noted = true;
        }
        noted
    }
}

impl Reader {
    /// Takes what arrives within a millisecond; whether that was anything.
    pub fn look(&mut self) -> bool {
        if self.ended.is_some() {
            crate::pause(MS);
            return false;
        }
        match self.client.fill(Instant::now() + MS) {
            Ok(()) => true,
            Err(End::Deadline) => false,
            Err(end) => {
                self.ended = Some(end);
                true
            }
        }
    }

    /// Passes over this many bytes.
    pub fn take(&mut self, length: usize) {
        let _ = self.client.read_exactly(length);
    }

    /// What has come and was not taken, as text.
    #[must_use]
    pub fn text(&self) -> String {
        latin1(self.client.unread())
    }
}

/// Most bytes taken by one read, in bytes: a socket buffer's worth.
const READ_BYTES: usize = 64 * 1024;
