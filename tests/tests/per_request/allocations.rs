//! In steady state a request allocates nothing and frees nothing, in no thread of the process: neither in Rust nor in the
//! C and assembly below it. That holds over TLS 1.3, too, on either side.
//!
//! The proxy is the real one, but for its allocator: `ringfence-on-malloc` allocates by malloc, where a library that is
//! loaded before others (`allocations.c`) counts the calls. Client and origin are in this process, so that nothing of
//! theirs counts.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use ringfence_tests::pause;

use crate::measured::{Measured, get, put};

#[test]
fn a_get_does_not_allocate() {
    Counted::start(false, "").assert_no_allocation(&get());
}

#[test]
fn a_put_of_2_kib_does_not_allocate() {
    Counted::start(false, "").assert_no_allocation(&put());
}

#[test]
fn a_get_over_tls_does_not_allocate() {
    Counted::start(true, "").assert_no_allocation(&get());
}

#[test]
fn a_put_of_2_kib_over_tls_does_not_allocate() {
    Counted::start(true, "").assert_no_allocation(&put());
}

#[test]
fn a_get_to_an_origin_over_tls_does_not_allocate() {
    Counted::watch(|command| Measured::start_before_tls(true, command), "").assert_no_allocation(&get());
}

#[test]
fn a_put_of_2_kib_to_an_origin_over_tls_does_not_allocate() {
    Counted::watch(|command| Measured::start_before_tls(false, command), "").assert_no_allocation(&put());
}

/// Where io_uring is refused.
#[test]
fn a_get_does_not_allocate_on_epoll() {
    Counted::start(false, "epoll").assert_no_allocation(&get());
}

/// Requests on one connection before counting begins: buffers are taken out of the system, pools are filled.
const WARM_UP: usize = 200;

/// Requests that are counted, at least.
const REQUESTS_MIN: usize = 1000;

/// For how long they are counted, at least: the date changes, the worker looks after its pools, its clocks tick.
const COUNTED_MIN: Duration = Duration::from_millis(1500);

/// A proxy whose allocations are counted.
struct Counted {
    proxy: Measured,
    words: File,
}

impl Counted {
    fn start(tls: bool, driver: &str) -> Counted {
        Counted::watch(|command| Measured::start(tls, command), driver)
    }

    fn watch(start: impl FnOnce(&mut dyn FnMut(&Path) -> Command) -> Measured, driver: &str) -> Counted {
        let mut words = None;
        let proxy = start(&mut |folder| {
            let path = folder.join("words");
            let file = File::options().read(true).write(true).create_new(true).open(&path).unwrap();
            file.set_len(FILE_BYTES).unwrap();
            words = Some(file);
            let mut command = Command::new(BINARY);
            command.env("LD_PRELOAD", library(folder)).env("RINGFENCE_ALLOCATIONS", path);
            command.env("RINGFENCE_DRIVER", driver);
            command
        });
        let counted = Counted { proxy, words: words.unwrap() };
        assert_eq!(counted.word(LOADED), 1, "the proxy has not loaded the library that counts");
        assert!(counted.word(ALLOCATIONS) > 100, "a start without allocations: they are not seen");
        counted
    }

    /// Sends a request again and again on one connection; once that has settled, nothing is allocated.
    fn assert_no_allocation(&self, request: &[u8]) {
        let mut client = self.proxy.client();
        let mut send = || assert_eq!(client.request(request).status(), 200);
        (0..WARM_UP).for_each(|_| send());
        // What the start and its connections leave behind is cleared away within seconds.
        pause(SETTLES);
        (0..WARM_UP).for_each(|_| send());
        let before = self.calls();
        self.trace(true);
        let (begun, mut requests) = (Instant::now(), 0);
        while requests < REQUESTS_MIN || begun.elapsed() < COUNTED_MIN {
            send();
            requests += 1;
        }
        self.trace(false);
        let after = self.calls();
        let [allocations, frees] = [0, 1].map(|index| usize::try_from(after[index] - before[index]).unwrap());
        println!("{allocations} allocations and {frees} frees in {requests} requests");
        assert!(
            allocations == 0 && frees == 0,
            "{allocations} allocations and {frees} frees in {requests} requests; of the first ones:\n{}",
            self.callers().join("\n")
        );
    }

