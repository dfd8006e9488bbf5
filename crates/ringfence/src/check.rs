//! `ringfence check`: what a config file means, for a person.
//!
//! Errors end it with exit status 1, all of them at once. Warnings are about what works, but hardly as meant.

mod coverage;
mod report;

use std::{
    error::Error,
    io::{self, Write},
    path::Path,
    time::SystemTime,
};

use ringfence_tls::Certificate;

use crate::{
    certificates,
    config::{self, Config, Problems},
    presets, trust,
};

/// Checks the file and writes the report to stdout.
pub(crate) fn run(file: &Path) -> Result<(), Box<dyn Error>> {
    let config = config::load(file)?;
    let certificates = look_around(&config)?;
    trust::clients(&config, None)?;
    let mut stdout = io::stdout().lock();
    write!(stdout, "{}", report::report(&config, &certificates, SystemTime::now()))?;
    stdout.flush()?;
    Ok(())
}

/// Holds the file against the machine: files exist and fit, names resolve. All faults at once.
pub(crate) fn look_around(config: &Config) -> Result<Vec<Certificate>, Problems> {
    let certificates = certificates::load(config);
    let others = [trust::check_files(config).err(), presets::resolve(config).err()];
    match (certificates, others.into_iter().flatten().reduce(Problems::and)) {
        (Ok(certificates), None) => Ok(certificates),
        (Err(first), Some(second)) => Err(first.and(second)),
        (Err(problems), None) | (Ok(_), Some(problems)) => Err(problems),
    }
}

#[cfg(test)]
mod tests;
