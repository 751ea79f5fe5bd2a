//! The memory that payload lives in: one mapping per class, cut into slots that never move.
//!
//! Theory of operation. A slot is in one of three states. *Free*: on its class's free list, last in first out, so that
//! slots which a burst needed once are not touched again while traffic is light. *Owned*: one or more references are
//! counted; its bytes can be looked at and written. *Lent*: in a provided-buffer ring of the kernel, which may write
//! to it at any time; no slice of it can be had until the kernel says, by a completion, that it is ours.
//!
//! ```text
//!          alloc                        release of the last reference
//!   free ---------> owned (1..n) ----------------------------------------> free
//!   free --lend---> lent --adopt (completion)--> owned (1)
//! ```
//!
//! The mappings are anonymous, MAP_NORESERVE and not inherited by a fork: a slot costs memory when something has been
//! written to it, and [`Arena::trim`] gives that memory back while the slot is free. Nothing here panics: a span that
//! leaves its slot, or a slot that is not owned, gives no bytes. Limits: 32,768 slots of each class but `Small` (a
//! provided-buffer ring holds no more), 2^24 of `Small`.

use super::{BufId, Class, MESSAGE_SLOTS, RELAY_SLOTS, Span};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use std::ffi::c_void;
use std::io;
use std::num::NonZeroUsize;
use std::ptr::{self, NonNull};

/// State of a slot that the kernel may write to; any other value counts references.
const LENT: u32 = u32::MAX;
/// Most slots of a class that a provided-buffer ring serves (`IORING_REGISTER_PBUF_RING` takes 2^15 entries).
const MAX_LENDABLE: u32 = 1 << 15;
/// Most slots of [`Class::Small`]: what a [`BufId`] can name.
const MAX_SMALL: u32 = 1 << 24;

/// How many slots of each class. Values above the limits (module text) are lowered to them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaConfig {
    /// Slots of [`Class::Tap`].
    pub tap: u32,
    /// Slots of [`Class::Host`].
    pub host: u32,
    /// Slots of [`Class::Small`].
    pub small: u32,
    /// Slots of [`Class::Relay`].
    pub relay: u32,
    /// Slots of [`Class::Message`].
    pub message: u32,
}

impl ArenaConfig {
    /// Slots of a class.
    pub const fn slots(&self, class: Class) -> u32 {
        match class {
            Class::Tap => self.tap,
            Class::Host => self.host,
            Class::Small => self.small,
            Class::Relay => self.relay,
            Class::Message => self.message,
        }
    }
}

impl Default for ArenaConfig {
    fn default() -> Self {
        let [tap, host, small] = super::DEFAULT_SLOTS;
        Self { tap, host, small, relay: RELAY_SLOTS, message: MESSAGE_SLOTS }
    }
}

/// What the arena counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ArenaCounters {
    /// Slots handed out by [`Arena::alloc`].
    pub allocated: u64,
    /// Requests to [`Arena::alloc`] that found no free slot.
    pub refused: u64,
    /// Retains and releases of a slot that was not owned: each is a bug of the caller.
    pub stray: u64,
}

/// The slots of one class.
struct Region {
    base: NonNull<u8>,
    slot: usize,
    state: Vec<u32>,
    free: Vec<u32>,
}

impl Region {
    fn new(slot: usize, count: u32) -> io::Result<Self> {
        let base = match NonZeroUsize::new(slot * count as usize) {
            None => NonNull::dangling(),
            Some(len) => {
                let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
                let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE;
                // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing that exists.
                let base = unsafe { mmap_anonymous(None, len, prot, flags) }?;
                // SAFETY: the range is the mapping just made. A child of a fork does not see it; no child uses it.
                let advised = unsafe { madvise(base, len.get(), MmapAdvise::MADV_DONTFORK) };
                if let Err(error) = advised {
                    // SAFETY: the mapping just made, of which no pointer has been given out.
                    let _ = unsafe { munmap(base, len.get()) };
                    return Err(error.into());
                }
                base.cast()
            }
        };
        // Slot 0 on top, so that the slots in use are the first ones.
        Ok(Self { base, slot, state: vec![0; count as usize], free: (0..count).rev().collect() })
    }

