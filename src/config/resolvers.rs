//! The host's resolvers, as `resolv.conf(5)` names them.
//!
//! Lines that are not understood are passed over, as the C library does. No `nameserver` line at all means the local
//! host, 127.0.0.1 and ::1 (resolv.conf(5)). Limits: the first three servers count (`MAXNS`), as for the C library.

use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};

/// `MAXNS` of the C library.
pub const MAX_SERVERS: usize = 3;

/// Where to send DNS, and what the guest's own resolv.conf should keep.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resolvers {
    /// In order of preference; port 53 unless given otherwise.
    pub servers: Vec<SocketAddr>,
    /// The `search` (or `domain`) list.
    pub search: Vec<String>,
    /// The `options` words.
    pub options: Vec<String>,
}

impl Resolvers {
    /// Reads the text of a resolv.conf. `scope` turns an interface name after `%` into its index.
    pub fn parse(text: &str, scope: impl Fn(&str) -> Option<u32>) -> Self {
        let mut r = Self::default();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    if let Some(addr) = words.next().and_then(|w| parse_server(w, &scope))
                        && r.servers.len() < MAX_SERVERS
                    {
                        r.servers.push(addr);
                    }
                }
                // The last of `domain` and `search` wins, as for the C library.
                Some("search" | "domain") => r.search = words.map(str::to_owned).collect(),
                Some("options") => r.options.extend(words.map(str::to_owned)),
                _ => {}
            }
        }
        if r.servers.is_empty() {
            r.servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, 53)));
            r.servers.push(SocketAddr::from((Ipv6Addr::LOCALHOST, 53)));
        }
        r
    }
}

/// A resolver that a person names: `ADDR`, `ADDR:PORT` or `[ADDR]:PORT`.
///
/// # Errors
/// What is wrong, and what to give instead.
pub fn named(text: &str) -> Result<SocketAddr, String> {
    let addr = text.parse::<IpAddr>().map(|ip| SocketAddr::new(ip, 53)).or_else(|_| text.parse());
    let addr = addr.map_err(|_| format!("{text:?} is not an address; use ADDR, ADDR:PORT or [ADDR]:PORT"))?;
    match addr.ip().to_canonical() {
        ip if addr.port() == 0 || ip.is_unspecified() || ip.is_multicast() => {
            Err(format!("{text:?} is no place where a resolver could be; give its address"))
        }
        // As the kernel shows the source of the answers.
        ip @ IpAddr::V4(_) => Ok(SocketAddr::new(ip, addr.port())),
        IpAddr::V6(_) => Ok(addr),
    }
}

fn parse_server(word: &str, scope: &impl Fn(&str) -> Option<u32>) -> Option<SocketAddr> {
    if let Ok(ip) = word.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, 53));
    }
    let (addr, ifname) = word.split_once('%')?;
    let scope_id = ifname.parse().ok().or_else(|| scope(ifname))?;
    Some(SocketAddr::V6(SocketAddrV6::new(addr.parse().ok()?, 53, 0, scope_id)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Resolvers {
        Resolvers::parse(text, |name| (name == "eth0").then_some(7))
    }

    #[test]
    fn reads_servers_search_and_options() {
        let r = parse(
            "# comment\nnameserver 198.51.100.2\nnameserver fe80::1%eth0 ; x\nnameserver nonsense\n\
             domain old.example\nsearch a.example b.example\noptions ndots:2\noptions edns0\n",
        );
        assert_eq!(r.servers[0], "198.51.100.2:53".parse().unwrap());
        assert_eq!(r.servers[1], SocketAddr::V6(SocketAddrV6::new("fe80::1".parse().unwrap(), 53, 0, 7)));
        assert_eq!(r.servers.len(), 2);
        assert_eq!(r.search, ["a.example", "b.example"]);
        assert_eq!(r.options, ["ndots:2", "edns0"]);
    }

    #[test]
    fn no_server_means_the_local_host_and_a_fourth_is_ignored() {
        assert_eq!(parse("search x\n").servers.len(), 2);
        assert!(parse("").servers.iter().all(|s| s.ip().is_loopback()));
        assert_eq!(parse(&"nameserver 192.0.2.1\n".repeat(5)).servers.len(), MAX_SERVERS);
    }
}
