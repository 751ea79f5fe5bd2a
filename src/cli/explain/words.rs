//! The way of a flow in words.

use super::world::{World, fd, net, who};
use super::{Explained, Hop};
use crate::cli::proc;
use crate::cli::table::{age, bytes};
use crate::msg::detail::{Role, Showing, SocketDetail};
use crate::msg::query::{Gear, Path, Protocol};
use crate::msg::{FlowDetail, FlowRecord};
use crate::netns::steer::{ANSWER, DIAL, TABLE};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// The way of a flow.
pub fn way(world: &World, detail: FlowDetail) -> Explained {
    let f = &detail.flow;
    let title = format!(
        "{}: {} by {}, {}, {} old; {} from the guest, {} to it",
        f.id,
        format!("{:?}", f.protocol).to_lowercase(),
        super::Row { flow: f.clone(), rate_up: None, rate_down: None }.way(),
        f.state,
        age(Duration::from_millis(f.age_ms)),
        bytes(f.bytes_up),
        bytes(f.bytes_down)
    );
    let hops = match f.path {
        Path::Tap => outwards(world, &detail),
        Path::Relay | Path::Injected => inwards(world, &detail),
    };
    Explained { title, hops, detail: Some(detail) }
}

fn end(end: Option<SocketAddr>) -> String {
    end.map_or_else(|| "?".to_owned(), |end| end.to_string())
}

fn of(detail: &FlowDetail, role: Role) -> impl Iterator<Item = &SocketDetail> {
    detail.sockets.iter().filter(move |s| s.role == role)
}

fn socket(s: &SocketDetail) -> String {
    fd(s.fd, "socket", s.inode)
}

fn plane(world: &World) -> String {
    world
        .instance
        .plane_pid
        .map_or_else(|| "the data plane".to_owned(), |pid| format!("the data plane (pid {pid})"))
}

/// From a client of a published port to a server inside.
fn inwards(world: &World, detail: &FlowDetail) -> Vec<Hop> {
    let f = &detail.flow;
    let udp = f.protocol == Protocol::Udp;
    let mut hops = vec![client(f, udp)];
    hops.push(listeners(world, detail, udp));
    let mut says = Vec::new();
    for s in of(detail, Role::Client) {
        says.push(format!(
            "the client's connection is {}: {} <- {}",
            socket(s),
            end(s.local.or(f.local)),
            end(s.peer.or(f.host))
        ));
    }
    if f.path == Path::Injected {
        let tap = detail.tap.map_or_else(String::new, |tap| format!(", {}", fd(tap, "/dev/net/tun", None)));
        says.push(format!(
            "the client's bytes become packets on the tap{tap}, from {} to {}",
            end(f.remote),
            f.guest
        ));
    } else {
        says.extend(moving(detail, udp));
        for s in of(detail, Role::Guest) {
            says.push(format!(
                "the server's connection is {}, a socket that belongs to {}: {} -> {}",
                socket(s),
                net(world.net),
                end(s.local),
                end(s.peer.or(Some(f.guest)))
            ));
        }
    }
    hops.push(Hop::new(plane(world), says));
    hops.push(namespace(world, detail, udp));
    hops.push(server(world, detail, udp));
    hops
}

fn client(f: &FlowRecord, udp: bool) -> Hop {
    let verb = if udp { "sends to" } else { "connected to" };
    Hop::new(format!("client {}", end(f.host)), [format!("{verb} {}", end(f.local))])
}

/// Who listens on the host.
fn listeners(world: &World, detail: &FlowDetail, udp: bool) -> Hop {
    let mut says = Vec::new();
    for s in of(detail, Role::Listener) {
        let verb = if udp { "receives at" } else { "listens at" };
        for holder in world.also_held_by(s.inode) {
            says.push(format!(
                "{} (pid {}) {verb} {}, fd {}",
                holder.name,
                holder.pid,
                end(s.local),
                holder.fd
            ));
        }
        let verb = if udp { "receives there" } else { "accepts there" };
        says.push(format!("{} {verb}, {}", plane(world), socket(s)));
    }
    if let Some(port) = detail.flow.port.and_then(|id| world.port_of(id)) {
        says.push(format!("published as {} (port {} of ringtap port ls)", port.spec, port.id));
    }
    Hop::new(format!("host, {}", net(world.host_net)), says)
}

