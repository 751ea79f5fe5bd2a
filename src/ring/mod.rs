//! The reactor: one io_uring, the memory the kernel writes to, and operations that are safe to hold on to.
//!
//! Theory of operation. One thread makes the ring and uses it. It queues operations, enters the kernel once with
//! [`Ring::wait`], and takes what happened one [`Completion`] at a time; nothing calls back. Task work is deferred
//! (`DEFER_TASKRUN`), so completions appear in [`Ring::wait`] and [`Ring::submit`] and nowhere else.
//!
//! ```text
//!   read_frames, receive, send, ... --> submission queue --wait()--> kernel
//!        |                                                             |
//!        v takes references                                            v fills lent slots
//!   op slot + lent block                                       completion queue
//!        ^                                                             |
//!        +---- freed with the final completion <---- completion() <----+
//! ```
//!
//! *Memory.* The ring owns the [`Arena`] and lends slots of all classes but [`Class::Small`] to the kernel
//! ([`provided`]). A completion that carries data hands its slot over with one reference: whoever takes the completion
//! releases it. Operations that read spans hold references of their own from submission to final completion, so the
//! caller may release right behind the call. Everything else an operation lends is in its [`slots`] block.
//!
//! *Descriptors* are borrowed for the call only. Keep one open until the next [`Ring::submit`] or [`Ring::wait`] after
//! an operation on it. Closing does not cancel: [`Ring::cancel_fd`], submit, close.
//!
//! *Ends.* Every operation has exactly one completion with `more == false`, and its [`OpId`] is dead after it. A
//! multishot operation may end at any time, with an error or with data; arm it again if it is still wanted. `ENOBUFS`
//! says that no slot was free: arm again when [`Ring::buffers_available`] has recovered.
//!
//! *Errors.* Nothing panics and no operation is lost: what cannot be submitted completes with its error.

mod chain;
mod complete;
mod error;
mod message;
mod ops;
pub mod pipes;
mod provided;
mod setup;
mod slots;
pub mod sockopt;

pub use chain::Link;
pub use complete::{Completion, Data};
pub use error::{RingError, Settings};
pub use message::Local;
pub use ops::Message;
pub use pipes::{Pipe, Pipes};
pub use setup::{FrameReads, Granted, Offer, RingConfig, offer};
pub use slots::OpId;

use crate::buf::{Arena, BufId, Class};
use error::errno_of;
use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode, squeue};
use nix::errno::Errno;
use provided::{Lending, Provided};
use slots::{Kind, Slots};
use std::collections::VecDeque;
use std::io;
use std::net::Shutdown;
use std::os::fd::RawFd;
use std::time::{Duration, Instant};

/// How long [`Ring::shutdown_all`] waits for the last completions.
const DRAIN_TIME: Duration = Duration::from_secs(2);
/// Entries into the kernel that may fail in a row before a push gives up.
const PUSH_TRIES: usize = 64;

/// What the ring counted since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingCounters {
    /// Times the kernel was entered.
    pub enters: u64,
    /// Submissions made.
    pub submitted: u64,
    /// Completions taken from the kernel.
    pub completed: u64,
    /// Times the submission queue was full and had to be submitted early.
    pub queue_full: u64,
    /// Completions whose operation was gone. Each is a bug of this module or the kernel.
    pub stale: u64,
    /// Multishot operations that ended for want of a slot.
    pub starved: u64,
    /// Operations refused because too many were in flight, or because a span was not owned.
    pub refused: u64,
}

/// A shutdown(2) that happens right after the next submission.
struct PendingShutdown {
    fd: RawFd,
    how: Shutdown,
    op: OpId,
}

/// The reactor. `T` is whatever the caller wants back with a completion.
pub struct Ring<T: Copy> {
    // Declared above everything the kernel may look at or write to, because fields are dropped in this order.
    uring: IoUring,
    slots: Slots<T>,
    lending: Lending,
    arena: Arena,
    /// Completions that did not come from the kernel.
    local: VecDeque<Completion<T>>,
    shutdowns: Vec<PendingShutdown>,
    granted: Granted,
    counters: RingCounters,
    closing: bool,
}

