//! Names of upstreams are looked up again while the proxy runs. Needs the right to mount a resolv.conf of its own.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use ringfence_tests::place::Place;
use ringfence_tests::proxy::{ProxyBuilder, may_mount};
use ringfence_tests::{Origin, Proxy, message, wait_until};
use tempfile::TempDir;

const NAME: &str = "synapse.example.com";

/// A label of a search list, in whose domain every name has an address.
const STRANGERS: &[u8] = b"strangers";

/// Names are looked up after five seconds, and ten after a failure; then the machine may be busy.
const NEXT_LOOK: Duration = Duration::from_secs(40);

/// A name server that knows one name, at port 53 of an address of its own.
struct NameServer {
    state: Arc<State>,
    folder: TempDir,
    address: SocketAddr,
}

#[derive(Default)]
struct State {
    /// The addresses of the name; none: the server fails.
    addresses: Mutex<Vec<Ipv4Addr>>,
    /// The name has the address `::1` too.
    has_ipv6: AtomicBool,
    /// Questions are left without an answer.
    is_silent: AtomicBool,
    /// The same with those for the name itself; names that it begins have addresses.
    knows_longer_names_only: AtomicBool,
    unanswered: AtomicUsize,
    stopping: AtomicBool,
}

/// Addresses of 127.0.0.0/8 that no other test has.
fn own_address() -> Ipv4Addr {
    static LAST: AtomicUsize = AtomicUsize::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    let last = u8::try_from(LAST.fetch_add(1, Ordering::Relaxed)).expect("few addresses");
    Ipv4Addr::new(127, 64 + high % 128, low, last)
}

impl NameServer {
    /// `None` where there cannot be one.
    fn start(addresses: &[Ipv4Addr]) -> Option<NameServer> {
        let address = SocketAddr::from((own_address(), 53));
        let Some(socket) = UdpSocket::bind(address).ok().filter(|_| may_mount()) else {
            println!("not tested: this process may not mount, or not have port 53");
            return None;
        };
        let state = Arc::new(State { addresses: Mutex::new(addresses.to_vec()), ..State::default() });
        let folder = tempfile::tempdir().expect("a temporary folder");
        let text = format!("nameserver {}\noptions timeout:30 attempts:1\n", address.ip());
        std::fs::write(folder.path().join("resolv.conf"), text).expect("a file in the temporary folder");
        let shared = Arc::clone(&state);
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, peer)) = socket.recv_from(&mut query) {
                if shared.stopping.load(Ordering::Relaxed) {
                    return;
                }
                let is_longer = query[..length].windows(STRANGERS.len()).any(|label| label == STRANGERS);
                if shared.is_silent.load(Ordering::Relaxed)
                    || shared.knows_longer_names_only.load(Ordering::Relaxed) && !is_longer
                {
                    shared.unanswered.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let addresses = shared.addresses.lock().expect("no test panics with it").clone();
                let _ = socket.send_to(
                    &answer(&query[..length], &addresses, shared.has_ipv6.load(Ordering::Relaxed)),
                    peer,
                );
            }
        });
        Some(NameServer { state, folder, address })
    }

    fn says(&self, addresses: &[Ipv4Addr]) {
        *self.state.addresses.lock().expect("no test panics with it") = addresses.to_vec();
    }

    fn proxy(&self, port: u16) -> Proxy {
        self.builder(port).start()
    }

    fn builder(&self, port: u16) -> ProxyBuilder {
        Proxy::builder()
            .upstream(&format!("http://{NAME}:{port}"))
            .in_place_of("/etc/resolv.conf", &self.folder.path().join("resolv.conf"))
            .timeouts("upstream_idle = \"5min\"")
            .admin()
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.state.stopping.store(true, Ordering::Relaxed);
        // Wakes it.
        let waker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free loopback port");
        let _ = waker.send_to(b"", self.address);
    }
}

