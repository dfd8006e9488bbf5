//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

/// An edge proxy for Matrix homeservers on Linux.
///
/// Stands in front of Synapse, Palpo or another homeserver: ends TLS on the client port (443) and the federation
/// port (8448), answers the discovery documents, keeps administrative paths closed, and forwards everything
/// else byte for byte.
#[derive(Debug, Parser)]
#[command(name = "ringfence", version, arg_required_else_help = true, after_help = EXAMPLE)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve, until SIGTERM or SIGINT.
    ///
    /// Both signals drain: no new connections, requests in flight get `timeouts.drain` to end. SIGHUP reloads, SIGUSR2
    /// upgrades, SIGUSR1 reopens the access log.
    Run(ConfigFile),
    /// Check a config file and say what it means.
    ///
    /// Prints what would listen where, which certificate answers for which name until when, and what is routed
    /// where. Every error is told at once, with file, line and column; the exit status is 1 if there is one.
    Check(ConfigFile),
    /// Let the running ringfence read its config file and its certificates again.
    ///
    /// The file is checked whole; with any error in it nothing changes, and the error is told here. No connection is closed:
    /// exchanges in flight end with the configuration that they began with. SIGHUP does the same.
    Reload(ConfigFile),
    /// Let the binary that is installed now take over from the running one.
    ///
    /// The new process gets the listening sockets, so that no connection is refused; the old one finishes what it has begun,
    /// for up to `timeouts.hand_over`. If the new one does not start, nothing changes. SIGUSR2 does the same.
    Upgrade(ConfigFile),
    /// Try it now: no config file, no root, nothing left behind.
    ///
    /// Serves a stand-in homeserver on 127.0.0.1:8443 and :8448 with a throwaway certificate, and prints the curl
    /// commands to try. Ctrl-C ends it.
    Demo,
    /// Print docs/config.md: every key of the config file.
    #[command(hide = true)]
    ConfigReference,
    /// Write manual pages and shell completions into a folder, for packages.
    #[command(hide = true)]
    Manual {
        /// The folder, which is made if need be.
        folder: PathBuf,
    },
}

/// Which configuration.
#[derive(Args, Debug)]
pub(crate) struct ConfigFile {
    /// The config file, in TOML.
    #[arg(long, short, value_name = "FILE", default_value = "/etc/ringfence/ringfence.toml")]
    pub(crate) config: PathBuf,
}

const EXAMPLE: &str = r#"A whole config file:

  [[homeserver]]
  server_name = "example.com"
  public_host = "matrix.example.com"
  upstream = "http://127.0.0.1:8008"

  [[certificate]]
  chain = "/etc/letsencrypt/live/matrix.example.com/fullchain.pem"
  key = "/etc/letsencrypt/live/matrix.example.com/privkey.pem""#;

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn commands_are_read() {
        let cli = Cli::try_parse_from(["ringfence", "check", "--config", "a.toml"]).unwrap();
        assert!(matches!(cli.command, Command::Check(file) if file.config.as_os_str() == "a.toml"));
        let cli = Cli::try_parse_from(["ringfence", "run"]).unwrap();
        assert!(matches!(cli.command, Command::Run(file) if file.config.is_absolute()));
        assert!(matches!(Cli::try_parse_from(["ringfence", "demo"]).unwrap().command, Command::Demo));
        assert!(Cli::try_parse_from(["ringfence"]).is_err());
    }
}
