//! Reload: the config file read again while connections are open, and certificates that change beside it.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Output;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

use ringfence_tests::authority::Certificate;
use ringfence_tests::client::HOST;
use ringfence_tests::place::Place;
use ringfence_tests::proxy::CONFIG;
use ringfence_tests::systemd::Systemd;
use ringfence_tests::{Authority, Client, MS, Origin, Proxy, SECOND, message, pause, wait_until};
use rustix::process::Signal;

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn plain_listener(place: &Place) -> String {
    format!("[[listener]]\naddress = \"{}\"\ntls = false\nrole = \"client\"\n", place.address())
}

/// Asks for a reload by signal and waits until it is done or refused.
fn hang_up(proxy: &Proxy) {
    let reloads = || {
        proxy.metric("ringfence_reloads_total{result=\"done\"}")
            + proxy.metric("ringfence_reloads_total{result=\"refused\"}")
    };
    let before = reloads();
    proxy.signal_newest(Signal::HUP);
    wait_until("the reload", 5 * SECOND, || reloads() > before);
}

#[test]
fn a_reload_keeps_connections_of_both_sides() {
    let origin = Origin::answering("here");
    let proxy = Proxy::to(&origin).admin().start();
    let mut client = proxy.client();
    client.get("/_matrix/x");
    for round in 0..10 {
        match round % 2 {
            0 => hang_up(&proxy),
            _ => drop(proxy.tell("reload")),
        }
        let answer = client.get("/_matrix/x");
        assert_eq!((answer.text().as_str(), answer.head.value("connection")), ("here", None));
    }
    assert_eq!(origin.connections(), 1, "the pooled connection is used on");
    assert_eq!(proxy.metric("ringfence_config_generation "), 11.0);
}

#[test]
fn an_exchange_in_flight_ends_with_the_limits_that_it_began_with() {
    let origin = Origin::serving(|request| message::ok(request.body.len().to_string()));
    let proxy = Proxy::to(&origin).admin().limits("body_bytes_max = \"1 MiB\"").start();
    let mut client = proxy.client();
    client.send("POST /_matrix/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    assert!(origin.connection(1).end_within(200 * MS).is_none());
    proxy.set_config(&proxy.config().replace("\"1 MiB\"", "\"1 KiB\""));
    proxy.tell("reload");
    client.send(format!("800\r\n{}\r\n0\r\n\r\n", "x".repeat(0x800)));
    assert_eq!(client.response_to("POST").text(), "2053");
    client.send("POST /_matrix/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2053\r\n\r\n");
    assert_eq!(client.response_to("POST").status(), 413);
}

#[test]
fn connections_to_a_server_that_is_gone_wait_for_no_exchange() {
    let (origin, next) = (Origin::answering("before"), Origin::answering("after"));
    let proxy = Proxy::to(&origin).admin().workers(1).start();
    let (mut busy, mut quick) = (proxy.client(), proxy.client());
    busy.send("POST /_matrix/x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n");
    let used = origin.connection(1);
    quick.get("/_matrix/x");
    let idle = origin.connection(2);
    proxy.set_config(&proxy.config().replace(&origin.url(), &next.url()));
    proxy.tell("reload");
    assert!(idle.end_within(2 * SECOND).is_some(), "although an exchange is under way");
    assert_eq!(quick.get("/_matrix/x").text(), "after");
    busy.send("0\r\n\r\n");
    assert_eq!(busy.response_to("POST").text(), "before");
    assert!(used.end_within(2 * SECOND).is_some());
}

#[test]
fn a_broken_config_changes_nothing_and_the_line_is_told() {
    let origin = Origin::answering("as before");
    let proxy = Proxy::to(&origin).admin().start();
    let mut client = proxy.client();
    let (good, extra) = (proxy.config(), Place::v4());
    let line = good.lines().count() + 5;
    let broken = [
        (format!("{}bogus = 1\n", plain_listener(&extra)), "bogus"),
        (format!("{}this is no TOML\n", plain_listener(&extra)), "TOML"),
        (
            format!("{}[[certificate]]\nchain = \"no.pem\"\nkey = \"no.pem\"\n", plain_listener(&extra)),
            "no.pem",
        ),
        (
            format!(
                "{}[[route]]\nhosts = [\"example.com\"]\npath = \"/x\"\nupstream = \"http://no.invalid:1\"\n",
                plain_listener(&extra)
            ),
            "no.invalid",
        ),
    ];
    for (number, (lines, word)) in broken.iter().enumerate() {
        proxy.set_config(&format!("{good}\n{lines}"));
        let output = proxy.command("reload");
        let told = text(&output);
        assert_eq!(output.status.code(), Some(1), "{told}");
        let path = proxy.folder().join(CONFIG);
        let (place, close) = (format!("{}:", path.display()), line..line + 6);
        assert!(
            close.clone().any(|line| told.contains(&format!("{place}{line}:"))),
            "no line of {close:?}: {told}"
        );
        assert!(told.contains(word), "{word} is not named: {told}");
        assert!(proxy.stderr().contains(word), "{word} is not in the log");
        let refused = f64::from(u32::try_from(number + 1).expect("the test can do this"));
        assert_eq!(proxy.metric("ringfence_reloads_total{result=\"refused\"}"), refused);
        assert_eq!(client.get("/_matrix/x").text(), "as before");
        let nobody = Client::try_connect(extra.address()).unwrap_err();
        assert_eq!(nobody.kind(), ErrorKind::ConnectionRefused);
    }
    assert_eq!(proxy.metric("ringfence_config_generation "), 1.0);
}

#[test]
fn a_config_file_that_is_gone_is_told() {
    let origin = Origin::answering("as before");
    let proxy = Proxy::to(&origin).admin().start();
    let (path, good) = (proxy.folder().join(CONFIG), proxy.config());
    fs::remove_file(&path).expect("the test can do this");
    hang_up(&proxy);
    assert!(proxy.stderr().contains(&format!("{}", path.display())), "{}", proxy.stderr());
    let output = proxy.command("reload");
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains(&format!("{}", path.display())), "{}", text(&output));
    assert_eq!(proxy.client().get("/_matrix/x").text(), "as before");
    proxy.set_config(&good);
    proxy.tell("reload");
}

