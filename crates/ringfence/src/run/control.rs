//! The control plane while the workers serve: signals, commands of the admin listener, certificates that change, and the end.

use std::{
    error::Error,
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use ringfence_forward::{LogSender, Totals, Workers, snapshot::Snapshot};
use ringfence_tls::Certificate;
use sd_notify::NotifyState;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    task,
    time::{self, MissedTickBehavior},
};

use super::{
    access_log,
    health::Probes,
    names::{Answer, Names},
    sockets::Sockets,
    upgrade::{Follower, Successor},
    watch::{self, Watched},
};
use crate::{
    admin::{self, Recent, View},
    check, config,
    config::Config,
    presets,
};

/// What is served at present.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) config: Arc<Config>,
    pub(crate) snapshot: Arc<Snapshot>,
    /// Those of the configuration, in its order.
    pub(crate) certificates: Vec<Certificate>,
    /// Counts configurations from 1; certificates and addresses that are swapped in count too.
    pub(crate) generation: u64,
}

impl Running {
    pub(super) fn new(config: Config, snapshot: Arc<Snapshot>, certificates: Vec<Certificate>) -> Self {
        Self { config: Arc::new(config), snapshot, certificates, generation: 1 }
    }

    fn followed_by(&self, config: Arc<Config>, snapshot: Snapshot, certificates: Vec<Certificate>) -> Self {
        Self { config, snapshot: Arc::new(snapshot), certificates, generation: self.generation + 1 }
    }

    /// Reads the config file again, whole. Waits for files and name lookups.
    fn read_anew(&self) -> Result<(Running, Vec<Watched>), Box<dyn Error + Send + Sync>> {
        let config = config::load(&self.config.file)?;
        let watched = watch::watch(&config);
        let certificates = check::look_around(&config)?;
        let snapshot = presets::snapshot(&config, certificates.clone(), Some(&self.snapshot))?;
        Ok((self.followed_by(Arc::new(config), snapshot, certificates), watched))
    }
}

/// What the control plane did, for those who watch.
#[derive(Debug, Default)]
pub(crate) struct Deeds {
    pub(crate) reloads: AtomicU64,
    pub(crate) reloads_failed: AtomicU64,
    pub(crate) certificates_swapped: AtomicU64,
    pub(crate) certificates_refused: AtomicU64,
    pub(crate) upgrades_failed: AtomicU64,
    /// Names of upstreams that were looked up again, with success.
    pub(crate) lookups: AtomicU64,
    pub(crate) lookups_failed: AtomicU64,
    /// How often another address came of it.
    pub(crate) addresses_changed: AtomicU64,
}

pub(super) fn count(deeds: &AtomicU64) {
    deeds.fetch_add(1, Ordering::Relaxed);
}

/// What the admin listener passes on; the answer says what was done, or why nothing was.
pub(crate) struct Command {
    pub(crate) kind: CommandKind,
    pub(crate) answer: oneshot::Sender<Result<String, String>>,
}

/// What can be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CommandKind {
    Reload,
    Upgrade,
}

/// Commands that may wait; who sends more waits itself.
const COMMANDS_MAX: usize = 4;

/// Answers of name servers that may wait to be used; who has more waits itself.
const ANSWERS_MAX: usize = 16;

/// What the world tells a process.
pub(super) struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reload: Signal,
    /// Heard by a task of its own: nothing holds it up.
    reopen: Option<Signal>,
    upgrade: Signal,
}

impl Signals {
    /// Takes them over from now on. Needs a runtime around it.
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reload: signal(SignalKind::hangup())?,
            reopen: Some(signal(SignalKind::user_defined1())?),
            upgrade: signal(SignalKind::user_defined2())?,
        })
    }

    async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => (),
            _ = self.interrupt.recv() => (),
        }
    }

    /// What is still heard by a process that ends.
    async fn late(&mut self) -> Late {
        tokio::select! {
            _ = self.terminate.recv() => Late::End,
            _ = self.interrupt.recv() => Late::End,
            _ = self.reload.recv() => Late::Reload,
        }
    }
}

enum Late {
    /// It is to be faster.
    End,
    /// Who sent it did not know yet that another process serves.
    Reload,
}

/// Who holds the reins.
pub(super) struct Control {
    running: Running,
    workers: Workers,
    sockets: Sockets,
    log: Option<LogSender>,
    log_writer: Option<access_log::Running>,
    successor: Successor,
    watched: Vec<Watched>,
    /// When the certificates' dates are looked at again.
    expiry_look: Instant,
    view: Arc<View>,
    probes: Probes,
    names: Names,
}

