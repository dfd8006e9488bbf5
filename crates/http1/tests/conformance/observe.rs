//! The crate's verdicts in the words of the oracle.

use ringfence_http1::{
    BodyFraming, ChunkedDecoder, ChunkedPart, FieldLine, HeadError, HeadLimits, HeadScan, Method,
    RequestHead, ResponseHead, Span, Version,
};

use crate::reference::chunked::Body;
use crate::reference::head::{Field, Framing, Head, Start};

/// Scans `input` as it would arrive in reads that end at `read_ends` and at its end.
pub(crate) fn scan(input: &[u8], read_ends: &[usize]) -> Result<Option<usize>, HeadError> {
    let limits = HeadLimits::default();
    let mut scan = HeadScan::new();
    for end in read_ends {
        if let Some(len) = scan.scan(&input[..*end], &limits)? {
            return Ok(Some(len));
        }
    }
    scan.scan(input, &limits)
}

/// Checks that `read` says of `input` what the scan and then the parser say, whatever it holds, in reads that end at
/// `read_ends` and at its end.
pub(crate) fn read_as_scanned_and_parsed(input: &[u8], read_ends: &[usize]) {
    let limits = HeadLimits::default();
    let ends = || read_ends.iter().copied().chain([input.len()]);

    let (mut scan, mut read) = (HeadScan::new(), RequestHead::default());
    let verdict = ends().find_map(|end| when_done(read.read(&input[..end], &mut scan, &limits)));
    let mut parsed = RequestHead::default();
    let expected = match self::scan(input, read_ends) {
        Ok(Some(len)) => Some(parsed.parse(&input[..len], &limits)),
        Ok(None) => None,
        Err(error) => Some(Err(error)),
    };
    assert_eq!(verdict, expected);
    if verdict == Some(Ok(())) {
        assert_eq!(format!("{read:?}"), format!("{parsed:?}"));
    }

    let (mut scan, mut read) = (HeadScan::new(), ResponseHead::default());
    let verdict = ends().find_map(|end| when_done(read.read(&input[..end], &mut scan, Method::Get, &limits)));
    let mut parsed = ResponseHead::default();
    let expected = match self::scan(input, read_ends) {
        Ok(Some(len)) => Some(parsed.parse(&input[..len], Method::Get, &limits)),
        Ok(None) => None,
        Err(error) => Some(Err(error)),
    };
    assert_eq!(verdict, expected);
    if verdict == Some(Ok(())) {
        assert_eq!(format!("{read:?}"), format!("{parsed:?}"));
    }
}

fn when_done(verdict: Result<bool, HeadError>) -> Option<Result<(), HeadError>> {
    match verdict {
        Ok(true) => Some(Ok(())),
        Ok(false) => None,
        Err(error) => Some(Err(error)),
    }
}

pub(crate) fn request(head: &[u8]) -> Result<Head, HeadError> {
    let mut request = RequestHead::with_capacity(16);
    request.parse(head, &HeadLimits::default())?;
    assert_eq!(request.head_len(), head.len());
    assert!(request.start_line().of(head).ends_with(b"\r\n"));
    assert_eq!(Method::of(request.method_span().of(head)), request.method());
    let start = Start::Request {
        method: text(request.method_span(), head),
        target: text(request.target(), head),
        origin_form: latin1(request.path_prefix()) + &text(request.path_and_query(), head),
        authority: request.authority().map(|authority| text(authority, head)),
        waits: request.expects_continue(),
    };
    Ok(Head {
        start,
        version_minor: version_minor(request.version()),
        fields: fields(request.fields(), head),
        framing: framing(request.framing()),
        closes: request.close_reason().is_some(),
        upgrades: request.upgrades(),
    })
}

pub(crate) fn response(head: &[u8], to_head: bool) -> Result<Head, HeadError> {
    let method = if to_head { Method::Head } else { Method::Get };
    let mut response = ResponseHead::with_capacity(16);
    response.parse(head, method, &HeadLimits::default())?;
    assert_eq!(response.head_len(), head.len());
    assert!(response.start_line().of(head).ends_with(response.status_line_tail().of(head)));
    let start = Start::Response { status: response.status(), reason: text(response.reason(), head) };
    Ok(Head {
        start,
        version_minor: version_minor(response.version()),
        fields: fields(response.fields(), head),
        framing: framing(response.framing()),
        closes: response.close_reason().is_some(),
        upgrades: response.upgrades(),
    })
}

/// Decodes `input` in reads that end at `read_ends` and at its end, by parts; checks that `advance` agrees.
pub(crate) fn chunked(input: &[u8], read_ends: &[usize]) -> Body {
    let mut parts = ChunkedDecoder::new();
    let mut relay = ChunkedDecoder::new();
    let (mut data, mut at) = (Vec::new(), 0);
    for end in read_ends.iter().copied().chain([input.len()]) {
        let (before, from) = (data.len(), at);
        let by_parts = read(&mut parts, &input[..end], &mut at, &mut data);
        let relayed = relay.advance(&input[from..end]);
        assert_eq!(by_parts.is_err(), relayed.is_err());
        let (Ok(ended), Ok(relayed)) = (by_parts, relayed) else { return Body::Refused };
        assert_eq!((relayed.consumed, relayed.ended), (at - from, ended));
        assert_eq!(relayed.data, (data.len() - before) as u64);
        if ended {
            assert!(parts.is_ended() && relay.is_ended());
            return Body::Ended { consumed: at, data };
        }
        assert_eq!(at, end, "everything that arrived is consumed");
    }
    Body::Unfinished
}

/// Consumes `input[*at..]`; whether the message ended.
fn read(decoder: &mut ChunkedDecoder, input: &[u8], at: &mut usize, data: &mut Vec<u8>) -> Result<bool, ()> {
    loop {
        let (consumed, part) = decoder.next(&input[*at..]).map_err(|_| ())?;
        match part {
            ChunkedPart::Data(range) => data.extend_from_slice(&input[*at..][range]),
            ChunkedPart::Framing | ChunkedPart::Trailer => {}
            ChunkedPart::NeedMore => return Ok(false),
            ChunkedPart::End => {
                *at += consumed;
                return Ok(true);
            }
        }
        assert!(consumed > 0, "a step that is no end consumes");
        *at += consumed;
    }
}

fn fields(lines: &[FieldLine], head: &[u8]) -> Vec<Field> {
    let owned = lines.iter().map(|line| Field {
        name: text(line.name, head),
        value: text(line.value, head),
        line: text(line.line, head),
        is_forwarded: !line.hop_by_hop,
    });
    owned.collect()
}

fn framing(framing: BodyFraming) -> Framing {
    match framing {
        BodyFraming::Length(length) => Framing::Length(length),
        BodyFraming::Chunked => Framing::Chunked,
        BodyFraming::UntilClose => Framing::UntilClose,
    }
}

fn version_minor(version: Version) -> u8 {
    match version {
        Version::Http10 => 0,
        Version::Http11 => 1,
    }
}

fn text(span: Span, head: &[u8]) -> String {
    latin1(span.of(head))
}

fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| *byte as char).collect()
}
