//! `ringfence run`: from a checked configuration to a serving process, and to its end.
//!
//! This thread is the control plane. What needs root happens first (ports, log file), then root is given up, then
//! threads start.

mod access_log;
mod privileges;

use std::{
    error::Error,
    io, iter,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    panic,
    sync::Arc,
    thread,
    time::Duration,
};

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};
use ringfence_forward::{Driver, Plan, Totals, Workers, snapshot::Snapshot};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
    time,
};
use tracing_subscriber::EnvFilter;

use crate::{
    check,
    config::{Config, Server},
    presets,
};

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(config: Config) -> Result<(), Box<dyn Error>> {
    start_tracing(&config.server)?;
    log_panics();
    raise_descriptor_limit(&config);
    refuse_huge_pages();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // First of all, so that no signal finds a process that is half started and dies of it.
    let mut signals = runtime.block_on(async { Signals::new() })?;

    let certificates = check::look_around(&config)?;
    for certificate in &certificates {
        if let Some(problem) = certificate.validity_problem(std::time::SystemTime::now()) {
            tracing::warn!("{problem}");
        }
    }
    let snapshot = Arc::new(presets::snapshot(&config, certificates)?);
    let workers = worker_count(&config.server);
    let sockets = bind(&snapshot, workers)?;
    let (log, writer) = access_log::open(&config.server)?.unzip();
    if let Some(user) = &config.server.user {
        privileges::drop_to(&user.value)?;
    }

    let log_writer = writer.map(access_log::Writer::start).transpose()?;
    let plan = Plan { snapshot: snapshot.clone(), sockets, log: log.clone(), driver: driver()? };
    let started = Workers::start(plan)?;
    for listener in &snapshot.listeners {
        tracing::info!(address = %listener.address, tls = listener.tls.is_some(), "listening");
    }
    tracing::info!(workers, version = env!("CARGO_PKG_VERSION"), "serving");

    let totals = runtime.block_on(async {
        let totals = serve(started, &mut signals).await?;
        if let Some((log, writer)) = log.as_ref().zip(log_writer) {
            log.end();
            finish_log(writer, &mut signals).await;
        }
        io::Result::Ok(totals)
    })?;
    let lines_dropped = log.as_ref().map_or(0, ringfence_forward::LogSender::lines_dropped);
    tracing::info!(
        connections = totals.connections,
        connections_refused = totals.connections_refused,
        requests = totals.requests,
        handshakes_failed = totals.handshakes_failed,
        panics = totals.panics,
        lines_dropped,
        "stopped"
    );
    if totals.panicked { Err("a worker ended by a panic, see the log".into()) } else { Ok(()) }
}

/// What the world tells a process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// A terminal that closes, or a reload by habit, must not end a server.
    hang_up: Signal,
}

impl Signals {
    /// Takes them over from now on. Needs a runtime around it.
    fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }

    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
        }
    }
}

/// Waits for the signal to end, drains, and waits for that. A second signal ends it at once.
async fn serve(mut workers: Workers, signals: &mut Signals) -> io::Result<Totals> {
    let mut look = time::interval(WORKERS_LOOK);
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => break,
            _ = signals.interrupt.recv() => break,
            _ = signals.hang_up.recv() => tracing::warn!("SIGHUP: reloading is not implemented yet; restart to change the configuration"),
            _ = look.tick() => if workers.has_lost_one() { break },
        }
    }
    tracing::info!("draining; a second signal ends it at once");
    workers.drain();
    let (done, totals) = oneshot::channel();
    thread::spawn(move || done.send(workers.join()));
    tokio::select! {
        totals = totals => totals.map_err(io::Error::other),
        () = signals.end() => Err(io::Error::other("ended by a second signal while draining")),
    }
}