/// How a relay moves the bytes.
fn moving(detail: &FlowDetail, udp: bool) -> Vec<String> {
    if udp {
        return vec![
            "datagrams are copied: received into buffers of the ring, sent from there, several at once"
                .to_owned(),
        ];
    }
    let mut says = Vec::new();
    let gears = detail.flow.gears.unwrap_or([Gear::Copy; 2]);
    for (to_server, gear) in [(true, gears[0]), (false, gears[1])] {
        let way = if to_server { "to the server" } else { "to the client" };
        let how = match gear {
            Gear::Copy => "copied: received into buffers of the ring and sent from there",
            Gear::SpliceSqe => "spliced through a pipe by submission queue entries",
            Gear::SpliceCall => "spliced through a pipe by splice(2)",
        };
        let mut line = format!("bytes {way} are {how}");
        let pipes: Vec<_> = detail.pipes.iter().filter(|p| p.to_server == to_server).collect();
        if gear != Gear::Copy && pipes.is_empty() {
            line += "; none is on loan while nothing moves";
        }
        says.push(line);
        for p in pipes {
            says.push(format!(
                "  the pipe is {} to {}, {} with {} in it",
                fd(p.write, "pipe", p.inode),
                fd(p.read, "pipe", p.inode),
                bytes(p.size.into()),
                bytes(p.bytes)
            ));
        }
    }
    says
}

/// What happens in the guest's network namespace.
fn namespace(world: &World, detail: &FlowDetail, udp: bool) -> Hop {
    let f = &detail.flow;
    let child = world.instance.child_pid.map_or_else(String::new, |pid| format!(" (of pid {pid})"));
    let mut says = Vec::new();
    if f.path == Path::Injected {
        let ifname = world.instance.network.as_ref().map_or("the tap", |n| n.ifname.as_str());
        says.push(format!("packets come in by {ifname}"));
    }
    let own = world.where_is(f.guest.ip()) == world.net;
    if own {
        says.push(format!("{} is an address of this namespace: nothing is forwarded", f.guest.ip()));
    } else if let (IpAddr::V4(to), Some(pid)) = (f.guest.ip(), world.net.and_then(|n| world.witness(n)))
        && let Some((ifname, hop)) = proc::route(pid, to)
    {
        let via = hop.map_or_else(|| "on-link".to_owned(), |hop| format!("via {hop}"));
        says.push(format!("its kernel forwards to {to} by {ifname}, {via}"));
    }
    says.extend(proxies(world, f.guest, udp));
    Hop::new(format!("{}{child}", net(world.net)), says)
}

/// Docker's proxies for a container, which have told where it is.
pub(super) fn proxies(world: &World, container: SocketAddr, udp: bool) -> Vec<String> {
    let line = |found: &super::world::Found| {
        format!(
            "{} listens at {} for clients inside; it told ringtap the container's address and is not on this way",
            who(found),
            found.socket.local
        )
    };
    world.proxies(udp, container).iter().map(line).collect()
}

/// Who serves, and whom it sees.
fn server(world: &World, detail: &FlowDetail, udp: bool) -> Hop {
    let f = &detail.flow;
    let seen = f.remote;
    let mut says = Vec::new();
    let connected = seen.and_then(|seen| world.connected(udp, f.guest, seen));
    let home = connected.as_ref().map(|c| c.net).or_else(|| world.where_is(f.guest.ip()));
    let local = connected.as_ref().map_or(f.guest, |c| c.socket.local);
    if let Some(found) = home.and_then(|n| world.listener(n, udp, local)) {
        let verb = if udp { "receives at" } else { "listens at" };
        says.push(format!("{} {verb} {}", who(&found), found.socket.local));
    }
    if let Some(found) = &connected {
        says.push(format!(
            "{} holds the connection: {} <- {}",
            who(found),
            found.socket.local,
            found.socket.peer
        ));
        if found.socket.local != f.guest {
            says.push(format!(
                "address translation inside has turned {} into {}",
                f.guest, found.socket.local
            ));
        }
    }
    says.push(sees(detail));
    Hop::new(format!("server {local}, {}", net(home)), says)
}

