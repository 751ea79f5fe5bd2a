//! Small packets that the stack builds whole, checksums and all: ICMP errors, NDP, DHCP. And how names are written.

use super::Cx;
use super::action::Action;
use crate::config::Network;
use crate::wire::ip::IpOut;
use crate::wire::{ETH_LEN, Mac, Udp, checksum, ip, proto, udp};
use std::net::{IpAddr, SocketAddr};

/// An IP packet, no Ethernet header.
pub fn packet(out: &IpOut, body: &[u8]) -> Vec<u8> {
    let head = ip::head([0; 6], [0; 6], out, body.len());
    [head.get(ETH_LEN..).unwrap_or_default(), body].concat()
}

/// A frame with an ICMP or ICMPv6 message, whose checksum is filled in here.
pub fn icmp_frame(
    src_mac: Mac,
    dst_mac: Mac,
    src: IpAddr,
    dst: IpAddr,
    ttl: u8,
    mut message: Vec<u8>,
) -> Vec<u8> {
    let protocol = if dst.is_ipv6() { proto::ICMPV6 } else { proto::ICMP };
    // ICMPv6 counts the pseudo-header in (RFC 4443 section 2.3), ICMP does not.
    let mut sum = match protocol {
        proto::ICMPV6 => checksum::pseudo(src, dst, protocol, message.len()),
        _ => checksum::Sum::new(),
    };
    sum.add(&message);
    if let Some(field) = message.get_mut(2..4) {
        field.copy_from_slice(&sum.finish().to_be_bytes());
    }
    let out = IpOut { src, dst, protocol, ttl, tos: 0, id: 0, dont_fragment: true };
    [&ip::head(src_mac, dst_mac, &out, message.len())[..], &message[..]].concat()
}

/// Sends an ICMP message to the guest from the router of its family.
pub fn icmp(cx: &mut Cx<'_>, src: IpAddr, dst: IpAddr, ttl: u8, message: Vec<u8>) {
    if let Some(mac) = cx.neighbour(dst) {
        let own = cx.link.router_mac(dst.is_ipv6());
        cx.act(Action::EmitBytes(icmp_frame(own, mac, src, dst, ttl, message)));
    }
}

/// A frame with a UDP datagram, checksum complete.
pub fn udp_frame(src_mac: Mac, dst_mac: Mac, from: SocketAddr, to: SocketAddr, body: &[u8]) -> Vec<u8> {
    let out = IpOut {
        src: from.ip(),
        dst: to.ip(),
        protocol: proto::UDP,
        ttl: 64,
        tos: 0,
        id: 0,
        dont_fragment: true,
    };
    let ports = Udp { src_port: from.port(), dst_port: to.port() };
    let (head, csum) = udp::head(src_mac, dst_mac, &out, &ports, body.len());
    let mut frame = [&head[..], body].concat();
    let start = usize::from(csum.start);
    // The field already holds the pseudo-header's sum. A sum of zero is sent as all ones (RFC 768).
    let sum = match checksum::checksum(&frame[start..]) {
        0 => 0xffff,
        sum => sum,
    };
    let field = start + usize::from(csum.offset);
    frame[field..field + 2].copy_from_slice(&u16::to_be_bytes(sum));
    frame
}

/// The first names of a search list that fit into `max` bytes as written in DNS messages.
pub fn bounded(search: &[String], max: usize) -> impl Iterator<Item = &String> {
    search.iter().scan(max, |room, name| {
        *room = room.checked_sub(name.len() + 2)?;
        Some(name)
    })
}

/// Names as DNS writes them (RFC 1035 section 3.1), uncompressed, at most `max` bytes. A name that DNS cannot hold is
/// passed over.
pub fn names(search: &[String], max: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for name in bounded(search, max) {
        let labels: Vec<&str> = name.trim_end_matches('.').split('.').collect();
        if name.len() > 253 || labels.iter().any(|l| l.is_empty() || l.len() > 63) {
            continue;
        }
        for label in labels {
            out.push(label.len() as u8);
            out.extend_from_slice(label.as_bytes());
        }
        out.push(0);
    }
    out
}

/// True for the addresses that we are ourselves, of either family.
pub fn ours(net: &Network, addr: IpAddr) -> bool {
    match addr {
        IpAddr::V4(a) => super::arp::ours(net, a),
        IpAddr::V6(a) => super::ndp::ours(net, a),
    }
}
