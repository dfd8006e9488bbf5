//! The client's side: raw bytes to the proxy, strict reading of what comes back.

use std::io::{self, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use socket2::{Domain, Socket, Type};

use crate::message::Message;
use crate::wire::{End, Transport, Wire};
use crate::{Authority, PATIENCE};

/// The `Host` of requests that the test does not spell out: what [`Proxy`](crate::Proxy) configures.
pub const HOST: &str = "matrix.example.com";

/// One connection to the proxy.
#[derive(Debug)]
pub struct Client {
    wire: Wire,
}

impl Client {
    /// Connects over plain TCP.
    #[must_use]
    pub fn connect(to: SocketAddr) -> Client {
        Client::try_connect(to).expect("the proxy accepts connections")
    }

    /// Connects over plain TCP, or says why not.
    pub fn try_connect(to: SocketAddr) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        Ok(Client { wire: Wire::new(Transport::Tcp(stream)) })
    }

    /// Connects over plain TCP from this loopback address.
    #[must_use]
    pub fn connect_from(from: IpAddr, to: SocketAddr) -> Client {
        Client { wire: Wire::new(Transport::Tcp(bound_stream(from, to).expect("a connection"))) }
    }

    /// Connects over plain TCP with a receive buffer of about this many bytes, for clients that read slowly.
    #[must_use]
    pub fn connect_with_small_window(to: SocketAddr, receive_bytes: usize) -> Client {
        Client { wire: Wire::new(Transport::Tcp(stream_with_small_window(to, receive_bytes))) }
    }

    /// The same over TLS, as [`tls`](Self::tls).
    #[must_use]
    pub fn tls_with_small_window(to: SocketAddr, name: &str, receive_bytes: usize) -> Client {
        let stream = stream_with_small_window(to, receive_bytes);
        Client::tls_over(stream, name, Authority::shared().client_config()).expect("the handshake completes")
    }

    /// Connects over TLS as a client that trusts the shared authority and asks for `name`.
    #[must_use]
    pub fn tls(to: SocketAddr, name: &str) -> Client {
        Client::tls_with(to, name, Authority::shared().client_config()).expect("the handshake completes")
    }

    /// Connects over TLS with a configuration of the test's own; the error tells why the handshake failed.
    pub fn tls_with(to: SocketAddr, name: &str, config: Arc<ClientConfig>) -> Result<Client, String> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|error| error.to_string())?;
        Client::tls_over(stream, name, config)
    }

    /// Speaks TLS over a connection that is open already.
    pub fn tls_on(stream: TcpStream, name: &str) -> Result<Client, String> {
        Client::tls_over(stream, name, Authority::shared().client_config())
    }

    /// The same with bytes that go ahead of the handshake, in one segment with its beginning.
    pub fn tls_behind(first: &[u8], to: SocketAddr, name: &str) -> Result<Client, String> {
        let stream = TcpStream::connect_timeout(&to, PATIENCE).map_err(|error| error.to_string())?;
        Client::tls_begun(stream, name, Authority::shared().client_config(), first)
    }

    fn tls_over(stream: TcpStream, name: &str, config: Arc<ClientConfig>) -> Result<Client, String> {
        Client::tls_begun(stream, name, config, b"")
    }

    fn tls_begun(
        mut stream: TcpStream,
        name: &str,
        config: Arc<ClientConfig>,
        first: &[u8],
    ) -> Result<Client, String> {
        let name = ServerName::try_from(name.to_owned()).expect("a valid server name");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout can be set");
        let mut session = ClientConnection::new(config, name).map_err(|error| error.to_string())?;
        let mut flight = first.to_vec();
        session.write_tls(&mut flight).map_err(|error| error.to_string())?;
        stream.write_all(&flight).map_err(|error| error.to_string())?;
        while session.is_handshaking() {
            session.complete_io(&mut stream).map_err(|error| error.to_string())?;
        }
        Ok(Client { wire: Wire::new(Transport::Tls(Box::new(session), stream)) })
    }

    /// The TLS session of this connection.
    pub fn session(&mut self) -> &ClientConnection {
        match self.wire.transport() {
            Transport::Tls(session, _) => session,
            _ => panic!("this connection is not over TLS"),
        }
    }

    /// Sends a GET for `target` with the usual Host, and reads the response.
    pub fn get(&mut self, target: &str) -> Message {
        self.request(format!("GET {target} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"))
    }

    /// Sends these bytes, which end a request, and reads the response to the method they begin with.
    pub fn request(&mut self, bytes: impl AsRef<[u8]>) -> Message {
        let bytes = bytes.as_ref();
        let method = bytes.split(|&byte| byte == b' ').next().unwrap_or_default();
        self.wire.send(bytes);
        self.response_to(&String::from_utf8_lossy(method))
    }

    /// Reads the response to anything but a HEAD.
    pub fn response(&mut self) -> Message {
        self.response_to("GET")
    }

    /// Reads the response to a request of `method`; fails the test when there is none.
    pub fn response_to(&mut self, method: &str) -> Message {
        self.wire.try_response_to(method).unwrap_or_else(|error| panic!("no response: {error:?}"))
    }

    /// Fails the test unless the proxy ends this connection in order, with nothing before that.
    pub fn expect_close(&mut self) {
        let (bytes, end) = self.wire.read_to_end();
        assert_eq!((crate::latin1(&bytes).as_str(), end), ("", End::Closed));
    }

    /// Sends from another thread, so that this one can read; plain TCP only. The thread returns how it went.
    pub fn send_in_background(&mut self, bytes: Vec<u8>) -> JoinHandle<io::Result<()>> {
        let stream = match self.wire.transport() {
            Transport::Tcp(stream) => stream.try_clone().expect("a socket can be cloned"),
            _ => panic!("only a plain connection can be written by another thread"),
        };
        thread::spawn(move || Wire::new(Transport::Tcp(stream)).try_send(bytes))
    }

    /// Resets the connection.
    pub fn reset(self) {
        self.wire.reset();
    }

    /// The address of this end.
    pub fn local_address(&mut self) -> SocketAddr {
        let (Transport::Tcp(stream) | Transport::Tls(_, stream)) = self.wire.transport() else {
            panic!("a client is on TCP")
        };
        stream.local_addr().expect("a connected socket has an address")
    }
}

impl Deref for Client {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        &self.wire
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

fn stream_with_small_window(to: SocketAddr, receive_bytes: usize) -> TcpStream {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(receive_bytes).expect("the receive buffer can be set");
    socket.connect(&to.into()).expect("the proxy accepts connections");
    socket.into()
}

fn bound_stream(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.bind(&SocketAddr::new(from, 0).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    Ok(socket.into())
}
