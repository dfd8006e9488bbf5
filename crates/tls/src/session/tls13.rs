//! The record layer of an open TLS 1.3 session (RFC 8446 §5), and what may still happen beside data: alerts (§6) and key
//! updates (§4.6.3).
//!
//! rustls shakes hands and keeps the key schedule and a client's tickets; from the peer's `Finished` on, records are made and read here, because
//! rustls' unbuffered API puts each into memory of its own and copies it from there. Here a record is encrypted from where
//! the plaintext is to where it is sent from, and decrypted from where it was received to where it is read; nothing is
//! allocated. The cryptography is aws-lc's, as in rustls.
//!
//! What is refused, with which alert and which error, is what rustls 0.23 does, and where RFC 8446 asks for more, that.

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{
    AlertDescription, ConnectionTrafficSecrets, ContentType, Error, ExtractedSecrets, HandshakeKind,
    HandshakeType, InvalidMessage, NamedGroup, PeerMisbehaved,
};

use super::SessionError;
use super::records::{Gather, HEADER_BYTES, Piece, RECORD_PLAINTEXT_BYTES_MAX, RecordSizes};
use super::side::Side;

/// An open session of TLS 1.3.
pub(super) struct Tls13 {
    reader: Reader,
    writer: Writer,
    /// Makes the next keys of each direction (RFC 8446 §7.2). Seldom used, hence apart.
    schedule: Schedule,
    pub(super) group: Option<NamedGroup>,
    pub(super) resumed: bool,
}

/// What rustls keeps of the session. A client's also keeps the tickets that the server issues, for the next session.
enum Schedule {
    Server(Box<KernelConnection<ServerConnectionData>>),
    Client(Box<KernelConnection<ClientConnectionData>>),
}

/// A key, and the number of the first record under it.
type NextKey = (u64, ConnectionTrafficSecrets);

impl Schedule {
    fn update_rx_secret(&mut self) -> Result<NextKey, Error> {
        match self {
            Schedule::Server(schedule) => schedule.update_rx_secret(),
            Schedule::Client(schedule) => schedule.update_rx_secret(),
        }
    }

    fn update_tx_secret(&mut self) -> Result<NextKey, Error> {
        match self {
            Schedule::Server(schedule) => schedule.update_tx_secret(),
            Schedule::Client(schedule) => schedule.update_tx_secret(),
        }
    }
}

/// What a record that came in was.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Incoming {
    /// This many bytes of data were written to the front of the room; what did not fit is in `unread`.
    Data(usize),
    /// Something that concerns the session only.
    Nothing,
    /// The peer's `close_notify` (RFC 8446 §6.1).
    Close,
}

/// Why the peer is refused, and by which alert it is told.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) error: SessionError,
    /// None where rustls says nothing: an alert in answer to an alert, and floods.
    alert: Option<AlertDescription>,
}

impl Tls13 {
    /// Takes over from rustls, once the handshake is complete and nothing is left to send.
    pub(super) fn take_over(side: Side) -> Result<Tls13, Error> {
        let group = side.negotiated_key_exchange_group().map(|group| group.name());
        let resumed = side.handshake_kind() == Some(HandshakeKind::Resumed);
        let (ExtractedSecrets { tx, rx }, suite, schedule) = match side {
            Side::Server(connection) => {
                let (secrets, schedule) = connection.dangerous_into_kernel_connection()?;
                (secrets, schedule.negotiated_cipher_suite(), Schedule::Server(Box::new(schedule)))
            }
            Side::Client(connection) => {
                let (secrets, schedule) = connection.dangerous_into_kernel_connection()?;
                (secrets, schedule.negotiated_cipher_suite(), Schedule::Client(Box::new(schedule)))
            }
        };
        let records_max = suite.tls13().map_or(0, |suite| suite.common.confidentiality_limit);
        Ok(Tls13 {
            reader: Reader::new(Keys::new(rx)?),
            writer: Writer {
                keys: Keys::new(tx)?,
                records_max: records_max.min(SEQUENCE_SOFT_MAX),
                update: None,
            },
            schedule,
            group,
            resumed,
        })
    }

