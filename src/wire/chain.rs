//! The header chain of a frame that this module built itself, seen again as bytes: where its fields are, and
//! how they change when the packet is cut.
//!
//! Only chains of [`super::ip::head`] are read here: Ethernet without tag, IPv4 without options or IPv6
//! without extension headers. Others are not recognised, which is an error for the caller and never a wrong
//! packet.

use super::checksum::{self, Sum};
use super::{Csum, ETH_LEN, field, ip, proto};

/// What a header chain looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chain {
    /// IPv6, otherwise IPv4.
    pub v6: bool,
    /// Protocol of the payload of L3.
    pub protocol: u8,
    /// Offset of the transport header.
    pub l4: usize,
}

impl Chain {
    /// Recognises the start of a frame.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let version = *frame.get(ETH_LEN)?;
        match field::be16(frame, 12)? {
            proto::ETHER_IPV4 if version == 0x45 && frame.len() >= ETH_LEN + 20 => {
                Some(Self { v6: false, protocol: frame[ETH_LEN + 9], l4: ETH_LEN + 20 })
            }
            proto::ETHER_IPV6 if version >> 4 == 6 && frame.len() >= ETH_LEN + 40 => {
                Some(Self { v6: true, protocol: frame[ETH_LEN + 6], l4: ETH_LEN + 40 })
            }
            _ => None,
        }
    }

    /// Bytes of L3 that the length field states.
    pub fn l3_len(&self, frame: &[u8]) -> usize {
        let (at, more) = if self.v6 { (ETH_LEN + 4, 40) } else { (ETH_LEN + 2, 0) };
        field::be16(frame, at).map_or(0, usize::from) + more
    }

    /// States `len` bytes of L3. The IPv4 header checksum is left to [`Self::seal`].
    pub fn set_l3_len(&self, frame: &mut [u8], len: usize) {
        let (at, len) = if self.v6 { (ETH_LEN + 4, len.saturating_sub(40)) } else { (ETH_LEN + 2, len) };
        field::put16(frame, at, len.min(ip::MAX_L3) as u16);
    }

    /// The IPv4 DF bit; IPv6 packets of ours may be fragmented, for we are their source.
    pub fn dont_fragment(&self, frame: &[u8]) -> bool {
        !self.v6 && frame[ETH_LEN + 6] & 0x40 != 0
    }

    /// Completes the IPv4 header checksum.
    pub fn seal(&self, frame: &mut [u8]) {
        if !self.v6 {
            field::put16(frame, ETH_LEN + 10, 0);
            let sum = checksum::checksum(&frame[ETH_LEN..self.l4]);
            field::put16(frame, ETH_LEN + 10, sum);
        }
    }

    /// The pseudo-header for a transport header and payload of `len` bytes.
    pub fn pseudo(&self, frame: &[u8], len: usize) -> Sum {
        let from = if self.v6 { ETH_LEN + 8 } else { ETH_LEN + 12 };
        checksum::pseudo_of(&frame[from..self.l4], self.protocol, len)
    }

    /// Completes a partial transport checksum. `None` when `csum` points outside the frame.
    pub fn complete(&self, frame: &mut [u8], csum: Csum) -> Option<()> {
        let start = usize::from(csum.start);
        let at = start + usize::from(csum.offset);
        field::be16(frame, at)?;
        let mut sum = Sum::new();
        sum.add(frame.get(start..)?);
        let done = match sum.finish() {
            // Zero would say "no checksum" (RFC 768, RFC 8200 section 8.1).
            0 if self.protocol == proto::UDP => 0xffff,
            value => value,
        };
        field::put16(frame, at, done);
        Some(())
    }
}
