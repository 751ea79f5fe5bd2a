//! From the bytes of one frame to checked values.
//!
//! Theory of operation. Ethernet II, then ARP, IPv4 or IPv6, then TCP, UDP or ICMP. A frame may be longer
//! than its packet (Ethernet padding); a packet is never longer than its frame, a transport header never
//! longer than its packet. Everything is bounded by the innermost length read so far. No byte of payload is
//! looked at: transport checksums are [`super::checksum::verify_transport`]'s, for the frames that need it.
//!
//! Limits: no VLAN tags, no IEEE 802.3 length frames, no jumbograms, no source routes:
//! [`ParseError::Unsupported`].

use super::{ETH_LEN, Fragment, Gso, Ip, Mac, Tcp, Udp, checksum, ext, options, proto, tcp};
use etherparse::{Ipv4HeaderSlice, Ipv6HeaderSlice, TcpHeaderSlice, UdpHeaderSlice};
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
    /// ICMP or ICMPv6, header included: at least eight bytes.
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
    parse_gso(bytes, Gso::None)
}

/// [`parse`] for a frame that came with segmentation left to do. Linux writes the length of the whole
/// super-datagram into the UDP header of such a frame (`udp_send_skb`, `udp_gro_complete`); a sender that
/// writes the length of the first datagram instead is understood too.
pub fn parse_gso(bytes: &[u8], gso: Gso) -> Result<Frame, ParseError> {
    let (header, _) = bytes.split_first_chunk::<ETH_LEN>().ok_or(ParseError::Malformed)?;
    let [d0, d1, d2, d3, d4, d5, s0, s1, s2, s3, s4, s5, t0, t1] = *header;
    let net = match u16::from_be_bytes([t0, t1]) {
        proto::ETHER_IPV4 => ipv4(bytes, gso)?,
        proto::ETHER_IPV6 => ipv6(bytes, gso)?,
        proto::ETHER_ARP => arp(bytes)?,
        _ => return Err(ParseError::Unsupported),
    };
    Ok(Frame { src_mac: [s0, s1, s2, s3, s4, s5], dst_mac: [d0, d1, d2, d3, d4, d5], net })
}

/// ARP for IPv4 over Ethernet (RFC 826): 28 bytes whose four type and length fields are fixed.
fn arp(bytes: &[u8]) -> Result<Net, ParseError> {
    let message = bytes.get(ETH_LEN..ETH_LEN + 28).ok_or(ParseError::Malformed)?;
    if !message.starts_with(&[0, 1, 8, 0, 6, 4]) {
        return Err(ParseError::Unsupported);
    }
    Ok(Net::Arp(ETH_LEN..ETH_LEN + 28))
}

/// IPv4 (RFC 791).
fn ipv4(bytes: &[u8], gso: Gso) -> Result<Net, ParseError> {
    let packet = &bytes[ETH_LEN..];
    let header = Ipv4HeaderSlice::from_slice(packet).map_err(|_| ParseError::Malformed)?;
    let header_len = header.slice().len();
    let total = usize::from(header.total_len());
    if total < header_len || total > packet.len() {
        return Err(ParseError::Malformed);
    }
    if checksum::checksum(header.slice()) != 0 {
        return Err(ParseError::BadChecksum);
    }
    if header_len > 20 {
        ipv4_options(header.options())?;
    }
    let offset = header.fragments_offset().value() * 8;
    let payload_len = total - header_len;
    let fragment = if offset != 0 || header.more_fragments() {
        let fragment =
            Fragment { id: u32::from(header.identification()), offset, more: header.more_fragments() };
        ext::check_fragment(fragment, payload_len)?;
        Some(fragment)
    } else {
        None
    };
    let ip = Ip {
        src: header.source_addr().into(),
        dst: header.destination_addr().into(),
        protocol: header.protocol().0,
        ttl: header.ttl(),
        tos: header.slice()[1],
        dont_fragment: header.dont_fragment(),
        fragment,
        header_at: ETH_LEN as u16,
        payload_at: (ETH_LEN + header_len) as u16,
        payload_len: payload_len as u16,
    };
    let payload = transport(bytes, &ip, gso)?;
    Ok(Net::Ip(ip, payload))
}

