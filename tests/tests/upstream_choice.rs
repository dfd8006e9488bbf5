//! Which server of an upstream is asked: in turn, by weight or load; those that fail are passed over for a while.

use std::net::TcpStream;
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use ringfence_tests::place::Place;
use ringfence_tests::{MS, Origin, PATIENCE, Proxy, SECOND, message, wait_until};
use socket2::{Domain, Socket, Type};

/// A metric of one server.
fn of_server(proxy: &Proxy, metric: &str, server: &str) -> f64 {
    let server = server.trim_start_matches("http://");
    proxy.metric(&format!("ringfence_upstream_{metric}{{upstream=\"0\",server=\"{server}\"}}"))
}

/// How often each of these answers, of so many requests over one connection.
fn answers(proxy: &Proxy, count: usize, bodies: &[&str]) -> Vec<usize> {
    let mut client = proxy.client();
    let answers: Vec<String> = (0..count).map(|_| client.get("/_matrix/x").text()).collect();
    bodies.iter().map(|body| answers.iter().filter(|answer| answer == body).count()).collect()
}

/// Listens, accepts nobody, and has no place left for who connects: a dial comes to nothing until it is given up.
fn swallowing() -> (Place, Socket, TcpStream) {
    let place = Place::v4();
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_reuse_address(true).and_then(|()| socket.set_reuse_port(true)).expect("options of a socket");
    socket.bind(&place.address().into()).and_then(|()| socket.listen(0)).expect("a reserved place");
    let filler = TcpStream::connect(place.address()).expect("there is one place");
    (place, socket, filler)
}

#[test]
fn weights_share_the_requests_out() {
    let (a, b) = (Origin::answering("a"), Origin::answering("b"));
    let proxy = Proxy::builder().weighted_upstream(&a.url(), 3).upstream(&b.url()).start();
    assert_eq!(answers(&proxy, 40, &["a", "b"]), [30, 10]);
}

#[test]
fn requests_go_to_the_server_that_has_fewest() {
    let (let_go, held) = channel::<()>();
    let held = Mutex::new(held);
    let busy = Origin::serving(move |_| {
        let _ = held.lock().expect("one request").recv_timeout(PATIENCE);
        message::ok("busy")
    });
    let idle = Origin::answering("idle");
    let proxy = Proxy::to(&busy).upstream(&idle.url()).extra("balance = \"least-connections\"").start();
    let mut waiting = proxy.client();
    waiting.send("GET /_matrix/x HTTP/1.1\r\nHost: h\r\n\r\n");
    let _ = busy.connection(1);
    assert_eq!(answers(&proxy, 6, &["idle"]), [6]);
    let_go.send(()).expect("it waits");
    assert_eq!(waiting.response().text(), "busy");
}

#[test]
fn a_server_that_is_down_is_tried_less_and_less_often() {
    let (gone, up) = (Place::v4(), Origin::answering("up"));
    let url = format!("http://{}", gone.address());
    let proxy = Proxy::builder().upstream(&url).upstream(&up.url()).admin().start();
    let mut client = proxy.client();
    let mut tried = Vec::new();
    while tried.len() < 3 {
        assert_eq!(client.get("/_matrix/x").text(), "up", "nobody notices");
        // Counted once a tick of the worker.
        if of_server(&proxy, "dials_failed_total", &url) > tried.len() as f64 {
            tried.push(Instant::now());
            wait_until("its ejection", PATIENCE, || of_server(&proxy, "up", &url) == 0.0);
        }
        ringfence_tests::pause(20 * MS);
    }
    let (first, second) = (tried[1] - tried[0], tried[2] - tried[1]);
    assert!(second > first + first / 2, "{first:?}, then {second:?}");
    assert_eq!(of_server(&proxy, "ejections_total", &url), 3.0);
}

