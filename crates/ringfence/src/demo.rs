//! `ringfence demo`: the real proxy before a stand-in homeserver, without a config file and without root.
//!
//! Everything that an operator would have to bring is made here and gone at the end: a certificate authority, a
//! certificate, a homeserver and a config file, in a temporary folder. The proxy itself is started from that
//! config file as `ringfence run` does it: the demo shows the product, not a copy of it.

mod certificate;
mod homeserver;

use std::error::Error;
use std::fmt::{self, Display};
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use homeserver::Homeserver;

/// Runs the demo until it is interrupted.
pub(crate) fn run() -> Result<(), Box<dyn Error>> {
    let stage = Stage::set_up()?;
    let mut stdout = io::stdout().lock();
    write!(stdout, "{stage}")?;
    stdout.flush()?;
    drop(stdout);
    crate::run::run(crate::config::load(&stage.config_file())?)
}

/// What the proxy needs around it. Dropping it stops the homeserver and removes the files.
struct Stage {
    homeserver: Homeserver,
    ports: Ports,
    folder: TempDir,
}

impl Stage {
    fn set_up() -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::Builder::new().prefix("ringfence-").tempdir()?;
        let homeserver = Homeserver::start()?;
        let ports = Ports::find()?;
        let certificates = certificate::make()?;
        let stage = Self { homeserver, ports, folder };
        fs::write(stage.authority_file(), certificates.authority)?;
        fs::write(stage.file(LEAF_FILE), certificates.leaf)?;
        fs::write(stage.file(LEAF_KEY_FILE), certificates.leaf_key)?;
        fs::write(stage.config_file(), config_text(stage.homeserver.address(), &stage.ports))?;
        Ok(stage)
    }

    fn authority_file(&self) -> PathBuf {
        self.file("ca.pem")
    }

    fn config_file(&self) -> PathBuf {
        self.file("ringfence.toml")
    }

    /// The folder is readable by its owner only, so the files need no mode of their own.
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ports { client, federation } = self.ports;
        writeln!(f, "ringfence demo")?;
        writeln!(f, "  clients     https://localhost:{client}")?;
        writeln!(f, "  federation  https://localhost:{federation}")?;
        writeln!(f, "  homeserver  http://{}, a stand-in that keeps nothing", self.homeserver.address())?;
        writeln!(f, "  files       {}, removed at the end", self.folder.path().display())?;
        writeln!(f, "\nTry in another terminal:")?;
        for trial in trials(&self.authority_file(), &self.ports) {
            writeln!(f, "\n  # {}\n  {}", trial.about, trial.command)?;
        }
        writeln!(f, "\nCtrl-C ends it. Each request is one line below.\n")
    }
}

/// The ports of the proxy on 127.0.0.1.
#[derive(Clone, Copy, Debug)]
struct Ports {
    client: u16,
    federation: u16,
}

impl Ports {
    /// The usual ports, or the next free ones. Both are held while they are chosen, so that they differ; what
    /// takes one of them between this choice and the proxy's own bind is reported by the proxy.
    fn find() -> io::Result<Self> {
        let client = hold_port(CLIENT_PORT)?;
        let federation = hold_port(FEDERATION_PORT)?;
        Ok(Self { client: client.local_addr()?.port(), federation: federation.local_addr()?.port() })
    }
}

/// Takes the first free port of [`PORTS_TRIED`] from `first` on.
fn hold_port(first: u16) -> io::Result<TcpListener> {
    let last = first.saturating_add(PORTS_TRIED - 1);
    (first..=last)
        .filter(|port| !is_taken_on_ipv6(*port))
        .find_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok())
        .ok_or_else(|| {
            let message =
                format!("no port from {first} to {last} is free on 127.0.0.1: stop what listens there");
            io::Error::new(ErrorKind::AddrInUse, message)
        })
}

/// Whether another server would answer for `localhost`, which clients look for at ::1 first.
fn is_taken_on_ipv6(port: u16) -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, port)).is_err_and(|error| error.kind() == ErrorKind::AddrInUse)
}

/// The config file of the demo: what an operator would write, but for the ports, the short drain and a limit that
/// needs no more descriptors than any machine grants.
fn config_text(homeserver: SocketAddr, ports: &Ports) -> String {
    let Ports { client, federation } = ports;
    format!(
        r#"[server]
access_log = "stdout"
access_log_format = "text"

[[homeserver]]
server_name = "localhost"
public_host = "localhost:{client}"
federation_host = "localhost:{federation}"
upstream = "http://{homeserver}"

[[certificate]]
chain = "{LEAF_FILE}"
key = "{LEAF_KEY_FILE}"

[[listener]]
address = "127.0.0.1:{client}"
role = "client"

[[listener]]
address = "127.0.0.1:{federation}"
role = "federation"

[limits]
connections_max = {CONNECTIONS_MAX}

[timeouts]
drain = "1s"
"#
    )
}

