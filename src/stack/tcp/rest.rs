//! Tuples at rest (TIME_WAIT): what remains of a connection that we closed first.
//!
//! A tuple rests for [`TIME_WAIT`](super::tuning::TIME_WAIT) so that a late segment is not mistaken for one of its
//! successor; a late FIN is acknowledged again. All rest equally long, so the order of expiry is the order of arrival
//! and a queue does for a timer; an entry that was renewed goes to the back once its turn comes. A new SYN beyond the
//! old sequence space takes the tuple over at once (RFC 9293 section 3.6.1, RFC 6191).
//!
//! Limits: a fixed number of tuples; the oldest makes room.

use super::key::Key;
use super::seq::Seq;
use crate::flow::Time;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// What a resting tuple remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rest {
    /// Our next sequence number.
    pub snd_nxt: Seq,
    /// The guest's next sequence number.
    pub rcv_nxt: Seq,
    until: Time,
    /// Woken: the tuple lives again, and only the place in the queue is left.
    woken: bool,
}

/// All resting tuples.
pub struct Resting {
    entries: HashMap<Key, Rest, ahash::RandomState>,
    order: VecDeque<(Time, Key)>,
    lasts: Duration,
    limit: usize,
}

impl Resting {
    /// None yet. Each rests for `lasts`; at most `limit` do.
    pub fn new(lasts: Duration, limit: usize) -> Self {
        Self { entries: HashMap::default(), order: VecDeque::new(), lasts, limit: limit.max(1) }
    }

    /// Lays a tuple to rest.
    pub fn insert(&mut self, now: Time, key: Key, snd_nxt: Seq, rcv_nxt: Seq) {
        while self.entries.len() >= self.limit && !self.entries.contains_key(&key) {
            let Some((_, oldest)) = self.order.pop_front() else { break };
            self.entries.remove(&oldest);
        }
        let until = now + self.lasts;
        if self.entries.insert(key, Rest { snd_nxt, rcv_nxt, until, woken: false }).is_none() {
            self.order.push_back((until, key));
        }
    }

    /// The rest of this tuple.
    pub fn get(&self, key: &Key) -> Option<Rest> {
        self.entries.get(key).copied().filter(|rest| !rest.woken)
    }

    /// A segment came late: the tuple rests anew.
    pub fn renew(&mut self, now: Time, key: &Key) {
        if let Some(rest) = self.entries.get_mut(key) {
            rest.until = now + self.lasts;
        }
    }

    /// Wakes the tuple for a successor. Its place in the queue stays until its turn comes.
    pub fn remove(&mut self, key: &Key) {
        if let Some(rest) = self.entries.get_mut(key) {
            rest.woken = true;
        }
    }

    /// Forgets what has rested long enough.
    pub fn expire(&mut self, now: Time) {
        while let Some((at, key)) = self.order.front().copied() {
            if at > now {
                break;
            }
            self.order.pop_front();
            match self.entries.get(&key) {
                Some(rest) if rest.until > now && !rest.woken => self.order.push_back((rest.until, key)),
                _ => {
                    self.entries.remove(&key);
                }
            }
        }
        if self.order.is_empty() {
            self.order.shrink_to(64);
            self.entries.shrink_to(64);
        }
    }

    /// When [`Self::expire`] has something to do.
    pub fn next_deadline(&self) -> Option<Time> {
        self.order.front().map(|(at, _)| *at)
    }

    /// Tuples at rest. Counts; for queries only.
    pub fn len(&self) -> usize {
        self.entries.values().filter(|rest| !rest.woken).count()
    }
}

#[cfg(test)]
mod tests {
    use super::super::key::tests::key;
    use super::*;

    #[test]
    fn tuples_expire_in_turn_and_renewed_ones_later() {
        let mut r = Resting::new(Duration::from_secs(10), 100);
        r.insert(Time::ZERO, key(1), Seq(1), Seq(2));
        r.insert(Time::from_millis(1000), key(2), Seq(1), Seq(2));
        r.renew(Time::from_millis(5000), &key(1));
        r.expire(Time::from_millis(12_000));
        assert!(r.get(&key(1)).is_some() && r.get(&key(2)).is_none());
        assert_eq!(r.next_deadline(), Some(Time::from_millis(15_000)));
        r.expire(Time::from_millis(15_000));
        assert_eq!((r.len(), r.next_deadline()), (0, None));
    }

    #[test]
    fn the_oldest_makes_room_and_a_reused_tuple_does_not_pile_up() {
        let mut r = Resting::new(Duration::from_secs(10), 3);
        for port in 0..5 {
            r.insert(Time::ZERO, key(port), Seq(0), Seq(0));
        }
        assert_eq!((r.len(), r.order.len()), (3, 3));
        for _ in 0..100 {
            r.remove(&key(4));
            r.insert(Time::ZERO, key(4), Seq(0), Seq(0));
        }
        assert_eq!((r.len(), r.order.len()), (3, 3));
    }
}