#[test]
fn a_removed_listener_ends_its_connections_with_their_next_answer() {
    let (origin, released) = (Origin::answering("here"), Place::v4());
    let proxy = Proxy::to(&origin).admin().workers(2).start();
    let without = proxy.config();
    let with = format!("{without}\n{}", plain_listener(&released));
    for round in 0..10 {
        proxy.set_config(&with);
        proxy.tell("reload");
        let mut idle = Client::connect(released.address());
        let mut used = Client::connect(released.address());
        used.get("/_matrix/x");
        proxy.set_config(&without);
        proxy.tell("reload");
        let refused = Client::try_connect(released.address()).map(|_| ()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "round {round}");
        for client in [&mut idle, &mut used] {
            let answer = client.get("/_matrix/x");
            assert_eq!((answer.status(), answer.head.value("connection")), (200, Some("close")));
            client.expect_close();
        }
    }
    assert_eq!(proxy.client().get("/_matrix/x").text(), "here");
}

/// A worker may be slow to hear of the removal; what the control plane does next must not come before that.
#[test]
fn a_listener_can_come_back_at_once() {
    let origin = Origin::answering("here");
    let place = Place::v4();
    let proxy = Proxy::to(&origin).admin().workers(2).start();
    let without = proxy.config();
    let with = format!("{without}\n{}", plain_listener(&place));
    let load = Arc::new(AtomicBool::new(true));
    let busy: Vec<_> = (0..8)
        .map(|_| {
            let (load, address) = (load.clone(), proxy.address);
            thread::spawn(move || {
                let mut client = Client::connect(address);
                while load.load(Ordering::SeqCst) {
                    client.get("/_matrix/x");
                }
            })
        })
        .collect();
    let begun = Instant::now();
    for _ in 0..40 {
        for config in [&with, &without] {
            proxy.set_config(config);
            proxy.tell("reload");
        }
    }
    println!("80 reloads in {:?}", begun.elapsed());
    load.store(false, Ordering::SeqCst);
    busy.into_iter().for_each(|client| client.join().expect("the test can do this"));
}

