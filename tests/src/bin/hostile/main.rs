//! Attacks on the proxy, and what a good client, memory, descriptors and the kernel's TCP memory see of them.
//!
//! Each attack has a proxy, an origin and good clients of its own. First it is quiet, then the swarm attacks, then the
//! proxy rests; figures are taken in each phase and held against the attack's [`Bounds`](attacks::Bounds). Latencies
//! are held against the quiet ones and against a control that goes to the origin without the proxy: what both suffer is
//! the machine's shortage, within a limit.
//!
//! Usage: `hostile [--seconds N] [--full | --connections N] [--list] [NAME…]`. The last line is `N passed, N failed`;
//! the exit status tells the same.
#![forbid(unsafe_code)]

mod attacks;
mod good;
mod swarm;
mod upstream;
mod vitals;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use ringfence_tests::{Proxy, SECOND, pause};

use attacks::{Attack, Front};
use good::{GoodClients, Latencies, Percentiles, Phase, ms};
use swarm::{Outcome, Swarm};
use upstream::Upstream;
use vitals::{Vitals, Watch, processor_ms};

fn main() -> ExitCode {
    let arguments = match Arguments::read(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let attacks = attacks::all();
    if arguments.lists {
        attacks.iter().for_each(|attack| println!("{:<22} {}", attack.name, attack.what));
        return ExitCode::SUCCESS;
    }
    let mut verdict = Verdict::default();
    for attack in attacks.iter().filter(|attack| arguments.wants(attack.name)) {
        run(attack, &arguments, &mut verdict);
    }
    println!("{} passed, {} failed", verdict.passed, verdict.failed);
    if verdict.failed == 0 && verdict.passed > 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

struct Arguments {
    seconds: u64,
    connections: usize,
    lists: bool,
    names: Vec<String>,
}

impl Arguments {
    fn read(mut words: impl Iterator<Item = String>) -> Result<Arguments, String> {
        let mut arguments = Arguments { seconds: 12, connections: 1000, lists: false, names: Vec::new() };
        while let Some(word) = words.next() {
            let mut number = || {
                let value = words.next().and_then(|value| value.parse::<u64>().ok());
                value.filter(|&value| value > 0).ok_or(format!("{word} takes a number"))
            };
            match word.as_str() {
                "--seconds" => arguments.seconds = number()?,
                "--connections" => arguments.connections = usize::try_from(number()?).unwrap_or(usize::MAX),
                "--full" => arguments.connections = 5000,
                "--list" => arguments.lists = true,
                name if attacks::all().iter().any(|attack| attack.name == name) => {
                    arguments.names.push(word);
                }
                _ => return Err(format!("{word} is neither an option nor an attack; --list names them")),
            }
        }
        Ok(arguments)
    }

    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }
}

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

fn run(attack: &Attack, arguments: &Arguments, verdict: &mut Verdict) {
    let upstream = Upstream::start();
    let mut proxy = Proxy::builder()
        .upstream(&format!("http://{}", upstream.address()))
        .tls()
        .listener("role = \"client\"")
        .workers(2)
        .server("access_log = \"/dev/null\"")
        .limits("connections_per_address_max = 256")
        .timeouts(attacks::TIMEOUTS)
        .start();
    println!("{}: {}, {} connections", attack.name, attack.what, arguments.connections);
    let figures = measure(attack, arguments, &proxy, &upstream);
    print(&figures);
    judge(attack, arguments, &figures, verdict);
    verdict.check(!proxy.has_panicked(), "the proxy panicked");
    verdict.check(proxy.stop().status.success(), "the proxy does not end in order");
}

fn measure(attack: &Attack, arguments: &Arguments, proxy: &Proxy, upstream: &Upstream) -> Figures {
    let good = GoodClients::start(proxy.addresses[0], upstream.address());
    pause(WARM_UP);
    let start = Vitals::of(proxy.pid());
    good.enter(Phase::Quiet);
    pause(QUIET);
    good.enter(Phase::Between);

    let to = if attack.front == Front::Plain { proxy.addresses[1] } else { proxy.addresses[0] };
    let (watch, processor_before) = (Watch::start(proxy), processor_ms(proxy));
    let prepared = match attack.front {
        Front::TlsEstablished => attacks::established(to, arguments.connections),
        _ => Vec::new(),
    };
    let swarm = Swarm::start(attack.script.clone(), to, arguments.connections, prepared);
    good.enter(Phase::Attack);
    pause(Duration::from_secs(arguments.seconds));
    good.enter(Phase::Between);
    let processor_ms = processor_ms(proxy) - processor_before;
    let (peak, outcome) = (watch.peak(), swarm.end());
    let (quiet, attacked) = (good.latencies(Phase::Quiet), good.latencies(Phase::Attack));
    let end = settle(proxy, start);
    good.end();
    Figures { quiet, attacked, start, peak, end, processor_ms, outcome }
}

/// Waits, for a bounded time, for memory and descriptors to be back.
fn settle(proxy: &Proxy, start: Vitals) -> Vitals {
    let begun = Instant::now();
    loop {
        let now = Vitals::of(proxy.pid());
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
        "    each    {} KiB resident, {} KiB of TCP; {} ms of processor time in all",
        each(start.resident_kib, peak.resident_kib, outcome),
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

fn judge(attack: &Attack, arguments: &Arguments, figures: &Figures, verdict: &mut Verdict) {
    let Figures { quiet, attacked, start, peak, end, outcome, .. } = figures;
    let bounds = &attack.bounds;
    let wanted = arguments.connections as u64;
    for (what, quiet, attacked) in [("kept", quiet.kept, attacked.kept), ("new", quiet.fresh, attacked.fresh)]
    {
        verdict.check(
            attacked.failures == 0 && attacked.count > 0,
            &format!("requests over {what} connections failed"),
        );
        let allowed = allowed_p99(quiet, figures);
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
    let tcp = each(start.tcp_kib, peak.tcp_kib, outcome);
    verdict
        .check(tcp <= bounds.tcp_kib, &format!("{tcp} KiB of TCP a connection, allowed {}", bounds.tcp_kib));
    if let Some(life) = bounds.life {
        let fault = format!("a connection lived {} ms, allowed {life:?}", outcome.oldest_ms);
        verdict.check(outcome.oldest_ms <= life.as_millis(), &fault);
    }
    verdict.check(
        outcome.held_max as u64 * 100 <= wanted * bounds.held_percent && outcome.held_max > 0,
        &format!("{} connections were held", outcome.held_max),
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
const QUIET: Duration = Duration::from_secs(3);

/// How long memory and descriptors may take to be back: pooled connections to the origin rest for 20 s.
const SETTLE_MAX: Duration = Duration::from_secs(25);
