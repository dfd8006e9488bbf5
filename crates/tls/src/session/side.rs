//! What rustls does of a session: handshakes, and TLS 1.2 altogether. The two sides differ only in type.

use std::ops::Deref;

use rustls::CommonState;
use rustls::client::UnbufferedClientConnection;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, ReadTraffic, UnbufferedStatus, WriteTraffic,
};

use super::SessionError;

/// Which side we are. Apart from the session: an idle one of TLS 1.3 should not have the room for it.
pub(super) enum Side {
    Server(Box<UnbufferedServerConnection>),
    Client(Box<UnbufferedClientConnection>),
}

/// How far one step has come.
pub(super) struct Step {
    pub(super) consumed: usize,
    pub(super) produced: usize,
    /// More has to come before the next one.
    pub(super) is_blocked: bool,
    /// The peer's `close_notify` came.
    pub(super) has_closed: bool,
}

/// What can be sent once there are keys.
pub(super) trait Traffic {
    /// Makes a record of data.
    fn encrypt(&mut self, data: &[u8], outgoing: &mut [u8]) -> Result<usize, EncryptError>;
    /// Makes the record that closes.
    fn queue_close_notify(&mut self, outgoing: &mut [u8]) -> Result<usize, EncryptError>;
}

impl<D> Traffic for WriteTraffic<'_, D> {
    fn encrypt(&mut self, data: &[u8], outgoing: &mut [u8]) -> Result<usize, EncryptError> {
        WriteTraffic::encrypt(self, data, outgoing)
    }

    fn queue_close_notify(&mut self, outgoing: &mut [u8]) -> Result<usize, EncryptError> {
        WriteTraffic::queue_close_notify(self, outgoing)
    }
}

impl Deref for Side {
    type Target = CommonState;

    fn deref(&self) -> &CommonState {
        match self {
            Side::Server(connection) => connection,
            Side::Client(connection) => connection,
        }
    }
}

impl Side {
    /// One step of rustls' state machine: at most one record of data. What does not fit into `plaintext` goes to `unread`.
    pub(super) fn step(
        &mut self,
        incoming: &mut [u8],
        plaintext: &mut [u8],
        outgoing: &mut Vec<u8>,
        unread: &mut Vec<u8>,
    ) -> Result<Step, rustls::Error> {
        match self {
            Side::Server(connection) => {
                step(connection.process_tls_records(incoming), plaintext, outgoing, unread)
            }
            Side::Client(connection) => {
                step(connection.process_tls_records(incoming), plaintext, outgoing, unread)
            }
        }
    }

    /// Appends what is queued for the peer.
    pub(super) fn say_the_rest(&mut self, outgoing: &mut Vec<u8>) {
        let mut says = true;
        while says && self.wants_write() {
            says = match self {
                Side::Server(connection) => say(connection.process_tls_records(&mut []), outgoing),
                Side::Client(connection) => say(connection.process_tls_records(&mut []), outgoing),
            };
        }
    }

    /// Calls `write` when rustls is ready to send data; what it has to send itself goes first.
    ///
    /// `held` bytes are in use in the caller's `incoming`, which is not at hand here. rustls only looks at
    /// what lies behind them, so as many zeros do.
    pub(super) fn with_write_traffic(
        &mut self,
        held: usize,
        outgoing: &mut [u8],
        mut write: impl FnMut(&mut dyn Traffic, &mut [u8]) -> Result<usize, EncryptError>,
    ) -> Result<usize, SessionError> {
        let mut stand_in = vec![0; held];
        let mut written = 0;
        loop {
            let room = &mut outgoing[written..];
            let (bytes, is_done) = match self {
                Side::Server(connection) => {
                    write_some(connection.process_tls_records(&mut stand_in), room, &mut write)?
                }
                Side::Client(connection) => {
                    write_some(connection.process_tls_records(&mut stand_in), room, &mut write)?
                }
            };
            written += bytes;
            if is_done {
                return Ok(written);
            }
        }
    }
}