/// Who has connected before a listener is removed is served, also when nobody has accepted the connection yet.
#[test]
fn nobody_who_connected_to_a_removed_listener_is_reset() {
    let origin = Origin::answering("here");
    let place = Place::v4();
    let proxy = Proxy::to(&origin).admin().workers(2).start();
    let without = proxy.config();
    let with = format!("{without}\n{}", plain_listener(&place));
    let ended = Arc::new(AtomicBool::new(false));
    let visitors: Vec<_> = (0..4)
        .map(|_| {
            let (ended, address) = (ended.clone(), place.address());
            thread::spawn(move || {
                let (mut served, mut faults) = (0, Vec::new());
                while !ended.load(Ordering::SeqCst) {
                    // Refused, while it is away.
                    let Ok(mut client) = Client::try_connect(address) else { continue };
                    let sent = client.try_send(format!("GET /_matrix/x HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
                    match client.try_response_to("GET") {
                        Ok(answer) if answer.status() == 200 => served += 1,
                        other => faults.push(format!("{sent:?} {other:?}")),
                    }
                }
                (served, faults)
            })
        })
        .collect();
    for _ in 0..60 {
        for config in [&with, &without] {
            proxy.set_config(config);
            proxy.tell("reload");
        }
    }
    ended.store(true, Ordering::SeqCst);
    let (served, faults): (Vec<u32>, Vec<_>) =
        visitors.into_iter().map(|visitor| visitor.join().expect("the test can do this")).unzip();
    let faults = faults.concat();
    println!("served: {served:?}, reset: {}", faults.len());
    assert!(served.iter().sum::<u32>() > 0);
    assert!(faults.is_empty(), "{} of {served:?}, first {:?}", faults.len(), faults.first());
}

#[test]
fn reloads_asked_for_at_once_are_all_done() {
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).admin().start();
    thread::scope(|scope| {
        let asking: Vec<_> = (0..8).map(|_| scope.spawn(|| proxy.tell("reload"))).collect();
        asking
            .into_iter()
            .for_each(|asked| assert!(asked.join().expect("the test can do this").contains("reloaded")));
    });
    assert_eq!(proxy.metric("ringfence_reloads_total{result=\"done\"}"), 8.0);
}

/// A pipe in the place of the file stands for what may keep a reload waiting: a name lookup, a network disk.
fn make_it_hang(proxy: &Proxy) {
    let path = proxy.folder().join(CONFIG);
    fs::remove_file(&path).expect("the test can do this");
    let made = std::process::Command::new("mkfifo").arg(&path).status().expect("the test can do this");
    assert!(made.success());
}

#[test]
fn a_reload_that_hangs_holds_up_neither_metrics_nor_the_end() {
    let origin = Origin::answering("here");
    let mut proxy = Proxy::to(&origin).admin().start();
    make_it_hang(&proxy);
    proxy.signal(Signal::HUP);
    pause(300 * MS);
    assert_eq!(proxy.metric("ringfence_config_generation "), 1.0);
    assert_eq!(proxy.client().get("/_matrix/x").text(), "here");
    proxy.signal(Signal::TERM);
    let stopped = proxy.stopped_within(3 * SECOND).expect("it ends although the reload hangs");
    assert!(stopped.status.success());
}

#[test]
fn the_log_is_reopened_while_a_reload_hangs() {
    let origin = Origin::answering("here");
    let proxy = Proxy::to(&origin).admin().start();
    make_it_hang(&proxy);
    proxy.signal(Signal::HUP);
    pause(300 * MS);
    let (log, moved) = (proxy.folder().join("access.log"), proxy.folder().join("moved"));
    fs::rename(&log, moved).expect("the test can do this");
    proxy.signal(Signal::USR1);
    pause(100 * MS);
    proxy.client().get("/_matrix/x");
    wait_until("a new file", 2 * SECOND, || log.exists());
}

/// What the process may not do at run time any more is refused before anything has changed.
#[test]
fn a_port_that_may_not_be_bound_is_refused_with_everything_else() {
    let origin = Origin::answering("as before");
    let proxy = Proxy::to(&origin).admin().server("user = \"nobody\"").start();
    // It is another user from here on, and has to read its file.
    fs::set_permissions(proxy.folder(), fs::Permissions::from_mode(0o777)).expect("the test can do this");
    let (free, good) = (Place::v4(), proxy.config());
    let privileged = "[[listener]]\naddress = \"127.0.0.1:81\"\ntls = false\nrole = \"client\"\n";
    proxy.set_config(&format!("{good}\n{}{privileged}", plain_listener(&free)));
    let output = proxy.command("reload");
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("127.0.0.1:81"), "{}", text(&output));
    assert!(text(&output).contains("CAP_NET_BIND_SERVICE"), "{}", text(&output));
    assert!(Client::try_connect(free.address()).is_err(), "half of it was done");
    assert_eq!(proxy.client().get("/_matrix/x").text(), "as before");
    proxy.set_config(&format!("{good}\n{}", plain_listener(&free)));
    proxy.tell("reload");
    assert_eq!(Client::connect(free.address()).get("/_matrix/x").text(), "as before");
}

