//! Operations in flight: who they belong to, and the memory they lend to the kernel.
//!
//! Theory of operation. An operation has a slot, named by index and generation in the `user_data` of every submission
//! made for it. The slot is freed with the final completion and its generation moves on, so that a completion which
//! comes too late finds nobody instead of a stranger. What the kernel may look at while the operation lasts (message
//! header, vectors, address, control messages, header bytes) is a [`Lent`]: a heap block that never moves, taken from a
//! pool and put back with the final completion. Receiving operations need none. Slots and blocks are reused, last in
//! first out: nothing is allocated once the peak of concurrency has been seen.
//!
//! Those of one descriptor are in a list that the descriptor's number leads to, so that all of them can be cancelled one by one. The
//! kernel does that, too, given a descriptor, but looks at every operation of the ring that waits for one (io_uring/poll.c,
//! `io_poll_file_find`): each close would cost the more the more connections are idle.
//!
//! `user_data`: kind 8 bits | generation 24 | index 32. The kind comes first so that what a completion carries (a
//! descriptor, a buffer) is known even if its slot is gone.

use super::message::{Control, NAME_LEN};
use crate::buf::BufId;
use smallvec::SmallVec;
use std::os::fd::RawFd;
use std::ptr::NonNull;

/// Bytes of header that an operation copies: virtio-net header and frame headers.
const HEAD_LEN: usize = 144;
const GENERATION_MASK: u32 = (1 << 24) - 1;

/// What a submission is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    /// Nobody waits for it: cancellations.
    Ignore = 0,
    /// Multishot read of frames.
    Frames = 1,
    /// One single read of frames.
    FrameRead = 2,
    /// A poll before a single read of frames.
    FramePoll = 3,
    /// Multishot receive.
    Receive = 4,
    /// Multishot receive of messages.
    Messages = 5,
    /// Writes, sends, connects and polls: only the result matters.
    Plain = 6,
    /// Multishot accept.
    Accept = 7,
    /// Multishot receive of a relayed stream.
    Relayed = 8,
}

impl Kind {
    const fn of(user_data: u64) -> Self {
        match user_data >> 56 {
            1 => Self::Frames,
            2 => Self::FrameRead,
            3 => Self::FramePoll,
            4 => Self::Receive,
            5 => Self::Messages,
            6 => Self::Plain,
            7 => Self::Accept,
            8 => Self::Relayed,
            _ => Self::Ignore,
        }
    }
}

/// Names an operation. Plain data; an id whose operation has ended matches nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId {
    index: u32,
    generation: u32,
}

impl OpId {
    /// Never in flight: the id of an operation that was refused.
    pub(super) const NONE: Self = Self { index: u32::MAX, generation: u32::MAX };

    pub(super) const fn user_data(self, kind: Kind) -> u64 {
        ((kind as u64) << 56) | ((self.generation as u64) << 32) | self.index as u64
    }

    pub(super) const fn split(user_data: u64) -> (Kind, Self) {
        let generation = (user_data >> 32) as u32 & GENERATION_MASK;
        (Kind::of(user_data), Self { index: user_data as u32, generation })
    }
}

/// Memory that one operation lends to the kernel. Never moves.
pub(super) struct Lent {
    pub(super) header: libc::msghdr,
    pub(super) name: [u8; NAME_LEN],
    pub(super) control: Control,
    /// Head and up to eight spans inline.
    pub(super) vectors: SmallVec<[libc::iovec; 9]>,
    pub(super) head: SmallVec<[u8; HEAD_LEN]>,
    /// Buffers that a reference is held on.
    pub(super) held: SmallVec<[BufId; 8]>,
    pub(super) bytes: Vec<u8>,
}

impl Lent {
    fn new() -> Self {
        Self {
            // SAFETY: msghdr is plain data of pointers and integers, for which zero is valid: no name, no vectors.
            header: unsafe { std::mem::zeroed() },
            name: [0; NAME_LEN],
            control: Control::EMPTY,
            vectors: SmallVec::new(),
            head: SmallVec::new(),
            held: SmallVec::new(),
            bytes: Vec::new(),
        }
    }

    /// Makes it as good as new, but for the room that vectors have grown to.
    pub(super) fn clear(&mut self) {
        // SAFETY: as in `new`.
        self.header = unsafe { std::mem::zeroed() };
        self.control.clear();
        self.vectors.clear();
        self.head.clear();
        self.held.clear();
        self.bytes = Vec::new();
    }
}

