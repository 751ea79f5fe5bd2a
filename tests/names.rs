//! DNS in the guest: over UDP and TCP, with resolvers that are dead, change, or live on the host's loopback.

mod common;

use common::{SERVER, World, need, sh};
use ringtap::lab::addr;
use ringtap::lab::dns::{DnsServer, default_names};
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

const ASK: &str = "dig +short +time=5 +tries=2";

#[test]
fn udp_tcp_and_large_answers() {
    need("dig");
    let world = World::new();
    let guest = world.guest();
    let dig = |what: &str| sh(guest.place(), &format!("{ASK} {what}")).ok();
    for server in ["@10.0.2.3", "@fd00::3"] {
        assert_eq!(dig(&format!("{server} server.test A")), format!("{}\n", SERVER[0]));
        assert_eq!(dig(&format!("{server} server.test AAAA")), format!("{}\n", SERVER[1]));
        assert_eq!(dig(&format!("{server} +tcp far.test A")), format!("{}\n", addr::FAR_V4));
        // Truncated over UDP: dig asks again by TCP.
        assert!(dig(&format!("{server} big.test TXT")).len() > 3000, "{server}");
    }
    let out = sh(guest.place(), "dig @10.0.2.3 +time=5 nobody.test A").ok();
    assert!(out.contains("NXDOMAIN"), "{out}");
    assert!(!world.dns.udp_peers().is_empty() && !world.dns.tcp_peers().is_empty());
}

#[test]
fn many_questions_at_once_each_get_their_own_answer() {
    need("dig");
    let world = World::new();
    let guest = world.guest();
    let script = format!(
        "for i in $(seq 20); do for n in server far host; do {ASK} @10.0.2.3 $n.test A & done; done; wait"
    );
    let out = sh(guest.place(), &script).ok();
    for ip in [addr::SERVER_V4, addr::FAR_V4, addr::HOST_V4] {
        assert_eq!(out.lines().filter(|l| *l == ip.to_string()).count(), 20, "{out}");
    }
}

#[test]
fn the_guest_keeps_the_hosts_search_list_and_options() {
    let world = World::new();
    world
        .lab
        .set_resolv_conf("nameserver 203.0.113.80\nsearch test example.test\noptions ndots:2\n")
        .unwrap();
    let out = world.run(&[], "cat /etc/resolv.conf; getent hosts server").ok();
    for line in ["nameserver 10.0.2.3\n", "search test example.test\n", "options ndots:2"] {
        assert!(out.contains(line), "{out}");
    }
    assert!(out.contains("server.test"), "{out}");
}

#[test]
fn the_next_resolver_is_asked_when_the_first_is_dead() {
    need("dig");
    let world = World::new();
    for dead in [IpAddr::from(addr::SILENT_V4), addr::ROUTER_V4.into(), addr::UNREACHABLE_V6.into()] {
        world.lab.set_resolv_conf(&format!("nameserver {dead}\nnameserver {}\n", SERVER[0])).unwrap();
        let guest = world.guest();
        let dig = |how: &str| {
            sh(guest.place(), &format!("dig @10.0.2.3 +short +tries=3 +time=5 {how} server.test A"))
        };
        assert_eq!(dig("").ok(), format!("{}\n", SERVER[0]), "{dead}");
        if dead == IpAddr::from(addr::ROUTER_V4) {
            assert_eq!(dig("+tcp").ok(), format!("{}\n", SERVER[0]), "{dead} by TCP");
        }
    }
}

#[test]
fn a_change_of_resolv_conf_is_followed() {
    need("dig");
    let world = World::new();
    let guest = world.guest();
    let dig = || sh(guest.place(), "dig @10.0.2.3 +short +tries=1 +time=2 server.test A").stdout;
    assert_eq!(dig(), format!("{}\n", SERVER[0]));
    let other: IpAddr = Ipv4Addr::new(192, 0, 2, 250).into();
    let _dns =
        DnsServer::start(world.lab.far(), (addr::FAR_V4, 53), vec![("server.test".into(), other)]).unwrap();
    world.lab.set_resolv_conf(&format!("nameserver {}\n", addr::FAR_V4)).unwrap();
    let end = Instant::now() + Duration::from_secs(10);
    while dig() != format!("{other}\n") {
        assert!(Instant::now() < end, "the old resolver is still asked");
    }
}

#[test]
fn a_resolver_on_the_hosts_loopback_serves_the_guest() {
    need("dig");
    let world = World::new();
    let stub = Ipv4Addr::new(127, 0, 0, 53);
    let dns = DnsServer::start(world.lab.host(), (stub, 53), default_names()).unwrap();
    world.lab.set_resolv_conf("nameserver 127.0.0.53\n").unwrap();
    let guest = world.guest();
    let out =
        sh(guest.place(), &format!("{ASK} @10.0.2.3 server.test A; {ASK} +tcp @10.0.2.3 far.test A")).ok();
    assert_eq!(out, format!("{}\n{}\n", SERVER[0], addr::FAR_V4));
    assert_eq!((dns.udp_peers().len(), dns.tcp_peers().len()), (1, 1));
    // That opens nothing else of the loopback.
    let refused = guest.place().tcp_connect_within((stub, 53), Duration::from_secs(1));
    assert!(refused.is_err());
}

#[test]
fn resolvers_over_ipv6_only_are_enough() {
    need("dig");
    let world = World::new();
    world.lab.set_resolv_conf(&format!("nameserver {}\n", SERVER[1])).unwrap();
    let guest = world.guest();
    assert_eq!(sh(guest.place(), &format!("{ASK} @10.0.2.3 server.test A")).ok(), format!("{}\n", SERVER[0]));
}

#[test]
fn the_dns_address_serves_port_53_only() {
    let world = World::new();
    let guest = world.guest();
    let dns: IpAddr = Ipv4Addr::new(10, 0, 2, 3).into();
    assert!(guest.place().tcp_connect_within((dns, 80), Duration::from_secs(3)).is_err());
    assert!(guest.place().tcp_connect_within((dns, 53), Duration::from_secs(3)).is_ok());
}
