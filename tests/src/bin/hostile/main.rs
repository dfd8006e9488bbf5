//! Attacks on the proxy, and what a good client, memory, descriptors and the kernel's TCP memory see of them.
//!
//! Each attack has a proxy, an origin and good clients of its own. First it is quiet, then the swarm attacks, then the
//! proxy rests; figures are taken in each phase and held against the attack's [`Bounds`](attacks::Bounds).
//!
//! The proxy has one worker and a core of its own, the first; attackers, origin and good clients share the others. So what
//! the attack costs the proxy is told from what it costs the attacker, who gives way to the good clients on top of that.
//! Latencies are held against the quiet ones and against a control that goes to the origin without the proxy: what both
//! suffer is the machine's shortage, within a limit.
//!
//! Usage: `hostile [--against ringfence|nginx|haproxy] [--seconds N] [--full | --connections N] [--list] [NAME…]`. Peers are
//! measured and not judged. After all attacks comes a table of their figures; the last line is `N passed, N failed`, and
//! the exit status tells the same.
#![forbid(unsafe_code)]

mod attacks;
mod good;
mod subject;
mod swarm;
mod upstream;
mod vitals;

use std::num::NonZeroU64;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ringfence_tests::arguments::Arguments as CommandLine;
use ringfence_tests::{SECOND, pause};

use attacks::{Attack, Front};
use good::{GoodClients, Latencies, Percentiles, Phase, ms};
use subject::{Kind, Subject};
use swarm::{Outcome, Swarm};
use upstream::Upstream;
use vitals::{Looks, Vitals, Watch, mib, processor_ms};

