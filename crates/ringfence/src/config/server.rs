//! `[server]`: the process itself.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
};

use tracing_subscriber::EnvFilter;

use super::{
    limits::WORKERS,
    reader::{At, Table},
    schema::{Key, Schema},
    upstream::SOCKET_PATH_BYTES_MAX,
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
    pub(crate) access_log_targets: AccessLogTargets,
    /// Where the process can be watched and told what to do.
    pub(crate) admin: Admin,
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
    /// nginx' combined format, for programs that read web servers' logs.
    Combined,
}

/// How much of a request target a line tells. Secrets are in neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AccessLogTargets {
    /// The endpoint, and nobody: rooms, users, events, devices and media are `*`.
    Short,
    /// Everything but secrets.
    Full,
}

/// Where the admin listener is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Admin {
    Off,
    /// At [`ADMIN_SOCKET`], if that can be made and nobody else is there.
    Usual,
    /// A Unix socket: whoever may open it may also reload and upgrade.
    Unix(PathBuf),
    /// On loopback, for reading: every user of the machine can come.
    Tcp(SocketAddr),
}

impl Admin {
    /// The path of the Unix socket, if it is one.
    pub(crate) fn socket(&self) -> Option<&Path> {
        match self {
            Admin::Usual => Some(Path::new(ADMIN_SOCKET)),
            Admin::Unix(path) => Some(path),
            Admin::Off | Admin::Tcp(_) => None,
        }
    }
}

/// In the folder that systemd makes for the service (`RuntimeDirectory=`).
pub(crate) const ADMIN_SOCKET: &str = "/run/ringfence/admin.sock";

const FORMATS: [(&str, AccessLogFormat); 3] = [
    ("text", AccessLogFormat::Text),
    ("json", AccessLogFormat::Json),
    ("combined", AccessLogFormat::Combined),
];

const TARGETS: [(&str, AccessLogTargets); 2] =
    [("short", AccessLogTargets::Short), ("full", AccessLogTargets::Full)];

/// Life-cycle and errors; a line for each request is the access log's.
const LOG_DEFAULT: &str = "info";

pub(crate) const SCHEMA: Schema = Schema {
    heading: "[server]",
    about: "How the process runs and what it writes.",
    keys: &[
        Key::count("workers", &WORKERS),
        Key::text(
            "user",
            "user name",
            "stays who it is",
            "Whom to run as once ports are bound and certificates read, when started as root. systemd's unit does not need it.",
        ),
        Key::text(
            "access_log",
            "`\"stdout\"`, `\"off\"` or a file",
            "\"stdout\"",
            "Where the line of each request goes. A relative path is meant from the folder of the config file.",
        ),
        Key::text(
            "access_log_format",
            "`\"text\"`, `\"json\"` or `\"combined\"`",
            "\"text\"",
            "How that line looks. `\"combined\"` is nginx's format of that name, which fail2ban and GoAccess read.",
        ),
        Key::text(
            "access_log_targets",
            "`\"short\"` or `\"full\"`",
            "\"short\"",
            "What of a target is written: short is without the ids of rooms, users, events, devices and media; what is secret in a query is never written.",
        ),
        Key::text(
            "admin",
            "`\"unix:/PATH\"`, a loopback address with a port, or `\"off\"`",
            "`\"unix:/run/ringfence/admin.sock\"` where that folder exists",
            "Where the process can be watched, and over a Unix socket also told to reload and to upgrade, by its owner and its group. On TCP everything is for reading only, since every user of the machine can come. With `\"off\"` exchanges are not counted by kind.",
        ),
        Key::text(
            "log",
            "filter of `tracing`",
            "\"info\"",
            "What is told of the process's life and of errors, on standard error: a level such as `\"info\"` or `\"debug\"`.",
        ),
    ],
};

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
            access_log_targets: table
                .word("access_log_targets", &TARGETS)
                .map_or(AccessLogTargets::Short, |word| word.value),
            admin: admin(table, folder),
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

fn admin(table: &Table<'_>, folder: &Path) -> Admin {
    let Some(text) = table.string("admin") else { return Admin::Usual };
    let advice = "write \"off\", \"unix:/PATH\" or a loopback address with a port, as in \"127.0.0.1:9180\"";
    match (text.value, text.value.strip_prefix("unix:"), text.value.parse::<SocketAddr>()) {
        ("off", ..) => return Admin::Off,
        (_, Some(path), _) if !path.is_empty() && path.len() <= SOCKET_PATH_BYTES_MAX => {
            return Admin::Unix(folder.join(path));
        }
        (.., Ok(address)) if address.ip().is_loopback() => return Admin::Tcp(address),
        (.., Ok(address)) => {
            let message = format!("`admin` is {address}, which others can reach; {advice}");
            table.note(text.place, message);
        }
        _ => table.note(text.place, format!("`admin` is {:?}; {advice}", text.value)),
    }
    Admin::Off
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
