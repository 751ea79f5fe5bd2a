//! ARP, NDP and router advertisements.

use super::*;
use crate::stack::{link::Link, ndp};

pub fn arp(op: u16, sha: Mac, spa: [u8; 4], tpa: [u8; 4]) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend_from_slice(&sha);
    f.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4]);
    f.extend_from_slice(&op.to_be_bytes());
    f.extend_from_slice(&sha);
    f.extend_from_slice(&spa);
    f.extend_from_slice(&[0; 6]);
    f.extend_from_slice(&tpa);
    f
}

#[test]
fn arp_answers_for_gateway_and_dns_and_nobody_else() {
    let mut w = World::new();
    for last in [2, 3] {
        let done = w.frame(&arp(1, GUEST, [10, 0, 2, 100], [10, 0, 2, last]));
        let (bytes, frame) = only(&done);
        let mac = [0x52, 0x55, 10, 0, 2, last];
        assert_eq!((frame.dst_mac, frame.src_mac), (GUEST, mac));
        assert_eq!(bytes[20..22], [0, 2]);
        assert_eq!(bytes[22..32], [&mac[..], &[10, 0, 2, last]].concat());
        assert_eq!(bytes[32..42], [&GUEST[..], &[10, 0, 2, 100]].concat());
    }
    for target in [[10, 0, 2, 77], [10, 0, 2, 100], [8, 8, 8, 8]] {
        assert!(w.frame(&arp(1, GUEST, [10, 0, 2, 100], target)).is_empty());
    }
    assert_eq!(w.stack.link.lookup(addr("10.0.2.100")), Some(GUEST));
}

#[test]
fn dns_off_means_that_its_address_is_there_and_silent() {
    let mut w = World::with(Network { dns: false, ..Network::default() }, &[]);
    assert_eq!(w.frame(&arp(1, GUEST, [10, 0, 2, 100], [10, 0, 2, 3])).len(), 1);
    assert_eq!(w.frame(&arp(1, GUEST, [10, 0, 2, 100], [10, 0, 2, 2])).len(), 1);
    assert!(w.batch(&[udp_frame("10.0.2.100:9", "10.0.2.3:53", b"q")]).is_empty());
}

#[test]
fn arp_probes_are_answered_but_teach_nothing_and_claims_are_refused() {
    let mut w = World::new();
    assert_eq!(w.frame(&arp(1, GUEST, [0; 4], [10, 0, 2, 2])).len(), 1);
    assert_eq!(w.stack.link.lookup(addr("0.0.0.0")), None);
    assert!(w.frame(&arp(1, GUEST, [10, 0, 2, 2], [10, 0, 2, 2])).is_empty());
    assert_eq!(w.dropped(DropReason::Spoofed), 1);
    assert_eq!(w.stack.link.lookup(addr("10.0.2.2")), None);
    // A gratuitous announcement teaches.
    w.frame(&arp(2, [2, 9, 9, 9, 9, 9], [10, 0, 2, 50], [10, 0, 2, 50]));
    assert_eq!(w.stack.link.lookup(addr("10.0.2.50")), Some([2, 9, 9, 9, 9, 9]));
    truncated(&mut w, &arp(1, GUEST, [10, 0, 2, 100], [10, 0, 2, 2]));
}

#[test]
fn a_packet_for_an_unknown_neighbour_asks_once_and_is_counted() {
    let mut w = World::new();
    let done = w.batch(&[udp_frame("10.0.2.99:9", "198.51.100.2:9", b"x")]);
    let flow = opened(&done);
    // Other guests push the first one out of the table.
    for i in 0..300u32 {
        w.stack.link.learn(
            w.now + Duration::from_secs(1),
            IpAddr::from((0x0a01_0000 + i).to_be_bytes()),
            GUEST,
        );
    }
    let done = w.datagrams(flow, "198.51.100.2:9", b"y", None);
    let (bytes, frame) = only(&done);
    assert!(matches!(frame.net, Net::Arp(_)));
    assert_eq!(bytes[38..42], [10, 0, 2, 99]);
    assert!(w.datagrams(flow, "198.51.100.2:9", b"y", None).is_empty());
    assert_eq!(w.dropped(DropReason::NoNeighbour), 2);
    assert_eq!(w.held(), 0);
}

