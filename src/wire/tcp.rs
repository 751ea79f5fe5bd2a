//! TCP headers (RFC 9293 section 3.1) with the options the stack speaks: MSS, window scale (RFC 7323), SACK
//! (RFC 2018).

use super::ip::{self, IpOut};
use super::{Csum, Head, Mac, checksum, options, proto};
use arrayvec::ArrayVec;
use etherparse::TcpHeader;

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
///
/// The checksum field holds the pseudo-header's sum over the *whole* super-frame's length, segmentation or
/// not: that is what Linux puts there itself (`__tcp_v4_send_check` on the unsegmented packet) and what
/// `tcp_gso_segment` adjusts for each segment by the difference between the whole length and the segment's.
///
/// Options are padded as Linux does. MSS, SACK-permitted and window scale are written on a SYN, SACK blocks
/// on anything else. Headers and payload together stay within [`super::ip::MAX_L3`]. `ip.protocol` is not
/// looked at.
pub fn head(src_mac: Mac, dst_mac: Mac, ip: &IpOut, tcp: &Tcp, payload_len: usize) -> (Head, Csum) {
    let options = options::write(&tcp.options, tcp.flags.has(Flags::SYN));
    let len = TcpHeader::MIN_LEN + options.len() + payload_len;
    let mut head = Head::new();
    ip::put(&mut head, src_mac, dst_mac, &IpOut { protocol: proto::TCP, ..*ip }, len);
    let start = head.len() as u16;
    let mut header = TcpHeader {
        source_port: tcp.src_port,
        destination_port: tcp.dst_port,
        sequence_number: tcp.seq,
        acknowledgment_number: tcp.ack,
        fin: tcp.flags.has(Flags::FIN),
        syn: tcp.flags.has(Flags::SYN),
        rst: tcp.flags.has(Flags::RST),
        psh: tcp.flags.has(Flags::PSH),
        ack: tcp.flags.has(Flags::ACK),
        urg: tcp.flags.has(Flags::URG),
        ece: tcp.flags.has(Flags::ECE),
        cwr: tcp.flags.has(Flags::CWR),
        window_size: tcp.window,
        checksum: checksum::pseudo(ip.src, ip.dst, proto::TCP, len).folded(),
        urgent_pointer: tcp.urgent,
        ..TcpHeader::default()
    };
    let fits = header.set_options_raw(&options).is_ok();
    debug_assert!(fits, "options of {} bytes", options.len());
    ip::extend(&mut head, &header.to_bytes());
    (head, Csum { start, offset: 16 })
}
