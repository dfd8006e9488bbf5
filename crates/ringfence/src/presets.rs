//! From a configuration and what is known of Matrix to the plain rules of the data plane.
//!
//! The rules of a site, in their order: the guard before administrative paths, then the entries of
//! [`routing`], longest path first. The guard looks behind every spelling ([`is_admin`]); those who
//! pass it fall through to the entries.

use std::{
    error::Error,
    io,
    net::{SocketAddr, ToSocketAddrs},
    sync::Arc,
};

use bytes::Bytes;
use ringfence_forward::{
    Health, limits,
    respond::{Answer, Refusal, RefusalAnswers},
    snapshot::{
        self, Action, ClassLimit, MethodMatch, PathMatch, Rate, Rule, ServerAddress, ServerTls, Snapshot,
    },
};
use ringfence_matrix::{
    CORS_FIELD_LINES, EndpointClass, ErrorCode, JSON_FIELD_LINE, RETRY_CORS_FIELD_LINE, body, is_admin,
    limit_body,
};
use ringfence_tls::{Certificate, ServerConfig, server_config, server_config_after};

use crate::{
    config::{
        Admin, Config, Limits, Listener, Problem, Problems, RateLimit, RateLimits, Role, Timeouts, Upstream,
        UpstreamServer,
    },
    routing::{self, Entry, Site, Target},
    trust,
};

/// Everything that the workers need. Looks up the names of upstreams on the way.
///
/// What follows the snapshot `before` keeps its listeners, in their places, its ticket keys, and what workers share of its
/// upstreams.
pub(crate) fn snapshot(
    config: &Config,
    certificates: Vec<Certificate>,
    before: Option<&Snapshot>,
) -> Result<Snapshot, Failed> {
    let mut upstreams = resolve(config)?;
    speak_tls(config, &mut upstreams, before)?;
    snapshot::keep_shared(&mut upstreams, before.map_or(&[], |before| &before.upstreams));
    give_health(config, &mut upstreams, before);
    let speaks_tls = config.listeners.iter().any(|listener| listener.tls);
    let tls = speaks_tls.then(|| tls_config(certificates, before)).transpose()?;
    Ok(assemble(config, upstreams, tls.as_ref(), before))
}

/// The same for those who only ask what its rules say: no name is looked up and no certificate is needed, so its
/// servers have no addresses and its listeners no TLS.
pub(crate) fn unresolved(config: &Config) -> Snapshot {
    let upstreams = routing::upstreams(config).map(|upstream| {
        let servers = upstream.servers.iter().zip(&upstream.weights);
        let servers =
            servers.map(|(at, weight)| data_plane_server(&at.value, ServerAddress::Tcp(Vec::new()), *weight));
        data_plane_upstream(upstream, servers.collect())
    });
    assemble(config, upstreams.collect(), None, None)
}

fn assemble(
    config: &Config,
    upstreams: Vec<snapshot::Upstream>,
    tls: Option<&Arc<ServerConfig>>,
    before: Option<&Snapshot>,
) -> Snapshot {
    let sites = routing::sites(config);
    let hosts = sites
        .iter()
        .enumerate()
        .flat_map(|(index, site)| site.hosts.iter().map(move |host| (host.as_bytes().into(), index)));
    Snapshot {
        limits: data_plane_limits(&config.limits),
        timeouts: data_plane_timeouts(&config.timeouts),
        listeners: listeners(config, tls, before),
        upstreams,
        hosts: hosts.collect(),
        sites: sites.iter().map(|site| data_plane_site(config, site)).collect(),
        strict_hosts: config.strict_hosts,
        trusted_proxies: config.trusted_proxies.clone(),
        refusals: vec![matrix_refusals(), plain_refusals()],
        classify,
        measures: config.server.admin != Admin::Off,
        rate_limits: rate_limits(&config.rate_limits),
    }
}

/// An error that may be told by another thread than the one that met it.
pub(crate) type Failed = Box<dyn Error + Send + Sync>;

/// The same with other certificates.
pub(crate) fn with_certificates(
    snapshot: &Snapshot,
    certificates: Vec<Certificate>,
) -> Result<Snapshot, Failed> {
    let tls = tls_config(certificates, Some(snapshot))?;
    let mut next = snapshot.clone();
    for listener in &mut next.listeners {
        listener.tls = listener.tls.take().map(|_| tls.clone());
    }
    Ok(next)
}

fn tls_config(
    certificates: Vec<Certificate>,
    before: Option<&Snapshot>,
) -> Result<Arc<ServerConfig>, Failed> {
    let before =
        before.and_then(|snapshot| snapshot.listeners.iter().find_map(|listener| listener.tls.as_ref()));
    Ok(match before {
        Some(before) => server_config_after(certificates, before)?,
        None => server_config(certificates)?,
    })
}

