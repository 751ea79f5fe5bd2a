//! What is known of an instance, its namespaces and everybody's sockets, as of now.

use crate::cli::port::client::{Client, ClientError};
use crate::cli::proc::{self, Holder, Socket};
use crate::control::api::instance::InstanceView;
use crate::control::api::views::PortView;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

/// A snapshot.
#[derive(Debug)]
pub struct World {
    /// The instance.
    pub instance: InstanceView,
    ports: Vec<PortView>,
    /// The host's network namespace: that of the instance itself.
    pub host_net: Option<u64>,
    /// The network namespace that has the tap.
    pub net: Option<u64>,
    /// Processes by network namespace.
    by_network: BTreeMap<u64, Vec<u32>>,
}

/// A socket somewhere, and who holds it.
#[derive(Clone, Debug)]
pub struct Found {
    /// Its network namespace.
    pub net: u64,
    /// What it is.
    pub socket: Socket,
    /// Who has it open; none that we may see.
    pub holders: Vec<Holder>,
}

impl World {
    /// Of an instance.
    ///
    /// # Errors
    /// [`ClientError`].
    pub fn of(client: &Client) -> Result<Self, ClientError> {
        let instance: InstanceView = client.get("/ringtap/v1/instance")?;
        // An instance whose network is the host's has none of its own.
        let ports = client.get("/ringtap/v1/ports").unwrap_or_default();
        let net = instance.netns.as_ref().and_then(|path| proc::namespace_of(Path::new(path)));
        let host_net = proc::namespace(instance.pid, "net");
        let by_network = proc::by_network();
        Ok(Self { instance, ports, host_net, net, by_network })
    }

    /// The published port that has that port of the host.
    pub fn port(&self, number: u16, udp: Option<bool>) -> Option<&PortView> {
        let has = |port: &&PortView| {
            (port.host_port..=port.host_port.saturating_add(port.count - 1)).contains(&number)
        };
        let of = |port: &&PortView| udp.is_none_or(|udp| (port.protocol == "udp") == udp);
        self.ports.iter().find(|port| has(port) && of(port))
    }

    /// One by its id.
    pub fn port_of(&self, id: crate::config::PortId) -> Option<&PortView> {
        self.ports.iter().find(|port| port.id == id)
    }

    /// There is no such port.
    pub fn no_port(&self, number: u16) -> ClientError {
        let all: Vec<_> = self.ports.iter().map(|port| port.spec.as_str()).collect();
        let have = if all.is_empty() { "none".to_owned() } else { all.join(", ") };
        ClientError::Refused(format!("port {number} is not published; published are: {have}"))
    }

    /// The listeners of Docker's proxies for a container: they relay for clients inside only.
    pub fn proxies(&self, udp: bool, container: SocketAddr) -> Vec<Found> {
        let Some(net) = self.net else { return Vec::new() };
        let (ip, port) = (container.ip().to_string(), container.port().to_string());
        let is = |pid: &&u32| {
            let words = proc::arguments(**pid);
            let has = |name: &str, value: &str| words.windows(2).any(|w| w[0] == name && w[1] == value);
            has("-container-ip", &ip) && has("-container-port", &port)
        };
        let pids: Vec<u32> = self.processes(net).iter().filter(is).copied().collect();
        let of = |socket: Socket| Found { net, socket, holders: proc::holders(socket.inode, &pids) };
        let waiting = self.all(net, udp).into_iter().filter(|s| s.listens || udp && s.peer.port() == 0);
        waiting.map(of).filter(|found| !found.holders.is_empty()).collect()
    }

    fn processes(&self, net: u64) -> &[u32] {
        self.by_network.get(&net).map_or(&[], Vec::as_slice)
    }

    /// Any process of a network namespace, to read its files by.
    pub fn witness(&self, net: u64) -> Option<u32> {
        self.processes(net).first().copied()
    }

    /// The network namespaces that belong to the guest: that of the tap first, then all others but the host's.
    fn inside(&self) -> impl Iterator<Item = u64> {
        let others = self
            .by_network
            .keys()
            .copied()
            .filter(|net| Some(*net) != self.net && Some(*net) != self.host_net);
        self.net.into_iter().chain(others)
    }

    fn all(&self, net: u64, udp: bool) -> Vec<Socket> {
        self.witness(net).map(|pid| proc::sockets(pid, udp)).unwrap_or_default()
    }

    fn found(&self, net: u64, socket: Socket) -> Found {
        Found { net, socket, holders: proc::holders(socket.inode, self.processes(net)) }
    }

    /// Who listens in a network namespace at an address and port.
    pub fn listener(&self, net: u64, udp: bool, at: SocketAddr) -> Option<Found> {
        let fits = |own: SocketAddr| {
            // A socket of both families is shown as one of the unspecified IPv6 address.
            own.port() == at.port() && (own.ip() == at.ip() || own.ip().is_unspecified())
        };
        let all = self.all(net, udp).into_iter();
        let mut fitting: Vec<_> =
            all.filter(|s| (s.listens || udp && s.peer.port() == 0) && fits(s.local)).collect();
        // The most special one gets the client.
        fitting.sort_by_key(|s| (s.local.ip() != at.ip(), s.local.is_ipv4() != at.is_ipv4()));
        fitting.first().map(|s| self.found(net, *s))
    }

    /// The network namespace inside in which an address is.
    pub fn where_is(&self, ip: IpAddr) -> Option<u64> {
        if ip.is_loopback() {
            return self.net;
        }
        self.inside().find(|net| self.witness(*net).is_some_and(|pid| proc::has_address(pid, ip)))
    }

    /// The socket inside that is connected to `peer`: at the end `near` if there is one, else at any (address translation
    /// may have turned it elsewhere).
    pub fn connected(&self, udp: bool, near: SocketAddr, peer: SocketAddr) -> Option<Found> {
        let mut any = None;
        for net in self.inside() {
            for socket in self.all(net, udp).into_iter().filter(|s| s.peer == peer && !s.listens) {
                if socket.local == near {
                    return Some(self.found(net, socket));
                }
                any.get_or_insert((net, socket));
            }
        }
        any.map(|(net, socket)| self.found(net, socket))
    }

    /// Control's descriptors of a socket that the plane has: control keeps listeners.
    pub fn also_held_by(&self, inode: Option<u64>) -> Vec<Holder> {
        inode.map(|inode| proc::holders(inode, &[self.instance.pid])).unwrap_or_default()
    }
}

/// A descriptor of the plane, and what it is in the kernel's words.
pub fn fd(fd: i32, kind: &str, inode: Option<u64>) -> String {
    match inode {
        Some(inode) => format!("fd {fd} ({kind}:[{inode}])"),
        None => format!("fd {fd} ({kind})"),
    }
}

/// `net:[4026531840]`, as lsns and readlink show it.
pub fn net(number: Option<u64>) -> String {
    number.map_or_else(|| "a network namespace that may not be read".to_owned(), |n| format!("net:[{n}]"))
}

/// Who holds a socket: `httpd (pid 12) fd 3`.
pub fn who(found: &Found) -> String {
    match found.holders.first() {
        Some(h) => {
            let own = found.holders.iter().filter(|other| other.pid == h.pid);
            let fds: Vec<_> = own.map(|h| format!("fd {}", h.fd)).collect();
            format!("{} (pid {}) {} (socket:[{}])", h.name, h.pid, fds.join(", "), found.socket.inode)
        }
        None => format!("a process that may not be seen (socket:[{}])", found.socket.inode),
    }
}