    fn owned(&self, index: u32) -> bool {
        self.state.get(index as usize).is_some_and(|s| *s != 0 && *s != LENT)
    }

    /// Start of an index below `state.len()`.
    fn start(&self, index: u32) -> *mut u8 {
        debug_assert!((index as usize) < self.state.len());
        // SAFETY: the index is below the number of slots (callers check it), so the result lies in the mapping.
        unsafe { self.base.as_ptr().add(index as usize * self.slot) }
    }

    /// The bytes of a span of an owned slot, if it stays within the slot.
    fn locate(&self, span: Span) -> Option<(*mut u8, usize)> {
        let (off, len) = (span.off as usize, span.len as usize);
        if !self.owned(span.buf.index()) || off.checked_add(len)? > self.slot {
            return None;
        }
        // SAFETY: `start` is the first byte of the slot and `off` is at most the slot's length (checked above).
        Some((unsafe { self.start(span.buf.index()).add(off) }, len))
    }

    /// Gives back the memory of the slots in a state that `idle` accepts. Returns the bytes of address space covered.
    fn trim(&mut self, idle: impl Fn(u32) -> bool) -> usize {
        const PAGE: usize = 4096;
        let mut given = 0;
        let mut index = 0;
        while index < self.state.len() {
            let run = self.state[index..].iter().take_while(|s| idle(**s)).count();
            if run == 0 {
                index += 1;
                continue;
            }
            // Whole pages only: an end that shares its page with a slot in use stays.
            let from = (index * self.slot).next_multiple_of(PAGE);
            let to = (index + run) * self.slot / PAGE * PAGE;
            index += run;
            if to <= from {
                continue;
            }
            // SAFETY: `from..to` lies within this mapping (runs end at the number of slots) and covers only slots that
            // nobody owns, so no slice of them exists and their contents mean nothing.
            let advised = unsafe {
                let at = NonNull::new_unchecked(self.base.as_ptr().add(from).cast::<c_void>());
                madvise(at, to - from, MmapAdvise::MADV_DONTNEED)
            };
            if advised.is_ok() {
                given += to - from;
            }
        }
        given
    }
}

/// The slots of all classes. See the module's text for their life.
pub struct Arena {
    regions: [Region; 5],
    counters: ArenaCounters,
    abandoned: bool,
}

impl Arena {
    /// Maps the slots. Fails with what mmap(2) says: `ENOMEM` when the address space is limited (`ulimit -v`).
    pub fn new(config: ArenaConfig) -> io::Result<Self> {
        let region = |class: Class| {
            let most = if class == Class::Small { MAX_SMALL } else { MAX_LENDABLE };
            Region::new(class.capacity(), config.slots(class).min(most))
        };
        let [tap, host, small, relay, message] = Class::ALL.map(region);
        let regions = [tap?, host?, small?, relay?, message?];
        Ok(Self { regions, counters: ArenaCounters::default(), abandoned: false })
    }

    fn region(&self, class: Class) -> &Region {
        &self.regions[class as usize]
    }

    fn region_mut(&mut self, class: Class) -> &mut Region {
        &mut self.regions[class as usize]
    }

    /// Takes a free slot, which the caller then owns with one reference. Its contents are whatever was there before.
    pub fn alloc(&mut self, class: Class) -> Option<BufId> {
        let region = self.region_mut(class);
        let Some(index) = region.free.pop() else {
            self.counters.refused += 1;
            return None;
        };
        region.state[index as usize] = 1;
        self.counters.allocated += 1;
        Some(BufId::new(class, index))
    }

