//! The admin listener: what the process does, for people and for Prometheus, and the two things that can be asked of it.
//!
//! On a Unix socket whoever may open it may reload and upgrade; on loopback TCP, where every user of the machine and every page
//! in a browser there can come, it is for reading only. It is served by the control plane: workers never wait for it.

mod client;
mod metrics;
mod status;
mod view;

use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode, body::Incoming, header, server::conn::http1, service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, UnixListener},
    sync::{Semaphore, mpsc, oneshot, watch},
    task::JoinSet,
};

use crate::{
    config::Admin,
    run::control::{Command, CommandKind},
};

pub(crate) use client::{Asked, ask};
pub(crate) use metrics::class_name;
pub(crate) use view::{Recent, View};

/// A bound admin listener.
pub(crate) struct Listener {
    at: At,
}

enum At {
    Unix(UnixSocket),
    Tcp(TcpListener),
}

/// A socket that is bound beside the path where it will be.
struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
    /// Where it is until it is [published](Listener::publish).
    beside: Option<PathBuf>,
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        if let Some(beside) = &self.beside {
            let _ = fs::remove_file(beside);
        }
    }
}

/// Binds what the configuration names. `follows`: the process before this one still listens there, until the listener is
/// [published](Listener::publish). Must be called with a runtime around it.
///
/// # Errors
/// When a place that the configuration names cannot be had. The usual one is done without.
pub(crate) fn bind(admin: &Admin, follows: bool) -> Result<Option<Listener>, String> {
    let at = match admin {
        Admin::Off => return Ok(None),
        Admin::Tcp(address) => bind_tcp(*address, follows)
            .map(At::Tcp)
            .map_err(|error| format!("server.admin: cannot listen on {address}: {error}"))?,
        Admin::Usual => {
            let path = admin.socket().unwrap_or(Path::new(""));
            match path.parent().is_some_and(Path::is_dir).then(|| bind_unix(path, follows)) {
                Some(Ok(socket)) => At::Unix(socket),
                Some(Err(error)) => {
                    tracing::warn!(path = %path.display(), %error, "no admin socket; server.admin names another place, or \"off\"");
                    return Ok(None);
                }
                None => {
                    tracing::debug!(path = %path.display(), "no admin socket: there is no such folder");
                    return Ok(None);
                }
            }
        }
        Admin::Unix(path) => match bind_unix(path, follows) {
            Ok(socket) => At::Unix(socket),
            Err(error) => {
                let path = path.display();
                return Err(format!(
                    "server.admin: cannot listen on {path}: {error}; its folder has to exist and be writable"
                ));
            }
        },
    };
    let mut listener = Listener { at };
    if !follows {
        // Now there may still be the right to.
        listener.publish()?;
    }
    Ok(Some(listener))
}