/// An operation in flight.
pub(super) struct Op<T> {
    pub(super) tag: T,
    /// Submissions whose final completion is outstanding.
    pub(super) live: u16,
    /// Not to be armed again.
    pub(super) cancelled: bool,
    /// For those that submit again by themselves.
    pub(super) fd: RawFd,
    /// What its first submission was; `Ignore` for what is no submission at all.
    pub(super) kind: Kind,
    pub(super) lent: Option<NonNull<Lent>>,
    /// Its neighbours among those of the same descriptor.
    beside: [Option<u32>; 2],
}

enum Entry<T> {
    Used(Op<T>),
    Free { next: Option<u32> },
}

/// All operations in flight and the pool of blocks.
pub(super) struct Slots<T> {
    entries: Vec<(u32, Entry<T>)>,
    free: Option<u32>,
    used: usize,
    most: usize,
    /// The first operation of each descriptor.
    of_fd: Vec<Option<u32>>,
    pool: Vec<NonNull<Lent>>,
}

impl<T: Copy> Slots<T> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            entries: Vec::new(),
            free: None,
            used: 0,
            most: most.min(1 << 24),
            of_fd: Vec::new(),
            pool: Vec::new(),
        }
    }

    /// Takes a slot; `None` when as many operations as allowed are in flight.
    pub(super) fn insert(
        &mut self,
        fd: RawFd,
        kind: Kind,
        tag: T,
        lent: Option<NonNull<Lent>>,
    ) -> Option<OpId> {
        let op = Op { tag, live: 0, cancelled: false, fd, kind, lent, beside: [None; 2] };
        let index = match self.free {
            Some(index) => {
                let (_, entry) = self.entries.get_mut(index as usize)?;
                if let Entry::Free { next } = *entry {
                    self.free = next;
                }
                *entry = Entry::Used(op);
                index
            }
            None if self.entries.len() < self.most => {
                self.entries.push((0, Entry::Used(op)));
                self.entries.len() as u32 - 1
            }
            None => return None,
        };
        self.used += 1;
        self.list(index);
        Some(OpId { index, generation: self.entries[index as usize].0 })
    }

    pub(super) fn get(&mut self, id: OpId) -> Option<&mut Op<T>> {
        match self.entries.get_mut(id.index as usize) {
            Some((generation, Entry::Used(op))) if *generation == id.generation => Some(op),
            _ => None,
        }
    }

    /// Puts an operation at the head of its descriptor's list.
    fn list(&mut self, index: u32) {
        let Some(fd) = self.at(index).map(|op| op.fd as usize) else { return };
        if self.of_fd.len() <= fd {
            self.of_fd.resize(fd + 1, None);
        }
        let next = self.of_fd[fd].replace(index);
        if let Some(op) = self.at(index) {
            op.beside = [None, next];
        }
        if let Some(op) = next.and_then(|next| self.at(next)) {
            op.beside[0] = Some(index);
        }
    }

    fn unlist(&mut self, index: u32) {
        let Some((fd, [before, after])) = self.at(index).map(|op| (op.fd as usize, op.beside)) else {
            return;
        };
        match before.and_then(|before| self.at(before)) {
            Some(op) => op.beside[1] = after,
            None => self.of_fd[fd] = after,
        }
        if let Some(op) = after.and_then(|after| self.at(after)) {
            op.beside[0] = before;
        }
    }

    fn at(&mut self, index: u32) -> Option<&mut Op<T>> {
        match self.entries.get_mut(index as usize) {
            Some((_, Entry::Used(op))) => Some(op),
            _ => None,
        }
    }

    /// An operation on `fd`: the first of them, or the one after `before`.
    pub(super) fn next_of(&self, fd: RawFd, before: Option<OpId>) -> Option<OpId> {
        let index = match before {
            None => *self.of_fd.get(fd as usize)?,
            Some(before) => match self.entries.get(before.index as usize)? {
                (_, Entry::Used(op)) => op.beside[1],
                _ => None,
            },
        };
        index.map(|index| OpId { index, generation: self.entries[index as usize].0 })
    }

    /// Frees a slot; its generation moves on.
    pub(super) fn remove(&mut self, id: OpId) -> Option<Op<T>> {
        self.get(id)?;
        self.unlist(id.index);
        let (generation, entry) = &mut self.entries[id.index as usize];
        let old = std::mem::replace(entry, Entry::Free { next: self.free });
        *generation = (*generation + 1) & GENERATION_MASK;
        self.free = Some(id.index);
        self.used -= 1;
        match old {
            Entry::Used(op) => Some(op),
            Entry::Free { .. } => None,
        }
    }

    /// Operations in flight.
    pub(super) fn len(&self) -> usize {
        self.used
    }

    /// Blocks that wait to be used.
    #[cfg(test)]
    pub(super) fn pool_len(&self) -> usize {
        self.pool.len()
    }

    /// A block for an operation to fill; empty.
    pub(super) fn lend(&mut self) -> NonNull<Lent> {
        self.pool.pop().unwrap_or_else(|| NonNull::from(Box::leak(Box::new(Lent::new()))))
    }

    /// Takes back a block whose operation has ended; returns nothing to the arena: see `Ring::finish`.
    pub(super) fn put_back(&mut self, lent: NonNull<Lent>) {
        self.pool.push(lent);
    }
}

