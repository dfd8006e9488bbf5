//! Reports of whole files, with certificates made for the test.

use std::{fs, time::Duration};

use tempfile::TempDir;

use super::*;

/// A folder with `chain.pem` and `key.pem` for these names, and a config file.
fn folder(names: &[&str], text: &str) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let names: Vec<String> = names.iter().map(ToString::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(folder.path().join("chain.pem"), made.cert.pem()).unwrap();
    fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    fs::write(folder.path().join("ringfence.toml"), text).unwrap();
    folder
}

fn report_of(folder: &TempDir, now: SystemTime) -> String {
    let config = config::load(&folder.path().join("ringfence.toml")).unwrap();
    let certificates = look_around(&config).unwrap();
    report::report(&config, &certificates, now)
}

const FILE: &str = r#"
[[homeserver]]
server_name = "example.com"
public_host = "matrix.example.com"
federation_host = "fed.example.com:9448"
upstream = "http://127.0.0.1:8008"
[[certificate]]
chain = "chain.pem"
key = "key.pem"
[[listener]]
address = "[::]:443"
admin_from = ["127.0.0.0/8"]
[[listener]]
address = "0.0.0.0:80"
role = "redirect"
[[route]]
hosts = ["chat.example.com"]
path = "/"
upstream = "unix:/run/chat.sock"
body_bytes_max = "1 MiB"
"#;

#[test]
fn the_report_says_what_listens_and_what_leads_where() {
    let folder = folder(&["example.com", "*.example.com"], FILE);
    let report = report_of(&folder, SystemTime::now());
    for part in [
        "ringfence.toml is sound.",
        "[::]:443 and IPv4      client     TLS, admin paths from 127.0.0.0/8",
        "0.0.0.0:80             redirect   plain HTTP, answered with a redirect to https",
        "chain.pem, for peers that name no host",
        " for example.com, *.example.com",
        "Homeserver example.com",
        "federation   fed.example.com:9448, certificate ",
        r#"well-known   client   {"m.homeserver":{"base_url":"https://matrix.example.com"}}"#,
        "support  none (404 M_NOT_FOUND)",
        "Routes of example.com, matrix.example.com, fed.example.com and any other host",
        "/_matrix                       127.0.0.1:8008",
        "/_synapse/admin                127.0.0.1:8008, for the networks in admin_from; 403 for others",
        "all else                       404",
        "Routes of chat.example.com",
        "rate limits  login 20/min burst 20, register 10/min burst 10, federation_send 50/s burst 300, ",
        "/                              unix:/run/chat.sock, bodies up to 1 MiB",
    ] {
        assert!(report.contains(part), "{part:?} is missing in\n{report}");
    }
    assert!(!report.contains("Warnings"), "{report}");
}

#[test]
fn weights_balance_and_caps_are_told() {
    let upstream = "upstream = [{ url = \"http://127.0.0.1:8008\", weight = 3 }, \"unix:/run/x.sock\"]\n\
        balance = \"least-connections\"\nrequests_max = 50";
    let text = FILE.replace("upstream = \"http://127.0.0.1:8008\"", upstream);
    let report = report_of(&folder(&["matrix.example.com"], &text), SystemTime::now());
    let line = "upstream     127.0.0.1:8008 (weight 3), unix:/run/x.sock, the one with the fewest requests, up to 50 \
        requests each";
    assert!(report.contains(line), "{report}");
}

#[test]
fn hosts_that_no_certificate_names_are_warned_about() {
    let folder = folder(&["matrix.example.com"], FILE);
    let report = report_of(&folder, SystemTime::now());
    assert!(
        report.contains(
            "- no certificate names example.com, the server_name of example.com; add one, or serve"
        )
    );
    assert!(report.contains(
        "- no certificate names fed.example.com, the federation_host of example.com; add one, or peers"
    ));
    assert!(!report.contains("names matrix.example.com"), "{report}");
}

#[test]
fn a_server_name_with_a_port_needs_no_certificate_for_discovery() {
    let text = FILE.replace("server_name = \"example.com\"", "server_name = \"127.0.0.1:8448\"");
    let folder = folder(&["*.example.com"], &text);
    let report = report_of(&folder, SystemTime::now());
    assert!(!report.contains("Warnings"), "{report}");
}

#[test]
fn certificates_for_addresses_cover_them() {
    let text = FILE.replace("matrix.example.com", "[::1]:8443").replace("fed.example.com", "127.0.0.1");
    let folder = folder(&["example.com", "127.0.0.1", "::1"], &text);
    let report = report_of(&folder, SystemTime::now());
    assert!(!report.contains("Warnings"), "{report}");
}

#[test]
fn a_wildcard_covers_one_label() {
    let text = FILE.replace("matrix.example.com", "a.b.example.com");
    let folder = folder(&["example.com", "*.example.com"], &text);
    assert!(report_of(&folder, SystemTime::now()).contains("no certificate names a.b.example.com"));
}

#[test]
fn ended_certificates_and_short_waits_are_warned_about() {
    let text = format!("{FILE}[timeouts]\nupstream_first_byte = \"30s\"\n");
    let folder = folder(&["example.com", "*.example.com"], &text);
    let centuries = Duration::from_secs(86_400 * 365 * 3000);
    let report = report_of(&folder, SystemTime::now() + centuries);
    assert!(report.contains("(over) for example.com"), "{report}");
    assert!(report.contains("expired on "), "{report}");
    assert!(
        report.contains("- timeouts.upstream_first_byte is 30s, which cuts long polls; 1min or more"),
        "{report}"
    );
}

#[test]
fn a_file_that_serves_nothing_is_warned_about() {
    let text = FILE.replace(
        "address = \"[::]:443\"\nadmin_from = [\"127.0.0.0/8\"]",
        "address = \"[::]:81\"\nrole = \"redirect\"",
    );
    let folder = folder(&["example.com"], &text);
    assert!(
        report_of(&folder, SystemTime::now())
            .contains("- every listener is a redirect, so nothing is served")
    );
}

#[test]
fn faults_of_the_machine_are_told_all_at_once() {
    // Too long for a label, which the resolver refuses without asking anyone.
    let name = "a".repeat(64);
    let upstream = "unix:/run/chat.sock\"";
    let text = FILE
        .replace("\"chain.pem\"", "\"absent.pem\"")
        .replace("127.0.0.1:8008", &name)
        .replace(upstream, "https://127.0.0.1:1\"\nupstream_ca = \"no-ca.pem\"");
    let folder = folder(&["example.com"], &text);
    let config = config::load(&folder.path().join("ringfence.toml")).unwrap();
    let problems = look_around(&config).unwrap_err().to_string();
    let lines: Vec<_> = problems.lines().collect();
    assert_eq!(lines.len(), 3, "{problems}");
    assert!(
        lines[0].contains(&format!("ringfence.toml:6:12: upstream {name}:80 has no address")),
        "{problems}"
    );
    assert!(
        lines[1].contains("ringfence.toml:7:1: ") && lines[1].contains("absent.pem: cannot be read"),
        "{problems}"
    );
    assert!(
        lines[2].contains("ringfence.toml:20:15: `upstream_ca`: ")
            && lines[2].contains("no-ca.pem: cannot be read"),
        "{problems}"
    );
}
