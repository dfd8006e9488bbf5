//! `flood`: one request, over and over.

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use rustls::client::ClientConfig;

use crate::crowd::{self, Crowd, Make, Pick};
use crate::report::Tally;
use crate::request::Request;
use crate::runtime;
use crate::slot::{Handshake, Slot};
use crate::target::Target;
use crate::tls;
use crate::worker::Worker;

/// What to flood, and with what.
#[derive(Args, Clone, Debug)]
pub(crate) struct Flood {
    /// http:// or https://, to 127.0.0.1, localhost or a machine of your own.
    #[arg(long)]
    pub(crate) url: String,
    /// Connections, or peers that connect again and again.
    #[arg(long, default_value_t = 64)]
    pub(crate) connections: usize,
    /// The request's method.
    #[arg(long, value_enum, ignore_case = true, default_value_t = Method::Get)]
    pub(crate) method: Method,
    /// Size of the request's body, in bytes.
    #[arg(long, default_value_t = 0)]
    pub(crate) body: u64,
    /// How peers use connections.
    #[arg(long, value_enum, default_value_t = Handshake::Keep)]
    pub(crate) handshake: Handshake,
    /// Requests a second that arrive at random (Poisson), whether or not earlier ones have been answered; latency
    /// counts from the arrival. Without it each peer begins its next request when its last has ended.
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    /// How long to measure [default: 10, or until --requests are done].
    #[arg(long)]
    pub(crate) seconds: Option<f64>,
    /// How long to run before measuring, in seconds [default: 1, or 0 with --requests].
    #[arg(long)]
    pub(crate) warmup: Option<f64>,
    /// How many requests to measure.
    #[arg(long, conflicts_with = "rate")]
    pub(crate) requests: Option<u64>,
    /// Another field line of the request.
    #[arg(long, value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,
    /// Threads, which share the connections and the rate.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) threads: u16,
    /// Repeats the same arrivals.
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    #[command(flatten)]
    pub(crate) common: Common,
}

/// What all commands that make requests take.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// Prints one JSON object instead of a table.
    #[arg(long)]
    pub(crate) json: bool,
    /// Verifies certificates against these (PEM). Without it any certificate is accepted and no signature checked:
    /// this is a tool for your own machines and your own staging.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Offers X25519MLKEM768 first, as browsers do; otherwise X25519 and P-256, as homeservers of today do.
    #[arg(long)]
    pub(crate) post_quantum: bool,
    /// The only cipher suite that is offered, as TLS_AES_128_GCM_SHA256. Otherwise all three of TLS 1.3, AES-256 first.
    #[arg(long, value_name = "NAME")]
    pub(crate) cipher_suite: Option<String>,
    /// A status besides 2xx that is no error; may be repeated.
    #[arg(long, value_name = "STATUS")]
    pub(crate) accept: Vec<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Method {
    Get,
    Put,
    Post,
}

/// Floods and reports; whether all went well.
pub(crate) fn run(flood: &Flood) -> Result<bool, String> {
    let target = Target::parse(&flood.url)?;
    let threads = usize::from(flood.threads);
    if flood.connections < threads {
        return Err("every thread needs a connection".to_owned());
    }
    // A peer that connects for each request may have one connection closing while it opens the next.
    runtime::raise_descriptors(flood.connections)?;
    let config = tls::config(&flood.common)?;
    let started = Barrier::new(threads);
    let tallies = runtime::on_threads(threads, |thread| {
        let part = Part { flood, target: &target, config: &config, thread, threads, started: &started };
        runtime::run(part.run()).map_err(|error| format!("no runtime: {error}"))?
    })?;
    let mut tally = Tally::sum(tallies);
    if flood.handshake == Handshake::Resumed && target.tls {
        tally.demand_resumption();
    }
    Ok(tally.print_flood(flood.common.json))
}

/// A thread's share of a flood.
struct Part<'a> {
    flood: &'a Flood,
    target: &'a Target,
    config: &'a Arc<ClientConfig>,
    thread: usize,
    threads: usize,
    started: &'a Barrier,
}

