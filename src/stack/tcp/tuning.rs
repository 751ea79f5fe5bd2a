//! Every number of this TCP that is a choice, with its reason.
//!
//! Protocol numbers that follow from an RFC stand beside their use; what is here could be otherwise.

use crate::buf::{HOST_SLOT, SMALL_SLOT, TAP_SLOT};
use crate::config::Limits;
use std::time::Duration;

/// Bounds on what connections may hold. Bytes unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpLimits {
    /// Connections with a host socket, or still owing the guest data.
    pub flows: usize,
    /// Connections that do not stand yet; the oldest makes room. A SYN flood costs that many descriptors.
    pub half_open: usize,
    /// Connections whose host side is over while the guest has not taken everything.
    pub orphans: usize,
    /// Tuples in TIME_WAIT; the oldest makes room. They hold no descriptor and about 200 bytes.
    pub time_wait: usize,
    /// Data from the guest that one connection may hold: the largest window it advertises.
    pub receive_bytes: u32,
    /// Tap buffers that one connection may hold.
    pub flow_tap_slots: u32,
    /// Tap buffers that all connections together aim to stay below: each may hold as many as are free below this
    /// mark, so one busy flow gets its share and many stalled ones shrink to nearly nothing (dynamic thresholds,
    /// Choudhury and Hahne 1998).
    pub tap_slots: u32,
    /// Tap buffers beyond which even promised data is dropped, so that the tap can always be read.
    pub tap_slots_hard: u32,
    /// Small buffers that one connection may hold.
    pub flow_small_slots: u32,
    /// Small buffers that all connections together may hold.
    pub small_slots: u32,
    /// Data for the guest that one connection holds before it stops reading from the host.
    pub send_bytes: usize,
    /// Buffers of such data.
    pub send_buffers: usize,
    /// Memory of the buffers of such data, of all connections together: each may hold half of what is free below this mark,
    /// so that guests' programs which do not read leave the others something to receive into.
    pub send_memory: usize,
}

impl TcpLimits {
    /// What a guest with these limits may have of an arena with this many slots: tap, host, small.
    pub fn of(limits: &Limits, slots: [u32; 3]) -> Self {
        let [tap, host, small] = limits.buffered.map_or(slots, |bytes| share_of(slots, bytes));
        let half_open = limits.half_open.min((limits.flows / 4).max(16));
        Self { half_open, ..Self::new(limits.flows, tap, host, small) }
    }

    /// Limits for an arena with this many slots of each class and at most `flows` connections. A quarter of the tap
    /// slots stays free for reading, whatever connections do.
    pub fn new(flows: usize, tap_slots: u32, host_slots: u32, small_slots: u32) -> Self {
        Self {
            flows,
            // A burst of a thousand connects at once is a benchmark, more is a flood.
            half_open: (flows / 4).clamp(16, 4096),
            orphans: (flows / 4).clamp(16, 4096),
            time_wait: 16_384,
            receive_bytes: 1 << 20,
            flow_tap_slots: (tap_slots * 3 / 8).max(2),
            tap_slots: (tap_slots * 5 / 8).max(2),
            tap_slots_hard: (tap_slots * 3 / 4).max(3),
            flow_small_slots: 128,
            small_slots: (small_slots * 3 / 4).max(16),
            send_bytes: 1 << 20,
            send_buffers: 48,
            send_memory: host_slots as usize * HOST_SLOT * 3 / 4,
        }
    }
}

/// Slots of each class that connections may use in any case, where there are so many.
const SLOTS_MIN: u32 = 8;

/// The part of these slots that has so many bytes altogether.
fn share_of(slots: [u32; 3], bytes: u64) -> [u32; 3] {
    let [tap, host, small] = slots.map(u64::from);
    let all = tap * TAP_SLOT as u64 + host * HOST_SLOT as u64 + small * SMALL_SLOT as u64;
    slots.map(|n| {
        // No more than n, so it fits.
        let part = (u64::from(n) * bytes.min(all) / all.max(1)) as u32;
        part.max(SLOTS_MIN).min(n)
    })
}

/// Payload bytes that a tap buffer holds at least once short payloads are packed: two neighbours that could not be
/// joined are together longer than a slot (72 KiB).
pub const PACKED_TAP: u32 = 32 * 1024;
/// Same for small buffers.
pub const PACKED_SMALL: u32 = 2 * 1024;
/// From this many tap buffers on a connection packs payloads of every length rather than only short ones: a copy of a
/// few microseconds instead of a closed window.
pub const PACK_ALL_FROM: u32 = 8;
/// Payload pieces held out of order.
pub const MAX_OUT_OF_ORDER: usize = 256;

/// A connection whose share is less than one buffer receives in pieces (see `intake`).
pub const LEAST_SHARE: usize = HOST_SLOT;
/// One send to the host takes at most this many spans: `IOV_MAX` is far, but beyond a mebibyte nothing is gained.
pub const SEND_SPANS: usize = 16;
/// And at most this many bytes.
pub const SEND_BYTES: usize = 1 << 20;
/// Spans of one frame to the guest: a writev of a header and these.
pub const FRAME_SPANS: usize = 8;

/// The path is a memory copy into the guest's receive routine: nothing to probe for. A mebibyte is sixteen
/// super-frames, a millisecond at 8 Gbit/s.
pub const INITIAL_CWND: u32 = 1 << 20;
/// Windows never grow beyond this; queues are bounded far below it.
pub const MAX_CWND: u32 = 8 << 20;
/// Segments to restart with after a timeout (as RFC 6928 starts).
pub const RESTART_SEGMENTS: u32 = 10;
/// Segments a round trip that congestion avoidance adds. Reno's one segment suits a shared bottleneck; here the
/// bottleneck, if a guest has built one behind the tap, is its own.
pub const AVOIDANCE_SEGMENTS: u32 = 8;

