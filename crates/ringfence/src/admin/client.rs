//! The other end of the admin socket: `ringfence reload`, `upgrade` and what else asks a running ringfence.

use std::{
    error::Error,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    thread,
    time::Duration,
};

use crate::config::{self, Admin};

/// What came back.
pub(crate) struct Asked {
    pub(crate) status: u16,
    pub(crate) content: String,
}

/// Sends one request to the ringfence that runs with this config file. When that hands over to another just then, the other
/// one is asked.
pub(crate) fn ask(config_file: &Path, method: &str, path: &str) -> Result<Asked, Box<dyn Error>> {
    let mut tries = 1..TRIES_MAX;
    loop {
        let asked = ask_once(config_file, method, path);
        let has_ended = match &asked {
            Ok(asked) => asked.status == LEAVING,
            Err(error) => error.downcast_ref::<io::Error>().is_some_and(is_end),
        };
        if !has_ended || tries.next().is_none() {
            return asked;
        }
        #[expect(clippy::disallowed_methods, reason = "this process has no workers")]
        thread::sleep(TRY_PAUSE);
    }
}

/// Whether the process ended before it answered.
fn is_end(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionReset | UnexpectedEof)
}

fn ask_once(config_file: &Path, method: &str, path: &str) -> Result<Asked, Box<dyn Error>> {
    // What is wrong with the rest of the file is for the running process to say.
    let admin = config::admin(config_file);
    let stream = match &admin {
        Admin::Off => return Err("server.admin is \"off\" in the config file: use signals".into()),
        Admin::Tcp(address) => exchange(std::net::TcpStream::connect(address)?, method, path),
        admin => {
            let socket = admin.socket().unwrap_or(Path::new(""));
            let failed = |error: io::Error| {
                format!("{}: {error}; is ringfence running, and may you open its socket?", socket.display())
            };
            match UnixStream::connect(socket) {
                Ok(stream) => exchange(stream, method, path),
                // Then the usual place was only a guess.
                Err(_) if !config_file.exists() => {
                    return Err(format!("there is no {}", config_file.display()).into());
                }
                Err(error) => return Err(failed(error).into()),
            }
        }
    };
    Ok(stream?)
}

trait Stream: Read + Write {
    fn prepare(&self) -> io::Result<()>;
}

impl Stream for UnixStream {
    fn prepare(&self) -> io::Result<()> {
        self.set_read_timeout(Some(ANSWER_MAX))
    }
}

impl Stream for std::net::TcpStream {
    fn prepare(&self) -> io::Result<()> {
        self.set_read_timeout(Some(ANSWER_MAX))
    }
}

fn exchange(mut stream: impl Stream, method: &str, path: &str) -> io::Result<Asked> {
    stream.prepare()?;
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer)?;
    if answer.is_empty() {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ended without an answer"));
    }
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "this is no ringfence");
    let (head, content) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    Ok(Asked { status, content: content.to_owned() })
}

/// How long an answer may take: an upgrade waits a minute for the new process.
const ANSWER_MAX: Duration = Duration::from_secs(90);

/// The status of a process that ends: it does what it is asked no more.
const LEAVING: u16 = 503;

/// How often somebody is asked: processes that hand over to each other one after the other are rare.
const TRIES_MAX: usize = 5;

/// How long between two tries: the next process is there already, or never will be.
const TRY_PAUSE: Duration = Duration::from_millis(100);

/// Largest answer that is read, in bytes: metrics of many listeners.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
