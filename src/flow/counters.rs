//! Counters: what a flow has carried, and what the plane has dropped and why.
//!
//! Plain integers of the one thread that owns them; a reader asks that thread. Everything counts upwards from zero and
//! nothing is ever reset, so a reader takes differences.

use serde::{Deserialize, Serialize};

/// What one flow has carried. Bytes are payload, without any header.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct FlowCounters {
    /// Payload bytes from the guest towards the host.
    pub bytes_up: u64,
    /// Payload bytes from the host towards the guest.
    pub bytes_down: u64,
    /// Frames (super-frames count once) or datagrams from the guest.
    pub packets_up: u64,
    /// Frames (super-frames count once) or datagrams to the guest.
    pub packets_down: u64,
    /// Segments sent to the guest again.
    pub retransmits: u64,
}

/// Why a frame, a datagram or a flow was refused. The text of each is its documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Drop {
    /// Too short for its own headers, or lengths that contradict each other.
    Malformed,
    /// A checksum over bytes that were not marked as partial is wrong.
    BadChecksum,
    /// An EtherType, IP protocol or message type that the stack does not carry.
    Unsupported,
    /// Multicast or broadcast that no protocol of the stack listens to.
    Multicast,
    /// The policy refuses the destination.
    Policy,
    /// A fragment that overlaps, is out of bounds, or came when the reassembly store was full.
    Fragment,
    /// A datagram of the reassembly store that was never completed.
    ReassemblyTimeout,
    /// A TCP segment outside the window, for no connection, or failing RFC 5961.
    TcpUnacceptable,
    /// The flow's share of buffers or the table of flows is full, or the guest has had what it may have in a second.
    NoRoom,
    /// A datagram from a remote that the mapping's filter does not admit.
    Filtered,
    /// The receiver's address on the guest side is not known yet.
    NoNeighbour,
    /// The host refused to take it (its error is in the log at debug level).
    HostRefused,
    /// Time to live ran out here; the guest was told.
    TtlExceeded,
    /// A packet for the guest that is longer than its link takes and may not be fragmented.
    TooLong,
    /// The source is none that the guest may use: loopback, a group's, one of ours, or of a network that is not its own.
    Spoofed,
}

impl Drop {
    /// Every reason, in the order of their numbers.
    pub const ALL: [Self; 15] = [
        Self::Malformed,
        Self::BadChecksum,
        Self::Unsupported,
        Self::Multicast,
        Self::Policy,
        Self::Fragment,
        Self::ReassemblyTimeout,
        Self::TcpUnacceptable,
        Self::NoRoom,
        Self::Filtered,
        Self::NoNeighbour,
        Self::HostRefused,
        Self::TtlExceeded,
        Self::TooLong,
        Self::Spoofed,
    ];
}

/// What there is too much of. The text of each is its documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Limit {
    /// New flows, while as many were open as the guest may have.
    Flows,
    /// Flows for which the host had no descriptor or memory.
    Descriptors,
    /// Connections forgotten before they stood, for newer ones.
    HalfOpen,
    /// New flows that came faster than the guest may open them.
    NewFlows,
    /// Segments for which the guest had no buffers left.
    Buffered,
    /// New flows and destinations, while too many of those before had not been answered.
    Unanswered,
    /// Rests of the tap, because too many frames led to nothing.
    Fruitless,
}

impl Limit {
    /// Every limit, in the order of their numbers.
    pub const ALL: [Self; 7] = [
        Self::Flows,
        Self::Descriptors,
        Self::HalfOpen,
        Self::NewFlows,
        Self::Buffered,
        Self::Unanswered,
        Self::Fruitless,
    ];
}

/// What the plane as a whole has seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaneCounters {
    /// Frames read from the tap.
    pub frames_from_guest: u64,
    /// Bytes of those frames, Ethernet header included.
    pub bytes_from_guest: u64,
    /// Frames written to the tap (a super-frame counts once).
    pub frames_to_guest: u64,
    /// Bytes of those frames.
    pub bytes_to_guest: u64,
    /// Flows opened, of every kind.
    pub flows_opened: u64,
    /// Flows closed.
    pub flows_closed: u64,
    /// Flows refused because as many were open as the guest may have or the descriptor limit allows.
    pub flows_refused: u64,
    /// How often each limit was met, indexed by [`Limit`].
    pub limited: [u64; Limit::ALL.len()],
    /// Clients of published ports shown to the guest as the gateway, because it could not have answered them.
    pub shown_as_gateway: u64,
    /// Datagrams to published ports that nobody in the guest listened for, as its kernel said.
    pub published_refused: u64,
    /// Buffers in use when the question was answered, of every kind: payload that the guest or the host has not taken.
    pub buffers_held: u64,
    /// Drops by reason, indexed by [`Drop`].
    pub drops: [u64; Drop::ALL.len()],
}

impl PlaneCounters {
    /// Counts one drop.
    pub fn drop(&mut self, why: Drop) {
        self.drops[why as usize] += 1;
    }

    /// Counts that a limit was met.
    pub fn limit(&mut self, which: Limit) {
        self.limited[which as usize] += 1;
    }

    /// How often a limit was met.
    pub fn limited(&self, which: Limit) -> u64 {
        self.limited[which as usize]
    }

    /// Drops of all kinds.
    pub fn dropped_in_all(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// How often `why` has happened.
    pub fn dropped(&self, why: Drop) -> u64 {
        self.drops[why as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_slot() {
        let mut c = PlaneCounters::default();
        for (i, why) in Drop::ALL.into_iter().enumerate() {
            assert_eq!(why as usize, i);
            c.drop(why);
        }
        assert!(c.drops.iter().all(|n| *n == 1));
        for (i, which) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(which as usize, i);
            c.limit(which);
            assert_eq!(c.limited(which), 1);
        }
    }
}
