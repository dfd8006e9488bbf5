//! `ringfence explain` says what `ringfence run` does, with the same file and no traffic.

use ringfence_tests::proxy::ringfence;
use ringfence_tests::{Client, Message, Origin, Proxy, message};

/// What it prints about a request; the test fails when it refuses.
fn explain(proxy: &Proxy, arguments: &[&str]) -> String {
    let config = proxy.config_file();
    let config = config.to_str().expect("a path in UTF-8");
    let output = ringfence(&[&["explain", "--config", config], arguments].concat());
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// The lines of the head that the homeserver would get, without those that are others each time.
fn explained_head(text: &str) -> Vec<String> {
    let lines = text.lines().skip_while(|line| !line.starts_with("head as the homeserver gets it")).skip(1);
    let sent = lines.filter(|line| !line.starts_with("  - ")).map(|line| line[4..].to_owned());
    sent.filter(|line| !line.starts_with("X-Request-ID: ")).collect()
}

fn send(proxy: &Proxy, method: &str, target: &str, field_lines: &[&str]) -> Message {
    let lines: String = field_lines.iter().map(|line| format!("{line}\r\n")).collect();
    proxy.client().request(format!("{method} {target} HTTP/1.1\r\nHost: matrix.example.com\r\n{lines}\r\n"))
}

#[test]
fn the_explained_head_is_the_one_that_the_origin_gets() {
    let origin = Origin::serving(|_| message::ok("seen"));
    let proxy = Proxy::to(&origin).top("trusted_proxies = [\"127.0.0.2\"]").start();
    let requests: [(&str, &str, &[&str]); 5] = [
        ("GET", "/_matrix/client/v3/directory/room/%23a%2Fb%3Ac//..;x?q=%2F&%zz", &["Accept: */*"]),
        ("GET", "/_matrix/x", &["Connection: keep-alive, x-mine", "X-Mine: 1", "X-Yours: 2"]),
        (
            "GET",
            "/_matrix/x",
            &["X-Forwarded-For: 192.0.2.1", "Forwarded: for=a", "X-Real-IP: b", "Via: 1.0 c"],
        ),
        ("OPTIONS", "/_matrix/x", &["Max-Forwards: 3", "Origin: https://a.example"]),
        ("GET", "/_matrix/x", &["X-Request-ID: mine", "TE: trailers", "Keep-Alive: 5"]),
    ];
    for (index, (method, target, lines)) in requests.into_iter().enumerate() {
        assert_eq!(send(&proxy, method, target, lines).status(), 200);
        let received = origin.received().concat();
        let seen = received.split_inclusive("\r\n\r\n").nth(index).expect("the request was forwarded");
        let seen = seen.trim_end().split("\r\n").filter(|line| !line.starts_with("X-Request-ID: "));
        let mut arguments = vec![method, target, "--client", "127.0.0.1"];
        arguments.extend(lines.iter().flat_map(|line| ["--header", line]));
        let text = explain(&proxy, &arguments);
        assert_eq!(explained_head(&text), seen.collect::<Vec<_>>(), "{text}");
    }
}

#[test]
fn the_explained_answer_is_the_one_that_the_client_gets() {
    let origin = Origin::answering("");
    let proxy =
        Proxy::to(&origin).limits("body_bytes_max = \"1 MiB\"").listener("role = \"redirect\"").start();
    let requests: [(&str, &str, &[&str]); 8] = [
        ("GET", "/_synapse/admin/v1/server_version", &[]),
        ("GET", "/_synapse%2fadmin/v1/server_version", &[]),
        ("GET", "//_matrix/../_synapse/admin", &[]),
        ("GET", "/.well-known/matrix/client", &[]),
        ("POST", "/.well-known/matrix/client", &["Content-Length: 0"]),
        ("GET", "/nothing%2Fhere", &[]),
        ("PUT", "/_matrix/media/v3/upload", &["Content-Length: 1048577"]),
        ("GET", "/a", &["Transfer-Encoding: chunked", "Content-Length: 3"]),
    ];
    for (method, target, lines) in requests {
        let answer = send(&proxy, method, target, lines);
        let mut arguments = vec![method, target];
        arguments.extend(lines.iter().flat_map(|line| ["--header", line]));
        let text = explain(&proxy, &arguments);
        assert!(text.contains(&format!("answered by ringfence: {} ", answer.status())), "{text}");
        assert!(text.contains(&answer.text()), "{text}");
        for (name, value) in &answer.head.fields {
            let is_told = ["date", "x-request-id"].contains(&name.to_ascii_lowercase().as_str())
                || text.contains(&format!("    {name}: {value}\n"));
            assert!(is_told, "{name}: {value} is missing in\n{text}");
        }
    }
    let target = "/a%2Fb//c?d";
    let answer = Client::connect(proxy.addresses[1])
        .request(format!("GET {target} HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n"));
    let text = explain(&proxy, &["GET", target, "--listener", &proxy.addresses[1].to_string()]);
    let location = answer.head.value("location").expect("a redirect");
    assert!(text.contains(&format!("Location: {location}\n")), "{text}");
    assert_eq!(origin.connections(), 0);
}

#[test]
fn nothing_is_sent_and_nothing_but_the_file_is_needed() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("ringfence.toml");
    let config = r#"
        [[homeserver]]
        server_name = "example.com"
        upstream = "http://no-such-name.invalid:8008"
        [[certificate]]
        chain = "missing/chain.pem"
        key = "missing/key.pem"
    "#;
    std::fs::write(&file, config).expect("the configuration is written");
    let file = file.to_str().expect("a path in UTF-8");
    let output = ringfence(&["explain", "GET", "https://example.com:8448/_matrix/x", "-c", file]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("forwarded to no-such-name.invalid:8008"), "{output:?}");

    let refused = ringfence(&["explain", "GET", "/x", "--listener", "127.0.0.1:1", "-c", file]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&refused.stderr).contains("there is no listener 127.0.0.1:1"),
        "{refused:?}"
    );
}

#[test]
fn appended_forwarding_that_everyone_is_believed_for_is_found() {
    let origin = Origin::answering("");
    let careless = r#"trusted_proxies = ["0.0.0.0/0"]"#;
    let proxy = Proxy::to(&origin).top(careless).first_listener("admin_from = [\"10.0.0.0/8\"]").start();
    let spoofed = ["--header", "X-Forwarded-For: 10.0.0.1"];
    let text = explain(&proxy, &[&["GET", "/_synapse/admin/x"][..], &spoofed].concat());
    assert!(text.contains("forwarded to"), "{text}");
    assert!(text.contains("warning: trusted_proxies has 0.0.0.0/0"), "{text}");
}
