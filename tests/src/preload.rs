//! A proxy whose wall clock jumps, or whose rings are small, old or failing, by a library that is loaded before others.
//!
//! Owns the library (`preload.c`, compiled when a test first needs it) and the words by which a test speaks with it. Only wall clock,
//! io_uring and `listen` are touched; every other clock and call is the kernel's own.

use std::env;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use tempfile::TempDir;

use crate::proxy::ProxyBuilder;

/// What the library is told, or has seen; in the order of `preload.c`.
#[derive(Clone, Copy, Debug)]
pub enum Word {
    /// Set by the library when it is loaded.
    Loaded,
    /// Added to the wall clock, in seconds.
    ClockJumpSeconds,
    /// Size of a ring's submission queue; 0: as asked for.
    RingEntries,
    /// Size of a ring's completion queue, where [`Word::RingEntries`] is set.
    RingCompletions,
    /// Rings with one of these flags are refused.
    RingFlagsRefused,
    /// What calls of `io_uring_enter` fail with.
    EnterErrno,
    /// Every how many calls of `io_uring_enter` one fails; 0: none.
    EnterFailsEvery,
    /// Calls of `io_uring_enter` so far.
    Enters,
    /// Those that were made to fail.
    EntersFailed,
    /// Those that left completions which had found no room in their queue.
    Overflows,
    /// Rings made.
    Rings,
    /// Rest behind each call of `listen`, in milliseconds.
    ListenPauseMs,
}

/// The library, for one proxy.
#[derive(Debug)]
pub struct Preload {
    folder: TempDir,
    words: File,
}

impl Preload {
    /// With nothing changed yet.
    #[must_use]
    pub fn new() -> Preload {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let words = File::options().read(true).write(true).create_new(true).open(folder.path().join(WORDS));
        let words = words.expect("a file in the temporary folder");
        words.set_len(WORDS_BYTES).expect("a page of it");
        Preload { folder, words }
    }

    /// Sets a word; it holds for a proxy that runs as well.
    pub fn set(&self, word: Word, value: i64) {
        self.words.write_all_at(&value.to_ne_bytes(), at(word)).expect("a page in memory can be written");
    }

    /// Reads a word.
    #[must_use]
    pub fn read(&self, word: Word) -> i64 {
        let mut bytes = [0; 8];
        self.words.read_exact_at(&mut bytes, at(word)).expect("a page in memory can be read");
        i64::from_ne_bytes(bytes)
    }

    /// Lets the proxy load the library.
    pub fn for_proxy(&self, builder: ProxyBuilder) -> ProxyBuilder {
        let words = self.folder.path().join(WORDS);
        let library = library().to_string_lossy();
        builder.env("LD_PRELOAD", &library).env("RINGFENCE_PRELOAD", &words.to_string_lossy())
    }

    /// Fails the test when the proxy runs without the library, as one would that is linked statically.
    pub fn assert_loaded(&self) {
        assert_eq!(self.read(Word::Loaded), 1, "the binary under test does not load {}", library().display());
    }
}

impl Default for Preload {
    fn default() -> Preload {
        Preload::new()
    }
}

fn at(word: Word) -> u64 {
    8 * word as u64
}

/// Compiled once for each text of it, next to the running test.
fn library() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let mut hasher = DefaultHasher::new();
        SOURCE.hash(&mut hasher);
        let this = env::current_exe().expect("a running executable has a path");
        let path = this.with_file_name(format!("preload-{:016x}.so", hasher.finish()));
        if !path.exists() {
            compile(&path);
        }
        path
    })
}

/// Tests run side by side: each compiles to a place of its own, and the last one to finish stays.
fn compile(path: &Path) {
    let folder = tempfile::tempdir_in(path.parent().expect("a file is in a folder")).expect("a folder");
    let (source, compiled) = (folder.path().join("preload.c"), folder.path().join("preload.so"));
    fs::write(&source, SOURCE).expect("a file in the temporary folder");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror", "-o"])
        .args([&compiled, &source]);
    let output = compiler.output().expect("a C compiler, which the dependencies need as well");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::rename(compiled, path).expect("a file can be moved within a folder");
}

const SOURCE: &str = include_str!("preload.c");

/// The file of words in the folder of a test.
const WORDS: &str = "words";

/// One page, in bytes: what is mapped.
const WORDS_BYTES: u64 = 4096;
