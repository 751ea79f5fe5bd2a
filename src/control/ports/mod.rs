//! The ports an instance publishes: who asked for what, and the sockets that listen for it.
//!
//! Theory of operation. [`Ports::add`] binds everything that a specification asks for ([`bind`]) before anything else
//! happens, then tells the plane: `Publish`, and the sockets in messages of as many descriptors as one takes. Either
//! all of it happens or nothing. The sockets stay here too, so that a port is never unbound while it is published, and
//! another plane can be given them: [`Ports::publish_all`]. A port whose clients are to be relayed is given to the plane
//! when it is known what the namespace can do ([`path`]); until then clients wait in the kernel's queue.
//! A range is one entry and costs one descriptor a port.
//! Nothing here waits, but for a plane that does not keep up with reading descriptors.
//!
//! Limits: the hard limit of open files. Ids count up from 1 and are never used again.

pub mod bind;
pub mod error;
pub mod limits;
pub mod path;

pub use error::{BindError, PortError};
pub use path::Inside;

use crate::config::port_spec::HostPorts;
use crate::config::{Dial, Network, PortId, PortOptions, PortSpec, Published, RootlessKitSpec, Via};
use crate::msg::{Channel, MAX_FDS, MsgError, ToPlane};
use nix::libc;
use socket2::SockRef;
use std::collections::BTreeMap;
use std::fmt;
use std::net::{Ipv4Addr, Shutdown, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the plane may take to read descriptors that are on their way.
const PATIENCE: Duration = Duration::from_secs(5);

/// How a port was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// In our own words.
    Spec(PortSpec),
    /// In RootlessKit's, to be shown again as they were.
    RootlessKit(RootlessKitSpec),
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spec(spec) => spec.fmt(f),
            Self::RootlessKit(spec) => spec.fmt(f),
        }
    }
}

/// A published port or range.
#[derive(Debug)]
pub struct Entry {
    /// What was asked for.
    pub asked: Asked,
    /// What it means: every choice made, so `host` says which ports it is.
    pub spec: PortSpec,
    /// The first port of the host.
    pub host_port: u16,
    /// We chose the port.
    pub picked: bool,
    /// What the plane knows, or will know.
    pub published: Published,
    /// Its path is decided, and the plane has it.
    given: bool,
    sockets: Vec<OwnedFd>,
}

/// All of them.
#[derive(Debug, Default)]
pub struct Ports {
    entries: BTreeMap<PortId, Entry>,
    last: u32,
    held: usize,
    defaults: PortOptions,
    network: Network,
    relay_only: bool,
    inside: Inside,
}

impl Ports {
    /// None yet, for the guest of `network`. `defaults` hold where a specification says nothing. `relay_only`: no packet
    /// reaches the guest, so that is what becomes of every port.
    pub fn new(network: Network, defaults: PortOptions, relay_only: bool) -> Self {
        Self { defaults, network, relay_only, ..Self::default() }
    }

    /// Binds what is asked for and gives it to the plane.
    ///
    /// # Errors
    /// [`PortError`]; nothing is bound or published then.
    pub fn add(&mut self, asked: Asked, plane: &Channel) -> Result<&Entry, PortError> {
        self.add_within(asked, plane, Duration::ZERO)
    }

    /// As [`Self::add`], for the ports of the start: whoever takes the place of an instance that was killed is to have its
    /// ports, though its kernel lets go of them a moment later.
    ///
    /// # Errors
    /// As those of [`Self::add`].
    pub fn add_at_start(&mut self, asked: Asked, plane: &Channel) -> Result<&Entry, PortError> {
        self.add_within(asked, plane, bind::LINGER)
    }

