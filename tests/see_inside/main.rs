//! What `ringtap ps`, `flows`, `top`, `explain` and `stats` say of traffic whose amounts and ways are known.

#[path = "../common/mod.rs"]
mod common;

mod counted;
mod every;
mod explain;
mod flows;
mod load;
mod named;
mod raw;
mod stats;
mod top;

use common::{PATIENCE, World, outcome};
use ringtap::lab::Guest;
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

/// `ringtap ARGS` as whoever runs the instances, to its end; what it printed.
fn ringtap(world: &World, args: &[&str]) -> String {
    let mut command = world.ringtap(true);
    command.args(args);
    outcome(&format!("ringtap {}", args.join(" ")), command).ok()
}

/// Its last word, where it fails.
fn fails(world: &World, args: &[&str]) -> String {
    let mut command = world.ringtap(true);
    command.args(args);
    outcome(&format!("ringtap {}", args.join(" ")), command).failed()
}

/// What it printed, a JSON object a line.
fn json(world: &World, args: &[&str]) -> Vec<Value> {
    let args: Vec<_> = args.iter().copied().chain(["--json"]).collect();
    ringtap(world, &args).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What the instance has counted.
fn stats(world: &World) -> Value {
    json(world, &["stats"]).remove(0)
}

/// Polls until `holds`.
fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "still waiting: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A connection from `near` to whoever accepts at `listener`, with patience at both ends.
fn pair(near: TcpStream, listener: &TcpListener) -> (TcpStream, TcpStream) {
    let (far, _) = listener.accept().unwrap();
    for end in [&near, &far] {
        end.set_read_timeout(Some(PATIENCE)).unwrap();
    }
    (near, far)
}

/// Moves so many bytes.
fn carry(mut from: &TcpStream, mut to: &TcpStream, bytes: usize) {
    std::thread::scope(|scope| {
        scope.spawn(move || from.write_all(&vec![7; bytes]).unwrap());
        let mut rest = bytes;
        let mut chunk = vec![0; 64 << 10];
        while rest > 0 {
            let most = rest.min(chunk.len());
            let n = to.read(&mut chunk[..most]).unwrap();
            assert!(n > 0, "the stream ended {rest} bytes early");
            rest -= n;
        }
    });
}

/// Whether one command of the lab's user may look at the processes of another: not where each has a user namespace of its
/// own, because no real users are to be had.
fn may_look(world: &World) -> bool {
    world.lab.users_are_real()
}

/// The process that was started first for a guest: control.
fn pid(guest: &mut Guest) -> u32 {
    guest.running()[0].pid()
}
