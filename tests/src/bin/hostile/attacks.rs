//! The attacks: what each connection does, and what it may cost.
#![forbid(unsafe_code)]

use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use ringfence_tests::client::HOST;
use ringfence_tests::{Authority, KIB, MS, PATIENCE, SECOND};
use rustls::ClientConnection;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use socket2::{Domain, Socket, Type};

use crate::swarm::{Leaving, Prepared, Reading, SMALL_WINDOW_BYTES, Script, Sources, give_way, source};

/// One kind of attack.
pub(crate) struct Attack {
    /// As the command line names it.
    pub(crate) name: &'static str,
    /// In a line.
    pub(crate) what: &'static str,
    /// What each connection does.
    pub(crate) script: Script,
    /// Which port it goes to, and whether handshakes are made before.
    pub(crate) front: Front,
    /// What it may cost.
    pub(crate) bounds: Bounds,
}

/// What is attacked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Front {
    /// The plain port.
    Plain,
    /// The TLS port, by raw bytes.
    Tls,
    /// The TLS port, on connections whose handshake is complete and whose request is sent.
    TlsEstablished,
}

/// What an attack may cost; every figure is per connection held at the peak.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Resident memory of the proxy, in KiB.
    pub(crate) resident_kib: u64,
    /// Memory of the proxy's own TCP sockets, towards the client and towards the origin, in KiB.
    pub(crate) tcp_kib: u64,
    /// The longest life of an attacking connection.
    pub(crate) life: Option<Duration>,
    /// Connections that have to be held for the attack to be one; a share of those that it wants, in percent.
    pub(crate) held_percent_min: u64,
    /// Most descriptors that the proxy may use, for all connections together.
    pub(crate) descriptors_max: usize,
    /// Status codes that answers may have.
    pub(crate) statuses: &'static [&'static str],
    /// What a new connection's handshake may have to wait for besides, for each attacking connection in the same queue.
    pub(crate) queues: Duration,
}

impl Bounds {
    /// For an attack whose connections hold a head, or less.
    const SMALL: Bounds = Bounds {
        resident_kib: BUSY_KIB,
        tcp_kib: 8,
        life: None,
        held_percent_min: 90,
        descriptors_max: usize::MAX,
        statuses: &[],
        queues: Duration::ZERO,
    };
}

impl Script {
    fn opening(bytes: impl Into<Vec<u8>>) -> Script {
        Script {
            opening: bytes.into(),
            refrain: Vec::new(),
            every: Some(SECOND),
            reading: Reading::All,
            leaving: Leaving::Never,
            sources: Sources::Many,
            openings_per_second: 2000,
            connections_max: usize::MAX,
        }
    }

    /// However many are asked for.
    fn at_most(mut self, connections: usize) -> Script {
        self.connections_max = connections;
        self
    }

    fn refrain(mut self, bytes: impl Into<Vec<u8>>, every: Option<Duration>) -> Script {
        (self.refrain, self.every) = (bytes.into(), every);
        self
    }

    fn reading(mut self, reading: Reading) -> Script {
        self.reading = reading;
        self
    }

    fn leaving(mut self, leaving: Leaving) -> Script {
        self.leaving = leaving;
        self
    }
}

/// Every attack there is.
pub(crate) fn all() -> Vec<Attack> {
    [slow(), unread(), handshakes(), floods(), upstream()].into_iter().flatten().collect()
}

