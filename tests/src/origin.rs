//! The homeserver's side: an origin whose every byte is the test's.
//!
//! Each accepted connection runs the test's script on a thread of its own and is recorded: every byte with its time, and
//! how the connection ended. A script that panics fails the test when the [`Origin`] is dropped at the latest.

use std::any::Any;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::message::{self, Message};
use crate::place::Place;
use crate::wire::{End, Transport, Wire};
use crate::{latin1, wait_until};

/// A scripted origin server.
pub struct Origin {
    location: Location,
    shared: Arc<Shared>,
    accepting: Option<JoinHandle<()>>,
}

/// One connection that the origin accepted, as its script sees it.
#[derive(Debug)]
pub struct Peer {
    /// How many connections the origin had accepted before this one.
    pub index: usize,
    wire: Wire,
}

/// What happened on one connection.
#[derive(Debug)]
pub struct Record {
    /// When it was accepted.
    pub opened: Instant,
    events: Mutex<Events>,
    happened: Condvar,
}

#[derive(Debug, Default)]
struct Events {
    pieces: Vec<(Instant, Vec<u8>)>,
    ended: Option<(Instant, End)>,
}

type Script = dyn Fn(&mut Peer) + Send + Sync;

enum Location {
    Tcp(Place),
    Unix(TempDir),
}

struct Shared {
    script: Box<Script>,
    keeps_records: bool,
    stopping: AtomicBool,
    state: Mutex<State>,
    accepted: Condvar,
}

#[derive(Default)]
struct State {
    records: Vec<Arc<Record>>,
    open: Vec<(usize, Handle)>,
    scripts: Vec<JoinHandle<()>>,
    failures: Vec<String>,
}

enum Handle {
    Tcp(TcpStream),
    Unix(UnixStream),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Origin {
    /// Listens on a port of 127.0.0.1 and runs `script` on each connection.
    pub fn each(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Origin {
        Origin::start(Location::Tcp(Place::v4()), Box::new(script), true)
    }

    /// The same at a place chosen before, for instance one that refused connections until now.
    pub fn each_at(place: Place, script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Origin {
        Origin::start(Location::Tcp(place), Box::new(script), true)
    }

    /// The same on a Unix stream socket.
    pub fn each_on_unix_socket(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Origin {
        let folder = tempfile::tempdir().expect("a temporary folder");
        Origin::start(Location::Unix(folder), Box::new(script), true)
    }

    /// Answers every request on every connection with what `answer` makes of it, and keeps connections open.
    pub fn serving(answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static) -> Origin {
        Origin::each(move |peer| peer.serve(&answer))
    }

    /// The same without records, for loads whose records would not fit into memory.
    pub fn serving_unrecorded(
        place: Place,
        answer: impl Fn(&Message) -> Vec<u8> + Send + Sync + 'static,
    ) -> Origin {
        Origin::start(Location::Tcp(place), Box::new(move |peer: &mut Peer| peer.serve(&answer)), false)
    }

    /// Runs `script` on each connection and keeps no records.
    pub fn each_unrecorded(place: Place, script: impl Fn(&mut Peer) + Send + Sync + 'static) -> Origin {
        Origin::start(Location::Tcp(place), Box::new(script), false)
    }

    /// Answers every request with 200 and this body.
    pub fn answering(body: &str) -> Origin {
        let answer = message::ok(body);
        Origin::serving(move |_| answer.clone())
    }

    fn start(location: Location, script: Box<Script>, keeps_records: bool) -> Origin {
        let shared = Arc::new(Shared {
            script,
            keeps_records,
            stopping: AtomicBool::new(false),
            state: Mutex::default(),
            accepted: Condvar::new(),
        });
        let mut origin = Origin { location, shared, accepting: None };
        origin.resume();
        origin
    }

    /// What a configuration calls this origin: `http://ADDRESS` or `unix:PATH`.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.location {
            Location::Tcp(place) => format!("http://{}", place.address()),
            Location::Unix(folder) => format!("unix:{}", socket_path(folder).display()),
        }
    }

    /// The address of an origin on TCP.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        match &self.location {
            Location::Tcp(place) => place.address(),
            Location::Unix(_) => panic!("an origin on a Unix socket has no address"),
        }
    }

