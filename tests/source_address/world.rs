//! A guest's namespace with a tap that nobody serves, the process inside, and clients made of factory sockets.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use ringtap::lab::{Guest, Lab, Running};
use ringtap::msg::{Channel, FromChild, SocketKind, Steering, ToChild};
use ringtap::netns::{join, steer};
use ringtap::plane::factory::{Factory, FactoryError, News};
use ringtap::ring::sockopt::netns_cookie;
use socket2::Socket;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Stdio;
use std::time::Duration;

/// Longer than anything takes that works.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long to wait for what must not come.
pub const BRIEFLY: Duration = Duration::from_millis(300);

/// Clients from far away (RFC 5737, RFC 3849).
pub const CLIENT: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(203, 0, 113, 5)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 9, 0, 0, 0, 0, 5))];
pub const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
pub const WILDCARD: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
/// The guest's addresses on its tap.
pub const TAP: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 2, 100)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 0x100))];

/// As `ringtap` configures its tap; the neighbours are fixed, for nobody would answer.
const CONFIGURE: &str = "
    ip addr add 10.0.2.100/24 dev tap0; ip -6 addr add fd00::100/64 dev tap0 nodad; ip link set tap0 up
    ip neigh add 10.0.2.2 lladdr 52:55:0a:00:02:02 dev tap0 nud permanent
    ip -6 neigh add fe80::2 lladdr 52:55:0a:00:02:02 dev tap0 nud permanent
    ip route add default via 10.0.2.2; ip -6 route add default via fe80::2 dev tap0
";

/// Set for the process inside.
const ROLE: &str = "RINGTAP_TEST_INSIDE";

/// Run in the namespace by [`World`], as the process inside; run as a test, sees that it ends with control, and that the
/// plane refuses a factory of its own namespace.
#[test]
fn inside() {
    if let Ok(role) = std::env::var(ROLE) {
        if role == "local" {
            for v6 in [false, true] {
                assert_eq!(steer::local(v6, "a test"), Steering::LocalTcp("a test".to_owned()));
            }
        }
        return join::stay(&Channel::from_fd(io::stdin().as_fd().try_clone_to_owned().unwrap()));
    }
    let (ours, theirs) = Channel::pair().unwrap();
    let cookie = netns_cookie(theirs.as_fd()).unwrap();
    let process = std::thread::spawn(move || join::stay(&theirs));
    assert!(matches!(Factory::new(Channel::pair().unwrap().0, cookie), Err(FactoryError::OwnNamespace)));
    drop(ours);
    process.join().unwrap();
}

pub struct World {
    pub guest: Guest,
    pub lab: Lab,
    /// Frames that leave the guest, non-blocking.
    pub tap: OwnedFd,
    control: Channel,
    factory: Factory,
    _inside: Running,
}

impl World {
    /// Nothing steers yet. The namespace is made by an ordinary user, or by root.
    pub fn new(as_user: bool) -> Self {
        Self::with_role(as_user, "plain")
    }

    /// Answers to both marks are steered without nf_tables.
    pub fn without_nft() -> Self {
        Self::with_role(true, "local")
    }

    fn with_role(as_user: bool, role: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        let lab = Lab::with_binds(&[(&program, "inside")]).unwrap();
        let unshare = match as_user {
            true => lab.host().command_as_user("unshare"),
            false => lab.host().command("unshare"),
        };
        let mut unshare = unshare.unwrap();
        unshare.args(["--user", "--map-root-user", "--mount", "--net", "sh", "-ec"]);
        unshare.arg("ip link set lo up; echo; exec sleep infinity").stdout(Stdio::piped());
        let mut holder = lab.host().spawn(&mut unshare).unwrap();
        holder.child().stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        let guest = lab.guest(holder.pid(), vec![holder]).unwrap();
        let tap = guest.place().tap("tap0").unwrap();
        let (control, theirs) = Channel::pair().unwrap();
        let mut inside = guest.place().command(&lab.bin("inside").to_string_lossy()).unwrap();
        inside.args(["--exact", "world::inside"]).env(ROLE, role);
        inside.stdin(theirs.into_fd()).stdout(Stdio::null());
        let inside = guest.place().spawn(&mut inside).unwrap();
        let cookie = netns_cookie(guest.place().tcp_socket((TAP[0], 0)).unwrap().as_fd()).unwrap();
        let (planes, theirs) = Channel::pair().unwrap();
        control.send(&ToChild::Factory, &[theirs.as_fd()]).unwrap();
        let factory = Factory::new(planes, cookie).unwrap();
        let world = Self { guest, lab, tap, control, factory, _inside: inside };
        world.sh(CONFIGURE);
        world
    }

