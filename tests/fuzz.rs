//! The fuzz targets with the stable toolchain: every input that is kept, and those that mutation makes of them.
//!
//! Theory of operation. `fuzz/src` is what libFuzzer runs (`fuzz/run`); it is included here. Each target gets the files of
//! `fuzz/corpus/TARGET` as they are, then a bounded number of inputs that a seeded generator makes of them: bytes set, runs cut
//! out, doubled and spliced. An input that fails is said in hexadecimal, with how to keep it.
//!
//! `RINGTAP_FUZZ_RUNS=n` makes n of them for each target instead of a few thousand, `RINGTAP_FUZZ_SEED=n` others.

#[path = "../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "some parts are for tests/classes")]
mod fuzz;

use std::path::Path;

/// Inputs made for each target.
const RUNS: u64 = 2_000;
/// Longest input made.
const LONGEST: usize = 4096;

/// SplitMix64.
struct Rng(u64);

impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % n.max(1) as u64) as usize
    }
}

/// The inputs that are kept. Nothing where the sources are out of reach: test programs run elsewhere, too.
fn corpus(target: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let Ok(files) = std::fs::read_dir(&dir) else { return Vec::new() };
    let mut all: Vec<_> = files
        .filter_map(|f| {
            let path = f.ok()?.path();
            Some((path.file_name()?.to_string_lossy().into_owned(), std::fs::read(&path).ok()?))
        })
        .collect();
    all.sort();
    all
}

fn play(target: &str, name: &str, run: fn(&[u8]), input: &[u8]) {
    let ran = std::panic::catch_unwind(|| run(input));
    let hex: String = input.iter().map(|b| format!("{b:02x}")).collect();
    assert!(ran.is_ok(), "{target}, {name}; keep it: echo {hex} | xxd -r -p > fuzz/corpus/{target}/NAME");
}

fn mutate(rng: &mut Rng, pool: &[Vec<u8>]) -> Vec<u8> {
    let mut input = pool[rng.below(pool.len())].clone();
    for _ in 0..=rng.below(6) {
        let (at, n) = (rng.below(input.len() + 1), rng.below(24));
        match rng.below(6) {
            0 | 1 => {
                let byte = [0, 1, 4, 0x7f, 0x80, 0xff, rng.below(256) as u8][rng.below(7)];
                if let Some(b) = input.get_mut(at) {
                    *b = byte;
                }
            }
            2 => drop(input.drain(at..(at + n).min(input.len()))),
            3 => {
                let made: Vec<u8> = (0..n).map(|_| rng.below(256) as u8).collect();
                input.splice(at..at, made);
            }
            4 => {
                let again = input[at..(at + n).min(input.len())].to_vec();
                input.splice(at..at, again);
            }
            _ => {
                let other = &pool[rng.below(pool.len())];
                let from = rng.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
        }
    }
    input.truncate(LONGEST);
    input
}

#[test]
fn kept_inputs_do_no_harm() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").is_dir();
    for (target, run) in fuzz::TARGETS {
        let kept = corpus(target);
        assert!(!sources || !kept.is_empty(), "fuzz/corpus/{target} is empty");
        for (name, input) in kept {
            play(target, &name, run, &input);
        }
    }
}

#[test]
fn inputs_made_of_them_do_no_harm() {
    let number = |name| std::env::var(name).ok().and_then(|n| n.parse().ok());
    let (runs, seed) =
        (number("RINGTAP_FUZZ_RUNS").unwrap_or(RUNS), number("RINGTAP_FUZZ_SEED").unwrap_or(0));
    for (n, (target, run)) in (0u64..).zip(fuzz::TARGETS) {
        let mut rng = Rng(seed ^ n << 32);
        let mut pool: Vec<Vec<u8>> = corpus(target).into_iter().map(|(_, input)| input).collect();
        pool.extend(fuzz::seeds::all());
        pool.push(Vec::new());
        for i in 0..runs {
            let input = mutate(&mut rng, &pool);
            play(target, &format!("run {i} of seed {seed}"), run, &input);
        }
    }
}