    /// Takes one complete record, header included, and hands out its data: to `room`, and what does not fit to `unread`,
    /// which is empty.
    ///
    /// Both `record` and `room` may be overwritten altogether.
    pub(super) fn receive(
        &mut self,
        record: &mut [u8],
        room: &mut [u8],
        unread: &mut Vec<u8>,
    ) -> Result<Incoming, Refusal> {
        let sealed = &mut record[HEADER_BYTES..];
        // RFC 8446 §5.2: content, its type, zeros; all of that encrypted; then the tag.
        let Some(opened_bytes) = sealed.len().checked_sub(TAG_BYTES) else {
            return Err(Refusal::new(Error::DecryptError, AlertDescription::BadRecordMac));
        };
        if opened_bytes < APART_BYTES_MIN || room.len() < opened_bytes {
            let (content_type, content) = self.reader.open_in_place(sealed)?;
            if content_type != DATA {
                return self.receive_other(content_type, content);
            }
            let (fitting, rest) = content.split_at(content.len().min(room.len()));
            room[..fitting.len()].copy_from_slice(fitting);
            unread.extend_from_slice(rest);
            self.reader.received_data(content.len())?;
            return Ok(Incoming::Data(fitting.len()));
        }
        let (content_type, content) = self.reader.open_apart(sealed, &mut room[..opened_bytes])?;
        if content_type != DATA {
            return self.receive_other(content_type, content);
        }
        let bytes = content.len();
        self.reader.received_data(bytes)?;
        Ok(Incoming::Data(bytes))
    }

    /// RFC 8446 §5.1, §5.4: what may come beside data is alerts and handshake messages, of which neither may be empty.
    fn receive_other(&mut self, content_type: u8, content: &[u8]) -> Result<Incoming, Refusal> {
        match content_type {
            ALERT if !content.is_empty() => self.reader.received_alert(content),
            HANDSHAKE if !content.is_empty() => {
                let rest = match &mut self.schedule {
                    Schedule::Server(_) => content,
                    Schedule::Client(schedule) => self.reader.received_tickets(content, schedule)?,
                };
                if let Some(key_update) = self.reader.received_handshake(rest)? {
                    self.received_key_update(key_update)?;
                }
                Ok(Incoming::Nothing)
            }
            // §5: a protected one is never right.
            CHANGE_CIPHER_SPEC => Err(Refusal::unexpected(PeerMisbehaved::IllegalMiddleboxChangeCipherSpec)),
            _ => Err(Refusal::unexpected(inappropriate(content_type))),
        }
    }

    /// RFC 8446 §4.6.3: all that follows is under the peer's next key, and if it asks for that, ours changes too, before
    /// we send data again.
    fn received_key_update(&mut self, request: u8) -> Result<(), Refusal> {
        match request {
            UPDATE_NOT_REQUESTED => {}
            UPDATE_REQUESTED => self.writer.update = Some(UPDATE_NOT_REQUESTED),
            _ => {
                return Err(Refusal::new(
                    InvalidMessage::InvalidKeyUpdate.into(),
                    AlertDescription::IllegalParameter,
                ));
            }
        }
        self.reader.keys = self.schedule.update_rx_secret().and_then(Keys::new).map_err(Refusal::internal)?;
        Ok(())
    }

    /// Encrypts what `gather` has left, as records at the front of `outgoing`; returns how many bytes these take.
    pub(super) fn send(
        &mut self,
        gather: &mut Gather<'_>,
        sizes: &mut RecordSizes,
        outgoing: &mut [u8],
    ) -> Result<usize, SessionError> {
        let mut written = 0;
        while let Some(piece) = gather.next(sizes.next_max()) {
            written += self.update_key_before_data(&mut outgoing[written..])?;
            let record = &mut outgoing[written..];
            let bytes = match piece {
                Piece::Whole(content) => {
                    written += self.writer.seal(DATA, content, record)?;
                    content.len()
                }
                Piece::Parts => {
                    let room = sizes.next_max().min(record.len() - HEADER_BYTES);
                    let bytes = gather.fill(&mut record[HEADER_BYTES..][..room]);
                    written += self.writer.seal_in_place(DATA, bytes, record)?;
                    bytes
                }
            };
            sizes.record_sent(bytes);
        }
        Ok(written)
    }

