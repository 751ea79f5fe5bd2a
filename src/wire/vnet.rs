//! The virtio-net header (`struct virtio_net_hdr_v1`, 12 bytes, VIRTIO 1.2 section 5.1.6) that travels before
//! each frame of a tap opened with `IFF_VNET_HDR`.
//!
//! Theory of operation. [`encode`] says to the kernel what a frame leaves to be done; [`decode`] reads what
//! the guest's kernel left to us. Numbers are little-endian: tun uses the machine's own order by default, and
//! every machine ringtap runs on (x86-64, aarch64) is little-endian.
//!
//! What `virtio_net_hdr_to_skb` (include/linux/virtio_net.h) insists on when we write: segmentation only
//! together with `NEEDS_CSUM`, `csum_start` and `csum_offset` inside the frame, and, for UDP segmentation,
//! the checksum offset of UDP. `hdr_len` sizes the linear part of the kernel's buffer, so it is the exact
//! length of the headers.

use super::{Csum, Gso, field, proto};

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
    /// The sender left it to us: the field holds the pseudo-header's sum. Nothing to verify, for the bytes
    /// never left this machine.
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

impl Rx {
    /// What is known about a frame that came without a header: nothing.
    pub const PLAIN: Self = Self { csum: RxCsum::Unknown, gso: Gso::None };

    /// Whether the transport checksum has to be verified before the frame is believed.
    pub const fn needs_verifying(&self) -> bool {
        matches!(self.csum, RxCsum::Unknown)
    }
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

/// The header for a frame made of `head` (Ethernet first) and `payload_len` bytes. Payload that fits one
/// segment asks for no segmentation, whatever `gso` says.
pub fn encode(head: &[u8], payload_len: usize, csum: Option<Csum>, gso: Gso) -> [u8; LEN] {
    let v6 = field::be16(head, 12) == Some(proto::ETHER_IPV6);
    let (gso_type, gso_size) = match gso.for_payload(payload_len) {
        Gso::None => (GSO_NONE, 0),
        Gso::Tcp { mss } => (if v6 { GSO_TCPV6 } else { GSO_TCPV4 }, mss),
        Gso::Udp { size } => (GSO_UDP_L4, size),
    };
    let (flags, start, offset) = csum.map_or((0, 0, 0), |c| (NEEDS_CSUM, c.start, c.offset));
    let [l0, l1] = u16::try_from(head.len()).unwrap_or(u16::MAX).to_le_bytes();
    let ([g0, g1], [s0, s1], [o0, o1]) = (gso_size.to_le_bytes(), start.to_le_bytes(), offset.to_le_bytes());
    [flags, gso_type, l0, l1, g0, g1, s0, s1, o0, o1, 0, 0]
}

/// Reads the header before a frame of `frame_len` bytes. The ECN bit is accepted and means nothing further to
/// us.
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CSUM: Csum = Csum { start: 34, offset: 16 };

    fn head(ether_type: u16, len: usize) -> Vec<u8> {
        let mut head = vec![0; len];
        head[12..14].copy_from_slice(&ether_type.to_be_bytes());
        head
    }

    #[test]
    fn a_tcp_super_frame_of_either_family() {
        let v4 = encode(&head(proto::ETHER_IPV4, 54), 60_000, Some(CSUM), Gso::Tcp { mss: 1460 });
        assert_eq!(v4, [1, 1, 54, 0, 0xb4, 0x05, 34, 0, 16, 0, 0, 0]);
        let csum = Csum { start: 54, offset: 16 };
        let v6 = encode(&head(proto::ETHER_IPV6, 74), 60_000, Some(csum), Gso::Tcp { mss: 1440 });
        assert_eq!(v6, [1, 4, 74, 0, 0xa0, 0x05, 54, 0, 16, 0, 0, 0]);
    }

    #[test]
    fn a_udp_super_frame_and_a_plain_one() {
        let csum = Csum { start: 34, offset: 6 };
        let udp = encode(&head(proto::ETHER_IPV4, 42), 2000, Some(csum), Gso::Udp { size: 1000 });
        assert_eq!(udp, [1, 5, 42, 0, 0xe8, 0x03, 34, 0, 6, 0, 0, 0]);
        assert_eq!(
            encode(&head(proto::ETHER_ARP, 42), 0, None, Gso::None),
            [0, 0, 42, 0, 0, 0, 0, 0, 0, 0, 0, 0]
        );
    }

    #[test]
    fn one_segment_is_no_super_frame() {
        let one = encode(&head(proto::ETHER_IPV4, 54), 1460, Some(CSUM), Gso::Tcp { mss: 1460 });
        assert_eq!(one, encode(&head(proto::ETHER_IPV4, 54), 1460, Some(CSUM), Gso::None));
    }

    #[test]
    fn what_we_write_we_can_read() {
        for gso in [Gso::None, Gso::Tcp { mss: 1400 }, Gso::Udp { size: 1200 }] {
            let header = encode(&head(proto::ETHER_IPV4, 54), 9000, Some(CSUM), gso);
            assert_eq!(decode(&header, 9054), Ok(Rx { csum: RxCsum::Partial(CSUM), gso }));
        }
    }

    #[test]
    fn ecn_beside_tcp_is_tolerated_and_alone_is_not() {
        let mut header = encode(&head(proto::ETHER_IPV4, 54), 9000, Some(CSUM), Gso::Tcp { mss: 1400 });
        header[1] |= GSO_ECN;
        assert_eq!(decode(&header, 9054).map(|rx| rx.gso), Ok(Gso::Tcp { mss: 1400 }));
        header[1] = GSO_ECN;
        assert_eq!(decode(&header, 9054), Err(VnetError::GsoType(GSO_ECN)));
    }

    #[test]
    fn contradictions_are_errors() {
        let good = encode(&head(proto::ETHER_IPV4, 54), 9000, Some(CSUM), Gso::Tcp { mss: 1400 });
        assert_eq!(decode(&good[..11], 9054), Err(VnetError::Short));
        let with = |at: usize, value: u8| {
            let mut header = good;
            header[at] = value;
            decode(&header, 9054)
        };
        assert_eq!(with(0, 0), Err(VnetError::GsoFields));
        assert_eq!(with(1, 3), Err(VnetError::GsoType(3)));
        assert_eq!(with(7, 0xff), Err(VnetError::CsumRange));
        let mut no_size = good;
        (no_size[4], no_size[5]) = (0, 0);
        assert_eq!(decode(&no_size, 9054), Err(VnetError::GsoFields));
        assert_eq!(decode(&good, 51), Err(VnetError::CsumRange));
        assert!(decode(&good, 52).is_ok());
    }

    #[test]
    fn valid_and_unknown_are_told_apart() {
        assert_eq!(decode(&[0; 12], 60), Ok(Rx::PLAIN));
        assert!(Rx::PLAIN.needs_verifying());
        let valid = decode(&[2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0], 60).unwrap();
        assert!(!valid.needs_verifying());
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_name_a_field_outside(
            bytes in proptest::collection::vec(any::<u8>(), 0..16), len in 0usize..70_000,
        ) {
            if let Ok(rx) = decode(&bytes, len) {
                if let RxCsum::Partial(c) = rx.csum {
                    prop_assert!(usize::from(c.start) + usize::from(c.offset) + 2 <= len);
                }
                match rx.gso {
                    Gso::Tcp { mss: n } | Gso::Udp { size: n } => prop_assert!(n > 0),
                    Gso::None => {}
                }
            }
        }
    }
}
