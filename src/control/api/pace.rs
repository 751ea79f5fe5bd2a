//! How often the plane is asked: what any number of clients may cost it.
//!
//! Questions are let through one by one, [`RATE`] a second, after a burst of [`BURST`]. Whoever comes too early waits for its
//! turn, in the order of coming, so a client inside that asks without end delays others by its share and no more. The most
//! expensive question, a full page of flows, has taken a debug build 1.2 ms: less than a twelfth of the plane's time at worst.

use std::cell::Cell;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// Questions a second.
pub const RATE: u32 = 64;
/// Questions at once: the pages of sixteen thousand flows.
pub const BURST: u32 = 64;

/// The turns of all clients.
#[derive(Debug)]
pub struct Pace {
    /// When the turn that was given last is, or would have been.
    last: Cell<Instant>,
}

impl Pace {
    /// Nobody has asked.
    pub fn new() -> Self {
        Self { last: Cell::new(Instant::now() - period() * BURST) }
    }

    /// Waits for a turn.
    pub async fn wait(&self) {
        let turn = self.turn(Instant::now());
        if let Some(at) = turn {
            sleep_until(at).await;
        }
    }

    /// Gives a turn: now, or then.
    fn turn(&self, now: Instant) -> Option<Instant> {
        let at = self.last.get().max(now - period() * BURST) + period();
        self.last.set(at);
        (at > now).then_some(at)
    }
}

const fn period() -> Duration {
    Duration::from_nanos(1_000_000_000 / RATE as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_goes_through_and_then_so_many_a_second() {
        let pace = Pace::new();
        let now = Instant::now();
        let at_once = (0..1000).filter(|_| pace.turn(now).is_none()).count();
        assert_eq!(at_once, BURST as usize);
        // Those that were told to wait come first.
        let later = now + Duration::from_secs(1000 / u64::from(RATE)) + Duration::from_secs(1);
        let again = (0..1000).filter(|_| pace.turn(later).is_none()).count();
        assert!((BURST as usize / 2..=BURST as usize).contains(&again), "{again}");
        let idle = later + Duration::from_secs(60);
        assert_eq!((0..1000).filter(|_| pace.turn(idle).is_none()).count(), BURST as usize);
    }
}
