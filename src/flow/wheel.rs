//! One deadline per flow, without a scan and without a tick while idle.
//!
//! Theory of operation. Deadlines are kept in order of time; a flow that moves its deadline later keeps the old entry,
//! which fires early, finds that nothing is due and is set again: a busy flow touches the order once per entry that
//! fires rather than once per packet. Callers therefore store the true deadline themselves and treat an expiry as
//! "look at this flow now".

use super::time::Time;
use std::collections::BTreeMap;

/// Deadlines of keys `K`. A key has at most one entry for each [`Token`] that it holds.
pub struct Wheel<K> {
    entries: BTreeMap<(Time, u64), K>,
    next: u64,
}

/// Names an armed deadline, to disarm it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    at: Time,
    seq: u64,
}

impl Token {
    /// When it fires.
    pub const fn at(self) -> Time {
        self.at
    }
}

impl<K> Default for Wheel<K> {
    fn default() -> Self {
        Self { entries: BTreeMap::new(), next: 0 }
    }
}

impl<K> Wheel<K> {
    /// Arms a deadline for `key`.
    pub fn insert(&mut self, at: Time, key: K) -> Token {
        let seq = self.next;
        self.next += 1;
        self.entries.insert((at, seq), key);
        Token { at, seq }
    }

    /// Disarms a deadline. One that has fired already is gone, which is no error.
    pub fn cancel(&mut self, token: Token) -> Option<K> {
        self.entries.remove(&(token.at, token.seq))
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Time> {
        self.entries.keys().next().map(|(at, _)| *at)
    }

    /// Takes one key whose deadline is at or before `now`, earliest first.
    pub fn pop_expired(&mut self, now: Time) -> Option<K> {
        let entry = self.entries.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        Some(entry.remove())
    }

    /// Number of armed deadlines.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when nothing is armed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fires_in_order_and_never_early() {
        let mut w = Wheel::default();
        w.insert(Time::from_millis(30), 'c');
        w.insert(Time::from_millis(10), 'a');
        let b = w.insert(Time::from_millis(20), 'b');
        assert_eq!(w.next_deadline(), Some(Time::from_millis(10)));
        assert_eq!(w.pop_expired(Time::from_millis(9)), None);
        assert_eq!(w.cancel(b), Some('b'));
        assert_eq!(w.cancel(b), None);
        assert_eq!(w.pop_expired(Time::from_millis(30)), Some('a'));
        assert_eq!(w.pop_expired(Time::from_millis(30)), Some('c'));
        assert_eq!(w.pop_expired(Time::MAX), None);
        assert!(w.is_empty());
    }
}
