//! Pipes: what bytes go through on their way from one socket to another without being copied.
//!
//! Theory of operation. The kernel allows one user 64 MiB of pipes in all, of which every program takes its share
//! (`pipe-user-pages-soft`, pipe(7); facts/io_uring.md, 2.5). So pipes belong to a pool of at most [`MAX_PIPES`], lent to
//! a connection while it moves bulk. A new pipe is made [`PIPE_BYTES`] large; what the kernel gives is what counts, and
//! where it refuses (`EPERM`) there is no pipe and the connection copies on. Both ends are non-blocking, always.
//!
//! Only a pipe that is known to be empty comes back to the pool: what is left in it would reach a stranger.

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};
use nix::unistd::pipe2;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// Pipes of one pool, lent and idle, at most.
pub const MAX_PIPES: usize = 32;
/// Bytes of a pipe, if the budget allows: 32 of them are an eighth of a user's budget.
pub const PIPE_BYTES: u32 = 256 << 10;
/// A pipe smaller than this is what the kernel gives a user over the budget: not worth having.
const LEAST_BYTES: u32 = 64 << 10;

/// One pipe.
#[derive(Debug)]
pub struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    size: u32,
}

impl Pipe {
    fn new(bytes: u32) -> Result<Self, Errno> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC | OFlag::O_NONBLOCK)?;
        let size = fcntl(&write, FcntlArg::F_SETPIPE_SZ(i32::try_from(bytes).unwrap_or(i32::MAX)))?;
        let size = u32::try_from(size).unwrap_or(0);
        if size < LEAST_BYTES { Err(Errno::EPERM) } else { Ok(Self { read, write, size }) }
    }

    /// Where bytes come out.
    pub fn read_end(&self) -> BorrowedFd<'_> {
        self.read.as_fd()
    }

    /// Where bytes go in.
    pub fn write_end(&self) -> BorrowedFd<'_> {
        self.write.as_fd()
    }

    /// Its room in bytes, if they come in whole pages: a fragment of a few bytes takes a page's place.
    pub const fn size(&self) -> u32 {
        self.size
    }

    /// Moves up to `len` bytes from a non-blocking socket into the pipe, at once. `Ok(0)` is the end of the stream.
    ///
    /// # Errors
    /// `EAGAIN` when there is nothing or no room; those of the socket.
    pub fn fill(&self, from: BorrowedFd<'_>, len: u32) -> Result<u32, Errno> {
        moved(splice(from, None, &self.write, None, len as usize, flags()))
    }

    /// Moves up to `len` bytes from the pipe to a non-blocking socket, at once.
    ///
    /// # Errors
    /// `EAGAIN` when the socket has no room; those of the socket.
    pub fn drain(&self, to: BorrowedFd<'_>, len: u32) -> Result<u32, Errno> {
        moved(splice(&self.read, None, to, None, len as usize, flags()))
    }
}

fn flags() -> SpliceFFlags {
    SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK
}

fn moved(result: nix::Result<usize>) -> Result<u32, Errno> {
    result.map(|n| u32::try_from(n).unwrap_or(u32::MAX))
}

/// What the pool counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PipeCounters {
    /// Pipes made.
    pub made: u64,
    /// Times that there was no pipe to lend: all are lent, or the user's budget or the descriptors are used up.
    pub refused: u64,
    /// Pipes closed because something was left in them.
    pub spoiled: u64,
}

/// The pool.
#[derive(Debug)]
pub struct Pipes {
    idle: Vec<Pipe>,
    lent: usize,
    most: usize,
    bytes: u32,
    counters: PipeCounters,
}

impl Pipes {
    /// A pool of at most `most` pipes (never more than [`MAX_PIPES`]) of `bytes` each. Nothing is made yet.
    pub fn new(most: usize, bytes: u32) -> Self {
        Self {
            idle: Vec::new(),
            lent: 0,
            most: most.min(MAX_PIPES),
            bytes,
            counters: PipeCounters::default(),
        }
    }

    /// Lends a pipe, which is empty. `None`: do without.
    pub fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.idle.pop() {
            self.lent += 1;
            return Some(pipe);
        }
        if self.lent < self.most
            && let Ok(pipe) = Pipe::new(self.bytes)
        {
            self.lent += 1;
            self.counters.made += 1;
            return Some(pipe);
        }
        self.counters.refused += 1;
        None
    }

    /// Takes a pipe back. No operation on it may be in flight. If it is not `empty` it is closed.
    pub fn put_back(&mut self, pipe: Pipe, empty: bool) {
        self.lent = self.lent.saturating_sub(1);
        // The caller's count is checked against the kernel's: a byte left here would reach a stranger.
        if empty && rustix::io::ioctl_fionread(&pipe.read).is_ok_and(|n| n == 0) {
            self.idle.push(pipe);
        } else {
            self.counters.spoiled += 1;
        }
    }

    /// Closes the idle ones, for others to have. Call it when traffic has ceased.
    pub fn trim(&mut self) {
        self.idle = Vec::new();
    }

    /// Pipes lent at the moment.
    pub const fn lent(&self) -> usize {
        self.lent
    }

    /// Pipes that are open and not lent.
    pub const fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Most pipes that there may be.
    pub const fn most(&self) -> usize {
        self.most
    }

    /// What was counted so far.
    pub const fn counters(&self) -> PipeCounters {
        self.counters
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::unistd::write;

    #[test]
    fn a_pipe_with_something_in_it_never_comes_back() {
        let mut pipes = Pipes::new(4, PIPE_BYTES);
        let pipe = pipes.take().unwrap();
        write(&pipe.write, b"x").unwrap();
        pipes.put_back(pipe, false);
        let pipe = pipes.take().unwrap();
        write(&pipe.write, b"x").unwrap();
        // Whoever calls it empty is mistaken.
        pipes.put_back(pipe, true);
        assert_eq!((pipes.idle.len(), pipes.lent(), pipes.counters().spoiled), (0, 0, 2));
        let pipe = pipes.take().unwrap();
        pipes.put_back(pipe, true);
        assert_eq!((pipes.idle.len(), pipes.counters().made), (1, 3));
    }

    #[test]
    fn no_more_are_lent_than_allowed() {
        let mut pipes = Pipes::new(2, PIPE_BYTES);
        let lent = [pipes.take().unwrap(), pipes.take().unwrap()];
        assert!(pipes.take().is_none() && pipes.counters().refused == 1);
        for pipe in lent {
            assert!(pipe.size() >= LEAST_BYTES);
            pipes.put_back(pipe, true);
        }
        assert!(pipes.take().is_some());
    }

    #[test]
    fn both_ends_are_non_blocking() {
        let pipe = Pipe::new(PIPE_BYTES).unwrap();
        for fd in [&pipe.read, &pipe.write] {
            let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL).unwrap());
            assert!(flags.contains(OFlag::O_NONBLOCK));
        }
    }
}
