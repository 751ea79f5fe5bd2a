//! Capabilities, and what a process may do to its user's other processes through what it leaves behind.

use super::Lack;
use nix::errno::Errno;
use nix::sys::prctl::{set_dumpable, set_no_new_privs};
use nix::sys::resource::{Resource, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities,
};

/// Drops every capability from every set, for good.
pub(super) fn drop_all() -> Result<(), Lack> {
    let at = |step| move |errno: Errno| Lack::Privileges { step, errno };
    keep_only(CapabilitySet::empty())?;
    // A core file would hold the guest's traffic, and be written outside.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(at("RLIMIT_CORE"))?;
    // Other processes of the user cannot trace it or read its memory: theirs is what COMMAND may have got hold of.
    set_dumpable(false).map_err(at("PR_SET_DUMPABLE"))
}

/// Drops all capabilities that are not in `kept` from every set, and the ways to gain any.
pub(super) fn keep_only(kept: CapabilitySet) -> Result<(), Lack> {
    let at = |step| move |errno: Errno| Lack::Privileges { step, errno };
    let of = |e: rustix::io::Errno| Errno::from_raw(e.raw_os_error());
    set_no_new_privs().map_err(at("PR_SET_NO_NEW_PRIVS"))?;
    // The bounding set limits what an execve(2) can give, which is nothing after the line above; an ordinary user outside
    // a user namespace of his own may not shrink it, and a kernel knows fewer or more of them than we do.
    for one in CapabilitySet::all().difference(kept).iter() {
        let _ = remove_capability_from_bounding_set(one);
    }
    clear_ambient_capability_set().map_err(of).map_err(at("PR_CAP_AMBIENT"))?;
    let kept = capabilities(None).map_err(of).map_err(at("capget"))?.permitted & kept;
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })
        .map_err(of)
        .map_err(at("capset"))
}