#[test]
fn one_request_at_a_time_waits_for_a_server_that_may_be_back() {
    let ((place, _listening, _filler), up) = (swallowing(), Origin::answering("up"));
    let url = format!("http://{}", place.address());
    let timeouts = "upstream_connect = \"700ms\"";
    let proxy = Proxy::builder().upstream(&url).upstream(&up.url()).timeouts(timeouts).admin().start();
    let dials_failed = || of_server(&proxy, "dials_failed_total", &url);
    assert_eq!(answers(&proxy, 2, &["up"]), [2]);
    wait_until("the first dial", PATIENCE, || dials_failed() == 1.0);
    // Eight clients keep asking; one of them meets the trial.
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let mut client = proxy.client();
                while dials_failed() < 2.0 {
                    assert_eq!(client.get("/_matrix/x").text(), "up");
                }
            });
        }
    });
    // Counts are told once a tick.
    ringfence_tests::pause(500 * MS);
    assert_eq!(dials_failed(), 2.0, "only one has tried");
}

#[test]
fn a_server_that_comes_back_takes_its_turns_again() {
    let (mut a, b) = (Origin::answering("a"), Origin::answering("b"));
    let proxy = Proxy::to(&a).upstream(&b.url()).start();
    a.kill();
    assert_eq!(answers(&proxy, 6, &["b"]), [6]);
    a.resume();
    wait_until("its return", PATIENCE, || answers(&proxy, 2, &["a"]) == [1]);
    assert_eq!(answers(&proxy, 10, &["a", "b"]), [5, 5]);
}

#[test]
fn a_server_that_leaves_three_requests_unanswered_is_passed_over() {
    let silent = Origin::each(|peer| drop(peer.request_head()));
    let up = Origin::answering("up");
    let proxy = Proxy::to(&silent).upstream(&up.url()).admin().start();
    let mut client = proxy.client();
    let statuses: Vec<u16> = (0..20).map(|_| client.get("/_matrix/x").status()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 502).count(), 3, "{statuses:?}");
    assert!(statuses[6..].iter().all(|status| *status == 200), "{statuses:?}");
    wait_until("its ejection", PATIENCE, || of_server(&proxy, "ejections_total", &silent.url()) == 1.0);
    assert_eq!(of_server(&proxy, "dials_failed_total", &silent.url()), 0.0);
}

#[test]
fn a_server_that_is_silent_three_times_is_passed_over() {
    let silent = Origin::each(|peer| {
        peer.request_head();
        peer.end();
    });
    let up = Origin::answering("up");
    let timeouts = "upstream_first_byte = \"200ms\"";
    let proxy = Proxy::to(&silent).upstream(&up.url()).timeouts(timeouts).start();
    let mut client = proxy.client();
    let statuses: Vec<u16> = (0..14).map(|_| client.get("/_matrix/x").status()).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 504).count(), 3, "{statuses:?}");
}

#[test]
fn an_answer_that_tells_an_error_is_an_answer() {
    let failing = Origin::serving(|_| message::response("502 Bad Gateway", "", "remote"));
    let up = Origin::answering("up");
    let proxy = Proxy::to(&failing).upstream(&up.url()).start();
    assert_eq!(answers(&proxy, 20, &["remote", "up"]), [10, 10]);
}

#[test]
fn a_lone_server_is_asked_however_often_it_fails() {
    let origin = Origin::each(|peer| drop(peer.request_head()));
    let proxy = Proxy::to(&origin).start();
    let mut client = proxy.client();
    for count in 1..=8 {
        assert_eq!(client.get("/_matrix/x").status(), 502);
        assert_eq!(origin.connections(), count);
    }
}

/// An origin that counts the requests that it has, and answers those to `/_matrix/hold` when it is let.
struct Desk {
    origin: Origin,
    let_go: Sender<()>,
    state: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    targets: Vec<String>,
    present: usize,
    present_most: usize,
}

