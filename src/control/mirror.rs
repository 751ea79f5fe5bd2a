//! RootlessKit's implicit port driver: what listens inside is published at the same address and port of the host, without
//! anybody asking.
//!
//! Once a second the namespace's sockets are read from /proc (as pasta does it), and what has come or gone since is published
//! or removed. A listener at any address, or at the guest's own, is published at any address of the host; one at a loopback
//! address at that address, so that nobody gets further in than by the server's own choice. Others, a bridge's for instance,
//! are none of the host's business. What cannot be bound (taken by the host, privileged) is left out and tried again.
//!
//! Limits: [`MOST`] ports; a server is reachable up to a second after it listens. Datagram sockets at ports that the kernel
//! gives to clients ([`EPHEMERAL`]) are taken for clients.

use super::ports::{Asked, Ports};
use crate::config::port_spec::{Families, HostPorts};
use crate::config::{Network, PortId, PortOptions, PortSpec};
use crate::msg::Channel;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

/// How often the namespace is looked at.
pub const PERIOD: Duration = Duration::from_secs(1);
/// Most ports: each look compares all of them.
const MOST: usize = 4096;
/// From here on the kernel chooses ports for clients, as it comes (`net.ipv4.ip_local_port_range`).
const EPHEMERAL: u16 = 32768;
/// `TCP_LISTEN` and, for a datagram socket that is not connected, `TCP_CLOSE` (include/net/tcp_states.h).
const LISTENING: &str = "0A";
const UNCONNECTED: &str = "07";

/// A socket that clients may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Listener {
    udp: bool,
    ip: IpAddr,
    port: u16,
}

/// What is published because it listens.
#[derive(Debug)]
pub struct Mirror {
    /// Where the kernel lists the sockets of the namespace.
    tables: PathBuf,
    network: Network,
    published: BTreeMap<Listener, PortId>,
    /// Those that could not be, so that it is said once.
    refused: BTreeSet<Listener>,
}

impl Mirror {
    /// Of the network namespace of process `pid`.
    pub fn new(pid: i32, network: Network) -> Self {
        let tables = PathBuf::from(format!("/proc/{pid}/net"));
        Self { tables, network, published: BTreeMap::new(), refused: BTreeSet::new() }
    }

    /// Looks, and has published what listens now.
    pub fn look(&mut self, ports: &mut Ports, plane: &Channel) {
        let mut now = BTreeSet::new();
        for (table, udp) in [("tcp", false), ("tcp6", false), ("udp", true), ("udp6", true)] {
            let text = fs::read_to_string(self.tables.join(table)).unwrap_or_default();
            now.extend(listeners(&text, udp).filter(|listener| self.concerns_the_host(*listener)));
        }
        let gone: Vec<_> = self.published.keys().filter(|l| !now.contains(l)).copied().collect();
        for listener in gone {
            if let Some(id) = self.published.remove(&listener) {
                // Removed by hand: all the better.
                let _ = ports.remove(id, false, plane);
            }
        }
        self.refused.retain(|listener| now.contains(listener));
        for listener in &now {
            if self.published.contains_key(listener) || self.published.len() >= MOST {
                continue;
            }
            // One socket of both families has both clients, unless there is another one for those of IPv4.
            let other = Listener { ip: Ipv4Addr::UNSPECIFIED.into(), ..*listener };
            let spec = spec(*listener, now.contains(&other));
            match ports.add(Asked::Spec(spec), plane) {
                Ok(entry) => {
                    self.published.insert(*listener, entry.published.id);
                    self.refused.remove(listener);
                }
                Err(e) if self.refused.insert(*listener) => {
                    tracing::warn!("what listens inside is not published: {}", e.with_remedy());
                }
                Err(_) => {}
            }
        }
    }

    fn concerns_the_host(&self, listener: Listener) -> bool {
        let own = [Some(self.network.guest_v4().into()), self.network.guest_v6().map(IpAddr::V6)];
        let ip = listener.ip;
        let reachable = ip.is_unspecified() || ip.is_loopback() || own.contains(&Some(ip));
        reachable && !(listener.udp && listener.port >= EPHEMERAL)
    }
}

