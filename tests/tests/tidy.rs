//! Rules of STYLE and CONTRIBUTING that no lint keeps, over every file of the repository.

use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package of the workspace")
}

/// Every file that belongs to the repository, with its path from the root.
fn files() -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    walk(root(), &mut found);
    assert!(found.len() > 50, "the repository was not found: {found:?}");
    let relative = |path: &PathBuf| path.strip_prefix(root()).expect("below the root").display().to_string();
    found.into_iter().map(|path| (relative(&path), path)).collect()
}

fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a readable folder").flatten() {
        let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
        match entry.file_type().expect("a file type") {
            _ if IGNORED.contains(&name.as_str()) => {}
            kind if kind.is_dir() => walk(&path, found),
            kind if kind.is_file() => found.push(path),
            _ => {}
        }
    }
}

/// What `.gitignore` names, and git's own folder, which is a file in a further worktree.
const IGNORED: &[&str] = &[".git", "target", ".venv", ".run", "__pycache__", "artifacts", "coverage"];

/// The text files with one of these extensions; with none given, all of them.
fn texts(extensions: &[&str]) -> Vec<(String, String)> {
    let wanted = |name: &str| {
        extensions.is_empty() || extensions.iter().any(|extension| name.ends_with(&format!(".{extension}")))
    };
    let readable = |(name, path): (String, PathBuf)| Some((name, fs::read_to_string(path).ok()?));
    files().into_iter().filter(|(name, _)| wanted(name)).filter_map(readable).collect()
}

/// Lines of code: without comments, so that prose may speak of what code must not do.
fn code_lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let numbered = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    numbered.filter(|(_, line)| !line.trim_start().starts_with("//"))
}

fn assert_none(faults: Vec<String>, rule: &str) {
    assert!(faults.is_empty(), "{rule}:\n{}", faults.join("\n"));
}

#[test]
fn files_over_800_lines_say_why() {
    let long = texts(&["rs"]).into_iter().filter(|(_, text)| text.lines().count() > 800);
    let silent = long.filter(|(_, text)| {
        let docs: String = text.lines().take_while(|line| line.starts_with("//!")).collect();
        !["long", "one file", "lines"].iter().any(|word| docs.contains(word))
    });
    assert_none(
        silent.map(|(name, _)| name).collect(),
        "these files are over 800 lines and their //! does not say why",
    );
}

#[test]
fn every_crate_forbids_unsafe_code() {
    let is_root = |name: &str| {
        name.ends_with("src/lib.rs") || name.ends_with("src/main.rs") || name.contains("/src/bin/")
    };
    let roots = texts(&["rs"]).into_iter().filter(|(name, _)| is_root(name));
    let lenient = roots.filter(|(_, text)| {
        !["forbid", "deny"].iter().any(|level| text.contains(&format!("#![{level}(unsafe_code)]")))
    });
    assert_none(lenient.map(|(name, _)| name).collect(), "these crates do not forbid unsafe code");
}

#[test]
fn the_leaves_that_allow_unsafe_code_are_listed() {
    let contributing = fs::read_to_string(root().join("CONTRIBUTING.md")).unwrap_or_default();
    let allowance = concat!("allow(unsafe", "_code)");
    let leaves = texts(&["rs"]).into_iter().filter(|(_, text)| text.contains(allowance));
    let unlisted = leaves.filter(|(name, _)| !contributing.contains(name.as_str()));
    assert_none(unlisted.map(|(name, _)| name).collect(), "CONTRIBUTING does not list these leaves");
}

#[test]
fn every_rust_file_begins_with_what_it_owns() {
    let silent = texts(&["rs"]).into_iter().filter(|(name, text)| {
        let first = text.lines().find(|line| !line.starts_with("#!")).unwrap_or_default();
        // A module of tests is described by what it tests; a fuzz target by its attribute and name.
        !first.starts_with("//!")
            && !name.ends_with("/tests.rs")
            && !name.contains("/tests/")
            && !name.starts_with("fuzz/")
    });
    assert_none(silent.map(|(name, _)| name).collect(), "these files have no //!");
}

