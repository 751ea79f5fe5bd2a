//! Worlds made of namespaces, for tests, perf and bench alike.
//!
//! A [`Lab`] needs no root and touches nothing of the machine: three network namespaces owned by one new user namespace,
//! held by descriptors, so that all of it is gone when the lab is dropped or its process dies.
//!
//! ```text
//!   host                          internet                            far
//!   eth0 198.51.100.1/24 ======== host0 198.51.100.2/24
//!        2001:db8:51::1/64              2001:db8:51::2/64
//!   lo   198.51.100.77, ..:51::77
//!        default via .2, ::2      lo 203.0.113.80, 2001:db8:203::80
//!                                 far0 192.0.2.1/24 ================== eth0 192.0.2.2/24
//!                                      2001:db8:fa::1/64                    2001:db8:fa::2/64
//!                                 203.0.113.66 dropped, .67 unreachable, .68 prohibited (2001:db8:203::66 to ::68)
//! ```
//!
//! `host` is where the program under test runs; `internet` is a server and a router; `far` is behind that router, for
//! traceroute and path MTU. The three share a mount namespace, where /etc/resolv.conf, passwd, subuid and subgid are
//! files of the lab. Programs run in a place by [`Place::command`]; servers are sockets that belong to a place
//! ([`Place::tcp_listener`], [`Place::udp_socket`]) and are served by ordinary threads: see [`serve`] and [`dns`].

#![forbid(unsafe_code)]

pub mod contender;
pub mod dns;
pub mod flood;
mod guest;
pub mod impair;
mod impaired;
pub mod links;
pub mod serve;

pub use contender::Contender;
pub use guest::{Guest, descendants};
pub use impaired::ImpairedLink;
pub use links::{Links, Via};
pub use serve::Server;

use crate::netns::world::{Bind, Identity, NetNs, World};
use ipnet::IpNet;
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use socket2::{SockAddr, Socket};
use std::fs;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Addresses of a lab.
pub mod addr {
    use std::net::{Ipv4Addr, Ipv6Addr};
    const fn v6(a: u16, b: u16) -> Ipv6Addr {
        Ipv6Addr::new(0x2001, 0xdb8, a, 0, 0, 0, 0, b)
    }
    /// The host.
    pub const HOST_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
    /// The host.
    pub const HOST_V6: Ipv6Addr = v6(0x51, 1);
    /// A second address of the host, for `--outbound-addr`.
    pub const HOST_OTHER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 77);
    /// A second address of the host, for `--outbound-addr`.
    pub const HOST_OTHER_V6: Ipv6Addr = v6(0x51, 0x77);
    /// The router, as the host sees it.
    pub const ROUTER_V4: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);
    /// The router, as the host sees it.
    pub const ROUTER_V6: Ipv6Addr = v6(0x51, 2);
    /// The server behind the default route.
    pub const SERVER_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 80);
    /// The server behind the default route.
    pub const SERVER_V6: Ipv6Addr = v6(0x203, 0x80);
    /// One hop further.
    pub const FAR_V4: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
    /// One hop further.
    pub const FAR_V6: Ipv6Addr = v6(0xfa, 2);
    /// Packets to it vanish.
    pub const SILENT_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 66);
    /// Packets to it vanish.
    pub const SILENT_V6: Ipv6Addr = v6(0x203, 0x66);
    /// The router answers: host unreachable.
    pub const UNREACHABLE_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 67);
    /// The router answers: no route.
    pub const UNREACHABLE_V6: Ipv6Addr = v6(0x203, 0x67);
    /// The router answers: administratively prohibited.
    pub const PROHIBITED_V4: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 68);
    /// The router answers: administratively prohibited.
    pub const PROHIBITED_V6: Ipv6Addr = v6(0x203, 0x68);
    /// The server's end of the impaired link, see [`crate::lab::Lab::impaired`].
    pub const IMPAIRED_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);
    /// The server's end of the impaired link.
    pub const IMPAIRED_V6: Ipv6Addr = v6(0x18, 2);
}

