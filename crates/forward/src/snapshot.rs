//! What the control plane hands to the workers: plain data, immutable, complete.
//!
//! Presets of the binary turn a configuration and what they know of Matrix into these types; the core sees
//! rules with opaque classes. An exchange keeps the snapshot that it started with.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use ipnet::IpNet;
use ringfence_http1::Method;
use ringfence_tls::{Client, ServerConfig, ServerName};

pub use crate::{
    allowance::Rate,
    slots::{Queue, Slots},
};
use crate::{
    health::Health,
    limits::{Limits, Timeouts, WARN_AGAIN_AFTER},
    respond::{Answer, RefusalAnswers},
};

/// A complete configuration of the data plane.
#[derive(Clone)]
pub struct Snapshot {
    /// Bounds on what peers may send.
    pub limits: Limits,
    /// Bounds on how long peers may take.
    pub timeouts: Timeouts,
    /// Listening addresses; a connection carries the index of its own. A snapshot that follows another keeps what that had
    /// where it was, and adds behind it.
    pub listeners: Vec<Listener>,
    /// Groups of servers; a rule names one by index.
    pub upstreams: Vec<Upstream>,
    /// Rule lists; the first is taken where no Host matches.
    pub sites: Vec<Site>,
    /// Lower-case host without port → index into [`sites`](Self::sites). A few names, all ours: comparing is less than
    /// hashing.
    pub hosts: BTreeMap<Box<[u8]>, usize>,
    /// A Host in none of [`hosts`](Self::hosts) is refused with [`Refusal::MisdirectedHost`](crate::respond::Refusal).
    pub strict_hosts: bool,
    /// Peers whose forwarding headers are believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Answers of our own making, in each style that a rule can name. Style 0 serves whatever fails before routing.
    pub refusals: Vec<RefusalAnswers>,
    /// The class of a request, from its method and raw path: below [`CLASSES_MAX`](crate::CLASSES_MAX).
    pub classify: fn(&[u8], &[u8]) -> u8,
    /// Whether exchanges are counted by what they are, with their times.
    pub measures: bool,
    /// How often each client may ask.
    pub rate_limits: RateLimits,
}

impl Snapshot {
    /// Whether a listener that `before`, which this one follows, had is not configured any more.
    pub(crate) fn retires_listeners_of(&self, before: &Snapshot) -> bool {
        self.listeners.iter().zip(&before.listeners).any(|(now, before)| now.retired && !before.retired)
    }
}

/// How often each client address (IPv6: each /64) may use each class of endpoints.
#[derive(Clone)]
pub struct RateLimits {
    /// By class; none for those beyond the end. Where no class has one nothing is looked up.
    pub of_class: Vec<Option<ClassLimit>>,
    /// Networks that no limit is for, that of connections included.
    pub exempt: Vec<IpNet>,
    /// The content of a refusal, by the time until another request is allowed, in milliseconds.
    pub content: fn(u64) -> Bytes,
}

/// The limit of a class.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClassLimit {
    /// How often.
    pub rate: Rate,
    /// GET and HEAD cost nothing here, and do not count.
    pub writes_only: bool,
}

impl RateLimits {
    /// None at all.
    pub fn off() -> RateLimits {
        RateLimits { of_class: Vec::new(), exempt: Vec::new(), content: |_| Bytes::new() }
    }

    /// The limit that counts a request of this class from this address; none where it is free.
    pub(crate) fn counting(&self, class: u8, method: Method, address: IpAddr) -> Option<&ClassLimit> {
        let limit = self.of_class.get(usize::from(class))?.as_ref()?;
        // A preflight costs nothing.
        let is_free =
            method == Method::Options || limit.writes_only && matches!(method, Method::Get | Method::Head);
        (!is_free && !contains(&self.exempt, address)).then_some(limit)
    }
}

/// One listening address.
#[derive(Clone)]
pub struct Listener {
    /// The address, as bound and as logged.
    pub address: SocketAddr,
    /// TLS configuration; `None` speaks plain HTTP.
    pub tls: Option<Arc<ServerConfig>>,
    /// Source networks that pass [`Rule::unprivileged_only`].
    pub privileged_networks: Vec<IpNet>,
    /// Every request is answered by a redirect to `https` (308), whatever the rules say.
    pub redirect: bool,
    /// Not configured any more: no connection is accepted, and those that are open end with their next answer.
    pub retired: bool,
    /// Networks of balancers: every connection has to come from one of them and to begin with a header of the PROXY
    /// protocol. `None`: connections are their clients' own.
    pub proxy_protocol_from: Option<Vec<IpNet>>,
}

