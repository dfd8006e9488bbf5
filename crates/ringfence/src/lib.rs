//! ringfence: an io_uring edge proxy for Matrix homeservers.
//!
//! This file only composes: `cli` reads the command line, `config` the file, and each command has a module. It is
//! a library so that `fuzz/`, `benches/` and `tests/` can reach what they need; nobody else is meant to use it.
#![forbid(unsafe_code)]

mod certificates;
mod check;
mod cli;
mod config;
mod demo;
#[cfg(fuzzing)]
pub mod fuzzing;
mod presets;
mod routing;
mod run;
#[doc(hidden)]
pub mod stages;

use std::{error::Error, process::ExitCode};

use clap::Parser;

use cli::{Cli, Command};

/// The whole command: does what the command line says, and tells what went wrong.
pub fn main() -> ExitCode {
    match dispatch(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> Result<(), Box<dyn Error>> {
    match command {
        Command::Check(file) => check::run(&file.config),
        Command::Run(file) => run::run(config::load(&file.config)?),
        Command::Demo => demo::run(),
    }
}
