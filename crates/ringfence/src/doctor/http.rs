//! Requests to the deployment: HTTP/1.1, a connection each, targets sent as they are spelled.
//!
//! What comes back is bounded in size, and everything has the timeout of the command line.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{HeaderMap, Request, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{ProtocolVersion, pki_types::CertificateDer};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time,
};
use tokio_rustls::client::TlsStream;

use super::{
    advice::Software,
    network::{Failure, Network},
    report::excerpt,
};

/// Where requests go, and what they say of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) tls: bool,
    /// Looked up and connected to; IPv6 addresses in brackets.
    pub(super) host: String,
    pub(super) port: u16,
    /// Sent as `Host`.
    pub(super) host_field: String,
    /// What the certificate has to be for.
    pub(super) certificate_name: String,
    /// Stands before every path: a base URL may have one.
    pub(super) prefix: String,
}

impl Endpoint {
    /// What an `https` URL leads to.
    pub(super) fn https(host: &str, port: u16) -> Self {
        let host_field =
            if port == ringfence_matrix::HTTPS_PORT { host.to_owned() } else { format!("{host}:{port}") };
        Self {
            tls: true,
            host: host.to_owned(),
            port,
            host_field,
            certificate_name: host.to_owned(),
            prefix: String::new(),
        }
    }

    /// For messages.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

/// A request without a body.
#[derive(Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) method: &'a str,
    /// Behind the endpoint's prefix.
    pub(super) target: &'a str,
    pub(super) fields: &'a [(&'a str, &'a str)],
    /// Whether the name is told in the TLS handshake.
    pub(super) sni: bool,
    /// Longer than the command line's, where waiting is the point.
    pub(super) timeout: Option<Duration>,
}

impl<'a> Ask<'a> {
    pub(super) fn to(method: &'a str, target: &'a str) -> Self {
        Ask { method, target, fields: &[], sni: true, timeout: None }
    }

    /// As a web page of another origin asks.
    pub(super) fn from_elsewhere(method: &'a str, target: &'a str) -> Self {
        Ask { fields: &[("Origin", ORIGIN)], ..Ask::to(method, target) }
    }
}

/// A web client that is somewhere else.
pub(super) const ORIGIN: &str = "https://ringfence-doctor.invalid";

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) fields: HeaderMap,
    pub(super) content: Vec<u8>,
    /// There was more than [`CONTENT_BYTES_MAX`].
    pub(super) is_cut: bool,
    /// What TLS showed.
    pub(super) shown: Option<Shown>,
}

/// What a server shows in its TLS handshake.
pub(super) struct Shown {
    pub(super) version: &'static str,
    /// Leaf first.
    pub(super) chain: Vec<CertificateDer<'static>>,
}

/// Most content that is read of an answer: more than any that is asked for here.
const CONTENT_BYTES_MAX: usize = 1024 * 1024;

impl Answer {
    /// Every value of a field, as text.
    pub(super) fn values(&self, name: &str) -> Vec<String> {
        let values = self.fields.get_all(name).iter();
        values.map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
    }

    pub(super) fn value(&self, name: &str) -> Option<String> {
        self.values(name).into_iter().next()
    }

    pub(super) fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.content).ok().filter(|_| !self.is_cut)
    }

    /// `errcode` of a standard error response.
    pub(super) fn errcode(&self) -> Option<String> {
        self.json()?.get("errcode")?.as_str().map(str::to_owned)
    }

    /// Where it sends its reader instead of answering (RFC 9110 §15.4).
    pub(super) fn redirect(&self) -> Option<String> {
        self.value("location").filter(|_| matches!(self.status, 301 | 302 | 303 | 307 | 308))
    }

    /// Status and errcode, or the beginning of what came instead.
    pub(super) fn summary(&self) -> String {
        match self.errcode() {
            _ if let Some(location) = self.redirect() => format!("{} to {}", self.status, excerpt(&location)),
            Some(code) => format!("{} {}", self.status, excerpt(&code)),
            None if self.content.is_empty() => self.status.to_string(),
            None => format!("{} with {}", self.status, excerpt(&String::from_utf8_lossy(&self.content))),
        }
    }

    /// Which proxy sent it, as far as it says so.
    pub(super) fn software(&self) -> Option<Software> {
        let server = self.values("server").join(" ").to_ascii_lowercase();
        let via = self.values("via").join(" ").to_ascii_lowercase();
        let is_request_id =
            |value: &String| value.len() == 32 && value.bytes().all(|byte| byte.is_ascii_hexdigit());
        match () {
            () if server.contains("nginx") || server.contains("openresty") => Some(Software::Nginx),
            () if server.contains("caddy") || via.contains("caddy") => Some(Software::Caddy),
            () if server.contains("apache") => Some(Software::Apache),
            () if self.value("x-request-id").as_ref().is_some_and(is_request_id) => Some(Software::Ringfence),
            () => None,
        }
    }
}

