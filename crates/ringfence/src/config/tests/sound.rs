//! Files that are accepted, and what they mean.

use std::{net::SocketAddr, time::Duration};

use ringfence_matrix::EndpointClass;

use ringfence_forward::snapshot::Balance;

use super::*;

/// The file in README and in the documentation of `--help`.
const EIGHT_LINES: &str = r#"
[[homeserver]]
server_name = "example.com"              # the part after the colon in user ids
public_host = "matrix.example.com"       # where clients and servers connect; default: server_name
upstream = "http://127.0.0.1:8008"       # or "unix:/run/synapse/main.sock", or a list

[[certificate]]
chain = "/etc/letsencrypt/live/matrix.example.com/fullchain.pem"
key = "/etc/letsencrypt/live/matrix.example.com/privkey.pem"
"#;

/// Every key that there is.
const FULL: &str = r#"
trusted_proxies = ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"]
strict_hosts = true

[server]
workers = 4
user = "ringfence"
access_log = "logs/access.log"
access_log_format = "json"
access_log_targets = "full"
log = "info,ringfence=debug"

[[homeserver]]
server_name = "example.com"
public_host = "matrix.example.com"
federation_host = "matrix-fed.example.com:9448"
upstream = ["http://127.0.0.1:8008", "http://[::1]:8008", "http://name:8008", "unix:/run/x.sock"]
well_known_client = '''{"m.homeserver":{"base_url":"https://other.example.com"}}'''
well_known_server = '''{"m.server":"other.example.com:443"}'''
well_known_support = '''{"support_page":"https://example.com/help"}'''

[[certificate]]
chain = "fullchain.pem"
key = "/keys/privkey.pem"

[[listener]]
address = "[::]:443"
role = "client"
tls = true
admin_from = ["127.0.0.0/8"]

[[listener]]
address = "0.0.0.0:8448"
role = "federation"
proxy_protocol_from = ["10.0.0.0/8", "192.0.2.1"]

[[listener]]
address = "[::]:80"
role = "redirect"

[[route]]
hosts = ["Example.COM"]
path = "/"
upstream = [{ url = "https://chat.internal", weight = 3 }, "http://127.0.0.1:8081"]
balance = "least-connections"
requests_max = 200
upstream_ca = "chat.pem"
upstream_name = "other.internal"
upstream_verify = true
send_proxy_protocol = true
health_path = "/status?brief=1"
body_bytes_max = "100 MiB"

[limits]
head_bytes_max = "64 KiB"
field_count_max = 200
body_bytes_max = 1_048_576
connections_max = 1000
connections_per_address_max = 10
data_rate_min = "2 KiB"

[timeouts]
tls_handshake = "1s"
header_read = "2s"
keep_alive_idle = "3s"
upstream_connect = "500ms"
upstream_first_byte = "5min"
downstream_silence = "6s"
upstream_silence = "7s"
upstream_idle = "8s"
tunnel_idle = "1h"
linger = "10s"
drain = "11s"
health_interval = "1s"

[rate_limits]
exempt = ["192.0.2.0/24", "2001:db8::/32"]
sync = "100/s burst 1000"
send = "30/s burst 60"
media_up = "1/s burst 10"
media_down = "100/s burst 500"
keys = "10/s burst 100"
login = "5/h burst 3"
register = "off"
federation_send = "100/s burst 600"
federation_read = "off"
key_server = "1/s burst 1"
well_known = "2/s burst 2"
other = "1000/min burst 100000"
"#;

