//! Facts about the outgoing head.

use std::io::IoSlice;

use ringfence_http1::{HeadLimits, OutgoingHead, RequestHead};

const INPUT: &[u8] = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: x\r\nA: 1\r\nX: 2\r\nB: 3\r\n\r\n";

/// The head as a proxy would send it on: hop-by-hop lines left out, one line added.
fn forwarded() -> OutgoingHead {
    let mut request = RequestHead::with_capacity(8);
    request.parse(INPUT, &HeadLimits::default()).unwrap();
    let mut outgoing = OutgoingHead::with_capacity(8, 64);
    outgoing.push_input(request.start_line());
    for field in request.fields().iter().filter(|field| !field.hop_by_hop) {
        outgoing.push_input(field.line);
    }
    outgoing.push_owned(b"Via: 1.1 ");
    outgoing.push_owned(b"ringfence\r\n");
    outgoing.push_owned(b"\r\n");
    outgoing
}

fn written(outgoing: &OutgoingHead, skip: usize, slots: usize) -> Vec<Vec<u8>> {
    let mut out = vec![IoSlice::new(b""); slots];
    let filled = outgoing.slices(INPUT, skip, &mut out);
    out[..filled].iter().map(|slice| slice.to_vec()).collect()
}

#[test]
fn unchanged_lines_coalesce_into_runs_of_the_input() {
    let outgoing = forwarded();
    let slices = written(&outgoing, 0, 8);
    let expected: [&[u8]; 4] =
        [b"GET / HTTP/1.1\r\nHost: h\r\n", b"A: 1\r\n", b"B: 3\r\n", b"Via: 1.1 ringfence\r\n\r\n"];
    // `Connection: x` names `X`, so that line is a gap too.
    assert_eq!(slices, expected);
    assert_eq!(outgoing.slice_count(), 4);
    assert_eq!(outgoing.len(), slices.concat().len());
}

/// Checked by resuming at each byte, also with too few slots.
#[test]
fn what_remains_after_a_partial_write_is_the_rest() {
    let outgoing = forwarded();
    let whole = written(&outgoing, 0, 8).concat();
    for sent in 0..=whole.len() {
        assert_eq!(written(&outgoing, sent, 8).concat(), &whole[sent..]);
        assert!(whole[sent..].starts_with(&written(&outgoing, sent, 1).concat()));
    }
    assert!(written(&outgoing, whole.len(), 8).is_empty());
}

#[test]
fn a_cleared_head_is_empty() {
    let mut outgoing = forwarded();
    outgoing.clear();
    assert!(outgoing.is_empty());
    assert!(written(&outgoing, 0, 8).is_empty());
}
