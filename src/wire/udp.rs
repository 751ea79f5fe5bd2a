//! UDP headers (RFC 768), and whole datagrams where they are small and ours.

use super::chain::Chain;
use super::ip::{self, IpOut};
use super::{Csum, Head, Mac, checksum, proto};
use etherparse::UdpHeader;
use std::net::SocketAddr;

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

/// Ethernet, IP and UDP headers in front of `payload_len` bytes, with the checksum left partial.
///
/// Length field and pseudo-header sum are those of the whole super-datagram, as `udp_send_skb` writes them;
/// `__udp_gso_segment` replaces both by those of each datagram. Headers and payload together stay within
/// [`super::ip::MAX_L3`]. `ip.protocol` is not looked at.
pub fn head(src_mac: Mac, dst_mac: Mac, ip: &IpOut, udp: &Udp, payload_len: usize) -> (Head, Csum) {
    let len = UdpHeader::LEN + payload_len;
    let mut head = Head::new();
    ip::put(&mut head, src_mac, dst_mac, &IpOut { protocol: proto::UDP, ..*ip }, len);
    let start = head.len() as u16;
    let header = UdpHeader {
        source_port: udp.src_port,
        destination_port: udp.dst_port,
        length: len.min(ip::MAX_L3) as u16,
        checksum: checksum::pseudo(ip.src, ip.dst, proto::UDP, len).folded(),
    };
    ip::extend(&mut head, &header.to_bytes());
    (head, Csum { start, offset: 6 })
}

/// A whole frame with one datagram, checksum complete, never to be fragmented. `body` and headers stay within
/// [`super::ip::MAX_L3`].
pub fn frame(src_mac: Mac, dst_mac: Mac, from: SocketAddr, to: SocketAddr, body: &[u8]) -> Vec<u8> {
    let ip = IpOut {
        src: from.ip(),
        dst: to.ip(),
        protocol: proto::UDP,
        ttl: 64,
        tos: 0,
        id: 0,
        dont_fragment: true,
    };
    let ports = Udp { src_port: from.port(), dst_port: to.port() };
    let (head, csum) = head(src_mac, dst_mac, &ip, &ports, body.len());
    let mut frame = [&head[..], body].concat();
    let done = Chain::read(&frame).and_then(|chain| chain.complete(&mut frame, csum));
    debug_assert!(done.is_some(), "a chain of our own");
    frame
}
