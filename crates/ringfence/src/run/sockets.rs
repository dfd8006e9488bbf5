//! Listening sockets: taken over from systemd or from the process before an upgrade, or bound here.
//!
//! The control plane keeps a copy of each, to hand on to the process after the next upgrade.

use std::{
    io, iter,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::OwnedFd,
};

use listenfd::ListenFd;
use ringfence_forward::{ListenerSocket, snapshot::Snapshot};

/// The sockets of this process.
pub(super) struct Sockets {
    workers: usize,
    /// With the listener that each belongs to.
    held: Vec<(usize, OwnedFd)>,
    /// What was passed to this process at its start and is not taken yet.
    inherited: Vec<(SocketAddr, TcpListener)>,
    /// systemd holds them too, and listens on when this process ends.
    pub(super) is_lent: bool,
}

/// The sockets of each worker.
pub(super) type ByWorker = Vec<Vec<ListenerSocket>>;

impl Sockets {
    /// Takes over what was passed to this process (`LISTEN_FDS`, sd_listen_fds(3)).
    pub(super) fn inherit(workers: usize, is_lent: bool) -> Result<Self, String> {
        let mut passed = ListenFd::from_env();
        let mut inherited = Vec::new();
        for index in 0..passed.len() {
            let failed = |error| format!("socket {index} of LISTEN_FDS cannot be used: {error}");
            let Some(listener) = passed.take_tcp_listener(index).map_err(failed)? else { continue };
            listener.set_nonblocking(true).map_err(failed)?;
            inherited.push((listener.local_addr().map_err(failed)?, listener));
        }
        let is_lent = is_lent && !inherited.is_empty();
        Ok(Self { workers, held: Vec::new(), inherited, is_lent })
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
            let is_lent = self.is_lent && !sockets.is_empty();
            let failed = |error: io::Error| format!("cannot listen on {address}: {error}{}", advice(&error));
            let sockets = match sockets.is_empty() {
                true => bind(address, self.workers).map_err(failed)?,
                false => sockets,
            };
            // Fewer than there are workers: several accept from one. More: a worker accepts from several.
            for index in 0..self.workers.max(sockets.len()) {
                let socket = sockets[index % sockets.len()].try_clone().map_err(failed)?;
                by_worker[index % self.workers].push(ListenerSocket { listener, socket, is_lent });
            }
            opened.extend(sockets.into_iter().map(|socket| (listener, socket)));
        }
        self.held.extend(opened);
        Ok(by_worker)
    }

    /// Lets go of the sockets of listeners that are no more.
    pub(super) fn forget_retired(&mut self, snapshot: &Snapshot) {
        self.held.retain(|(listener, _)| !snapshot.listeners[*listener].retired);
    }

    /// Copies of all sockets, for the process that follows this one.
    pub(super) fn copies(&self) -> io::Result<Vec<OwnedFd>> {
        self.held.iter().map(|(_, socket)| socket.try_clone()).collect()
    }

    /// Says which passed sockets nobody wants, and closes them.
    pub(super) fn close_unwanted(&mut self) {
        for (address, _) in self.inherited.drain(..) {
            tracing::warn!(%address, "a socket was passed for which there is no [[listener]]; it is closed");
        }
    }

    fn take_inherited(&mut self, address: SocketAddr) -> Vec<OwnedFd> {
        let fits = |bound: SocketAddr| {
            // Port 0 was any free one; without IPv6, `[::]` was bound as `0.0.0.0`.
            let same_port = bound.port() == address.port() || address.port() == 0;
            let same_ip =
                bound.ip() == address.ip() || address.ip().is_unspecified() && bound.ip().is_unspecified();
            same_port && same_ip
        };
        let (taken, left) = self.inherited.drain(..).partition(|(bound, _)| fits(*bound));
        self.inherited = left;
        Vec::into_iter(taken).map(|(_, listener): (_, TcpListener)| listener.into()).collect()
    }
}

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
