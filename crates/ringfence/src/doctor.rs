//! `ringfence doctor`: a running deployment, as the outside sees it. Against any proxy.
//!
//! Asks only what any stranger may ask, with a bound on everything: a connection each, one timeout, small answers.
//! A token or a signing key is sent only where the certificate was found to be sound.

mod advice;
mod certificate;
mod client;
mod discovery;
mod http;
mod network;
mod paths;
mod report;
mod server;
mod signature;

use std::{
    error::Error,
    fs,
    hash::{BuildHasher, RandomState},
    io::{self, IsTerminal, Write},
    process::ExitCode,
    time::Duration,
};

use ringfence_matrix::ServerName;
use rustls::RootCertStore;
use tokio::time;

pub(crate) use advice::Software;
pub(crate) use network::Override;

use crate::cli::Doctor;
use discovery::{Document, Federation};
use http::{Ask, Endpoint, ask};
use network::Network;
use report::{Check, Report, Verdict};
use server::Trust;
use signature::SigningKey;

/// Nothing could be checked, as opposed to: faults were found.
const COULD_NOT_CHECK: u8 = 2;

/// Examines a deployment and writes what was found to stdout.
pub(crate) fn run(arguments: &Doctor) -> ExitCode {
    match prepared(arguments).and_then(|case| Ok(examined(case, arguments)?)) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(COULD_NOT_CHECK)
        }
    }
}

fn examined(case: Case, arguments: &Doctor) -> io::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (software, has_looked, checks) = runtime.block_on(async {
        let network = Network::new(arguments.resolve.clone(), arguments.name_server, case.timeout)
            .map_err(io::Error::other)?;
        let mut examination =
            Examination { case: &case, network, software: arguments.proxy, checks: Vec::new() };
        let within = RUN_MAX + if arguments.slow { SLOW_MAX } else { Duration::ZERO };
        if time::timeout(within, examination.run()).await.is_err() {
            let why = format!("not all was looked at within {} s", within.as_secs());
            examination.checks.push(Check::skipped("time", why));
        }
        let has_looked = examination.checks.iter().any(|check| check.verdict != Verdict::Skipped);
        io::Result::Ok((examination.software, has_looked, examination.checks))
    })?;
    let report = Report { server_name: case.name.to_string(), software, checks };
    let mut stdout = io::stdout().lock();
    match arguments.json {
        true => writeln!(stdout, "{:#}", report.json())?,
        false => {
            let colours = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none();
            write!(stdout, "{}", report.text(colours))?;
        }
    }
    stdout.flush()?;
    Ok(match report.count(Verdict::Fault) {
        _ if !has_looked => ExitCode::from(COULD_NOT_CHECK),
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    })
}

/// Longest run: some fifty requests, where a host that answers nothing is asked once or twice.
const RUN_MAX: Duration = Duration::from_secs(180);

/// What a long poll adds.
const SLOW_MAX: Duration = Duration::from_secs(120);

/// What is examined, from the command line.
struct Case {
    name: ServerName,
    roots: RootCertStore,
    token: Option<String>,
    signing_key: Option<SigningKey>,
    timeout: Duration,
    slow: bool,
    /// Makes what is asked for unlike anything that exists.
    nonce: u64,
}

fn prepared(arguments: &Doctor) -> Result<Case, Box<dyn Error>> {
    let name = ServerName::parse(&arguments.server_name).map_err(|error| {
        format!(
            "{:?} is no server name: {error}; write the part after the colon of its user ids",
            arguments.server_name
        )
    })?;
    let signing_key = match &arguments.signing_key {
        None => None,
        Some(file) => {
            let told = |error: &dyn std::fmt::Display| format!("--signing-key {}: {error}", file.display());
            let text = fs::read_to_string(file).map_err(|error| told(&error))?;
            Some(SigningKey::parse(&text).map_err(|error| told(&error))?)
        }
    };
    Ok(Case {
        name,
        roots: certificate::roots(arguments.ca.as_deref())?,
        token: arguments.token.as_deref().map(token).transpose()?,
        signing_key,
        timeout: Duration::from_secs_f32(arguments.timeout),
        slow: arguments.slow,
        nonce: RandomState::new().hash_one(0),
    })
}