/// Whom the server sees, and why.
fn sees(detail: &FlowDetail) -> String {
    let f = &detail.flow;
    let seen = end(f.remote);
    let gateway = |why: &str| format!("it sees {seen}, the gateway, not the client {}: {why}", end(f.host));
    match detail.showing {
        Some(Showing::Client) if f.path == Path::Injected => {
            format!(
                "it sees {seen}, the client itself: its packets have the client's address, and answers leave by the tap"
            )
        }
        Some(Showing::Client) => format!(
            "it sees {seen}, the client itself: the socket is transparent and has mark {DIAL:#x}; answers get mark {ANSWER:#x}, \
             which a rule leads to table {TABLE:#x}, and so to that socket"
        ),
        Some(Showing::Wished) => gateway("the port was published with source=gateway"),
        Some(Showing::OtherFamily) => {
            gateway("the server is of the other IP family, in which the client has no address")
        }
        Some(Showing::Loopback) => {
            gateway("the client is on the host's loopback, an address that inside means the server itself")
        }
        Some(Showing::LinkLocal) => gateway("a link-local address means nothing on another link"),
        Some(Showing::Own) => gateway("the client has the same address as the server"),
        Some(Showing::OnLink) => {
            gateway("inside, the client's address is on the tap's network, where answers would look for it")
        }
        Some(Showing::Special) => gateway("no flow may have the client's address"),
        Some(Showing::Taken) => {
            gateway("another connection to this server has the client's address and port")
        }
        Some(Showing::Plain) => format!(
            "it sees {seen}, an address of its own namespace: answers to others could not be led back there (no nf_tables)"
        ),
        None => format!("it sees {seen}"),
    }
}

/// From the guest to wherever it likes.
fn outwards(world: &World, detail: &FlowDetail) -> Vec<Hop> {
    let f = &detail.flow;
    let udp = f.protocol != Protocol::Tcp;
    let mut says = Vec::new();
    let remote = f.remote.unwrap_or(f.guest);
    let near = world.connected(udp, f.guest, remote).or_else(|| {
        // A datagram socket need not be connected.
        let net = world.net.filter(|_| udp)?;
        world.listener(net, true, f.guest)
    });
    if let Some(found) = &near {
        says.push(format!("{} has {} -> {}", who(found), found.socket.local, end(f.remote)));
        if found.socket.local != f.guest && !found.socket.local.ip().is_unspecified() {
            says.push(format!("address translation inside shows it as {}", f.guest));
        }
    }
    let mut hops =
        vec![Hop::new(format!("guest {}, {}", f.guest, net(near.map_or(world.net, |n| Some(n.net)))), says)];
    let network = world.instance.network.as_ref();
    let ifname = network.map_or("the tap", |n| n.ifname.as_str());
    hops.push(Hop::new(net(world.net), [format!("packets leave by {ifname}, for {}", end(f.remote))]));
    let tap = detail.tap.map_or_else(String::new, |tap| format!(" by {}", fd(tap, "/dev/net/tun", None)));
    let mut says = vec![match f.protocol {
        Protocol::Tcp => format!(
            "reads them{tap}; the guest's connection ends here, and its bytes go on by a socket of the host"
        ),
        _ => format!("reads them{tap}; their payload goes on by a socket of the host"),
    }];
    says.extend(translated(world, f));
    for s in of(detail, Role::Host) {
        says.push(format!("that socket is {}: {} -> {}", socket(s), end(s.local), end(s.peer.or(f.host))));
    }
    hops.push(Hop::new(plane(world), says));
    let sees = match (f.local, f.host) {
        (Some(local), Some(_)) if !local.ip().is_unspecified() => {
            format!("it sees {local}: the host's own address")
        }
        (Some(local), _) => format!("it sees the host's address, port {}", local.port()),
        _ => "it sees the host's address".to_owned(),
    };
    hops.push(Hop::new(format!("remote {}, by {}", end(f.host), net(world.host_net)), [sees]));
    hops
}

/// Why the host's side goes elsewhere than the guest dialled.
fn translated(world: &World, f: &FlowRecord) -> Option<String> {
    let (remote, host) = (f.remote?, f.host?);
    let network = world.instance.network.as_ref()?;
    if f.protocol == Protocol::Dns || network.dns.contains(&remote.ip()) {
        return Some(format!(
            "{remote} is the address for names: {host} is the host's resolver that is asked"
        ));
    }
    let gateway = network.gateways.contains(&remote.ip());
    (gateway && remote != host).then(|| {
        let why = if network.host_loopback { "--allow-host-loopback" } else { "--expose-host" };
        format!("{remote} is the gateway, which stands for {host} of the host ({why})")
    })
}
