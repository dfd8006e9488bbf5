//! What the kernel tells of the proxy and of the memory of TCP.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use ringfence_tests::{MS, pause};

/// Where to look: processes, and what tells their sockets from those of attackers and origin.
#[derive(Clone, Debug)]
pub(crate) struct Looks {
    /// The proxy's processes.
    pub(crate) pids: Vec<u32>,
    /// The ports on which it listens: theirs are its connections to clients, closed ones with bytes unsent included.
    pub(crate) listening: [u16; 2],
    /// The origin's port: what is connected to it is the proxy's, but for the one connection of the control.
    pub(crate) origin: u16,
}

/// Memory and descriptors at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Vitals {
    /// Resident memory of the proxy, in KiB.
    pub(crate) resident_kib: u64,
    /// Open descriptors of the proxy.
    pub(crate) descriptors: usize,
    /// What all TCP sockets of this machine hold, both ends of every loopback connection, in KiB.
    pub(crate) tcp_kib: u64,
    /// What the proxy's own TCP sockets hold, in KiB.
    pub(crate) own_tcp_kib: u64,
}

impl Vitals {
    /// Those of this moment.
    pub(crate) fn of(looks: &Looks) -> Vitals {
        Vitals { own_tcp_kib: own_tcp_kib(looks), ..Vitals::quickly(looks) }
    }

    /// The same without what costs a walk through all sockets.
    fn quickly(looks: &Looks) -> Vitals {
        Vitals {
            resident_kib: looks.pids.iter().map(resident_kib).sum(),
            descriptors: looks.pids.iter().map(descriptors).sum(),
            tcp_kib: tcp_kib(),
            own_tcp_kib: 0,
        }
    }

    /// The larger of each.
    fn max(self, other: Vitals) -> Vitals {
        Vitals {
            resident_kib: self.resident_kib.max(other.resident_kib),
            descriptors: self.descriptors.max(other.descriptors),
            tcp_kib: self.tcp_kib.max(other.tcp_kib),
            own_tcp_kib: self.own_tcp_kib.max(other.own_tcp_kib),
        }
    }
}

impl fmt::Display for Vitals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Vitals { resident_kib, descriptors, tcp_kib, own_tcp_kib } = self;
        write!(
            formatter,
            "{} MiB resident, {descriptors} descriptors, {} MiB of TCP, {} MiB of TCP on the machine",
            mib(*resident_kib),
            mib(*own_tcp_kib),
            mib(*tcp_kib)
        )
    }
}

/// KiB as MiB with one decimal.
pub(crate) fn mib(kib: u64) -> String {
    format!("{}.{}", kib / 1024, kib % 1024 * 10 / 1024)
}

fn resident_kib(pid: &u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    resident.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn descriptors(pid: &u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// `TCP: … mem PAGES` of `/proc/net/sockstat`.
fn tcp_kib() -> u64 {
    let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let tcp = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = tcp.split_whitespace().last().and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_KIB
}

/// By `ss` of iproute2, which asks the kernel for each socket's memory.
fn own_tcp_kib(looks: &Looks) -> u64 {
    let [first, second] = looks.listening;
    let filter = format!("( sport = :{first} or sport = :{second} or dport = :{} )", looks.origin);
    let output = Command::new("ss").args(["-tmnHO", &filter]).output();
    let output = output.expect("ss of iproute2 is there");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let sockets = String::from_utf8_lossy(&output.stdout);
    let bytes: u64 = sockets.lines().filter_map(|line| line.split("skmem:(").nth(1)).map(held_bytes).sum();
    bytes / 1024
}

/// Of `r…,rb…,t…,tb…,f…,w…,o…,bl…,d…)`: received, reserved, queued to be sent or acknowledged, and backlogged. What is with
/// the device (`t`) is part of what is queued.
fn held_bytes(skmem: &str) -> u64 {
    let fields = skmem.split([',', ')']);
    let held = fields.filter_map(|field| {
        let number = field.find(|letter: char| letter.is_ascii_digit())?;
        let (name, value) = field.split_at(number);
        ["r", "f", "w", "bl"].contains(&name).then(|| value.parse::<u64>().unwrap_or(0))
    });
    held.sum()
}

/// Processor time of the proxy so far, in milliseconds.
pub(crate) fn processor_ms(looks: &Looks) -> u64 {
    looks.pids.iter().map(processor_ms_of).sum()
}

fn processor_ms_of(pid: &u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold spaces: utime and stime are the 12th and 13th.
    let behind = stat.rsplit(')').next().unwrap_or_default();
    let ticks = behind.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
    ticks.sum::<u64>() * TICK_MS
}

/// Takes samples until told to stop, and keeps the largest of each figure.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    watching: JoinHandle<Vitals>,
}

impl Watch {
    /// Begins.
    pub(crate) fn start(looks: &Looks) -> Watch {
        let (looks, stop) = (looks.clone(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let watching = thread::spawn(move || {
            let mut peak = Vitals::of(&looks);
            let mut rounds = 0;
            while !stopped.load(Ordering::SeqCst) {
                pause(100 * MS);
                rounds += 1;
                let all = rounds % ROUNDS_PER_WALK == 0;
                peak = peak.max(if all { Vitals::of(&looks) } else { Vitals::quickly(&looks) });
            }
            peak
        });
        Watch { stop, watching }
    }

    /// Ends, with the peak.
    pub(crate) fn peak(self) -> Vitals {
        self.stop.store(true, Ordering::SeqCst);
        self.watching.join().expect("the watch does not panic")
    }
}

/// A page of memory, in KiB, on every machine that this is run on.
const PAGE_KIB: u64 = 4;

/// A tick of the kernel's process times (`USER_HZ` is 100 everywhere), in milliseconds.
const TICK_MS: u64 = 10;

/// How many quick looks come between two walks through all sockets, which take some 50 ms each with ten thousand.
const ROUNDS_PER_WALK: u32 = 10;
