//! The client whose requests the attack must not hurt, and its control: the same requests without the proxy.
#![forbid(unsafe_code)]

use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use ringfence_tests::client::HOST;
use ringfence_tests::{Authority, Client, pause};

/// When a latency was taken.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Phase {
    /// Before the attack.
    Quiet,
    /// During it.
    Attack,
    /// Not to be counted: between the two, and after.
    Between,
}

/// Clients at work.
pub(crate) struct GoodClients {
    stop: Arc<AtomicBool>,
    phase: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
    kept: Arc<Series>,
    fresh: Arc<Series>,
    control: Arc<Series>,
}

/// What they found: over kept connections, over new ones, and without the proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Latencies {
    /// Over TLS connections that are kept.
    pub(crate) kept: Percentiles,
    /// Over a new TLS connection for each request, from connecting on.
    pub(crate) fresh: Percentiles,
    /// From the origin itself.
    pub(crate) control: Percentiles,
}

/// Of one series, in microseconds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Percentiles {
    /// The median.
    pub(crate) p50: u64,
    /// What one in a hundred exceeds.
    pub(crate) p99: u64,
    /// Requests that were not answered with 200.
    pub(crate) failures: usize,
    /// Requests in all.
    pub(crate) count: usize,
}

/// Latencies in microseconds by phase; a failure is `None`.
#[derive(Default)]
struct Series([Mutex<Vec<Option<u64>>>; 3]);

impl GoodClients {
    /// Starts them: `proxy` speaks TLS, `origin` does not.
    pub(crate) fn start(proxy: SocketAddr, origin: SocketAddr) -> GoodClients {
        let mut clients = GoodClients {
            stop: Arc::default(),
            phase: Arc::new(AtomicUsize::new(Phase::Between as usize)),
            threads: Vec::new(),
            kept: Arc::default(),
            fresh: Arc::default(),
            control: Arc::default(),
        };
        for _ in 0..KEPT_CONNECTIONS {
            clients.ask(Arc::clone(&clients.kept), KEPT_REST, keeping(move || tls(proxy)));
        }
        clients.ask(
            Arc::clone(&clients.control),
            KEPT_REST,
            keeping(move || Client::try_connect(origin).ok()),
        );
        for _ in 0..FRESH_CLIENTS {
            clients.ask(Arc::clone(&clients.fresh), FRESH_REST, move || {
                tls(proxy).is_some_and(|mut client| asked(&mut client))
            });
        }
        clients
    }

    /// What is measured from now on counts for `phase`.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.store(phase as usize, Ordering::SeqCst);
    }

    /// What was measured in `phase`.
    pub(crate) fn latencies(&self, phase: Phase) -> Latencies {
        Latencies {
            kept: self.kept.percentiles(phase),
            fresh: self.fresh.percentiles(phase),
            control: self.control.percentiles(phase),
        }
    }

    /// Stops asking.
    pub(crate) fn end(self) {
        self.stop.store(true, Ordering::SeqCst);
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
    }

    fn ask(
        &mut self,
        series: Arc<Series>,
        rest: Duration,
        mut request: impl FnMut() -> bool + Send + 'static,
    ) {
        let (stop, phase) = (Arc::clone(&self.stop), Arc::clone(&self.phase));
        self.threads.push(thread::spawn(move || {
            while !stop.load(Ordering::SeqCst) {
                let (asked_in, begun) = (phase.load(Ordering::SeqCst), Instant::now());
                let answered = request();
                let took = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                series.note(asked_in, answered.then_some(took));
                pause(rest);
            }
        }));
    }
}

/// Asks over one connection, and over a new one after a failure.
fn keeping(connect: impl Fn() -> Option<Client>) -> impl FnMut() -> bool {
    let mut kept = None;
    move || {
        let Some(mut client) = kept.take().or_else(&connect) else { return false };
        let answered = asked(&mut client);
        kept = Some(client).filter(|_| answered);
        answered
    }
}

fn tls(proxy: SocketAddr) -> Option<Client> {
    Client::tls_with(proxy, HOST, Authority::shared().client_config()).ok()
}

fn asked(client: &mut Client) -> bool {
    let request = format!("GET /_matrix/good HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    client.try_send(request).is_ok()
        && client
            .try_response_to("GET")
            .is_ok_and(|response| response.status() == 200 && response.is_complete())
}

impl Series {
    fn note(&self, phase: usize, latency: Option<u64>) {
        self.0[phase].lock().unwrap_or_else(PoisonError::into_inner).push(latency);
    }

    fn percentiles(&self, phase: Phase) -> Percentiles {
        let all = self.0[phase as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let mut latencies: Vec<u64> = all.iter().flatten().copied().collect();
        latencies.sort_unstable();
        let at = |share: usize| latencies.get(latencies.len() * share / 100).copied().unwrap_or(0);
        Percentiles { p50: at(50), p99: at(99), failures: all.len() - latencies.len(), count: all.len() }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} / {} ms", ms(self.p50), ms(self.p99))?;
        if self.failures > 0 {
            write!(formatter, " ({} of {} failed)", self.failures, self.count)?;
        }
        Ok(())
    }
}

/// Microseconds as milliseconds with one decimal.
pub(crate) fn ms(microseconds: u64) -> String {
    format!("{}.{}", microseconds / 1000, microseconds % 1000 / 100)
}

/// Connections over which requests are made one after another.
const KEPT_CONNECTIONS: usize = 4;

/// Clients that connect for each request.
const FRESH_CLIENTS: usize = 2;

/// Rest between two requests over a kept connection.
const KEPT_REST: Duration = Duration::from_millis(5);

/// Rest between two new connections: enough of them for a 99th percentile, and no load by themselves.
const FRESH_REST: Duration = Duration::from_millis(20);
