//! `/status` and `/connections`: what the process does, as JSON.

use std::{
    collections::BTreeMap,
    fs,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ringfence_forward::{
    BUCKETS, ExchangeKind, Handshake, Health, Histogram, ProbeCounts, SERVERS_MAX, ServerGauges,
    respond::Refusal, snapshot,
};
use ringfence_matrix::EndpointClass;
use serde_json::{Map, Value, json};

use super::view::View;

/// Everything that the status page and `ringfence top` show.
///
/// ```json
/// {"version": "0.1.0", "pid": 1, "now": 1764000000.0, "started": …, "state": "serving" | "leaving", "generation": 1,
///  "config": "/etc/…", "listeners": [{"address", "tls", "redirect", "retired", "requests"}],
///  "connections": {"open", "max", "accepted", "refused"}, "handshakes": {"1.3 full": 0, …, "failed": 0},
///  "requests": 0, "errors": {"own": 0, "upstream": 0}, "bucket_ends_ms": [0.5, …],
///  "classes": [{"class", "requests", "status": {"2xx": 0, …, "left": 0}, "bytes_in", "bytes_out",
///               "total": {"buckets": […], "sum_ms"}, "upstream": {…}}],
///  "refusals": {"BadGateway": 0, …},
///  "upstreams": [{"servers": [{"server": "127.0.0.1:8008", "up", "idle", "in_flight", "dials_failed", "ejections",
///                              "health": null | {"path", "up", "why", "since", "passed", "failed", "falls"}}],
///                 "requests_max", "queued"}], "queued": 0,
///  "name_lookups": {"done", "failed", "changes"},
///  "certificates": [{"file", "names", "not_after", "days_left"}],
///  "workers": [{"open", "requests", "cpu_seconds"}], "resident_bytes", "descriptors", "panics", "log_lines_dropped",
///  "reloads": {"done", "refused"}, "certificate_swaps": {…}, "upgrades_failed",
///  "recent": [{"time", "level", "message"}]}
/// ```
/// Counts are since the start, times in seconds since the epoch. Errors are answers with a 5xx status, made here or passed on.
pub(super) fn status(view: &View) -> Value {
    let running = view.running();
    let exchanges = exchanges(view);
    let now = SystemTime::now();
    let sum = |of: fn(&ringfence_forward::Counters) -> &AtomicU64| -> u64 {
        view.counters.iter().map(|worker| of(worker).load(Ordering::Relaxed)).sum()
    };
    let deeds = &view.deeds;
    let both = |done: &AtomicU64, refused: &AtomicU64| json!({"done": done.load(Ordering::Relaxed), "refused": refused.load(Ordering::Relaxed)});
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "now": epoch(now),
        "started": epoch(view.started),
        "state": if view.is_leaving() { "leaving" } else { "serving" },
        "generation": running.generation,
        "config": running.config.file.display().to_string(),
        "listeners": running.snapshot.listeners.iter().zip(0..).map(|(listener, index)| json!({
            "address": listener.address.to_string(),
            "tls": listener.tls.is_some(),
            "redirect": listener.redirect,
            "retired": listener.retired,
            "requests": count_where(&exchanges, |kind| kind.listener == index),
        })).collect::<Vec<_>>(),
        "connections": {
            "open": sum(|worker| &worker.open),
            "accepted": sum(|worker| &worker.connections),
            "max": running.snapshot.limits.connections_max,
            "refused": sum(|worker| &worker.connections_refused),
            "proxy_headers_refused": sum(|worker| &worker.proxy_headers_refused),
        },
        "requests": sum(|worker| &worker.requests),
        "errors": errors(view, &exchanges),
        "handshakes": handshakes(view),
        "bucket_ends_ms": BUCKETS.map(|end| end as f64 / 1e3),
        "classes": classes(view, &exchanges),
        "refusals": refusals(view),
        "upstreams": upstreams(view),
        "queued": sum(|worker| &worker.queued),
        "name_lookups": {
            "done": deeds.lookups.load(Ordering::Relaxed),
            "failed": deeds.lookups_failed.load(Ordering::Relaxed),
            "changes": deeds.addresses_changed.load(Ordering::Relaxed),
        },
        "certificates": running.certificates.iter().map(|certificate| json!({
            "file": certificate.chain_path().display().to_string(),
            "names": certificate.names(),
            "not_after": epoch(certificate.not_after()),
            "days_left": (epoch(certificate.not_after()) - epoch(now)) / 86_400.0,
        })).collect::<Vec<_>>(),
        "workers": view.counters.iter().map(|worker| json!({
            "open": worker.open.load(Ordering::Relaxed),
            "requests": worker.requests.load(Ordering::Relaxed),
            "cpu_seconds": thread_seconds(worker.thread.load(Ordering::Relaxed)),
        })).collect::<Vec<_>>(),
        "resident_bytes": resident_bytes(),
        "descriptors": descriptors(),
        "panics": sum(|worker| &worker.panics),
        "log_lines_dropped": view.log_lines_dropped(),
        "reloads": both(&deeds.reloads, &deeds.reloads_failed),
        "certificate_swaps": both(&deeds.certificates_swapped, &deeds.certificates_refused),
        "upgrades_failed": deeds.upgrades_failed.load(Ordering::Relaxed),
        "recent": view.recent.lines().iter().map(|line| json!({
            "time": epoch(line.time),
            "level": line.level.as_str(),
            "message": line.message,
        })).collect::<Vec<_>>(),
    })
}

