//! The stand-in homeserver of the demo: the few endpoints that show what the proxy does with a request.
//!
//! It is no homeserver: it keeps no state and checks no token. It runs on a thread of its own, on the well-kept
//! HTTP library that the control plane uses too, so that nothing of the proxy under demonstration judges its
//! own work. It listens on loopback only, on a port that the system chooses.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot};

/// A running stand-in; dropping it ends its thread and every connection that it still serves.
pub(super) struct Homeserver {
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Homeserver {
    /// Binds a free port of 127.0.0.1 and starts to answer there.
    pub(super) fn start() -> io::Result<Self> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (stop, stopped) = oneshot::channel();
        let thread = thread::Builder::new().name("demo-homeserver".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = serve(listener) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Homeserver {
    fn drop(&mut self) {
        // Both ends may be gone already when the thread panicked: there is nothing left to stop then.
        drop(self.stop.take());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the stand-in homeserver panicked");
        }
    }
}

/// Accepts until it is dropped; at most [`CONNECTIONS_MAX`] connections are served at once, further ones wait.
async fn serve(listener: std::net::TcpListener) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "the stand-in homeserver cannot listen"),
    };
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        match listener.accept().await {
            Ok((stream, _)) => {
                tokio::spawn(async move {
                    serve_connection(stream).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "the stand-in homeserver cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(stream: TcpStream) {
    let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    // A proxy that closes its connection in the middle of an exchange is what the demo is there to show.
    if let Err(error) = connection.await {
        tracing::debug!(%error, "the stand-in homeserver lost a connection");
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Content>, hyper::Error> {
    let path = request.uri().path();
    if let Some(length) = path.strip_prefix(DOWNLOAD_PREFIX) {
        return Ok(download(length));
    }
    match (request.method(), path) {
        (&Method::GET, "/_matrix/client/versions") => {
            Ok(json_answer(StatusCode::OK, &json!({"versions": ["v1.1", "v1.11", "v1.15"]})))
        }
        (&Method::GET, "/_matrix/client/v3/login") => {
            let flows = json!({"flows": [{"type": "m.login.password"}, {"type": "m.login.token"}]});
            Ok(json_answer(StatusCode::OK, &flows))
        }
        (&Method::GET, "/_matrix/federation/v1/version") => {
            let server = json!({"server": {"name": "ringfence demo", "version": env!("CARGO_PKG_VERSION")}});
            Ok(json_answer(StatusCode::OK, &server))
        }
        (&Method::GET, "/_matrix/client/v3/sync") => Ok(sync(request.uri().query().unwrap_or("")).await),
        (&Method::POST, "/_matrix/media/v3/upload") => upload(request.into_body()).await,
        (_, path) if path.starts_with("/_matrix/") => Ok(echo(&request)),
        _ => Ok(unrecognized()),
    }
}

/// A sync without news: silent until the client's timeout is over, then an empty answer.
async fn sync(query: &str) -> Response<Content> {
    let asked = query.split('&').find_map(|pair| pair.strip_prefix("timeout="));
    let wait_ms = asked.and_then(|value| value.parse().ok()).unwrap_or(0);
    tokio::time::sleep(Duration::from_millis(wait_ms).min(SYNC_WAIT_MAX)).await;
    json_answer(StatusCode::OK, &json!({"next_batch": "demo_1"}))
}

/// Counts the bytes of an upload and keeps none of them.
async fn upload(mut content: Incoming) -> Result<Response<Content>, hyper::Error> {
    let mut received: u64 = 0;
    while let Some(frame) = content.frame().await {
        received += frame?.data_ref().map_or(0, |data| data.len() as u64);
    }
    let uploaded = json!({"content_uri": format!("mxc://localhost/{received}"), "bytes_received": received});
    Ok(json_answer(StatusCode::OK, &uploaded))
}

/// As many zero bytes as the last path segment asks for.
fn download(length: &str) -> Response<Content> {
    match length.parse() {
        Ok(length) => respond(StatusCode::OK, "application/octet-stream", Content::Zeros(length)),
        Err(_) => unrecognized(),
    }
}

/// What arrived: the request target byte for byte, and the field lines in order (the library lower-cases names).
fn echo(request: &Request<Incoming>) -> Response<Content> {
    let headers: Vec<Value> = (request.headers().iter())
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let target = request.uri().to_string();
    let seen = json!({"method": request.method().as_str(), "target": target, "headers": headers});
    json_answer(StatusCode::OK, &seen)
}

fn unrecognized() -> Response<Content> {
    let error =
        json!({"errcode": "M_UNRECOGNIZED", "error": "The stand-in homeserver does not know this path"});
    json_answer(StatusCode::NOT_FOUND, &error)
}

fn json_answer(status: StatusCode, document: &Value) -> Response<Content> {
    let mut text = format!("{document:#}");
    text.push('\n');
    respond(status, "application/json", Content::Text(Bytes::from(text)))
}

fn respond(status: StatusCode, media_type: &'static str, content: Content) -> Response<Content> {
    let mut response = Response::new(content);
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(media_type));
    response
}

/// The content of an answer, of a length that is known before its first byte.
#[derive(Debug)]
enum Content {
    /// A whole document, sent at once.
    Text(Bytes),
    /// This many zero bytes, made while they are sent.
    Zeros(u64),
}

impl Content {
    fn bytes_left(&self) -> u64 {
        match self {
            Self::Text(text) => text.len() as u64,
            Self::Zeros(left) => *left,
        }
    }

    fn next_part(&mut self) -> Bytes {
        match self {
            Self::Text(text) => std::mem::take(text),
            Self::Zeros(left) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(ZEROS.len());
                *left -= length as u64;
                Bytes::from_static(&ZEROS[..length])
            }
        }
    }
}

impl Body for Content {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.next_part();
        Poll::Ready((!part.is_empty()).then(|| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.bytes_left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.bytes_left())
    }
}

/// The path before the number of bytes that a download shall have.
const DOWNLOAD_PREFIX: &str = "/_matrix/client/v1/media/download/demo/";

/// Connections served at once: more than a load generator on the same machine is likely to open through the
/// proxy's pools, and few enough for the usual soft limit of 1024 descriptors.
const CONNECTIONS_MAX: usize = 512;

/// Pause after a failed accept: it fails while descriptors are short, and trying at once again would spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Longest silence of a sync, whatever the client asks for: twice what clients use, so that nobody who mistypes
/// a zero waits for an hour.
const SYNC_WAIT_MAX: Duration = Duration::from_secs(60);

/// A part of a download: large enough that writing it costs more than asking for it.
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;
    use std::time::{Duration, Instant};

    use serde_json::{Value, json};

    use super::{Content, Homeserver};

    /// Sends `request` with `Connection: close` added, and returns the status line and the content of the answer.
    fn exchange(homeserver: &Homeserver, head: &str, content: &[u8]) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(homeserver.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "{head}\r\nConnection: close\r\n\r\n").unwrap();
        stream.write_all(content).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        let head_end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..head_end].to_vec()).unwrap();
        (head.lines().next().unwrap().to_owned(), answer.split_off(head_end + 4))
    }

    fn json_of(homeserver: &Homeserver, head: &str) -> Value {
        let (status, content) = exchange(homeserver, head, b"");
        assert_eq!(status, "HTTP/1.1 200 OK");
        serde_json::from_slice(&content).unwrap()
    }

    #[test]
    fn known_endpoints_are_answered_as_matrix_json() {
        let homeserver = Homeserver::start().unwrap();
        let versions = json_of(&homeserver, "GET /_matrix/client/versions HTTP/1.1\r\nHost: x");
        assert!(versions["versions"].as_array().unwrap().contains(&json!("v1.11")));
        let login = json_of(&homeserver, "GET /_matrix/client/v3/login HTTP/1.1\r\nHost: x");
        assert_eq!(login["flows"][0]["type"], "m.login.password");
        let version = json_of(&homeserver, "GET /_matrix/federation/v1/version HTTP/1.1\r\nHost: x");
        assert_eq!(version["server"]["name"], "ringfence demo");
    }

    #[test]
    fn echo_returns_target_and_repeated_headers_as_they_came() {
        let homeserver = Homeserver::start().unwrap();
        let target = "/_matrix/client/v3/directory/room/%23a%2Fb%3Alocalhost?via=c%2fd&&x";
        let head = format!(
            "PUT {target} HTTP/1.1\r\nHost: x\r\nAuthorization: X-Matrix a\r\nAuthorization: X-Matrix b"
        );
        let seen = json_of(&homeserver, &head);
        assert_eq!(seen["method"], "PUT");
        assert_eq!(seen["target"], target);
        let headers = seen["headers"].as_array().unwrap();
        assert_eq!(headers[1], json!(["authorization", "X-Matrix a"]));
        assert_eq!(headers[2], json!(["authorization", "X-Matrix b"]));
    }

    #[test]
    fn sync_is_silent_until_its_timeout() {
        let homeserver = Homeserver::start().unwrap();
        let started = Instant::now();
        json_of(&homeserver, "GET /_matrix/client/v3/sync?since=a&timeout=300 HTTP/1.1\r\nHost: x");
        assert!(started.elapsed() >= Duration::from_millis(300));
    }

    #[test]
    fn upload_counts_every_byte() {
        let homeserver = Homeserver::start().unwrap();
        let content = vec![7; 300_001];
        let head =
            format!("POST /_matrix/media/v3/upload HTTP/1.1\r\nHost: x\r\nContent-Length: {}", content.len());
        let (_, answer) = exchange(&homeserver, &head, &content);
        let uploaded: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!(uploaded["bytes_received"], 300_001);
    }

    #[test]
    fn download_has_the_length_asked_for() {
        let homeserver = Homeserver::start().unwrap();
        for length in [0, 1, 200_000] {
            let head = format!("GET /_matrix/client/v1/media/download/demo/{length} HTTP/1.1\r\nHost: x");
            assert_eq!(exchange(&homeserver, &head, b"").1.len(), length);
        }
        let head = "GET /_matrix/client/v1/media/download/demo/many HTTP/1.1\r\nHost: x";
        assert_eq!(exchange(&homeserver, head, b"").0, "HTTP/1.1 404 Not Found");
    }

    #[test]
    fn paths_outside_of_matrix_are_not_found() {
        let homeserver = Homeserver::start().unwrap();
        let (status, _) = exchange(&homeserver, "GET /elsewhere HTTP/1.1\r\nHost: x", b"");
        assert_eq!(status, "HTTP/1.1 404 Not Found");
    }

    #[test]
    fn zeros_may_be_longer_than_memory() {
        let mut content = Content::Zeros(u64::MAX);
        let part = content.next_part().len() as u64;
        assert_eq!(content.bytes_left(), u64::MAX - part);
    }

    #[test]
    fn dropping_it_closes_its_port() {
        let homeserver = Homeserver::start().unwrap();
        let address = homeserver.address();
        drop(homeserver);
        assert!(TcpStream::connect(address).is_err());
    }
}
