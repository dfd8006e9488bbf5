//! The report of `ringfence check`.

use std::{fmt::Write, time::SystemTime};

use jiff::Timestamp;
use ringfence_forward::snapshot::Balance;
use ringfence_matrix::{EndpointClass, ServerName};
use ringfence_tls::Certificate;

use super::coverage::{certificate_for, warnings};
use crate::{
    config::{
        AccessLog, Authorities, Config, Homeserver, Listener, RateLimits, Role, Upstream, format_duration,
        format_size,
    },
    routing::{self, Site, Target},
};

/// Everything that a config file means, in sections, with warnings at the end.
pub(super) fn report(config: &Config, certificates: &[Certificate], now: SystemTime) -> String {
    let mut sections = vec![listeners(config)];
    if !certificates.is_empty() {
        sections.push(certificate_list(certificates, now));
    }
    sections.extend(
        config.homeservers.iter().map(|homeserver| homeserver_section(config, homeserver, certificates)),
    );
    sections.extend(
        routing::sites(config).iter().enumerate().map(|(index, site)| site_section(config, site, index)),
    );
    sections.push(process(config));
    let warnings = warnings(config, certificates, now);
    if !warnings.is_empty() {
        sections.push(Section::new("Warnings", warnings.iter().map(|warning| format!("- {warning}"))));
    }
    let mut text = format!("{} is sound.\n", config.file.display());
    for section in &sections {
        section.write(&mut text);
    }
    text
}

/// A heading and the lines below it.
struct Section {
    heading: String,
    lines: Vec<String>,
}

impl Section {
    fn new(heading: impl Into<String>, lines: impl IntoIterator<Item = String>) -> Self {
        Self { heading: heading.into(), lines: lines.into_iter().collect() }
    }

    fn write(&self, text: &mut String) {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\n{}", self.heading);
        for line in &self.lines {
            let _ = writeln!(text, "  {line}");
        }
    }
}

fn listeners(config: &Config) -> Section {
    Section::new("Listeners", config.listeners.iter().map(listener_line))
}

fn listener_line(listener: &Listener) -> String {
    let address = listener.address.value;
    let families = if address.ip().is_unspecified() && address.is_ipv6() { " and IPv4" } else { "" };
    let transport = match (listener.role, listener.tls) {
        (Role::Redirect, _) => "plain HTTP, answered with a redirect to https",
        (_, true) => "TLS",
        (_, false) => "plain HTTP",
    };
    let mut line =
        format!("{:<22} {:<10} {transport}", format!("{address}{families}"), listener.role.as_str());
    if !listener.admin_from.is_empty() {
        let _ = write!(line, ", admin paths from {}", join(&listener.admin_from));
    }
    if let Some(balancers) = &listener.proxy_protocol_from {
        let _ = write!(line, ", PROXY protocol from {} and nobody else", join(balancers));
    }
    line
}

fn certificate_list(certificates: &[Certificate], now: SystemTime) -> Section {
    let lines = certificates.iter().enumerate().flat_map(|(index, certificate)| {
        let default = if index == 0 { ", for peers that name no host" } else { "" };
        [
            format!("{}{default}", certificate.chain_path().display()),
            format!("  until {} for {}", until(certificate, now), join(certificate.names())),
        ]
    });
    Section::new("Certificates", lines)
}

/// The end of a certificate, and how many days that is from now.
fn until(certificate: &Certificate, now: SystemTime) -> String {
    let Ok(end) = Timestamp::try_from(certificate.not_after()) else { return "an unknown date".to_owned() };
    let days = match certificate.not_after().duration_since(now) {
        Ok(left) => format!("in {} days", left.as_secs() / 86_400),
        Err(_) => "over".to_owned(),
    };
    format!("{} ({days})", end.strftime("%Y-%m-%d %H:%M UTC"))
}

fn homeserver_section(config: &Config, homeserver: &Homeserver, certificates: &[Certificate]) -> Section {
    let tls = config.listeners.iter().any(|listener| listener.tls);
    let shown = |name: &ServerName| match certificate_for(certificates, name) {
        Some(certificate) => format!(", certificate {}", certificate.chain_path().display()),
        None if tls => ", no certificate names it".to_owned(),
        None => String::new(),
    };
    let public_host = &homeserver.public_host.value;
    let federation_host = &homeserver.federation_host.value;
    let none = "none (404 M_NOT_FOUND)";
    Section::new(
        format!("Homeserver {}", homeserver.server_name.value),
        [
            format!("clients      {public_host}{}", shown(public_host)),
            format!("federation   {federation_host}{}", shown(federation_host)),
            format!("upstream     {}", servers(config, &homeserver.upstream)),
            format!("well-known   client   {}", homeserver.well_known_client),
            format!("             server   {}", homeserver.well_known_server),
            format!("             support  {}", homeserver.well_known_support.as_deref().unwrap_or(none)),
        ],
    )
}