    /// Adds a reference to an owned slot. Does nothing but count when it is not owned.
    pub fn retain(&mut self, id: BufId) {
        let region = self.region_mut(id.class());
        if !region.owned(id.index()) || region.state[id.index() as usize] == LENT - 1 {
            self.counters.stray += 1;
            return;
        }
        region.state[id.index() as usize] += 1;
    }

    /// Drops a reference. True when it was the last one: the slot is free now. A slot that is not owned stays as it is.
    pub fn release(&mut self, id: BufId) -> bool {
        let region = self.region_mut(id.class());
        if !region.owned(id.index()) {
            self.counters.stray += 1;
            return false;
        }
        let state = &mut region.state[id.index() as usize];
        *state -= 1;
        let free = *state == 0;
        if free {
            region.free.push(id.index());
        }
        free
    }

    /// The bytes of a span; none when it leaves its slot or the slot is not owned.
    pub fn bytes(&self, span: Span) -> &[u8] {
        match self.region(span.buf.class()).locate(span) {
            // SAFETY: `locate` gives a range within an owned slot of the mapping, whose memory is initialised (zero or
            // written). The kernel writes to lent slots only, and whoever writes to owned ones borrows `self` mutably.
            Some((at, len)) => unsafe { std::slice::from_raw_parts(at, len) },
            None => &[],
        }
    }

    /// The bytes of a span for writing; none when it leaves its slot or the slot is not owned. Bytes that an operation
    /// in flight is still reading may be sent in their old or new form.
    pub fn bytes_mut(&mut self, span: Span) -> &mut [u8] {
        match self.region(span.buf.class()).locate(span) {
            // SAFETY: as in `bytes`; the exclusive borrow of the arena makes this the only slice of it.
            Some((at, len)) => unsafe { std::slice::from_raw_parts_mut(at, len) },
            None => &mut [],
        }
    }

    /// Copies as many bytes as both spans have, and returns how many: none when either is out of range or not owned.
    /// The spans may overlap.
    pub fn copy(&mut self, from: Span, to: Span) -> usize {
        let source = self.region(from.buf.class()).locate(from);
        let target = self.region(to.buf.class()).locate(to);
        let (Some((source, have)), Some((target, room))) = (source, target) else { return 0 };
        let n = have.min(room);
        // SAFETY: both ranges lie in owned slots of the mappings and hold at least `n` bytes; `self` is borrowed
        // exclusively, so no slice of either exists; `copy` allows overlap.
        unsafe { ptr::copy(source, target, n) };
        n
    }

    /// References counted for a slot: 0 when it is free or lent to the kernel.
    pub fn references(&self, id: BufId) -> u32 {
        if self.region(id.class()).owned(id.index()) {
            self.region(id.class()).state[id.index() as usize]
        } else {
            0
        }
    }

    /// Free slots of a class, without those lent to the kernel.
    pub fn free_count(&self, class: Class) -> usize {
        self.region(class).free.len()
    }

    /// Slots of a class that are in use: neither free nor lent to the kernel. Counts; for queries only.
    pub fn held_count(&self, class: Class) -> usize {
        self.region(class).state.iter().filter(|state| **state != 0 && **state != LENT).count()
    }

    /// All slots of a class.
    pub fn slot_count(&self, class: Class) -> usize {
        self.region(class).state.len()
    }

    /// What was counted so far.
    pub fn counters(&self) -> ArenaCounters {
        self.counters
    }

    /// Gives the memory of free slots back to the system; they stay usable. Returns bytes of address space covered.
    pub fn trim(&mut self) -> usize {
        self.regions.iter_mut().map(|r| r.trim(|state| state == 0)).sum()
    }

    /// Like [`Self::trim`], and lent slots too. Only right while the kernel has filled none of them that no completion
    /// was seen for: the contents would be lost.
    pub(crate) fn trim_lent(&mut self) -> usize {
        self.regions.iter_mut().map(|r| r.trim(|state| state == 0 || state == LENT)).sum()
    }

