//! The host's loopback: closed to the guest in every spelling unless asked for, and nothing else of the host.

mod common;

use common::{World, sh};
use ringtap::lab::{Guest, Server};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

const PORT: u16 = 8000;

fn loopback_servers(world: &World) -> [Server; 2] {
    let ips = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    ips.map(|ip| Server::tcp_echo(world.lab.host().tcp_listener((ip, PORT)).unwrap()).unwrap())
}

fn connects(guest: &Guest, to: &str) -> bool {
    let ip: IpAddr = to.parse().unwrap();
    guest.place().tcp_connect_within((ip, PORT), Duration::from_secs(3)).is_ok()
}

/// Makes the guest's kernel send what is for 127.0.0.1 out of its tap, as hostile code in the guest can.
const LOOPBACK_LEAVES: &str = "
    echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
    ip rule add pref 0 to 127.0.0.0/8 lookup 77; ip route add 127.0.0.0/8 via 10.0.2.2 dev tap0 src 10.0.2.100 table 77
    ip -6 rule add pref 0 to ::1 lookup 77; ip -6 route add ::1 via fd00::2 dev tap0 src fd00::100 table 77";

#[test]
fn closed_in_every_spelling() {
    let world = World::new();
    let servers = loopback_servers(&world);
    let guest = world.guest();
    sh(guest.place(), LOOPBACK_LEAVES).ok();
    for to in ["10.0.2.2", "fd00::2", "fe80::2", "127.0.0.1", "127.1.2.3", "::1"] {
        let start = Instant::now();
        assert!(!connects(&guest, to), "the host's loopback is reached by {to}");
        // Refused at once where the guest has a route: nobody waits for a policy.
        assert!(
            to.starts_with("127") || to == "fe80::2" || start.elapsed() < Duration::from_secs(2),
            "{to} hangs"
        );
    }
    for server in servers {
        assert_eq!(server.peers(), []);
    }
}

#[test]
fn open_at_the_gateway_when_asked_for() {
    let world = World::new();
    let servers = loopback_servers(&world);
    let guest = world.guest_with(&["--allow-host-loopback"]);
    assert!(connects(&guest, "10.0.2.2") && connects(&guest, "fd00::2"));
    assert!(servers.iter().all(|s| matches!(s.peers_when(1)[..], [peer] if peer.ip().is_loopback())));
    sh(guest.place(), LOOPBACK_LEAVES).ok();
    assert!(!connects(&guest, "127.0.0.1"), "127.0.0.1 itself is no address for a packet on a link");
}

#[test]
fn other_addresses_of_the_host_are_reached() {
    let world = World::new();
    let server = Server::tcp_echo(world.lab.host().tcp_listener((common::HOST[0], PORT)).unwrap()).unwrap();
    assert!(connects(&world.guest(), "198.51.100.1"));
    assert_eq!(server.peers_when(1).len(), 1);
}
