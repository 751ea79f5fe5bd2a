//! The parsers of packets: bytes in, checked values out.

use super::input::Input;
use super::seeds::{addr, message, packet, patch};
use ringtap::wire::segment::{Caps, Scratch, cut, needs_software};
use ringtap::wire::{Csum, Gso, Net, Payload, checksum, ext, icmp, parse_gso, vnet};
use std::ops::Range;

/// Reads a frame, and checks what must hold of every one that is taken.
pub fn read(frame: &[u8], gso: Gso) {
    // Only frames that a kernel has not vouched for are verified; no frame may make that fail.
    checksum::frame_is_sound(frame);
    let Ok(parsed) = parse_gso(frame, gso) else { return };
    checksum::verify_transport(frame, &parsed);
    let within =
        |r: &Range<usize>| assert!(r.start <= r.end && r.end <= frame.len(), "{r:?} of {}", frame.len());
    match &parsed.net {
        Net::Arp(r) => {
            within(r);
            assert_eq!(r.len(), 28);
        }
        Net::Ip(ip, payload) => {
            assert_eq!(ip.src.is_ipv6(), ip.dst.is_ipv6());
            let (header, body) = (usize::from(ip.header_at), usize::from(ip.payload_at));
            let end = body + usize::from(ip.payload_len);
            assert!(header < body && end <= frame.len(), "{ip:?}");
            ext::next_header_at(&frame[header..]).inspect(|at| assert!(header + at < body));
            match payload {
                Payload::Tcp(tcp, r) => {
                    within(r);
                    assert!(r.start >= body + 20 && r.end <= end);
                    assert!(tcp.options.mss != Some(0) && tcp.options.window_scale.is_none_or(|s| s <= 14));
                }
                Payload::Udp(_, r) => {
                    within(r);
                    assert!(r.start >= body + 8 && r.end <= end);
                }
                Payload::Icmp(r) => {
                    within(r);
                    assert!(r.len() >= 8 && r.end <= end);
                }
                Payload::Fragment(r) | Payload::Other(r) => {
                    within(r);
                    assert!(r.end <= end);
                }
            }
        }
    }
}

fn gso(n: u16) -> Gso {
    match n & 3 {
        0 => Gso::Tcp { mss: (n >> 2).max(1) },
        1 => Gso::Udp { size: (n >> 2).max(1) },
        _ => Gso::None,
    }
}

/// Any bytes as a frame.
pub fn ethernet(data: &[u8]) {
    let mut input = Input::new(data);
    let gso = gso(input.u16());
    read(input.rest(), gso);
}

fn below(ether_type: [u8; 2], data: &[u8]) {
    let mut frame = vec![0x52, 0x55, 10, 0, 2, 2, 2, 0, 0, 0, 0, 0x64];
    frame.extend_from_slice(&ether_type);
    frame.extend_from_slice(data);
    // So that coverage does not have to guess a checksum: once as it is, once put right.
    read(&frame, Gso::None);
    patch(&mut frame, 24, &[0, 0]);
    read(&frame, Gso::None);
}

/// Any bytes as an IPv4 packet.
pub fn ipv4(data: &[u8]) {
    below([8, 0], data);
}

/// Any bytes as an IPv6 packet, extension headers included.
pub fn ipv6(data: &[u8]) {
    below([0x86, 0xdd], data);
}

fn above(protocol: u8, data: &[u8]) {
    for (src, dst) in [("10.0.2.100", "198.51.100.2"), ("fd00::100", "2001:db8::1")] {
        let frame = packet(addr(src), addr(dst), protocol, 64, data);
        read(&frame, Gso::None);
        read(&frame, Gso::Tcp { mss: 1000 });
        read(&frame, Gso::Udp { size: 100 });
    }
}

/// Any bytes as a TCP segment, options included.
pub fn tcp(data: &[u8]) {
    above(6, data);
}

/// Any bytes as a datagram.
pub fn udp(data: &[u8]) {
    above(17, data);
}

/// Any bytes as an ICMP message of either family, and what it quotes.
pub fn icmp(data: &[u8]) {
    for (v6, src, dst) in [(false, "10.0.2.100", "198.51.100.2"), (true, "fd00::100", "2001:db8::1")] {
        let echo = icmp::echo(data, v6);
        assert!(echo.is_none() || data.len() >= 8);
        if let Some(quoted) = icmp::quoted(data, v6) {
            assert_eq!(quoted.src.is_ipv6(), quoted.dst.is_ipv6());
        }
        if data.len() >= 4 {
            read(&message(addr(src), addr(dst), 64, data), Gso::None);
        }
    }
}

/// Any bytes as the header in front of a frame.
pub fn vnet(data: &[u8]) {
    let mut input = Input::new(data);
    let len = usize::from(input.u16());
    if let Ok(rx) = vnet::decode(input.rest(), len) {
        match rx.csum {
            vnet::RxCsum::Partial(c) => assert!(usize::from(c.start) + usize::from(c.offset) + 2 <= len),
            other => assert!(!matches!(rx.gso, Gso::Tcp { .. } | Gso::Udp { .. }), "{other:?}"),
        }
        assert!(!matches!(rx.gso, Gso::Tcp { mss: 0 } | Gso::Udp { size: 0 }));
    }
}

/// Any head in front of any payload, cut for a tap that takes nothing off our hands.
pub fn segment(data: &[u8]) {
    let mut input = Input::new(data);
    let gso = gso(input.u16());
    let csum = match input.u8() {
        0 => None,
        n => Some(Csum { start: u16::from(n), offset: u16::from(input.u8()) }),
    };
    let mtu = input.pick(&[68, 576, 1280, 1500, 65_521]);
    let caps = Caps { vnet: false, csum: false, tso4: false, tso6: false, uso: false, mtu };
    let payload_len = usize::from(input.u16());
    let head = input.rest();
    let payload: Vec<u8> = (0..payload_len).map(|i| i as u8).collect();
    needs_software(&caps, head, payload.len(), csum, gso);
    let mut frames = 0;
    let mut each = |_: &[u8], frame: &[u8]| {
        frames += 1;
        assert!(frame.len() <= usize::from(mtu) + 14, "{} bytes at an MTU of {mtu}", frame.len());
    };
    let done = cut(head, &payload, csum, gso, &caps, &mut Scratch::new(1), &mut each);
    assert_eq!(done.is_ok(), frames > 0);
}
