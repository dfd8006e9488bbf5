//! SECURITY.md says what the sources say: limits, defaults, statuses, and where unsafe code is.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a package of the workspace")
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The cells of the table under this heading row, without the row itself.
fn table(heading: &str) -> Vec<Vec<String>> {
    let text = read("SECURITY.md");
    tables(&text, heading).into_iter().next().unwrap_or_else(|| panic!("SECURITY.md has no table {heading}"))
}

/// Every table under such a heading row.
fn tables(text: &str, heading: &str) -> Vec<Vec<Vec<String>>> {
    let lines: Vec<&str> = text.lines().collect();
    let headings = lines.iter().enumerate().filter(|(_, line)| **line == heading);
    let rows =
        |(at, _)| lines[at + 2..].iter().take_while(|line| line.starts_with('|')).map(|row| cells(row));
    headings.map(|heading| rows(heading).collect()).collect()
}

fn cells(row: &str) -> Vec<String> {
    row.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', "")).collect()
}

/// Rust files below `crates/`, with their path from the root.
fn sources() -> Vec<(String, String)> {
    let mut files = Vec::new();
    collect(&root().join("crates"), &mut files);
    assert!(files.len() > 50, "crates/ was not found");
    let name = |path: &Path| path.strip_prefix(root()).expect("below the root").display().to_string();
    files.iter().map(|path| (name(path), fs::read_to_string(path).expect("a readable file"))).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for path in fs::read_dir(folder).expect("a readable folder").flatten().map(|entry| entry.path()) {
        if path.is_dir() {
            collect(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

/// The configurable limits or timeouts as `crates/ringfence/src/config/limits.rs` reads them: key, then default, smallest
/// and largest value as they are written there.
fn bounds(readers: &[&str]) -> BTreeMap<String, [String; 3]> {
    let text = read("crates/ringfence/src/config/limits.rs");
    let mut found = BTreeMap::new();
    for reader in readers {
        for (at, call) in text.match_indices(&format!("table.{reader}(\"")) {
            let (key, rest) = text[at + call.len()..].split_once("\", &").expect("a key and its bound");
            let constant = rest.split(')').next().expect("a bound");
            found.insert(key.to_owned(), bound(&text, constant));
        }
    }
    assert!(!found.is_empty(), "nothing is read by {readers:?}");
    found
}

fn bound(text: &str, constant: &str) -> [String; 3] {
    let (_, body) = text.split_once(&format!("const {constant}: Bound<")).expect("a bound's declaration");
    ["default: ", "min: ", "max: "].map(|field| {
        let (_, value) = body.split_once(field).expect("a bound's field");
        value[..value.find([',', '}']).expect("the field's end")].trim().to_owned()
    })
}

/// The value of an expression of the sources: a product of numbers and named units; `secs(5)` is five times `secs`.
fn value(expression: &str) -> u128 {
    expression.replace('(', " * ").replace(')', "").split(" * ").map(factor).product()
}

fn factor(text: &str) -> u128 {
    let name = text.rsplit("::").next().unwrap_or(text);
    name.replace('_', "").parse().unwrap_or_else(|_| unit(name))
}

/// Bytes of a size, nanoseconds of a duration.
fn unit(name: &str) -> u128 {
    let ms = 1_000_000;
    match name {
        "KIB" | "KiB" => 1 << 10,
        "MIB" | "MiB" => 1 << 20,
        "GIB" => 1 << 30,
        "TiB" => 1 << 40,
        "ms" | "from_millis" => ms,
        "s" | "secs" | "from_secs" => 1000 * ms,
        "min" | "mins" => 60_000 * ms,
        "h" => 3_600_000 * ms,
        "d" => 86_400_000 * ms,
        "SHORTEST" => 10 * ms,
        "BULK_BUFFER_BYTES" => value(&constant(name)),
        other => panic!("{other} is no unit that this test knows"),
    }
}

/// The value that is told, such as `32 KiB`.
fn told(cell: &str) -> u128 {
    let (number, name) = cell.split_once(' ').unwrap_or((cell, ""));
    let number: u128 = number.parse().unwrap_or_else(|_| panic!("{cell} is no value"));
    number * if name.is_empty() { 1 } else { unit(name) }
}

/// What a constant of the crates is set to.
fn constant(name: &str) -> String {
    let declared = format!("const {name}: ");
    let found = sources().into_iter().find_map(|(_, text)| {
        let (_, rest) = text.split_once(&declared)?;
        Some(rest[rest.find(" = ")? + 3..rest.find(';')?].to_owned())
    });
    found.unwrap_or_else(|| panic!("no crate has a constant {name}"))
}

#[test]
fn configurable_limits_are_told_as_they_are() {
    let text = read("SECURITY.md");
    let tables = tables(&text, "| key | default | from | to |");
    assert_eq!(tables.len(), 2, "a table for limits and one for timeouts");
    for (table, readers) in tables.iter().zip([&["size", "count"][..], &["duration"][..]]) {
        let mut bounds = bounds(readers);
        for row in table {
            let expected = bounds.remove(&row[0]).unwrap_or_else(|| panic!("{} is no key", row[0]));
            let expected = expected.map(|expression| value(&expression));
            assert_eq!([&row[1], &row[2], &row[3]].map(|cell| told(cell)), expected, "{row:?}");
        }
        assert!(bounds.is_empty(), "SECURITY.md does not tell {bounds:?}");
    }
}

#[test]
fn fixed_bounds_are_told_as_they_are() {
    let rows = table("| constant | value | bounds |");
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        assert_eq!(told(&row[1]), value(&constant(&row[0])), "{row:?}");
    }
}

#[test]
fn every_status_of_a_refusal_is_told_and_no_other() {
    let text = read("crates/forward/src/respond.rs");
    let is_refusal = |line: &&str| line.trim_start().starts_with("Refusal::") && line.contains("=> ");
    let statuses = text.lines().filter(is_refusal).filter_map(|line| line.split("=> ").nth(1)?.get(..3));
    let mut expected: Vec<String> =
        statuses.filter(|status| status.parse::<u16>().is_ok()).map(str::to_owned).collect();
    assert!(expected.len() > 10, "{expected:?}");
    // Of the guard before admin paths, which is a rule and no refusal of the core.
    expected.push("403".to_owned());
    expected.sort();
    let told: Vec<String> = table("| status | when |").into_iter().map(|row| row[0].clone()).collect();
    assert_eq!(told, expected);
}

#[test]
fn what_shows_a_promise_is_there() {
    let rows = table("| promise | shown by |");
    assert!(rows.len() > 10, "{rows:?}");
    for row in rows {
        for path in row[1].split([',', ';']).map(str::trim).filter(|path| *path != "no test yet") {
            assert!(root().join(path).exists(), "{path} of {row:?}");
        }
    }
}

#[test]
fn unsafe_code_is_in_the_leaf_that_is_told_and_nowhere_else() {
    let is_unsafe = |line: &str| {
        // A word of Content-Security-Policy, too.
        let code = line.split("//").next().unwrap_or_default().replace("'unsafe-inline'", "");
        code.split(|char: char| !char.is_alphanumeric() && char != '_').any(|word| word == "unsafe")
    };
    let leaves = sources().into_iter().filter(|(_, text)| text.lines().any(is_unsafe)).map(|(name, _)| name);
    let text = read("SECURITY.md");
    let (_, told) = text.split_once("but for one leaf: `").expect("SECURITY.md tells the leaf");
    let told = told.split('`').next().unwrap_or_default();
    assert_eq!(leaves.collect::<Vec<_>>(), [told]);
}