    /// Appends `close_notify` (RFC 8446 §6.1).
    pub(super) fn close_notify(&mut self, outgoing: &mut Vec<u8>) {
        self.send_alert([WARNING, u8::from(AlertDescription::CloseNotify)], outgoing);
    }

    /// Tells the peer why it is refused (RFC 8446 §6.2), if it is to be told.
    pub(super) fn tell(&mut self, refusal: &Refusal, outgoing: &mut Vec<u8>) {
        if let Some(alert) = refusal.alert {
            self.send_alert([FATAL, u8::from(alert)], outgoing);
        }
    }

    /// The answer to a key update goes first, as rustls does it. An alert that cannot be encrypted is not sent.
    fn send_alert(&mut self, alert: [u8; 2], outgoing: &mut Vec<u8>) {
        let start = outgoing.len();
        outgoing.resize(start + 2 * CONTROL_RECORD_BYTES_MAX, 0);
        let mut written = self.update_key(&mut outgoing[start..]).unwrap_or(0);
        written += self.writer.seal(ALERT, &alert, &mut outgoing[start + written..]).unwrap_or(0);
        outgoing.truncate(start + written);
    }

    /// RFC 8446 §5.5: a key bears so many records. The last of them says that the next key follows, and asks the peer, whose
    /// key may be as old, to change its own as well: as rustls does it.
    fn update_key_before_data(&mut self, outgoing: &mut [u8]) -> Result<usize, SessionError> {
        let Writer { keys, records_max, update } = &mut self.writer;
        if update.is_none() && keys.sequence > 0 && keys.sequence >= records_max.saturating_sub(1) {
            *update = Some(UPDATE_REQUESTED);
        }
        self.update_key(outgoing)
    }

    /// Changes the key to send with, if that is due (RFC 8446 §4.6.3): the message goes under the old key.
    fn update_key(&mut self, outgoing: &mut [u8]) -> Result<usize, SessionError> {
        let Some(request) = self.writer.update.take() else { return Ok(0) };
        let written = self.writer.seal(HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, request], outgoing)?;
        self.writer.keys = self.schedule.update_tx_secret().and_then(Keys::new)?;
        Ok(written)
    }
}

#[cfg(test)]
impl Tls13 {
    /// As if as many records had been sent and received as there are numbers.
    pub(super) fn exhaust(&mut self) {
        self.reader.keys.sequence = u64::MAX;
        self.writer.keys.sequence = u64::MAX;
        self.writer.records_max = 0;
    }
}

/// Checks the header of the next record (RFC 8446 §5.1, §5.2) and tells how long that is, if it is all there.
pub(super) fn next_record_bytes(incoming: &[u8]) -> Result<Option<usize>, Refusal> {
    let Some(content_type) = incoming.first() else { return Ok(None) };
    // §5: nothing goes unprotected any more, and what is protected looks like data.
    if *content_type != DATA {
        return Err(Refusal::unexpected(inappropriate(*content_type)));
    }
    let Some([_, major, _, high, low]) = incoming.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    // Nothing depends on the version; as rustls does, any of SSL 3 and TLS is let pass.
    if *major != 3 {
        return Err(Refusal::new(
            InvalidMessage::UnknownProtocolVersion.into(),
            AlertDescription::DecodeError,
        ));
    }
    let bytes = usize::from(u16::from_be_bytes([*high, *low]));
    if bytes > SEALED_BYTES_MAX {
        return Err(Refusal::oversized());
    }
    Ok(Some(HEADER_BYTES + bytes).filter(|bytes| *bytes <= incoming.len()))
}

/// The key of one direction, and which record is next (RFC 8446 §5.3).
struct Keys {
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    sequence: u64,
}

