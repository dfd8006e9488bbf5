//! When requests begin in an open loop: a Poisson process, on time to some microseconds.
//!
//! The runtime's own timers count milliseconds, too coarse for thousands of arrivals a second: they would come in
//! bunches. A timerfd waited for through the ring costs one system call an arrival and does not.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use monoio::net::TcpStream;
use nix::sys::time::TimeSpec;
use nix::sys::timerfd::{ClockId, Expiration, TimerFd, TimerFlags, TimerSetTimeFlags};

use crate::random::Random;

/// The beginnings of requests, one after the other.
#[derive(Debug)]
pub(crate) struct Arrivals {
    next: Instant,
    random: Random,
}

impl Arrivals {
    /// Arrivals from `begin` on.
    pub(crate) fn new(begin: Instant, random: Random) -> Arrivals {
        Arrivals { next: begin, random }
    }

    /// When the next one is due, at this rate.
    pub(crate) fn next(&mut self, per_second: f64) -> Instant {
        self.next += self.random.interval(per_second);
        self.next
    }
}

/// A timer as precise as the kernel's.
pub(crate) struct Timer {
    timer: TimerFd,
    readiness: TcpStream,
}

impl Timer {
    /// A timer on this thread's runtime.
    pub(crate) fn new() -> io::Result<Timer> {
        let flags = TimerFlags::TFD_NONBLOCK | TimerFlags::TFD_CLOEXEC;
        let timer = TimerFd::new(ClockId::CLOCK_MONOTONIC, flags)?;
        // A handle to the driver: it is only asked for readiness, which every descriptor has.
        let readiness = TcpStream::from_std(timer.as_fd().try_clone_to_owned()?.into())?;
        Ok(Timer { timer, readiness })
    }

    /// Returns at this time, or after one turn of the runtime when it is past.
    pub(crate) async fn until(&self, when: Instant) -> io::Result<()> {
        let wait = when.saturating_duration_since(Instant::now()).max(Duration::from_nanos(1));
        // Setting it also takes back that it has expired before.
        self.timer.set(Expiration::OneShot(TimeSpec::from_duration(wait)), TimerSetTimeFlags::empty())?;
        self.readiness.readable(false).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_do_not_wait_for_one_another() {
        let begin = Instant::now();
        let mut arrivals = Arrivals::new(begin, Random::new(5));
        let last = (0..10_000).map(|_| arrivals.next(1000.0)).last().unwrap();
        let seconds = last.duration_since(begin).as_secs_f64();
        assert!((9.7..10.3).contains(&seconds), "10 000 arrivals at 1000/s took {seconds} s");
    }

    #[test]
    fn a_timer_is_never_early_and_can_be_set_again() {
        let waited = crate::runtime::run(async {
            let timer = Timer::new().unwrap();
            for _ in 0..20 {
                let due = Instant::now() + Duration::from_micros(700);
                timer.until(due).await.unwrap();
                assert!(Instant::now() >= due);
            }
            true
        });
        assert!(waited.unwrap());
    }
}
