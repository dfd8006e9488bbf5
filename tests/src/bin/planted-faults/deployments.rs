//! Faults of a deployment: one changed line in the sound configuration of a real proxy, or another certificate.
#![forbid(unsafe_code)]

mod apache;
mod caddy;
mod haproxy;
mod nginx;

use std::net::SocketAddr;

use ringfence_tests::authority::Certificate;
use ringfence_tests::examination::{Found, everywhere, examine};
use ringfence_tests::homeserver::{Homeserver, TOKEN};
use ringfence_tests::other_proxy::{OtherProxy, Software};
use ringfence_tests::place::Place;
use ringfence_tests::proxy::ProxyBuilder;
use ringfence_tests::{Authority, Origin, Proxy, SECOND, pause};

use crate::{Case, Finding};

/// A proxy of others with a sound configuration, where `ADDRESS` and `FOLDER` stand for what [`OtherProxy`] says, and `ORIGIN`
/// for the homeserver.
struct Deployment {
    software: Software,
    config: &'static str,
    faults: &'static [Fault],
}

/// A fault of it, or a control.
struct Fault {
    name: &'static str,
    planted: Planted,
    /// The checks that tell it; no others may.
    checks: &'static [&'static str],
    /// What the advice names of the line.
    line: &'static str,
}

/// What is done to a sound deployment.
#[derive(Clone, Copy)]
enum Planted {
    /// Nothing.
    Nothing,
    /// This text of the configuration is replaced.
    Line(&'static str, &'static str),
    /// Another certificate is shown.
    Certificate(fn() -> Certificate),
    /// Nobody listens on port 8448.
    NoFederationPort,
    /// As a line, for a fault that shows in a long poll only.
    Patience(&'static str, &'static str),
}

const fn fault(
    name: &'static str,
    planted: Planted,
    checks: &'static [&'static str],
    line: &'static str,
) -> Fault {
    Fault { name, planted, checks, line }
}

const DEPLOYMENTS: [&Deployment; 4] = [&nginx::NGINX, &haproxy::HAPROXY, &caddy::CADDY, &apache::APACHE];

/// Every fault, the control of each proxy before what is planted in it.
pub(crate) fn cases() -> Vec<Case> {
    let case = |deployment: &'static Deployment, fault: &'static Fault| Case {
        name: format!("{}: {}", deployment.software.as_str(), fault.name),
        look: Box::new(|| deployment.look_for(fault)),
    };
    let of =
        |deployment: &'static Deployment| deployment.faults.iter().map(move |fault| case(deployment, fault));
    DEPLOYMENTS.into_iter().flat_map(of).chain(ringfence_cases()).collect()
}

impl Deployment {
    fn look_for(&self, fault: &Fault) -> Result<Finding, String> {
        if self.software.program().is_none() {
            return Err(format!("{} is not installed", self.software.as_str()));
        }
        let origin = homeserver();
        let config = self.planted(fault.planted)?.replace("ORIGIN", &origin.address().to_string());
        let certificate = match fault.planted {
            Planted::Certificate(issue) => issue(),
            _ => Authority::shared().certificate(&NAMES),
        };
        let proxy = OtherProxy::start(self.software, &certificate, &config, &DOCUMENTS);
        let is_slow = matches!(fault.planted, Planted::Patience(..));
        let has_8448 = !matches!(fault.planted, Planted::NoFederationPort);
        let found = look_from_outside(proxy.address, has_8448, is_slow, Some(self.software));
        judge(&found, fault.checks, self.software.as_str(), fault.line)
    }

    /// The configuration with the fault in it.
    fn planted(&self, planted: Planted) -> Result<String, String> {
        match planted {
            Planted::Line(from, to) | Planted::Patience(from, to) => {
                match self.config.matches(from).count() {
                    1 => Ok(self.config.replace(from, to)),
                    count => Err(format!("the sound configuration has {from:?} {count} times")),
                }
            }
            _ => Ok(self.config.to_owned()),
        }
    }
}

/// The stand-in for a homeserver; only a long poll that goes on from somewhere is kept waiting.
fn homeserver() -> Origin {
    let homeserver = Homeserver::default();
    Origin::serving(move |request| {
        if request.head.target().contains("&since=") {
            pause(LONG_POLL_SECONDS * SECOND);
        }
        homeserver.answer(&request.head)
    })
}

/// Longer than the patience that is planted, and shorter than that of the harness, in seconds.
const LONG_POLL_SECONDS: u32 = 5;

fn look_from_outside(
    address: SocketAddr,
    has_8448: bool,
    is_slow: bool,
    software: Option<Software>,
) -> Found {
    let closed = Place::v4();
    let mut ports = everywhere(address);
    if !has_8448 {
        let close = |(_, port, address): &mut (&str, u16, SocketAddr)| {
            if *port == 8448 {
                *address = closed.address();
            }
        };
        ports.iter_mut().for_each(close);
    }
    let mut more = vec!["--token", TOKEN];
    more.extend(is_slow.then_some("--slow"));
    // It is the one that does not name itself.
    if software == Some(Software::Haproxy) {
        more.extend(["--proxy", "haproxy"]);
    }
    examine(&ports, &more)
}