/// Servers that answer the same requests.
#[derive(Clone)]
pub struct Upstream {
    /// At least one, at most [`SERVERS_OF_UPSTREAM_MAX`](crate::limits::SERVERS_OF_UPSTREAM_MAX).
    pub servers: Vec<Server>,
    /// Each connection begins with a header of the PROXY protocol that names its client, and carries one request: it is never
    /// kept for others.
    pub sends_proxy_header: bool,
    /// Which server is next.
    pub balance: Balance,
    /// Requests that each server may have at a time, those of all workers; `None`: as many as there are. Others wait.
    pub requests_max: Option<usize>,
    /// Those that wait; what follows the upstream keeps it.
    pub queue: Arc<Queue>,
}

/// How requests are shared out to the servers of an upstream, as each worker counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// In turn, by weight.
    #[default]
    RoundRobin,
    /// To the one with the fewest requests for its weight; in turn where there are several.
    LeastConnections,
}

/// One server of an upstream.
#[derive(Clone)]
pub struct Server {
    /// As the configuration spells it; for logs.
    pub name: String,
    /// Where it listens.
    pub address: ServerAddress,
    /// How to speak TLS to it; `None` speaks plain HTTP.
    pub tls: Option<Arc<ServerTls>>,
    /// Its share of the requests, beside the weights of the others; at least 1.
    pub weight: u32,
    /// The requests that it has, where `requests_max` caps; what follows the server keeps it.
    pub slots: Arc<Slots>,
    /// What asking it after its health has come to; `None`: it is not asked.
    pub health: Option<Arc<Health>>,
}

impl Server {
    /// Whether it was asked after its health and is not well: others are tried first.
    pub fn is_down(&self) -> bool {
        self.health.as_ref().is_some_and(|health| health.is_down())
    }
}

/// Lets upstreams that follow those of `before` keep what workers share of them: a server is known by its name.
pub fn keep_shared(upstreams: &mut [Upstream], before: &[Upstream]) {
    let mut followed = followed(upstreams, before, |one, other| one.name == other.name).into_iter();
    let mut queues: Vec<Option<&Arc<Queue>>> = before.iter().map(|upstream| Some(&upstream.queue)).collect();
    for upstream in upstreams {
        let mut queue = None;
        for server in &mut upstream.servers {
            let Some((of, index)) = followed.next().flatten() else { continue };
            server.slots = before[of].servers[index].slots.clone();
            queue = queue.or_else(|| queues[of].take());
        }
        if let Some(queue) = queue {
            upstream.queue = queue.clone();
        }
    }
}

/// The server of `before` that each server of `next` follows, in their order, as indexes of an upstream and a server: one of the
/// upstream at the same place if there is one. Each is followed by one.
pub(crate) fn followed(
    next: &[Upstream],
    before: &[Upstream],
    is_same: impl Fn(&Server, &Server) -> bool,
) -> Vec<Option<(usize, usize)>> {
    let places =
        |(of, upstream): (usize, &Upstream)| (0..upstream.servers.len()).map(move |index| (of, index));
    let mut left: Vec<(usize, usize)> = before.iter().enumerate().flat_map(places).collect();
    let servers: Vec<(usize, usize)> = next.iter().enumerate().flat_map(places).collect();
    let mut followed = vec![None; servers.len()];
    for in_place in [true, false] {
        for (found, (upstream, server)) in
            followed.iter_mut().zip(&servers).filter(|(found, _)| found.is_none())
        {
            let server = &next[*upstream].servers[*server];
            let fits = |(of, index): &(usize, usize)| {
                (of == upstream || !in_place) && is_same(server, &before[*of].servers[*index])
            };
            *found = left.iter().position(fits).map(|position| left.remove(position));
        }
    }
    followed
}

impl Server {
    /// Whether connections to it are as good for `other`: those over TLS that it was verified in the same way for.
    pub fn is_same(&self, other: &Server) -> bool {
        let tls = match (&self.tls, &other.tls) {
            (None, None) => true,
            (Some(tls), Some(other)) => tls.is_same(other),
            _ => false,
        };
        tls && self.name == other.name
    }
}

/// How to speak TLS to a server.
#[derive(Debug)]
pub struct ServerTls {
    /// Whom to believe, and the sessions to resume. Servers that are trusted alike share one.
    pub client: Arc<Client>,
    /// Which name its certificate has to have, and which it is asked for (RFC 6066 §3).
    pub name: ServerName<'static>,
    warned: Warned,
}

impl ServerTls {
    /// Of which nobody has been warned yet.
    pub fn new(client: Arc<Client>, name: ServerName<'static>) -> ServerTls {
        ServerTls { client, name, warned: Warned::default() }
    }

    fn is_same(&self, other: &ServerTls) -> bool {
        Arc::ptr_eq(&self.client, &other.client) && self.name == other.name
    }

    /// Whether the operator is to be warned of this server now: not again within [`WARN_AGAIN_AFTER`], by whichever worker.
    pub(crate) fn may_warn(&self, now: Instant) -> bool {
        let mut last = self.warned.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = last.is_none_or(|last| now.saturating_duration_since(last) >= WARN_AGAIN_AFTER);
        if is_due {
            *last = Some(now);
        }
        is_due
    }
}

