//! The access log's line: one for each request, written where it was served, handed on in batches.
//!
//! A line is appended to the worker's batch; a full batch goes through a bounded queue to the thread that writes
//! (see [`Log`]). When that thread does not keep up, whole batches are dropped and their lines counted: the log
//! never holds up a request.

use std::{
    cell::{Cell, RefCell},
    io::Write as _,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    },
    time::Duration,
};

use ringfence_http1::{RequestHead, Version};

use crate::{date::Calendar, fields, limits::KIB, request_id::RequestId};

/// How a line is spelled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// `time key=value …`
    Text,
    /// One JSON object a line, with the same names.
    Json,
    /// The line that nginx and Apache call `combined`, for programs that read those: fail2ban, GoAccess.
    Combined,
}

/// What a log's lines are made of.
#[derive(Clone, Copy)]
pub struct LogLayout {
    /// How a line is spelled.
    pub format: LogFormat,
    /// Whether a line of text begins with its time: not where the reader, such as the journal, notes it anyway.
    pub with_time: bool,
    /// The name of what [`Snapshot::classify`](crate::snapshot::Snapshot::classify) says.
    pub class_name: fn(u8) -> &'static str,
    /// Leaves of a request target what may be written down.
    pub target: WriteTarget,
}

/// Takes a request target and hands on, piece by piece, what of it stays.
pub type WriteTarget = fn(&[u8], &mut dyn FnMut(&[u8]));

/// What is known of an exchange when it ends.
pub(crate) struct Record<'a> {
    pub(crate) peer: SocketAddr,
    /// Who asks: the peer, or whom trusted proxies name.
    pub(crate) client: IpAddr,
    pub(crate) listener: SocketAddr,
    pub(crate) class: u8,
    pub(crate) method: &'a [u8],
    pub(crate) target: &'a [u8],
    pub(crate) version: Version,
    /// Values of `Referer` and `User-Agent`; asked for by [`Log::tells_agent`].
    pub(crate) agent: Agent<'a>,
    /// `None`: the client left before it was answered.
    pub(crate) status: Option<u16>,
    /// Bytes of request content taken from the client.
    pub(crate) bytes_in: u64,
    /// Bytes of response content given to the client.
    pub(crate) bytes_out: u64,
    /// The server asked and how long its head took.
    pub(crate) upstream: Option<(&'a str, Option<Duration>)>,
    pub(crate) total: Duration,
    pub(crate) request_id: &'a RequestId,
    pub(crate) tls: Option<&'static str>,
    /// Why the connection ends with this exchange.
    pub(crate) close: Option<&'a str>,
}

/// What a request says of where it comes from.
#[derive(Clone, Copy, Default)]
pub(crate) struct Agent<'a> {
    referer: Option<&'a [u8]>,
    user_agent: Option<&'a [u8]>,
}

impl<'a> Agent<'a> {
    pub(crate) fn of(head: &RequestHead, head_bytes: &'a [u8]) -> Self {
        let value = |name: &[u8]| {
            let line = head.fields().iter().find(|line| line.name.of(head_bytes).eq_ignore_ascii_case(name));
            line.map(|line| line.value.of(head_bytes))
        };
        Agent { referer: value(b"referer"), user_agent: value(b"user-agent") }
    }
}

/// The receiving end of the log: batches of whole lines.
pub struct Batches {
    batches: Receiver<Vec<u8>>,
    ended: Arc<AtomicBool>,
}

impl Batches {
    /// The next batch; `None` when there is none left after [`LogSender::end`].
    pub fn next(&self) -> Option<Vec<u8>> {
        loop {
            match self.batches.recv_timeout(END_LOOK) {
                Ok(batch) => return Some(batch),
                Err(RecvTimeoutError::Timeout) if !self.ended.load(Ordering::Acquire) => {}
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => return None,
            }
        }
    }
}

/// How often a log without lines looks whether it has ended.
const END_LOOK: Duration = Duration::from_millis(50);

/// The sending end, to be cloned for each worker.
#[derive(Clone)]
pub struct LogSender {
    layout: LogLayout,
    to: SyncSender<Vec<u8>>,
    dropped: Arc<AtomicU64>,
    ended: Arc<AtomicBool>,
}

impl LogSender {
    /// Says that no batch follows: to be called when the workers have ended.
    pub fn end(&self) {
        self.ended.store(true, Ordering::Release);
    }

    /// Lines dropped because the writer did not keep up.
    pub fn lines_dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A log of bounded size between workers and the thread that writes.
pub fn log_queue(layout: LogLayout) -> (LogSender, Batches) {
    let (to, batches) = sync_channel(BATCHES_MAX);
    let ended = Arc::new(AtomicBool::new(false));
    (LogSender { layout, to, dropped: Arc::default(), ended: ended.clone() }, Batches { batches, ended })
}

/// A worker's end of the log.
pub(crate) struct Log {
    sender: Option<LogSender>,
    batch: RefCell<Vec<u8>>,
    lines: Cell<u64>,
}

impl Log {
    pub(crate) fn new(sender: Option<LogSender>) -> Self {
        Self { sender, batch: RefCell::default(), lines: Cell::new(0) }
    }

