//! One deadline per flow, without a scan and without a tick while idle.
//!
//! Theory of operation. A flow that moves its deadline later keeps the old entry, which fires early, finds that nothing
//! is due and is set again: a busy flow touches the wheel once per entry that fires rather than once per packet.
//! Callers therefore store the true deadline themselves and treat an expiry as "look at this flow now".
//!
//! Entries lie in a hierarchy of eight wheels of 64 slots (Varghese and Lauck, 1987). A slot of the first wheel spans
//! one tick, 2^20 ns or about a millisecond; a slot of each further wheel spans a whole turn of the one before, so that
//! eight wheels reach past the range of [`Time`]. An entry lies in the wheel of the highest digit (base 64) in which its
//! tick differs from the clock's. When the clock reaches a slot its entries move to finer wheels, and from the finest
//! into a small heap, *near*, which holds the entries of the current tick in exact order:
//!
//! ```text
//!   insert -> wheel 7 .. wheel 1 -> wheel 0 -> near -> pop_expired
//! ```
//!
//! Arming and disarming take constant time; an entry moves seven times at most, usually once or twice. Expiry is exact:
//! never early, in order of deadline and, for equal ones, of arming. [`Wheel::next_deadline`] is exact too, unless the
//! entry it came from was disarmed: then it may name an earlier time, at which nothing fires and the next answer is
//! later. Limits: 2^32 - 1 entries.

use super::time::Time;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Nanoseconds of a tick, as a power of two.
const TICK_BITS: u32 = 20;
/// Slots of a wheel, as a power of two.
const SLOT_BITS: u32 = 6;
const SLOTS: usize = 1 << SLOT_BITS;
/// Wheels: enough digits for the 44 bits of the latest tick.
const LEVELS: usize = 8;
/// No entry.
const NONE: u32 = u32::MAX;
/// An entry's place when it is in the near heap, and when it is nowhere.
const NEAR: u16 = u16::MAX;
const NOWHERE: u16 = u16::MAX - 1;
/// The near heap may hold this many disarmed entries, and as many as armed ones, before it is swept.
const SWEEP_SLACK: usize = 64;

/// Names an armed deadline, to disarm it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    at: Time,
    seq: u64,
    index: u32,
}

impl Token {
    /// When it fires.
    pub const fn at(self) -> Time {
        self.at
    }
}

struct Entry<K> {
    at: Time,
    /// Which arming this is: never the same twice.
    seq: u64,
    key: Option<K>,
    /// Slot number over all wheels, or [`NEAR`] or [`NOWHERE`].
    place: u16,
    prev: u32,
    next: u32,
}

/// A list of entries, and a bound below their deadlines.
#[derive(Clone, Copy)]
struct Slot {
    first: u32,
    earliest: Time,
}

const EMPTY: Slot = Slot { first: NONE, earliest: Time::MAX };

/// Deadlines of keys `K`. A key has at most one entry for each [`Token`] that it holds.
pub struct Wheel<K> {
    entries: Vec<Entry<K>>,
    free: Vec<u32>,
    slots: Box<[Slot]>,
    /// One bit per slot that has entries.
    occupied: [u64; LEVELS],
    /// The tick up to which entries are in `near`.
    clock: u64,
    near: BinaryHeap<Reverse<(Time, u64, u32)>>,
    near_armed: usize,
    next_seq: u64,
}

impl<K> Default for Wheel<K> {
    fn default() -> Self {
        Self {
            entries: Vec::new(),
            free: Vec::new(),
            slots: vec![EMPTY; LEVELS * SLOTS].into_boxed_slice(),
            occupied: [0; LEVELS],
            clock: 0,
            near: BinaryHeap::new(),
            near_armed: 0,
            next_seq: 0,
        }
    }
}

const fn tick_of(at: Time) -> u64 {
    at.as_nanos() >> TICK_BITS
}

impl<K> Wheel<K> {
    /// Arms a deadline for `key`.
    pub fn insert(&mut self, at: Time, key: K) -> Token {
        let seq = self.next_seq;
        self.next_seq += 1;
        let entry = Entry { at, seq, key: Some(key), place: NOWHERE, prev: NONE, next: NONE };
        let index = match self.free.pop() {
            Some(index) => {
                self.entries[index as usize] = entry;
                index
            }
            None => {
                self.entries.push(entry);
                self.entries.len() as u32 - 1
            }
        };
        self.place(index);
        Token { at, seq, index }
    }

    /// Disarms a deadline. One that has fired already is gone, which is no error.
    pub fn cancel(&mut self, token: Token) -> Option<K> {
        let entry = self.entries.get(token.index as usize)?;
        if entry.seq != token.seq || entry.place == NOWHERE {
            return None;
        }
        if entry.place == NEAR {
            let key = self.forget(token.index);
            self.near_armed -= 1;
            self.tidy_near();
            return key;
        }
        self.unlink(token.index);
        self.forget(token.index)
    }