/// What is answered (RFC 1035 §4): records of the types A and AAAA that live for a second, and none of any other type.
fn answer(query: &[u8], addresses: &[Ipv4Addr], has_ipv6: bool) -> Vec<u8> {
    const SERVER_FAILURE: u8 = 2;
    // The question begins behind the header of 12 bytes; its name ends with an empty label, type and class follow.
    let end = 12 + query[12..].iter().position(|byte| *byte == 0).expect("a name") + 5;
    let is_known = query[12..end].windows(7).any(|label| label == b"synapse");
    let records: Vec<Vec<u8>> = match query[end - 4..end - 2] {
        [0, 1] if is_known => addresses.iter().map(|address| address.octets().to_vec()).collect(),
        [0, 28] if is_known && has_ipv6 => vec![Ipv6Addr::LOCALHOST.octets().to_vec()],
        _ => Vec::new(),
    };
    let code = if addresses.is_empty() { SERVER_FAILURE } else { 0 };
    let count = u8::try_from(records.len()).expect("few records");
    let mut answer =
        [&query[..2], &[0x81, 0x80 | code, 0, 1, 0, count, 0, 0, 0, 0], &query[12..end]].concat();
    for address in records {
        // The name of the question, its type, class IN, a second to live.
        let length = u8::try_from(address.len()).expect("an address");
        answer.extend(
            [&[0xc0, 12], &query[end - 4..end - 2], &[0, 1, 0, 0, 0, 1, 0, length], &address[..]].concat(),
        );
    }
    answer
}

fn origin(ip: Ipv4Addr, port: u16, says: &'static str) -> Origin {
    let place = Place::at(SocketAddr::new(IpAddr::V4(ip), port));
    Origin::each_at(place, move |peer| peer.serve(&|_| message::ok(says)))
}

#[test]
fn a_name_that_moves_is_followed_and_connections_that_work_are_kept() {
    let (here, there) = (own_address(), own_address());
    let Some(name_server) = NameServer::start(&[here]) else { return };
    let mut first = origin(here, 0, "first");
    let port = first.address().port();
    let second = origin(there, port, "second");
    let proxy = name_server.proxy(port);
    let mut client = proxy.client();
    assert_eq!(client.get("/_matrix/x").text(), "first");
    name_server.says(&[there]);
    let looks = || proxy.metric("ringfence_name_lookups_total{result=\"done\"}");
    wait_until("a look", NEXT_LOOK, || looks() > 0.0);
    // The origin waits for the next request no longer than it takes to the move.
    assert_eq!(client.get("/_matrix/x").text(), "first");
    wait_until("the move", NEXT_LOOK, || proxy.metric("ringfence_upstream_address_changes_total ") == 1.0);
    assert_eq!(client.get("/_matrix/x").text(), "first", "the pooled connection still works");
    assert_eq!((first.connections(), second.connections()), (1, 0));
    first.kill();
    assert_eq!(client.get("/_matrix/x").text(), "second");
    assert_eq!(proxy.metric("ringfence_config_generation "), 2.0);
    let log = proxy.stderr();
    assert!(log.contains("addresses have changed") && log.contains(&there.to_string()), "{log}");
}

#[test]
fn addresses_in_another_order_change_nothing() {
    let (here, there) = (own_address(), own_address());
    let Some(name_server) = NameServer::start(&[here, there]) else { return };
    let origin = origin(here, 0, "here");
    let proxy = name_server.proxy(origin.address().port());
    let looks = || proxy.metric("ringfence_name_lookups_total{result=\"done\"}");
    wait_until("a look", NEXT_LOOK, || looks() > 0.0);
    name_server.says(&[there, here]);
    let before = looks();
    // One may have been under way.
    wait_until("two more looks", NEXT_LOOK, || looks() >= before + 2.0);
    assert_eq!(proxy.metric("ringfence_upstream_address_changes_total "), 0.0);
    assert_eq!(proxy.metric("ringfence_config_generation "), 1.0);
    assert_eq!(proxy.client().get("/_matrix/x").text(), "here");
}

