use std::path::Path;

use clap::Parser;

use super::*;
use crate::cli::{Cli, Command};

const CONFIG: &str = r#"
trusted_proxies = ["10.0.0.5"]

[[homeserver]]
server_name = "example.com"
public_host = "matrix.example.com"
upstream = ["http://synapse.internal:8008", "unix:/run/synapse.sock"]

[[certificate]]
chain = "/nowhere/chain.pem"
key = "/nowhere/key.pem"

[[listener]]
address = "[::]:443"
admin_from = ["192.0.2.0/24"]

[[listener]]
address = "[::]:8448"
role = "federation"

[[listener]]
address = "0.0.0.0:80"
role = "redirect"

[[route]]
hosts = ["matrix.example.com"]
path = "/web"
upstream = "http://127.0.0.1:9000"
body_bytes_max = "1MiB"
"#;

fn explain_with(text: &str, arguments: &[&str]) -> Result<String, String> {
    let arguments = ["ringfence", "explain"].iter().chain(arguments);
    let Command::Explain(request) = Cli::try_parse_from(arguments).unwrap().command else { unreachable!() };
    let config = config::parse(Path::new("ringfence.toml"), text).unwrap();
    let asked = question::read(&request, &config)?;
    let snapshot = presets::unresolved(&config);
    let explanation = ringfence_forward::explain::explain(&snapshot, &asked.question());
    Ok(report::report(&config, &snapshot, &asked, &explanation))
}

fn explain(arguments: &[&str]) -> String {
    explain_with(CONFIG, arguments).unwrap()
}

fn assert_says(arguments: &[&str], expected: &[&str]) {
    let text = explain(arguments);
    for line in expected {
        assert!(text.contains(line), "{line:?} is not in what is said of {arguments:?}:\n{text}");
    }
}

