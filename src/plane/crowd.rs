//! Tells the person at the log that new flows are refused for want of descriptors: at once, and then no more than once a
//! minute, however many there are. The counters have them all.

use crate::flow::Time;
use std::time::Duration;

/// The shortest time between two such lines.
const QUIET: Duration = Duration::from_secs(60);

/// Watches the count of refused flows.
#[derive(Debug, Default)]
pub struct Crowd {
    said: u64,
    quiet_until: Option<Time>,
}

impl Crowd {
    /// How many of the `refused` flows the log has not heard of, when it is time to say so.
    pub fn news(&mut self, refused: u64, now: Time) -> Option<u64> {
        let more = refused - self.said;
        if more == 0 || self.quiet_until.is_some_and(|at| now < at) {
            return None;
        }
        self.said = refused;
        self.quiet_until = Some(now + QUIET);
        Some(more)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn said_at_once_and_then_once_a_minute() {
        let mut crowd = Crowd::default();
        let at = |s| Time::ZERO + Duration::from_secs(s);
        assert_eq!(crowd.news(0, at(0)), None);
        assert_eq!(crowd.news(2, at(1)), Some(2));
        assert_eq!(crowd.news(900, at(60)), None);
        assert_eq!(crowd.news(900, at(61)), Some(898));
        assert_eq!(crowd.news(900, at(200)), None);
        assert_eq!(crowd.news(901, at(201)), Some(1));
    }
}
