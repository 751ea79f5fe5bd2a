//! Whether a direction carries bulk or messages.
//!
//! Copied pieces are counted in windows of [`BULK_TIME`]: [`BULK`] bytes in pieces of at least [`SMALL`] on average prove bulk,
//! and a window without proof ends it. Splices are not told in pieces of the sender's: there [`SMALL_FILLS`] small fills in a
//! row end it.

use crate::flow::Time;
use std::time::Duration;

/// Bytes that make a direction bulk, within [`BULK_TIME`].
pub const BULK: u64 = 256 << 10;
/// See [`BULK`]: 13 MB/s at least.
pub const BULK_TIME: Duration = Duration::from_millis(20);
/// A piece below this is a message: moving it through a pipe costs more than copying it.
pub const SMALL: u64 = 16 << 10;
/// Small fills in a row that end bulk.
pub const SMALL_FILLS: u32 = 8;

/// What has been seen.
#[derive(Clone, Debug, Default)]
pub struct Bulk {
    proven: bool,
    since: Time,
    bytes: u64,
    pieces: u64,
    small_fills: u32,
}

impl Bulk {
    /// It carries bulk.
    pub const fn is_proven(&self) -> bool {
        self.proven
    }

    /// It does not, until that is proven again.
    pub fn ends(&mut self) {
        self.proven = false;
    }

    /// A new count begins.
    pub fn begin(&mut self, now: Time) {
        (self.since, self.bytes, self.pieces, self.small_fills) = (now, 0, 0, 0);
    }

    /// A piece was copied. True if it has just proven bulk.
    pub fn piece(&mut self, now: Time, bytes: u64) -> bool {
        if now.since(self.since) > BULK_TIME {
            self.proven &= self.shown();
            self.begin(now);
        }
        self.bytes += bytes;
        self.pieces += 1;
        let news = self.shown() && !self.proven;
        self.proven |= news;
        news
    }

    /// A pipe was filled. True if that ends bulk.
    pub fn fill(&mut self, bytes: u64) -> bool {
        self.small_fills = if bytes < SMALL { self.small_fills + 1 } else { 0 };
        let over = self.small_fills >= SMALL_FILLS;
        self.proven &= !over;
        over
    }

    const fn shown(&self) -> bool {
        self.bytes >= BULK && self.bytes >= SMALL * self.pieces
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_pieces_in_time_prove_it_once() {
        let mut bulk = Bulk::default();
        let proofs = (0..8).filter(|_| bulk.piece(Time::ZERO, BULK / 4)).count();
        assert!(proofs == 1 && bulk.is_proven());
        let late = Time::ZERO + BULK_TIME * 2;
        // The window that ended had been bulk; the next one is not.
        bulk.piece(late, 10);
        assert!(bulk.is_proven());
        bulk.piece(late + BULK_TIME * 2, 10);
        assert!(!bulk.is_proven());
    }

    #[test]
    fn neither_many_messages_nor_a_slow_sender_do() {
        let mut bulk = Bulk::default();
        assert!(!(0..1000).any(|_| bulk.piece(Time::ZERO, SMALL - 1)));
        let mut now = Time::ZERO;
        let mut bulk = Bulk::default();
        for _ in 0..100 {
            now += BULK_TIME * 2;
            assert!(!bulk.piece(now, BULK - 1));
        }
    }

    #[test]
    fn small_fills_in_a_row_end_it() {
        let mut bulk = Bulk::default();
        bulk.piece(Time::ZERO, BULK);
        let fills = |bulk: &mut Bulk, n| (0..n).any(|_| bulk.fill(SMALL - 1));
        assert!(!fills(&mut bulk, SMALL_FILLS - 1));
        assert!(!bulk.fill(SMALL));
        assert!(!fills(&mut bulk, SMALL_FILLS - 1) && bulk.is_proven());
        assert!(bulk.fill(1) && !bulk.is_proven());
    }
}
