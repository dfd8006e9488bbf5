//! The proxy under test: the real binary with a configuration of its own, on ports of its own.

use std::env;
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::client::HOST;
use crate::place::Place;
use crate::{Authority, Client, Origin, PATIENCE, wait_until};

/// A configuration in the making.
#[derive(Debug)]
#[must_use]
pub struct ProxyBuilder {
    top: String,
    server: String,
    /// As TOML.
    upstreams: Vec<String>,
    limits: String,
    timeouts: String,
    extra: String,
    workers: usize,
    certificates: Vec<Vec<String>>,
    listeners: Vec<ListenerSpec>,
    environment: Vec<(String, String)>,
    files: Vec<(String, String)>,
    has_admin: bool,
    has_own_binary: bool,
    mounts: Vec<(PathBuf, String)>,
}

#[derive(Debug)]
struct ListenerSpec {
    tls: bool,
    lines: String,
    place: Place,
}

/// A running `ringfence run`.
#[derive(Debug)]
pub struct Proxy {
    /// The first listener: where clients connect.
    pub address: SocketAddr,
    /// Every listener, in the order in which the builder was told of them.
    pub addresses: Vec<SocketAddr>,
    /// The certificates, in the order of the configuration.
    pub certificates: Vec<crate::authority::Certificate>,
    child: Child,
    folder: TempDir,
    /// What it was started from.
    binary: PathBuf,
    /// Whether its log has what it says when it is up.
    says_when_serving: bool,
    _places: Vec<Place>,
}

/// How a process ended.
#[derive(Clone, Copy, Debug)]
pub struct Stopped {
    /// Its exit status.
    pub status: ExitStatus,
    /// From the signal, or from the call that waited, to the end.
    pub took: Duration,
}

impl Proxy {
    /// A proxy for the homeserver `example.com` at this origin, with one plain client listener and one worker.
    pub fn to(origin: &Origin) -> ProxyBuilder {
        Proxy::builder().upstream(&origin.url())
    }

    /// The same without an upstream yet.
    pub fn builder() -> ProxyBuilder {
        ProxyBuilder {
            top: String::new(),
            server: String::new(),
            upstreams: Vec::new(),
            limits: String::new(),
            timeouts: String::new(),
            extra: String::new(),
            workers: 1,
            certificates: Vec::new(),
            listeners: vec![ListenerSpec::new("role = \"client\"", false, Place::v4())],
            environment: Vec::new(),
            files: Vec::new(),
            has_admin: false,
            has_own_binary: false,
            mounts: Vec::new(),
        }
    }

