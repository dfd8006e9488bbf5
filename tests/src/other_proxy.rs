//! Proxies of others, as Debian has them: what ringfence is compared with, and where operators make the mistakes that
//! `ringfence doctor` has to find.
//!
//! Each is one process, so that the end of that process is the end of it.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

use crate::authority::Certificate;
use crate::place::Place;
use crate::{PATIENCE, wait_until};

/// Which one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Software {
    /// Debian: nginx-light.
    Nginx,
    /// Debian: haproxy.
    Haproxy,
    /// Debian: caddy.
    Caddy,
    /// Debian: apache2-bin.
    Apache,
}

impl Software {
    /// As `ringfence doctor` calls it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Software::Nginx => "nginx",
            Software::Haproxy => "haproxy",
            Software::Caddy => "caddy",
            Software::Apache => "apache",
        }
    }

    /// Where its program is, if it is installed. Those of Debian that are started by root stand in a folder that others do
    /// not look into.
    #[must_use]
    pub fn program(self) -> Option<PathBuf> {
        let name = if self == Software::Apache { "apache2" } else { self.as_str() };
        let path = std::env::var_os("PATH").unwrap_or_default();
        let folders = std::env::split_paths(&path).chain([Path::new("/usr/sbin").to_owned()]);
        folders.map(|folder| folder.join(name)).find(|program| program.is_file())
    }

    fn arguments(self, file: &str) -> Vec<&str> {
        match self {
            Software::Nginx => vec!["-e", "stderr", "-c", file],
            Software::Haproxy => vec!["-db", "-f", file],
            Software::Caddy => vec!["run", "--adapter", "caddyfile", "--config", file],
            Software::Apache => vec!["-X", "-f", file],
        }
    }
}

/// One that runs until it is dropped.
#[derive(Debug)]
pub struct OtherProxy {
    /// Where it listens.
    pub address: SocketAddr,
    child: Child,
    _folder: TempDir,
    _place: Place,
}

impl OtherProxy {
    /// Starts it with this configuration, where `ADDRESS` (and `PORT`) stand for where it listens and `FOLDER` for a
    /// folder with the certificate (`c.chain.pem`, `c.key.pem`, and `c.pem` with both) and these files. Fails the test where it does not start.
    #[must_use]
    pub fn start(
        software: Software,
        certificate: &Certificate,
        config: &str,
        files: &[(&str, &str)],
    ) -> OtherProxy {
        let (folder, place) = (tempfile::tempdir().expect("a temporary folder"), Place::v4());
        // Apache does not serve as root, and whom it becomes has to read here.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("the folder is ours");
        let write = |name: &str, text: &str| {
            fs::write(folder.path().join(name), text).expect("a file can be written")
        };
        certificate.write(folder.path(), "c");
        write("c.pem", &format!("{}{}", certificate.chain_pem, certificate.key_pem));
        files.iter().for_each(|(name, text)| write(name, text));
        let address = place.address();
        let config = config
            .replace("FOLDER", &folder.path().to_string_lossy())
            .replace("ADDRESS", &address.to_string())
            .replace("PORT", &address.port().to_string());
        write("config", &config);
        let program = software.program().unwrap_or_else(|| panic!("{} is not installed", software.as_str()));
        let file = folder.path().join("config");
        let log = fs::File::create(folder.path().join("log")).expect("a file can be written");
        let mut command = Command::new(program);
        command.args(software.arguments(&file.to_string_lossy())).current_dir(folder.path());
        // Where Caddy keeps what it would remember.
        command.env("XDG_DATA_HOME", folder.path()).env("XDG_CONFIG_HOME", folder.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = command.spawn().expect("an installed program starts");
        wait_until(software.as_str(), PATIENCE, || {
            if let Ok(Some(status)) = child.try_wait() {
                let log = fs::read_to_string(folder.path().join("log")).unwrap_or_default();
                panic!("{} does not start ({status}): {log}\n{config}", software.as_str());
            }
            TcpStream::connect(address).is_ok()
        });
        OtherProxy { address, child, _folder: folder, _place: place }
    }
}

impl Drop for OtherProxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