impl Keys {
    fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Keys, Error> {
        let (algorithm, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&aead::AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&aead::AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&aead::CHACHA20_POLY1305, key, iv),
            _ => return Err(Error::General("a cipher suite of which nothing is known".into())),
        };
        let unusable = || Error::General("a key that does not fit its cipher".into());
        let iv = iv.as_ref().try_into().map_err(|_| unusable())?;
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| unusable())?;
        Ok(Keys { key: LessSafeKey::new(key), iv, sequence })
    }

    /// The nonce of the next record (RFC 8446 §5.3); each is given out once, and after the last one there is none.
    fn next_nonce(&mut self) -> Option<Nonce> {
        let sequence = self.sequence;
        self.sequence = sequence.checked_add(1)?;
        let mut nonce = self.iv;
        let (_, low) = nonce.split_at_mut(aead::NONCE_LEN - size_of::<u64>());
        low.iter_mut().zip(sequence.to_be_bytes()).for_each(|(byte, other)| *byte ^= other);
        Some(Nonce::assume_unique_for_key(nonce))
    }
}

/// The direction from the peer to us.
struct Reader {
    keys: Keys,
    /// The beginning of a `KeyUpdate` whose rest is in the next record.
    handshake: [u8; KEY_UPDATE_BYTES],
    handshake_bytes: usize,
    /// The beginning of a `NewSessionTicket` whose rest is in the next record. Empty nearly always, and at a server's end always.
    ticket: Vec<u8>,
    empty_in_a_row: u8,
    key_updates_in_a_row: u8,
    tickets_in_a_row: u8,
    warnings: u8,
}

impl Reader {
    fn new(keys: Keys) -> Reader {
        Reader {
            keys,
            handshake: [0; KEY_UPDATE_BYTES],
            handshake_bytes: 0,
            ticket: Vec::new(),
            empty_in_a_row: 0,
            key_updates_in_a_row: 0,
            tickets_in_a_row: 0,
            warnings: 0,
        }
    }

