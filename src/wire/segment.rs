//! Software segmentation, fragmentation and checksums for what a tap cannot take as it is.
//!
//! Theory of operation. The stack emits super-frames as if every tap had every offload. [`needs_software`]
//! says whether this tap takes one as it is; if not, [`cut`] does what the kernel would have done: one frame
//! per segment with its own lengths, sequence number, flags and checksum, and fragments where even one
//! datagram is longer than the MTU. The payload is copied once, behind each segment's headers; this is the
//! slow path of taps without offload.
//!
//! What changes from segment to segment follows `tcp_gso_segment`, `__udp_gso_segment` and
//! `inet_gso_segment`: IPv4 identification counts up, FIN and PSH stay with the last segment, CWR with the
//! first. The urgent pointer is copied to each: it counts from the segment's own sequence number, so only the
//! emitter of unsegmented urgent data gets it right, as in Linux.
//!
//! Limits: header chains of [`super::ip::head`], [`super::tcp::head`] and [`super::udp::head`] only.

use super::chain::Chain;
use super::{Csum, ETH_LEN, Gso, field, fragment, proto, tcp, vnet};

/// Datagrams that one super-frame may hold (`UDP_MAX_SEGMENTS`; 128 in newer kernels).
pub const MAX_DATAGRAMS: usize = 64;

/// What a tap takes off our hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Caps {
    /// Frames travel behind a virtio-net header. Without it there is no offload at all, whatever the rest
    /// says.
    pub vnet: bool,
    /// Partial checksums.
    pub csum: bool,
    /// TCP super-frames over IPv4.
    pub tso4: bool,
    /// TCP super-frames over IPv6.
    pub tso6: bool,
    /// UDP super-frames, both families.
    pub uso: bool,
    /// Longest packet, bytes of L3.
    pub mtu: u16,
}

/// Buffers of [`cut`], kept between calls, and the identification of the next fragmented IPv6 packet.
#[derive(Debug, Default)]
pub struct Scratch {
    frame: Vec<u8>,
    piece: Vec<u8>,
    next_id: u32,
}

impl Scratch {
    /// Empty buffers. `first_id` should be random, so that a restart does not repeat identifications at once
    /// (RFC 7739).
    pub fn new(first_id: u32) -> Self {
        Self { next_id: first_id, ..Self::default() }
    }
}

/// Why a frame could not be cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CutError {
    /// The packet is longer than the MTU and says that it must not be fragmented, or the MTU is too small for
    /// any fragment.
    #[error(
        "packet of {len} bytes may not be fragmented to the MTU of {mtu}; its sender has to send less at a time"
    )]
    TooBig {
        /// Bytes of L3 of the longest segment.
        len: usize,
        /// Bytes of L3 that the link takes.
        mtu: u16,
    },
    /// The header chain is none of ours, or contradicts payload, checksum or segmentation.
    #[error("header chain does not fit its payload; a builder and the segmenter disagree")]
    Head,
}

/// Payload bytes of the longest segment.
fn largest(gso: Gso, payload_len: usize) -> usize {
    match gso {
        Gso::None => payload_len,
        Gso::Tcp { mss: n } | Gso::Udp { size: n } => payload_len.min(usize::from(n)),
    }
}

/// Whether a frame has to go through [`cut`] on its way to a tap of these capabilities.
pub fn needs_software(caps: &Caps, head: &[u8], payload_len: usize, csum: Option<Csum>, gso: Gso) -> bool {
    let gso = gso.for_payload(payload_len);
    if csum.is_some() && !(caps.vnet && caps.csum) {
        return true;
    }
    if (head.len() + largest(gso, payload_len)).saturating_sub(ETH_LEN) > usize::from(caps.mtu) {
        return true;
    }
    match gso {
        Gso::None => false,
        Gso::Tcp { .. } => {
            let v6 = field::be16(head, 12) == Some(proto::ETHER_IPV6);
            !(caps.vnet && if v6 { caps.tso6 } else { caps.tso4 })
        }
        Gso::Udp { size } => {
            !(caps.vnet && caps.uso) || payload_len > MAX_DATAGRAMS.saturating_mul(usize::from(size))
        }
    }
}