/// What a lab could not do; the text says which step and why.
#[derive(Debug, thiserror::Error)]
#[error("lab: {what}: {source}")]
pub struct LabError {
    what: String,
    source: io::Error,
}

impl LabError {
    pub(crate) fn new(what: &str, source: io::Error) -> Self {
        Self { what: what.to_owned(), source }
    }
}

/// The name and number of the ordinary user that [`Place::command_as_user`] uses.
pub const USER: (&str, u32) = ("labuser", 7321);
/// First sub-id of [`USER`] where it is a real user.
const USER_SUB_IDS: u32 = 0x4000_0000;

/// A world of three network namespaces. See the module's text.
#[derive(Debug)]
pub struct Lab {
    world: World,
    host: NetNs,
    internet: NetNs,
    far: NetNs,
    dir: PathBuf,
}

/// One network namespace of a lab.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    world: &'a World,
    net: &'a NetNs,
    dir: &'a Path,
}

/// A program in a lab; killed and waited for when dropped.
#[derive(Debug)]
pub struct Running(Child);

impl Running {
    /// The process.
    pub fn child(&mut self) -> &mut Child {
        &mut self.0
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Waits for the first byte of its standard output, which must be a pipe.
    ///
    /// # Errors
    /// It ended before, or says nothing for as long as `patience`.
    pub fn first_byte(&mut self, patience: Duration) -> io::Result<()> {
        let Some(out) = self.0.stdout.as_mut() else { return Err(io::ErrorKind::InvalidInput.into()) };
        let mut polled = [PollFd::new(out.as_fd(), PollFlags::POLLIN)];
        if poll(&mut polled, PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX))? == 0 {
            let text = format!("it is not ready after {} s", patience.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        match out.read(&mut [0])? {
            0 => Err(io::Error::other("ended before it was ready")),
            _ => Ok(()),
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to do.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn v(net: &str) -> Result<IpNet, LabError> {
    net.parse().map_err(|_| LabError::new(net, io::ErrorKind::InvalidInput.into()))
}

fn net(ip: impl Into<IpAddr>, prefix: u8) -> Result<IpNet, LabError> {
    IpNet::new(ip.into(), prefix).map_err(|_| LabError::new("prefix", io::ErrorKind::InvalidInput.into()))
}

impl Lab {
    /// A lab whose resolv.conf names the server's address.
    pub fn new() -> Result<Self, LabError> {
        Self::with_binds(&[])
    }

    /// As [`Self::new`], with more files or directories shown elsewhere, for instance a program at a place that
    /// [`USER`] may enter. A target below [`Self::bin`] is made here.
    pub fn with_binds(binds: &[(&Path, &str)]) -> Result<Self, LabError> {
        let dir = scratch().map_err(|e| LabError::new("making a scratch directory", e))?;
        let made = Self::build(&dir, binds);
        if made.is_err() {
            let _ = fs::remove_dir_all(&dir);
        }
        made
    }

    fn build(dir: &Path, programs: &[(&Path, &str)]) -> Result<Self, LabError> {
        let mut binds = Vec::new();
        let (name, id) = USER;
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let files = [
            ("resolv.conf", format!("nameserver {}\n", addr::SERVER_V4)),
            ("passwd", format!("{passwd}{name}:x:{id}:{id}::{}:/bin/sh\n", dir.join("home").display())),
            ("subuid", format!("{name}:{USER_SUB_IDS}:65536\n")),
            ("subgid", format!("{name}:{USER_SUB_IDS}:65536\n")),
        ];
        let put = |path: &Path, text: &str| {
            fs::write(path, text).map_err(|e| LabError::new(&format!("writing {}", path.display()), e))
        };
        for (name, text) in files {
            let (source, target) = (dir.join(name), Path::new("/etc").join(name));
            put(&source, &text)?;
            if target.exists() {
                binds.push(Bind { source, target });
            } else if name == "resolv.conf" {
                return Err(LabError::new("/etc/resolv.conf", io::ErrorKind::NotFound.into()));
            }
        }
        for (source, name) in programs {
            let target = dir.join("bin").join(name);
            put(&target, "")?;
            binds.push(Bind { source: source.to_path_buf(), target });
        }
        let (world, nets) = World::new(&binds, 3).map_err(|e| LabError::new("namespaces", e))?;
        let [host, internet, far] = <[NetNs; 3]>::try_from(nets)
            .map_err(|_| LabError::new("namespaces", io::ErrorKind::UnexpectedEof.into()))?;
        let lab = Self { world, host, internet, far, dir: dir.to_owned() };
        lab.prepare_home()?;
        lab.connect()?;
        Ok(lab)
    }

    /// HOME and XDG_RUNTIME_DIR of the two identities.
    fn prepare_home(&self) -> Result<(), LabError> {
        for name in ["home", "run", "user-run"] {
            let path = self.dir.join(name);
            let made = fs::create_dir(&path)
                .and_then(|()| fs::set_permissions(&path, fs::Permissions::from_mode(0o700)))
                .and_then(|()| match name {
                    "run" => Ok(()),
                    _ if !self.world.users_are_real() => Ok(()),
                    _ => std::os::unix::fs::chown(&path, Some(USER.1), Some(USER.1)),
                });
            made.map_err(|e| LabError::new(&format!("making {}", path.display()), e))?;
        }
        Ok(())
    }

    fn connect(&self) -> Result<(), LabError> {
        let gids = if self.world.ids() > 1 { "0 65535" } else { "0 0" };
        for place in [self.host(), self.internet(), self.far()] {
            place.links()?.set_up("lo", true)?;
            place.sysctl("net/ipv4/ping_group_range", gids)?;
            // The address is set by us and used at once.
            place.sysctl("net/ipv6/conf/default/accept_dad", "0")?;
            place.sysctl("net/ipv6/conf/default/accept_ra", "0")?;
        }
        for name in ["net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"] {
            self.internet().sysctl(name, "1")?;
        }
        // A test may cause more errors a second than a router would send.
        for name in ["net/ipv4/icmp_ratelimit", "net/ipv6/icmp/ratelimit"] {
            self.internet().sysctl(name, "0")?;
        }
        let (host, internet, far) = (self.host().links()?, self.internet().links()?, self.far().links()?);
        host.add_veth(("eth0", 11), ("host0", 21), &self.internet)?;
        internet.add_veth(("far0", 22), ("eth0", 31), &self.far)?;
        for (links, name, addresses) in [
            (&host, "eth0", ["198.51.100.1/24", "2001:db8:51::1/64"]),
            (&host, "lo", ["198.51.100.77/32", "2001:db8:51::77/128"]),
            (&internet, "host0", ["198.51.100.2/24", "2001:db8:51::2/64"]),
            (&internet, "lo", ["203.0.113.80/32", "2001:db8:203::80/128"]),
            (&internet, "far0", ["192.0.2.1/24", "2001:db8:fa::1/64"]),
            (&far, "eth0", ["192.0.2.2/24", "2001:db8:fa::2/64"]),
        ] {
            for address in addresses {
                links.add_address(name, v(address)?)?;
            }
            links.set_up(name, true)?;
        }
        for (links, router) in [
            (&host, [IpAddr::from(addr::ROUTER_V4), addr::ROUTER_V6.into()]),
            (&far, [v("192.0.2.1/32")?.addr(), v("2001:db8:fa::1/128")?.addr()]),
        ] {
            links.add_route(v("0.0.0.0/0")?, Via::Gateway(router[0]))?;
            links.add_route(v("::/0")?, Via::Gateway(router[1]))?;
        }
        internet.add_route(net(addr::HOST_OTHER_V4, 32)?, Via::Gateway(addr::HOST_V4.into()))?;
        internet.add_route(net(addr::HOST_OTHER_V6, 128)?, Via::Gateway(addr::HOST_V6.into()))?;
        for (v4, v6, via) in [
            (addr::SILENT_V4, addr::SILENT_V6, Via::Nowhere),
            (addr::UNREACHABLE_V4, addr::UNREACHABLE_V6, Via::Unreachable),
            (addr::PROHIBITED_V4, addr::PROHIBITED_V6, Via::Prohibited),
        ] {
            internet.add_route(net(v4, 32)?, via)?;
            internet.add_route(net(v6, 128)?, via)?;
        }
        Ok(())
    }

    fn place<'a>(&'a self, net: &'a NetNs) -> Place<'a> {
        Place { world: &self.world, net, dir: &self.dir }
    }

    /// Where the program under test runs.
    pub fn host(&self) -> Place<'_> {
        self.place(&self.host)
    }

    /// The server and router.
    pub fn internet(&self) -> Place<'_> {
        self.place(&self.internet)
    }

    /// Behind the router.
    pub fn far(&self) -> Place<'_> {
        self.place(&self.far)
    }

    /// The lab's directory for files of the test; everyone may read it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where a program given to [`Self::with_binds`] under `name` is seen inside.
    pub fn bin(&self, name: &str) -> PathBuf {
        self.dir.join("bin").join(name)
    }

    /// Replaces the text of /etc/resolv.conf, in place, for everyone inside.
    pub fn set_resolv_conf(&self, text: &str) -> Result<(), LabError> {
        fs::write(self.dir.join("resolv.conf"), text).map_err(|e| LabError::new("writing resolv.conf", e))
    }

    /// How many ids the lab's user namespace has: 1, or 65536.
    pub fn ids(&self) -> u32 {
        self.world.ids()
    }

    /// Whether [`USER`] is really another user of the machine with sub-ids of its own (the lab was made by root), and not
    /// a one-id namespace.
    pub fn users_are_real(&self) -> bool {
        self.world.users_are_real()
    }
}

impl<'a> Place<'a> {
    fn enter(&self, program: &str, who: Identity) -> Result<Command, LabError> {
        let mut command = Command::new(program);
        let run = if who == Identity::WorldRoot { "run" } else { "user-run" };
        command.env("HOME", self.dir.join("home")).env("XDG_RUNTIME_DIR", self.dir.join(run));
        // Settings of whoever runs us are none of a lab's business.
        let vars = std::env::vars_os().map(|(name, _)| name);
        for name in vars.filter(|name| name.as_encoded_bytes().starts_with(b"RINGTAP_")) {
            command.env_remove(name);
        }
        command.env_remove("XDG_CONFIG_HOME");
        self.world
            .enter(self.net, who, &mut command)
            .map_err(|e| LabError::new(&format!("preparing {program}"), e))?;
        Ok(command)
    }

    /// A command that will run here as root of the lab, with every capability over it.
    pub fn command(&self, program: &str) -> Result<Command, LabError> {
        self.enter(program, Identity::WorldRoot)
    }

    /// A command that will run here as an ordinary user ([`USER`]) without any capability.
    pub fn command_as_user(&self, program: &str) -> Result<Command, LabError> {
        self.enter(program, Identity::User(USER.1))
    }

    /// Starts `command`, which [`Self::command`] made; it ends when the returned value is dropped.
    pub fn spawn(&self, command: &mut Command) -> Result<Running, LabError> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.spawn().map(Running).map_err(|e| LabError::new(&format!("starting {name}"), e))
    }

    /// Links, addresses and routes here.
    pub fn links(&self) -> Result<Links, LabError> {
        Links::open(self.world, self.net)
    }

    /// Writes a sysctl of this place, as in `net/ipv4/ip_forward`.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<(), LabError> {
        self.world.sysctl(self.net, name, value).map_err(|e| LabError::new("sysctl", e))
    }