/// Sends a request and reads its answer.
pub(super) async fn ask(network: &Network, endpoint: &Endpoint, ask: Ask<'_>) -> Result<Answer, Failure> {
    let limit = ask.timeout.unwrap_or(network.timeout);
    let stream = network.connect_to(&endpoint.host, endpoint.port).await?;
    let conversation = async {
        if !endpoint.tls {
            return converse(stream, endpoint, ask).await;
        }
        let stream = network.handshake(stream, &endpoint.certificate_name, ask.sni).await?;
        let shown = shown(&stream);
        Ok(Answer { shown: Some(shown), ..converse(stream, endpoint, ask).await? })
    };
    match time::timeout(limit, conversation).await {
        Ok(answer) => answer,
        Err(_) => Err(Failure::Late("answer", limit)),
    }
}

pub(super) fn shown(stream: &TlsStream<TcpStream>) -> Shown {
    let session = stream.get_ref().1;
    let version = match session.protocol_version() {
        Some(ProtocolVersion::TLSv1_3) => "TLS 1.3",
        _ => "TLS 1.2",
    };
    let chain = session.peer_certificates().unwrap_or_default();
    Shown { version, chain: chain.iter().map(|certificate| certificate.clone().into_owned()).collect() }
}

async fn converse<S>(stream: S, endpoint: &Endpoint, ask: Ask<'_>) -> Result<Answer, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let told = |error: hyper::Error| Failure::Http(error.to_string());
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(told)?;
    // Ends with its sender or with its stream.
    tokio::spawn(connection);
    let mut request = Request::builder()
        .method(ask.method)
        .uri(format!("{}{}", endpoint.prefix, ask.target))
        .header("Host", &endpoint.host_field)
        .header("User-Agent", USER_AGENT)
        .header("Accept", "*/*")
        .header("Connection", "close");
    for (name, value) in ask.fields {
        request = request.header(*name, *value);
    }
    let request = request.body(Empty::<Bytes>::new()).map_err(|error| Failure::Http(error.to_string()))?;
    let (head, body) = sender.send_request(request).await.map_err(told)?.into_parts();
    let (content, is_cut) = read(body).await.map_err(told)?;
    Ok(Answer { status: head.status.as_u16(), fields: head.headers, content, is_cut, shown: None })
}

/// How it names itself to those whom it asks.
const USER_AGENT: &str = concat!("ringfence-doctor/", env!("CARGO_PKG_VERSION"));

async fn read(mut body: Incoming) -> Result<(Vec<u8>, bool), hyper::Error> {
    let mut content = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            content.extend_from_slice(&data);
        }
        if content.len() > CONTENT_BYTES_MAX {
            content.truncate(CONTENT_BYTES_MAX);
            return Ok((content, true));
        }
    }
    Ok((content, false))
}

/// What a server says to the announcement of a large body. None is sent.
pub(super) enum Announced {
    /// It was invited, or nothing was said against it.
    Welcome,
    /// It was answered by this status; with that many `Access-Control-Allow-Origin` lines.
    Answered { status: u16, origins: usize },
}

/// Announces an upload of `length` bytes and hears whether it is welcome. The connection ends before any of it is sent.
pub(super) async fn announce(
    network: &Network,
    endpoint: &Endpoint,
    length: u64,
) -> Result<Announced, Failure> {
    let head = format!(
        "POST {}/_matrix/media/v3/upload HTTP/1.1\r\nHost: {}\r\nUser-Agent: {USER_AGENT}\r\nOrigin: {ORIGIN}\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {length}\r\nExpect: 100-continue\r\n\r\n",
        endpoint.prefix, endpoint.host_field
    );
    let stream = network.connect_to(&endpoint.host, endpoint.port).await?;
    let conversation = async {
        let answer = if endpoint.tls {
            first_head(network.handshake(stream, &endpoint.certificate_name, true).await?, &head).await
        } else {
            first_head(stream, &head).await
        };
        answer.map_err(|error| Failure::Http(error.to_string()))
    };
    let late = |_| Failure::Late("answer", network.timeout);
    let answer = time::timeout(network.timeout, conversation).await.map_err(late)??;
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let origins = answer.to_ascii_lowercase().matches("\r\naccess-control-allow-origin:").count();
    Ok(match status {
        None | Some(100..=199) => Announced::Welcome,
        Some(status) => Announced::Answered { status, origins },
    })
}

/// The first response head; what came of it when nothing more comes.
async fn first_head<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    request: &str,
) -> std::io::Result<String> {
    stream.write_all(request.as_bytes()).await?;
    stream.flush().await?;
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while head.len() < HEAD_BYTES_MAX && !head.windows(4).any(|end| end == b"\r\n\r\n") {
        match time::timeout(INVITATION, stream.read(&mut piece)).await {
            Ok(Ok(0)) | Err(_) => break,
            Ok(Ok(read)) => head.extend_from_slice(&piece[..read]),
            Ok(Err(error)) if head.is_empty() => return Err(error),
            Ok(Err(_)) => break,
        }
    }
    Ok(String::from_utf8_lossy(&head).into_owned())
}

/// Longest response head that is read here: as much as nginx sends.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// How long a server may take to refuse an announced body. Who refuses it by its length does so at once.
const INVITATION: Duration = Duration::from_secs(2);