/// Cuts a frame into what the tap takes. `each` is called for every frame, in order, with its virtio-net
/// header (meaningful when `caps.vnet`) and its bytes. On an error it has not been called at all.
///
/// # Errors
///
/// [`CutError::TooBig`] when a segment is longer than the MTU and DF is set, [`CutError::Head`] when `head`
/// is not a chain of this module, its lengths are not those of `payload`, or a super-frame comes without
/// `csum`.
pub fn cut(
    head: &[u8],
    payload: &[u8],
    csum: Option<Csum>,
    gso: Gso,
    caps: &Caps,
    scratch: &mut Scratch,
    each: &mut dyn FnMut(&[u8], &[u8]),
) -> Result<(), CutError> {
    let chain = Chain::read(head).ok_or(CutError::Head)?;
    if chain.l3_len(head) != head.len() - ETH_LEN + payload.len() {
        return Err(CutError::Head);
    }
    let gso = gso.for_payload(payload.len());
    let len = head.len() - ETH_LEN + largest(gso, payload.len());
    if len > usize::from(caps.mtu) && chain.dont_fragment(head) {
        return Err(CutError::TooBig { len, mtu: caps.mtu });
    }
    if let Some(c) = csum
        && usize::from(c.start) + usize::from(c.offset) + 2 > head.len()
    {
        return Err(CutError::Head);
    }
    // The longest header of a piece leaves no room for eight bytes.
    if len > usize::from(caps.mtu) && usize::from(caps.mtu) < chain.l4 - ETH_LEN + 16 {
        return Err(CutError::TooBig { len, mtu: caps.mtu });
    }
    let mut out = Out { chain, caps, head_len: head.len(), each };
    let step = match (gso, csum) {
        (Gso::None, _) => {
            scratch.frame.clear();
            scratch.frame.extend_from_slice(head);
            scratch.frame.extend_from_slice(payload);
            return out.frame(scratch, csum);
        }
        (Gso::Tcp { mss: 0 } | Gso::Udp { size: 0 }, _) | (_, None) => return Err(CutError::Head),
        (Gso::Tcp { mss: n } | Gso::Udp { size: n }, Some(_)) => usize::from(n),
    };
    let transport_len = if chain.protocol == proto::TCP { 20 } else { 8 };
    if !matches!((gso, chain.protocol), (Gso::Tcp { .. }, proto::TCP) | (Gso::Udp { .. }, proto::UDP))
        || head.len() < chain.l4 + transport_len
    {
        return Err(CutError::Head);
    }
    let count = payload.len().div_ceil(step);
    for (i, part) in payload.chunks(step).enumerate() {
        scratch.frame.clear();
        scratch.frame.extend_from_slice(head);
        scratch.frame.extend_from_slice(part);
        adapt(&mut scratch.frame, chain, i, i * step, i + 1 == count);
        if let Some(c) = csum {
            let sum = chain.pseudo(&scratch.frame, scratch.frame.len() - chain.l4).folded();
            field::put16(&mut scratch.frame, usize::from(c.start) + usize::from(c.offset), sum);
        }
        out.frame(scratch, csum)?;
    }
    Ok(())
}

/// Makes the headers of a super-frame those of its segment number `i`, which starts `offset` bytes into the
/// payload.
fn adapt(frame: &mut [u8], chain: Chain, i: usize, offset: usize, last: bool) {
    chain.set_l3_len(frame, frame.len() - ETH_LEN);
    if !chain.v6 {
        let id = field::be16(frame, ETH_LEN + 4).unwrap_or(0).wrapping_add(i as u16);
        field::put16(frame, ETH_LEN + 4, id);
        chain.seal(frame);
    }
    let l4 = chain.l4;
    if chain.protocol == proto::TCP {
        let seq = field::be32(frame, l4 + 4).unwrap_or(0).wrapping_add(offset as u32);
        field::put32(frame, l4 + 4, seq);
        if !last {
            frame[l4 + 13] &= !tcp::Flags::FIN.with(tcp::Flags::PSH).0;
        }
        if i != 0 {
            frame[l4 + 13] &= !tcp::Flags::CWR.0;
        }
    } else {
        let len = frame.len() - l4;
        field::put16(frame, l4 + 4, len as u16);
    }
}

/// Where finished frames go.
struct Out<'a> {
    chain: Chain,
    caps: &'a Caps,
    head_len: usize,
    each: &'a mut dyn FnMut(&[u8], &[u8]),
}

impl Out<'_> {
    /// Sends the frame in `scratch` on: checksum partial or complete, whole or in fragments.
    fn frame(&mut self, scratch: &mut Scratch, csum: Option<Csum>) -> Result<(), CutError> {
        let fits = scratch.frame.len() - ETH_LEN <= usize::from(self.caps.mtu);
        let partial = csum.filter(|_| fits && self.caps.vnet && self.caps.csum);
        if let Some(c) = csum
            && partial.is_none()
        {
            self.chain.complete(&mut scratch.frame, c).ok_or(CutError::Head)?;
        }
        if fits {
            let (head, payload) = scratch.frame.split_at(self.head_len);
            (self.each)(&vnet::encode(head, payload.len(), partial, Gso::None), &scratch.frame);
            return Ok(());
        }
        let id = scratch.next_id;
        scratch.next_id = id.wrapping_add(1);
        let each = &mut *self.each;
        fragment::split(
            &scratch.frame,
            self.chain,
            usize::from(self.caps.mtu),
            id,
            &mut scratch.piece,
            |piece| each(&vnet::encode(&piece[..ETH_LEN], piece.len() - ETH_LEN, None, Gso::None), piece),
        )
        .ok_or(CutError::Head)
    }
}

#[cfg(test)]
mod tests;
