//! One TLS session, of either side, without I/O (RFC 8446; RFC 5246 for TLS 1.2).
//!
//! Three calls: feed ciphertext, encrypt plaintext, close. Handshakes, and TLS 1.2 altogether, are rustls' (its unbuffered
//! API); the records of TLS 1.3 are made and read here once the handshake is complete, see [`tls13`]. What this layer adds:
//! - Bytes are consumed once a call: the records of a whole buffer are taken in one loop, and the
//!   caller moves what is left to the front once.
//! - The alert that tells a peer why it was refused comes out in `outgoing` before the error.
//! - Record sizes follow the age of the connection, towards clients.
//! - Bounds on what a peer can make the caller hold, see [`HELD_BYTES_MAX`].
//!
//! Bounded by rustls, and likewise in [`tls13`]: empty records in a row (32), key updates without data between (32), warnings
//! (4), renegotiation attempts (1, answered `no_renegotiation`), handshake messages (64 KiB).
//!
//! # Closing
//! A peer that has sent all sends `close_notify` (RFC 8446 §6.1): [`SessionState::PeerClosed`]. A
//! transport that ends before that was cut, perhaps by an attacker: the caller must not take what it
//! has for complete, see [`Session::has_peer_closed`]. The two directions close on their own.

mod error;
mod records;
mod side;
mod tls13;

use std::sync::Arc;
use std::time::Duration;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::ServerName;
use rustls::server::UnbufferedServerConnection;
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ProtocolVersion};

pub use error::SessionError;
pub use records::{RECORD_PLAINTEXT_BYTES_MAX, YOUNG_BYTES, YOUNG_RECORD_BYTES_MAX};

use records::{Gather, RECORD_OVERHEAD_MAX, RecordSizes, complete_records_end, next_record_end};
use side::{Side, Step};
use tls13::{Incoming, Refusal, Tls13};

use crate::config::ServerConfig;

/// A session of one connection. It holds no buffers while the connection waits.
pub struct Session {
    connection: Connection,
    sizes: RecordSizes,
    /// Plaintext of one record that did not fit into the caller's buffer; empty but in that case.
    unread: Vec<u8>,
    unread_taken: usize,
    /// Bytes at the front of the caller's `incoming` that rustls has decrypted and still needs in
    /// place: records of an unfinished handshake message. Zero nearly always.
    held: usize,
    reading: Half,
    writing: Half,
}

/// Who does the protocol.
enum Connection {
    /// Nobody yet: the client has sent nothing.
    Awaited(Arc<ServerConfig>),
    /// Handshakes, and all of TLS 1.2. Apart from the session: an idle one of TLS 1.3 should not have the room for it.
    Rustls(Side),
    Tls13(Tls13),
    /// What rustls did not hand over. The session has failed.
    Lost,
}

/// One direction of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Half {
    Open,
    Closed,
    Failed,
}

/// How far a session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionState {
    /// No data can be sent or received yet.
    Handshaking,
    /// Data flows.
    Open,
    /// The peer's `close_notify` came: nothing more is received. Data can still be sent.
    PeerClosed,
}

/// What [`Session::receive`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Received {
    /// Bytes that the caller drops from the front of `incoming`.
    pub consumed: usize,
    /// Bytes written to the front of `plaintext`.
    pub produced: usize,
    /// How far the session is. [`SessionState::PeerClosed`] comes after the last plaintext.
    pub state: SessionState,
    /// Whether to call again when `plaintext` has room, before more is read from the transport: it
    /// filled up. Otherwise the session wants more ciphertext.
    pub plaintext_is_full: bool,
}

/// Protocol version of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// TLS 1.2 (RFC 5246).
    Tls12,
    /// TLS 1.3 (RFC 8446).
    Tls13,
}

impl Version {
    /// As access logs show it: `1.2` or `1.3`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tls12 => "1.2",
            Self::Tls13 => "1.3",
        }
    }
}

impl Session {
    /// A session that waits for a `ClientHello`.
    pub fn new(config: Arc<ServerConfig>) -> Session {
        Session::begun(Connection::Awaited(config), RecordSizes::young())
    }

