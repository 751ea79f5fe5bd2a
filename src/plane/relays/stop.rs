//! What asks a relay by itself to end: signals, as a descriptor that the ring can wait for.
//!
//! A process that just dies leaves its ring to a worker of the kernel, and with the ring a listener that it accepts on: for
//! some milliseconds the address is in use and nobody is there, so that the same relay could not be started again at once.
//! Ended in order, the address is free when the process is gone. A signal that we were started to ignore (nohup(1), `&` of
//! a script) stays ignored.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

const SIGNALS: [Signal; 4] = [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM];

/// The signals, blocked and waiting to be read.
#[derive(Debug)]
pub struct Stop(SignalFd);

impl Stop {
    /// From now on they are read from here.
    ///
    /// # Errors
    /// The descriptor limit.
    pub fn new() -> io::Result<Self> {
        let ignored = ignored(&fs::read_to_string("/proc/self/status").unwrap_or_default());
        let set: SigSet = SIGNALS.into_iter().filter(|s| ignored >> (*s as i32 - 1) & 1 == 0).collect();
        set.thread_block()?;
        Ok(Self(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?))
    }

    /// Becomes readable when there is one.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// The one that has come.
    pub fn signal(&self) -> Option<u8> {
        let info = self.0.read_signal().ok().flatten()?;
        u8::try_from(info.ssi_signo).ok()
    }
}

/// The set of ignored signals that a `/proc/PID/status` tells (proc(5)), the first in the lowest bit.
fn ignored(status: &str) -> u64 {
    let line = status.lines().find_map(|l| l.strip_prefix("SigIgn:"));
    line.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ignored_is_read_as_the_kernel_writes_it() {
        assert_eq!(ignored("Name:\tx\nSigBlk:\t0000000000000004\nSigIgn:\t0000000000001003\n"), 0x1003);
        assert_eq!(ignored("Name:\tx\n"), 0);
    }
}
