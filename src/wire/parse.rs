//! From the bytes of one frame to checked values.

use super::{Ip, Mac, Tcp, Udp};
use std::ops::Range;

/// Why a frame is not one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Too short, or lengths that contradict each other.
    #[error("malformed")]
    Malformed,
    /// Well-formed as far as read, but nothing the stack carries.
    #[error("unsupported")]
    Unsupported,
    /// The IPv4 header checksum is wrong.
    #[error("bad checksum")]
    BadChecksum,
}

/// What an IP packet carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// TCP; the range is its payload within the frame.
    Tcp(Tcp, Range<usize>),
    /// UDP; the range is its payload within the frame.
    Udp(Udp, Range<usize>),
    /// ICMP or ICMPv6, header included.
    Icmp(Range<usize>),
    /// A fragment, transport header unread.
    Fragment(Range<usize>),
    /// Another protocol: answered with protocol-unreachable.
    Other(Range<usize>),
}

/// One frame from the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Sender's MAC.
    pub src_mac: Mac,
    /// Receiver's MAC.
    pub dst_mac: Mac,
    /// What the frame carries.
    pub net: Net,
}

/// The network layer of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Net {
    /// ARP for IPv4 over Ethernet; the range is the 28 bytes of the message.
    Arp(Range<usize>),
    /// An IP packet.
    Ip(Ip, Payload),
}

/// Reads one Ethernet frame. Ranges are positions within `bytes` and never reach beyond it.
pub fn parse(bytes: &[u8]) -> Result<Frame, ParseError> {
    let _ = bytes;
    Err(ParseError::Unsupported)
}
