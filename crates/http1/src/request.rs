//! Request heads (RFC 9112 §3).

use std::mem::{self, MaybeUninit};

use crate::section::{self, Section, Seen};
use crate::target::Target;
use crate::tokenise::{self, Extent, StartLine};
use crate::{
    Authority, BodyFraming, CloseReason, FIELD_COUNT_CAP, FieldLine, HeadError, HeadLimits, HeadScan, Method,
    Span, TargetForm, Version, framing, persistence,
};

/// A request head as spans over the caller's buffer. Reusable: [`parse`](Self::parse) clears and refills.
///
/// It need not live as long as its connection: one or two a worker serve all connections that wait.
#[derive(Clone, Debug, Default)]
pub struct RequestHead {
    fields: Vec<FieldLine>,
    start_line: Span,
    method: Method,
    method_span: Span,
    target_span: Span,
    target: Target,
    version: Version,
    host: Option<Span>,
    framing: BodyFraming,
    close_reason: Option<CloseReason>,
    upgrades: bool,
    expects_continue: bool,
    head_len: usize,
}

impl RequestHead {
    /// Room for this many field lines; it grows beyond them once if need be.
    #[must_use]
    pub fn with_capacity(field_count_max: usize) -> Self {
        Self { fields: Vec::with_capacity(field_count_max), ..Self::default() }
    }

    /// Judges `head`: exactly the bytes up to and including the empty line, as [`HeadScan`](crate::HeadScan) found.
    ///
    /// One empty line before the request line is skipped. After an error, [`method_span`](Self::method_span) and
    /// [`target`](Self::target) hold what could be told apart of the request line, for the log; nothing else does.
    /// To that end it may also be called with bytes that the scan refused or that are no whole head: it fails.
    pub fn parse(&mut self, head: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
        self.judge(head, Extent::Known, limits)
    }

    /// Finds and judges the head at the front of `buf`, which has more than at the last call with this `scan`; whether it
    /// was complete. It does and says what [`HeadScan::scan`] and then [`parse`](Self::parse) do, errors included.
    ///
    /// Nearly every head comes whole. So the tokeniser, which finds the end as well, goes first; only where it is not
    /// content with what there is, or we are not, the scan tells what is missing or wrong. That saves a pass over the
    /// bytes: 2 000 of 8 000 instructions for the head of a browser.
    pub fn read(&mut self, buf: &[u8], scan: &mut HeadScan, limits: &HeadLimits) -> Result<bool, HeadError> {
        if scan.is_new() && !buf.is_empty() && self.judge(buf, Extent::Sought, limits).is_ok() {
            return Ok(true);
        }
        match scan.scan(buf, limits) {
            Ok(Some(len)) => self.parse(&buf[..len], limits).map(|()| true),
            Ok(None) => Ok(false),
            Err(error) => {
                // For the log. It fails, since no head is there.
                let _ = self.parse(buf, limits);
                Err(error)
            }
        }
    }

    fn judge(&mut self, buf: &[u8], extent: Extent, limits: &HeadLimits) -> Result<(), HeadError> {
        self.clear();
        let (window, start) = tokenise::window(buf, StartLine::Request, limits);
        let mut slots = [const { MaybeUninit::uninit() }; FIELD_COUNT_CAP];
        let mut tokens = httparse::Request::new(&mut []);
        let result = tokens.parse_with_uninit_headers(&window[start..], &mut slots[..limits.field_count()]);
        self.note_request_line(&tokens, buf);
        let head = tokenise::verdict(result, start, buf, StartLine::Request, extent, limits)?;
        self.start_line = section::start_line(tokens.headers, start, head)?;
        self.judge_target(head, limits)?;
        let section = Section::collect(tokens.headers, head, &mut self.fields)?;
        self.judge_fields(&section, head)?;
        self.head_len = head.len();
        Ok(())
    }

    /// The request line with its CRLF. With origin-form and HTTP/1.1 it can be forwarded as it is.
    #[must_use]
    pub fn start_line(&self) -> Span {
        self.start_line
    }