    /// A session with the server `name`. The `ClientHello` is appended to `outgoing`.
    ///
    /// # Errors
    /// [`SessionError::Internal`] when the configuration cannot be used.
    pub fn client(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
        outgoing: &mut Vec<u8>,
    ) -> Result<Session, SessionError> {
        let connection = UnbufferedClientConnection::new(config, name)?;
        let side = Side::Client(Box::new(connection));
        let mut session = Session::begun(Connection::Rustls(side), RecordSizes::full());
        // What is to be said first is said without anything having come.
        let _ = session.receive(&mut [], &mut [], outgoing)?;
        Ok(session)
    }

    fn begun(connection: Connection, sizes: RecordSizes) -> Session {
        Session {
            connection,
            sizes,
            unread: Vec::new(),
            unread_taken: 0,
            held: 0,
            reading: Half::Open,
            writing: Half::Open,
        }
    }

    /// Takes ciphertext: continues the handshake, decrypts data, notes the peer's close.
    ///
    /// - `incoming` is everything received and not yet consumed. It is changed in place, and what is
    ///   not consumed must be at the front next time, unchanged. Room for [`HELD_BYTES_MAX`] always
    ///   suffices; more only makes calls fewer.
    /// - `plaintext` is filled as far as it goes; what lies behind may be overwritten too. With as many bytes as `incoming` everything fits.
    ///   With fewer, the rest of one record is kept here until the next call, up to 16 KiB.
    /// - What has to be sent (handshake, alerts) is appended to `outgoing`. Send it also after an error.
    ///
    /// May be called with an empty `incoming` to fetch plaintext that did not fit before.
    ///
    /// # Errors
    /// Fatal ones, see [`SessionError`]; the session is then of no further use. Data that came before
    /// the fault in the same call is lost.
    pub fn receive(
        &mut self,
        incoming: &mut [u8],
        plaintext: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<Received, SessionError> {
        if self.reading == Half::Failed {
            return Err(SessionError::Ended);
        }
        let mut progress = Progress { consumed: 0, produced: self.take_unread(plaintext) };
        let plaintext_is_full = match self.receive_by_rustls(incoming, plaintext, outgoing, &mut progress)? {
            Some(is_full) => is_full,
            None => self.receive_tls13(incoming, plaintext, outgoing, &mut progress)?,
        };
        let Progress { consumed, produced } = progress;
        Ok(Received { consumed, produced, state: self.state(), plaintext_is_full })
    }

    /// As far as rustls does the protocol; none when it does not, or not any more.
    fn receive_by_rustls(
        &mut self,
        incoming: &mut [u8],
        plaintext: &mut [u8],
        outgoing: &mut Vec<u8>,
        progress: &mut Progress,
    ) -> Result<Option<bool>, SessionError> {
        if incoming.is_empty() && matches!(self.connection, Connection::Awaited(_)) {
            return Ok(Some(false));
        }
        self.hear(incoming)?;
        let Connection::Rustls(connection) = &self.connection else { return Ok(None) };
        if connection.protocol_version().is_none() && is_plain_text(incoming) {
            return Err(self.failed(SessionError::PlainHttp));
        }
        let mut window = self.window(incoming, self.held);
        loop {
            if incoming.len() < self.held {
                // Only asked for plaintext: rustls would look for what it holds in `incoming`.
                return Ok(Some(false));
            }
            if let Some(is_full) = self.is_full(plaintext, progress) {
                return Ok(Some(is_full || window.records_end > progress.consumed));
            }
            if self.reading == Half::Closed {
                // RFC 8446 §6.1: what follows a closure alert is ignored.
                progress.consumed = incoming.len();
                return Ok(Some(false));
            }
            let shown = &mut incoming[progress.consumed..window.end];
            let step = self.step(shown, &mut plaintext[progress.produced..], outgoing);
            let step = step.map_err(|error| self.refused(error, outgoing))?;
            progress.consumed += step.consumed;
            progress.produced += step.produced;
            self.held = 0;
            if self.is_complete_tls13() {
                debug_assert_eq!(progress.consumed, window.end, "the Finished ends its record");
                self.take_over()?;
                return Ok(None);
            }
            if step.is_blocked && window.end < incoming.len() {
                window = self.window(incoming, window.records_end);
            } else if step.is_blocked {
                self.held = window.records_end - progress.consumed;
                self.check_held(incoming.len() - progress.consumed, outgoing)?;
                return Ok(Some(false));
            }
        }
    }

    /// Begins with a client's first bytes, which say what suits it.
    fn hear(&mut self, incoming: &[u8]) -> Result<(), SessionError> {
        let Connection::Awaited(config) = &self.connection else { return Ok(()) };
        self.connection = match UnbufferedServerConnection::new(config.suiting(incoming).clone()) {
            Ok(connection) => Connection::Rustls(Side::Server(Box::new(connection))),
            Err(error) => return Err(self.failed(error.into())),
        };
        Ok(())
    }

    /// What rustls is shown next, given that it has looked at everything before `start`: before TLS 1.2 is open, one record
    /// after the other, because in TLS 1.3 the first one behind the peer's `Finished` is not for it.
    ///
    /// To be found out beforehand: rustls moves parts of messages together, over the headers between them.
    fn window(&self, incoming: &[u8], start: usize) -> Window {
        let is_open = !self.is_handshaking() && self.version() == Some(Version::Tls12);
        let end = if is_open { incoming.len() } else { next_record_end(incoming, start) };
        Window { end, records_end: complete_records_end(&incoming[..end], start) }
    }

    /// Whether a handshake of TLS 1.3 is complete and all that it has to say has been said. rustls has then seen nothing
    /// that came after the peer's `Finished`, which ends its record (RFC 8446 §5.1).
    fn is_complete_tls13(&self) -> bool {
        let Connection::Rustls(connection) = &self.connection else { return false };
        let is_tls13 = connection.protocol_version() == Some(ProtocolVersion::TLSv1_3);
        is_tls13 && !connection.is_handshaking() && !connection.wants_write()
    }

    fn take_over(&mut self) -> Result<(), SessionError> {
        let Connection::Rustls(connection) = std::mem::replace(&mut self.connection, Connection::Lost) else {
            return Ok(());
        };
        self.connection = match Tls13::take_over(connection) {
            Ok(session) => Connection::Tls13(session),
            Err(error) => return Err(self.failed(error.into())),
        };
        Ok(())
    }

    fn receive_tls13(
        &mut self,
        incoming: &mut [u8],
        plaintext: &mut [u8],
        outgoing: &mut Vec<u8>,
        progress: &mut Progress,
    ) -> Result<bool, SessionError> {
        loop {
            let rest = &mut incoming[progress.consumed..];
            if let Some(is_full) = self.is_full(plaintext, progress) {
                return Ok(is_full || complete_records_end(rest, 0) > 0);
            }
            if self.reading == Half::Closed {
                // RFC 8446 §6.1: what follows a closure alert is ignored.
                progress.consumed = incoming.len();
                return Ok(false);
            }
            let Connection::Tls13(session) = &mut self.connection else { return Err(SessionError::Ended) };
            let received = match tls13::next_record_bytes(rest) {
                Ok(None) => return Ok(false),
                Ok(Some(bytes)) => {
                    progress.consumed += bytes;
                    session.receive(&mut rest[..bytes], &mut plaintext[progress.produced..], &mut self.unread)
                }
                Err(refusal) => Err(refusal),
            };
            match received {
                Ok(Incoming::Data(bytes)) => progress.produced += bytes,
                Ok(Incoming::Nothing) => {}
                Ok(Incoming::Close) => self.reading = Half::Closed,
                Err(refusal) => return Err(self.refused_tls13(refusal, outgoing)),
            }
        }
    }

    /// Whether no more plaintext can be handed out, and if so, whether there is some already.
    fn is_full(&self, plaintext: &[u8], progress: &Progress) -> Option<bool> {
        let has_unread = !self.unread.is_empty();
        let is_full = has_unread || (progress.produced > 0 && progress.produced == plaintext.len());
        is_full.then_some(has_unread)
    }

    /// Encrypts all of `plaintext`, in order, as records appended to `outgoing`. Returns how many
    /// bytes were appended.
    ///
    /// Reserves once; the bytes that the records go to are zeroed first, because rustls writes into
    /// initialised memory. For bulk, [`Session::encrypt_into`] with a buffer that stays initialised
    /// saves that.
    ///
    /// # Errors
    /// As [`Session::encrypt_into`].
    pub fn encrypt(&mut self, plaintext: &[&[u8]], outgoing: &mut Vec<u8>) -> Result<usize, SessionError> {
        let start = outgoing.len();
        outgoing.resize(start + self.encrypted_bytes_max(plaintext), 0);
        let result = self.encrypt_into(plaintext, &mut outgoing[start..]);
        outgoing.truncate(start + result.as_ref().map_or(0, |written| *written));
        result
    }

    /// As [`Session::encrypt`], to the front of a slice.
    ///
    /// Slices are gathered so that records are full: where two meet, the record that holds the seam is
    /// copied together; all others are encrypted from where they are.
    ///
    /// # Errors
    /// [`SessionError::Handshaking`] and [`SessionError::Ended`] when it was too early or too late to
    /// send, [`SessionError::KeyExhausted`] after some 2^24 records of TLS 1.2 (TLS 1.3 changes the key).
    ///
    /// # Panics
    /// When `outgoing` is shorter than [`Session::encrypted_bytes_max`] says.
    pub fn encrypt_into(&mut self, plaintext: &[&[u8]], outgoing: &mut [u8]) -> Result<usize, SessionError> {
        assert!(outgoing.len() >= self.encrypted_bytes_max(plaintext), "no room for the records");
        if self.writing != Half::Open {
            return Err(SessionError::Ended);
        }
        let (sizes, mut gather) = (&mut self.sizes, Gather::new(plaintext));
        let result = match &mut self.connection {
            Connection::Tls13(session) => session.send(&mut gather, sizes, outgoing),
            Connection::Rustls(connection) => {
                let (outgoing, scratch) = outgoing.split_at_mut(outgoing.len() - scratch_bytes(plaintext));
                connection.with_write_traffic(self.held, outgoing, |traffic, outgoing| {
                    let mut written = 0;
                    while let Some(piece) = gather.next_piece(sizes.next_max(), scratch) {
                        written += traffic.encrypt(piece, &mut outgoing[written..])?;
                        sizes.record_sent(piece.len());
                    }
                    Ok(written)
                })
            }
            Connection::Awaited(_) => Err(SessionError::Handshaking),
            Connection::Lost => Err(SessionError::Ended),
        };
        result.inspect_err(|error| {
            if *error != SessionError::Handshaking {
                self.writing = Half::Failed;
            }
        })
    }

    /// How long `outgoing` has to be for [`Session::encrypt_into`]: the plaintext, what its records
    /// add, room to gather one record if there are several slices, and a key update.
    pub fn encrypted_bytes_max(&self, plaintext: &[&[u8]]) -> usize {
        let bytes = plaintext_bytes(plaintext);
        let (overhead, scratch_bytes) = match self.connection {
            Connection::Tls13(_) => (tls13::OVERHEAD_BYTES, 0),
            _ => (RECORD_OVERHEAD_MAX, scratch_bytes(plaintext)),
        };
        bytes + self.sizes.count(bytes) * overhead + scratch_bytes + CONTROL_BYTES_MAX
    }

    /// Makes the connection young again: small records first. To be called before sending after
    /// [`YOUNG_AGAIN_AFTER`] without sending, because TCP's window has closed by then (RFC 5681 §4.1). Towards a server records
    /// are never small.
    pub fn rested(&mut self) {
        self.sizes.rested();
    }

    /// Appends `close_notify` (RFC 8446 §6.1): nothing will be sent after it. Receiving goes on.
    ///
    /// Does nothing in a handshake (there is nothing to close; the transport is simply ended), after a
    /// failure, or the second time.
    pub fn close_notify(&mut self, outgoing: &mut Vec<u8>) {
        if self.writing != Half::Open || self.is_handshaking() {
            return;
        }
        self.writing = Half::Closed;
        match &mut self.connection {
            Connection::Tls13(session) => session.close_notify(outgoing),
            Connection::Rustls(connection) => {
                let start = outgoing.len();
                outgoing.resize(start + CONTROL_BYTES_MAX, 0);
                let result =
                    connection.with_write_traffic(self.held, &mut outgoing[start..], |traffic, outgoing| {
                        traffic.queue_close_notify(outgoing)
                    });
                outgoing.truncate(start + result.unwrap_or(0));
            }
            Connection::Awaited(_) | Connection::Lost => {}
        }
    }

    /// How far the session is.
    pub fn state(&self) -> SessionState {
        if self.has_peer_closed() {
            SessionState::PeerClosed
        } else if self.is_handshaking() {
            SessionState::Handshaking
        } else {
            SessionState::Open
        }
    }

    /// Whether no data can be sent or received yet.
    pub fn is_handshaking(&self) -> bool {
        match &self.connection {
            Connection::Awaited(_) => true,
            Connection::Rustls(connection) => connection.is_handshaking(),
            Connection::Tls13(_) | Connection::Lost => false,
        }
    }

    /// Whether the peer has closed properly and all its plaintext was handed out. If the transport
    /// ends while this is false, the peer's data was cut short.
    pub fn has_peer_closed(&self) -> bool {
        self.reading == Half::Closed && self.unread.is_empty()
    }

    /// The version agreed on.
    pub fn version(&self) -> Option<Version> {
        let connection = match &self.connection {
            Connection::Rustls(connection) => connection,
            Connection::Tls13(_) => return Some(Version::Tls13),
            Connection::Awaited(_) | Connection::Lost => return None,
        };
        match connection.protocol_version()? {
            ProtocolVersion::TLSv1_2 => Some(Version::Tls12),
            ProtocolVersion::TLSv1_3 => Some(Version::Tls13),
            _ => None,
        }
    }

    /// The key exchange group of a complete handshake; none in a resumed one of TLS 1.2.
    pub fn key_exchange_group(&self) -> Option<NamedGroup> {
        match &self.connection {
            Connection::Rustls(connection) => {
                connection.negotiated_key_exchange_group().map(|group| group.name())
            }
            Connection::Tls13(session) => session.group,
            Connection::Awaited(_) | Connection::Lost => None,
        }
    }

    /// Whether the handshake resumed an earlier session, by a ticket.
    pub fn resumed(&self) -> bool {
        match &self.connection {
            Connection::Rustls(connection) => connection.handshake_kind() == Some(HandshakeKind::Resumed),
            Connection::Tls13(session) => session.resumed,
            Connection::Awaited(_) | Connection::Lost => false,
        }
    }

    /// Moves plaintext that did not fit last time; frees its memory with the last byte.
    fn take_unread(&mut self, plaintext: &mut [u8]) -> usize {
        let rest = &self.unread[self.unread_taken..];
        let taken = rest.len().min(plaintext.len());
        plaintext[..taken].copy_from_slice(&rest[..taken]);
        self.unread_taken += taken;
        if self.unread_taken == self.unread.len() {
            self.unread = Vec::new();
            self.unread_taken = 0;
        }
        taken
    }

    /// One step of rustls' state machine: at most one record of data.
    fn step(
        &mut self,
        incoming: &mut [u8],
        plaintext: &mut [u8],
        outgoing: &mut Vec<u8>,
    ) -> Result<Step, rustls::Error> {
        let Connection::Rustls(connection) = &mut self.connection else {
            return Err(rustls::Error::HandshakeNotComplete);
        };
        let step = connection.step(incoming, plaintext, outgoing, &mut self.unread)?;
        if step.has_closed {
            self.reading = Half::Closed;
        }
        Ok(step)
    }

    /// The peer must finish what it starts within [`HELD_BYTES_MAX`].
    fn check_held(&mut self, bytes: usize, outgoing: &mut Vec<u8>) -> Result<(), SessionError> {
        if bytes < HELD_BYTES_MAX {
            return Ok(());
        }
        // rustls would wait on, so the alert is made here; only while there are no keys.
        if self.alerts_are_plain() {
            outgoing.extend_from_slice(&plain_alert(DECODE_ERROR));
        }
        Err(self.failed(SessionError::TooMuchHeld))
    }

    /// Appends the alert that tells a refused peer why.
    fn refused(&mut self, error: rustls::Error, outgoing: &mut Vec<u8>) -> SessionError {
        let start = outgoing.len();
        // As long as something is queued, rustls looks at no input; it must not: what it was given is
        // gone, and going on would trip over the same record again.
        if let Connection::Rustls(connection) = &mut self.connection {
            connection.say_the_rest(outgoing);
        }
        let error = match error {
            // A client of TLS 1.2 that can verify no signature of ours: rustls has no kind for it.
            rustls::Error::General(_) if self.is_handshaking() => SessionError::Incompatible(error),
            other => other.into(),
        };
        let is_told = outgoing.len() > start || matches!(error, SessionError::Alert(_));
        if !is_told && self.alerts_are_plain() {
            outgoing.extend_from_slice(&plain_alert(HANDSHAKE_FAILURE));
        }
        self.failed(error)
    }

    /// As [`Session::refused`]. After our `close_notify` nothing more is sent (RFC 8446 §6.1).
    fn refused_tls13(&mut self, refusal: Refusal, outgoing: &mut Vec<u8>) -> SessionError {
        if let (Connection::Tls13(session), Half::Open) = (&mut self.connection, self.writing) {
            session.tell(&refusal, outgoing);
        }
        self.failed(refusal.error)
    }

    /// Whether an alert goes out in the clear: before the server's first flight is answered in TLS 1.2,
    /// before a version is agreed on in TLS 1.3.
    fn alerts_are_plain(&self) -> bool {
        self.is_handshaking() && self.version() != Some(Version::Tls13)
    }

    fn failed(&mut self, error: SessionError) -> SessionError {
        self.reading = Half::Failed;
        self.writing = Half::Failed;
        self.unread = Vec::new();
        self.unread_taken = 0;
        error
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Session")
            .field("state", &self.state())
            .field("version", &self.version())
            .field("reading", &self.reading)
            .field("writing", &self.writing)
            .finish_non_exhaustive()
    }
}

/// When a session wants more, fewer than this many bytes are left unconsumed in `incoming`: a buffer of
/// this size never gets stuck.
///
/// The largest record on the wire (16 KiB, plus 2 KiB that TLS 1.2 allows it to grow, plus its header)
/// and before it the records of an unfinished handshake message, for which that leaves 13 KiB: a
/// `ClientHello` with a hybrid key share and a ticket has 2 to 3 KiB. Without this bound a peer could
/// send a message of 64 KiB (rustls' limit) in records of one byte, and have 380 KiB kept for it.
pub const HELD_BYTES_MAX: usize = 32 * 1024;
const _: () = assert!(HELD_BYTES_MAX > RECORD_PLAINTEXT_BYTES_MAX + 2048 + 5);

/// After this long without sending a connection is young again, see [`Session::rested`].
///
/// About the retransmission timeout after which TCP itself starts again with a small window (RFC 5681
/// §4.1): Linux' smallest is 0.2 s, and a mobile client's near 1 s.
pub const YOUNG_AGAIN_AFTER: Duration = Duration::from_secs(1);

/// Room for what is sent before data of its own accord: a key update of each side's asking and an alert,
/// at most 31 bytes each (RFC 8446 §4.6.3, §6).
const CONTROL_BYTES_MAX: usize = 128;

/// `handshake_failure` and `decode_error` (RFC 8446 §6.2).
const HANDSHAKE_FAILURE: u8 = 40;
const DECODE_ERROR: u8 = 50;

/// A fatal alert in the clear (RFC 8446 §5.1, §6).
const fn plain_alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

/// What rustls is shown of `incoming`.
struct Window {
    end: usize,
    /// Where the last complete record in it ends. rustls looks at all of these, even when it does not let go of them yet.
    records_end: usize,
}

/// How far one call has come.
struct Progress {
    consumed: usize,
    produced: usize,
}

/// Whether a peer that should start a TLS handshake speaks plain text. The content types of TLS are 20
/// to 23 (RFC 8446 §5.1); methods and versions of HTTP start with a letter.
fn is_plain_text(incoming: &[u8]) -> bool {
    incoming.first().is_some_and(u8::is_ascii_alphabetic)
}

fn plaintext_bytes(plaintext: &[&[u8]]) -> usize {
    plaintext.iter().map(|slice| slice.len()).sum()
}

/// Room to copy one record together, if slices can meet in one.
fn scratch_bytes(plaintext: &[&[u8]]) -> usize {
    let filled = plaintext.iter().filter(|slice| !slice.is_empty()).count();
    if filled > 1 { plaintext_bytes(plaintext).min(RECORD_PLAINTEXT_BYTES_MAX) } else { 0 }
}

#[cfg(test)]
mod tests;