    /// Connects to the first listener over plain TCP.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::connect(self.address)
    }

    /// Connects to the first listener over TLS, asking for the usual host.
    #[must_use]
    pub fn tls_client(&self) -> Client {
        Client::tls(self.address, HOST)
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its config file.
    #[must_use]
    pub fn config_file(&self) -> PathBuf {
        self.folder.path().join(CONFIG)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    /// Sends a signal to the process that serves now.
    pub fn signal_newest(&self, signal: Signal) {
        send(self.newest(), signal);
    }

    /// Sends SIGTERM and waits for the end.
    pub fn stop(&mut self) -> Stopped {
        self.signal(Signal::TERM);
        self.stopped_within(PATIENCE).expect("the proxy ends after SIGTERM")
    }

    /// Waits for the process to end; `None` when it is still there after `within`.
    pub fn stopped_within(&mut self, within: Duration) -> Option<Stopped> {
        let begun = Instant::now();
        while begun.elapsed() < within {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                return Some(Stopped { status, took: begun.elapsed() });
            }
            crate::pause(5 * crate::MS);
        }
        None
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        read_text(&self.folder.path().join("stderr"))
    }

    /// What it wrote to standard output so far.
    #[must_use]
    pub fn stdout(&self) -> String {
        read_text(&self.folder.path().join("stdout"))
    }

    /// Whether a panic is in its log: one connection's fault, and a fault of the proxy.
    #[must_use]
    pub fn has_panicked(&self) -> bool {
        let log = self.stderr();
        log.contains("panicked at") || log.contains("ERROR panic")
    }

    /// Waits for `count` lines of the access log and returns all that are there.
    #[must_use]
    pub fn access_log(&self, count: usize) -> Vec<String> {
        let path = self.folder.path().join("access.log");
        wait_until("lines of the access log", PATIENCE, || read_text(&path).matches('\n').count() >= count);
        read_text(&path).lines().map(str::to_owned).collect()
    }

    /// The folder of its configuration, certificates, logs and admin socket.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The text of its config file.
    #[must_use]
    pub fn config(&self) -> String {
        read_text(&self.folder.path().join(CONFIG))
    }

    /// Writes another config file, for the next reload or upgrade.
    pub fn set_config(&self, text: &str) {
        fs::write(self.folder.path().join(CONFIG), text).expect("the configuration is written");
    }

    /// The binary that it was started from and that follows in an upgrade.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Runs `ringfence COMMAND` with its config file until that ends.
    #[must_use]
    pub fn command(&self, command: &str) -> Output {
        ringfence(&[command, "--config", &self.folder.path().join(CONFIG).to_string_lossy()])
    }

    /// Runs `ringfence COMMAND`, which has to succeed, and returns what it says.
    pub fn tell(&self, command: &str) -> String {
        let output = self.command(command);
        let told = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(output.status.success(), "{command}: {}", told(&output.stderr));
        told(&output.stdout)
    }

    /// What the admin socket answers to a GET; `None` when there is no answer.
    #[must_use]
    pub fn admin(&self, path: &str) -> Option<String> {
        let mut stream = UnixStream::connect(self.admin_socket()).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        answer.split_once("\r\n\r\n").map(|(_, content)| content.to_owned())
    }

    /// Where the admin socket is.
    #[must_use]
    pub fn admin_socket(&self) -> PathBuf {
        self.folder.path().join(ADMIN_SOCKET)
    }

    /// A number on the admin socket's `/metrics`: the line that begins like this.
    #[must_use]
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.admin("/metrics").unwrap_or_default();
        let line = page.lines().find_map(|line| line.strip_prefix(name));
        let number = line.and_then(|rest| rest.trim().parse().ok());
        number.unwrap_or_else(|| panic!("/metrics has no number for {name}:\n{page}"))
    }

    /// The processes that have taken over so far, the first one last.
    #[must_use]
    pub fn followers(&self) -> Vec<u32> {
        let log = self.stderr();
        let pid = |line: &str| line.split_once("process ")?.1.split_once(" has taken over")?.0.parse().ok();
        log.lines().filter_map(pid).collect()
    }

    /// The process that serves now: the one that was started, or the last that has taken over.
    #[must_use]
    pub fn newest(&self) -> u32 {
        self.followers().last().copied().unwrap_or_else(|| self.pid())
    }

    /// Whether this process is one of this proxy's and still runs.
    #[must_use]
    pub fn is_running(&self, pid: u32) -> bool {
        let arguments = read_text(Path::new(&format!("/proc/{pid}/cmdline")));
        arguments.contains(&*self.folder.path().to_string_lossy())
    }

    /// Whether this process holds descriptors: one that has ended holds none, also while nobody has waited for it.
    #[must_use]
    pub fn has_sockets(&self, pid: u32) -> bool {
        fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|mut entries| entries.next().is_some())
    }

    /// Kills the process that was started last, and waits for it as a service manager does.
    pub fn kill(&mut self) {
        self.child.kill().and_then(|()| self.child.wait()).expect("a child can be killed");
    }

    /// Starts the binary once more with the same files, as a service manager does when a service has died. The process
    /// before is left alone.
    pub fn start_again(&mut self) {
        let mut command = Command::new(&self.binary);
        command.args(["run", "--config"]).arg(self.folder.path().join(CONFIG)).stdin(Stdio::null());
        let log =
            fs::File::create(self.folder.path().join("stderr")).expect("a file in the temporary folder");
        self.child = command.stdout(Stdio::null()).stderr(log).spawn().expect("the binary starts");
        self.says_when_serving = true;
        self.wait_until_listening();
    }

    /// Every process of this proxy that runs: the one that was started, those that follow, those that are about to.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        pids.filter(|&pid| self.is_running(pid)).collect()
    }

    /// Resident memory, in KiB.
    #[must_use]
    pub fn resident_kib(&self) -> u64 {
        let status = read_text(Path::new(&format!("/proc/{}/status", self.pid())));
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
    }

    /// Open file descriptors.
    #[must_use]
    pub fn descriptors(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.pid())).map_or(0, Iterator::count)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let status = self.child.wait();
        // Those that follow are nobody's children any more.
        self.followers()
            .into_iter()
            .filter(|&pid| self.is_running(pid))
            .for_each(|pid| send(pid, Signal::KILL));
        let ended_early = status.is_ok_and(|status| status.signal().is_none() && !status.success());
        let panicked = self.has_panicked();
        if thread::panicking() || ended_early || panicked {
            eprintln!("--- the proxy's configuration:\n{}", read_text(&self.folder.path().join(CONFIG)));
            eprintln!("--- the proxy's standard error:\n{}", self.stderr());
            eprintln!("--- the proxy's access log:\n{}", read_text(&self.folder.path().join("access.log")));
        }
        assert!(thread::panicking() || !panicked, "the proxy panicked");
    }
}

