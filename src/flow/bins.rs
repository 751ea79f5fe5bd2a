//! Histograms that cost the data path two additions and a store: fixed log-linear bins.
//!
//! Theory of operation. A value below [`LINEAR`] has a bin of its own; above that every power of two is cut into
//! [`LINEAR`] bins of equal width, so a bin is at most a sixteenth as wide as its values are large. All bins exist from the
//! start: recording allocates nothing and takes no lock. What travels to whoever asked is a [`Snapshot`], which leaves out
//! the empty bins; quantiles are found there, not in the plane.
//!
//! Limits: values from [`LIMIT`] on fall into the last bin. Nothing is ever reset, so readers take differences.

use serde::{Deserialize, Serialize};

/// Bins of one width in a row.
pub const LINEAR: u64 = 1 << BITS;
const BITS: u32 = 4;
/// The first value that has no bin of its own: nineteen hours, where values are microseconds.
pub const LIMIT: u64 = 1 << TOP;
const TOP: u32 = 36;
const BINS: usize = ((TOP - BITS + 1) as usize) << BITS;

/// Values and how often they came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bins {
    count: u64,
    sum: u64,
    most: u64,
    bins: Box<[u64; BINS]>,
}

impl Default for Bins {
    fn default() -> Self {
        Self { count: 0, sum: 0, most: 0, bins: Box::new([0; BINS]) }
    }
}

impl Bins {
    /// Counts a value.
    pub fn record(&mut self, value: u64) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(value);
        self.most = self.most.max(value);
        self.bins[index(value)] += 1;
    }

    /// Counts a time, in microseconds.
    pub fn record_time(&mut self, time: std::time::Duration) {
        self.record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    /// Values counted.
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// What there is, for a message.
    pub fn snapshot(&self) -> Snapshot {
        let bins = (0u16..).zip(&self.bins[..]).filter(|(_, n)| **n > 0).map(|(i, n)| (i, *n)).collect();
        Snapshot { count: self.count, sum: self.sum, most: self.most, bins }
    }
}

/// Where a value belongs.
const fn index(value: u64) -> usize {
    if value < LINEAR {
        return value as usize;
    }
    let value = if value < LIMIT { value } else { LIMIT - 1 };
    let power = 63 - value.leading_zeros();
    let within = (value >> (power - BITS)) & (LINEAR - 1);
    (((power - BITS + 1) << BITS) as usize) + within as usize
}

/// The values of a bin: the first, and the one after the last.
const fn range(index: u16) -> (u64, u64) {
    let index = index as u64;
    if index < LINEAR {
        return (index, index + 1);
    }
    let width = (index >> BITS) - 1;
    let first = ((index & (LINEAR - 1)) + LINEAR) << width;
    (first, first + (1 << width))
}

/// What a [`Bins`] had counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Values.
    pub count: u64,
    /// All of them together.
    pub sum: u64,
    /// The greatest.
    pub most: u64,
    bins: Vec<(u16, u64)>,
}

impl Snapshot {
    /// Bins that are not empty, in order: their first value, the one after their last, and how many values.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.bins.iter().map(|(index, n)| {
            let (first, end) = range(*index);
            (first, end, *n)
        })
    }

    /// How many values are below 2^`power`: exact, for no bin spans a power of two.
    pub fn below(&self, power: u32) -> u64 {
        self.iter().filter(|(_, end, _)| *end <= 1 << power).map(|(.., n)| n).sum()
    }
}

impl std::ops::Add for Snapshot {
    type Output = Self;

    /// Both together.
    fn add(self, other: Self) -> Self {
        let mut bins = std::collections::BTreeMap::from_iter(self.bins);
        for (index, n) in other.bins {
            *bins.entry(index).or_default() += n;
        }
        Self {
            count: self.count + other.count,
            sum: self.sum.wrapping_add(other.sum),
            most: self.most.max(other.most),
            bins: bins.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_in_the_range_of_its_bin_and_bins_are_narrow() {
        let powers =
            (0..TOP).flat_map(|p| [(1u64 << p) - 1, 1 << p, (1 << p) + 1, 3 << p >> 1, (1 << p) * 7 / 5]);
        for value in powers.filter(|v| *v < LIMIT) {
            let (first, end) = range(index(value) as u16);
            assert!((first..end).contains(&value), "{value} in {first}..{end}");
            assert!(end - first <= 1 + value / LINEAR, "{first}..{end}");
        }
        for at in 1..BINS as u16 {
            assert_eq!(range(at - 1).1, range(at).0, "bin {at}");
        }
        assert_eq!(range(BINS as u16 - 1).1, LIMIT);
        assert_eq!((index(LIMIT), index(u64::MAX)), (BINS - 1, BINS - 1));
    }

    #[test]
    fn what_was_recorded_is_told() {
        let mut bins = Bins::default();
        for value in [0, 5, 5, 1023, 1024, 70_000] {
            bins.record(value);
        }
        bins.record_time(std::time::Duration::from_millis(2));
        let told = bins.snapshot();
        assert_eq!((told.count, told.sum, told.most), (7, 74_057, 70_000));
        assert_eq!(told.iter().map(|(.., n)| n).sum::<u64>(), 7);
        assert_eq!((told.below(0), told.below(3), told.below(10), told.below(11)), (1, 3, 4, 6));
        assert_eq!(told.iter().nth(1), Some((5, 6, 2)));
        let mut other = Bins::default();
        other.record(5);
        other.record(99);
        let both = told.clone() + other.snapshot();
        assert_eq!((both.count, both.sum, both.most), (9, 74_161, 70_000));
        assert_eq!((both.iter().nth(1), both.below(7)), (Some((5, 6, 3)), 5));
    }
}
