//! (k), (l), (m): where a guest may go, who it may say it is, and what it can have sent in its name.

use crate::fuzz::seeds::{addr, arp, at, datagram, fragment, message, packet, plain, segment};
use crate::fuzz::world::World;
use crate::{heard, still_works};
use ringtap::config::{Network, Policy};
use ringtap::flow::DropReason;
use ringtap::stack::Limits;
use ringtap::wire::tcp::Flags;
use ringtap::wire::{Net, Payload, icmp, parse};
use std::net::SocketAddr;

/// Addresses by which a guest has reached the host's loopback through one stack or another, and what must be closed by
/// default: slirp4netns 1.3 and pasta let several of the first through.
const FORBIDDEN: [&str; 24] = [
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "0.1.2.3",
    "::1",
    "::",
    "::ffff:127.0.0.1",
    "::ffff:0.0.0.0",
    "::ffff:10.0.2.2",
    "::127.0.0.1",
    "::ffff:0:127.0.0.1",
    "64:ff9b::127.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "2002:7f00:1::1",
    "10.0.2.2",
    "fd00::2",
    "fe80::2",
    "169.254.169.254",
    "100.100.100.200",
    "fd00:ec2::254",
    "224.0.0.1",
    "255.255.255.255",
    "ff02::1",
    "fe80::1",
];

fn from(to: std::net::IpAddr) -> SocketAddr {
    if to.is_ipv4() { at("10.0.2.100:999") } else { at("[fd00::100]:999") }
}

/// Everything that opens something, to one address: TCP, UDP alone and in two parts, an echo.
fn try_all(w: &mut World, to: &str) {
    let to = addr(to);
    let from = from(to);
    for port in [80, 53] {
        let dst = SocketAddr::new(to, port);
        w.frame(&segment(from, dst, &plain(1, 0, Flags::SYN), 0));
        w.frame(&datagram(from, dst, b"x"));
        let d = [0, 9, 0, port as u8, 0, 24, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16];
        if to.is_ipv4() {
            w.frame(&fragment(from.ip(), to, 17, (port, 0, true), &d[..16]));
            w.frame(&fragment(from.ip(), to, 17, (port, 16, false), &d[16..]));
        }
    }
    let echo = if to.is_ipv4() { 8 } else { 128 };
    w.frame(&message(from.ip(), to, 64, &[echo, 0, 0, 0, 0, 1, 0, 1]));
    w.end_batch();
}

#[test]
fn k_forbidden_destinations_in_every_spelling() {
    for to in FORBIDDEN {
        let mut w = heard();
        try_all(&mut w, to);
        assert!(w.opened.is_empty() && w.left.is_empty(), "{to}: {:?} {:?}", w.opened, w.left);
        still_works(&mut w);
        w.finish();
    }
}

#[test]
fn k_the_loopback_has_one_name_where_it_is_allowed() {
    let policy = Policy { allow_host_loopback: true, ..Policy::default() };
    for to in FORBIDDEN {
        let mut w =
            World::with(Network { policy: policy.clone(), ..Network::default() }, Limits::default(), [64; 3]);
        try_all(&mut w, to);
        let gateway = matches!(to, "10.0.2.2" | "fd00::2" | "fe80::2");
        assert_eq!(!w.opened.is_empty(), gateway, "{to}: {:?}", w.opened);
        assert!(w.left.iter().all(|(to, _)| to.ip().is_loopback()), "{to}: {:?}", w.left);
        w.finish();
    }
}

/// Spoofed sources, and a guest that says that it is the gateway or the resolver (libslirp takes any source; ARP and
/// neighbour spoofing are its users' oldest findings).
#[test]
fn l_sources_that_are_not_the_guests_lead_nowhere() {
    let sources = [
        "10.0.2.2",
        "10.0.2.3",
        "10.0.2.0",
        "10.0.2.255",
        "127.0.0.1",
        "0.0.0.0",
        "224.0.0.5",
        "255.255.255.255",
        "192.0.2.77",
        "10.0.3.1",
        "fd00::2",
        "fd00::3",
        "fe80::2",
        "::1",
        "::",
        "ff02::5",
        "2001:db8::77",
        "fd00:1::1",
        "::ffff:10.0.2.100",
    ];
    for src in sources {
        let mut w = heard();
        let src = addr(src);
        let to = if src.is_ipv4() { addr("198.51.100.2") } else { addr("2001:db8::1") };
        let (from, dst) = (SocketAddr::new(src, 9), SocketAddr::new(to, 80));
        w.frame(&segment(from, dst, &plain(1, 0, Flags::SYN), 0));
        w.frame(&datagram(from, dst, b"x"));
        w.frame(&message(src, to, 64, &[if src.is_ipv4() { 8 } else { 128 }, 0, 0, 0, 0, 1, 0, 1]));
        w.frame(&fragment(src, to, 17, (1, 0, true), &[0; 64]));
        w.end_batch();
        assert_eq!(w.dropped(DropReason::Spoofed), 4, "{src}");
        assert!(w.opened.is_empty() && w.frames.is_empty() && w.live == [0; 3], "{src}");
        w.finish();
    }
}

