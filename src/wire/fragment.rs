//! IP fragmentation for packets longer than the link takes (RFC 791 section 3.2, RFC 8200 section 4.5).
//!
//! Theory of operation. The payload of L3 is cut into pieces that are as long as the MTU allows and, but for
//! the last, multiples of eight bytes. IPv4 pieces repeat the header; IPv6 pieces carry a fragment header of
//! eight bytes more and the identification of [`super::segment::Scratch`]. The transport checksum covers the
//! whole packet and has to be complete before: no one can complete it on a piece.

use super::chain::Chain;
use super::{ETH_LEN, field, proto};

const MORE: u16 = 0x2000;

/// Cuts `frame`, whose length fields are right, into pieces of at most `mtu` bytes of L3. `id` identifies the
/// packet in IPv6; an IPv4 packet has its identification in the header. `None`, and no piece, when the MTU
/// has no room for even eight bytes.
pub(super) fn split(
    frame: &[u8],
    chain: Chain,
    mtu: usize,
    id: u32,
    piece: &mut Vec<u8>,
    mut each: impl FnMut(&[u8]),
) -> Option<()> {
    let headers = chain.l4 - ETH_LEN + if chain.v6 { 8 } else { 0 };
    let per = mtu.checked_sub(headers)? & !7;
    if per == 0 {
        return None;
    }
    let payload = &frame[chain.l4..];
    let count = payload.len().div_ceil(per);
    for (i, part) in payload.chunks(per).enumerate() {
        let more = i + 1 < count;
        // Below 65,536: no packet is longer.
        let offset = (i * per) as u16;
        piece.clear();
        piece.extend_from_slice(&frame[..chain.l4]);
        if chain.v6 {
            piece[ETH_LEN + 6] = proto::FRAGMENT;
            let [o0, o1] = (offset | u16::from(more)).to_be_bytes();
            let [i0, i1, i2, i3] = id.to_be_bytes();
            piece.extend_from_slice(&[chain.protocol, 0, o0, o1, i0, i1, i2, i3]);
        } else {
            field::put16(piece, ETH_LEN + 6, (offset / 8) | if more { MORE } else { 0 });
        }
        piece.extend_from_slice(part);
        let len = piece.len() - ETH_LEN;
        chain.set_l3_len(piece, len);
        chain.seal(piece);
        each(piece);
    }
    Some(())
}
