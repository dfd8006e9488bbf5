//! The words of `ringfence explain`.

use std::{fmt::Write, net::IpAddr};

use ipnet::IpNet;
use ringfence_forward::{
    explain::{Asker, Explanation, Outcome, Reason, Verdict},
    respond::Refusal,
    snapshot::{self, Balance, Snapshot, contains},
};
use ringfence_matrix::{EndpointClass, classify};

use super::question::Asked;
use crate::{
    config::{Config, Listener, Place, Role, Route, format_duration, format_size},
    presets,
    routing::{self, Entry, Site, Target},
};

/// Everything that can be said about a request: what leads to the decision first, then what comes of it.
pub(super) fn report(
    config: &Config,
    snapshot: &Snapshot,
    asked: &Asked,
    explanation: &Explanation,
) -> String {
    let about = About { config, snapshot, asked, explanation };
    let mut text = String::new();
    let facts = [
        ("request", vec![about.request()]),
        ("listener", vec![about.listener()]),
        ("client", about.client()),
        ("host", vec![about.host()]),
        ("class", vec![about.class()]),
        ("rule", about.rules()),
        ("outcome", vec![about.outcome()]),
        ("limits", about.limits()),
        ("timeouts", about.timeouts()),
    ];
    for (name, lines) in facts {
        for (index, line) in lines.iter().enumerate() {
            let label = if index == 0 { name } else { "" };
            // Writing to a String cannot fail.
            let _ = writeln!(text, "{label:<10} {line}");
        }
    }
    about.write_message(&mut text);
    for warning in about.warnings() {
        let _ = writeln!(text, "\nwarning: {warning}");
    }
    text
}

struct About<'a> {
    config: &'a Config,
    snapshot: &'a Snapshot,
    asked: &'a Asked,
    explanation: &'a Explanation,
}

