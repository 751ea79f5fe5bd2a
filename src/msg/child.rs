//! Messages between control and the child's first process (its init).
//!
//! The child knows its configuration, for it is a fork of control. It makes and configures the tap at once, if there is to be
//! one, and sends it ([`FromChild::Tap`]); waits for its id maps ([`ToChild::Mapped`]); mounts, and says so ([`FromChild::Prepared`]);
//! waits for the data plane ([`ToChild::Go`]); then starts COMMAND and reports what becomes of it. Published ports add
//! [`ToChild::Factory`] and [`ToChild::Steer`], at any time after the maps. The end of file
//! towards the child means that control is gone, and the child ends everything in its care.

use nix::sys::wait::WaitStatus;
use serde::{Deserialize, Serialize};

/// From control to child.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToChild {
    /// The id maps are written.
    Mapped,
    /// The data plane is ready: start COMMAND.
    Go,
    /// Control was sent this signal. COMMAND gets it unless the same signal went to its whole process group.
    Signal(i32),
    /// The plane's end of a channel of [`super::factory`] has this counterpart beside the message: serve it. It replaces an
    /// earlier one.
    Factory,
    /// Lead answers to transparent sockets back to them: rule, route and nf_tables. Answered by
    /// [`FromChild::Steered`].
    Steer,
    /// Is COMMAND still stopped, as [`FromChild::Stopped`] said? Answered by [`FromChild::StillStopped`] if it is.
    StillStopped,
    /// The text of `hosts` or `resolv.conf` in the state directory has changed, or its mount point has been replaced.
    EtcChanged,
}

/// How far a client's address can be kept on the relay path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Steering {
    /// For every server in the namespace and behind its bridges.
    Full,
    /// For TCP servers in the namespace itself only; why, with the remedy.
    LocalTcp(String),
    /// Not at all; why, with the remedy.
    Off(String),
}

/// How COMMAND ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// By itself, with this status.
    Exited(u8),
    /// By a signal of this number.
    Signaled(i32),
}

impl Ended {
    /// What wait(2) says; `None` if that is no end.
    pub fn of(status: WaitStatus) -> Option<Self> {
        match status {
            WaitStatus::Exited(_, code) => u8::try_from(code & 0xff).ok().map(Self::Exited),
            WaitStatus::Signaled(_, signal, _) => Some(Self::Signaled(signal as i32)),
            _ => None,
        }
    }

    /// The exit status that a shell gives it: 128+n for signal n.
    pub fn status(self) -> u8 {
        match self {
            Self::Exited(status) => status,
            Self::Signaled(signal) => u8::try_from(128 + signal).unwrap_or(u8::MAX),
        }
    }
}

/// From child to control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromChild {
    /// The tap exists and is configured; its descriptor is beside the message.
    Tap {
        /// `SO_NETNS_COOKIE` of the namespace, read before COMMAND could interfere.
        netns_cookie: u64,
    },
    /// The answer to [`ToChild::Steer`].
    Steered {
        /// For IPv4 clients.
        v4: Steering,
        /// For IPv6 clients.
        v6: Steering,
    },
    /// Mounts are in place; only COMMAND is missing.
    Prepared,
    /// COMMAND has stopped.
    Stopped,
    /// COMMAND is stopped by this signal: the answer to [`ToChild::StillStopped`].
    StillStopped(i32),
    /// COMMAND has ended.
    Ended(Ended),
    /// A line for the log: something works less well than it could.
    Warning(String),
    /// It cannot work; one line with cause and remedy. The child exits after it.
    Failed(String),
}
