//! What the guest holds beyond the acknowledgement: the sender's SACK scoreboard (RFC 2018, RFC 6675).
//!
//! Ranges are kept sorted, disjoint and merged. Limits: [`MAX_RANGES`]; a block that would make one more is not noted,
//! which costs at most a needless retransmission.

use super::seq::Seq;

/// Ranges remembered. A guest reports four a segment; a window of 64 KiB frames has a few dozen.
const MAX_RANGES: usize = 64;

/// Received ranges above the cumulative acknowledgement.
#[derive(Default)]
pub struct Scoreboard {
    ranges: Vec<(Seq, Seq)>,
}

impl Scoreboard {
    /// True when nothing is noted.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Forgets everything, memory included.
    pub fn clear(&mut self) {
        self.ranges = Vec::new();
    }

    /// Forgets what lies before `una`.
    pub fn advance(&mut self, una: Seq) {
        if self.ranges.is_empty() {
            return;
        }
        self.ranges.retain(|(_, right)| right.after(una));
        if let Some(first) = self.ranges.first_mut() {
            first.0 = first.0.max(una);
        }
        if self.ranges.is_empty() {
            self.clear();
        }
    }

    /// Notes a block; true when it said something new. The caller has checked that it lies within what was sent.
    pub fn insert(&mut self, left: Seq, right: Seq) -> bool {
        let at = self.ranges.partition_point(|(_, r)| r.before(left));
        let end = at + self.ranges[at..].partition_point(|(l, _)| !l.after(right));
        if at == end {
            if self.ranges.len() >= MAX_RANGES {
                return false;
            }
            self.ranges.insert(at, (left, right));
            return true;
        }
        let merged = (self.ranges[at].0.min(left), self.ranges[end - 1].1.max(right));
        if end == at + 1 && merged == self.ranges[at] {
            return false;
        }
        self.ranges[at] = merged;
        self.ranges.drain(at + 1..end);
        true
    }

    /// Bytes noted between `from` and `to`.
    pub fn sacked(&self, from: Seq, to: Seq) -> u32 {
        self.ranges.iter().map(|(l, r)| r.min(to).since(l.max(from))).sum()
    }

    /// Everything before this point and not noted is lost: three ranges, or more than two segments' bytes, arrived
    /// after it (RFC 6675, `IsLost`).
    pub fn lost_edge(&self, mss: u32) -> Option<Seq> {
        let (mut ranges, mut bytes) = (0, 0);
        for (left, right) in self.ranges.iter().rev() {
            ranges += 1;
            bytes += right.since(*left);
            if ranges >= 3 || bytes > 2 * mss {
                return Some(*left);
            }
        }
        None
    }

    /// The first gap that starts at or after `from` and before `limit`, cut off at `limit`.
    pub fn hole(&self, from: Seq, limit: Seq) -> Option<(Seq, Seq)> {
        let mut at = from;
        for (left, right) in &self.ranges {
            if at.before(*left) {
                break;
            }
            at = at.max(*right);
        }
        if !at.before(limit) {
            return None;
        }
        let next = self.ranges.iter().map(|(l, _)| *l).find(|l| l.after(at));
        Some((at, next.map_or(limit, |l| l.min(limit))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn board(blocks: &[(u32, u32)]) -> Scoreboard {
        let mut b = Scoreboard::default();
        for (l, r) in blocks {
            b.insert(Seq(*l), Seq(*r));
        }
        b
    }

    #[test]
    fn blocks_merge_and_repetitions_are_no_news() {
        let mut b = board(&[(10, 20), (30, 40), (50, 60)]);
        assert!(!b.insert(Seq(12), Seq(18)));
        assert!(b.insert(Seq(20), Seq(30)));
        assert_eq!(b.ranges, [(Seq(10), Seq(40)), (Seq(50), Seq(60))]);
        assert!(b.insert(Seq(0), Seq(100)));
        assert_eq!(b.ranges, [(Seq(0), Seq(100))]);
        b.advance(Seq(70));
        assert_eq!(b.ranges, [(Seq(70), Seq(100))]);
        b.advance(Seq(100));
        assert!(b.is_empty());
    }

    #[test]
    fn holes_and_lost_edge_follow_the_ranges() {
        let b = board(&[(10, 20), (30, 40), (50, 60)]);
        assert_eq!(b.hole(Seq(0), Seq(60)), Some((Seq(0), Seq(10))));
        assert_eq!(b.hole(Seq(15), Seq(60)), Some((Seq(20), Seq(30))));
        assert_eq!(b.hole(Seq(40), Seq(45)), Some((Seq(40), Seq(45))));
        assert_eq!(b.hole(Seq(50), Seq(60)), None);
        assert_eq!(b.lost_edge(1000), Some(Seq(10)));
        assert_eq!(b.lost_edge(4), Some(Seq(50)));
        assert_eq!(board(&[(10, 20)]).lost_edge(5), None);
        assert_eq!(b.sacked(Seq(15), Seq(55)), 5 + 10 + 5);
    }

    #[test]
    fn the_board_is_bounded() {
        let mut b = Scoreboard::default();
        for i in 0..1000 {
            b.insert(Seq(i * 10), Seq(i * 10 + 1));
        }
        assert_eq!(b.ranges.len(), MAX_RANGES);
    }
}