fn solicitation(target: &str, options: &[u8]) -> Vec<u8> {
    let IpAddr::V6(target) = addr(target) else { panic!() };
    let mut m = vec![135, 0, 0, 0, 0, 0, 0, 0];
    m.extend_from_slice(&target.octets());
    m.extend_from_slice(options);
    m
}

const SOURCE: [u8; 8] = [1, 1, 0x02, 0, 0, 0, 0, 0x64];

#[test]
fn ndp_answers_for_our_four_addresses() {
    let mut w = World::new();
    for target in ["fd00::2", "fd00::3", "fe80::2", "fe80::3"] {
        let done = w.frame(&icmp_frame("fd00::64", "ff02::1:ff00:2", 255, &solicitation(target, &SOURCE)));
        let (bytes, frame) = only(&done);
        assert_eq!(frame.dst_mac, GUEST);
        assert_eq!(ends(&frame), (addr(target), addr("fd00::64")));
        let (kind, code, flags, rest) = icmp_error(bytes);
        // Router, solicited, override.
        assert_eq!((kind, code, flags), (136, 0, 0xe000_0000));
        let IpAddr::V6(t) = addr(target) else { panic!() };
        assert_eq!(rest, [&t.octets()[..], &[2, 1], &Link::mac_v6(t)[..]].concat());
        assert_eq!(bytes[21], 255);
    }
    for target in ["fd00::64", "fd00::77", "2001:db8::1"] {
        assert!(
            w.frame(&icmp_frame("fd00::64", "ff02::1:ff00:2", 255, &solicitation(target, &SOURCE)))
                .is_empty()
        );
    }
    assert_eq!(w.stack.link.lookup(addr("fd00::64")), Some(GUEST));
}

#[test]
fn ndp_defends_our_addresses_and_ignores_other_detection() {
    let mut w = World::new();
    let done = w.frame(&icmp_frame("::", "ff02::1:ff00:2", 255, &solicitation("fe80::2", &[])));
    let (bytes, frame) = only(&done);
    assert_eq!(ends(&frame), (addr("fe80::2"), addr("ff02::1")));
    assert_eq!(frame.dst_mac, [0x33, 0x33, 0, 0, 0, 1]);
    assert_eq!(icmp_error(bytes).2, 0xa000_0000);
    assert!(w.frame(&icmp_frame("::", "ff02::1:ff00:64", 255, &solicitation("fd00::64", &[]))).is_empty());
}

#[test]
fn ndp_from_beyond_the_link_or_with_bad_options_teaches_nothing() {
    let mut w = World::new();
    let good = solicitation("fd00::2", &SOURCE);
    let cases: [(&str, u8, Vec<u8>); 6] = [
        ("fd00::64", 64, good.clone()),
        ("fd00::64", 255, solicitation("fd00::2", &[1, 0, 0, 0, 0, 0, 0, 0])),
        ("fd00::64", 255, solicitation("fd00::2", &[1, 2, 0, 0, 0, 0, 0, 0])),
        ("fd00::64", 255, solicitation("fd00::2", &[1])),
        ("fd00::64", 255, solicitation("ff02::1", &SOURCE)),
        // Duplicate address detection with a link-layer address.
        ("::", 255, good.clone()),
    ];
    for (i, (src, ttl, m)) in cases.into_iter().enumerate() {
        assert!(w.frame(&icmp_frame(src, "fd00::2", ttl, &m)).is_empty(), "case {i}");
        assert_eq!(w.dropped(DropReason::Malformed), i as u64 + 1, "case {i}");
    }
    assert_eq!(w.stack.link.lookup(addr("fd00::64")), None);
    // Nobody takes our address over by advertising it.
    let mut claim = good;
    claim[0] = 136;
    assert!(w.frame(&icmp_frame("fd00::64", "ff02::1", 255, &claim)).is_empty());
    assert_eq!(w.dropped(DropReason::Spoofed), 1);
    truncated(&mut w, &icmp_frame("fd00::64", "fd00::2", 255, &solicitation("fd00::2", &SOURCE)));
}

