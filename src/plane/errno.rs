//! Errno of a host socket -> what the stack understands. One table, so that two paths never disagree.

use crate::stack::HostError;
use nix::errno::Errno;

/// What `errno` of a connect, send or receive means for the flow.
pub fn host_error(errno: Errno) -> HostError {
    match errno {
        Errno::ECONNREFUSED => HostError::Refused,
        Errno::ECONNRESET | Errno::EPIPE | Errno::ECONNABORTED => HostError::Reset,
        Errno::EHOSTUNREACH | Errno::EHOSTDOWN => HostError::HostUnreachable,
        Errno::ENETUNREACH | Errno::ENETDOWN | Errno::EADDRNOTAVAIL | Errno::EAFNOSUPPORT => {
            HostError::NetUnreachable
        }
        Errno::EACCES | Errno::EPERM => HostError::Prohibited,
        Errno::ETIMEDOUT => HostError::TimedOut,
        Errno::EMSGSIZE => HostError::TooBig(None),
        Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS => HostError::Exhausted,
        other => HostError::Other(other as i32),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_must_tell_apart_is_told_apart() {
        assert_eq!(host_error(Errno::ECONNREFUSED), HostError::Refused);
        assert_eq!(host_error(Errno::EPIPE), HostError::Reset);
        assert_eq!(host_error(Errno::EHOSTUNREACH), HostError::HostUnreachable);
        assert_eq!(host_error(Errno::ENETUNREACH), HostError::NetUnreachable);
        assert_eq!(host_error(Errno::EPERM), HostError::Prohibited);
        assert_eq!(host_error(Errno::EMFILE), HostError::Exhausted);
        assert_eq!(host_error(Errno::EIO), HostError::Other(5));
    }
}
