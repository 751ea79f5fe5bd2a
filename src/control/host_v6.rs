//! Whether the host can reach the IPv6 internet, and when that changes.
//!
//! The question is put to the kernel's routing: a datagram socket connected to a global address has a route and a
//! source, or it does not. Nothing is sent. When a route comes or goes, rtnetlink says so, and the question is put again.

use super::ready::Ready;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use std::io;
use std::net::{Ipv6Addr, SocketAddr as InetAddr, UdpSocket};
use std::time::Duration;

/// `RTMGRP_IPV6_IFADDR | RTMGRP_IPV6_ROUTE` (linux/rtnetlink.h).
const GROUPS: u32 = 0x100 | 0x400;
/// Changes come in bursts; the question is put once after each.
const SETTLE: Duration = Duration::from_millis(100);

/// True if there is a route to the IPv6 internet and an address to use it from.
pub fn usable() -> bool {
    // The first address of the global unicast space; no packet goes there.
    let anywhere = InetAddr::from((Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 1), 9));
    let source = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0))
        .and_then(|socket| socket.connect(anywhere).and_then(|()| socket.local_addr()));
    match source {
        Ok(InetAddr::V6(a)) => !a.ip().is_loopback() && !a.ip().is_unicast_link_local(),
        _ => false,
    }
}

/// Waits for the answer to change.
#[derive(Debug)]
pub struct Watch {
    /// `None` where the kernel gives us no such socket: the first answer then stands.
    socket: Option<(Socket, Ready)>,
    last: bool,
    /// Something has changed and the question is not put yet.
    unsettled: bool,
}

impl Watch {
    /// Watches from the answer `last` on. Needs the runtime.
    pub fn new(last: bool) -> Self {
        let socket = subscribe().and_then(|socket| Ready::new(&socket).map(|ready| (socket, ready)));
        if let Err(e) = &socket {
            tracing::debug!("changes of IPv6 routes go unnoticed: {e}");
        }
        Self { socket: socket.ok(), last, unsettled: false }
    }

    /// Returns the new answer when it is another one. Safe to cancel.
    pub async fn changed(&mut self) -> bool {
        loop {
            if self.unsettled {
                tokio::time::sleep(SETTLE).await;
                self.unsettled = false;
                let now = usable();
                if now != self.last {
                    self.last = now;
                    return now;
                }
            }
            let Some((socket, ready)) = &self.socket else { return std::future::pending().await };
            let Ok(mut guard) = ready.wait().await else { return std::future::pending().await };
            let mut buffer = Vec::with_capacity(8192);
            // Lost messages (ENOBUFS) mean the same as messages: something has changed.
            loop {
                buffer.clear();
                match socket.recv(&mut buffer, 0) {
                    Err(e) if e.kind() == io::ErrorKind::WouldBlock => break,
                    _ => {}
                }
            }
            guard.clear_ready();
            self.unsettled = true;
        }
    }
}

fn subscribe() -> io::Result<Socket> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.set_non_blocking(true)?;
    socket.bind(&SocketAddr::new(0, GROUPS))?;
    Ok(socket)
}