fn shown(proxy: &Proxy) -> Vec<u8> {
    let mut client = proxy.tls_client();
    client.session().peer_certificates().expect("a certificate")[0].to_vec()
}

fn put(folder: &Path, name: &str, content: &str) {
    let beside = folder.join("beside");
    fs::write(&beside, content).expect("the test can do this");
    fs::rename(beside, folder.join(name)).expect("the test can do this");
}

fn issue() -> Certificate {
    Authority::shared().certificate(&[HOST, "example.com"])
}

fn wait_for(proxy: &Proxy, certificate: &Certificate) {
    wait_until("the new certificate", 10 * SECOND, || shown(proxy) == certificate.der.as_ref());
}

#[test]
fn a_renewed_certificate_is_served_without_being_asked_for() {
    let origin = Origin::answering("here");
    let proxy = Proxy::to(&origin).tls().admin().start();
    let mut before = proxy.tls_client();
    before.get("/_matrix/x");
    let folder = proxy.folder();
    // As lego and acme.sh do.
    let renamed = issue();
    put(folder, "c0.key.pem", &renamed.key_pem);
    put(folder, "c0.chain.pem", &renamed.chain_pem);
    wait_for(&proxy, &renamed);
    // As certbot does: names that lead to other files.
    let linked = issue();
    linked.write(folder, "archive");
    for part in ["chain", "key"] {
        symlink(folder.join(format!("archive.{part}.pem")), folder.join("link"))
            .expect("the test can do this");
        fs::rename(folder.join("link"), folder.join(format!("c0.{part}.pem"))).expect("the test can do this");
    }
    wait_for(&proxy, &linked);
    assert_eq!(before.get("/_matrix/x").text(), "here", "who is connected stays so");
    assert_eq!(proxy.metric("ringfence_certificate_swaps_total{result=\"done\"}"), 2.0);
}

#[test]
fn a_certificate_that_is_broken_or_half_there_is_refused() {
    let origin = Origin::answering("here");
    let proxy = Proxy::to(&origin).tls().admin().start();
    let (folder, first) = (proxy.folder(), shown(&proxy));
    let (next, other) = (issue(), issue());
    let broken = [
        ("key of another", next.chain_pem.clone(), other.key_pem.clone()),
        ("cut short", next.chain_pem[..next.chain_pem.len() / 2].to_owned(), next.key_pem.clone()),
        ("rubbish", "rubbish".to_owned(), "rubbish".to_owned()),
    ];
    for (number, (what, chain, key)) in broken.iter().enumerate() {
        fs::write(folder.join("c0.chain.pem"), chain).expect("the test can do this");
        fs::write(folder.join("c0.key.pem"), key).expect("the test can do this");
        let refused = f64::from(u32::try_from(number + 1).expect("the test can do this"));
        wait_until(what, 10 * SECOND, || {
            proxy.metric("ringfence_certificate_swaps_total{result=\"refused\"}") >= refused
        });
        assert_eq!(shown(&proxy), first, "{what}");
    }
    assert!(proxy.stderr().contains("c0."), "{}", proxy.stderr());
    fs::write(folder.join("c0.chain.pem"), &next.chain_pem).expect("the test can do this");
    fs::write(folder.join("c0.key.pem"), &next.key_pem).expect("the test can do this");
    wait_for(&proxy, &next);
}

