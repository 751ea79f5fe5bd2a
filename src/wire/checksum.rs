//! The Internet checksum (RFC 1071), and the transport checksums built from it.
//!
//! Theory of operation. A one's complement sum of 16-bit words does not care about byte order or about how the
//! words are grouped, so [`Sum`] adds native 32-bit words into 64 bits (the compiler turns that into vector
//! code) and swaps once at the end. Bytes may come in several slices, of odd length too: a slice that starts at
//! an odd position has its sum swapped. The sum holds 2^32 words before it could overflow, far more than a
//! packet has.
//!
//! Two results exist. [`Sum::folded`] is the plain sum, which is what a partial checksum field holds for
//! `VIRTIO_NET_HDR_F_NEEDS_CSUM`; [`Sum::finish`] is its complement, which is what travels on the wire.

use super::parse::{Frame, Net, Payload};
use super::{field, proto};
use std::net::IpAddr;

/// A one's complement sum in the making.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sum {
    /// Native-endian words so far.
    words: u64,
    /// An odd number of bytes has been added.
    odd: bool,
}

impl Sum {
    /// The sum of nothing.
    pub const fn new() -> Self {
        Self { words: 0, odd: false }
    }

    /// Appends bytes to what is summed.
    pub fn add(&mut self, bytes: &[u8]) {
        let part = native(bytes);
        self.words += u64::from(if self.odd { part.swap_bytes() } else { part });
        self.odd ^= bytes.len() % 2 == 1;
    }

    /// Appends a 16-bit number in network order. Only after an even number of bytes.
    pub fn add_u16(&mut self, value: u16) {
        debug_assert!(!self.odd, "a number added in the middle of a word");
        self.words += u64::from(value.to_be());
    }

    /// Appends a 32-bit number in network order. Only after an even number of bytes.
    pub fn add_u32(&mut self, value: u32) {
        debug_assert!(!self.odd, "a number added in the middle of a word");
        self.words += u64::from(value.to_be());
    }

    /// The sum, folded to 16 bits and not complemented: the content of a partial checksum field.
    pub fn folded(self) -> u16 {
        u16::from_be(fold(self.words))
    }

    /// The checksum: the complement of the sum. A receiver that sums the data with it gets 0xffff.
    pub fn finish(self) -> u16 {
        !self.folded()
    }
}

/// Sums native 16-bit words, the last byte padded with zero. Wrapping additions that cannot wrap: without their
/// overflow checks the loop becomes vector code in every profile.
fn native(bytes: &[u8]) -> u16 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut sum = 0u64;
    for word in words {
        let word = u64::from_ne_bytes(*word);
        sum = sum.wrapping_add((word & 0xffff_ffff).wrapping_add(word >> 32));
    }
    let (pairs, last) = rest.as_chunks::<2>();
    for pair in pairs {
        sum = sum.wrapping_add(u64::from(u16::from_ne_bytes(*pair)));
    }
    if let [last] = last {
        sum = sum.wrapping_add(u64::from(u16::from_ne_bytes([*last, 0])));
    }
    fold(sum)
}

/// Adds the carries back in until 16 bits are left.
fn fold(mut sum: u64) -> u16 {
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 32) + (sum & 0xffff_ffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum = (sum >> 16) + (sum & 0xffff);
    sum as u16
}

/// The checksum of some bytes.
pub fn checksum(bytes: &[u8]) -> u16 {
    let mut sum = Sum::new();
    sum.add(bytes);
    sum.finish()
}

/// The pseudo-header in front of a transport header (RFC 9293 section 3.1, RFC 8200 section 8.1). `len`
/// counts the transport header and its payload.
pub fn pseudo(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Sum {
    let mut sum = pseudo_of(&[], protocol, len);
    for addr in [src, dst] {
        match addr {
            IpAddr::V4(a) => sum.add(&a.octets()),
            IpAddr::V6(a) => sum.add(&a.octets()),
        }
    }
    sum
}

/// [`pseudo`] for source and destination as they stand in a header.
pub(super) fn pseudo_of(addresses: &[u8], protocol: u8, len: usize) -> Sum {
    let mut sum = Sum::new();
    sum.add(addresses);
    sum.add_u16(u16::from(protocol));
    sum.add_u32(len as u32);
    sum
}

/// Whether the transport checksum of a frame that came without `NEEDS_CSUM` is right. `bytes` are those that
/// `frame` was parsed from; ranges that do not fit them count as wrong.
///
/// A UDP checksum of zero means "none" in IPv4 and is wrong in IPv6 (RFC 768, RFC 8200 section 8.1). ICMPv4
/// has no pseudo-header. What has no checksum we could know (ARP, fragments, other protocols) is true.
pub fn verify_transport(bytes: &[u8], frame: &Frame) -> bool {
    let Net::Ip(ip, payload) = &frame.net else { return true };
    let start = usize::from(ip.payload_at);
    let end = match payload {
        Payload::Tcp(_, data) | Payload::Icmp(data) => data.end,
        Payload::Udp(_, data) => {
            if field::be16(bytes, start + 6) == Some(0) {
                return ip.src.is_ipv4();
            }
            data.end
        }
        Payload::Fragment(_) | Payload::Other(_) => return true,
    };
    let Some(segment) = bytes.get(start..end) else { return false };
    let mut sum = if ip.src.is_ipv4() && ip.protocol == proto::ICMP {
        Sum::new()
    } else {
        pseudo(ip.src, ip.dst, ip.protocol, segment.len())
    };
    sum.add(segment);
    sum.finish() == 0
}

/// Whether a frame that came without `NEEDS_CSUM` may be believed: [`verify_transport`] for what can be
/// parsed. What cannot is true here, for [`super::parse`] names the reason.
pub fn frame_is_sound(bytes: &[u8]) -> bool {
    super::parse(bytes).map_or(true, |frame| verify_transport(bytes, &frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use etherparse::checksum::Sum16BitWords;
    use proptest::prelude::*;

    #[test]
    fn rfc_1071_example() {
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        let mut sum = Sum::new();
        sum.add(&bytes);
        assert_eq!(sum.folded(), 0xddf2);
        assert_eq!(checksum(&bytes), 0x220d);
    }

    #[test]
    fn nothing_and_all_ones() {
        assert_eq!(checksum(&[]), 0xffff);
        assert_eq!(checksum(&[0xff; 65_535]), checksum(&[0xff, 0]));
        assert_eq!(checksum(&[0xff; 64]), 0);
    }

    proptest! {
        #[test]
        fn agrees_with_etherparse(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let other = Sum16BitWords::new().add_slice(&bytes).ones_complement().to_be();
            prop_assert_eq!(checksum(&bytes), other);
        }

        #[test]
        fn slices_chain_at_any_position(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
            cuts in proptest::collection::vec(0usize..300, 0..6),
        ) {
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(bytes.len())).collect();
            cuts.sort_unstable();
            cuts.push(bytes.len());
            let mut sum = Sum::new();
            let mut from = 0;
            for cut in cuts {
                sum.add(&bytes[from..cut]);
                from = cut;
            }
            prop_assert_eq!(sum.finish(), checksum(&bytes));
        }
    }
}
