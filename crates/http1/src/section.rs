//! One pass over the field section of a head (RFC 9112 §5): spans out of tokens, and what framing needs of them.

use httparse::Header;

use crate::connection::{self, ConnectionOptions};
use crate::{FieldLine, HeadError, KnownField, Span};

/// The values that a head may carry once, and what `Connection` says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Section {
    pub(crate) host: Seen,
    pub(crate) content_length: Seen,
    pub(crate) transfer_encoding: Seen,
    pub(crate) expect: Seen,
    pub(crate) upgrade: Seen,
    pub(crate) connection: ConnectionOptions,
}

/// How often a field line of one name was seen, with its value.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) enum Seen {
    #[default]
    Never,
    Once(Span),
    Repeatedly,
}

impl Section {
    /// Fills `fields` from `headers`, which were tokenised out of `head`, and judges `Connection`.
    pub(crate) fn collect(
        headers: &[Header<'_>],
        head: &[u8],
        fields: &mut Vec<FieldLine>,
    ) -> Result<Self, HeadError> {
        let mut section = Self::default();
        let (mut ends_are_crlf, mut has_connection) = (true, false);
        // Extended, not pushed to: there is room for all before the first.
        fields.extend(headers.iter().enumerate().map(|(index, header)| {
            let line_end = headers.get(index + 1).map_or(fields_end(head), |next| start_of(next.name, head));
            ends_are_crlf &= ends_with_crlf(head, line_end);
            let field = field_line(header, line_end, head);
            has_connection |= field.known == KnownField::Connection;
            section.note(&field);
            field
        }));
        // The tokeniser takes a bare LF for a line end; we do not.
        if !ends_are_crlf {
            return Err(HeadError::BareLf);
        }
        if has_connection {
            section.connection = connection::apply(fields, head)?;
        }
        Ok(section)
    }

    /// Whether the one `Upgrade` line says `websocket` and nothing else, and `Connection` names it. Other protocols would
    /// pass unread: HTTP/2 above all.
    pub(crate) fn upgrades(&self, head: &[u8]) -> bool {
        let Seen::Once(value) = self.upgrade else { return false };
        self.connection.upgrade && value.of(head).eq_ignore_ascii_case(b"websocket")
    }

    fn note(&mut self, field: &FieldLine) {
        let seen = match field.known {
            KnownField::Host => &mut self.host,
            KnownField::ContentLength => &mut self.content_length,
            KnownField::TransferEncoding => &mut self.transfer_encoding,
            KnownField::Expect => &mut self.expect,
            KnownField::Upgrade => &mut self.upgrade,
            _ => return,
        };
        *seen = match seen {
            Seen::Never => Seen::Once(field.value),
            Seen::Once(_) | Seen::Repeatedly => Seen::Repeatedly,
        };
    }
}

/// The start-line with its CRLF: from `start` to the first field line or the empty line.
pub(crate) fn start_line(headers: &[Header<'_>], start: usize, head: &[u8]) -> Result<Span, HeadError> {
    let end = headers.first().map_or(fields_end(head), |first| start_of(first.name, head));
    if start <= end && ends_with_crlf(head, end) { Ok(Span::new(start, end)) } else { Err(HeadError::BareLf) }
}

fn field_line(header: &Header<'_>, line_end: usize, head: &[u8]) -> FieldLine {
    let name = Span::within(header.name.as_bytes(), head);
    let known = KnownField::of(header.name.as_bytes());
    FieldLine {
        name,
        value: Span::within(header.value, head),
        line: Span::new(name.start as usize, line_end),
        known,
        hop_by_hop: known.is_hop_by_hop(),
    }
}

fn ends_with_crlf(head: &[u8], end: usize) -> bool {
    end.checked_sub(2).and_then(|start| head.get(start..end)) == Some(b"\r\n")
}

/// Where the empty line begins: a head that the tokeniser took to its end has one.
fn fields_end(head: &[u8]) -> usize {
    head.len().saturating_sub(2)
}

fn start_of(name: &str, head: &[u8]) -> usize {
    name.as_ptr().addr() - head.as_ptr().addr()
}
