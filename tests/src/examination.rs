//! What `ringfence doctor` finds in a deployment on loopback.

use std::net::SocketAddr;

use serde_json::Value;

use crate::Authority;
use crate::place::Place;
use crate::proxy::ringfence;

/// What was found.
#[derive(Debug)]
pub struct Found {
    /// What it printed.
    pub json: Value,
    /// Its exit status.
    pub status: i32,
}

impl Found {
    /// Every check with this id.
    pub fn checks(&self, id: &str) -> Vec<&Value> {
        let checks = self.json["checks"].as_array().expect("a list of checks");
        checks.iter().filter(|check| check["id"] == id).collect()
    }

    /// Every id with this verdict, once.
    pub fn ids(&self, verdict: &str) -> Vec<&str> {
        let checks = self.json["checks"].as_array().expect("a list of checks");
        let mut ids: Vec<_> = checks.iter().filter(|check| check["verdict"] == verdict).collect();
        ids.dedup_by_key(|check| check["id"].clone());
        ids.iter().filter_map(|check| check["id"].as_str()).collect()
    }

    /// There is this fault and no other, and the advice for `proxy` has this text.
    pub fn assert_only(&self, id: &str, proxy: &str, advice: &str) {
        assert_eq!(self.status, 1, "{:#}", self.json);
        let mut faults = self.ids("fault");
        faults.dedup();
        assert!(
            !faults.is_empty() && faults.iter().all(|fault| *fault == id),
            "{faults:?} in {:#}",
            self.json
        );
        self.assert_advises(id, proxy, advice);
    }

    /// The line that `proxy` is told to change, by what was found by this check; empty when there is none.
    #[must_use]
    pub fn line(&self, id: &str, proxy: &str) -> &str {
        let is_faulty = |check: &&&Value| check["verdict"] == "fault" || check["verdict"] == "warning";
        let checks = self.checks(id);
        let lines = checks.iter().find(is_faulty).map(|check| &check["advice"]["lines"][proxy]);
        lines.and_then(Value::as_str).unwrap_or_default()
    }

    /// The advice for `proxy` on what was found by this check has this text.
    pub fn assert_advises(&self, id: &str, proxy: &str, advice: &str) {
        let line = self.line(id, proxy);
        assert!(line.contains(advice), "{id}: {proxy} is told {line:?}, not {advice:?}: {:#}", self.json);
    }
}

/// Examines `example.com` where these ports of it are.
pub fn examine(ports: &[(&str, u16, SocketAddr)], more: &[&str]) -> Found {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, Authority::shared().pem()).expect("a file in the temporary folder");
    let resolve: Vec<String> =
        ports.iter().map(|(host, port, address)| format!("{host}:{port}:{address}")).collect();
    let mut arguments = vec!["doctor", "example.com", "--json", "--ca"];
    arguments.push(authority.to_str().expect("a path in UTF-8"));
    arguments.extend(resolve.iter().flat_map(|resolve| ["--resolve", resolve]));
    arguments.extend(more);
    let output = ringfence(&arguments);
    let json = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&output.stderr)));
    Found { json, status: output.status.code().expect("an exit status") }
}

/// Every port of both names at one address; port 80 is where nobody listens.
pub fn everywhere(address: SocketAddr) -> Vec<(&'static str, u16, SocketAddr)> {
    let nobody = Place::v4();
    let hosts = ["example.com", "matrix.example.com"];
    let mut ports: Vec<_> =
        hosts.iter().flat_map(|host| [443, 8448].map(|port| (*host, port, address))).collect();
    ports.push(("matrix.example.com", 80, nobody.address()));
    ports
}
