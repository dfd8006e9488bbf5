//! The thread that writes the access log, so that a slow disk holds up nobody else.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    thread,
};

use ringfence_forward::{Batches, LogFormat, LogSender, log_queue};

use crate::config::{AccessLog, AccessLogFormat, Server};

/// Opens what the configuration names; `None` when there is to be no log.
pub(super) fn open(server: &Server) -> Result<Option<(LogSender, Writer)>, String> {
    let to: Box<dyn Write + Send> = match &server.access_log {
        AccessLog::Off => return Ok(None),
        AccessLog::Stdout => Box::new(io::stdout()),
        AccessLog::File(path) => Box::new(open_file(path).map_err(|error| {
            format!(
                "server.access_log: cannot open {}: {error}; its folder has to exist and be writable",
                path.display()
            )
        })?),
    };
    let format = match server.access_log_format {
        AccessLogFormat::Text => LogFormat::Text,
        AccessLogFormat::Json => LogFormat::Json,
    };
    let (sender, batches) = log_queue(format);
    Ok(Some((sender, Writer { batches, to })))
}

fn open_file(path: &std::path::Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// What takes batches of lines and where they go.
pub(super) struct Writer {
    batches: Batches,
    to: Box<dyn Write + Send>,
}

/// The thread that does so.
pub(super) struct Running {
    thread: thread::JoinHandle<()>,
}

impl Writer {
    pub(super) fn start(self) -> io::Result<Running> {
        let thread = thread::Builder::new().name("access-log".into()).spawn(move || self.write_all())?;
        Ok(Running { thread })
    }

    /// Writes until the log's end. While the disk is full or the pipe closed, lines are lost and counted,
    /// and serving goes on.
    fn write_all(mut self) {
        let mut lines_lost = 0_u64;
        while let Some(batch) = self.batches.next() {
            match self.to.write_all(&batch).and_then(|()| self.to.flush()) {
                Ok(()) if lines_lost > 0 => {
                    tracing::warn!(lines_lost, "the access log can be written again");
                    lines_lost = 0;
                }
                Ok(()) => {}
                Err(error) => {
                    if lines_lost == 0 {
                        tracing::error!(%error, "the access log cannot be written; lines are lost until it can");
                    }
                    lines_lost += batch.iter().filter(|byte| **byte == b'\n').count() as u64;
                }
            }
        }
        if lines_lost > 0 {
            tracing::warn!(lines_lost, "the access log could not be written");
        }
    }
}

impl Running {
    /// Waits until everything handed over is written. The log's end has to be said before.
    pub(super) fn finish(self) {
        // Its panic was logged; there is nothing left to save.
        let _ = self.thread.join();
    }
}
