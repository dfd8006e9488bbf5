//! `docs/config.md`: every key of the config file, written from the schemas by which it is read.

use super::{
    SCHEMAS,
    schema::{Key, Schema, Value},
};

/// What stands above the tables.
const PREAMBLE: &str = "\
<!-- Written by `ringfence config-reference` from the code: a change here is overwritten, and fails a test. -->
# Every key of the config file

The file is [TOML](https://toml.io), by default `/etc/ringfence/ringfence.toml`. `ringfence check` tells all mistakes in it
at once, with line and column, and says what the file means. [`deploy/examples/`](../deploy/examples) holds whole files.

A **size** is a number of bytes, or text with a unit: `\"512 B\"`, `\"64 KiB\"`, `\"50 MiB\"`, `\"2 GiB\"`. A **duration** is
text with its unit: `\"500ms\"`, `\"30s\"`, `\"5min\"`, `\"1h\"`. A **server name** is a host name or an address, with a port if
need be. A **network** is `\"10.0.0.0/8\"`, `\"2001:db8::/32\"` or a single address. Only what a key's row calls required has
to be written.
";

/// The whole page, in Markdown.
pub(crate) fn reference() -> String {
    SCHEMAS.iter().map(section).fold(PREAMBLE.to_owned(), |page, section| page + "\n" + &section)
}

fn section(schema: &Schema) -> String {
    let rows: String = schema.keys.iter().filter_map(row).collect();
    format!(
        "## {}\n\n{}\n\n| key | what it is | default | range | what for, and why |\n|---|---|---|---|---|\n{rows}",
        title(schema.heading),
        schema.about
    )
}

/// The heading of a table as code, that of the rest as it is.
fn title(heading: &str) -> String {
    if heading.starts_with('[') { code(heading) } else { capitalised(heading) }
}

/// One line of a table; `None` for what has a section of its own.
fn row(key: &Key) -> Option<String> {
    if matches!(key.value, Value::Table) {
        return None;
    }
    let default = key.value.default();
    let default = if is_toml(&default) { code(&default) } else { default };
    let range = key.value.range().map_or(String::new(), |(min, max)| format!("{min} to {max}"));
    let cells = [code(key.name), key.value.form().to_owned(), default, range, sentences(key.about)];
    Some(format!("| {} |\n", cells.map(|cell| cell.replace('|', "\\|")).join(" | ")))
}

/// Whether this could stand behind an equals sign, so that it is no prose.
pub(super) fn is_toml(value: &str) -> bool {
    format!("key = {value}").parse::<toml::Table>().is_ok()
}

fn code(text: &str) -> String {
    format!("`{text}`")
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| first.to_uppercase().chain(chars).collect())
}

/// Doc comments in one line.
fn sentences(about: &str) -> String {
    about.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;
    use crate::config::parse;

    /// Where the page is kept.
    const PAGE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/config.md");

    /// What every file has to have, without a `[[listener]]`.
    const BASE: &str = "homeserver = [{ server_name = \"example.com\", upstream = \"http://127.0.0.1:8008\" }]\n\
        certificate = [{ chain = \"chain.pem\", key = \"key.pem\" }]\n";

    #[test]
    fn the_page_is_what_the_code_says() {
        let page = fs::read_to_string(PAGE).unwrap_or_default();
        assert!(
            page == reference(),
            "docs/config.md is out of date; run: cargo run -q -- config-reference > docs/config.md"
        );
    }

    #[test]
    fn every_key_is_described() {
        for schema in SCHEMAS {
            assert!(!schema.about.is_empty(), "{}", schema.heading);
            for key in schema.keys.iter().filter(|key| !matches!(key.value, Value::Table)) {
                assert!(sentences(key.about).ends_with('.'), "{}: {}", schema.heading, key.name);
                assert!(!key.about.contains("[`"), "{}: {} links into the code", schema.heading, key.name);
            }
        }
    }

    #[test]
    fn a_default_that_is_written_out_changes_nothing() {
        let parsed = |text: &str| {
            let config =
                parse(Path::new("/x/ringfence.toml"), text).unwrap_or_else(|fault| panic!("{text}{fault}"));
            // Places of values differ with the lines.
            format!(
                "{:?}",
                (config.trusted_proxies, config.strict_hosts, config.server, config.limits, config.timeouts)
            )
        };
        let without = parsed(BASE);
        let mut written = 0;
        for schema in SCHEMAS.iter().filter(|schema| !schema.heading.starts_with("[[")) {
            for key in schema.keys.iter().filter(|key| is_toml(&key.value.default())) {
                let line = format!("{} = {}\n", key.name, key.value.default());
                let text = match schema.heading.starts_with('[') {
                    true => format!("{BASE}{}\n{line}", schema.heading),
                    false => format!("{line}{BASE}"),
                };
                assert_eq!(parsed(&text), without, "{line}");
                written += 1;
            }
        }
        assert!(written >= 20, "{written} keys have a default");
    }
}
