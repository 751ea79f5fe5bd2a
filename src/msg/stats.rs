//! What the plane has counted and measured since it began, for `ringtap stats` and the metrics of the API.
//!
//! Counters go up only; a plane that takes a dead one's place begins at zero. Gauges are as of the answer.

use crate::flow::PlaneCounters;
use crate::flow::bins::Snapshot;
use serde::{Deserialize, Serialize};

/// Live flows by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// Connections through the tap: the guest's, and those of clients that are injected.
    pub tcp: u64,
    /// Mappings of the guest's datagrams.
    pub udp: u64,
    /// Mappings of its echoes.
    pub icmp: u64,
    /// Sockets to resolvers.
    pub dns: u64,
    /// Datagram clients of published ports, through the tap.
    pub injected_udp: u64,
    /// Relayed connections.
    pub relay_tcp: u64,
    /// Relayed datagram clients.
    pub relay_udp: u64,
}

/// The ring.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RingStats {
    /// Times the kernel was entered.
    pub enters: u64,
    /// Entries submitted.
    pub submitted: u64,
    /// Completions taken.
    pub completed: u64,
    /// Times the submission queue was full.
    pub queue_full: u64,
    /// Multishot operations that ended for want of a buffer.
    pub starved: u64,
    /// Operations refused because too many were in flight.
    pub refused: u64,
    /// Operations in flight.
    pub inflight: u64,
}

/// Buffers of one class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BufferStats {
    /// Slots.
    pub total: u64,
    /// In use: payload that somebody has not taken.
    pub held: u64,
    /// Bytes of one.
    pub size: u64,
}

/// The pool of pipes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PipeStats {
    /// Most that there may be.
    pub most: u64,
    /// On loan to connections.
    pub lent: u64,
    /// Open and unused.
    pub idle: u64,
    /// Made so far.
    pub made: u64,
    /// Times that there was none to lend.
    pub refused: u64,
    /// Closed because something was left in them.
    pub spoiled: u64,
}

/// What was measured. Times are in microseconds, sizes in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Histograms {
    /// Sizes of frames read from the tap, Ethernet header included.
    pub frame_bytes_from_guest: Snapshot,
    /// Sizes of frames written to the tap, likewise.
    pub frame_bytes_to_guest: Snapshot,
    /// Entries submitted by each wake-up of the plane.
    pub submitted_per_wakeup: Snapshot,
    /// Completions handled by each.
    pub completed_per_wakeup: Snapshot,
    /// From the guest's SYN to the connection that the host made for it.
    pub connect_host_us: Snapshot,
    /// From a client's connection to a published port to that of the server in the guest.
    pub connect_guest_us: Snapshot,
    /// From a client's connection to a published port to the first byte that it got.
    pub first_byte_us: Snapshot,
    /// From a question of the guest at the DNS address to its answer.
    pub dns_us: Snapshot,
}

/// Everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaneStats {
    /// Since the plane began, in milliseconds.
    pub age_ms: u64,
    /// Frames, flows and drops.
    pub counters: PlaneCounters,
    /// Live flows.
    pub live: Live,
    /// The ring.
    pub ring: RingStats,
    /// Buffers by class, as in [`crate::buf::Class::ALL`].
    pub buffers: [BufferStats; 5],
    /// Requests for a buffer that found none.
    pub buffers_refused: u64,
    /// Pipes.
    pub pipes: PipeStats,
    /// Sizes, batches and times.
    pub histograms: Histograms,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Bins;
    use crate::msg::{Channel, FromPlane};

    #[test]
    fn what_a_plane_has_counted_in_a_year_fits_a_message() {
        let mut bins = Bins::default();
        for power in 0..36 {
            for part in 0..16u64 {
                for _ in 0..1000 {
                    bins.record((16 + part) << power >> 4);
                }
            }
        }
        let full = bins.snapshot();
        let stats = PlaneStats {
            histograms: Histograms {
                frame_bytes_from_guest: full.clone(),
                frame_bytes_to_guest: full.clone(),
                submitted_per_wakeup: full.clone(),
                completed_per_wakeup: full.clone(),
                connect_host_us: full.clone(),
                connect_guest_us: full.clone(),
                first_byte_us: full.clone(),
                dns_us: full,
            },
            ..PlaneStats::default()
        };
        let (ours, theirs) = Channel::pair().unwrap();
        let message = FromPlane::Stats(Box::new(stats));
        ours.send(&message, &[]).unwrap();
        assert_eq!(theirs.recv::<FromPlane>().unwrap().0, message);
    }
}