    /// Decrypts a record's content and tag (RFC 8446 §5.2) where they are; returns the content and its type.
    fn open_in_place<'b>(&mut self, sealed: &'b mut [u8]) -> Result<(u8, &'b [u8]), Refusal> {
        let header = Aad::from(header(sealed.len()));
        let nonce = self.keys.next_nonce().ok_or_else(Refusal::exhausted)?;
        let opened = self.keys.key.open_in_place(nonce, header, sealed);
        self.content(opened.map_err(|_| Refusal::new(Error::DecryptError, AlertDescription::BadRecordMac))?)
    }

    /// As [`Reader::open_in_place`], to somewhere else, which is as long as `sealed` without the tag.
    fn open_apart<'b>(&mut self, sealed: &[u8], opened: &'b mut [u8]) -> Result<(u8, &'b [u8]), Refusal> {
        let header = Aad::from(header(sealed.len()));
        let nonce = self.keys.next_nonce().ok_or_else(Refusal::exhausted)?;
        let (content, tag) = sealed.split_at(opened.len());
        let result = self.keys.key.open_separate_gather(nonce, header, content, tag, opened);
        result.map_err(|_| Refusal::new(Error::DecryptError, AlertDescription::BadRecordMac))?;
        self.content(opened)
    }

    /// RFC 8446 §5.4: the content and its type, without the zeros behind it.
    fn content<'b>(&self, opened: &'b [u8]) -> Result<(u8, &'b [u8]), Refusal> {
        // §5.2: one byte longer than the content at most, padding included.
        if opened.len() > RECORD_PLAINTEXT_BYTES_MAX + 1 {
            return Err(Refusal::oversized());
        }
        let position = opened.iter().rposition(|byte| *byte != 0);
        let position =
            position.ok_or_else(|| Refusal::unexpected(PeerMisbehaved::IllegalTlsInnerPlaintext))?;
        let (content_type, content) = (opened[position], &opened[..position]);
        // §5.1: "Handshake messages MUST NOT be interleaved with other record types."
        let is_in_message = self.handshake_bytes > 0 || !self.ticket.is_empty();
        if is_in_message && content_type != HANDSHAKE {
            return Err(Refusal::silent(PeerMisbehaved::MessageInterleavedWithHandshakeMessage));
        }
        Ok((content_type, content))
    }

    fn received_data(&mut self, bytes: usize) -> Result<(), Refusal> {
        if bytes > 0 {
            self.empty_in_a_row = 0;
            self.key_updates_in_a_row = 0;
            self.tickets_in_a_row = 0;
            return Ok(());
        }
        count(&mut self.empty_in_a_row, EMPTY_IN_A_ROW_MAX, PeerMisbehaved::TooManyEmptyFragments)
    }

    /// RFC 8446 §6: every alert but two ends the session at once.
    fn received_alert(&mut self, content: &[u8]) -> Result<Incoming, Refusal> {
        self.empty_in_a_row = 0;
        let [level, description] = *content else {
            let fault = match content {
                [_] => InvalidMessage::MissingData("AlertDescription"),
                _ => InvalidMessage::TrailingData("AlertMessagePayload"),
            };
            return Err(Refusal::new(fault.into(), AlertDescription::DecodeError));
        };
        let description = AlertDescription::from(description);
        let error = Error::AlertReceived(description);
        match (level, description) {
            (WARNING | FATAL, AlertDescription::CloseNotify) => Ok(Incoming::Close),
            (WARNING, AlertDescription::UserCanceled) => {
                count(&mut self.warnings, WARNINGS_MAX, PeerMisbehaved::TooManyWarningAlertsReceived)?;
                Ok(Incoming::Nothing)
            }
            // §6: the level says nothing, but this one is wrong.
            (WARNING, _) => Err(Refusal::new(error, AlertDescription::DecodeError)),
            (FATAL, _) => Err(Refusal::silent(error)),
            _ => Err(Refusal::new(error, AlertDescription::IllegalParameter)),
        }
    }

    /// Hands the tickets at the start of `content` to rustls, for sessions to come (RFC 8446 §4.6.1), and returns what is left.
    /// They may be cut into records.
    fn received_tickets<'b>(
        &mut self,
        mut content: &'b [u8],
        schedule: &mut KernelConnection<ClientConnectionData>,
    ) -> Result<&'b [u8], Refusal> {
        let begins = |content: &[u8]| content.first() == Some(&NEW_SESSION_TICKET);
        if self.handshake_bytes > 0 {
            return Ok(content);
        }
        while !self.ticket.is_empty() || begins(content) {
            self.empty_in_a_row = 0;
            let wanted = message_bytes(&self.ticket);
            if wanted > TICKET_BYTES_MAX {
                return Err(Refusal::silent(InvalidMessage::HandshakePayloadTooLarge));
            }
            let (part, rest) = content.split_at(content.len().min(wanted - self.ticket.len()));
            self.ticket.extend_from_slice(part);
            content = rest;
            if self.ticket.len() < wanted {
                break;
            }
            if self.ticket.len() == message_bytes(&self.ticket) {
                let ticket = std::mem::take(&mut self.ticket);
                // rustls has no kind for it, because it does not count them.
                count(
                    &mut self.tickets_in_a_row,
                    TICKETS_IN_A_ROW_MAX,
                    PeerMisbehaved::TooManyKeyUpdateRequests,
                )?;
                let kept = schedule.handle_new_session_ticket(&ticket[HANDSHAKE_HEADER_BYTES..]);
                kept.map_err(|error| Refusal::new(error, AlertDescription::DecodeError))?;
            }
        }
        Ok(content)
    }

    /// The only message that a client may send after its `Finished` is a `KeyUpdate` (RFC 8446 §4.6), and a server's only other
    /// one is a ticket; one that is complete is returned, by what it asks for. It may be cut into records, but the last of these must end with it (§5.1), because
    /// what follows is under another key.
    fn received_handshake(&mut self, content: &[u8]) -> Result<Option<u8>, Refusal> {
        self.empty_in_a_row = 0;
        let wanted = KEY_UPDATE_BYTES - self.handshake_bytes;
        let (part, rest) = content.split_at(content.len().min(wanted));
        self.handshake[self.handshake_bytes..][..part.len()].copy_from_slice(part);
        self.handshake_bytes += part.len();
        let message = &self.handshake[..self.handshake_bytes];
        if message.is_empty() {
            return Ok(None);
        }
        if message[0] != KEY_UPDATE {
            return Err(Refusal::unexpected(Error::InappropriateHandshakeMessage {
                expect_types: vec![HandshakeType::KeyUpdate],
                got_type: HandshakeType::from(message[0]),
            }));
        }
        match message.get(1..4) {
            Some([0, 0, 1]) | None => {}
            Some(length) => {
                let fault = match length {
                    [0, 0, 0] => InvalidMessage::MissingData("KeyUpdateRequest"),
                    _ => InvalidMessage::TrailingData("KeyUpdate"),
                };
                return Err(Refusal::new(fault.into(), AlertDescription::DecodeError));
            }
        }
        let [.., request] = *message else { return Ok(None) };
        if message.len() < KEY_UPDATE_BYTES {
            return Ok(None);
        }
        if !rest.is_empty() {
            return Err(Refusal::unexpected(PeerMisbehaved::KeyEpochWithPendingFragment));
        }
        self.handshake_bytes = 0;
        count(
            &mut self.key_updates_in_a_row,
            KEY_UPDATES_IN_A_ROW_MAX,
            PeerMisbehaved::TooManyKeyUpdateRequests,
        )?;
        Ok(Some(request))
    }
}

