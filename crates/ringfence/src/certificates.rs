//! The certificates of a configuration, from their files.

use ringfence_tls::Certificate;

use crate::config::{Config, Problem, Problems};

/// Loads every certificate, in the order of the configuration, or tells what is wrong with each.
pub(crate) fn load(config: &Config) -> Result<Vec<Certificate>, Problems> {
    let mut certificates = Vec::new();
    let mut problems = Vec::new();
    for files in &config.certificates {
        match Certificate::load(&files.chain, &files.key) {
            Ok(certificate) => certificates.push(certificate),
            Err(error) => problems.push(Problem { place: files.place, message: error.to_string() }),
        }
    }
    if problems.is_empty() { Ok(certificates) } else { Err(Problems::new(&config.file, problems)) }
}
