//! A user and a mount namespace with nothing in them.
//!
//! The user namespace maps no id at all: none is needed, and none can be taken on. Sockets go on belonging to the user
//! who started us. The root is a tmpfs, read-only and never written to; the old one is pivoted out and unmounted, which
//! leaves no path to it but descriptors that are open.

use super::Lack;
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{chdir, pivot_root};

/// Where the tmpfs is mounted before it becomes the root: a directory that every system has, and that is no longer
/// needed.
const ON: &str = "/proc";

/// Enters.
pub(super) fn enter() -> Result<(), Lack> {
    let at = |step| move |errno: Errno| Lack::Space { step, errno };
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS).map_err(at("unshare"))?;
    let none: Option<&str> = None;
    // Nothing that happens here is to be seen outside, nor the other way round; pivot_root(2) asks for it.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)
        .map_err(at("mount --make-rprivate"))?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount(Some("empty"), ON, Some("tmpfs"), flags, Some("size=4k,nr_inodes=2,mode=0555"))
        .map_err(at("mount tmpfs"))?;
    chdir(ON).map_err(at("chdir"))?;
    // Both on one directory: the old root ends up on top of the new one, without a directory to hold it
    // (pivot_root(2), notes).
    pivot_root(".", ".").map_err(at("pivot_root"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(at("umount"))?;
    chdir("/").map_err(at("chdir"))
}