impl Desk {
    fn open(takes: Duration) -> Desk {
        let (let_go, held) = channel::<()>();
        let (held, state) = (Mutex::new(held), Arc::<Mutex<Seen>>::default());
        let seen = state.clone();
        let origin = Origin::serving(move |request| {
            {
                let mut seen = seen.lock().expect("no panic");
                seen.targets.push(request.head.target().to_owned());
                seen.present += 1;
                seen.present_most = seen.present_most.max(seen.present);
            }
            match request.head.target() {
                "/_matrix/hold" => drop(held.lock().expect("no panic").recv_timeout(PATIENCE)),
                _ => ringfence_tests::pause(takes),
            }
            seen.lock().expect("no panic").present -= 1;
            message::ok(request.head.target())
        });
        Desk { origin, let_go, state }
    }

    /// The request that keeps the one place.
    fn occupied(proxy: &Proxy, desk: &Desk) -> ringfence_tests::Client {
        let mut client = proxy.client();
        ask(&mut client, "/_matrix/hold");
        wait_until("the first request", PATIENCE, || desk.targets().len() == 1);
        client
    }

    fn targets(&self) -> Vec<String> {
        self.state.lock().expect("no panic").targets.clone()
    }
}

fn ask(client: &mut ringfence_tests::Client, target: &str) {
    client.send(format!("GET {target} HTTP/1.1\r\nHost: h\r\n\r\n"));
}

fn wait_for_queue(proxy: &Proxy, waiting: u32) {
    let queued = || proxy.metric("ringfence_upstream_requests_queued{upstream=\"0\"}");
    wait_until("the queue", PATIENCE, || queued() == f64::from(waiting));
}

#[test]
fn no_server_has_more_requests_than_its_cap_over_all_workers() {
    let desk = Desk::open(10 * MS);
    let proxy = Proxy::to(&desk.origin).workers(2).extra("requests_max = 3").admin().start();
    thread::scope(|scope| {
        for _ in 0..50 {
            scope.spawn(|| {
                let mut client = proxy.client();
                for _ in 0..4 {
                    assert_eq!(client.get("/_matrix/x").status(), 200);
                }
            });
        }
    });
    let most = desk.state.lock().expect("no panic").present_most;
    assert_eq!(most, 3, "requests at a time");
    assert!(proxy.metric("ringfence_queued_total") > 0.0);
    wait_for_queue(&proxy, 0);
}

#[test]
fn who_came_first_is_served_first() {
    let desk = Desk::open(Duration::ZERO);
    let proxy = Proxy::to(&desk.origin).extra("requests_max = 1").admin().start();
    let mut holding = Desk::occupied(&proxy, &desk);
    let mut waiting = Vec::new();
    for count in 1..=4 {
        let mut client = proxy.client();
        ask(&mut client, &format!("/_matrix/{count}"));
        wait_for_queue(&proxy, count);
        waiting.push(client);
    }
    desk.let_go.send(()).expect("it waits");
    assert_eq!(holding.response().text(), "/_matrix/hold");
    waiting.iter_mut().for_each(|client| assert_eq!(client.response().status(), 200));
    assert_eq!(desk.targets()[1..], ["/_matrix/1", "/_matrix/2", "/_matrix/3", "/_matrix/4"]);
}

#[test]
fn a_request_that_is_sent_again_keeps_its_place() {
    let (let_go, held) = channel::<()>();
    let held = Mutex::new(held);
    let origin = Origin::each(move |peer| {
        if peer.index > 0 {
            return peer.serve(&|request| message::ok(request.head.target()));
        }
        peer.answer(message::ok("first"));
        peer.request_head();
        let _ = held.lock().expect("one request").recv_timeout(PATIENCE);
    });
    let builder = Proxy::to(&origin).extra("requests_max = 1").limits("queue_max = 1");
    let proxy = builder.admin().start();
    let mut client = proxy.client();
    assert_eq!(client.get("/_matrix/first").text(), "first");
    ask(&mut client, "/_matrix/again");
    wait_until("the second request", PATIENCE, || origin.request_lines().len() == 2);
    let mut waiting = proxy.client();
    ask(&mut waiting, "/_matrix/waits");
    wait_for_queue(&proxy, 1);
    let_go.send(()).expect("it waits");
    assert_eq!(client.response().text(), "/_matrix/again");
    assert_eq!(waiting.response().text(), "/_matrix/waits");
    let lines = origin.request_lines().concat();
    let place = |target: &str| lines.rfind(target).expect("it was asked for");
    assert!(place("/again") < place("/waits"), "{lines}");
}

