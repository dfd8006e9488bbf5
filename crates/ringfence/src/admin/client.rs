//! The other end of the admin socket: `ringfence reload`, `upgrade` and what else asks a running ringfence.

use std::{
    error::Error,
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

use crate::config::{self, Admin};

/// What came back.
pub(crate) struct Asked {
    pub(crate) status: u16,
    pub(crate) content: String,
}

/// Sends one request to the ringfence that runs with this config file.
pub(crate) fn ask(config_file: &Path, method: &str, path: &str) -> Result<Asked, Box<dyn Error>> {
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
            exchange(UnixStream::connect(socket).map_err(failed)?, method, path)
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
    let broken = || io::Error::new(io::ErrorKind::InvalidData, "this is no ringfence");
    let (head, content) = answer.split_once("\r\n\r\n").ok_or_else(broken)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or_else(broken)?;
    Ok(Asked { status, content: content.to_owned() })
}

/// How long an answer may take: an upgrade waits a minute for the new process.
const ANSWER_MAX: Duration = Duration::from_secs(90);

/// Largest answer that is read, in bytes: metrics of many listeners.
const ANSWER_BYTES_MAX: u64 = 16 << 20;
