//! monoio's runtime with the ring's cheapest flags, or on epoll where io_uring is refused; descriptors and threads.

use std::io;
use std::thread;

use monoio::{IoUringDriver, LegacyDriver, RuntimeBuilder};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Runs `work` on a runtime of this thread.
pub(crate) fn run<F: Future>(work: F) -> io::Result<F::Output> {
    let mut ring = io_uring::IoUring::builder();
    ring.setup_cqsize(RING_COMPLETIONS).setup_coop_taskrun().setup_single_issuer().setup_defer_taskrun();
    // A filter of system calls may allow to make a ring and not to enter it.
    if ring.build(1).and_then(|ring| ring.submit_and_wait(0)).is_ok() {
        let builder = RuntimeBuilder::<IoUringDriver>::new().uring_builder(ring);
        return Ok(builder.with_entries(RING_ENTRIES).enable_timer().build()?.block_on(work));
    }
    Ok(RuntimeBuilder::<LegacyDriver>::new().enable_timer().build()?.block_on(work))
}

/// Runs `work` on this many threads, each told its number, and returns what each returned.
pub(crate) fn on_threads<T: Send>(
    threads: usize,
    work: impl Fn(usize) -> Result<T, String> + Sync,
) -> Result<Vec<T>, String> {
    if threads == 1 {
        return Ok(vec![work(0)?]);
    }
    thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|index| {
                let work = &work;
                scope.spawn(move || work(index))
            })
            .collect();
        running.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked".to_owned())?).collect()
    })
}

/// Allows as many descriptors as the system lets us; says so when `wanted` is more.
pub(crate) fn raise_descriptors(wanted: usize) -> Result<(), String> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).map_err(|error| error.to_string())?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).map_err(|error| error.to_string())?;
    // Standard streams, the ring, timers, and connections on their way out.
    let needed = wanted as u64 + 64;
    if hard < needed {
        return Err(format!(
            "{wanted} connections need {needed} descriptors; the limit is {hard} (ulimit -Hn)"
        ));
    }
    Ok(())
}

/// CPU time of this process so far, in seconds.
pub(crate) fn cpu_seconds() -> f64 {
    use nix::sys::resource::{UsageWho, getrusage};
    use nix::sys::time::TimeValLike as _;
    let Ok(usage) = getrusage(UsageWho::RUSAGE_SELF) else { return 0.0 };
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6
}

/// Submission queue entries: how much one turn batches.
const RING_ENTRIES: u32 = 2048;

/// Completion queue entries: tens of thousands of idle connections may all be closed in one turn.
const RING_COMPLETIONS: u32 = 32 * 1024;
