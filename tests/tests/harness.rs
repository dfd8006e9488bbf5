//! The harness judged: client and origin face each other without a proxy between, so that a lie of theirs shows here.

use ringfence_tests::message::{self, Framing};
use ringfence_tests::wire::{End, Unreadable};
use ringfence_tests::{Client, KIB, MIB, MS, Origin, Peer, SECOND, pattern, pause};

fn facing(script: impl Fn(&mut Peer) + Send + Sync + 'static) -> (Origin, Client) {
    let origin = Origin::each(script);
    let client = Client::connect(origin.address());
    (origin, client)
}

#[test]
fn a_length_delimited_body_is_read_whole() {
    let (_origin, mut client) = facing(|peer| {
        let body = pattern(MIB);
        peer.answer(message::ok(body));
        peer.answer(message::ok("second"));
    });
    assert_eq!(client.get("/a").body, pattern(MIB));
    assert_eq!(client.get("/b").text(), "second");
}

#[test]
fn a_chunked_body_is_read_with_its_trailers() {
    let (_origin, mut client) = facing(|peer| {
        peer.request();
        let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        peer.send_slowly(
            format!("{head}3\r\nabc\r\n10;x=y\r\n0123456789abcdef\r\n0\r\nT: v\r\n\r\n"),
            1,
            MS / 4,
        )
        .unwrap();
        peer.end();
    });
    let response = client.get("/");
    assert_eq!(response.text(), "abc0123456789abcdef");
    assert_eq!(response.trailers, [("T".to_owned(), "v".to_owned())]);
    assert!(response.is_complete());
}

#[test]
fn a_body_cut_short_is_told_from_a_whole_one() {
    for (sent, framing) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", Framing::Length(9)),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", Framing::Chunked),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n", Framing::Chunked),
    ] {
        let (_origin, mut client) = facing(move |peer| {
            peer.answer(sent);
        });
        let response = client.get("/");
        assert_eq!((response.text().as_str(), response.framing), ("abc", framing));
        assert_eq!(response.cut, Some(End::Closed));
    }
}

#[test]
fn a_reset_is_told_from_a_close() {
    let (_origin, mut client) = facing(|peer| {
        peer.request();
        peer.send("HTTP/1.1 200 OK\r\n\r\nabc");
        pause(50 * MS);
        peer.reset();
    });
    let response = client.get("/");
    assert_eq!((response.text().as_str(), response.cut), ("abc", Some(End::Reset)));

    let (_origin, mut client) = facing(|peer| {
        peer.answer("HTTP/1.1 200 OK\r\n\r\nabc");
    });
    assert_eq!(client.get("/").cut, None);
}

#[test]
fn malformed_responses_are_refused() {
    for bytes in [
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 3\r\n\r\nabc",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabcd\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n 3\r\nabc\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        "HTTP/1.1 200 OK\nX: y\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
    ] {
        let (_origin, mut client) = facing(move |peer| {
            peer.answer(bytes);
        });
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let read = client.try_response_to("GET");
        assert!(matches!(read, Err(Unreadable::Malformed(_))), "{bytes:?} was read as {read:?}");
    }
}

#[test]
fn every_byte_is_recorded_in_order_and_with_its_time() {
    let (origin, mut client) = facing(|peer| {
        peer.end();
    });
    client.send("first");
    pause(100 * MS);
    client.send("second");
    pause(20 * MS);
    client.half_close();
    let record = origin.connection(1);
    let (ended, end) = record.end_within(SECOND).unwrap();
    assert_eq!((record.text().as_str(), end), ("firstsecond", End::Closed));
    let pieces = record.pieces();
    assert_eq!(pieces.len(), 2);
    assert!(pieces[1].0 - pieces[0].0 > 50 * MS && ended > pieces[1].0);
}

#[test]
fn both_directions_move_at_once_and_half_close_is_one_sided() {
    let (_origin, mut client) = facing(|peer| {
        let (bytes, end) = peer.read_to_end();
        assert_eq!(end, End::Closed);
        peer.send(bytes);
    });
    let upload = pattern(512 * KIB);
    let sender = client.send_in_background(upload.clone());
    sender.join().unwrap().unwrap();
    client.half_close();
    assert_eq!(client.read_to_end(), (upload, End::Closed));
}

#[test]
fn a_killed_origin_refuses_and_comes_back() {
    let mut origin = Origin::answering("up");
    let mut client = Client::connect(origin.address());
    assert_eq!(client.get("/").text(), "up");
    origin.kill();
    assert_eq!(client.end(), End::Closed);
    assert!(Client::try_connect(origin.address()).is_err());
    origin.resume();
    assert_eq!(Client::connect(origin.address()).get("/").text(), "up");
}

#[test]
#[should_panic(expected = "the origin's script failed")]
fn a_failed_script_fails_the_test() {
    let (_origin, mut client) = facing(|peer| peer.expect("other"));
    client.send("bytes");
    client.end();
    pause(50 * MS);
}
