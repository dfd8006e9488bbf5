//! One connection, plain or TLS: sends a request, reads the response, holds no buffer in between.
//!
//! TLS goes through rustls' unbuffered API: records are decrypted where they were received and encrypted where they
//! are sent from.

use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use monoio::BufResult;
use monoio::buf::{Slice, SliceMut};
use monoio::io::{AsyncReadRent as _, AsyncWriteRentExt as _};
use monoio::net::TcpStream;
use rustls::HandshakeKind;
use rustls::client::{ClientConfig, UnbufferedClientConnection};
use rustls::unbuffered::{ConnectionState, UnbufferedStatus};
use socket2::{Domain, Socket, Type};

use crate::buffers::{BULK_BYTES, Buffers, LARGE_BYTES, SMALL_BYTES, Size, ZEROS};
use crate::fault::Fault;
use crate::request::Request;
use crate::response::Response;
use crate::target::Target;

/// What a thread's connections share.
#[derive(Debug)]
pub(crate) struct Wire {
    /// Buffers to borrow.
    pub(crate) buffers: Buffers,
    /// Bytes sent, TLS and all.
    pub(crate) bytes_sent: Cell<u64>,
    /// Bytes received, TLS and all.
    pub(crate) bytes_received: Cell<u64>,
}

/// An open connection.
pub(crate) struct Connection {
    stream: TcpStream,
    tls: Option<Box<UnbufferedClientConnection>>,
    /// Part of a TLS record, seldom anything.
    rest: Vec<u8>,
}

impl Wire {
    /// Nothing sent, nothing received.
    pub(crate) fn new() -> Wire {
        Wire { buffers: Buffers::new(), bytes_sent: Cell::new(0), bytes_received: Cell::new(0) }
    }
}

impl Connection {
    /// Connects, and shakes hands when there is a TLS configuration; says which kind of handshake it was.
    pub(crate) async fn open(
        target: &Target,
        tls: Option<&Arc<ClientConfig>>,
        source: Option<SocketAddr>,
        wire: &Wire,
    ) -> Result<(Connection, Option<HandshakeKind>), Fault> {
        let stream = connect(target.address, source).await.map_err(Fault::Connect)?;
        stream.set_nodelay(true).map_err(Fault::Connect)?;
        let mut connection = Connection { stream, tls: None, rest: Vec::new() };
        let Some(config) = tls else { return Ok((connection, None)) };
        let mut session = Box::new(UnbufferedClientConnection::new(config.clone(), target.name.clone())?);
        connection.handshake(&mut session, wire).await?;
        let kind = session.handshake_kind();
        connection.tls = Some(session);
        Ok((connection, kind))
    }

    /// Sends the request and reads all of the response.
    pub(crate) async fn exchange(
        &mut self,
        request: &Request,
        response: &mut Response,
        wire: &Wire,
    ) -> Result<(), Fault> {
        let failed = |fault: Fault, response: &Response| match fault {
            Fault::Io(error) if response.is_untouched() => Fault::Unanswered(error.to_string()),
            fault => fault,
        };
        self.send(request, wire).await.map_err(|fault| failed(fault, response))?;
        self.receive(response, wire).await.map_err(|fault| failed(fault, response))
    }

    /// Waits until the peer has closed, throwing away what it still sends, then closes: in this order the port waits
    /// (TIME-WAIT) on the server's side, as it does behind clients that are told `Connection: close`.
    pub(crate) async fn close(mut self, wire: &Wire) {
        let mut buffer = wire.buffers.incoming(Size::Small);
        loop {
            buffer.clear();
            match self.read(buffer, wire).await {
                Ok(read) if !read.is_empty() => buffer = read,
                Ok(read) => return wire.buffers.put_incoming(read),
                Err(_) => return,
            }
        }
    }

    /// Waits until the peer closes an idle connection; what it sends before is not looked at.
    pub(crate) async fn closed(mut self, wire: &Wire) {
        while self.stream.readable(false).await.is_ok() {
            let Ok(read) = self.read(wire.buffers.incoming(Size::Small), wire).await else { return };
            let ended = read.is_empty();
            wire.buffers.put_incoming(read);
            if ended {
                return;
            }
        }
    }

