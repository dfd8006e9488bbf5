//! What the admin listener can see.

use std::{
    collections::VecDeque,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use ringfence_forward::{Clients, Counters, LogSender};
use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{Layer, layer::Context};

use crate::run::control::{Deeds, Running};

/// The process, as those see it who watch.
pub(crate) struct View {
    running: Mutex<Running>,
    /// One for each worker.
    pub(crate) counters: Vec<Arc<Counters>>,
    pub(crate) clients: Clients,
    log: Option<LogSender>,
    pub(crate) recent: Recent,
    pub(crate) deeds: Deeds,
    pub(crate) started: SystemTime,
    leaving: AtomicBool,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("View")
    }
}

impl View {
    pub(crate) fn new(
        running: Running,
        counters: Vec<Arc<Counters>>,
        clients: Clients,
        log: Option<LogSender>,
        recent: Recent,
    ) -> Self {
        Self {
            running: Mutex::new(running),
            counters,
            clients,
            log,
            recent,
            deeds: Deeds::default(),
            started: SystemTime::now(),
            leaving: AtomicBool::new(false),
        }
    }

    pub(crate) fn running(&self) -> Running {
        lock(&self.running).clone()
    }

    /// Another configuration is served from now on.
    pub(crate) fn shows(&self, running: Running) {
        *lock(&self.running) = running;
    }

    /// No new work is taken from now on.
    pub(crate) fn leaves(&self) {
        self.leaving.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    pub(crate) fn log_lines_dropped(&self) -> u64 {
        self.log.as_ref().map_or(0, LogSender::lines_dropped)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The last warnings and errors of the log.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recent(Arc<Mutex<VecDeque<Line>>>);

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub(crate) time: SystemTime,
    pub(crate) level: Level,
    pub(crate) message: String,
}

/// How many are kept: a screen.
const LINES_MAX: usize = 50;

/// Bytes kept of one.
const LINE_BYTES_MAX: usize = 1024;

impl Recent {
    /// The newest first.
    pub(crate) fn lines(&self) -> Vec<Line> {
        lock(&self.0).iter().rev().cloned().collect()
    }
}

impl<S: Subscriber> Layer<S> for Recent {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let level = *event.metadata().level();
        if level > Level::WARN {
            return;
        }
        let mut text = Text::default();
        event.record(&mut text);
        let mut message = text.message + &text.fields;
        message.truncate(message.floor_char_boundary(LINE_BYTES_MAX));
        let mut lines = lock(&self.0);
        if lines.len() == LINES_MAX {
            lines.pop_front();
        }
        lines.push_back(Line { time: SystemTime::now(), level, message });
    }
}

#[derive(Default)]
struct Text {
    message: String,
    fields: String,
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        match field.name() {
            "message" => self.message = format!("{value:?}"),
            name => self.fields += &format!(" {name}={value:?}"),
        }
    }
}