    /// A steered one, by both families.
    pub fn steered(as_user: bool) -> Self {
        let world = Self::new(as_user);
        assert_eq!(world.steer(), [Steering::Full, Steering::Full]);
        world
    }

    pub fn steer(&self) -> [Steering; 2] {
        self.control.send(&ToChild::Steer, &[]).unwrap();
        match self.control.recv().unwrap() {
            (FromChild::Steered { v4, v6 }, _) => [v4, v6],
            other => panic!("{other:?}"),
        }
    }

    /// What a script says that runs in the guest.
    pub fn sh(&self, script: &str) -> String {
        let mut sh = self.guest.place().command("sh").unwrap();
        let out = sh.args(["-ec", script]).output().unwrap();
        assert!(out.status.success(), "{script}: {}", String::from_utf8_lossy(&out.stderr));
        String::from_utf8(out.stdout).unwrap()
    }

    /// A socket of the factory, as the plane gets it.
    pub fn socket(&mut self, kind: SocketKind) -> Socket {
        loop {
            if let Some(fd) = self.factory.take(kind) {
                return fd.into();
            }
            let mut fds = [PollFd::new(self.factory.as_fd(), PollFlags::POLLIN)];
            assert_eq!(poll(&mut fds, PollTimeout::from(20_000u16)), Ok(1), "the factory is silent");
            let news = self.factory.on_readable().unwrap();
            assert!(news.iter().all(|n| matches!(n, News::Arrived(_))), "{news:?}");
        }
    }

    /// A connection to `to` from the client `from`.
    pub fn dial(
        &mut self,
        from: (IpAddr, u16),
        to: (IpAddr, u16),
        patience: Duration,
    ) -> io::Result<TcpStream> {
        let socket = self.socket(SocketKind { v6: to.0.is_ipv6(), datagram: false, transparent: true });
        socket.bind(&SocketAddr::from(from).into())?;
        socket.connect_timeout(&SocketAddr::from(to).into(), patience)?;
        Ok(socket.into())
    }

    /// A client `from` that talks to `to` in datagrams.
    pub fn talk(&mut self, from: (IpAddr, u16), to: (IpAddr, u16)) -> UdpSocket {
        let socket = self.socket(SocketKind { v6: to.0.is_ipv6(), datagram: true, transparent: true });
        socket.bind(&SocketAddr::from(from).into()).unwrap();
        socket.connect(&SocketAddr::from(to).into()).unwrap();
        socket.set_nonblocking(false).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.into()
    }

    /// The server at `to` sees the client `from`, and half a megabyte comes back as it was sent.
    #[track_caller]
    pub fn assert_tcp_seen(&mut self, from: (IpAddr, u16), to: (IpAddr, u16)) -> TcpStream {
        let mut stream = self.dial(from, to, PATIENCE).unwrap_or_else(|e| panic!("{from:?} to {to:?}: {e}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let seen = SocketAddr::from(from).to_string();
        let mut said = vec![0; seen.len()];
        stream.read_exact(&mut said).unwrap();
        assert_eq!(String::from_utf8(said).unwrap(), seen);
        let bytes: Vec<u8> = (0..500_000u32).map(|n| (n % 251) as u8).collect();
        let mut back = vec![0; bytes.len()];
        std::thread::scope(|s| {
            s.spawn(|| (&stream).write_all(&bytes).unwrap());
            (&stream).read_exact(&mut back).unwrap();
        });
        assert!(back == bytes);
        stream
    }

    /// The server at `to` sees the client `from`, and answers.
    #[track_caller]
    pub fn assert_udp_seen(&mut self, from: (IpAddr, u16), to: (IpAddr, u16)) -> UdpSocket {
        let socket = self.talk(from, to);
        for _ in 0..2 {
            socket.send(b"who am I?").unwrap();
            let mut said = [0; 100];
            let length = socket.recv(&mut said).unwrap_or_else(|e| panic!("{from:?} to {to:?}: {e}"));
            assert_eq!(std::str::from_utf8(&said[..length]).unwrap(), SocketAddr::from(from).to_string());
        }
        socket
    }
}

/// Tells each client its address, then sends back what comes. Lives as long as the test program.
pub fn serve_tcp(listener: TcpListener) {
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let peer = stream.peer_addr()?;
                write!(stream, "{peer}")?;
                io::copy(&mut &stream, &mut &stream)
            });
        }
    });
}

/// Answers each datagram with its sender's address. Lives as long as the test program.
pub fn serve_udp(socket: UdpSocket) {
    std::thread::spawn(move || {
        let mut bytes = [0; 2048];
        while let Ok((_, from)) = socket.recv_from(&mut bytes) {
            let _ = socket.send_to(from.to_string().as_bytes(), from);
        }
    });
}