    async fn send(&mut self, request: &Request, wire: &Wire) -> Result<(), Fault> {
        let size = if request.head.len() + RECORDS_BYTES <= SMALL_BYTES { Size::Small } else { Size::Large };
        let mut outgoing = wire.buffers.outgoing(size);
        for piece in request.head.chunks(BULK_BYTES) {
            let used = self.seal(piece, &mut outgoing)?;
            outgoing = self.write(outgoing, used, wire).await?;
        }
        wire.buffers.put_outgoing(outgoing);
        let mut left = request.zeros;
        if left == 0 {
            return Ok(());
        }
        let mut outgoing = wire.buffers.outgoing(Size::Large);
        while left > 0 {
            let count = BULK_BYTES.min(usize::try_from(left).unwrap_or(BULK_BYTES));
            if self.tls.is_some() {
                let used = self.seal(&ZEROS[..count], &mut outgoing)?;
                outgoing = self.write(outgoing, used, wire).await?;
            } else {
                let (result, _) = self.stream.write_all(&ZEROS[..count]).await;
                result.map_err(Fault::Io)?;
                wire.bytes_sent.set(wire.bytes_sent.get() + count as u64);
            }
            left -= count as u64;
        }
        wire.buffers.put_outgoing(outgoing);
        Ok(())
    }

    /// Puts `plain` into `outgoing` as it goes over the wire; how many bytes that are.
    fn seal(&mut self, plain: &[u8], outgoing: &mut [u8]) -> Result<usize, Fault> {
        let Some(tls) = &mut self.tls else {
            outgoing[..plain.len()].copy_from_slice(plain);
            return Ok(plain.len());
        };
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state, .. } = tls.process_tls_records(&mut self.rest);
            let sealed = match state? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    used += traffic.encrypt(plain, &mut outgoing[used..]).map_err(overfull)?;
                    true
                }
                ConnectionState::EncodeTlsData(mut data) => {
                    used += data.encode(&mut outgoing[used..]).map_err(overfull)?;
                    false
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    false
                }
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    return Err(Fault::Unanswered("closed".to_owned()));
                }
                _ => return Err(Fault::Framing("bytes between two responses")),
            };
            self.rest.drain(..discard);
            if sealed {
                return Ok(used);
            }
        }
    }

    async fn receive(&mut self, response: &mut Response, wire: &Wire) -> Result<(), Fault> {
        let mut incoming = std::mem::take(&mut self.rest);
        loop {
            let closed = self.take(&mut incoming, response)?;
            if response.has_ended() {
                break;
            }
            if closed {
                ended(response)?;
                break;
            }
            incoming = sized(incoming, response.expected(), wire);
            let before = incoming.len();
            incoming = self.read(incoming, wire).await?;
            if incoming.len() == before {
                ended(response)?;
                break;
            }
        }
        self.keep(incoming, wire);
        Ok(())
    }

    /// Holds on to part of a record, and to nothing else.
    fn keep(&mut self, incoming: Vec<u8>, wire: &Wire) {
        if !incoming.is_empty() {
            self.rest = incoming;
        } else if incoming.capacity() > 0 {
            wire.buffers.put_incoming(incoming);
        }
    }

    /// Gives what has come to the response and leaves what is incomplete; whether TLS says that the peer has closed.
    fn take(&mut self, incoming: &mut Vec<u8>, response: &mut Response) -> Result<bool, Fault> {
        let Some(tls) = &mut self.tls else {
            response.feed(incoming).map_err(Fault::Framing)?;
            incoming.clear();
            return Ok(false);
        };
        let mut taken = 0;
        let closed = loop {
            let UnbufferedStatus { discard, state, .. } = tls.process_tls_records(&mut incoming[taken..]);
            let mut discarded = discard;
            let end = match state? {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record?;
                        discarded += record.discard;
                        response.feed(record.payload).map_err(Fault::Framing)?;
                    }
                    None
                }
                ConnectionState::WriteTraffic(_) => Some(false),
                ConnectionState::PeerClosed | ConnectionState::Closed => Some(true),
                _ => return Err(Fault::Tls("a handshake within a response".to_owned())),
            };
            taken += discarded;
            if let Some(closed) = end {
                break closed;
            }
        };
        incoming.drain(..taken);
        Ok(closed)
    }

    async fn handshake(&mut self, tls: &mut UnbufferedClientConnection, wire: &Wire) -> Result<(), Fault> {
        let mut incoming = wire.buffers.incoming(Size::Small);
        let mut outgoing = wire.buffers.outgoing(Size::Small);
        let mut used = 0;
        loop {
            let UnbufferedStatus { discard, state, .. } = tls.process_tls_records(&mut incoming);
            let step = match state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    used += data.encode(&mut outgoing[used..]).map_err(overfull)?;
                    Step::Again
                }
                ConnectionState::TransmitTlsData(data) => {
                    data.done();
                    Step::Send
                }
                ConnectionState::BlockedHandshake => Step::Receive,
                ConnectionState::WriteTraffic(_) => Step::Established,
                _ => return Err(Fault::Tls("closed within the handshake".to_owned())),
            };
            incoming.drain(..discard);
            match step {
                Step::Again => {}
                Step::Send => {
                    outgoing = self.write(outgoing, used, wire).await?;
                    used = 0;
                }
                Step::Receive => {
                    let before = incoming.len();
                    incoming = self.read(incoming, wire).await?;
                    if incoming.len() == before {
                        return Err(Fault::Tls("closed within the handshake".to_owned()));
                    }
                }
                Step::Established => break,
            }
        }
        wire.buffers.put_outgoing(outgoing);
        self.keep(incoming, wire);
        Ok(())
    }

    /// Sends the first `used` bytes.
    async fn write(&mut self, outgoing: Vec<u8>, used: usize, wire: &Wire) -> Result<Vec<u8>, Fault> {
        let (result, sent) = self.stream.write_all(Slice::new(outgoing, 0, used)).await;
        result.map_err(Fault::Io)?;
        wire.bytes_sent.set(wire.bytes_sent.get() + used as u64);
        Ok(sent.into_inner())
    }

    /// Receives behind what is in the buffer, which has room. No byte more: the peer has closed.
    async fn read(&mut self, incoming: Vec<u8>, wire: &Wire) -> Result<Vec<u8>, Fault> {
        let (begin, end) = (incoming.len(), incoming.capacity());
        let (result, read): BufResult<usize, _> = self.stream.read(SliceMut::new(incoming, begin, end)).await;
        let count = result.map_err(Fault::Io)?;
        wire.bytes_received.set(wire.bytes_received.get() + count as u64);
        let mut incoming = read.into_inner();
        incoming.truncate(begin + count);
        Ok(incoming)
    }
}