/// Those that take their time.
fn slow() -> Vec<Attack> {
    let head = format!("GET /_matrix/x HTTP/1.1\r\nHost: {HOST}\r\nX-Slow: ");
    let body = format!("POST /_matrix/x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 9999999\r\n\r\n");
    let life = Some(HEADER_READ + SLACK);
    let dribbled = Some(DOWNSTREAM_SILENCE + SLACK);
    vec![
        Attack {
            name: "heads",
            what: "a request head, a byte each half second",
            script: Script::opening(head).refrain("x", Some(500 * MS)),
            front: Front::Plain,
            bounds: Bounds { life, statuses: &["408"], ..Bounds::SMALL },
        },
        Attack {
            name: "silent",
            what: "connections that send nothing",
            script: Script::opening(""),
            front: Front::Plain,
            bounds: Bounds { life, resident_kib: 4, ..Bounds::SMALL },
        },
        Attack {
            name: "bodies",
            what: "a request body, a byte each half second",
            script: Script::opening(body).refrain("x", Some(500 * MS)),
            front: Front::Plain,
            bounds: Bounds { life: dribbled, statuses: &["408"], ..Bounds::SMALL },
        },
        Attack {
            name: "chunks",
            what: "a chunked body, an endless chunk extension, a byte each half second",
            script: Script::opening(chunked("1;a=")).refrain("x", Some(500 * MS)),
            front: Front::Plain,
            bounds: Bounds { life: dribbled, statuses: &["400", "408"], ..Bounds::SMALL },
        },
        Attack {
            name: "slow-reads",
            what: "a download of 10 GB, read a byte each half second",
            script: large().reading(Reading::Dribble).refrain("x", Some(500 * MS)),
            front: Front::Plain,
            bounds: UNREAD,
        },
    ]
}

/// Those that do not read.
fn unread() -> Vec<Attack> {
    let pipelined = get("/_matrix/x").repeat(64);
    vec![
        Attack {
            name: "never-read",
            what: "a download of 10 GB, never read",
            script: large().reading(Reading::Nothing),
            front: Front::Plain,
            bounds: UNREAD,
        },
        Attack {
            name: "never-read-tls",
            what: "the same over TLS",
            script: Script::opening("").reading(Reading::Nothing),
            front: Front::TlsEstablished,
            bounds: Bounds {
                resident_kib: UNREAD.resident_kib + SESSION_KIB,
                held_percent_min: 50,
                ..UNREAD
            },
        },
        Attack {
            name: "pipelined-unread",
            what: "pipelined requests without end, answers never read",
            script: Script::opening("").refrain(pipelined, None).reading(Reading::Nothing),
            front: Front::Plain,
            // Who is served is alive: a crowd fills its send buffers in turn, which outlasts the attack.
            bounds: Bounds { statuses: UNREAD.statuses, held_percent_min: 90, ..FLOOD },
        },
        Attack {
            name: "pipelined-unread-few",
            what: "the same with so few that their send buffers are soon full",
            script: Script::opening("")
                .refrain(get("/_matrix/x").repeat(64), None)
                .reading(Reading::Nothing)
                .at_most(50),
            front: Front::Plain,
            bounds: Bounds { life: UNREAD.life, statuses: UNREAD.statuses, held_percent_min: 90, ..FLOOD },
        },
    ]
}

/// Those at the door.
fn handshakes() -> Vec<Attack> {
    let hello = client_hello();
    let life = Some(TLS_HANDSHAKE + SLACK);
    vec![
        Attack {
            name: "handshakes",
            what: "half a ClientHello, and nothing more",
            script: Script::opening(&hello[..hello.len() / 2]),
            front: Front::Tls,
            bounds: Bounds { life, resident_kib: HANDSHAKE_KIB, statuses: &["alert"], ..Bounds::SMALL },
        },
        Attack {
            name: "handshakes-unfinished",
            what: "a whole ClientHello, the server's flight, and nothing more",
            script: Script::opening(hello.clone()),
            front: Front::Tls,
            bounds: Bounds { life, resident_kib: HANDSHAKE_KIB, statuses: &["handshake"], ..Bounds::SMALL },
        },
        Attack {
            name: "handshake-burst",
            what: "up to 3 000 handshakes a second, left at the server's flight",
            script: Script {
                openings_per_second: 3000,
                ..Script::opening(hello).leaving(Leaving::AtFirstBytes)
            },
            front: Front::Tls,
            bounds: Bounds {
                statuses: &["handshake"],
                held_percent_min: 0,
                queues: HANDSHAKE,
                ..Bounds::SMALL
            },
        },
        Attack {
            name: "churn",
            what: "up to 5 000 connections a second, reset at once",
            script: Script { openings_per_second: 5000, ..Script::opening("G").leaving(Leaving::AtOnce) },
            front: Front::Plain,
            bounds: Bounds { held_percent_min: 0, ..Bounds::SMALL },
        },
        Attack {
            name: "one-address",
            what: "connections of one address, with a limit of 256 for each",
            script: Script {
                sources: Sources::One,
                ..Script::opening("GET /_matrix/x HTTP/1.1\r\nX-Slow: ")
            },
            front: Front::Plain,
            bounds: Bounds { life, statuses: &["408", "429"], ..ONE_ADDRESS },
        },
        Attack {
            name: "one-address-tls",
            what: "the same at the TLS port",
            script: Script { sources: Sources::One, ..Script::opening("\x16") },
            front: Front::Tls,
            bounds: Bounds { life, statuses: &["alert"], ..ONE_ADDRESS },
        },
    ]
}

