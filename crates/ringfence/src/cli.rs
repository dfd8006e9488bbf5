//! The command line.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, Parser, Subcommand};

use crate::doctor::{Override, Software};

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
    /// Examine a running deployment as the outside sees it, and say what to change.
    ///
    /// Finds the server as other servers and clients do (well-known, SRV records, port 8448; base URL) and looks at
    /// ports, certificates, keys, CORS, limits, and whether paths arrive byte for byte. Works against any proxy, also before
    /// moving to this one. Asks only what strangers may ask, and writes nothing. The exit status is 0 when there is no
    /// fault, 1 when there is one, 2 when nothing could be checked.
    #[command(after_help = DOCTOR_EXAMPLES)]
    Doctor(Doctor),
    /// Show what the running ringfence does: requests, latency and errors by endpoint class, upstream servers, certificates.
    ///
    /// Drawn anew every two seconds; `q` ends it. The status page of the admin listener (`server.admin`) shows the same with
    /// charts.
    Top {
        #[command(flatten)]
        file: ConfigFile,
        /// Print it one time, with numbers since the start, and end.
        #[arg(long)]
        once: bool,
    },
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

/// Which deployment, and how to look at it.
#[derive(Args, Debug)]
pub(crate) struct Doctor {
    /// The part after the colon in user ids, such as example.com.
    #[arg(value_name = "SERVER_NAME")]
    pub(crate) server_name: String,
    /// Where a host's port is, instead of asking DNS, as with curl; the address may have another port. May be given
    /// several times. A host that is named here is not looked up at all.
    #[arg(long, value_name = "HOST:PORT:ADDRESS")]
    pub(crate) resolve: Vec<Override>,
    /// The name server to ask, instead of the system's.
    #[arg(long, value_name = "ADDRESS", value_parser = name_server)]
    pub(crate) name_server: Option<SocketAddr>,
    /// Certificate authorities to trust instead of the system's, in PEM.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// An access token of any account, or @FILE with one: shows the upload limit and the client address as the
    /// homeserver sees them.
    #[arg(long, visible_alias = "as-admin-token")]
    pub(crate) token: Option<String>,
    /// The homeserver's own signing key, as Synapse keeps it: proves by a signed request that paths arrive byte for byte.
    #[arg(long, value_name = "FILE")]
    pub(crate) signing_key: Option<PathBuf>,
    /// Take over a minute for a long poll; needs --token.
    #[arg(long)]
    pub(crate) slow: bool,
    /// The proxy to give lines of configuration for, where it does not name itself.
    #[arg(long, value_enum)]
    pub(crate) proxy: Option<Software>,
    /// How long each connection and each answer may take.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) timeout: f32,
    /// Print JSON.
    #[arg(long)]
    pub(crate) json: bool,
}

/// An address whose port is 53 if it has none.
fn name_server(text: &str) -> Result<SocketAddr, String> {
    let bare = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, DNS_PORT));
    bare.or_else(|_| text.parse())
        .map_err(|_| "write an address, as in 192.0.2.53 or 127.0.0.1:5353".to_owned())
}

/// The port of name servers (RFC 1035 §4.2).
const DNS_PORT: u16 = 53;

fn seconds(text: &str) -> Result<f32, String> {
    let seconds = text.parse().ok().filter(|seconds| (0.1..=60.0).contains(seconds));
    seconds.ok_or_else(|| "write seconds from 0.1 to 60".to_owned())
}

const DOCTOR_EXAMPLES: &str = r#"Examples:

  ringfence doctor example.com
  ringfence doctor example.com --resolve matrix.example.com:443:192.0.2.7     before DNS is moved there
  ringfence doctor example.com --token @token --signing-key /etc/matrix-synapse/homeserver.signing.key"#;

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
