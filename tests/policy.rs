//! What a guest may reach, whom it may be, and how much it may have, with the options of `ringtap run` in a lab.

mod common;

use common::{ECHO, SERVER, World, need, sh};
use ringtap::lab::{Guest, Server};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

fn echoes(guest: &Guest, to: (IpAddr, u16)) -> bool {
    let Ok(mut stream) = guest.place().tcp_connect_within(to, Duration::from_secs(5)) else { return false };
    let mut back = [0; 2];
    stream.write_all(b"hi").is_ok() && stream.read_exact(&mut back).is_ok() && &back == b"hi"
}

/// Refused at once, as if there were no way.
#[track_caller]
fn closed(guest: &Guest, to: (IpAddr, u16)) {
    let start = Instant::now();
    let outcome = guest.place().tcp_connect_within(to, Duration::from_secs(10));
    assert!(outcome.is_err(), "{to:?} is open");
    assert!(start.elapsed() < Duration::from_secs(5), "{to:?} hangs: {outcome:?}");
}

/// Whether a datagram comes back.
fn datagram_echoes(guest: &Guest, to: (IpAddr, u16)) -> bool {
    let any: IpAddr =
        if to.0.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = guest.place().udp_socket((any, 0)).unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut buffer = [0; 8];
    (0..4).any(|_| {
        // The answer of a closed one is an error of the next call.
        let _ = socket.send_to(b"x", to);
        socket.recv_from(&mut buffer).is_ok()
    })
}

#[test]
fn where_all_is_denied_the_doors_that_are_allowed_are_open() {
    need("ping");
    need("dig");
    let world = World::new();
    let udp = |ip| Server::udp_echo(world.lab.internet().udp_socket((ip, 6000)).unwrap()).unwrap();
    let [udp4, udp6] = SERVER.map(udp);
    let guest = world.guest_with(&[
        "--deny",
        "all",
        "--allow",
        "203.0.113.80:7",
        "--allow",
        "[2001:db8:203::/64]:80-6000",
    ]);
    assert!(echoes(&guest, (SERVER[0], ECHO)));
    assert!(guest.place().tcp_connect((SERVER[1], 80)).is_ok());
    closed(&guest, (SERVER[0], 80));
    closed(&guest, (SERVER[1], ECHO));
    assert!(!datagram_echoes(&guest, (SERVER[0], 6000)) && udp4.peers().is_empty());
    assert!(datagram_echoes(&guest, (SERVER[1], 6000)) && !udp6.peers().is_empty());
    for to in ["203.0.113.80", "2001:db8:203::80"] {
        sh(guest.place(), &format!("ping -c 1 -W 2 {to}")).failed();
    }
    assert!(world.web.peers().is_empty(), "nothing came through");
    // Rules are about the world outside: gateway and names are there.
    sh(guest.place(), "ping -c 1 -W 5 10.0.2.2").ok();
    assert!(!sh(guest.place(), "dig @10.0.2.3 +short +time=5 server.test A").ok().is_empty());
}

#[test]
fn what_is_denied_is_closed_and_the_rest_is_open() {
    need("ping");
    let world = World::new();
    let guest = world.guest_with(&["--deny", "203.0.113.0/24:80", "--deny", "2001:db8:203::/48"]);
    closed(&guest, (SERVER[0], 80));
    closed(&guest, (SERVER[1], 80));
    closed(&guest, (SERVER[1], ECHO));
    assert!(echoes(&guest, (SERVER[0], ECHO)));
    sh(guest.place(), "ping -c 1 -W 5 203.0.113.80").ok();
    sh(guest.place(), "ping -c 1 -W 2 2001:db8:203::80").failed();
    assert!(world.web.peers().is_empty());
}

#[test]
fn attach_has_the_rules_too() {
    let world = World::new();
    let guest = world.attach(world.bare(""), &["--deny", "203.0.113.80:80"], None);
    closed(&guest, (SERVER[0], 80));
    assert!(echoes(&guest, (SERVER[0], ECHO)));
}

/// Addresses that are not of the guest's networks, with and without leave.
#[test]
fn packets_come_from_the_guests_networks_or_from_those_that_are_allowed() {
    need("ping");
    let world = World::new();
    // Not to be chosen by itself.
    let more = "ip addr add 172.30.0.1/32 dev tap0; ip addr add fd30::1/128 dev tap0 nodad preferred_lft 0
        ip addr add 10.0.2.77/24 dev tap0";
    let ping =
        |guest: &Guest, from: &str, to: &str| sh(guest.place(), &format!("ping -c 1 -W 2 -I {from} {to}"));
    let guest = world.guest();
    sh(guest.place(), more).ok();
    ping(&guest, "10.0.2.77", "203.0.113.80").ok();
    ping(&guest, "172.30.0.1", "203.0.113.80").failed();
    ping(&guest, "fd30::1", "2001:db8:203::80").failed();
    ping(&guest, "172.30.0.1", "10.0.2.2").failed();
    // The neighbour that was asked for in a stranger's name is there for everybody else.
    sh(guest.place(), "ip neigh flush dev tap0").ok();
    ping(&guest, "172.30.0.1", "203.0.113.80").failed();
    assert!(echoes(&guest, (SERVER[0], ECHO)) && echoes(&guest, (SERVER[1], ECHO)));
    let guest = world.guest_with(&["--allow-source", "172.30.0.0/16", "--allow-source", "fd30::1"]);
    sh(guest.place(), more).ok();
    ping(&guest, "172.30.0.1", "203.0.113.80").ok();
    ping(&guest, "fd30::1", "2001:db8:203::80").ok();
}

#[test]
fn a_guest_has_as_many_flows_as_it_may_and_is_told_of_more_at_once() {
    let world = World::new();
    let guest = world.guest_with(&["--max-flows", "20"]);
    let dial = || guest.place().tcp_connect_within((SERVER[0], ECHO), Duration::from_secs(20));
    let (open, refused): (Vec<_>, Vec<_>) = (0..30).map(|_| dial()).partition(Result::is_ok);
    assert_eq!((open.len(), refused.len()), (20, 10));
    drop(open);
    let end = Instant::now() + Duration::from_secs(20);
    while dial().is_err() {
        assert!(Instant::now() < end, "no flow came back");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn limits_that_are_met_are_named_once() {
    need("bash");
    let world = World::new();
    // Each datagram from a port of its own.
    let script = "for i in $(seq 60); do bash -c 'echo x >/dev/udp/203.0.113.80/6000'; done";
    let out = world.run(&["--max-new-flows", "3"], script);
    assert!(out.status.success(), "{out:?}");
    assert_eq!(out.stderr.matches("--max-new-flows").count(), 1, "{}", out.stderr);
    let out = world.run(&["--max-flows", "0"], "true").failed();
    assert!(out.contains("--max-flows: 0 would leave the guest no network"), "{out}");
}
