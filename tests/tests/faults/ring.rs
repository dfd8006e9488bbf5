//! Rings that are too small for what happens, that the kernel makes for nobody, or that fail while they are used.

use std::io::{ErrorKind, Read};

use ringfence_tests::hardship::without_memory_for_rings;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::stopped::stopped_for;
use super::*;

/// Flags of `io_uring_setup`, and since which kernel they are known.
const COOP_TASKRUN: i64 = 1 << 8; // 5.19
const SINGLE_ISSUER: i64 = 1 << 12; // 6.0
const DEFER_TASKRUN: i64 = 1 << 13; // 6.1

/// What kernels refuse; the first refuse nothing that is asked for.
const KERNELS: &[(&str, i64)] = &[
    ("6.1 and later", 0),
    ("before 6.1", DEFER_TASKRUN),
    ("before 5.19", DEFER_TASKRUN | SINGLE_ISSUER | COOP_TASKRUN),
];

const EINTR: i64 = 4;
const EAGAIN: i64 = 11;
const ENOMEM: u32 = 12;
const EBUSY: i64 = 16;
const EMFILE: u32 = 24;

/// Both ends of tunnels through the proxy: two waits each, which all become ready when both ends send.
struct Tunnels {
    clients: Vec<TcpStream>,
    origins: Vec<TcpStream>,
}

const UPGRADE: &[u8] =
    b"GET /_matrix/x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
const UPGRADED: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";

impl Tunnels {
    /// Opens `count` of them without a thread for each, some at a time, so that no backlog fills.
    fn open(count: usize, origin: &Place, start: impl FnOnce() -> Proxy) -> (Tunnels, Proxy) {
        let (listener, proxy) = (origin.listen(), start());
        let (mut clients, mut origins) = (Vec::with_capacity(count), Vec::with_capacity(count));
        while clients.len() < count {
            let some = AT_A_TIME.min(count - clients.len());
            let begun = clients.len();
            clients.extend((0..some).map(|_| TcpStream::connect(proxy.address).expect("a connection")));
            clients[begun..].iter_mut().for_each(|client| client.write_all(UPGRADE).expect("a request"));
            for _ in 0..some {
                let (mut peer, _) = listener.accept().expect("the proxy connects");
                read_head(&mut peer);
                peer.write_all(UPGRADED).expect("an answer");
                origins.push(peer);
            }
            clients[begun..].iter_mut().for_each(read_head);
        }
        (Tunnels { clients, origins }, proxy)
    }

    /// Sends a byte in at every end. Where they come out differs: the origin does not know which client is whose.
    fn send_everywhere(&mut self) {
        self.clients.iter_mut().chain(&mut self.origins).for_each(|end| end.write_all(b"!").expect("a byte"));
    }

    /// How many ends get theirs.
    fn received(&mut self) -> usize {
        let gets_a_byte = |end: &&mut TcpStream| {
            end.set_read_timeout(Some(5 * SECOND)).expect("a timeout can be set");
            matches!((&**end).read(&mut [0; 1]), Ok(1))
        };
        // The first that waits in vain is the last one to be waited for.
        self.clients.iter_mut().chain(&mut self.origins).take_while(gets_a_byte).count()
    }
}

/// Connections begun at one time, in number: below the listening backlogs.
const AT_A_TIME: usize = 100;

fn read_head(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(10 * SECOND)).expect("a timeout can be set");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0; 256];
        match stream.read(&mut byte) {
            Ok(0) => panic!("closed instead of a head"),
            Ok(read) => head.extend_from_slice(&byte[..read]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => panic!("no head: {error}"),
        }
    }
}

/// A proxy that loads the library, with room for many connections of one address.
fn start(preload: &Preload, upstream: SocketAddr) -> Proxy {
    let builder = Proxy::builder().upstream(&format!("http://{upstream}"));
    let builder = builder.limits("connections_per_address_max = 20000").timeouts("drain = \"1s\"");
    let proxy = preload.for_proxy(builder.env("RINGFENCE_DRIVER", "uring")).start();
    preload.assert_loaded();
    assert!(preload.read(Word::Rings) > 0, "no ring is made");
    proxy
}

#[test]
fn queues_that_overflow_in_every_turn_lose_nothing() {
    for &(kernel, refused) in KERNELS {
        let (preload, origin) = (Preload::new(), Place::v4());
        preload.set(Word::RingFlagsRefused, refused);
        preload.set(Word::RingEntries, 8);
        preload.set(Word::RingCompletions, 16);
        let (mut tunnels, proxy) = Tunnels::open(200, &origin, || start(&preload, origin.address()));
        for round in 0..3 {
            stopped_for(&proxy, 20 * MS, || tunnels.send_everywhere());
            assert_eq!(tunnels.received(), 400, "kernels {kernel}, round {round}");
        }
        // With deferred work the kernel completes no more at a time than fits.
        let overflows = preload.read(Word::Overflows);
        assert!(overflows > 0 || refused == 0, "kernels {kernel}: 400 completions fit a queue of 16");
        let before = processor_time(&proxy);
        pause(SECOND);
        let spent = processor_time(&proxy) - before;
        assert!(spent < 200 * MS, "kernels {kernel}: {spent:?} of processor time in a second of rest");
    }
}

/// The ring as large as it is: 8400 tunnels are 16,800 waits, a queue has room for 16,384 completions, and for 4096
/// submissions.
const TUNNELS: usize = 8400;

