//! The command line.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::flood::{self, Flood};
use crate::idle::{self, Idle};
use crate::origin::{self, Origin};
use crate::scenario::{self, Play};

/// Load for Matrix homeservers and what stands before them. Only for machines of your own.
#[derive(Debug, Parser)]
#[command(name = "ringfence-load", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One request, over and over.
    Flood(Flood),
    /// Opens connections, one request on each, and holds them.
    Idle(Idle),
    /// A homeserver's traffic: remote servers, clients, idle connections.
    Scenario(Play),
    /// Stands in for a homeserver, cheaply.
    Origin(Origin),
}

/// Runs the command; the exit status is 0 when all went well, 1 when requests failed
/// or nothing could be run, 2 for a command line that makes no sense.
pub(crate) fn main() -> ExitCode {
    let done = match &Cli::parse().command {
        Command::Flood(flood) => flood::run(flood),
        Command::Idle(idle) => idle::run(idle),
        Command::Scenario(play) => scenario::run(play),
        Command::Origin(origin) => origin::run(origin),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("ringfence-load: {error}");
            ExitCode::from(1)
        }
    }
}
