//! What the kernel tells of the proxy and of its own TCP memory.
#![forbid(unsafe_code)]

use std::fmt;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use ringfence_tests::{MS, Proxy, pause};

/// Memory and descriptors at a moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Vitals {
    /// Resident memory of the proxy, in KiB.
    pub(crate) resident_kib: u64,
    /// Open descriptors of the proxy.
    pub(crate) descriptors: usize,
    /// What all TCP sockets of this machine hold, both ends of every loopback connection, in KiB.
    pub(crate) tcp_kib: u64,
}

impl Vitals {
    /// Those of this moment.
    pub(crate) fn of(pid: u32) -> Vitals {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let resident_kib = resident.and_then(|rest| rest.split_whitespace().next()?.parse().ok());
        Vitals {
            resident_kib: resident_kib.unwrap_or(0),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
            tcp_kib: tcp_kib(),
        }
    }

    /// The larger of each.
    fn max(self, other: Vitals) -> Vitals {
        Vitals {
            resident_kib: self.resident_kib.max(other.resident_kib),
            descriptors: self.descriptors.max(other.descriptors),
            tcp_kib: self.tcp_kib.max(other.tcp_kib),
        }
    }
}

impl fmt::Display for Vitals {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Vitals { resident_kib, descriptors, tcp_kib } = self;
        write!(
            formatter,
            "{} MiB resident, {descriptors} descriptors, {} MiB of TCP",
            mib(*resident_kib),
            mib(*tcp_kib)
        )
    }
}

fn mib(kib: u64) -> String {
    format!("{}.{}", kib / 1024, kib % 1024 * 10 / 1024)
}

/// `TCP: … mem PAGES` of `/proc/net/sockstat`.
fn tcp_kib() -> u64 {
    let sockstat = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let tcp = sockstat.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = tcp.split_whitespace().last().and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * PAGE_KIB
}

/// Processor time of the proxy so far, in milliseconds.
pub(crate) fn processor_ms(proxy: &Proxy) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{}/stat", proxy.pid())).unwrap_or_default();
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
    pub(crate) fn start(proxy: &Proxy) -> Watch {
        let (pid, stop) = (proxy.pid(), Arc::new(AtomicBool::new(false)));
        let stopped = Arc::clone(&stop);
        let watching = thread::spawn(move || {
            let mut peak = Vitals::of(pid);
            while !stopped.load(Ordering::SeqCst) {
                pause(100 * MS);
                peak = peak.max(Vitals::of(pid));
            }
            peak
        });
        Watch { stop, watching }
    }

    /// Ends, with the peak.
    pub(crate) fn peak(self) -> Vitals {
        self.stop.store(true, Ordering::SeqCst);
        self.watching.join().unwrap_or_default()
    }
}

/// A page of memory, in KiB, on every machine that this is run on.
const PAGE_KIB: u64 = 4;

/// A tick of the kernel's process times (`USER_HZ` is 100 everywhere), in milliseconds.
const TICK_MS: u64 = 10;
