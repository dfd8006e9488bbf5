//! What is attacked: ringfence, or a peer beside which its figures are to be seen.
#![forbid(unsafe_code)]

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;

use ringfence_tests::client::HOST;
use ringfence_tests::place::Place;
use ringfence_tests::{Authority, PATIENCE, Proxy, wait_until};
use tempfile::TempDir;

use crate::attacks;

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The one that is judged.
    Ringfence,
    /// Debian's.
    Nginx,
    /// Debian's.
    Haproxy,
}

impl FromStr for Kind {
    type Err = ();

    fn from_str(name: &str) -> Result<Kind, ()> {
        match name {
            "ringfence" => Ok(Kind::Ringfence),
            "nginx" => Ok(Kind::Nginx),
            "haproxy" => Ok(Kind::Haproxy),
            _ => Err(()),
        }
    }
}

/// A proxy that runs, with one worker on the proxy's core.
pub(crate) struct Subject {
    /// Where it ends TLS.
    pub(crate) tls: SocketAddr,
    /// Where it takes plain TCP.
    pub(crate) plain: SocketAddr,
    running: Running,
}

enum Running {
    Ringfence(Box<Proxy>),
    Peer { child: Child, _folder: TempDir, _places: [Place; 2] },
}

impl Subject {
    /// Starts it in front of this origin. Call it from the main thread: its cores are the thread's.
    pub(crate) fn start(kind: Kind, origin: SocketAddr) -> Subject {
        pin(PROXY_CORES);
        let subject = match kind {
            Kind::Ringfence => ringfence(origin),
            Kind::Nginx => peer(NGINX_CONFIG, origin, |config| {
                let mut command = Command::new("nginx");
                command.args(["-e", "stderr", "-c"]).arg(config);
                command
            }),
            Kind::Haproxy => peer(HAPROXY_CONFIG, origin, |config| {
                let mut command = Command::new("haproxy");
                command.args(["-db", "-f"]).arg(config);
                command
            }),
        };
        pin(&load_cores());
        subject
    }

    /// Its processes.
    pub(crate) fn pids(&self) -> Vec<u32> {
        match &self.running {
            Running::Ringfence(proxy) => vec![proxy.pid()],
            Running::Peer { child, .. } => family(child.id()),
        }
    }

    /// The proxy to be judged, if it is that one.
    pub(crate) fn ringfence(&mut self) -> Option<&mut Proxy> {
        match &mut self.running {
            Running::Ringfence(proxy) => Some(proxy),
            Running::Peer { .. } => None,
        }
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        if let Running::Peer { child, .. } = &mut self.running {
            // The children first: they would go on without their parent.
            for pid in family(child.id()).into_iter().rev() {
                let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
                let _ = pid.map(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL));
            }
            let _ = child.wait();
        }
    }
}

fn ringfence(origin: SocketAddr) -> Subject {
    let proxy = Proxy::builder()
        .upstream(&format!("http://{origin}"))
        .tls()
        .listener("role = \"client\"")
        .workers(1)
        .server("access_log = \"/dev/null\"")
        .limits("connections_per_address_max = 256")
        .timeouts(attacks::TIMEOUTS)
        .start();
    let (tls, plain) = (proxy.addresses[0], proxy.addresses[1]);
    Subject { tls, plain, running: Running::Ringfence(Box::new(proxy)) }
}

fn peer(config: &str, origin: SocketAddr, command: impl Fn(&Path) -> Command) -> Subject {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let certificate = Authority::shared().certificate(&[HOST]);
    let (chain, key) = certificate.write(folder.path(), "peer");
    let both = certificate.chain_pem + &certificate.key_pem;
    fs::write(folder.path().join("both.pem"), both).expect("a certificate can be written");
    let places = [Place::v4(), Place::v4()];
    let (tls, plain) = (places[0].address(), places[1].address());
    let config = config
        .replace("@DIR@", &folder.path().to_string_lossy())
        .replace("@CHAIN@", &chain.to_string_lossy())
        .replace("@KEY@", &key.to_string_lossy())
        .replace("@TLS@", &tls.to_string())
        .replace("@PLAIN@", &plain.to_string())
        .replace("@ORIGIN@", &origin.to_string());
    let path = folder.path().join("config");
    fs::write(&path, config).expect("a configuration can be written");
    let mut command = command(&path);
    let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
    let child = child.unwrap_or_else(|error| panic!("{:?} does not start: {error}", command.get_program()));
    wait_until("the peer listens", PATIENCE, || TcpStream::connect(plain).is_ok());
    Subject { tls, plain, running: Running::Peer { child, _folder: folder, _places: places } }
}

/// A process and its children: nginx serves from one.
fn family(pid: u32) -> Vec<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let children = children.split_whitespace().filter_map(|child| child.parse().ok());
    std::iter::once(pid).chain(children).collect()
}

/// Puts the main thread, and what it starts from now on, on these cores.
pub(crate) fn pin(cores: &str) {
    let main_thread = std::process::id().to_string();
    let pinned = Command::new("taskset")
        .args(["--cpu-list", "--pid", cores, &main_thread])
        .stdout(Stdio::null())
        .status()
        .expect("taskset of util-linux is there");
    assert!(pinned.success(), "the proxy and the load need a core each");
}

/// The cores of attackers, origin and good clients: all but the proxy's.
pub(crate) fn load_cores() -> String {
    let last = fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default();
    let last = last.trim().rsplit(['-', ',']).next().unwrap_or_default().to_owned();
    format!("1-{last}")
}

/// The core of the proxy, and of it alone.
const PROXY_CORES: &str = "0";

const NGINX_CONFIG: &str = include_str!("../../../hostile/peers/nginx.conf");

const HAPROXY_CONFIG: &str = include_str!("../../../hostile/peers/haproxy.cfg");