#[test]
fn more_waits_than_a_ring_has_room_for_complete_in_one_turn() {
    let overflows = fill_a_whole_ring(0);
    println!("{overflows} overflows: with deferred work the kernel completes a few at a time");
}

#[test]
fn more_waits_than_a_ring_has_room_for_complete_in_one_turn_of_an_older_kernel() {
    let overflows = fill_a_whole_ring(DEFER_TASKRUN);
    assert!(overflows > 0, "16,800 completions fit the queue");
}

/// Returns how often completions found no room.
fn fill_a_whole_ring(refused: i64) -> i64 {
    let limit = getrlimit(Resource::Nofile);
    let enough = u64::try_from(2 * TUNNELS + 500).expect("a small number");
    assert!(limit.maximum.is_none_or(|maximum| maximum >= enough), "{limit:?}: too few descriptors");
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .expect("the soft limit can be the hard one");
    let (preload, origin) = (Preload::new(), Place::v4());
    preload.set(Word::RingFlagsRefused, refused);
    let (mut tunnels, proxy) = Tunnels::open(TUNNELS, &origin, || start(&preload, origin.address()));
    stopped_for(&proxy, 20 * MS, || tunnels.send_everywhere());
    assert_eq!(tunnels.received(), 2 * TUNNELS, "ends that got their byte");
    let overflows = preload.read(Word::Overflows);
    // All of them end in one turn as well.
    drop(tunnels);
    wait_until("the end of all tunnels", 10 * SECOND, || proxy.descriptors() < 100);
    overflows
}

#[test]
fn kernels_that_know_fewer_flags_have_rings_too() {
    for &(kernel, refused) in KERNELS {
        let preload = Preload::new();
        preload.set(Word::RingFlagsRefused, refused);
        let origin = Origin::serving(|request| message::ok(&request.body));
        let builder = Proxy::to(&origin).tls().workers(2);
        let mut proxy = preload.for_proxy(builder).start();
        preload.assert_loaded();
        let mut client = proxy.tls_client();
        for _ in 0..3 {
            let head = format!("POST /_matrix/x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: {MIB}\r\n\r\n");
            client.send(head);
            client.send(pattern(MIB));
            assert!(client.response().body == pattern(MIB), "kernels {kernel}: the echo differs");
        }
        assert!(proxy.stop().status.success(), "kernels {kernel}");
        assert!(preload.read(Word::Rings) >= 2, "kernels {kernel}: no ring for each worker");
        assert!(!proxy.stderr().contains("epoll"), "kernels {kernel}: {}", proxy.stderr());
    }
}

/// Interrupted, short of memory, or told to empty the completion queue first: the call is made again.
#[test]
fn a_ring_that_fails_now_and_then_serves_everybody() {
    for (what, errno) in [("EINTR", EINTR), ("EAGAIN", EAGAIN), ("EBUSY", EBUSY), ("ENOMEM", ENOMEM.into())] {
        let preload = Preload::new();
        let origin = Origin::serving(|request| message::ok(&request.body));
        let mut proxy = preload.for_proxy(Proxy::to(&origin).env("RINGFENCE_DRIVER", "uring")).start();
        preload.assert_loaded();
        preload.set(Word::EnterErrno, errno);
        preload.set(Word::EnterFailsEvery, 3);
        for _ in 0..20 {
            let mut client = proxy.client();
            client.send(format!("POST /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: {KIB}\r\n\r\n"));
            client.send(pattern(KIB));
            assert!(client.response().body == pattern(KIB), "{what}: the echo differs");
        }
        let before = processor_time(&proxy);
        pause(SECOND);
        let spent = processor_time(&proxy) - before;
        assert!(spent < 300 * MS, "{what}: {spent:?} of processor time in a second of rest");
        assert!(preload.read(Word::EntersFailed) > 20, "{what}: hardly a call failed");
        let stopped = proxy.stop();
        assert!(stopped.status.success() && stopped.took < 2 * SECOND, "{what}: {stopped:?}");
    }
}

/// `io_uring_setup` fails for want of memory or descriptors, or what it made cannot be mapped.
#[test]
fn a_ring_that_there_is_no_memory_for_is_epoll_or_told() {
    type Start<'a> = Box<dyn FnOnce() -> Option<Proxy> + Send + 'a>;
    type Hardship = dyn Fn(Start<'_>) -> Option<Proxy>;
    let setup = |errno| move |start: Start<'_>| without_calls(&[IO_URING_SETUP], errno, start);
    let map = |start: Start<'_>| without_memory_for_rings(start);
    let cases: [(&str, &Hardship); 3] =
        [("no memory", &setup(ENOMEM)), ("no descriptor", &setup(EMFILE)), ("nothing to map", &map)];
    for (what, hardship) in cases {
        for forced in [false, true] {
            let origin = Origin::answering("in");
            let mut builder = Proxy::to(&origin).workers(2);
            if forced {
                builder = builder.env("RINGFENCE_DRIVER", "uring");
            }
            let started = hardship(Box::new(|| {
                std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| builder.start())).ok()
            }));
            // Ending at once with an error is an answer as well: the harness then panics in `start`.
            let Some(mut proxy) = started else {
                assert!(forced, "{what}: it does not start although epoll would do");
                continue;
            };
            assert!(is_served(&proxy), "{what}: it neither serves nor ends:\n{}", proxy.stderr());
            assert!(proxy.stop().status.success());
            let log = proxy.stderr();
            let told = log.lines().filter(|line| line.contains("epoll")).count();
            assert!(forced || told == 1, "{what}: {told} lines say that it is epoll:\n{log}");
        }
    }
}
