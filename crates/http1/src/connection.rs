//! Connection options (RFC 9110 §7.6.1): what ends, what upgrades, and which fields are for this connection only.

use crate::field::{is_token, list_elements};
use crate::{FieldLine, HeadError, KnownField};

/// Most options in all `Connection` lines of a head together.
///
/// Each is compared with each field name; real heads carry one or two. It keeps that product small.
pub const CONNECTION_OPTION_COUNT_MAX: usize = 32;

/// The options that are not field names.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ConnectionOptions {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) upgrade: bool,
}

/// Reads every `Connection` line of `fields` and marks the lines that they name as hop-by-hop.
pub(crate) fn apply(fields: &mut [FieldLine], head: &[u8]) -> Result<ConnectionOptions, HeadError> {
    let mut options = ConnectionOptions::default();
    let mut count = 0;
    for index in 0..fields.len() {
        if fields[index].known != KnownField::Connection {
            continue;
        }
        let value = fields[index].value.of(head);
        for option in list_elements(value).filter(|option| !option.is_empty()) {
            count += 1;
            if count > CONNECTION_OPTION_COUNT_MAX {
                return Err(HeadError::ConnectionOptionsTooMany);
            }
            // What browsers say: a tenth of the work. The field of that name is for one connection anyway.
            if option.eq_ignore_ascii_case(b"keep-alive") {
                options.keep_alive = true;
                continue;
            }
            options.note(option)?;
            nominate(fields, option, head);
        }
    }
    Ok(options)
}

impl ConnectionOptions {
    fn note(&mut self, option: &[u8]) -> Result<(), HeadError> {
        if !is_token(option) {
            return Err(HeadError::ConnectionMalformed);
        }
        if is_forbidden(KnownField::of(option)) {
            return Err(HeadError::ConnectionOptionForbidden);
        }
        self.close |= option.eq_ignore_ascii_case(b"close");
        self.upgrade |= option.eq_ignore_ascii_case(b"upgrade");
        Ok(())
    }
}

/// Removing one of these would leave the next hop with another message than the one that we framed and routed.
const fn is_forbidden(field: KnownField) -> bool {
    matches!(field, KnownField::Host | KnownField::ContentLength | KnownField::TransferEncoding)
}

fn nominate(fields: &mut [FieldLine], option: &[u8], head: &[u8]) {
    for field in fields.iter_mut().filter(|field| field.name.len() == option.len()) {
        field.hop_by_hop |= field.name.of(head).eq_ignore_ascii_case(option);
    }
}