/// Whether those checks and no others found something, and the advice for `proxy` names the line.
fn judge(found: &Found, checks: &[&str], proxy: &str, line: &str) -> Result<Finding, String> {
    let mut ids = [found.ids("fault"), found.ids("warning")].concat();
    ids.sort_unstable();
    ids.dedup();
    let mut expected = checks.to_vec();
    expected.sort_unstable();
    let seen = || {
        let checks: Vec<_> = ids.iter().flat_map(|id| found.checks(id)).collect();
        checks.iter().map(|check| format!("\n         {} {}", check["id"], check["seen"])).collect::<String>()
    };
    if found.json["proxy"] != proxy {
        return Err(format!("the proxy is taken for {}{}", found.json["proxy"], seen()));
    }
    if ids != expected {
        return Err(format!("{ids:?} tell something, and {expected:?} should{}", seen()));
    }
    let Some(first) = checks.first() else {
        let skipped = found.ids("skipped").join(", ");
        return Ok(Finding { by: format!("nothing is found (skipped: {skipped})"), advice: String::new() });
    };
    let advice = found.line(first, proxy);
    match advice.contains(line) {
        true => Ok(Finding { by: checks.join(", "), advice: advice.to_owned() }),
        false => Err(format!("{first}: the advice is {advice:?}, which does not name {line:?}")),
    }
}

/// For the one that does not answer by itself: the discovery documents.
const DOCUMENTS: [(&str, &str); 2] = [
    ("matrix-server", r#"{"m.server":"matrix.example.com:8448"}"#),
    ("matrix-client", r#"{"m.homeserver":{"base_url":"https://matrix.example.com"}}"#),
];

const NAMES: [&str; 2] = ["example.com", "matrix.example.com"];

fn certificate_of_another_name() -> Certificate {
    Authority::shared().certificate(&["example.com", "www.example.com"])
}

fn certificate_of_the_past() -> Certificate {
    Authority::shared().certificate_like(&NAMES, |params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2020, 4, 1);
    })
}

/// As `cert.pem` of certbot: without what vouches for it.
fn certificate_without_its_chain() -> Certificate {
    Authority::shared().intermediate().certificate(&NAMES)
}

/// As `fullchain.pem`.
fn certificate_with_its_chain() -> Certificate {
    let intermediate = Authority::shared().intermediate();
    let leaf = intermediate.certificate(&NAMES);
    Certificate { chain_pem: leaf.chain_pem + &intermediate.pem(), ..leaf }
}

/// What a certificate breaks that nobody believes, for the server name too: the base URL is not known then, so that clients are
/// looked at where the server name leads, which is not `public_baseurl`.
const BELIEVED_BY_NOBODY: &[&str] =
    &["certificate", "well-known-client", "well-known-server", "forwarded-proto"];

/// What ringfence's own file can do to a deployment.
fn ringfence_cases() -> impl Iterator<Item = Case> {
    type Plant = fn(ProxyBuilder) -> ProxyBuilder;
    let faults: [(&str, Plant, &[&str], &str); 7] = [
        ("sound", |proxy| proxy, &[], ""),
        (
            "everyone in trusted_proxies",
            |proxy| proxy.top("trusted_proxies = [\"0.0.0.0/0\"]"),
            &["forwarded-for"],
            "trusted_proxies",
        ),
        (
            "everyone in admin_from",
            |proxy| proxy.first_listener("admin_from = [\"0.0.0.0/0\"]"),
            &["admin-closed"],
            "admin_from",
        ),
        (
            "body_bytes_max below m.upload.size",
            |proxy| proxy.limits("body_bytes_max = \"10 MiB\""),
            &["upload-limit"],
            "body_bytes_max = \"50 MiB\"",
        ),
        (
            "upstream_first_byte below a long poll",
            |proxy| proxy.timeouts("upstream_first_byte = \"2s\""),
            &["long-poll"],
            "upstream_first_byte",
        ),
        ("strict_hosts", |proxy| proxy.top("strict_hosts = true"), &["unknown-host"], "strict_hosts = false"),
        (
            "federation_host without a listener",
            |proxy| proxy.extra("federation_host = \"matrix.example.com:8448\""),
            &["connect"],
            "role = \"federation\"",
        ),
    ];
    faults.into_iter().map(|(name, plant, checks, line)| Case {
        name: format!("ringfence: {name}"),
        look: Box::new(move || {
            let origin = homeserver();
            let proxy = plant(Proxy::to(&origin).tls()).start();
            let (has_8448, is_slow) = (!checks.contains(&"connect"), checks.contains(&"long-poll"));
            let found = look_from_outside(proxy.address, has_8448, is_slow, None);
            judge(&found, checks, "ringfence", line)
        }),
    })
}
