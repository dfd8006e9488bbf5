//! A process that did not run for a while (SIGSTOP, a suspended machine, a container that was frozen): what its peers
//! did in time counts, whatever deadline passed meanwhile; deadlines are kept all the same; nothing spins.

use std::fs;
use std::sync::{Arc, Barrier};

use ringfence_tests::Authority;
use rustls::ClientConnection;

use super::*;

/// Lets the proxy not run while `meanwhile` does, and for `time` after it.
pub(super) fn stopped_for<R>(proxy: &Proxy, time: Duration, meanwhile: impl FnOnce() -> R) -> R {
    proxy.signal(Signal::STOP);
    wait_until("the stop", SECOND, || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", proxy.pid())).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|behind| behind.starts_with(" T"))
    });
    let done = meanwhile();
    pause(time);
    proxy.signal(Signal::CONT);
    done
}

/// Connections of each kind: more than a ring hands out in one turn (20 with deferred task work).
const MANY: usize = 40;

/// Every deadline that counts here: shorter than the stops below, and longer than what is set up before them takes.
const TIMEOUTS: &str = "header_read = \"3s\"\nkeep_alive_idle = \"3s\"\nupstream_first_byte = \"3s\"\n\
     downstream_silence = \"3s\"\nupstream_silence = \"3s\"\ntunnel_idle = \"3s\"\ntls_handshake = \"3s\"";

/// How long the proxy is stopped: longer than the deadlines.
const STOP: Duration = Duration::from_millis(3300);

fn with_each_driver(test: impl Fn(&str) + Sync) {
    std::thread::scope(|scope| ["uring", "epoll"].map(|driver| drop(scope.spawn(|| test(driver)))));
}

fn each<R>(count: usize, client: impl Fn() -> R) -> Vec<R> {
    (0..count).map(|_| client()).collect()
}

#[test]
fn what_clients_sent_in_time_counts_after_a_stop() {
    with_each_driver(|driver| {
        let origin = Origin::serving(|request| message::ok(&request.body));
        let proxy = Proxy::to(&origin).env("RINGFENCE_DRIVER", driver).timeouts(TIMEOUTS).start();
        let mut silent = each(MANY, || proxy.client());
        let mut half = each(MANY, || proxy.client());
        let mut idle = each(MANY, || proxy.client());
        let mut uploading = each(MANY, || proxy.client());
        idle.iter_mut().for_each(|client| assert_eq!(client.get("/_matrix/x").status(), 200));
        let upload = "POST /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\nhalf";
        uploading.iter_mut().for_each(|client| client.send(upload));
        half.iter_mut().for_each(|client| client.send(&GET[..20]));
        pause(100 * MS);

        stopped_for(&proxy, STOP, || {
            half.iter_mut().for_each(|client| client.send(&GET[20..]));
            uploading.iter_mut().for_each(|client| client.send("ha"));
            idle.iter_mut().chain(&mut silent).for_each(|client| client.send(GET));
        });
        // Time in which we did not run is nobody's silence: who uploads has all its patience left.
        pause(300 * MS);
        uploading.iter_mut().for_each(|client| drop(client.try_send("lf")));
        let kinds = [("new", silent), ("half a head", half), ("idle", idle), ("uploading", uploading)];
        for (what, clients) in kinds {
            let outcomes = clients.into_iter().map(|mut client| {
                let response = client.try_response_to("GET");
                response.map_or(0, |response| response.status())
            });
            let lost: Vec<u16> = outcomes.filter(|&status| status != 200).collect();
            assert_eq!(
                lost,
                [0; 0],
                "{driver}, {what}: {} of {MANY} are not served (0: no answer)",
                lost.len()
            );
        }
    });
}

