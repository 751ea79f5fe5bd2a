//! IPv6 extension headers (RFC 8200 section 4): the walk from the fixed header to the payload.
//!
//! Theory of operation. Hop-by-hop options (first place only), destination options and a routing header that
//! has nothing left to do are stepped over. The walk stops at the first header it does not know, which is
//! then the packet's protocol, or at a fragment header, behind which only the part with offset zero could be
//! read on. A fragment header with offset zero and nothing to follow is an *atomic fragment* and stands for a
//! whole packet (RFC 6946). At most [`MAX_DEPTH`] headers are walked: beyond that a packet is made to cost,
//! not to arrive.

use super::parse::ParseError;
use super::{Fragment, field, proto};

/// Extension headers walked before a packet is refused.
pub const MAX_DEPTH: usize = 8;

/// Where a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Walked {
    /// Protocol of what follows.
    pub protocol: u8,
    /// Offset of the byte that names this protocol, from the start of the bytes given.
    pub named_at: usize,
    /// Offset of what follows.
    pub at: usize,
    /// Set when what follows is a part of a packet.
    pub fragment: Option<Fragment>,
}

/// Walks the headers of an IPv6 packet. `bytes` starts at the fixed header (checked to be there) and ends
/// with the packet, without Ethernet padding.
pub(super) fn walk(bytes: &[u8]) -> Result<Walked, ParseError> {
    let mut here =
        Walked { protocol: *bytes.get(6).ok_or(ParseError::Malformed)?, named_at: 6, at: 40, fragment: None };
    for depth in 0..=MAX_DEPTH {
        let known = matches!(
            here.protocol,
            proto::HOP_BY_HOP | proto::ROUTING | proto::FRAGMENT | proto::DESTINATION
        );
        if !known {
            return Ok(here);
        }
        if depth == MAX_DEPTH {
            break;
        }
        let header: &[u8; 8] =
            bytes.get(here.at..).and_then(<[u8]>::first_chunk).ok_or(ParseError::Malformed)?;
        let len = match here.protocol {
            proto::FRAGMENT => {
                let place = field::be16(header, 2).unwrap_or(0);
                let fragment = Fragment {
                    id: field::be32(header, 4).unwrap_or(0),
                    offset: place & 0xfff8,
                    more: place & 1 != 0,
                };
                let part = bytes.len() - here.at - 8;
                if fragment.offset != 0 || fragment.more {
                    check_fragment(fragment, part)?;
                    return Ok(Walked {
                        protocol: header[0],
                        named_at: here.at,
                        at: here.at + 8,
                        fragment: Some(fragment),
                    });
                }
                8
            }
            // Hop-by-hop options are legal in the first place only (RFC 8200 section 4.1).
            proto::HOP_BY_HOP if depth != 0 => return Err(ParseError::Malformed),
            // Segments left: the packet asks to be forwarded elsewhere, which a router of one guest does not
            // do.
            proto::ROUTING if header[3] != 0 => return Err(ParseError::Unsupported),
            _ => 8 + usize::from(header[1]) * 8,
        };
        if bytes.len() - here.at < len {
            return Err(ParseError::Malformed);
        }
        here = Walked { protocol: header[0], named_at: here.at, at: here.at + len, fragment: None };
    }
    Err(ParseError::Unsupported)
}

/// A part must not be empty, must not reach beyond the longest packet, and all parts but the last are
/// multiples of eight bytes (RFC 791, RFC 8200 section 4.5).
pub(super) fn check_fragment(fragment: Fragment, len: usize) -> Result<(), ParseError> {
    let bad =
        len == 0 || usize::from(fragment.offset) + len > 65_535 || (fragment.more && !len.is_multiple_of(8));
    if bad { Err(ParseError::Malformed) } else { Ok(()) }
}

/// Offset, from the start of the IP header, of the byte that names the payload's protocol: what an ICMPv6
/// parameter problem "unrecognized next header" (RFC 4443 section 3.4) points to. `packet` starts at an IPv6
/// header.
pub fn next_header_at(packet: &[u8]) -> Option<usize> {
    if packet.first()? >> 4 != 6 || packet.len() < 40 {
        return None;
    }
    walk(packet).ok().map(|w| w.named_at)
}