/// Those that keep the processor busy.
fn floods() -> Vec<Attack> {
    vec![
        Attack {
            name: "pipelined",
            what: "tiny pipelined requests that the proxy answers itself, as fast as they are taken",
            script: Script::opening("").refrain(get("/").repeat(64), None),
            front: Front::Plain,
            bounds: Bounds { statuses: &["404"], ..FLOOD },
        },
        Attack {
            name: "pipelined-forwarded",
            what: "tiny pipelined requests that the origin answers, as fast as they are taken",
            script: Script::opening("").refrain(get("/_matrix/x").repeat(64), None),
            front: Front::Plain,
            bounds: Bounds { statuses: &["200"], ..FLOOD },
        },
        Attack {
            name: "empty-lines",
            what: "empty lines instead of requests, as fast as they are taken",
            script: Script::opening("").refrain("\r\n".repeat(4 * KIB), None),
            front: Front::Plain,
            bounds: Bounds { statuses: &["400", "408", "429", "431"], ..FLOOD },
        },
        Attack {
            name: "tiny-chunks",
            what: "chunks of one byte with an extension, as fast as they are taken",
            script: Script::opening(chunked("")).refrain("1;a=b\r\nx\r\n".repeat(400), None),
            front: Front::Plain,
            bounds: Bounds { statuses: &["400", "413"], ..FLOOD },
        },
        Attack {
            name: "chunk-extensions",
            what: "one chunk extension without end, as fast as it is taken",
            script: Script::opening(chunked("1;a=")).refrain("x".repeat(4 * KIB), None),
            front: Front::Plain,
            bounds: Bounds { statuses: &["400"], ..FLOOD },
        },
        Attack {
            name: "trailers",
            what: "a trailer section without end, as fast as it is taken",
            script: Script::opening(chunked("0\r\n")).refrain("X-A: b\r\n".repeat(512), None),
            front: Front::Plain,
            bounds: Bounds { statuses: &["400", "431"], ..FLOOD },
        },
    ]
}

/// Those with the origin's help.
fn upstream() -> Vec<Attack> {
    vec![Attack {
        name: "interim",
        what: "an origin that sends 1xx without end, asked again and again",
        script: Script::opening(get("/_matrix/interim")).refrain(get("/_matrix/interim"), Some(SECOND)),
        front: Front::Plain,
        bounds: Bounds { statuses: &["103"], ..FLOOD },
    }]
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n")
}

fn large() -> Script {
    Script::opening(get("/_matrix/large"))
}

fn chunked(begin: &str) -> String {
    format!("POST /_matrix/x HTTP/1.1\r\nHost: {HOST}\r\nTransfer-Encoding: chunked\r\n\r\n{begin}")
}

/// What a client of rustls says first.
fn client_hello() -> Vec<u8> {
    let mut hello = Vec::new();
    session().write_tls(&mut hello).expect("a vector takes everything");
    hello
}

fn session() -> ClientConnection {
    let mut config = Authority::shared().client_config_for(rustls::ALL_VERSIONS);
    config.resumption = Resumption::disabled();
    let name = ServerName::try_from(HOST).expect("a valid server name");
    ClientConnection::new(Arc::new(config), name).expect("a session")
}