impl Part<'_> {
    async fn run(self) -> Result<Tally, String> {
        let flood = self.flood;
        let seed = flood.seed.wrapping_add(self.thread as u64);
        let worker = Rc::new(Worker::new(seed, 1, &flood.common.accept));
        let make = self.make();
        let slots = self.opened(&worker, &make).await;
        self.started.wait();
        let slots = slots?;
        let opened = worker.counters().opened;

        let (warmup, seconds) = self.times();
        let begin = Instant::now();
        let from = begin + warmup;
        let until = from + seconds;
        worker.record_within(from, until);
        let crowd = match flood.rate {
            Some(rate) => Some(self.arrive(slots, &worker, make, rate, (begin, until))),
            None => {
                self.loops(slots, &worker, &make, until);
                None
            }
        };
        // Nothing has begun before the first wait, so that without a warm-up everything is counted.
        if !warmup.is_zero() {
            monoio::time::sleep(warmup).await;
        }
        let (before, cpu_before) = (worker.counters(), runtime::cpu_seconds());
        let measured = self.measured(&worker, from, until).await;
        let (after, cpu_after) = (worker.counters(), runtime::cpu_seconds());
        let unfinished = worker.quiet(GRACE).await as u64;
        if let Some(crowd) = crowd {
            crowd.give_up();
        }
        Ok(Tally {
            classes: worker.classes.take(),
            counters: after - before,
            opened,
            unfinished,
            faults: Vec::new(),
            seconds: measured.as_secs_f64(),
            cpu_seconds: cpu_after - cpu_before,
        })
    }

    /// Peers with their connections open or their first ticket in hand.
    async fn opened(&self, worker: &Rc<Worker>, make: &Make) -> Result<Vec<Slot>, String> {
        let target = Rc::new(self.target.clone());
        let numbers = (self.thread..self.flood.connections).step_by(self.threads);
        let far = self.flood.connections > ADDRESS_CONNECTIONS_MAX;
        let slots = numbers.map(|number| {
            let source = if far { target.source(number) } else { None };
            Slot::new(number, self.flood.handshake, &target, self.config, source)
        });
        let slots = slots.collect();
        match self.flood.handshake {
            Handshake::Keep => crowd::open_all(slots, worker, None).await,
            Handshake::Resumed => crowd::open_all(slots, worker, Some(make)).await,
            Handshake::New => Ok(slots),
        }
    }

    fn times(&self) -> (Duration, Duration) {
        let counted = self.flood.requests.is_some();
        let warmup = self.flood.warmup.unwrap_or(if counted { 0.0 } else { 1.0 });
        let seconds =
            self.flood.seconds.map_or(if counted { COUNTED_MAX } else { MEASURED }, Duration::from_secs_f64);
        (Duration::from_secs_f64(warmup), seconds)
    }

    fn make(&self) -> Make {
        let flood = self.flood;
        let mut request = Request::default();
        let method = match flood.method {
            Method::Get => "GET",
            Method::Put => "PUT",
            Method::Post => "POST",
        };
        let mut head = format!(
            "{method} {} HTTP/1.1\r\nHost: {}\r\n",
            self.target.request_target, self.target.authority
        );
        for field in &flood.header {
            head.push_str(field);
            head.push_str("\r\n");
        }
        if flood.method != Method::Get || flood.body > 0 {
            head.push_str(&format!("Content-Length: {}\r\n", flood.body));
        }
        if flood.handshake != Handshake::Keep {
            head.push_str("Connection: close\r\n");
        }
        head.push_str("\r\n");
        request.head = head.into_bytes();
        request.add_zeros(flood.body);
        Rc::new(move |_, _, _, made| {
            made.head.extend_from_slice(&request.head);
            made.zeros = request.zeros;
        })
    }

    fn loops(&self, slots: Vec<Slot>, worker: &Rc<Worker>, make: &Make, until: Instant) {
        let threads = self.threads as u64;
        let share = |all: u64| all / threads + u64::from((self.thread as u64) < all % threads);
        let budget = Rc::new(Cell::new(self.flood.requests.map_or(u64::MAX, share)));
        for slot in slots {
            crowd::begin_closed_loop(slot, worker, make, &budget, until);
        }
    }

    fn arrive(
        &self,
        slots: Vec<Slot>,
        worker: &Rc<Worker>,
        make: Make,
        rate: f64,
        (begin, until): (Instant, Instant),
    ) -> Rc<Crowd> {
        let crowd = Crowd::new(slots, worker.clone(), make, vec![0], Pick::Random);
        let share = rate / self.threads as f64;
        let arriving = crowd.clone();
        drop(monoio::spawn(async move {
            if let Err(error) = arriving.arrive(begin, until, move |_| share, |_| 0).await {
                eprintln!("no timer: {error}");
            }
        }));
        crowd
    }

    /// Waits for the end of the measured time; how long it was.
    async fn measured(&self, worker: &Worker, from: Instant, until: Instant) -> Duration {
        if self.flood.requests.is_none() {
            monoio::time::sleep(until.saturating_duration_since(Instant::now())).await;
        } else {
            worker.quiet(until.saturating_duration_since(Instant::now())).await;
            if let Some(last) = worker.last.get() {
                return last.saturating_duration_since(from);
            }
        }
        from.elapsed()
    }
}

/// How long a flood measures when nothing is said.
const MEASURED: Duration = Duration::from_secs(10);

/// How long a flood of a number of requests may take.
const COUNTED_MAX: Duration = Duration::from_secs(600);

/// How long requests under way at the end may take.
const GRACE: Duration = Duration::from_secs(5);

/// Connections from one source address, which has some 28 000 ports.
pub(crate) const ADDRESS_CONNECTIONS_MAX: usize = 20_000;
