//! Facts about the chunked coding that the oracle does not state: parts, reasons, bounds, what we write.

use ringfence_http1::{
    Advanced, CHUNK_SIZE_MAX, ChunkedDecoder, ChunkedError, ChunkedPart, EXTENSION_BYTES_MAX, LAST_CHUNK,
    TRAILER_BYTES_MAX, chunk_header,
};

#[test]
fn parts_come_in_runs_of_one_kind() {
    let input = b"3;x\r\nabc\r\n0\r\nX: y\r\nZ: \r\n\r\nnext";
    let mut decoder = ChunkedDecoder::new();
    let mut at = 0;
    for (len, part) in [
        (5, ChunkedPart::Framing),
        (3, ChunkedPart::Data(0..3)),
        (5, ChunkedPart::Framing),
        (11, ChunkedPart::Trailer),
        (2, ChunkedPart::End),
        (0, ChunkedPart::End),
    ] {
        assert_eq!(decoder.next(&input[at..]), Ok((len, part)));
        at += len;
    }
    assert_eq!(&input[at..], b"next");
}

#[test]
fn data_passes_as_far_as_it_arrived() {
    let mut decoder = ChunkedDecoder::new();
    assert_eq!(decoder.next(b"5\r\n"), Ok((3, ChunkedPart::Framing)));
    assert_eq!(decoder.next(b""), Ok((0, ChunkedPart::NeedMore)));
    assert_eq!(decoder.next(b"he"), Ok((2, ChunkedPart::Data(0..2))));
    assert_eq!(decoder.next(b"llo\r"), Ok((3, ChunkedPart::Data(0..3))));
    assert_eq!(decoder.next(b"\r"), Ok((1, ChunkedPart::Framing)));
    assert!(!decoder.is_ended());
}

#[test]
fn a_relay_learns_what_belongs_to_the_message() {
    let input = b"3\r\nabc\r\n0\r\n\r\nGET /";
    let all = Advanced { consumed: 13, data: 3, ended: true };
    assert_eq!(ChunkedDecoder::new().advance(input), Ok(all));
}

#[test]
fn an_error_is_final() {
    let mut decoder = ChunkedDecoder::new();
    assert_eq!(decoder.next(b"x"), Err(ChunkedError::Size));
    assert_eq!(decoder.next(b"0\r\n\r\n"), Err(ChunkedError::Size));
    assert_eq!(decoder.advance(b""), Err(ChunkedError::Size));
}

#[test]
fn each_refusal_names_its_reason() {
    use ChunkedError as E;
    for (input, error) in [
        ("\r\n", E::Size),
        ("1 \r\n", E::Extension),
        ("8000000000000000\r\n", E::SizeTooLarge),
        ("00000000000000000", E::Size),
        ("1\n", E::Size),
        ("1\r\r", E::LineEnd),
        ("1\r\nab", E::LineEnd),
        ("1;\r\n", E::Extension),
        ("1;a=\"\n", E::Extension),
        ("0\r\nHost: x", E::TrailerForbidden),
        ("0\r\nX\r\n", E::TrailerLine),
        ("0\r\n X", E::TrailerLine),
        ("0\r\nX: y\rz", E::LineEnd),
    ] {
        assert_eq!(ChunkedDecoder::new().advance(input.as_bytes()), Err(error), "{input:?}");
    }
}

#[test]
fn bounds_hold_at_their_edge() {
    let refusal = |input: String| ChunkedDecoder::new().advance(input.as_bytes()).err();
    let extension = |len: usize| format!("1;{}", "a".repeat(len - 1));
    assert_eq!(refusal(extension(EXTENSION_BYTES_MAX)), None);
    assert_eq!(refusal(extension(EXTENSION_BYTES_MAX + 1)), Some(ChunkedError::ExtensionTooLong));
    let trailer = |len: usize| format!("0\r\nX:{}\r\n\r\n", "a".repeat(len - 4));
    assert_eq!(refusal(trailer(TRAILER_BYTES_MAX)), None);
    assert_eq!(refusal(trailer(TRAILER_BYTES_MAX + 1)), Some(ChunkedError::TrailerTooLong));
    assert_eq!(refusal(format!("{CHUNK_SIZE_MAX:x}\r\n")), None);
}

/// Checked by decoding what is written.
#[test]
fn what_is_written_is_what_is_read() {
    for len in [1, 9, 10, 15, 16, 255, 4096, 65_537] {
        let data = vec![b'x'; len];
        let body = [chunk_header(len as u64).as_slice(), &data, b"\r\n", LAST_CHUNK].concat();
        let all = Advanced { consumed: body.len(), data: len as u64, ended: true };
        assert_eq!(ChunkedDecoder::new().advance(&body), Ok(all));
    }
    assert_eq!(chunk_header(u64::MAX).as_slice(), b"ffffffffffffffff\r\n");
}
