//! The corpus: every file under `tests/corpus/http1*` of the workspace, accepted or refused as its folder says.
//!
//! A file is one message, possibly followed by the next; its name is the section of the RFC and the case. Answers to
//! `HEAD` end with `.to-head.http`.

use std::fs;
use std::path::{Path, PathBuf};

use crate::observe;
use crate::reference::chunked::{self, Body};
use crate::reference::head::{self, Framing, Head};

/// One file.
pub(crate) struct Case {
    pub(crate) name: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) kind: Kind,
}

/// Which head begins the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Request,
    Response { to_head: bool },
}

impl Case {
    /// What the oracle says of `head`.
    pub(crate) fn expected(&self, head: &[u8]) -> Option<Head> {
        match self.kind {
            Kind::Request => head::request(head),
            Kind::Response { to_head } => head::response(head, to_head),
        }
    }

    /// What the crate says of `head`: the head, or the status of the refusal.
    pub(crate) fn observed(&self, head: &[u8]) -> Result<Head, u16> {
        let observed = match self.kind {
            Kind::Request => observe::request(head),
            Kind::Response { to_head } => observe::response(head, to_head),
        };
        observed.map_err(|error| error.suggested_status())
    }
}

/// The cases of `http1/accept` and the like.
pub(crate) fn cases(folder: &str) -> Vec<Case> {
    let folder: PathBuf = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/corpus").join(folder);
    let entries = fs::read_dir(&folder).unwrap();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    assert!(!paths.is_empty());
    paths.iter().map(|path| case(path)).collect()
}

fn case(path: &Path) -> Case {
    let name = path.file_name().unwrap().to_str().unwrap().to_owned();
    let is_response = path.components().any(|part| part.as_os_str() == "http1-response");
    let to_head = name.ends_with(".to-head.http");
    let kind = if is_response { Kind::Response { to_head } } else { Kind::Request };
    Case { bytes: fs::read(path).unwrap(), name, kind }
}

/// The verdict on a whole file.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Accepted,
    /// In the head, with this status, or in the body.
    Refused(Option<u16>),
}

fn verdict(case: &Case) -> Verdict {
    let end = match observe::scan(&case.bytes, &[]) {
        Ok(end) => end.expect("a corpus file holds a whole head"),
        Err(error) => return Verdict::Refused(Some(error.suggested_status())),
    };
    let (head, body) = case.bytes.split_at(end);
    match case.observed(head) {
        Err(status) => Verdict::Refused(Some(status)),
        Ok(head) if head.framing == Framing::Chunked => match observe::chunked(body, &[]) {
            Body::Ended { .. } => Verdict::Accepted,
            Body::Unfinished | Body::Refused => Verdict::Refused(None),
        },
        Ok(_) => Verdict::Accepted,
    }
}

#[test]
fn accepted_messages_are_accepted() {
    for case in cases("http1/accept").iter().chain(&cases("http1-response/accept")) {
        assert_eq!(verdict(case), Verdict::Accepted, "{}", case.name);
    }
}

#[test]
fn refused_requests_are_refused_with_their_status() {
    for case in cases("http1/reject") {
        let Verdict::Refused(status) = verdict(&case) else { panic!("accepted: {}", case.name) };
        let expected =
            OTHER_STATUS.iter().find(|(name, _)| case.name.starts_with(name)).map_or(400, |it| it.1);
        assert_eq!(status.unwrap_or(400), expected, "{}", case.name);
    }
}

#[test]
fn refused_responses_are_refused() {
    for case in cases("http1-response/reject") {
        assert_ne!(verdict(&case), Verdict::Accepted, "{}", case.name);
    }
}

/// Checked by comparing everything that the crate and the oracle say of each head.
#[test]
fn heads_say_what_the_oracle_says() {
    for case in all() {
        let end = head::end(&case.bytes);
        assert_eq!(observe::scan(&case.bytes, &[]).map_err(|_| ()), end, "{}", case.name);
        let Ok(Some(end)) = end else { continue };
        let head = &case.bytes[..end];
        assert_eq!(case.observed(head).ok(), case.expected(head), "{}", case.name);
    }
}

/// Checked by scanning each prefix afresh, growing the buffer from each split point and growing it byte by byte.
#[test]
fn request_and_response_heads_do_not_depend_on_read_boundaries() {
    for case in all().iter().filter(|case| case.bytes.len() <= SPLIT_BYTES_MAX) {
        let whole = observe::scan(&case.bytes, &[]);
        let every: Vec<usize> = (0..case.bytes.len()).collect();
        assert_eq!(observe::scan(&case.bytes, &every), whole, "{} byte by byte", case.name);
        for split in every {
            let prefix = &case.bytes[..split];
            assert_eq!(
                observe::scan(prefix, &[]).map_err(|_| ()),
                head::end(prefix),
                "{} {split}",
                case.name
            );
            assert_eq!(observe::scan(&case.bytes, &[split]), whole, "{} {split}", case.name);
        }
    }
}

/// Checked with one split at each byte, with a read for each byte, and against the oracle's content.
#[test]
fn chunked_bodies_do_not_depend_on_read_boundaries() {
    for case in all() {
        let Ok(Some(end)) = head::end(&case.bytes) else { continue };
        let body = &case.bytes[end..];
        if !matches!(case.expected(&case.bytes[..end]), Some(Head { framing: Framing::Chunked, .. })) {
            continue;
        }
        let whole = observe::chunked(body, &[]);
        assert!(chunked::parse(body).allows(&whole), "{} {whole:?}", case.name);
        let every: Vec<usize> = (0..body.len()).collect();
        assert_eq!(observe::chunked(body, &every), whole, "{} byte by byte", case.name);
        for split in every.into_iter().take(SPLIT_BYTES_MAX) {
            assert_eq!(observe::chunked(body, &[split]), whole, "{} {split}", case.name);
        }
    }
}

pub(crate) fn all() -> Vec<Case> {
    ["http1/accept", "http1/reject", "http1-response/accept", "http1-response/reject"]
        .into_iter()
        .flat_map(cases)
        .collect()
}

/// Longest file, in bytes, that is split at every byte: the oracle is quadratic.
const SPLIT_BYTES_MAX: usize = 2048;

/// Refusals that are not answered 400, by the start of their file's name.
const OTHER_STATUS: &[(&str, u16)] = &[
    ("9110-10.1.1-expect-", 417),
    ("9110-5.4-head-too-large", 431),
    ("9112-2.3-version-1.2", 505),
    ("9112-2.3-version-2.0", 505),
    ("9112-3.2-target-too-long", 414),
    ("9112-5-too-many-fields", 431),
    ("9112-6.1-te-gzip-and-chunked", 501),
    ("9112-6.1-te-identity", 501),
    ("9112-6.1-te-unknown", 501),
    ("9112-6.1-te-xchunked", 501),
    ("9113-3.4-http2-preface", 505),
];