    /// Whether there is a log.
    pub(crate) fn is_on(&self) -> bool {
        self.sender.is_some()
    }

    /// Whether a line says what the client says of itself.
    pub(crate) fn tells_agent(&self) -> bool {
        self.sender.as_ref().is_some_and(|sender| sender.layout.format == LogFormat::Combined)
    }

    /// Adds one line.
    pub(crate) fn write(&self, calendar: &Calendar, record: &Record<'_>) {
        let Some(sender) = &self.sender else { return };
        let mut batch = self.batch.borrow_mut();
        if batch.capacity() == 0 {
            batch.reserve_exact(BATCH_BYTES + LINE_BYTES_LIKELY);
        }
        let write = match sender.layout.format {
            LogFormat::Text => write_text,
            LogFormat::Json => write_json,
            LogFormat::Combined => write_combined,
        };
        write(&mut batch, &sender.layout, calendar, record);
        self.lines.set(self.lines.get() + 1);
        let full = batch.len() >= BATCH_BYTES;
        drop(batch);
        if full {
            self.flush();
        }
    }

    /// Hands what there is to the writer. Called by the worker's tick, so that lines are seen soon.
    pub(crate) fn flush(&self) {
        let Some(sender) = self.sender.as_ref().filter(|_| self.lines.get() > 0) else { return };
        if sender.to.try_send(std::mem::take(&mut *self.batch.borrow_mut())).is_err() {
            sender.dropped.fetch_add(self.lines.get(), Ordering::Relaxed);
        }
        self.lines.set(0);
    }
}

/// A batch is handed on when it has this many bytes: some 500 lines, one allocation and one wake-up of the writer.
const BATCH_BYTES: usize = 128 * KIB;
const LINE_BYTES_LIKELY: usize = KIB;

/// Batches that may wait for the writer: 8 MiB, a few seconds of a full load while a disk stalls.
const BATCHES_MAX: usize = 64;

// Writing to a Vec cannot fail: the results of `write!` are of no interest here.

fn write_text(out: &mut Vec<u8>, layout: &LogLayout, calendar: &Calendar, record: &Record<'_>) {
    if layout.with_time {
        calendar.write_log_time(out);
        out.push(b' ');
    }
    out.extend_from_slice(b"client=");
    let client_at = out.len();
    write_address(out, record.client);
    let client_end = out.len();
    out.extend_from_slice(b" peer=");
    match record.peer {
        // Mostly the client itself.
        SocketAddr::V4(peer) if IpAddr::V4(*peer.ip()) == record.client => {
            out.extend_from_within(client_at..client_end);
            out.push(b':');
            write_number(out, peer.port());
        }
        peer => write_socket_address(out, peer),
    }
    out.extend_from_slice(b" listener=");
    write_socket_address(out, record.listener);
    write_all(out, [" class=", (layout.class_name)(record.class), " method="]);
    write_token(out, record.method);
    out.extend_from_slice(b" target=\"");
    (layout.target)(record.target, &mut |piece| write_escaped(out, piece));
    out.extend_from_slice(b"\" status=");
    match record.status {
        Some(status) => write_number(out, status),
        None => out.push(b'-'),
    }
    out.extend_from_slice(b" in=");
    write_number(out, record.bytes_in);
    out.extend_from_slice(b" out=");
    write_number(out, record.bytes_out);
    match record.upstream {
        Some((name, answered)) => {
            write_all(out, [" upstream=", name, " upstream_ms="]);
            write_milliseconds(out, answered, "-");
        }
        None => out.extend_from_slice(b" upstream=- upstream_ms=-"),
    }
    out.extend_from_slice(b" total_ms=");
    write_milliseconds(out, Some(record.total), "-");
    out.extend_from_slice(b" id=");
    out.extend_from_slice(record.request_id);
    write_all(out, [" tls=", record.tls.unwrap_or("-"), " close=", record.close.unwrap_or("-"), "\n"]);
}

fn write_json(out: &mut Vec<u8>, layout: &LogLayout, calendar: &Calendar, record: &Record<'_>) {
    out.extend_from_slice(b"{\"time\":\"");
    calendar.write_log_time(out);
    out.extend_from_slice(b"\",\"client\":\"");
    write_address(out, record.client);
    out.extend_from_slice(b"\",\"peer\":\"");
    write_socket_address(out, record.peer);
    out.extend_from_slice(b"\",\"listener\":\"");
    write_socket_address(out, record.listener);
    write_all(out, ["\",\"class\":\"", (layout.class_name)(record.class), "\",\"method\":\""]);
    write_escaped(out, record.method);
    out.extend_from_slice(b"\",\"target\":\"");
    (layout.target)(record.target, &mut |piece| write_escaped(out, piece));
    out.extend_from_slice(b"\",\"status\":");
    match record.status {
        Some(status) => write_number(out, status),
        None => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(b",\"in\":");
    write_number(out, record.bytes_in);
    out.extend_from_slice(b",\"out\":");
    write_number(out, record.bytes_out);
    out.extend_from_slice(b",\"upstream\":");
    let (name, answered) = record.upstream.unzip();
    write_json_text(out, name);
    out.extend_from_slice(b",\"upstream_ms\":");
    write_milliseconds(out, answered.flatten(), "null");
    out.extend_from_slice(b",\"total_ms\":");
    write_milliseconds(out, Some(record.total), "null");
    out.extend_from_slice(b",\"id\":\"");
    out.extend_from_slice(record.request_id);
    out.extend_from_slice(b"\",\"tls\":");
    write_json_text(out, record.tls);
    out.extend_from_slice(b",\"close\":");
    write_json_text(out, record.close);
    out.extend_from_slice(b"}\n");
}

/// nginx' `$remote_addr - $remote_user [$time_local] "$request" $status $body_bytes_sent "$http_referer" "$http_user_agent"`.
fn write_combined(out: &mut Vec<u8>, layout: &LogLayout, calendar: &Calendar, record: &Record<'_>) {
    write_address(out, record.client);
    out.extend_from_slice(b" - - [");
    calendar.write_combined_time(out);
    out.extend_from_slice(b"] \"");
    write_hex_escaped(out, record.method);
    out.push(b' ');
    (layout.target)(record.target, &mut |piece| write_hex_escaped(out, piece));
    let version = if record.version == Version::Http10 { " HTTP/1.0\" " } else { " HTTP/1.1\" " };
    out.extend_from_slice(version.as_bytes());
    write_number(out, record.status.unwrap_or(STATUS_LEFT));
    out.push(b' ');
    write_number(out, record.bytes_out);
    out.extend_from_slice(b" \"");
    match record.agent.referer {
        // It is a target of this or another site.
        Some(referer) => (layout.target)(referer, &mut |piece| write_hex_escaped(out, piece)),
        None => out.push(b'-'),
    }
    out.extend_from_slice(b"\" \"");
    write_hex_escaped(out, record.agent.user_agent.unwrap_or(b"-"));
    out.extend_from_slice(b"\"\n");
}

/// What nginx writes for a client that left before it was answered, where a line has to have a status.
const STATUS_LEFT: u16 = 499;

fn write_json_text(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => out.extend_from_slice(b"null"),
        Some(text) => {
            out.push(b'"');
            write_escaped(out, text.as_bytes());
            out.push(b'"');
        }
    }
}

fn write_all<const N: usize>(out: &mut Vec<u8>, parts: [&str; N]) {
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
}

fn write_number(out: &mut Vec<u8>, number: impl itoa::Integer) {
    out.extend_from_slice(itoa::Buffer::new().format(number).as_bytes());
}

fn write_address(out: &mut Vec<u8>, address: IpAddr) {
    let _ = fields::write_address(out, address);
}

fn write_socket_address(out: &mut Vec<u8>, address: SocketAddr) {
    match address {
        SocketAddr::V4(address) => {
            write_address(out, (*address.ip()).into());
            out.push(b':');
            write_number(out, address.port());
        }
        SocketAddr::V6(_) => drop(write!(out, "{address}")),
    }
}

fn write_token(out: &mut Vec<u8>, token: &[u8]) {
    if token.is_empty() {
        out.push(b'-');
    } else {
        write_escaped(out, token);
    }
}

/// Milliseconds with one decimal, rounded down.
fn write_milliseconds(out: &mut Vec<u8>, duration: Option<Duration>, absent: &str) {
    match duration {
        Some(duration) => {
            write_number(out, u64::try_from(duration.as_millis()).unwrap_or(u64::MAX));
            out.push(b'.');
            write_number(out, duration.subsec_micros() % 1000 / 100);
        }
        None => out.extend_from_slice(absent.as_bytes()),
    }
}

/// Whatever a client sent, a line stays one line and a JSON text valid: everything but visible ASCII and SP is `\u00XX`.
fn write_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    if bytes.iter().all(|byte| is_plain(*byte)) {
        return out.extend_from_slice(bytes);
    }
    for run in bytes.chunk_by(|left, right| is_plain(*left) == is_plain(*right)) {
        if is_plain(run[0]) {
            out.extend_from_slice(run);
        } else {
            run.iter().for_each(|byte| match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                _ => drop(write!(out, "\\u{byte:04x}")),
            });
        }
    }
}

