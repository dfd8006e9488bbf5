//! A deployment in one: TLS, discovery documents and a proxy in front of a [`Homeserver`], sound but for what is planted.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use ringfence_tests::authority::Certificate;
use ringfence_tests::place::Place;
use ringfence_tests::{Authority, Head, PATIENCE, message};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use ringfence_tests::homeserver::{Homeserver, KEYS, UPLOAD_BYTES_MAX, decoded};

/// What it does; the default is sound.
#[derive(Clone)]
pub(crate) struct Manners {
    pub(crate) certificate: Certificate,
    pub(crate) server_document: Option<&'static str>,
    pub(crate) client_document: &'static str,
    /// `Access-Control-Allow-Origin` lines of the client document.
    pub(crate) client_document_origins: usize,
    /// The same, of what comes from the homeserver.
    pub(crate) origins: usize,
    pub(crate) redirects: bool,
    pub(crate) decodes_paths: bool,
    pub(crate) closes_admin: bool,
    pub(crate) upload_bytes_max: u64,
    pub(crate) appends_forwarded_for: bool,
    pub(crate) sends_scheme: bool,
    pub(crate) keys: &'static str,
}

impl Default for Manners {
    fn default() -> Manners {
        Manners {
            certificate: Authority::shared().certificate(&["example.com", "matrix.example.com"]),
            server_document: Some(r#"{"m.server":"matrix.example.com:8448"}"#),
            client_document: r#"{"m.homeserver":{"base_url":"https://matrix.example.com"}}"#,
            client_document_origins: 1,
            origins: 1,
            redirects: false,
            decodes_paths: false,
            closes_admin: true,
            upload_bytes_max: UPLOAD_BYTES_MAX,
            appends_forwarded_for: false,
            sends_scheme: true,
            keys: KEYS,
        }
    }
}

/// A deployment that answers until it is dropped.
pub(crate) struct Deployment {
    pub(crate) address: SocketAddr,
    stopping: Arc<AtomicBool>,
    _place: Place,
}

impl Deployment {
    pub(crate) fn with(manners: Manners) -> Deployment {
        let place = Place::v4();
        let (listener, address) = (place.listen(), place.address());
        let stopping = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopping);
        thread::spawn(move || serve(&listener, &flag, manners));
        Deployment { address, stopping, _place: place }
    }
}

impl Drop for Deployment {
    fn drop(&mut self) {
        self.stopping.store(true, Ordering::Relaxed);
        // Wakes it.
        let _ = TcpStream::connect(self.address);
    }
}

fn serve(listener: &TcpListener, stopping: &AtomicBool, manners: Manners) {
    let tls = tls(&manners.certificate);
    let front = Arc::new(Front { manners, homeserver: Homeserver::default() });
    while let Ok((stream, _)) = listener.accept() {
        if stopping.load(Ordering::Relaxed) {
            return;
        }
        let (tls, front) = (Arc::clone(&tls), Arc::clone(&front));
        // A peer that only wants to see whether somebody listens, or goes early, is no fault.
        thread::spawn(move || front.answer_one(stream, tls).ok());
    }
}

fn tls(certificate: &Certificate) -> Arc<ServerConfig> {
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem.as_bytes()).expect("a key in PEM");
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("suites for every version");
    let config = builder.with_no_client_auth().with_single_cert(vec![certificate.der.clone()], key);
    Arc::new(config.expect("a certificate with its key"))
}

struct Front {
    manners: Manners,
    homeserver: Homeserver,
}

impl Front {
    fn answer_one(&self, stream: TcpStream, tls: Arc<ServerConfig>) -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        let peer = stream.peer_addr()?.ip();
        let session = ServerConnection::new(tls).map_err(std::io::Error::other)?;
        let mut stream = StreamOwned::new(session, stream);
        let mut received = Vec::new();
        let mut byte = [0];
        while !received.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte)?;
            received.push(byte[0]);
        }
        let head = Head::parse(&received).map_err(std::io::Error::other)?;
        stream.write_all(&self.answer(&head, &peer.to_string()))?;
        stream.conn.send_close_notify();
        stream.flush()
    }

    fn answer(&self, request: &Head, peer: &str) -> Vec<u8> {
        let manners = &self.manners;
        let length: u64 = request.value("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        if length > manners.upload_bytes_max {
            return message::response(
                "413 Content Too Large",
                "Access-Control-Allow-Origin: *\r\n",
                "too large",
            );
        }
        if request.lists("expect", "100-continue") {
            return b"HTTP/1.1 100 Continue\r\n\r\n".to_vec();
        }
        if manners.redirects && !request.target().starts_with("/.well-known/") {
            let line = format!("Location: https://www.example.com{}\r\n", request.target());
            return message::response("301 Moved Permanently", &line, "<h1>Moved</h1>");
        }
        match (request.target(), manners.server_document) {
            ("/.well-known/matrix/server", Some(document)) => return message::ok(document),
            ("/.well-known/matrix/server", None) => return message::response("404 Not Found", "", ""),
            ("/.well-known/matrix/client", _) => {
                let origins = "Access-Control-Allow-Origin: *\r\n".repeat(manners.client_document_origins);
                let lines = format!("Content-Type: application/json\r\n{origins}");
                return message::response("200 OK", &lines, manners.client_document);
            }
            ("/_matrix/key/v2/server", _) => return message::ok(manners.keys),
            (target, _) if manners.closes_admin && decoded(target).contains("admin/v1/") => {
                return message::response("403 Forbidden", "", "");
            }
            _ => {}
        }
        let answer = self.homeserver.answer(&self.forwarded(request, peer));
        let origins = "Access-Control-Allow-Origin: *\r\n";
        let answer = String::from_utf8(answer).expect("UTF-8");
        answer.replace(origins, &origins.repeat(manners.origins)).into_bytes()
    }

    /// The request as the homeserver gets it.
    fn forwarded(&self, request: &Head, peer: &str) -> Head {
        let mut request = request.clone();
        if self.manners.decodes_paths {
            request.start_line =
                format!("{} {} HTTP/1.1", request.method(), decoded(request.target()).replace("//", "/"));
        }
        let claimed = request.value("x-forwarded-for").map(str::to_owned);
        request.fields.retain(|(name, _)| !name.to_ascii_lowercase().starts_with("x-forwarded"));
        let forwarded_for = match claimed.filter(|_| self.manners.appends_forwarded_for) {
            Some(claimed) => format!("{claimed}, {peer}"),
            None => peer.to_owned(),
        };
        request.fields.push(("X-Forwarded-For".to_owned(), forwarded_for));
        if self.manners.sends_scheme {
            request.fields.push(("X-Forwarded-Proto".to_owned(), "https".to_owned()));
        }
        request
    }
}
