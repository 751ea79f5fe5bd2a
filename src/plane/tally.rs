//! What the plane measures of itself, and everything that it has counted, for whoever asks.
//!
//! Histograms are recorded where things happen: here those of the shard, in [`crate::stack`] those of frames and questions, in
//! [`super::relays`] those of relayed connections. Asking for all of them costs some microseconds.

use super::shard::Shard;
use crate::buf::Class;
use crate::flow::bins::Snapshot;
use crate::flow::{Bins, Kind, PlaneCounters, Time};
use crate::msg::PlaneStats;
use crate::msg::stats::{BufferStats, Histograms, Live, PipeStats, RingStats};
use crate::ring::Ring;

/// Measured by a shard.
#[derive(Debug, Default)]
pub struct Times {
    /// Entries submitted since the wake-up before.
    pub submitted_per_wakeup: Bins,
    /// Completions handled.
    pub completed_per_wakeup: Bins,
    /// From the guest's SYN to the host's connection.
    pub connect_host: Bins,
    /// From a client's connection to the guest's, through the tap.
    pub connect_guest: Bins,
    /// From a client's connection to the first byte that it got, through the tap.
    pub first_byte: Bins,
    submitted: u64,
}

impl Times {
    /// The plane has woken up; `submitted` entries in all so far.
    pub fn woken(&mut self, submitted: u64) {
        self.submitted_per_wakeup.record(submitted - self.submitted);
        self.submitted = submitted;
    }
}

impl Shard {
    /// The counters of the stack, and how many buffers are in use.
    pub(super) fn counters(&self) -> PlaneCounters {
        let arena = self.ring.arena();
        let held = Class::ALL.map(|class| arena.held_count(class));
        PlaneCounters { buffers_held: held.iter().sum::<usize>() as u64, ..self.stack.counters().clone() }
    }

    /// Everything.
    pub(super) fn stats(&self) -> PlaneStats {
        let live = |kind| self.stack.live(kind) as u64;
        let relays = self.relay_ports.stats();
        let [from_guest, to_guest] = self.stack.frame_sizes();
        let times = &self.times;
        PlaneStats {
            age_ms: super::queries::millis(self.now.since(Time::ZERO)),
            counters: self.counters(),
            live: Live {
                tcp: live(Kind::Tcp),
                udp: live(Kind::Udp),
                icmp: live(Kind::Ping),
                dns: live(Kind::Dns),
                injected_udp: live(Kind::Inbound),
                relay_tcp: relays.tcp,
                relay_udp: relays.udp,
            },
            ring: ring(&self.ring),
            buffers: Class::ALL.map(|class| self.buffers(class)),
            buffers_refused: self.ring.arena().counters().refused,
            pipes: relays.pipes,
            histograms: Histograms {
                frame_bytes_from_guest: from_guest.snapshot(),
                frame_bytes_to_guest: to_guest.snapshot(),
                submitted_per_wakeup: times.submitted_per_wakeup.snapshot(),
                completed_per_wakeup: times.completed_per_wakeup.snapshot(),
                connect_host_us: times.connect_host.snapshot(),
                connect_guest_us: times.connect_guest.snapshot() + relays.connect,
                first_byte_us: times.first_byte.snapshot() + relays.first_byte,
                dns_us: self.stack.dns_times().snapshot(),
            },
        }
    }

    fn buffers(&self, class: Class) -> BufferStats {
        let arena = self.ring.arena();
        BufferStats {
            total: arena.slot_count(class) as u64,
            held: arena.held_count(class) as u64,
            size: class.capacity() as u64,
        }
    }
}

fn ring<T: Copy>(ring: &Ring<T>) -> RingStats {
    let c = ring.counters();
    RingStats {
        enters: c.enters,
        submitted: c.submitted,
        completed: c.completed,
        queue_full: c.queue_full,
        starved: c.starved,
        refused: c.refused,
        inflight: ring.inflight() as u64,
    }
}

/// What the relays add.
#[derive(Debug, Default)]
pub struct RelayStats {
    /// Live connections.
    pub tcp: u64,
    /// Live datagram clients.
    pub udp: u64,
    /// The pool.
    pub pipes: PipeStats,
    /// As [`Histograms::connect_guest_us`].
    pub connect: Snapshot,
    /// As [`Histograms::first_byte_us`].
    pub first_byte: Snapshot,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wake_up_is_told_what_was_submitted_since_the_one_before() {
        let mut times = Times::default();
        for submitted in [5, 5, 12] {
            times.woken(submitted);
        }
        let told = times.submitted_per_wakeup.snapshot();
        assert_eq!((told.count, told.sum, told.most), (3, 12, 7));
    }
}