    /// The method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method
    }

    /// The method's name.
    #[must_use]
    pub fn method_span(&self) -> Span {
        self.method_span
    }

    /// The raw request target, in whatever form.
    #[must_use]
    pub fn target(&self) -> Span {
        self.target_span
    }

    /// The form of the target.
    #[must_use]
    pub fn target_form(&self) -> TargetForm {
        self.target.form
    }

    /// The client's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The part of the target that an origin is sent: all of it in origin-form and asterisk-form, what follows the
    /// authority in absolute-form, nothing in authority-form. Write [`path_prefix`](Self::path_prefix) before it.
    #[must_use]
    pub fn path_and_query(&self) -> Span {
        self.target.path_and_query
    }

    /// The part of [`path_and_query`](Self::path_and_query) before its `?`, if it has one.
    #[must_use]
    pub fn path(&self) -> Span {
        self.target.path
    }

    /// What has to stand before [`path_and_query`](Self::path_and_query): `/` when an absolute-form target has no
    /// path, `*` when it is that of an `OPTIONS` without path and query (RFC 9112 §3.2.4), else nothing.
    #[must_use]
    pub fn path_prefix(&self) -> &'static [u8] {
        self.target.path_prefix
    }

    /// The host that the request is for, with its port if it names one: the target's, else `Host`.
    ///
    /// `None` only in HTTP/1.0. [`Authority::split`](crate::Authority::split) takes it apart.
    #[must_use]
    pub fn authority(&self) -> Option<Span> {
        self.target.authority.or(self.host)
    }

    /// The value of `Host`.
    #[must_use]
    pub fn host(&self) -> Option<Span> {
        self.host
    }

    /// The field lines, in order.
    #[must_use]
    pub fn fields(&self) -> &[FieldLine] {
        &self.fields
    }

    /// How the body ends: never [`BodyFraming::UntilClose`].
    #[must_use]
    pub fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// Length of the head in bytes: where the body starts.
    #[must_use]
    pub fn head_len(&self) -> usize {
        self.head_len
    }

    /// Why the connection ends with this exchange, as far as the client decides it.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.close_reason
    }

    /// Whether it asks for WebSocket: a GET of HTTP/1.1 without a body (RFC 6455 §4.1) whose `Upgrade` names that and
    /// nothing else. Any other `Upgrade` is not to be forwarded.
    #[must_use]
    pub fn upgrades(&self) -> bool {
        self.upgrades
    }

    /// Whether the client waits for 100 (Continue) before it sends the body (RFC 9110 §10.1.1).
    #[must_use]
    pub fn expects_continue(&self) -> bool {
        self.expects_continue
    }

    fn clear(&mut self) {
        self.fields.clear();
        *self = Self { fields: mem::take(&mut self.fields), ..Self::default() };
    }

    fn note_request_line(&mut self, tokens: &httparse::Request<'_, '_>, head: &[u8]) {
        if let Some(method) = tokens.method {
            self.method = Method::of(method.as_bytes());
            self.method_span = Span::within(method.as_bytes(), head);
        }
        if let Some(target) = tokens.path {
            self.target_span = Span::within(target.as_bytes(), head);
        }
        if tokens.version == Some(0) {
            self.version = Version::Http10;
        }
    }

    fn judge_target(&mut self, head: &[u8], limits: &HeadLimits) -> Result<(), HeadError> {
        if self.target_span.len() > limits.target_bytes_max {
            return Err(HeadError::TargetTooLong);
        }
        self.target = Target::parse(self.target_span, self.method, head)?;
        Ok(())
    }

    fn judge_fields(&mut self, section: &Section, head: &[u8]) -> Result<(), HeadError> {
        self.host = host(section.host, &self.target, self.version, head)?;
        self.framing = framing::of_request(section, self.version, head)?;
        let expects_continue = expects_continue(section.expect, head)?;
        let waits = self.version == Version::Http11 && !self.framing.is_empty();
        self.expects_continue = expects_continue && waits;
        self.close_reason = persistence::of_request(self.version, section.connection);
        let may_upgrade =
            self.version == Version::Http11 && self.method == Method::Get && self.framing.is_empty();
        self.upgrades = may_upgrade && section.upgrades(head);
        Ok(())
    }
}

/// The one `Host` that HTTP/1.1 demands (RFC 9112 §3.2), equal to the authority of the target if that has one.
fn host(seen: Seen, target: &Target, version: Version, head: &[u8]) -> Result<Option<Span>, HeadError> {
    let host = match seen {
        Seen::Never if version == Version::Http10 => return Ok(None),
        Seen::Never => return Err(HeadError::HostMissing),
        Seen::Repeatedly => return Err(HeadError::HostDuplicate),
        Seen::Once(host) => host,
    };
    Authority::split(host.of(head)).ok_or(HeadError::HostMalformed)?;
    match target.authority {
        Some(authority) if !authority.of(head).eq_ignore_ascii_case(host.of(head)) => {
            Err(HeadError::HostMismatch)
        }
        _ => Ok(Some(host)),
    }
}

/// Nobody behind us could meet another expectation (RFC 9110 §10.1.1).
fn expects_continue(seen: Seen, head: &[u8]) -> Result<bool, HeadError> {
    match seen {
        Seen::Never => Ok(false),
        Seen::Once(value) if value.of(head).eq_ignore_ascii_case(b"100-continue") => Ok(true),
        Seen::Once(_) | Seen::Repeatedly => Err(HeadError::ExpectationUnknown),
    }
}
