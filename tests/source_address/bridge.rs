//! Servers behind a bridge in the guest, as containers are, with the address translation that Docker makes for a published
//! port.

use crate::world::{BRIEFLY, CLIENT, LOOPBACK, TAP, WILDCARD, World, serve_tcp, serve_udp};
use ringtap::lab::Guest;
use ringtap::msg::Steering;
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const CONTAINER: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(172, 17, 0, 2)), IpAddr::V6(Ipv6Addr::new(0xfd17, 0, 0, 0, 0, 0, 0, 2))];

/// What `docker run -p 8080:80 -p 8053:53/udp` adds, with the masquerading of its bridge.
const DOCKER: &str = "nft -f - <<'E'
    table ip docker {
        chain out { type nat hook output priority -100; fib daddr type local jump published; }
        chain pre { type nat hook prerouting priority -100; fib daddr type local jump published; }
        chain published { iifname br0 return; tcp dport 8080 dnat to 172.17.0.2:80; udp dport 8053 dnat to 172.17.0.2:53; }
        chain post { type nat hook postrouting priority 100; ip saddr 172.17.0.0/16 oifname != br0 masquerade; }
    }
    table ip6 docker {
        chain out { type nat hook output priority -100; fib daddr type local jump published; }
        chain pre { type nat hook prerouting priority -100; fib daddr type local jump published; }
        chain published { iifname br0 return; tcp dport 8080 dnat to [fd17::2]:80; udp dport 8053 dnat to [fd17::2]:53; }
        chain post { type nat hook postrouting priority 100; ip6 saddr fd17::/64 oifname != br0 masquerade; }
    }
E";

fn container(world: &World) -> Guest {
    let container = world.guest.behind_bridge(&world.lab, 1500).unwrap();
    world.sh(DOCKER);
    for wildcard in WILDCARD {
        serve_tcp(container.place().tcp_listener((wildcard, 80)).unwrap());
        serve_udp(container.place().udp_socket((wildcard, 53)).unwrap());
    }
    container
}

#[test]
fn servers_behind_address_translation_see_the_client() {
    let mut world = World::steered(true);
    let _container = container(&world);
    for n in 0..2 {
        world.assert_tcp_seen((CLIENT[n], 40_000), (LOOPBACK[n], 8080));
        world.assert_tcp_seen((CLIENT[n], 40_001), (TAP[n], 8080));
        world.assert_udp_seen((CLIENT[n], 40_000), (TAP[n], 8053));
    }
}

#[test]
fn servers_behind_a_bridge_see_the_client_when_dialled_themselves() {
    let mut world = World::steered(false);
    let _container = container(&world);
    for n in 0..2 {
        world.assert_tcp_seen((CLIENT[n], 40_000), (CONTAINER[n], 80));
        world.assert_udp_seen((CLIENT[n], 40_000), (CONTAINER[n], 53));
    }
}

#[test]
fn without_steering_no_answer_comes_back() {
    let mut world = World::new(true);
    let _container = container(&world);
    for n in 0..2 {
        for to in [(LOOPBACK[n], 8080), (CONTAINER[n], 80)] {
            let dialled = world.dial((CLIENT[n], 40_000), to, BRIEFLY);
            assert_eq!(dialled.unwrap_err().kind(), ErrorKind::TimedOut);
        }
        for to in [(TAP[n], 8053), (CONTAINER[n], 53)] {
            let client = world.talk((CLIENT[n], 40_000), to);
            client.set_read_timeout(Some(BRIEFLY)).unwrap();
            client.send(b"who am I?").unwrap();
            assert_eq!(client.recv(&mut [0; 100]).unwrap_err().kind(), ErrorKind::WouldBlock);
        }
    }
    assert_eq!(world.steer(), [Steering::Full, Steering::Full]);
    for n in 0..2 {
        world.assert_tcp_seen((CLIENT[n], 40_009), (LOOPBACK[n], 8080));
        world.assert_udp_seen((CLIENT[n], 40_009), (TAP[n], 8053));
    }
}
