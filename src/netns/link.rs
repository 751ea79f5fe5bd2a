//! The guest's network, configured from inside its namespace: loopback up, addresses and routes on the tap.
//!
//! Addresses are those of [`Network`]: N+100 with a default route through N+2, and for IPv6 P::100 with a default
//! route through fe80::2. Both IPv6 parts are set by hand and router advertisements are not listened to, because a
//! guest that turns forwarding on, as Docker does, loses what came by advertisement. Settings that only make things
//! quicker or quieter are tried and not insisted on: /proc/sys may be read-only in a container.

use super::netlink::Netlink;
use crate::config::Network;
use crate::config::network::MTU_MIN_V6;
use std::fs;
use std::io;
use std::net::IpAddr;

/// Frames that may wait in the tap until we read them. The kernel gives a tap 500, which a program with a few thousand
/// connections overflows when it is killed, and a reset is never sent again. A queue that is full of plain datagrams is
/// read within about ten milliseconds; that of super-frames would be 128 MiB.
const TAP_QUEUE: u32 = 2048;

/// Why the network could not be configured.
#[derive(Debug, thiserror::Error)]
#[error("cannot configure the network inside ({what}): {source}; {remedy}")]
pub struct LinkError {
    what: String,
    source: io::Error,
    remedy: &'static str,
}

fn error(what: impl Into<String>, source: io::Error) -> LinkError {
    let remedy = match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => "a security module confines the namespace; look for its denials",
        Some(libc::EADDRINUSE | libc::EEXIST) => {
            "another interface there has these addresses; try --cidr, --cidr6"
        }
        _ => "check that the kernel has IPv4 and that --cidr, --cidr6, --mtu and --ifname make sense",
    };
    LinkError { what: what.into(), source, remedy }
}

/// Takes `lo` up. A namespace where it is up already stays as it is.
///
/// # Errors
/// [`LinkError`] with what the kernel said.
pub fn loopback_up() -> Result<(), LinkError> {
    let mut netlink = Netlink::open().map_err(|e| error("netlink", e))?;
    let index = index_of("lo")?;
    netlink.link_up(index, None).map_err(|e| error("lo up", e))
}

/// Gives `lo` an address beside its own.
///
/// # Errors
/// [`LinkError`] with what the kernel said.
pub fn loopback_address(address: IpAddr) -> Result<(), LinkError> {
    let mut netlink = Netlink::open().map_err(|e| error("netlink", e))?;
    let length = if address.is_ipv4() { 32 } else { 128 };
    netlink
        .add_address(index_of("lo")?, address, length)
        .map_err(|e| error(format!("address {address} of lo"), e))
}

/// Configures the tap `network.ifname`. Returns a warning if the network works but without IPv6.
///
/// # Errors
/// [`LinkError`] with the step that failed.
pub fn configure_tap(network: &Network) -> Result<Option<String>, LinkError> {
    let name = &network.ifname;
    let index = index_of(name)?;
    let v6 = network.guest_v6().filter(|_| network.mtu >= MTU_MIN_V6);
    // Before the link goes up: no waiting for duplicate addresses on a link with two ends, no advertisements.
    let v6_settings: &[(&str, &str)] = match v6 {
        Some(_) => &[("disable_ipv6", "0"), ("accept_dad", "0"), ("accept_ra", "0")],
        None => &[("disable_ipv6", "1")],
    };
    for (setting, value) in v6_settings {
        let _ = fs::write(format!("/proc/sys/net/ipv6/conf/{name}/{setting}"), value);
    }
    let mut netlink = Netlink::open().map_err(|e| error("netlink", e))?;
    if let Some(mac) = network.mac {
        netlink.set_mac(index, mac).map_err(|e| error(format!("hardware address of {name}"), e))?;
    }
    // Without it the kernel's own will do.
    let _ = netlink.set_queue(index, TAP_QUEUE);
    netlink.link_up(index, Some(network.mtu)).map_err(|e| error(format!("{name} up"), e))?;
    let guest = IpAddr::V4(network.guest_v4());
    netlink
        .add_address(index, guest, network.v4.prefix_len())
        .map_err(|e| error(format!("address {guest}"), e))?;
    let gateway = IpAddr::V4(network.gateway_v4());
    netlink.add_default_route(index, gateway).map_err(|e| error(format!("route via {gateway}"), e))?;
    let subnet = IpAddr::V4(network.v4.network());
    let _ = netlink.tune_subnet_route(index, guest, subnet, network.v4.prefix_len());
    let (Some(guest), Some(prefix)) = (v6, network.v6) else { return Ok(None) };
    let outcome = netlink
        .add_address(index, IpAddr::V6(guest), prefix.prefix_len())
        .and_then(|()| netlink.add_default_route(index, IpAddr::V6(Network::router_link_local())));
    let subnet = IpAddr::V6(prefix.network());
    let _ = netlink.tune_subnet_route(index, IpAddr::V6(guest), subnet, prefix.prefix_len());
    Ok(outcome.err().map(|e| format!("no IPv6 inside: {e}; the kernel has it off (--no-ipv6 silences this)")))
}

/// Lets every group of the namespace open ping sockets, so that `ping` works without a capability. `gid_map` is the
/// text of the namespace's own map: the kernel wants two groups that exist, in the order of its own numbers.
pub fn allow_ping(gid_map: &str) {
    if let Some((low, high)) = ping_range(gid_map) {
        let _ = fs::write("/proc/sys/net/ipv4/ping_group_range", format!("{low} {high}"));
    }
}

/// The groups inside whose kernel numbers are the lowest and the highest.
fn ping_range(gid_map: &str) -> Option<(u32, u32)> {
    let map = super::idmap::parse_map(gid_map);
    let low = map.iter().min_by_key(|e| e.outside)?.inside;
    let last = map.iter().max_by_key(|e| e.outside)?;
    // The value 4294967295 is "no group"; a full map ends one before it.
    let high = last.inside.saturating_add(last.count.saturating_sub(1)).min(i32::MAX as u32);
    // Where the order inside is another than outside, the own group alone is what both orders agree on.
    Some(if low <= high { (low, high) } else { (0, 0) })
}

fn index_of(name: &str) -> Result<u32, LinkError> {
    nix::net::if_::if_nametoindex(name).map_err(|e| error(format!("interface {name}"), e.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ping_range_follows_the_kernel_order_of_groups() {
        assert_eq!(ping_range("0 1001 1\n1 100000 65536\n"), Some((0, 65536)));
        assert_eq!(ping_range("0 0 4294967295\n"), Some((0, 2_147_483_647)));
        assert_eq!(ping_range("0 1001 1\n"), Some((0, 0)));
        // Subordinate ids below the own one.
        assert_eq!(ping_range("0 200000 1\n1 100000 10\n"), Some((0, 0)));
        assert_eq!(ping_range(""), None);
    }
}