/// Those of `before` in their places, whatever has become of them, and new ones behind.
fn listeners(
    config: &Config,
    tls: Option<&Arc<ServerConfig>>,
    before: Option<&Snapshot>,
) -> Vec<snapshot::Listener> {
    let mut wanted: Vec<_> =
        config.listeners.iter().map(|listener| data_plane_listener(listener, tls)).collect();
    let mut listeners = Vec::new();
    for known in before.map_or(&[][..], |snapshot| &snapshot.listeners) {
        let next = match wanted.iter().position(|listener| listener.address == known.address) {
            Some(index) => wanted.remove(index),
            None => snapshot::Listener { retired: true, ..known.clone() },
        };
        listeners.push(next);
    }
    listeners.append(&mut wanted);
    listeners
}

fn classify(method: &[u8], raw_path: &[u8]) -> u8 {
    ringfence_matrix::classify(method, raw_path) as u8
}

/// Says how TLS is spoken to the servers where it is. Who is believed whatever they show is told.
fn speak_tls(
    config: &Config,
    upstreams: &mut [snapshot::Upstream],
    before: Option<&Snapshot>,
) -> Result<(), Problems> {
    let clients = trust::clients(config, before)?;
    for ((upstream, configured), client) in upstreams.iter_mut().zip(routing::upstreams(config)).zip(clients)
    {
        for (server, configured_server) in upstream.servers.iter_mut().zip(&configured.servers) {
            let name = configured.tls_name(&configured_server.value);
            server.tls =
                client.clone().zip(name).map(|(client, name)| Arc::new(ServerTls::new(client, name)));
            let speaks_tls = configured_server.value.speaks_tls();
            assert_eq!(server.tls.is_some(), speaks_tls, "{}: never without TLS", configured_server.value);
        }
    }
    trust::warnings(config).for_each(|warning| tracing::warn!("{warning}"));
    Ok(())
}

/// Looks up the names of all upstreams, or tells which have no address.
pub(crate) fn resolve(config: &Config) -> Result<Vec<snapshot::Upstream>, Problems> {
    let mut problems = Vec::new();
    let mut upstreams = Vec::new();
    for upstream in routing::upstreams(config) {
        let mut resolved = Vec::new();
        for (server, weight) in upstream.servers.iter().zip(&upstream.weights) {
            match server_address(&server.value) {
                Ok(address) => resolved.push(data_plane_server(&server.value, address, *weight)),
                Err(error) => {
                    let message =
                        format!("upstream {} has no address: {error}; check the name", server.value);
                    problems.push(Problem { place: server.place, message });
                }
            }
        }
        upstreams.push(data_plane_upstream(upstream, resolved));
    }
    if problems.is_empty() { Ok(upstreams) } else { Err(Problems::new(&config.file, problems)) }
}

fn data_plane_server(server: &UpstreamServer, address: ServerAddress, weight: u32) -> snapshot::Server {
    snapshot::Server {
        name: server.to_string(),
        address,
        tls: None,
        weight,
        slots: Arc::default(),
        health: None,
    }
}

fn data_plane_upstream(upstream: &Upstream, servers: Vec<snapshot::Server>) -> snapshot::Upstream {
    snapshot::Upstream {
        servers,
        sends_proxy_header: upstream.send_proxy_protocol,
        balance: upstream.balance,
        requests_max: upstream.requests_max,
        queue: Arc::default(),
    }
}

/// Servers that are asked after their health. What is known of one stays, as long as it is asked the same in the same way.
fn give_health(config: &Config, upstreams: &mut [snapshot::Upstream], before: Option<&Snapshot>) {
    let known = before.into_iter().flat_map(|snapshot| &snapshot.upstreams);
    let known = known.flat_map(|upstream| {
        upstream.servers.iter().map(|server| (upstream.sends_proxy_header, server.clone()))
    });
    let mut known: Vec<(bool, snapshot::Server)> = known.collect();
    for (index, upstream) in routing::upstreams(config).enumerate() {
        let Some(path) = &upstream.health_path else { continue };
        let host = routing::upstream_host(config, index);
        let upstream = &mut upstreams[index];
        for server in &mut upstream.servers {
            let health = known.iter().find_map(|(sends_proxy_header, other)| {
                let health = other.health.as_ref()?;
                let is_asked_the_same = *sends_proxy_header == upstream.sends_proxy_header
                    && other.is_same(server)
                    && health.host == host
                    && health.path == *path;
                is_asked_the_same.then(|| health.clone())
            });
            server.health = Some(health.unwrap_or_else(|| Arc::new(Health::new(host.clone(), path.clone()))));
            known.push((upstream.sends_proxy_header, server.clone()));
        }
    }
}

