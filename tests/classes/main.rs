//! One test or more for each class of attack that user-mode network stacks have fallen to, (a) to (n), named after the class
//! and the advisories that it stands for. Most are libslirp's (through slirp4netns, QEMU, VirtualBox), some the kernel's.
//!
//! Theory of operation. The stack runs in the fuzzer's world (`fuzz/src/world.rs`), which checks after each step that buffers,
//! streams and tables are in order; a test here says what must come of one attack besides. Where sockets or processes are
//! what is attacked, the program itself runs in a lab.

#[path = "../common/mod.rs"]
mod common;
#[path = "../../fuzz/src/lib.rs"]
#[allow(dead_code, reason = "the targets are for the fuzzer")]
mod fuzz;

mod api;
mod fragments;
mod headers;
mod policy;
mod sockets;
mod streams;

use fuzz::seeds::{self, at};
use fuzz::world::World;
use ringtap::flow::DropReason;

/// A stack that has heard of its guest.
fn heard() -> World {
    let mut w = World::new();
    w.frame(&seeds::arp(1, [10, 0, 2, 100], [10, 0, 2, 2]));
    w.frame(&seeds::message(
        seeds::addr("fd00::100"),
        seeds::addr("fd00::2"),
        64,
        &[128, 0, 0, 0, 0, 1, 0, 1],
    ));
    w.frames.clear();
    w
}

/// The stack works as ever: a datagram goes out.
fn still_works(w: &mut World) {
    w.left.clear();
    w.frame(&seeds::datagram(at("10.0.2.100:1234"), at("198.51.100.2:4321"), b"alive"));
    w.end_batch();
    assert_eq!(w.left, [(at("198.51.100.2:4321"), b"alive".to_vec())]);
}

fn malformed(w: &World) -> u64 {
    w.dropped(DropReason::Malformed)
}