    /// How often memory was asked for, and given back.
    fn calls(&self) -> [i64; 2] {
        [ALLOCATIONS, FREES].map(|counter| self.word(counter))
    }

    fn trace(&self, begin: bool) {
        self.words.write_all_at(&i64::from(begin).to_ne_bytes(), 8 * TRACING).unwrap();
    }

    fn word(&self, index: u64) -> i64 {
        let mut bytes = [0; 8];
        self.words.read_exact_at(&mut bytes, 8 * index).unwrap();
        i64::from_ne_bytes(bytes)
    }

    /// The stacks of the first calls that were traced, equal ones once.
    fn callers(&self) -> Vec<String> {
        let traces = self.word(TRACES).min(TRACES_MAX);
        let mut seen = HashMap::<String, usize>::new();
        for index in 0..u64::try_from(traces).unwrap() {
            let at = TRACE + index * TRACE_WORDS;
            let frames = u64::try_from(self.word(at + 1)).unwrap();
            let addresses: Vec<i64> = (0..frames).map(|frame| self.word(at + 2 + frame)).collect();
            let what = match self.word(at) {
                -1 => "freed".to_owned(),
                bytes => format!("{bytes} bytes allocated"),
            };
            *seen.entry(format!("{what} by\n{}", self.names(&addresses))).or_default() += 1;
        }
        seen.into_iter().map(|(stack, times)| format!("{times} times {stack}")).collect()
    }

    /// Names of the functions that the proxy's code has at these addresses, by addr2line.
    fn names(&self, addresses: &[i64]) -> String {
        let maps = fs::read_to_string(format!("/proc/{}/maps", self.proxy.child.id())).unwrap();
        let first = maps.lines().next().and_then(|line| line.split('-').next()).unwrap();
        let base = i64::from_str_radix(first, 16).unwrap();
        let output = Command::new("addr2line")
            .args(["--demangle", "--functions", "--inlines", "--pretty-print", "--basenames", "--exe"])
            .arg(BINARY)
            .args(addresses.iter().map(|address| format!("{:#x}", address - base - 1)))
            .output()
            .unwrap();
        let names = String::from_utf8_lossy(&output.stdout);
        let telling = names
            .lines()
            .filter(|name| !["??", "<core::", "core::", " (inl"].iter().any(|dull| name.starts_with(dull)));
        telling.take(NAMES_MAX).map(|name| format!("    {name}\n")).collect()
    }
}

/// Compiles the library that counts.
fn library(folder: &Path) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/per_request/allocations.c");
    let compiled = folder.join("allocations.so");
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-fno-builtin", "-o"]);
    let output = compiler.args([&compiled, &source]).output().expect("a C compiler");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    compiled
}

/// The proxy on malloc.
const BINARY: &str = env!("CARGO_BIN_EXE_ringfence-on-malloc");

// The words of `allocations.c`, by their place.
const LOADED: u64 = 0;
const TRACING: u64 = 1;
const ALLOCATIONS: u64 = 2;
const FREES: u64 = 3;
const TRACES: u64 = 4;
const TRACE: u64 = 5;
/// Words of one trace.
const TRACE_WORDS: u64 = 32;
/// Calls with a trace; as in `allocations.c`.
const TRACES_MAX: i64 = 32;
/// Functions of a stack that are shown: from the allocation up to what the proxy does there.
const NAMES_MAX: usize = 16;
/// All of the words, in bytes.
const FILE_BYTES: u64 = 8 * (TRACE + TRACE_WORDS * 32);

/// How long what is left of a start lives on: a worker frees half of what nobody needs every second.
const SETTLES: Duration = Duration::from_secs(3);
