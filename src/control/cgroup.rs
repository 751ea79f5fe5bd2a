//! Evacuation: every process of our control group goes into a child of it, so that the group can be divided further.
//!
//! A group of cgroup v2 has either processes or controllers for its children (cgroups(7), "no internal processes"). Whoever
//! is to make groups below ours needs the controllers, so all of ours make room. In a cgroup namespace that was made before,
//! COMMAND then sees itself in `/NAME`. Nothing here is fatal: without cgroup v2, or without rights over our group
//! (systemd's `Delegate=yes` gives them), COMMAND runs in the group that we were started in.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Moves every process of our group into the child `name` of it and lends all controllers to its children. Returns what did
/// not work.
pub fn evacuate(name: &str) -> Vec<String> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    match own_group(&read("/proc/self/mountinfo"), &read("/proc/self/cgroup")) {
        Some(group) => evacuate_group(&group, name),
        None => {
            vec![format!("control group {name} was not made: cgroup v2 is not mounted here, or not for us")]
        }
    }
}

/// The directory of our group.
fn own_group(mountinfo: &str, cgroup: &str) -> Option<PathBuf> {
    let of_v2 = |line: &&str| line.split(" - ").nth(1).is_some_and(|rest| rest.starts_with("cgroup2 "));
    let mut fields = mountinfo.lines().find(of_v2)?.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let path = Path::new(cgroup.lines().find_map(|line| line.strip_prefix("0::"))?);
    Some(Path::new(point).join(path.strip_prefix(root).ok()?))
}

fn evacuate_group(group: &Path, name: &str) -> Vec<String> {
    let mut warnings = Vec::new();
    let target = group.join(name);
    let failed = |path: &Path, e: io::Error| format!("{}: {e}", path.display());
    match DirBuilder::new().mode(0o755).create(&target) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => {
            return vec![format!("{}; delegate the group to us (systemd: Delegate=yes)", failed(&target, e))];
        }
        _ => {}
    }
    let (procs, into) = (group.join("cgroup.procs"), target.join("cgroup.procs"));
    for pid in fs::read_to_string(&procs).unwrap_or_default().lines() {
        match write(&into, pid) {
            // It has ended meanwhile.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            Err(e) => {
                warnings.push(format!("process {pid} stays in its control group: {}", failed(&into, e)))
            }
            Ok(()) => {}
        }
    }
    let lent = group.join("cgroup.subtree_control");
    for controller in
        fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default().split_whitespace()
    {
        if let Err(e) = write(&lent, &format!("+{controller}")) {
            warnings.push(format!("controller {controller} is not lent: {}", failed(&lent, e)));
        }
    }
    warnings
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    OpenOptions::new().write(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_group_is_found_below_the_mount_of_version_2() {
        let mountinfo = "30 20 0:26 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                         31 20 0:27 / /sys/fs/cgroup/unified rw,relatime shared:4 - cgroup2 cgroup2 rw\n";
        let cgroup = "1:cpu:/x\n0::/user.slice/a.service\n";
        let group = PathBuf::from("/sys/fs/cgroup/unified/user.slice/a.service");
        assert_eq!(own_group(mountinfo, cgroup), Some(group));
        // As a container sees it, whose mount begins at its own group.
        let inner = "31 20 0:27 /pod /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n";
        assert_eq!(own_group(inner, "0::/pod/x\n"), Some("/sys/fs/cgroup/x".into()));
        assert_eq!(own_group(inner, "0::/other\n"), None);
        assert_eq!(own_group("", cgroup), None);
        assert_eq!(own_group(mountinfo, "1:cpu:/x\n"), None);
    }

    #[test]
    fn processes_are_moved_and_controllers_lent() {
        let group = tempfile::tempdir().unwrap();
        let file = |name: &str| group.path().join(name);
        fs::write(file("cgroup.procs"), "11\n").unwrap();
        fs::write(file("cgroup.controllers"), "cpu\n").unwrap();
        fs::write(file("cgroup.subtree_control"), "").unwrap();
        fs::create_dir(file("evac")).unwrap();
        fs::write(file("evac/cgroup.procs"), "").unwrap();
        assert_eq!(evacuate_group(group.path(), "evac"), Vec::<String>::new());
        assert_eq!(fs::read_to_string(file("evac/cgroup.procs")).unwrap(), "11");
        assert_eq!(fs::read_to_string(file("cgroup.subtree_control")).unwrap(), "+cpu");
        let warnings = evacuate_group(&group.path().join("no/such"), "evac");
        assert!(warnings.len() == 1 && warnings[0].contains("Delegate=yes"), "{warnings:?}");
    }
}
