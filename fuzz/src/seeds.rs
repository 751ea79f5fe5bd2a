//! Frames as a guest sends them, from which targets start.

use ringtap::wire::ip::IpOut;
use ringtap::wire::tcp::{Flags, Options};
use ringtap::wire::{self, Head, Mac, Tcp, icmp, ip, tcp};
use std::net::{IpAddr, SocketAddr};

/// The guest's MAC.
pub const GUEST: Mac = [0x02, 0, 0, 0, 0, 0x64];
/// The router's.
pub const ROUTER: Mac = [0x52, 0x55, 10, 0, 2, 2];

pub fn at(s: &str) -> SocketAddr {
    s.parse().expect("an address and a port")
}

pub fn addr(s: &str) -> IpAddr {
    s.parse().expect("an address")
}

fn out(src: IpAddr, dst: IpAddr, protocol: u8, ttl: u8) -> IpOut {
    IpOut { src, dst, protocol, ttl, tos: 0, id: 7, dont_fragment: true }
}

/// A whole packet of any protocol.
pub fn packet(src: IpAddr, dst: IpAddr, protocol: u8, ttl: u8, body: &[u8]) -> Vec<u8> {
    [&ip::head(GUEST, ROUTER, &out(src, dst, protocol, ttl), body.len())[..], body].concat()
}

/// A datagram.
pub fn datagram(from: SocketAddr, to: SocketAddr, body: &[u8]) -> Vec<u8> {
    wire::udp::frame(GUEST, ROUTER, from, to, body)
}

/// An ICMP or ICMPv6 message whose checksum is put right.
pub fn message(src: IpAddr, dst: IpAddr, ttl: u8, body: &[u8]) -> Vec<u8> {
    icmp::frame(GUEST, ROUTER, &out(src, dst, 0, ttl), body.to_vec())
}

/// A part of a packet: `at` in bytes, a multiple of eight.
pub fn fragment(
    src: IpAddr,
    dst: IpAddr,
    protocol: u8,
    (id, at, more): (u16, u16, bool),
    body: &[u8],
) -> Vec<u8> {
    if src.is_ipv6() {
        let mut b = vec![protocol, 0];
        b.extend_from_slice(&((at & !7) | u16::from(more)).to_be_bytes());
        b.extend_from_slice(&[0, 0]);
        b.extend_from_slice(&id.to_be_bytes());
        b.extend_from_slice(body);
        return packet(src, dst, 44, 64, &b);
    }
    let mut f = packet(src, dst, protocol, 64, body);
    patch(&mut f, 18, &id.to_be_bytes());
    patch(&mut f, 20, &((at / 8) | if more { 0x2000 } else { 0 }).to_be_bytes());
    f
}

/// The headers of a TCP segment.
pub fn segment(from: SocketAddr, to: SocketAddr, t: &Tcp, len: usize) -> Head {
    let t = Tcp { src_port: from.port(), dst_port: to.port(), ..t.clone() };
    tcp::head(GUEST, ROUTER, &out(from.ip(), to.ip(), 6, 64), &t, len).0
}

/// A segment with nothing but these.
pub fn plain(seq: u32, ack: u32, flags: Flags) -> Tcp {
    Tcp { src_port: 0, dst_port: 0, seq, ack, flags, window: 65_535, urgent: 0, options: Options::default() }
}

