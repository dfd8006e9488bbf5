//! `idle`: connections that are there and say nothing, as most of a homeserver's are.

use std::cell::Cell;
use std::io::Write as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use nix::sys::signal::{SigSet, Signal};
use serde_json::json;

use crate::crowd::{self, Make};
use crate::flood::{ADDRESS_CONNECTIONS_MAX, Common};
use crate::slot::{Handshake, Slot};
use crate::target::Target;
use crate::worker::Worker;
use crate::{runtime, tls};

/// How many, and where.
#[derive(Args, Clone, Debug)]
pub(crate) struct Idle {
    /// http:// or https://
    #[arg(long)]
    url: String,
    /// Connections to hold.
    #[arg(long, default_value_t = 10_000)]
    connections: usize,
    /// How long to hold them [default: until SIGTERM or SIGINT].
    #[arg(long)]
    seconds: Option<f64>,
    #[command(flatten)]
    common: Common,
}

/// Opens, says `ready`, holds, says how many were closed meanwhile; whether none was.
pub(crate) fn run(idle: &Idle) -> Result<bool, String> {
    let target = Target::parse(&idle.url)?;
    runtime::raise_descriptors(idle.connections)?;
    let stopped = stop_on_signal()?;
    runtime::run(hold(idle, target, &stopped)).map_err(|error| format!("no runtime: {error}"))?
}

async fn hold(idle: &Idle, target: Target, stopped: &AtomicBool) -> Result<bool, String> {
    let worker = Rc::new(Worker::new(1, 1, &idle.common.accept));
    let config = tls::config(&idle.common)?;
    let head = format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", target.request_target, target.authority);
    let make: Make = Rc::new(move |_, _, _, request| request.head.extend_from_slice(head.as_bytes()));
    let target = Rc::new(target);
    let far = idle.connections > ADDRESS_CONNECTIONS_MAX;
    let slot = |number| {
        let source = if far { target.source(number) } else { None };
        Slot::new(number, Handshake::Keep, &target, &config, source)
    };
    let begin = Instant::now();
    let slots = crowd::open_all((0..idle.connections).map(slot).collect(), &worker, Some(&make)).await?;
    let opened = begin.elapsed().as_secs_f64();
    let closed = Rc::new(Cell::new(0));
    watch(slots, &worker, &closed);
    println!("ready");
    std::io::stdout().flush().map_err(|error| error.to_string())?;

    let held = Instant::now();
    let enough = |held: Duration| idle.seconds.is_some_and(|seconds| held.as_secs_f64() >= seconds);
    while !stopped.load(Ordering::Relaxed) && !enough(held.elapsed()) {
        monoio::time::sleep(STOP_LOOK).await;
    }
    let (held, closed) = (held.elapsed().as_secs_f64(), closed.get());
    let counters = worker.counters();
    if idle.common.json {
        let handshakes = json!({ "full": counters.handshakes_full, "resumed": counters.handshakes_resumed });
        println!(
            "{}",
            json!({ "connections": idle.connections, "opened_in_seconds": opened, "held_seconds": held,
                "closed": closed, "handshakes": handshakes })
        );
    } else {
        println!(
            "{} connections opened in {opened:.2} s and held for {held:.2} s; {closed} were closed",
            idle.connections
        );
    }
    Ok(closed == 0)
}

/// Watches the connections of these peers from now on and counts those that the other side closes.
pub(crate) fn watch(slots: Vec<Slot>, worker: &Rc<Worker>, closed: &Rc<Cell<u64>>) {
    for mut slot in slots {
        let Some(connection) = slot.take_connection() else {
            // The response said that it closes.
            closed.set(closed.get() + 1);
            continue;
        };
        let (closed, worker) = (closed.clone(), worker.clone());
        drop(monoio::spawn(async move {
            connection.closed(&worker.wire).await;
            closed.set(closed.get() + 1);
        }));
    }
}

/// Becomes true on SIGTERM and SIGINT. Called before other threads are, so that all of them leave the signals to it.
pub(crate) fn stop_on_signal() -> Result<Arc<AtomicBool>, String> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(|error| error.to_string())?;
    let stopped = Arc::new(AtomicBool::new(false));
    let told = stopped.clone();
    thread::spawn(move || {
        if signals.wait().is_ok() {
            told.store(true, Ordering::Relaxed);
        }
    });
    Ok(stopped)
}

/// How often it looks whether it was told to stop.
const STOP_LOOK: Duration = Duration::from_millis(50);
