//! Requests against the rules that a config file becomes, matched here as the data plane does it.

use std::path::Path;

use super::*;
use crate::config;

const FILE: &str = r#"
trusted_proxies = ["10.0.0.0/8"]
[[homeserver]]
server_name = "example.com"
public_host = "matrix.example.com"
upstream = ["http://127.0.0.1:8008", "unix:/run/x.sock"]
[[listener]]
address = "127.0.0.1:8080"
tls = false
admin_from = ["192.0.2.0/24"]
[[listener]]
address = "127.0.0.1:80"
role = "redirect"
[[route]]
hosts = ["example.com"]
path = "/wiki"
upstream = "http://127.0.0.1:8081"
body_bytes_max = "1 KiB"
"#;

fn built(text: &str) -> Snapshot {
    let config = config::parse(Path::new("test.toml"), text).unwrap();
    snapshot(&config, Vec::new(), None).unwrap()
}

/// What is done with a request: the number of an upstream, or an answer.
fn decide<'s>(snapshot: &'s Snapshot, host: &str, request: &str, privileged: bool) -> Option<&'s Rule> {
    let (method, path) = request.split_once(' ').unwrap();
    let site = &snapshot.sites[snapshot.hosts.get(host.as_bytes()).copied().unwrap_or(0)];
    let method_matches = |methods| match methods {
        MethodMatch::Any => true,
        MethodMatch::Read => matches!(method, "GET" | "HEAD"),
        MethodMatch::Options => method == "OPTIONS",
    };
    site.rules.iter().find(|rule| {
        method_matches(rule.methods)
            && rule.paths.matches(path.as_bytes())
            && !(rule.unprivileged_only && privileged)
    })
}

#[track_caller]
fn upstream_of(rule: Option<&Rule>) -> usize {
    match rule.map(|rule| &rule.action) {
        Some(Action::Forward(upstream)) => *upstream,
        _ => panic!("not forwarded"),
    }
}

#[track_caller]
fn answer_of(rule: Option<&Rule>) -> &Answer {
    match rule.map(|rule| &rule.action) {
        Some(Action::Answer(answer)) => answer,
        _ => panic!("not answered here"),
    }
}

#[test]
fn matrix_paths_go_to_the_homeserver_under_every_host() {
    let snapshot = built(FILE);
    for host in ["example.com", "matrix.example.com", "192.0.2.1"] {
        for request in [
            "GET /_matrix/client/versions",
            "OPTIONS /_matrix/client/v3/sync",
            "GET /_synapse/client/pick_idp",
        ] {
            assert_eq!(upstream_of(decide(&snapshot, host, request, false)), 0, "{host} {request}");
        }
    }
}

#[test]
fn everything_else_is_denied() {
    let snapshot = built(FILE);
    for request in
        ["GET /", "GET /_synapse", "GET /_matrixx", "GET /.well-known/acme-challenge/x", "OPTIONS *"]
    {
        assert!(decide(&snapshot, "matrix.example.com", request, true).is_none(), "{request}");
    }
}