/// Something to do that may take its time.
enum Task {
    Command(CommandKind, Option<oneshot::Sender<Result<String, String>>>),
    LookAfterCertificates,
    TakeAddresses(Answer),
}

/// Why serving ends.
enum End {
    /// Somebody said so.
    Told,
    /// Another process serves now.
    HandedOver(Follower),
}

impl Control {
    pub(super) fn new(
        running: Running,
        watched: Vec<Watched>,
        workers: Workers,
        sockets: Sockets,
        log: Option<(LogSender, access_log::Running)>,
        successor: Successor,
        recent: Recent,
    ) -> Self {
        let (log, log_writer) = log.unzip();
        let view = View::new(running.clone(), workers.counters(), workers.clients(), log.clone(), recent);
        Self {
            running,
            workers,
            sockets,
            log,
            log_writer,
            successor,
            watched,
            expiry_look: Instant::now(),
            view: Arc::new(view),
            probes: Probes::default(),
            names: Names::default(),
        }
    }

    /// Serves until the end, drains, and waits for that.
    pub(super) async fn serve(
        mut self,
        admin: Option<admin::Listener>,
        signals: &mut Signals,
    ) -> io::Result<Totals> {
        let (commands, mut asked) = mpsc::channel(COMMANDS_MAX);
        let admin = admin.map(|listener| admin::Server::start(listener, self.view.clone(), commands));
        self.reopen_log_on(signals.reopen.take());
        let (tell, mut answers) = mpsc::channel(ANSWERS_MAX);
        self.names.tell(tell);
        self.watch_upstreams();
        notify(&[NotifyState::Ready]);
        let mut look = time::interval(watch::LOOK);
        // Two looks in a row would not tell whether a file stays as it is.
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = loop {
            let task = tokio::select! {
                _ = signals.terminate.recv() => break End::Told,
                _ = signals.interrupt.recv() => break End::Told,
                _ = signals.reload.recv() => Task::Command(CommandKind::Reload, None),
                _ = signals.upgrade.recv() => Task::Command(CommandKind::Upgrade, None),
                Some(Command { kind, answer }) = asked.recv() => Task::Command(kind, Some(answer)),
                Some(answer) = answers.recv() => Task::TakeAddresses(answer),
                _ = look.tick() => {
                    if self.workers.has_lost_one() {
                        break End::Told;
                    }
                    Task::LookAfterCertificates
                }
            };
            // A name server that does not answer, or a new process that does not start, holds up everything but the end.
            tokio::select! {
                () = signals.end() => break End::Told,
                follower = self.work(task) => if let Some(follower) = follower { break End::HandedOver(follower) },
            }
        };
        // Another process asks now, or nobody needs to know.
        self.probes = Probes::default();
        self.names = Names::default();
        self.view.leaves();
        // Who asks for something now is told that this process ends.
        drop(asked);
        // While it drains it can be watched, and says that it is not ready. Another process has an admin listener of its own.
        let (admin, superseded) = if matches!(end, End::Told) { (admin, None) } else { (None, admin) };
        if let Some(admin) = superseded {
            admin.stop(false).await;
        }
        let totals = self.finish(end, signals).await;
        if let Some(admin) = admin {
            admin.stop(true).await;
        }
        totals
    }

    /// Does one thing. Returns the process that has taken over, if that is what it was.
    async fn work(&mut self, task: Task) -> Option<Follower> {
        let (kind, answer) = match task {
            Task::Command(kind, answer) => (kind, answer),
            Task::LookAfterCertificates => {
                self.look_after_certificates().await;
                return None;
            }
            Task::TakeAddresses(answer) => {
                self.take_addresses(answer);
                return None;
            }
        };
        let (told, follower) = match kind {
            CommandKind::Reload => (self.reload().await, None),
            CommandKind::Upgrade => self.upgrade().await,
        };
        if let Some(answer) = answer {
            // Who asked may be gone.
            let _ = answer.send(told);
        }
        follower
    }

    fn reopen_log_on(&self, signal: Option<Signal>) {
        let reopen = self.log_writer.as_ref().map(access_log::Running::reopener);
        if let (Some(mut signal), Some(reopen)) = (signal, reopen) {
            task::spawn(async move {
                while signal.recv().await.is_some() {
                    reopen();
                }
            });
        }
    }

    /// Reads the config file again and goes on with it, or tells why not.
    async fn reload(&mut self) -> Result<String, String> {
        notify_reloading();
        let result = self.try_reload().await;
        notify(&[NotifyState::Ready]);
        match &result {
            Ok(done) => {
                count(&self.view.deeds.reloads);
                tracing::info!("{done}");
            }
            Err(error) => {
                count(&self.view.deeds.reloads_failed);
                tracing::error!("not reloaded, nothing changes: {error}");
            }
        }
        result
    }