    /// A tap without offloads here, non-blocking.
    pub fn tap(&self, name: &str) -> Result<OwnedFd, LabError> {
        self.world.tap(self.net, name).map_err(|e| LabError::new("tap", e))
    }

    /// A packet socket here that sends whole frames by the interface `name`.
    pub fn packet_socket(&self, name: &str) -> Result<OwnedFd, LabError> {
        self.world.packet_socket(self.net, name).map_err(|e| LabError::new("packet socket", e))
    }

    /// An unconnected TCP socket of this place, of the family of `address`.
    pub fn tcp_socket(&self, address: impl Into<SocketAddr>) -> Result<Socket, LabError> {
        self.socket(address.into(), libc::SOCK_STREAM, 0)
    }

    /// An unbound UDP socket of this place, of the family of `address`.
    pub fn unbound_udp_socket(&self, address: impl Into<SocketAddr>) -> Result<Socket, LabError> {
        self.socket(address.into(), libc::SOCK_DGRAM, 0)
    }

    fn socket(&self, address: SocketAddr, kind: i32, protocol: i32) -> Result<Socket, LabError> {
        let domain = if address.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
        let fd = self.world.socket(self.net, domain, kind, protocol);
        Ok(fd.map_err(|e| LabError::new("socket", e))?.into())
    }

