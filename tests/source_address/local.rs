//! Servers in the namespace itself.

use crate::world::{BRIEFLY, CLIENT, LOOPBACK, PATIENCE, TAP, WILDCARD, World, serve_tcp, serve_udp};
use ringtap::msg::Steering;
use std::io::ErrorKind;
use std::net::UdpSocket;

/// Servers of both protocols and families: on the loopback, on every address, and for datagrams on the tap's.
fn serve(world: &World) {
    let place = world.guest.place();
    for n in 0..2 {
        serve_tcp(place.tcp_listener((LOOPBACK[n], 80)).unwrap());
        serve_tcp(place.tcp_listener((WILDCARD[n], 81)).unwrap());
        serve_udp(place.udp_socket((WILDCARD[n], 53)).unwrap());
        serve_udp(place.udp_socket((TAP[n], 54)).unwrap());
    }
}

fn seen(as_user: bool) {
    let mut world = World::steered(as_user);
    serve(&world);
    for n in 0..2 {
        world.assert_tcp_seen((CLIENT[n], 40_000), (LOOPBACK[n], 80));
        world.assert_tcp_seen((CLIENT[n], 40_001), (LOOPBACK[n], 81));
        world.assert_tcp_seen((CLIENT[n], 40_002), (TAP[n], 81));
        world.assert_udp_seen((CLIENT[n], 40_000), (TAP[n], 53));
        world.assert_udp_seen((CLIENT[n], 40_001), (TAP[n], 54));
    }
}

#[test]
fn servers_see_the_client_in_a_namespace_of_a_user() {
    seen(true);
}

#[test]
fn servers_see_the_client_in_a_namespace_of_root() {
    seen(false);
}

#[test]
fn without_steering_no_answer_comes_back() {
    let mut world = World::new(true);
    serve(&world);
    for n in 0..2 {
        for port in [80, 81] {
            let dialled = world.dial((CLIENT[n], 40_000), (LOOPBACK[n], port), BRIEFLY);
            assert_eq!(dialled.unwrap_err().kind(), ErrorKind::TimedOut);
        }
        for port in [53, 54] {
            assert_silent(&world.talk((CLIENT[n], 40_000), (TAP[n], port)));
        }
    }
    // The same once more, steered: what failed was for want of that.
    assert_eq!(world.steer(), [Steering::Full, Steering::Full]);
    for n in 0..2 {
        world.assert_tcp_seen((CLIENT[n], 40_009), (LOOPBACK[n], 80));
        world.assert_udp_seen((CLIENT[n], 40_009), (TAP[n], 53));
    }
}

fn assert_silent(client: &UdpSocket) {
    client.set_read_timeout(Some(BRIEFLY)).unwrap();
    client.send(b"who am I?").unwrap();
    assert_eq!(client.recv(&mut [0; 100]).unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn one_client_and_port_may_talk_to_two_servers_at_once() {
    let mut world = World::steered(true);
    serve(&world);
    for n in 0..2 {
        let client = (CLIENT[n], 40_000);
        let one = world.assert_tcp_seen(client, (LOOPBACK[n], 80));
        let two = world.assert_tcp_seen(client, (LOOPBACK[n], 81));
        let three = world.assert_udp_seen(client, (TAP[n], 53));
        let four = world.assert_udp_seen(client, (TAP[n], 54));
        drop((one, two, three, four));
    }
}

#[test]
fn a_refusal_comes_back_as_such() {
    for mut world in [World::steered(true), World::without_nft()] {
        for n in 0..2 {
            let dialled = world.dial((CLIENT[n], 40_000), (LOOPBACK[n], 9), PATIENCE);
            assert_eq!(dialled.unwrap_err().kind(), ErrorKind::ConnectionRefused);
            let client = world.talk((CLIENT[n], 40_000), (TAP[n], 9));
            client.send(b"anyone?").unwrap();
            assert_eq!(client.recv(&mut [0; 10]).unwrap_err().kind(), ErrorKind::ConnectionRefused);
        }
    }
}

#[test]
fn tcp_servers_see_the_client_without_nf_tables() {
    let mut world = World::without_nft();
    serve(&world);
    for n in 0..2 {
        world.assert_tcp_seen((CLIENT[n], 40_000), (LOOPBACK[n], 80));
        world.assert_tcp_seen((CLIENT[n], 40_001), (LOOPBACK[n], 81));
        assert_silent(&world.talk((CLIENT[n], 40_000), (TAP[n], 53)));
    }
}

#[test]
fn steering_again_changes_nothing_and_leaves_others_alone() {
    let world = World::new(true);
    world.sh(
        "nft add table inet theirs; nft 'add chain inet theirs c { type nat hook output priority -100; }'
              ip rule add fwmark 0x64 lookup 100 priority 100",
    );
    let state =
        "nft list ruleset; ip rule; ip -6 rule; ip route show table 29300; ip -6 route show table 29300";
    assert_eq!(world.steer(), [Steering::Full, Steering::Full]);
    let once = world.sh(state);
    assert_eq!(world.steer(), [Steering::Full, Steering::Full]);
    assert_eq!(world.sh(state), once);
    assert!(once.contains("table inet theirs") && once.contains("fwmark 0x64 lookup 100"), "{once}");
    let table = world.sh("nft list table ip ringtap");
    assert_eq!(table, TABLE.replace("FAMILY", "ip"));
    assert_eq!(world.sh("nft list table ip6 ringtap"), TABLE.replace("FAMILY", "ip6"));
}

const TABLE: &str = "table FAMILY ringtap {
	chain output {
		type route hook output priority mangle; policy accept;
		meta mark 0x0000007b ct mark set 0x0000007a
		ct mark 0x0000007a ct direction reply meta mark set 0x0000007a
	}

	chain prerouting {
		type filter hook prerouting priority mangle; policy accept;
		meta mark 0x0000007b meta mark set 0x0000007a
		ct mark 0x0000007a ct direction reply meta mark set 0x0000007a
	}
}
";

#[test]
fn a_namespace_without_ipv6_has_the_other() {
    let mut world = World::new(true);
    world.sh("echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6");
    serve_tcp(world.guest.place().tcp_listener((LOOPBACK[0], 80)).unwrap());
    let [v4, v6] = world.steer();
    assert_eq!(v4, Steering::Full);
    assert!(
        matches!(&v6, Steering::Off(why) if why.contains("IPv6") && why.contains("disable_ipv6")),
        "{v6:?}"
    );
    world.assert_tcp_seen((CLIENT[0], 40_000), (LOOPBACK[0], 80));
}
