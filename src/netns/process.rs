//! Forking: a copy of this process, in new namespaces if asked, that ends with its parent.
//!
//! The copy is made by clone(2) without shared memory, which is fork(2) with namespace flags and a pidfd. It is
//! allowed only while the process has a single thread of its own: the copy then has every lock and every buffer in a
//! consistent state. The kernel's threads that serve an io_uring of this process do not count, though they are listed
//! among its threads: they run no code of the process and hold none of its locks. The legacy call is used because seccomp profiles of container engines answer `ENOSYS` to clone3(2).

use nix::sched::CloneFlags;
use nix::sys::signal::{SigHandler, Signal};
use nix::unistd::Pid;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Why no process was made.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// A programming error of the caller, found before anything happened.
    #[error("cannot fork: this process has {0} threads, and only a single-threaded one may")]
    Threads(usize),
    /// User namespaces are not for this user, or not here.
    #[error("cannot create namespaces: {cause}; {remedy}")]
    Refused {
        /// What the kernel said, and the setting behind it.
        cause: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Anything else.
    #[error(
        "cannot fork: {0}; {remedy}",
        remedy = super::remedy(.0, "check the limits of processes (ulimit -u) and memory")
    )]
    Fork(io::Error),
}

/// A process made by [`spawn`].
#[derive(Debug)]
pub struct Spawned {
    /// Its id as seen from here.
    pub pid: Pid,
    /// Becomes readable when it ends; names it for as long as it is held.
    pub pidfd: OwnedFd,
}

/// Makes a copy of this process in the new namespaces of `flags` and runs `main` in it; the copy exits with what
/// `main` returns, or with 101 if it panics. The copy is sent SIGCHLD's counterpart as usual: its end raises SIGCHLD
/// here.
///
/// # Errors
/// [`SpawnError`]: more than one thread, namespaces refused, or no room for a process.
pub fn spawn(flags: CloneFlags, main: impl FnOnce() -> u8) -> Result<Spawned, SpawnError> {
    let threads = own_threads();
    if threads != 1 {
        return Err(SpawnError::Threads(threads));
    }
    let mut pidfd: RawFd = -1;
    let flags_word = flags.bits() | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and with a null stack this is fork(2): the copy has its own memory and goes on with a
    // copy of this stack. No other thread of ours exists (checked above), so no lock is held in the copy. The third argument
    // is where the kernel stores the pidfd, a valid `int` for the duration of the call; the others are unused.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, libc::c_long::from(flags_word), 0, &raw mut pidfd, 0usize, 0usize)
    };
    match pid {
        -1 => Err(refusal(flags, io::Error::last_os_error())),
        0 => {
            let code = std::panic::catch_unwind(std::panic::AssertUnwindSafe(main)).unwrap_or(101);
            // SAFETY: _exit is always sound; exit handlers and buffers belong to the parent.
            unsafe { libc::_exit(i32::from(code)) }
        }
        pid => {
            // SAFETY: the kernel has just opened this descriptor for us and nothing else knows its number.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Spawned { pid: Pid::from_raw(i32::try_from(pid).unwrap_or(i32::MAX)), pidfd })
        }
    }
}

/// Threads of this process that run its code.
fn own_threads() -> usize {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return 1 };
    let kernels = |task: &fs::DirEntry| {
        fs::read_to_string(task.path().join("stat")).is_ok_and(|stat| is_io_worker(&stat))
    };
    tasks.flatten().filter(|task| !kernels(task)).count()
}

/// Whether a `stat` file (proc_pid_stat(5)) is that of a kernel thread of io_uring: flag `PF_IO_WORKER` in the ninth
/// field (include/linux/sched.h, 5.12 and later). The name in parentheses says so too, but anybody can take a name.
fn is_io_worker(stat: &str) -> bool {
    const PF_IO_WORKER: u64 = 0x10;
    let after_name = stat.rsplit_once(") ").map(|(_, rest)| rest);
    let flags = after_name.and_then(|rest| rest.split(' ').nth(6)).and_then(|word| word.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_IO_WORKER != 0)
}