/// The same in the way of web servers' logs: `\x22`.
fn write_hex_escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for run in bytes.chunk_by(|left, right| is_plain(*left) == is_plain(*right)) {
        if is_plain(run[0]) {
            out.extend_from_slice(run);
        } else {
            run.iter().for_each(|byte| drop(write!(out, "\\x{byte:02X}")));
        }
    }
}

const fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && byte != b'"' && byte != b'\\'
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: LogLayout = LogLayout {
        format: LogFormat::Text,
        with_time: true,
        class_name: |class| ["sync", "send"][usize::from(class)],
        target: |target, out| out(target),
    };

    fn record<'a>(target: &'a [u8], request_id: &'a RequestId) -> Record<'a> {
        Record {
            peer: "203.0.113.9:41234".parse().unwrap(),
            client: "2001:db8::1".parse().unwrap(),
            listener: "[::]:443".parse().unwrap(),
            class: 1,
            method: b"GET",
            target,
            version: Version::Http11,
            agent: Agent::default(),
            status: Some(200),
            bytes_in: 0,
            bytes_out: 512,
            upstream: Some(("127.0.0.1:8008", Some(Duration::from_micros(3_149)))),
            total: Duration::from_micros(3_499),
            request_id,
            tls: Some("1.3"),
            close: None,
        }
    }

    #[test]
    fn a_text_line_has_every_name() {
        let mut out = Vec::new();
        write_text(
            &mut out,
            &LAYOUT,
            &Calendar::default(),
            &record(b"/a?b", b"0123456789abcdef0123456789abcdef"),
        );
        let line = String::from_utf8(out).unwrap();
        let (_, rest) = line.split_once(' ').unwrap();
        assert_eq!(
            rest,
            "client=2001:db8::1 peer=203.0.113.9:41234 listener=[::]:443 class=send method=GET target=\"/a?b\" \
             status=200 in=0 out=512 upstream=127.0.0.1:8008 upstream_ms=3.1 total_ms=3.4 id=0123456789abcdef0123456789abcdef tls=1.3 close=-\n"
        );
    }

    #[test]
    fn nothing_a_client_sends_breaks_a_line() {
        let target: Vec<u8> = (0..=255).collect();
        let agent = Agent { referer: Some(&target), user_agent: Some(&target) };
        for write in [write_text, write_json, write_combined] {
            let mut out = Vec::new();
            write(&mut out, &LAYOUT, &Calendar::default(), &Record { agent, ..record(&target, &[b'0'; 32]) });
            assert_eq!(out.iter().filter(|byte| **byte == b'\n').count(), 1);
            assert!(out.iter().all(|byte| matches!(byte, b' '..=b'~' | b'\n')));
        }
    }

    #[test]
    fn a_combined_line_is_that_of_nginx() {
        let line = |record: &Record<'_>| {
            let mut out = Vec::new();
            write_combined(&mut out, &LAYOUT, &Calendar::default(), record);
            let line = String::from_utf8(out).unwrap();
            let (before, rest) = line.split_once('[').unwrap();
            let (_, after) = rest.split_once(']').unwrap();
            format!("{before}[]{after}")
        };
        let agent =
            Agent { referer: Some(b"https://app.example.com/"), user_agent: Some(b"Element \"1\" \xff") };
        assert_eq!(
            line(&Record { agent, ..record(b"/a?b", &[b'0'; 32]) }),
            "2001:db8::1 - - [] \"GET /a?b HTTP/1.1\" 200 512 \"https://app.example.com/\" \
             \"Element \\x221\\x22 \\xFF\"\n"
        );
        let left =
            Record { status: None, bytes_out: 0, version: Version::Http10, ..record(b"/", &[b'0'; 32]) };
        assert_eq!(line(&left), "2001:db8::1 - - [] \"GET / HTTP/1.0\" 499 0 \"-\" \"-\"\n");
    }

    #[test]
    fn a_line_without_time_begins_with_the_client() {
        let mut out = Vec::new();
        let layout = LogLayout { with_time: false, ..LAYOUT };
        write_text(&mut out, &layout, &Calendar::default(), &record(b"/", &[b'0'; 32]));
        assert!(out.starts_with(b"client=2001:db8::1 peer="), "{out:?}");
    }

    #[test]
    fn lines_beyond_the_queue_are_dropped_and_counted() {
        let (sender, batches) = log_queue(LAYOUT);
        let log = Log::new(Some(sender.clone()));
        let calendar = Calendar::default();
        for _ in 0..BATCHES_MAX + 3 {
            log.write(&calendar, &record(b"/", &[b'0'; 32]));
            log.flush();
        }
        assert_eq!(sender.lines_dropped(), 3);
        drop((log, sender));
        assert_eq!(std::iter::from_fn(|| batches.next()).count(), BATCHES_MAX);
    }
}