#[test]
fn a_name_of_the_hosts_file_is_not_looked_for_elsewhere() {
    let (here, there) = (own_address(), own_address());
    let Some(name_server) = NameServer::start(&[there]) else { return };
    name_server.state.has_ipv6.store(true, Ordering::Relaxed);
    let hosts = name_server.folder.path().join("hosts");
    std::fs::write(&hosts, format!("{here} {NAME}\n")).expect("a file in the temporary folder");
    let origin = origin(here, 0, "here");
    let proxy = name_server.builder(origin.address().port()).in_place_of("/etc/hosts", &hosts).start();
    wait_until("a look", NEXT_LOOK, || proxy.metric("ringfence_name_lookups_total{result=\"done\"}") > 0.0);
    assert_eq!(proxy.metric("ringfence_upstream_address_changes_total "), 0.0);
    assert_eq!(proxy.client().get("/_matrix/x").text(), "here");
}

#[test]
fn a_name_that_cannot_be_looked_up_keeps_its_addresses() {
    let here = own_address();
    let Some(name_server) = NameServer::start(&[here]) else { return };
    let origin = origin(here, 0, "here");
    let proxy = name_server.proxy(origin.address().port());
    name_server.says(&[]);
    wait_until("two failures", NEXT_LOOK, || {
        proxy.metric("ringfence_name_lookups_total{result=\"failed\"}") >= 2.0
    });
    assert_eq!(proxy.client().get("/_matrix/x").text(), "here");
    let log = proxy.stderr();
    assert_eq!(log.matches("cannot be looked up; its addresses stay").count(), 1, "{log}");
    name_server.says(&[here]);
    wait_until("the return", NEXT_LOOK, || proxy.stderr().contains("can be looked up again"));
    assert_eq!(proxy.metric("ringfence_config_generation "), 1.0);
}

#[test]
fn a_name_server_that_does_not_answer_holds_up_no_reload() {
    let here = own_address();
    let Some(name_server) = NameServer::start(&[here]) else { return };
    let origin = origin(here, 0, "here");
    let mut proxy = name_server.proxy(origin.address().port());
    name_server.state.is_silent.store(true, Ordering::Relaxed);
    let unanswered = || name_server.state.unanswered.load(Ordering::Relaxed);
    wait_until("a look", NEXT_LOOK, || unanswered() > 0);
    // With a name in it, the reload itself would wait for the name server.
    proxy.set_config(&proxy.config().replace(NAME, &here.to_string()));
    proxy.tell("reload");
    assert_eq!(proxy.client().get("/_matrix/x").text(), "here");
    assert!(proxy.stop().status.success());
}

#[test]
fn a_name_of_the_search_list_does_not_answer_for_one_without_an_answer() {
    let (here, there) = (own_address(), own_address());
    let Some(name_server) = NameServer::start(&[here]) else { return };
    let text = format!(
        "nameserver {}\nsearch strangers.example.com\noptions timeout:1 attempts:1\n",
        name_server.address.ip()
    );
    std::fs::write(name_server.folder.path().join("resolv.conf"), text)
        .expect("a file in the temporary folder");
    let origin = origin(here, 0, "here");
    let proxy = name_server.proxy(origin.address().port());
    name_server.state.knows_longer_names_only.store(true, Ordering::Relaxed);
    name_server.says(&[there]);
    wait_until("two failures", NEXT_LOOK, || {
        proxy.metric("ringfence_name_lookups_total{result=\"failed\"}") >= 2.0
    });
    assert_eq!(proxy.metric("ringfence_upstream_address_changes_total "), 0.0);
    assert_eq!(proxy.client().get("/_matrix/x").text(), "here");
}

#[test]
fn a_server_that_has_moved_is_asked_after_its_health_at_once() {
    let (here, there) = (own_address(), own_address());
    let Some(name_server) = NameServer::start(&[here]) else { return };
    let first = origin(here, 0, "first");
    let port = first.address().port();
    let second = origin(there, port, "second");
    let builder = name_server.builder(port).timeouts("health_interval = \"5min\"");
    let _proxy = builder.extra("health_path = \"/health\"").start();
    wait_until("the first question", NEXT_LOOK, || first.connections() == 1);
    name_server.says(&[there]);
    wait_until("the next question", NEXT_LOOK, || second.connections() == 1);
}
