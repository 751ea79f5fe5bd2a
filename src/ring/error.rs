//! Why there is no ring, said so that the reader knows what to do about it.
//!
//! The system call decides; the sysctl and the limits are read only to word the message (facts/io_uring.md, 6.2).

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use std::io;

/// Why a ring could not be made. Each message names the likely cause and the remedy.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// `ENOSYS` from io_uring_setup(2).
    #[error(
        "io_uring is not there: the kernel was built without it, or a seccomp profile hides it; run outside the \
         container, or allow io_uring_setup, io_uring_enter and io_uring_register in its profile"
    )]
    Missing,
    /// `EPERM`, and `kernel.io_uring_disabled` is 1 or 2.
    #[error(
        "io_uring is switched off by kernel.io_uring_disabled={level}: as root, `sysctl kernel.io_uring_disabled=0`{}",
        if *.level == 1 { ", or put this user in the group named by kernel.io_uring_group" } else { "" }
    )]
    Disabled {
        /// Value of the sysctl.
        level: u32,
    },
    /// `EPERM` or `EACCES`, and the sysctl is not the reason.
    #[error(
        "io_uring is forbidden ({0}) by a seccomp profile or a security module: container engines deny it by default; \
         run on the host, or allow the io_uring system calls in the profile"
    )]
    Forbidden(Errno),
    /// The kernel refuses flags or operations that Linux 6.1 has.
    #[error("this kernel is too old: ringtap needs Linux 6.1 or later ({lacking} is missing)")]
    TooOld {
        /// What was refused.
        lacking: &'static str,
    },
    /// `ENOMEM`, down to the smallest ring.
    #[error(
        "no memory for a ring of even {entries}/{cq_entries} entries: this user's locked memory limit is {limit}, and \
         all rings of the user count; raise it (`ulimit -l`, LimitMEMLOCK=) or stop other users of io_uring; else the \
         memory cgroup is full"
    )]
    Memory {
        /// Submission entries of the last try.
        entries: u32,
        /// Completion entries of the last try.
        cq_entries: u32,
        /// RLIMIT_MEMLOCK, in words.
        limit: String,
    },
    /// `EMFILE` or `ENFILE`.
    #[error("no file descriptor left for a ring ({0}): raise the limit (`ulimit -n`, LimitNOFILE=)")]
    Descriptors(Errno),
    /// The buffers could not be mapped.
    #[error("cannot map {bytes} bytes for buffers ({source}): the address space is limited, see `ulimit -v`")]
    Arena {
        /// Bytes asked for.
        bytes: usize,
        /// What mmap(2) said.
        source: io::Error,
    },
    /// Anything else.
    #[error("{call} failed: {errno}")]
    Other {
        /// The call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
}

impl RingError {
    /// Words an error of io_uring_setup(2) or io_uring_register(2) (`call`).
    pub fn of(call: &'static str, error: &io::Error, entries: u32, cq_entries: u32) -> Self {
        let errno = errno_of(error);
        match errno {
            Errno::ENOSYS => Self::Missing,
            Errno::EPERM | Errno::EACCES => match disabled_level() {
                Some(level) if level > 0 => Self::Disabled { level },
                _ => Self::Forbidden(errno),
            },
            Errno::ENOMEM => Self::Memory { entries, cq_entries, limit: memlock_limit() },
            Errno::EMFILE | Errno::ENFILE => Self::Descriptors(errno),
            errno => Self::Other { call, errno },
        }
    }
}

/// The errno of an I/O error; `EIO` for one that has none.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
}

/// The sysctl (Linux 6.6); `None` where it does not exist.
fn disabled_level() -> Option<u32> {
    std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok()?.trim().parse().ok()
}

fn memlock_limit() -> String {
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((libc::RLIM_INFINITY, _)) => "unlimited".to_owned(),
        Ok((soft, _)) => format!("{} KiB", soft / 1024),
        Err(_) => "unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(errno: i32) -> String {
        RingError::of("io_uring_setup", &io::Error::from_raw_os_error(errno), 8, 32).to_string()
    }

    #[test]
    fn messages_name_cause_and_remedy() {
        assert!(message(libc::ENOSYS).contains("seccomp"));
        assert!(message(libc::ENOMEM).contains("8/32") && message(libc::ENOMEM).contains("ulimit -l"));
        assert!(message(libc::EMFILE).contains("ulimit -n"));
        assert!(message(libc::EPERM).contains("io_uring is"));
        assert_eq!(message(libc::EBADF), "io_uring_setup failed: EBADF: Bad file number");
        let off = RingError::Disabled { level: 2 }.to_string();
        assert!(off.contains("=2") && !off.contains("io_uring_group"));
        assert!(RingError::Disabled { level: 1 }.to_string().contains("io_uring_group"));
    }

    #[test]
    fn every_message_is_one_line() {
        for errno in [libc::ENOSYS, libc::EPERM, libc::ENOMEM, libc::ENFILE, libc::EINVAL] {
            assert!(!message(errno).contains('\n'));
        }
    }
}
