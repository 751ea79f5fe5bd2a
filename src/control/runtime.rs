//! The runtime of the control process: tokio-uring with a small ring.
//!
//! Rings are charged to the user's locked memory, so the ring has 16 entries: control sleeps most of the time.
//! It starts after the forks of the start, which so know nothing of a ring. A plane that dies is replaced by a fork with
//! the runtime at work ([`super::plane`]): nothing here may ever start a thread, and `spawn_blocking` is not for this
//! process.

use std::io;

/// Entries of the submission queue.
const ENTRIES: u32 = 16;

/// io_uring is refused or memory is short.
#[derive(Debug, thiserror::Error)]
#[error("cannot start io_uring: {source}; {remedy}")]
pub struct RuntimeError {
    source: io::Error,
    remedy: &'static str,
}

/// Starts it.
///
/// # Errors
/// [`RuntimeError`] with the remedy.
pub fn start() -> Result<tokio_uring::Runtime, RuntimeError> {
    let mut ring = tokio_uring::builder();
    tokio_uring::Runtime::new(ring.entries(ENTRIES)).map_err(|source| {
        let remedy = match source.raw_os_error() {
            Some(libc::ENOSYS) => "it needs Linux 6.1 or later with CONFIG_IO_URING",
            Some(libc::EPERM | libc::EACCES) => {
                "allow it: sysctl -w kernel.io_uring_disabled=0, or the seccomp profile of the container"
            }
            Some(libc::ENOMEM) => "raise the limit of locked memory (ulimit -l) or end other instances",
            _ => "raise the limit of open files (ulimit -n)",
        };
        RuntimeError { source, remedy }
    })
}
