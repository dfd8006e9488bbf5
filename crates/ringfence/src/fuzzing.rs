//! What has to be true of every text that stands where a config file should, for `fuzz/`.

use std::{net::IpAddr, path::Path};

use ringfence_forward::snapshot::{Action, PathMatch, Rule, Snapshot};
use ringfence_matrix::ADMIN_PREFIXES;
use ringfence_tls::Certificate;

use crate::{
    config::{self, Config, Problems, UpstreamServer},
    presets, routing,
};

/// The name that the text is given.
const FILE: &str = "a.toml";

/// Reads `text`: the result is the same each time; faults are lines with a place inside of the text; an accepted
/// file becomes rules that lead somewhere, and none that opens an administrative path.
///
/// # Panics
/// When one of these is not true.
pub fn config(text: &str) {
    let read = || config::parse(Path::new(FILE), text);
    let result = read();
    assert_eq!(result, read(), "the same text is read in two ways");
    match result {
        Err(problems) => check_problems(text, &problems),
        Ok(config) => check_config(&config),
    }
}

fn check_problems(text: &str, problems: &Problems) {
    let told = problems.to_string();
    assert!(!told.is_empty(), "refused without a reason");
    for line in told.split('\n') {
        assert!(is_problem(text, line), "{line:?} in {told:?}");
    }
}

/// Whether `line` is `FILE:LINE:COLUMN: what is wrong; what to do`, with a place inside of the text or at its end.
fn is_problem(text: &str, line: &str) -> bool {
    let mut parts = line.splitn(4, ':');
    let (file, place) = (parts.next(), [parts.next(), parts.next()]);
    let [Some(row), Some(column)] =
        place.map(|number| number.and_then(|number| number.parse::<usize>().ok()))
    else {
        return false;
    };
    let message = parts.next().unwrap_or_default();
    let advises = message.contains("; ") || message.starts_with(" this is not TOML: ");
    let row = row.checked_sub(1).and_then(|row| text.split('\n').nth(row));
    let is_inside = row.is_some_and(|row| (1..=row.chars().count() + 1).contains(&column));
    file == Some(FILE) && is_inside && advises && !message.contains(char::is_control)
}

fn check_config(config: &Config) {
    let servers = || routing::upstreams(config).flat_map(|upstream| &upstream.servers);
    let is_at_hand = |server: &UpstreamServer| match server {
        UpstreamServer::Tcp { tls, host, .. } => !tls && host.parse::<IpAddr>().is_ok(),
        UpstreamServer::Unix(_) => true,
    };
    assert!(servers().next().is_some() && !config.listeners.is_empty(), "it serves nothing");
    // Names would be looked up, and files of authorities read.
    if servers().all(|server| is_at_hand(&server.value)) {
        let snapshot =
            presets::snapshot(config, vec![certificate()], None).expect("no file and no name is needed");
        check_snapshot(&snapshot);
    }
}

fn check_snapshot(snapshot: &Snapshot) {
    assert!(snapshot.upstreams.iter().all(|upstream| !upstream.servers.is_empty()), "an upstream of nobody");
    assert!(!snapshot.sites.is_empty(), "no site");
    assert!(snapshot.hosts.values().all(|site| *site < snapshot.sites.len()), "a host without site");
    for site in &snapshot.sites {
        assert!(site.rules.iter().all(|rule| leads_somewhere(snapshot, rule)), "a rule that leads nowhere");
        for prefix in ADMIN_PREFIXES {
            let first = site.rules.iter().find(|rule| rule.paths.matches(prefix.as_bytes()));
            let closed = first.is_some_and(|rule| matches!(rule.action, Action::Answer(_)));
            assert!(closed && first.is_some_and(|rule| rule.unprivileged_only), "{prefix} is open");
        }
    }
}

fn leads_somewhere(snapshot: &Snapshot, rule: &Rule) -> bool {
    let has_target = match &rule.action {
        Action::Forward(upstream) => *upstream < snapshot.upstreams.len(),
        Action::Answer(answer) => (200..=599).contains(&answer.status),
    };
    let has_path = match &rule.paths {
        PathMatch::Prefix(path) | PathMatch::Exact(path) => path.starts_with(b"/"),
        PathMatch::Any | PathMatch::Where(_) => true,
    };
    has_target && has_path && rule.refusal_style < snapshot.refusals.len()
}

/// Some certificate: what the files of a configuration hold is not looked at here.
fn certificate() -> Certificate {
    thread_local! {
        static CERTIFIED: rcgen::CertifiedKey<rcgen::KeyPair> =
            rcgen::generate_simple_self_signed(["example.com".to_owned()]).expect("a certificate");
    }
    CERTIFIED.with(|certified| {
        let (chain, key) = (certified.cert.pem(), certified.signing_key.serialize_pem());
        Certificate::from_pem(chain.as_bytes(), key.as_bytes(), "a certificate").expect("what rcgen made")
    })
}
