//! The corpus on disk: cases by folder and name (`tests/corpus/README.md` tells the format).

use std::fs;
use std::path::{Path, PathBuf};

/// What becomes of a case, by its folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Folder {
    /// Goes through, as exactly what it is.
    Accept,
    /// Is refused.
    Reject,
    /// Lacks bytes at its end when its sender closes.
    Incomplete,
}

/// One file.
#[derive(Clone, Debug)]
pub struct Case {
    /// The file's name without folder and `.http`.
    pub name: String,
    /// What becomes of it.
    pub folder: Folder,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The status that ends the name: of the answer that ringfence makes itself.
    pub status: Option<u16>,
    /// A response to `HEAD`.
    pub to_head: bool,
}

/// The cases of `http1` or `http1-response`, all folders, by name.
#[must_use]
pub fn cases(of: &str) -> Vec<Case> {
    let folders =
        [("accept", Folder::Accept), ("reject", Folder::Reject), ("incomplete", Folder::Incomplete)];
    let in_folder = |(name, folder): &(&str, Folder)| {
        files(&format!("{of}/{name}"))
            .into_iter()
            .map(|(name, bytes)| case(name, *folder, bytes))
            .collect::<Vec<_>>()
    };
    folders.iter().flat_map(in_folder).collect()
}

/// The scripts of `exchange`, by name.
#[must_use]
pub fn scripts() -> Vec<(String, Vec<u8>)> {
    files("exchange")
}

/// Where the corpus is.
#[must_use]
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(root().join(folder)).expect("a folder of the corpus");
    let read = |path: PathBuf| {
        let name = path.file_name()?.to_str()?.strip_suffix(".http")?.to_owned();
        Some((name, fs::read(path).ok()?))
    };
    let mut files: Vec<_> = entries.filter_map(|entry| read(entry.ok()?.path())).collect();
    files.sort();
    assert!(!files.is_empty(), "no cases in {folder}");
    files
}

fn case(name: String, folder: Folder, bytes: Vec<u8>) -> Case {
    let last = name.rsplit('.').next().unwrap_or_default();
    let is_status = last.len() == 3 && last.bytes().all(|byte| byte.is_ascii_digit());
    let status = if is_status { last.parse().ok() } else { None };
    let to_head = name.split('.').any(|word| word == "to-head");
    Case { name, folder, bytes, status, to_head }
}

/// The groups of the README's table: name, sections, and how many cases of each kind the table says there are.
#[must_use]
pub fn groups() -> Vec<Group> {
    let readme = fs::read_to_string(root().join("README.md")).expect("the corpus has a README");
    let rows = readme.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    rows.filter_map(Group::parse).collect()
}

/// A row of the README's table.
#[derive(Clone, Debug)]
pub struct Group {
    /// What its cases are about.
    pub name: String,
    /// `RFC-SECTION` prefixes of its cases' names; the longest match of all groups decides.
    pub prefixes: Vec<String>,
    /// Requests, responses and exchanges.
    pub counts: [usize; 3],
}

impl Group {
    fn parse(row: &str) -> Option<Group> {
        let columns: Vec<&str> = row.split(" | ").map(str::trim).collect();
        let [name, prefixes, requests, responses, exchanges] = columns[..] else { return None };
        let counts = [requests.parse().ok()?, responses.parse().ok()?, exchanges.parse().ok()?];
        let prefixes = prefixes.split(", ").map(|prefix| prefix.trim_matches('`').to_owned()).collect();
        Some(Group { name: name.to_owned(), prefixes, counts })
    }
}

/// The group of the case of this name, by index.
#[must_use]
pub fn group_of(groups: &[Group], name: &str) -> Option<usize> {
    let longest = |group: &Group| {
        group.prefixes.iter().filter(|prefix| name.starts_with(*prefix)).map(String::len).max()
    };
    let matches = groups.iter().enumerate().filter_map(|(index, group)| Some((longest(group)?, index)));
    matches.max().map(|(_, index)| index)
}
