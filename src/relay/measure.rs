//! Which kind of splicing serves a pump better, by what is measured.
//!
//! Theory of operation. Time is cut into windows of [`WINDOW`]. The rate of each becomes part of a smoothed figure for
//! the gear it was taken in. Both gears are tried for one window each, then the better one is kept; the other is looked
//! at again every [`AGAIN`] windows, for the machine may have become busier. So a wrong choice costs one window in
//! [`AGAIN`], and is found out within a second and a half.

use super::Gear;
use crate::flow::Time;
use std::time::Duration;

/// Length of a window: hundreds of moves at the rates that matter.
pub const WINDOW: Duration = Duration::from_millis(20);
/// Windows between two looks at the other gear.
pub const AGAIN: u32 = 64;

/// Rates of the two gears, in bytes a second.
#[derive(Clone, Debug)]
pub struct Measure {
    rates: [Option<f64>; 2],
    since: Time,
    bytes: u64,
    windows: u32,
}

const fn index(gear: Gear) -> usize {
    matches!(gear, Gear::SpliceCall) as usize
}

impl Measure {
    /// Nothing is known yet.
    pub const fn new() -> Self {
        Self { rates: [None; 2], since: Time::ZERO, bytes: 0, windows: 0 }
    }

    /// A window begins.
    pub fn begin(&mut self, now: Time) {
        self.since = now;
        self.bytes = 0;
    }

    /// Bytes have been moved in `gear`; answers which gear to use from now on.
    pub fn moved(&mut self, now: Time, gear: Gear, bytes: u64) -> Gear {
        self.bytes += bytes;
        let time = now.since(self.since);
        if time < WINDOW {
            return gear;
        }
        let rate = self.bytes as f64 / time.as_secs_f64();
        let known = &mut self.rates[index(gear)];
        *known = Some(known.map_or(rate, |old| (old + rate) / 2.0));
        self.begin(now);
        self.windows += 1;
        self.best(gear)
    }

    fn best(&self, gear: Gear) -> Gear {
        let other = if gear == Gear::SpliceSqe { Gear::SpliceCall } else { Gear::SpliceSqe };
        match (self.rates[index(gear)], self.rates[index(other)]) {
            (Some(_), None) => other,
            _ if self.windows.is_multiple_of(AGAIN) => other,
            (Some(a), Some(b)) if b > a => other,
            _ => gear,
        }
    }
}

impl Default for Measure {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gears used over `windows` windows when the two give these rates.
    fn course(sqe: u64, call: u64, windows: usize) -> Vec<Gear> {
        let mut measure = Measure::new();
        let (mut now, mut gear) = (Time::ZERO, Gear::SpliceSqe);
        measure.begin(now);
        let mut seen = Vec::new();
        for _ in 0..windows {
            now += WINDOW;
            seen.push(gear);
            gear = measure.moved(now, gear, if gear == Gear::SpliceSqe { sqe } else { call });
        }
        seen
    }

    #[test]
    fn both_are_tried_and_the_better_one_is_kept() {
        for (sqe, call, better) in [(10, 20, Gear::SpliceCall), (20, 10, Gear::SpliceSqe)] {
            let seen = course(sqe, call, 640);
            assert_eq!(seen[..2], [Gear::SpliceSqe, Gear::SpliceCall]);
            let worse = seen.iter().filter(|g| **g != better).count();
            // Looked at now and then, and not more.
            assert!((5..=12).contains(&worse), "{worse}");
        }
    }

    #[test]
    fn a_window_is_not_cut_short() {
        let mut measure = Measure::new();
        measure.begin(Time::ZERO);
        let early = Time::ZERO + WINDOW / 2;
        assert_eq!(measure.moved(early, Gear::SpliceSqe, 1 << 30), Gear::SpliceSqe);
        assert_eq!(measure.rates, [None; 2]);
    }
}
