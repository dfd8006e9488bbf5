//! ringfence: an io_uring edge proxy for Matrix homeservers.
//!
//! This file only composes: `cli` reads the command line, `config` the file, and each command has a module. It is
//! a library so that `fuzz/`, `benches/` and `tests/` can reach what they need; nobody else is meant to use it.
#![forbid(unsafe_code)]

mod admin;
mod certificates;
mod check;
mod cli;
mod config;
mod demo;
mod doctor;
mod explain;
#[cfg(fuzzing)]
pub mod fuzzing;
mod manual;
mod presets;
mod routing;
mod run;
#[doc(hidden)]
pub mod stages;
mod top;
mod trust;

use std::{error::Error, path::Path, process::ExitCode};

use clap::Parser;

use cli::{Cli, Command};

/// The whole command: does what the command line says, and tells what went wrong.
pub fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Asks the running ringfence to do something, and says what it has done.
fn tell(config: &Path, path: &str) -> Result<(), Box<dyn Error>> {
    let admin::Asked { status, content } = admin::ask(config, "POST", path)?;
    match status {
        200 => {
            print!("{content}");
            Ok(())
        }
        _ => Err(content.trim_end().into()),
    }
}

fn dispatch(command: Command) -> Result<ExitCode, Box<dyn Error>> {
    match command {
        Command::Doctor(arguments) => return Ok(doctor::run(&arguments)),
        Command::Check(file) => check::run(&file.config),
        Command::Explain(request) => explain::run(&request),
        Command::Run(file) => run::run(config::load(&file.config).inspect_err(run::upgrade::cannot_follow)?),
        Command::Reload(file) => tell(&file.config, "/reload"),
        Command::Upgrade(file) => tell(&file.config, "/upgrade"),
        Command::Top { file, once } => top::run(&file.config, once),
        Command::Demo => demo::run(),
        Command::ConfigReference => {
            print!("{}", config::reference());
            Ok(())
        }
        Command::Manual { folder } => Ok(manual::write(&folder)?),
    }?;
    Ok(ExitCode::SUCCESS)
}
