//! SIGTERM while something else is wrong already: the drain ends by its deadline, whatever state the peers are in.
//!
//! Beside what `sigterm` in the parent has: every stage of a client, and origins that stall.

use super::*;

/// What the drain may take: its deadline and some time for the machine.
const DRAIN: &str = "drain = \"1s\"";

fn ends_in_order(proxy: &mut Proxy, what: &str) {
    let stopped = proxy.stop();
    assert!(stopped.took < 3 * SECOND, "{what}: {stopped:?}");
    assert!(stopped.status.success(), "{what}: {stopped:?}\n{}", proxy.stderr());
}

/// Whether a client got a whole answer of the origin's, which none of these faults has.
fn is_whole(client: &mut Client) -> bool {
    client.set_patience(SECOND);
    client.try_response_to("GET").is_ok_and(|response| response.status() == 200 && response.is_complete())
}

#[test]
fn it_ends_a_connect_that_goes_nowhere() {
    for driver in ["uring", "epoll"] {
        let (_listener, _filling, url) = upstream::black_hole();
        let builder = Proxy::builder().upstream(&url).env("RINGFENCE_DRIVER", driver);
        let mut proxy = builder.timeouts(&format!("{DRAIN}\nupstream_connect = \"60s\"")).start();
        let mut client = proxy.client();
        client.send(GET);
        pause(100 * MS);
        ends_in_order(&mut proxy, driver);
        assert!(!is_whole(&mut client));
    }
}

#[test]
fn it_ends_behind_an_origin_that_misbehaves() {
    type Script = fn(&mut Peer);
    let scripts: &[(&str, Script)] = &[
        ("resets", Peer::reset),
        ("resets behind a head", |peer| {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
            pause(50 * MS);
            peer.reset();
        }),
        ("closes", |_| ()),
        ("half-closes", |peer| {
            peer.half_close();
            peer.end();
        }),
        ("half-closes in a body", |peer| {
            peer.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
            peer.half_close();
            peer.end();
        }),
        ("answers before it reads", |peer| {
            peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
            peer.end();
        }),
        ("answers half before it reads", |peer| {
            peer.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 9\r\n\r\nno");
            peer.end();
        }),
        ("sends 100 and nothing more", |peer| {
            peer.send("HTTP/1.1 100 Continue\r\n\r\n");
            peer.end();
        }),
        ("sends without end", |peer| {
            peer.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
            while peer.try_send(message::chunk(pattern(16 * KIB))).is_ok() {}
        }),
    ];
    std::thread::scope(|scope| {
        for &(what, script) in scripts {
            scope.spawn(move || {
                let origin = Origin::each(move |peer| {
                    peer.request_head();
                    script(peer);
                });
                let mut proxy = Proxy::to(&origin).timeouts(DRAIN).start();
                let mut clients = [proxy.client(), proxy.client()];
                clients[0].send(GET);
                clients[1].send("POST /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nhalf");
                pause(150 * MS);
                ends_in_order(&mut proxy, &format!("an origin that {what}"));
                assert!(clients.iter_mut().all(|client| !is_whole(client)), "an origin that {what}");
            });
        }
    });
}

#[test]
fn it_ends_while_the_origin_is_down() {
    let mut origin = Origin::answering("in");
    let mut proxy = Proxy::to(&origin).timeouts(DRAIN).start();
    let mut client = proxy.client();
    assert_eq!(client.get("/_matrix/x").text(), "in");
    origin.kill();
    client.send(GET.repeat(50));
    proxy.signal(Signal::TERM);
    let stopped = proxy.stopped_within(3 * SECOND).expect("it ends");
    assert!(stopped.status.success(), "{stopped:?}");
}

#[test]
fn it_ends_while_a_disk_is_full_or_the_log_is_gone() {
    let origin = Origin::answering("in");
    let mut full = Proxy::to(&origin).server("access_log = \"/dev/full\"").timeouts(DRAIN).start();
    let mut gone = Proxy::to(&origin).timeouts(DRAIN).start();
    fs::remove_file(folder(&gone).join("access.log")).unwrap();
    for (what, proxy) in [("a full disk", &mut full), ("a log that is gone", &mut gone)] {
        let mut client = proxy.client();
        client.send(GET.repeat(100));
        assert_eq!(client.response().text(), "in");
        ends_in_order(proxy, what);
    }
}

#[test]
fn it_ends_while_certificates_are_garbage() {
    let origin = origin();
    let mut proxy = Proxy::to(&origin).tls().timeouts(DRAIN).start();
    for name in ["c0.chain.pem", "c0.key.pem"] {
        fs::write(folder(&proxy).join(name), pattern(3000)).unwrap();
    }
    proxy.signal(Signal::HUP);
    let mut client = proxy.tls_client();
    client.send("GET /_matrix/wait HTTP/1.1\r\nHost: a\r\n\r\n");
    pause(50 * MS);
    ends_in_order(&mut proxy, "garbage for certificates");
}

#[test]
fn it_ends_without_io_uring_at_every_stage_of_many_clients() {
    let origin = origin();
    let builder = Proxy::to(&origin).tls().workers(2).timeouts(DRAIN);
    let mut proxy = without_calls(&[IO_URING_SETUP], 1, || builder.start());
    let mut clients: Vec<Client> = STAGES.iter().map(|_| proxy.tls_client()).collect();
    STAGES.iter().zip(&mut clients).for_each(|((_, stage), client)| stage(client));
    pause(30 * MS);
    ends_in_order(&mut proxy, "without io_uring");
}

/// A client that reads nothing holds a full send buffer, over TLS with bytes that are encrypted already.
#[test]
fn it_ends_clients_that_take_nothing() {
    for tls in [false, true] {
        let origin = origin();
        let builder = Proxy::to(&origin).timeouts(DRAIN);
        let mut proxy = if tls { builder.tls() } else { builder }.start();
        let mut clients: Vec<Client> = (0..8)
            .map(|_| {
                let mut client = if tls { proxy.tls_client() } else { proxy.client() };
                client.send("GET /_matrix/large HTTP/1.1\r\nHost: a\r\n\r\n");
                client
            })
            .collect();
        pause(500 * MS);
        ends_in_order(&mut proxy, &format!("clients that take nothing, TLS {tls}"));
        for client in &mut clients {
            assert!(!is_whole(client), "TLS {tls}: a download that was cut looks whole");
        }
    }
}

#[test]
fn it_ends_while_a_crowd_is_in_handshakes() {
    let origin = origin();
    let mut proxy = Proxy::to(&origin).tls().timeouts(DRAIN).start();
    let mut half: Vec<TcpStream> =
        (0..200).map(|_| TcpStream::connect(proxy.address).expect("a connection")).collect();
    half.iter_mut().enumerate().for_each(|(index, stream)| {
        let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
        let _ = stream.write_all(&hello[..index % hello.len()]);
    });
    pause(50 * MS);
    ends_in_order(&mut proxy, "in 200 handshakes");
}