fn server_address(server: &UpstreamServer) -> io::Result<ServerAddress> {
    match server {
        UpstreamServer::Unix(path) => Ok(ServerAddress::Unix(path.clone())),
        UpstreamServer::Tcp { host, port, .. } => {
            let addresses: Vec<SocketAddr> =
                (host.as_str(), *port).to_socket_addrs()?.take(ADDRESSES_MAX).collect();
            match addresses.is_empty() {
                true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no records")),
                false => Ok(ServerAddress::Tcp(addresses)),
            }
        }
    }
}

/// Addresses of one name that are dialled: large deployments have some ten.
pub(crate) const ADDRESSES_MAX: usize = 16;

fn data_plane_listener(listener: &Listener, tls: Option<&Arc<ServerConfig>>) -> snapshot::Listener {
    snapshot::Listener {
        address: listener.address.value,
        tls: tls.filter(|_| listener.tls).cloned(),
        privileged_networks: listener.admin_from.clone(),
        redirect: listener.role == Role::Redirect,
        retired: false,
        proxy_protocol_from: listener.proxy_protocol_from.clone(),
    }
}

fn data_plane_site(config: &Config, site: &Site<'_>) -> snapshot::Site {
    let rules = rules(config, site).map(|(_, rule)| rule).collect();
    snapshot::Site { rules, host: site.host.clone().into() }
}

/// The rules of a site, each with the entry that it comes from; the guard comes from none.
pub(crate) fn rules<'a>(
    config: &Config,
    site: &'a Site<'a>,
) -> impl Iterator<Item = (Option<&'a Entry<'a>>, Rule)> {
    let entries = site.entries.iter();
    let entry_rules =
        entries.flat_map(|entry| entry_rules(config, entry).into_iter().map(move |rule| (Some(entry), rule)));
    std::iter::once((None, admin_guard())).chain(entry_rules)
}

/// Refuses administrative paths to everyone outside the listener's networks.
fn admin_guard() -> Rule {
    let closed = body(ErrorCode::Forbidden, "Administrative paths are closed here.");
    Rule {
        paths: PathMatch::Where(is_admin),
        methods: MethodMatch::Any,
        unprivileged_only: true,
        action: Action::Answer(matrix_answer(403, closed)),
        refusal_style: MATRIX_STYLE,
        body_bytes_max: None,
    }
}

fn entry_rules(config: &Config, entry: &Entry<'_>) -> Vec<Rule> {
    let path = entry.path.as_bytes();
    let (refusal_style, body_bytes_max) = match entry.target {
        Target::Route(index) => (PLAIN_STYLE, config.routes[index].body_bytes_max),
        _ => (MATRIX_STYLE, None),
    };
    let rule = |paths, methods, action| Rule {
        paths,
        methods,
        unprivileged_only: false,
        action,
        refusal_style,
        body_bytes_max,
    };
    match (entry.target, entry.target.upstream_index(config)) {
        (_, Some(upstream)) => {
            vec![rule(PathMatch::Prefix(path.into()), MethodMatch::Any, Action::Forward(upstream))]
        }
        (Target::Document(Some(document)), None) => document_answers(document)
            .map(|(methods, answer)| rule(PathMatch::Exact(path.into()), methods, Action::Answer(answer)))
            .into(),
        (_, None) => {
            let absent = matrix_answer(404, body(ErrorCode::NotFound, "There is no such document here."));
            vec![rule(PathMatch::Exact(path.into()), MethodMatch::Any, Action::Answer(absent))]
        }
    }
}

/// What a discovery document answers to each method. They are for every origin (Client-Server API, "Well-known
/// URIs"), and a preflight does nothing else ("Web Browser Clients").
fn document_answers(document: &str) -> [(MethodMatch, Answer); 3] {
    let preflight = Answer {
        status: 204,
        field_lines: Bytes::from_static(CORS_FIELD_LINES.as_bytes()),
        content: Bytes::new(),
    };
    let mut refused = matrix_answer(405, body(ErrorCode::Unrecognized, "This document can only be read."));
    refused.field_lines = [&refused.field_lines[..], b"Allow: GET, HEAD, OPTIONS\r\n"].concat().into();
    [
        (MethodMatch::Read, matrix_answer(200, document.to_owned())),
        (MethodMatch::Options, preflight),
        (MethodMatch::Any, refused),
    ]
}

fn rate_limits(limits: &RateLimits) -> snapshot::RateLimits {
    let class_limit = |class| {
        let RateLimit { count, period, burst } = limits.of(class)?;
        // To ask which ways there are to log in, or whether a name is free, is no attempt.
        let writes_only = matches!(class, EndpointClass::Login | EndpointClass::Register);
        Some(ClassLimit { rate: Rate::new(count, period, burst), writes_only })
    };
    let of_class: Vec<_> = EndpointClass::ALL.into_iter().map(class_limit).collect();
    snapshot::RateLimits {
        of_class: if of_class.iter().any(Option::is_some) { of_class } else { Vec::new() },
        exempt: limits.exempt.clone(),
        content: |retry_after_ms| limit_body(Refusal::RateLimited.message(), retry_after_ms).into(),
    }
}