impl<T: Copy> Ring<T> {
    /// Makes a ring for the calling thread, which must be the one that uses it.
    pub fn new(config: RingConfig) -> Result<Self, RingError> {
        let (uring, granted) = setup::make(&config)?;
        let arena = Arena::new(config.arena).map_err(|source| {
            let bytes = |class: Class| class.capacity() * config.arena.slots(class) as usize;
            RingError::Arena { bytes: Class::ALL.map(bytes).iter().sum(), source }
        })?;
        let lending = Lending::new(&uring, &arena)?;
        setup::enable(&uring, granted.frame_reads)?;
        let mut ring = Self {
            uring,
            slots: Slots::new(config.ops),
            lending,
            arena,
            local: VecDeque::new(),
            shutdowns: Vec::new(),
            granted,
            counters: RingCounters::default(),
            closing: false,
        };
        ring.top_up();
        Ok(ring)
    }

    /// What the kernel granted.
    pub fn granted(&self) -> &Granted {
        &self.granted
    }

    /// The buffers.
    pub fn arena(&self) -> &Arena {
        &self.arena
    }

    /// The buffers, to allocate and write.
    pub fn arena_mut(&mut self) -> &mut Arena {
        &mut self.arena
    }

    /// Drops one reference to a buffer. A slot that becomes free is lent to the kernel again with the next submission.
    pub fn release(&mut self, id: BufId) {
        self.arena.release(id);
    }

    /// Slots of a class that receives can fill: those lent and those that the next submission lends. For
    /// [`Class::Small`], which is never lent, the free ones.
    pub fn buffers_available(&self, class: Class) -> usize {
        match self.lending.of(class) {
            Some(provided) => provided.available(&self.arena),
            None => self.arena.free_count(class),
        }
    }

    /// Lends the kernel no more slots of a class, or goes on with it. Those that are lent are still filled.
    pub fn rest(&mut self, class: Class, rests: bool) {
        self.lending.rest(class, rests);
    }

    /// Most slots that [`Self::buffers_available`] can report for a class.
    pub fn buffers_total(&self, class: Class) -> usize {
        match self.lending.of(class) {
            Some(provided) => provided.most(),
            None => self.arena.slot_count(class),
        }
    }

    /// Slots of a class that nobody holds: free, or lent to the kernel.
    pub fn buffers_unheld(&self, class: Class) -> usize {
        self.arena.free_count(class) + self.lending.of(class).map_or(0, Provided::lent)
    }

    /// Operations in flight.
    pub fn inflight(&self) -> usize {
        self.slots.len()
    }

    /// What was counted so far.
    pub fn counters(&self) -> RingCounters {
        self.counters
    }

    /// Gives the memory of idle slots back to the system, those lent to the kernel included. Does nothing while
    /// completions are pending. For when the plane has been idle for a while; returns bytes of address space covered.
    pub fn trim(&mut self) -> usize {
        // Deferred task work runs only inside an enter of ours, so with nothing pending here the kernel has written to
        // no lent slot that we have not taken.
        if self.ready() || self.uring.submission().cq_overflow() {
            return 0;
        }
        self.arena.trim_lent()
    }

    /// Submits what is queued and waits for at least one completion, at most for `timeout` (`None`: for ever). Returns
    /// at once when a completion is there already. An interrupting signal ends the wait without an error.
    pub fn wait(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        let block = !self.ready() && self.shutdowns.is_empty();
        let timeout = if block { timeout } else { Some(Duration::ZERO) };
        match self.enter(u32::from(block), timeout) {
            Ok(()) | Err(Errno::ETIME | Errno::EINTR) => Ok(()),
            // The kernel is short of memory, or completions wait for room in the queue: take those there are.
            Err(Errno::EBUSY | Errno::EAGAIN) => {
                if !self.ready() {
                    std::thread::sleep(Duration::from_millis(1));
                }
                Ok(())
            }
            Err(errno) => Err(errno.into()),
        }
    }

