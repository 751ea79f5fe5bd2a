//! The child's first process as control sees it.

use super::ControlError;
use super::inside::Tap;
use crate::msg::{Channel, Ended, MsgError, ToChild};
use crate::netns::process;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;

/// The child as control sees it. Dropping it ends it and everything in its care.
#[derive(Debug)]
pub struct Child {
    process: process::Spawned,
    /// `None` once control has closed its end.
    channel: Option<Channel>,
    pid_namespace: bool,
}

impl Child {
    /// Of a process that has just been made; `pid_namespace`: it is the first of one.
    pub const fn new(process: process::Spawned, channel: Channel, pid_namespace: bool) -> Self {
        Self { process, channel: Some(channel), pid_namespace }
    }

    /// Its process id.
    pub const fn pid(&self) -> Pid {
        self.process.pid
    }

    /// The channel, to wait on.
    ///
    /// # Errors
    /// It is being ended.
    pub fn channel(&self) -> Result<&Channel, MsgError> {
        self.channel.as_ref().ok_or(MsgError::Closed)
    }

    /// Sends a message. That the child has ended shows at the next receive.
    ///
    /// # Errors
    /// Those of [`Channel::send`] other than its end.
    pub fn send(&self, message: ToChild) -> Result<(), MsgError> {
        match self.channel()?.send(&message, &[]) {
            Err(MsgError::Closed) => Ok(()),
            other => other,
        }
    }

    /// Waits for the tap.
    ///
    /// # Errors
    /// Those of [`Tap::wait`].
    pub fn tap(&self) -> Result<Tap, ControlError> {
        Tap::wait(self.channel()?)
    }

    /// Somebody has killed the first process itself: what became of it is what became of COMMAND.
    pub fn wait(&self) -> Ended {
        waitpid(self.process.pid, None).ok().and_then(Ended::of).unwrap_or(Ended::Exited(1))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.channel = None;
        if self.pid_namespace {
            // The kernel kills the rest of the namespace with its first process.
            let _ = kill(self.process.pid, Signal::SIGKILL);
        }
        // Otherwise it kills its descendants now that its channel is closed, and ends.
        let _ = waitpid(self.process.pid, None);
    }
}