/// Who holds how many connections:
/// `{"open": 5, "max": 65536, "workers": [3, 2], "clients": 1, "most": [{"client": "192.0.2.1", "open": 5}]}`.
pub(super) fn connections(view: &View) -> Value {
    let open: Vec<u64> = view.counters.iter().map(|worker| worker.open.load(Ordering::Relaxed)).collect();
    let network = |client: IpAddr| match client {
        IpAddr::V4(_) => client.to_string(),
        IpAddr::V6(_) => format!("{client}/64"),
    };
    let most = view.clients.most_connected(CLIENTS_MAX);
    json!({
        "open": open.iter().sum::<u64>(),
        "max": view.running().snapshot.limits.connections_max,
        "workers": open,
        "clients": view.clients.count(),
        "most": most.into_iter().map(|(client, open)| json!({"client": network(client), "open": open})).collect::<Vec<_>>(),
    })
}

/// Clients that are told: those that an operator would look at one by one.
const CLIENTS_MAX: usize = 50;

/// A server of an upstream with what all workers together know of it.
pub(super) struct ServerStatus {
    pub(super) upstream: usize,
    pub(super) server: String,
    /// No worker passes it over, and it is not down by its health.
    pub(super) up: bool,
    pub(super) idle: u64,
    pub(super) in_flight: u64,
    pub(super) dials_failed: u64,
    pub(super) ejections: u64,
    /// What asking it has come to, if it is asked.
    pub(super) health: Option<Arc<Health>>,
}

/// Every server that can be watched.
pub(super) fn servers(view: &View) -> Vec<ServerStatus> {
    let running = view.running();
    let upstreams = running.snapshot.upstreams.iter().enumerate();
    let servers =
        upstreams.flat_map(|(index, upstream)| upstream.servers.iter().map(move |server| (index, server)));
    let status = |(at, (upstream, server)): (usize, (usize, &snapshot::Server))| {
        let sum = |of: fn(&ServerGauges) -> &AtomicU64| -> u64 {
            view.counters.iter().map(|worker| of(&worker.servers[at]).load(Ordering::Relaxed)).sum()
        };
        ServerStatus {
            upstream,
            server: server.name.clone(),
            up: sum(|server| &server.avoided) == 0 && !server.is_down(),
            idle: sum(|server| &server.idle),
            in_flight: sum(|server| &server.in_flight),
            dials_failed: sum(|server| &server.dials_failed),
            ejections: sum(|server| &server.ejections),
            health: server.health.clone(),
        }
    };
    servers.take(SERVERS_MAX).enumerate().map(status).collect()
}

fn upstreams(view: &View) -> Value {
    let empty = |upstream: &snapshot::Upstream| json!({"servers": [], "requests_max": upstream.requests_max, "queued": upstream.queue.waiting()});
    let mut upstreams: Vec<Value> = view.running().snapshot.upstreams.iter().map(empty).collect();
    for ServerStatus { upstream, server, up, idle, in_flight, dials_failed, ejections, health } in
        servers(view)
    {
        let health = health.as_deref().map(health_status);
        let status = json!({
            "server": server,
            "up": up,
            "idle": idle,
            "in_flight": in_flight,
            "dials_failed": dials_failed,
            "ejections": ejections,
            "health": health,
        });
        if let Some(servers) =
            upstreams.get_mut(upstream).and_then(|upstream| upstream["servers"].as_array_mut())
        {
            servers.push(status);
        }
    }
    upstreams.into()
}

/// `why` and `since` are `null` for a server that has always been up.
fn health_status(health: &Health) -> Value {
    let (change, ProbeCounts { passed, failed, falls }) = (health.change(), health.counts());
    json!({
        "path": health.path,
        "up": !health.is_down(),
        "why": change.as_ref().map(|change| &change.why),
        "since": change.as_ref().map(|change| epoch(change.since)),
        "passed": passed,
        "failed": failed,
        "falls": falls,
    })
}

