//! What a super-frame leaves to be done by whoever has the offload, or by [`super::segment`] where nobody has
//! it.

/// Segmentation that the receiver of a super-frame still has to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gso {
    /// One packet. When it is longer than the MTU the emitter fragments it.
    None,
    /// A TCP super-frame, cut into segments of `mss` payload bytes.
    Tcp {
        /// Payload bytes per segment, from 1.
        mss: u16,
    },
    /// Datagrams of `size` bytes each, the last may be shorter; at most 64 of them.
    Udp {
        /// Payload bytes per datagram, from 1.
        size: u16,
    },
}

impl Gso {
    /// The segmentation that a payload of `len` bytes really needs: none when it fits one segment.
    #[must_use]
    pub const fn for_payload(self, len: usize) -> Self {
        match self {
            Self::Tcp { mss: n } | Self::Udp { size: n } if len <= n as usize => Self::None,
            _ => self,
        }
    }
}

/// Where the transport checksum goes. The field itself holds the folded pseudo-header sum (not complemented),
/// ready for `VIRTIO_NET_HDR_F_NEEDS_CSUM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Csum {
    /// Where summing starts: the transport header's offset from the start of the frame.
    pub start: u16,
    /// The field's offset from `start`.
    pub offset: u16,
}