/// Waits for the log's last lines, unless what they are written to has stalled.
async fn finish_log(writer: access_log::Running, signals: &mut Signals) {
    let (done, finished) = oneshot::channel();
    thread::spawn(move || {
        writer.finish();
        done.send(())
    });
    tokio::select! {
        _ = finished => {}
        () = signals.end() => tracing::warn!("ended by a second signal; the last lines of the access log are lost"),
        () = time::sleep(LOG_FINISH) => tracing::warn!("the access log stalls; its last lines are lost"),
    }
}

/// How long the last lines of the access log may take.
const LOG_FINISH: Duration = Duration::from_secs(5);

/// How often the control plane looks whether all workers are there.
const WORKERS_LOOK: Duration = Duration::from_secs(1);

fn start_tracing(server: &Server) -> Result<(), Box<dyn Error>> {
    let filter = EnvFilter::try_new(&server.log)?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false)
        .try_init()
        .map_err(|error| format!("the log cannot be started: {error}").into())
}

/// A panic ends one connection; what it was goes to the log with its place.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, message, "panic");
    }));
}

/// Keeps the kernel from backing memory with pages of 2 MiB: what many connections have freed between what idle ones keep
/// could not be given back, and the kernel would take it again a few seconds later. Resident bytes per idle connection, 5 000
/// of them: 8 574 with huge pages, 5 566 without.
fn refuse_huge_pages() {
    if let Err(error) = prctl::set_thp_disable(true) {
        tracing::debug!(%error, "the kernel may use huge pages");
    }
}

/// A connection takes a descriptor on each side.
fn raise_descriptor_limit(config: &Config) {
    let wanted = 2 * config.limits.connections_max + DESCRIPTORS_BESIDES;
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((_, hard)) => {
            if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() && hard < wanted {
                tracing::warn!(
                    limit = hard,
                    wanted,
                    "too few file descriptors for connections_max; raise LimitNOFILE (systemd) or ulimit -n"
                );
            }
        }
        Err(error) => tracing::warn!(%error, "the limit of file descriptors is not known"),
    }
}

/// Listeners, rings, log, standard streams.
const DESCRIPTORS_BESIDES: u64 = 256;

fn worker_count(server: &Server) -> usize {
    match usize::try_from(server.workers) {
        Ok(0) | Err(_) => thread::available_parallelism().map_or(1, usize::from),
        Ok(workers) => workers,
    }
}

/// For tests and for comparing: the driver can be forced.
fn driver() -> Result<Option<Driver>, String> {
    match std::env::var("RINGFENCE_DRIVER").as_deref() {
        Err(_) | Ok("") => Ok(None),
        Ok("uring") => Ok(Some(Driver::Uring)),
        Ok("epoll") => Ok(Some(Driver::Epoll)),
        Ok(other) => Err(format!("RINGFENCE_DRIVER is {other:?}; it can be \"uring\" or \"epoll\"")),
    }
}

/// The sockets of each worker, one for each listener.
fn bind(snapshot: &Snapshot, workers: usize) -> Result<Vec<Vec<OwnedFd>>, String> {
    let mut sockets: Vec<Vec<OwnedFd>> = iter::repeat_with(Vec::new).take(workers).collect();
    for listener in &snapshot.listeners {
        let bound = bind_one(listener.address, workers)
            .map_err(|error| format!("cannot listen on {}: {error}{}", listener.address, advice(&error)))?;
        sockets.iter_mut().zip(bound).for_each(|(worker, socket)| worker.push(socket));
    }
    Ok(sockets)
}

fn bind_one(address: SocketAddr, workers: usize) -> io::Result<Vec<OwnedFd>> {
    match ringfence_forward::bind(address, workers) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && has_no_ipv6(&error) => {
            tracing::warn!(%address, "this machine has no IPv6; listening on IPv4 only");
            ringfence_forward::bind((Ipv4Addr::UNSPECIFIED, address.port()).into(), workers)
        }
        bound => bound,
    }
}

fn has_no_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; start as root with server.user set, or with CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::AddrInUse => "; another program listens there (`ss -ltnp` names it)",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}