#[test]
fn nothing_is_left_to_be_done() {
    let unfinished = ["todo", "unimplemented", "dbg"].map(|name| format!("{name}!("));
    let notes =
        ["TO", "FIX", "XX"].iter().zip(["DO", "ME", "X"]).map(|(left, right)| format!("{left}{right}"));
    let notes: Vec<String> = notes.collect();
    let mut faults = Vec::new();
    for (name, text) in texts(&["rs", "py", "toml", "sh", "md"]) {
        for (number, line) in text.lines().enumerate() {
            let is_call = name.ends_with(".rs") && unfinished.iter().any(|call| line.contains(call));
            let is_note = notes.iter().any(|note| has_word(line, note));
            if is_call || is_note {
                faults.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(faults, "unfinished");
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|char: char| !char.is_alphanumeric()).any(|found| found == word)
}

#[test]
fn names_say_what_things_are() {
    let empty_words = ["utils", "util", "manager", "helper", "helpers", "misc", "common"];
    let mut faults = Vec::new();
    for (name, text) in texts(&["rs"]) {
        let stem = Path::new(&name).file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
        if stem.split('_').any(|word| empty_words.contains(&word)) {
            faults.push(name.clone());
        }
        for (number, line) in code_lines(&text) {
            let mut words = line.split_whitespace().skip_while(|word| *word != "fn").skip(1);
            if words.next().is_some_and(|function| function.starts_with(concat!("get", "_"))) {
                faults.push(format!("{name}:{number}: {}", line.trim()));
            }
        }
    }
    assert_none(faults, "names without meaning");
}

#[test]
fn nothing_of_one_machine_is_written_down() {
    // Spelled in halves, so that this file keeps its own rule.
    let folders = [["/wo", "rk/"], ["/ro", "ot/"], ["/ho", "me/"]].map(|halves| halves.concat());
    let registries = [
        ["pypi", ".org"],
        ["pythonhosted", ".org"],
        ["crates", ".io"],
        ["npmjs", ".org"],
        ["deb.debian", ".org"],
        ["docker", ".io"],
        ["proxy.golang", ".org"],
        ["ghcr", ".io"],
    ]
    .map(|halves| halves.concat());
    let mut faults = Vec::new();
    for (name, text) in texts(&[]).into_iter().filter(|(name, _)| !name.ends_with("Cargo.lock")) {
        for (number, line) in text.lines().enumerate() {
            let has_folder = folders.iter().any(|folder| is_absolute(line, folder));
            if has_folder || registries.iter().any(|registry| line.contains(registry.as_str())) {
                faults.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(faults, "paths of one machine, or registries by name");
}

/// Whether `folder` stands in `line` as the beginning of a path.
fn is_absolute(line: &str, folder: &str) -> bool {
    let begins_path = |at: usize| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|before| before.is_alphanumeric() || "._-}$/".contains(before))
    };
    line.match_indices(folder).any(|(at, _)| begins_path(at))
}

#[test]
fn every_bound_has_a_reason() {
    let mut faults = Vec::new();
    for (name, text) in texts(&["rs"]) {
        let lines: Vec<&str> = text.lines().collect();
        for (index, line) in lines.iter().enumerate() {
            if is_bound(line) && !is_documented(&lines[..index]) {
                faults.push(format!("{name}:{}: {}", index + 1, line.trim()));
            }
        }
    }
    assert_none(faults, "bounds without a doc comment that gives unit and reason");
}

/// Whether this line begins a constant whose name ends like a bound.
fn is_bound(line: &str) -> bool {
    let declaration = line.trim_start();
    let declaration = declaration.strip_prefix("pub ").unwrap_or(declaration);
    let declaration = declaration.strip_prefix("pub(crate) ").unwrap_or(declaration);
    let name = declaration.strip_prefix("const ").and_then(|rest| rest.split(':').next());
    name.is_some_and(|name| ["_MAX", "_MIN", "_MS", "_BYTES"].iter().any(|ending| name.ends_with(ending)))
}

/// Whether a comment stands above, past attributes and other constants of the same group.
fn is_documented(above: &[&str]) -> bool {
    let mut above = above.iter().rev().map(|line| line.trim_start());
    let first = above.find(|line| !line.starts_with("#["));
    first.is_some_and(|line| line.starts_with("//") || line.starts_with("/// ") || line.ends_with("*/"))
}

#[test]
fn tests_are_named_as_facts() {
    let prefix = concat!("fn test", "_");
    let mut faults = Vec::new();
    for (name, text) in texts(&["rs"]) {
        let named = code_lines(&text).filter(|(_, line)| line.contains(prefix));
        faults.extend(named.map(|(number, line)| format!("{name}:{number}: {}", line.trim())));
    }
    assert_none(faults, "tests whose name is no fact");
}

#[test]
fn corpus_files_are_named_by_their_section() {
    let corpus = files().into_iter().map(|(name, _)| name).filter(|name| name.starts_with("tests/corpus/"));
    let is_sectioned = |name: &String| {
        let file = name.rsplit('/').next().unwrap_or_default();
        // RFC and section, then what it is about: `9112-6.3-cl-and-te.http`.
        let mut parts = file.splitn(3, '-');
        let rfc =
            parts.next().is_some_and(|rfc| rfc.len() == 4 && rfc.bytes().all(|byte| byte.is_ascii_digit()));
        let section = parts.next().is_some_and(|section| {
            !section.is_empty() && section.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
        });
        rfc && section && parts.next().is_some_and(|about| !about.is_empty())
    };
    let is_about_the_corpus =
        |name: &String| name.ends_with("README.md") || name.ends_with("/.gitattributes");
    let unnamed = corpus.filter(|name| !is_about_the_corpus(name) && !is_sectioned(name));
    assert_none(unnamed.collect(), "corpus files whose name does not give RFC and section");
}

#[test]
fn docs_do_not_cite_lines() {
    let mut faults = Vec::new();
    for (name, text) in texts(&["rs", "md"]) {
        for (number, line) in text.lines().enumerate() {
            let is_prose = name.ends_with(".md") || line.trim_start().starts_with("//");
            let cites = line
                .match_indices(".rs:")
                .any(|(at, _)| line[at + 4..].starts_with(|next: char| next.is_ascii_digit()));
            if is_prose && cites {
                faults.push(format!("{name}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(faults, "docs that cite file and line");
}