    async fn try_reload(&mut self) -> Result<String, String> {
        let before = self.running.clone();
        let read = task::spawn_blocking(move || before.read_anew()).await;
        let (next, watched) = read.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let added = self.sockets.open(&next.snapshot, Some(&self.running.snapshot))?;
        for key in needs_upgrade(&self.running.config, &next.config) {
            tracing::warn!(
                "{key} has changed: it takes effect with `ringfence upgrade` or at the next start"
            );
        }
        let listeners =
            |snapshot: &Snapshot| snapshot.listeners.iter().filter(|listener| !listener.retired).count();
        let (count_before, count_now) = (listeners(&self.running.snapshot), listeners(&next.snapshot));
        self.watched = watched;
        self.names.reloaded();
        self.go_on_with(next, added)?;
        Ok(format!(
            "reloaded, generation {}: {count_now} listeners (before: {count_before}), {} certificates",
            self.running.generation,
            self.running.certificates.len(),
        ))
    }

    fn go_on_with(&mut self, next: Running, added: super::sockets::ByWorker) -> Result<(), String> {
        let applied = self.workers.apply(&next.snapshot, added);
        self.sockets.forget_retired(&next.snapshot);
        self.view.shows(next.clone());
        self.running = next;
        self.watch_upstreams();
        applied.map_err(|error| error.to_string())
    }

    /// Asks after the health of servers and looks their names up, from now on as the present configuration says.
    fn watch_upstreams(&mut self) {
        self.probes.follow(&self.running);
        self.names.follow(&self.running.config);
    }

    /// Goes on with the addresses that a name has now. The servers stay what they are, with their connections.
    fn take_addresses(&mut self, answer: Answer) {
        let deeds = &self.view.deeds;
        self.names.note(&answer, deeds);
        let Running { config, snapshot, certificates, .. } = &self.running;
        let Some(next) = self.names.take(answer, config, snapshot) else { return };
        count(&deeds.addresses_changed);
        let next = self.running.followed_by(config.clone(), next, certificates.clone());
        if let Err(error) = self.go_on_with(next, Vec::new()) {
            tracing::error!("the new addresses are not in use everywhere: {error}");
        }
    }

    /// Swaps in certificates whose files have changed; warns of those that end soon.
    async fn look_after_certificates(&mut self) {
        let changed: Vec<usize> =
            (0..self.watched.len()).filter(|index| self.watched[*index].has_changed()).collect();
        if !changed.is_empty() {
            self.swap_certificates(changed).await;
        }
        if Instant::now() >= self.expiry_look {
            self.expiry_look = Instant::now() + EXPIRY_LOOK;
            for certificate in &self.running.certificates {
                warn_of_expiry(certificate, SystemTime::now());
            }
        }
    }

    async fn swap_certificates(&mut self, changed: Vec<usize>) {
        let config = self.running.config.clone();
        let read = task::spawn_blocking(move || {
            let load = |index: usize| {
                let files = &config.certificates[index];
                (index, Certificate::load(&files.chain, &files.key))
            };
            changed.into_iter().map(load).collect::<Vec<_>>()
        });
        let Ok(read) = read.await else { return };
        let mut certificates = self.running.certificates.clone();
        let mut swapped = 0;
        for (index, certificate) in read {
            match certificate {
                Ok(certificate) => {
                    let names = certificate.names().join(", ");
                    tracing::info!(names, file = %certificate.chain_path().display(), "certificate renewed");
                    certificates[index] = certificate;
                    swapped += 1;
                }
                Err(error) => {
                    count(&self.view.deeds.certificates_refused);
                    tracing::error!("a changed certificate is refused, the one before stays: {error}");
                }
            }
        }
        if swapped == 0 {
            return;
        }
        let next = presets::with_certificates(&self.running.snapshot, certificates.clone())
            .map_err(|error| error.to_string())
            .and_then(|snapshot| {
                let next = self.running.followed_by(self.running.config.clone(), snapshot, certificates);
                self.go_on_with(next, Vec::new())
            });
        match next {
            Ok(()) => drop(self.view.deeds.certificates_swapped.fetch_add(swapped, Ordering::Relaxed)),
            Err(error) => tracing::error!("renewed certificates cannot be used: {error}"),
        }
    }

