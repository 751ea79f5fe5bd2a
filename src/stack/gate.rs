//! What a guest may do so often in a second, and no oftener.
//!
//! Theory of operation. A [`Bucket`] is a virtual clock (the generic cell rate algorithm): each event moves it on by one interval,
//! and it may be ahead of the true time by so much. So a burst passes at once, and no more than the rate on average. There are
//! two for new flows, one for frames, and one for strangers on the link (see [`super::link`]):
//!
//! - Flows of any kind: as many a second as the guest is allowed.
//! - Flows that nobody has answered: as many at once as half the connections that may be under way, and a quarter of that more each
//!   second.
//!   An answer gives its flow back, so those that lead somewhere are never slowed down; a scan or a flood is, because each
//!   flow costs the host a socket (100 us with all that a connection entails, perf/NOTES.md). Of datagrams a new destination counts
//!   as a flow while its mapping has not been answered at all.
//! - Frames that lead to nothing ([`Noise`]): dropped, or about the link alone. Beyond [`FRUITLESS`] a second the tap rests: what
//!   its queue does not take meanwhile is lost at its sender's cost, and the host's other work goes on.

use crate::flow::Time;
use std::time::Duration;

/// How far the virtual clock of new flows may run ahead.
const AHEAD: Duration = Duration::from_secs(1);
/// The share of the flows without an answer that comes again each second.
const COME_AGAIN: u32 = 4;
/// Frames each second that lead to nothing, beyond which the tap rests. Reading one and dropping it takes some 2 us.
pub const FRUITLESS: u32 = 80_000;
/// How many of them may come at once.
const NOISE_AHEAD: Duration = Duration::from_millis(20);
/// The shortest rest: a wake-up is to be worth it.
const REST: Duration = Duration::from_millis(1);

/// So many at once, and so many a second.
#[derive(Debug)]
pub struct Bucket {
    interval: Duration,
    ahead: Duration,
    clock: Time,
}

impl Bucket {
    /// `per_second` at least one; as many at once as come in `ahead`.
    pub fn new(per_second: u32, ahead: Duration) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, ahead: ahead.max(interval), clock: Time::ZERO }
    }

    /// Whether there is room for one more.
    fn is_open(&self, now: Time) -> bool {
        self.clock.max(now) + self.interval <= now + self.ahead
    }

    /// Whether one more may happen; counts it.
    pub fn pass(&mut self, now: Time) -> bool {
        let open = self.is_open(now);
        if open {
            self.take(now);
        }
        open
    }

    /// One more, whether there is room or not.
    fn take(&mut self, now: Time) {
        self.clock = self.clock.max(now) + self.interval;
    }

    /// One that was taken does not count.
    fn give_back(&mut self) {
        let interval = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX);
        self.clock = Time::from_nanos(self.clock.as_nanos().saturating_sub(interval));
    }
}

/// Why a flow may not be opened now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shut {
    /// Too many have been opened lately.
    TooFast,
    /// Too many have had no answer yet.
    Unanswered,
}

/// What a guest's new flows pass.
#[derive(Debug)]
pub struct Gate {
    opened: Bucket,
    unanswered: Bucket,
}

impl Gate {
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

/// Frames of the guest's that lead to nothing.
#[derive(Debug)]
pub struct Noise(Bucket);

impl Default for Noise {
    fn default() -> Self {
        Self(Bucket::new(FRUITLESS, NOISE_AHEAD))
    }
}

impl Noise {
    /// One more.
    pub fn heard(&mut self, now: Time) {
        self.0.take(now);
    }

    /// How long the tap should not be read; `None` if it may be.
    pub fn rest(&self, now: Time) -> Option<Time> {
        let over = self.0.clock.since(now).saturating_sub(self.0.ahead);
        (!over.is_zero()).then(|| now + over.max(REST))
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
    fn a_burst_of_a_second_and_then_the_rate() {
        let mut gate = Gate::new(50, MANY);
        let at = Time::from_millis;
        assert_eq!(passed(&mut gate, at(5000)), 50);
        assert_eq!(passed(&mut gate, at(5010)), 0);
        assert_eq!(gate.pass(at(5010)), Err(Shut::TooFast));
        assert_eq!(passed(&mut gate, at(5100)), 5);
        assert_eq!(passed(&mut gate, at(60_000)), 50);
        assert_eq!(passed(&mut Gate::new(0, MANY), at(5000)), 1);
        let mut fast = Gate::new(MANY, MANY);
        assert_eq!(passed(&mut fast, at(5000)), 1000);
    }

    #[test]
    fn flows_without_an_answer_are_few_and_those_with_one_as_many_as_may_be() {
        let at = Time::from_millis;
        let mut gate = Gate::new(MANY, 100);
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
        // Answers make up for what was asked and no more.
        (0..500).for_each(|_| gate.answered());
        assert_eq!(passed(&mut gate, at(6000)), 100);
        assert_eq!(passed(&mut Gate::new(MANY, 0), at(5000)), 1);
    }

    #[test]
    fn the_tap_rests_from_noise_until_the_rate_is_kept() {
        let (mut noise, at) = (Noise::default(), Time::from_millis(1000));
        for _ in 0..1600 {
            noise.heard(at);
        }
        assert_eq!(noise.rest(at), None);
        noise.heard(at);
        assert_eq!(noise.rest(at), Some(at + REST));
        for _ in 0..799 {
            noise.heard(at);
        }
        assert_eq!(noise.rest(at), Some(at + Duration::from_millis(10)));
        assert_eq!(noise.rest(at + Duration::from_millis(10)), None);
    }
}
