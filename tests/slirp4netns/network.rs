//! What the guest reaches.

use crate::common::{HOST, World, sh};
use crate::{BOTH, Target};
use ringtap::lab::Server;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

const GATEWAY: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 2, 2));

#[test]
fn the_gateway_is_the_hosts_loopback_unless_disabled() {
    let world = World::new();
    let listener = world.lab.host().tcp_listener((Ipv4Addr::LOCALHOST, 8123)).unwrap();
    let _echo = Server::tcp_echo(listener).unwrap();
    let guest = Target::new(&world, true).guest(&world, "-c");
    guest.place().tcp_connect((GATEWAY, 8123)).unwrap();
}

#[test]
fn disable_host_loopback_leaves_ping_and_refuses_tcp_as_unreachable() {
    let world = World::new();
    let listener = world.lab.host().tcp_listener((Ipv4Addr::LOCALHOST, 8123)).unwrap();
    let _echo = Server::tcp_echo(listener).unwrap();
    for as_user in BOTH {
        let guest = Target::new(&world, as_user).guest(&world, "-c --disable-host-loopback");
        sh(guest.place(), "ping -c 1 -W 10 10.0.2.2").ok();
        let error = guest.place().tcp_connect((GATEWAY, 8123)).unwrap_err().to_string();
        assert!(error.contains("Network is unreachable"), "{error}");
    }
}

#[test]
fn disable_dns_makes_the_dns_address_time_out() {
    let world = World::new();
    let guest = Target::new(&world, true).guest(&world, "-c --disable-dns");
    let dns = (IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3)), 53);
    // Longer than the kernel looks for a neighbour that does not answer (3 s), which would be another error.
    let error = guest.place().tcp_connect_within(dns, Duration::from_secs(5)).unwrap_err().to_string();
    assert!(error.contains("timed out"), "{error}");
}

#[test]
fn dhcp_gives_the_first_address_of_the_pool() {
    crate::common::need("busybox");
    let world = World::new();
    let guest = Target::new(&world, true).guest(&world, "");
    let script = "
        ip link set lo up; ip link set tap11 up
        s=$(mktemp); printf '#!/bin/sh\\n[ \"$1\" != bound ] || echo \"got $ip\"\\n' > $s; chmod +x $s
        busybox udhcpc -q -n -f -i tap11 -t 10 -T 1 -s $s; rm $s
    ";
    let said = sh(guest.place(), script).ok();
    assert!(said.contains("got 10.0.2.15"), "{said}");
}

#[test]
fn outbound_addr_is_whom_the_host_sees() {
    let world = World::new();
    let host = world.lab.host();
    for (address, seen) in [("127.0.0.1", IpAddr::V4(Ipv4Addr::LOCALHOST)), (&HOST[0].to_string(), HOST[0])] {
        let listener = host.tcp_listener((Ipv4Addr::UNSPECIFIED, 8124)).unwrap();
        let server = Server::tcp_echo(listener).unwrap();
        let guest = Target::new(&world, true).guest(&world, &format!("-c --outbound-addr={address}"));
        let _client = guest.place().tcp_connect((GATEWAY, 8124)).unwrap();
        assert_eq!(server.peers_when(1)[0].ip(), seen);
    }
}

#[test]
fn enable_ipv6_gives_an_address_at_once_and_without_there_is_none() {
    let world = World::new();
    let target = Target::new(&world, true);
    let _running = target.serve(&world, &format!("-c -6 --mtu=65520 {} tap11", target.pid()));
    assert!(target.net("if_inet6").lines().any(|l| l.starts_with("fd00000000000000") && l.contains("tap11")));
    let target = Target::new(&world, true);
    let _running = target.serve(&world, &format!("-c {} tap11", target.pid()));
    assert!(!target.net("if_inet6").contains("fd00000000000000"));
}

#[test]
fn names_are_resolved_at_the_dns_address() {
    let world = World::new();
    for options in ["-c", "-c --enable-sandbox --enable-seccomp --disable-host-loopback"] {
        let guest = Target::new(&world, true).guest(&world, options);
        let dns = (IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3)), 53);
        guest.place().tcp_connect(dns).unwrap();
    }
}

#[test]
fn anybody_may_answer_a_udp_mapping() {
    let world = World::new();
    let internet = world.lab.internet();
    let first = internet.udp_socket((crate::common::SERVER[0], 7001)).unwrap();
    let second = internet.udp_socket((crate::common::SERVER[0], 7002)).unwrap();
    let guest = Target::new(&world, true).guest(&world, "-c");
    let client = guest.place().udp_socket((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    first.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    client.send_to(b"question", (crate::common::SERVER[0], 7001)).unwrap();
    let mut bytes = [0; 64];
    let (_, mapping) = first.recv_from(&mut bytes).unwrap();
    // Of the other port, and of the host's own address, to which the guest has never sent.
    second.send_to(b"stranger", mapping).unwrap();
    let (n, from) = client.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..n], from.port()), (&b"stranger"[..], 7002));
    let host = world.lab.host().udp_socket((HOST[0], 7003)).unwrap();
    host.send_to(b"another", mapping).unwrap();
    let (n, from) = client.recv_from(&mut bytes).unwrap();
    assert_eq!((&bytes[..n], from), (&b"another"[..], (HOST[0], 7003).into()));
}

#[test]
fn mtu_and_cidr_of_podmans_options_show_inside() {
    let world = World::new();
    let guest = Target::new(&world, true).guest(&world, "-c --mtu=9000 --cidr=192.168.0.0/24");
    let said = sh(guest.place(), "ip addr show tap11").ok();
    assert!(said.contains("mtu 9000") && said.contains("192.168.0.100/24"), "{said}");
    sh(guest.place(), "ping -c 1 -W 10 192.168.0.2").ok();
}

#[test]
fn counters_of_the_tap_count_what_podman_stats_shows() {
    let world = World::new();
    let target = Target::new(&world, true);
    let pid = target.pid();
    let guest = target.guest(&world, "-c");
    crate::common::need("curl");
    sh(guest.place(), "curl -sS -o /dev/null -m 20 http://203.0.113.80/bytes/200000").ok();
    let counters = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let tap = counters.lines().find_map(|l| l.trim().strip_prefix("tap11:")).unwrap();
    let tap: Vec<u64> = tap.split_whitespace().map(|n| n.parse().unwrap()).collect();
    // Received bytes and packets, sent bytes and packets (proc_net_dev(5)).
    assert!(tap[0] > 200_000 && tap[1] > 1 && tap[8] > 100 && tap[9] > 1, "{tap:?}");
}

#[test]
fn refused_is_refused_and_strangers_on_the_link_are_silent() {
    let world = World::new();
    let guest = Target::new(&world, true).guest(&world, "-c --disable-host-loopback");
    let refusal = |to: IpAddr, port: u16| {
        guest.place().tcp_connect_within((to, port), Duration::from_secs(5)).unwrap_err().to_string()
    };
    let refused = refusal(crate::common::SERVER[0], 81);
    assert!(refused.contains("refused"), "{refused}");
    // Nobody answers for a stranger's address, so that the guest's kernel finds no neighbour.
    let stranger = refusal(IpAddr::V4(Ipv4Addr::new(10, 0, 2, 77)), 80);
    assert!(stranger.contains("No route to host"), "{stranger}");
    // The DNS address answers at port 53 alone.
    guest.place().tcp_connect((IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3)), 53)).unwrap();
    let beside = refusal(IpAddr::V4(Ipv4Addr::new(10, 0, 2, 3)), 80);
    assert!(beside.contains("unreachable") || beside.contains("refused"), "{beside}");
}
