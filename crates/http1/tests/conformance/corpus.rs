//! The corpus: every file under `tests/corpus/http1*` of the workspace, accepted, refused or unfinished as its folder
//! says.
//!
//! A file is one message, possibly followed by the next; its name is the section of the RFC and the case. Answers to
//! `HEAD` end with `.to-head.http`; a refusal that is not answered 400 ends with its status, as in `.501.http`.

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
    /// The status at the end of the name, if one stands there.
    status: Option<u16>,
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

    /// Whether `body` holds this many bytes; a length that ringfence refuses for its size is not spelled out.
    fn holds(&self, length: u64, body: &[u8]) -> bool {
        self.status == Some(413) || body.len() as u64 >= length
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
    let words: Vec<&str> = name.split('.').collect();
    let to_head = words.contains(&"to-head");
    let kind = if is_response { Kind::Response { to_head } } else { Kind::Request };
    let is_status = |word: &&&str| word.len() == 3 && word.bytes().all(|byte| byte.is_ascii_digit());
    let status = words.iter().rev().nth(1).filter(is_status).map(|word| word.parse().unwrap());
    Case { bytes: fs::read(path).unwrap(), name, kind, status }
}

/// The verdict on a whole file.
#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Accepted,
    /// In the head, with this status, or in the body.
    Refused(Option<u16>),
    /// Neither yet: bytes are missing.
    Unfinished,
}

fn verdict(case: &Case) -> Verdict {
    let end = match observe::scan(&case.bytes, &[]) {
        Ok(Some(end)) => end,
        Ok(None) => return Verdict::Unfinished,
        Err(error) => return Verdict::Refused(Some(error.suggested_status())),
    };
    let (head, body) = case.bytes.split_at(end);
    match case.observed(head) {
        Err(status) => Verdict::Refused(Some(status)),
        Ok(head) if head.framing == Framing::Chunked => match observe::chunked(body, &[]) {
            Body::Ended { .. } => Verdict::Accepted,
            Body::Unfinished => Verdict::Unfinished,
            Body::Refused => Verdict::Refused(None),
        },
        Ok(Head { framing: Framing::Length(length), .. }) if !case.holds(length, body) => Verdict::Unfinished,
        Ok(_) => Verdict::Accepted,
    }
}

#[test]
fn accepted_messages_are_accepted() {
    assert_verdicts("accept", |_, verdict| verdict == Verdict::Accepted);
}

#[test]
fn refused_requests_are_refused_with_their_status_and_responses_at_all() {
    assert_verdicts("reject", |case, verdict| match (case.kind, verdict) {
        (Kind::Request, Verdict::Refused(status)) => status.unwrap_or(400) == case.status.unwrap_or(400),
        (_, verdict) => matches!(verdict, Verdict::Refused(_)),
    });
}

#[test]
fn unfinished_messages_are_neither_accepted_nor_refused() {
    assert_verdicts("incomplete", |_, verdict| verdict == Verdict::Unfinished);
}

/// Judges each case of `http1/FOLDER` and `http1-response/FOLDER` and names those that are not judged as they should.
fn assert_verdicts(folder: &str, is_right: impl Fn(&Case, Verdict) -> bool) {
    let cases = ["http1", "http1-response"].iter().flat_map(|of| cases(&format!("{of}/{folder}")));
    let wrong: Vec<String> = cases
        .filter(|case| !is_right(case, verdict(case)))
        .map(|case| format!("{}: {:?}", case.name, verdict(&case)))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
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

/// Checked by scanning each prefix afresh, growing the buffer from each split point and growing it byte by byte; reading
/// says the same as scanning and parsing.
#[test]
fn request_and_response_heads_do_not_depend_on_read_boundaries() {
    for case in all().iter().filter(|case| case.bytes.len() <= SPLIT_BYTES_MAX) {
        let whole = observe::scan(&case.bytes, &[]);
        let every: Vec<usize> = (0..case.bytes.len()).collect();
        assert_eq!(observe::scan(&case.bytes, &every), whole, "{} byte by byte", case.name);
        observe::read_as_scanned_and_parsed(&case.bytes, &every);
        for split in every {
            observe::read_as_scanned_and_parsed(&case.bytes, &[split]);
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
        // Long bodies are split here and there: each split decodes all of it.
        for split in every.into_iter().step_by(1 + body.len() / SPLIT_BYTES_MAX * 64) {
            assert_eq!(observe::chunked(body, &[split]), whole, "{} {split}", case.name);
        }
    }
}

pub(crate) fn all() -> Vec<Case> {
    let folders = ["http1", "http1-response"]
        .map(|of| ["accept", "reject", "incomplete"].map(|as_| format!("{of}/{as_}")));
    folders.as_flattened().iter().flat_map(|folder| cases(folder)).collect()
}

/// Longest file, in bytes, that is split at every byte: the oracle is quadratic.
const SPLIT_BYTES_MAX: usize = 2048;
