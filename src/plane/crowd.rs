//! Tells the person at the log that a limit was met: at once, and then no more than once a minute for each limit, however
//! often it happens. The counters have them all.

use crate::flow::{Limit, Time};
use crate::stack::Stack;
use std::time::Duration;

/// The shortest time between two such lines.
const QUIET: Duration = Duration::from_secs(60);

/// Watches the counts of the limits.
#[derive(Debug, Default)]
pub struct Crowd {
    of: [Watch; Limit::ALL.len()],
}

/// One of them.
#[derive(Clone, Copy, Debug, Default)]
struct Watch {
    said: u64,
    quiet_until: Option<Time>,
}

impl Crowd {
    /// How often a limit was met that the log has not heard of, when it is time to say so, and the rest of the line. One
    /// limit at a time.
    pub fn news(&mut self, stack: &Stack, now: Time) -> Option<(u64, &'static str)> {
        let counters = stack.counters();
        let few = stack.limits().flows < stack.network().limits.flows;
        Limit::ALL.into_iter().find_map(|which| {
            let count = self.of[which as usize].news(counters.limited(which), now)?;
            Some((count, text(which, few)))
        })
    }
}

impl Watch {
    fn news(&mut self, met: u64, now: Time) -> Option<u64> {
        let more = met - self.said;
        if more == 0 || self.quiet_until.is_some_and(|at| now < at) {
            return None;
        }
        self.said = met;
        self.quiet_until = Some(now + QUIET);
        Some(more)
    }
}

/// What to say of a limit. `few`: the descriptors are fewer than the flows that the guest may have.
const fn text(which: Limit, few: bool) -> &'static str {
    match (which, few) {
        (Limit::Flows, true) | (Limit::Descriptors, _) => {
            "new connections refused: as many are open as the limit of descriptors allows; \
             raise the hard limit (ulimit -Hn, LimitNOFILE=)"
        }
        (Limit::Flows, false) => {
            "new connections refused: the guest has as many open as it may; raise --max-flows if it needs them"
        }
        (Limit::HalfOpen, _) => {
            "connections forgotten before they stood: the guest dials more at once than it may; \
             raise --max-half-open if it needs them"
        }
        (Limit::NewFlows, _) => {
            "packets dropped: the guest opens connections faster than it may; raise --max-new-flows if it needs them"
        }
        (Limit::Buffered, _) => {
            "segments dropped, to be sent again: the guest's connections fill all buffers that it may have; \
             raise --max-buffered if it is set"
        }
        (Limit::Unanswered, _) => {
            "packets dropped: the guest sends to ever new destinations and few answer, as a scan or a flood does; \
             raise --max-half-open if that is meant"
        }
        (Limit::Fruitless, _) => {
            "times the tap rested: the guest sends storms of packets that lead nowhere; `ringtap stats` says which are dropped"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn said_at_once_and_then_once_a_minute() {
        let mut crowd = Watch::default();
        let at = |s| Time::ZERO + Duration::from_secs(s);
        assert_eq!(crowd.news(0, at(0)), None);
        assert_eq!(crowd.news(2, at(1)), Some(2));
        assert_eq!(crowd.news(900, at(60)), None);
        assert_eq!(crowd.news(900, at(61)), Some(898));
        assert_eq!(crowd.news(900, at(200)), None);
        assert_eq!(crowd.news(901, at(201)), Some(1));
    }

    #[test]
    fn descriptors_are_blamed_where_they_are_the_fewer() {
        assert!(
            text(Limit::Flows, true).contains("ulimit") && text(Limit::Flows, false).contains("--max-flows")
        );
        for which in Limit::ALL {
            let said = text(which, false);
            assert!(said.contains("raise") || said.contains("`ringtap stats`"), "{which:?}");
        }
    }
}
