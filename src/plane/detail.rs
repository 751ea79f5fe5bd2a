//! What can be said of a single flow: its descriptors and pipes, and whom the server sees and why.

use super::queries;
use super::shard::Shard;
use crate::config::{Network, Published, SourceIp};
use crate::flow::{FlowId, Kind};
use crate::msg::detail::{Role, Showing, SocketDetail};
use crate::msg::{FlowDetail, FlowRecord};
use crate::nat::{self, Unanswerable};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Before the name of a relayed datagram client, whose numbers are a table's of their own.
pub(super) const RELAYED: &str = "relay-";

impl Shard {
    /// The flow of that name, as listings have it.
    pub(super) fn detail(&self, name: &str) -> Option<FlowDetail> {
        if let Some(name) = name.strip_prefix(RELAYED) {
            return self.relay_ports.datagram_detail(name.parse().ok()?, self.now);
        }
        let id: FlowId = name.parse().ok()?;
        if id.kind() == Kind::Relay {
            return self.relay_ports.stream_detail(id, self.now);
        }
        let info = self.stack.flow(id)?;
        let flow = queries::of_stack(&self.stack, &self.sockets, &self.tap_ports, &info, self.now);
        let listeners = flow.port.iter().flat_map(|port| self.tap_ports.listeners_of(*port));
        let mut sockets = listening(listeners, flow.local);
        if let Some(fd) = self.sockets.get(id).and_then(|socket| socket.fd().ok()) {
            let role = if flow.port.is_some() { Role::Client } else { Role::Host };
            sockets.push(socket(role, fd));
        }
        let port = flow.port.and_then(|port| self.tap_ports.published(port));
        let showing = port.and_then(|port| showing(self.stack.network(), port, &flow, None));
        let tap = Some(self.tap.fd.as_raw_fd());
        Some(FlowDetail { flow, sockets, pipes: Vec::new(), showing, tap })
    }
}

/// A socket of a flow.
pub(super) fn socket(role: Role, fd: BorrowedFd<'_>) -> SocketDetail {
    let (local, peer) = (queries::local(fd), queries::peer(fd));
    SocketDetail { role, fd: fd.as_raw_fd(), inode: inode(fd), local, peer }
}

/// The number of the file that a descriptor is for.
pub(super) fn inode(fd: BorrowedFd<'_>) -> Option<u64> {
    rustix::fs::fstat(fd).ok().map(|stat| stat.st_ino)
}

/// Of the listeners of a port, those by which a client got in who has used our address `local`.
pub(super) fn listening<'a>(
    listeners: impl Iterator<Item = BorrowedFd<'a>>,
    local: Option<SocketAddr>,
) -> Vec<SocketDetail> {
    let sockets = listeners.map(|fd| socket(Role::Listener, fd));
    let fits = |own: SocketAddr| {
        local.is_none_or(|used| {
            let any = own.ip().is_unspecified() && (own.is_ipv6() || used.is_ipv4());
            own.port() == used.port() && (own.ip() == used.ip() || any)
        })
    };
    let mut sockets: Vec<_> = sockets.filter(|s| s.local.is_some_and(fits)).collect();
    // Where one of the client's own family listens, it is that one which has accepted it.
    if let Some(used) = local
        && sockets.iter().any(|s| s.local.is_some_and(|own| own.is_ipv4() == used.is_ipv4()))
    {
        sockets.retain(|s| s.local.is_some_and(|own| own.is_ipv4() == used.is_ipv4()));
    }
    sockets
}

/// Whom the server sees. `as_client`: whether the relay has dialled as the client; `None` where no relay did.
pub(super) fn showing(
    network: &Network,
    port: &Published,
    flow: &FlowRecord,
    as_client: Option<bool>,
) -> Option<Showing> {
    let client = flow.host?.ip();
    if as_client == Some(true) {
        return Some(Showing::Client);
    }
    if port.source_ip == SourceIp::Gateway {
        return Some(Showing::Wished);
    }
    Some(match nat::unanswerable(network, client, flow.guest.ip()) {
        Some(Unanswerable::OtherFamily) => Showing::OtherFamily,
        Some(Unanswerable::Loopback) => Showing::Loopback,
        Some(Unanswerable::LinkLocal) => Showing::LinkLocal,
        Some(Unanswerable::Own) => Showing::Own,
        Some(Unanswerable::OnLink) => Showing::OnLink,
        Some(Unanswerable::Special) => Showing::Special,
        None if as_client.is_none() => Showing::Client,
        None => Showing::Taken,
    })
}
