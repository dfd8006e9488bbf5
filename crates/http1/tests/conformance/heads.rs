//! Facts about heads that the oracle does not state: spans, reasons, recognised fields, reuse.

use ringfence_http1::{
    BodyFraming, CloseReason, HeadError, HeadLimits, KnownField, Method, RequestHead, ResponseHead,
    TargetForm,
};

fn request(head: &[u8]) -> Result<RequestHead, HeadError> {
    let mut request = RequestHead::with_capacity(8);
    request.parse(head, &HeadLimits::default()).map(|()| request)
}

fn response(head: &[u8], request_method: Method) -> Result<ResponseHead, HeadError> {
    let mut response = ResponseHead::with_capacity(8);
    response.parse(head, request_method, &HeadLimits::default()).map(|()| response)
}

#[test]
fn field_spans_cover_name_value_and_line() {
    let head = b"GET / HTTP/1.1\r\nHost:\t h \r\nAuthorization:a\r\n\r\n";
    let request = request(head).unwrap();
    let [host, authorization] = request.fields() else { panic!("two lines") };
    assert_eq!((host.name.of(head), host.value.of(head)), (&b"Host"[..], &b"h"[..]));
    assert_eq!(host.line.of(head), b"Host:\t h \r\n");
    assert_eq!(host.known, KnownField::Host);
    assert_eq!(authorization.line.of(head), b"Authorization:a\r\n");
    assert_eq!(authorization.known, KnownField::Authorization);
    assert_eq!(authorization.line.end as usize + 2, request.head_len());
}

#[test]
fn spans_count_from_the_empty_line_before_a_request() {
    let head = b"\r\nGET /x HTTP/1.1\r\nHost: h\r\n\r\n";
    let request = request(head).unwrap();
    assert_eq!(request.start_line().of(head), b"GET /x HTTP/1.1\r\n");
    assert_eq!(request.target().of(head), b"/x");
    assert_eq!(request.head_len(), head.len());
}

#[test]
fn absolute_form_says_what_the_origin_is_sent() {
    for (method, target, prefix, rest) in [
        ("GET", "http://h/a?b", "", "/a?b"),
        ("GET", "http://h", "/", ""),
        ("GET", "http://h?b", "/", "?b"),
        ("OPTIONS", "http://h", "*", ""),
        ("OPTIONS", "http://h/", "", "/"),
    ] {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: H\r\n\r\n").into_bytes();
        let request = request(&head).unwrap();
        assert_eq!(request.target_form(), TargetForm::Absolute);
        assert_eq!(
            (request.path_prefix(), request.path_and_query().of(&head)),
            (prefix.as_bytes(), rest.as_bytes())
        );
        assert_eq!(request.authority().unwrap().of(&head), b"h");
        assert_eq!(request.host().unwrap().of(&head), b"H");
    }
}

