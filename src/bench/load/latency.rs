//! Latencies: recorded in a histogram, told as quantiles.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::cell::RefCell;
use std::io;
use std::time::Duration;

/// Longest latency that the histogram tells apart, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;
/// Digits that count.
const DIGITS: u8 = 3;

/// The quantiles that are kept: enough for the figures of a table and for a curve.
pub const QUANTILES: [f64; 14] =
    [0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998, 0.999, 0.9999, 1.0];

/// How long the operations of a window took.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Latency {
    /// Operations.
    pub count: u64,
    /// Microseconds at each of [`QUANTILES`].
    pub us: Vec<f64>,
}

impl Latency {
    /// Microseconds at one of [`QUANTILES`]; `None` for any other.
    pub fn at(&self, quantile: f64) -> Option<f64> {
        self.us.get(QUANTILES.iter().position(|q| *q == quantile)?).copied()
    }

    /// The longest, in microseconds.
    pub fn max(&self) -> Option<f64> {
        self.at(1.0)
    }
}

/// Where a generator's tasks record.
pub struct Recorder(RefCell<Histogram<u64>>);

impl Recorder {
    /// Nothing recorded.
    pub fn new() -> io::Result<Self> {
        Ok(Self(Histogram::new_with_bounds(1, LONGEST, DIGITS).map_err(io::Error::other)?.into()))
    }

    /// One operation took so long.
    pub fn record(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(LONGEST);
        self.0.borrow_mut().saturating_record(nanos.clamp(1, LONGEST));
    }

    /// What there is; `None` for nothing.
    pub fn summary(&self) -> Option<Latency> {
        let seen = self.0.borrow();
        let us = QUANTILES.iter().map(|q| seen.value_at_quantile(*q) as f64 / 1e3).collect();
        (!seen.is_empty()).then(|| Latency { count: seen.len(), us })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_those_of_what_was_recorded() {
        let recorder = Recorder::new().unwrap();
        assert_eq!(recorder.summary(), None);
        for us in 1..=1000 {
            recorder.record(Duration::from_micros(us));
        }
        let seen = recorder.summary().unwrap();
        assert_eq!(seen.count, 1000);
        for (quantile, us) in [(0.5, 500.0), (0.99, 990.0), (1.0, 1000.0)] {
            let at = seen.at(quantile).unwrap();
            assert!((at / us - 1.0).abs() < 0.01, "{quantile}: {at}");
        }
        assert_eq!(seen.at(0.123), None);
        assert!(seen.us.is_sorted());
    }
}