/// The direction from us to the peer.
struct Writer {
    keys: Keys,
    /// How many records a key bears.
    records_max: u64,
    /// A key update that has to go before the next data, by what it asks of the peer.
    update: Option<u8>,
}

impl Writer {
    /// Makes a record of `content` at the front of `record`; returns its length.
    fn seal(&mut self, content_type: u8, content: &[u8], record: &mut [u8]) -> Result<usize, SessionError> {
        let (header, sealed, type_and_tag, bytes) = split(record, content.len());
        let nonce = self.keys.next_nonce().ok_or(SessionError::KeyExhausted)?;
        let key = &self.keys.key;
        key.seal_out_of_place_scatter(
            nonce,
            Aad::from(header),
            content,
            sealed,
            &[content_type],
            type_and_tag,
        )
        .map_err(|_| SessionError::Internal(Error::EncryptError))?;
        Ok(bytes)
    }

    /// As [`Writer::seal`]; the content is where it has to be, behind the header.
    fn seal_in_place(
        &mut self,
        content_type: u8,
        content_bytes: usize,
        record: &mut [u8],
    ) -> Result<usize, SessionError> {
        let (header, content, type_and_tag, bytes) = split(record, content_bytes);
        let nonce = self.keys.next_nonce().ok_or(SessionError::KeyExhausted)?;
        let key = &self.keys.key;
        key.seal_in_place_scatter(nonce, Aad::from(header), content, &[content_type], type_and_tag)
            .map_err(|_| SessionError::Internal(Error::EncryptError))?;
        Ok(bytes)
    }
}

/// Writes the header of a record with so much content; returns it, where content, and type and tag go, and the record's
/// length.
fn split(record: &mut [u8], content_bytes: usize) -> ([u8; HEADER_BYTES], &mut [u8], &mut [u8], usize) {
    let bytes = HEADER_BYTES + content_bytes + TYPE_BYTES + TAG_BYTES;
    let (head, sealed) = record[..bytes].split_at_mut(HEADER_BYTES);
    let header = header(sealed.len());
    head.copy_from_slice(&header);
    let (content, type_and_tag) = sealed.split_at_mut(content_bytes);
    (header, content, type_and_tag, bytes)
}

/// The header of every record, which is also its additional data (RFC 8446 §5.2).
fn header(sealed_bytes: usize) -> [u8; HEADER_BYTES] {
    let [.., high, low] = sealed_bytes.to_be_bytes();
    [DATA, 3, 3, high, low]
}

/// Notes one more; there may be `max`.
fn count(counter: &mut u8, max: u8, fault: PeerMisbehaved) -> Result<(), Refusal> {
    if *counter == max {
        return Err(Refusal::silent(fault));
    }
    *counter += 1;
    Ok(())
}

fn inappropriate(content_type: u8) -> Error {
    Error::InappropriateMessage {
        expect_types: vec![ContentType::ApplicationData, ContentType::Handshake],
        got_type: ContentType::from(content_type),
    }
}

impl Refusal {
    fn new(error: Error, alert: AlertDescription) -> Refusal {
        Refusal { error: error.into(), alert: Some(alert) }
    }

    fn unexpected(error: impl Into<Error>) -> Refusal {
        Refusal::new(error.into(), AlertDescription::UnexpectedMessage)
    }

