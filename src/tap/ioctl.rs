//! The few ioctls of linux/if_tun.h, as safe functions over a borrowed descriptor.
//!
//! Each takes plain values and gives an [`Errno`] back. A descriptor that is no tap makes them fail with `ENOTTY` or
//! `EBADFD`; nothing else happens to it, for the request numbers are those of the tun driver alone.

use nix::errno::Errno;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Longest interface name, without the terminating zero (`IFNAMSIZ` - 1).
pub(super) const MAX_NAME: usize = libc::IFNAMSIZ - 1;

/// Interface name and tun flags: what `TUNSETIFF` and `TUNGETIFF` exchange.
pub(super) struct Interface {
    pub(super) name: String,
    pub(super) flags: i32,
}

fn request(name: &str, flags: i32) -> libc::ifreq {
    // SAFETY: ifreq is plain data for which zero is valid.
    let mut ifr: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in ifr.ifr_name.iter_mut().zip(name.bytes().take(MAX_NAME)) {
        *to = from as libc::c_char;
    }
    ifr.ifr_ifru.ifru_flags = flags as libc::c_short;
    ifr
}

fn reply(ifr: &libc::ifreq) -> Interface {
    let name: Vec<u8> = ifr.ifr_name.iter().map(|c| *c as u8).take_while(|b| *b != 0).collect();
    // SAFETY: every bit pattern of this union's flags is valid, and the kernel has just set them.
    let flags = unsafe { ifr.ifr_ifru.ifru_flags };
    Interface { name: String::from_utf8_lossy(&name).into_owned(), flags: i32::from(flags as u16) }
}

/// Makes or attaches to an interface. Returns it under the name the kernel gave it.
pub(super) fn set_interface(fd: BorrowedFd<'_>, name: &str, flags: i32) -> Result<Interface, Errno> {
    let mut ifr = request(name, flags);
    // SAFETY: TUNSETIFF reads and writes one ifreq, which lives until the call returns.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETIFF, &raw mut ifr) })?;
    Ok(reply(&ifr))
}

/// The interface a descriptor is attached to.
pub(super) fn interface(fd: BorrowedFd<'_>) -> Result<Interface, Errno> {
    let mut ifr = request("", 0);
    // SAFETY: TUNGETIFF writes one ifreq, which lives until the call returns.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNGETIFF, &raw mut ifr) })?;
    Ok(reply(&ifr))
}

/// Says which offloads we can deal with in frames that we read. An unknown bit gives `EINVAL`.
pub(super) fn set_offload(fd: BorrowedFd<'_>, bits: u32) -> Result<(), Errno> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETOFFLOAD, libc::c_ulong::from(bits)) };
    Errno::result(done).map(drop)
}

/// Sets the length of the virtio-net header.
pub(super) fn set_vnet_header_len(fd: BorrowedFd<'_>, len: i32) -> Result<(), Errno> {
    // SAFETY: TUNSETVNETHDRSZ reads one int, which lives until the call returns.
    Errno::result(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETVNETHDRSZ, &raw const len) }).map(drop)
}

/// Makes the interface outlive its descriptors, or not. For tests that attach to an existing interface.
#[cfg(test)]
pub(super) fn set_persistent(fd: BorrowedFd<'_>, on: bool) -> Result<(), Errno> {
    // SAFETY: TUNSETPERSIST takes its argument by value.
    let done = unsafe { libc::ioctl(fd.as_raw_fd(), libc::TUNSETPERSIST, libc::c_ulong::from(on)) };
    Errno::result(done).map(drop)
}
