//! The error queue of datagram and ping sockets (`IP_RECVERR`, ip(7)): which datagram failed, where, and who said so.
//!
//! An ICMP error also becomes the pending error of the socket and fails the *next* operation on it, whatever its
//! destination (DESIGN.md, section 4). So whoever meets an error on such a socket drains the queue here, tells the
//! stack, and tries its own operation again.

use crate::stack::IcmpError;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, SockaddrStorage, recvmsg};
use std::io::IoSliceMut;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};

/// `SO_EE_ORIGIN_ICMP` (linux/errqueue.h).
const ORIGIN_ICMP: u8 = 2;
/// `SO_EE_ORIGIN_ICMP6`.
const ORIGIN_ICMP6: u8 = 3;
/// `SO_EE_ORIGIN_LOCAL`: the host itself, a datagram longer than the path's MTU for one.
const ORIGIN_LOCAL: u8 = 1;
/// Errors read in one go: more than any burst of one batch, and a bound on the loop.
const MAX_PER_DRAIN: usize = 64;

/// Reads what is queued, oldest first, and hands each error to `each`.
pub fn drain(fd: BorrowedFd<'_>, ping: bool, mut each: impl FnMut(IcmpError)) {
    let mut cmsg = nix::cmsg_space!([u8; 128]);
    for _ in 0..MAX_PER_DRAIN {
        // Enough of the failed datagram for the header of an echo request.
        let mut head = [0u8; 8];
        let mut iov = [IoSliceMut::new(&mut head)];
        let flags = MsgFlags::MSG_ERRQUEUE | MsgFlags::MSG_DONTWAIT;
        let Ok(msg) = recvmsg::<SockaddrStorage>(fd.as_raw_fd(), &mut iov, Some(&mut cmsg), flags) else {
            return;
        };
        let to = msg.address.as_ref().and_then(socket_addr);
        let error = msg.cmsgs().ok().and_then(|mut all| all.find_map(read_cmsg));
        let read = msg.bytes;
        if let (Some((origin, icmp_type, code, info, errno, offender)), Some(to)) = (error, to) {
            let echo_seq = if ping && read >= 8 { u16::from_be_bytes([head[6], head[7]]) } else { 0 };
            if let Some(error) = icmp_error(origin, icmp_type, code, info, errno, offender, to, echo_seq) {
                each(error);
            }
        }
    }
}

type Extended = (u8, u8, u8, u32, u32, Option<IpAddr>);

fn read_cmsg(cmsg: ControlMessageOwned) -> Option<Extended> {
    match cmsg {
        ControlMessageOwned::Ipv4RecvErr(e, from) => {
            let offender = from
                .filter(|a| i32::from(a.sin_family) == libc::AF_INET)
                .map(|a| IpAddr::V4(Ipv4Addr::from(u32::from_be(a.sin_addr.s_addr))));
            Some((e.ee_origin, e.ee_type, e.ee_code, e.ee_info, e.ee_errno, offender))
        }
        ControlMessageOwned::Ipv6RecvErr(e, from) => {
            let offender = from
                .filter(|a| i32::from(a.sin6_family) == libc::AF_INET6)
                .map(|a| IpAddr::V6(Ipv6Addr::from(a.sin6_addr.s6_addr)));
            Some((e.ee_origin, e.ee_type, e.ee_code, e.ee_info, e.ee_errno, offender))
        }
        _ => None,
    }
}

#[allow(clippy::too_many_arguments, reason = "the fields of one kernel structure")]
fn icmp_error(
    origin: u8,
    icmp_type: u8,
    code: u8,
    info: u32,
    errno: u32,
    offender: Option<IpAddr>,
    to: SocketAddr,
    echo_seq: u16,
) -> Option<IcmpError> {
    match origin {
        ORIGIN_ICMP | ORIGIN_ICMP6 => Some(IcmpError { offender, icmp_type, code, info, to, echo_seq }),
        // The host's own word that the datagram is too long, in the terms of the flow's family: fragmentation needed
        // (3, 4) or packet too big (2, 0).
        ORIGIN_LOCAL if errno == libc::EMSGSIZE as u32 => {
            let (icmp_type, code) = if to.is_ipv4() { (3, 4) } else { (2, 0) };
            Some(IcmpError { offender: None, icmp_type, code, info, to, echo_seq })
        }
        _ => None,
    }
}

fn socket_addr(addr: &SockaddrStorage) -> Option<SocketAddr> {
    if let Some(v4) = addr.as_sockaddr_in() {
        return Some(SocketAddr::V4(SocketAddrV4::new(v4.ip(), v4.port())));
    }
    addr.as_sockaddr_in6().map(|v6| SocketAddr::V6(SocketAddrV6::new(v6.ip(), v6.port(), 0, v6.scope_id())))
}
