//! The virtio-net header (`struct virtio_net_hdr_v1`, 12 bytes, VIRTIO 1.2 section 5.1.6) that travels before each
//! frame of a tap opened with `IFF_VNET_HDR`.
//!
//! Theory of operation. [`encode`] says to the kernel what a frame leaves to be done; [`decode`] reads what the guest's
//! kernel left to us. Numbers are little-endian: tun uses the machine's own order by default, and every machine
//! ringtap runs on (x86-64, aarch64) is little-endian.
//!
//! What `virtio_net_hdr_to_skb` (include/linux/virtio_net.h) insists on when we write: segmentation only together with
//! `NEEDS_CSUM`, `csum_start` and `csum_offset` inside the frame, and, for UDP segmentation, the checksum offset of
//! UDP. `hdr_len` sizes the linear part of the kernel's buffer, so it is the exact length of the headers.

use super::{Csum, Gso};

/// Length that the tap is told with `TUNSETVNETHDRSZ`.
pub const LEN: usize = 12;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum at `csum_start + csum_offset` is partial.
const NEEDS_CSUM: u8 = 1;
/// `VIRTIO_NET_HDR_F_DATA_VALID`: the checksum has been found right.
const DATA_VALID: u8 = 2;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Set beside a TCP type when the super-frame carries CWR.
const GSO_ECN: u8 = 0x80;

/// What is known about the transport checksum of a frame read from the tap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RxCsum {
    /// The sender left it to us: the field holds the pseudo-header's sum. Nothing to verify, for the bytes never
    /// left this machine.
    Partial(Csum),
    /// Verified by someone we trust.
    Valid,
    /// Not known: verify it.
    Unknown,
}

/// What the header of a frame read from the tap says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rx {
    /// The transport checksum.
    pub csum: RxCsum,
    /// The segmentation left to us.
    pub gso: Gso,
}

/// A header that makes no sense. The frame behind it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VnetError {
    /// Fewer bytes than a header has.
    #[error("virtio-net header cut short; is TUNSETVNETHDRSZ set to {LEN}?")]
    Short,
    /// A segmentation type nobody negotiated.
    #[error("virtio-net header with unknown segmentation type {0:#x}")]
    GsoType(u8),
    /// Segmentation without a segment size or without a checksum to complete.
    #[error("virtio-net header asks for segmentation without size or checksum")]
    GsoFields,
    /// Checksum positions outside the frame.
    #[error("virtio-net header points outside its frame")]
    CsumRange,
}

/// The header for a frame that starts with `head`. `v6` tells the TCP variants apart.
pub fn encode(head_len: usize, v6: bool, csum: Option<Csum>, gso: Gso) -> [u8; LEN] {
    let (gso_type, gso_size) = match gso {
        Gso::None => (GSO_NONE, 0),
        Gso::Tcp { mss } => (if v6 { GSO_TCPV6 } else { GSO_TCPV4 }, mss),
        Gso::Udp { size } => (GSO_UDP_L4, size),
    };
    let (flags, start, offset) = csum.map_or((0, 0, 0), |c| (NEEDS_CSUM, c.start, c.offset));
    let hdr_len = u16::try_from(head_len).unwrap_or(u16::MAX).to_le_bytes();
    let gso_size = gso_size.to_le_bytes();
    let start = start.to_le_bytes();
    let offset = offset.to_le_bytes();
    [
        flags,
        gso_type,
        hdr_len[0],
        hdr_len[1],
        gso_size[0],
        gso_size[1],
        start[0],
        start[1],
        offset[0],
        offset[1],
        0,
        0,
    ]
}

/// Reads the header before a frame of `frame_len` bytes. The ECN bit is accepted and means nothing further to us.
pub fn decode(bytes: &[u8], frame_len: usize) -> Result<Rx, VnetError> {
    let header: &[u8; LEN] = bytes.first_chunk().ok_or(VnetError::Short)?;
    let number = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let csum = if header[0] & NEEDS_CSUM != 0 {
        let csum = Csum { start: number(6), offset: number(8) };
        if usize::from(csum.start) + usize::from(csum.offset) + 2 > frame_len {
            return Err(VnetError::CsumRange);
        }
        RxCsum::Partial(csum)
    } else if header[0] & DATA_VALID != 0 {
        RxCsum::Valid
    } else {
        RxCsum::Unknown
    };
    let size = number(4);
    let gso = match header[1] & !GSO_ECN {
        GSO_NONE if header[1] == GSO_NONE => Gso::None,
        GSO_TCPV4 | GSO_TCPV6 => Gso::Tcp { mss: size },
        GSO_UDP_L4 => Gso::Udp { size },
        _ => return Err(VnetError::GsoType(header[1])),
    };
    if gso != Gso::None && (size == 0 || !matches!(csum, RxCsum::Partial(_))) {
        return Err(VnetError::GsoFields);
    }
    Ok(Rx { csum, gso })
}
