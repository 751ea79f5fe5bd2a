//! IPv4 and IPv6 headers as one representation: the stack treats both as equals.

use super::{ETH_LEN, Head, Mac};
use etherparse::{EtherType, Ethernet2Header, IpDscp, IpEcn, IpNumber, Ipv4Header, Ipv6Header};
use std::net::IpAddr;

/// A fragment's place in its packet (RFC 791, RFC 8200 section 4.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// Identification: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// Offset of this part in the packet's fragmentable payload, in bytes (a multiple of 8).
    pub offset: u16,
    /// More fragments follow.
    pub more: bool,
}

/// What an IP header says, of either version, extension headers already walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ip {
    /// Source.
    pub src: IpAddr,
    /// Destination, of the same family.
    pub dst: IpAddr,
    /// Protocol number of the payload (IANA), after extension headers.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class, whole byte.
    pub tos: u8,
    /// Don't fragment. Always true for IPv6.
    pub dont_fragment: bool,
    /// `None` for a whole packet.
    pub fragment: Option<Fragment>,
    /// Offset of the IP header from the start of the frame.
    pub header_at: u16,
    /// Offset of the payload from the start of the frame.
    pub payload_at: u16,
    /// Bytes of payload, as the header says; never beyond the frame.
    pub payload_len: u16,
}

/// The IP part of a packet to be built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpOut {
    /// Source.
    pub src: IpAddr,
    /// Destination, of the same family.
    pub dst: IpAddr,
    /// Protocol number of the payload.
    pub protocol: u8,
    /// Time to live or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// IPv4 identification, for packets that may be fragmented; 0 with `dont_fragment`.
    pub id: u16,
    /// Set DF (IPv4).
    pub dont_fragment: bool,
}

/// The largest value of the length fields: bytes of a whole IPv4 packet, and of what follows the fixed header of an
/// IPv6 packet. A tap takes no more than this in one frame: an IPv6 packet that is longer travels in fragments.
pub const MAX_L3: usize = 65_535;

/// Ethernet and IP headers in front of `payload_len` bytes (transport header included). The IPv4 header
/// checksum is complete.
///
/// A super-frame states its whole length, as Linux's own do. Callers keep within what [`MAX_L3`] allows; a longer
/// payload is a bug in the caller, and the length field then holds the largest value.
pub fn head(src_mac: Mac, dst_mac: Mac, ip: &IpOut, payload_len: usize) -> Head {
    let mut head = Head::new();
    put(&mut head, src_mac, dst_mac, ip, payload_len);
    head
}

/// A whole IP packet around `body`, without Ethernet.
pub fn packet(ip: &IpOut, body: &[u8]) -> Vec<u8> {
    let head = head([0; 6], [0; 6], ip, body.len());
    [head.get(ETH_LEN..).unwrap_or_default(), body].concat()
}

/// [`head`], appended to an empty `head` in place.
pub(super) fn put(head: &mut Head, src_mac: Mac, dst_mac: Mac, ip: &IpOut, payload_len: usize) {
    match (ip.src, ip.dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            ethernet(head, src_mac, dst_mac, EtherType::IPV4);
            debug_assert!(payload_len + Ipv4Header::MIN_LEN <= MAX_L3, "IPv4 payload of {payload_len} bytes");
            let mut header = Ipv4Header {
                dscp: IpDscp::try_new(ip.tos >> 2).unwrap_or_default(),
                ecn: IpEcn::try_new(ip.tos & 3).unwrap_or_default(),
                total_len: (payload_len + Ipv4Header::MIN_LEN).min(MAX_L3) as u16,
                identification: ip.id,
                dont_fragment: ip.dont_fragment,
                time_to_live: ip.ttl,
                protocol: IpNumber(ip.protocol),
                source: src.octets(),
                destination: dst.octets(),
                ..Ipv4Header::default()
            };
            header.header_checksum = header.calc_header_checksum();
            extend(head, &header.to_bytes());
        }
        (src, dst) => {
            debug_assert!(src.is_ipv6() && dst.is_ipv6(), "{src} and {dst} differ in family");
            // The length field does not count the header: packets of up to 40 bytes more exist, in fragments.
            debug_assert!(payload_len <= MAX_L3, "IPv6 payload of {payload_len} bytes");
            ethernet(head, src_mac, dst_mac, EtherType::IPV6);
            let header = Ipv6Header {
                traffic_class: ip.tos,
                payload_length: payload_len.min(MAX_L3) as u16,
                next_header: IpNumber(ip.protocol),
                hop_limit: ip.ttl,
                source: octets_v6(src),
                destination: octets_v6(dst),
                ..Ipv6Header::default()
            };
            extend(head, &header.to_bytes());
        }
    }
}

fn ethernet(head: &mut Head, source: Mac, destination: Mac, ether_type: EtherType) {
    extend(head, &Ethernet2Header { source, destination, ether_type }.to_bytes());
}

/// Appends header bytes. The longest chain (14 + 40 + 60 bytes) fits [`super::HEAD_MAX`]; nothing is cut.
pub(super) fn extend(head: &mut Head, bytes: &[u8]) {
    let fits = head.try_extend_from_slice(bytes).is_ok();
    debug_assert!(fits, "header chain longer than HEAD_MAX");
}

/// Addresses of unequal families do not meet in one packet; should they, the IPv4 one is written v4-mapped.
fn octets_v6(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}
