//! Listening sockets: taken over from systemd or from the process before an upgrade, or bound here.
//!
//! The control plane keeps a copy of each, to hand on to the process after the next upgrade.

use std::{
    io, iter,
    net::{Ipv4Addr, SocketAddr},
    os::fd::OwnedFd,
    thread,
    time::{Duration, Instant},
};

use listenfd::ListenFd;
use ringfence_forward::{ListenerSocket, snapshot::Snapshot};

/// The sockets of this process.
pub(super) struct Sockets {
    workers: usize,
    held: Vec<Held>,
    /// What was passed to this process and no listener wants at present.
    inherited: Vec<Inherited>,
}

/// A socket of a listener.
struct Held {
    listener: usize,
    socket: OwnedFd,
    /// systemd holds it too, and listens on when this process ends.
    is_lent: bool,
}

/// A socket that was passed.
struct Inherited {
    bound: SocketAddr,
    socket: OwnedFd,
    is_lent: bool,
}

/// The sockets of each worker.
pub(super) type ByWorker = Vec<Vec<ListenerSocket>>;

impl Sockets {
    /// Takes over what was passed to this process (`LISTEN_FDS`, sd_listen_fds(3)); systemd holds the first `lent` of them.
    pub(super) fn inherit(workers: usize, lent: usize) -> Result<Self, String> {
        let mut passed = ListenFd::from_env();
        let mut inherited = Vec::new();
        for index in 0..passed.len() {
            let failed = |error| format!("socket {index} of LISTEN_FDS cannot be used: {error}");
            let Some(listener) = passed.take_tcp_listener(index).map_err(failed)? else { continue };
            listener.set_nonblocking(true).map_err(failed)?;
            let bound = listener.local_addr().map_err(failed)?;
            inherited.push(Inherited { bound, socket: listener.into(), is_lent: index < lent });
        }
        Ok(Self { workers, held: Vec::new(), inherited })
    }

    /// The sockets of all listeners of `next` that `before` does not accept from yet.
    pub(super) fn open(&mut self, next: &Snapshot, before: Option<&Snapshot>) -> Result<ByWorker, String> {
        let mut by_worker: ByWorker = iter::repeat_with(Vec::new).take(self.workers).collect();
        let mut opened = Vec::new();
        for (listener, wanted) in next.listeners.iter().enumerate() {
            let is_open =
                before.and_then(|before| before.listeners.get(listener)).is_some_and(|known| !known.retired);
            if wanted.retired || is_open {
                continue;
            }
            let address = wanted.address;
            let sockets = self.take_inherited(address);
            let failed = |error: io::Error| format!("cannot listen on {address}: {error}{}", advice(&error));
            let held = |socket, is_lent| Held { listener, socket, is_lent };
            let sockets: Vec<Held> = match sockets.is_empty() {
                true => bind_patiently(
                    address,
                    self.workers,
                    if before.is_none() { BIND_WAIT } else { Duration::ZERO },
                )
                .map_err(failed)?
                .into_iter()
                .map(|socket| held(socket, false))
                .collect(),
                false => sockets.into_iter().map(|passed| held(passed.socket, passed.is_lent)).collect(),
            };
            // Fewer than there are workers: several accept from one. More: a worker accepts from several.
            for index in 0..self.workers.max(sockets.len()) {
                let held = &sockets[index % sockets.len()];
                let socket = held.socket.try_clone().map_err(failed)?;
                by_worker[index % self.workers].push(ListenerSocket {
                    listener,
                    socket,
                    is_lent: held.is_lent,
                });
            }
            opened.extend(sockets);
        }
        self.held.extend(opened);
        Ok(by_worker)
    }

    /// Lets go of the sockets of listeners that are no more. Those of systemd are kept: it goes on listening, and nobody
    /// else could, so they are taken again if the listener comes back.
    pub(super) fn forget_retired(&mut self, snapshot: &Snapshot) {
        for held in self.held.extract_if(.., |held| snapshot.listeners[held.listener].retired) {
            if held.is_lent {
                let bound = snapshot.listeners[held.listener].address;
                tracing::warn!(address = %bound, "systemd goes on listening there, and nobody answers");
                self.inherited.push(Inherited { bound, socket: held.socket, is_lent: true });
            }
        }
    }

    /// How many of [`copies`](Self::copies) systemd holds too: the first ones.
    pub(super) fn lent(&self) -> usize {
        self.held.iter().filter(|held| held.is_lent).count()
    }

    /// Copies of all sockets, for the process that follows this one.
    pub(super) fn copies(&self) -> io::Result<Vec<OwnedFd>> {
        let lent = self.held.iter().filter(|held| held.is_lent);
        let own = self.held.iter().filter(|held| !held.is_lent);
        lent.chain(own).map(|held| held.socket.try_clone()).collect()
    }

    /// Says which passed sockets nobody wants, and closes them.
    pub(super) fn close_unwanted(&mut self) {
        for Inherited { bound, .. } in self.inherited.drain(..) {
            tracing::warn!(address = %bound, "a socket was passed for which there is no [[listener]]; it is closed");
        }
    }

    fn take_inherited(&mut self, address: SocketAddr) -> Vec<Inherited> {
        let fits = |bound: SocketAddr| {
            // Port 0 was any free one; without IPv6, `[::]` was bound as `0.0.0.0`.
            let same_port = bound.port() == address.port() || address.port() == 0;
            let same_ip =
                bound.ip() == address.ip() || address.ip().is_unspecified() && bound.ip().is_unspecified();
            same_port && same_ip
        };
        self.inherited.extract_if(.., |passed| fits(passed.bound)).collect()
    }
}

/// Binds, also when the address becomes free within `wait` only.
fn bind_patiently(address: SocketAddr, workers: usize, wait: Duration) -> io::Result<Vec<OwnedFd>> {
    let begun = Instant::now();
    loop {
        match bind(address, workers) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && begun.elapsed() < wait => {
                #[expect(clippy::disallowed_methods, reason = "there are no workers yet")]
                thread::sleep(BIND_PAUSE);
            }
            bound => return bound,
        }
    }
}

/// How long a start waits for an address. The ring of a process that was killed keeps its sockets until the kernel has taken it
/// apart, a moment after the end that a service manager sees; a second is long for that, and short for who made a mistake.
const BIND_WAIT: Duration = Duration::from_secs(1);

/// How long between two tries: the kernel takes some milliseconds.
const BIND_PAUSE: Duration = Duration::from_millis(10);

fn bind(address: SocketAddr, workers: usize) -> io::Result<Vec<OwnedFd>> {
    match ringfence_forward::bind(address, workers) {
        Err(error) if address.is_ipv6() && address.ip().is_unspecified() && has_no_ipv6(&error) => {
            tracing::warn!(%address, "this machine has no IPv6; listening on IPv4 only");
            ringfence_forward::bind((Ipv4Addr::UNSPECIFIED, address.port()).into(), workers)
        }
        bound => bound,
    }
}

fn has_no_ipv6(error: &io::Error) -> bool {
    error.raw_os_error() == Some(nix::errno::Errno::EAFNOSUPPORT as i32)
}

fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            "; start as root with server.user set, or with CAP_NET_BIND_SERVICE"
        }
        io::ErrorKind::AddrInUse => "; another program listens there (`ss -ltnp` names it)",
        io::ErrorKind::AddrNotAvailable => "; this machine has no such address",
        _ => "",
    }
}