    /// A TCP listener that belongs to this place; IPv6 ones take no IPv4.
    pub fn tcp_listener(&self, address: impl Into<SocketAddr>) -> Result<TcpListener, LabError> {
        let address = address.into();
        let socket = self.socket(address, libc::SOCK_STREAM, 0)?;
        prepare(&socket, address)
            .and_then(|()| socket.bind(&SockAddr::from(address)))
            .and_then(|()| socket.listen(4096))
            .map_err(|e| LabError::new(&format!("listening on {address}"), e))?;
        Ok(socket.into())
    }

    /// A TCP connection from this place.
    pub fn tcp_connect(&self, address: impl Into<SocketAddr>) -> Result<TcpStream, LabError> {
        let address = address.into();
        let socket = self.socket(address, libc::SOCK_STREAM, 0)?;
        socket
            .connect(&SockAddr::from(address))
            .map_err(|e| LabError::new(&format!("connecting to {address}"), e))?;
        Ok(socket.into())
    }

    /// As [`Self::tcp_connect`], giving up after `patience`; the error is the system's own.
    pub fn tcp_connect_within(
        &self,
        address: impl Into<SocketAddr>,
        patience: Duration,
    ) -> io::Result<TcpStream> {
        let address = address.into();
        let socket = self.socket(address, libc::SOCK_STREAM, 0).map_err(|e| e.source)?;
        socket.connect_timeout(&SockAddr::from(address), patience)?;
        Ok(socket.into())
    }

    /// A UDP socket that belongs to this place, with large buffers.
    pub fn udp_socket(&self, address: impl Into<SocketAddr>) -> Result<UdpSocket, LabError> {
        let address = address.into();
        let socket = self.socket(address, libc::SOCK_DGRAM, 0)?;
        prepare(&socket, address)
            .and_then(|()| socket.set_recv_buffer_size(4 << 20))
            .and_then(|()| socket.set_send_buffer_size(4 << 20))
            .and_then(|()| socket.bind(&SockAddr::from(address)))
            .map_err(|e| LabError::new(&format!("binding {address}"), e))?;
        Ok(socket.into())
    }
}

fn prepare(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    if address.is_ipv6() { socket.set_only_v6(true) } else { Ok(()) }
}

fn scratch() -> io::Result<PathBuf> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("ringtap-lab-{}-{n}", std::process::id()));
        match fs::create_dir(&dir) {
            // An earlier process of this id died without cleaning up.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => continue,
            Err(e) => return Err(e),
            Ok(()) => {
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o755))?;
                fs::create_dir(dir.join("bin"))?;
                fs::set_permissions(dir.join("bin"), fs::Permissions::from_mode(0o755))?;
                return Ok(dir);
            }
        }
    }
}
