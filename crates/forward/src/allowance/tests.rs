use std::{collections::HashMap, net::Ipv4Addr, thread};

use super::*;
use crate::simulation::rng::Rng;

const SECOND: u64 = 16_000;

fn second(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn address(number: u32) -> IpAddr {
    Ipv4Addr::from(number).into()
}

/// The pages that have been needed.
fn page_count(allowances: &Allowances) -> usize {
    allowances.pages.iter().filter(|page| page.get().is_some()).count()
}

/// A bucket as a textbook has it: a level that sinks by each request and rises with time, in units of time.
struct Bucket {
    level: u64,
    at: u64,
}

impl Bucket {
    fn take(&mut self, per_request: u64, burst: u64, now: u64) -> Result<(), u64> {
        self.level = (self.level + now - self.at).min(per_request * burst);
        self.at = now;
        match self.level.checked_sub(per_request) {
            Some(left) => {
                self.level = left;
                Ok(())
            }
            None => Err(per_request - self.level),
        }
    }
}

fn seed() -> u64 {
    let given = std::env::var("RINGFENCE_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| RandomState::new().hash_one(0) >> 1);
    println!("RINGFENCE_SEED={seed}");
    seed
}

/// Random rates, clients and arrivals against the textbook's bucket, verdict for verdict and wait for wait.
#[test]
fn rate_and_burst_are_exact() {
    let rng = Rng::new(seed());
    for _ in 0..200 {
        let (count, burst) = (*rng.pick(&[1, 2, 5, 10, 16, 20, 50, 100]), rng.between(1, 30));
        let period = second(*rng.pick(&[1, 60, 3600]));
        let rate = Rate::new(count, period, u32::try_from(burst).unwrap());
        let per_request = period.as_secs() * SECOND / u64::from(count);
        let allowances = Allowances::new(Instant::now());
        let (mut buckets, mut now) = (HashMap::new(), 0);
        for _ in 0..500 {
            now += rng.below(usize::try_from(per_request).unwrap() * 2) as u64 * rng.below(2) as u64;
            let (client, class) = (u32::try_from(rng.below(5)).unwrap(), u8::try_from(rng.below(2)).unwrap());
            let full = Bucket { level: per_request * burst as u64, at: now };
            let expected =
                buckets.entry((client, class)).or_insert(full).take(per_request, burst as u64, now);
            let at = allowances.origin + duration(now);
            let taken = allowances.take(address(client), class, rate, at);
            assert_eq!(taken, expected.map_err(duration), "{count} in {period:?}, burst {burst}, at {now}");
        }
    }
}

#[test]
fn what_is_refused_is_allowed_after_the_wait_and_not_before() {
    let (allowances, rate) = (Allowances::new(Instant::now()), Rate::new(20, second(60), 2));
    let take = |at: Duration| allowances.take(address(1), 0, rate, allowances.origin + at);
    assert_eq!((take(second(1)), take(second(1))), (Ok(()), Ok(())));
    assert_eq!(take(second(1)), Err(second(3)));
    // What is refused costs nothing.
    assert_eq!(take(second(2)), Err(second(2)));
    assert_eq!(take(second(4) - TIME_UNIT), Err(TIME_UNIT));
    assert_eq!(take(second(4)), Ok(()));
}

#[test]
fn one_ipv6_network_is_one_client_and_classes_are_apart() {
    let (allowances, rate) = (Allowances::new(Instant::now()), Rate::new(1, second(60), 1));
    let take = |client: &str, class| {
        allowances.take(client.parse().unwrap(), class, rate, allowances.origin).is_ok()
    };
    assert!(take("2001:db8::1", 5));
    assert!(!take("2001:db8::ffff:2", 5));
    assert!(take("2001:db8:0:1::1", 5));
    assert!(take("2001:db8::1", 6));
    assert!(take("192.0.2.1", 5) && take("192.0.2.2", 5) && !take("192.0.2.1", 5));
}

/// Threads that hammer one bucket get no more and no fewer than its burst between them: each failed write is another's
/// success, of which there are fewer than attempts.
#[test]
fn threads_share_one_bucket() {
    let allowances = Allowances::new(Instant::now());
    let burst = u32::try_from(ATTEMPTS_MAX - 1).unwrap();
    let rate = Rate::new(1, second(3600), burst);
    for client in 0..50 {
        let hammer = || {
            (0..200).filter(|_| allowances.take(address(client), 0, rate, allowances.origin).is_ok()).count()
        };
        let passed: usize = thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(hammer)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, ATTEMPTS_MAX - 1, "client {client}");
    }
}

/// Two million addresses, all in debt: the table does not grow beyond its bound, and each of them gets in.
#[test]
fn millions_of_addresses_are_bounded_and_none_is_refused_at_first() {
    let (allowances, rate) = (Allowances::new(Instant::now()), Rate::new(1, second(3600), 4));
    assert_eq!(page_count(&allowances), 0, "memory is taken when it is needed");
    for client in 0..2_000_000 {
        assert_eq!(allowances.take(address(client), 0, rate, allowances.origin), Ok(()));
    }
    assert_eq!(page_count(&allowances), SLOTS_MAX / PAGE_SLOTS);
    assert_eq!(size_of::<Page>() * page_count(&allowances), 8 * 1024 * 1024);
}

#[test]
fn of_a_full_set_the_least_indebted_gives_way_and_the_others_are_remembered() {
    let (allowances, rate) = (Allowances::new(Instant::now()), Rate::new(1, second(60), 2));
    // The same set, told apart by their high bits.
    let take = |owner: u64, now| allowances.take_hashed(owner << TIME_BITS | 7, rate, now).is_ok();
    for owner in [1, 2, 3, 4] {
        assert!(take(owner, SECOND) && (owner == 3 || take(owner, SECOND)));
    }
    assert!(take(5, SECOND), "who is new is let in");
    assert!(!take(1, SECOND) && !take(2, SECOND) && !take(4, SECOND), "debts are remembered");
    assert!(take(5, SECOND), "the second of its burst");
    // The third has been forgotten, and takes the place of one of the others.
    assert!(take(3, SECOND) && take(3, SECOND) && !take(3, SECOND));
    // A slot whose time has passed is taken first: the others keep their debts.
    let later = 200 * SECOND;
    assert!(take(6, later) && take(6, later) && take(7, later) && take(7, later));
    assert!(!take(6, later) && !take(7, later));
}

#[test]
fn a_bucket_of_a_slower_rate_does_not_outlast_the_change() {
    let allowances = Allowances::new(Instant::now());
    let (slow, fast) = (Rate::new(1, second(3600), 5), Rate::new(10, second(1), 5));
    let take = |rate, at| allowances.take(address(1), 0, rate, allowances.origin + at);
    for _ in 0..5 {
        assert_eq!(take(slow, second(1)), Ok(()));
    }
    assert_eq!(take(slow, second(1)), Err(second(3600)));
    assert_eq!(take(fast, second(1)), Err(second(1) / 10));
}

/// Where the time of a slot ends nothing wraps, and nobody is refused for ever.
#[test]
fn at_the_end_of_time_everything_is_allowed() {
    let (allowances, rate) = (Allowances::new(Instant::now()), Rate::new(1, second(3600), 2));
    for hash in [0, 7, u64::MAX] {
        for now in [TIME_MAX - 1, TIME_MAX] {
            for _ in 0..5 {
                assert_eq!(allowances.take_hashed(hash, rate, now), Ok(()), "{hash} at {now}");
            }
        }
    }
    let past = allowances.origin - second(1);
    assert_eq!(allowances.take(address(1), 0, rate, past), Ok(()), "a clock before the start is the start");
    assert_eq!(second(u64::from(u32::MAX) / 4).as_secs(), duration(units(second(1_073_741_823))).as_secs());
    const { assert!(TIME_MAX / SECOND > 34 * 365 * 24 * 3600, "34 years") };
}

#[test]
fn a_rate_is_at_least_one_and_at_most_one_a_unit() {
    assert_eq!(Rate::new(0, second(60), 0), Rate::new(1, second(60), 1));
    assert_eq!(Rate::new(u32::MAX, second(1), 1).interval, 1);
    assert_eq!(Rate::new(1, second(3600), u32::MAX).slack, 3600 * SECOND * (u64::from(u32::MAX) - 1));
}