    /// Submits what is queued, without waiting.
    pub fn submit(&mut self) -> io::Result<()> {
        match self.enter(0, None) {
            Ok(()) | Err(Errno::EINTR | Errno::EBUSY | Errno::EAGAIN) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// True when [`Self::completion`] has something without entering the kernel.
    fn ready(&mut self) -> bool {
        !self.local.is_empty() || !self.uring.completion().is_empty()
    }

    fn top_up(&mut self) {
        self.lending.top_up(&mut self.arena);
    }

    /// One io_uring_enter(2): lends slots, submits everything, runs deferred work, waits for `want` completions.
    fn enter(&mut self, want: u32, timeout: Option<Duration>) -> Result<(), Errno> {
        self.top_up();
        let queued = self.uring.submission().len() as u32;
        let mut flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if self.granted.no_iowait {
            flags |= EnterFlags::NO_IOWAIT;
        }
        let timespec = timeout.map(Timespec::from);
        let mut args = SubmitArgs::new();
        if let Some(timespec) = timespec.as_ref().filter(|_| want > 0) {
            args = args.timespec(timespec);
        }
        self.counters.enters += 1;
        // SAFETY: EXT_ARG says that the argument is an io_uring_getevents_arg, which is what SubmitArgs is; it and the
        // timespec it points to live until the call returns. Every queued entry points to memory that its slot keeps.
        let entered = unsafe { self.uring.submitter().enter(queued, want, flags.bits(), Some(&args)) };
        let result = match entered {
            Ok(taken) => {
                self.counters.submitted += taken as u64;
                Ok(())
            }
            Err(error) => Err(errno_of(&error)),
        };
        self.shut_down();
        result
    }

    /// Does the shutdowns that were waiting for the sends queued before them to be submitted.
    fn shut_down(&mut self) {
        while let Some(PendingShutdown { fd, how, op }) = self.shutdowns.pop() {
            let how = match how {
                Shutdown::Read => libc::SHUT_RD,
                Shutdown::Write => libc::SHUT_WR,
                Shutdown::Both => libc::SHUT_RDWR,
            };
            // SAFETY: shutdown(2) takes no memory; the caller keeps the descriptor open until now (module text).
            let result = Errno::result(unsafe { libc::shutdown(fd, how) }).map(|_| 0);
            if let Some(done) = self.finish(op, result, Data::None) {
                self.local.push_back(done);
            }
        }
    }

    /// Queues an entry, submitting early when the queue is full.
    fn push(&mut self, entry: &squeue::Entry) -> Result<(), Errno> {
        let mut last = Errno::EBUSY;
        for _ in 0..PUSH_TRIES {
            // SAFETY: whatever the entry points to is memory of the arena or of a block of `slots`; both stay where they
            // are until the final completion (callers in `ops` and `complete` build entries from nothing else).
            if unsafe { self.uring.submission().push(entry) }.is_ok() {
                return Ok(());
            }
            self.counters.queue_full += 1;
            if let Err(errno) = self.enter(0, None) {
                last = errno;
            }
        }
        Err(last)
    }

    /// Queues a chain whole: one that is cut by a submission is no chain. Submits early when it has no room.
    fn push_chain(&mut self, entries: &[squeue::Entry]) -> Result<(), Errno> {
        let mut last = Errno::EBUSY;
        for _ in 0..PUSH_TRIES {
            // SAFETY: as in `push`; polls and splices point to no memory at all. It takes all of them or none.
            if unsafe { self.uring.submission().push_multiple(entries) }.is_ok() {
                return Ok(());
            }
            self.counters.queue_full += 1;
            if let Err(errno) = self.enter(0, None) {
                last = errno;
            }
        }
        Err(last)
    }

    /// Cancels everything, drops what completes, and waits until nothing is in flight, for two seconds at most. True
    /// when that was reached. The ring takes no operation that arms itself again afterwards.
    pub fn shutdown_all(&mut self) -> bool {
        self.closing = true;
        let deadline = Instant::now() + DRAIN_TIME;
        while self.inflight() > 0 && Instant::now() < deadline {
            let entry = opcode::AsyncCancel2::new(CancelBuilder::any())
                .build()
                .user_data(OpId::NONE.user_data(Kind::Ignore));
            if self.push(&entry).is_err() || self.wait(Some(Duration::from_millis(50))).is_err() {
                break;
            }
            while let Some(completion) = self.completion() {
                if let Some(span) = completion.data.span() {
                    self.arena.release(span.buf);
                }
            }
        }
        self.inflight() == 0
    }
}

impl<T: Copy> Drop for Ring<T> {
    /// Ends what is in flight. If the kernel does not let go in time, the memory it may write to is left mapped.
    fn drop(&mut self) {
        if !self.shutdown_all() {
            self.arena.abandon();
            self.lending.abandon();
        }
    }
}

#[cfg(test)]
mod tests;
