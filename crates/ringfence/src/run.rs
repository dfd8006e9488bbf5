//! `ringfence run`: from a checked configuration to a serving process, and to its end.
//!
//! This thread is the control plane. What needs root happens first (ports, log file, admin socket), then root is given up,
//! then threads start. From then on [`control`] has the word.

mod access_log;
pub(crate) mod control;
mod health;
mod names;
mod privileges;
mod sockets;
pub(crate) mod upgrade;
mod watch;

use std::{error::Error, io, panic, sync::Arc, thread, time::SystemTime};

use nix::sys::{
    prctl,
    resource::{Resource, getrlimit, setrlimit},
};
use ringfence_forward::{Driver, Plan, Workers, limits::KERNEL_PIPES_MAX};
use tracing_subscriber::{EnvFilter, layer::SubscriberExt, util::SubscriberInitExt};

use crate::{
    admin::{self, Recent},
    check,
    config::{Config, Server},
    presets,
};

use control::{Control, Running, Signals};
use sockets::Sockets;
use upgrade::{Start, Successor};

/// Serves until SIGTERM or SIGINT, or until another process has taken over.
pub(crate) fn run(config: Config) -> Result<(), Box<dyn Error>> {
    let start = Start::from_environment();
    let result = serve(config, &start);
    if let Err(error) = &result {
        start.failed(&error.to_string());
    }
    result
}

fn serve(config: Config, start: &Start) -> Result<(), Box<dyn Error>> {
    let recent = Recent::default();
    start_tracing(&config.server, recent.clone())?;
    log_panics();
    raise_descriptor_limit(&config);
    refuse_huge_pages();
    let successor = Successor::find()?;
    let workers = worker_count(&config.server);
    // Before there are threads: it takes variables out of the environment.
    let mut sockets = Sockets::inherit(workers, start.lent)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Early, so that no signal finds a process that is half started and dies of it.
    let mut signals = runtime.block_on(async { Signals::new() })?;

    let watched = watch::watch(&config);
    let certificates = check::look_around(&config)?;
    for certificate in &certificates {
        if let Some(problem) = certificate.validity_problem(SystemTime::now()) {
            tracing::warn!("{problem}");
        }
    }
    let snapshot = Arc::new(
        presets::snapshot(&config, certificates.clone(), None).map_err(|error| error as Box<dyn Error>)?,
    );
    let by_worker = sockets.open(&snapshot, None)?;
    sockets.close_unwanted();
    let (log, writer) = access_log::open(&config.server)?.unzip();
    let mut admin = {
        let _inside = runtime.enter();
        admin::bind(&config.server.admin, start.follows())?
    };
    if let Some(user) = &config.server.user {
        admin.as_ref().map_or(Ok(()), |listener| listener.give_to(&user.value))?;
        privileges::drop_to(&user.value)?;
    }

    let log_writer = writer.map(access_log::Writer::start).transpose()?;
    let plan = Plan { snapshot: snapshot.clone(), sockets: by_worker, log: log.clone(), driver: driver()? };
    let started = Workers::start(plan)?;
    for listener in &snapshot.listeners {
        tracing::info!(address = %listener.address, tls = listener.tls.is_some(), "listening");
    }
    tracing::info!(workers, version = env!("CARGO_PKG_VERSION"), "serving");
    if let Some(admin) = &mut admin {
        admin.publish()?;
    }
    start.succeeded();

    let running = Running::new(config, snapshot, certificates);
    let log_ends = log.clone().zip(log_writer);
    let control = Control::new(running, watched, started, sockets, log_ends, successor, recent);
    let totals = runtime.block_on(control.serve(admin, &mut signals));
    // A file or a name that is still waited for is of no interest any more.
    runtime.shutdown_background();
    let totals = totals?;
    let lines_dropped = log.as_ref().map_or(0, ringfence_forward::LogSender::lines_dropped);
    tracing::info!(
        connections = totals.connections,
        connections_refused = totals.connections_refused,
        proxy_headers_refused = totals.proxy_headers_refused,
        requests = totals.requests,
        handshakes_failed = totals.handshakes_failed,
        panics = totals.panics,
        lines_dropped,
        "stopped"
    );
    if totals.panicked { Err("a worker ended by a panic, see the log".into()) } else { Ok(()) }
}

fn start_tracing(server: &Server, recent: Recent) -> Result<(), Box<dyn Error>> {
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(io::stderr)
        .with_ansi(io::IsTerminal::is_terminal(&io::stderr()))
        .with_target(false);
    tracing_subscriber::registry()
        .with(EnvFilter::try_new(&server.log)?)
        .with(lines)
        .with(recent)
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

/// A connection takes a descriptor on each side, and so does a pipe.
fn raise_descriptor_limit(config: &Config) {
    let pipes = (worker_count(&config.server) * KERNEL_PIPES_MAX) as u64;
    let wanted = 2 * (config.limits.connections_max + pipes) + DESCRIPTORS_BESIDES;
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