#[test]
fn a_forwarded_request_is_shown_with_every_change_of_its_head() {
    let text = explain(&[
        "GET",
        "https://Matrix.Example.com/_matrix/client/v3/rooms/%21a%2Fb:x//..?q=%2F",
        "-H",
        "Connection: keep-alive, X-Mine",
        "-H",
        "X-Mine: 1",
        "-H",
        "Accept: */*",
        "-H",
        "X-Forwarded-For: 198.51.100.7",
    ]);
    let expected = r"head as the homeserver gets it (- removed, + added):
    GET /_matrix/client/v3/rooms/%21a%2Fb:x//..?q=%2F HTTP/1.1
    Host: Matrix.Example.com
  - Connection: keep-alive, X-Mine
  - X-Mine: 1
    Accept: */*
  - X-Forwarded-For: 198.51.100.7
  + X-Forwarded-For: 203.0.113.1
  + X-Forwarded-Proto: https
  + X-Request-ID: (32 hexadecimal digits, others each time)
  + Via: 1.1 ringfence
";
    assert!(text.ends_with(expected), "{text}");
    for line in [
        "listener   [::]:443, client, TLS (by the URL's scheme)",
        "client     203.0.113.1, as it connects: no trusted proxy",
        "host       Matrix.Example.com: public_host of homeserver example.com, ringfence.toml:6",
        "rule       /_matrix and below, homeserver example.com",
        "outcome    forwarded to synapse.internal:8008, unix:/run/synapse.sock, in turn",
        "limits     head 32 KiB in up to 100 field lines, body 50 MiB by [limits] body_bytes_max",
        "           no rate limit by [rate_limits] other = \"off\"",
        "first byte of the answer 5m",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn how_servers_share_requests_is_told() {
    let keys = "\"unix:/run/synapse.sock\", { url = \"http://h\", weight = 3 }]\nbalance = \"least-connections\"\n\
        requests_max = 50";
    let text =
        explain_with(&CONFIG.replace("\"unix:/run/synapse.sock\"]", keys), &["GET", "/_matrix/x"]).unwrap();
    for line in [
        "forwarded to synapse.internal:8008, unix:/run/synapse.sock, h:80 (weight 3), the one with the fewest requests",
        "50 requests for each server, 1024 more wait up to 10s",
    ] {
        assert!(text.contains(line), "{line:?} is not in\n{text}");
    }
}

#[test]
fn the_rate_limit_of_the_class_is_told_or_why_there_is_none() {
    let login = "https://matrix.example.com/_matrix/client/v3/login";
    assert_says(
        &["POST", login],
        &[
            "class      login\n",
            "           20/min burst 20 for each client address by [rate_limits] login\n",
        ],
    );
    assert_says(&["GET", login], &["no rate limit for GET, which [rate_limits] login does not count"]);
    let exempt = format!("{CONFIG}\n[rate_limits]\nexempt = [\"192.0.2.0/24\"]\nmedia_up = \"1/h burst 3\"");
    let text = explain_with(&exempt, &["POST", login, "--client", "192.0.2.9"]).unwrap();
    assert!(text.contains("no rate limit by [rate_limits] exempt, which has 192.0.2.0/24"), "{text}");
    let text = explain_with(&exempt, &["POST", "/_matrix/media/v3/upload"]).unwrap();
    assert!(text.contains("class      media_up\n") && text.contains("1/h burst 3 for each client"), "{text}");
}

#[test]
fn the_admin_guard_says_why_it_is_closed_or_open() {
    let path = "https://matrix.example.com//_synapse/%61dmin/v1/server_version";
    assert_says(
        &["GET", path],
        &[
            "rule       the guard of admin paths: 203.0.113.1 is not in the listener's admin_from (192.0.2.0/24)",
            "outcome    answered by ringfence: 403 Forbidden",
            r#"    {"errcode":"M_FORBIDDEN","#,
        ],
    );
    assert_says(
        &["GET", path, "--listener", "8448", "--client", "192.0.2.9"],
        &["the listener has no admin_from, so they are closed to everyone"],
    );
    assert_says(
        &["GET", "/_synapse/admin/v1/server_version", "--client", "192.0.2.9"],
        &[
            "rule       /_synapse/admin and below, admin paths of homeserver example.com",
            "passed over: the guard of admin paths, open to this client by the listener's admin_from (192.0.2.0/24)",
            "outcome    forwarded to",
        ],
    );
}

#[test]
fn a_trusted_proxy_speaks_for_its_client() {
    let header = "X-Forwarded-For: 192.0.2.9";
    assert_says(
        &["GET", "/_synapse/admin/v1/server_version", "--client", "10.0.0.5", "--header", header],
        &[
            "client     192.0.2.9, as 10.0.0.5 says, which is in trusted_proxies (10.0.0.5/32)",
            "forwarded to",
        ],
    );
    let broken = "X-Forwarded-For: nobody";
    assert_says(
        &["GET", "/_synapse/admin/v1/server_version", "--client", "10.0.0.5", "--header", broken],
        &["X-Forwarded-For has something that is no address", "403 Forbidden"],
    );
}

#[test]
fn trust_in_everyone_is_warned_of() {
    let careless = CONFIG.replace("10.0.0.5", "0.0.0.0/0");
    let text = explain_with(&careless, &["GET", "/_matrix/client/versions"]).unwrap();
    assert!(text.contains("warning: trusted_proxies has 0.0.0.0/0, which holds 203.0.113.1"), "{text}");
    assert!(!explain(&["GET", "/_matrix/client/versions"]).contains("warning"));
}

#[test]
fn answers_of_our_own_are_shown_whole() {
    assert_says(
        &["GET", "/.well-known/matrix/server"],
        &[
            "rule       /.well-known/matrix/server, a discovery document",
            "outcome    answered by ringfence: 200 OK",
            "    Access-Control-Allow-Origin: *",
            r#"    {"m.server":"matrix.example.com:443"}"#,
        ],
    );
    assert_says(
        &["PUT", "/.well-known/matrix/server"],
        &["405 Method Not Allowed", "passed over: /.well-known/matrix/server for another method"],
    );
    assert_says(
        &["GET", "http://matrix.example.com/a%2Fb?c"],
        &["none is asked: the listener redirects", "308", "Location: https://matrix.example.com/a%2Fb?c"],
    );
    assert_says(&["GET", "/nothing"], &["rule       none: no route and no path of Matrix", "404 Not Found"]);
}

#[test]
fn limits_and_the_parser_are_the_proxys_own() {
    assert_says(
        &["PUT", "/web/x", "-H", "Content-Length: 1048576"],
        &[
            "forwarded to 127.0.0.1:9000",
            "body 1 MiB by body_bytes_max of the [[route]] at ringfence.toml:27",
        ],
    );
    assert_says(
        &["PUT", "/web/x", "-H", "Content-Length: 1048577"],
        &["413 Content Too Large", "body 1 MiB by"],
    );
    assert_says(
        &["GET", "/_matrix/x", "-H", "Host: a", "-H", "Host: b"],
        &["400 Bad Request", "the head is refused"],
    );
    assert_says(&["GET", "/a b"], &["400 Bad Request"]);
    assert_says(&["OPTIONS", "/_matrix/x", "-H", "Max-Forwards: 0"], &["200 OK"]);
}

#[test]
fn a_host_that_nobody_claims_goes_to_the_first_homeserver_unless_hosts_are_strict() {
    let request = ["GET", "https://elsewhere.example/_matrix/x"];
    assert_says(
        &request,
        &["nobody claims it, so it is served as the first homeserver's, example.com", "forwarded"],
    );
    let strict = format!("strict_hosts = true\n{CONFIG}");
    let text = explain_with(&strict, &request).unwrap();
    assert!(text.contains("strict_hosts refuses such hosts") && text.contains("421 Misdirected"), "{text}");
}

#[test]
fn what_cannot_be_asked_says_what_to_write() {
    for (arguments, advice) in [
        (&["GET", "matrix.example.com/x"][..], "write https://HOST/PATH"),
        (&["GET", "https:///x"], "the host is empty"),
        (&["GET", "https://a@b/x"], "remove everything up to the @"),
        (&["GET", "/x#y"], "write /x"),
        (&["GET", "/x\r\nA: b"], "write it in one line"),
        (&["GET", "/x", "-H", "nothing"], "write 'Name: value'"),
        (&["GET", "/x", "--listener", "9999"], "there is [::]:443, [::]:8448, 0.0.0.0:80"),
        (&["GET", "https://matrix.example.com:9999/x"], "choose one with --listener"),
    ] {
        let error = explain_with(CONFIG, arguments).unwrap_err();
        assert!(error.contains(advice), "{arguments:?}: {error}");
    }
}
