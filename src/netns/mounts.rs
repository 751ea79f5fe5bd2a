//! The child's mounts: propagation, /proc, copy-up, /sys, and its own hosts and resolv.conf.
//!
//! Theory of operation. Everything happens in the child's mount namespace and ends with it. Mount trees that must
//! survive being covered (a directory under its copy-up, /sys/fs/cgroup under a fresh sysfs) are first cloned into
//! descriptors with open_tree(2) and put back with move_mount(2): no temporary directory is needed. The files for
//! /etc live in the state directory, are opened before anything can hide that directory, and are bound over the files
//! that /etc/hosts and /etc/resolv.conf resolve to. A host that replaces such a file (resolved, NetworkManager) takes
//! the bind away with it, so [`EtcFiles::refresh`] looks and binds again.
//!
//! In a container /proc and /sys may be partly masked, and then the kernel refuses fresh ones (`mount_too_revealing` in
//! fs/namespace.c); that is a warning, not an error.

use super::copy_up;
use nix::mount::{MsFlags, mount};
use rustix::fs::{CWD, FileType, Mode, OFlags, fstat, openat, stat};
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

/// A mount that must be there could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot mount {what}: {source}; {remedy}")]
pub struct MountError {
    /// What was to be mounted.
    pub what: String,
    /// What the kernel said.
    pub source: io::Error,
    /// What to do.
    pub remedy: &'static str,
}

/// How mounts travel between the child's mount namespace and the host's (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Nothing travels.
    #[default]
    Private,
    /// Mounts of the host appear inside.
    Slave,
    /// As the kernel's default for a mount namespace of a new user namespace, shared among the child's own.
    Shared,
}

impl Propagation {
    const fn flag(self) -> MsFlags {
        match self {
            Self::Private => MsFlags::MS_PRIVATE,
            Self::Slave => MsFlags::MS_SLAVE,
            Self::Shared => MsFlags::MS_SHARED,
        }
    }
}

/// What to mount.
#[derive(Clone, Debug, Default)]
pub struct MountPlan {
    /// Propagation of the whole tree.
    pub propagation: Propagation,
    /// File to show the network namespace at.
    pub netns: Option<PathBuf>,
    /// A fresh /proc: there is a new pid namespace.
    pub proc: bool,
    /// A fresh /sys: the network namespace is a new one.
    pub sys: bool,
    /// Control groups as the new cgroup namespace has them.
    pub cgroup2: bool,
    /// Directories to make writable by a tmpfs of symlinks, in order.
    pub copy_up: Vec<PathBuf>,
    /// File to show as /etc/hosts.
    pub hosts: Option<PathBuf>,
    /// File to show as /etc/resolv.conf.
    pub resolv_conf: Option<PathBuf>,
}

/// Makes the mounts of `plan`. Returns the handle on the files of /etc, and warnings.
///
/// # Errors
/// [`MountError`] for what cannot be done without: propagation, copy-up.
pub fn set_up(plan: &MountPlan) -> Result<(EtcFiles, Vec<String>), MountError> {
    let mut warnings = Vec::new();
    let mut etc = EtcFiles::open(plan);
    set_propagation(plan.propagation)?;
    if let Some(file) = &plan.netns {
        show_netns(file)?;
    }
    if plan.proc
        && let Err(e) = fresh_proc()
    {
        warnings
            .push(format!("/proc shows the host's processes: {e}; a container engine masks parts of /proc"));
    }
    for dir in &plan.copy_up {
        copy_up::copy_up(dir)?;
    }
    if plan.sys
        && let Err(e) = fresh_sysfs()
    {
        warnings.push(format!(
            "/sys shows the host's network devices: {e}; a container engine masks parts of /sys"
        ));
    }
    if plan.cgroup2
        && let Err(e) = fresh_cgroup2()
    {
        warnings.push(format!(
            "/sys/fs/cgroup shows the host's control groups: {e}; cgroup v2 must be mounted on the host"
        ));
    }
    warnings.extend(etc.refresh(&plan.copy_up));
    Ok((etc, warnings))
}

fn set_propagation(propagation: Propagation) -> Result<(), MountError> {
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | propagation.flag(), None::<&str>).map_err(|e| {
        MountError {
            what: "the propagation of /".to_owned(),
            source: e.into(),
            remedy: "a security module confines the user namespace; look for its denials (AppArmor: allow userns)",
        }
    })
}

/// Before /proc is mounted anew, which may fail: the old one knows us, too.
fn show_netns(file: &Path) -> Result<(), MountError> {
    let bound = mount(Some("/proc/self/ns/net"), file, None::<&str>, MsFlags::MS_BIND, None::<&str>);
    bound.map_err(|e| MountError {
        what: format!("the network namespace at {}", file.display()),
        source: e.into(),
        remedy: "name another state directory (--state-dir)",
    })
}

fn fresh_cgroup2() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    Ok(mount(Some("cgroup2"), "/sys/fs/cgroup", Some("cgroup2"), flags, None::<&str>)?)
}

fn fresh_proc() -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let attempt = |flags| mount(Some("proc"), "/proc", Some("proc"), flags, None::<&str>);
    attempt(flags).or_else(|_| attempt(flags | MsFlags::MS_RDONLY)).map_err(Into::into)
}

