//! Which certificate answers for which host, and what is likely not as meant.

use std::{
    net::IpAddr,
    time::{Duration, SystemTime},
};

use ringfence_matrix::ServerName;
use ringfence_tls::Certificate;

use crate::{
    config::{Config, Homeserver, Role, format_duration},
    trust,
};

/// A certificate that ends sooner than this should have been renewed. Let's Encrypt's clients renew the 90 days
/// of a certificate when 30 are left; half of that means that renewal has failed for a while.
const RENEWAL_MARGIN: Duration = Duration::from_secs(14 * 24 * 3600);

/// Clients poll for 30 s by default, and homeservers answer a little later.
const LONG_POLL: Duration = Duration::from_secs(60);

/// The certificate that a peer sees who asks for this host, if one names it.
pub(super) fn certificate_for<'a>(
    certificates: &'a [Certificate],
    host: &ServerName,
) -> Option<&'a Certificate> {
    let key = host.host_key();
    let covers = |covers: &dyn Fn(&str) -> bool| {
        certificates.iter().find(|certificate| certificate.names().iter().any(|name| covers(name)))
    };
    if let Ok(address) = key.trim_matches(['[', ']']).parse::<IpAddr>() {
        return covers(&|name| name.parse() == Ok(address));
    }
    let wildcard = key.split_once('.').map(|(_, parent)| format!("*.{parent}"));
    covers(&|name| name == key).or_else(|| covers(&|name| Some(name) == wildcard.as_deref()))
}

/// What works, but hardly as meant: one sentence each, with what to do.
pub(super) fn warnings(config: &Config, certificates: &[Certificate], now: SystemTime) -> Vec<String> {
    let mut warnings = dates(certificates, now);
    warnings.extend(trust::warnings(config));
    if config.listeners.iter().any(|listener| listener.tls) {
        warnings.extend(config.homeservers.iter().flat_map(|homeserver| uncovered(homeserver, certificates)));
    }
    if config.listeners.iter().all(|listener| listener.role == Role::Redirect) {
        warnings.push(
            "every listener is a redirect, so nothing is served; add one with role = \"client\"".to_owned(),
        );
    }
    if config.timeouts.upstream_first_byte < LONG_POLL {
        let configured = format_duration(config.timeouts.upstream_first_byte);
        warnings.push(format!(
            "timeouts.upstream_first_byte is {configured}, which cuts long polls; {} or more lets them end",
            format_duration(LONG_POLL)
        ));
    }
    warnings
}

/// Certificates that have ended, or will before long.
fn dates(certificates: &[Certificate], now: SystemTime) -> Vec<String> {
    let warning = |certificate: &Certificate| match certificate.validity_problem(now) {
        Some(problem) => Some(problem.to_string()),
        None if certificate.not_after() < now + RENEWAL_MARGIN => {
            Some(format!("{}: ends in less than 14 days; renew it", certificate.chain_path().display()))
        }
        None => None,
    };
    certificates.iter().filter_map(warning).collect()
}

/// Hosts of a homeserver that no certificate names: peers that ask for them will not trust the answer.
fn uncovered(homeserver: &Homeserver, certificates: &[Certificate]) -> Vec<String> {
    let mut warned: Vec<String> = Vec::new();
    let mut warnings = Vec::new();
    for (key, name) in homeserver.names() {
        let host = name.value.host_key();
        // A server name that is an address or has a port is not looked up under /.well-known, and so needs no
        // certificate unless another key repeats it.
        let direct = key == "server_name" && (name.value.is_address() || name.value.port().is_some());
        if direct || warned.contains(&host) || certificate_for(certificates, &name.value).is_some() {
            continue;
        }
        warnings.push(format!(
            "no certificate names {host}, the {key} of {}; {}",
            homeserver.server_name.value,
            remedy(key)
        ));
        warned.push(host);
    }
    warnings
}

fn remedy(key: &str) -> &'static str {
    match key {
        "server_name" => "add one, or serve its /.well-known/matrix documents elsewhere",
        _ => "add one, or peers that connect there will refuse",
    }
}
