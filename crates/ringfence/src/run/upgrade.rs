//! A new binary takes over the listening sockets, and this process finishes what it has begun.
//!
//! The process that follows is started with this one's command line, with the sockets passed as systemd would pass them
//! (`LISTEN_FDS`), and with a socket as its standard input, over which it tells how its start went: one line, `ready` or what
//! is wrong. Until then this process serves as if nothing had happened. Both accept from the same sockets, so that no
//! connection is refused and none that waits in a backlog is lost. Sockets that systemd holds too are passed first.

use std::{
    env, io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    time,
};

use super::sockets::Sockets;

/// What starts the process that follows.
pub(super) struct Successor {
    /// Where this process' binary was when it started: there the new one is.
    binary: PathBuf,
}

impl Successor {
    /// To be called before the binary may have been replaced.
    pub(super) fn find() -> io::Result<Self> {
        Ok(Self { binary: env::current_exe()? })
    }

    /// Starts it and waits until it serves. It is not left behind when this wait is given up.
    pub(super) async fn start(&self, sockets: &Sockets) -> Result<Follower, String> {
        let cannot = |error: io::Error| format!("{} cannot be started: {error}", self.binary.display());
        let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
        ours.set_nonblocking(true).map_err(cannot)?;
        let candidate = Candidate(Some(self.spawn(sockets, theirs.into()).map_err(cannot)?));
        let why = match time::timeout(START_MAX, hear(ours)).await {
            Ok(Ok(line)) if line == READY => return candidate.takes_over(),
            Ok(Ok(line)) if !line.is_empty() => line,
            Ok(_) => "it ended before it served, see the log".to_owned(),
            Err(_) => "it did not serve within a minute".to_owned(),
        };
        Err(format!("the new process does not take over: {why}"))
    }

    fn spawn(&self, sockets: &Sockets, standard_input: OwnedFd) -> io::Result<Child> {
        let mappings: Vec<FdMapping> = (FIRST_PASSED..)
            .zip(sockets.copies()?)
            .map(|(child_fd, parent_fd)| FdMapping { parent_fd, child_fd })
            .collect();
        let mut command = Command::new(&self.binary);
        command
            .args(env::args_os().skip(1))
            .env("LISTEN_FDS", mappings.len().to_string())
            .env_remove("LISTEN_PID")
            .env_remove("LISTEN_FDNAMES")
            .env(FOLLOWS, sockets.lent().to_string())
            .stdin(Stdio::from(standard_input))
            .fd_mappings(mappings)
            .map_err(io::Error::other)?;
        command.spawn()
    }
}

/// What it has to say in its first line; empty if it ended without a word.
async fn hear(from: UnixStream) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(tokio::net::UnixStream::from_std(from)?).read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

/// A process that is about to take over. Unless it does, it is gone when this is dropped.
struct Candidate(Option<Child>);

impl Candidate {
    fn takes_over(mut self) -> Result<Follower, String> {
        self.0.take().map(Follower).ok_or_else(|| "it has taken over before".to_owned())
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have gone by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The process that has taken over.
pub(super) struct Follower(Child);

impl Follower {
    /// Its process id.
    pub(super) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Passes on what this process was told although it was meant for the one that serves.
    pub(super) fn pass_on(&mut self, signal: Signal) {
        // While it runs, and until it is waited for, its id is nobody else's.
        if let (Ok(None), Ok(id)) = (self.0.try_wait(), i32::try_from(self.0.id())) {
            let _ = kill(Pid::from_raw(id), signal);
        }
    }
}

/// How this process came to be.
pub(crate) struct Start {
    /// Whether it follows another, which waits to hear how this start goes.
    follows: bool,
    /// How many of the sockets that it was passed are held by systemd as well, the first ones.
    pub(super) lent: usize,
}

impl Start {
    /// As the environment says.
    pub(crate) fn from_environment() -> Self {
        match env::var(FOLLOWS) {
            Ok(lent) => Self { follows: true, lent: lent.parse().unwrap_or(0) },
            Err(_) => Self { follows: false, lent: usize::MAX },
        }
    }

    /// Whether there is a process before this one.
    pub(super) fn follows(&self) -> bool {
        self.follows
    }

    /// Says that this process serves.
    pub(super) fn succeeded(&self) {
        self.say(READY);
    }

    /// Says why it does not.
    pub(crate) fn failed(&self, error: &str) {
        // One line is heard.
        self.say(&error.trim_end().replace('\n', "; "));
    }

    fn say(&self, line: &str) {
        if self.follows {
            // Nobody listens any more: then it was not waited for.
            let _ = nix::unistd::write(io::stdin(), format!("{line}\n").as_bytes());
        }
    }
}

/// Says why a process that should follow another has not even come to start.
pub(crate) fn cannot_follow(error: &impl std::fmt::Display) {
    Start::from_environment().failed(&error.to_string());
}

const READY: &str = "ready";

/// Set for a process that follows another: how many of the sockets that it is passed systemd holds as well.
const FOLLOWS: &str = "RINGFENCE_FOLLOWS";

/// The first descriptor that is passed (sd_listen_fds(3)).
const FIRST_PASSED: i32 = 3;

/// How long the new process may take until it serves: names are looked up and certificates read on the way.
const START_MAX: Duration = Duration::from_secs(60);
