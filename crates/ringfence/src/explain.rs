//! `ringfence explain`: what would happen to a request, and why, for a person. Sends nothing.
//!
//! What happens is asked of the data plane's own code ([`ringfence_forward::explain`]); here it is only put into words.
//! It works where only the config file is: no certificate is read and no name is looked up.

mod question;
mod report;

use std::{
    error::Error,
    io::{self, Write},
};

use crate::{cli::Explain, config, presets};

/// Explains a request and writes that to stdout.
pub(crate) fn run(request: &Explain) -> Result<(), Box<dyn Error>> {
    let config = config::load(&request.config.config)?;
    let asked = question::read(request, &config)?;
    let snapshot = presets::unresolved(&config);
    let explanation = ringfence_forward::explain::explain(&snapshot, &asked.question());
    let mut stdout = io::stdout().lock();
    write!(stdout, "{}", report::report(&config, &snapshot, &asked, &explanation))?;
    stdout.flush()?;
    Ok(())
}

#[cfg(test)]
mod tests;