/// When somebody was last warned. Looked at only when a dial has failed.
#[derive(Debug, Default)]
struct Warned(Mutex<Option<Instant>>);

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerAddress {
    /// Addresses of one host, tried in order.
    Tcp(Vec<SocketAddr>),
    /// A Unix stream socket.
    Unix(PathBuf),
}

impl ServerAddress {
    /// Whether it is another address than `other`, with none in common.
    pub fn is_elsewhere(&self, other: &ServerAddress) -> bool {
        match (self, other) {
            (ServerAddress::Tcp(addresses), ServerAddress::Tcp(others)) => {
                self != other && addresses.iter().all(|address| !others.contains(address))
            }
            _ => self != other,
        }
    }
}

/// The rules of one Host; the first that matches decides.
#[derive(Clone)]
pub struct Site {
    /// In order of precedence. A request that no rule matches is refused as unrouted.
    pub rules: Vec<Rule>,
    /// Host to send upstream when an HTTP/1.0 client sent none.
    pub host: Bytes,
}

/// What to do with some requests.
#[derive(Clone)]
pub struct Rule {
    /// Which raw paths (the target up to `?`) it is about.
    pub paths: PathMatch,
    /// Which methods it is about.
    pub methods: MethodMatch,
    /// Only for peers outside the listener's privileged networks: the others fall through to later rules.
    pub unprivileged_only: bool,
    /// What happens.
    pub action: Action,
    /// Index into [`Snapshot::refusals`]: how our own errors look here.
    pub refusal_style: usize,
    /// Overrides [`Limits::body_bytes_max`], in bytes.
    pub body_bytes_max: Option<u64>,
}

/// How a rule looks at a path.
#[derive(Clone)]
pub enum PathMatch {
    /// Every path.
    Any,
    /// This very path.
    Exact(Box<[u8]>),
    /// This path and what lies below it, on segment boundaries: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(Box<[u8]>),
    /// What the function says of the raw path; a guard that has to look behind encodings.
    Where(fn(&[u8]) -> bool),
}

/// Which methods a rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MethodMatch {
    /// Every method.
    Any,
    /// GET and HEAD.
    Read,
    /// OPTIONS.
    Options,
}

/// What a rule does.
#[derive(Clone)]
pub enum Action {
    /// Sends the request to [`Snapshot::upstreams`] at this index.
    Forward(usize),
    /// Answers it here.
    Answer(Answer),
}

impl PathMatch {
    /// Whether the raw path is meant.
    pub fn matches(&self, path: &[u8]) -> bool {
        match self {
            PathMatch::Any => true,
            PathMatch::Exact(exact) => path == &**exact,
            PathMatch::Prefix(prefix) => path
                .strip_prefix(&**prefix)
                .is_some_and(|rest| rest.is_empty() || rest[0] == b'/' || prefix.ends_with(b"/")),
            PathMatch::Where(holds) => holds(path),
        }
    }
}

/// Whether `address` lies in one of `networks`.
pub fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn upstream(names: &[&str]) -> Upstream {
        let server = |name: &&str| Server {
            name: (*name).to_owned(),
            address: ServerAddress::Tcp(Vec::new()),
            tls: None,
            weight: 1,
            slots: Arc::default(),
            health: None,
        };
        Upstream {
            servers: names.iter().map(server).collect(),
            sends_proxy_header: false,
            balance: Balance::RoundRobin,
            requests_max: None,
            queue: Arc::default(),
        }
    }

    #[test]
    fn a_server_in_two_upstreams_is_followed_in_each() {
        let before = [upstream(&["a", "b"]), upstream(&["b", "c"])];
        // The first would take what the second one's own is.
        let next = [upstream(&["c", "b"]), upstream(&["b", "c", "b"])];
        let found = followed(&next, &before, Server::is_same);
        assert_eq!(found, [None, Some((0, 1)), Some((1, 0)), Some((1, 1)), None]);
    }

    #[test]
    fn upstreams_keep_their_own_slots_and_queues() {
        let before = [upstream(&["a", "b"]), upstream(&["b", "c"])];
        let mut next = [upstream(&["c", "b"]), upstream(&["b", "c"])];
        keep_shared(&mut next, &before);
        for (next, before) in next.iter().zip(&before) {
            assert!(Arc::ptr_eq(&next.queue, &before.queue));
        }
        assert!(Arc::ptr_eq(&next[0].servers[1].slots, &before[0].servers[1].slots));
        assert!(Arc::ptr_eq(&next[1].servers[0].slots, &before[1].servers[0].slots));
        assert!(Arc::ptr_eq(&next[1].servers[1].slots, &before[1].servers[1].slots));
        // One that has moved is found again.
        let mut moved = [upstream(&["c"])];
        keep_shared(&mut moved, &before);
        assert!(Arc::ptr_eq(&moved[0].queue, &before[1].queue));
    }
}
