//! The config files that are shown to operators are accepted by `ringfence check`.
//!
//! Only their certificate files are replaced: those of an operator's machine are not on this one.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use rcgen::CertifiedKey;

#[test]
fn every_example_is_accepted() {
    let mut examples = 0;
    for entry in fs::read_dir(repository().join("deploy/examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_accepted(&name, &fs::read_to_string(&path).unwrap());
        examples += 1;
    }
    assert!(examples >= 6, "{examples} examples");
}

#[test]
fn the_package_installs_a_file_that_lacks_only_its_certificate() {
    assert_accepted("deploy/deb/etc", include_str!("../../../deploy/deb/etc/ringfence.toml"));
}

#[test]
fn every_page_on_moving_shows_a_whole_config_file() {
    let mut pages = 0;
    for entry in fs::read_dir(repository().join("docs")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("moving-from-") {
            assert_accepted(&name, first_config(&fs::read_to_string(&path).unwrap()));
            pages += 1;
        }
    }
    assert!(pages >= 5, "{pages} pages");
}

#[test]
fn links_between_pages_lead_somewhere() {
    let mut links = 0;
    for entry in fs::read_dir(repository().join("docs")).unwrap() {
        let page = entry.unwrap().path();
        let text = fs::read_to_string(&page).unwrap();
        let targets = text.split("](").skip(1).filter_map(|rest| rest.split([')', '#']).next());
        for target in targets.filter(|target| !target.is_empty() && !target.contains("://")) {
            assert!(page.with_file_name(target).exists(), "{}: {target}", page.display());
            links += 1;
        }
    }
    assert!(links >= 20, "{links} links");
}

#[test]
fn the_readme_shows_a_whole_config_file() {
    assert_accepted("README.md", readme_config());
}

#[test]
fn the_minimal_example_is_what_the_readme_shows() {
    let minimal = fs::read_to_string(repository().join("deploy/examples/minimal.toml")).unwrap();
    assert_eq!(meaning(&minimal), meaning(readme_config()));
}

#[test]
fn an_example_with_a_wrong_key_is_refused() {
    let output = check(&readme_config().replace("public_host", "pubic_host"));
    assert!(!output.status.success());
    assert!(text(&output).contains("public_host"), "names the nearest key: {}", text(&output));
}

/// Without comments, which differ.
fn meaning(config: &str) -> Vec<&str> {
    let lines = config.lines().map(|line| line.split_once('#').map_or(line, |(code, _)| code).trim());
    lines.filter(|line| !line.is_empty()).collect()
}

fn readme_config() -> &'static str {
    first_config(include_str!("../../../README.md"))
}

fn first_config(page: &str) -> &str {
    let (_, from_config) = page.split_once("```toml\n").unwrap();
    from_config.split_once("```").unwrap().0
}

#[track_caller]
fn assert_accepted(name: &str, config: &str) {
    let output = check(config);
    assert!(output.status.success(), "{name}: {}", text(&output));
}

/// Runs `ringfence check` on `config`, its certificates replaced by one that exists.
fn check(config: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let names = ["example.com", "*.example.com", "matrix.example.org"].map(str::to_owned);
    let CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
    fs::write(folder.path().join("chain.pem"), cert.pem()).unwrap();
    fs::write(folder.path().join("key.pem"), signing_key.serialize_pem()).unwrap();
    let lines = config.lines().map(|line| match line.split_once(" = \"/etc/") {
        Some((key @ ("chain" | "key"), _)) => format!("{key} = \"{key}.pem\"\n"),
        Some((key @ "upstream_ca", _)) => format!("{key} = \"chain.pem\"\n"),
        _ => format!("{line}\n"),
    });
    let file = folder.path().join("ringfence.toml");
    fs::write(&file, lines.collect::<String>()).unwrap();
    Command::new(env!("CARGO_BIN_EXE_ringfence")).args(["check", "--config"]).arg(file).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
