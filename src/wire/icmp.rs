//! ICMP and ICMPv6 messages (RFC 792, RFC 4443): echoes, errors, and the packets that errors quote.
//!
//! Theory of operation. The two protocols differ in type numbers, in the pseudo-header that only ICMPv6 sums,
//! and in how much an error may quote; everything else is one code. An echo's payload is never seen here, so
//! [`echo_head`] leaves the checksum partial, as the TCP and UDP builders do. Errors and neighbour discovery are
//! small and rare: [`frame`] builds them whole.
//!
//! What an error from the guest quotes is a packet *towards* the guest, cut short somewhere: [`quoted`] reads
//! as much as it needs and believes no length in it.

use super::ip::{self, IpOut};
use super::{Csum, Fragment, Head, Mac, checksum, ext, field, proto};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// Bytes of the header of an echo and of an error.
pub const HEADER_LEN: usize = 8;
/// The longest IPv4 error, bytes of L3 (RFC 1812 section 4.3.2.3).
pub const MAX_ERROR_V4: usize = 576;
/// The longest IPv6 error, bytes of L3 (RFC 4443 section 2.4 (c)).
pub const MAX_ERROR_V6: usize = 1280;

/// Hop limit of the errors we send.
const TTL: u8 = 64;
/// Type of service of IPv4 errors: internetwork control (RFC 1812 section 4.3.2.5).
const TOS_V4: u8 = 0xc0;

/// An echo request or reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Echo {
    /// A reply, otherwise a request.
    pub reply: bool,
    /// Identifier.
    pub id: u16,
    /// Sequence number.
    pub seq: u16,
}

impl Echo {
    /// The eight bytes of the header, its checksum zero.
    pub fn header(&self, v6: bool) -> [u8; HEADER_LEN] {
        let icmp_type = match (v6, self.reply) {
            (false, false) => 8,
            (false, true) => 0,
            (true, false) => 128,
            (true, true) => 129,
        };
        let ([i0, i1], [q0, q1]) = (self.id.to_be_bytes(), self.seq.to_be_bytes());
        [icmp_type, 0, 0, 0, i0, i1, q0, q1]
    }
}

/// The header of an error, without its checksum: what is wrong, in the numbers of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ErrorHead {
    /// Type, of the family it is sent in.
    pub icmp_type: u8,
    /// Code.
    pub code: u8,
    /// The four bytes after the checksum: an MTU, a pointer, or zero.
    pub info: u32,
}

impl ErrorHead {
    /// True for "too big" (IPv4: "fragmentation needed"), the error that lowers the MTU of a path.
    pub const fn is_too_big(&self, v6: bool) -> bool {
        if v6 { self.icmp_type == 2 } else { self.icmp_type == 3 && self.code == 4 }
    }
}

impl ErrorHead {
    /// True for "port unreachable".
    pub const fn is_port_unreachable(&self, v6: bool) -> bool {
        if v6 { self.icmp_type == 1 && self.code == 4 } else { self.icmp_type == 3 && self.code == 3 }
    }
}

/// An error and the packet it is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted {
    /// What the error says.
    pub head: ErrorHead,
    /// MTU of the link that the packet was too long for, bytes of L3. `None` for other errors, and where the
    /// router does not tell it.
    pub mtu: Option<u16>,
    /// Protocol of the quoted packet.
    pub protocol: u8,
    /// Its source: for an error from the guest, the remote end. The port is 0 where the protocol has none.
    pub src: SocketAddr,
    /// Its destination.
    pub dst: SocketAddr,
    /// Its sequence number, for TCP: an error about a number never sent is forged (RFC 5927 section 4.1).
    pub seq: Option<u32>,
}

/// True when a message of this type is an error, about which no error may be sent.
pub const fn is_error(v6: bool, icmp_type: u8) -> bool {
    if v6 { icmp_type < 128 } else { matches!(icmp_type, 3 | 4 | 5 | 11 | 12) }
}

/// Reads an echo. `message` starts with the ICMP header; its payload is what follows the first [`HEADER_LEN`]
/// bytes.
pub fn echo(message: &[u8], v6: bool) -> Option<Echo> {
    let reply = match (v6, *message.first()?, *message.get(1)?) {
        (false, 8, 0) | (true, 128, 0) => false,
        (false, 0, 0) | (true, 129, 0) => true,
        _ => return None,
    };
    Some(Echo { reply, id: field::be16(message, 4)?, seq: field::be16(message, 6)? })
}

/// Ethernet, IP and echo headers in front of `payload_len` bytes, with the checksum left partial.
/// `ip.protocol` is not looked at. The checksum field of an ICMPv4 message starts from zero, for there is no
/// pseudo-header.
pub fn echo_head(src_mac: Mac, dst_mac: Mac, ip: &IpOut, echo: &Echo, payload_len: usize) -> (Head, Csum) {
    let v6 = ip.dst.is_ipv6();
    let len = HEADER_LEN + payload_len;
    let mut head = Head::new();
    ip::put(&mut head, src_mac, dst_mac, &IpOut { protocol: protocol(v6), ..*ip }, len);
    let start = head.len() as u16;
    let mut header = echo.header(v6);
    field::put16(&mut header, 2, seed(ip.src, ip.dst, len).folded());
    ip::extend(&mut head, &header);
    (head, Csum { start, offset: 2 })
}

