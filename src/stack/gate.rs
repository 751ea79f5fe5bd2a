//! How fast a guest may open flows.
//!
//! A virtual clock (the generic cell rate algorithm): each flow moves it on by one interval, and it may be ahead of the true
//! time by a second. So a burst of a second's worth passes at once, and no more than the rate on average.

use crate::flow::Time;
use std::time::Duration;

/// How far the virtual clock may run ahead.
const AHEAD: Duration = Duration::from_secs(1);

/// The gate of one guest.
#[derive(Debug)]
pub struct Gate {
    interval: Duration,
    clock: Time,
}

impl Gate {
    /// Lets `per_second` flows pass each second, at least one.
    pub fn new(per_second: u32) -> Self {
        Self { interval: AHEAD / per_second.max(1), clock: Time::ZERO }
    }

    /// Whether one more flow may be opened; counts it.
    pub fn pass(&mut self, now: Time) -> bool {
        let next = self.clock.max(now) + self.interval;
        let open = next <= now + AHEAD;
        if open {
            self.clock = next;
        }
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(gate: &mut Gate, now: Time) -> usize {
        (0..1000).filter(|_| gate.pass(now)).count()
    }

    #[test]
    fn a_burst_of_a_second_and_then_the_rate() {
        let mut gate = Gate::new(50);
        let at = Time::from_millis;
        assert_eq!(passed(&mut gate, at(5000)), 50);
        assert_eq!(passed(&mut gate, at(5010)), 0);
        assert_eq!(passed(&mut gate, at(5100)), 5);
        assert_eq!(passed(&mut gate, at(60_000)), 50);
        assert_eq!(passed(&mut Gate::new(0), at(5000)), 1);
        let mut fast = Gate::new(u32::MAX);
        assert_eq!(passed(&mut fast, at(5000)), 1000);
    }
}
