//! Every pure stage of an exchange as a function that does it once and checks its answer, so that none is cheap by doing
//! nothing. Beside each stands what it wraps or could at best be.

use std::{
    hint::black_box,
    io::IoSlice,
    net::{IpAddr, Ipv4Addr},
    rc::Rc,
    sync::Arc,
};

use ringfence_forward::{
    snapshot::{Action, Rule},
    stages::Stages,
};
use ringfence_http1::{
    Advanced, BodyFraming, ChunkedDecoder, HeadLimits, HeadScan, LAST_CHUNK, Method, OutgoingHead,
    RequestHead, ResponseHead, chunk_header,
};
use ringfence_matrix::{EndpointClass, classify, is_admin};

use crate::messages::{CONFIG, FRAMINGS, REQUESTS, RESPONSES, Request, Response};

/// One stage on one input.
pub struct Stage {
    /// `STAGE/INPUT/WHO`; `httparse` and `memcpy` are what ours is compared with.
    pub name: String,
    /// Size of the input in bytes.
    pub bytes: usize,
    /// Does it once.
    pub run: Box<dyn FnMut()>,
}

impl Stage {
    fn new(name: String, bytes: usize, run: impl FnMut() + 'static) -> Stage {
        Stage { name, bytes, run: Box::new(run) }
    }
}

/// Every stage on every input.
pub fn all() -> Vec<Stage> {
    let snapshot = ringfence::stages::snapshot(CONFIG).expect("a configuration without faults");
    let stages = Rc::new(Stages::new(Arc::new(snapshot)));
    let mut all = Vec::new();
    all.extend(REQUESTS.iter().flat_map(request_head));
    all.extend(FRAMINGS.iter().flat_map(|(name, head)| request_framing(name, head)));
    all.extend(REQUESTS.iter().flat_map(|request| request_fields(request, &stages)));
    all.extend(routes(&stages));
    all.extend(RESPONSES.iter().flat_map(|response| response_head(response, &stages)));
    all.extend([64, 8 * 1024, 64 * 1024].into_iter().flat_map(chunked));
    all
}

/// `httparse` neither looks for wrong line ends nor judges framing, target, host and connection.
fn request_head(request: &Request) -> [Stage; 3] {
    let (Request { name, head, target_bytes, field_count, .. }, limits) = (*request, HeadLimits::default());
    let tokenise = move || {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut tokens = httparse::Request::new(&mut fields);
        assert_eq!(tokens.parse(black_box(head)), Ok(httparse::Status::Complete(head.len())));
        assert_eq!(tokens.path.map(str::len), Some(target_bytes));
        assert_eq!(tokens.headers.len(), field_count);
    };
    let scan = move || {
        assert_eq!(HeadScan::new().scan(black_box(head), &limits), Ok(Some(head.len())));
    };
    let mut parsed = RequestHead::with_capacity(FIELD_COUNT_LIKELY);
    let parse = move || {
        assert_eq!(parsed.parse(black_box(head), &limits), Ok(()));
        assert_eq!(parsed.target().len(), target_bytes);
        assert_eq!(parsed.fields().len(), field_count);
    };
    [
        Stage::new(format!("request_head/{name}/httparse"), head.len(), tokenise),
        Stage::new(format!("request_head/{name}/scan"), head.len(), scan),
        Stage::new(format!("request_head/{name}/parse"), head.len(), parse),
    ]
}

/// How a body ends is judged with its head: of three heads that differ in nothing else, what each way costs.
fn request_framing(name: &str, head: &'static [u8]) -> [Stage; 2] {
    let expected = match name {
        "none" => BodyFraming::NONE,
        "content_length" => BodyFraming::Length(4_718_592),
        _ => BodyFraming::Chunked,
    };
    let tokenise = move || {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut tokens = httparse::Request::new(&mut fields);
        assert_eq!(tokens.parse(black_box(head)), Ok(httparse::Status::Complete(head.len())));
    };
    let (mut parsed, limits) = (RequestHead::with_capacity(FIELD_COUNT_LIKELY), HeadLimits::default());
    let parse = move || {
        assert_eq!(parsed.parse(black_box(head), &limits), Ok(()));
        assert_eq!(parsed.framing(), expected);
    };
    [
        Stage::new(format!("request_framing/{name}/httparse"), head.len(), tokenise),
        Stage::new(format!("request_framing/{name}/parse"), head.len(), parse),
    ]
}