fn site_section(config: &Config, site: &Site<'_>, index: usize) -> Section {
    let any_other = index == 0 && !config.strict_hosts;
    let hosts = match (site.hosts.is_empty(), any_other) {
        (true, true) => "any host not named below".to_owned(),
        (true, false) => "no host".to_owned(),
        (false, true) => format!("{} and any other host", site.hosts.join(", ")),
        (false, false) => site.hosts.join(", "),
    };
    let lines = site
        .entries
        .iter()
        .filter_map(|entry| target(config, entry.target).map(|to| format!("{:<30} {to}", entry.path)));
    let rest = if site.entries.iter().any(|entry| entry.path == "/") {
        None
    } else {
        Some(format!("{:<30} 404", "all else"))
    };
    Section::new(format!("Routes of {hosts}"), lines.chain(rest))
}

/// Where a path leads, in words; `None` for documents, which stand with their homeserver.
fn target(config: &Config, target: Target<'_>) -> Option<String> {
    let upstream = routing::upstreams(config).nth(target.upstream_index(config)?)?;
    let servers = servers(config, upstream);
    match target {
        Target::Admin(_) if config.listeners.iter().all(|listener| listener.admin_from.is_empty()) => {
            Some("403, closed on every listener".to_owned())
        }
        Target::Admin(_) => Some(format!("{servers}, for the networks in admin_from; 403 for others")),
        Target::Route(index) => {
            let limit = config.routes[index]
                .body_bytes_max
                .map(|bytes| format!(", bodies up to {}", format_size(bytes)));
            Some(format!("{servers}{}", limit.unwrap_or_default()))
        }
        Target::Homeserver(_) | Target::Document(_) => Some(servers),
    }
}

fn process(config: &Config) -> Section {
    let server = &config.server;
    let workers = match server.workers {
        0 => "one per core".to_owned(),
        count => count.to_string(),
    };
    let access_log = match &server.access_log {
        AccessLog::Off => "off".to_owned(),
        AccessLog::Stdout => "stdout".to_owned(),
        AccessLog::File(path) => path.display().to_string(),
    };
    let user = server.user.as_ref().map_or("as started", |user| user.value.as_str());
    let proxies =
        if config.trusted_proxies.is_empty() { "none".to_owned() } else { join(&config.trusted_proxies) };
    let limits = &config.limits;
    Section::new(
        "Process",
        [
            format!("workers      {workers}"),
            format!("user         {user}"),
            format!("access log   {access_log}"),
            format!("proxies      {proxies} believed"),
            format!(
                "limits       bodies up to {}, {} connections",
                format_size(limits.body_bytes_max),
                limits.connections_max
            ),
            format!("rate limits  {}", rate_limits(&config.rate_limits)),
            format!("drain        {}", format_duration(config.timeouts.drain)),
        ],
    )
}

/// The classes that have a limit, and who is exempt.
fn rate_limits(limits: &RateLimits) -> String {
    let limited = |class: EndpointClass| Some(format!("{} {}", class.as_str(), limits.of(class)?));
    let mut parts: Vec<_> = EndpointClass::ALL.into_iter().filter_map(limited).collect();
    if parts.is_empty() {
        return "off".to_owned();
    }
    if !limits.exempt.is_empty() {
        parts.push(format!("but not for {}", join(&limits.exempt)));
    }
    parts.join(", ")
}

fn servers(config: &Config, upstream: &Upstream) -> String {
    let weights = upstream.weights.iter().map(|weight| match weight {
        1 => String::new(),
        weight => format!(" (weight {weight})"),
    });
    let names: Vec<_> =
        upstream.servers.iter().zip(weights).map(|(at, weight)| format!("{}{weight}", at.value)).collect();
    let least = match upstream.balance {
        Balance::LeastConnections if names.len() > 1 => ", the one with the fewest requests",
        _ => "",
    };
    let cap = upstream.requests_max.map(|max| format!(", up to {max} requests each")).unwrap_or_default();
    let told = if upstream.send_proxy_protocol { ", told of clients by the PROXY protocol" } else { "" };
    let verified = match (&upstream.authorities, upstream.speaks_tls()) {
        (_, false) => String::new(),
        (Authorities::System, true) => ", verified by the system's authorities".to_owned(),
        (Authorities::File(file), true) => format!(", verified by {}", file.value.display()),
        (Authorities::Nobody, true) => ", not verified".to_owned(),
    };
    let asked = upstream
        .health_path
        .as_ref()
        .map(|path| format!(", asked for {path} every {}", format_duration(config.timeouts.health_interval)));
    names.join(", ") + &verified + least + &cap + told + &asked.unwrap_or_default()
}

fn join<T: ToString>(items: &[T]) -> String {
    items.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}
