//! What makes a machine hard to live on: few descriptors, system calls refused, a full disk.
//!
//! Everything here concerns processes that the test started, and nothing else of the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};
use tempfile::TempDir;

use crate::Proxy;

/// The system calls of io_uring, by their numbers, which are the same on every architecture.
pub const IO_URING_SETUP: i64 = 425;
/// Submits and waits.
pub const IO_URING_ENTER: i64 = 426;
/// Registers buffers, files and the like.
pub const IO_URING_REGISTER: i64 = 427;

/// Maps memory.
#[cfg(target_arch = "x86_64")]
const MMAP: i64 = 9;
#[cfg(not(target_arch = "x86_64"))]
const MMAP: i64 = 222;

/// Where a ring's submission entries are mapped from (`IORING_OFF_SQES`).
const SUBMISSION_ENTRIES_OFFSET: u64 = 0x1000_0000;

const ENOMEM: u32 = 12;

/// Lets `start` run on a thread to which these system calls fail with `errno`; what it starts inherits that.
pub fn without_calls<T: Send>(calls: &[i64], errno: u32, start: impl FnOnce() -> T + Send) -> T {
    // A call without conditions matches always.
    under(refusing(calls.iter().map(|&call| (call, Vec::new())).collect(), errno), start)
}

/// The same where rings are made, but the memory of one with more submission entries than fit a page cannot be mapped.
pub fn without_memory_for_rings<T: Send>(start: impl FnOnce() -> T + Send) -> T {
    let condition = |argument, comparison, value| {
        SeccompCondition::new(argument, SeccompCmpArgLen::Qword, comparison, value).expect("a condition")
    };
    let is_large = condition(1, SeccompCmpOp::Gt, 4096);
    let is_entries = condition(5, SeccompCmpOp::Eq, SUBMISSION_ENTRIES_OFFSET);
    let rule = SeccompRule::new(vec![is_large, is_entries]).expect("a rule of two conditions");
    under(refusing(BTreeMap::from([(MMAP, vec![rule])]), ENOMEM), start)
}

fn under<T: Send>(program: BpfProgram, start: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| {
        let forbidden = scope.spawn(move || {
            apply_filter(&program).expect("a process may refuse system calls to itself");
            start()
        });
        forbidden.join().expect("what is started does not panic")
    })
}

fn refusing(rules: BTreeMap<i64, Vec<SeccompRule>>, errno: u32) -> BpfProgram {
    let architecture = TargetArch::try_from(std::env::consts::ARCH).expect("a known architecture");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, SeccompAction::Errno(errno), architecture);
    filter.and_then(BpfProgram::try_from).expect("a filter of a few calls")
}

/// Lets the proxy open this many descriptors more and then no other, until the next call.
///
/// The kernel's limit is on numbers, of which the lowest free one is given next: those below it count as well.
pub fn limit_descriptors(proxy: &Proxy, free: usize) {
    let used = fs::read_dir(format!("/proc/{}/fd", proxy.pid())).into_iter().flatten().flatten();
    let used: BTreeSet<u64> = used.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let limit = (0..).filter(|number| !used.contains(number)).nth(free);
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    let pid = i32::try_from(proxy.pid()).ok().and_then(Pid::from_raw);
    prlimit(pid, Resource::Nofile, Rlimit { current: limit, maximum })
        .expect("the limit of an own child can be set");
}

/// Processor time of the proxy so far.
#[must_use]
pub fn processor_time(proxy: &Proxy) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{}/stat", proxy.pid())).unwrap_or_default();
    // Behind the name, which may hold spaces: utime and stime are the 12th and 13th, in ticks of 10 ms.
    let behind = stat.rsplit(')').next().unwrap_or_default();
    let ticks = behind.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok());
    Duration::from_millis(10 * ticks.sum::<u64>())
}

/// The folder of the proxy's configuration, where its certificates and logs are too.
#[must_use]
pub fn folder(proxy: &Proxy) -> PathBuf {
    let line = fs::read(format!("/proc/{}/cmdline", proxy.pid())).unwrap_or_default();
    let words = String::from_utf8_lossy(&line).into_owned();
    let config = words.split('\0').find(|word| word.ends_with(crate::proxy::CONFIG));
    let config = config.expect("the proxy's command line names its configuration");
    Path::new(config).parent().expect("a file is in a folder").to_owned()
}

/// A disk of a few pages of its own, in memory.
#[derive(Debug)]
pub struct SmallDisk {
    folder: TempDir,
}

impl SmallDisk {
    /// Mounts one of `kib` KiB; `None` where this process may not mount.
    #[must_use]
    pub fn mount(kib: usize) -> Option<SmallDisk> {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let size = format!("size={kib}k");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(folder.path());
        let mounted = mount.output().is_ok_and(|output| output.status.success());
        mounted.then_some(SmallDisk { folder })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.folder.path()).output();
    }
}
