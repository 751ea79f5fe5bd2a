//! Socket options that no safe crate wraps.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Sets don't-fragment on what a socket sends (`IP_MTU_DISCOVER`, ip(7)): on, a datagram longer than the path's MTU
/// fails with `EMSGSIZE`; off, the kernel's default, it is fragmented here.
pub fn set_dont_fragment(fd: BorrowedFd<'_>, v6: bool, on: bool) -> io::Result<()> {
    let (level, name, value) = match (v6, on) {
        (false, true) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO),
        (false, false) => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_WANT),
        (true, true) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO),
        (true, false) => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_WANT),
    };
    set(fd, level, name, value)
}

/// How many bytes must have come before a stream socket is readable (`SO_RCVLOWAT`, socket(7)).
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_receive_low_water(fd: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    set(fd, libc::SOL_SOCKET, libc::SO_RCVLOWAT, bytes)
}

/// What [`set_receive_low_water`] has set, as the kernel has it.
#[cfg(test)]
pub fn receive_low_water(fd: BorrowedFd<'_>) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, so open; the kernel writes at most `length` bytes to `value` and the length to
    // `length`, both of which live on this stack frame for the whole call.
    let rc = unsafe {
        let value = (&raw mut value).cast();
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVLOWAT, value, &raw mut length)
    };
    if rc == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn set(fd: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is borrowed, so open; the kernel reads four bytes of `value`, which lives on this stack
    // frame for the whole call.
    let rc = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            name,
            std::ptr::from_ref(&value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if rc == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What the kernel knows of a connection (`TCP_INFO`, tcp(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpInfo {
    /// Smoothed round-trip time in microseconds.
    pub rtt_us: u32,
    /// Segments sent again since it began.
    pub retransmits: u32,
}

/// `TCP_INFO` of a connection. A socket that is none, or an old kernel, has none.
pub fn tcp_info(fd: BorrowedFd<'_>) -> Option<TcpInfo> {
    let mut info = std::mem::MaybeUninit::<libc::tcp_info>::zeroed();
    let mut length = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, so open; the kernel writes at most `length` bytes to `info` and the length to
    // `length`, both of which live on this stack frame for the whole call.
    let rc = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if rc != 0 {
        return None;
    }
    // SAFETY: the structure is integers only, for which zeroes are values; what the kernel did not write is zero.
    let info = unsafe { info.assume_init() };
    Some(TcpInfo { rtt_us: info.tcpi_rtt, retransmits: info.tcpi_total_retrans })
}

/// `SO_NETNS_COOKIE`, asm-generic/socket.h (Linux 5.14).
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The number of the network namespace that a socket belongs to; never used again while the machine runs.
///
/// # Errors
/// `ENOTSOCK`, or `ENOPROTOOPT` on a kernel before 5.14.
pub fn netns_cookie(fd: BorrowedFd<'_>) -> io::Result<u64> {
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, so open; the kernel writes at most `length` bytes to `cookie` and the length to
    // `length`, both of which live on this stack frame for the whole call.
    let rc = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if rc == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}
