//! The signals that control is sent.
//!
//! Theory of operation. All of [`FORWARDED`] are blocked before the first fork and read from a signalfd. Control acts on
//! none of them by itself while COMMAND runs: it tells the child, which passes a signal on unless COMMAND has been
//! sent it along with the whole process group (see [`crate::netns::init`]). For that the child must be able to rely on
//! a group's signal having reached all its members by the time it is told ([`settle_group_signals`]).
//!
//! **Stopping.** COMMAND is stopped by the terminal itself; the child reports it and [`stop_like`] stops control the same
//! way, so that the shell that started us sees its job stop. SIGCONT comes back over the signalfd. While control is
//! stopped, the signal that stopped it is unblocked: ^Z, typed when a SIGCONT has been sent and control has not run yet,
//! stops it once more, and the news that it has stopped COMMAND as well waits for control. By the time control reads
//! that, the shell may have continued both, and nobody would continue control again. So it asks whether COMMAND is
//! still stopped before it stops.

use super::ready::Ready;
use crate::netns::init::{FORWARDED, SI_KERNEL, block_signals};
use crate::netns::witness::settle_group_signals;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, pthread_sigmask, raise};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::io;

/// Blocks the signals; returns the mask that COMMAND is to start with.
///
/// # Errors
/// None that happen with a valid set.
pub fn block() -> io::Result<SigSet> {
    Ok(block_signals()?.1)
}

/// Blocked signals, as they come in.
#[derive(Debug)]
pub struct Signals {
    fd: SignalFd,
    ready: Ready,
}

impl Signals {
    /// Opens the signalfd. Needs the runtime, and [`block`] before.
    ///
    /// # Errors
    /// The descriptor limit.
    pub fn new() -> io::Result<Self> {
        let set: SigSet = FORWARDED.into_iter().collect();
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let ready = Ready::new(&fd)?;
        Ok(Self { fd, ready })
    }

    /// With COMMAND: the next signal that is news to it. If it went to our process group, every member has it by now. Safe to
    /// cancel.
    ///
    /// # Errors
    /// None that happen on a signalfd.
    pub async fn next(&mut self) -> io::Result<Signal> {
        loop {
            let (signal, from_kernel) = self.read().await?;
            // The terminal's ^Z has stopped COMMAND or is none of its business. Passing it on would race with the SIGCONT
            // that follows, which takes the child's own copy away (signal(7)), and with it the evidence that the whole
            // group was sent it.
            if !(signal == Signal::SIGTSTP && from_kernel) {
                settle_group_signals();
                return Ok(signal);
            }
        }
    }

    /// Without COMMAND: the next signal that asks us to end. Until then ^Z stops us as it stops any program. Safe to cancel.
    ///
    /// # Errors
    /// None that happen on a signalfd.
    pub async fn end(&mut self) -> io::Result<Signal> {
        loop {
            match self.read().await? {
                (signal, _) if asks_to_end(signal) => return Ok(signal),
                (Signal::SIGTSTP, _) => stop_like(Signal::SIGTSTP as i32),
                _ => {}
            }
        }
    }

    /// A signal, and whether the kernel itself sent it, the terminal for instance.
    async fn read(&mut self) -> io::Result<(Signal, bool)> {
        loop {
            let mut guard = self.ready.wait().await?;
            let Some(info) = self.fd.read_signal()? else {
                guard.clear_ready();
                continue;
            };
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if let Ok(signal) = Signal::try_from(number) {
                return Ok((signal, info.ssi_code == SI_KERNEL));
            }
        }
    }
}

/// True for the signals by which one asks a program to end.
pub const fn asks_to_end(signal: Signal) -> bool {
    matches!(signal, Signal::SIGHUP | Signal::SIGINT | Signal::SIGQUIT | Signal::SIGTERM)
}

/// Stops this process as COMMAND was stopped by `number`, until SIGCONT. In a process group that no shell looks after
/// (an orphaned one) the kernel ignores these signals, so nobody is left hanging; SIGSTOP, which it would not ignore,
/// is therefore answered by SIGTSTP.
pub fn stop_like(number: i32) {
    let signal = match Signal::try_from(number) {
        Ok(s @ (Signal::SIGTTIN | Signal::SIGTTOU)) => s,
        _ => Signal::SIGTSTP,
    };
    let set = SigSet::from(signal);
    if raise(signal).is_ok() {
        // Unblocking delivers it: this is where the process stops.
        let _ = pthread_sigmask(SigmaskHow::SIG_UNBLOCK, Some(&set), None);
        let _ = pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), None);
    }
}
