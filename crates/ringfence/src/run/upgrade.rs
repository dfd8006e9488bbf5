//! A new binary takes over the listening sockets, and this process finishes what it has begun.
//!
//! The process that follows is started with this one's command line, with the sockets passed as systemd would pass them
//! (`LISTEN_FDS`), and with a socket as its standard input, over which it tells how its start went: one line, `ready` or what
//! is wrong. Until then this process serves as if nothing had happened. Both accept from the same sockets, so that no
//! connection is refused and none that waits in a backlog is lost.

use std::{
    env, io,
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::Duration,
};

use command_fds::{CommandFdExt, FdMapping};
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

    /// Starts it and waits until it serves. Returns its process id.
    pub(super) async fn start(&self, sockets: &Sockets) -> Result<u32, String> {
        let cannot = |error: io::Error| format!("{} cannot be started: {error}", self.binary.display());
        let (ours, theirs) = UnixStream::pair().map_err(cannot)?;
        ours.set_nonblocking(true).map_err(cannot)?;
        let mut child = self.spawn(sockets, theirs.into()).map_err(cannot)?;
        let told = time::timeout(START_MAX, hear(ours)).await;
        match told {
            Ok(Ok(line)) if line == READY => Ok(child.id()),
            Ok(Ok(line)) if !line.is_empty() => Err(ended(&mut child, &line)),
            Ok(_) => Err(ended(&mut child, "it ended before it served, see the log")),
            Err(_) => Err(ended(&mut child, "it did not serve within a minute")),
        }
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
            .env(FOLLOWS, if sockets.is_lent { LENT } else { OWNED })
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

/// Makes sure that a process that failed to take over is gone.
fn ended(child: &mut Child, why: &str) -> String {
    // It may have gone by itself.
    let _ = child.kill();
    let _ = child.wait();
    format!("the new process does not take over: {why}")
}

/// How this process came to be.
pub(crate) struct Start {
    /// Whether it follows another, which waits to hear how this start goes.
    follows: bool,
    /// Whether the sockets that it was passed are held by systemd as well.
    pub(super) is_lent: bool,
}

impl Start {
    /// As the environment says.
    pub(crate) fn from_environment() -> Self {
        match env::var(FOLLOWS) {
            Ok(sockets) => Self { follows: true, is_lent: sockets == LENT },
            Err(_) => Self { follows: false, is_lent: true },
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

/// Set for a process that follows another.
const FOLLOWS: &str = "RINGFENCE_FOLLOWS";
/// Nobody else holds the sockets.
const OWNED: &str = "owned";
/// systemd does.
const LENT: &str = "lent";

/// The first descriptor that is passed (sd_listen_fds(3)).
const FIRST_PASSED: i32 = 3;

/// How long the new process may take until it serves: names are looked up and certificates read on the way.
const START_MAX: Duration = Duration::from_secs(60);