fn bind_tcp(address: SocketAddr, follows: bool) -> io::Result<TcpListener> {
    let socket =
        if address.is_ipv4() { tokio::net::TcpSocket::new_v4() } else { tokio::net::TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // The process before this one listens until this one serves; both belong to one user, which the kernel checks.
    socket.set_reuseport(true)?;
    if !follows
        && std::net::TcpListener::bind(address).is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
    {
        return Err(io::ErrorKind::AddrInUse.into());
    }
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

/// Binds beside the path, to be renamed into place, so that there is never no socket, and one that a crashed process has left
/// is replaced.
fn bind_unix(path: &Path, follows: bool) -> io::Result<UnixSocket> {
    if !follows && std::os::unix::net::UnixStream::connect(path).is_ok() {
        return Err(io::Error::new(io::ErrorKind::AddrInUse, "another ringfence listens there"));
    }
    if path.symlink_metadata().is_ok_and(|file| !std::os::unix::fs::FileTypeExt::is_socket(&file.file_type()))
    {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is there and is no socket"));
    }
    let beside = path.with_extension(format!("{}.new", std::process::id()));
    let listener = UnixListener::bind(&beside)?;
    fs::set_permissions(&beside, fs::Permissions::from_mode(SOCKET_MODE))?;
    Ok(UnixSocket { listener, path: path.to_owned(), beside: Some(beside) })
}

/// The owner's and the group's: those who may reload.
const SOCKET_MODE: u32 = 0o660;

impl Listener {
    /// Puts the socket into its place: to be called when nothing can go wrong any more, since the process before this one is
    /// not heard there afterwards.
    pub(crate) fn publish(&mut self) -> Result<(), String> {
        let At::Unix(socket) = &mut self.at else { return Ok(()) };
        if let Some(beside) = &socket.beside {
            let path = socket.path.display();
            fs::rename(beside, &socket.path).map_err(|error| format!("server.admin: {path}: {error}"))?;
        }
        socket.beside = None;
        Ok(())
    }

    /// Makes the socket that of the user whom this process will be, so that the process after the next upgrade can
    /// replace it.
    pub(crate) fn give_to(&self, user: &str) -> Result<(), String> {
        let At::Unix(UnixSocket { path, beside, .. }) = &self.at else { return Ok(()) };
        let failed = |error: &dyn std::fmt::Display| {
            format!("server.admin: {} cannot be given to {user}: {error}", path.display())
        };
        let Some(user) = nix::unistd::User::from_name(user).map_err(|error| failed(&error))? else {
            return Ok(());
        };
        std::os::unix::fs::chown(
            beside.as_ref().unwrap_or(path),
            Some(user.uid.as_raw()),
            Some(user.gid.as_raw()),
        )
        .map_err(|error| failed(&error))
    }
}

/// The admin listener at work.
pub(crate) struct Server {
    stop: watch::Sender<bool>,
    accepting: tokio::task::JoinHandle<()>,
    socket: Option<PathBuf>,
}

/// Connections served at a time: a few dashboards and scrapers. More wait.
const CONNECTIONS_MAX: usize = 64;

/// Connections that may wait to be accepted on TCP.
const BACKLOG: u32 = 64;

/// How long a client may take for its request's head.
const HEAD_READ: Duration = Duration::from_secs(10);

/// How long a connection may live: whoever watches for longer opens a new one.
const CONNECTION_LIFE: Duration = Duration::from_secs(3600);

/// How long answers that are on their way may take at the end.
const STOP_MAX: Duration = Duration::from_millis(500);

impl Server {
    /// Accepts from now on.
    pub(crate) fn start(listener: Listener, view: Arc<View>, commands: mpsc::Sender<Command>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let socket = match &listener.at {
            At::Unix(socket) => Some(socket.path.clone()),
            At::Tcp(_) => None,
        };
        let may_command = socket.is_some();
        let site = Site { view, commands: may_command.then_some(commands) };
        let accepting = tokio::spawn(accept(listener, Arc::new(site), stopped));
        Self { stop, accepting, socket }
    }

    /// Stops accepting and lets answers under way end. `remove`: nobody else listens at this path now.
    pub(crate) async fn stop(self, remove: bool) {
        if let Some(path) = self.socket.filter(|_| remove) {
            // Gone already, or not ours to remove: the next start replaces it.
            let _ = fs::remove_file(path);
        }
        let _ = self.stop.send(true);
        let _ = tokio::time::timeout(STOP_MAX, self.accepting).await;
    }
}

async fn accept(listener: Listener, site: Arc<Site>, mut stopped: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        // Never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let site = site.clone();
        let accepted = async {
            match &listener.at {
                At::Unix(socket) => socket.listener.accept().await.map(|(stream, _)| Stream::Unix(stream)),
                At::Tcp(listener) => listener.accept().await.map(|(stream, _)| Stream::Tcp(stream)),
            }
        };
        tokio::select! {
            stream = accepted => match stream {
                Ok(stream) => drop(connections.spawn(async move {
                    let _place = place;
                    let _ = tokio::time::timeout(CONNECTION_LIFE, async move {
                        match stream {
                            Stream::Unix(stream) => serve(stream, site).await,
                            Stream::Tcp(stream) => serve(stream, site).await,
                        }
                    }).await;
                })),
                Err(error) => {
                    tracing::warn!(%error, "the admin listener cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            _ = stopped.changed() => break,
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    // The answer to who asked for the end has to arrive.
    let _ =
        tokio::time::timeout(STOP_MAX / 2, async { while connections.join_next().await.is_some() {} }).await;
}

enum Stream {
    Unix(tokio::net::UnixStream),
    Tcp(tokio::net::TcpStream),
}

async fn serve(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, site: Arc<Site>) {
    let answer = |request| {
        let site = site.clone();
        async move { Ok::<_, Infallible>(site.answer(&request).await) }
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_READ)
        .serve_connection(TokioIo::new(stream), service_fn(answer));
    if let Err(error) = connection.await {
        tracing::debug!(%error, "an admin connection failed");
    }
}

/// What is served.
struct Site {
    view: Arc<View>,
    /// `None`: reading only.
    commands: Option<mpsc::Sender<Command>>,
}

impl Site {
    async fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        // A page of another site could have this address resolve to loopback and read what is here.
        if self.commands.is_none() && !is_local_host(request) {
            return text(StatusCode::MISDIRECTED_REQUEST, "this listener answers to localhost\n");
        }
        let is_read = matches!(*request.method(), Method::GET | Method::HEAD);
        match (request.uri().path(), is_read) {
            ("/", true) => page(),
            ("/metrics", true) => typed(StatusCode::OK, metrics::CONTENT_TYPE, metrics::text(&self.view)),
            ("/status", true) => {
                typed(StatusCode::OK, "application/json", status::status(&self.view).to_string())
            }
            ("/connections", true) => {
                typed(StatusCode::OK, "application/json", status::connections(&self.view).to_string())
            }
            ("/healthz", true) => text(StatusCode::OK, "ok\n"),
            ("/readyz", true) if self.view.is_leaving() => text(StatusCode::SERVICE_UNAVAILABLE, "leaving\n"),
            ("/readyz", true) => text(StatusCode::OK, "ready\n"),
            ("/reload", false) if *request.method() == Method::POST => {
                self.command(CommandKind::Reload).await
            }
            ("/upgrade", false) if *request.method() == Method::POST => {
                self.command(CommandKind::Upgrade).await
            }
            (
                "/" | "/metrics" | "/status" | "/connections" | "/healthz" | "/readyz" | "/reload"
                | "/upgrade",
                _,
            ) => text(StatusCode::METHOD_NOT_ALLOWED, "method not allowed\n"),
            _ => text(
                StatusCode::NOT_FOUND,
                "not found; there are / /metrics /status /connections /healthz /readyz\n",
            ),
        }
    }

    async fn command(&self, kind: CommandKind) -> Response<Full<Bytes>> {
        let Some(commands) = &self.commands else {
            return text(StatusCode::FORBIDDEN, "only over the Unix socket\n");
        };
        let (answer, answered) = oneshot::channel();
        if commands.send(Command { kind, answer }).await.is_err() {
            return text(StatusCode::SERVICE_UNAVAILABLE, "this process ends\n");
        }
        match answered.await {
            Ok(Ok(done)) => text(StatusCode::OK, &format!("{done}\n")),
            Ok(Err(why)) => text(StatusCode::CONFLICT, &format!("{why}\n")),
            Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "this process ends\n"),
        }
    }
}

/// Whether `Host` is a name of this machine's loopback.
fn is_local_host(request: &Request<Incoming>) -> bool {
    let Some(host) = request.headers().get(header::HOST).and_then(|host| host.to_str().ok()) else {
        return false;
    };
    let name =
        host.rsplit_once(':').filter(|(_, port)| port.parse::<u16>().is_ok()).map_or(host, |(name, _)| name);
    matches!(name, "localhost" | "[::1]") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// The live status page: one file that asks nobody but `/status`.
fn page() -> Response<Full<Bytes>> {
    let mut response =
        typed(StatusCode::OK, "text/html; charset=utf-8", include_str!("admin/page.html").to_owned());
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_SECURITY_POLICY, header::HeaderValue::from_static(PAGE_POLICY));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, header::HeaderValue::from_static("nosniff"));
    headers.insert(header::REFERRER_POLICY, header::HeaderValue::from_static("no-referrer"));
    response
}

/// What the page may do: run what stands in it, ask this listener. Nobody may frame it.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; \
    img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

fn text(status: StatusCode, content: &str) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", content.to_owned())
}

fn typed(status: StatusCode, content_type: &'static str, content: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(content.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-store"));
    response
}