/// A command to try, and what it shows.
struct Trial {
    about: &'static str,
    command: String,
}

/// The commands that work as printed in a shell, one for each thing that the proxy does to a request.
fn trials(authority: &Path, ports: &Ports) -> Vec<Trial> {
    let curl = format!("curl -sS --cacert {}", shell_word(authority));
    let client = format!("https://localhost:{}", ports.client);
    let federation = format!("https://localhost:{}", ports.federation);
    let trial = |about, command| Trial { about, command };
    vec![
        trial("an answer of the homeserver, over TLS", format!("{curl} {client}/_matrix/client/versions")),
        trial("the login flows", format!("{curl} {client}/_matrix/client/v3/login")),
        trial(
            "the request target arrives byte for byte; a forged address and request id do not",
            format!(
                "{curl} -H 'X-Forwarded-For: 6.6.6.6' -H 'X-Request-ID: forged' \
                 '{client}/_matrix/client/v3/directory/room/%23a%2Fb%3Alocalhost?via=c%2fd'"
            ),
        ),
        trial(
            "a long poll: five seconds of silence",
            format!("{curl} '{client}/_matrix/client/v3/sync?timeout=5000'"),
        ),
        trial(
            "an upload of 40 MB, streamed",
            format!("head -c 40000000 /dev/zero | {curl} --data-binary @- {client}/_matrix/media/v3/upload"),
        ),
        trial(
            "one over the limit of 50 MiB: refused before it is sent",
            format!(
                "head -c 60000000 /dev/zero | {curl} -w '\\n' --data-binary @- {client}/_matrix/media/v3/upload"
            ),
        ),
        trial(
            "a download of 1 GB",
            format!(
                "{curl} -o /dev/null -w '%{{size_download}} bytes in %{{time_total}} s\\n' \
                 {client}/_matrix/client/v1/media/download/demo/1000000000"
            ),
        ),
        trial(
            "what the proxy answers itself",
            format!("{curl} -i -w '\\n' {client}/.well-known/matrix/client"),
        ),
        trial(
            "admin paths are closed, however they are spelled",
            format!("{curl} -w '\\n' {client}/_synapse/%61dmin/v1/users"),
        ),
        trial("the federation port", format!("{curl} {federation}/_matrix/federation/v1/version")),
    ]
}

/// `path` as one word of a shell command.
fn shell_word(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte);
    if text.bytes().all(plain) { text } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

/// Where the client listener is looked for first: the usual port that needs no privileges.
const CLIENT_PORT: u16 = 8443;

/// Where the federation listener is looked for first: the port that Matrix gives it.
const FEDERATION_PORT: u16 = 8448;

/// Ports tried before the demo gives up. Enough for a few demos side by side; when more are taken, something is
/// wrong that a person should look at.
const PORTS_TRIED: u16 = 32;

/// Client connections at once. Each takes two descriptors, and containers may grant 4096 and no more.
const CONNECTIONS_MAX: u32 = 1024;

const LEAF_FILE: &str = "localhost.pem";
const LEAF_KEY_FILE: &str = "localhost-key.pem";

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::path::Path;

    use super::{PORTS_TRIED, Stage, hold_port, shell_word};

    #[test]
    fn a_taken_port_is_passed_over() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let first = taken.local_addr().unwrap().port();
        let found = hold_port(first).unwrap().local_addr().unwrap().port();
        assert!(found > first && found - first < PORTS_TRIED, "{found} after {first}");
    }

    #[test]
    fn the_proxy_accepts_what_the_demo_writes() {
        let stage = Stage::set_up().unwrap();
        let config = crate::config::load(&stage.config_file()).unwrap();
        crate::certificates::load(&config).unwrap();
    }

    #[test]
    fn every_printed_command_names_the_authority() {
        let stage = Stage::set_up().unwrap();
        let printed = stage.to_string();
        let authority = format!("--cacert {}", stage.authority_file().display());
        let commands = printed.lines().filter(|line| line.contains("curl")).count();
        assert!(commands >= 10, "{printed}");
        assert_eq!(printed.matches(&authority).count(), commands, "{printed}");
    }

    #[test]
    fn its_folder_is_gone_afterwards() {
        let stage = Stage::set_up().unwrap();
        let folder = stage.folder.path().to_owned();
        assert!(stage.config_file().exists());
        drop(stage);
        assert!(!folder.exists());
    }

    #[test]
    fn a_path_with_spaces_and_quotes_is_one_shell_word() {
        assert_eq!(shell_word(Path::new("/tmp/a-b_c.pem")), "/tmp/a-b_c.pem");
        assert_eq!(shell_word(Path::new("/tmp/it's here")), r"'/tmp/it'\''s here'");
    }
}