enum Step {
    Again,
    Send,
    Receive,
    Established,
}

/// Connects, from this source address where one is given.
async fn connect(address: SocketAddr, source: Option<SocketAddr>) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect_addr(address).await };
    let socket = Socket::new(Domain::for_address(address), Type::STREAM.cloexec().nonblocking(), None)?;
    socket.bind(&source.into())?;
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EINPROGRESS as i32) => {}
        Err(error) => return Err(error),
    }
    let refusal = socket.try_clone()?;
    let stream = TcpStream::from_std(socket.into())?;
    stream.writable(false).await?;
    refusal.take_error()?.map_or(Ok(stream), Err)
}

/// `incoming`, or a buffer for this much with the same content.
fn sized(incoming: Vec<u8>, expected: u64, wire: &Wire) -> Vec<u8> {
    let size = if expected > SMALL_BYTES as u64 { Size::Large } else { Size::Small };
    let wanted = if expected > SMALL_BYTES as u64 { LARGE_BYTES } else { SMALL_BYTES };
    if incoming.capacity() >= wanted && incoming.len() < incoming.capacity() {
        return incoming;
    }
    let mut larger = wire.buffers.incoming(size);
    larger.extend_from_slice(&incoming);
    if incoming.capacity() > 0 {
        wire.buffers.put_incoming(incoming);
    }
    larger
}

fn ended(response: &mut Response) -> Result<(), Fault> {
    let untouched = response.is_untouched();
    response
        .end()
        .map_err(|what| if untouched { Fault::Unanswered("closed".to_owned()) } else { Fault::Framing(what) })
}

fn overfull(error: impl std::fmt::Display) -> Fault {
    Fault::Tls(error.to_string())
}

/// What TLS adds to a request that fits a small buffer, in bytes: two records' headers and tags.
const RECORDS_BYTES: usize = 128;