    /// Dies like a killed process: no listener, every connection closed. [`resume`](Origin::resume) brings it back.
    pub fn kill(&mut self) {
        self.shared.stopping.store(true, Ordering::SeqCst);
        // Wakes the accept; that nobody accepts this connection is the point.
        match &self.location {
            Location::Tcp(place) => drop(TcpStream::connect(place.address())),
            Location::Unix(folder) => drop(UnixStream::connect(socket_path(folder))),
        }
        if let Some(accepting) = self.accepting.take() {
            let _ = accepting.join();
        }
        self.shared.close_all();
    }

    /// Listens again after [`kill`](Origin::kill).
    pub fn resume(&mut self) {
        let listener = match &self.location {
            Location::Tcp(place) => Listener::Tcp(place.listen()),
            Location::Unix(folder) => {
                let _ = std::fs::remove_file(socket_path(folder));
                Listener::Unix(UnixListener::bind(socket_path(folder)).expect("a Unix socket can be bound"))
            }
        };
        self.shared.stopping.store(false, Ordering::SeqCst);
        let shared = Arc::clone(&self.shared);
        self.accepting = Some(thread::spawn(move || shared.accept_all(&listener)));
    }

    /// How many connections have been accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.lock().records.len()
    }

    /// Waits until `count` connections have been accepted, and returns the record of the last of them.
    #[must_use]
    pub fn connection(&self, count: usize) -> Arc<Record> {
        wait_until("the origin's connection", crate::PATIENCE, || self.connections() >= count);
        Arc::clone(&self.shared.lock().records[count - 1])
    }

    /// Every byte of every connection so far, one element a connection, as text.
    #[must_use]
    pub fn received(&self) -> Vec<String> {
        self.shared.lock().records.iter().map(|record| record.text()).collect()
    }

    /// The request heads' start-lines of all connections so far that hold whole requests without bodies.
    #[must_use]
    pub fn request_lines(&self) -> Vec<String> {
        let received = self.received();
        let heads = received.iter().flat_map(|bytes| bytes.split("\r\n\r\n"));
        heads.filter_map(|head| head.lines().next()).map(str::to_owned).collect()
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        let failures = self.shared.lock().failures.clone();
        self.kill();
        if thread::panicking() {
            for (index, bytes) in self.received().iter().enumerate() {
                let shown: String = bytes.chars().take(SHOWN_CHARS_MAX).collect();
                eprintln!("--- the origin's connection {index}, {} bytes:\n{shown}", bytes.len());
            }
            failures.iter().for_each(|failure| eprintln!("--- the origin's script: {failure}"));
        } else {
            assert!(failures.is_empty(), "the origin's script failed: {failures:#?}");
        }
    }
}

impl Peer {
    /// Answers requests with what `answer` makes of them until the connection ends.
    pub fn serve(&mut self, answer: &impl Fn(&Message) -> Vec<u8>) {
        while let Some(request) = self.wire.request() {
            let closes = request.head.lists("connection", "close");
            if self.wire.try_send(answer(&request)).is_err() || closes {
                break;
            }
        }
    }

    /// Reads a request and answers it with these bytes.
    pub fn answer(&mut self, response: impl AsRef<[u8]>) -> Option<Message> {
        let request = self.wire.request()?;
        self.wire.send(response);
        Some(request)
    }

    /// Resets the connection; the script ends with it.
    pub fn reset(&mut self) {
        let (placeholder, _) = UnixStream::pair().expect("a socket pair");
        let wire = std::mem::replace(&mut self.wire, Wire::new(Transport::Unix(placeholder)));
        wire.reset();
    }
}

impl Deref for Peer {
    type Target = Wire;

    fn deref(&self) -> &Wire {
        &self.wire
    }
}

