//! Response heads (RFC 9112 §4).

use std::mem::{self, MaybeUninit};

use crate::section::{self, Section};
use crate::tokenise::{self, Extent, StartLine};
use crate::{
    BodyFraming, CloseReason, FIELD_COUNT_CAP, FieldLine, HeadError, HeadLimits, HeadScan, KnownField,
    Method, Span, Version, framing, persistence,
};

/// A response head as spans over the caller's buffer. Reusable: [`parse`](Self::parse) clears and refills.
#[derive(Clone, Debug, Default)]
pub struct ResponseHead {
    fields: Vec<FieldLine>,
    start_line: Span,
    status: u16,
    version: Version,
    framing: BodyFraming,
    close_reason: Option<CloseReason>,
    upgrades: bool,
    head_len: usize,
}

impl ResponseHead {
    /// Room for this many field lines; it grows beyond them once if need be.
    #[must_use]
    pub fn with_capacity(field_count_max: usize) -> Self {
        Self { fields: Vec::with_capacity(field_count_max), ..Self::default() }
    }

    /// Judges `head`, exactly the bytes up to and including the empty line, as the answer to `request_method`.
    ///
    /// Every error is the origin's fault. After one nothing is known but [`status`](Self::status), if it was read.
    pub fn parse(
        &mut self,
        head: &[u8],
        request_method: Method,
        limits: &HeadLimits,
    ) -> Result<(), HeadError> {
        self.judge(head, Extent::Known, request_method, limits)
    }

    /// Finds and judges the head at the front of `buf`, as [`RequestHead::read`](crate::RequestHead::read) does.
    pub fn read(
        &mut self,
        buf: &[u8],
        scan: &mut HeadScan,
        request_method: Method,
        limits: &HeadLimits,
    ) -> Result<bool, HeadError> {
        if scan.is_new() && !buf.is_empty() && self.judge(buf, Extent::Sought, request_method, limits).is_ok()
        {
            return Ok(true);
        }
        match scan.scan(buf, limits)? {
            Some(len) => self.parse(&buf[..len], request_method, limits).map(|()| true),
            None => Ok(false),
        }
    }

    fn judge(
        &mut self,
        buf: &[u8],
        extent: Extent,
        request_method: Method,
        limits: &HeadLimits,
    ) -> Result<(), HeadError> {
        self.clear();
        let (window, start) = tokenise::window(buf, StartLine::Status, limits);
        let mut slots = [const { MaybeUninit::uninit() }; FIELD_COUNT_CAP];
        let mut tokens = httparse::Response::new(&mut []);
        let result = httparse::ParserConfig::default().parse_response_with_uninit_headers(
            &mut tokens,
            window,
            &mut slots[..limits.field_count()],
        );
        self.note_status_line(&tokens);
        let head = tokenise::verdict(result, start, buf, StartLine::Status, extent, limits)?;
        if !(STATUS_MIN..=STATUS_MAX).contains(&self.status) {
            return Err(HeadError::StatusCode);
        }
        self.start_line = section::start_line(tokens.headers, start, head)?;
        let section = Section::collect(tokens.headers, head, &mut self.fields)?;
        self.judge_fields(&section, request_method, head)?;
        self.head_len = head.len();
        Ok(())
    }

    /// The status code, 100 to 599.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The origin's version.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// The status line with its CRLF. With HTTP/1.1 it can be forwarded as it is.
    #[must_use]
    pub fn start_line(&self) -> Span {
        self.start_line
    }

    /// The status line from the status code on, with its CRLF: what follows `HTTP/1.1 `.
    #[must_use]
    pub fn status_line_tail(&self) -> Span {
        let end = self.start_line.end;
        Span { start: (self.start_line.start + VERSION_BYTES).min(end), end }
    }

    /// The reason phrase; often empty.
    #[must_use]
    pub fn reason(&self) -> Span {
        let end = self.start_line.end.saturating_sub(CRLF_BYTES);
        Span { start: (self.start_line.start + VERSION_BYTES + STATUS_BYTES).min(end), end }
    }

    /// The field lines, in order.
    #[must_use]
    pub fn fields(&self) -> &[FieldLine] {
        &self.fields
    }

    /// How the body ends; [`BodyFraming::NONE`] for 1xx, 204, 304 and answers to `HEAD`.
    #[must_use]
    pub fn framing(&self) -> BodyFraming {
        self.framing
    }

    /// Length of the head in bytes: where the body starts.
    #[must_use]
    pub fn head_len(&self) -> usize {
        self.head_len
    }

    /// Why the origin's connection ends with this response.
    #[must_use]
    pub fn close_reason(&self) -> Option<CloseReason> {
        self.close_reason
    }

    /// Whether another response to the same request follows: 1xx except 101.
    #[must_use]
    pub fn is_interim(&self) -> bool {
        matches!(self.status, 100 | 102..=199)
    }

    /// Whether it is a 101 that switches to WebSocket. Another 101 is not one to forward.
    #[must_use]
    pub fn upgrades(&self) -> bool {
        self.upgrades
    }

    fn clear(&mut self) {
        self.fields.clear();
        *self = Self { fields: mem::take(&mut self.fields), ..Self::default() };
    }

    fn note_status_line(&mut self, tokens: &httparse::Response<'_, '_>) {
        self.status = tokens.code.unwrap_or_default();
        if tokens.version == Some(0) {
            self.version = Version::Http10;
        }
    }

    fn judge_fields(
        &mut self,
        section: &Section,
        request_method: Method,
        head: &[u8],
    ) -> Result<(), HeadError> {
        self.framing = framing::of_response(section, self.version, self.status, request_method, head)?;
        self.close_reason = if framing::switches_protocols(self.status, request_method) {
            Some(CloseReason::SwitchedProtocols)
        } else {
            persistence::of_response(self.version, section.connection, self.framing)
        };
        self.upgrades = self.status == 101 && section.upgrades(head);
        if self.status == 204 {
            self.drop_content_length();
        }
        Ok(())
    }

    /// A 204 must not carry `Content-Length` (RFC 9110 §8.6); only a zero came this far.
    fn drop_content_length(&mut self) {
        for field in &mut self.fields {
            field.hop_by_hop |= field.known == KnownField::ContentLength;
        }
    }
}

/// Status codes that have a class (RFC 9110 §15).
const STATUS_MIN: u16 = 100;
/// Status codes that have a class (RFC 9110 §15).
const STATUS_MAX: u16 = 599;
/// Length in bytes of `HTTP/1.1 `.
const VERSION_BYTES: u32 = 9;
/// Length in bytes of a status code and the space behind it.
const STATUS_BYTES: u32 = 4;
/// Length in bytes of a line end.
const CRLF_BYTES: u32 = 2;
