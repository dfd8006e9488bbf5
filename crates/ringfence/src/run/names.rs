//! Names of upstreams are looked up again while ringfence runs, as often as their records say.
//!
//! Each name has a task, which waits for nobody but the name servers. It asks them by itself, since the system's own lookup
//! tells nothing of how long an answer holds; where they know nothing, the system is asked (nsswitch.conf may name other
//! sources). What comes of it goes to the control loop. Files of the system are read anew for each look.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::ResolveHosts,
    lookup_ip::LookupIp,
    net::NetError,
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
};
use ringfence_forward::snapshot::{ServerAddress, Snapshot};
use tokio::{
    net,
    sync::mpsc,
    task::{self, AbortHandle},
    time,
};
use tracing::subscriber::NoSubscriber;

use super::control::{Deeds, count};
use crate::{config::Config, presets::ADDRESSES_MAX, routing};

/// The names that are looked up.
#[derive(Default)]
pub(super) struct Names {
    tell: Option<mpsc::Sender<Answer>>,
    names: Vec<Watched>,
}

/// A name with the task that looks it up, which ends with it.
struct Watched {
    host: String,
    task: AbortHandle,
    /// The last look found nothing.
    fails: bool,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a look came to.
pub(super) struct Answer {
    pub(super) host: String,
    pub(super) addresses: Result<Vec<IpAddr>, String>,
}

impl Names {
    /// Answers go there from now on.
    pub(super) fn tell(&mut self, tell: mpsc::Sender<Answer>) {
        self.tell = Some(tell);
    }

    /// Looks up the names of this configuration. Needs a runtime around it.
    pub(super) fn follow(&mut self, config: &Config) {
        let wanted = hosts(config);
        self.names.retain(|name| wanted.contains(name.host.as_str()));
        for host in wanted {
            if let Some(tell) = &self.tell
                && self.names.iter().all(|name| name.host != host)
            {
                let task = task::spawn(look_up_for_ever(host.to_owned(), tell.clone())).abort_handle();
                self.names.push(Watched { host: host.to_owned(), task, fails: false });
            }
        }
    }

    /// Counts an answer, and says when the answers to a name begin or cease to fail.
    pub(super) fn note(&mut self, Answer { host, addresses }: &Answer, deeds: &Deeds) {
        count(if addresses.is_ok() { &deeds.lookups } else { &deeds.lookups_failed });
        let Some(name) = self.names.iter_mut().find(|name| name.host == *host) else { return };
        let failed = std::mem::replace(&mut name.fails, addresses.is_err());
        match addresses {
            Err(error) if !failed => {
                tracing::warn!(
                    name = host,
                    error,
                    "an upstream's name cannot be looked up; its addresses stay"
                );
            }
            Ok(_) if failed => tracing::info!(name = host, "an upstream's name can be looked up again"),
            _ => {}
        }
    }
}

/// Every name that leads to an upstream.
fn hosts(config: &Config) -> BTreeSet<&str> {
    let servers = routing::upstreams(config).flat_map(|upstream| &upstream.servers);
    servers.filter_map(|server| server.value.name_and_port()).map(|(host, _)| host).collect()
}

/// The snapshot that follows when the addresses of a name are these; `None` where that changes nothing.
pub(super) fn moved(
    config: &Config,
    snapshot: &Snapshot,
    host: &str,
    addresses: &[IpAddr],
) -> Option<Snapshot> {
    let mut next = None;
    for (upstream, configured) in routing::upstreams(config).enumerate() {
        for (server, at) in configured.servers.iter().enumerate() {
            let Some((_, port)) = at.value.name_and_port().filter(|(name, _)| *name == host) else {
                continue;
            };
            let address = ServerAddress::Tcp(addresses.iter().map(|ip| SocketAddr::new(*ip, port)).collect());
            if differ(&snapshot.upstreams[upstream].servers[server].address, &address) {
                let next = next.get_or_insert_with(|| snapshot.clone());
                next.upstreams[upstream].servers[server].address = address;
            }
        }
    }
    next
}

/// Whether there is an address in one that is not in the other: name servers rotate what they answer.
fn differ(one: &ServerAddress, other: &ServerAddress) -> bool {
    let set = |address: &ServerAddress| match address {
        ServerAddress::Tcp(addresses) => addresses.iter().copied().collect::<BTreeSet<_>>(),
        ServerAddress::Unix(_) => BTreeSet::new(),
    };
    set(one) != set(other)
}

async fn look_up_for_ever(host: String, tell: mpsc::Sender<Answer>) {
    // It was looked up a moment ago: what is not known is how long that holds.
    let mut pause = LOOK_MIN;
    loop {
        time::sleep(pause).await;
        let addresses = match ask_name_servers(&host).await {
            Ok((addresses, holds)) => {
                pause = holds.clamp(LOOK_MIN, LOOK_MAX);
                Ok(addresses)
            }
            Err(error) => {
                let addresses = ask_system(&host).await.map_err(|system| format!("{system} ({error})"));
                pause = if addresses.is_ok() { LOOK_WITHOUT_TTL } else { LOOK_AFTER_FAILURE };
                addresses
            }
        };
        if tell.send(Answer { host: host.clone(), addresses }).await.is_err() {
            return;
        }
    }
}

/// The addresses of a name, and for how long they hold.
async fn ask_name_servers(host: &str) -> Result<(Vec<IpAddr>, Duration), String> {
    let name = host.to_owned();
    let files = task::spawn_blocking(move || without_log(|| SystemFiles::read(&name)));
    let files = files.await.map_err(|error| error.to_string())?;
    if !files.addresses.is_empty() {
        return Ok((files.addresses, LOOK_MAX));
    }
    let resolver = files.resolver.map_err(|error| error.to_string())?;
    let found = resolver.lookup_ip(host).await.map_err(|error| error.to_string())?;
    let addresses: Vec<IpAddr> = found.iter().take(ADDRESSES_MAX).collect();
    match addresses.is_empty() {
        true => Err("no name server knows an address".to_owned()),
        false => Ok((addresses, found.valid_until().saturating_duration_since(Instant::now()))),
    }
}

/// What the system's files say at this moment.
struct SystemFiles {
    /// Those that the hosts file has of a name. Where it has any it has the word: the resolver, left to itself, would ask name
    /// servers for the addresses of the other family.
    addresses: Vec<IpAddr>,
    /// As resolv.conf says. It remembers nothing.
    resolver: Result<TokioResolver, NetError>,
}

impl SystemFiles {
    /// Waits for the disk; the hosts file may be long.
    fn read(host: &str) -> Self {
        let hosts = Hosts::from_system().unwrap_or_default();
        let addresses = Name::from_utf8(host).map_or(Vec::new(), |name| {
            let of = |kind| hosts.lookup_static_host(&Query::query(name.clone(), kind));
            let found = [RecordType::A, RecordType::AAAA].into_iter().filter_map(of);
            found.flat_map(|lookup| LookupIp::from(lookup).into_iter()).take(ADDRESSES_MAX).collect()
        });
        let resolver = TokioResolver::builder_tokio().and_then(|mut builder| {
            let options = builder.options_mut();
            options.cache_size = 0;
            options.use_hosts_file = ResolveHosts::Never;
            builder.build()
        });
        Self { addresses, resolver }
    }
}

/// What is odd in the system's files would be told again and again.
fn without_log<T>(act: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(NoSubscriber::default(), act)
}

async fn ask_system(host: &str) -> io::Result<Vec<IpAddr>> {
    // The port is of no meaning here.
    let found = net::lookup_host((host, 0)).await?;
    let addresses: Vec<IpAddr> = found.map(|address| address.ip()).take(ADDRESSES_MAX).collect();
    match addresses.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no records")),
        false => Ok(addresses),
    }
}

