//! The access log for those who read it: what it tells of whom, in which format, and what it never tells.

use std::process::Command;

use ringfence_tests::{Origin, Proxy};

/// One of each layout that there is.
const LAYOUTS: [&str; 6] = [
    "access_log_format = \"text\"",
    "access_log_format = \"json\"",
    "access_log_format = \"combined\"",
    "access_log_format = \"text\"\naccess_log_targets = \"full\"",
    "access_log_format = \"json\"\naccess_log_targets = \"full\"",
    "access_log_format = \"combined\"\naccess_log_targets = \"full\"",
];

#[test]
fn no_layout_writes_a_secret_of_a_target_or_referer() {
    let origin = Origin::answering("");
    for layout in LAYOUTS {
        let proxy = Proxy::to(&origin).server(layout).start();
        let targets = [
            "/_matrix/client/v3/sync?access_token=SEKRIT&timeout=0",
            "/_matrix/client/v3/sync?timeout=0&access%5Ftoken=SEKRIT",
            "/_matrix/client/v3/sync?%61%63%63%65%73%73%5f%74%6f%6b%65%6e=SEKRIT",
            "/_matrix/client/v3/sync&access_token=SEKRIT",
            "/?loginToken=SEKRIT",
            "/_synapse/client/oidc/callback?code=SEKRIT&state=SEKRIT",
            "/_matrix/client/v3/login/sso/redirect?redirectUrl=https%3A%2F%2Fa%2F%3FloginToken%3DSEKRIT",
            "http://a/_matrix/media/v3/download/a/b?access_token=SEKRIT",
            // Refused before they are routed.
            "/_matrix/x?access_token=SEKRIT#",
        ];
        for target in targets {
            let referer = "https://a/?loginToken=SEKRIT";
            proxy.client().request(format!("GET {target} HTTP/1.1\r\nHost: a\r\nReferer: {referer}\r\n\r\n"));
        }
        let lines = proxy.access_log(targets.len());
        assert_eq!(lines.len(), targets.len(), "{lines:#?}");
        assert!(!lines.concat().contains("SEKRIT"), "{layout}: {lines:#?}");
        assert!(lines[0].contains("sync?access_token=<redacted>&timeout=0"), "{layout}: {}", lines[0]);
    }
}

#[test]
fn lines_tell_the_endpoint_and_no_room_unless_asked_to() {
    let origin = Origin::answering("");
    let target = "/_matrix/client/v3/rooms/!room:hs/send/m.room.message/txn7";
    let lines_of = |layout: &str| {
        let proxy = Proxy::to(&origin).server(layout).start();
        proxy.client().request(format!("PUT {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{{}}"));
        proxy.access_log(1).concat()
    };
    for layout in &LAYOUTS[..3] {
        let line = lines_of(layout);
        assert!(line.contains("/_matrix/client/v3/rooms/*/send/m.room.message/*"), "{line}");
        assert!(!line.contains("room:hs") && !line.contains("txn7"), "{line}");
    }
    for layout in &LAYOUTS[3..] {
        assert!(lines_of(layout).contains(target));
    }
    assert!(lines_of(LAYOUTS[0]).contains(" class=send "));
    let json: serde_json::Value = serde_json::from_str(&lines_of(LAYOUTS[1])).expect("a line is JSON");
    assert_eq!((&json["class"], &json["client"]), (&"send".into(), &"127.0.0.1".into()));
}

#[test]
fn combined_lines_name_the_client_that_trusted_proxies_name() {
    let origin = Origin::answering("12345");
    let proxy = Proxy::to(&origin)
        .top("trusted_proxies = [\"127.0.0.1\"]")
        .server("access_log_format = \"combined\"")
        .start();
    proxy.client().request(
        "GET /_matrix/client/versions HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 2001:db8::7\r\n\
         User-Agent: Element \"X\"\r\nReferer: https://app.example.com/\r\n\r\n",
    );
    let line = proxy.access_log(1).concat();
    let (before, rest) = line.split_once('[').expect("a time in brackets");
    let (time, after) = rest.split_once("] ").expect("a time in brackets");
    assert_eq!(before, "2001:db8::7 - - ");
    assert!(time.len() == "10/Oct/2000:13:55:36 +0000".len() && time.ends_with(" +0000"), "{time}");
    assert_eq!(
        after,
        "\"GET /_matrix/client/versions HTTP/1.1\" 200 5 \"https://app.example.com/\" \"Element \\x22X\\x22\""
    );
}

#[test]
fn goaccess_reads_combined_lines() {
    if Command::new("goaccess").arg("--version").output().is_err() {
        return println!("not tested: there is no goaccess (Debian's package of that name)");
    }
    let origin = Origin::answering("12345");
    let proxy = Proxy::to(&origin).server("access_log_format = \"combined\"").start();
    let mut client = proxy.client();
    for target in ["/_matrix/client/v3/sync?timeout=0", "/nowhere", "/_matrix/a\"b\\c?d=%22\"", "/"] {
        client.request(format!("GET {target} HTTP/1.1\r\nHost: a\r\nUser-Agent: a\"b\\c \u{e9}\r\n\r\n"));
    }
    let lines = proxy.access_log(4);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (log, report) = (folder.path().join("access.log"), folder.path().join("report.json"));
    std::fs::write(&log, lines.join("\n") + "\n").expect("the log is written");
    let output = Command::new("goaccess")
        .arg(&log)
        .args(["--log-format=COMBINED", "--no-global-config", "-o"])
        .arg(&report)
        .env("HOME", folder.path())
        .output()
        .expect("goaccess runs");
    assert!(output.status.success(), "{output:?}");
    let text = std::fs::read_to_string(&report).expect("a report");
    let report: serde_json::Value = serde_json::from_str(&text).expect("a report in JSON");
    let general = &report["general"];
    assert_eq!(
        (&general["valid_requests"], &general["failed_requests"]),
        (&4.into(), &0.into()),
        "{general}"
    );
}
