//! The way that a client of a published port would take, where none is connected.

use super::words::proxies;
use super::world::{World, net, who};
use super::{Explained, Hop};
use crate::control::api::views::PortView;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

/// What waits at a port.
pub fn waiting(world: &World, port: &PortView, number: u16) -> Explained {
    let udp = port.protocol == "udp";
    let title = format!(
        "port {number} ({}, by {}): nobody is connected; a client would go this way",
        port.spec, port.via
    );
    let at = SocketAddr::new(port.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), number);
    let listener = world.host_net.and_then(|n| world.listener(n, udp, at));
    let verb = if udp { "receives at" } else { "listens at" };
    let said = match &listener {
        Some(found) => format!("{} {verb} {}", who(found), found.socket.local),
        None => format!("nobody {verb} {at} that may be seen"),
    };
    let plane = world
        .instance
        .plane_pid
        .map_or_else(String::new, |pid| format!("; the data plane (pid {pid}) serves it"));
    let mut hops = vec![Hop::new(format!("host, {}", net(world.host_net)), [said + &plane])];
    let guest_port = port.guest_port + (number - port.host_port);
    let targets: Vec<SocketAddr> =
        targets(world, port).into_iter().map(|ip| SocketAddr::new(ip, guest_port)).collect();
    let tried: Vec<_> = targets.iter().map(ToString::to_string).collect();
    let how = match port.via.as_str() {
        "tap" => "packets on the tap, with the client's address, to",
        _ if udp => "a socket of the namespace for each client, bound to the client's address, that leads to",
        _ => "a socket of the namespace, bound to the client's address, that dials",
    };
    let mut says = vec![format!("{how} {}", tried.join(", then "))];
    if port.source_ip == "gateway" {
        says.push("the gateway's address is shown instead of the client's: source=gateway".to_owned());
    }
    says.extend(targets.iter().flat_map(|to| proxies(world, *to, udp)));
    hops.push(Hop::new(net(world.net), says));
    let found = targets.iter().find_map(|to| {
        let home = world.where_is(to.ip())?;
        Some((to, world.listener(home, udp, *to)?))
    });
    hops.push(match found {
        Some((to, found)) => Hop::new(
            format!("server {to}, {}", net(Some(found.net))),
            [format!("{} {verb} {}", who(&found), found.socket.local)],
        ),
        None => Hop::new("server", [format!("nobody {verb} {}: clients are refused", tried.join(" or "))]),
    });
    Explained { title, hops, detail: None }
}

/// Where a client is led to, in this order.
fn targets(world: &World, port: &PortView) -> Vec<IpAddr> {
    if let Some(ip) = port.guest_ip.filter(|ip| !ip.is_unspecified()) {
        return vec![ip];
    }
    let own = world.instance.network.iter().flat_map(|n| &n.addresses);
    let own = own.filter_map(|a| a.split('/').next()?.parse().ok());
    let loopback = (port.via != "tap").then_some(IpAddr::V4(Ipv4Addr::LOCALHOST));
    own.chain(loopback).collect()
}