/// Keeps the io_urings of this process to itself: copies made from now on do not have them in their memory. A ring is a
/// shared mapping, and whoever can write to it can have this process carry out operations of his choice.
///
/// # Errors
/// The mappings cannot be listed or marked.
pub fn keep_rings() -> io::Result<()> {
    for line in fs::read_to_string("/proc/self/maps")?.lines() {
        let Some(range) = line.strip_suffix("anon_inode:[io_uring]").and_then(|l| l.split(' ').next()) else {
            continue;
        };
        let ends = range.split_once('-').and_then(|(start, end)| {
            Some((usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?))
        });
        let Some((start, end)) = ends else { return Err(io::ErrorKind::InvalidData.into()) };
        // SAFETY: the range is that of a mapping of a ring, as the kernel has just listed it. The advice changes nothing
        // about the mapping but what fork(2) does with it.
        if unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTFORK) } == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Settings behind a refusal of namespaces, as text; empty where there is no such setting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `kernel.unprivileged_userns_clone` (Debian's kernels up to 6.x).
    pub unprivileged_userns_clone: String,
    /// `kernel.apparmor_restrict_unprivileged_userns` (Ubuntu 23.10 and later).
    pub apparmor_restrict: String,
}

impl Settings {
    /// Those of this host.
    pub fn read() -> Self {
        let sysctl = |name: &str| {
            let text = fs::read_to_string(format!("/proc/sys/kernel/{name}")).unwrap_or_default();
            text.trim().to_owned()
        };
        Self {
            unprivileged_userns_clone: sysctl("unprivileged_userns_clone"),
            apparmor_restrict: sysctl("apparmor_restrict_unprivileged_userns"),
        }
    }

    /// AppArmor takes what a user namespace gives.
    pub fn apparmor_restricts(&self) -> bool {
        self.apparmor_restrict == "1"
    }
}

/// What AppArmor's restriction is called, and what to do about it.
pub const APPARMOR: (&str, &str) = (
    "AppArmor restricts unprivileged user namespaces",
    "give ringtap a profile that says `userns,`, or sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
);

/// Says why `error` came of `flags`.
fn refusal(flags: CloneFlags, error: io::Error) -> SpawnError {
    if !flags.contains(CloneFlags::CLONE_NEWUSER) {
        return SpawnError::Fork(error);
    }
    judge(error, &Settings::read())
}

/// Says why a user namespace was not to be had, given the settings.
pub fn judge(error: io::Error, host: &Settings) -> SpawnError {
    let (cause, remedy) = match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EUSERS) => (
            format!("a limit of namespaces is reached ({error})"),
            "raise it: sysctl -w user.max_user_namespaces=15000 (and max_net_, max_mnt_, max_pid_namespaces)",
        ),
        Some(libc::EPERM) if host.unprivileged_userns_clone == "0" => (
            "unprivileged user namespaces are off".to_owned(),
            "turn them on: sysctl -w kernel.unprivileged_userns_clone=1",
        ),
        Some(libc::EPERM | libc::EACCES) if host.apparmor_restricts() => (APPARMOR.0.to_owned(), APPARMOR.1),
        Some(libc::EPERM) => (
            format!("the kernel refuses user namespaces here ({error})"),
            "inside a container allow clone(CLONE_NEWUSER) in its seccomp profile; inside a chroot leave it",
        ),
        Some(libc::EINVAL) => (
            format!("this kernel lacks a kind of namespace ({error})"),
            "use one with CONFIG_USER_NS, CONFIG_NET_NS and CONFIG_PID_NS",
        ),
        _ => return SpawnError::Fork(error),
    };
    SpawnError::Refused { cause, remedy }
}

/// Asks the kernel to kill this process when the thread that made it ends. The parent may have ended before: the
/// caller reads its channel afterwards, where that shows as the end of file.
pub fn die_with_parent() {
    // It cannot fail with a valid signal number.
    let _ = nix::sys::prctl::set_pdeathsig(Signal::SIGKILL);
}