/// The sum before the message itself: the pseudo-header, for IPv6.
fn seed(src: IpAddr, dst: IpAddr, len: usize) -> checksum::Sum {
    match dst {
        IpAddr::V4(_) => checksum::Sum::new(),
        IpAddr::V6(_) => checksum::pseudo(src, dst, proto::ICMPV6, len),
    }
}

/// A whole frame with an error about `offending`, which starts with its IP header. As much of it is quoted as
/// an error of the family may hold: [`MAX_ERROR_V4`] or [`MAX_ERROR_V6`].
pub fn error(
    src_mac: Mac,
    dst_mac: Mac,
    (src, dst): (IpAddr, IpAddr),
    what: ErrorHead,
    offending: &[u8],
) -> Vec<u8> {
    let (room, tos) = if dst.is_ipv6() { (MAX_ERROR_V6 - 40, 0) } else { (MAX_ERROR_V4 - 20, TOS_V4) };
    let ip = IpOut { src, dst, protocol: 0, ttl: TTL, tos, id: 0, dont_fragment: true };
    let quote = &offending[..offending.len().min(room - HEADER_LEN)];
    let mut message = Vec::with_capacity(HEADER_LEN + quote.len());
    message.extend_from_slice(&[what.icmp_type, what.code, 0, 0]);
    message.extend_from_slice(&what.info.to_be_bytes());
    message.extend_from_slice(quote);
    frame(src_mac, dst_mac, &ip, message)
}

/// A whole frame with the message `message`, whose checksum field is filled in here. `ip.protocol` is not looked
/// at.
pub fn frame(src_mac: Mac, dst_mac: Mac, ip: &IpOut, mut message: Vec<u8>) -> Vec<u8> {
    field::put16(&mut message, 2, 0);
    let mut sum = seed(ip.src, ip.dst, message.len());
    sum.add(&message);
    field::put16(&mut message, 2, sum.finish());
    let ip = IpOut { protocol: protocol(ip.dst.is_ipv6()), ..*ip };
    [&ip::head(src_mac, dst_mac, &ip, message.len())[..], &message].concat()
}

/// The protocol number of a family's messages.
pub const fn protocol(v6: bool) -> u8 {
    if v6 { proto::ICMPV6 } else { proto::ICMP }
}

/// Reads an error and what it quotes. `message` starts with the ICMP header. `None` for what is no error, or
/// quotes too little to tell which packet is meant: of a fragmented packet, only the first part does.
pub fn quoted(message: &[u8], v6: bool) -> Option<Quoted> {
    let &[icmp_type, code, ..] = message.first_chunk::<HEADER_LEN>()?;
    if !is_error(v6, icmp_type) {
        return None;
    }
    let head = ErrorHead { icmp_type, code, info: field::be32(message, 4)? };
    let mtu = match v6 {
        _ if !head.is_too_big(v6) => None,
        false => Some(head.info as u16),
        true => Some(u16::try_from(head.info).unwrap_or(u16::MAX)),
    };
    let packet = &message[HEADER_LEN..];
    let (src, dst, protocol, at) = if v6 { ends_v6(packet)? } else { ends_v4(packet)? };
    let (ports, seq) = match protocol {
        proto::TCP => ((field::be16(packet, at)?, field::be16(packet, at + 2)?), field::be32(packet, at + 4)),
        proto::UDP => ((field::be16(packet, at)?, field::be16(packet, at + 2)?), None),
        _ => ((0, 0), None),
    };
    Some(Quoted {
        head,
        mtu: mtu.filter(|mtu| *mtu != 0),
        protocol,
        src: SocketAddr::new(src, ports.0),
        dst: SocketAddr::new(dst, ports.1),
        seq,
    })
}

/// Source, destination, protocol and length of the headers of a quoted packet.
type Ends = (IpAddr, IpAddr, u8, usize);

fn ends_v4(packet: &[u8]) -> Option<Ends> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let header_len = usize::from(header[0] & 15) * 4;
    let later_part = field::be16(header, 6)? & 0x1fff != 0;
    if header[0] >> 4 != 4 || header_len < 20 || later_part {
        return None;
    }
    let address = |at| field::be32(header, at).map(|a| IpAddr::from(Ipv4Addr::from(a)));
    Some((address(12)?, address(16)?, header[9], header_len))
}

fn ends_v6(packet: &[u8]) -> Option<Ends> {
    let header: &[u8; 40] = packet.first_chunk()?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let walked = ext::walk(packet).ok()?;
    if let Some(Fragment { offset: 1.., .. }) = walked.fragment {
        return None;
    }
    let address = |at| {
        let octets: [u8; 16] = *header.get(at..)?.first_chunk()?;
        Some(IpAddr::from(octets))
    };
    Some((address(8)?, address(24)?, walked.protocol, walked.at))
}

#[cfg(test)]
mod tests;
