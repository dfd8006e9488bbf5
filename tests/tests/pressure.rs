//! Peers that come in crowds, or stop half-way: what they cost, and that the others are served meanwhile.

use std::{
    net::{IpAddr, Ipv4Addr, Shutdown, TcpStream},
    os::unix::net::{SocketAddr, UnixListener},
    process::Command,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use ringfence_tests::{Client, MS, Origin, Proxy, SECOND, message, pause};
use rustix::process::Signal;

/// Unlike TCP, a Unix socket refuses connections while its backlog is full.
#[test]
fn a_burst_beyond_a_unix_socket_s_backlog_is_served() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("origin.sock");
    let socket = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    let address = SocketAddr::from_pathname(&path).unwrap();
    socket.bind(&socket2::SockAddr::unix(address.as_pathname().unwrap()).unwrap()).unwrap();
    socket.listen(2).unwrap();
    let listener: UnixListener = std::os::fd::OwnedFd::from(socket).into();
    thread::spawn(move || {
        for connection in listener.incoming().map_while(Result::ok) {
            // Slower than the burst comes.
            pause(5 * MS);
            thread::spawn(move || answer_once(connection));
        }
    });

    let proxy = Proxy::builder().upstream(&format!("unix:{}", path.display())).start();
    let clients: Vec<_> = (0..40)
        .map(|_| {
            let mut client = proxy.client();
            thread::spawn(move || client.get("/_matrix/x").status())
        })
        .collect();
    let statuses: Vec<u16> = clients.into_iter().map(|client| client.join().unwrap()).collect();
    assert_eq!(statuses, [200; 40]);
}

fn answer_once(mut connection: std::os::unix::net::UnixStream) {
    use std::io::{Read, Write};
    let mut head = Vec::new();
    let mut bytes = [0; 1024];
    while !head.ends_with(b"\r\n\r\n") {
        match connection.read(&mut bytes) {
            Ok(0) | Err(_) => return,
            Ok(read) => head.extend_from_slice(&bytes[..read]),
        }
    }
    let _ = connection.write_all(&message::ok("whole"));
}

/// The accept loop and the clients that are there take turns, however many more knock.
#[test]
fn who_is_connected_is_served_while_others_flood_the_listener() {
    let origin = Origin::answering("whole");
    let proxy = Proxy::to(&origin).limits("connections_per_address_max = 8").start();
    let mut good = Client::connect_from(IpAddr::V4(Ipv4Addr::new(127, 0, 9, 9)), proxy.address);
    assert_eq!(good.get("/_matrix/x").status(), 200);

    let (over, address) = (AtomicBool::new(false), proxy.address);
    let slowest = thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    if let Ok(connection) = TcpStream::connect(address) {
                        let _ = connection.shutdown(Shutdown::Both);
                    }
                }
            });
        }
        let begun = Instant::now();
        let mut slowest = Duration::ZERO;
        while begun.elapsed() < 2 * SECOND {
            let asked = Instant::now();
            assert_eq!(good.get("/_matrix/x").status(), 200);
            slowest = slowest.max(asked.elapsed());
        }
        over.store(true, Ordering::Relaxed);
        slowest
    });
    // It was seconds when the accept loop kept the kernel from being asked for anything else.
    assert!(slowest < SECOND, "a request took {slowest:?}");
}

/// Eight bytes of a record that never ends must not be worth a record's buffer.
#[test]
fn an_unfinished_tls_record_costs_a_small_buffer() {
    const CONNECTIONS: u16 = 300;
    let origin = Origin::answering("whole");
    let proxy = Proxy::to(&origin).tls().timeouts("tls_handshake = \"60s\"").start();
    let mut connections: Vec<TcpStream> =
        (0..CONNECTIONS).map(|_| TcpStream::connect(proxy.address).unwrap()).collect();
    pause(500 * MS);
    let before = proxy.resident_kib();
    for connection in &mut connections {
        std::io::Write::write_all(connection, b"\x16\x03\x01\x40\x00\0\0\0").unwrap();
    }
    pause(500 * MS);
    let each = proxy.resident_kib().saturating_sub(before) / u64::from(CONNECTIONS);
    assert!(each <= 12, "{each} KiB for each connection");
}

/// Standard output is a pipe that nobody empties: the log stalls, the end does not.
#[test]
fn a_stalled_access_log_does_not_keep_the_process_from_ending() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("log");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // Open at both ends, so that the proxy can open it; never read.
    let _held = std::fs::OpenOptions::new().read(true).write(true).open(&fifo).unwrap();
    let origin = Origin::answering("whole");
    let mut proxy = Proxy::to(&origin).server(&format!("access_log = \"{}\"", fifo.display())).start();
    let mut client = proxy.client();
    for _ in 0..1000 {
        assert_eq!(client.get("/_matrix/x").status(), 200);
    }
    proxy.signal(Signal::TERM);
    pause(500 * MS);
    // A second one does not wait for the log at all.
    proxy.signal(Signal::TERM);
    assert!(proxy.stopped_within(3 * SECOND).is_some(), "still there");
    assert!(proxy.stderr().contains("access log"), "{}", proxy.stderr());
}

#[test]
fn the_access_log_names_the_server_that_refused() {
    let mut origin = Origin::answering("whole");
    let proxy = Proxy::to(&origin).start();
    let address = origin.address();
    origin.kill();
    assert_eq!(proxy.client().get("/_matrix/x").status(), 502);
    let lines = proxy.access_log(1);
    assert!(lines[0].contains(&format!(" upstream={address} ")), "{lines:?}");
}
