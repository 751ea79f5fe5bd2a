//! Round-trip time and retransmission timeout (RFC 6298), one timed segment at a time (Karn).
//!
//! The floor is 200 ms, knowingly below the RFC's second: the guest is on this machine, its delayed acknowledgement
//! waits 40 ms at most, and Linux has used 200 ms for decades.

use super::seq::Seq;
use crate::flow::Time;
use std::time::Duration;

/// Shortest timeout.
pub const RTO_MIN: Duration = Duration::from_millis(200);
/// Longest timeout: the guest may have been stopped, so keep asking at a useful pace.
pub const RTO_MAX: Duration = Duration::from_secs(30);
/// Before any measurement (RFC 6298, 2.1).
const RTO_INITIAL: Duration = Duration::from_secs(1);

/// The estimator of one connection. Microseconds inside: small, and fine enough for a 200 ms floor.
#[derive(Debug, Default)]
pub struct Rtt {
    srtt: u32,
    var: u32,
    backoff: u8,
    timed: Option<(Seq, Time)>,
}

impl Rtt {
    /// The smoothed round-trip time, once measured.
    pub fn smoothed(&self) -> Option<Duration> {
        (self.srtt > 0).then(|| Duration::from_micros(u64::from(self.srtt)))
    }

    /// The timeout in force.
    pub fn rto(&self) -> Duration {
        let base = if self.srtt == 0 {
            RTO_INITIAL
        } else {
            Duration::from_micros(u64::from(self.srtt) + 4 * u64::from(self.var)).max(RTO_MIN)
        };
        base.saturating_mul(1 << self.backoff.min(16)).min(RTO_MAX)
    }

    /// Bytes up to `end` go out for the first time: time them, unless others are being timed.
    pub fn sent(&mut self, end: Seq, now: Time) {
        if self.timed.is_none() {
            self.timed = Some((end, now));
        }
    }

    /// Something was sent again: what is being timed would be ambiguous.
    pub fn ambiguous(&mut self) {
        self.timed = None;
    }

    /// The timeout struck: the next one is twice as long.
    pub fn back_off(&mut self) {
        self.backoff = (self.backoff + 1).min(16);
        self.ambiguous();
    }

    /// Everything before `una` has arrived.
    pub fn acked(&mut self, una: Seq, now: Time) {
        self.backoff = 0;
        if let Some((end, at)) = self.timed
            && !end.after(una)
        {
            self.timed = None;
            self.sample(now.since(at));
        }
    }

    fn sample(&mut self, rtt: Duration) {
        // At least one microsecond: zero means "never measured". At most 60 s: no overflow below.
        let r = (rtt.as_micros().min(60_000_000) as u32).max(1);
        if self.srtt == 0 {
            (self.srtt, self.var) = (r, r / 2);
        } else {
            self.var = self.var - self.var / 4 + self.srtt.abs_diff(r) / 4;
            self.srtt = ((u64::from(self.srtt) * 7 + u64::from(r)) / 8).max(1) as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_timeout_is_a_second_and_measured_ones_have_a_floor() {
        let mut r = Rtt::default();
        assert_eq!(r.rto(), RTO_INITIAL);
        r.sent(Seq(10), Time::ZERO);
        r.sent(Seq(20), Time::from_millis(5));
        r.acked(Seq(9), Time::from_millis(1));
        assert_eq!(r.smoothed(), None);
        r.acked(Seq(10), Time::from_millis(2));
        assert_eq!(r.smoothed(), Some(Duration::from_millis(2)));
        assert_eq!(r.rto(), RTO_MIN);
    }

    #[test]
    fn timeouts_double_up_to_the_ceiling_and_an_acknowledgement_ends_that() {
        let mut r = Rtt::default();
        r.back_off();
        assert_eq!(r.rto(), 2 * RTO_INITIAL);
        for _ in 0..300 {
            r.back_off();
        }
        assert_eq!(r.rto(), RTO_MAX);
        r.acked(Seq(1), Time::ZERO);
        assert_eq!(r.rto(), RTO_INITIAL);
    }

    #[test]
    fn what_was_sent_twice_is_not_timed() {
        let mut r = Rtt::default();
        r.sent(Seq(10), Time::ZERO);
        r.ambiguous();
        r.acked(Seq(10), Time::from_millis(500));
        assert_eq!(r.smoothed(), None);
    }

    #[test]
    fn a_slow_path_gets_a_longer_timeout() {
        let mut r = Rtt::default();
        for i in 0..50u32 {
            let at = Time::from_millis(u64::from(i) * 1000);
            r.sent(Seq(i), at);
            r.acked(Seq(i), at + Duration::from_millis(if i % 2 == 0 { 300 } else { 500 }));
        }
        assert!(
            r.rto() > Duration::from_millis(500) && r.rto() < Duration::from_millis(1200),
            "{:?}",
            r.rto()
        );
    }
}
