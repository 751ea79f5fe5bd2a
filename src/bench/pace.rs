//! How many datagrams a second a path is offered.
//!
//! A sender far above the capacity measures how well a contender drops; one below it measures the sender. So the pace is
//! looked for: short trials, faster until something is lost, then each at 1.2 times what arrived in the last, until it
//! settles or the sender can do no more. [`Search`] decides, others measure; [`Schedule`] tells a sender what is due.

use std::time::Duration;

/// Datagrams a second to start from: about 0.45 Gbit/s at 1400 bytes.
const FIRST: f64 = 40_000.0;
/// The pace in proportion to what arrives.
const OVER: f64 = 1.2;
/// The next pace, in proportion, as long as nothing is lost.
const FASTER: f64 = 1.5;
/// Trials at most.
const TRIALS: u32 = 25;
/// Datagrams sent in one go.
pub const BATCH: usize = 32;

/// The search for a pace.
#[derive(Clone, Copy, Debug)]
pub struct Search {
    pace: f64,
    left: u32,
}

impl Default for Search {
    fn default() -> Self {
        Self { pace: FIRST, left: TRIALS }
    }
}

impl Search {
    /// A search that begins where an earlier one ended; a few trials adapt it.
    pub fn again(pace: f64) -> Self {
        Self { pace, left: 3 }
    }

    /// What to try next, or in the end to measure with, in datagrams a second.
    pub fn pace(&self) -> f64 {
        self.pace
    }

    /// A trial at [`Self::pace`] is over, in which so many a second were sent and received. True when the search is.
    pub fn seen(&mut self, sent: f64, received: f64) -> bool {
        self.left -= 1;
        // A sender that cannot keep the pace is the limit itself.
        if sent < 0.95 * self.pace {
            return true;
        }
        let lossless = received > 0.99 * sent;
        let next = if lossless { FASTER * self.pace } else { OVER * received.max(1000.0) };
        let settled = !lossless && (next / self.pace - 1.0).abs() < 0.05;
        self.pace = next;
        settled || self.left == 0
    }
}

/// What to do now, to keep a pace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Due {
    /// Nothing, for so long.
    Wait(Duration),
    /// [`BATCH`] datagrams.
    Batch,
}

/// A sender's timetable. Late batches are made up for, but never more than 10 ms worth of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Schedule {
    sent: u64,
    skipped: f64,
}

impl Schedule {
    /// So many were sent.
    pub fn sent(&mut self, count: u64) {
        self.sent += count;
    }

    /// What is due `now`, since the beginning, at `pace` a second.
    pub fn due(&mut self, now: Duration, pace: f64) -> Due {
        let due = now.as_secs_f64() * pace - self.skipped;
        let behind = due - self.sent as f64;
        if behind < BATCH as f64 {
            let wait = Duration::from_secs_f64((BATCH as f64 - behind) / pace.max(1.0));
            return Due::Wait(wait.min(Duration::from_millis(1)));
        }
        self.skipped += (behind - pace / 100.0 - BATCH as f64).max(0.0);
        Due::Batch
    }

    /// Sent so far.
    pub fn total(&self) -> u64 {
        self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A path that carries `capacity` of what a sender that manages `able` offers.
    fn settle(capacity: f64, able: f64) -> f64 {
        let mut search = Search::default();
        loop {
            let sent = search.pace().min(able);
            if search.seen(sent, sent.min(capacity)) {
                return search.pace();
            }
        }
    }

    #[test]
    fn the_pace_settles_a_little_above_the_capacity() {
        for capacity in [5_000.0, 41_000.0, 300_000.0] {
            let pace = settle(capacity, 1e9);
            assert!((1.1 * capacity..1.3 * capacity).contains(&pace), "{capacity}: {pace}");
        }
    }

    #[test]
    fn it_ends_at_what_the_sender_can_do() {
        assert!(settle(1e9, 200_000.0) > 200_000.0);
    }

    #[test]
    fn a_path_that_carries_nothing_ends_it_too() {
        assert!(settle(0.0, 1e9) <= 1200.0);
    }

    #[test]
    fn a_schedule_keeps_its_pace_and_makes_up_for_little() {
        let mut schedule = Schedule::default();
        let ms = Duration::from_millis;
        assert!(matches!(schedule.due(ms(0), 32_000.0), Due::Wait(w) if w == ms(1)));
        assert_eq!(schedule.due(ms(1), 32_000.0), Due::Batch);
        schedule.sent(32);
        assert!(matches!(schedule.due(ms(1), 32_000.0), Due::Wait(_)));
        // A second late: 10 ms of it are made up for.
        let mut caught_up = 0;
        while schedule.due(ms(1001), 32_000.0) == Due::Batch {
            schedule.sent(32);
            caught_up += 32;
        }
        assert!((320..=384).contains(&caught_up), "{caught_up}");
    }
}
