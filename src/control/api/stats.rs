//! What the plane has counted and measured, as JSON: `GET /ringtap/v1/stats`.
//!
//! The plane records in fixed bins; quantiles are found here, by hdrhistogram. A quantile is the greatest value of its bin,
//! a sixteenth too large at most, and never more than the greatest value that came.

use super::views::Counters;
use crate::flow::bins::Snapshot;
use crate::msg::PlaneStats;
use crate::msg::stats::{BufferStats, Live, PipeStats, RingStats};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Everything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatsView {
    /// Since the plane began, in milliseconds: that is when counters were zero.
    pub age_ms: u64,
    /// Frames, flows and drops.
    pub counters: Counters,
    /// Live flows.
    pub live: Live,
    /// The ring.
    pub ring: RingStats,
    /// Buffers.
    pub buffers: Buffers,
    /// The pool of pipes.
    pub pipes: PipeStats,
    /// Sizes, batches and times.
    pub histograms: Histograms,
}

/// Buffers by class.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buffers {
    /// For frames from the tap.
    pub tap: BufferStats,
    /// For what streams of host sockets receive.
    pub host: BufferStats,
    /// For what is short.
    pub small: BufferStats,
    /// For what relayed streams receive.
    pub relay: BufferStats,
    /// For datagrams that are received.
    pub message: BufferStats,
    /// Requests that found none.
    pub refused: u64,
}

/// What was measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Histograms {
    /// Bytes of frames from the guest.
    pub frame_bytes_from_guest: HistogramView,
    /// Bytes of frames to the guest.
    pub frame_bytes_to_guest: HistogramView,
    /// Entries submitted by each wake-up.
    pub submitted_per_wakeup: HistogramView,
    /// Completions handled by each.
    pub completed_per_wakeup: HistogramView,
    /// Microseconds from the guest's SYN to the host's connection.
    pub connect_host_us: HistogramView,
    /// Microseconds from a published port's client to the server's connection.
    pub connect_guest_us: HistogramView,
    /// Microseconds from a published port's client to its first byte.
    pub first_byte_us: HistogramView,
    /// Microseconds from a question at the DNS address to its answer.
    pub dns_us: HistogramView,
}

/// A distribution.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct HistogramView {
    /// Values.
    pub count: u64,
    /// All of them together.
    pub sum: u64,
    /// Half of them are no greater.
    pub p50: u64,
    /// Nine of ten.
    pub p90: u64,
    /// 99 of 100.
    pub p99: u64,
    /// 999 of 1000.
    pub p999: u64,
    /// The greatest.
    pub max: u64,
    /// Bins that are not empty: their least value, and how many values they have.
    pub bins: Vec<[u64; 2]>,
}

impl From<&Snapshot> for HistogramView {
    fn from(told: &Snapshot) -> Self {
        let bins = told.iter().map(|(first, _, n)| [first, n]).collect();
        let mut view = Self { count: told.count, sum: told.sum, max: told.most, bins, ..Self::default() };
        // Three digits; it grows as needed, so neither making nor recording fails.
        if let Ok(mut histogram) = Histogram::<u64>::new(3) {
            for (_, end, n) in told.iter() {
                let _ = histogram.record_n(end - 1, n);
            }
            let at = |q| histogram.value_at_quantile(q).min(told.most);
            (view.p50, view.p90, view.p99, view.p999) = (at(0.5), at(0.9), at(0.99), at(0.999));
        }
        view
    }
}

impl From<&PlaneStats> for StatsView {
    fn from(s: &PlaneStats) -> Self {
        let [tap, host, small, relay, message] = s.buffers;
        let h = &s.histograms;
        Self {
            age_ms: s.age_ms,
            counters: Counters::from(&s.counters),
            live: s.live,
            ring: s.ring,
            buffers: Buffers { tap, host, small, relay, message, refused: s.buffers_refused },
            pipes: s.pipes,
            histograms: Histograms {
                frame_bytes_from_guest: (&h.frame_bytes_from_guest).into(),
                frame_bytes_to_guest: (&h.frame_bytes_to_guest).into(),
                submitted_per_wakeup: (&h.submitted_per_wakeup).into(),
                completed_per_wakeup: (&h.completed_per_wakeup).into(),
                connect_host_us: (&h.connect_host_us).into(),
                connect_guest_us: (&h.connect_guest_us).into(),
                first_byte_us: (&h.first_byte_us).into(),
                dns_us: (&h.dns_us).into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::Bins;

    #[test]
    fn quantiles_are_those_of_the_values_within_a_sixteenth() {
        let mut bins = Bins::default();
        for value in 1..=1000 {
            bins.record(value);
        }
        let view = HistogramView::from(&bins.snapshot());
        assert_eq!((view.count, view.sum, view.max), (1000, 500_500, 1000));
        for (is, should) in [(view.p50, 500), (view.p90, 900), (view.p99, 990), (view.p999, 999)] {
            assert!((should..=should + should / 16 + 1).contains(&is), "{is} for {should}");
        }
        assert_eq!(view.bins.iter().map(|[_, n]| n).sum::<u64>(), 1000);
        assert_eq!(HistogramView::from(&Bins::default().snapshot()), HistogramView::default());
    }
}
