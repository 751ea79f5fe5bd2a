//! IPv4 and IPv6 headers as one representation: the stack treats both as equals.

use super::{Head, Mac};
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

/// Ethernet and IP headers in front of `payload_len` bytes (transport header included).
pub fn head(src_mac: Mac, dst_mac: Mac, ip: &IpOut, payload_len: usize) -> Head {
    let _ = (src_mac, dst_mac, ip, payload_len);
    Head::new()
}
