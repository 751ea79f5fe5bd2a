//! Whose address the guest may use: its own networks', those it was given, and no other.

use super::link::arp;
use super::*;
use crate::config::SourceIp;
use ipnet::IpNet;

fn udp_from(w: &mut World, src: &str) -> Vec<Done> {
    let to = if src.starts_with('[') { "[2001:db8::1]:9" } else { "198.51.100.2:9" };
    w.batch(&[udp_frame(src, to, b"x")])
}

#[test]
fn any_address_of_its_own_networks_is_the_guests() {
    let mut w = World::new();
    for src in
        ["10.0.2.1:9", "10.0.2.100:9", "10.0.2.254:9", "[fd00::1]:9", "[fd00::aa:bb]:9", "[fe80::64]:9"]
    {
        assert_eq!(sends(&udp_from(&mut w, src)).len(), 1, "{src}");
    }
    assert_eq!(w.dropped(DropReason::Spoofed), 0);
}

#[test]
fn addresses_of_others_are_counted_and_lead_nowhere() {
    let mut w = World::new();
    let strangers = [
        "10.0.3.1:9",
        "172.17.0.2:9",
        "198.51.100.7:9",
        "169.254.1.1:9",
        "10.0.2.0:9",
        "[fd00::]:9",
        "[2001:db8::7]:9",
        "[fd00:0:0:1::1]:9",
    ];
    for src in strangers {
        assert!(udp_from(&mut w, src).is_empty(), "{src}");
    }
    assert!(w.batch(&[echo_frame("172.17.0.2", "10.0.2.2", 64, (1, 1), b"x")]).is_empty());
    assert_eq!(w.dropped(DropReason::Spoofed), strangers.len() as u64 + 1);
    assert_eq!(w.stack.link.lookup(addr("172.17.0.2")), None, "it teaches nothing");
    assert_eq!((w.held(), w.stack.flows().count()), (0, 0));
}

#[test]
fn networks_behind_the_guest_can_be_allowed_and_ours_cannot() {
    let sources = vec!["172.17.0.0/16".parse::<IpNet>().unwrap(), "fd17::/64".parse().unwrap()];
    let mut w = World::with(Network { sources, ..Network::default() }, &[]);
    assert_eq!(sends(&udp_from(&mut w, "172.17.0.2:9")).len(), 1);
    assert_eq!(sends(&udp_from(&mut w, "[fd17::2]:9")).len(), 1);
    assert!(udp_from(&mut w, "172.18.0.2:9").is_empty());
    let mut w = World::with(Network { sources: Network::any_source(), ..Network::default() }, &[]);
    assert_eq!(sends(&udp_from(&mut w, "203.0.113.5:9")).len(), 1);
    for src in
        ["10.0.2.2:9", "10.0.2.3:9", "10.0.2.0:9", "10.0.2.255:9", "127.0.0.1:9", "0.0.0.0:9", "[fd00::2]:9"]
    {
        assert!(udp_from(&mut w, src).is_empty(), "{src}");
    }
    assert_eq!(w.dropped(DropReason::Spoofed), 7);
}

#[test]
fn a_container_that_a_published_port_leads_to_answers_for_itself() {
    let mut w = World::new();
    w.frame(&arp(1, GUEST, [10, 0, 2, 100], [10, 0, 2, 2]));
    assert!(udp_from(&mut w, "172.17.0.2:9").is_empty());
    let container = at("172.17.0.2:80");
    assert!(w.stack.accept_stream(w.now, container, at("192.0.2.9:5000"), SourceIp::Preserve).is_some());
    w.drain();
    assert_eq!(sends(&udp_from(&mut w, "172.17.0.2:9")).len(), 1);
    assert!(udp_from(&mut w, "172.17.0.3:9").is_empty(), "its neighbour does not");
}

#[test]
fn neighbours_are_believed_as_senders_are() {
    let mut w = World::new();
    // Linux asks by any of its addresses, on behalf of all its packets: answered, and not believed.
    assert_eq!(w.frame(&arp(1, GUEST, [172, 17, 0, 1], [10, 0, 2, 2])).len(), 1);
    assert_eq!(w.stack.link.lookup(addr("172.17.0.1")), None);
    // The gateway cannot be taken over by whoever says that it is the gateway.
    assert!(w.frame(&arp(2, GUEST, [10, 0, 2, 2], [10, 0, 2, 100])).is_empty());
    let mut claim = vec![136, 0, 0, 0, 0x60, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    claim.extend_from_slice(&[2, 1, 2, 0, 0, 0, 0, 0x64]);
    assert!(w.frame(&icmp_frame("fe80::64", "ff02::1", 255, &claim)).is_empty());
    assert_eq!(w.stack.link.lookup(addr("2001:db8::1")), None);
    assert_eq!(w.dropped(DropReason::Spoofed), 2);
}