/// A hook that lets us read a new key runs after the key is in its place.
#[test]
fn a_certificate_that_becomes_readable_is_noticed() {
    if !rustix::process::geteuid().is_root() {
        // Only root can write what this proxy may not read.
        return;
    }
    let origin = Origin::answering("here");
    let proxy = Proxy::to(&origin).tls().admin().server("user = \"nobody\"").start();
    fs::set_permissions(proxy.folder(), fs::Permissions::from_mode(0o755)).expect("the test can do this");
    let (folder, renewed) = (proxy.folder(), issue());
    fs::write(folder.join("key"), &renewed.key_pem).expect("the test can do this");
    fs::set_permissions(folder.join("key"), fs::Permissions::from_mode(0o600)).expect("the test can do this");
    fs::rename(folder.join("key"), folder.join("c0.key.pem")).expect("the test can do this");
    put(folder, "c0.chain.pem", &renewed.chain_pem);
    wait_until("the refusal", 10 * SECOND, || {
        proxy.metric("ringfence_certificate_swaps_total{result=\"refused\"}") >= 1.0
    });
    fs::set_permissions(folder.join("c0.key.pem"), fs::Permissions::from_mode(0o644))
        .expect("the test can do this");
    wait_for(&proxy, &renewed);
}

/// The first certificate is renewed after it was read and before serving begins: the second one is a pipe, whose reader
/// waits for us.
#[test]
fn a_certificate_that_is_renewed_during_a_reload_is_noticed() {
    let origin = Origin::answering("here");
    let proxy = Proxy::to(&origin).tls().admin().start();
    let (folder, second) =
        (proxy.folder().to_owned(), Authority::shared().certificate(&["other.example.com"]));
    second.write(&folder, "c1");
    fs::remove_file(folder.join("c1.key.pem")).expect("the test can do this");
    let made = std::process::Command::new("mkfifo")
        .arg(folder.join("c1.key.pem"))
        .status()
        .expect("the test can do this");
    assert!(made.success());
    proxy.set_config(&format!(
        "{}\n[[certificate]]\nchain = \"c1.chain.pem\"\nkey = \"c1.key.pem\"\n",
        proxy.config()
    ));
    proxy.signal(Signal::HUP);
    // Opens when the reader is there, who has read the first certificate by then.
    let mut pipe =
        fs::OpenOptions::new().write(true).open(folder.join("c1.key.pem")).expect("the test can do this");
    let renewed = issue();
    put(&folder, "c0.key.pem", &renewed.key_pem);
    put(&folder, "c0.chain.pem", &renewed.chain_pem);
    std::io::Write::write_all(&mut pipe, second.key_pem.as_bytes()).expect("the test can do this");
    drop(pipe);
    put(&folder, "c1.key.pem", &second.key_pem);
    wait_until("the reload", 5 * SECOND, || proxy.metric("ringfence_reloads_total{result=\"done\"}") >= 1.0);
    wait_for(&proxy, &renewed);
}

/// What systemd is told (sd_notify(3)).
#[test]
fn the_service_manager_is_told() {
    let systemd = Systemd::new();
    let origin = Origin::answering("");
    let mut proxy = systemd.of(Proxy::to(&origin).admin()).start();
    assert_eq!(systemd.hear(), "READY=1");
    proxy.tell("reload");
    let reloading = systemd.hear();
    let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
    assert!(time.parse::<u64>().expect("the test can do this") > 0);
    assert_eq!(systemd.hear(), "READY=1");
    proxy.set_config("broken");
    proxy.signal(Signal::HUP);
    assert!(systemd.hear().starts_with("RELOADING=1\n"));
    assert_eq!(systemd.hear(), "READY=1", "it goes on");
    proxy.stop();
    assert_eq!(systemd.hear(), "STOPPING=1");
}
