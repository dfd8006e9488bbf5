//! Names of upstreams are looked up again while ringfence runs, as often as their records say.
//!
//! Each name has a task, which waits for nobody but the name servers. Addresses always come from the system (getaddrinfo(3)), as
//! at the start: it knows every source that nsswitch.conf names, and the order of RFC 6724. What comes of a look goes to the
//! control loop. Files of the system are read anew for each.
//!
//! The system does not tell how long addresses hold, nor what it could not find out: it goes on to the search list when the name
//! itself had a failure, and a wildcard there is a stranger. So the name servers are asked too ([`ask_name_servers`]). That never
//! yields an address, only a TTL, or that nobody can say at present whose addresses the system has found: then nothing changes.
//! What they cannot tell is left to the rule that no single look changes anything ([`replaces`]).

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use hickory_resolver::{
    Hosts, TokioResolver,
    config::ResolveHosts,
    lookup::Lookup,
    lookup_ip::LookupIp,
    net::{NetError, runtime::TokioRuntimeProvider},
    proto::{
        op::Query,
        rr::{Name, RecordType},
    },
    system_conf,
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
    /// When a reload looked them up itself; what was asked before is older than what is in use.
    reloaded: Option<Instant>,
}

/// A name with the task that looks it up, which ends with it.
struct Watched {
    host: String,
    task: AbortHandle,
    /// The last look found nothing.
    fails: bool,
    /// What the last look found; `None`: it failed, or there was none since the start or a reload.
    before: Option<Vec<IpAddr>>,
    /// When its addresses changed last.
    changed: Option<Instant>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a look came to.
pub(super) struct Answer {
    pub(super) host: String,
    /// When the look began.
    asked: Instant,
    /// In the order in which the system would try them; all that there are.
    addresses: Result<Vec<IpAddr>, String>,
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
                let host = host.to_owned();
                self.names.push(Watched { host, task, fails: false, before: None, changed: None });
            }
        }
    }

    /// A reload has looked all names up: looks that began before count no more.
    pub(super) fn reloaded(&mut self) {
        self.reloaded = Some(Instant::now());
        self.names.iter_mut().for_each(|name| name.before = None);
    }

    /// The snapshot that follows by this answer; `None` where that changes nothing.
    pub(super) fn take(&mut self, answer: Answer, config: &Config, snapshot: &Snapshot) -> Option<Snapshot> {
        let name = self.names.iter_mut().find(|name| name.host == answer.host)?;
        if self.reloaded.is_some_and(|reloaded| answer.asked < reloaded) {
            return None;
        }
        let before = std::mem::replace(&mut name.before, answer.addresses.ok())?;
        let found = name.before.as_ref()?;
        if name.changed.is_some_and(|changed| answer.asked < changed + CHANGE_MIN) {
            return None;
        }
        let next = moved(config, snapshot, &name.host, &before, found)?;
        name.changed = Some(answer.asked);
        tracing::info!(name = name.host, addresses = ?found, "an upstream's addresses have changed");
        Some(next)
    }

    /// Counts an answer, and says when the answers to a name begin or cease to fail.
    pub(super) fn note(&mut self, Answer { host, addresses, .. }: &Answer, deeds: &Deeds) {
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

/// The snapshot that follows when the last two looks for a name found these; `None` where that changes nothing.
fn moved(
    config: &Config,
    snapshot: &Snapshot,
    host: &str,
    before: &[IpAddr],
    found: &[IpAddr],
) -> Option<Snapshot> {
    let mut next = None;
    for (upstream, configured) in routing::upstreams(config).enumerate() {
        for (server, at) in configured.servers.iter().enumerate() {
            let Some((_, port)) = at.value.name_and_port().filter(|(name, _)| *name == host) else {
                continue;
            };
            if replaces(&snapshot.upstreams[upstream].servers[server].address, before, found) {
                let next = next.get_or_insert_with(|| snapshot.clone());
                let addresses = found.iter().take(ADDRESSES_MAX).map(|ip| SocketAddr::new(*ip, port));
                next.upstreams[upstream].servers[server].address = ServerAddress::Tcp(addresses.collect());
            }
        }
    }
    next
}

/// Whether what was `found` takes the place of the addresses in use, after a look that found `before`.
///
/// Two looks in a row have to speak for it: they find the same, in whatever order, or neither finds any address in use. So neither
/// a family of addresses whose question failed once is dropped, nor a stranger's address taken up; and name servers that
/// answer a part of many addresses, each time another one, change nothing as long as addresses in use are among them. A server
/// has no more than [`ADDRESSES_MAX`]: then it is enough that those in use are among those found.
fn replaces(present: &ServerAddress, before: &[IpAddr], found: &[IpAddr]) -> bool {
    let ServerAddress::Tcp(present) = present else { return false };
    let set = |addresses: &[IpAddr]| addresses.iter().copied().collect::<BTreeSet<_>>();
    let present: BTreeSet<_> = present.iter().map(SocketAddr::ip).collect();
    let (before, found) = (set(before), set(found));
    let stays = if present.len() == ADDRESSES_MAX { present.is_subset(&found) } else { present == found };
    let are_gone = present.is_disjoint(&before) && present.is_disjoint(&found);
    !stays && (before == found || are_gone)
}

async fn look_up_for_ever(host: String, tell: mpsc::Sender<Answer>) {
    // It was looked up a moment ago: what is not known is how long that holds.
    let mut pause = LOOK_MIN;
    let mut before = BTreeSet::new();
    loop {
        time::sleep(pause).await;
        let asked = Instant::now();
        let looked = look_up(&host).await;
        let found = looked.iter().flat_map(|(addresses, _)| addresses).copied().collect();
        pause = match &looked {
            Err(_) => LOOK_AFTER_FAILURE,
            // It takes another look to be believed.
            Ok(_) if before != found => LOOK_MIN,
            Ok((_, None)) => LOOK_WITHOUT_TTL,
            Ok((_, Some(holds))) => (*holds).clamp(LOOK_MIN, LOOK_MAX),
        };
        before = found;
        let addresses = looked.map(|(addresses, _)| addresses);
        if tell.send(Answer { host: host.clone(), asked, addresses }).await.is_err() {
            return;
        }
    }
}

/// The addresses of a name, and for how long they hold, where that is known.
async fn look_up(host: &str) -> Result<(Vec<IpAddr>, Option<Duration>), String> {
    let addresses = ask_system(host).await.map_err(|error| error.to_string())?;
    Ok((addresses, ask_name_servers(host).await?))
}

/// The addresses of a name. There are no more than an answer of DNS holds, of 64 KiB.
async fn ask_system(host: &str) -> io::Result<Vec<IpAddr>> {
    // The port is of no meaning here.
    let found = net::lookup_host((host, 0)).await?;
    let addresses: Vec<IpAddr> = found.map(|address| address.ip()).collect();
    match addresses.is_empty() {
        true => Err(io::Error::new(io::ErrorKind::NotFound, "the name has no records")),
        false => Ok(addresses),
    }
}

/// For how long the addresses of a name hold; `None` where only the system knows it. The error is that of a name that comes before
/// any which has addresses: it may have some itself.
async fn ask_name_servers(host: &str) -> Result<Option<Duration>, String> {
    let name = host.to_owned();
    let files = task::spawn_blocking(move || without_log(|| SystemFiles::read(&name)));
    let files = files.await.map_err(|error| error.to_string())?;
    if files.know_it {
        return Ok(Some(LOOK_MAX));
    }
    let Ok(SearchedResolver { resolver, names }) = files.resolver else { return Ok(None) };
    for name in names {
        let of = |kind| resolver.lookup(name.clone(), kind);
        let (ipv4, ipv6) = tokio::join!(of(RecordType::A), of(RecordType::AAAA));
        let until = |lookup: &Lookup| {
            let has_any = LookupIp::from(lookup.clone()).iter().next().is_some();
            has_any.then(|| lookup.valid_until())
        };
        let found = [&ipv4, &ipv6].into_iter().flatten().filter_map(until).min();
        if let Some(until) = found {
            return Ok(Some(until.saturating_duration_since(Instant::now())));
        }
        let mut errors = [ipv4, ipv6].into_iter().filter_map(Result::err);
        if let Some(error) = errors.find(|error| !error.is_no_records_found()) {
            return Err(format!("{name}: {error}"));
        }
    }
    Ok(None)
}

/// What the system's files say at this moment.
struct SystemFiles {
    /// The hosts file has addresses of the name: name servers are not asked for it.
    know_it: bool,
    resolver: Result<SearchedResolver, NetError>,
}

/// Whom to ask, and for which names, as resolv.conf says.
struct SearchedResolver {
    /// It remembers nothing.
    resolver: TokioResolver,
    /// Whole names, in the order in which the system asks for them.
    names: Vec<Name>,
}

impl SystemFiles {
    /// Waits for the disk; the hosts file may be long.
    fn read(host: &str) -> Self {
        let hosts = Hosts::from_system().unwrap_or_default();
        let know_it = Name::from_utf8(host).is_ok_and(|name| {
            let knows = |kind| hosts.lookup_static_host(&Query::query(name.clone(), kind)).is_some();
            [RecordType::A, RecordType::AAAA].into_iter().any(knows)
        });
        Self { know_it, resolver: SearchedResolver::read(host) }
    }
}

impl SearchedResolver {
    fn read(host: &str) -> Result<Self, NetError> {
        let (config, mut options) = system_conf::read_system_conf()?;
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        let domains: Vec<Name> = config.domain().into_iter().chain(config.search()).cloned().collect();
        let names = whole_names(&Name::from_utf8(host)?, &domains, options.ndots);
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        Ok(Self { resolver: builder.build()?, names })
    }
}

/// The names that a name may stand for, in the order in which they are asked for (resolv.conf(5), `search` and `ndots`).
fn whole_names(name: &Name, domains: &[Name], dots_min: usize) -> Vec<Name> {
    let mut itself = name.clone();
    itself.set_fqdn(true);
    if name.is_fqdn() {
        return vec![itself];
    }
    let mut names: Vec<Name> =
        domains.iter().filter_map(|domain| name.clone().append_domain(domain).ok()).collect();
    names.dedup();
    let has_dots = usize::from(name.num_labels()) > dots_min;
    names.insert(if has_dots { 0 } else { names.len() }, itself);
    names
}

/// What is odd in the system's files would be told again and again.
fn without_log<T>(act: impl FnOnce() -> T) -> T {
    tracing::subscriber::with_default(NoSubscriber::default(), act)
}

/// The addresses of a name change no more often than that: each change is a configuration for all workers, and name servers that
/// answer other addresses each time would make one at every other look.
const CHANGE_MIN: Duration = Duration::from_secs(30);

/// Records that hold for less are looked up that often nevertheless: TTLs of 0 and 1 would keep the name servers busy.
const LOOK_MIN: Duration = Duration::from_secs(5);

/// Records that hold for longer are looked up that often: what moves in a hurry often has a TTL of an hour, the hosts file has
/// none, and a query a minute is no burden.
const LOOK_MAX: Duration = Duration::from_secs(60);

/// How often is looked where no TTL is known, because only the system knows the name.
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
        let start = crate::presets::unresolved(&config);
        let look = |snapshot: &Snapshot, host: &str, found: &[&str]| {
            moved(&config, snapshot, host, &ips(found), &ips(found))
        };
        let first = look(&start, "synapse.test", &["192.0.2.2", "192.0.2.1"]).unwrap();
        assert_eq!(addresses(&first, 0, 0), ["192.0.2.2:8008", "192.0.2.1:8008"]);
        assert_eq!(addresses(&first, 1, 0), ["192.0.2.2:9000", "192.0.2.1:9000"]);
        for server in 1..4 {
            assert_eq!(addresses(&first, 0, server), addresses(&start, 0, server));
        }
        let names = |snapshot: &Snapshot| -> Vec<String> {
            snapshot.upstreams[0].servers.iter().map(|server| server.name.clone()).collect()
        };
        assert_eq!(names(&first), names(&start));
        // In whatever order they come, they are the same.
        assert!(look(&first, "synapse.test", &["192.0.2.1", "192.0.2.2"]).is_none());
        let second = look(&first, "synapse.test", &["192.0.2.2"]).unwrap();
        assert_eq!(addresses(&second, 0, 0), ["192.0.2.2:8008"]);
        assert!(look(&first, "other.test", &["192.0.2.3"]).is_none());
    }

    #[test]
    fn the_names_of_the_search_list_come_in_the_systems_order() {
        let names = |name: &str, dots_min| {
            let domains = ["one.test.", "two.test."].map(|domain| Name::from_utf8(domain).unwrap());
            let names = whole_names(&Name::from_utf8(name).unwrap(), &domains, dots_min);
            names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(names("synapse", 1), "synapse.one.test. synapse.two.test. synapse.");
        assert_eq!(names("a.b", 1), "a.b. a.b.one.test. a.b.two.test.");
        assert_eq!(names("a.b", 5), "a.b.one.test. a.b.two.test. a.b.");
        assert_eq!(names("a.b.", 5), "a.b.");
    }

    #[test]
    fn two_looks_in_a_row_change_addresses() {
        let present =
            ServerAddress::Tcp(vec!["192.0.2.1:1".parse().unwrap(), "[2001:db8::1]:1".parse().unwrap()]);
        let (both, one, other): (&[_], &[_], &[_]) =
            (&["192.0.2.1", "2001:db8::1"], &["192.0.2.1"], &["198.51.100.1"]);
        for (before, found, expected) in [
            (both, both, false),
            // A family whose question failed once is not dropped, and one that has no more addresses is.
            (both, one, false),
            (one, both, false),
            (one, one, true),
            // Somebody else answers, once and again.
            (both, other, false),
            (one, other, false),
            (other, one, false),
            (other, other, true),
            (other, &["198.51.100.2", "198.51.100.3"], true),
            // A part of many, each time another one.
            (&["192.0.2.1", "192.0.2.2"], &["192.0.2.1", "192.0.2.3"], false),
            (&["192.0.2.2", "192.0.2.3"], &["192.0.2.1", "192.0.2.3"], false),
        ] {
            assert_eq!(replaces(&present, &ips(before), &ips(found)), expected, "{before:?} {found:?}");
        }
    }

    #[test]
    fn of_more_addresses_than_are_kept_those_in_use_stay_while_they_are_found() {
        let all: Vec<IpAddr> = (0..20).map(|last| IpAddr::from([192, 0, 2, last])).collect();
        let at = |ips: &[IpAddr]| ServerAddress::Tcp(ips.iter().map(|ip| SocketAddr::new(*ip, 1)).collect());
        let present = at(&all[..ADDRESSES_MAX]);
        let reversed: Vec<IpAddr> = all.iter().rev().copied().collect();
        assert!(!replaces(&present, &reversed, &reversed));
        assert!(replaces(&present, &all[1..], &all[1..]), "one is gone");
        assert!(replaces(&at(&all[..2]), &all, &all), "there is room for more");
    }

    /// Names that are looked up by nobody but the test, which says what was found and when.
    struct Looks {
        config: Config,
        names: Names,
        snapshot: Snapshot,
        start: Instant,
        _runtime: tokio::runtime::Runtime,
    }

    impl Looks {
        fn start() -> Looks {
            let config = sound(FILE);
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let mut names = Names::default();
            names.tell(mpsc::channel(1).0);
            {
                let _inside = runtime.enter();
                names.follow(&config);
            }
            let snapshot = crate::presets::unresolved(&config);
            Looks { config, names, snapshot, start: Instant::now(), _runtime: runtime }
        }

        /// A look that began so many seconds after the start; whether the addresses change by it.
        fn find(&mut self, seconds: u64, found: Result<&str, &str>) -> bool {
            let answer = Answer {
                host: "synapse.test".to_owned(),
                asked: self.start + Duration::from_secs(seconds),
                addresses: found.map(|ip| ips(&[ip])).map_err(str::to_owned),
            };
            let next = self.names.take(answer, &self.config, &self.snapshot);
            let changes = next.is_some();
            self.snapshot = next.unwrap_or_else(|| self.snapshot.clone());
            changes
        }
    }

    #[test]
    fn looks_on_both_sides_of_a_failure_are_not_in_a_row() {
        let mut looks = Looks::start();
        assert!(!looks.find(5, Ok("192.0.2.1")));
        assert!(!looks.find(10, Err("no answer")));
        assert!(!looks.find(20, Ok("192.0.2.1")));
        assert!(looks.find(25, Ok("192.0.2.1")));
    }

    #[test]
    fn a_name_changes_its_addresses_no_more_often_than_half_a_minute() {
        let mut looks = Looks::start();
        let moves: Vec<u64> = (1..24)
            .map(|look| look * 5)
            .filter(|second| looks.find(*second, Ok(&format!("192.0.2.{second}"))))
            .collect();
        assert_eq!(moves, [10, 40, 70, 100]);
    }

    #[test]
    fn a_look_that_began_before_a_reload_is_not_taken() {
        let mut looks = Looks::start();
        assert!(!looks.find(0, Ok("192.0.2.1")));
        looks.names.reloaded();
        assert!(!looks.find(0, Ok("192.0.2.1")), "it was under way");
        assert!(!looks.find(60, Ok("192.0.2.1")), "the first since");
        assert!(looks.find(65, Ok("192.0.2.1")));
    }
}
