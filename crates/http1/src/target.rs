//! The request target (RFC 9112 §3.2).
//!
//! Never decoded, re-encoded, cased, merged or resolved: federation signatures cover its bytes. Every visible ASCII
//! byte passes, also those that RFC 3986 wants encoded; `#`, control bytes and bytes above 0x7e are refused.

use crate::{Authority, HeadError, Method, Span};

/// The four forms of a request target (RFC 9112 §3.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TargetForm {
    /// `/path?query`.
    #[default]
    Origin,
    /// `http://host/path?query`.
    Absolute,
    /// `host:port`, with `CONNECT` only.
    Authority,
    /// `*`, with `OPTIONS` only.
    Asterisk,
}

/// A request target, told apart.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Target {
    pub(crate) form: TargetForm,
    /// Of absolute-form and authority-form.
    pub(crate) authority: Option<Span>,
    /// What an origin is sent, behind `path_prefix`.
    pub(crate) path_and_query: Span,
    /// Of that, what stands before the `?`.
    pub(crate) path: Span,
    pub(crate) path_prefix: &'static [u8],
}

impl Target {
    /// Tells the target at `span` of `head` apart; its bytes were tokenised, so no byte is below 0x21 or 0x7f.
    pub(crate) fn parse(span: Span, method: Method, head: &[u8]) -> Result<Self, HeadError> {
        let target = span.of(head);
        if !target.is_ascii() {
            return Err(HeadError::TargetByte);
        }
        let path_len = memchr::memchr2(b'?', b'#', target).unwrap_or(target.len());
        if memchr::memchr(b'#', &target[path_len..]).is_some() {
            return Err(HeadError::TargetFragment);
        }
        let path_end = span.start as usize + path_len;
        let path = Span::new(span.start as usize, path_end);
        match (method, target) {
            (Method::Connect, _) => authority_form(span, head),
            (_, [b'/', ..]) => Ok(Self { path_and_query: span, path, ..Self::default() }),
            (Method::Options, b"*") => {
                Ok(Self { form: TargetForm::Asterisk, path_and_query: span, path, ..Self::default() })
            }
            _ => absolute_form(span, path_end, method, head),
        }
    }
}

/// `host ":" port`; the port is not optional (RFC 9112 §3.2.3).
fn authority_form(span: Span, head: &[u8]) -> Result<Target, HeadError> {
    let authority = Authority::split(span.of(head)).ok_or(HeadError::TargetAuthority)?;
    authority.port.ok_or(HeadError::TargetAuthority)?;
    let path_and_query = Span { start: span.end, end: span.end };
    let form = TargetForm::Authority;
    Ok(Target { form, authority: Some(span), path_and_query, path: path_and_query, path_prefix: b"" })
}

/// `scheme "://" authority path-abempty [ "?" query ]` (RFC 9112 §3.2.2).
fn absolute_form(span: Span, path_end: usize, method: Method, head: &[u8]) -> Result<Target, HeadError> {
    let target = span.of(head);
    let start = scheme_len(target).ok_or(HeadError::TargetForm)?;
    let end = memchr::memchr2(b'/', b'?', &target[start..]).map_or(target.len(), |len| start + len);
    Authority::split(&target[start..end]).ok_or(HeadError::TargetAuthority)?;
    let path_prefix: &[u8] = match target.get(end) {
        Some(b'/') => b"",
        None if method == Method::Options => b"*",
        _ => b"/",
    };
    let base = span.start as usize;
    Ok(Target {
        form: TargetForm::Absolute,
        authority: Some(Span::new(base + start, base + end)),
        path_and_query: Span::new(base + end, span.end as usize),
        path: Span::new(base + end, path_end),
        path_prefix,
    })
}

/// Length in bytes of `http://` or `https://` at the start of `target`, in any case (RFC 9110 §4.2.3).
fn scheme_len(target: &[u8]) -> Option<usize> {
    [&b"http://"[..], b"https://"]
        .into_iter()
        .find(|scheme| target.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
        .map(<[u8]>::len)
}
