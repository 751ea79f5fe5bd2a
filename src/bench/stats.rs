//! Medians, spreads, and how figures are written.
//!
//! A figure is taken a few times, contenders in turn. The median counts: one disturbed round does not move it. The spread is
//! the whole range from the lowest to the highest sample, for with three or five of them no finer measure means anything.

use serde::{Deserialize, Serialize};

/// The median; of an even number of samples, the middle between the middle two.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let n = sorted.len();
    match n {
        0 => None,
        _ if n % 2 == 1 => Some(sorted[n / 2]),
        _ => Some((sorted[n / 2 - 1] + sorted[n / 2]) / 2.0),
    }
}

/// Three significant digits.
pub fn show(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// What several samples came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// The median.
    pub median: f64,
    /// The lowest sample.
    pub low: f64,
    /// The highest sample.
    pub high: f64,
}

impl Spread {
    /// Of `samples`; `None` without any.
    pub fn of(samples: &[f64]) -> Option<Self> {
        let low = samples.iter().copied().min_by(f64::total_cmp)?;
        let high = samples.iter().copied().max_by(f64::total_cmp)?;
        Some(Self { median: median(samples)?, low, high })
    }

    /// Half of the range in proportion to the median: 0.05 is ±5 %. Nothing for a median of zero.
    pub fn relative(&self) -> f64 {
        if self.median == 0.0 { 0.0 } else { (self.high - self.low) / 2.0 / self.median.abs() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_the_middle_one() {
        assert_eq!(median(&[]), None);
        assert_eq!(median(&[3.0, 1.0, 200.0]), Some(3.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 200.0]), Some(3.0));
    }

    #[test]
    fn a_spread_is_the_whole_range() {
        let s = Spread::of(&[10.0, 9.0, 12.0]).unwrap();
        assert_eq!((s.median, s.low, s.high), (10.0, 9.0, 12.0));
        assert!((s.relative() - 0.15).abs() < 1e-9);
        assert_eq!(Spread::of(&[]), None);
        assert_eq!(Spread::of(&[0.0, 1.0, 0.0]).unwrap().relative(), 0.0);
    }

    #[test]
    fn figures_have_three_digits() {
        for (value, text) in
            [(1234.5, "1234"), (12.34, "12.3"), (0.456, "0.46"), (0.0, "0.00"), (0.01234, "0.0123")]
        {
            assert_eq!(show(value), text);
        }
    }
}
