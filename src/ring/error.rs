//! Why there is no ring, said so that the reader knows what to do about it.
//!
//! The system call decides; the sysctl and the limits are read only to word the message (facts/io_uring.md, 6.2).

use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use std::{fmt, io};

/// Why a ring could not be made. Each message names the likely cause and the remedy.
#[derive(Debug)]
pub enum RingError {
    /// `ENOSYS` from io_uring_setup(2).
    Missing,
    /// `EPERM`, and `kernel.io_uring_disabled` is 1 or 2.
    Disabled {
        /// Value of the sysctl.
        level: u32,
    },
    /// `EPERM` or `EACCES`, and the sysctl is not the reason.
    Forbidden(Errno),
    /// The kernel refuses flags or operations that Linux 6.1 has.
    TooOld {
        /// What was refused.
        lacking: &'static str,
    },
    /// `ENOMEM`, down to the smallest ring.
    Memory {
        /// Submission entries of the last try.
        entries: u32,
        /// Completion entries of the last try.
        cq_entries: u32,
        /// RLIMIT_MEMLOCK, in words.
        limit: String,
    },
    /// `EMFILE` or `ENFILE`.
    Descriptors(Errno),
    /// The buffers could not be mapped.
    Arena {
        /// Bytes asked for.
        bytes: usize,
        /// What mmap(2) said.
        source: io::Error,
    },
    /// Anything else.
    Other {
        /// The call.
        call: &'static str,
        /// Its error.
        errno: Errno,
    },
}

/// What is read only to word the message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `kernel.io_uring_disabled` (Linux 6.6); `None` where it does not exist.
    pub disabled: Option<u32>,
    /// The soft RLIMIT_MEMLOCK in bytes, `RLIM_INFINITY` among them; `None` if it cannot be read.
    pub memlock: Option<u64>,
}

impl Settings {
    /// Those of this host and process.
    pub fn read() -> Self {
        let text = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").ok();
        Self {
            disabled: text.and_then(|t| t.trim().parse().ok()),
            memlock: getrlimit(Resource::RLIMIT_MEMLOCK).ok().map(|(soft, _)| soft),
        }
    }

    fn memlock_in_words(self) -> String {
        match self.memlock {
            Some(libc::RLIM_INFINITY) => "unlimited".to_owned(),
            Some(bytes) => format!("{} KiB", bytes / 1024),
            None => "unknown".to_owned(),
        }
    }
}

impl RingError {
    /// Words an error of io_uring_setup(2) or io_uring_register(2) (`call`).
    pub fn of(call: &'static str, error: &io::Error, entries: u32, cq_entries: u32) -> Self {
        Self::judge(call, errno_of(error), entries, cq_entries, Settings::read())
    }

    /// The same, with the settings given.
    pub fn judge(call: &'static str, errno: Errno, entries: u32, cq_entries: u32, host: Settings) -> Self {
        match errno {
            Errno::ENOSYS => Self::Missing,
            Errno::EPERM | Errno::EACCES => match host.disabled {
                Some(level) if level > 0 => Self::Disabled { level },
                _ => Self::Forbidden(errno),
            },
            Errno::ENOMEM => Self::Memory { entries, cq_entries, limit: host.memlock_in_words() },
            Errno::EMFILE | Errno::ENFILE => Self::Descriptors(errno),
            errno => Self::Other { call, errno },
        }
    }

    /// What is wrong, with the likely cause.
    pub fn cause(&self) -> String {
        match self {
            Self::Missing => {
                "io_uring is not there: the kernel was built without it, or a seccomp profile hides it".into()
            }
            Self::Disabled { level } => {
                format!("io_uring is switched off by kernel.io_uring_disabled={level}")
            }
            Self::Forbidden(errno) => format!(
                "io_uring is forbidden ({errno}) by a seccomp profile or a security module: container engines deny it by \
                 default"
            ),
            Self::TooOld { lacking } => format!("this kernel is too old ({lacking} is missing)"),
            Self::Memory { entries, cq_entries, limit } => format!(
                "no memory for a ring of even {entries}/{cq_entries} entries: this user's locked memory limit is {limit}, \
                 and all rings of the user count"
            ),
            Self::Descriptors(errno) => format!("no file descriptor left for a ring ({errno})"),
            Self::Arena { bytes, source } => format!("cannot map {bytes} bytes for buffers ({source})"),
            Self::Other { call, errno } => format!("{call} failed: {errno}"),
        }
    }

    /// What to do about it; `None` where nothing is known.
    pub fn remedy(&self) -> Option<&'static str> {
        Some(match self {
            Self::Missing => {
                "run outside the container, or allow io_uring_setup, io_uring_enter and io_uring_register in its profile"
            }
            Self::Disabled { level: 1 } => {
                "as root, `sysctl kernel.io_uring_disabled=0`, or put this user in the group named by \
                 kernel.io_uring_group"
            }
            Self::Disabled { .. } => "as root, `sysctl kernel.io_uring_disabled=0`",
            Self::Forbidden(_) => "run on the host, or allow the io_uring system calls in the profile",
            Self::TooOld { .. } => "ringtap needs Linux 6.1 or later",
            Self::Memory { .. } => {
                "raise it (`ulimit -l`, LimitMEMLOCK=) or stop other users of io_uring; else the memory cgroup is full"
            }
            Self::Descriptors(_) => "raise the limit (`ulimit -n`, LimitNOFILE=)",
            Self::Arena { .. } => "the address space is limited, see `ulimit -v`",
            Self::Other { .. } => return None,
        })
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.cause())?;
        self.remedy().map_or(Ok(()), |remedy| write!(f, "; {remedy}"))
    }
}

impl std::error::Error for RingError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Arena { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// The errno of an I/O error; `EIO` for one that has none.
pub(super) fn errno_of(error: &io::Error) -> Errno {
    Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO))
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
    fn a_refusal_is_told_from_the_switch() {
        let judged = |disabled, errno| {
            let host = Settings { disabled, memlock: Some(64 << 10) };
            RingError::judge("io_uring_setup", errno, 8, 32, host)
        };
        assert!(matches!(judged(Some(2), Errno::EPERM), RingError::Disabled { level: 2 }));
        assert!(matches!(judged(Some(0), Errno::EPERM), RingError::Forbidden(_)));
        assert!(matches!(judged(None, Errno::EACCES), RingError::Forbidden(_)));
        assert!(judged(None, Errno::ENOMEM).to_string().contains("limit is 64 KiB"));
    }

    #[test]
    fn every_message_is_one_line() {
        for errno in [libc::ENOSYS, libc::EPERM, libc::ENOMEM, libc::ENFILE, libc::EINVAL] {
            assert!(!message(errno).contains('\n'));
        }
    }
}