#[test]
fn administrative_paths_are_for_privileged_networks_only() {
    let snapshot = built(FILE);
    for request in [
        "GET /_synapse/admin/v1/users",
        "POST /_palpo/admin",
        "GET /_dendrite/admin",
        "GET /_matrix/..%2f_synapse/admin",
    ] {
        let answer = answer_of(decide(&snapshot, "example.com", request, false));
        assert_eq!(answer.status, 403, "{request}");
        assert!(answer.content.starts_with(br#"{"errcode":"M_FORBIDDEN""#));
        assert_eq!(upstream_of(decide(&snapshot, "example.com", request, true)), 0, "{request}");
    }
    assert_eq!(snapshot.listeners[0].privileged_networks, ["192.0.2.0/24".parse().unwrap()]);
    assert!(snapshot.listeners[1].privileged_networks.is_empty());
}

#[test]
fn discovery_documents_are_answered_here_with_one_origin_line() {
    let snapshot = built(FILE);
    for (request, status, content) in [
        (
            "GET /.well-known/matrix/client",
            200,
            r#"{"m.homeserver":{"base_url":"https://matrix.example.com"}}"#,
        ),
        ("HEAD /.well-known/matrix/server", 200, r#"{"m.server":"matrix.example.com:443"}"#),
        ("OPTIONS /.well-known/matrix/client", 204, ""),
    ] {
        let answer = answer_of(decide(&snapshot, "example.com", request, false));
        assert_eq!((answer.status, &answer.content[..]), (status, content.as_bytes()), "{request}");
        let lines = String::from_utf8(answer.field_lines.to_vec()).unwrap();
        assert_eq!(lines.matches("Access-Control-Allow-Origin: *\r\n").count(), 1, "{request}");
    }
    let absent = answer_of(decide(&snapshot, "example.com", "GET /.well-known/matrix/support", false));
    assert_eq!(absent.status, 404);
    assert!(absent.content.starts_with(br#"{"errcode":"M_NOT_FOUND""#));
    let post = answer_of(decide(&snapshot, "example.com", "POST /.well-known/matrix/client", false));
    assert_eq!(post.status, 405);
    assert!(post.field_lines.ends_with(b"Allow: GET, HEAD, OPTIONS\r\n"));
}

#[test]
fn routes_have_their_upstream_limit_and_style() {
    let snapshot = built(FILE);
    let rule = decide(&snapshot, "example.com", "GET /wiki/page", false);
    assert_eq!(upstream_of(rule), 1);
    assert_eq!(rule.unwrap().body_bytes_max, Some(1024));
    assert_eq!(rule.unwrap().refusal_style, PLAIN_STYLE);
    assert!(decide(&snapshot, "matrix.example.com", "GET /wiki/page", false).is_none());
}

#[test]
fn every_refusal_is_matrix_json_and_carries_cors_in_the_matrix_style_only() {
    let snapshot = built(FILE);
    for refusal in Refusal::ALL {
        for (style, has_cors) in [(MATRIX_STYLE, true), (PLAIN_STYLE, false)] {
            let answer = snapshot.refusals[style].of(refusal);
            let body: serde_json::Value = serde_json::from_slice(&answer.content).unwrap();
            assert!(body["errcode"].as_str().unwrap().starts_with("M_"), "{refusal:?}");
            assert!(!body["error"].as_str().unwrap().is_empty(), "{refusal:?}");
            let lines = String::from_utf8(answer.field_lines.to_vec()).unwrap();
            assert!(lines.starts_with("Content-Type: application/json\r\n"), "{refusal:?}");
            assert_eq!(lines.contains("Access-Control-Allow-Origin: *\r\n"), has_cors, "{refusal:?}");
        }
    }
    let too_large = snapshot.refusals[0].of(Refusal::ContentTooLarge);
    assert_eq!(too_large.status, 413);
    assert!(too_large.content.starts_with(br#"{"errcode":"M_TOO_LARGE""#));
}

#[test]
fn listeners_upstreams_and_proxies_are_handed_on() {
    let snapshot = built(FILE);
    assert!(!snapshot.listeners[0].redirect && snapshot.listeners[1].redirect);
    assert!(snapshot.listeners.iter().all(|listener| listener.tls.is_none()));
    assert_eq!(snapshot.trusted_proxies, ["10.0.0.0/8".parse().unwrap()]);
    let names: Vec<_> = snapshot.upstreams[0].servers.iter().map(|server| server.name.as_str()).collect();
    assert_eq!(names, ["127.0.0.1:8008", "unix:/run/x.sock"]);
    assert!(
        matches!(&snapshot.upstreams[0].servers[1].address, ServerAddress::Unix(path) if path == Path::new("/run/x.sock"))
    );
    assert_eq!(&snapshot.sites[0].host[..], b"matrix.example.com");
}

#[test]
fn what_workers_share_of_a_server_follows_its_name() {
    let before = built(FILE);
    let text = FILE
        .replace(
            "\"http://127.0.0.1:8008\", \"unix:/run/x.sock\"",
            "\"unix:/run/x.sock\", \"unix:/run/y.sock\"",
        )
        .replace("http://127.0.0.1:8081", "unix:/run/x.sock");
    let config = config::parse(Path::new("test.toml"), &text).unwrap();
    let next = snapshot(&config, Vec::new(), Some(&before)).unwrap();
    let servers = |snapshot: &Snapshot, upstream: usize| {
        let servers = snapshot.upstreams[upstream].servers.iter();
        servers.map(|server| (server.name.clone(), Arc::as_ptr(&server.slots))).collect::<Vec<_>>()
    };
    let slots = |snapshot, upstream, server: usize| servers(snapshot, upstream)[server].1;
    assert_eq!(slots(&next, 0, 0), slots(&before, 0, 1));
    assert!(servers(&before, 0).iter().all(|(_, slots)| *slots != servers(&next, 0)[1].1), "it is new");
    assert_ne!(slots(&next, 1, 0), slots(&next, 0, 0), "each upstream has its own cap");
    let queue = |snapshot: &Snapshot, upstream: usize| Arc::as_ptr(&snapshot.upstreams[upstream].queue);
    assert_eq!(queue(&next, 0), queue(&before, 0));
    assert!(queue(&next, 1) != queue(&before, 1) && queue(&next, 1) != queue(&next, 0));
}

#[test]
fn who_meets_a_busy_homeserver_is_told_when_to_come_again() {
    let snapshot = built(FILE);
    for (style, is_readable) in [(MATRIX_STYLE, true), (PLAIN_STYLE, false)] {
        let lines =
            |refusal| String::from_utf8(snapshot.refusals[style].of(refusal).field_lines.to_vec()).unwrap();
        assert!(lines(Refusal::Busy).contains("Retry-After: 5\r\n"));
        assert_eq!(lines(Refusal::Busy).contains(RETRY_CORS_FIELD_LINE), is_readable);
        assert!(!lines(Refusal::Overloaded).contains("Retry-After"));
    }
}

#[test]
fn what_is_known_of_a_servers_health_stays_while_it_is_asked_the_same() {
    let asked = FILE
        .replace("\"unix:/run/x.sock\"]", "\"unix:/run/x.sock\"]\nhealth_path = \"/health\"")
        .replace("path = \"/wiki\"", "path = \"/wiki\"\nhealth_path = \"/\"");
    let followed = |text: &str, before: &Snapshot| {
        let config = config::parse(Path::new("test.toml"), text).unwrap();
        snapshot(&config, Vec::new(), Some(before)).unwrap()
    };
    let health = |snapshot: &Snapshot, upstream: usize, server: usize| {
        snapshot.upstreams[upstream].servers[server].health.clone()
    };
    let before = built(&asked);
    assert!(built(FILE).upstreams[0].servers[0].health.is_none());
    let first = health(&before, 0, 0).unwrap();
    assert_eq!((&*first.host, &*first.path), ("matrix.example.com", "/health"));
    assert_eq!(health(&before, 1, 0).unwrap().host, "example.com", "a route's first host");
    first.changes(true, "status 500".to_owned());
    assert!(before.upstreams[0].servers[0].is_down() && !before.upstreams[0].servers[1].is_down());

    let same = followed(
        &asked.replace("http://127.0.0.1:8008\", ", "http://127.0.0.1:9\", \"http://127.0.0.1:8008\", "),
        &before,
    );
    assert!(Arc::ptr_eq(&health(&same, 0, 1).unwrap(), &first));
    assert!(!same.upstreams[0].servers[0].is_down() && same.upstreams[0].servers[1].is_down());
    let other_path = followed(&asked.replace("\"/health\"", "\"/other\""), &before);
    assert!(!other_path.upstreams[0].servers[0].is_down());
    assert!(followed(FILE, &before).upstreams[0].servers[0].health.is_none());
    let other_way = asked.replacen(
        "health_path = \"/health\"",
        "health_path = \"/health\"\nsend_proxy_protocol = true",
        1,
    );
    assert!(!followed(&other_way, &before).upstreams[0].servers[0].is_down());
}

#[test]
fn a_name_without_an_address_is_told_with_its_place() {
    // Too long for a label, which the resolver refuses without asking anyone.
    let name = "a".repeat(64);
    let text = FILE.replace("http://127.0.0.1:8081", &format!("http://{name}:8081"));
    let config = config::parse(Path::new("test.toml"), &text).unwrap();
    let Err(problems) = resolve(&config) else { panic!("resolved") };
    let message = problems.to_string();
    let expected = format!("test.toml:17:12: upstream {name}:8081 has no address: ");
    assert!(message.starts_with(&expected), "{message}");
}

#[test]
fn defaults_of_the_file_are_those_of_the_data_plane() {
    let snapshot = built(FILE);
    assert_eq!(format!("{:?}", snapshot.limits), format!("{:?}", limits::Limits::default()));
    assert_eq!(format!("{:?}", snapshot.timeouts), format!("{:?}", limits::Timeouts::default()));
}
