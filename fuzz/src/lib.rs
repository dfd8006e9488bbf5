//! What each fuzz target checks: the code and an oracle that shares nothing with it agree on every input.
//!
//! The oracle of http1 is included from `crates/http1/tests/conformance/reference`, so that a rule changes in one
//! place.
#![forbid(unsafe_code)]
#![allow(dead_code, reason = "the oracle's modules serve the tests too")]

mod client_hello;
mod exchange;
mod matrix_path;
#[path = "../../crates/http1/tests/conformance/observe.rs"]
mod observe;
#[path = "../../crates/http1/tests/conformance/reference/mod.rs"]
mod reference;
#[path = "../../crates/forward/src/proxy_protocol/reference.rs"]
mod proxy_reference;

mod tls_records;

use ringfence_forward::proxy_protocol::parse as parse_proxy_header;

pub use client_hello::client_hello;
pub use exchange::exchange;
pub use matrix_path::matrix_path;
pub use tls_records::tls_records;

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

/// Looks for a PROXY header at the start of `input`, and of all that it begins with.
pub fn proxy_protocol(input: &[u8]) {
    let found = parse_proxy_header(input);
    assert_eq!(found.ok().flatten().map(|header| (header.length, header.client)), proxy_reference::header(input));
    for end in 0..input.len() {
        let earlier = parse_proxy_header(&input[..end]);
        let was_known = earlier != Ok(None);
        assert!(!was_known || earlier.is_ok() == found.is_ok(), "at {end}: {earlier:?}, then {found:?}");
        if let Ok(Some(header)) = earlier {
            assert_eq!(found, Ok(Some(header)));
            assert!(header.length <= end);
        }
    }
}

/// Reads `input` as a config file. What is no UTF-8 is refused before it comes to that.
pub fn config(input: &[u8]) {
    if let Ok(text) = std::str::from_utf8(input) {
        ringfence::fuzzing::config(text);
    }
}

/// The head at the front of `input`, or all of it when the scan finds none: it must not pass the parser then.
fn scanned(input: &[u8]) -> &[u8] {
    let end = reference::head::end(input);
    assert_eq!(observe::scan(input, &[]).map_err(|_| ()), end);
    assert_eq!(observe::scan(input, &[input.len() / 2]).map_err(|_| ()), end);
    observe::read_as_scanned_and_parsed(input, &[]);
    observe::read_as_scanned_and_parsed(input, &[input.len() / 2]);
    &input[..end.ok().flatten().unwrap_or(input.len())]
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    /// Replays the committed corpus of a target, without libFuzzer.
    fn replay(target: &str, check: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target);
        let seeds: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert!(!seeds.is_empty());
        for seed in seeds {
            println!("{}", seed.display());
            check(&fs::read(seed).unwrap());
        }
    }

    #[test]
    fn the_seeds_of_request_head_pass() {
        replay("request_head", super::request_head);
    }

    #[test]
    fn the_seeds_of_response_head_pass() {
        replay("response_head", super::response_head);
    }

    #[test]
    fn the_seeds_of_chunked_pass() {
        replay("chunked", super::chunked);
    }

    #[test]
    fn the_seeds_of_exchange_pass() {
        replay("exchange", super::exchange);
    }

    #[test]
    fn the_seeds_of_config_pass() {
        replay("config", super::config);
    }

    #[test]
    fn the_seeds_of_matrix_path_pass() {
        replay("matrix_path", super::matrix_path);
    }

    #[test]
    fn the_seeds_of_proxy_protocol_pass() {
        replay("proxy_protocol", super::proxy_protocol);
    }

    #[test]
    fn the_seeds_of_client_hello_pass() {
        replay("client_hello", super::client_hello);
    }

    #[test]
    fn the_seeds_of_tls_records_pass() {
        replay("tls_records", super::tls_records);
    }
}