impl<T> Drop for Slots<T> {
    /// Frees the pool. Blocks of operations still in flight are left alone for ever: the kernel may look at them.
    fn drop(&mut self) {
        for lent in self.pool.drain(..) {
            // SAFETY: every block in the pool came from `Box::leak` in `lend` and was put back exactly once, after the
            // final completion of its operation, so neither the kernel nor anyone else refers to it.
            drop(unsafe { Box::from_raw(lent.as_ptr()) });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reused_slot_has_another_generation() {
        let mut slots = Slots::new(2);
        let a = slots.insert(0, Kind::Plain, 'a', None).unwrap();
        assert_eq!(slots.remove(a).map(|op| op.tag), Some('a'));
        let b = slots.insert(0, Kind::Plain, 'b', None).unwrap();
        assert_eq!(a.index, b.index);
        assert!(slots.get(a).is_none() && slots.remove(a).is_none());
        assert_eq!(slots.get(b).map(|op| op.tag), Some('b'));
    }

    #[test]
    fn the_number_of_operations_is_bounded() {
        let mut slots = Slots::new(2);
        let a = slots.insert(0, Kind::Plain, 1, None).unwrap();
        assert!(slots.insert(0, Kind::Plain, 2, None).is_some());
        assert!(slots.insert(0, Kind::Plain, 3, None).is_none());
        slots.remove(a);
        assert!(slots.insert(0, Kind::Plain, 4, None).is_some());
        assert_eq!(slots.len(), 2);
    }

    #[test]
    fn user_data_keeps_kind_and_identity() {
        for kind in [
            Kind::Ignore,
            Kind::Frames,
            Kind::FrameRead,
            Kind::FramePoll,
            Kind::Receive,
            Kind::Messages,
            Kind::Plain,
            Kind::Accept,
            Kind::Relayed,
        ] {
            let id = OpId { index: 0x8765_4321, generation: 0xab_cdef };
            assert_eq!(OpId::split(id.user_data(kind)), (kind, id));
        }
    }

    #[test]
    fn generations_wrap_within_their_bits() {
        let mut slots = Slots::new(1);
        let first = slots.insert(0, Kind::Plain, (), None).unwrap();
        slots.remove(first);
        slots.entries[0].0 = GENERATION_MASK;
        let last = slots.insert(0, Kind::Plain, (), None).unwrap();
        assert_eq!(OpId::split(last.user_data(Kind::Plain)).1, last);
        slots.remove(last);
        assert_eq!(slots.insert(0, Kind::Plain, (), None), Some(first));
    }

    #[test]
    fn the_operations_of_a_descriptor_are_found_whatever_ended_between_them() {
        let mut slots = Slots::new(1000);
        let mut model: Vec<(i32, OpId)> = Vec::new();
        // A generator of numbers is all the chance that it takes.
        let mut seed = 7u32;
        let mut any = |below: usize| {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 8) as usize % below
        };
        for _ in 0..5000 {
            if model.len() < 40 || any(2) == 0 && model.len() < 200 {
                let fd = any(9) as i32;
                model.push((fd, slots.insert(fd, Kind::Plain, (), None).unwrap()));
            } else {
                let (_, op) = model.swap_remove(any(model.len()));
                assert!(slots.remove(op).is_some());
            }
            let fd = any(12) as i32;
            let mut found = Vec::new();
            while let Some(op) = slots.next_of(fd, found.last().copied()) {
                found.push(op);
            }
            let mut wanted: Vec<OpId> = model.iter().filter(|(of, _)| *of == fd).map(|(_, op)| *op).collect();
            found.sort_by_key(|op| op.index);
            wanted.sort_by_key(|op| op.index);
            assert_eq!(found, wanted);
        }
    }
}