    /// Lends a free slot to the kernel: its name, address and length.
    pub(crate) fn lend(&mut self, class: Class) -> Option<(BufId, *mut u8, usize)> {
        let region = self.region_mut(class);
        let index = region.free.pop()?;
        region.state[index as usize] = LENT;
        Some((BufId::new(class, index), region.start(index), region.slot))
    }

    /// A lent slot came back in a completion: it is owned now, with one reference. `None` when it was not lent.
    pub(crate) fn adopt(&mut self, class: Class, index: u32) -> Option<BufId> {
        let state = self.region_mut(class).state.get_mut(index as usize)?;
        if *state != LENT {
            self.counters.stray += 1;
            return None;
        }
        *state = 1;
        Some(BufId::new(class, index))
    }

    /// Address and length of a span, for the kernel to read: `None` when it is out of range or not owned. Whoever
    /// passes it on holds a reference until the kernel is done.
    pub(crate) fn locate(&self, span: Span) -> Option<(*const u8, usize)> {
        self.region(span.buf.class()).locate(span).map(|(at, len)| (at.cast_const(), len))
    }

    /// The kernel may still write here although the ring is gone: never unmap.
    pub(crate) fn abandon(&mut self) {
        self.abandoned = true;
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        if self.abandoned {
            return;
        }
        for region in &self.regions {
            let len = region.slot * region.state.len();
            if len > 0 {
                // SAFETY: exactly the mapping made in `Region::new`; slices of it borrow the arena, so none is left,
                // and the ring that lent slots to the kernel has drained them first or called `abandon`.
                let _ = unsafe { munmap(region.base.cast(), len) };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buf::{HOST_SLOT, SMALL_SLOT};

    fn arena() -> Arena {
        Arena::new(ArenaConfig { tap: 2, host: 3, small: 64, relay: 0, message: 0 }).unwrap()
    }

    #[test]
    fn the_slot_freed_last_is_used_first() {
        let mut a = arena();
        let first = a.alloc(Class::Host).unwrap();
        let second = a.alloc(Class::Host).unwrap();
        assert_eq!((first.index(), second.index()), (0, 1));
        assert!(a.release(first));
        assert_eq!(a.alloc(Class::Host), Some(first));
        assert_eq!(a.free_count(Class::Host), 1);
    }

    #[test]
    fn a_slot_is_free_when_the_last_reference_goes() {
        let mut a = arena();
        let id = a.alloc(Class::Tap).unwrap();
        a.retain(id);
        assert_eq!(a.references(id), 2);
        assert!(!a.release(id));
        assert!(a.release(id));
        assert_eq!(a.free_count(Class::Tap), 2);
        assert!(!a.release(id), "a stray release changes nothing");
        a.retain(id);
        assert_eq!((a.free_count(Class::Tap), a.counters().stray), (2, 2));
    }

    #[test]
    fn slots_and_those_in_use_are_counted_by_class() {
        let mut a = Arena::new(ArenaConfig { tap: 2, host: 3, small: 4, relay: 6, message: 5 }).unwrap();
        let slots = [2, 3, 4, 6, 5];
        for (class, slots) in
            [Class::Tap, Class::Host, Class::Small, Class::Relay, Class::Message].into_iter().zip(slots)
        {
            assert_eq!((a.slot_count(class), a.held_count(class)), (slots, 0));
            let held: Vec<_> = (1..slots).map(|_| a.alloc(class).unwrap()).collect();
            assert_eq!((a.slot_count(class), a.held_count(class)), (slots, slots - 1));
            held.into_iter().for_each(|id| assert!(a.release(id)));
            assert_eq!(a.held_count(class), 0);
        }
    }

    #[test]
    fn an_empty_class_refuses_and_counts() {
        let mut a = arena();
        assert!(a.alloc(Class::Tap).is_some() && a.alloc(Class::Tap).is_some());
        assert_eq!(a.alloc(Class::Tap), None);
        assert_eq!(a.counters(), ArenaCounters { allocated: 2, refused: 1, stray: 0 });
    }

    #[test]
    fn spans_out_of_range_give_nothing() {
        let mut a = arena();
        let id = a.alloc(Class::Small).unwrap();
        let end = SMALL_SLOT as u32;
        assert_eq!(a.bytes(Span::new(id, 0, end)).len(), SMALL_SLOT);
        assert_eq!(a.bytes(Span::new(id, 1, end)).len(), 0);
        assert_eq!(a.bytes(Span::new(id, u32::MAX, u32::MAX)).len(), 0);
        assert_eq!(a.bytes(Span::new(BufId::new(Class::Small, 64), 0, 1)).len(), 0, "no such slot");
        assert_eq!(a.bytes_mut(Span::new(BufId::new(Class::Small, 5), 0, 1)).len(), 0, "not owned");
        assert!(a.locate(Span::new(id, end, 0)).is_some());
        assert!(a.locate(Span::new(id, end, 1)).is_none());
    }

    #[test]
    fn copies_between_classes_and_within_a_slot() {
        let mut a = arena();
        let tap = a.alloc(Class::Tap).unwrap();
        let small = a.alloc(Class::Small).unwrap();
        a.bytes_mut(Span::new(tap, 100, 5)).copy_from_slice(b"hello");
        assert_eq!(a.copy(Span::new(tap, 100, 5), Span::new(small, 7, 5)), 5);
        assert_eq!(a.bytes(Span::new(small, 7, 5)), b"hello");
        assert_eq!(a.copy(Span::new(small, 7, 5), Span::new(small, 9, 5)), 5);
        assert_eq!(a.bytes(Span::new(small, 7, 7)), b"hehello");
        assert_eq!(a.copy(Span::new(small, 7, 5), Span::new(small, u32::MAX, 5)), 0);
    }

    #[test]
    fn lent_slots_show_no_bytes_until_they_are_adopted() {
        let mut a = arena();
        let (id, at, len) = a.lend(Class::Host).unwrap();
        assert_eq!(len, HOST_SLOT);
        assert!(!at.is_null());
        assert_eq!(a.held_count(Class::Host), 0);
        assert_eq!(a.bytes(Span::new(id, 0, 1)).len(), 0);
        assert!(!a.release(id));
        assert_eq!(a.adopt(Class::Host, id.index()), Some(id));
        assert_eq!(a.adopt(Class::Host, id.index()), None, "only once");
        assert_eq!(a.adopt(Class::Host, 999), None);
        assert_eq!((a.references(id), a.held_count(Class::Host)), (1, 1));
        assert!(a.release(id));
        assert_eq!(a.held_count(Class::Host), 0);
    }

    #[test]
    fn trimming_clears_free_slots_and_spares_owned_ones() {
        let mut a = arena();
        let kept = a.alloc(Class::Small).unwrap();
        let freed: Vec<_> = (0..8).map(|_| a.alloc(Class::Small).unwrap()).collect();
        for id in freed.iter().chain([&kept]) {
            a.bytes_mut(Span::new(*id, 0, SMALL_SLOT as u32)).fill(0xaa);
        }
        for id in &freed {
            assert!(a.release(*id));
        }
        assert!(a.trim() > 0);
        assert!(a.bytes(Span::new(kept, 0, SMALL_SLOT as u32)).iter().all(|b| *b == 0xaa));
        // A slot in the middle of the freed run lost its contents with its pages.
        while let Some(id) = a.alloc(Class::Small) {
            if id == freed[4] {
                assert!(a.bytes(Span::new(id, 0, SMALL_SLOT as u32)).iter().all(|b| *b == 0));
                return;
            }
        }
        panic!("the freed slot was not handed out again");
    }
}