/// Records that hold for less are looked up that often nevertheless: TTLs of 0 and 1 would keep the name servers busy.
const LOOK_MIN: Duration = Duration::from_secs(5);

/// Records that hold for longer are looked up that often: what moves in a hurry often has a TTL of an hour, the hosts file has
/// none, and a query a minute is no burden.
const LOOK_MAX: Duration = Duration::from_secs(60);

/// How often is looked where no TTL is known, because the answer came from the system.
const LOOK_WITHOUT_TTL: Duration = Duration::from_secs(30);

/// When is looked again where nothing was found out: name servers that have trouble are not helped by haste.
const LOOK_AFTER_FAILURE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config;

    const FILE: &str = r#"
[[homeserver]]
server_name = "example.com"
upstream = ["http://synapse.test:8008", "http://192.0.2.9:8008", "http://localhost:8008", "unix:/run/x.sock"]
[[listener]]
address = "127.0.0.1:8080"
tls = false
[[route]]
path = "/bot"
upstream = "http://synapse.test:9000"
"#;

    fn sound(text: &str) -> Config {
        config::parse(Path::new("test.toml"), text).unwrap()
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    fn addresses(snapshot: &Snapshot, upstream: usize, server: usize) -> Vec<String> {
        match &snapshot.upstreams[upstream].servers[server].address {
            ServerAddress::Tcp(addresses) => addresses.iter().map(ToString::to_string).collect(),
            ServerAddress::Unix(path) => vec![path.display().to_string()],
        }
    }

    #[test]
    fn only_names_are_looked_up_each_once() {
        let config = sound(FILE);
        assert_eq!(hosts(&config).into_iter().collect::<Vec<_>>(), ["synapse.test"]);
        let without = FILE.replace("synapse.test", "[::1]");
        assert!(hosts(&sound(&without)).is_empty());
    }

    #[test]
    fn a_name_that_moves_changes_its_servers_and_nothing_else() {
        let config = sound(FILE);
        let before = crate::presets::unresolved(&config);
        let first = moved(&config, &before, "synapse.test", &ips(&["192.0.2.1", "192.0.2.2"])).unwrap();
        assert_eq!(addresses(&first, 0, 0), ["192.0.2.1:8008", "192.0.2.2:8008"]);
        assert_eq!(addresses(&first, 1, 0), ["192.0.2.1:9000", "192.0.2.2:9000"]);
        for server in 1..4 {
            assert_eq!(addresses(&first, 0, server), addresses(&before, 0, server));
        }
        let names = |snapshot: &Snapshot| -> Vec<String> {
            snapshot.upstreams[0].servers.iter().map(|server| server.name.clone()).collect()
        };
        assert_eq!(names(&first), names(&before));
        // In whatever order they come, they are the same.
        assert!(moved(&config, &first, "synapse.test", &ips(&["192.0.2.2", "192.0.2.1"])).is_none());
        let second = moved(&config, &first, "synapse.test", &ips(&["192.0.2.2"])).unwrap();
        assert_eq!(addresses(&second, 0, 0), ["192.0.2.2:8008"]);
        assert!(moved(&config, &first, "other.test", &ips(&["192.0.2.3"])).is_none());
    }
}
