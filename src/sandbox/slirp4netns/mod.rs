//! What control gives up where it plays slirp4netns and is asked to.
//!
//! [`enter`] is the sandbox that callers of slirp4netns know: a file system of /etc and /run only, no capability but the one
//! for ports below 1024, no way to gain any. [`refuse_syscalls`] is its list of system calls that serve only an intruder.
//! Where a step is impossible (a root that cannot be pivoted away from, no user namespaces) the others are taken and a
//! warning says so: a smaller sandbox is better than no network.

mod root;
mod syscalls;

pub use syscalls::{SyscallError, refuse_syscalls};

use rustix::thread::{
    CapabilitySet, CapabilitySets, clear_ambient_capability_set, remove_capability_from_bounding_set,
    set_capabilities, set_no_new_privs,
};

/// What is kept: published ports below 1024, where the user namespace we are in owns the host's network.
const KEPT: CapabilitySet = CapabilitySet::NET_BIND_SERVICE;

/// Closes the sandbox around this process, which must have a single thread. Returns a warning for each step that was not
/// possible.
pub fn enter() -> Vec<String> {
    let mut warnings: Vec<String> = root::hide().err().into_iter().collect();
    if let Err(e) = drop_capabilities() {
        warnings.push(format!("--enable-sandbox: capabilities stay as they are: {e}"));
    }
    warnings
}

fn drop_capabilities() -> rustix::io::Result<()> {
    set_no_new_privs(true)?;
    // An old kernel may lack some; without CAP_SETPCAP there is nothing in the bounding set that no_new_privs leaves open.
    let _ = clear_ambient_capability_set();
    for capability in CapabilitySet::all().difference(KEPT).iter() {
        let _ = remove_capability_from_bounding_set(capability);
    }
    let held = rustix::thread::capabilities(None)?.permitted;
    let kept = held & KEPT;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })
}