/// What it is published as.
fn spec(listener: Listener, v4_has_its_own: bool) -> PortSpec {
    let Listener { udp, ip, port } = listener;
    let families = match ip {
        IpAddr::V4(_) => Families::V4,
        IpAddr::V6(ip) if ip.is_unspecified() && !v4_has_its_own => Families::Any,
        IpAddr::V6(_) => Families::V6,
    };
    let named = Some(ip).filter(|ip| !ip.is_unspecified());
    PortSpec {
        udp,
        families,
        host_ip: match families {
            _ if ip.is_loopback() => named,
            Families::Any => None,
            Families::V4 => Some(Ipv4Addr::UNSPECIFIED.into()),
            Families::V6 => Some(Ipv6Addr::UNSPECIFIED.into()),
        },
        host: HostPorts::From(port),
        guest_ip: named,
        guest_port: port,
        count: 1,
        options: PortOptions::default(),
    }
}

/// The listeners of a table: `sl local_address rem_address st ..` (proc_pid_net_tcp(5)).
fn listeners(text: &str, udp: bool) -> impl Iterator<Item = Listener> {
    let wanted = if udp { UNCONNECTED } else { LISTENING };
    text.lines().skip(1).filter_map(move |line| {
        let mut words = line.split_whitespace().skip(1);
        let (local, _, state) = (words.next()?, words.next()?, words.next()?);
        let (ip, port) = local.split_once(':')?;
        let port = u16::from_str_radix(port, 16).ok().filter(|port| *port != 0)?;
        (state == wanted).then_some(Listener { udp, ip: address(ip)?, port })
    })
}

/// An address as the kernel writes it: words of 32 bits that it holds in network order and prints as numbers of its own.
fn address(hex: &str) -> Option<IpAddr> {
    let word = |n: usize| u32::from_str_radix(hex.get(n * 8..n * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (n, chunk) in bytes.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(n)?);
            }
            Some(Ipv6Addr::from(bytes).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a little-endian kernel writes them.
    const TCP: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n   \
         0: 00000000:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1\n   \
         1: 0100007F:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1\n   \
         2: 0100007F:0051 0100007F:9000 01 00000000:00000000 00:00000000 00000000     0        0 1\n";
    const TCP6: &str = "  sl  local_address rem_address   st\n   \
         0: 00000000000000000000000000000000:1F90 00000000000000000000000000000000:0000 0A\n   \
         1: 00000000000000000000000001000000:0050 00000000000000000000000000000000:0000 0A\n   \
         2: 0000000000000000FFFF00000100007F:0052 00000000000000000000000000000000:0000 0A\n";

    fn texts(table: &str, udp: bool) -> Vec<String> {
        listeners(table, udp).map(|l| format!("{} {}", l.ip, l.port)).collect()
    }

    #[cfg(target_endian = "little")]
    #[test]
    fn listeners_are_read_as_the_kernel_writes_them() {
        assert_eq!(texts(TCP, false), ["0.0.0.0 8080", "127.0.0.1 80"]);
        assert_eq!(texts(TCP6, false), [":: 8080", "::1 80", "127.0.0.1 82"]);
        assert!(
            texts(TCP, true).is_empty() && texts("", false).is_empty() && texts("x\ny z", false).is_empty()
        );
    }

    #[test]
    fn what_is_published_is_as_wide_as_the_listener() {
        let of = |ip: &str, other: bool| {
            spec(Listener { udp: false, ip: ip.parse().unwrap(), port: 80 }, other).to_string()
        };
        assert_eq!(of("0.0.0.0", true), "0.0.0.0:80:80/tcp");
        assert_eq!(of("::", false), "80:80/tcp");
        assert_eq!(of("::", true), "[::]:80:80/tcp");
        assert_eq!(of("127.0.0.1", false), "127.0.0.1:80:127.0.0.1:80/tcp");
        assert_eq!(of("::1", false), "[::1]:80:[::1]:80/tcp");
        assert_eq!(of("10.0.2.100", false), "0.0.0.0:80:10.0.2.100:80/tcp");
    }

    #[test]
    fn bridges_and_clients_are_not_the_hosts_business() {
        let mirror = Mirror::new(1, Network::default());
        let concerns =
            |udp, ip: &str, port| mirror.concerns_the_host(Listener { udp, ip: ip.parse().unwrap(), port });
        assert!(concerns(false, "0.0.0.0", 40000) && concerns(true, "::", 53));
        assert!(concerns(false, "127.0.0.2", 80) && concerns(false, "fd00::100", 80));
        assert!(!concerns(false, "172.17.0.1", 80) && !concerns(true, "0.0.0.0", 40000));
    }
}
