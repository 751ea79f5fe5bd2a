//! Frames that are dropped are counted by why, each as often as it came.

use crate::common::{SERVER, World, need, sh};
use crate::{eventually, stats};
use ringtap::lab::Guest;
use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

/// Sends `bytes` as the payload of IP protocol `number`, so many times.
fn send(guest: &Guest, to: &str, number: u8, bytes: &[u8], times: u32) {
    let text: String = bytes.iter().map(|b| format!("\\{b:03o}")).collect();
    let script =
        format!("for i in $(seq {times}); do printf '{text}' | socat -u - IP4-SENDTO:{to}:{number}; done");
    sh(guest.place(), &script).ok();
}

/// Sends a whole frame, so many times.
fn send_frame(guest: &Guest, bytes: &[u8], times: u32) {
    let text: String = bytes.iter().map(|b| format!("\\{b:03o}")).collect();
    let script = format!("for i in $(seq {times}); do printf '{text}' | socat -u - INTERFACE:tap0; done");
    sh(guest.place(), &script).ok();
}

/// A packet of IP protocol `number` with the eight bytes of a UDP header, in a frame. `fragment` is the word of the IPv4 header
/// that has flags and offset.
fn packet(from: Ipv4Addr, number: u8, fragment: u16) -> Vec<u8> {
    let mut ip = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, number, 0, 0];
    ip[6..8].copy_from_slice(&fragment.to_be_bytes());
    ip.extend([from.octets(), Ipv4Addr::new(198, 51, 100, 2).octets()].concat());
    let checksum = ones_complement(&ip);
    ip[10..12].copy_from_slice(&checksum.to_be_bytes());
    // MACs of a broadcast are taken by whoever reads the tap.
    let ethernet = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[8, 0]].concat();
    [&ethernet[..], &ip, &[0, 7, 0, 9, 0, 8, 0, 0]].concat()
}

/// A UDP datagram from 7 to 9 whose header has this length and checksum.
fn datagram(length: u16, checksum: u16) -> Vec<u8> {
    [&[0, 7, 0, 9][..], &length.to_be_bytes(), &checksum.to_be_bytes(), b"abcd"].concat()
}

#[test]
fn each_reason_counts_what_was_dropped_for_it_and_nothing_else() {
    let world = World::new();
    need("socat");
    let guest = world.guest_with(&["--no-ipv6"]);
    let server = SERVER[0].to_string();
    let drops = || -> BTreeMap<String, u64> {
        serde_json::from_value(stats(&world)["counters"]["drops"].clone()).unwrap()
    };
    let any = (IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
    let udp = || guest.place().udp_socket(any).unwrap();
    // The way to the gateway is known before anything is counted.
    sh(guest.place(), &format!("ping -c 1 {server}")).ok();
    let from = own(&guest);
    let mut before = drops();
    let mut check = |why: &str, count: u64| {
        before.entry(why.to_owned()).and_modify(|n| *n += count);
        eventually(&format!("{why}: {before:?}, now {:?}", drops()), || drops() == before);
    };
    let near = udp();
    for _ in 0..5 {
        near.send_to(b"x", "169.254.169.254:9").unwrap();
    }
    check("policy", 5);
    send(&guest, &server, 47, b"no GRE here", 3);
    check("unsupported", 3);
    send(&guest, &server, 17, &datagram(12, 0x1234), 4);
    check("badChecksum", 4);
    send(&guest, &server, 17, &datagram(400, 0), 2);
    check("malformed", 2);
    near.set_ttl(1).unwrap();
    for _ in 0..6 {
        near.send_to(b"x", (SERVER[0], 9)).unwrap();
    }
    check("ttlExceeded", 6);
    near.send_to(b"x", "239.1.2.3:9").unwrap();
    near.send_to(b"x", "239.1.2.3:9").unwrap();
    check("multicast", 2);
    for _ in 0..3 {
        guest.place().tcp_connect((SERVER[0], 9)).unwrap_err();
    }
    check("hostRefused", 3);
    // An acknowledgement of nothing, from port 7 to 80, with the right checksum.
    let segment = tcp_ack(from, SERVER[0]);
    send(&guest, &server, 6, &segment, 2);
    check("tcpUnacceptable", 2);
    send_frame(&guest, &packet(Ipv4Addr::LOCALHOST, 17, 0), 4);
    check("spoofed", 4);
    // A first part that is too short for the header of TCP, more to follow.
    send_frame(&guest, &packet(from, 6, 0x2000), 3);
    check("fragment", 3);
}

/// The guest's address.
fn own(guest: &Guest) -> Ipv4Addr {
    let local = guest.place().tcp_connect((SERVER[0], crate::common::ECHO)).unwrap().local_addr().unwrap();
    match local.ip() {
        IpAddr::V4(ip) => ip,
        IpAddr::V6(ip) => panic!("{ip}"),
    }
}

fn tcp_ack(from: Ipv4Addr, to: IpAddr) -> Vec<u8> {
    let IpAddr::V4(to) = to else { panic!("{to}") };
    let mut segment = vec![0, 7, 0, 80, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0];
    let pseudo = [&from.octets()[..], &to.octets(), &[0, 6], &(segment.len() as u16).to_be_bytes()].concat();
    let checksum = ones_complement(&[&pseudo[..], &segment].concat());
    segment[16..18].copy_from_slice(&checksum.to_be_bytes());
    segment
}

fn ones_complement(words: &[u8]) -> u16 {
    let sum: u32 = words.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w[1])).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}