    /// Lets the binary that is now where this one was take over.
    async fn upgrade(&mut self) -> (Result<String, String>, Option<Follower>) {
        match self.successor.start(&self.sockets).await {
            Ok(follower) => {
                let process = follower.id();
                // Before the workers hear of it, so that the service manager never sees nobody in charge.
                notify(&[NotifyState::MainPid(process), NotifyState::Ready]);
                let done = format!("process {process} has taken over");
                tracing::info!("{done}; this one finishes what it has begun");
                (Ok(done), Some(follower))
            }
            Err(error) => {
                count(&self.view.deeds.upgrades_failed);
                tracing::error!("not upgraded, this process goes on: {error}");
                (Err(error), None)
            }
        }
    }

    /// Lets the workers end, and the log after them. Signals make it faster.
    async fn finish(mut self, end: End, signals: &mut Signals) -> io::Result<Totals> {
        let mut follower = match end {
            End::Told => {
                notify(&[NotifyState::Stopping]);
                tracing::info!("draining; a second signal ends it at once");
                self.workers.drain();
                None
            }
            End::HandedOver(follower) => {
                self.workers.hand_over();
                Some(follower)
            }
        };
        drop(self.sockets);
        let mut draining = follower.is_none();
        let mut look = time::interval(END_LOOK);
        loop {
            tokio::select! {
                // What has come is heard before the end, however soon that is.
                biased;
                late = signals.late() => match (late, &mut follower) {
                    (Late::Reload, Some(follower)) => follower.pass_on(nix::sys::signal::Signal::SIGHUP),
                    (Late::Reload, None) => {}
                    (Late::End, _) if draining => {
                        return Err(io::Error::other("ended by a second signal while draining"));
                    }
                    (Late::End, _) => {
                        draining = true;
                        self.workers.drain();
                    }
                },
                _ = look.tick() => if self.workers.have_ended() { break },
            }
        }
        let totals = self.workers.join();
        if let Some((log, writer)) = self.log.as_ref().zip(self.log_writer) {
            log.end();
            finish_log(writer, signals).await;
        }
        Ok(totals)
    }
}

/// Keys of `[server]` that are read at the start only.
fn needs_upgrade(before: &Config, next: &Config) -> Vec<&'static str> {
    let (before, next) = (&before.server, &next.server);
    let user = |server: &config::Server| server.user.as_ref().map(|user| user.value.clone());
    [
        ("server.workers", before.workers != next.workers),
        ("server.user", user(before) != user(next)),
        ("server.access_log", before.access_log != next.access_log),
        ("server.access_log_format", before.access_log_format != next.access_log_format),
        ("server.access_log_targets", before.access_log_targets != next.access_log_targets),
        ("server.admin", before.admin != next.admin),
        ("server.log", before.log != next.log),
    ]
    .into_iter()
    .filter_map(|(key, changed)| changed.then_some(key))
    .collect()
}

fn warn_of_expiry(certificate: &Certificate, now: SystemTime) {
    if let Some(problem) = certificate.validity_problem(now) {
        tracing::warn!("{problem}");
    } else if let Ok(left) = certificate.not_after().duration_since(now)
        && left < EXPIRES_SOON
    {
        let days = left.as_secs() / DAY.as_secs();
        tracing::warn!(
            file = %certificate.chain_path().display(),
            days,
            "a certificate ends soon; is its renewal working?"
        );
    }
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// From when on an expiry is warned of: ACME clients renew 30 days before, so something has failed for two weeks.
pub(crate) const EXPIRES_SOON: Duration = Duration::from_secs(14 * 24 * 3600);

/// How often certificates' dates are looked at: often enough for a line in each day's log.
const EXPIRY_LOOK: Duration = Duration::from_secs(12 * 3600);

/// How often is looked whether the workers have ended.
const END_LOOK: Duration = Duration::from_millis(20);

fn notify(states: &[NotifyState<'_>]) {
    // Without a service manager there is nobody to tell.
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager cannot be told");
    }
}

fn notify_reloading() {
    if let Ok(time) = NotifyState::monotonic_usec_now() {
        notify(&[NotifyState::Reloading, time]);
    }
}

/// Waits for the log's last lines, unless what they are written to has stalled.
async fn finish_log(writer: access_log::Running, signals: &mut Signals) {
    let (done, finished) = oneshot::channel();
    thread::spawn(move || {
        writer.finish();
        done.send(())
    });
    tokio::select! {
        _ = finished => {}
        () = signals.end() => tracing::warn!("ended by a second signal; the last lines of the access log are lost"),
        () = time::sleep(LOG_FINISH) => tracing::warn!("the access log stalls; its last lines are lost"),
    }
}

/// How long the last lines of the access log may take.
const LOG_FINISH: Duration = Duration::from_secs(5);
