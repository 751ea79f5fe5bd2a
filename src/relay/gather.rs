//! What a spliced direction waits for: the first byte, or enough for a move to be worth its wake-up.
//!
//! Theory of operation. Woken by the first byte, a pump moves what one segment has brought. With a low-water mark on its
//! source (`SO_RCVLOWAT`, socket(7)) it moves several at once, for a third of the wake-ups and a quarter less of the
//! processor. But a sender may pause below the mark, because it has said everything or waits for an answer; so such a
//! wait has a deadline of [`WAIT`], and then the mark is lowered. That delays the end of a message, so after a miss the next
//! [`PAUSE`] waits are for the first byte again, twice as many after each further miss up to [`PAUSE_MOST`], until [`HITS`]
//! marks in a row have been reached.

use std::time::Duration;

/// Bytes to wait for: half a pipe, so that a wake-up does not find one full.
pub const MARK: u32 = 128 << 10;
/// For how long.
pub const WAIT: Duration = Duration::from_millis(2);
/// Waits for the first byte after a miss, at least and at most.
pub const PAUSE: u32 = 32;
/// See [`PAUSE`]: a transfer of messages is delayed by one five-hundredth of a [`WAIT`] each at most.
pub const PAUSE_MOST: u32 = 512;
/// Marks reached in a row that make up for all misses.
pub const HITS: u32 = 256;

/// How a wait is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wait {
    /// For [`MARK`] bytes, with a deadline.
    Gather,
    /// For the first byte.
    Plain,
}

/// One direction's mark.
#[derive(Clone, Copy, Debug)]
pub struct Gather {
    raised: bool,
    waiting: bool,
    /// Plain waits to come.
    left: u32,
    pause: u32,
    hits: u32,
}

impl Default for Gather {
    fn default() -> Self {
        Self { raised: false, waiting: false, left: 0, pause: PAUSE, hits: 0 }
    }
}

impl Gather {
    /// How the wait that begins now is made.
    pub fn begin(&mut self) -> Wait {
        if self.left > 0 {
            // A miss has lowered the mark already.
            self.left -= 1;
            return Wait::Plain;
        }
        self.raised = true;
        self.waiting = true;
        Wait::Gather
    }

    /// A wait for the mark is under way.
    pub const fn is_waiting(&self) -> bool {
        self.waiting
    }

    /// The wait is over before its deadline.
    pub fn reached(&mut self) {
        if std::mem::take(&mut self.waiting) {
            self.hits += 1;
            if self.hits >= HITS {
                (self.hits, self.pause) = (0, PAUSE);
            }
        }
    }

    /// The deadline has come. True if the mark is to be lowered, which ends the wait if anything has come.
    pub fn missed(&mut self) -> bool {
        if !std::mem::take(&mut self.waiting) {
            return false;
        }
        (self.left, self.hits) = (self.pause, 0);
        self.pause = (self.pause * 2).min(PAUSE_MOST);
        self.lower()
    }

    /// Waits are no longer for the mark. True if it is to be lowered.
    pub fn lower(&mut self) -> bool {
        self.waiting = false;
        std::mem::take(&mut self.raised)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flow_that_keeps_coming_is_gathered_for_ever() {
        let mut gather = Gather::default();
        for _ in 0..3 * HITS {
            assert_eq!(gather.begin(), Wait::Gather);
            gather.reached();
            assert!(!gather.missed(), "a deadline that comes late says nothing");
        }
        assert!(gather.lower() && !gather.lower());
    }

    #[test]
    fn a_pause_lowers_the_mark_and_each_further_one_keeps_it_low_for_longer() {
        let mut gather = Gather::default();
        let mut pauses = Vec::new();
        for _ in 0..7 {
            assert_eq!(gather.begin(), Wait::Gather);
            assert!(gather.is_waiting() && gather.missed() && !gather.is_waiting());
            let mut plain = 0;
            while gather.left > 0 {
                assert_eq!(gather.begin(), Wait::Plain);
                gather.reached();
                plain += 1;
            }
            pauses.push(plain);
        }
        assert_eq!(pauses, [32, 64, 128, 256, 512, 512, 512]);
        for _ in 0..HITS {
            gather.begin();
            gather.reached();
        }
        gather.begin();
        gather.missed();
        assert_eq!(gather.left, PAUSE);
    }

    #[test]
    fn whoever_copies_finds_no_mark_above_one() {
        let mut gather = Gather::default();
        gather.begin();
        assert!(gather.lower());
        assert!(!gather.missed(), "its deadline is not waited for any more");
    }
}