impl About<'_> {
    fn request(&self) -> String {
        let line = self.asked.head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        shown(line)
    }

    fn listener(&self) -> String {
        let listener = self.config_listener();
        let transport = if listener.tls { "TLS" } else { "plain HTTP" };
        let address = listener.address.value;
        format!("{address}, {}, {transport} ({})", listener.role.as_str(), self.asked.listener_reason)
    }

    fn config_listener(&self) -> &Listener {
        &self.config.listeners[self.asked.listener]
    }

    /// Whom the homeserver is told of, and whose word that is.
    fn client(&self) -> Vec<String> {
        let peer = self.asked.peer;
        let Some(asker) = &self.explanation.asker else { return vec![peer.to_string()] };
        let trusted = network_of(&self.config.trusted_proxies, peer);
        let mut lines = vec![match trusted {
            None => {
                format!("{peer}, as it connects: no trusted proxy, so nothing it says of others is believed")
            }
            Some(network) if asker.address == peer => {
                format!("{peer}, as it connects: in trusted_proxies ({network}), and it names nobody else")
            }
            Some(network) => {
                format!("{}, as {peer} says, which is in trusted_proxies ({network})", asker.address)
            }
        }];
        if !asker.is_certain {
            lines
                .push("X-Forwarded-For has something that is no address, so nobody is privileged".to_owned());
        }
        lines
    }

    /// Which site, and who claims its host.
    fn host(&self) -> String {
        let host = &self.asked.host;
        let Some(site) = self.explanation.site else {
            return match self.explanation.asker {
                None => format!("{host}, not looked at"),
                Some(_) => format!("{host}: nobody claims it, and strict_hosts refuses such hosts"),
            };
        };
        match site {
            (_, true) => format!("{host}: {}", self.claimant()),
            (_, false) => format!(
                "{host}: nobody claims it, so it is served as the first homeserver's, {}",
                self.config.homeservers[0].server_name.value
            ),
        }
    }

    /// Which key of the file claims the host.
    fn claimant(&self) -> String {
        let host = host_key(&self.asked.host);
        for homeserver in &self.config.homeservers {
            if let Some((key, name)) =
                homeserver.names().into_iter().find(|(_, name)| name.value.host_key() == host)
            {
                return format!(
                    "{key} of homeserver {}, {}",
                    homeserver.server_name.value,
                    self.place(name.place)
                );
            }
        }
        let route = self.config.routes.iter().find(|route| route.hosts.contains(&host));
        route.map_or_else(
            || "claimed by the file".to_owned(),
            |route| format!("named by the route {}, {}", route.path.value, self.place(route.path.place)),
        )
    }

    fn place(&self, place: Place) -> String {
        let file = self.config.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // What is missing has no place of its own.
        if place == Place::FILE { format!("{file}, by default") } else { format!("{file}:{}", place.line) }
    }

    fn class(&self) -> String {
        self.endpoint_class().as_str().to_owned()
    }

    fn endpoint_class(&self) -> EndpointClass {
        classify(self.asked.method.as_bytes(), &self.explanation.path)
    }

    /// The rule that decides, and those passed over on the way to it.
    fn rules(&self) -> Vec<String> {
        let Some((index, _)) = self.explanation.site else { return vec!["none is asked".to_owned()] };
        if self.config_listener().role == Role::Redirect {
            return vec!["none is asked: the listener redirects".to_owned()];
        }
        let sites = routing::sites(self.config);
        let site = &sites[index];
        let mut lines = Vec::new();
        let mut others: Vec<&str> = Vec::new();
        let mut taken = None;
        for ((entry, _), verdict) in presets::rules(self.config, site).zip(&self.explanation.verdicts) {
            match (entry, verdict) {
                (_, Verdict::Taken) => taken = Some(entry),
                (None, Verdict::Privileged) => lines.push(format!("passed over: {}", self.guard_open())),
                (None, _) => lines.push("passed over: the guard of admin paths, this is none".to_owned()),
                (Some(entry), Verdict::OtherMethod) if entry.path.as_bytes() == self.explanation.path => {
                    lines.push(format!("passed over: {} for another method", entry.path));
                }
                (Some(entry), _) if others.last() != Some(&entry.path) => others.push(entry.path),
                (Some(_), _) => {}
            }
        }
        lines.dedup();
        if !others.is_empty() {
            lines.push(format!("passed over: {}, other paths", others.join(" ")));
        }
        lines.insert(0, taken.map_or_else(|| no_rule(site), |entry| self.taken(entry)));
        lines
    }

    fn taken(&self, entry: Option<&Entry<'_>>) -> String {
        let Some(entry) = entry else { return self.guard_closed() };
        let path = entry.path;
        match entry.target {
            Target::Route(index) => {
                format!("{path} and below, [[route]] at {}", self.place(self.config.routes[index].path.place))
            }
            Target::Homeserver(index) => format!("{path} and below, homeserver {}", self.server_name(index)),
            Target::Admin(index) => {
                format!("{path} and below, admin paths of homeserver {}", self.server_name(index))
            }
            Target::Document(Some(_)) => format!("{path}, a discovery document"),
            Target::Document(None) => format!("{path}, a discovery document that the file does not give"),
        }
    }

    fn server_name(&self, index: usize) -> String {
        self.config.homeservers[index].server_name.value.to_string()
    }

    fn guard_open(&self) -> String {
        let network =
            self.asker().and_then(|asker| network_of(&self.config_listener().admin_from, asker.address));
        let network = network.map(|network| format!(" ({network})")).unwrap_or_default();
        format!("the guard of admin paths, open to this client by the listener's admin_from{network}")
    }

    fn guard_closed(&self) -> String {
        let listener = self.config_listener();
        let Some(asker) = self.asker() else { return "the guard of admin paths".to_owned() };
        let why = match listener.admin_from.as_slice() {
            [] => "the listener has no admin_from, so they are closed to everyone".to_owned(),
            _ if !asker.is_certain => "the client is not known for certain".to_owned(),
            networks => {
                let networks: Vec<_> = networks.iter().map(ToString::to_string).collect();
                format!("{} is not in the listener's admin_from ({})", asker.address, networks.join(", "))
            }
        };
        format!("the guard of admin paths: {why}")
    }

    fn asker(&self) -> Option<&Asker> {
        self.explanation.asker.as_ref()
    }

    fn outcome(&self) -> String {
        match &self.explanation.outcome {
            Outcome::Forwarded { upstream, .. } => {
                let configured = routing::upstreams(self.config).nth(*upstream);
                let upstream = &self.snapshot.upstreams[*upstream];
                let servers: Vec<_> = upstream.servers.iter().map(named).collect();
                let turns = match upstream.balance {
                    _ if servers.len() == 1 => "",
                    Balance::RoundRobin => ", in turn",
                    Balance::LeastConnections => ", the one with the fewest requests",
                };
                let first = match configured.and_then(|upstream| upstream.health_path.as_ref()) {
                    Some(path) => format!(", those first that are well at {path}"),
                    None => String::new(),
                };
                format!("forwarded to {}{turns}{first}", servers.join(", "))
            }
            Outcome::Answered { reason, head, .. } => {
                let status = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
                let status = shown(status.strip_prefix(b"HTTP/1.1 ").unwrap_or(status));
                let why = match reason {
                    Reason::Malformed(error) => format!("the head is refused: {error}"),
                    Reason::Refused(refusal) => refusal.message().trim_end_matches('.').to_owned(),
                    Reason::Redirect => "the listener sends everyone to https".to_owned(),
                    Reason::Answer => "no homeserver is asked".to_owned(),
                };
                format!("answered by ringfence: {status} ({why})")
            }
        }
    }

    /// What the request may bring. Limits that are kept elsewhere stand there: connections with `check`.
    fn limits(&self) -> Vec<String> {
        let limits = &self.config.limits;
        let head = format!(
            "head {} in up to {} field lines",
            format_size(limits.head_bytes_max),
            limits.field_count_max
        );
        let body = format!("body {} by {}", format_size(self.explanation.content_max), self.body_key());
        match &self.explanation.outcome {
            Outcome::Forwarded { .. }
            | Outcome::Answered { reason: Reason::Refused(Refusal::ContentTooLarge), .. } => {
                let request = [format!("{head}, {body}"), self.rate_limit()];
                request.into_iter().chain(self.cap()).collect()
            }
            Outcome::Answered { .. } if self.explanation.is_limited => vec![head, self.rate_limit()],
            Outcome::Answered { .. } => vec![head],
        }
    }

    /// How many requests the servers may have.
    fn cap(&self) -> Option<String> {
        let Outcome::Forwarded { upstream, .. } = &self.explanation.outcome else { return None };
        let max = self.snapshot.upstreams[*upstream].requests_max?;
        Some(format!(
            "{max} requests for each server, {} more wait up to {}",
            self.config.limits.queue_max,
            format_duration(self.config.timeouts.queue)
        ))
    }

    /// Where the file says how long a body may be: the route that is taken, if it says so itself.
    fn body_key(&self) -> String {
        let route = self.taken_route().filter(|route| route.body_bytes_max.is_some());
        route.map_or_else(
            || "[limits] body_bytes_max".to_owned(),
            |route| format!("body_bytes_max of the [[route]] at {}", self.place(route.path.place)),
        )
    }

    fn taken_route(&self) -> Option<&Route> {
        let sites = routing::sites(self.config);
        let (index, _) = self.explanation.site?;
        let mut verdicts = presets::rules(self.config, &sites[index]).zip(&self.explanation.verdicts);
        let ((entry, _), _) = verdicts.find(|(_, verdict)| **verdict == Verdict::Taken)?;
        match entry?.target {
            Target::Route(index) => Some(&self.config.routes[index]),
            _ => None,
        }
    }

    /// How often the client may ask for this class of endpoints, or why that is not counted.
    fn rate_limit(&self) -> String {
        let (class, limits) = (self.endpoint_class(), &self.config.rate_limits);
        let key = class.as_str();
        let exempt = self.asker().and_then(|asker| network_of(&limits.exempt, asker.address));
        match (limits.of(class), exempt) {
            (None, _) => format!("no rate limit by [rate_limits] {key} = \"off\""),
            (Some(_), Some(network)) => format!("no rate limit by [rate_limits] exempt, which has {network}"),
            (Some(limit), _) if self.explanation.is_limited => {
                format!("{limit} for each client address by [rate_limits] {key}")
            }
            (Some(_), _) => {
                format!("no rate limit for {}, which [rate_limits] {key} does not count", self.asked.method)
            }
        }
    }

    /// Who waits how long for whom.
    fn timeouts(&self) -> Vec<String> {
        let timeouts = &self.config.timeouts;
        let Outcome::Forwarded { head, .. } = &self.explanation.outcome else { return Vec::new() };
        let mut lines = vec![
            format!(
                "upstream: connect {}, first byte of the answer {}, silence in a body {}",
                format_duration(timeouts.upstream_connect),
                format_duration(timeouts.upstream_first_byte),
                format_duration(timeouts.upstream_silence)
            ),
            format!(
                "client: head {}, silence in a body {}",
                format_duration(timeouts.header_read),
                format_duration(timeouts.downstream_silence)
            ),
        ];
        if field_lines(head).any(|line| name_of(line).eq_ignore_ascii_case("upgrade")) {
            lines.push(format!(
                "tunnel: silence in both directions {}",
                format_duration(timeouts.tunnel_idle)
            ));
        }
        lines
    }

    /// The head that goes on with what changes in it, or the answer.
    fn write_message(&self, text: &mut String) {
        match &self.explanation.outcome {
            Outcome::Forwarded { head, .. } => {
                text.push_str("\nhead as the homeserver gets it (- removed, + added):\n");
                for (sign, line) in changes(&self.asked.head, head) {
                    let _ = writeln!(text, "  {sign} {line}");
                }
            }
            Outcome::Answered { head, content, .. } => {
                text.push_str("\nanswer:\n");
                for line in lines_of(head) {
                    let _ = writeln!(text, "    {}", of_the_moment(line));
                }
                if !content.is_empty() {
                    let _ = writeln!(text, "\n    {}", shown(content));
                }
            }
        }
    }

    /// What is likely not as meant.
    fn warnings(&self) -> Vec<String> {
        let peer = self.asked.peer;
        let Some(network) = network_of(&self.config.trusted_proxies, peer).filter(|_| is_public(peer)) else {
            return Vec::new();
        };
        vec![format!(
            "trusted_proxies has {network}, which holds {peer}: whoever connects from there is whoever it says in \
             X-Forwarded-For, and reaches admin paths by it; name your own proxies only"
        )]
    }
}