/// A token, or the first line of the file that `@` leads to: command lines are read by others.
fn token(text: &str) -> Result<String, String> {
    let Some(file) = text.strip_prefix('@') else { return Ok(text.to_owned()) };
    let content = fs::read_to_string(file).map_err(|error| format!("--token {text}: {error}"))?;
    Ok(content.lines().next().unwrap_or_default().trim().to_owned())
}

/// An examination under way.
struct Examination<'a> {
    case: &'a Case,
    network: Network,
    software: Option<Software>,
    checks: Vec<Check>,
}

impl Examination<'_> {
    async fn run(&mut self) {
        let case = self.case;
        let names = server::names(&self.network, case.name.host(), ringfence_matrix::HTTPS_PORT).await;
        let is_lost = names.verdict == Verdict::Skipped;
        self.checks.push(names);
        // Without a name server nothing can be said.
        if is_lost {
            return;
        }
        let (server_document, client_document) = (
            discovery::server_document(&self.network, &case.name, &case.roots).await,
            discovery::client_document(&self.network, &case.name, &case.roots).await,
        );
        self.note_software(&server_document);
        self.note_software(&client_document);
        self.checks.push(server::well_known(&server_document, &case.name));
        self.checks.push(client::well_known(&client_document, case.name.host()));
        let delegated = content(&server_document).and_then(|text| ServerName::parse(text).ok());
        let federation = discovery::federation(&self.network, &case.name, delegated.as_ref()).await;
        let client = self.client_endpoint(&client_document);
        self.look_at_names(&federation, &client).await;
        let is_one = federation.endpoint.place() == client.place()
            && federation.endpoint.certificate_name == client.certificate_name;
        self.look_at_server(&federation, if is_one { "federation and clients" } else { "federation" }).await;
        self.look_at_client(&client, is_one).await;
        self.checks.push(server::redirect(&self.network, &client.host).await);
    }

    fn note_software(&mut self, document: &Document) {
        if let Document::Here { answer, .. } = document {
            self.software = self.software.or_else(|| answer.software());
        }
    }

    /// Where clients go: the base URL, or the server name itself where there is none.
    fn client_endpoint(&mut self, document: &Document) -> Endpoint {
        let name = &self.case.name;
        let fallback = || Endpoint::https(name.host(), name.port().unwrap_or(ringfence_matrix::HTTPS_PORT));
        let Some(url) = content(document) else { return fallback() };
        match discovery::base_endpoint(url) {
            Ok(endpoint) => endpoint,
            Err(fault) => {
                let advice = advice::well_known_client(
                    "clients refuse to log in: base_url has to be a URL",
                    name.host(),
                );
                self.checks.push(Check::fault("well-known-client", format!("base_url: {fault}"), advice));
                fallback()
            }
        }
    }

    /// Names that are not the server name: those that it leads to.
    async fn look_at_names(&mut self, federation: &Federation, client: &Endpoint) {
        let mut known = vec![self.case.name.host().to_ascii_lowercase()];
        for endpoint in [&federation.endpoint, client] {
            let host = endpoint.host.to_ascii_lowercase();
            if !known.contains(&host) {
                self.checks.push(server::names(&self.network, &endpoint.host, endpoint.port).await);
                known.push(host);
            }
        }
    }

    async fn look_at_server(&mut self, federation: &Federation, whose: &str) {
        let (endpoint, case) = (&federation.endpoint, self.case);
        let doubt =
            federation.doubt.as_ref().map(|doubt| format!(" (SRV records: {doubt})")).unwrap_or_default();
        let how = format!(
            "other servers come here by {}{doubt}; let them in, or delegate to a host and port that are open",
            federation.by
        );
        let connect = server::connect(&self.network, endpoint, whose, &how).await;
        let is_open = matches!(connect.verdict, Verdict::Ok | Verdict::Warning);
        self.checks.push(connect);
        if !is_open {
            return;
        }
        let (check, trust) = server::believed(&self.network, endpoint, whose, &case.roots).await;
        self.checks.push(check);
        if trust == Trust::Unreachable {
            return;
        }
        self.checks.push(server::keys(&self.network, endpoint, &case.name).await);
        let version = server::version(&self.network, endpoint).await;
        let is_there = version.verdict == Verdict::Ok;
        self.checks.push(version);
        let key = case.signing_key.as_ref().filter(|_| trust == Trust::Believed);
        let name = case.name.to_string();
        let encoded =
            paths::encoded_federation(&self.network, endpoint, &name, &format!("{:x}", case.nonce), key)
                .await;
        self.checks.push(encoded);
        self.checks.push(paths::admin(&self.network, endpoint).await);
        // Who names it gets no answer: there is nothing to compare with.
        if is_there {
            self.checks.extend(server::strangers(&self.network, endpoint).await);
        }
    }

    /// `was_seen`: what it has in common with the other servers' endpoint was looked at there.
    async fn look_at_client(&mut self, endpoint: &Endpoint, was_seen: bool) {
        let case = self.case;
        let how = "clients come here by the base URL; let them in, or give another base URL";
        let connect = server::connect(&self.network, endpoint, "clients", how).await;
        let is_open = matches!(connect.verdict, Verdict::Ok | Verdict::Warning);
        self.checks.extend((!was_seen).then_some(connect));
        if !is_open {
            return;
        }
        let trust = self.trust(endpoint, was_seen).await;
        if trust == Trust::Unreachable {
            return;
        }
        let versions =
            ask(&self.network, endpoint, Ask::from_elsewhere("GET", "/_matrix/client/versions")).await;
        if let Ok(answer) = &versions {
            self.software = self.software.or_else(|| answer.software());
        }
        let check = client::versions(&versions, endpoint);
        let is_there = check.verdict == Verdict::Ok;
        self.checks.push(check);
        if is_there {
            let token = case.token.as_deref().filter(|_| trust == Trust::Believed);
            self.look_at_homeserver(endpoint, token).await;
        }
        if !was_seen {
            self.checks.push(paths::admin(&self.network, endpoint).await);
        }
    }

    /// Whether clients believe the certificate of an endpoint.
    async fn trust(&mut self, endpoint: &Endpoint, was_seen: bool) -> Trust {
        if !endpoint.tls {
            let what = "tokens and messages can be read on the way: give an https base URL";
            let advice = advice::well_known_client(what, self.case.name.host());
            let seen = format!("clients {}: no TLS", endpoint.place());
            self.checks.push(Check::warning("certificate", seen, advice));
            return Trust::Doubted;
        }
        let (check, trust) = server::believed(&self.network, endpoint, "clients", &self.case.roots).await;
        self.checks.extend((!was_seen).then_some(check));
        trust
    }

    /// What needs a homeserver that answers clients.
    async fn look_at_homeserver(&mut self, endpoint: &Endpoint, token: Option<&str>) {
        let (network, case) = (&self.network, self.case);
        let name = case.name.to_string();
        let encoded = paths::encoded_client(network, endpoint, &name, &format!("{:x}", case.nonce)).await;
        let cors = client::cors(network, endpoint).await;
        let scheme = client::scheme(network, endpoint).await;
        let address = client::address(network, endpoint, token, client::invented_address(case.nonce)).await;
        let upload = client::upload(network, endpoint, token).await;
        let long_poll = client::long_poll(network, endpoint, token, case.slow).await;
        let single = [encoded, scheme, address, long_poll];
        self.checks.extend(cors.into_iter().chain(single).chain(upload));
    }
}

fn content(document: &Document) -> Option<&str> {
    match document {
        Document::Here { content: Ok(content), .. } => Some(content),
        _ => None,
    }
}
