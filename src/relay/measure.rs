//! Which gear serves a bulk direction best, by what is measured.
//!
//! Theory of operation. Time is cut into windows of [`WINDOW`]. The rate of each becomes part of a smoothed figure for the
//! gear it was taken in. Every gear is tried for one window, then the best is kept; the others are looked at again in turn,
//! one every [`AGAIN`] windows, for the machine may have become busier. So a wrong choice costs a window in [`AGAIN`].
//!
//! Splicing costs less of the processor for each byte, which rates do not show where a peer is the slower one: copying is
//! chosen only if it is faster by a [`MARGIN`], and between the two kinds of splicing a change wants one as well, so that
//! equals do not take turns.

use super::Gear;
use crate::flow::Time;
use std::time::Duration;

/// Length of a window: hundreds of moves at the rates that matter.
pub const WINDOW: Duration = Duration::from_millis(20);
/// Windows between two looks at another gear.
pub const AGAIN: u32 = 64;
/// What is better by less is not better.
const MARGIN: f64 = 1.0 + 1.0 / 16.0;
/// A window that took this many times its length had a pause in it, and says nothing.
const PAUSE: u32 = 4;

const GEARS: [Gear; 3] = [Gear::SpliceCall, Gear::SpliceSqe, Gear::Copy];

/// Rates of the gears, in bytes a second.
#[derive(Clone, Debug, Default)]
pub struct Measure {
    rates: [Option<f64>; 3],
    since: Time,
    bytes: u64,
    windows: u32,
}

const fn index(gear: Gear) -> usize {
    match gear {
        Gear::SpliceCall => 0,
        Gear::SpliceSqe => 1,
        Gear::Copy => 2,
    }
}

impl Measure {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self::default()
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
        self.begin(now);
        if time >= WINDOW * PAUSE {
            return gear;
        }
        let known = &mut self.rates[index(gear)];
        *known = Some(known.map_or(rate, |old| f64::midpoint(old, rate)));
        self.windows += 1;
        if let Some(untried) = GEARS.into_iter().find(|g| self.rates[index(*g)].is_none()) {
            return untried;
        }
        if self.windows.is_multiple_of(AGAIN) {
            let turn = index(gear) + 1 + (self.windows / AGAIN % 2) as usize;
            return GEARS[turn % GEARS.len()];
        }
        self.best(gear)
    }

    fn best(&self, gear: Gear) -> Gear {
        let worth = |g: Gear| {
            let rate = self.rates[index(g)].unwrap_or(0.0);
            let favour = if g == gear { MARGIN } else { 1.0 };
            let cost = if g == Gear::Copy { MARGIN } else { 1.0 };
            rate * favour / cost
        };
        GEARS.into_iter().max_by(|a, b| worth(*a).total_cmp(&worth(*b))).unwrap_or(gear)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Gears used over `windows` windows when they give these rates, in the order of [`GEARS`].
    fn course(rates: [u64; 3], windows: usize) -> Vec<Gear> {
        let mut measure = Measure::new();
        let (mut now, mut gear) = (Time::ZERO, Gear::Copy);
        measure.begin(now);
        let mut seen = Vec::new();
        for _ in 0..windows {
            now += WINDOW;
            seen.push(gear);
            gear = measure.moved(now, gear, rates[index(gear)]);
        }
        seen
    }

    #[test]
    fn all_are_tried_and_the_best_one_is_kept() {
        for (rates, best) in
            [([300, 200, 200], GEARS[0]), ([200, 300, 200], GEARS[1]), ([200, 200, 300], GEARS[2])]
        {
            let seen = course(rates, 640);
            assert_eq!(seen[..3], [Gear::Copy, Gear::SpliceCall, Gear::SpliceSqe]);
            for other in GEARS.into_iter().filter(|g| *g != best) {
                // Looked at now and then, and not more.
                let count = seen[3..].iter().filter(|g| **g == other).count();
                assert!((2..=8).contains(&count), "{other:?} {count} times while {best:?} is best");
            }
        }
    }

    #[test]
    fn copying_has_to_be_faster_to_be_chosen_and_equals_do_not_take_turns() {
        let seen = course([1000, 900, 1030], 60);
        assert!(seen[3..].iter().all(|g| *g == Gear::SpliceCall), "{seen:?}");
        let seen = course([1000, 1030, 900], 60);
        let changes = seen[3..].windows(2).filter(|w| w[0] != w[1]).count();
        assert!(changes <= 1, "{seen:?}");
    }

    #[test]
    fn a_window_is_neither_cut_short_nor_judged_with_a_pause_in_it() {
        let mut measure = Measure::new();
        measure.begin(Time::ZERO);
        let early = Time::ZERO + WINDOW / 2;
        assert_eq!(measure.moved(early, Gear::SpliceSqe, 1 << 30), Gear::SpliceSqe);
        let late = Time::ZERO + WINDOW * PAUSE;
        assert_eq!(measure.moved(late, Gear::SpliceSqe, 1), Gear::SpliceSqe);
        assert_eq!(measure.rates, [None; 3]);
    }
}
