//! ringfence: an io_uring edge proxy for Matrix homeservers.
//!
//! This file only composes: [`cli`] reads the command line, [`config`] the file, and each command has a module.
#![forbid(unsafe_code)]

mod certificates;
mod check;
mod cli;
mod config;
mod demo;
mod presets;
mod routing;
mod run;

use std::{error::Error, process::ExitCode};

use clap::Parser;

use cli::{Cli, Command};

/// Small allocations from several threads are what a proxy does all day; mimalloc is made for it.
///
/// `tests/memory-safety` leaves it out (`--cfg system_allocator`): its checkers watch the system's allocator only.
#[cfg(not(system_allocator))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
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
