//! A provided-buffer ring: where the kernel finds an empty slot when data arrives, so that idle flows need none.
//!
//! Theory of operation. The ring is an array of (address, length, id) that we append to and the kernel takes from
//! (io_uring_register_buf_ring(3)). Slots are lent in batches: [`Provided::top_up`] appends whatever the arena has free
//! up to a target and publishes all of it with one store of the tail, right before the kernel is entered. A slot
//! leaves by a completion that names it ([`Provided::taken`]). The head is the kernel's; what we know is the number of
//! slots that no completion has named yet, which is exact whenever the completion queue is drained.
//!
//! How many tap slots are lent follows what the frames fill of them. The kernel takes slots in the order they were lent, so
//! each of them is written to before the first is again: 64 super-frames are four megabytes, which leave the processor's
//! cache before they are read; 64 datagrams are a hundred kilobytes, and want to be joined into one send.

use super::error::RingError;
use crate::buf::{Arena, Class};
use io_uring::IoUring;
use io_uring::types::BufRingEntry;
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous, munmap};
use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Tap slots lent at once, at most: one batch of datagrams that are joined into one send.
const MAX_LENT_TAP: usize = 64;
/// And at least, whatever they are filled with.
const MIN_LENT_TAP: usize = 16;
/// Bytes that the lent tap slots should hold once they are filled (perf/NOTES.md, "how many tap slots are lent").
const LENT_TAP_BYTES: usize = 1 << 20;
/// Host slots lent at once, at most, and relay slots. The kernel takes slots in the order they were lent, so every lent slot is written to
/// in turn; few of them keep the bytes that are moved in the processor's cache.
const MAX_LENT_HOST: usize = 32;

/// The classes that are lent.
const LENT: [Class; 4] = [Class::Tap, Class::Host, Class::Relay, Class::Message];

/// The buffer group of a class, which operations name.
pub(super) const fn group(class: Class) -> u16 {
    class as u16
}

/// The provided-buffer rings of all classes that are lent.
pub(super) struct Lending([Provided; LENT.len()]);

impl Lending {
    /// Registers them.
    pub(super) fn new(uring: &IoUring, arena: &Arena) -> Result<Self, RingError> {
        let [tap, host, relay, message] = LENT.map(|class| Provided::new(uring, arena, class));
        Ok(Self([tap?, host?, relay?, message?]))
    }

    /// That of a class; `None` for one that is never lent.
    pub(super) fn of(&self, class: Class) -> Option<&Provided> {
        self.0.iter().find(|p| p.class == class)
    }

    /// See [`Provided::top_up`].
    pub(super) fn top_up(&mut self, arena: &mut Arena) {
        self.0.iter_mut().for_each(|p| p.top_up(arena));
    }

    /// Lends nothing more of a class, or goes on.
    pub(super) fn rest(&mut self, class: Class, rests: bool) {
        if let Some(provided) = self.0.iter_mut().find(|p| p.class == class) {
            provided.rests = rests;
        }
    }

    /// A completion named a slot of this class, which holds `len` bytes.
    pub(super) fn taken(&mut self, class: Class, len: usize) {
        if let Some(provided) = self.0.iter_mut().find(|p| p.class == class) {
            provided.taken(len);
        }
    }

    /// The kernel may still read there although the ring is gone: never unmap.
    pub(super) fn abandon(&mut self) {
        self.0.iter_mut().for_each(|p| p.abandoned = true);
    }
}

/// The provided-buffer ring of one class.
pub(super) struct Provided {
    base: NonNull<BufRingEntry>,
    bytes: NonZeroUsize,
    class: Class,
    mask: u16,
    tail: u16,
    published: u16,
    level: usize,
    /// Slots lent at most, ever.
    most: usize,
    /// Slots to lend now.
    target: usize,
    /// What the last slots were filled with: a moving average, in bytes.
    filled: usize,
    /// Nothing is lent.
    rests: bool,
    abandoned: bool,
}