/// Mounts sysfs anew, for it shows the devices of the network namespace it was mounted in, and puts what was mounted
/// below the old one (control groups, security modules) back in place.
fn fresh_sysfs() -> io::Result<()> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    let below: Vec<(PathBuf, OwnedFd)> = mounts_below(&mountinfo, "/sys")
        .into_iter()
        .filter_map(|path| clone_tree(&path).ok().map(|tree| (path, tree)))
        .collect();
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let attempt = |flags| mount(Some("sysfs"), "/sys", Some("sysfs"), flags, None::<&str>);
    attempt(flags).or_else(|_| attempt(flags | MsFlags::MS_RDONLY))?;
    for (path, tree) in below {
        // A mount point that the new sysfs lacks is no loss that anyone can repair.
        let _ = put_tree(&tree, &path);
    }
    Ok(())
}

/// Whether mounts of the host can travel to others at all: its / is shared (proc_pid_mountinfo(5)).
pub fn root_is_shared() -> bool {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    // The last mount at / covers those before it.
    let root = mountinfo.lines().rfind(|line| line.split(' ').nth(4) == Some("/"));
    root.and_then(|line| line.split(" - ").next()).is_some_and(|fields| fields.contains(" shared:"))
}

/// The mount points directly below `dir`: those that are in no other one below it. Order and escapes are as in
/// proc_pid_mountinfo(5); a path with an escape is left out, for none of the kernel's own has one.
fn mounts_below(mountinfo: &str, dir: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = Vec::new();
    for line in mountinfo.lines() {
        let Some(point) = line.split(' ').nth(4) else { continue };
        let below =
            point.strip_prefix(dir).is_some_and(|rest| rest.starts_with('/')) && !point.contains('\\');
        if below && !found.iter().any(|outer| Path::new(point).starts_with(outer)) {
            found.retain(|inner| !inner.starts_with(point));
            found.push(PathBuf::from(point));
        }
    }
    found
}

/// A detached copy of the mounts at and below `path`.
pub(super) fn clone_tree(path: &Path) -> io::Result<OwnedFd> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
    Ok(open_tree(CWD, path, flags)?)
}

/// Attaches a detached copy at `path`.
pub(super) fn put_tree(tree: &OwnedFd, path: &Path) -> io::Result<()> {
    Ok(move_mount(tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// The files that stand in for /etc/hosts and /etc/resolv.conf.
#[derive(Debug, Default)]
pub struct EtcFiles {
    files: Vec<(PathBuf, OwnedFd)>,
}

impl EtcFiles {
    fn open(plan: &MountPlan) -> Self {
        let wanted = [("/etc/hosts", &plan.hosts), ("/etc/resolv.conf", &plan.resolv_conf)];
        let files = wanted
            .into_iter()
            .filter_map(|(target, source)| {
                let file =
                    openat(CWD, source.as_ref()?, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).ok()?;
                Some((PathBuf::from(target), file))
            })
            .collect();
        Self { files }
    }

    /// Binds each file that is not in place (any more). Returns a warning for each one that cannot be.
    pub fn refresh(&mut self, copied_up: &[PathBuf]) -> Vec<String> {
        let mut warnings = Vec::new();
        for (target, file) in &self.files {
            if let Err(e) = bind_over(file, target, copied_up) {
                warnings.push(format!(
                    "{} is the host's: {e}; it must be a file, to be covered; `--copy-up /etc` does without",
                    target.display()
                ));
            }
        }
        warnings
    }
}

fn bind_over(file: &OwnedFd, target: &Path, copied_up: &[PathBuf]) -> io::Result<()> {
    let ours = fstat(file)?;
    if stat(target).is_ok_and(|s| (s.st_dev, s.st_ino) == (ours.st_dev, ours.st_ino)) {
        return Ok(());
    }
    // In a copied-up directory the name is a symlink into the original: bind over a file of its own instead, so that
    // the original can be replaced without taking the bind away.
    if copied_up.iter().any(|dir| target.starts_with(dir)) {
        let kind = rustix::fs::lstat(target).map(|s| FileType::from_raw_mode(s.st_mode));
        if kind != Ok(FileType::RegularFile) {
            if kind.is_ok() {
                fs::remove_file(target)?;
            }
            fs::File::create(target)?;
        }
    }
    let place = fs::canonicalize(target)?;
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(file.as_fd(), "", flags)?;
    put_tree(&tree, &place)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_outermost_mounts_below_count() {
        let text = "21 1 0:20 / /sys rw - sysfs sysfs rw\n\
                    22 21 0:21 / /sys/fs/cgroup/unified rw - cgroup2 c rw\n\
                    23 21 0:21 / /sys/fs/cgroup rw - tmpfs c rw\n\
                    24 21 0:22 / /sys/fs/cgroup/memory rw - cgroup c rw\n\
                    25 21 0:23 / /system rw - tmpfs t rw\n\
                    26 21 0:24 / /sys/kernel/security rw - securityfs s rw\n";
        assert_eq!(
            mounts_below(text, "/sys"),
            [PathBuf::from("/sys/fs/cgroup"), PathBuf::from("/sys/kernel/security")]
        );
        assert!(mounts_below("", "/sys").is_empty());
    }
}