#[test]
fn eight_lines_are_a_whole_file() {
    let config = sound(EIGHT_LINES);
    let [homeserver] = &config.homeservers[..] else { panic!("{config:?}") };
    assert_eq!(homeserver.server_name.value.to_string(), "example.com");
    assert_eq!(homeserver.well_known_client, r#"{"m.homeserver":{"base_url":"https://matrix.example.com"}}"#);
    assert_eq!(homeserver.well_known_server, r#"{"m.server":"matrix.example.com:443"}"#);
    assert_eq!(homeserver.well_known_support, None);
    assert_eq!(homeserver.upstream.servers[0].value.to_string(), "127.0.0.1:8008");
    let chain = "/etc/letsencrypt/live/matrix.example.com/fullchain.pem";
    assert_eq!(config.certificates[0].chain, Path::new(chain));
    assert_eq!(config.certificates[0].place, Place { line: 7, column: 1 });
}

#[test]
fn absent_keys_have_their_defaults() {
    let config = sound(EIGHT_LINES);
    let listeners: Vec<_> = config
        .listeners
        .iter()
        .map(|listener| (listener.address.value.to_string(), listener.role, listener.tls))
        .collect();
    assert_eq!(
        listeners,
        [("[::]:443".to_owned(), Role::Client, true), ("[::]:8448".to_owned(), Role::Federation, true)]
    );
    assert!(config.listeners.iter().all(|listener| listener.admin_from.is_empty()));
    assert!(config.trusted_proxies.is_empty() && !config.strict_hosts && config.routes.is_empty());
    assert_eq!(
        config.server,
        Server {
            workers: 0,
            user: None,
            access_log: AccessLog::Stdout,
            access_log_format: AccessLogFormat::Text,
            access_log_targets: AccessLogTargets::Short,
            admin: Admin::Usual,
            log: "info".to_owned(),
        }
    );
    assert_eq!(
        config.limits,
        Limits {
            head_bytes_max: 32_768,
            field_count_max: 100,
            body_bytes_max: 52_428_800,
            connections_max: 65_536,
            connections_per_address_max: 1024,
            data_rate_min: 512,
            queue_max: 1024,
        }
    );
    let seconds = Duration::from_secs;
    assert_eq!(
        config.timeouts,
        Timeouts {
            tls_handshake: seconds(10),
            header_read: seconds(15),
            keep_alive_idle: seconds(75),
            upstream_connect: seconds(3),
            queue: seconds(10),
            upstream_first_byte: seconds(300),
            downstream_silence: seconds(60),
            upstream_silence: seconds(120),
            upstream_idle: seconds(20),
            tunnel_idle: seconds(3600),
            linger: seconds(30),
            drain: seconds(30),
            hand_over: seconds(300),
            health_interval: seconds(5),
            health_wait: seconds(2),
        }
    );
}

#[test]
fn the_process_and_the_peers_that_it_believes_are_read() {
    let config = sound(FULL);
    let networks: Vec<_> = config.trusted_proxies.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["10.0.0.0/8", "2001:db8::/32", "192.0.2.1/32"]);
    assert!(config.strict_hosts);
    assert_eq!(config.server.workers, 4);
    assert_eq!(config.server.user.as_ref().unwrap().value, "ringfence");
    assert_eq!(config.server.access_log, AccessLog::File("/etc/ringfence/logs/access.log".into()));
    assert_eq!(config.server.access_log_format, AccessLogFormat::Json);
    assert_eq!(config.server.access_log_targets, AccessLogTargets::Full);
    assert_eq!(config.server.log, "info,ringfence=debug");
}

#[test]
fn a_homeserver_with_every_key_is_read() {
    let config = sound(FULL);
    let homeserver = &config.homeservers[0];
    assert_eq!(homeserver.federation_host.value.to_string(), "matrix-fed.example.com:9448");
    let servers: Vec<_> = homeserver.upstream.servers.iter().map(|server| server.value.to_string()).collect();
    assert_eq!(servers, ["127.0.0.1:8008", "[::1]:8008", "name:8008", "unix:/run/x.sock"]);
    assert_eq!(homeserver.well_known_client, r#"{"m.homeserver":{"base_url":"https://other.example.com"}}"#);
    assert_eq!(homeserver.well_known_server, r#"{"m.server":"other.example.com:443"}"#);
    assert_eq!(
        homeserver.well_known_support.as_deref(),
        Some(r#"{"support_page":"https://example.com/help"}"#)
    );
}

#[test]
fn listeners_certificates_and_routes_are_read() {
    let config = sound(FULL);
    let [client, federation, redirect] = &config.listeners[..] else { panic!("{config:?}") };
    assert_eq!((client.role, client.tls), (Role::Client, true));
    assert_eq!(client.admin_from, ["127.0.0.0/8".parse().unwrap()]);
    assert_eq!(federation.address.value, SocketAddr::from(([0, 0, 0, 0], 8448)));
    assert_eq!((redirect.role, redirect.tls), (Role::Redirect, false));
    let balancers = ["10.0.0.0/8", "192.0.2.1/32"].map(|network| network.parse().unwrap());
    assert_eq!(federation.proxy_protocol_from.as_deref(), Some(&balancers[..]));
    assert_eq!(client.proxy_protocol_from, None);
    assert_eq!(config.certificates[0].chain, Path::new("/etc/ringfence/fullchain.pem"));
    assert_eq!(config.certificates[0].key, Path::new("/keys/privkey.pem"));
    let [route] = &config.routes[..] else { panic!("{config:?}") };
    assert_eq!((route.hosts.join(","), route.path.value.as_str()), ("example.com".to_owned(), "/"));
    assert_eq!(route.body_bytes_max, Some(104_857_600));
    let Authorities::File(file) = &route.upstream.authorities else { panic!("{route:?}") };
    assert_eq!(file.value, Path::new("/etc/ringfence/chat.pem"));
    let name = |index: usize| route.upstream.tls_name(&route.upstream.servers[index].value);
    assert_eq!((name(0), name(1)), ("other.internal".try_into().ok(), None));
    assert!(route.upstream.speaks_tls() && !config.homeservers[0].upstream.speaks_tls());
    assert_eq!(config.homeservers[0].upstream.authorities, Authorities::System);
    let (of_homeserver, of_route) = (&config.homeservers[0].upstream, &route.upstream);
    assert!(of_route.send_proxy_protocol && !of_homeserver.send_proxy_protocol);
    assert_eq!((of_route.balance, of_homeserver.balance), (Balance::LeastConnections, Balance::RoundRobin));
    assert_eq!((of_route.requests_max, of_homeserver.requests_max), (Some(200), None));
    assert_eq!((&of_route.weights[..], &of_homeserver.weights[..]), (&[3, 1][..], &[1; 4][..]));
    assert_eq!(route.upstream.health_path.as_deref(), Some("/status?brief=1"));
    assert_eq!(config.homeservers[0].upstream.health_path, None);
}

#[test]
fn limits_and_timeouts_are_read() {
    let config = sound(FULL);
    assert_eq!(config.limits.head_bytes_max, 65_536);
    assert_eq!(config.limits.body_bytes_max, 1_048_576);
    assert_eq!((config.limits.field_count_max, config.limits.connections_per_address_max), (200, 10));
    assert_eq!(config.limits.data_rate_min, 2048);
    assert_eq!(config.timeouts.upstream_connect, Duration::from_millis(500));
    assert_eq!(config.timeouts.tunnel_idle, Duration::from_secs(3600));
    assert_eq!(config.timeouts.drain, Duration::from_secs(11));
    assert_eq!(config.timeouts.health_interval, Duration::from_secs(1));
    assert_eq!(config.timeouts.health_wait, Duration::from_secs(1), "never more than the interval");
}

#[test]
fn rate_limits_are_read_and_have_their_defaults() {
    let told = |config: &Config| {
        let limit = |class: EndpointClass| match config.rate_limits.of(class) {
            None => format!("{} off", class.as_str()),
            Some(limit) => {
                format!("{} {}/{:?} {}", class.as_str(), limit.count, limit.period, limit.burst)
            }
        };
        EndpointClass::ALL.map(limit).join(", ")
    };
    let full = sound(FULL);
    assert_eq!(
        told(&full),
        "sync 100/1s 1000, send 30/1s 60, media_up 1/1s 10, media_down 100/1s 500, keys 10/1s 100, \
         login 5/3600s 3, register off, federation_send 100/1s 600, federation_read off, key_server 1/1s 1, \
         well_known 2/1s 2, other 1000/60s 100000"
    );
    let exempt: Vec<_> = full.rate_limits.exempt.iter().map(ToString::to_string).collect();
    assert_eq!(exempt, ["192.0.2.0/24", "2001:db8::/32"]);
    let absent = sound(EIGHT_LINES);
    assert_eq!(
        told(&absent),
        "sync off, send off, media_up off, media_down off, keys off, login 20/60s 20, register 10/60s 10, \
         federation_send 50/1s 300, federation_read 50/1s 300, key_server 20/1s 100, well_known off, other off"
    );
    assert!(absent.rate_limits.exempt.is_empty());
}

#[test]
fn delegation_takes_every_form() {
    for (keys, client, server) in [
        ("", "https://example.com", "example.com:443"),
        ("public_host = \"m.example.com\"", "https://m.example.com", "m.example.com:443"),
        ("public_host = \"m.example.com:8443\"", "https://m.example.com:8443", "m.example.com:8443"),
        ("federation_host = \"f.example.com:9448\"", "https://example.com", "f.example.com:9448"),
        // A name without a port is looked for at 8448 by other servers.
        ("federation_host = \"f.example.com\"", "https://example.com", "f.example.com:8448"),
        (
            "public_host = \"m.example.com\"\nfederation_host = \"192.0.2.1:8448\"",
            "https://m.example.com",
            "192.0.2.1:8448",
        ),
    ] {
        let config = sound(&homeserver("example.com", keys));
        let homeserver = &config.homeservers[0];
        let expected = format!(r#"{{"m.homeserver":{{"base_url":"{client}"}}}}"#);
        assert_eq!(homeserver.well_known_client, expected, "{keys}");
        assert_eq!(homeserver.well_known_server, format!(r#"{{"m.server":"{server}"}}"#), "{keys}");
    }
}

#[test]
fn a_server_name_may_be_an_address_with_a_port() {
    let config = sound(&homeserver("127.0.0.1:18448", ""));
    let homeserver = &config.homeservers[0];
    assert_eq!(homeserver.well_known_client, r#"{"m.homeserver":{"base_url":"https://127.0.0.1:18448"}}"#);
    assert_eq!(homeserver.well_known_server, r#"{"m.server":"127.0.0.1:18448"}"#);
    assert_eq!(homeserver.host_keys().collect::<Vec<_>>(), ["127.0.0.1"; 3]);
}

#[test]
fn an_overridden_document_may_have_more_keys() {
    let rtc = r#"{"m.homeserver":{"base_url":"https://m.example.com"},"org.matrix.msc4143.rtc_foci":[]}"#;
    let config = sound(&homeserver("example.com", &format!("well_known_client = '''{rtc}'''")));
    assert_eq!(config.homeservers[0].well_known_client, rtc);
}

#[test]
fn several_homeservers_stand_side_by_side() {
    let text = format!(
        "{}{}",
        homeserver("a.example", "public_host = \"m.a.example\""),
        one_homeserver("b.example", "")
    );
    let config = sound(&text);
    let names: Vec<_> =
        config.homeservers.iter().map(|homeserver| homeserver.server_name.value.to_string()).collect();
    assert_eq!(names, ["a.example", "b.example"]);
}

#[test]
fn listeners_on_free_ports_and_on_two_addresses_do_not_collide() {
    let listener = |address| format!("[[listener]]\naddress = \"{address}\"\ntls = false\n");
    let addresses = ["127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:8080", "127.0.0.2:8080", "[::1]:8080"];
    let text: String = addresses.into_iter().map(listener).collect();
    let config = sound(&format!("{}{text}", one_homeserver("a.example", "")));
    assert_eq!(config.listeners.len(), addresses.len());
    assert!(config.listeners.iter().all(|listener| listener.role == Role::Client));
}

/// A whole file without TLS.
fn homeserver(server_name: &str, keys: &str) -> String {
    let listener = "[[listener]]\naddress = \"127.0.0.1:0\"\ntls = false\n";
    format!("{listener}{}", one_homeserver(server_name, keys))
}

fn one_homeserver(server_name: &str, keys: &str) -> String {
    format!("[[homeserver]]\nserver_name = \"{server_name}\"\nupstream = \"http://127.0.0.1:8008\"\n{keys}\n")
}