impl ProxyBuilder {
    /// Adds an upstream of the homeserver: a URL or `unix:PATH`.
    pub fn upstream(mut self, url: &str) -> ProxyBuilder {
        self.upstreams.push(format!("\"{url}\""));
        self
    }

    /// The same with a weight.
    pub fn weighted_upstream(mut self, url: &str, weight: u32) -> ProxyBuilder {
        self.upstreams.push(format!("{{ url = \"{url}\", weight = {weight} }}"));
        self
    }

    /// Adds lines to `[limits]`.
    pub fn limits(mut self, lines: &str) -> ProxyBuilder {
        push_lines(&mut self.limits, lines);
        self
    }

    /// Adds lines to `[timeouts]`.
    pub fn timeouts(mut self, lines: &str) -> ProxyBuilder {
        push_lines(&mut self.timeouts, lines);
        self
    }

    /// Adds lines to `[server]`.
    pub fn server(mut self, lines: &str) -> ProxyBuilder {
        push_lines(&mut self.server, lines);
        self
    }

    /// Adds lines before the first table.
    pub fn top(mut self, lines: &str) -> ProxyBuilder {
        push_lines(&mut self.top, lines);
        self
    }

    /// Adds lines after everything else; they begin inside of the `[[homeserver]]` table.
    pub fn extra(mut self, lines: &str) -> ProxyBuilder {
        push_lines(&mut self.extra, lines);
        self
    }

    /// How many workers; tests whose limits are split over workers keep to one.
    pub fn workers(mut self, workers: usize) -> ProxyBuilder {
        self.workers = workers;
        self
    }

    /// Ends TLS on the first listener, with a certificate for the usual host.
    pub fn tls(self) -> ProxyBuilder {
        self.tls_for(&[HOST, "example.com"])
    }

    /// Ends TLS on the first listener, with one more certificate, for these names.
    pub fn tls_for(mut self, names: &[&str]) -> ProxyBuilder {
        self.listeners[0].tls = true;
        self.certificates.push(names.iter().map(|&name| name.to_owned()).collect());
        self
    }

    /// Puts the first listener elsewhere.
    pub fn at(mut self, place: Place) -> ProxyBuilder {
        self.listeners[0].place = place;
        self
    }

    /// Adds lines to the first listener.
    pub fn first_listener(mut self, lines: &str) -> ProxyBuilder {
        push_lines(&mut self.listeners[0].lines, lines);
        self
    }

    /// Adds a plain listener with these lines, for instance its role.
    pub fn listener(mut self, lines: &str) -> ProxyBuilder {
        self.listeners.push(ListenerSpec::new(lines, false, Place::v4()));
        self
    }

    /// Adds a listener with TLS and these lines.
    pub fn tls_listener(mut self, lines: &str) -> ProxyBuilder {
        self.listeners.push(ListenerSpec::new(lines, true, Place::v4()));
        self
    }

    /// Opens the admin listener on a Unix socket in the proxy's folder.
    pub fn admin(mut self) -> ProxyBuilder {
        self.has_admin = true;
        self
    }

    /// Starts it from a copy of the binary, in its folder, that the test may replace.
    pub fn own_binary(mut self) -> ProxyBuilder {
        self.has_own_binary = true;
        self
    }

    /// Lets the process find this file in place of one of the system, in a mount namespace of its own; see [`may_mount`].
    pub fn in_place_of(mut self, of_system: &str, file: &Path) -> ProxyBuilder {
        self.mounts.push((file.to_owned(), of_system.to_owned()));
        self
    }