/// Sets bytes and repairs the IPv4 header's checksum.
pub fn patch(frame: &mut [u8], at: usize, bytes: &[u8]) {
    let Some(place) = frame.get_mut(at..at + bytes.len()) else { return };
    place.copy_from_slice(bytes);
    if frame.len() >= 34 && frame[12..14] == [8, 0] && frame[14] >> 4 == 4 {
        frame[24..26].fill(0);
        let sum = wire::checksum::checksum(&frame[14..34]);
        frame[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

/// An ARP question of the guest's.
pub fn arp(op: u8, sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend_from_slice(&GUEST);
    f.extend_from_slice(&[8, 6, 0, 1, 8, 0, 6, 4, 0, op]);
    f.extend_from_slice(&GUEST);
    f.extend_from_slice(&sender);
    f.extend_from_slice(&[0; 6]);
    f.extend_from_slice(&target);
    f
}

/// A DHCPv4 message with these options behind the cookie.
pub fn bootp(options: &[u8]) -> Vec<u8> {
    let mut m = vec![1, 1, 6, 0, 1, 2, 3, 4, 0, 0, 0, 0];
    m.resize(28, 0);
    m.extend_from_slice(&GUEST);
    m.resize(236, 0);
    m.extend_from_slice(&[99, 130, 83, 99]);
    m.extend_from_slice(options);
    m
}

/// One frame of everything that a guest says.
pub fn all() -> Vec<Vec<u8>> {
    let (v4, v6) = (addr("10.0.2.100"), addr("fd00::100"));
    let (server, server6) = (addr("198.51.100.2"), addr("2001:db8::1"));
    let mut ns = vec![135, 0, 0, 0, 0, 0, 0, 0, 0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2];
    ns.extend_from_slice(&[1, 1, 2, 0, 0, 0, 0, 0x64]);
    let quote = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0, 198, 51, 100, 2, 10, 0, 2, 100, 0, 80, 156, 64];
    let too_big = [&[3, 4, 0, 0, 0, 0, 5, 0][..], &quote].concat();
    let client = [0x45, 0, 0, 40, 0, 0, 0, 0, 64, 17, 0, 0, 192, 0, 2, 9, 10, 0, 2, 100, 19, 136, 0, 80];
    let closed = [&[3, 3, 0, 0, 0, 0, 0, 0][..], &client].concat();
    let discover = bootp(&[53, 1, 1, 61, 3, 1, 2, 3, 81, 4, 0, 0, 0, 65, 55, 4, 1, 3, 6, 119, 255]);
    let request = bootp(&[53, 1, 3, 50, 4, 10, 0, 2, 15, 255]);
    vec![
        arp(1, [10, 0, 2, 100], [10, 0, 2, 2]),
        arp(2, [10, 0, 2, 101], [10, 0, 2, 3]),
        datagram(at("0.0.0.0:68"), at("255.255.255.255:67"), &discover),
        datagram(at("0.0.0.0:68"), at("255.255.255.255:67"), &request),
        datagram(
            at("[fe80::64]:546"),
            at("[ff02::1:2]:547"),
            &[11, 1, 2, 3, 0, 1, 0, 2, 9, 9, 0, 6, 0, 2, 0, 23],
        ),
        message(v6, addr("ff02::1:ff00:2"), 255, &ns),
        message(
            addr("fe80::64"),
            addr("ff02::2"),
            255,
            &[133, 0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 0, 0, 0, 0, 0x64],
        ),
        message(v4, addr("10.0.2.2"), 64, &too_big),
        message(v4, addr("192.0.2.9"), 64, &closed),
        message(v4, addr("10.0.2.2"), 64, &[8, 0, 0, 0, 0, 1, 0, 1, 7, 7, 7]),
        message(v4, server, 64, &[8, 0, 0, 0, 0, 1, 0, 1, 7, 7, 7]),
        message(v6, server6, 64, &[128, 0, 0, 0, 0, 1, 0, 1, 7, 7, 7]),
        datagram(at("10.0.2.100:4000"), at("198.51.100.2:53"), b"0123456789"),
        datagram(at("10.0.2.100:4000"), at("198.51.100.2:9"), b"9876543210"),
        datagram(at("10.0.2.100:80"), at("192.0.2.9:5000"), b"answer"),
        datagram(at("10.0.2.100:4000"), at("10.0.2.3:53"), b"query"),
        datagram(at("[fd00::100]:4000"), at("[fd00::3]:53"), b"query"),
        datagram(at("[fd00::100]:4000"), at("[2001:db8::1]:9"), &[7; 300]),
        packet(v4, server, 132, 64, &[1; 40]),
        packet(v6, server6, 60, 64, &[17, 0, 1, 4, 0, 0, 0, 0, 0, 9, 0, 9, 0, 9, 0, 0, 1]),
        fragment(v4, server, 17, (1, 0, true), &[5; 24]),
        fragment(v4, server, 17, (1, 24, false), &[5; 24]),
        fragment(v4, server, 17, (1, 16, true), &[5; 16]),
        fragment(v6, server6, 17, (1, 0, true), &[5; 48]),
        fragment(v6, server6, 17, (1, 48, false), &[5; 8]),
    ]
}
