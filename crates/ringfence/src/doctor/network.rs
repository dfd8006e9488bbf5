//! Names, connections and TLS, as a peer on the Internet would have them.
//!
//! Everything that is waited for has the one timeout of the command line. Certificates are judged after the handshake
//! ([`super::certificate`]) instead of within it, so that what stands behind a bad one can be looked at too; nobody sends a
//! secret there before it was judged.

use std::{
    fmt, io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use hickory_resolver::{
    Resolver, TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::{RData, RecordType},
};
use rustls::{
    ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{net::TcpStream, time};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// `HOST:PORT:ADDRESS`: where a host's port is instead of where DNS says, as with curl. The address may have a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Override {
    host: String,
    port: u16,
    address: SocketAddr,
}

impl std::str::FromStr for Override {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let fault = || "write HOST:PORT:ADDRESS, as in matrix.example.com:443:192.0.2.1".to_owned();
        // An IPv6 address as host stands in brackets.
        let host_end = match text.find(']') {
            Some(end) if text.starts_with('[') => end + 1,
            _ => text.find(':').ok_or_else(fault)?,
        };
        let (host, rest) = text.split_at(host_end);
        let (port, address) =
            rest.strip_prefix(':').and_then(|rest| rest.split_once(':')).ok_or_else(fault)?;
        let port: u16 = port.parse().map_err(|_| fault())?;
        let bare = address.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
        let address = match (bare, address.parse()) {
            (Ok(ip), _) => SocketAddr::new(ip, port),
            (_, Ok(address)) => address,
            _ => return Err(fault()),
        };
        Ok(Self { host: host.to_ascii_lowercase(), port, address })
    }
}

/// The way to the deployment.
pub(super) struct Network {
    resolver: TokioResolver,
    overrides: Vec<Override>,
    pub(super) timeout: Duration,
}

/// Why something could not be reached.
#[derive(Debug)]
pub(super) enum Failure {
    /// The name servers say that there is nothing.
    NoSuchName(String),
    /// The name servers do not answer: nothing is known.
    NoNameServer(String),
    Connect(SocketAddr, io::Error),
    Tls(io::Error),
    Http(String),
    Late(&'static str, Duration),
}

impl fmt::Display for Failure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::NoSuchName(name) => write!(formatter, "{name} has neither A nor AAAA records"),
            Failure::NoNameServer(error) => write!(formatter, "no name server answers: {error}"),
            Failure::Connect(address, error) => write!(formatter, "no connection to {address}: {error}"),
            Failure::Tls(error) => write!(formatter, "no TLS: {error}"),
            Failure::Http(error) => write!(formatter, "no HTTP: {error}"),
            Failure::Late(what, after) => write!(formatter, "no {what} within {} s", after.as_secs_f32()),
        }
    }
}

