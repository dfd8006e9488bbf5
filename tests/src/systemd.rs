//! systemd, as far as a service talks to it (sd_notify(3)).

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use tempfile::TempDir;

use crate::PATIENCE;
use crate::proxy::ProxyBuilder;

/// One that listens.
#[derive(Debug)]
pub struct Systemd {
    socket: UnixDatagram,
    folder: TempDir,
}

impl Systemd {
    /// Listens on a socket of its own.
    #[must_use]
    pub fn new() -> Systemd {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let socket = UnixDatagram::bind(folder.path().join(SOCKET)).expect("a Unix socket can be bound");
        Systemd { socket, folder }
    }

    /// The same proxy, which tells it what it does.
    pub fn of(&self, proxy: ProxyBuilder) -> ProxyBuilder {
        proxy.env("NOTIFY_SOCKET", &self.folder.path().join(SOCKET).to_string_lossy())
    }

    /// The next message; fails the test when none comes.
    #[must_use]
    pub fn hear(&self) -> String {
        self.hear_within(PATIENCE).expect("a message")
    }

    /// The next message, if one comes so soon.
    #[must_use]
    pub fn hear_within(&self, within: Duration) -> Option<String> {
        self.socket.set_read_timeout(Some(within)).expect("a timeout above zero");
        let mut buffer = [0; 1024];
        let length = self.socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned())
    }
}

impl Default for Systemd {
    fn default() -> Systemd {
        Systemd::new()
    }
}

/// The name of its socket in its folder.
const SOCKET: &str = "notify";
