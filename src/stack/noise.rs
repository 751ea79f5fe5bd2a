//! Frames of the guest's that lead to nothing: dropped, or about the link alone (ARP, neighbor discovery, echo to ourselves).
//!
//! Theory of operation. Each costs a read, a look and perhaps an answer, and the guest can send them as fast as its processor
//! makes them. Beyond [`FRUITLESS`] a second the tap rests: what its queue does not take meanwhile is lost at its sender's cost,
//! and the host's other work goes on. Frames of flows are never counted, however many they are. The guest's own other traffic
//! passes the same queue, so a flood costs the guest most of it.

use crate::flow::{Bucket, Time};
use std::time::Duration;

/// Frames each second that lead to nothing, beyond which the tap rests. Reading one and dropping it takes some 2 us
/// (perf/NOTES.md, "Floods"): a sixth of a core.
const FRUITLESS: u32 = 80_000;
/// As many as come in this time may come at once.
const AHEAD: Duration = Duration::from_millis(20);
/// The shortest rest: a wake-up is to be worth it.
const REST: Duration = Duration::from_millis(1);

/// Counts them.
#[derive(Debug)]
pub struct Noise(Bucket);

impl Default for Noise {
    fn default() -> Self {
        Self(Bucket::new(FRUITLESS, AHEAD))
    }
}

impl Noise {
    /// One more.
    pub fn heard(&mut self, now: Time) {
        self.0.take(now);
    }

    /// Until when the tap should not be read; `None` if it may be.
    pub fn rest(&self, now: Time) -> Option<Time> {
        let over = self.0.over(now);
        (!over.is_zero()).then(|| now + over.max(REST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tap_rests_from_noise_until_the_rate_is_kept() {
        let (mut noise, at) = (Noise::default(), Time::from_millis(1000));
        (0..1600).for_each(|_| noise.heard(at));
        assert_eq!(noise.rest(at), None);
        noise.heard(at);
        assert_eq!(noise.rest(at), Some(at + REST));
        (0..799).for_each(|_| noise.heard(at));
        assert_eq!(noise.rest(at), Some(at + Duration::from_millis(10)));
        assert_eq!(noise.rest(at + Duration::from_millis(10)), None);
    }
}
