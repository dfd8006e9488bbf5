//! What each fuzz target checks: the crate and the oracle of its tests agree on every input.
//!
//! The oracle is included from `crates/http1/tests/conformance/reference`, so that a rule changes in one place.
#![forbid(unsafe_code)]
#![allow(dead_code, reason = "the oracle's modules serve the tests too")]

#[path = "../../crates/http1/tests/conformance/observe.rs"]
mod observe;
#[path = "../../crates/http1/tests/conformance/reference/mod.rs"]
mod reference;

/// Scans and parses `input` as a request head.
pub fn request_head(input: &[u8]) {
    let head = scanned(input);
    assert_eq!(observe::request(head).ok(), reference::head::request(head));
}

/// Scans and parses `input` as a response head, to `GET` and to `HEAD`.
pub fn response_head(input: &[u8]) {
    let head = scanned(input);
    for to_head in [false, true] {
        assert_eq!(observe::response(head, to_head).ok(), reference::head::response(head, to_head));
    }
}

/// Decodes `input` behind its first byte as a chunked body that arrives in two reads; that byte says where they part.
pub fn chunked(input: &[u8]) {
    let Some((split, body)) = input.split_first() else { return };
    let split = usize::from(*split).min(body.len());
    let observed = observe::chunked(body, &[split]);
    assert_eq!(observed, observe::chunked(body, &[]));
    assert!(reference::chunked::parse(body).allows(&observed), "{observed:?}");
}

/// The head at the front of `input`, or all of it when the scan finds none: it must not pass the parser then.
fn scanned(input: &[u8]) -> &[u8] {
    let end = reference::head::end(input);
    assert_eq!(observe::scan(input, &[]).map_err(|_| ()), end);
    assert_eq!(observe::scan(input, &[input.len() / 2]).map_err(|_| ()), end);
    &input[..end.ok().flatten().unwrap_or(input.len())]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Replays the committed corpus, without libFuzzer.
    #[test]
    fn the_corpus_passes() {
        for (target, check) in [
            ("request_head", super::request_head as fn(&[u8])),
            ("response_head", super::response_head),
            ("chunked", super::chunked),
        ] {
            for entry in
                fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target)).unwrap()
            {
                check(&fs::read(entry.unwrap().path()).unwrap());
            }
        }
    }
}
