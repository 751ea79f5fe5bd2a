//! Chains: a poll, then moves between sockets and pipes, one after the other without us in between.
//!
//! Theory of operation. A SPLICE entry always goes to a kernel thread and never waits for readiness by itself
//! (facts/io_uring.md, 2.1), so a poll goes before it. The entries are tied by hard links: a move that takes less than it
//! was offered counts as failed, and a soft link would cancel the rest (2.3). Each entry is an operation of its own with
//! its own completion. Descriptors, sockets and both ends of pipes alike, must be non-blocking: a worker that sleeps in a
//! socket holds the pipe's lock (2.4). An entry further down the chain looks its descriptor up when its turn comes, so
//! keep all of them open until every part has completed.
//!
//! Cancelling the poll does not break a hard link: the moves are tried at once, and find nothing or something.

use super::slots::Kind;
use super::{OpId, Ring};
use arrayvec::ArrayVec;
use io_uring::squeue::{Entry, Flags};
use io_uring::{opcode, types::Fd};
use nix::errno::Errno;
use nix::poll::PollFlags;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Longest chain: wait, into a pipe, out of it.
pub const MAX_LINKS: usize = 3;

/// One part of a chain.
#[derive(Clone, Copy, Debug)]
pub enum Link<'a> {
    /// Waits for events. The result is the events' bits.
    Poll(BorrowedFd<'a>, PollFlags),
    /// Moves up to `len` bytes; one side is a pipe. The result is the number moved; `Ok(0)` from a socket is its end,
    /// `EAGAIN`: nothing to move, or no room. `ECANCELED`: the pipe may have got bytes all the same.
    Splice {
        /// Where from.
        from: BorrowedFd<'a>,
        /// Where to.
        to: BorrowedFd<'a>,
        /// Most bytes to move.
        len: u32,
    },
}

impl<T: Copy> Ring<T> {
    /// Queues up to [`MAX_LINKS`] parts, each with its tag, to be done one after the other. The ids are in their order.
    /// One chain too many completes with `ENOMEM` in every part.
    pub fn chain(&mut self, links: &[(Link<'_>, T)]) -> ArrayVec<OpId, MAX_LINKS> {
        let mut ids = ArrayVec::<OpId, MAX_LINKS>::new();
        let mut entries = ArrayVec::<Entry, MAX_LINKS>::new();
        let last = links.len().min(MAX_LINKS);
        for (n, (link, tag)) in links.iter().take(last).enumerate() {
            let (fd, entry) = match *link {
                Link::Poll(fd, events) => {
                    (fd, opcode::PollAdd::new(Fd(fd.as_raw_fd()), u32::from(events.bits() as u16)).build())
                }
                Link::Splice { from, to, len } => {
                    let (from, into) = (Fd(from.as_raw_fd()), Fd(to.as_raw_fd()));
                    // An offset of -1 is none, which is all that sockets and pipes know.
                    let splice = opcode::Splice::new(from, -1, into, -1, len);
                    (to, splice.flags(libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK).build())
                }
            };
            let Some(op) = self.slots.insert(fd.as_raw_fd(), Kind::Plain, *tag, None) else { break };
            let tied = if n + 1 < last { Flags::IO_HARDLINK } else { Flags::empty() };
            entries.push(entry.flags(tied).user_data(op.user_data(Kind::Plain)));
            ids.push(op);
        }
        let queued = if ids.len() < last { Err(Errno::ENOMEM) } else { self.push_chain(&entries) };
        match queued {
            Ok(()) => {
                for op in &ids {
                    if let Some(entry) = self.slots.get(*op) {
                        entry.live += 1;
                    }
                }
            }
            Err(errno) => {
                for op in ids.drain(..) {
                    self.slots.remove(op);
                }
                for (_, tag) in &links[..last] {
                    ids.push(self.refuse(*tag, errno));
                }
            }
        }
        ids
    }
}
