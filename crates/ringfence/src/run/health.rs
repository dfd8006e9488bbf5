//! Servers of upstreams that have a `health_path` are asked for it, over and over.
//!
//! Each server has a task of its own, so that none waits for another, and the first questions are spread over the interval. A
//! question is a connection: whether one can be made is part of what is asked.

use std::{
    error::Error,
    io, mem,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::{Request, Response, body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use ringfence_forward::{
    Health, proxy_protocol,
    snapshot::{ServerAddress, ServerTls, Snapshot},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    net::{TcpStream, UnixStream},
    sync::watch,
    task::{self, AbortHandle, JoinSet},
    time,
};
use tokio_rustls::TlsConnector;

use super::control::Running;
use crate::config::{Timeouts, format_duration};

/// The servers that are asked.
#[derive(Default)]
pub(super) struct Probes(Vec<Probe>);

/// A server with the task that asks it, which ends with it.
struct Probe {
    health: Arc<Health>,
    question: watch::Sender<Question>,
    task: AbortHandle,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Whom to ask, and how.
#[derive(Clone)]
struct Question {
    /// For the log.
    server: String,
    address: ServerAddress,
    /// How to speak TLS to it.
    tls: Option<Arc<ServerTls>>,
    /// Connections begin with a header of the PROXY protocol.
    sends_proxy_header: bool,
    /// Between two questions.
    interval: Duration,
    /// How long an answer may take.
    wait: Duration,
}

impl Probes {
    /// Asks the servers of this configuration, each where it is now. Needs a runtime around it.
    pub(super) fn follow(&mut self, running: &Running) {
        let wanted = questions(&running.snapshot, &running.config.timeouts);
        self.0.retain(|probe| wanted.iter().any(|(health, _)| Arc::ptr_eq(health, &probe.health)));
        let count = u32::try_from(wanted.len()).unwrap_or(u32::MAX);
        for ((health, question), index) in wanted.into_iter().zip(0..) {
            match self.0.iter().find(|probe| Arc::ptr_eq(&probe.health, &health)) {
                Some(probe) => drop(probe.question.send(question)),
                None => {
                    let first = Instant::now() + question.interval * index / count;
                    self.0.push(Probe::start(health, question, first));
                }
            }
        }
    }
}

impl Probe {
    fn start(health: Arc<Health>, question: Question, first: Instant) -> Self {
        let (question, questions) = watch::channel(question);
        let task = task::spawn(ask_for_ever(health.clone(), questions, first)).abort_handle();
        Self { health, question, task }
    }
}

/// What to ask, once for each health that is kept.
fn questions(snapshot: &Snapshot, timeouts: &Timeouts) -> Vec<(Arc<Health>, Question)> {
    let mut questions: Vec<(Arc<Health>, Question)> = Vec::new();
    for upstream in &snapshot.upstreams {
        for server in &upstream.servers {
            let Some(health) = &server.health else { continue };
            if questions.iter().any(|(known, _)| Arc::ptr_eq(known, health)) {
                continue;
            }
            let question = Question {
                server: server.name.clone(),
                address: server.address.clone(),
                tls: server.tls.clone(),
                sends_proxy_header: upstream.sends_proxy_header,
                interval: timeouts.health_interval,
                wait: timeouts.health_wait,
            };
            questions.push((health.clone(), question));
        }
    }
    questions
}

async fn ask_for_ever(health: Arc<Health>, mut questions: watch::Receiver<Question>, first: Instant) {
    let mut row = Row { is_down: health.is_down(), against: 0 };
    let mut next = first;
    let mut question = questions.borrow_and_update().clone();
    loop {
        tokio::select! {
            () = time::sleep_until(next.into()) => {}
            changed = questions.changed() => {
                if changed.is_err() {
                    return;
                }
                let before = mem::replace(&mut question, questions.borrow_and_update().clone());
                if question.address.is_elsewhere(&before.address) {
                    // What was answered where it was says nothing of where it is.
                    row.against = 0;
                    next = Instant::now();
                }
                // The interval may be another one.
                next = next.min(Instant::now() + question.interval);
                continue;
            }
        }
        next = Instant::now() + question.interval;
        let answer = match time::timeout(question.wait, ask(&question, &health)).await {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {}", format_duration(question.wait))),
        };
        note(&mut row, &health, &question.server, answer);
    }
}

/// Writes down what was answered, and says when that makes the server go down or come back.
fn note(row: &mut Row, health: &Health, server: &str, answer: Result<String, String>) {
    health.answered(answer.is_ok());
    let changes = row.takes(answer.is_ok());
    let path = &health.path;
    match (answer, changes) {
        (Ok(why), true) => {
            tracing::info!(server, path, why, "a server is up again");
            health.changes(false, why);
        }
        (Err(why), true) => {
            tracing::warn!(server, path, why, "a server is down: others are asked first");
            health.changes(true, why);
        }
        (Err(why), false) => tracing::debug!(server, path, why, "a server does not answer well"),
        (Ok(_), false) => {}
    }
}

/// Answers in a row that speak against what a server is held for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Row {
    is_down: bool,
    against: u32,
}

impl Row {
    /// Takes an answer in; whether the server changes by it.
    fn takes(&mut self, well: bool) -> bool {
        let speaks_against = well == self.is_down;
        self.against = if speaks_against { self.against + 1 } else { 0 };
        let needed = if self.is_down { ANSWERS_UP } else { ANSWERS_DOWN };
        let changes = self.against == needed;
        if changes {
            *self = Self { is_down: !self.is_down, against: 0 };
        }
        changes
    }
}

/// Bad answers in a row that make a server go down. One is an accident: a connection that was lost, a moment of garbage
/// collection.
const ANSWERS_DOWN: u32 = 2;

/// Good answers in a row that bring a server back. One suffices: it could not be given by a server that is gone, and to wait
/// for more costs those whom the others cannot serve.
const ANSWERS_UP: u32 = 1;

/// Asks once. The error says what is wrong, the other one what is well.
async fn ask(question: &Question, health: &Health) -> Result<String, String> {
    let stream = connect(question).await.map_err(|error| format!("no connection: {error}"))?;
    let status = converse(stream, health).await.map_err(|error| format!("no HTTP: {error}"))?;
    let said = format!("status {status}");
    if (200..400).contains(&status) { Ok(said) } else { Err(said) }
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Stream for S {}

/// A connection to the first address that takes one.
async fn connect(question: &Question) -> io::Result<Box<dyn Stream>> {
    match &question.address {
        ServerAddress::Unix(path) => begin(UnixStream::connect(path).await?, question).await,
        ServerAddress::Tcp(addresses) => {
            // An address that swallows everything must not keep the others from being tried.
            let share = question.wait / u32::try_from(addresses.len().max(1)).unwrap_or(u32::MAX);
            let mut last = io::ErrorKind::AddrNotAvailable.into();
            for address in addresses {
                let stream = async { begin(TcpStream::connect(address).await?, question).await };
                match time::timeout(share, stream).await {
                    Ok(Ok(stream)) => return Ok(stream),
                    Ok(Err(error)) => last = error,
                    Err(_) => last = io::ErrorKind::TimedOut.into(),
                }
            }
            Err(last)
        }
    }
}

/// Says what comes before the request, as the data plane does.
async fn begin(mut stream: impl Stream + 'static, question: &Question) -> io::Result<Box<dyn Stream>> {
    if question.sends_proxy_header {
        stream.write_all(&proxy_protocol::local_header()).await?;
    }
    match &question.tls {
        None => Ok(Box::new(stream)),
        Some(tls) => {
            let connector = TlsConnector::from(tls.client.config());
            Ok(Box::new(connector.connect(tls.name.clone(), stream).await?))
        }
    }
}

/// Sends the request, and returns the status of the answer when that is complete.
async fn converse(stream: Box<dyn Stream>, health: &Health) -> Result<u16, Box<dyn Error + Send + Sync>> {
    let (mut sender, connection) =
        http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream)).await?;
    // Ends with this conversation, however that ends.
    let mut driven = JoinSet::new();
    driven.spawn(connection);
    let request = Request::get(&health.path)
        .header("Host", &health.host)
        .header("User-Agent", USER_AGENT)
        .header("Accept", "*/*")
        .header("Connection", "close")
        .body(Empty::<Bytes>::new())?;
    let answer = sender.send_request(request).await?;
    let status = answer.status().as_u16();
    read(answer).await?;
    Ok(status)
}

/// Reads the content, so that the server is not left with half of it, as far as it is bounded.
async fn read(mut answer: Response<Incoming>) -> Result<(), hyper::Error> {
    let mut left = CONTENT_BYTES_MAX;
    while left > 0
        && let Some(frame) = answer.body_mut().frame().await
    {
        left = left.saturating_sub(frame?.data_ref().map_or(0, Bytes::len));
    }
    Ok(())
}

/// How it names itself to those whom it asks.
const USER_AGENT: &str = concat!("ringfence/", env!("CARGO_PKG_VERSION"), " health");

/// Longest head of an answer, in bytes: `limits.head_bytes_max` is as much.
const HEAD_BYTES_MAX: usize = 32 * 1024;

/// Most content that is read of an answer, in bytes: `/_matrix/client/versions` is some 5 KiB.
const CONTENT_BYTES_MAX: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server is after each of these answers: `+` and `-`.
    fn course(answers: &str) -> String {
        let mut row = Row::default();
        let after = |answer| {
            row.takes(answer == '+');
            if row.is_down { 'd' } else { 'u' }
        };
        answers.chars().map(after).collect()
    }

    #[test]
    fn a_server_goes_down_after_two_bad_answers_in_a_row_and_comes_back_after_a_good_one() {
        for (answers, expected) in
            [("++-+-+", "uuuuuu"), ("+--", "uud"), ("---+", "uddu"), ("--+-+--+", "uduuuudu"), ("", "")]
        {
            assert_eq!(course(answers), expected, "{answers}");
        }
    }

    #[test]
    fn a_change_is_told_once() {
        let mut row = Row::default();
        let told: Vec<bool> = [false, false, false, true, true].map(|well| row.takes(well)).into();
        assert_eq!(told, [false, true, false, true, false]);
    }
}
