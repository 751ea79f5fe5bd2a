//! What a process gives up before it touches a packet.
//!
//! Theory of operation. The plane parses what strangers send. Should one of them take it over, he finds a process that
//! can use the sockets it holds, make more of the same kinds, and nothing else. It is locked in by two calls:
//!
//! 1. [`Sandbox::enter`], while the child is still making its namespaces: a user and a mount namespace of its own, whose
//!    root is an empty read-only tmpfs ([`space`]). The network namespace stays the host's, for that is where flows go.
//! 2. [`Sandbox::close`], with all descriptors at hand and before the first frame: no capability in any set, no new
//!    privileges, no core file, not to be looked into by others of the user ([`privileges`]); Landlock without a single
//!    rule ([`landlock`]); and a seccomp filter that lets through what the plane is known to do ([`filter`]).
//!
//! The ring restricts itself, sandbox or not ([`crate::ring`]), for seccomp does not see what is submitted to it.
//!
//! What the kernel refuses is left out and told in one line, or ends the start when the whole is required. Landlock is
//! not part of the whole: it forbids what the empty root and the filter forbid already.
//!
//! [`slirp4netns`] is another sandbox, for control: the one that callers of that program ask for.

pub mod filter;
mod landlock;
mod privileges;
pub mod slirp4netns;
mod space;

use crate::config::SandboxMode;
use nix::errno::Errno;

/// A part that could not be had.
#[derive(Debug, thiserror::Error)]
pub enum Lack {
    /// Of [`space`].
    #[error("no user and mount namespace of its own ({step}: {errno})")]
    Space {
        /// The call.
        step: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// Of [`privileges`].
    #[error("privileges are not dropped ({step}: {errno})")]
    Privileges {
        /// The call.
        step: &'static str,
        /// What the kernel said.
        errno: Errno,
    },
    /// Of [`filter`].
    #[error("no filter of system calls ({0})")]
    Filter(String),
    /// Of [`landlock`].
    #[error("no Landlock (Linux 5.13, CONFIG_SECURITY_LANDLOCK, and in the list of lsm=)")]
    Landlock,
}

/// The whole was required and cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("the sandbox is not whole: {0}; use --sandbox=on to do without")]
pub struct Required(String);

/// A process on its way in.
#[derive(Debug)]
pub struct Sandbox {
    mode: SandboxMode,
    lacks: Vec<Lack>,
}

/// How it went.
#[derive(Debug, Default)]
pub struct Outcome {
    /// What is missing of the whole, in one line.
    pub lacks: Option<String>,
    /// What is missing beside it: Landlock.
    pub beside: Option<Lack>,
}

impl Sandbox {
    /// Leaves the file system and the user namespace of the host. The process must have one thread. Files can no longer
    /// be opened by name; what is open stays open. The memory of rings that are made later counts as that of an ordinary
    /// user (`RLIMIT_MEMLOCK`), root's as well.
    pub fn enter(mode: SandboxMode) -> Self {
        let mut lacks = Vec::new();
        if mode != SandboxMode::Off
            && let Err(lack) = space::enter()
        {
            lacks.push(lack);
        }
        Self { mode, lacks }
    }

    /// Gives up everything else. From now on a system call that is not of the kind `calls` fails, or, in debug builds,
    /// kills the process by SIGSYS.
    ///
    /// # Errors
    /// [`Required`].
    pub fn close(mut self, calls: filter::Calls) -> Result<Outcome, Required> {
        if self.mode == SandboxMode::Off {
            return Ok(Outcome::default());
        }
        if let Err(lack) = privileges::drop_all() {
            self.lacks.push(lack);
        }
        let beside = (!landlock::restrict()).then_some(Lack::Landlock);
        let violation =
            if cfg!(debug_assertions) { filter::Violation::Kill } else { filter::Violation::Refuse };
        if let Err(lack) = filter::install(calls, violation) {
            self.lacks.push(lack);
        }
        if self.lacks.is_empty() {
            return Ok(Outcome { lacks: None, beside });
        }
        let all: Vec<String> = self.lacks.iter().map(Lack::to_string).collect();
        let text = all.join("; ");
        match self.mode {
            SandboxMode::Require => Err(Required(text)),
            _ => Ok(Outcome { lacks: Some(text), beside }),
        }
    }
}

#[cfg(test)]
mod tests;
