//! What the kernel and the user's limits allow: descriptors, the backlog, unprivileged ports.

use super::error::PortError;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use std::fs;

/// Descriptors of control that are not listeners: channels, the runtime, clients of the API. At most a quarter of all, where
/// there are few.
const RESERVE: u64 = 256;

/// `net.core.somaxconn`: listen(2) takes no more. The kernel's default is 4096 (since 5.4).
pub fn somaxconn() -> i32 {
    number("/proc/sys/net/core/somaxconn").unwrap_or(4096)
}

/// The first port that needs no privilege. The sysctl is IPv4's by name and holds for both families.
pub fn first_unprivileged_port() -> u16 {
    number("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap_or(1024)
}

fn number<T: std::str::FromStr>(path: &str) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Makes room for `count` listeners in all, by raising the soft limit to the hard one.
///
/// # Errors
/// [`PortError::Descriptors`] if the hard limit does not allow it.
pub fn make_room(count: usize) -> Result<(), PortError> {
    // Without an answer bind will tell.
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    let needed = (count as u64).saturating_add(RESERVE.min(hard / 4));
    if needed > hard {
        return Err(PortError::Descriptors { needed, hard });
    }
    if needed > soft {
        // COMMAND keeps the caller's limit: it was forked before.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
    Ok(())
}