/// Walks IPv4 options: they must fit, and must not ask for a route of the sender's choice.
fn ipv4_options(mut options: &[u8]) -> Result<(), ParseError> {
    const END: u8 = 0;
    const NOP: u8 = 1;
    const LOOSE_ROUTE: u8 = 131;
    const STRICT_ROUTE: u8 = 137;
    while let [kind, rest @ ..] = options {
        options = match *kind {
            END => return Ok(()),
            NOP => rest,
            LOOSE_ROUTE | STRICT_ROUTE => return Err(ParseError::Unsupported),
            _ => match rest.first() {
                Some(&len) if len >= 2 => options.get(usize::from(len)..).ok_or(ParseError::Malformed)?,
                _ => return Err(ParseError::Malformed),
            },
        };
    }
    Ok(())
}

/// IPv6 (RFC 8200).
fn ipv6(bytes: &[u8], gso: Gso) -> Result<Net, ParseError> {
    let packet = &bytes[ETH_LEN..];
    let header = Ipv6HeaderSlice::from_slice(packet).map_err(|_| ParseError::Malformed)?;
    let len = usize::from(header.payload_length());
    if len == 0 && header.next_header().0 == proto::HOP_BY_HOP {
        // A jumbogram (RFC 2675).
        return Err(ParseError::Unsupported);
    }
    let packet = packet.get(..40 + len).ok_or(ParseError::Malformed)?;
    let walked = ext::walk(packet)?;
    let ip = Ip {
        src: header.source_addr().into(),
        dst: header.destination_addr().into(),
        protocol: walked.protocol,
        ttl: header.hop_limit(),
        tos: header.traffic_class(),
        dont_fragment: true,
        fragment: walked.fragment,
        header_at: ETH_LEN as u16,
        payload_at: (ETH_LEN + walked.at) as u16,
        payload_len: (packet.len() - walked.at) as u16,
    };
    let payload = transport(bytes, &ip, gso)?;
    Ok(Net::Ip(ip, payload))
}

/// The transport header of a whole packet.
fn transport(bytes: &[u8], ip: &Ip, gso: Gso) -> Result<Payload, ParseError> {
    let start = usize::from(ip.payload_at);
    let range = start..start + usize::from(ip.payload_len);
    if ip.fragment.is_some() {
        return Ok(Payload::Fragment(range));
    }
    let segment = bytes.get(range.clone()).ok_or(ParseError::Malformed)?;
    let v4 = ip.src.is_ipv4();
    match ip.protocol {
        proto::TCP => {
            let header = TcpHeaderSlice::from_slice(segment).map_err(|_| ParseError::Malformed)?;
            let tcp = tcp_header(&header);
            Ok(Payload::Tcp(tcp, start + header.slice().len()..range.end))
        }
        proto::UDP => {
            let header = UdpHeaderSlice::from_slice(segment).map_err(|_| ParseError::Malformed)?;
            let mut len = usize::from(header.length());
            if let Gso::Udp { size } = gso
                && len == 8 + usize::from(size)
            {
                len = segment.len();
            }
            if len < 8 || len > segment.len() {
                return Err(ParseError::Malformed);
            }
            let udp = Udp { src_port: header.source_port(), dst_port: header.destination_port() };
            Ok(Payload::Udp(udp, start + 8..start + len))
        }
        proto::ICMP if v4 => icmp(segment, range),
        proto::ICMPV6 if !v4 => icmp(segment, range),
        _ => Ok(Payload::Other(range)),
    }
}

fn icmp(segment: &[u8], range: Range<usize>) -> Result<Payload, ParseError> {
    if segment.len() < 8 { Err(ParseError::Malformed) } else { Ok(Payload::Icmp(range)) }
}

fn tcp_header(header: &TcpHeaderSlice<'_>) -> Tcp {
    let flags = tcp::Flags(header.slice()[13]);
    Tcp {
        src_port: header.source_port(),
        dst_port: header.destination_port(),
        seq: header.sequence_number(),
        ack: header.acknowledgment_number(),
        flags,
        window: header.window_size(),
        urgent: header.urgent_pointer(),
        options: options::read(header.options(), flags.has(tcp::Flags::SYN)),
    }
}

#[cfg(test)]
mod tests;