/// Connections over TLS on which a large download is asked for; what is sent back stays unread. They are made until the
/// receiver is dropped.
pub(crate) fn established(to: SocketAddr, count: usize) -> Prepared {
    let (sender, receiver) = mpsc::sync_channel(HANDSHAKE_THREADS);
    for thread in 0..HANDSHAKE_THREADS {
        let sender = sender.clone();
        thread::spawn(move || {
            give_way();
            let mut indices = (thread..).step_by(HANDSHAKE_THREADS);
            while sender.send(establish(to, indices.next().unwrap_or(thread) % count)).is_ok() {}
        });
    }
    receiver
}

fn establish(to: SocketAddr, index: usize) -> std::io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_recv_buffer_size(SMALL_WINDOW_BYTES)?;
    socket.bind(&SocketAddr::new(source(Sources::Many, index), 0).into())?;
    socket.connect_timeout(&to.into(), PATIENCE)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (mut stream, mut session) = (TcpStream::from(socket), session());
    while session.is_handshaking() {
        session.complete_io(&mut stream)?;
    }
    std::io::Write::write_all(&mut session.writer(), get("/_matrix/large").as_bytes())?;
    while session.wants_write() {
        session.write_tls(&mut stream)?;
    }
    Ok(stream)
}

/// `[timeouts]` of the proxy under attack: shorter than the defaults, so that their working is seen in seconds.
pub(crate) const TIMEOUTS: &str = "tls_handshake = \"4s\"\nheader_read = \"4s\"\ndownstream_silence = \"4s\"\n\
     upstream_silence = \"5s\"\nlinger = \"2s\"\nkeep_alive_idle = \"10s\"\nupstream_idle = \"5s\"";

const TLS_HANDSHAKE: Duration = Duration::from_secs(4);
const HEADER_READ: Duration = Duration::from_secs(4);
const DOWNSTREAM_SILENCE: Duration = Duration::from_secs(4);

/// What may pass between a deadline and its being seen here, and before the time runs: buffers fill first.
const SLACK: Duration = Duration::from_secs(1);

/// For connections whose answer waits for them. In the proxy one buffer of a body on its way, 16 KiB, and what is busy of
/// an exchange. In the kernel a receive buffer towards the origin, 2 · 128 KiB, and what is queued to the client.
const UNREAD: Bounds = Bounds {
    resident_kib: 16 + BUSY_KIB,
    tcp_kib: 256 + QUEUED_KIB,
    life: Some(Duration::from_secs(DOWNSTREAM_SILENCE.as_secs() + SLACK.as_secs())),
    statuses: &["200", "other"],
    ..Bounds::SMALL
};

/// For connections that send what they can. In the proxy what came behind a head, in a buffer of 64 KiB (`head_bytes_max`
/// and 16 KiB more have to fit), and 16 KiB of an answer. In the kernel the receive buffer that Linux gives who is not read
/// from, 128 KiB and a segment, and what is queued to the client.
const FLOOD: Bounds = Bounds {
    resident_kib: 64 + 16 + BUSY_KIB,
    tcp_kib: 128 + 8 + QUEUED_KIB,
    held_percent_min: 0,
    ..Bounds::SMALL
};

/// What is busy of a connection with a request, in KiB: a head of one page, what it was parsed to, the tasks' state.
const BUSY_KIB: u64 = 28;

/// A TLS session in the making, in KiB: what has come of the client's flight, or the server's flight, and keys.
const HANDSHAKE_KIB: u64 = 12;

/// A TLS session with a record on its way, in KiB: 16 of its bytes sealed and not yet written, and the keys.
const SESSION_KIB: u64 = 16 + 16;

/// What is queued to a client that does not read, in KiB: what `TCP_NOTSENT_LOWAT` allows, 128, and the write that goes
/// beyond it, 16; pieces of some hundred bytes take 1.4 times their size.
const QUEUED_KIB: u64 = (128 + 16) * 7 / 5;

/// With a limit of 256 connections for an address: those, as many that are being told so, and the good clients'.
const ONE_ADDRESS: Bounds = Bounds { held_percent_min: 0, descriptors_max: 256 + 256 + 64, ..Bounds::SMALL };

/// Processor time of a handshake up to the server's flight, on a slow machine: new connections queue for it.
const HANDSHAKE: Duration = Duration::from_millis(1);

/// Handshakes made at a time.
const HANDSHAKE_THREADS: usize = 8;
