//! Buffer identities: how the sans-IO core talks about payload that it never sees.
//!
//! Theory of operation. Payload bytes live in an [`arena`] that the kernel reads and writes; everything above `ring`
//! holds a [`Span`]: which buffer, from which byte, how many. A buffer has one *owner* at a time in the core: whoever
//! was handed its [`BufId`] must answer with exactly one `Release`, no more, no less. Operations in flight in the
//! kernel hold references of their own, so a release while a write is pending is safe: the buffer becomes free when
//! the last reference goes.
//!
//! Five classes of buffer exist, told apart by the top bits of the id:
//!
//! * [`Class::Tap`]: 72 KiB slots that multishot tap reads fill, one frame each;
//! * [`Class::Host`]: 68 KiB slots that multishot receives from stream sockets fill;
//! * [`Class::Message`]: 68 KiB slots that receives of datagrams fill. Nobody keeps them for long, and they are apart so that
//!   streams whose readers have stopped do not hold what names and datagrams are received into;
//! * [`Class::Relay`]: 64 KiB slots that receives of relayed streams fill, apart for the same reason;
//! * [`Class::Small`]: 4 KiB slots. Payload of up to that size is copied here at once, so that a one-byte segment in a
//!   stalled flow does not hold a slot that a 64 KiB frame could use (DESIGN.md, section 4).
//!
//! Limits: at most 2^24 buffers a class; offsets and lengths below 2^32.

pub mod arena;
pub mod join;

pub use arena::{Arena, ArenaConfig, ArenaCounters};

use std::fmt;

/// Bytes of a [`Class::Tap`] slot: virtio-net header, Ethernet header, one VLAN tag and 65,535 bytes of L3, rounded up.
pub const TAP_SLOT: usize = 72 * 1024;
/// Bytes of a [`Class::Host`] or [`Class::Message`] slot: 64 KiB of payload and a page for what a multishot `recvmsg` puts before
/// it (its header, the sender's address, control messages), because `UDP_GRO` hands over up to 65,535 bytes at once. Whole
/// pages, so that idle slots can be given back one by one.
pub const HOST_SLOT: usize = 68 * 1024;
/// Bytes of a [`Class::Small`] slot: 4 KiB of payload and the headers of the frame it came in.
pub const SMALL_SLOT: usize = 4096 + 512;
/// Bytes of a [`Class::Relay`] slot: a stream's bytes and nothing before them.
pub const RELAY_SLOT: usize = 64 * 1024;
/// Slots of each class that a plane has, unless configured otherwise: tap, host, small. The limits of the flows derive
/// from them. Addresses only: a slot costs memory from its first use on.
pub const DEFAULT_SLOTS: [u32; 3] = [256, 256, 4096];
/// The same for [`Class::Message`].
pub const MESSAGE_SLOTS: u32 = 256;
/// The same for [`Class::Relay`]. What is stalled holds them; who finds none left is served without (`relay::pump`).
pub const RELAY_SLOTS: u32 = 256;
/// Payload of at most this many bytes is copied to a [`Class::Small`] slot on arrival.
pub const SMALL_MAX: usize = 4096;

/// Which kind of slot a buffer is; decides its size and where it returns to when it is free.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Class {
    /// Filled by tap reads: one Ethernet frame of up to 65,535 bytes of L3, plus headers.
    Tap = 0,
    /// Filled by receives from stream sockets.
    Host = 1,
    /// Copies of short payloads.
    Small = 2,
    /// Filled by receives of relayed streams.
    Relay = 3,
    /// Filled by receives of datagrams.
    Message = 4,
}

impl Class {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 5] = [Self::Tap, Self::Host, Self::Small, Self::Relay, Self::Message];

    /// Bytes that a buffer of it holds.
    pub const fn capacity(self) -> usize {
        match self {
            Self::Tap => TAP_SLOT,
            Self::Host | Self::Message => HOST_SLOT,
            Self::Small => SMALL_SLOT,
            Self::Relay => RELAY_SLOT,
        }
    }

    /// Its name in counters.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Tap => "tap",
            Self::Host => "host",
            Self::Small => "small",
            Self::Relay => "relay",
            Self::Message => "message",
        }
    }
}

/// Names one buffer of the arena. Plain data: says nothing about whether the buffer is alive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufId(u32);

impl BufId {
    const INDEX_BITS: u32 = 24;

    /// The id of slot `index` (below 2^24) of `class`.
    pub const fn new(class: Class, index: u32) -> Self {
        assert!(index < 1 << Self::INDEX_BITS);
        Self(((class as u32) << Self::INDEX_BITS) | index)
    }

    /// The slot's number within its class.
    pub const fn index(self) -> u32 {
        self.0 & ((1 << Self::INDEX_BITS) - 1)
    }

    /// The slot's class.
    pub const fn class(self) -> Class {
        match self.0 >> Self::INDEX_BITS {
            0 => Class::Tap,
            1 => Class::Host,
            2 => Class::Small,
            3 => Class::Relay,
            _ => Class::Message,
        }
    }
}

impl fmt::Debug for BufId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}#{}", self.class(), self.index())
    }
}

/// A run of bytes within one buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The buffer.
    pub buf: BufId,
    /// First byte, counted from the start of the buffer.
    pub off: u32,
    /// Number of bytes.
    pub len: u32,
}

impl Span {
    /// `len` bytes of `buf` from `off` on.
    pub const fn new(buf: BufId, off: u32, len: u32) -> Self {
        Self { buf, off, len }
    }

    /// True when the span holds no bytes. The buffer behind it still needs its release.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The span without its first `n` bytes (all of them, if it has fewer).
    #[must_use]
    pub const fn skip(self, n: u32) -> Self {
        let n = if n < self.len { n } else { self.len };
        Self { buf: self.buf, off: self.off + n, len: self.len - n }
    }

    /// The first `n` bytes of the span (all of it, if it has fewer).
    #[must_use]
    pub const fn take(self, n: u32) -> Self {
        Self { buf: self.buf, off: self.off, len: if n < self.len { n } else { self.len } }
    }
}

/// The spans of one operation. Up to four stay inline; joined datagrams spill to the heap.
pub type SpanVec = smallvec::SmallVec<[Span; 4]>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_keep_class_and_index() {
        for class in Class::ALL {
            for index in [0, 1, 4095, (1 << 24) - 1] {
                let id = BufId::new(class, index);
                assert_eq!((id.class(), id.index()), (class, index));
            }
        }
    }

    #[test]
    fn skip_and_take_never_leave_the_span() {
        let s = Span::new(BufId::new(Class::Tap, 3), 10, 5);
        assert_eq!(s.skip(2), Span::new(s.buf, 12, 3));
        assert_eq!(s.skip(9), Span::new(s.buf, 15, 0));
        assert_eq!(s.take(2), Span::new(s.buf, 10, 2));
        assert_eq!(s.take(9), s);
    }
}
