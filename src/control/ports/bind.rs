//! From a specification to listening sockets: all of them, or none and the reason.
//!
//! TCP listeners have `SO_REUSEADDR`, so that connections of an earlier instance in TIME_WAIT do not keep a port, and the
//! greatest backlog the kernel allows. UDP sockets do not: there it would let two instances share a port, of which one
//! gets nothing. "Any" address of both families is one dual-stack socket, as in Go, so a port of both families costs one
//! descriptor; where the host has no IPv6 it is an IPv4 one. All are non-blocking and close-on-exec.

use super::error::BindError;
use crate::config::PortSpec;
use crate::config::port_spec::{Families, HostPorts};
use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, SockAddr, Socket, Type};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// How often a run of free ports is looked for before giving up.
const ATTEMPTS: u32 = 64;

/// How long the listeners of an instance that was killed may stay: the kernel closes what its ring holds 5 to 40 ms after the
/// process has ended (io_uring/io_uring.c, `io_ring_exit_work`), and later with thousands of sockets.
pub const LINGER: Duration = Duration::from_millis(500);
/// How often it is looked whether they are gone.
const LOOK: Duration = Duration::from_millis(10);

/// Sockets of consecutive ports.
#[derive(Debug)]
pub struct Bound {
    /// The first one's port.
    pub first: u16,
    /// In order of their ports.
    pub sockets: Vec<OwnedFd>,
}

/// Binds everything that `spec` asks for.
///
/// # Errors
/// [`BindError`]; nothing is bound then.
pub fn bind(spec: &PortSpec) -> Result<Bound, BindError> {
    let plan = Plan::of(spec)?;
    let failed = |(port, source)| BindError::new(spec, port, source);
    match spec.host {
        HostPorts::From(first) => {
            let sockets = plan.run(first, spec.count).map_err(failed)?;
            Ok(Bound { first, sockets })
        }
        HostPorts::OneOf(first, last) => {
            let mut last_error = (first, io::Error::from_raw_os_error(libc::EADDRINUSE));
            for port in first..=last {
                match plan.run(port, 1) {
                    Ok(sockets) => return Ok(Bound { first: port, sockets }),
                    Err((port, e)) if e.kind() == io::ErrorKind::AddrInUse => last_error = (port, e),
                    Err(e) => return Err(failed(e)),
                }
            }
            Err(failed(last_error))
        }
        HostPorts::Free => plan.free_run(spec.count).map_err(failed),
    }
}

/// As [`bind`], but gives who has a port so long to let go of it.
///
/// # Errors
/// As those of [`bind`].
pub fn bind_within(spec: &PortSpec, patience: Duration) -> Result<Bound, BindError> {
    let began = Instant::now();
    loop {
        match bind(spec) {
            Err(e) if e.is_in_use() && began.elapsed() < patience => std::thread::sleep(LOOK),
            done => return done,
        }
    }
}

/// One kind of socket and the address of all.
struct Plan {
    udp: bool,
    ip: IpAddr,
    /// IPv4 clients are served by the same socket.
    dual: bool,
    backlog: i32,
}

impl Plan {
    fn of(spec: &PortSpec) -> Result<Self, BindError> {
        let any = spec.host_ip.is_none_or(|ip| ip.is_unspecified());
        let (ip, dual) = match (spec.families, spec.host_ip) {
            (Families::Any, _) if any => (Ipv6Addr::UNSPECIFIED.into(), true),
            (Families::V4, None) => (Ipv4Addr::UNSPECIFIED.into(), false),
            (Families::V6, None) => (Ipv6Addr::UNSPECIFIED.into(), false),
            (Families::V4, Some(ip)) if ip.is_ipv6() => return Err(BindError::family(spec, ip)),
            (Families::V6, Some(ip)) if ip.is_ipv4() => return Err(BindError::family(spec, ip)),
            (_, Some(ip)) => (ip, false),
            (Families::Any, None) => (Ipv6Addr::UNSPECIFIED.into(), true),
        };
        let mut plan = Self { udp: spec.udp, ip, dual, backlog: super::limits::somaxconn() };
        if dual && !plan.has_ipv6() {
            (plan.ip, plan.dual) = (Ipv4Addr::UNSPECIFIED.into(), false);
        }
        Ok(plan)
    }