/// The head for the origin out of a parsed one, down to the slices of a vectored write; a plain copy is the least that
/// passing a head on could cost.
fn request_fields(request: &Request, stages: &Rc<Stages>) -> [Stage; 2] {
    let (Request { name, head, dropped_bytes, .. }, stages) = (*request, stages.clone());
    let (parsed, mut outgoing) = (parsed(head), OutgoingHead::with_capacity(FIELD_COUNT_LIKELY, 256));
    let rewrite = move || {
        stages.outgoing_request(black_box(PEER), &parsed, black_box(head), &mut outgoing);
        let mut slices = [IoSlice::new(b""); SLICES_MAX];
        let filled = outgoing.slices(head, 0, &mut slices);
        let sent: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
        assert_eq!(sent, head.len() - dropped_bytes + FORWARDED_BYTES);
    };
    [
        copy(format!("request_fields/{name}/memcpy"), head),
        Stage::new(format!("request_fields/{name}/rewrite"), head.len(), rewrite),
    ]
}

fn copy(name: String, bytes: &'static [u8]) -> Stage {
    let mut copied = vec![0; bytes.len()];
    Stage::new(name, bytes.len(), move || {
        copied.copy_from_slice(black_box(bytes));
        assert_eq!(black_box(&copied).last(), Some(&b'\n'));
    })
}

/// Where a request leads, and the two questions that are put to its path on the way or beside it.
fn routes(stages: &Rc<Stages>) -> Vec<Stage> {
    let forwarded = |name: &str| *REQUESTS.iter().find(|request| request.name == name).expect("one of them");
    let classes = [("sync", EndpointClass::Sync), ("federation_send", EndpointClass::FederationSend)];
    let mut routes: Vec<Stage> = Vec::new();
    for (name, class) in classes {
        let Request { head, .. } = forwarded(name);
        routes.push(route(name, head, stages, |rule| {
            rule.is_some_and(|rule| matches!(rule.action, Action::Forward(0)))
        }));
        let parsed = parsed(head);
        let target = parsed.target().of(head);
        let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
        let method = parsed.method_span().of(head);
        routes.push(Stage::new(format!("route/{name}/is_admin"), path.len(), move || {
            assert!(!is_admin(black_box(path)))
        }));
        let classify = move || assert_eq!(classify(black_box(method), black_box(path)), class);
        routes.push(Stage::new(format!("route/{name}/classify"), path.len(), classify));
    }
    let well_known = b"GET /.well-known/matrix/client HTTP/1.1\r\nHost: example.com\r\n\r\n";
    let is_answer = |rule: Option<&Rule>| rule.is_some_and(|rule| matches!(rule.action, Action::Answer(_)));
    routes.push(route("well_known", well_known, stages, is_answer));
    let own = b"GET /admin-ui/index.html HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n";
    routes.push(route("own_route", own, stages, |rule| {
        rule.is_some_and(|rule| matches!(rule.action, Action::Forward(1)))
    }));
    let nowhere = b"GET /wp-login.php HTTP/1.1\r\nHost: example.com\r\n\r\n";
    routes.push(route("nowhere", nowhere, stages, |rule| rule.is_none()));
    let hidden = b"GET /_matrix/%2e./%5fsynapse//admin/v1/users HTTP/1.1\r\nHost: matrix.example.com\r\n\r\n";
    routes.push(route("hidden_admin", hidden, stages, is_answer));
    routes
}

fn route(
    name: &str,
    head: &'static [u8],
    stages: &Rc<Stages>,
    is_right: impl Fn(Option<&Rule>) -> bool + 'static,
) -> Stage {
    let (stages, parsed) = (stages.clone(), parsed(head));
    Stage::new(format!("route/{name}/lookup"), head.len(), move || {
        assert!(is_right(stages.rule(black_box(PEER), &parsed, black_box(head))));
    })
}

