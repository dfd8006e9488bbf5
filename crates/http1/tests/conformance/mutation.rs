//! Random mutations of the corpus: whatever they make, the crate and the oracle agree on it.
//!
//! A run prints its seed when it fails; `RINGFENCE_SEED=... cargo test -p ringfence-http1 mutat` replays it.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::corpus::{self, Case};
use crate::observe;
use crate::reference::chunked;
use crate::reference::head;

/// Mutants of each kind in one run: some seconds without optimisation.
const MUTANTS: usize = 6_000;

/// Most edits that make one mutant.
const EDITS_MAX: usize = 4;

/// Bytes and strings that parsers read differently.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b";",
    b"\"",
    b"\\",
    b"=",
    b"0",
    b"1",
    b"f",
    b"+",
    b"#",
    b"\x80",
    b"\xff",
    b"\x7f",
    b"\x0b",
    b"@",
    b"[",
    b"]",
    b"/",
    b"chunked",
    b"gzip",
    b"close",
    b"HTTP/1.0",
    b"HTTP/1.1",
    b"Content-Length: 1\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Host: a\r\n",
    b"Connection: x\r\n",
    b"X: y\r\n",
    b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b"http://",
    b"*",
    b"0\r\n\r\n",
    b"\r\n\r\n",
];

#[test]
fn mutated_heads_are_judged_as_the_oracle_judges() {
    let cases: Vec<Case> = corpus::all().into_iter().filter(is_small).collect();
    let mut random = Random::seeded();
    for _ in 0..MUTANTS {
        let case = &cases[random.below(cases.len())];
        let mutant = random.mutate(&case.bytes);
        let split = random.below(mutant.len() + 1);
        let context =
            || format!("seed {} {} {:?}", random.seed, case.name, mutant.escape_ascii().to_string());
        let end = head::end(&mutant);
        assert_eq!(observe::scan(&mutant, &[]).map_err(|_| ()), end, "{}", context());
        observe::read_as_scanned_and_parsed(&mutant, &[]);
        observe::read_as_scanned_and_parsed(&mutant, &[split]);
        // Also what the scan would have stopped must not pass the parser.
        let head = &mutant[..end.ok().flatten().unwrap_or(mutant.len())];
        assert_eq!(case.observed(head).ok(), case.expected(head), "{}", context());
    }
}

#[test]
fn mutated_chunked_bodies_are_judged_as_the_oracle_judges() {
    let bodies: Vec<Vec<u8>> =
        corpus::all().iter().filter(|case| is_small(case)).filter_map(chunked_body).collect();
    let mut random = Random::seeded();
    for _ in 0..MUTANTS {
        let body = &bodies[random.below(bodies.len())];
        let mutant = random.mutate(body);
        let split = random.below(mutant.len() + 1);
        let context =
            || format!("seed {} split {split} {:?}", random.seed, mutant.escape_ascii().to_string());
        let observed = observe::chunked(&mutant, &[split]);
        assert!(chunked::parse(&mutant).allows(&observed), "{observed:?} {}", context());
    }
}

fn is_small(case: &Case) -> bool {
    case.bytes.len() < 2048
}

fn chunked_body(case: &Case) -> Option<Vec<u8>> {
    let end = head::end(&case.bytes).ok()??;
    let is_chunked = case.expected(&case.bytes[..end])?.framing == head::Framing::Chunked;
    is_chunked.then(|| case.bytes[end..].to_vec())
}

/// xorshift64: small, seeded, good enough to choose edits.
struct Random {
    seed: u64,
    state: u64,
}

impl Random {
    fn seeded() -> Self {
        let seed = std::env::var("RINGFENCE_SEED").map_or_else(|_| clock(), |seed| seed.parse().unwrap());
        println!("RINGFENCE_SEED={seed}");
        Self { seed, state: seed | 1 }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        usize::try_from(self.state % bound as u64).unwrap()
    }

    fn mutate(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        for _ in 0..=self.below(EDITS_MAX) {
            self.edit(&mut bytes);
        }
        bytes
    }

    fn edit(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len() + 1);
        let piece = PIECES[self.below(PIECES.len())];
        match self.below(5) {
            0 => drop(bytes.splice(at..at, piece.iter().copied())),
            1 => drop(bytes.splice(at..(at + piece.len()).min(bytes.len()), piece.iter().copied())),
            2 => drop(bytes.drain(at..(at + 1).min(bytes.len()))),
            3 => {
                let until = (at + self.below(16)).min(bytes.len());
                let copy = bytes[at..until].to_vec();
                drop(bytes.splice(at..at, copy));
            }
            _ => {
                let flip = 1 << self.below(8);
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= flip;
                }
            }
        }
    }
}

/// Microseconds since the epoch: another run, other mutants.
fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros().try_into().unwrap()
}
