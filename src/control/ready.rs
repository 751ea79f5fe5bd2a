//! Waiting for a descriptor of any kind in the runtime.
//!
//! A [`Ready`] owns a duplicate of the descriptor, so that what the runtime has registered stays open for exactly as
//! long as the registration, whatever happens to the original. Readiness is that of the open file, which both share.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdReadyGuard};

/// Waits until a descriptor can be read, or has been closed at its other end.
#[derive(Debug)]
pub struct Ready {
    fd: AsyncFd<OwnedFd>,
}

impl Ready {
    /// Registers a duplicate. Needs the runtime.
    ///
    /// # Errors
    /// The descriptor limit, or a file that cannot be waited on (a regular one).
    // The constructor without `unsafe` is deprecated because a type may lie about its descriptor; OwnedFd does not.
    #[expect(deprecated)]
    pub fn new(fd: impl AsFd) -> io::Result<Self> {
        let duplicate = fd.as_fd().try_clone_to_owned()?;
        Ok(Self { fd: AsyncFd::with_interest(duplicate, Interest::READABLE)? })
    }

    /// Waits. The caller reads until nothing is left and then clears the guard. Safe to cancel.
    ///
    /// # Errors
    /// The runtime is shutting down.
    pub async fn wait(&self) -> io::Result<AsyncFdReadyGuard<'_, OwnedFd>> {
        self.fd.readable().await
    }
}