fn response_head(response: &Response, stages: &Rc<Stages>) -> [Stage; 3] {
    let (Response { name, head, status, field_count, dropped_bytes }, limits) =
        (*response, HeadLimits::default());
    let tokenise = move || {
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut tokens = httparse::Response::new(&mut fields);
        assert_eq!(tokens.parse(black_box(head)), Ok(httparse::Status::Complete(head.len())));
        assert_eq!((tokens.code, tokens.headers.len()), (Some(status), field_count));
    };
    let mut parsed = ResponseHead::with_capacity(FIELD_COUNT_LIKELY);
    let parse = move || {
        assert_eq!(parsed.parse(black_box(head), Method::Get, &limits), Ok(()));
        assert_eq!((parsed.status(), parsed.fields().len()), (status, field_count));
    };
    let mut parsed = ResponseHead::with_capacity(FIELD_COUNT_LIKELY);
    assert_eq!(parsed.parse(head, Method::Get, &limits), Ok(()));
    let framing_bytes =
        if parsed.framing() == BodyFraming::Chunked { "Transfer-Encoding: chunked\r\n".len() } else { 0 };
    let (stages, mut outgoing) = (stages.clone(), OutgoingHead::with_capacity(FIELD_COUNT_LIKELY, 256));
    let rewrite = move || {
        stages.outgoing_response(&parsed, &mut outgoing);
        let mut slices = [IoSlice::new(b""); SLICES_MAX];
        let filled = outgoing.slices(black_box(head), 0, &mut slices);
        let sent: usize = slices[..filled].iter().map(|slice| slice.len()).sum();
        assert_eq!(sent, head.len() - dropped_bytes + framing_bytes + RETURNED_BYTES);
    };
    [
        Stage::new(format!("response_head/{name}/httparse"), head.len(), tokenise),
        Stage::new(format!("response_head/{name}/parse"), head.len(), parse),
        Stage::new(format!("response_head/{name}/rewrite"), head.len(), rewrite),
    ]
}

/// One read of a relay: 256 KiB in chunks as small as an origin dribbles and as large as it streams. `httparse` reads the
/// sizes; that data and line ends follow as they should is not looked at.
fn chunked(chunk_bytes: usize) -> [Stage; 2] {
    let body: Rc<[u8]> = chunked_body(chunk_bytes).into();
    let (whole, same) = (body.clone(), body.clone());
    let expected = Advanced { consumed: body.len(), data: BODY_BYTES as u64, ended: true };
    let tokenise = move || {
        let (mut at, mut data) = (0, 0);
        loop {
            let size = httparse::parse_chunk_size(black_box(&same[at..]));
            let Ok(httparse::Status::Complete((header, size))) = size else { panic!("no chunk: {size:?}") };
            at += header + usize::try_from(size).expect("a size in memory") + b"\r\n".len();
            data += size;
            if size == 0 {
                break;
            }
        }
        assert_eq!((at, data), (same.len(), BODY_BYTES as u64));
    };
    let advance = move || assert_eq!(ChunkedDecoder::new().advance(black_box(&whole)), Ok(expected));
    [
        Stage::new(format!("chunked/{chunk_bytes}/httparse"), BODY_BYTES, tokenise),
        Stage::new(format!("chunked/{chunk_bytes}/advance"), BODY_BYTES, advance),
    ]
}

fn chunked_body(chunk_bytes: usize) -> Vec<u8> {
    let data = vec![b'x'; chunk_bytes];
    let chunk = [chunk_header(chunk_bytes as u64).as_slice(), &data, b"\r\n"].concat();
    [chunk.repeat(BODY_BYTES / chunk_bytes), LAST_CHUNK.to_vec()].concat()
}

fn parsed(head: &[u8]) -> RequestHead {
    let mut parsed = RequestHead::with_capacity(FIELD_COUNT_LIKELY);
    assert_eq!(parsed.parse(head, &HeadLimits::default()), Ok(()));
    parsed
}

/// The address of a client, of a usual length.
const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 9));

/// What the origin is told of the client, in bytes.
const FORWARDED_BYTES: usize =
    "X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Request-ID: \r\nVia: 1.1 ringfence\r\n"
        .len()
        + 32;

/// What the client is told of the exchange, in bytes.
const RETURNED_BYTES: usize = "X-Request-ID: \r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n".len() + 32;

/// Field lines for which a worker makes room at first.
const FIELD_COUNT_LIKELY: usize = 24;

/// Slices that a head of these falls into, at most.
const SLICES_MAX: usize = 32;

/// Content of a chunked body in bytes: what one pooled buffer of the relay holds.
const BODY_BYTES: usize = 256 * 1024;
