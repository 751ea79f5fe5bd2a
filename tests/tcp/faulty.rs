//! The kernel's own TCP as the guest, behind a link that loses, repeats, reorders and delays frames.
//!
//! ```text
//!   guest                        middle
//!   eth0 10.0.2.100 === faults === imp0 + br0 + tap0 --- ringtap attach --no-configure
//!        fd00::100
//! ```
//!
//! The far side of the program is a clean path, so whatever is repaired is repaired by its TCP and the guest's.

use crate::both_ways;
use crate::common::{ECHO, SERVER, World, need, sh, size};
use ringtap::lab::impair::{Fate, Impairment};
use ringtap::lab::{Guest, ImpairedLink, Via};
use std::time::Duration;

struct Faulty {
    link: ImpairedLink,
    guest: Guest,
    _middle: Guest,
}

fn faulty(world: &World, how: Impairment) -> Faulty {
    need("ip");
    let quiet = "echo 1 > /proc/sys/net/ipv6/conf/default/disable_ipv6
                 ip link add br0 type bridge mcast_snooping 0; ip link set br0 up";
    let middle = world.attach(world.bare(quiet), &["--no-configure"], None);
    let near = middle.place().tap("imp0").unwrap();
    let plug = "for i in tap0 imp0; do ip link set $i master br0; ip link set $i up; done";
    sh(middle.place(), plug).ok();
    let bare = world.bare("echo 0 > /proc/sys/net/ipv6/conf/default/accept_ra");
    let guest = world.lab.guest(bare.pid(), vec![bare]).unwrap();
    let far = guest.place().tap("eth0").unwrap();
    let links = guest.place().links().unwrap();
    links.add_address("eth0", "10.0.2.100/24".parse().unwrap()).unwrap();
    links.add_address("eth0", "fd00::100/64".parse().unwrap()).unwrap();
    links.set_up("eth0", true).unwrap();
    links.add_route("0.0.0.0/0".parse().unwrap(), Via::Gateway("10.0.2.2".parse().unwrap())).unwrap();
    links.add_route("::/0".parse().unwrap(), Via::Gateway("fd00::2".parse().unwrap())).unwrap();
    let link = ImpairedLink::between([far, near], how).unwrap();
    Faulty { link, guest, _middle: middle }
}

fn moves(server: usize, count: u64, how: Impairment) {
    let world = World::new();
    let faulty = faulty(&world, how);
    both_ways(&mut faulty.guest.place().tcp_connect((SERVER[server], ECHO)).unwrap(), count);
    for fate in faulty.link.fates() {
        let Fate { lost, duplicated, reordered, .. } = fate;
        assert!(lost > 0 && duplicated > 0 && reordered > 0, "the link was too good: {fate:?}");
    }
}

const FAULTS: Impairment = Impairment {
    delay: Duration::from_millis(1),
    jitter: Duration::ZERO,
    loss: 0.005,
    duplicate: 0.005,
    reorder: 0.01,
    reorder_by: Duration::from_millis(2),
    rate: None,
    queue: 256 << 10,
    seed: 3,
};

#[test]
fn much_both_ways_at_once_over_a_short_link() {
    moves(0, size(64 << 20, 1 << 30), FAULTS);
}

#[test]
fn some_both_ways_at_once_over_a_long_link_by_ipv6() {
    moves(1, size(6 << 20, 64 << 20), Impairment { delay: Duration::from_millis(10), seed: 4, ..FAULTS });
}

#[test]
fn a_little_over_a_link_that_hardly_works() {
    let how = Impairment { loss: 0.1, duplicate: 0.1, reorder: 0.2, seed: 5, ..FAULTS };
    moves(0, 512 << 10, how);
    moves(1, 512 << 10, how);
}

#[test]
fn connections_open_and_close_over_a_link_that_loses() {
    let world = World::new();
    let faulty = faulty(&world, Impairment { loss: 0.05, ..FAULTS });
    let guest = &faulty.guest;
    std::thread::scope(|scope| {
        for worker in 0..8 {
            scope.spawn(move || {
                for n in 0..8 {
                    let at = (SERVER[(worker + n) % 2], ECHO);
                    both_ways(&mut guest.place().tcp_connect(at).unwrap(), 10_000);
                }
            });
        }
    });
    assert!(faulty.link.fates().iter().all(|f| f.lost > 0));
}
