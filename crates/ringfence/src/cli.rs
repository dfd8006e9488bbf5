//! The command line.

use std::{net::IpAddr, path::PathBuf};

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
    /// Say what would happen to a request, and why; nothing is sent.
    ///
    /// Prints the listener, the host, the rule that decides and those passed over, limits and timeouts, the server it
    /// goes to and the head as that would get it, or the answer that ringfence gives itself. Needs the config file
    /// only: no certificate is read and no name looked up. Paths are taken byte for byte.
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(Explain),
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

/// Which request.
#[derive(Args, Debug)]
pub(crate) struct Explain {
    /// The method, such as GET.
    pub(crate) method: String,
    /// https://HOST[:PORT]/PATH, or a target beginning with a slash for the first homeserver's public host.
    pub(crate) url: String,
    /// The listener it comes through: its address, or its port. Without it, the one with the URL's port, else the
    /// first that speaks the URL's scheme.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) listener: Option<String>,
    /// The address that it comes from.
    #[arg(long, value_name = "ADDRESS", default_value = "203.0.113.1")]
    pub(crate) client: IpAddr,
    /// A field line of the request; may be given several times.
    #[arg(long, short = 'H', value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,
    #[command(flatten)]
    pub(crate) config: ConfigFile,
}

const EXPLAIN_EXAMPLES: &str = r#"Examples:

  ringfence explain GET https://matrix.example.com/_matrix/client/versions
  ringfence explain GET https://matrix.example.com/_synapse/admin/v1/server_version --client 10.0.0.5
  ringfence explain POST /_matrix/media/v3/upload --header 'Content-Length: 99999999'
  ringfence explain GET /_matrix/federation/v1/version --listener 8448"#;

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
        let cli =
            Cli::try_parse_from(["ringfence", "explain", "GET", "/", "-H", "A: b", "-H", "C: d"]).unwrap();
        assert!(
            matches!(cli.command, Command::Explain(Explain { header, .. }) if header == ["A: b", "C: d"])
        );
        assert!(Cli::try_parse_from(["ringfence"]).is_err());
    }
}
