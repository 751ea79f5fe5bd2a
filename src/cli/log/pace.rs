//! How often one place in the program may speak.
//!
//! Traffic can make a place say the same thing a hundred thousand times a second, and standard error may be a terminal or a
//! journal that cannot take it. So each place has [`BURST`] lines in [`WINDOW`]; what is beyond them is counted, and the first
//! line of a later window says how many were left out. A place is the statement, whatever its text: its texts may be as
//! many as there are peers.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of one place in a window.
const BURST: u32 = 10;
/// How long a window is.
const WINDOW: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct Place {
    since: Instant,
    lines: u32,
    left_out: u64,
}

/// What every place, known by a `K`, has said lately. The lock is taken for lines that are to be written only, and a process
/// that writes has one thread.
#[derive(Debug)]
pub struct Pace<K> {
    places: Mutex<HashMap<K, Place>>,
}

impl<K: Eq + Hash> Pace<K> {
    /// Nobody has spoken.
    pub fn new() -> Self {
        Self { places: Mutex::new(HashMap::new()) }
    }

    /// Whether a line of `place` may be written at `now`; if so, how many were left out since the last one.
    pub fn admit(&self, place: K, now: Instant) -> Option<u64> {
        let mut places = self.places.lock().unwrap_or_else(PoisonError::into_inner);
        let place = places.entry(place).or_insert(Place { since: now, lines: 0, left_out: 0 });
        if now.duration_since(place.since) >= WINDOW {
            (place.since, place.lines) = (now, 0);
        }
        if place.lines >= BURST {
            place.left_out += 1;
            return None;
        }
        place.lines += 1;
        Some(std::mem::take(&mut place.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_says_much_is_cut_short_and_others_are_not() {
        let (pace, start) = (Pace::new(), Instant::now());
        let at = |ms| start + Duration::from_millis(ms);
        let written = (0..1000).filter(|_| pace.admit("one", at(1)).is_some()).count();
        assert_eq!(written, BURST as usize);
        assert_eq!(pace.admit("other", at(2)), Some(0));
        assert_eq!(pace.admit("one", at(999)), None);
        // 990 of the thousand, and the one before.
        assert_eq!(pace.admit("one", at(1001)), Some(991));
        assert_eq!(pace.admit("one", at(1002)), Some(0));
    }
}