/// How errors look on Matrix paths and before the path is known: with the field lines that let a web client of
/// another origin read them.
const MATRIX_STYLE: usize = 0;

/// How errors look on the operator's own routes: what other origins may read there is not ours to say.
const PLAIN_STYLE: usize = 1;

fn matrix_refusals() -> RefusalAnswers {
    RefusalAnswers::new(|refusal| {
        let mut answer = matrix_answer(refusal.status(), refusal_body(refusal));
        if matches!(refusal, Refusal::RateLimited | Refusal::Busy) {
            answer.field_lines = [&answer.field_lines[..], RETRY_CORS_FIELD_LINE.as_bytes()].concat().into();
        }
        with_retry_after(refusal, answer)
    })
}

fn plain_refusals() -> RefusalAnswers {
    RefusalAnswers::new(|refusal| {
        let answer = Answer {
            status: refusal.status(),
            field_lines: Bytes::from_static(JSON_FIELD_LINE.as_bytes()),
            content: refusal_body(refusal).into(),
        };
        with_retry_after(refusal, answer)
    })
}

/// Who meets a busy homeserver is told when to come again (RFC 9110 §10.2.3).
fn with_retry_after(refusal: Refusal, answer: Answer) -> Answer {
    if refusal != Refusal::Busy {
        return answer;
    }
    let line = format!("Retry-After: {RETRY_AFTER_SECONDS}\r\n");
    Answer { field_lines: [&answer.field_lines[..], line.as_bytes()].concat().into(), ..answer }
}

/// When to come again, in seconds: a burst is over by then, and a homeserver that is behind for longer is not asked by everybody
/// every second.
const RETRY_AFTER_SECONDS: u32 = 5;

fn matrix_answer(status: u16, content: String) -> Answer {
    let field_lines = [JSON_FIELD_LINE, CORS_FIELD_LINES].concat();
    Answer { status, field_lines: field_lines.into(), content: content.into() }
}

fn refusal_body(refusal: Refusal) -> String {
    body(error_code(refusal), refusal.message())
}

/// The code that makes clients do the right thing. With `M_UNKNOWN` they go by the status (Client-Server API,
/// "Standard error response").
fn error_code(refusal: Refusal) -> ErrorCode {
    match refusal {
        Refusal::Unrouted | Refusal::MisdirectedHost | Refusal::NotImplemented => ErrorCode::Unrecognized,
        Refusal::ContentTooLarge | Refusal::TargetTooLong | Refusal::HeadTooLarge => ErrorCode::TooLarge,
        Refusal::TooManyConnections | Refusal::RateLimited => ErrorCode::LimitExceeded,
        Refusal::Malformed
        | Refusal::RequestTimeout
        | Refusal::ExpectationFailed
        | Refusal::VersionNotSupported
        | Refusal::Overloaded
        | Refusal::Busy
        | Refusal::BadGateway
        | Refusal::GatewayTimeout => ErrorCode::Unknown,
    }
}

fn data_plane_limits(limits: &Limits) -> limits::Limits {
    let mut plain = limits::Limits::default();
    plain.head.head_bytes_max = count(limits.head_bytes_max);
    plain.head.field_count_max = count(limits.field_count_max);
    plain.body_bytes_max = limits.body_bytes_max;
    plain.connections_max = count(limits.connections_max);
    plain.connections_per_address_max = count(limits.connections_per_address_max);
    plain.data_rate_min = u32::try_from(limits.data_rate_min).unwrap_or(u32::MAX);
    plain.queue_max = count(limits.queue_max);
    plain
}

/// Bounds of the configuration are far below this, on every machine with io_uring.
fn count(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn data_plane_timeouts(timeouts: &Timeouts) -> limits::Timeouts {
    limits::Timeouts {
        tls_handshake: timeouts.tls_handshake,
        header_read: timeouts.header_read,
        keep_alive_idle: timeouts.keep_alive_idle,
        upstream_connect: timeouts.upstream_connect,
        queue: timeouts.queue,
        upstream_first_byte: timeouts.upstream_first_byte,
        downstream_silence: timeouts.downstream_silence,
        upstream_silence: timeouts.upstream_silence,
        upstream_idle: timeouts.upstream_idle,
        tunnel_idle: timeouts.tunnel_idle,
        linger: timeouts.linger,
        drain: timeouts.drain,
        hand_over: timeouts.hand_over,
    }
}

#[cfg(test)]
mod tests;
