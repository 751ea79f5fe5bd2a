//! The socket factory: makes sockets that belong to the guest's namespaces, and hands them to the plane in batches.
//!
//! Theory of operation. A socket keeps the network namespace that it was made in, so a process inside makes them and the
//! plane, outside, binds and connects them: no round trip for a connection, and no way for the plane to enter the
//! namespace. Every option that needs a capability of the namespace, or that every socket of a kind wants, is set here
//! once. In `run` the factory is part of the child's first process ([`super::init`]); in `attach` it is all that stays
//! inside ([`super::join`]).
//!
//! The plane parses packets of strangers, so the factory does not trust it with more than sockets of this namespace: a
//! request makes at most [`MAX_FDS`], none is kept, one request is served at a time, and a plane that does not take
//! its answers loses the channel, for the process has other work and never waits.

use super::steer::DIAL;
use crate::config::LINK_CONGESTION;
use crate::msg::{Channel, FromFactory, MAX_FDS, MsgError, SocketKind, ToFactory};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::Duration;

/// Idle time before, and time between, keepalive probes: what RootlessKit's builtin driver (Go's net package) has.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// Asked for as the buffers of a datagram socket, in bytes; the kernel grants what net.core.rmem_max and wmem_max allow.
const DATAGRAM_BUFFER: usize = 1 << 20;
/// `SO_NETNS_COOKIE`, asm-generic/socket.h.
const SO_NETNS_COOKIE: libc::c_int = 71;

/// The number of the network namespace that this thread makes sockets in; never used again while the machine runs.
///
/// # Errors
/// Those of socket(2).
pub fn netns_cookie() -> io::Result<u64> {
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the descriptor is borrowed, so open; the kernel writes at most `length` bytes to `cookie` and the length to
    // `length`, both of which live on this stack frame for the whole call.
    let rc = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if rc == 0 { Ok(cookie) } else { Err(io::Error::last_os_error()) }
}

/// Serves one plane at a time.
#[derive(Debug, Default)]
pub struct Factory {
    channel: Option<Channel>,
}

impl Factory {
    /// Serves the channel among `fds` from now on, and no other.
    pub fn replace(&mut self, fds: Vec<OwnedFd>) {
        self.channel = fds
            .into_iter()
            .next()
            .map(Channel::from_fd)
            // Without this, a plane that does not read could stop us.
            .filter(|channel| channel.set_nonblocking(true).is_ok());
    }

    /// What to wait on for a request; `None` while there is nobody to serve.
    pub fn as_fd(&self) -> Option<BorrowedFd<'_>> {
        self.channel.as_ref().map(AsFd::as_fd)
    }

    /// Serves one request, if one waits. False if none did.
    pub fn serve(&mut self) -> bool {
        let Some(channel) = &self.channel else { return false };
        let open = match channel.try_recv::<ToFactory>() {
            Ok(None) => return false,
            Ok(Some((ToFactory::Make { kind, count }, _))) => answer(channel, kind, count).is_ok(),
            // The plane is gone, or talks nonsense.
            Err(_) => false,
        };
        if !open {
            self.channel = None;
        }
        true
    }
}

/// Makes and sends.
fn answer(channel: &Channel, kind: SocketKind, count: u16) -> Result<(), MsgError> {
    let mut made = Vec::with_capacity(usize::from(count).min(MAX_FDS));
    let mut errno = libc::EINVAL;
    while made.len() < usize::from(count).min(MAX_FDS) {
        match make(kind) {
            Ok(socket) => made.push(socket),
            Err(e) => {
                errno = e.raw_os_error().unwrap_or(libc::EIO);
                break;
            }
        }
    }
    if !made.is_empty() {
        let fds: Vec<_> = made.iter().map(AsFd::as_fd).collect();
        match channel.send(&FromFactory::Made(kind), &fds) {
            // Too many descriptors of this user are on their way (unix(7), ETOOMANYREFS).
            Err(MsgError::Io(e)) if e.raw_os_error() == Some(libc::ETOOMANYREFS) => {
                errno = libc::ETOOMANYREFS
            }
            other => return other,
        }
    }
    channel.send(&FromFactory::Refused { kind, errno }, &[])
}

/// An unbound socket in the current namespaces, with every option set.
///
/// # Errors
/// `EMFILE` and its like; `EPERM` for a transparent one without CAP_NET_ADMIN over the namespace; `EAFNOSUPPORT` without
/// the family.
pub fn make(kind: SocketKind) -> io::Result<Socket> {
    let domain = if kind.v6 { Domain::IPV6 } else { Domain::IPV4 };
    let (form, protocol) =
        if kind.datagram { (Type::DGRAM, Protocol::UDP) } else { (Type::STREAM, Protocol::TCP) };
    let socket = Socket::new(domain, form.nonblocking(), Some(protocol))?;
    // One client's address and port may talk to several servers of the guest at once.
    socket.set_reuse_address(true)?;
    if kind.v6 {
        socket.set_only_v6(true)?;
    }
    if kind.transparent {
        if kind.v6 {
            socket.set_ip_transparent_v6(true)?;
        } else {
            socket.set_ip_transparent_v4(true)?;
        }
        socket.set_mark(DIAL)?;
    }
    // What follows only makes a socket better: a kernel that lacks it does without.
    if kind.datagram {
        let _ = socket.set_recv_buffer_size(DATAGRAM_BUFFER);
        let _ = socket.set_send_buffer_size(DATAGRAM_BUFFER);
        let _ = setsockopt(&socket, sockopt::UdpGroSegment, &true);
        if kind.v6 {
            let _ = setsockopt(&socket, sockopt::Ipv6RecvErr, &true);
        } else {
            let _ = setsockopt(&socket, sockopt::Ipv4RecvErr, &true);
        }
    } else {
        let _ = socket.set_tcp_nodelay(true);
        let _ = socket.set_tcp_congestion(LINK_CONGESTION.as_bytes());
        let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE));
        // Bound to an address alone, the port is chosen when the destination is known: as many connections to each
        // destination as there are ports, not as many in all.
        let _ = setsockopt(&socket, sockopt::IpBindAddressNoPort, &true);
    }
    Ok(socket)
}