    /// Sets an environment variable of the process.
    pub fn env(mut self, name: &str, value: &str) -> ProxyBuilder {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Puts a file beside the configuration.
    pub fn file(mut self, name: &str, content: &str) -> ProxyBuilder {
        self.files.push((name.to_owned(), content.to_owned()));
        self
    }

    /// Starts it and waits until every listener listens.
    #[must_use]
    pub fn start(self) -> Proxy {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let certificates = self.write_files(folder.path());
        fs::write(folder.path().join(CONFIG), self.config(folder.path()))
            .expect("the configuration is written");
        let binary = match self.has_own_binary {
            true => copy_of(binary(), folder.path()),
            false => binary().to_owned(),
        };
        let mut command = match self.mounts.is_empty() {
            true => Command::new(&binary),
            false => with_mounts(&self.mounts, &binary),
        };
        command.args(["run", "--config"]).arg(folder.path().join(CONFIG)).stdin(Stdio::null());
        command.stdout(create(folder.path(), "stdout")).stderr(create(folder.path(), "stderr"));
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let child = command.spawn().expect("the binary starts");
        let says_when_serving = !self.server.lines().any(|line| line.starts_with("log ="));
        let places: Vec<Place> = self.listeners.into_iter().map(|listener| listener.place).collect();
        let addresses: Vec<SocketAddr> = places.iter().map(Place::address).collect();
        let address = addresses[0];
        let mut proxy = Proxy {
            address,
            addresses,
            certificates,
            child,
            folder,
            binary,
            says_when_serving,
            _places: places,
        };
        proxy.wait_until_listening();
        proxy
    }

    /// Starts it and waits for it to end by itself, as it should with this configuration.
    #[must_use]
    pub fn start_in_vain(self) -> Output {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let _ = self.write_files(folder.path());
        fs::write(folder.path().join(CONFIG), self.config(folder.path()))
            .expect("the configuration is written");
        ringfence(&["run", "--config", &folder.path().join(CONFIG).to_string_lossy()])
    }

    fn write_files(&self, folder: &Path) -> Vec<crate::authority::Certificate> {
        for (name, content) in &self.files {
            fs::write(folder.join(name), content).expect("a file in the temporary folder");
        }
        let issue = |(index, names): (usize, &Vec<String>)| {
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let certificate = Authority::shared().certificate(&names);
            certificate.write(folder, &format!("c{index}"));
            certificate
        };
        self.certificates.iter().enumerate().map(issue).collect()
    }

    fn config(&self, folder: &Path) -> String {
        let mut config = format!("{}[server]\nworkers = {}\n", self.top, self.workers);
        if !self.server.contains("access_log =") {
            config += &format!("access_log = \"{}\"\n", folder.join("access.log").display());
        }
        if self.has_admin {
            config += &format!("admin = \"unix:{}\"\n", folder.join(ADMIN_SOCKET).display());
        }
        config += &self.server;
        config += &format!("[limits]\n{}[timeouts]\n{}", self.limits, self.timeouts);
        for index in 0..self.certificates.len() {
            config +=
                &format!("[[certificate]]\nchain = \"c{index}.chain.pem\"\nkey = \"c{index}.key.pem\"\n");
        }
        for listener in &self.listeners {
            let (address, tls) = (listener.place.address(), listener.tls);
            config += &format!("[[listener]]\naddress = \"{address}\"\ntls = {tls}\n{}", listener.lines);
        }
        let upstreams = self.upstreams.join(", ");
        config += &format!("[[homeserver]]\nserver_name = \"example.com\"\npublic_host = \"{HOST}\"\n");
        config + &format!("upstream = [{upstreams}]\n{}", self.extra)
    }
}

impl ListenerSpec {
    fn new(lines: &str, tls: bool, place: Place) -> ListenerSpec {
        let mut spec = ListenerSpec { tls, lines: String::new(), place };
        push_lines(&mut spec.lines, lines);
        spec
    }
}

impl Proxy {
    /// Looks into the kernel's tables instead of connecting: a probing connection would count against limits.
    fn wait_until_listening(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        // Listening comes first, then what a worker opens for itself, which tests of descriptors have to know of.
        let is_up = |proxy: &Proxy| {
            proxy.addresses.iter().all(is_listening)
                && (!proxy.says_when_serving || proxy.stderr().contains(" serving "))
        };
        while !is_up(self) {
            if let Some(status) = self.child.try_wait().expect("a child can be waited for") {
                panic!("the proxy ended at once with {status}:\n{}", self.stderr());
            }
            assert!(Instant::now() < deadline, "the proxy does not listen:\n{}", self.stderr());
            crate::pause(2 * crate::MS);
        }
    }
}

/// Runs `ringfence check` on this text, in a folder that holds it as `ringfence.toml`.
#[must_use]
pub fn check(config: &str) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    check_in(folder.path(), config)
}

/// Runs `ringfence check` on this text in a folder where the test has put certificates.
#[must_use]
pub fn check_in(folder: &Path, config: &str) -> Output {
    fs::write(folder.join(CONFIG), config).expect("the configuration is written");
    ringfence(&["check", "--config", &folder.join(CONFIG).to_string_lossy()])
}

