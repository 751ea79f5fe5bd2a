//! A file system of /etc and /run, read-only, on an empty one.
//!
//! The process moves to a mount namespace of its own; without privilege, to a user namespace as well, in which it is root.
//! (Upstream joins the target's instead, and so cannot where the target is named by a file.) An empty tmpfs becomes the
//! root; on it are /etc and /run, the file that /etc/resolv.conf stands for if that is elsewhere, and of /proc what is
//! this process's own and the network's settings: control looks at its own mappings before it forks a successor of the
//! plane. Descriptors opened before still work.

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, chdir, pivot_root};
use std::fs::{self, File};
use std::path::{Path, PathBuf};

/// Where the new root is put together; covered in our own mount namespace only.
const STAGE: &str = "/tmp";

/// Hides the rest.
///
/// # Errors
/// A warning with what was not possible; the process then sees what it saw before.
pub fn hide() -> Result<(), String> {
    let failed = |what: &'static str| move |e: nix::Error| warning(what, &e.into());
    namespaces()?;
    let kinds = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, kinds, None::<&str>).map_err(failed("private mounts"))?;
    // Before /tmp is covered.
    let resolv_conf = fs::canonicalize("/etc/resolv.conf").ok();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let stage = Path::new(STAGE);
    let kept = resolv_conf.as_deref().filter(|p| !p.starts_with("/etc") && !p.starts_with("/run"));
    let kept = kept.and_then(|p| Some((p.to_owned(), File::open(p).ok()?)));
    mount(Some("tmpfs"), stage, Some("tmpfs"), flags, Some("size=64k")).map_err(failed("an empty root"))?;
    for name in ["/etc", "/run"] {
        bind(Path::new(name), &under(stage, name), true).map_err(|e| warning(name, &e))?;
    }
    // What follows only makes things better.
    for name in [format!("/proc/{}", std::process::id()), "/proc/sys/net".to_owned()] {
        let at = if name.starts_with("/proc/sys") { name.clone() } else { "/proc/self".to_owned() };
        if let Err(e) = bind(Path::new(&name), &under(stage, &at), false) {
            tracing::debug!("sandbox without {name}: {e}");
        }
    }
    if let Some((path, _open)) = &kept {
        // Covered by the stage if it was below /tmp; its descriptor still leads to it.
        use std::os::fd::AsRawFd;
        let source = PathBuf::from(format!("/proc/self/fd/{}", _open.as_raw_fd()));
        let at = under(stage, &path.display().to_string());
        let made = at.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| File::create(&at).map(drop));
        let bound = made.and_then(|()| bind_onto(&source, &at, false));
        if let Err(e) = bound {
            return Err(warning("the resolv.conf", &e));
        }
    }
    chdir(stage).map_err(failed("the new root"))?;
    pivot_root(".", ".").map_err(failed("another root (on an initramfs, or confined)"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("letting go of the old root"))?;
    chdir("/").map_err(failed("the new root"))?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | flags;
    // Some container engines refuse it; there is nothing in it to write to.
    let _ = mount(None::<&str>, "/", None::<&str>, read_only, None::<&str>);
    Ok(())
}

/// A mount namespace of our own.
fn namespaces() -> Result<(), String> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    if uid.is_root() && unshare(CloneFlags::CLONE_NEWNS).is_ok() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|e| warning("a mount namespace", &e.into()))?;
    // A process may map itself; without setgroups, groups too (user_namespaces(7)).
    let written = fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| fs::write("/proc/self/uid_map", format!("0 {uid} 1")))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("0 {gid} 1")));
    written.map_err(|e| warning("ids", &e))
}

fn under(stage: &Path, name: &str) -> PathBuf {
    stage.join(name.trim_start_matches('/'))
}

fn bind(from: &Path, to: &Path, recursive: bool) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    bind_onto(from, to, recursive)
}

fn bind_onto(from: &Path, to: &Path, recursive: bool) -> std::io::Result<()> {
    let tree = if recursive { MsFlags::MS_REC } else { MsFlags::empty() };
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | tree, None::<&str>)?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY;
    mount(None::<&str>, to, None::<&str>, MsFlags::MS_REMOUNT | MsFlags::MS_BIND | flags, None::<&str>)?;
    Ok(())
}

fn warning(what: &str, e: &std::io::Error) -> String {
    format!("--enable-sandbox: no {what} here ({e}): the file system stays visible to this process")
}