    fn oversized() -> Refusal {
        Refusal::new(Error::PeerSentOversizedRecord, AlertDescription::RecordOverflow)
    }

    fn silent(error: impl Into<Error>) -> Refusal {
        Refusal { error: error.into().into(), alert: None }
    }

    fn internal(error: Error) -> Refusal {
        Refusal::new(error, AlertDescription::InternalError)
    }

    /// RFC 8446 §5.3: sequence numbers do not wrap.
    fn exhausted() -> Refusal {
        Refusal { error: SessionError::KeyExhausted, alert: None }
    }
}

/// Content types (RFC 8446 §5.1).
const CHANGE_CIPHER_SPEC: u8 = 20;
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;
const DATA: u8 = 23;

/// Alert levels (RFC 8446 §6).
const WARNING: u8 = 1;
const FATAL: u8 = 2;

/// How long a handshake message is, header included; only the header as long as that is not all there.
fn message_bytes(message: &[u8]) -> usize {
    let length = match message.first_chunk::<HANDSHAKE_HEADER_BYTES>() {
        Some([_, high, middle, low]) => u32::from_be_bytes([0, *high, *middle, *low]) as usize,
        None => 0,
    };
    HANDSHAKE_HEADER_BYTES + length
}

/// The type of a `NewSessionTicket` (RFC 8446 §4).
const NEW_SESSION_TICKET: u8 = 4;
/// Type and length of a handshake message (RFC 8446 §4), in bytes.
const HANDSHAKE_HEADER_BYTES: usize = 4;
/// Longest ticket with its header that is taken, in bytes: the bound of rustls for every handshake message. Tickets have some
/// hundred bytes; with a client's certificate in them some thousand.
const TICKET_BYTES_MAX: usize = 64 * 1024;
/// Tickets without data between them, after which the next one is refused: servers send one to four, and each costs two
/// derivations of a key.
const TICKETS_IN_A_ROW_MAX: u8 = 32;

/// The type of a `KeyUpdate` (RFC 8446 §4).
const KEY_UPDATE: u8 = 24;
/// All of it: type, length, what is asked for (RFC 8446 §4.6.3); in bytes.
const KEY_UPDATE_BYTES: usize = 5;
/// What a `KeyUpdate` asks for (RFC 8446 §4.6.3).
const UPDATE_NOT_REQUESTED: u8 = 0;
const UPDATE_REQUESTED: u8 = 1;

/// The type behind the content (RFC 8446 §5.2), in bytes.
const TYPE_BYTES: usize = 1;

/// The tag of each of the three suites (RFC 8446 §B.4, RFC 5116 §5.1, RFC 8439 §2.8), in bytes.
const TAG_BYTES: usize = 16;

/// Most that may follow the header of a record (RFC 8446 §5.2), in bytes.
const SEALED_BYTES_MAX: usize = (1 << 14) + 256;

/// What a record is longer than its content (RFC 8446 §5.2), in bytes.
pub(super) const OVERHEAD_BYTES: usize = HEADER_BYTES + TYPE_BYTES + TAG_BYTES;

/// Longest record that is not data: a key update, in bytes.
const CONTROL_RECORD_BYTES_MAX: usize = KEY_UPDATE_BYTES + OVERHEAD_BYTES;

/// From this size on, in bytes, a record is decrypted to where it is read instead of in place and copied there. Below, the
/// copy costs nothing that can be measured; and alerts and key updates, which are shorter, do not touch the reader's memory.
const APART_BYTES_MIN: usize = 512;

/// Empty records in a row, after which the next one is refused: as many as rustls and BoringSSL bear.
const EMPTY_IN_A_ROW_MAX: u8 = 32;

/// Key updates without data between them, after which the next one is refused: as many as rustls and BoringSSL bear. Each
/// costs two derivations of a key.
const KEY_UPDATES_IN_A_ROW_MAX: u8 = 32;

/// How often a peer may say `user_canceled`, which means nothing: as often as rustls and BoringSSL bear.
const WARNINGS_MAX: u8 = 4;

/// Most records under any key, of whatever cipher: far below where sequence numbers would wrap (RFC 8446 §5.3); as in rustls.
const SEQUENCE_SOFT_MAX: u64 = 0xffff_ffff_ffff_0000;