#[test]
fn beyond_the_queue_is_a_503_that_says_when_to_come_again() {
    let desk = Desk::open(Duration::ZERO);
    let builder = Proxy::to(&desk.origin).extra("requests_max = 1").limits("queue_max = 1");
    let proxy = builder.admin().start();
    let mut holding = Desk::occupied(&proxy, &desk);
    let mut waiting = proxy.client();
    ask(&mut waiting, "/_matrix/waits");
    wait_for_queue(&proxy, 1);
    let mut client = proxy.client();
    let refused = client.get("/_matrix/x");
    assert_eq!(refused.status(), 503);
    assert!(refused.text().contains("\"errcode\":\"M_UNKNOWN\""), "{}", refused.text());
    assert!(refused.head.value("retry-after").is_some_and(|seconds| seconds.parse::<u32>().is_ok()));
    assert!(refused.head.lists("access-control-expose-headers", "Retry-After"));
    assert_eq!(refused.head.value("access-control-allow-origin"), Some("*"));
    assert_eq!(proxy.metric("ringfence_refusals_total{reason=\"Busy\"}"), 1.0);
    let status = proxy.admin("/status").expect("the admin socket answers");
    let status: serde_json::Value = serde_json::from_str(&status).expect("JSON");
    let upstream = &status["upstreams"][0];
    assert_eq!((&upstream["requests_max"], &upstream["queued"]), (&1.into(), &1.into()), "{upstream}");
    assert_eq!(status["queued"], 1, "one had to wait, and one was not let in");
    desk.let_go.send(()).expect("it waits");
    assert_eq!(holding.response().status(), 200);
    assert_eq!(waiting.response().text(), "/_matrix/waits");
    assert_eq!(client.get("/_matrix/x").status(), 200, "over the same connection");
}

#[test]
fn who_waits_for_too_long_is_told_503() {
    let desk = Desk::open(Duration::ZERO);
    let builder = Proxy::to(&desk.origin).extra("requests_max = 1").timeouts("queue = \"200ms\"");
    let proxy = builder.admin().start();
    let mut holding = Desk::occupied(&proxy, &desk);
    assert_eq!(proxy.client().get("/_matrix/x").status(), 503);
    assert!(proxy.access_log(1)[0].contains(" status=503 "), "{:?}", proxy.access_log(1));
    wait_for_queue(&proxy, 0);
    desk.let_go.send(()).expect("it waits");
    assert_eq!(holding.response().status(), 200);
    assert_eq!(desk.targets(), ["/_matrix/hold"], "the homeserver was not asked");
}

#[test]
fn a_client_that_leaves_gives_its_place_back() {
    let desk = Desk::open(Duration::ZERO);
    let builder = Proxy::to(&desk.origin).extra("requests_max = 1").limits("queue_max = 1");
    let proxy = builder.admin().start();
    let mut holding = Desk::occupied(&proxy, &desk);
    for _ in 0..3 {
        let mut leaving = proxy.client();
        ask(&mut leaving, "/_matrix/left");
        wait_for_queue(&proxy, 1);
        drop(leaving);
        wait_for_queue(&proxy, 0);
    }
    let mut waiting = proxy.client();
    ask(&mut waiting, "/_matrix/waits");
    wait_for_queue(&proxy, 1);
    desk.let_go.send(()).expect("it waits");
    assert_eq!(holding.response().status(), 200);
    assert_eq!(waiting.response().status(), 200);
    // One that leaves while the homeserver has its request gives that place back.
    let mut leaving = proxy.client();
    ask(&mut leaving, "/_matrix/hold");
    wait_until("its request", PATIENCE, || desk.targets().len() == 3);
    drop(leaving);
    assert_eq!(proxy.client().get("/_matrix/after").status(), 200);
    assert!(!desk.targets().contains(&"/_matrix/left".to_owned()));
    desk.let_go.send(()).expect("its script waits");
}