/// A server, with what it is worth beside others.
fn named(server: &snapshot::Server) -> String {
    match server.weight {
        1 => server.name.clone(),
        weight => format!("{} (weight {weight})", server.name),
    }
}

fn no_rule(site: &Site<'_>) -> String {
    let routes = if site.entries.iter().any(|entry| matches!(entry.target, Target::Route(_))) {
        "no route and no path of Matrix"
    } else {
        "no path of Matrix"
    };
    format!("none: {routes} is meant; a [[route]] could be added")
}

/// What to print of the bytes of a head: they come from a command line and go to a terminal.
fn shown(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars()
        .map(|char| if char.is_control() { char.escape_default().to_string() } else { char.into() })
        .collect()
}

fn lines_of(head: &[u8]) -> impl Iterator<Item = String> {
    let text = String::from_utf8_lossy(head).into_owned();
    let lines: Vec<_> =
        text.split("\r\n").filter(|line| !line.is_empty()).map(|line| shown(line.as_bytes())).collect();
    lines.into_iter()
}

fn field_lines(head: &[u8]) -> impl Iterator<Item = String> {
    lines_of(head).skip(1)
}

fn name_of(line: String) -> String {
    line.split(':').next().unwrap_or_default().to_owned()
}

/// The lines of both heads in order, each with a sign: what is removed stands where it stood.
fn changes(before: &[u8], after: &[u8]) -> Vec<(char, String)> {
    let mut after = lines_of(after).peekable();
    let mut changes = Vec::new();
    for line in lines_of(before) {
        // Lines that stay keep their order, so that one that is not next was removed.
        match after.next_if_eq(&line) {
            Some(kept) => changes.push((' ', kept)),
            None => changes.push(('-', line)),
        }
    }
    changes.extend(after.map(|line| ('+', of_the_moment(line))));
    changes
}

