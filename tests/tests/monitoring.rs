//! The dashboard and the alert rules of `deploy/grafana`: they speak of metrics that there are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use ringfence_tests::place::Place;
use ringfence_tests::{Client, Origin, Proxy};

fn grafana() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package of the workspace").join("deploy/grafana")
}

/// Every name that begins like ours and stands where a metric stands: not in prose, where a word follows.
fn names(text: &str) -> BTreeSet<String> {
    let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    let starts =
        text.match_indices("ringfence_").filter(|(at, _)| *at == 0 || !is_name(text.as_bytes()[at - 1]));
    let name = |(at, _): (usize, &str)| {
        text[at..].bytes().take_while(|byte| is_name(*byte)).map(char::from).collect()
    };
    starts.map(name).collect()
}

/// Names that samples have, with the labels of each family, from the text of `/metrics`.
fn exported() -> BTreeSet<String> {
    let place = Place::v4();
    let origin = Origin::answering("");
    let proxy = Proxy::to(&origin).tls().server(&format!("admin = \"{}\"", place.address())).start();
    assert_eq!(proxy.tls_client().get("/_matrix/x").status(), 200);
    let request = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let text = Client::connect(place.address()).request(request).text();
    let mut names = BTreeSet::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').expect("a type");
        let suffixes: &[&str] = match kind {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "info" => &["_info"],
            _ => &[""],
        };
        names.extend(suffixes.iter().map(|suffix| format!("{name}{suffix}")));
    }
    assert!(names.len() > 30, "{names:?}");
    names
}

#[test]
fn dashboard_and_alerts_name_metrics_that_are_exported() {
    let exported = exported();
    for file in ["ringfence.json", "alerts.yml", "alerts.test.yml"] {
        let text = fs::read_to_string(grafana().join(file)).expect("a file of deploy/grafana");
        let used = names(&text);
        assert!(used.len() > 5, "{file}: {used:?}");
        let unknown: Vec<&String> = used.difference(&exported).collect();
        assert_eq!(unknown, Vec::<&String>::new(), "{file} names what /metrics does not export");
    }
}

#[test]
fn the_dashboard_can_be_imported_by_whatever_name_the_data_source_has() {
    let text = fs::read_to_string(grafana().join("ringfence.json")).expect("the dashboard");
    let dashboard: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut ids = BTreeSet::new();
    for panel in panels {
        assert!(ids.insert(panel["id"].as_u64()), "an id comes twice: {}", panel["title"]);
        if panel["type"] != "row" {
            assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
            assert!(!panel["targets"].as_array().expect("targets").is_empty(), "{}", panel["title"]);
        }
    }
    assert!(panels.len() > 20);
}

#[test]
fn promtool_takes_the_alert_rules() {
    let promtool = std::env::var("PROMTOOL").unwrap_or_else(|_| "promtool".to_owned());
    if Command::new(&promtool).arg("--version").output().is_err() {
        return println!("not tested: there is no promtool (Debian's package prometheus)");
    }
    for arguments in [["check", "rules", "alerts.yml"], ["test", "rules", "alerts.test.yml"]] {
        let output =
            Command::new(&promtool).args(arguments).current_dir(grafana()).output().expect("it runs");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }
}