#[test]
fn l_nobody_becomes_the_gateway_by_saying_so() {
    let mut w = heard();
    for op in [1, 2] {
        for ours in [[10, 0, 2, 2], [10, 0, 2, 3]] {
            w.frame(&arp(op, ours, [10, 0, 2, 100]));
        }
    }
    for target in [2u8, 3] {
        let mut m = vec![136, 0, 0, 0, 0xa0, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, target];
        m.extend_from_slice(&[2, 1, 2, 0, 0, 0, 0, 9]);
        w.frame(&message(addr("fd00::100"), addr("ff02::1"), 255, &m));
    }
    assert_eq!(w.dropped(DropReason::Spoofed), 6);
    assert!(w.frames.is_empty());
    // The gateway answers as before, to whom asks.
    w.frame(&arp(1, [10, 0, 2, 100], [10, 0, 2, 2]));
    assert_eq!(w.frames.back().unwrap()[22..28], [0x52, 0x55, 10, 0, 2, 2]);
    w.finish();
}

/// Errors about errors, and to or about groups, are how loops and floods begin (RFC 1122 3.2.2, RFC 4443 2.4).
#[test]
fn m_nothing_is_said_about_errors_groups_and_later_parts() {
    let (v4, v6) = (addr("10.0.2.100"), addr("fd00::100"));
    let quote = &packet(v4, addr("127.0.0.1"), 17, 64, &[0, 9, 0, 9, 0, 8, 0, 0])[14..];
    let quote6 = &packet(v6, addr("::1"), 17, 64, &[0, 9, 0, 9, 0, 8, 0, 0])[14..];
    let mut frames = Vec::new();
    for kind in [3u8, 11, 12, 4, 5] {
        frames.push(message(v4, addr("127.0.0.1"), 64, &[&[kind, 0, 0, 0, 0, 0, 0, 0], quote].concat()));
        frames.push(message(v4, addr("198.51.100.2"), 1, &[&[kind, 0, 0, 0, 0, 0, 0, 0], quote].concat()));
    }
    for kind in [1u8, 2, 3, 4, 100, 127] {
        frames.push(message(v6, addr("::1"), 64, &[&[kind, 0, 0, 0, 0, 0, 0, 0], quote6].concat()));
        frames.push(message(v6, addr("2001:db8::1"), 1, &[&[kind, 0, 0, 0, 0, 0, 0, 0], quote6].concat()));
    }
    for to in ["255.255.255.255", "10.0.2.255", "224.0.0.251"] {
        frames.push(datagram(at("10.0.2.100:9"), SocketAddr::new(addr(to), 9), b"x"));
        frames.push(message(v4, addr(to), 64, &[8, 0, 0, 0, 0, 1, 0, 1]));
        frames.push(packet(v4, addr(to), 132, 64, &[1; 20]));
        frames.push(
            segment(at("10.0.2.100:9"), SocketAddr::new(addr(to), 9), &plain(1, 0, Flags::SYN), 0).to_vec(),
        );
    }
    frames.push(datagram(at("[fd00::100]:9"), at("[ff02::fb]:5353"), b"x"));
    frames.push(message(v6, addr("ff02::1"), 64, &[128, 0, 0, 0, 0, 1, 0, 1]));
    // Not the first part.
    frames.push(fragment(v4, addr("127.0.0.1"), 17, (1, 64, true), &[0; 64]));
    for frame in frames {
        let mut w = heard();
        w.frame(&frame);
        w.end_batch();
        assert!(w.frames.is_empty(), "{frame:02x?} was answered by {:02x?}", w.frames);
        w.finish();
    }
}

#[test]
fn m_answers_are_few_and_hardly_longer_than_what_they_answer() {
    let mut w = heard();
    let mut answers = 0;
    for port in 1..=10_000 {
        let frame = datagram(at("10.0.2.100:9"), SocketAddr::new(addr("127.0.0.1"), port), &[7; 1400]);
        w.frame(&frame);
        w.end_batch();
        for answer in w.frames.drain(..) {
            answers += 1;
            assert!(answer.len() <= 14 + 576 && answer.len() < frame.len() + 36, "{} bytes", answer.len());
            let Net::Ip(ip, Payload::Icmp(r)) = parse(&answer).unwrap().net else { panic!("{answer:02x?}") };
            assert_eq!(ip.dst, addr("10.0.2.100"));
            assert!(icmp::is_error(false, answer[r.start]));
        }
    }
    assert!((1..=200).contains(&answers), "{answers} answers in an instant");
    w.finish();
}
