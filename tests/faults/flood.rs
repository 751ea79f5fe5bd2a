//! A guest that floods: memory stays within what is configured, others get on, and all is well when it stops. What it does to
//! their speed is measured by `perf/run --only flood`.

use crate::common::{HOST, PATIENCE, World};
use crate::{Instance, answers, echo};
use ringtap::lab::Server;
use ringtap::lab::flood::{Flood, Kind};
use std::net::TcpStream;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// All buffers (`buf::DEFAULT_SLOTS`, `buf::RELAY_SLOTS`) are 70 MiB; the tables of flows and what the program is by itself
/// are the rest.
const LIMIT_KIB: u64 = 100 << 10;
const TIME: Duration = Duration::from_secs(2);
/// Frames that lead to nothing are read no faster (`stack::noise`), and some more that led somewhere, or came at once.
const PER_SECOND: f64 = 80_000.0;
const MORE: f64 = 20_000.0;
/// A flood is a program that takes a whole core: several at once would leave nothing for what is asked beside them.
static ALONE: Mutex<()> = Mutex::new(());

fn resident(pid: nix::unistd::Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

fn flood(kind: Kind) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let world = World::new();
    let instance = Instance::run(&world, &["-p", "8080:80"]);
    let _server = Server::tcp_echo(instance.guest.place().tcp_listener(([0, 0, 0, 0], 80)).unwrap());
    let plane = instance.plane();
    let connect = || {
        let client: TcpStream = world.lab.internet().tcp_connect((HOST[0], 8080)).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client
    };
    let (published, own) = (connect(), echo(&instance.guest).unwrap());
    let read = || crate::stats(&instance)["counters"]["framesFromGuest"].as_u64().unwrap();
    let (before, began) = (read(), Instant::now());
    let flood = Flood::start(instance.guest.place(), "tap0", kind).unwrap();
    let end = Instant::now() + TIME;
    let (mut asked, mut most) = (0, 0);
    while Instant::now() < end {
        assert!(answers(&published), "the published port");
        asked += 1;
        most = most.max(resident(plane));
    }
    assert!(answers(&connect()), "a new client");
    let sent = flood.sent();
    let frames = read() - before;
    let bound = PER_SECOND * began.elapsed().as_secs_f64() + MORE;
    drop(flood);
    // Its frames stood in the same queue as the flood, and what that had no room for the guest's kernel sends again later and
    // later: how it gets on meanwhile is for `perf/run --only flood` to measure.
    assert!(answers(&own), "another flow of the same guest");
    eprintln!("{kind:?}: {sent} frames, {asked} requests beside them, {most} KiB");
    assert!(sent > 1000, "{sent} is no flood");
    assert!((frames as f64) < bound, "{frames} frames were read, {bound} may be");
    assert!(most < LIMIT_KIB, "{most} KiB");
    assert_eq!(instance.plane(), plane, "it is the same plane");
    crate::eventually("a new connection", || echo(&instance.guest).is_some());
}

#[test]
fn of_syns() {
    flood(Kind::Syn);
}

#[test]
fn of_datagrams_to_a_million_ports() {
    flood(Kind::Udp);
}

#[test]
fn of_fragments_that_never_complete() {
    flood(Kind::Fragments);
}

#[test]
fn of_arp() {
    flood(Kind::Arp);
}

#[test]
fn of_neighbor_discovery() {
    flood(Kind::Ndp);
}
