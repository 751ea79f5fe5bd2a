//! How fast a guest may open flows.
//!
//! Theory of operation. A new flow of whatever kind passes two bounds:
//!
//! - So many a second, answered or not.
//! - So many at once that nobody has answered: half the connections that may be under way, and a quarter of that more each second. An
//!   answer gives its flow back, so those that lead somewhere are never slowed down; a scan or a flood is, because each flow costs
//!   the host a socket. Of datagrams a new destination counts as a flow while its mapping has not been answered at all.

use crate::config::Limits;
use crate::flow::{Bucket, Time};
use std::time::Duration;

/// As many flows as come in this time may be opened at once.
const AHEAD: Duration = Duration::from_secs(1);
/// Flows that nobody has answered may always be so many, however few connections may be under way.
const LEAST_UNANSWERED: usize = 64;
/// The share of the flows without an answer that comes again each second.
const COME_AGAIN: u32 = 4;

/// Why a flow may not be opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shut {
    /// Too many have been opened lately.
    TooFast,
    /// Too many have had no answer yet.
    Unanswered,
}

/// The gate of one guest.
#[derive(Debug)]
pub struct Gate {
    opened: Bucket,
    unanswered: Bucket,
}

impl Gate {
    /// What `limits` allow.
    pub fn of(limits: &Limits) -> Self {
        let unanswered = (limits.half_open / 2).max(LEAST_UNANSWERED);
        Self::new(limits.new_flows, u32::try_from(unanswered).unwrap_or(u32::MAX))
    }

    /// Lets `per_second` flows pass each second, and `unanswered` at once that nobody has answered; at least one of each.
    pub fn new(per_second: u32, unanswered: u32) -> Self {
        let again = (unanswered / COME_AGAIN).max(1);
        let ahead = Duration::from_secs(1) * unanswered.max(1) / again;
        Self { opened: Bucket::new(per_second, AHEAD), unanswered: Bucket::new(again, ahead) }
    }

    /// Whether one more flow may be opened; counts it.
    ///
    /// # Errors
    /// Why not.
    pub fn pass(&mut self, now: Time) -> Result<(), Shut> {
        if !self.opened.is_open(now) {
            return Err(Shut::TooFast);
        }
        self.attempt(now)?;
        self.opened.take(now);
        Ok(())
    }

    /// Whether one more destination may be tried by a flow that nobody has answered; counts it.
    ///
    /// # Errors
    /// [`Shut::Unanswered`].
    pub fn attempt(&mut self, now: Time) -> Result<(), Shut> {
        if self.unanswered.pass(now) { Ok(()) } else { Err(Shut::Unanswered) }
    }

    /// A flow that passed has been answered.
    pub fn answered(&mut self) {
        self.unanswered.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: u32 = u32::MAX;

    fn passed(gate: &mut Gate, now: Time) -> usize {
        (0..1000).filter(|_| gate.pass(now).is_ok()).count()
    }

    #[test]
    fn a_second_has_so_many_whoever_answers() {
        let (mut gate, at) = (Gate::new(50, MANY), Time::from_millis);
        assert_eq!(passed(&mut gate, at(5000)), 50);
        assert_eq!(gate.pass(at(5010)), Err(Shut::TooFast));
        gate.answered();
        assert_eq!(passed(&mut gate, at(5100)), 5);
    }

    #[test]
    fn flows_without_an_answer_are_few_and_those_with_one_as_many_as_may_be() {
        let (mut gate, at) = (Gate::new(MANY, 100), Time::from_millis);
        assert_eq!(passed(&mut gate, at(5000)), 100);
        assert_eq!(gate.pass(at(5000)), Err(Shut::Unanswered));
        // A quarter of them each second.
        assert_eq!(passed(&mut gate, at(5100)), 2);
        assert_eq!(passed(&mut gate, at(6000)), 23);
        for _ in 0..1000 {
            gate.answered();
            assert_eq!(gate.pass(at(6000)), Ok(()));
        }
        assert_eq!(gate.attempt(at(6000)), Err(Shut::Unanswered));
        assert_eq!(passed(&mut Gate::new(MANY, 0), at(5000)), 1);
    }
}