    fn add_within(&mut self, asked: Asked, plane: &Channel, patience: Duration) -> Result<&Entry, PortError> {
        let mut spec = match &asked {
            Asked::Spec(spec) => spec.clone(),
            Asked::RootlessKit(spec) => {
                let mut meant = spec.resolve(host_gateway)?;
                // What comes by the tap is for the guest's address and no other unless one is named.
                if self.defaults.via == Some(Via::Tap) && spec.child_ip.is_empty() {
                    meant.guest_ip = None;
                }
                meant
            }
        };
        if let Some(id) = self.conflict(&spec) {
            return Err(PortError::Conflict(id));
        }
        limits::make_room(self.held + usize::from(spec.count))?;
        let bind::Bound { first, sockets } = bind::bind_within(&spec, patience)?;
        let picked = spec.host != HostPorts::From(first);
        spec.host = HostPorts::From(first);
        spec.options = spec.options.or(self.defaults);
        let id = PortId(self.last + 1);
        let published = Published {
            id,
            udp: spec.udp,
            guest_ip: spec.guest_ip,
            guest_port: spec.guest_port,
            count: spec.count,
            source_ip: spec.options.source_ip.unwrap_or_default(),
            proxy_protocol: spec.options.proxy_protocol.filter(|_| !spec.udp),
            via: spec.options.via.unwrap_or_default(),
            dial: Dial::default(),
        };
        let mut entry = Entry { asked, spec, host_port: first, picked, published, given: false, sockets };
        // Whatever the plane has got of it, it must not see the number again.
        self.last = id.0;
        if let Err(e) = entry.decide(&self.network, self.relay_only, &self.inside, plane) {
            let _ = send(plane, &ToPlane::Unpublish { port: id, connections: true }, &[]);
            return Err(e.into());
        }
        self.held += entry.sockets.len();
        Ok(self.entries.entry(id).or_insert(entry))
    }

    /// Closes a port; `connections`: ends what came through it as well.
    ///
    /// # Errors
    /// [`PortError::Unknown`]; the plane could not be told.
    pub fn remove(&mut self, id: PortId, connections: bool, plane: &Channel) -> Result<(), PortError> {
        let entry = self.entries.remove(&id).ok_or_else(|| PortError::Unknown(id.to_string()))?;
        self.held -= entry.sockets.len();
        drop(entry);
        Ok(send(plane, &ToPlane::Unpublish { port: id, connections }, &[])?)
    }

    /// What was published to `from` inside goes to `to` from now on; open connections stay where they are. How many ports
    /// that was. The API shows them as they were asked for.
    ///
    /// # Errors
    /// Those of [`Channel::send`] other than its end.
    pub fn redirect(
        &mut self,
        udp: bool,
        from: SocketAddr,
        to: SocketAddr,
        plane: &Channel,
    ) -> Result<usize, MsgError> {
        let mut count = 0;
        for entry in self.entries.values_mut() {
            let p = &mut entry.published;
            if (p.udp, p.guest_ip, p.guest_port, p.count) != (udp, Some(from.ip()), from.port(), 1) {
                continue;
            }
            (p.guest_ip, p.guest_port) = (Some(to.ip()), to.port());
            (entry.spec.guest_ip, entry.spec.guest_port) = (p.guest_ip, p.guest_port);
            count += 1;
            if std::mem::take(&mut entry.given) {
                send(plane, &ToPlane::Unpublish { port: p.id, connections: false }, &[])?;
            }
            entry.decide(&self.network, self.relay_only, &self.inside, plane)?;
        }
        Ok(count)
    }

    /// Gives everything to a plane that knows of nothing.
    ///
    /// # Errors
    /// Those of [`Channel::send`] other than its end.
    pub fn publish_all(&self, plane: &Channel) -> Result<(), MsgError> {
        self.entries.values().filter(|entry| entry.given).try_for_each(|entry| entry.publish(plane))
    }

    /// Whether the namespace must be asked for what it can do: a port waits for it.
    pub fn wait_for_inside(&self) -> bool {
        self.inside == Inside::Unknown && self.entries.values().any(|entry| !entry.given)
    }

    /// It is known what the namespace can do, or something else than before: ports that waited are given to the plane,
    /// and those for which it means another path are given to it anew. True if one goes through the tap that was not
    /// asked to.
    ///
    /// # Errors
    /// Those of [`Channel::send`] other than its end.
    pub fn set_inside(&mut self, inside: Inside, plane: &Channel) -> Result<bool, MsgError> {
        self.inside = inside;
        let mut fell_back = false;
        for entry in self.entries.values_mut() {
            entry.decide(&self.network, self.relay_only, &self.inside, plane)?;
            fell_back |= entry.fell_back();
        }
        Ok(fell_back)
    }