/// Runs the binary with these arguments until it ends; fails the test when it does not.
#[must_use]
pub fn ringfence(arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the binary starts");
    let deadline = Instant::now() + PATIENCE;
    while child.try_wait().expect("a child can be waited for").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("ringfence {arguments:?} does not end: {:?}", child.wait_with_output());
        }
        crate::pause(5 * crate::MS);
    }
    child.wait_with_output().expect("a child's output can be read")
}

/// A command that runs the binary where these files stand in place of the system's.
fn with_mounts(mounts: &[(PathBuf, String)], binary: &Path) -> Command {
    let mount = |(file, place): &(PathBuf, String)| format!("mount --bind '{}' {place} && ", file.display());
    let script = mounts.iter().map(mount).collect::<String>() + "exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", &script]).arg(binary);
    command
}

/// Whether this process may mount files over others where nobody else sees it.
#[must_use]
pub fn may_mount() -> bool {
    let tried = Command::new("unshare").args(["--mount", "true"]).stderr(Stdio::null()).status();
    tried.is_ok_and(|status| status.success())
}

/// Sends a signal to a process of a test's.
pub fn send(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    let _ = kill_process(pid.expect("a process id"), signal);
}

/// A copy of the binary in `folder`. Another path, so that another file there can take its place.
fn copy_of(binary: &Path, folder: &Path) -> PathBuf {
    let copy = folder.join("ringfence");
    // A link costs no time; what replaces it is renamed over it, so that the original is never written to.
    if fs::hard_link(binary, &copy).is_err() {
        fs::copy(binary, &copy).expect("the binary can be copied");
    }
    copy
}

/// The binary under test: `$RINGFENCE`, or the one next to this executable, built now if its sources are newer.
#[must_use]
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| env::var_os("RINGFENCE").map_or_else(build, PathBuf::from))
}

fn build() -> PathBuf {
    let this = env::current_exe().expect("a running executable has a path");
    let profile_folder = this.ancestors().skip(1).find(|folder| !folder.ends_with("deps"));
    let profile_folder = profile_folder.expect("executables live in target/PROFILE").to_owned();
    let binary = profile_folder.join("ringfence");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package of the workspace");
    let sources = ["crates", "Cargo.toml", "Cargo.lock"].map(|source| newest(&workspace.join(source)));
    if modified(&binary) > sources.into_iter().max().flatten() {
        return binary;
    }
    let profile = profile_folder.file_name().and_then(|name| name.to_str()).unwrap_or("debug");
    let profile = if profile == "debug" { "dev" } else { profile };
    let target = profile_folder.parent().expect("target/PROFILE has a parent");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo
        .args(["build", "--quiet", "--package", "ringfence", "--profile", profile, "--target-dir"])
        .arg(target);
    let built = cargo.current_dir(workspace).status().expect("cargo starts");
    assert!(built.success(), "the binary under test does not build");
    binary
}

/// When the newest file at or below `path` was modified: cargo is asked only when that is later than the binary, because
/// asking takes longer than a test.
fn newest(path: &Path) -> Option<SystemTime> {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let below = entries.filter_map(|entry| newest(&entry.path())).max();
    if path.is_dir() { below } else { modified(path) }
}

fn modified(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

/// Whether a socket listens at `address`, by `/proc/net/tcp` (state `0A`), where an IPv4 address is little-endian.
fn is_listening(address: &SocketAddr) -> bool {
    let (table, ip) = match address {
        SocketAddr::V4(v4) => ("/proc/net/tcp", hex_words(&v4.ip().octets())),
        SocketAddr::V6(v6) => ("/proc/net/tcp6", hex_words(&v6.ip().octets())),
    };
    let local = format!("{ip}:{:04X}", address.port());
    let table = read_text(Path::new(table));
    let mut sockets = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    sockets.any(|columns| columns.get(1) == Some(&local.as_str()) && columns.get(3) == Some(&"0A"))
}

fn hex_words(octets: &[u8]) -> String {
    let words = octets.chunks(4).map(|word| word.iter().rev().map(|byte| format!("{byte:02X}")));
    words.flatten().collect()
}

fn create(folder: &Path, name: &str) -> fs::File {
    fs::File::create(folder.join(name)).expect("a file in the temporary folder")
}

/// Empty for what is no file: a pipe would not end.
fn read_text(path: &Path) -> String {
    if !fs::metadata(path).is_ok_and(|metadata| metadata.is_file()) {
        return String::new();
    }
    fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn push_lines(to: &mut String, lines: &str) {
    to.push_str(lines);
    to.push('\n');
}

/// The name of the admin socket in the folder of a test's proxy.
const ADMIN_SOCKET: &str = "admin.sock";

/// The name of the configuration file in the folder of a test's proxy.
pub const CONFIG: &str = "ringfence.toml";