/// Values that are made anew each time are described instead.
fn of_the_moment(line: String) -> String {
    match line.split_once(": ") {
        Some(("X-Request-ID", _)) => "X-Request-ID: (32 hexadecimal digits, others each time)".to_owned(),
        Some(("Date", _)) => "Date: (the present)".to_owned(),
        _ => line,
    }
}

fn network_of(networks: &[IpNet], address: IpAddr) -> Option<&IpNet> {
    networks.iter().find(|network| contains(std::slice::from_ref(network), address))
}

/// Whether an address is none of those that only stand inside of somebody's network (RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_private() || v4.is_loopback() || v4.is_link_local() || is_shared(v4.octets()))
        }
        IpAddr::V6(v6) => !(v6.is_loopback() || v6.is_unique_local() || v6.is_unicast_link_local()),
    }
}

/// 100.64.0.0/10, which carriers and overlay networks use (RFC 6598).
fn is_shared(octets: [u8; 4]) -> bool {
    octets[0] == 100 && octets[1] & 0xc0 == 64
}

/// `Host` as it is looked up: in lower case, without port and final dot.
fn host_key(host: &str) -> String {
    let host = match host.rfind([':', ']']) {
        Some(at) if host[at..].starts_with(':') => &host[..at],
        _ => host,
    };
    host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase()
}