    /// False where the kernel was started without IPv6. Other errors will come up again.
    fn has_ipv6(&self) -> bool {
        let refused =
            |e: io::Error| matches!(e.raw_os_error(), Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL));
        !self.one(0).is_err_and(refused)
    }

    fn one(&self, port: u16) -> io::Result<Socket> {
        let domain = if self.ip.is_ipv4() { Domain::IPV4 } else { Domain::IPV6 };
        let kind = if self.udp { Type::DGRAM } else { Type::STREAM };
        let socket = Socket::new(domain, kind.nonblocking(), None)?;
        if self.ip.is_ipv6() {
            socket.set_only_v6(!self.dual)?;
        }
        if self.udp {
            // Of a datagram that comes before this is set the kernel no longer says which address it was sent to.
            let _ = match self.ip {
                IpAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4PacketInfo, &true),
                IpAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &true),
            };
        } else {
            socket.set_reuse_address(true)?;
        }
        socket.bind(&SockAddr::from(SocketAddr::new(self.ip, port)))?;
        if !self.udp {
            socket.listen(self.backlog)?;
        }
        Ok(socket)
    }

    /// `count` ports from `first` on; the port that failed, otherwise.
    fn run(&self, first: u16, count: u16) -> Result<Vec<OwnedFd>, (u16, io::Error)> {
        let mut sockets = Vec::with_capacity(count.into());
        for n in 0..count {
            // A specification's ports end at 65535.
            let port = first.saturating_add(n);
            sockets.push(self.one(port).map_err(|e| (port, e))?.into());
        }
        Ok(sockets)
    }

    /// `count` consecutive ports wherever they are free.
    fn free_run(&self, count: u16) -> Result<Bound, (u16, io::Error)> {
        let mut last_error = io::Error::from_raw_os_error(libc::EADDRINUSE);
        for _ in 0..ATTEMPTS {
            let socket = self.one(0).map_err(|e| (0, e))?;
            let address = socket.local_addr().map_err(|e| (0, e))?;
            let first = address.as_socket().map_or(0, |a| a.port());
            let mut sockets = vec![OwnedFd::from(socket)];
            if count == 1 {
                return Ok(Bound { first, sockets });
            }
            if first.checked_add(count - 1).is_none() {
                continue;
            }
            match self.run(first + 1, count - 1) {
                Ok(rest) => {
                    sockets.extend(rest);
                    return Ok(Bound { first, sockets });
                }
                Err((_, e)) if e.kind() == io::ErrorKind::AddrInUse => last_error = e,
                Err(e) => return Err(e),
            }
        }
        Err((0, last_error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bound(text: &str) -> Result<Bound, BindError> {
        bind(&text.parse().unwrap())
    }

    fn address(fd: &OwnedFd) -> SocketAddr {
        let socket = Socket::from(fd.try_clone().unwrap());
        socket.local_addr().unwrap().as_socket().unwrap()
    }

    #[test]
    fn a_run_of_free_ports_is_consecutive_and_in_order() {
        for text in ["9000-9019", "127.0.0.1::9000-9019/udp"] {
            let b = bound(text).unwrap();
            let ports: Vec<u16> = b.sockets.iter().map(|s| address(s).port()).collect();
            assert_eq!(ports, (b.first..b.first + 20).collect::<Vec<_>>(), "{text}");
        }
    }

    #[test]
    fn both_families_share_a_socket_and_one_family_does_not_take_the_others_place() {
        let both = bound("80").unwrap();
        for client in [format!("127.0.0.1:{}", both.first), format!("[::1]:{}", both.first)] {
            std::net::TcpStream::connect(client).unwrap();
        }
        let v4 = bound("127.0.0.1::80").unwrap();
        let v6 = bound(&format!("[::1]:{}:80", v4.first));
        // Another process may have the IPv6 port; what it may not be is an address in use by our IPv4 socket.
        if let Ok(v6) = v6 {
            assert_eq!(address(&v6.sockets[0]).port(), address(&v4.sockets[0]).port());
        }
    }

    #[test]
    fn a_taken_port_is_an_error_for_tcp_and_udp_alike() {
        for suffix in ["tcp", "udp"] {
            let first = bound(&format!("127.0.0.1::80/{suffix}")).unwrap();
            let port = first.first;
            let error = bound(&format!("127.0.0.1:{port}:80/{suffix}")).unwrap_err();
            let text = format!("listen {suffix}4 127.0.0.1:{port}: bind: address already in use");
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn the_first_free_one_of_a_range_is_taken() {
        let run = bound("127.0.0.1::80-82").unwrap();
        let (first, last) = (run.first, run.first + 2);
        let mut sockets = run.sockets.into_iter();
        let (_held, freed, _also_held) = (sockets.next(), sockets.next(), sockets.next());
        drop(freed);
        assert_eq!(bound(&format!("127.0.0.1:{first}-{last}:80")).unwrap().first, first + 1);
    }

    #[test]
    fn a_range_with_a_taken_port_leaves_the_others_free() {
        let run = bound("127.0.0.1::80-82").unwrap();
        let first = run.first;
        let mut sockets = run.sockets;
        sockets.remove(0);
        sockets.remove(0);
        let error = bound(&format!("127.0.0.1:{first}-{}:80-82", first + 2)).unwrap_err().to_string();
        assert!(error.contains(&format!(":{}: bind: address already in use", first + 2)), "{error}");
        assert!(bound(&format!("127.0.0.1:{first}-{}:80-81", first + 1)).is_ok());
    }

    #[test]
    fn an_address_that_is_not_ours_is_said_so() {
        let error = bound("192.0.2.1:0:80").unwrap_err();
        assert_eq!(error.to_string(), "listen tcp4 192.0.2.1:0: bind: cannot assign requested address");
        assert!(error.remedy().contains("ip address"));
    }
}
