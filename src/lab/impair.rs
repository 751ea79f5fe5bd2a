//! What a bad network does to frames: delay, jitter, loss, duplication, reordering, a bottleneck's rate and queue.
//!
//! Sans-IO and seeded: [`Queue::push`] takes a frame and the time, [`Queue::pop`] gives back what is due by then, and the
//! same seed, times and frames give the same outcome. Order of events for a frame: it may be lost; it waits for the
//! bottleneck (dropped when that queue is full, as a router would); it travels for `delay` plus up to `jitter`, except
//! that a reordered frame is held back for a further [`Impairment::reorder_by`]; it may be duplicated.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

/// How bad one direction of a link is. The default is a perfect one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Impairment {
    /// One-way delay.
    pub delay: Duration,
    /// Up to this much more, uniformly; frames overtake each other by it.
    pub jitter: Duration,
    /// Share of frames lost, 0 to 1.
    pub loss: f64,
    /// Share of frames that arrive twice, 0 to 1.
    pub duplicate: f64,
    /// Share of frames held back so that later ones overtake them, 0 to 1.
    pub reorder: f64,
    /// How long a reordered frame is held back.
    pub reorder_by: Duration,
    /// The bottleneck, in bits a second.
    pub rate: Option<u64>,
    /// Bytes that may wait for the bottleneck.
    pub queue: usize,
    /// Seed of every choice made.
    pub seed: u64,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            duplicate: 0.0,
            reorder: 0.0,
            reorder_by: Duration::from_millis(2),
            rate: None,
            queue: 256 << 10,
            seed: 1,
        }
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): small, seeded, good enough for dice.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall the same way for the same seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next 64 bits.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in 0..1.
    pub fn share(&mut self) -> f64 {
        (self.roll() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// True in `share` of all cases.
    pub fn falls(&mut self, share: f64) -> bool {
        // Always thrown, so that changing one share leaves the other choices of a seed alone.
        self.share() < share
    }
}

/// What happened to the frames of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    /// Given to [`Queue::push`].
    pub pushed: u64,
    /// Lost by chance.
    pub lost: u64,
    /// Dropped because the bottleneck's queue was full.
    pub overflowed: u64,
    /// Sent twice.
    pub duplicated: u64,
    /// Held back.
    pub reordered: u64,
    /// Given back by [`Queue::pop`], duplicates included.
    pub delivered: u64,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Due {
    at: Duration,
    // Arrival order among equals.
    seq: u64,
    frame: Vec<u8>,
}

/// One direction of an impaired link. Times are since any fixed moment.
#[derive(Debug)]
pub struct Queue {
    how: Impairment,
    dice: Dice,
    // When the bottleneck has sent all it was given.
    free_at: Duration,
    seq: u64,
    due: BinaryHeap<Reverse<Due>>,
    fate: Fate,
}

impl Queue {
    /// An empty queue.
    pub fn new(how: Impairment) -> Self {
        Self {
            how,
            dice: Dice::new(how.seed),
            free_at: Duration::ZERO,
            seq: 0,
            due: BinaryHeap::new(),
            fate: Fate::default(),
        }
    }

    /// A frame enters the link.
    pub fn push(&mut self, now: Duration, frame: &[u8]) {
        let how = self.how;
        self.fate.pushed += 1;
        let lost = self.dice.falls(how.loss);
        let twice = self.dice.falls(how.duplicate);
        let held = self.dice.falls(how.reorder);
        let jitter = how.jitter.mul_f64(self.dice.share());
        if lost {
            self.fate.lost += 1;
            return;
        }
        let mut at = now;
        if let Some(rate) = how.rate {
            let rate = rate.max(1) as f64;
            let waiting = self.free_at.saturating_sub(now).as_secs_f64() * rate / 8.0;
            if waiting > how.queue as f64 {
                self.fate.overflowed += 1;
                return;
            }
            self.free_at = self.free_at.max(now) + Duration::from_secs_f64(frame.len() as f64 * 8.0 / rate);
            at = self.free_at;
        }
        at += how.delay + jitter;
        if held {
            self.fate.reordered += 1;
            at += how.reorder_by;
        }
        for _ in 0..=u32::from(twice) {
            self.seq += 1;
            self.due.push(Reverse(Due { at, seq: self.seq, frame: frame.to_vec() }));
        }
        self.fate.duplicated += u64::from(twice);
    }

    /// The next frame that has arrived by `now`.
    pub fn pop(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.next_at()? > now {
            return None;
        }
        self.fate.delivered += 1;
        self.due.pop().map(|Reverse(d)| d.frame)
    }

    /// When the next frame arrives.
    pub fn next_at(&self) -> Option<Duration> {
        self.due.peek().map(|Reverse(d)| d.at)
    }

    /// Counters.
    pub fn fate(&self) -> Fate {
        self.fate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn drain(q: &mut Queue) -> Vec<u8> {
        std::iter::from_fn(|| q.pop(Duration::MAX)).map(|f| f[0]).collect()
    }

    #[test]
    fn a_perfect_link_keeps_order_and_time() {
        let mut q = Queue::new(Impairment { delay: 10 * MS, ..Impairment::default() });
        for i in 0..5 {
            q.push(u32::from(i) * MS, &[i]);
        }
        assert_eq!(q.next_at(), Some(10 * MS));
        assert_eq!(q.pop(9 * MS), None);
        assert_eq!(q.pop(10 * MS), Some(vec![0]));
        assert_eq!(q.pop(10 * MS), None);
        assert_eq!(drain(&mut q), [1, 2, 3, 4]);
    }

    #[test]
    fn shares_come_out_as_asked_and_the_seed_repeats() {
        let how = Impairment { loss: 0.1, duplicate: 0.05, reorder: 0.2, ..Impairment::default() };
        let run = |seed| {
            let mut q = Queue::new(Impairment { seed, ..how });
            for i in 0..10_000u32 {
                q.push(i * MS, &i.to_be_bytes());
            }
            let order: Vec<_> = std::iter::from_fn(|| q.pop(Duration::MAX)).collect();
            (q.fate(), order)
        };
        let (fate, order) = run(7);
        assert!((900..1100).contains(&fate.lost), "{fate:?}");
        assert!((350..550).contains(&fate.duplicated), "{fate:?}");
        assert!((1600..2000).contains(&fate.reordered), "{fate:?}");
        assert_eq!(fate.delivered, fate.pushed - fate.lost + fate.duplicated);
        assert!(!order.is_sorted(), "held back frames were not overtaken");
        assert_eq!(run(7).1, order);
        assert_ne!(run(8).1, order);
    }

    #[test]
    fn a_bottleneck_spaces_frames_and_overflows() {
        // 8 kbit/s is one byte a millisecond.
        let how = Impairment { rate: Some(8000), queue: 100, ..Impairment::default() };
        let mut q = Queue::new(how);
        for i in 0..5 {
            q.push(Duration::ZERO, &[i; 50]);
        }
        // Sent at 50, 100, 150 ms; the fourth found 150 bytes waiting.
        assert_eq!(q.fate().overflowed, 2);
        assert_eq!(q.pop(49 * MS), None);
        assert!(q.pop(50 * MS).is_some() && q.pop(50 * MS).is_none());
        assert!(q.pop(150 * MS).is_some() && q.pop(150 * MS).is_some());
    }
}
