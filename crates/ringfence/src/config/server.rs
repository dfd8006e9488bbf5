//! `[server]`: the process itself.

use std::path::{Path, PathBuf};

use tracing_subscriber::EnvFilter;

use super::{
    limits::WORKERS,
    reader::{At, Schema, Table},
};

/// How the process runs and what it writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Server {
    /// Worker threads; 0 is one per core that this process may run on.
    pub(crate) workers: u64,
    /// Whom to run as once ports are bound, when started as root.
    pub(crate) user: Option<At<String>>,
    pub(crate) access_log: AccessLog,
    pub(crate) access_log_format: AccessLogFormat,
    /// What is told of life-cycle and errors: a filter of `tracing`.
    pub(crate) log: String,
}

/// Where a line for each request goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AccessLog {
    Off,
    Stdout,
    File(PathBuf),
}

/// How a line for each request looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessLogFormat {
    Text,
    Json,
}

const FORMATS: [(&str, AccessLogFormat); 2] =
    [("text", AccessLogFormat::Text), ("json", AccessLogFormat::Json)];

/// Life-cycle and errors; a line for each request is the access log's.
const LOG_DEFAULT: &str = "info";

pub(crate) const SCHEMA: Schema =
    Schema { heading: "[server]", keys: &["workers", "user", "access_log", "access_log_format", "log"] };

impl Server {
    /// Reads the table; relative paths are meant from `folder`.
    pub(crate) fn read(table: &Table<'_>, folder: &Path) -> Self {
        Self {
            workers: table.count("workers", &WORKERS),
            user: user(table),
            access_log: access_log(table, folder),
            access_log_format: table
                .word("access_log_format", &FORMATS)
                .map_or(AccessLogFormat::Text, |word| word.value),
            log: log(table),
        }
    }
}

fn user(table: &Table<'_>) -> Option<At<String>> {
    let text = table.string("user")?;
    if text.value.is_empty() || text.value.contains([':', '/', '\0']) {
        table.note(
            text.place,
            format!("`user` is {:?}; write the name of a system user, or remove it", text.value),
        );
    }
    Some(At { value: text.value.to_owned(), place: text.place })
}

fn access_log(table: &Table<'_>, folder: &Path) -> AccessLog {
    let Some(text) = table.string("access_log") else { return AccessLog::Stdout };
    match text.value {
        "off" => AccessLog::Off,
        "stdout" => AccessLog::Stdout,
        "" => {
            table.note(text.place, "`access_log` is empty; write \"off\", \"stdout\" or the path of a file");
            AccessLog::Off
        }
        path => AccessLog::File(folder.join(path)),
    }
}

fn log(table: &Table<'_>) -> String {
    let Some(text) = table.string("log") else { return LOG_DEFAULT.to_owned() };
    if let Err(error) = EnvFilter::try_new(text.value) {
        let message =
            format!("`log` is {:?}: {error}; write a level such as \"info\" or \"debug\"", text.value);
        table.note(text.place, message);
    }
    text.value.to_owned()
}