fn main() -> ExitCode {
    let arguments = Arguments::read();
    let attacks = attacks::all();
    if arguments.lists {
        attacks.iter().for_each(|attack| println!("{:<22} {}", attack.name, attack.what));
        return ExitCode::SUCCESS;
    }
    subject::pin(&subject::load_cores());
    let mut verdict = Verdict::default();
    let wanted = attacks.iter().filter(|attack| arguments.wants(attack.name));
    let rows: Vec<String> = wanted.map(|attack| run(attack, &arguments, &mut verdict)).collect();
    println!("\n{TABLE_HEAD}\n{}\n", rows.join("\n"));
    println!("{} passed, {} failed", verdict.passed, verdict.failed);
    let judged = arguments.against == Kind::Ringfence;
    if verdict.failed == 0 && (verdict.passed > 0 || !judged) { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Arguments {
    against: Kind,
    seconds: u64,
    connections: usize,
    lists: bool,
    names: Vec<String>,
}

impl Arguments {
    /// Of the command line; ends the process with the usage and 2 where it cannot be understood.
    fn read() -> Arguments {
        let read =
            CommandLine::read(USAGE, &["--full", "--list"], &["--against", "--seconds", "--connections"]);
        let is_known = |name: &&String| !attacks::all().iter().any(|attack| attack.name == **name);
        if let Some(name) = read.names.iter().find(is_known) {
            read.refuse(format!("{name} is no attack; --list names them"));
        }
        let number = |option| read.value(option).map(NonZeroU64::get);
        let connections = number("--connections").map(|number| usize::try_from(number).unwrap_or(usize::MAX));
        Arguments {
            against: read.value("--against").unwrap_or(Kind::Ringfence),
            seconds: number("--seconds").unwrap_or(12),
            connections: connections.unwrap_or(if read.has("--full") { 5000 } else { 1000 }),
            lists: read.has("--list"),
            names: read.names,
        }
    }

    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

const USAGE: &str = "tests/hostile/run [--against ringfence|nginx|haproxy] [--seconds N] [--full | --connections N] [--list] [NAME…]";

/// What has been judged so far.
#[derive(Default)]
struct Verdict {
    passed: u64,
    failed: u64,
}

impl Verdict {
    fn check(&mut self, holds: bool, what: &str) {
        match holds {
            true => self.passed += 1,
            false => {
                self.failed += 1;
                println!("    FAULT {what}");
            }
        }
    }
}

/// What was measured around one attack.
struct Figures {
    quiet: Latencies,
    attacked: Latencies,
    start: Vitals,
    peak: Vitals,
    end: Vitals,
    /// Processor time of the proxy during the attack, in milliseconds.
    processor_ms: u64,
    outcome: Outcome,
}

/// Runs one attack and returns its line of the table.
fn run(attack: &Attack, arguments: &Arguments, verdict: &mut Verdict) -> String {
    let upstream = Upstream::start();
    let mut subject = Subject::start(arguments.against, upstream.address());
    let connections = arguments.connections.min(attack.script.connections_max);
    println!("{}: {}, {connections} connections", attack.name, attack.what);
    let figures = measure(attack, connections, arguments.seconds, &subject, &upstream);
    print(&figures);
    if let Some(proxy) = subject.ringfence() {
        judge(attack, connections, &figures, verdict);
        verdict.check(!proxy.has_panicked(), "the proxy panicked");
        verdict.check(proxy.stop().status.success(), "the proxy does not end in order");
    }
    row(attack, &figures)
}

fn measure(
    attack: &Attack,
    connections: usize,
    seconds: u64,
    subject: &Subject,
    upstream: &Upstream,
) -> Figures {
    let looks = Looks {
        pids: subject.pids(),
        listening: [subject.tls.port(), subject.plain.port()],
        origin: upstream.address().port(),
    };
    let good = GoodClients::start(subject.tls, upstream.address());
    pause(WARM_UP);
    let start = Vitals::of(&looks);
    good.enter(Phase::Quiet);
    pause(QUIET);
    good.enter(Phase::Between);

    let to = if attack.front == Front::Plain { subject.plain } else { subject.tls };
    let (watch, processor_before) = (Watch::start(&looks), processor_ms(&looks));
    let prepared = (attack.front == Front::TlsEstablished).then(|| attacks::established(to, connections));
    let swarm = Swarm::start(attack.script.clone(), to, connections, prepared);
    good.enter(Phase::Attack);
    pause(Duration::from_secs(seconds));
    good.enter(Phase::Between);
    let processor_ms = processor_ms(&looks) - processor_before;
    let (peak, outcome) = (watch.peak(), swarm.end());
    let (quiet, attacked) = (good.latencies(Phase::Quiet), good.latencies(Phase::Attack));
    let end = settle(&looks, start);
    good.end();
    Figures { quiet, attacked, start, peak, end, processor_ms, outcome }
}

/// Waits, for a bounded time, for memory and descriptors to be back.
fn settle(looks: &Looks, start: Vitals) -> Vitals {
    let begun = Instant::now();
    loop {
        let now = Vitals::of(looks);
        if begun.elapsed() > SETTLE_MAX || is_back(start, now) {
            return now;
        }
        pause(SECOND / 4);
    }
}

fn is_back(start: Vitals, now: Vitals) -> bool {
    now.resident_kib <= start.resident_kib + RESIDENT_ALLOWANCE_KIB
        && now.descriptors <= start.descriptors + DESCRIPTOR_ALLOWANCE
}

fn print(figures: &Figures) {
    let Figures { quiet, attacked, start, peak, end, outcome, .. } = figures;
    println!("    p50 / p99, quiet -> under attack");
    println!("      kept TLS connections   {} -> {}", quiet.kept, attacked.kept);
    println!("      new TLS connections    {} -> {}", quiet.fresh, attacked.fresh);
    println!("      control, no proxy      {} -> {}", quiet.control, attacked.control);
    println!("    start   {start}");
    println!("    peak    {peak}");
    println!("    end     {end}");
    println!(
        "    each    {} KiB resident, {} KiB of TCP, {} KiB of TCP on the machine; {} ms of processor time in all",
        each(start.resident_kib, peak.resident_kib, outcome),
        each(start.own_tcp_kib, peak.own_tcp_kib, outcome),
        each(start.tcp_kib, peak.tcp_kib, outcome),
        figures.processor_ms
    );
    println!(
        "    attack  {} held, {} opened, {} ended by the proxy, {} failed, oldest {} ms, {} KiB out, {} KiB in, {:?}",
        outcome.held_max,
        outcome.opened,
        outcome.ended,
        outcome.failed,
        outcome.oldest_ms,
        outcome.sent / 1024,
        outcome.received / 1024,
        outcome.statuses
    );
}

/// What one connection cost at the peak, in KiB.
fn each(start_kib: u64, peak_kib: u64, outcome: &Outcome) -> u64 {
    peak_kib.saturating_sub(start_kib) / (outcome.held_max as u64).max(1)
}

/// A line of the table.
fn row(attack: &Attack, figures: &Figures) -> String {
    let Figures { quiet, attacked, start, peak, end, outcome, .. } = figures;
    let change =
        |quiet: Percentiles, attacked: Percentiles| format!("{quiet} → {attacked}").replace(" ms", "");
    format!(
        "| {} | {} | {} | {} | {} | {} ({}) | {}.{} | {} / {} / {} |",
        attack.name,
        change(quiet.kept, attacked.kept),
        change(quiet.fresh, attacked.fresh),
        change(quiet.control, attacked.control),
        each(start.resident_kib, peak.resident_kib, outcome),
        each(start.own_tcp_kib, peak.own_tcp_kib, outcome),
        each(start.tcp_kib, peak.tcp_kib, outcome),
        outcome.oldest_ms / 1000,
        outcome.oldest_ms % 1000 / 100,
        mib(start.resident_kib),
        mib(peak.resident_kib),
        mib(end.resident_kib),
    )
}

fn judge(attack: &Attack, connections: usize, figures: &Figures, verdict: &mut Verdict) {
    let Figures { quiet, attacked, start, peak, end, outcome, .. } = figures;
    let bounds = &attack.bounds;
    let queues = u64::try_from(bounds.queues.as_micros()).unwrap_or(0) * outcome.held_max as u64;
    let series = [("kept", quiet.kept, attacked.kept, 0), ("new", quiet.fresh, attacked.fresh, queues)];
    for (what, quiet, attacked, queues) in series {
        verdict.check(
            attacked.failures == 0 && attacked.count > 0,
            &format!("requests over {what} connections failed"),
        );
        let allowed = allowed_p99(quiet, figures) + queues;
        let fault =
            format!("p99 over {what} connections is {} ms, allowed {} ms", ms(attacked.p99), ms(allowed));
        verdict.check(attacked.p99 <= allowed, &fault);
    }
    let resident =
        each(start.resident_kib, peak.resident_kib.saturating_sub(RESIDENT_ALLOWANCE_KIB), outcome);
    verdict.check(
        resident <= bounds.resident_kib,
        &format!("{resident} KiB resident a connection, allowed {}", bounds.resident_kib),
    );
    let tcp = each(start.own_tcp_kib, peak.own_tcp_kib, outcome);
    verdict
        .check(tcp <= bounds.tcp_kib, &format!("{tcp} KiB of TCP a connection, allowed {}", bounds.tcp_kib));
    if let Some(life) = bounds.life {
        let fault = format!("a connection lived {} ms, allowed {life:?}", outcome.oldest_ms);
        verdict.check(outcome.oldest_ms <= life.as_millis(), &fault);
    }
    verdict.check(
        outcome.held_max as u64 * 100 >= connections as u64 * bounds.held_percent_min && outcome.held_max > 0,
        &format!("{} connections were held", outcome.held_max),
    );
    verdict.check(
        peak.descriptors <= bounds.descriptors_max,
        &format!("{} descriptors, allowed {}", peak.descriptors, bounds.descriptors_max),
    );
    let strange: Vec<&String> =
        outcome.statuses.keys().filter(|status| !bounds.statuses.contains(&status.as_str())).collect();
    verdict.check(strange.is_empty(), &format!("answered {strange:?}, expected {:?}", bounds.statuses));
    verdict.check(
        is_back(*start, *end),
        &format!("not back at the start within {SETTLE_MAX:?}: {start} became {end}"),
    );
}

/// Three times the quiet p99, or of the control under the same attack up to a limit, and never under a floor.
fn allowed_p99(quiet: Percentiles, figures: &Figures) -> u64 {
    (3 * quiet.p99).max((3 * figures.attacked.control.p99).min(EXCUSE_MAX_US)).max(FLOOR_US)
}

/// Latencies are p50 / p99, quiet → under attack; memory is for each connection, and at the end of it all.
const TABLE_HEAD: &str = "| attack | kept, ms | new, ms | control, ms | KiB resident each | KiB of TCP each (machine) \
    | oldest, s | MiB start / peak / end |\n|---|---|---|---|---|---|---|---|";

/// The most that the control excuses, in microseconds: beyond, it suffers by what the proxy lets the attack do to the
/// kernel, its TCP memory above all, and not by busy processors.
const EXCUSE_MAX_US: u64 = 150_000;

/// What is a busy machine's scheduling and not worth a fault, in microseconds: a few time slices of the kernel's scheduler.
const FLOOR_US: u64 = 10_000;

/// What the proxy may keep of an attack's memory, in KiB: its shelves of buffers and heads for the next one.
const RESIDENT_ALLOWANCE_KIB: u64 = 16 * 1024;

/// Descriptors that may come and go with the good clients: their connections and those to the origin.
const DESCRIPTOR_ALLOWANCE: usize = 16;

/// Time for the good clients to connect, and for the proxy to have made what it makes once.
const WARM_UP: Duration = Duration::from_millis(1500);

/// How long the quiet values are taken.
const QUIET: Duration = Duration::from_secs(5);

/// How long memory and descriptors may take to be back: pooled connections to the origin rest for 5 s here, and idle ones of
/// clients for 10 s.
const SETTLE_MAX: Duration = Duration::from_secs(15);
