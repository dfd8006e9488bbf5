//! The thread that writes the access log, so that a slow disk holds up nobody else.

use std::{
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Stdout, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use ringfence_forward::{Batches, LogFormat, LogLayout, LogSender, log_queue};

use crate::{
    admin::class_name,
    config::{AccessLog, AccessLogFormat, AccessLogTargets, Server},
};

/// Opens what the configuration names; `None` when there is to be no log.
pub(super) fn open(server: &Server) -> Result<Option<(LogSender, Writer)>, String> {
    let to = match &server.access_log {
        AccessLog::Off => return Ok(None),
        AccessLog::Stdout => To::Stdout(io::stdout()),
        AccessLog::File(path) => {
            let file = open_file(path).map_err(|error| {
                let path = path.display();
                format!(
                    "server.access_log: cannot open {path}: {error}; its folder has to exist and be writable"
                )
            })?;
            To::File(file, path.clone())
        }
    };
    let (sender, batches) = log_queue(layout(server));
    Ok(Some((sender, Writer { batches, to, reopen: Arc::default() })))
}

fn layout(server: &Server) -> LogLayout {
    LogLayout {
        format: match server.access_log_format {
            AccessLogFormat::Text => LogFormat::Text,
            AccessLogFormat::Json => LogFormat::Json,
            AccessLogFormat::Combined => LogFormat::Combined,
        },
        with_time: !(server.access_log == AccessLog::Stdout
            && is_journal(Path::new("/proc/self/fd/1"), std::env::var("JOURNAL_STREAM").ok().as_deref())),
        class_name,
        target: match server.access_log_targets {
            AccessLogTargets::Short => ringfence_matrix::without_identifiers,
            AccessLogTargets::Full => ringfence_matrix::without_secrets,
        },
    }
}

/// Whether this descriptor is the journal's, which notes the time of each line itself (systemd.exec(5), `$JOURNAL_STREAM`).
fn is_journal(descriptor: &Path, stream: Option<&str>) -> bool {
    let is_it = |file: Metadata| stream == Some(&*format!("{}:{}", file.dev(), file.ino()));
    fs::metadata(descriptor).is_ok_and(is_it)
}

fn open_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

/// What takes batches of lines and where they go.
pub(super) struct Writer {
    batches: Batches,
    to: To,
    /// Somebody has moved the file away and wants the next lines in a new one.
    reopen: Arc<AtomicBool>,
}

enum To {
    Stdout(Stdout),
    /// Opened for appending: it may be truncated or moved by others.
    File(File, PathBuf),
}

impl To {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            To::Stdout(stdout) => stdout.write(bytes),
            To::File(file, _) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            To::Stdout(stdout) => stdout.flush(),
            To::File(..) => Ok(()),
        }
    }

    /// Goes on in a file of the same name, or in the same file if there can be none. Whether it is another one.
    fn reopen(&mut self) -> bool {
        let To::File(file, path) = self else { return false };
        match open_file(path) {
            Ok(opened) => {
                *file = opened;
                tracing::info!(file = %path.display(), "access log reopened");
                true
            }
            Err(error) => {
                tracing::error!(%error, file = %path.display(), "the access log cannot be reopened; the file before is written on");
                false
            }
        }
    }

    /// Whether somebody has emptied it: that is how a full disk is often helped.
    fn is_empty(&self) -> bool {
        matches!(self, To::File(file, _) if file.metadata().is_ok_and(|metadata| metadata.len() == 0))
    }
}

/// The thread that does so.
pub(super) struct Running {
    thread: thread::JoinHandle<()>,
    reopen: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn start(self) -> io::Result<Running> {
        let reopen = self.reopen.clone();
        let thread = thread::Builder::new().name("access-log".into()).spawn(move || self.write_all())?;
        Ok(Running { thread, reopen })
    }

    /// Writes until the log's end. While the disk is full or the pipe closed, lines are lost and counted, and serving
    /// goes on.
    fn write_all(mut self) {
        let mut lines_lost = 0_u64;
        let mut torn = false;
        while let Some(mut batch) = self.batches.next() {
            if self.reopen.swap(false, Ordering::Relaxed) {
                torn &= !self.to.reopen();
            }
            if torn && !self.to.is_empty() {
                // Half a line stands at the end: what follows must not be glued to it.
                batch.insert(0, b'\n');
            }
            match self.write(&batch) {
                Ok(()) => {
                    torn = false;
                    if lines_lost > 0 {
                        tracing::warn!(lines_lost, "the access log can be written again");
                        lines_lost = 0;
                    }
                }
                Err((error, written)) => {
                    if lines_lost == 0 {
                        tracing::error!(%error, "the access log cannot be written; lines are lost until it can");
                    }
                    torn = if written > 0 { batch[written - 1] != b'\n' } else { torn };
                    lines_lost += batch[written..].iter().filter(|byte| **byte == b'\n').count() as u64;
                }
            }
        }
        if lines_lost > 0 {
            tracing::warn!(lines_lost, "the access log could not be written");
        }
    }

    /// Writes a batch, or as much of it as goes.
    fn write(&mut self, batch: &[u8]) -> Result<(), (io::Error, usize)> {
        let mut written = 0;
        while written < batch.len() {
            match self.to.write(&batch[written..]) {
                Ok(0) => return Err((io::ErrorKind::WriteZero.into(), written)),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err((error, written)),
            }
        }
        self.to.flush().map_err(|error| (error, written))
    }
}

impl Running {
    /// Lets the lines from the next batch on go to a new file of the same name, whenever it is called: the old one has been
    /// moved away.
    pub(super) fn reopener(&self) -> impl Fn() + Send + 'static {
        let reopen = self.reopen.clone();
        move || reopen.store(true, Ordering::Relaxed)
    }

    /// Waits until everything handed over is written. The log's end has to be said before.
    pub(super) fn finish(self) {
        // Its panic was logged; there is nothing left to save.
        let _ = self.thread.join();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_journal_is_told_by_device_and_inode() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let metadata = file.as_file().metadata().unwrap();
        let stream = format!("{}:{}", metadata.dev(), metadata.ino());
        assert!(is_journal(file.path(), Some(&stream)));
        assert!(!is_journal(file.path(), Some(&format!("{stream}0"))));
        assert!(!is_journal(file.path(), None));
        assert!(!is_journal(Path::new("/nowhere"), Some(&stream)));
    }
}