#[test]
fn what_the_origin_sent_in_time_counts_after_a_stop() {
    with_each_driver(|driver| {
        // One connection a request; it answers when the test says so.
        let (go, gate) = (Arc::new(Barrier::new(2 * MANY + 1)), Arc::new(Barrier::new(2 * MANY + 1)));
        let (going, gated) = (go.clone(), gate.clone());
        let origin = Origin::each(move |peer| {
            let Some(head) = peer.request_head() else { return };
            if head.target() == "/_matrix/half" {
                peer.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf");
            }
            going.wait();
            peer.send(if head.target() == "/_matrix/half" {
                b"half".to_vec()
            } else {
                message::ok("halfhalf")
            });
            gated.wait();
            peer.end();
        });
        let proxy = Proxy::to(&origin).env("RINGFENCE_DRIVER", driver).timeouts(TIMEOUTS).start();
        let mut clients = each(2 * MANY, || proxy.client());
        for (index, client) in clients.iter_mut().enumerate() {
            client.send(if index % 2 == 0 { GET.to_owned() } else { GET.replace("/x", "/half") });
        }
        wait_until("all requests", 5 * SECOND, || {
            origin.received().iter().filter(|bytes| bytes.contains("\r\n\r\n")).count() == 2 * MANY
        });
        stopped_for(&proxy, STOP, || {
            go.wait();
            gate.wait();
        });
        let whole = clients.iter_mut().filter_map(|client| {
            let response = client.try_response_to("GET").ok()?;
            (response.text() == "halfhalf").then_some(())
        });
        assert_eq!(whole.count(), 2 * MANY, "{driver}: answers that came in time");
    });
}

/// A handshake that only lacks the client's last flight.
pub(super) fn half_shaken(proxy: &Proxy) -> (ClientConnection, TcpStream) {
    let name = HOST.try_into().expect("a valid server name");
    let mut session = ClientConnection::new(Authority::shared().client_config(), name).expect("a session");
    let mut stream = TcpStream::connect(proxy.address).expect("the proxy accepts connections");
    stream.set_read_timeout(Some(5 * SECOND)).expect("a timeout can be set");
    while session.wants_write() {
        session.write_tls(&mut stream).expect("the hello is taken");
    }
    while session.is_handshaking() {
        session.read_tls(&mut stream).expect("the server's flight");
        session.process_new_packets().expect("a flight without fault");
    }
    (session, stream)
}

#[test]
fn a_handshake_that_ended_in_time_counts_after_a_stop() {
    with_each_driver(|driver| {
        let origin = Origin::answering("in");
        let proxy = Proxy::to(&origin).tls().env("RINGFENCE_DRIVER", driver).timeouts(TIMEOUTS).start();
        let mut clients = each(MANY / 4, || half_shaken(&proxy));
        let finish = |(session, stream): &mut (ClientConnection, TcpStream)| {
            session.writer().write_all(GET.as_bytes()).expect("a request is taken");
            while session.wants_write() {
                session.write_tls(stream).expect("the last flight is taken");
            }
        };
        stopped_for(&proxy, STOP, || clients.iter_mut().for_each(finish));
        let served = clients.into_iter().filter_map(|(session, stream)| {
            let mut wire = Wire::new(Transport::Tls(Box::new(session), stream));
            wire.try_response_to("GET").ok().filter(|response| response.status() == 200)
        });
        assert_eq!(served.count(), MANY / 4, "{driver}: handshakes");
        assert!(proxy.tls_client().get("/_matrix/x").status() == 200, "{driver}");
    });
}

