//! Instances that were started under slirp4netns's name: by Podman, by RootlessKit, by whoever calls that.
//!
//! They keep no state directory and serve no API of ours, because slirp4netns has neither. What is known of them is in `/proc`:
//! our program under that name, the command line that it was given, the namespace that this names, and who is in there. As
//! the settings file stands now, for what the command line leaves open.
//!
//! Limits: those of other users are not seen, nor one whose name was changed.

use crate::cli::persona::slirp4netns::told;
use crate::cli::proc;
use crate::control::api::instance::InstanceView;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// By which name they were called.
pub const NAME: &str = "slirp4netns";
/// Ticks of a second in `/proc/PID/stat`: `USER_HZ`, which is the same on every architecture that we run on.
const TICKS: u64 = 100;

/// All of this user's, in the order of their process ids.
pub fn running() -> Vec<InstanceView> {
    let named: Vec<u32> = proc::processes().into_iter().filter(|pid| is_named(*pid)).collect();
    // The data plane is a child of the one that was started, with the same name and command line. Its program may be closed
    // to us, for it is in a user namespace of its own.
    let started = named.iter().filter(|pid| parent(**pid).is_none_or(|parent| !named.contains(&parent)));
    started.filter(|pid| is_ours(**pid)).filter_map(|pid| view(*pid, &named)).collect()
}

/// Whether a process was called by that name.
fn is_named(pid: u32) -> bool {
    let name = |path: &str| Path::new(path).file_name().is_some_and(|name| name == NAME);
    proc::arguments(pid).first().is_some_and(|word| name(word))
}

/// Whether a process is this program. It may have been replaced on the disk since.
fn is_ours(pid: u32) -> bool {
    let file = |pid: &str| fs::metadata(format!("/proc/{pid}/exe")).ok().map(|m| (m.dev(), m.ino()));
    let exe = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let exe = exe.file_name().unwrap_or_default().to_string_lossy();
    exe.trim_end_matches(" (deleted)") == "ringtap"
        || file(&pid.to_string()).is_some_and(|it| Some(it) == file("self"))
}

/// The words of `/proc/PID/stat` behind the name, which may have blanks: the third field is the first of them.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(") ")?.1.split_whitespace().map(str::to_owned).collect())
}

fn parent(pid: u32) -> Option<u32> {
    stat(pid)?.get(1)?.parse().ok()
}

/// How long ago a process began.
fn age(pid: u32) -> Option<Duration> {
    let began = Duration::from_millis(stat(pid)?.get(19)?.parse::<u64>().ok()? * 1000 / TICKS);
    let up: f64 = fs::read_to_string("/proc/uptime").ok()?.split_whitespace().next()?.parse().ok()?;
    Some(Duration::from_secs_f64(up).saturating_sub(began))
}

fn view(pid: u32, named: &[u32]) -> Option<InstanceView> {
    let told = told(proc::arguments(pid).into_iter().skip(1).map(Into::into).collect())?;
    // A path may be one of a mount namespace that the caller has made, as Podman does: it is that process's, too.
    let netns = told.netns.map(|path| match path.starts_with("/proc") {
        true => path.display().to_string(),
        false => format!("/proc/{pid}/root{}", path.display()),
    });
    let number = netns.as_ref().and_then(|path| proc::namespace_of(Path::new(path)));
    let first = || proc::by_network().get(&number?)?.first().copied();
    let age = age(pid)?;
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Some(InstanceView {
        name: pid.to_string(),
        verb: NAME.to_owned(),
        version: String::new(),
        pid,
        plane_pid: named.iter().copied().find(|other| parent(*other) == Some(pid)),
        child_pid: told.child.or_else(first),
        state_dir: String::new(),
        started_ms: millis(now.saturating_sub(age)),
        uptime_ms: millis(age),
        netns,
        network: Some((&told.network).into()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn age_and_parent_are_the_kernels() {
        let us = std::process::id();
        assert_eq!(parent(us), Some(nix::unistd::getppid().as_raw().cast_unsigned()));
        // Of a process that is minutes old at most, on a machine that is up for longer than no time.
        let age = age(us).unwrap();
        assert!(age < Duration::from_secs(24 * 3600), "{age:?}");
        assert_eq!(super::age(u32::MAX), None);
    }

    #[test]
    fn other_programs_are_none_of_ours() {
        assert!(!is_named(std::process::id()) && !is_ours(u32::MAX));
    }
}