impl Provided {
    /// Registers a ring for all slots of `class` but a few, which stay for [`Arena::alloc`].
    fn new(uring: &IoUring, arena: &Arena, class: Class) -> Result<Self, RingError> {
        let slots = arena.slot_count(class);
        let entries = u16::try_from(slots.next_power_of_two()).unwrap_or(1 << 15).min(1 << 15);
        let bytes = usize::from(entries) * size_of::<BufRingEntry>();
        let bytes = NonZeroUsize::new(bytes.next_multiple_of(4096)).unwrap_or(NonZeroUsize::MIN);
        let prot = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a new anonymous mapping at an address of the kernel's choice overlaps nothing that exists.
        let base = unsafe { mmap_anonymous(None, bytes, prot, MapFlags::MAP_PRIVATE) }
            .map_err(|errno| RingError::Arena { bytes: bytes.get(), source: errno.into() })?;
        let most = match class {
            // Nobody allocates these: all of them may be lent.
            Class::Relay => slots.min(MAX_LENT_HOST),
            Class::Tap => (slots - (slots / 8).min(4)).min(MAX_LENT_TAP),
            _ => (slots - (slots / 8).min(4)).min(MAX_LENT_HOST),
        };
        let ring = Self {
            base: base.cast(),
            bytes,
            class,
            mask: entries - 1,
            tail: 0,
            published: 0,
            level: 0,
            most,
            target: most,
            filled: 0,
            rests: false,
            abandoned: false,
        };
        // SAFETY: the range is the mapping just made. The kernel pins these pages: a fork that made them copy-on-write
        // would leave us writing to other pages than the kernel reads.
        unsafe { madvise(base, bytes.get(), MmapAdvise::MADV_DONTFORK) }
            .map_err(|errno| RingError::Other { call: "madvise(MADV_DONTFORK)", errno })?;
        let (sq, cq) = (uring.params().sq_entries(), uring.params().cq_entries());
        // SAFETY: the mapping is page-aligned, holds `entries` entries, and lives until the uring is closed (`Ring`
        // declares the uring first) or for ever.
        unsafe {
            uring.submitter().register_buf_ring_with_flags(base.as_ptr() as u64, entries, group(class), 0)
        }
        .map_err(|error| match error.raw_os_error() {
            Some(libc::EINVAL) => RingError::TooOld { lacking: "IORING_REGISTER_PBUF_RING" },
            _ => RingError::of("io_uring_register", &error, sq, cq),
        })?;
        Ok(ring)
    }

    /// Lends free slots up to the target and shows them to the kernel.
    fn top_up(&mut self, arena: &mut Arena) {
        while !self.rests
            && self.level < self.target
            && let Some((id, at, len)) = arena.lend(self.class)
        {
            // SAFETY: the index is masked to the number of entries of the mapping. The kernel reads only entries below
            // the published tail; this one is above it, as `level` never exceeds the number of entries. Setting its
            // three fields leaves the fourth alone, which in entry 0 is the tail.
            let entry = unsafe { &mut *self.base.as_ptr().add(usize::from(self.tail & self.mask)) };
            entry.set_addr(at as u64);
            entry.set_len(len as u32);
            entry.set_bid(id.index() as u16);
            self.tail = self.tail.wrapping_add(1);
            self.level += 1;
        }
        if self.published != self.tail {
            // SAFETY: `tail` gives the address of the tail field of the mapped ring, aligned for u16; only this thread
            // writes to it and the kernel reads it, so going through an atomic is sound.
            let tail = unsafe {
                AtomicU16::from_ptr(BufRingEntry::tail(self.base.as_ptr().cast_const()).cast_mut())
            };
            // Release: the entries must be visible before the tail that covers them.
            tail.store(self.tail, Ordering::Release);
            self.published = self.tail;
        }
    }

    fn taken(&mut self, len: usize) {
        self.level = self.level.saturating_sub(1);
        if self.class == Class::Tap {
            self.filled = (self.filled * 7 + len) / 8;
            self.target = lend(self.filled).min(self.most);
        }
    }

    /// Slots that the kernel can fill, once those free in the arena are lent.
    pub(super) fn available(&self, arena: &Arena) -> usize {
        self.level + arena.free_count(self.class).min(self.most - self.level)
    }

    /// Slots lent now.
    pub(super) fn lent(&self) -> usize {
        self.level
    }

    /// Slots lent at most.
    pub(super) fn most(&self) -> usize {
        self.most
    }
}

/// Tap slots to lend when each is filled with about `len` bytes.
fn lend(len: usize) -> usize {
    (LENT_TAP_BYTES / len.max(1)).clamp(MIN_LENT_TAP, MAX_LENT_TAP)
}

impl Drop for Provided {
    fn drop(&mut self) {
        if !self.abandoned {
            // SAFETY: exactly the mapping made in `new`. The uring that was told of it is closed or holds the pages by
            // itself (it pins them), and no operation is left that could select a slot.
            let _ = unsafe { munmap(self.base.cast(), self.bytes.get()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_slots_are_lent_as_stay_in_the_cache() {
        assert_eq!((lend(0), lend(1500), lend(16 << 10)), (64, 64, 64));
        assert_eq!((lend(32 << 10), lend(64 << 10), lend(72 << 10)), (32, 16, 16));
    }
}