#[test]
fn deadlines_that_passed_in_a_stop_are_kept_after_it() {
    with_each_driver(|driver| {
        let origin = origin();
        let proxy = Proxy::to(&origin).env("RINGFENCE_DRIVER", driver).timeouts(TIMEOUTS).start();
        let before = proxy.descriptors();
        let [mut silent, mut half, mut idle, mut waiting, mut tunnel] = [(); 5].map(|()| proxy.client());
        assert_eq!(idle.get("/_matrix/small").text(), "small");
        half.send(&GET[..20]);
        waiting.send(GET);
        tunnel.send(
            "GET /_matrix/tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        );
        assert_eq!(tunnel.read_head().expect("an answer").status(), 101);
        // So that every wait has begun.
        pause(100 * MS);
        stopped_for(&proxy, STOP, || ());
        // Time in which it did not run may count or not: in no case do they get their whole time once more.
        let begun = Instant::now();
        let is_kept = |what: &str| {
            let late = begun.elapsed();
            assert!(late < 4 * SECOND, "{driver}: {what} had passed and took {late:?} more");
        };
        assert_eq!(half.response().status(), 408, "{driver}: header_read");
        assert_eq!(waiting.response().status(), 504, "{driver}: upstream_first_byte");
        assert_eq!(silent.end(), End::Closed, "{driver}: a connection that never sent anything");
        assert!(matches!(tunnel.end(), End::Closed | End::Reset), "{driver}: tunnel_idle");
        is_kept("a deadline");
        // Its time runs from when it has been quiet for a second.
        assert_eq!(idle.end(), End::Closed, "{driver}: keep_alive_idle");
        is_kept("keep_alive_idle");
        drop([half, waiting]);
        wait_until("no descriptor left behind", 5 * SECOND, || proxy.descriptors() <= before);
    });
}

#[test]
fn nothing_spins_and_nothing_is_stuck_after_stops() {
    with_each_driver(|driver| {
        let origin = Origin::answering("in");
        let mut proxy = Proxy::to(&origin).env("RINGFENCE_DRIVER", driver).start();
        let mut idle = each(50, || proxy.client());
        idle.iter_mut().for_each(|client| assert_eq!(client.get("/_matrix/x").text(), "in"));
        // Some fall into a wait, some right behind the one before.
        (0..10).for_each(|round| stopped_for(&proxy, round % 3 * 20 * MS, || ()));
        stopped_for(&proxy, 2 * SECOND, || ());
        pause(100 * MS);
        let before = processor_time(&proxy);
        pause(2 * SECOND);
        let spent = processor_time(&proxy) - before;
        assert!(spent < 200 * MS, "{driver}: {spent:?} of processor time in two seconds of rest");
        idle.iter_mut().for_each(|client| assert_eq!(client.get("/_matrix/x").text(), "in"));
        assert!(is_served(&proxy), "{driver}");
        let stopped = proxy.stop();
        assert!(stopped.status.success() && stopped.took < 2 * SECOND, "{driver}: {stopped:?}");
    });
}

#[test]
fn sigterm_in_a_stop_ends_the_process_after_it() {
    with_each_driver(|driver| {
        let origin = origin();
        let builder = Proxy::to(&origin).env("RINGFENCE_DRIVER", driver).timeouts("drain = \"1s\"");
        let mut proxy = builder.start();
        let mut clients = each(STAGES.len(), || proxy.client());
        STAGES.iter().zip(&mut clients).for_each(|((_, stage), client)| stage(client));
        stopped_for(&proxy, 1500 * MS, || proxy.signal(Signal::TERM));
        let stopped = proxy.stopped_within(4 * SECOND).expect("it ends by its deadline");
        assert!(stopped.status.success(), "{driver}: {stopped:?}");

        // And one that is stopped in its drain for longer than that may take.
        let mut proxy = Proxy::to(&origin).env("RINGFENCE_DRIVER", driver).timeouts("drain = \"1s\"").start();
        let mut client = proxy.client();
        client.send("GET /_matrix/wait HTTP/1.1\r\nHost: a\r\n\r\n");
        pause(100 * MS);
        proxy.signal(Signal::TERM);
        wait_until("the drain", 2 * SECOND, || proxy.stderr().contains("draining"));
        stopped_for(&proxy, 2 * SECOND, || ());
        // Clients have a second for what they are told at the end.
        let stopped = proxy.stopped_within(4 * SECOND).expect("its deadline has passed");
        assert!(stopped.status.success(), "{driver}: {stopped:?}");
    });
}
