//! Whole files, good and bad. Each fault is checked with its line, its column and what it advises.

mod faults;
mod sound;

use std::path::Path;

use super::*;

fn sound(text: &str) -> Config {
    match parse(Path::new("/etc/ringfence/ringfence.toml"), text) {
        Ok(config) => config,
        Err(problems) => panic!("{problems}"),
    }
}

/// The faults of a file, one a line, without the file's name.
fn faults(text: &str) -> Vec<String> {
    let problems = parse(Path::new("x"), text).expect_err("the file has faults");
    problems.to_string().lines().map(|line| line.strip_prefix("x:").unwrap().to_owned()).collect()
}
