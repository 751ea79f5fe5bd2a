//! So many at once, and so many a second: the bound of whatever a peer can cause as often as it likes.
//!
//! Theory of operation. A virtual clock (the generic cell rate algorithm, ITU-T I.371): each event moves it on by one interval, and it
//! may be ahead of the true time by so much. So a burst passes at once, and no more than the rate on average; nothing ticks while
//! nothing happens. Limits: rates up to one event a nanosecond.

use super::Time;
use std::time::Duration;

/// One bound.
#[derive(Debug)]
pub struct Bucket {
    interval: Duration,
    ahead: Duration,
    clock: Time,
}

impl Bucket {
    /// `per_second` on average, at least one, and at once as many as come in `ahead`, at least one.
    pub fn new(per_second: u32, ahead: Duration) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { interval, ahead: ahead.max(interval), clock: Time::ZERO }
    }

    /// Whether one more may happen; counts it.
    pub fn pass(&mut self, now: Time) -> bool {
        let open = self.is_open(now);
        if open {
            self.take(now);
        }
        open
    }

    /// Whether one more may happen.
    pub fn is_open(&self, now: Time) -> bool {
        self.clock.max(now) + self.interval <= now + self.ahead
    }

    /// Counts one more, whether it may happen or has happened already.
    pub fn take(&mut self, now: Time) {
        self.clock = self.clock.max(now) + self.interval;
    }

    /// One that was counted does not count.
    pub fn give_back(&mut self) {
        let interval = u64::try_from(self.interval.as_nanos()).unwrap_or(u64::MAX);
        self.clock = Time::from_nanos(self.clock.as_nanos().saturating_sub(interval));
    }

    /// How long it takes until no more has happened than may; zero if that is so.
    pub fn over(&self, now: Time) -> Duration {
        self.clock.since(now).saturating_sub(self.ahead)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(bucket: &mut Bucket, ms: u64) -> usize {
        (0..1000).filter(|_| bucket.pass(Time::from_millis(ms))).count()
    }

    #[test]
    fn a_burst_and_then_the_rate() {
        let mut bucket = Bucket::new(50, Duration::from_secs(1));
        assert_eq!([5000, 5010, 5100, 60_000].map(|ms| passed(&mut bucket, ms)), [50, 0, 5, 50]);
        assert_eq!(passed(&mut Bucket::new(200, Duration::from_millis(500)), 5000), 100);
        assert_eq!(passed(&mut Bucket::new(0, Duration::ZERO), 5000), 1);
        assert_eq!(passed(&mut Bucket::new(u32::MAX, Duration::from_secs(1)), 5000), 1000);
    }

    #[test]
    fn what_is_given_back_passes_again_and_no_more() {
        let mut bucket = Bucket::new(10, Duration::from_secs(1));
        assert_eq!(passed(&mut bucket, 5000), 10);
        bucket.give_back();
        assert_eq!(passed(&mut bucket, 5000), 1);
        (0..100).for_each(|_| bucket.give_back());
        assert_eq!(passed(&mut bucket, 5000), 10);
    }

    #[test]
    fn what_happens_all_the_same_has_to_be_waited_for() {
        let (mut bucket, at) = (Bucket::new(10, Duration::from_secs(1)), Time::from_millis(5000));
        (0..10).for_each(|_| bucket.take(at));
        assert_eq!(bucket.over(at), Duration::ZERO);
        (0..3).for_each(|_| bucket.take(at));
        assert_eq!(bucket.over(at), Duration::from_millis(300));
        assert_eq!(bucket.over(Time::from_millis(5300)), Duration::ZERO);
    }
}
