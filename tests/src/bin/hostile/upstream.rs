//! The homeserver under attack: one thread for thousands of connections, so that threads are not what is measured.
//!
//! `/_matrix/large` is answered with ten gigabytes, `/_matrix/interim` with interim responses without end, a request with a
//! body never, all others at once.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use ringfence_tests::place::Place;
use ringfence_tests::{KIB, message};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};

use socket2::SockRef;

/// A running origin; dropping it ends it.
pub(crate) struct Upstream {
    place: Place,
    stop: Arc<AtomicBool>,
    serving: Option<JoinHandle<()>>,
}

impl Upstream {
    /// Listens on a port of its own.
    pub(crate) fn start() -> Upstream {
        let place = Place::v4();
        let listener = place.listen();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let serving = thread::spawn(move || Server::new(listener).serve(&stopped));
        Upstream { place, stop, serving: Some(serving) }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.place.address()
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
    }
}

struct Server {
    listener: TcpListener,
    epoll: rustix::fd::OwnedFd,
    connections: HashMap<u64, Connection>,
    next: u64,
    answer: Vec<u8>,
    filling: Vec<u8>,
    interim: Vec<u8>,
    scratch: Vec<u8>,
}

struct Connection {
    stream: TcpStream,
    head: Vec<u8>,
    doing: Doing,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Doing {
    /// Reading heads, answering each.
    Serving,
    /// Taking a body that is never answered.
    Swallowing,
    /// Sending content without end.
    Filling,
    /// Sending interim responses without end.
    Interim,
}

impl Server {
    fn new(listener: TcpListener) -> Server {
        listener.set_nonblocking(true).expect("a listener can be non-blocking");
        let epoll = epoll::create(CreateFlags::CLOEXEC).expect("an epoll instance");
        epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)
            .expect("it takes a listener");
        Server {
            listener,
            epoll,
            connections: HashMap::new(),
            next: LISTENER + 1,
            answer: message::ok("x".repeat(512)),
            filling: vec![b'z'; 64 * KIB],
            interim: b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n".repeat(256),
            scratch: vec![0; 64 * KIB],
        }
    }

    fn serve(mut self, stop: &AtomicBool) {
        let mut events = Vec::with_capacity(EVENTS_MAX);
        let timeout = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
        while !stop.load(Ordering::SeqCst) {
            events.clear();
            let waited =
                epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout));
            if waited.is_err() {
                continue;
            }
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept(),
                    index => self.turn(index),
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            let _ = (stream.set_nonblocking(true), stream.set_nodelay(true));
            // What this end of the connection holds is not the proxy's.
            let _ = SockRef::from(&stream).set_send_buffer_size(32 * KIB);
            let index = self.next;
            self.next += 1;
            if epoll::add(&self.epoll, &stream, EventData::new_u64(index), EventFlags::IN).is_ok() {
                self.connections
                    .insert(index, Connection { stream, head: Vec::new(), doing: Doing::Serving });
            }
        }
    }

    fn turn(&mut self, index: u64) {
        let Some(connection) = self.connections.get_mut(&index) else { return };
        let stays = match connection.doing {
            Doing::Serving => connection.serve(&self.answer, &mut self.scratch),
            Doing::Swallowing => connection.swallow(&mut self.scratch),
            Doing::Filling => connection.send(&self.filling),
            Doing::Interim => connection.send(&self.interim),
        };
        let waits_to_write = matches!(connection.doing, Doing::Filling | Doing::Interim);
        if !stays {
            self.connections.remove(&index);
        } else if waits_to_write {
            let fd = connection.stream.as_fd();
            let _ = epoll::modify(&self.epoll, fd, EventData::new_u64(index), EventFlags::OUT);
        }
    }
}

impl Connection {
    /// Answers the requests that have come; `false`: the connection is over.
    fn serve(&mut self, answer: &[u8], scratch: &mut [u8]) -> bool {
        match self.stream.read(scratch) {
            Ok(0) => return false,
            Ok(read) => self.head.extend_from_slice(&scratch[..read]),
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
        while let Some(end) = self.head.windows(4).position(|window| window == b"\r\n\r\n") {
            let head: Vec<u8> = self.head.drain(..end + 4).collect();
            if head.starts_with(b"POST") {
                self.doing = Doing::Swallowing;
                return true;
            }
            if head.starts_with(b"GET /_matrix/large") {
                self.doing = Doing::Filling;
                return self
                    .stream
                    .write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 10000000000\r\n\r\n")
                    .is_ok();
            }
            if head.starts_with(b"GET /_matrix/interim") {
                self.doing = Doing::Interim;
                return true;
            }
            // Small: a new connection's send buffer holds hundreds of them.
            if self.stream.write_all(answer).is_err() {
                return false;
            }
        }
        true
    }

    fn swallow(&mut self, scratch: &mut [u8]) -> bool {
        match self.stream.read(scratch) {
            Ok(read) => read > 0,
            Err(error) => error.kind() == ErrorKind::WouldBlock,
        }
    }

    /// Sends some of what may be cut anywhere, or is never read so far that the cut is seen.
    fn send(&mut self, bytes: &[u8]) -> bool {
        let sent = self.stream.write(bytes);
        sent.is_ok() || sent.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

/// The listener among the epoll instance's sockets.
const LISTENER: u64 = 0;

/// Events taken at once: as many as keep one system call's cost spread.
const EVENTS_MAX: usize = 512;