/// One of several servers of a service (RFC 2782).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServiceRecord {
    pub(super) priority: u16,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Network {
    /// Asks the system's name servers, or the given one.
    pub(super) fn new(
        overrides: Vec<Override>,
        name_server: Option<SocketAddr>,
        timeout: Duration,
    ) -> Result<Self, String> {
        let told =
            |error: &dyn fmt::Display| format!("the name servers of this machine are not known: {error}");
        let mut builder = match name_server {
            None => Resolver::builder_tokio().map_err(|error| told(&error))?,
            Some(address) => {
                let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                    connection.port = address.port();
                    connection
                });
                let server = NameServerConfig::new(address.ip(), true, connections.into());
                let config = ResolverConfig::from_name_servers(vec![server]);
                Resolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        options.timeout = timeout;
        options.attempts = 1;
        // Peers do not have this machine's file either; `--resolve` says so openly.
        options.use_hosts_file = ResolveHosts::Never;
        let resolver = builder.build().map_err(|error| told(&error))?;
        Ok(Self { resolver, overrides, timeout })
    }

    /// Whether the command line says where some port of this host is; such a host is not looked up at all.
    pub(super) fn is_overridden(&self, host: &str) -> bool {
        self.overrides.iter().any(|known| known.host.eq_ignore_ascii_case(host))
    }

    /// Every address of a host's port, IPv4 first.
    pub(super) async fn addresses(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, Failure> {
        if let Ok(ip) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>()
            && !self.is_overridden(host)
        {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        if self.is_overridden(host) {
            let is_meant = |known: &&Override| known.host.eq_ignore_ascii_case(host) && known.port == port;
            let mut addresses: Vec<_> =
                self.overrides.iter().filter(is_meant).map(|known| known.address).collect();
            if addresses.is_empty() {
                // One port was moved; the others are taken to be at the same address.
                let elsewhere = self.overrides.iter().find(|known| known.host.eq_ignore_ascii_case(host));
                addresses.extend(elsewhere.map(|known| SocketAddr::new(known.address.ip(), port)));
            }
            return Ok(addresses);
        }
        let mut addresses = Vec::new();
        for record_type in [RecordType::A, RecordType::AAAA] {
            for data in self.records(host, record_type).await? {
                match data {
                    RData::A(a) => addresses.push(SocketAddr::new(a.0.into(), port)),
                    RData::AAAA(aaaa) => addresses.push(SocketAddr::new(aaaa.0.into(), port)),
                    _ => {}
                }
            }
        }
        addresses.truncate(ADDRESSES_MAX);
        if addresses.is_empty() { Err(Failure::NoSuchName(host.to_owned())) } else { Ok(addresses) }
    }

    /// The servers of a service, in the order in which they are to be tried.
    pub(super) async fn services(&self, service: &str, host: &str) -> Result<Vec<ServiceRecord>, Failure> {
        if self.is_overridden(host) {
            return Ok(Vec::new());
        }
        let mut records = Vec::new();
        for data in self.records(&format!("{service}.{host}"), RecordType::SRV).await? {
            if let RData::SRV(srv) = data {
                let host = srv.target.to_utf8().trim_end_matches('.').to_owned();
                records.push(ServiceRecord { priority: srv.priority, host, port: srv.port });
            }
        }
        records.sort_by_key(|record| record.priority);
        records.truncate(ADDRESSES_MAX);
        Ok(records)
    }

    /// What the name servers have of a type; nothing is an empty list.
    async fn records(&self, name: &str, record_type: RecordType) -> Result<Vec<RData>, Failure> {
        // With the final dot, so that no search domain is tried.
        let name = format!("{}.", name.trim_end_matches('.'));
        let lookup = time::timeout(self.timeout, self.resolver.lookup(name, record_type));
        match lookup.await {
            Err(_) => Err(Failure::Late("answer of the name server", self.timeout)),
            Ok(Ok(lookup)) => Ok(lookup.answers().iter().map(|record| record.data.clone()).collect()),
            Ok(Err(error)) if error.is_no_records_found() => Ok(Vec::new()),
            Ok(Err(error)) => Err(Failure::NoNameServer(error.to_string())),
        }
    }

    /// Connects to one address.
    pub(super) async fn connect(&self, address: SocketAddr) -> Result<TcpStream, Failure> {
        match time::timeout(self.timeout, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(Failure::Connect(address, error)),
            Err(_) => Err(Failure::Connect(address, io::ErrorKind::TimedOut.into())),
        }
    }

    /// Connects to the first address of a host's port that answers.
    pub(super) async fn connect_to(&self, host: &str, port: u16) -> Result<TcpStream, Failure> {
        let mut failure = Failure::NoSuchName(host.to_owned());
        for address in self.addresses(host, port).await? {
            match self.connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Speaks TLS, whatever certificate is shown. Without `sni` the peer is not told which name is meant.
    pub(super) async fn handshake(
        &self,
        stream: TcpStream,
        name: &str,
        sni: bool,
    ) -> Result<TlsStream<TcpStream>, Failure> {
        let bare = name.trim_start_matches('[').trim_end_matches(']').to_owned();
        let server_name = ServerName::try_from(bare)
            .map_err(|_| Failure::Tls(io::Error::other(format!("{name:?} cannot be in a certificate"))))?;
        let mut config = client_config();
        config.enable_sni = sni;
        let handshake = TlsConnector::from(Arc::new(config)).connect(server_name, stream);
        match time::timeout(self.timeout, handshake).await {
            Ok(result) => result.map_err(Failure::Tls),
            Err(_) => Err(Failure::Late("TLS handshake", self.timeout)),
        }
    }
}

/// Addresses looked at of one name: large deployments have some ten.
const ADDRESSES_MAX: usize = 16;

fn client_config() -> ClientConfig {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
    let builder = builder.expect("the provider has suites for TLS 1.2 and 1.3");
    let mut config = builder
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Postponed(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Lets every certificate pass: it is judged afterwards. Signatures of the handshake are checked as ever.
#[derive(Debug)]
struct Postponed(Arc<CryptoProvider>);

impl ServerCertVerifier for Postponed {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overrides_are_read_as_curl_reads_them_and_with_a_port() {
        for (text, address) in [
            ("matrix.example.com:443:192.0.2.1", "192.0.2.1:443"),
            ("matrix.example.com:443:[2001:db8::1]", "[2001:db8::1]:443"),
            ("matrix.example.com:443:2001:db8::1", "[2001:db8::1]:443"),
            ("matrix.example.com:443:127.0.0.1:8443", "127.0.0.1:8443"),
            ("[2001:db8::2]:8448:127.0.0.1", "127.0.0.1:8448"),
        ] {
            let read: Override = text.parse().unwrap();
            assert_eq!(read.address.to_string(), address, "{text}");
        }
        for text in ["", "a", "a:b", "a:443", "a:443:", "a:x:192.0.2.1", "a:443:nowhere"] {
            assert!(text.parse::<Override>().unwrap_err().contains("HOST:PORT:ADDRESS"), "{text}");
        }
    }
}
