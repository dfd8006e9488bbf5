//! What a config file becomes for the data plane, for `benches/`: nobody else is meant to use it.

use std::{error::Error, path::Path};

use ringfence_forward::snapshot::Snapshot;

use crate::{config, presets};

/// The rules and limits that the text of a config file leads to. Its listeners have to be plain.
///
/// # Errors
/// What is wrong with the text.
pub fn snapshot(text: &str) -> Result<Snapshot, Box<dyn Error>> {
    let config = config::parse(Path::new("ringfence.toml"), text)?;
    presets::snapshot(&config, Vec::new(), None).map_err(|error| error as Box<dyn Error>)
}