/// An acknowledgement that a reply is likely to carry waits this long. The guest's Nagle algorithm may wait for it, so
/// it is far below the usual 40 ms; libslirp waited 2 ms as well.
pub const ACK_DELAY: Duration = Duration::from_millis(2);
/// Dataless segments outside the window are answered at most this often per connection, so that two confused ends
/// cannot keep each other busy.
pub const OUT_OF_WINDOW_INTERVAL: Duration = Duration::from_millis(50);
/// Challenge acknowledgements of all connections together, per second (RFC 5961 section 7).
pub const CHALLENGES_PER_SECOND: u32 = 500;
/// A closed window has to reopen this far before the guest is told, or half the share where that is less: one
/// super-frame.
pub const WINDOW_STEP: u32 = 64 * 1024;

/// The host's answer to a connect is waited for this long (slirp4netns: 75 s).
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(75);
/// A guest whose MAC is not known is asked for it this often while a connection waits for it.
pub const ASK_NEIGHBOUR: Duration = Duration::from_millis(100);
/// And for this long before the connection is given up (Linux: three questions, a second each).
pub const NEIGHBOUR_WAIT: Duration = Duration::from_secs(3);
/// SYN-ACK retransmissions before giving up (Linux: 5).
pub const MAX_SYN_RETRIES: u8 = 5;
/// SYN retransmissions towards the guest before its client is told: the guest is a frame away, so who has not answered
/// after 1 + 2 + 4 + 8 seconds has no mind to. Linux would try for 63 or 127.
pub const MAX_DIAL_RETRIES: u8 = 3;
/// Retransmissions of one segment before giving up: about six minutes.
pub const MAX_RETRIES: u8 = 15;
/// Same once the host side is over and nobody waits for the outcome (Linux `tcp_orphan_retries`).
pub const MAX_ORPHAN_RETRIES: u8 = 8;
/// A window probe's longest distance: the guest may come back any time and its update may be lost.
pub const PERSIST_MAX: Duration = Duration::from_secs(10);
/// The guest may keep its window closed for this long once the host side is over.
pub const ORPHAN_STALL: Duration = Duration::from_secs(600);
/// TIME_WAIT, as slirp4netns: segments do not linger on a tap.
pub const TIME_WAIT: Duration = Duration::from_secs(10);
/// A silent guest is asked after this whether it still knows the connection, and up to half of that later, each connection
/// in its turn. RFC 9293 section 3.8.4 wants two hours by default, for the sake of networks and of paths that fail for a
/// while; between a guest and us there is neither, and each connection that its kernel has forgotten is a descriptor here.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(300);
/// Same in FIN_WAIT_2: that is where sockets leak.
pub const FIN_WAIT_2_IDLE: Duration = Duration::from_secs(60);
/// Questions to silent guests are asked at multiples of this many nanoseconds, as a power of two (about a second), so that
/// those of a crowd share their wake-ups.
pub const KEEPALIVE_GRID_BITS: u32 = 30;
/// Resets within a second that make us ask the connections that are silent: the tap's queue in the guest is 500 frames long
/// unless we have configured it, so fewer are not lost.
pub const MASS_RESETS: u32 = 128;
/// From the first sign until the silent are asked: what was sent by then has arrived.
pub const SWEEP_AFTER: Duration = Duration::from_secs(1);
/// Between the ends and the beginnings of such rounds, so that a guest that resets all day costs little.
pub const SWEEP_DISTANCE: Duration = Duration::from_secs(10);
/// Connections looked at in one step, well below the length of the tap's queue, for the answers go through it.
pub const SWEEP_STEP: usize = 64;
/// Distance of these steps: ten thousand connections take half a second.
pub const SWEEP_PACE: Duration = Duration::from_millis(3);
/// Distance of further probes.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// Unanswered probes before the connection is given up.
pub const KEEPALIVE_PROBES: u8 = 6;
/// The guest is gone, the host does not take what is left: this long without progress, then reset.
pub const DRAIN_STALL: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::DEFAULT_SLOTS;

    #[test]
    fn a_share_is_a_part_of_each_class_and_never_nothing() {
        let all = 256 * (TAP_SLOT + HOST_SLOT) as u64 + 4096 * SMALL_SLOT as u64;
        assert_eq!(share_of(DEFAULT_SLOTS, all), DEFAULT_SLOTS);
        assert_eq!(share_of(DEFAULT_SLOTS, all / 2), DEFAULT_SLOTS.map(|n| n / 2));
        assert_eq!(share_of(DEFAULT_SLOTS, u64::MAX), DEFAULT_SLOTS);
        assert_eq!(share_of(DEFAULT_SLOTS, 1), [SLOTS_MIN; 3]);
        assert_eq!(share_of([4, 4, 4], 1), [4, 4, 4]);
    }

    #[test]
    fn limits_of_a_guest_hold_within_those_of_the_plane() {
        let limits = Limits { flows: 100, half_open: 20, new_flows: 1, buffered: Some(4 << 20) };
        let l = TcpLimits::of(&limits, DEFAULT_SLOTS);
        let whole = TcpLimits::new(100, 256, 256, 4096);
        assert_eq!((l.flows, l.half_open), (100, 20));
        assert!(l.tap_slots < whole.tap_slots / 8 && l.send_memory < whole.send_memory / 8);
        assert_eq!(TcpLimits::of(&Limits { half_open: 90, ..limits }, DEFAULT_SLOTS).half_open, 25);
    }
}