/// Heeds an interrupt though we may have been started to ignore it, as whatever a script runs in its background is.
pub fn heed_interrupts() {
    // SAFETY: setting a default disposition installs no handler.
    let _ = unsafe { nix::sys::signal::signal(Signal::SIGINT, SigHandler::SigDfl) };
}

/// Closes this process's copies of descriptors that belong to its parent. For the closure of [`spawn`] only, which
/// never returns to the frames that hold their owners.
pub fn close_copies(fds: &[BorrowedFd<'_>]) {
    for fd in fds {
        // SAFETY: the owner is a copy that this process never drops, for it leaves by _exit; the number stays unused
        // by anyone here until the kernel gives it out again.
        unsafe { libc::close(fd.as_raw_fd()) };
    }
}

/// Closes every descriptor above standard error but `keep`, and puts /dev/null in the place of standard input and
/// output. For the closure of [`spawn`] only, as [`close_copies`].
pub fn keep_only(keep: BorrowedFd<'_>) {
    let keep = keep.as_raw_fd().unsigned_abs();
    for (first, last) in [(3, keep - 1), (keep + 1, libc::c_uint::MAX)] {
        // musl has no function for it.
        // SAFETY: as in `close_copies`: no owner in this process will use or close these numbers again.
        unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    }
    if let Ok(null) = fs::File::options().read(true).write(true).open("/dev/null") {
        let _ = nix::unistd::dup2_stdin(&null);
        let _ = nix::unistd::dup2_stdout(&null);
    }
}

/// Another descriptor, close-on-exec, of what a type has open that does not lend its own.
///
/// # Errors
/// The limit of descriptors.
pub fn duplicate(of: &impl AsRawFd) -> io::Result<OwnedFd> {
    // SAFETY: fcntl with F_DUPFD_CLOEXEC reads no memory, and the owner, which is borrowed, keeps its descriptor open. The new
    // one is ours alone.
    unsafe {
        match libc::fcntl(of.as_raw_fd(), libc::F_DUPFD_CLOEXEC, 3) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}

/// Takes over a descriptor that the caller of the program handed down by number (`--ready-fd 3`), and makes it
/// close-on-exec. Call it once per number, before anything else opens descriptors of its own by that number.
///
/// # Errors
/// `EBADF` if no such descriptor is open, `EINVAL` for 0, 1 and 2, which others here use.
pub fn adopt_fd(number: RawFd) -> io::Result<OwnedFd> {
    if number <= 2 {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: fcntl with F_SETFD reads no memory; a number that is not open is an error.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open and was inherited, for everything that this program opens by itself is
    // close-on-exec and held by an owner whose number the user cannot know in advance.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_may_not_fork() {
        // The test runner itself has threads.
        assert!(matches!(spawn(CloneFlags::empty(), || 0), Err(SpawnError::Threads(n)) if n > 1));
    }

    #[test]
    fn threads_of_the_kernel_are_told_by_their_flag_and_not_by_their_name() {
        let stat = |name: &str, flags: u32| format!("77 ({name}) S 1 77 77 0 -1 {flags} 12 0 0 0 0 0");
        // As Linux 6.18 shows a worker (PF_IO_WORKER, PF_NO_SETAFFINITY ..) and an ordinary thread.
        assert!(is_io_worker(&stat("iou-wrk-70", 0x0400_4050)));
        assert!(!is_io_worker(&stat("iou-wrk-70", 0x0040_0040)));
        assert!(!is_io_worker(&stat("x) S 1 77 77 0 -1 16", 0x0040_0040)));
        assert!(!is_io_worker("") && !is_io_worker("77 (x) S 1"));
        assert!(!is_io_worker(&fs::read_to_string("/proc/self/stat").unwrap()));
    }

    #[test]
    fn standard_streams_and_closed_numbers_are_refused() {
        assert_eq!(adopt_fd(1).unwrap_err().raw_os_error(), Some(libc::EINVAL));
        assert_eq!(adopt_fd(987_654).unwrap_err().raw_os_error(), Some(libc::EBADF));
    }
}