/// Answers with a 5xx status, by who made them.
fn errors(view: &View, exchanges: &BTreeMap<ExchangeKind, u64>) -> Value {
    let own: u64 = Refusal::ALL
        .into_iter()
        .filter(|refusal| refusal.status() >= 500)
        .map(|refusal| refused(view, refusal))
        .sum();
    let all = count_where(exchanges, |kind| kind.status >= 500);
    json!({"own": own, "upstream": all.saturating_sub(own)})
}

fn count_where(exchanges: &BTreeMap<ExchangeKind, u64>, is_meant: impl Fn(&ExchangeKind) -> bool) -> u64 {
    exchanges.iter().filter(|(kind, _)| is_meant(kind)).map(|(_, count)| count).sum()
}

fn handshakes(view: &View) -> Value {
    let names = ["1.2 full", "1.2 resumed", "1.3 full", "1.3 resumed"];
    let mut all: Map<String, Value> = Handshake::ALL
        .into_iter()
        .zip(names)
        .map(|(kind, name)| {
            let count: u64 = view
                .counters
                .iter()
                .map(|worker| worker.handshakes[kind as usize].load(Ordering::Relaxed))
                .sum();
            (name.to_owned(), count.into())
        })
        .collect();
    let failed: u64 =
        view.counters.iter().map(|worker| worker.handshakes_failed.load(Ordering::Relaxed)).sum();
    all.insert("failed".to_owned(), failed.into());
    all.into()
}

fn refusals(view: &View) -> Value {
    let counts =
        Refusal::ALL.into_iter().map(|refusal| (format!("{refusal:?}"), refused(view, refusal).into()));
    counts.collect::<Map<_, Value>>().into()
}

/// How often this was said.
pub(super) fn refused(view: &View, refusal: Refusal) -> u64 {
    view.counters.iter().map(|worker| worker.refusals[refusal as usize].load(Ordering::Relaxed)).sum()
}

fn classes(view: &View, exchanges: &BTreeMap<ExchangeKind, u64>) -> Value {
    let one = |class: EndpointClass| {
        let mut by_status = BTreeMap::<&str, u64>::new();
        for (kind, count) in exchanges.iter().filter(|(kind, _)| kind.class == class as u8) {
            *by_status.entry(status_class(kind.status)).or_default() += count;
        }
        let counters = || view.counters.iter().map(move |worker| &worker.classes[class as usize]);
        let times = |of: fn(&ringfence_forward::ClassCounters) -> &Histogram| {
            let (buckets, total) = sum(counters().map(of));
            json!({"buckets": buckets, "sum_ms": total.as_secs_f64() * 1e3})
        };
        json!({
            "class": class.as_str(),
            "requests": by_status.values().sum::<u64>(),
            "status": by_status,
            "bytes_in": counters().map(|class| class.bytes_in.load(Ordering::Relaxed)).sum::<u64>(),
            "bytes_out": counters().map(|class| class.bytes_out.load(Ordering::Relaxed)).sum::<u64>(),
            "total": times(|class| &class.total),
            "upstream": times(|class| &class.upstream),
        })
    };
    EndpointClass::ALL.map(one).to_vec().into()
}

fn status_class(status: u16) -> &'static str {
    match status / 100 {
        0 => "left",
        1 => "1xx",
        2 => "2xx",
        3 => "3xx",
        4 => "4xx",
        _ => "5xx",
    }
}

/// Exchanges of all workers, by what they were.
pub(super) fn exchanges(view: &View) -> BTreeMap<ExchangeKind, u64> {
    let mut all = BTreeMap::new();
    for (kind, count) in view.counters.iter().flat_map(|worker| worker.exchanges.iter()) {
        *all.entry(kind).or_default() += count;
    }
    all
}

/// Histograms of all workers in one.
pub(super) fn sum<'h>(
    histograms: impl Iterator<Item = &'h Histogram>,
) -> ([u64; BUCKETS.len() + 1], Duration) {
    histograms.fold(([0; BUCKETS.len() + 1], Duration::ZERO), |(mut buckets, total), histogram| {
        buckets.iter_mut().zip(histogram.buckets()).for_each(|(all, one)| *all += one);
        (buckets, total + histogram.sum())
    })
}

fn epoch(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// CPU time of a thread of this process, in seconds (proc(5), `schedstat`); 0 where it cannot be known.
pub(super) fn thread_seconds(thread: u32) -> f64 {
    let text = fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).unwrap_or_default();
    text.split(' ').next().and_then(|nanos| nanos.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Resident memory of this process, in bytes; 0 where it cannot be known.
pub(super) fn resident_bytes() -> u64 {
    let text = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = text.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * PAGE_BYTES
}

/// Bytes in a page of memory: the same on all machines that ringfence is built for.
const PAGE_BYTES: u64 = 4096;

/// Open file descriptors of this process.
pub(super) fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