/// Router lifetime, and the options by type.
fn advertisement(bytes: &[u8]) -> (u16, HashMap<u8, Vec<u8>>) {
    let m = &bytes[54..];
    assert_eq!((m[0], m[1], m[4], m[5], bytes[21]), (134, 0, 64, 0, 255));
    let mut options = HashMap::new();
    let mut rest = &m[16..];
    while !rest.is_empty() {
        let len = usize::from(rest[1]) * 8;
        options.insert(rest[0], rest[..len].to_vec());
        rest = &rest[len..];
    }
    (u16::from_be_bytes([m[6], m[7]]), options)
}

fn solicit_router(w: &mut World) -> Vec<Done> {
    w.frame(&icmp_frame("fe80::64", "ff02::2", 255, &[133, 0, 0, 0, 0, 0, 0, 0]))
}

#[test]
fn a_router_solicitation_brings_everything_a_guest_needs() {
    let mut w = World::new();
    let done = solicit_router(&mut w);
    let (bytes, frame) = only(&done);
    assert_eq!(ends(&frame), (addr("fe80::2"), addr("fe80::64")));
    assert_eq!(frame.src_mac, [0x52, 0x56, 0, 0, 0, 2]);
    let (lifetime, o) = advertisement(bytes);
    assert_eq!(lifetime, 1800);
    assert_eq!(o[&1][2..], [0x52, 0x56, 0, 0, 0, 2]);
    assert_eq!(o[&5][4..], 1500u32.to_be_bytes());
    // On-link and autonomous, a day and four hours.
    assert_eq!(o[&3][2..12], [64, 0xc0, 0, 1, 0x51, 0x80, 0, 0, 0x38, 0x40]);
    assert_eq!(o[&3][16..24], [0xfd, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(o[&25][4..8], 1800u32.to_be_bytes());
    assert_eq!(o[&25][8..24], "fd00::3".parse::<std::net::Ipv6Addr>().unwrap().octets());
    assert_eq!(o[&31][8..21], *b"\x03lan\x07example\0");
    // From the unspecified address: to everyone.
    let done = w.frame(&icmp_frame("::", "ff02::2", 255, &[133, 0, 0, 0, 0, 0, 0, 0]));
    assert_eq!(ends(&only(&done).1).1, IpAddr::V6(ndp::ALL_NODES));
}

#[test]
fn a_prefix_that_is_not_a_64_is_on_link_only_and_dns_off_names_no_server() {
    let net = Network { v6: Some("fd12:3400::/48".parse().unwrap()), dns: false, ..Network::default() };
    let mut w = World::with(net, &[]);
    let done = solicit_router(&mut w);
    let (_, o) = advertisement(only(&done).0);
    assert_eq!(o[&3][2..4], [48, 0x80]);
    assert!(!o.contains_key(&25) && !o.contains_key(&31));
}

#[test]
fn the_router_lifetime_follows_the_hosts_own_route() {
    let mut w = World::new();
    // Nothing is said to a guest that has not spoken IPv6, and no timer runs.
    w.stack.set_host_v6(w.now, false);
    assert!(w.drain().is_empty());
    assert_eq!(w.stack.poll_timeout(), None);
    assert_eq!(advertisement(only(&solicit_router(&mut w)).0).0, 0);
    w.stack.set_host_v6(w.now, true);
    let done = w.drain();
    assert_eq!(ends(&only(&done).1).1, IpAddr::V6(ndp::ALL_NODES));
    assert_eq!(advertisement(only(&done).0).0, 1800);
    // No change, no word.
    w.stack.set_host_v6(w.now, true);
    assert!(w.drain().is_empty());
}

#[test]
fn advertisements_come_unasked_at_random_intervals() {
    let mut w = World::new();
    solicit_router(&mut w);
    let mut last = w.now;
    let mut intervals = Vec::new();
    for _ in 0..20 {
        let due = w.stack.poll_timeout().unwrap();
        intervals.push(due.since(last).as_secs());
        assert_eq!(w.pass(due.since(w.now)).len(), 1);
        last = due;
    }
    assert!(intervals.iter().all(|s| (200..600).contains(s)), "{intervals:?}");
    assert!(intervals.iter().any(|s| *s != intervals[0]));
}

#[test]
fn listener_reports_are_counted_and_unanswered() {
    let mut w = World::new();
    for kind in [131, 132, 143] {
        assert!(w.frame(&icmp_frame("fe80::64", "ff02::16", 1, &[kind, 0, 0, 0, 0, 0, 0, 0])).is_empty());
    }
    assert_eq!(w.dropped(DropReason::Multicast), 3);
}

#[test]
fn a_storm_of_neighbours_does_not_cut_off_the_guest_itself() {
    let mut w = World::new();
    w.batch(&[
        udp_frame("10.0.2.100:9", "10.0.2.77:9", b"x"),
        udp_frame("[fd00::100]:9", "[fd00::77]:9", b"x"),
    ]);
    for i in 0..5000u32 {
        let [_, b, c, d] = i.to_be_bytes();
        w.frame(&arp(1, [2, 0, 0, b, c, d], [10, b + 1, c, d], [10, 0, 2, 2]));
        w.stack.link.learn(w.now + Duration::from_secs(1), IpAddr::from([10, b + 1, c, d]), GUEST);
    }
    assert_eq!(w.stack.link.lookup(addr("10.0.2.100")), Some(GUEST));
    assert_eq!(w.stack.link.lookup(addr("fd00::100")), Some(GUEST));
}

#[test]
fn of_a_storm_of_strangers_few_are_answered_and_whoever_is_known_is() {
    let mut w = World::new();
    let ask = |i: u32| {
        let [_, b, c, d] = i.to_be_bytes();
        arp(1, [2, 0, 0, b, c, d], [10, b + 1, c, d], [10, 0, 2, 2])
    };
    w.frame(&udp_frame("10.0.2.100:9", "10.0.2.77:9", b"x"));
    let answered = |w: &mut World, f: &[u8]| frames(&w.frame(f)).len();
    let storm: usize = (0..5000).map(|i| answered(&mut w, &ask(i))).sum();
    assert_eq!((storm, w.dropped(DropReason::NoRoom)), (1000, 4000));
    assert_eq!(answered(&mut w, &arp(1, GUEST, [10, 0, 2, 100], [10, 0, 2, 2])), 1);
    w.pass(Duration::from_millis(10));
    assert_eq!((5000..5100).map(|i| answered(&mut w, &ask(i))).sum::<usize>(), 10);
}

#[test]
fn so_it_is_with_a_storm_of_solicitations() {
    let mut w = World::new();
    let ask = |w: &mut World, from: &str| {
        let m = solicitation("fd00::2", &SOURCE);
        frames(&w.frame(&icmp_frame(from, "ff02::1:ff00:2", 255, &m))).len()
    };
    assert_eq!(ask(&mut w, "fd00::100"), 1);
    let storm: usize = (0..5000).map(|i| ask(&mut w, &format!("fd00::1:{i:x}"))).sum();
    assert_eq!((storm, w.dropped(DropReason::NoRoom)), (999, 4001));
    // The guest itself is known by its address and the MAC that the frame came from.
    assert_eq!(ask(&mut w, "fd00::100"), 1);
}
