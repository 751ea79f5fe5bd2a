//! The runtime of the control process: tokio-uring with a small ring.
//!
//! Rings are charged to the user's locked memory, so the ring has 16 entries: control sleeps most of the time.
//! It starts after the forks of the start, which so know nothing of a ring. A plane that dies is replaced by a fork with
//! the runtime at work ([`super::plane`]): nothing here may ever start a thread, and `spawn_blocking` is not for this
//! process.

use crate::ring::RingError;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::io;

/// Entries of the submission queue.
const ENTRIES: u32 = 16;

/// Starts it.
///
/// # Errors
/// [`RingError`] in the words that the plane has for it: which of the two processes is refused first is chance.
pub fn start() -> Result<tokio_uring::Runtime, RingError> {
    let make = || tokio_uring::Runtime::new(tokio_uring::builder().entries(ENTRIES));
    let made = make().or_else(|e| if raise_memlock(&e) { make() } else { Err(e) });
    // tokio-uring leaves the size of the completion queue to the kernel, which doubles.
    made.map_err(|e| RingError::of("io_uring_setup", &e, ENTRIES, 2 * ENTRIES))
}

/// Lifts the soft limit of locked memory to the hard one if that was the trouble; true if it helped.
fn raise_memlock(error: &io::Error) -> bool {
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, hard)) if error.raw_os_error() == Some(libc::ENOMEM) && soft < hard => {
            setrlimit(Resource::RLIMIT_MEMLOCK, hard, hard).is_ok()
        }
        _ => false,
    }
}
