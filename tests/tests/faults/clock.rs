//! The wall clock jumps while everything else goes on: dates follow it, deadlines do not.

use std::process::Command;

use super::*;

const HOUR: i64 = 3600;

/// A batteryless board that learns the time, a summer time done wrong, a clock set by hand and set back.
const JUMPS: &[(&str, i64)] = &[
    ("forward by hours", 6 * HOUR),
    ("back by hours", -6 * HOUR),
    ("forward by a century", 100 * 365 * 24 * HOUR),
    ("back to the seventies", -50 * 365 * 24 * HOUR),
];

fn start(builder: ringfence_tests::proxy::ProxyBuilder) -> (Preload, Proxy) {
    let preload = Preload::new();
    let proxy = preload.for_proxy(builder).start();
    preload.assert_loaded();
    (preload, proxy)
}

/// Seconds since 1970 of a date that the tool of that name reads, such as `Date` and the access log have them.
fn seconds_of(date: &str) -> i64 {
    let output = Command::new("date").args(["-u", "-d", date, "+%s"]).output().expect("date runs");
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    text.parse().unwrap_or_else(|_| panic!("no date: {date:?}"))
}

fn wall_clock() -> i64 {
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a present after 1970");
    i64::try_from(now.as_secs()).expect("a present before the end of time")
}

fn assert_date(what: &str, shown: &str, jump: i64) {
    let off = seconds_of(shown) - wall_clock() - jump;
    assert!(off.abs() <= 10, "{what}: {shown} is {off} s off");
}

#[test]
fn dates_of_answers_and_of_the_log_follow_a_jump() {
    let origin = Origin::answering("in");
    let (preload, proxy) = start(Proxy::to(&origin));
    let mut client = proxy.client();
    let mut count = 0;
    for &(what, jump) in JUMPS {
        preload.set(Word::ClockJumpSeconds, jump);
        let response = client.get("/nowhere");
        assert_eq!(response.status(), 404);
        assert_date(what, response.head.value("date").expect("our own answers have a Date"), jump);
        count += 1;
        let lines = proxy.access_log(count);
        let (time, rest) = lines[count - 1].split_once(' ').expect("a line begins with its time");
        assert_date(what, time, jump);
        let total = rest.split(' ').find_map(|word| word.strip_prefix("total_ms=")).expect("a duration");
        assert!(total.parse::<f64>().expect("a number") < 5000.0, "{what}: {rest}");
    }
}

#[test]
fn a_jump_fires_no_deadline_and_puts_none_off() {
    std::thread::scope(|scope| {
        for &(what, jump) in JUMPS {
            for driver in ["uring", "epoll"] {
                scope.spawn(move || jumps_without_harm(&format!("{driver}, {what}"), driver, jump));
            }
        }
    });
}

fn jumps_without_harm(what: &str, driver: &str, jump: i64) {
    let origin = Origin::serving(|request| {
        if request.head.target() == "/_matrix/slow" {
            pause(800 * MS);
        }
        message::ok("in")
    });
    let timeouts = "header_read = \"2s\"\nkeep_alive_idle = \"2s\"\nupstream_first_byte = \"2s\"";
    let builder = Proxy::to(&origin).tls().env("RINGFENCE_DRIVER", driver).timeouts(timeouts);
    let (preload, mut proxy) = start(builder);
    let [mut idle, mut half, mut waiting] = [(); 3].map(|()| proxy.tls_client());
    assert_eq!(idle.get("/_matrix/x").text(), "in");
    half.send(&GET[..20]);
    waiting.send(GET.replace("/x", "/slow"));
    pause(100 * MS);
    let cost = processor_time(&proxy);

    preload.set(Word::ClockJumpSeconds, jump);
    assert_eq!(waiting.response().text(), "in", "{what}: a request in flight");
    half.send(&GET[20..]);
    assert_eq!(half.response().text(), "in", "{what}: a head on its way");
    assert_eq!(idle.get("/_matrix/x").text(), "in", "{what}: an idle connection");
    assert!(is_served_over_tls(&proxy), "{what}: a new one");

    // No deadline comes early, and none is put off until the clock is back.
    let (mut late, begun) = (proxy.tls_client(), Instant::now());
    late.send(&GET[..20]);
    assert_eq!(late.response().status(), 408, "{what}");
    let took = begun.elapsed();
    assert!(took > 1500 * MS && took < 5 * SECOND, "{what}: header_read after {took:?}");
    assert_eq!(idle.end(), End::Closed, "{what}: keep_alive_idle");
    let spent = processor_time(&proxy) - cost;
    assert!(spent < 500 * MS, "{what}: {spent:?} of processor time for a few requests");

    // The clock goes back to where it was. What lingers behind a 408 would hold the drain up.
    drop([half, waiting, late]);
    preload.set(Word::ClockJumpSeconds, 0);
    assert!(is_served_over_tls(&proxy), "{what} and back");
    let stopped = proxy.stop();
    assert!(stopped.status.success() && stopped.took < 2 * SECOND, "{what}: {stopped:?}");
}

fn is_served_over_tls(proxy: &Proxy) -> bool {
    proxy.tls_client().get("/_matrix/x").text() == "in"
}

#[test]
fn a_jump_in_a_drain_neither_ends_it_early_nor_keeps_it_from_ending() {
    std::thread::scope(|scope| {
        JUMPS.iter().for_each(|&(what, jump)| drop(scope.spawn(move || drains(what, jump))))
    });
}

fn drains(what: &str, jump: i64) {
    let origin = origin();
    let (preload, mut proxy) = start(Proxy::to(&origin).timeouts("drain = \"1s\""));
    let mut client = proxy.client();
    client.send("GET /_matrix/wait HTTP/1.1\r\nHost: a\r\n\r\n");
    let record = origin.connection(1);
    wait_until("the request", 2 * SECOND, || record.text().contains("\r\n\r\n"));
    proxy.signal(Signal::TERM);
    wait_until("the drain", 2 * SECOND, || proxy.stderr().contains("draining"));
    preload.set(Word::ClockJumpSeconds, jump);
    let stopped = proxy.stopped_within(5 * SECOND);
    let took = stopped.unwrap_or_else(|| panic!("{what}: the drain does not end")).took;
    assert!(took > 500 * MS && took < 3 * SECOND, "{what}: the drain took {took:?}");
}