impl DerefMut for Peer {
    fn deref_mut(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

impl Record {
    fn new() -> Record {
        Record { opened: Instant::now(), events: Mutex::default(), happened: Condvar::new() }
    }

    /// Notes bytes, or the end, at this moment.
    pub fn note(&self, bytes: &[u8], end: Option<&End>) {
        let mut events = self.lock();
        if !bytes.is_empty() {
            events.pieces.push((Instant::now(), bytes.to_vec()));
        }
        if let Some(end) = end.filter(|&end| *end != End::Deadline) {
            events.ended.get_or_insert((Instant::now(), end.clone()));
        }
        self.happened.notify_all();
    }

    /// The pieces in which bytes arrived, with their times.
    #[must_use]
    pub fn pieces(&self) -> Vec<(Instant, Vec<u8>)> {
        self.lock().pieces.clone()
    }

    /// Every byte that arrived.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().pieces.iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect()
    }

    /// Every byte that arrived, as text.
    #[must_use]
    pub fn text(&self) -> String {
        latin1(&self.bytes())
    }

    /// When and how the peer ended the connection, if the script was reading then.
    #[must_use]
    pub fn ended(&self) -> Option<(Instant, End)> {
        self.lock().ended.clone()
    }

    /// Waits for the peer to end the connection; `None` when it is still open after `within`.
    #[must_use]
    pub fn end_within(&self, within: Duration) -> Option<(Instant, End)> {
        let events = self.lock();
        let waited = self.happened.wait_timeout_while(events, within, |events| events.ended.is_none());
        waited.unwrap_or_else(PoisonError::into_inner).0.ended.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Events> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn accept_all(self: Arc<Shared>, listener: &Listener) {
        while let Some((wire, handle)) = accept(listener) {
            if self.stopping.load(Ordering::SeqCst) {
                break;
            }
            self.start_script(wire, handle);
        }
    }

    fn start_script(self: &Arc<Shared>, wire: Wire, handle: Handle) {
        let mut state = self.lock();
        let index = state.records.len();
        let record = Arc::new(Record::new());
        state.records.push(Arc::clone(&record));
        state.open.push((index, handle));
        let wire = if self.keeps_records { wire.recorded(record) } else { wire };
        let shared = Arc::clone(self);
        let running = thread::spawn(move || shared.run_script(Peer { index, wire }));
        state.scripts.retain(|script| !script.is_finished());
        state.scripts.push(running);
        self.accepted.notify_all();
    }

    fn run_script(&self, mut peer: Peer) {
        let outcome = catch_unwind(AssertUnwindSafe(|| (self.script)(&mut peer)));
        let mut state = self.lock();
        state.open.retain(|(index, _)| *index != peer.index);
        if let Err(panic) = outcome {
            state.failures.push(format!("connection {}: {}", peer.index, panic_text(&*panic)));
        }
    }

    fn close_all(&self) {
        let (open, scripts) = {
            let mut state = self.lock();
            (std::mem::take(&mut state.open), std::mem::take(&mut state.scripts))
        };
        for (_, handle) in open {
            let _ = match handle {
                Handle::Tcp(stream) => stream.shutdown(Shutdown::Both),
                Handle::Unix(stream) => stream.shutdown(Shutdown::Both),
            };
        }
        scripts.into_iter().for_each(|script| drop(script.join()));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn accept(listener: &Listener) -> Option<(Wire, Handle)> {
    match listener {
        Listener::Tcp(listener) => {
            let (stream, _) = listener.accept().ok()?;
            let handle = Handle::Tcp(stream.try_clone().ok()?);
            Some((Wire::new(Transport::Tcp(stream)), handle))
        }
        Listener::Unix(listener) => {
            let (stream, _) = listener.accept().ok()?;
            let handle = Handle::Unix(stream.try_clone().ok()?);
            Some((Wire::new(Transport::Unix(stream)), handle))
        }
    }
}

fn socket_path(folder: &TempDir) -> PathBuf {
    folder.path().join("origin.sock")
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|&text| text.to_owned())).unwrap_or_default()
}

/// How much of each connection a failed test prints, in characters.
const SHOWN_CHARS_MAX: usize = 2048;