fn step<D>(
    status: UnbufferedStatus<'_, '_, D>,
    plaintext: &mut [u8],
    outgoing: &mut Vec<u8>,
    unread: &mut Vec<u8>,
) -> Result<Step, rustls::Error> {
    let UnbufferedStatus { discard, state } = status;
    let mut step = Step { consumed: discard, produced: 0, is_blocked: false, has_closed: false };
    match state? {
        ConnectionState::ReadTraffic(traffic) => {
            let discard = read_records(traffic, plaintext, &mut step.produced, unread)?;
            step.consumed += discard;
        }
        ConnectionState::EncodeTlsData(data) => append(data, outgoing),
        // What was appended to `outgoing` counts as sent: the caller does so in order.
        ConnectionState::TransmitTlsData(transmit) => transmit.done(),
        ConnectionState::PeerClosed | ConnectionState::Closed => step.has_closed = true,
        ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => step.is_blocked = true,
        // Early data is not offered; rustls refuses it before it comes to this.
        _ => return Err(rustls::Error::General("unexpected state of the TLS session".into())),
    }
    Ok(step)
}

/// Whether there was something to say.
fn say<D>(status: UnbufferedStatus<'_, '_, D>, outgoing: &mut Vec<u8>) -> bool {
    let Ok(ConnectionState::EncodeTlsData(data)) = status.state else { return false };
    append(data, outgoing);
    true
}

/// Returns how many bytes were written, and whether `write` was called.
fn write_some<D>(
    status: UnbufferedStatus<'_, '_, D>,
    outgoing: &mut [u8],
    write: &mut impl FnMut(&mut dyn Traffic, &mut [u8]) -> Result<usize, EncryptError>,
) -> Result<(usize, bool), SessionError> {
    match status.state? {
        ConnectionState::WriteTraffic(mut traffic) => {
            Ok((write(&mut traffic, outgoing).map_err(encryption_failed)?, true))
        }
        ConnectionState::EncodeTlsData(mut data) => {
            Ok((data.encode(outgoing).map_err(encoding_failed)?, false))
        }
        ConnectionState::TransmitTlsData(transmit) => {
            transmit.done();
            Ok((0, false))
        }
        ConnectionState::BlockedHandshake => Err(SessionError::Handshaking),
        _ => Err(SessionError::Ended),
    }
}

/// Hands out the records that rustls has decrypted: one, at present. What does not fit goes to `unread`.
fn read_records<D>(
    mut traffic: ReadTraffic<'_, '_, D>,
    plaintext: &mut [u8],
    produced: &mut usize,
    unread: &mut Vec<u8>,
) -> Result<usize, rustls::Error> {
    let mut discard = 0;
    while let Some(record) = traffic.next_record() {
        let record = record?;
        discard += record.discard;
        let room = &mut plaintext[*produced..];
        let (fitting, rest) = record.payload.split_at(record.payload.len().min(room.len()));
        room[..fitting.len()].copy_from_slice(fitting);
        *produced += fitting.len();
        unread.extend_from_slice(rest);
    }
    Ok(discard)
}

/// Appends a handshake message or an alert that rustls has encoded.
fn append<D>(mut data: EncodeTlsData<'_, D>, outgoing: &mut Vec<u8>) {
    // Asking with no room tells the length.
    let Err(EncodeError::InsufficientSize(needed)) = data.encode(&mut []) else { return };
    let start = outgoing.len();
    outgoing.resize(start + needed.required_size, 0);
    let encoded = data.encode(&mut outgoing[start..]);
    debug_assert_eq!(encoded.ok(), Some(needed.required_size));
}

fn encryption_failed(error: EncryptError) -> SessionError {
    match error {
        EncryptError::EncryptExhausted => SessionError::KeyExhausted,
        EncryptError::InsufficientSize(_) => {
            SessionError::Internal(rustls::Error::General(error.to_string()))
        }
    }
}

fn encoding_failed(error: EncodeError) -> SessionError {
    SessionError::Internal(rustls::Error::General(error.to_string()))
}
