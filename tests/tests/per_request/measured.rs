//! A proxy that something watches, before an origin of its own.
//!
//! The harness' [`Proxy`](ringfence_tests::Proxy) starts the binary under test itself; here it is started by a watcher, or it
//! is another binary.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use ringfence_tests::client::HOST;
use ringfence_tests::place::Place;
use ringfence_tests::{Authority, Client, KIB, Origin, PATIENCE, message, pattern, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// A running proxy with one worker, one listener and no access log.
pub(crate) struct Measured {
    pub(crate) child: Child,
    pub(crate) folder: TempDir,
    address: SocketAddr,
    tls: bool,
    _origin: Origin,
    _place: Place,
}

impl Measured {
    /// Runs what `command` makes of the arguments that the proxy is to have; it is given a folder for files of its own.
    pub(crate) fn start(tls: bool, command: impl FnOnce(&Path) -> Command) -> Measured {
        let answer = message::ok(pattern(CONTENT_BYTES));
        let origin = Origin::serving_unrecorded(Place::v4(), move |_| answer.clone());
        let upstream = format!("upstream = \"{}\"\n", origin.url());
        Measured::start_before(origin, &upstream, tls, command)
    }

    /// The same before an origin that speaks TLS.
    pub(crate) fn start_before_tls(tls: bool, command: impl FnOnce(&Path) -> Command) -> Measured {
        let answer = message::ok(pattern(CONTENT_BYTES));
        let config = Authority::shared().certificate(&[HOST]).server_config();
        let origin = Origin::each_unrecorded(Place::v4(), move |peer| {
            peer.accept_tls(&config);
            peer.serve(&|_: &message::Message| answer.clone());
        });
        let url = origin.url().replace("http://", "https://");
        let upstream = format!("upstream = \"{url}\"\nupstream_verify = false\n");
        Measured::start_before(origin, &upstream, tls, command)
    }

    fn start_before(
        origin: Origin,
        upstream: &str,
        tls: bool,
        command: impl FnOnce(&Path) -> Command,
    ) -> Measured {
        let (folder, place) = (tempfile::tempdir().unwrap(), Place::v4());
        Authority::shared().certificate(&[HOST]).write(folder.path(), "c0");
        let config = format!(
            "[server]\nworkers = 1\naccess_log = \"off\"\n\
             [rate_limits]\nfederation_send = \"1000/s burst 100000\"\n\
             [[certificate]]\nchain = \"c0.chain.pem\"\nkey = \"c0.key.pem\"\n\
             [[listener]]\naddress = \"{}\"\ntls = {tls}\nrole = \"client\"\n\
             [[homeserver]]\nserver_name = \"example.com\"\npublic_host = \"{HOST}\"\n{upstream}",
            place.address()
        );
        let path = folder.path().join("ringfence.toml");
        fs::write(&path, config).unwrap();
        let mut command = command(folder.path());
        command.args(["run", "--config"]).arg(&path).stdin(Stdio::null());
        let child = command.stderr(File::create(folder.path().join("stderr")).unwrap()).spawn().unwrap();
        let address = place.address();
        let measured = Measured { child, folder, address, tls, _origin: origin, _place: place };
        wait_until("a proxy that listens", PATIENCE, || TcpStream::connect(address).is_ok());
        measured
    }

    pub(crate) fn client(&self) -> Client {
        if self.tls { Client::tls(self.address, HOST) } else { Client::connect(self.address) }
    }

    /// Ends it in order.
    pub(crate) fn end(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        kill_process(pid.unwrap(), Signal::TERM).unwrap();
        wait_until("the end of the proxy", PATIENCE, || self.child.try_wait().unwrap().is_some());
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default();
            eprintln!("--- the proxy's standard error:\n{log}");
        }
    }
}

/// A long poll of a web client.
pub(crate) fn get() -> Vec<u8> {
    format!(
        "GET /_matrix/client/v3/sync?filter=0&timeout=30000&since=s72595_4483_1934 HTTP/1.1\r\nHost: {HOST}\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
         Accept: application/json\r\nAccept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
         Authorization: Bearer syt_YWxpY2U_bXlzZWNyZXR0b2tlbg_1aB2cD\r\nConnection: keep-alive\r\n\r\n"
    )
    .into_bytes()
}

/// A transaction of a federation peer.
pub(crate) fn put() -> Vec<u8> {
    let mut request = format!(
        "PUT /_matrix/federation/v1/send/1764000000000 HTTP/1.1\r\nHost: {HOST}\r\nUser-Agent: Synapse/1.142.0\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\nAuthorization: X-Matrix \
         origin=\"remote.example\",key=\"ed25519:a\",sig=\"c2lnbmF0dXJl\",destination=\"example.com\"\r\n\r\n",
        2 * KIB
    )
    .into_bytes();
    request.extend_from_slice(&pattern(2 * KIB));
    request
}

/// A client's query for the keys of its rooms' members.
pub(crate) fn post() -> Vec<u8> {
    let query = r#"{"device_keys":{"@alice:example.com":[]}}"#;
    format!(
        "POST /_matrix/client/v3/keys/query HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{query}",
        query.len()
    )
    .into_bytes()
}

/// Content of an answer in bytes: that of an empty `/sync`.
const CONTENT_BYTES: usize = 200;