    /// One of them.
    pub fn get(&self, id: PortId) -> Option<&Entry> {
        self.entries.get(&id)
    }

    /// In the order they were added.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// One that has a port of the same protocol, families and address. Other overlaps are for bind(2) to find.
    fn conflict(&self, new: &PortSpec) -> Option<PortId> {
        let HostPorts::From(first) = new.host else { return None };
        let last = first.saturating_add(new.count - 1);
        let same = |old: &Entry| {
            let old_last = old.host_port.saturating_add(old.spec.count - 1);
            (old.spec.udp, old.spec.families, old.spec.host_ip) == (new.udp, new.families, new.host_ip)
                && old.host_port <= last
                && first <= old_last
        };
        self.entries.values().find(|old| same(old)).map(|old| old.published.id)
    }
}

impl Entry {
    /// What it is, as one would type it.
    pub fn text(&self) -> String {
        PortSpec { options: PortOptions::default(), ..self.spec.clone() }.to_string()
    }

    /// It goes through the tap and was not asked to.
    pub fn fell_back(&self) -> bool {
        self.published.via == Via::Tap && self.spec.options.via != Some(Via::Tap)
    }

    /// Decides on its path, and gives it to the plane if that is another one than before.
    fn decide(
        &mut self,
        network: &Network,
        relay_only: bool,
        inside: &Inside,
        plane: &Channel,
    ) -> Result<(), MsgError> {
        let (via, dial) = match path::decide(&self.spec, network, inside) {
            None => return Ok(()),
            // Of datagrams as well: without any route their server could not even begin to answer a client's own address.
            Some((via, _)) if relay_only && (via == Via::Tap || self.spec.udp) => (Via::Relay, Dial::Plain),
            Some(decided) => decided,
        };
        if self.given && (via, dial) == (self.published.via, self.published.dial) {
            return Ok(());
        }
        if self.given {
            send(plane, &ToPlane::Unpublish { port: self.published.id, connections: false }, &[])?;
        }
        (self.published.via, self.published.dial, self.given) = (via, dial, true);
        self.publish(plane)
    }

    fn publish(&self, plane: &Channel) -> Result<(), MsgError> {
        send(plane, &ToPlane::Publish(self.published.clone()), &[])?;
        let port = self.published.id;
        let mut first = 0;
        for sockets in self.sockets.chunks(MAX_FDS) {
            let fds: Vec<BorrowedFd<'_>> = sockets.iter().map(AsFd::as_fd).collect();
            send(plane, &ToPlane::Listeners { port, first }, &fds)?;
            first = first.saturating_add(MAX_FDS as u16);
        }
        Ok(())
    }
}

impl Drop for Entry {
    /// Stops listening at once, whoever else holds the sockets: the plane closes its copies when it gets to it, and a ring
    /// that was killed lets go of them only some time after its process is gone.
    fn drop(&mut self) {
        if !self.published.udp {
            for socket in &self.sockets {
                // A listener has no other use; there is nothing to do about a failure.
                let _ = SockRef::from(socket).shutdown(Shutdown::Both);
            }
        }
    }
}

/// Sends, and takes the end of the plane for success: the next one is given everything. The kernel lets an ordinary
/// user have only so many descriptors on their way (`RLIMIT_NOFILE`, unix(7)); then the plane is waited for.
fn send(plane: &Channel, message: &ToPlane, fds: &[BorrowedFd<'_>]) -> Result<(), MsgError> {
    let start = Instant::now();
    loop {
        match plane.send(message, fds) {
            Err(MsgError::Closed) => return Ok(()),
            Err(MsgError::Io(e))
                if e.raw_os_error() == Some(libc::ETOOMANYREFS) && start.elapsed() < PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}

/// The host's first IPv4 address that is not loopback.
fn host_gateway() -> Option<Ipv4Addr> {
    let mut all = nix::ifaddrs::getifaddrs().ok()?;
    all.find_map(|i| i.address?.as_sockaddr_in().map(|a| a.ip()).filter(|ip| !ip.is_loopback()))
}

#[cfg(test)]
mod tests;