#[test]
fn who_ends_the_connection_is_named() {
    let of = |head: &[u8]| request(head).unwrap().close_reason();
    assert_eq!(of(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"), None);
    assert_eq!(
        of(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"),
        Some(CloseReason::ClientConnectionClose)
    );
    assert_eq!(of(b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"), Some(CloseReason::ClientHttp10));
    let of = |head: &[u8]| response(head, Method::Get).unwrap().close_reason();
    assert_eq!(of(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), None);
    assert_eq!(of(b"HTTP/1.1 200 OK\r\n\r\n"), Some(CloseReason::UntilCloseBody));
    assert_eq!(of(b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"), Some(CloseReason::OriginHttp10));
    assert_eq!(of(b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"), None);
    assert_eq!(of(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"), Some(CloseReason::OriginConnectionClose));
    assert_eq!(of(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\n\r\n"), Some(CloseReason::SwitchedProtocols));
}

#[test]
fn a_response_without_a_body_keeps_its_length_line_and_204_drops_it() {
    let head = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n";
    let to_head = response(head, Method::Head).unwrap();
    assert_eq!((to_head.framing(), to_head.fields()[0].hop_by_hop), (BodyFraming::NONE, false));
    let no_content = response(b"HTTP/1.1 204 N\r\nContent-Length: 0\r\n\r\n", Method::Get).unwrap();
    assert_eq!((no_content.framing(), no_content.fields()[0].hop_by_hop), (BodyFraming::NONE, true));
}

#[test]
fn an_answer_to_connect_has_no_body_when_it_succeeds() {
    let head = b"HTTP/1.1 200 OK\r\n\r\n";
    assert_eq!(response(head, Method::Connect).unwrap().framing(), BodyFraming::NONE);
    let head = b"HTTP/1.1 403 Forbidden\r\n\r\n";
    assert_eq!(response(head, Method::Connect).unwrap().framing(), BodyFraming::UntilClose);
}

#[test]
fn interim_responses_are_1xx_except_101() {
    for (status, is_interim) in
        [(100, true), (101, false), (102, true), (103, true), (199, true), (200, false)]
    {
        let head = format!("HTTP/1.1 {status} X\r\n\r\n").into_bytes();
        assert_eq!(response(&head, Method::Get).unwrap().is_interim(), is_interim);
    }
}

#[test]
fn a_status_line_is_cut_behind_its_version() {
    for (line, tail, reason) in
        [("200 OK it is", "200 OK it is", "OK it is"), ("200 ", "200 ", ""), ("200", "200", "")]
    {
        let head = format!("HTTP/1.0 {line}\r\n\r\n").into_bytes();
        let response = response(&head, Method::Get).unwrap();
        assert_eq!(response.status_line_tail().of(&head), format!("{tail}\r\n").as_bytes());
        assert_eq!(response.reason().of(&head), reason.as_bytes());
    }
}

#[test]
fn each_refusal_names_its_reason() {
    use HeadError as E;
    for (head, error) in [
        ("GET / HTTP/1.1\nHost: h\r\n\r\n", E::BareLf),
        ("GET / HTTP/1.1\r\nHost: h\n\r\n", E::BareLf),
        ("GET / HTTP/1.1\r\nHost: h\r\n\n", E::BareLf),
        ("GET / HTTP/1.1\r\nHost: h\rX\r\n\r\n", E::BareCr),
        ("GET / HTTP/1.1\r\nHost: h\r\nX: \0\r\n\r\n", E::Nul),
        ("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", E::LeadingEmptyLine),
        ("GET / HTTP/1.1\r\nHost: h\r\n", E::NotOneHead),
        ("GET / HTTP/1.1\r\nHost: h\r\n\r\nX", E::NotOneHead),
        ("", E::NotOneHead),
        ("GET / HTTP/1.1 x\r\n\r\n", E::RequestLine),
        ("GET  HTTP/1.1\r\n\r\n", E::RequestLine),
        ("GET / HTTP/2.0\r\n\r\n", E::UnsupportedVersion),
        ("GET / HTTP/2\r\n\r\n", E::RequestLine),
        ("GET /\u{e9} HTTP/1.1\r\n\r\n", E::TargetByte),
        ("GET / HTTP/1.1\r\nHost: h\r\n X\r\n\r\n", E::ObsFold),
        ("GET / HTTP/1.1\r\nHost : h\r\n\r\n", E::SpaceBeforeColon),
        ("GET / HTTP/1.1\r\n: h\r\n\r\n", E::FieldNameEmpty),
        ("GET / HTTP/1.1\r\nX\r\n\r\n", E::FieldName),
        ("GET / HTTP/1.1\r\nX(: h\r\n\r\n", E::FieldName),
        ("GET / HTTP/1.1\r\nX: \u{1}\r\n\r\n", E::FieldValue),
        ("GET / HTTP/1.1\r\n\r\n", E::HostMissing),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: host\r\n\r\n", E::ConnectionOptionForbidden),
        ("GET / HTTP/1.1\r\nHost: h\r\nConnection: (\r\n\r\n", E::ConnectionMalformed),
        (
            "GET / HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\n",
            E::ContentLengthTooLarge,
        ),
        ("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: br, chunked\r\n\r\n", E::TransferCodingUnknown),
        ("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, br\r\n\r\n", E::ChunkedNotLast),
        ("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked;q=1\r\n\r\n", E::TransferEncodingMalformed),
    ] {
        assert_eq!(request(head.as_bytes()).map(|_| ()), Err(error), "{head:?}");
    }
    for (head, error) in [
        ("HTTP/1.1 99 X\r\n\r\n", E::StatusLine),
        ("HTTP/1.1 600 X\r\n\r\n", E::StatusCode),
        ("HTTP/3.0 200 X\r\n\r\n", E::UnsupportedVersion),
        ("\r\nHTTP/1.1 200 X\r\n\r\n", E::LeadingEmptyLine),
        ("HTTP/1.1 204 X\r\nContent-Length: 1\r\n\r\n", E::BodyNotAllowed),
    ] {
        assert_eq!(response(head.as_bytes(), Method::Get).map(|_| ()), Err(error), "{head:?}");
    }
}

#[test]
fn limits_are_the_callers() {
    let head = b"GET /123 HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n";
    let limits = HeadLimits { head_bytes_max: head.len(), field_count_max: 2, target_bytes_max: 4 };
    let parse = |limits: HeadLimits| RequestHead::default().parse(head, &limits);
    assert_eq!(parse(limits), Ok(()));
    assert_eq!(parse(HeadLimits { head_bytes_max: head.len() - 1, ..limits }), Err(HeadError::HeadTooLarge));
    assert_eq!(parse(HeadLimits { field_count_max: 1, ..limits }), Err(HeadError::TooManyFields));
    assert_eq!(parse(HeadLimits { target_bytes_max: 3, ..limits }), Err(HeadError::TargetTooLong));
}

#[test]
fn a_reused_head_keeps_nothing_of_the_message_before() {
    let limits = HeadLimits::default();
    let mut head = RequestHead::with_capacity(8);
    let first = b"PUT /a HTTP/1.0\r\nHost: h\r\nContent-Length: 5\r\nConnection: close\r\n\r\n";
    head.parse(first, &limits).unwrap();
    let second = b"GET /bc HTTP/1.1\r\nHost: i\r\n\r\n";
    head.parse(second, &limits).unwrap();
    assert_eq!((head.fields().len(), head.framing(), head.close_reason()), (1, BodyFraming::NONE, None));
    assert_eq!((head.method(), head.target().of(second)), (Method::Get, &b"/bc"[..]));
}

#[test]
fn a_refused_request_leaves_method_and_target_for_the_log() {
    let head = b"PUT /a HTTP/1.1\r\nX : y\r\n\r\n";
    let mut request = RequestHead::default();
    assert_eq!(request.parse(head, &HeadLimits::default()), Err(HeadError::SpaceBeforeColon));
    assert_eq!((request.method_span().of(head), request.target().of(head)), (&b"PUT"[..], &b"/a"[..]));
    assert!(request.fields().is_empty());
    let limits = HeadLimits { head_bytes_max: 20, ..HeadLimits::default() };
    assert_eq!(request.parse(head, &limits), Err(HeadError::HeadTooLarge));
    assert_eq!(request.target().of(head), b"/a");
    assert_eq!(request.parse(b"PUT /a H", &HeadLimits::default()), Err(HeadError::NotOneHead));
    assert_eq!(request.target().of(head), b"/a");
}

#[test]
fn idempotent_methods_are_those_of_rfc_9110_9_2_2() {
    for (name, is_idempotent) in [
        ("GET", true),
        ("HEAD", true),
        ("PUT", true),
        ("DELETE", true),
        ("OPTIONS", true),
        ("TRACE", true),
        ("POST", false),
        ("PATCH", false),
        ("CONNECT", false),
        ("get", false),
    ] {
        assert_eq!(Method::of(name.as_bytes()).is_idempotent(), is_idempotent, "{name}");
    }
}