    /// The earliest deadline, or a time before it (module text).
    pub fn next_deadline(&self) -> Option<Time> {
        if let Some(Reverse((at, ..))) = self.near.peek() {
            return Some(*at);
        }
        self.first_slot().map(|slot| self.slots[slot].earliest)
    }

    /// Takes one key whose deadline is at or before `now`, earliest first.
    pub fn pop_expired(&mut self, now: Time) -> Option<K> {
        self.advance(tick_of(now));
        let Reverse((at, _, index)) = *self.near.peek()?;
        if at > now {
            return None;
        }
        self.near.pop();
        self.near_armed -= 1;
        let key = self.forget(index);
        self.tidy_near();
        key
    }

    /// Number of armed deadlines.
    pub fn len(&self) -> usize {
        self.entries.len() - self.free.len()
    }

    /// True when nothing is armed.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The occupied slot that the clock reaches first: every entry of a finer wheel comes before those of a coarser one,
    /// and within a wheel no occupied slot lies behind the clock's digit.
    fn first_slot(&self) -> Option<usize> {
        let level = self.occupied.iter().position(|bits| *bits != 0)?;
        Some(level * SLOTS + self.occupied[level].trailing_zeros() as usize)
    }

    /// The first tick of an occupied slot.
    fn start_of(&self, slot: usize) -> u64 {
        let shift = SLOT_BITS * (slot / SLOTS) as u32;
        let above = self.clock >> shift >> SLOT_BITS << SLOT_BITS;
        (above | (slot % SLOTS) as u64) << shift
    }

    /// Moves the clock to `tick`, and what it passes to finer wheels or into `near`. Never moves it back.
    fn advance(&mut self, tick: u64) {
        while let Some(slot) = self.first_slot() {
            let start = self.start_of(slot);
            if start > tick {
                break;
            }
            self.clock = start;
            let mut index = std::mem::replace(&mut self.slots[slot], EMPTY).first;
            self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
            while let Some(entry) = self.entries.get(index as usize) {
                let next = entry.next;
                self.place(index);
                index = next;
            }
        }
        self.clock = self.clock.max(tick);
    }

    /// Puts an entry where its deadline belongs, as the clock stands.
    fn place(&mut self, index: u32) {
        let Entry { at, seq, .. } = self.entries[index as usize];
        let tick = tick_of(at);
        if tick <= self.clock {
            self.entries[index as usize].place = NEAR;
            self.near.push(Reverse((at, seq, index)));
            self.near_armed += 1;
            return;
        }
        let level = ((tick ^ self.clock).ilog2() / SLOT_BITS) as usize;
        let digit = (tick >> (SLOT_BITS * level as u32)) as usize % SLOTS;
        let slot = level * SLOTS + digit;
        let Slot { first, earliest } = self.slots[slot];
        self.slots[slot] = Slot { first: index, earliest: earliest.min(at) };
        self.occupied[level] |= 1 << digit;
        if let Some(after) = self.entries.get_mut(first as usize) {
            after.prev = index;
        }
        let entry = &mut self.entries[index as usize];
        (entry.place, entry.prev, entry.next) = (slot as u16, NONE, first);
    }

    /// Takes an entry out of its slot's list.
    fn unlink(&mut self, index: u32) {
        let Entry { place, prev, next, .. } = self.entries[index as usize];
        if let Some(after) = self.entries.get_mut(next as usize) {
            after.prev = prev;
        }
        if let Some(before) = self.entries.get_mut(prev as usize) {
            before.next = next;
            return;
        }
        let slot = usize::from(place);
        self.slots[slot].first = next;
        if next == NONE {
            self.slots[slot] = EMPTY;
            self.occupied[slot / SLOTS] &= !(1 << (slot % SLOTS));
        }
    }

    /// Frees an entry that is in no list.
    fn forget(&mut self, index: u32) -> Option<K> {
        let entry = &mut self.entries[index as usize];
        entry.place = NOWHERE;
        self.free.push(index);
        entry.key.take()
    }

    fn armed(entries: &[Entry<K>], index: u32, seq: u64) -> bool {
        entries.get(index as usize).is_some_and(|entry| entry.seq == seq && entry.place == NEAR)
    }

    /// Disarmed entries stay in the heap until they come up: sees to it that the first one is armed, and that they do
    /// not pile up behind it.
    fn tidy_near(&mut self) {
        while let Some(Reverse((_, seq, index))) = self.near.peek()
            && !Self::armed(&self.entries, *index, *seq)
        {
            self.near.pop();
        }
        if self.near.len() > 2 * self.near_armed + SWEEP_SLACK {
            let entries = &self.entries;
            self.near.retain(|Reverse((_, seq, index))| Self::armed(entries, *index, *seq));
        }
    }
}

#[cfg(test)]
mod tests;
