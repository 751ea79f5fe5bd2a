//! Benchmarks of the parts, each by itself: what a frame, a segment, a look-up, a deadline, a round trip of the ring costs.
//!
//! `cargo bench --bench parts` runs them all, `cargo bench --bench parts -- nat` those with nat in their names. Everything is
//! deterministic and in memory, but for the ring's, which use socket pairs. What a packet costs end to end, kernel
//! included, is what `ringtap bench` and `perf/run` measure; these show where our own share of it goes, and what a change to
//! one part does.

mod flow;
mod ring;
mod stack;
mod wire;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    parts,
    wire::parse,
    wire::emit,
    stack::nat,
    stack::tcp,
    flow::wheel,
    ring::round_trip,
    ring::bulk
);
criterion_main!(parts);
