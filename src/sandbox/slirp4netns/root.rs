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
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Where the new root is put together; covered in our own mount namespace only.
const STAGE: &str = "/tmp";

/// Hides the rest.
///
/// # Errors
/// A warning with what was not possible; the process then sees what it saw before, or all but what is below /tmp.
pub fn hide() -> Result<(), String> {
    let failed = |what: &'static str| move |e: nix::Error| warning(what, &e.into());
    namespaces()?;
    let kinds = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(None::<&str>, "/", None::<&str>, kinds, None::<&str>).map_err(failed("private mounts"))?;
    let stage = Path::new(STAGE);
    // Opened before the stage may cover it.
    let resolv_conf = fs::canonicalize("/etc/resolv.conf").ok();
    let resolv_conf = resolv_conf.filter(|p| !p.starts_with("/etc") && !p.starts_with("/run"));
    let resolv_conf = resolv_conf.and_then(|path| File::open(&path).ok().map(|file| (path, file)));
    mount(Some("tmpfs"), stage, Some("tmpfs"), plain(), Some("size=64k")).map_err(failed("empty root"))?;
    let own = format!("/proc/{}", std::process::id());
    let shown = [("/etc", "/etc", true), ("/run", "/run", true)];
    let tries = [(own.as_str(), "/proc/self", false), ("/proc/sys/net", "/proc/sys/net", false)];
    for (from, name, whole) in shown.into_iter().chain(tries) {
        let at = under(stage, Path::new(name));
        let bound = fs::create_dir_all(&at).and_then(|()| bind(Path::new(from), &at, whole));
        match bound {
            Err(e) if whole => return Err(warning(name, &e)),
            // Only a successor of the plane and the reason of a refused port need these.
            Err(e) => tracing::debug!("the sandbox is without {name}: {e}"),
            Ok(()) => {}
        }
    }
    if let Some((path, file)) = &resolv_conf {
        let (from, at) = (format!("/proc/self/fd/{}", file.as_raw_fd()), under(stage, path));
        let made = at.parent().map_or(Ok(()), fs::create_dir_all).and_then(|()| File::create(&at));
        let bound = made.and_then(|_| bind(Path::new(&from), &at, false));
        bound.map_err(|e| warning("resolv.conf", &e))?;
    }
    chdir(stage).map_err(failed("new root"))?;
    pivot_root(".", ".").map_err(failed("other root (this is an initramfs, or a container forbids it)"))?;
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("way to let go of the old root"))?;
    chdir("/").map_err(failed("new root"))?;
    let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | plain();
    // Some container engines refuse it; there is nothing in it to write to.
    let _ = mount(None::<&str>, "/", None::<&str>, read_only, None::<&str>);
    Ok(())
}

/// Files only: no devices, no programs.
fn plain() -> MsFlags {
    MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC
}

/// A mount namespace of our own.
fn namespaces() -> Result<(), String> {
    let (uid, gid) = (Uid::effective(), Gid::effective());
    if uid.is_root() && unshare(CloneFlags::CLONE_NEWNS).is_ok() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNS)
        .map_err(|e| warning("mount namespace", &e.into()))?;
    // A process may map itself; without setgroups, groups too (user_namespaces(7)).
    let written = fs::write("/proc/self/setgroups", "deny")
        .and_then(|()| fs::write("/proc/self/uid_map", format!("0 {uid} 1")))
        .and_then(|()| fs::write("/proc/self/gid_map", format!("0 {gid} 1")));
    written.map_err(|e| warning("ids of its own", &e))
}

fn under(stage: &Path, path: &Path) -> PathBuf {
    stage.join(path.strip_prefix("/").unwrap_or(path))
}

/// Shows `from` at `to`, read-only; `whole`: with what is mounted below it.
fn bind(from: &Path, to: &Path, whole: bool) -> io::Result<()> {
    let tree = if whole { MsFlags::MS_REC } else { MsFlags::empty() };
    mount(Some(from), to, None::<&str>, MsFlags::MS_BIND | tree, None::<&str>)?;
    let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | plain();
    Ok(mount(None::<&str>, to, None::<&str>, flags, None::<&str>)?)
}

fn warning(what: &str, e: &io::Error) -> String {
    format!("--enable-sandbox: no {what} here ({e}): the file system stays visible to this process")
}
