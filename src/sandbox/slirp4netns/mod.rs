//! What control gives up where it plays slirp4netns and is asked to.
//!
//! [`enter`] is the sandbox that callers of slirp4netns know: a file system of /etc and /run only, no capability but the one
//! for ports below 1024, no way to gain any. [`refuse_syscalls`] is its list of system calls that serve only an intruder.
//! Where a step is impossible (a root that cannot be pivoted away from, no user namespaces) the others are taken and a
//! warning says so: a smaller sandbox is better than no network.

mod root;
mod syscalls;

pub use syscalls::{SyscallError, refuse_syscalls};

use super::privileges;
use rustix::thread::CapabilitySet;

/// What is kept: published ports below 1024, where the user namespace we are in owns the host's network.
const KEPT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

/// Closes the sandbox around this process, which must have a single thread. Returns a warning for each step that was not
/// possible.
pub fn enter() -> Vec<String> {
    let mut warnings: Vec<String> = root::hide().err().into_iter().collect();
    if let Err(lack) = privileges::keep_only(KEPT) {
        warnings.push(format!("--enable-sandbox: {lack}"));
    }
    warnings
}
