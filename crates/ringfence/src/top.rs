//! `ringfence top`: what the running ringfence does, in a terminal.
//!
//! Asks for `/status` over the admin socket every two seconds and draws the same as the status page, with escape sequences that
//! every terminal knows (ECMA-48). `q` or Ctrl-C ends it; the terminal is given back as it was.

mod screen;

use std::{
    collections::VecDeque,
    error::Error,
    io::{self, IsTerminal, Read, Write},
    path::Path,
    thread,
    time::Duration,
};

use rustix::termios::{self, LocalModes, OptionalActions, Termios};
use serde_json::Value;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc,
    task, time,
};

use crate::admin::{self, Asked};
use screen::{Look, screen};

/// Shows it until the user has seen enough; `once`, or where there is no terminal, prints it one time.
pub(crate) fn run(config: &Path, once: bool) -> Result<(), Box<dyn Error>> {
    let first = read(config)?;
    if once || !io::stdout().is_terminal() {
        for line in screen(&Look { readings: &[&first], note: None, columns: usize::MAX, styled: false }) {
            writeln!(io::stdout(), "{line}")?;
        }
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let _terminal = Terminal::take()?;
    let watched = runtime.block_on(watch(config, first));
    // The thread that reads keys waits for one that does not come.
    runtime.shutdown_background();
    watched.map_err(Into::into)
}

/// How often is asked: a worker's gauges are four times as fresh.
const EVERY: Duration = Duration::from_secs(2);

/// Readings kept: a minute, of which the table is made.
const READINGS_MAX: usize = 31;

async fn watch(config: &Path, first: Value) -> io::Result<()> {
    let mut readings = VecDeque::from([first]);
    let mut note = None;
    let mut keys = keys();
    let mut tick = time::interval(EVERY);
    let (mut resized, mut told) =
        (signal(SignalKind::window_change())?, [SignalKind::terminate(), SignalKind::hangup()].map(signal));
    let [terminate, hang_up] = &mut told;
    let (Ok(terminate), Ok(hang_up)) = (terminate, hang_up) else { return Ok(()) };
    // The reading that is there is drawn at once.
    tick.tick().await;
    loop {
        draw(&readings, note.as_deref())?;
        tokio::select! {
            _ = tick.tick() => note = ask(config, &mut readings).await,
            key = keys.recv() => if key.is_none_or(|key| matches!(key, b'q' | b'Q' | CTRL_C | CTRL_D)) { return Ok(()) },
            _ = resized.recv() => {}
            _ = terminate.recv() => return Ok(()),
            _ = hang_up.recv() => return Ok(()),
        }
    }
}

const CTRL_C: u8 = 3;
const CTRL_D: u8 = 4;

/// Adds a reading; what there is to be said of it otherwise.
async fn ask(config: &Path, readings: &mut VecDeque<Value>) -> Option<String> {
    let config = config.to_owned();
    let read = task::spawn_blocking(move || read(&config).map_err(|error| error.to_string())).await;
    let reading = match read {
        Ok(Ok(reading)) => reading,
        Ok(Err(error)) => return Some(format!("unreachable, what is shown is older: {error}")),
        Err(error) => return Some(error.to_string()),
    };
    let is_same = |before: &Value| before["pid"] == reading["pid"] && before["started"] == reading["started"];
    let mut note = None;
    if let Some(before) = readings.back().filter(|before| !is_same(before)) {
        note = Some(format!("another process has taken over: {} → {}", before["pid"], reading["pid"]));
        readings.clear();
    }
    if readings.len() == READINGS_MAX {
        readings.pop_front();
    }
    readings.push_back(reading);
    note
}

fn read(config: &Path) -> Result<Value, Box<dyn Error>> {
    match admin::ask(config, "GET", "/status")? {
        Asked { status: 200, content } => Ok(serde_json::from_str(&content)?),
        Asked { status, content } => Err(format!("/status answers {status}: {}", content.trim_end()).into()),
    }
}

fn draw(readings: &VecDeque<Value>, note: Option<&str>) -> io::Result<()> {
    let size = termios::tcgetwinsize(io::stdout()).ok();
    let (columns, rows) = size.map_or((80, 24), |size| (usize::from(size.ws_col), usize::from(size.ws_row)));
    let readings: Vec<&Value> = readings.iter().collect();
    let lines = screen(&Look { readings: &readings, note, columns, styled: true });
    // From the top, each line's rest and the screen's rest cleared: without flicker.
    let mut frame = String::from("\x1b[H");
    let shown = lines.len().min(rows);
    for (index, line) in lines[..shown].iter().enumerate() {
        frame += line;
        frame += if index + 1 < shown { "\x1b[K\r\n" } else { "\x1b[K" };
    }
    frame += "\x1b[J";
    let mut out = io::stdout().lock();
    out.write_all(frame.as_bytes())?;
    out.flush()
}

/// Keys, as they are pressed.
fn keys() -> mpsc::UnboundedReceiver<u8> {
    let (pressed, keys) = mpsc::unbounded_channel();
    thread::spawn(move || {
        for key in io::stdin().lock().bytes().map_while(Result::ok) {
            if pressed.send(key).is_err() {
                return;
            }
        }
    });
    keys
}

/// The terminal with a screen of its own and keys one by one; dropping it gives it back.
struct Terminal {
    before: Option<Termios>,
}

impl Terminal {
    fn take() -> io::Result<Self> {
        // Keys may come from elsewhere, or from nowhere.
        let before = termios::tcgetattr(io::stdin()).ok();
        if let Some(before) = &before {
            let mut now = before.clone();
            now.local_modes -= LocalModes::ICANON | LocalModes::ECHO | LocalModes::ISIG;
            termios::tcsetattr(io::stdin(), OptionalActions::Now, &now)?;
        }
        let terminal = Self { before };
        write!(io::stdout(), "\x1b[?1049h\x1b[?25l")?;
        Ok(terminal)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // There is nobody to tell if the terminal is gone.
        let _ = write!(io::stdout(), "\x1b[?25h\x1b[?1049l").and_then(|()| io::stdout().flush());
        if let Some(before) = &self.before {
            let _ = termios::tcsetattr(io::stdin(), OptionalActions::Now, before);
        }
    }
}