#[test]
fn a_reload_that_raises_the_cap_lets_waiters_go_on() {
    let desk = Desk::open(Duration::ZERO);
    let proxy = Proxy::to(&desk.origin).extra("requests_max = 1").admin().start();
    let mut holding = Desk::occupied(&proxy, &desk);
    let mut waiting = proxy.client();
    ask(&mut waiting, "/_matrix/waits");
    wait_for_queue(&proxy, 1);
    proxy.set_config(&proxy.config().replace("requests_max = 1", "requests_max = 2"));
    proxy.tell("reload");
    assert_eq!(waiting.response().text(), "/_matrix/waits");
    // The slots are the same ones: with one more held there is no room.
    let mut second = proxy.client();
    ask(&mut second, "/_matrix/hold");
    wait_until("the second request", PATIENCE, || desk.targets().len() == 3);
    let mut third = proxy.client();
    ask(&mut third, "/_matrix/third");
    wait_for_queue(&proxy, 1);
    proxy.set_config(&proxy.config().replace("requests_max = 2", "requests_max = 0"));
    proxy.tell("reload");
    assert_eq!(third.response().text(), "/_matrix/third");
    (0..2).for_each(|_| desk.let_go.send(()).expect("it waits"));
    assert_eq!((holding.response().status(), second.response().status()), (200, 200));
}

#[test]
fn who_waits_when_the_time_for_draining_is_over_is_told_503() {
    let desk = Desk::open(Duration::ZERO);
    let builder = Proxy::to(&desk.origin).extra("requests_max = 1").timeouts("drain = \"300ms\"");
    let mut proxy = builder.admin().start();
    let mut holding = Desk::occupied(&proxy, &desk);
    let mut waiting = proxy.client();
    ask(&mut waiting, "/_matrix/waits");
    wait_for_queue(&proxy, 1);
    proxy.signal(rustix::process::Signal::TERM);
    assert_eq!((holding.response().status(), waiting.response().status()), (503, 503));
    assert!(proxy.stopped_within(5 * SECOND).expect("it ends").status.success());
    assert_eq!(desk.targets(), ["/_matrix/hold"]);
    desk.let_go.send(()).expect("its script waits");
}

#[test]
fn an_upstream_without_an_end_is_refused() {
    let urls: Vec<String> = (0..65).map(|port| format!("\"http://127.0.0.1:{}\"", 1000 + port)).collect();
    let file = |upstream: &str| {
        let listener = "[[listener]]\naddress = \"127.0.0.1:1\"\ntls = false\nrole = \"client\"\n";
        format!("{listener}[[homeserver]]\nserver_name = \"example.com\"\nupstream = {upstream}\n")
    };
    let refused = |upstream: &str, why: &str| {
        let output = ringfence_tests::proxy::check(&file(upstream));
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && told.contains(why), "{told}");
    };
    refused(&format!("[{}]", urls.join(", ")), "`upstream` has 65 servers; it may have 64");
    refused("{ url = \"http://127.0.0.1:1\", weight = 101 }", "`weight` is 101; it may be from 1 to 100");
    refused("{ weight = 1 }", "[[homeserver.upstream]] has no `url`");
    refused("[{ url = \"http://127.0.0.1:1\", wieght = 1 }]", "the nearest known one is `weight`");
    refused("5", "`upstream` is the number 5");
    assert!(ringfence_tests::proxy::check(&file(&format!("[{}]", urls[1..].join(", ")))).status.success());
}
