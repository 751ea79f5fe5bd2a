//! A deadline for one operation on a client's connection.
//!
//! tokio-uring does not cancel an operation whose future is dropped, and its buffer would be lost with it. So a client that is
//! too slow has its connection shut down, by which the operation ends as if the client had gone.

use std::net::Shutdown;
use std::pin::pin;
use tokio::time::{Instant, sleep_until};
use tokio_uring::net::UnixStream;

/// Waits for `operation`, which is on `stream`; at the deadline, if there is one, `stream` is shut down.
pub async fn within<T>(
    stream: &UnixStream,
    deadline: Option<Instant>,
    operation: impl Future<Output = T>,
) -> T {
    let mut operation = pin!(operation);
    if let Some(deadline) = deadline {
        tokio::select! {
            biased;
            done = &mut operation => return done,
            () = sleep_until(deadline) => {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
    operation.await
}
