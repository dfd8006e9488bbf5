//! Where things listen: loopback ports that nobody else is given while a test uses them.
//!
//! The proxy binds with `SO_REUSEPORT`, so two tests that happened on the same port would share its connections instead
//! of failing. A [`Place`] therefore keeps a bound socket that never listens: the kernel then gives the port to nobody
//! who asks for a free one, a listener with `SO_REUSEPORT` may still join, and while none has, connections are refused.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use socket2::{Domain, Socket, Type};

/// A reserved address on loopback.
#[derive(Debug)]
pub struct Place {
    address: SocketAddr,
    _reservation: Socket,
}

impl Place {
    /// A free port of 127.0.0.1.
    #[must_use]
    pub fn v4() -> Place {
        Place::on(Ipv4Addr::LOCALHOST.into())
    }

    /// A free port of `[::1]`.
    #[must_use]
    pub fn v6() -> Place {
        Place::on(Ipv6Addr::LOCALHOST.into())
    }

    /// A free port of `[::]`, which takes IPv4 too. The one exception to loopback: there is no other dual-stack address.
    #[must_use]
    pub fn dual_stack() -> Place {
        Place::on(Ipv6Addr::UNSPECIFIED.into())
    }

    /// A free port of `ip`.
    #[must_use]
    pub fn on(ip: IpAddr) -> Place {
        Place::at(SocketAddr::new(ip, 0))
    }

    /// This very address, for instance another place's port on another address of loopback.
    #[must_use]
    pub fn at(address: SocketAddr) -> Place {
        let reservation = socket(address).expect("a free loopback port");
        let address = reservation.local_addr().ok().and_then(|address| address.as_socket());
        Place { address: address.expect("a bound socket has an address"), _reservation: reservation }
    }

    /// The reserved address.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Starts to listen here. Until then, and after the listener is dropped, connections are refused.
    #[must_use]
    pub fn listen(&self) -> TcpListener {
        let listener = socket(self.address).expect("the reserved port can be bound");
        listener.listen(BACKLOG).expect("a bound socket can listen");
        listener.into()
    }
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // The proxy looks for other listeners with `SO_REUSEADDR` alone, and overlooks a socket that has it and never listens.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(!address.ip().is_unspecified())?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Connections that may wait for an accept: more than any test opens at once.
const BACKLOG: i32 = 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::net::TcpStream;

    #[test]
    fn reserved_places_differ_and_refuse_until_they_listen() {
        let places: Vec<Place> = (0..200).map(|_| Place::v4()).collect();
        let ports: HashSet<u16> = places.iter().map(|place| place.address().port()).collect();
        assert_eq!(ports.len(), places.len());

        let refused = TcpStream::connect(places[0].address()).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        let listener = places[0].listen();
        TcpStream::connect(places[0].address()).unwrap();
        drop(listener);
        TcpStream::connect(places[0].address()).unwrap_err();
        let again = places[0].listen();
        TcpStream::connect(places[0].address()).unwrap();
        drop(again);
    }
}
