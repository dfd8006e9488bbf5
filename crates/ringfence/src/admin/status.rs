//! `/status` and `/connections`: what the process does, as JSON.

use std::{
    collections::BTreeMap,
    fs,
    sync::atomic::Ordering,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use ringfence_forward::{BUCKETS, ExchangeKind, Handshake, Histogram, respond::Refusal};
use ringfence_matrix::EndpointClass;
use serde_json::{Map, Value, json};

use super::view::View;

/// Everything that the status page and `ringfence top` show.
///
/// ```json
/// {"version": "0.1.0", "pid": 1, "now": 1764000000.0, "started": …, "state": "serving" | "leaving", "generation": 1,
///  "config": "/etc/…", "listeners": [{"address", "tls", "redirect", "retired"}],
///  "connections": {"open", "accepted", "refused"}, "handshakes": {"1.3 full": 0, …, "failed": 0},
///  "bucket_ends_ms": [0.5, …],
///  "classes": [{"class", "requests", "status": {"2xx": 0, …, "left": 0}, "bytes_in", "bytes_out",
///               "total": {"buckets": […], "sum_ms"}, "upstream": {…}}],
///  "refusals": {"BadGateway": 0, …}, "upstreams": [{"servers": ["127.0.0.1:8008"]}],
///  "certificates": [{"file", "names", "not_after", "days_left"}],
///  "workers": [{"open", "requests", "cpu_seconds"}], "resident_bytes", "descriptors", "panics", "log_lines_dropped",
///  "reloads": {"done", "refused"}, "certificate_swaps": {…}, "recent": [{"time", "level", "message"}]}
/// ```
/// Counts are since the start, times in seconds since the epoch.
pub(super) fn status(view: &View) -> Value {
    let running = view.running();
    let now = SystemTime::now();
    let sum = |of: fn(&ringfence_forward::Counters) -> &std::sync::atomic::AtomicU64| -> u64 {
        view.counters.iter().map(|worker| of(worker).load(Ordering::Relaxed)).sum()
    };
    let deeds = &view.deeds;
    let both = |done: &std::sync::atomic::AtomicU64, refused: &std::sync::atomic::AtomicU64| json!({"done": done.load(Ordering::Relaxed), "refused": refused.load(Ordering::Relaxed)});
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "pid": std::process::id(),
        "now": epoch(now),
        "started": epoch(view.started),
        "state": if view.is_leaving() { "leaving" } else { "serving" },
        "generation": running.generation,
        "config": running.config.file.display().to_string(),
        "listeners": running.snapshot.listeners.iter().map(|listener| json!({
            "address": listener.address.to_string(),
            "tls": listener.tls.is_some(),
            "redirect": listener.redirect,
            "retired": listener.retired,
        })).collect::<Vec<_>>(),
        "connections": {
            "open": sum(|worker| &worker.open),
            "accepted": sum(|worker| &worker.connections),
            "refused": sum(|worker| &worker.connections_refused),
            "proxy_headers_refused": sum(|worker| &worker.proxy_headers_refused),
            "upstream_idle": sum(|worker| &worker.upstream_idle),
        },
        "requests": sum(|worker| &worker.requests),
        "handshakes": handshakes(view),
        "bucket_ends_ms": BUCKETS.map(|end| end as f64 / 1e3),
        "classes": classes(view),
        "refusals": refusals(view),
        "upstreams": running.snapshot.upstreams.iter().map(|upstream| json!({
            "servers": upstream.servers.iter().map(|server| server.name.clone()).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
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
        "recent": view.recent.lines().iter().map(|line| json!({
            "time": epoch(line.time),
            "level": line.level.as_str(),
            "message": line.message,
        })).collect::<Vec<_>>(),
    })
}

/// Who holds how many connections: `{"open": 5, "workers": [3, 2]}`.
pub(super) fn connections(view: &View) -> Value {
    let open: Vec<u64> = view.counters.iter().map(|worker| worker.open.load(Ordering::Relaxed)).collect();
    json!({"open": open.iter().sum::<u64>(), "workers": open})
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
    let count = |refusal: Refusal| -> u64 {
        view.counters.iter().map(|worker| worker.refusals[refusal as usize].load(Ordering::Relaxed)).sum()
    };
    Refusal::ALL
        .into_iter()
        .map(|refusal| (format!("{refusal:?}"), Value::from(count(refusal))))
        .collect::<Map<_, _>>()
        .into()
}

fn classes(view: &View) -> Value {
    let exchanges = exchanges(view);
    let one = |class: EndpointClass| {
        let mut by_status = BTreeMap::<&str, u64>::new();
        for (_, count, status) in exchanges
            .iter()
            .filter(|(kind, _)| kind.class == class as u8)
            .map(|(kind, count)| (kind, *count, kind.status))
        {
            *by_status.entry(status_class(status)).or_default() += count;
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
