//! `--expose-host`: single ports of the host's loopback at the gateway's address, and the rest of it closed.

mod common;

use common::{World, sh};
use ringtap::lab::{Guest, Server};
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
const PATIENCE: Duration = Duration::from_secs(10);

fn gateways() -> [IpAddr; 2] {
    ["10.0.2.2", "fd00::2"].map(|a| a.parse().unwrap())
}

fn refused(guest: &Guest, to: (IpAddr, u16)) -> bool {
    guest.place().tcp_connect_within(to, Duration::from_secs(3)).is_err()
}

#[test]
fn a_tcp_port_under_its_own_number_or_another_and_nothing_beside_it() {
    let world = World::new();
    let echo = |ip, port| Server::tcp_echo(world.lab.host().tcp_listener((ip, port)).unwrap()).unwrap();
    let open = LOOPBACK.map(|ip| echo(ip, 5432));
    let moved = LOOPBACK.map(|ip| echo(ip, 8000));
    let closed = LOOPBACK.map(|ip| echo(ip, 6379));
    let guest = world.guest_with(&["--expose-host", "5432", "--expose-host", "8000:80/tcp"]);
    for gateway in gateways() {
        for port in [5432, 80] {
            let mut stream = guest.place().tcp_connect((gateway, port)).unwrap();
            stream.write_all(b"hello").unwrap();
            let mut back = [0; 5];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(&back, b"hello");
        }
        for port in [8000, 6379, 81] {
            assert!(refused(&guest, (gateway, port)), "{gateway} port {port} is open");
        }
    }
    for server in open.iter().chain(&moved) {
        assert!(matches!(server.peers_when(1)[..], [peer] if peer.ip().is_loopback()));
    }
    assert!(closed.iter().all(|s| s.peers().is_empty()));
    // The loopback's own address is no way round, even where the guest's kernel sends it out.
    sh(
        guest.place(),
        "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet
         ip rule add pref 0 to 127.0.0.0/8 lookup 77
         ip route add 127.0.0.0/8 via 10.0.2.2 dev tap0 src 10.0.2.100 table 77",
    )
    .ok();
    assert!(refused(&guest, (LOOPBACK[0], 5432)));
}

#[test]
fn a_udp_port_answers_from_where_it_was_asked() {
    let world = World::new();
    let echo = |ip, port| Server::udp_echo(world.lab.host().udp_socket((ip, port)).unwrap()).unwrap();
    let open = LOOPBACK.map(|ip| echo(ip, 5353));
    let closed = LOOPBACK.map(|ip| echo(ip, 123));
    let guest = world.guest_with(&["--expose-host", "5353:53/udp"]);
    for gateway in gateways() {
        let any: IpAddr =
            if gateway.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = guest.place().udp_socket((any, 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        for port in [123, 5353] {
            // Refused by an ICMP error, which the next call may report.
            let _ = socket.send_to(b"closed", (gateway, port));
        }
        let asked = SocketAddr::new(gateway, 53);
        let mut buffer = [0; 64];
        let (n, from) = loop {
            let _ = socket.send_to(b"question", asked);
            if let Ok(got) = socket.recv_from(&mut buffer) {
                break got;
            }
        };
        assert_eq!((&buffer[..n], from), (&b"question"[..], asked));
    }
    assert!(open.iter().all(|s| !s.peers().is_empty()) && closed.iter().all(|s| s.peers().is_empty()));
    // A TCP connection to that port is another matter.
    assert!(refused(&guest, (gateways()[0], 53)));
}
