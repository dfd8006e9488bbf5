//! `/metrics`: OpenMetrics text, made anew for each scrape from what the workers have counted.

use std::{
    fmt::Error,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet},
    metrics::{MetricType, counter::ConstCounter, gauge::ConstGauge},
    registry::Registry,
};
use ringfence_forward::{ClassCounters, Counters, Handshake, Histogram, METHODS, respond::Refusal, snapshot};
use ringfence_matrix::EndpointClass;

use super::{
    status::{self, ServerStatus, thread_seconds},
    view::View,
};

/// As Prometheus asks for it.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The whole page.
pub(super) fn text(view: &Arc<View>) -> String {
    let mut registry = Registry::with_prefix("ringfence");
    registry.register_collector(Box::new(Page(view.clone())));
    let mut text = String::new();
    // Writing to memory does not fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

#[derive(Debug)]
struct Page(Arc<View>);

impl Collector for Page {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> Result<(), Error> {
        let view = &*self.0;
        let mut out = Out { encoder };
        let running = view.running();
        let mut build =
            out.encoder.encode_descriptor("build", "Version of the binary", None, MetricType::Info)?;
        build.encode_info(&[("version", env!("CARGO_PKG_VERSION"))])?;
        out.gauge(
            "start_time_seconds",
            "When the process began to serve, since the epoch",
            seconds(view.started),
        )?;
        out.gauge(
            "config_generation",
            "Configurations so far, certificates that were swapped in among them",
            running.generation as f64,
        )?;
        out.gauge("leaving", "1 while no new connections are taken", f64::from(view.is_leaving()))?;
        let sum = |of: fn(&Counters) -> &AtomicU64| -> u64 {
            view.counters.iter().map(|worker| load(of(worker))).sum()
        };
        out.counter(
            "connections_accepted",
            "Connections accepted and admitted",
            sum(|worker| &worker.connections),
        )?;
        out.counter(
            "connections_refused",
            "Connections turned away by a limit",
            sum(|worker| &worker.connections_refused),
        )?;
        out.counter(
            "proxy_headers_refused",
            "Connections closed for want of a PROXY header, or not from a balancer",
            sum(|worker| &worker.proxy_headers_refused),
        )?;
        out.gauge(
            "connections_open",
            "Connections of clients that are open",
            sum(|worker| &worker.open) as f64,
        )?;
        out.gauge(
            "connections_max",
            "Connections of clients that may be open",
            running.snapshot.limits.connections_max as f64,
        )?;
        out.gauge("clients_connected", "Clients that have a connection open", view.clients.count() as f64)?;
        out.counter("requests", "Requests answered, by whomever", sum(|worker| &worker.requests))?;
        out.counter("panics", "Panics caught; each ended one connection", sum(|worker| &worker.panics))?;
        out.counter(
            "access_log_lines_dropped",
            "Lines of the access log for which there was no time",
            view.log_lines_dropped(),
        )?;
        self.handshakes(&mut out)?;
        self.refusals(&mut out)?;
        self.exchanges(&mut out)?;
        self.classes(&mut out)?;
        self.workers(&mut out)?;
        self.servers(&mut out)?;
        self.certificates(&mut out)?;
        let deeds = &view.deeds;
        out.counters(
            "reloads",
            "Reloads of the config file, by result",
            "result",
            [("done", load(&deeds.reloads)), ("refused", load(&deeds.reloads_failed))],
        )?;
        out.counters(
            "certificate_swaps",
            "Changed certificates, by what became of them",
            "result",
            [("done", load(&deeds.certificates_swapped)), ("refused", load(&deeds.certificates_refused))],
        )?;
        out.counter(
            "upgrades_failed",
            "Upgrades in which the new process did not take over",
            load(&deeds.upgrades_failed),
        )?;
        out.counters(
            "name_lookups",
            "Names of upstreams that were looked up again, by result",
            "result",
            [("done", load(&deeds.lookups)), ("failed", load(&deeds.lookups_failed))],
        )?;
        out.counter(
            "upstream_address_changes",
            "Lookups of an upstream's name that brought other addresses",
            load(&deeds.addresses_changed),
        )?;
        out.gauge("resident_memory_bytes", "Resident memory", status::resident_bytes() as f64)?;
        out.gauge("descriptors_open", "Open file descriptors", status::descriptors() as f64)
    }
}

impl Page {
    fn handshakes(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let mut family = out.encoder.encode_descriptor(
            "tls_handshakes",
            "TLS handshakes, by version and outcome",
            None,
            MetricType::Counter,
        )?;
        for kind in Handshake::ALL {
            let count = self.0.counters.iter().map(|worker| load(&worker.handshakes[kind as usize])).sum();
            let labels = match kind {
                Handshake::Tls12Full => [("version", "1.2"), ("outcome", "full")],
                Handshake::Tls12Resumed => [("version", "1.2"), ("outcome", "resumed")],
                Handshake::Tls13Full => [("version", "1.3"), ("outcome", "full")],
                Handshake::Tls13Resumed => [("version", "1.3"), ("outcome", "resumed")],
            };
            ConstCounter::<u64>::new(count).encode(family.encode_family(&labels)?)?;
        }
        let failed = self.0.counters.iter().map(|worker| load(&worker.handshakes_failed)).sum();
        ConstCounter::<u64>::new(failed)
            .encode(family.encode_family(&[("version", "none"), ("outcome", "failed")])?)
    }

    fn refusals(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let mut family = out.encoder.encode_descriptor(
            "refusals",
            "Answers of ringfence's own instead of the homeserver's, by reason",
            None,
            MetricType::Counter,
        )?;
        for refusal in Refusal::ALL {
            ConstCounter::<u64>::new(status::refused(&self.0, refusal))
                .encode(family.encode_family(&[("reason", format!("{refusal:?}"))])?)?;
        }
        Ok(())
    }

    fn exchanges(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let counts = status::exchanges(&self.0);
        let listeners = &self.0.running().snapshot.listeners;
        let mut family = out.encoder.encode_descriptor(
            "exchanges",
            "Requests by listener, endpoint class, method and status; status 0: the client left",
            None,
            MetricType::Counter,
        )?;
        for (kind, count) in counts {
            let listener = listeners
                .get(usize::from(kind.listener))
                .map_or(String::new(), |listener| listener.address.to_string());
            let labels = [
                ("listener", listener),
                ("class", class_name(kind.class).to_owned()),
                ("method", METHODS[usize::from(kind.method) % METHODS.len()].to_owned()),
                ("status", kind.status.to_string()),
            ];
            ConstCounter::<u64>::new(count).encode(family.encode_family(&labels)?)?;
        }
        let uncounted = self.0.counters.iter().map(|worker| worker.exchanges.uncounted()).sum();
        out.counter(
            "exchanges_uncounted",
            "Requests of kinds for which the table of kinds had no room",
            uncounted,
        )
    }

    fn classes(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let of_class =
            |class: EndpointClass| self.0.counters.iter().map(move |worker| &worker.classes[class as usize]);
        let histograms: [Part<Histogram>; 2] = [
            ("request_duration_seconds", "From a request's first byte to the end of its answer", |class| {
                &class.total
            }),
            (
                "upstream_duration_seconds",
                "From the request at the homeserver to the head of its answer",
                |class| &class.upstream,
            ),
        ];
        for (name, help, histogram) in histograms {
            let mut family = out.encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
            for class in EndpointClass::ALL {
                let (buckets, sum) = status::sum(of_class(class).map(histogram));
                let count = buckets.iter().sum();
                let ends =
                    ringfence_forward::BUCKETS.iter().map(|end| *end as f64 / 1e6).chain([f64::INFINITY]);
                let buckets: Vec<_> = ends.zip(buckets).collect();
                family.encode_family(&[("class", class.as_str())])?.encode_histogram::<NoLabelSet>(
                    sum.as_secs_f64(),
                    count,
                    &buckets,
                    None,
                )?;
            }
        }
        let bytes: [Part<AtomicU64>; 2] = [
            ("request_content_bytes", "Content of requests that was taken", |class| &class.bytes_in),
            ("response_content_bytes", "Content of responses that was given", |class| &class.bytes_out),
        ];
        for (name, help, counter) in bytes {
            let counts = EndpointClass::ALL
                .map(|class| (class.as_str(), of_class(class).map(|class| load(counter(class))).sum()));
            out.counters(name, help, "class", counts)?;
        }
        Ok(())
    }

    fn workers(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let per_worker: [Number; 2] = [
            ("worker_cpu_seconds", "CPU time of a worker's thread", |worker| {
                thread_seconds(worker.thread.load(Ordering::Relaxed))
            }),
            ("worker_requests", "Requests that a worker has served", |worker| load(&worker.requests) as f64),
        ];
        for (name, help, value) in per_worker {
            let mut family = out.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (index, worker) in self.0.counters.iter().enumerate() {
                ConstCounter::new(value(worker))
                    .encode(family.encode_family(&[("worker", index.to_string())])?)?;
            }
        }
        let mut family = out.encoder.encode_descriptor(
            "worker_connections_open",
            "Connections that a worker serves",
            None,
            MetricType::Gauge,
        )?;
        for (index, worker) in self.0.counters.iter().enumerate() {
            ConstGauge::new(load(&worker.open) as f64)
                .encode(family.encode_family(&[("worker", index.to_string())])?)?;
        }
        Ok(())
    }

    fn servers(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let servers = status::servers(&self.0);
        let gauges: [PerServer; 3] = [
            (
                "upstream_up",
                "0 while others are tried before a server: it is ejected because it failed, or down by its health",
                |server| f64::from(server.up),
            ),
            ("upstream_connections_idle", "Idle connections to a server", |server| server.idle as f64),
            ("upstream_requests_in_flight", "Requests that are with a server", |server| {
                server.in_flight as f64
            }),
        ];
        let labels = |server: &ServerStatus| {
            [("upstream", server.upstream.to_string()), ("server", server.server.clone())]
        };
        for (name, help, value) in gauges {
            let mut family = out.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for server in &servers {
                ConstGauge::new(value(server)).encode(family.encode_family(&labels(server))?)?;
            }
        }
        let counters: [ServerCount; 2] = [
            ("upstream_dials_failed", "Connections to a server that could not be made", |server| {
                server.dials_failed
            }),
            (
                "upstream_ejections",
                "How often a worker began to pass a server over, because it failed",
                |server| server.ejections,
            ),
        ];
        for (name, help, count) in counters {
            let mut family = out.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for server in &servers {
                ConstCounter::new(count(server)).encode(family.encode_family(&labels(server))?)?;
            }
        }
        self.queues(out)?;
        self.health(out, &servers)
    }

    fn queues(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let queued = self.0.counters.iter().map(|worker| load(&worker.queued)).sum();
        out.counter("queued", "Requests that had to wait for a server to have room", queued)?;
        let running = self.0.running();
        let gauges: [PerUpstream; 2] = [
            ("upstream_requests_queued", "Requests that wait for a server to have room", |upstream| {
                upstream.queue.waiting() as f64
            }),
            ("upstream_requests_max", "Requests that each server may have; 0: there is no cap", |upstream| {
                upstream.requests_max.unwrap_or(0) as f64
            }),
        ];
        for (name, help, value) in gauges {
            let mut family = out.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (index, upstream) in running.snapshot.upstreams.iter().enumerate() {
                ConstGauge::new(value(upstream))
                    .encode(family.encode_family(&[("upstream", index.to_string())])?)?;
            }
        }
        Ok(())
    }

    /// Of those servers that are asked after it.
    fn health(&self, out: &mut Out<'_>, servers: &[ServerStatus]) -> Result<(), Error> {
        let asked = || servers.iter().filter_map(|server| Some((server, server.health.as_deref()?)));
        let labels = |server: &ServerStatus| {
            [("upstream", server.upstream.to_string()), ("server", server.server.clone())]
        };
        let help = "1 while a server that is asked after its health is up";
        let mut family = out.encoder.encode_descriptor("upstream_health", help, None, MetricType::Gauge)?;
        for (server, health) in asked() {
            let up = f64::from(!health.is_down());
            ConstGauge::new(up).encode(family.encode_family(&labels(server))?)?;
        }
        let help = "Answers of servers that are asked after their health, missing ones too, by what they say";
        let mut family = out.encoder.encode_descriptor("upstream_probes", help, None, MetricType::Counter)?;
        for (server, health) in asked() {
            let [upstream, name] = labels(server);
            let counts = health.counts();
            for (result, count) in [("passed", counts.passed), ("failed", counts.failed)] {
                let labels = [upstream.clone(), name.clone(), ("result", result.to_owned())];
                ConstCounter::new(count).encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "How often a server went down by its health";
        let mut family = out.encoder.encode_descriptor("upstream_falls", help, None, MetricType::Counter)?;
        for (server, health) in asked() {
            ConstCounter::new(health.counts().falls).encode(family.encode_family(&labels(server))?)?;
        }
        Ok(())
    }

    fn certificates(&self, out: &mut Out<'_>) -> Result<(), Error> {
        let mut family = out.encoder.encode_descriptor(
            "certificate_expiry_seconds",
            "When a certificate ends, since the epoch",
            None,
            MetricType::Gauge,
        )?;
        for certificate in &self.0.running().certificates {
            let labels = [
                ("file", certificate.chain_path().display().to_string()),
                ("names", certificate.names().join(",")),
            ];
            ConstGauge::new(seconds(certificate.not_after())).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}

/// Name and meaning of a metric, and where it is found in what is counted for a class.
type Part<T> = (&'static str, &'static str, fn(&ClassCounters) -> &T);
/// The same for a worker.
type Number = (&'static str, &'static str, fn(&Counters) -> f64);

/// The same for a server.
type PerServer = (&'static str, &'static str, fn(&ServerStatus) -> f64);

/// The same, counted.
type ServerCount = (&'static str, &'static str, fn(&ServerStatus) -> u64);

/// The same for an upstream.
type PerUpstream = (&'static str, &'static str, fn(&snapshot::Upstream) -> f64);

/// Puts single numbers down.
struct Out<'a> {
    encoder: DescriptorEncoder<'a>,
}

impl Out<'_> {
    fn counter(&mut self, name: &str, help: &str, count: u64) -> Result<(), Error> {
        let encoder = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        ConstCounter::new(count).encode(encoder)
    }

    fn counters<const N: usize>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        counts: [(&str, u64); N],
    ) -> Result<(), Error> {
        let mut family = self.encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (value, count) in counts {
            ConstCounter::new(count).encode(family.encode_family(&[(label, value)])?)?;
        }
        Ok(())
    }

    fn gauge(&mut self, name: &str, help: &str, value: f64) -> Result<(), Error> {
        let encoder = self.encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        ConstGauge::new(value).encode(encoder)
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn seconds(time: SystemTime) -> f64 {
    time.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

/// The name of the class that `forward` knows by number.
pub(crate) fn class_name(class: u8) -> &'static str {
    EndpointClass::ALL.get(usize::from(class)).map_or("other", |class| class.as_str())
}
