//! What the guest may reach and what not: rules by network and ports, of which the closest one holds.
//!
//! `NET[:PORT[-PORT]]`, where NET is an address, a network (`192.0.2.0/24`, IPv6 in brackets if ports follow:
//! `[2001:db8::/32]:443`), or `all`. Of the rules that match a destination, the one with the longest prefix decides, among
//! those with the same the one with fewer ports, of these the last in the order: by default, allowed, denied. What no rule matches is allowed. So
//! `--deny all --allow 192.0.2.0/24:443` leaves one door, and `--allow 169.254.169.254` opens one that is closed by
//! default.
//!
//! A rule without ports is about everything, echo requests included; one with ports about TCP and UDP. An IPv6 address
//! that a translator or tunnel on the host would take for an IPv4 one must pass the rules of both.

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Most rules of one guest: each new destination is compared with all of them.
pub const RULES_MAX: usize = 256;

/// One rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rule {
    /// Closes rather than opens.
    pub deny: bool,
    /// Destinations; host bits clear.
    pub net: IpNet,
    /// First and last port; `None`: every port, and what has none.
    pub ports: Option<(u16, u16)>,
}

/// Not of that form.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum RuleError {
    /// No network.
    #[error(
        "{0:?} names no destinations; use ADDR, NET/LEN or all, and :PORT or :PORT-PORT behind it, as in 10.0.0.0/8:443 \
         or [fd00::/8]:80-90"
    )]
    Form(String),
    /// Host bits are set.
    #[error("{given} is not a network address; did you mean {meant}?")]
    HostBits {
        /// As typed.
        given: String,
        /// With the host bits cleared.
        meant: String,
    },
    /// More than [`RULES_MAX`].
    #[error("more than {RULES_MAX} rules; join networks that lie side by side")]
    TooMany,
}

impl Rule {
    /// Reads the text of one option; `all` gives two rules.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn parse(text: &str, deny: bool) -> Result<Vec<Self>, RuleError> {
        let form = || RuleError::Form(text.to_owned());
        let (net, ports) = split(text).ok_or_else(form)?;
        let ports = match ports {
            None => None,
            Some(ports) => {
                let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
                let both = (super::port_spec::port(first), super::port_spec::port(last));
                match both {
                    (Some(first), Some(last)) if first <= last => Some((first, last)),
                    _ => return Err(form()),
                }
            }
        };
        let nets = match net {
            "all" => vec![whole(Ipv4Addr::UNSPECIFIED.into()), whole(Ipv6Addr::UNSPECIFIED.into())],
            one => vec![one.parse().or_else(|_| one.parse::<IpAddr>().map(IpNet::from)).map_err(|_| form())?],
        };
        if let Some(net) = nets.iter().find(|net| net.trunc() != **net) {
            return Err(RuleError::HostBits { given: net.to_string(), meant: net.trunc().to_string() });
        }
        Ok(nets.into_iter().map(|net| Self { deny, net, ports }).collect())
    }

    /// The rules of a guest: those that hold by default, then what was asked for.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn all(allow: &[String], deny: &[String]) -> Result<Vec<Self>, RuleError> {
        let mut rules = Self::closed_by_default();
        rules.extend(Self::asked(allow, deny)?);
        if rules.len() > RULES_MAX { Err(RuleError::TooMany) } else { Ok(rules) }
    }

    /// The rules that were asked for and no others, for guests to whom nothing is closed by default.
    ///
    /// # Errors
    /// [`RuleError`].
    pub fn asked(allow: &[String], deny: &[String]) -> Result<Vec<Self>, RuleError> {
        let mut rules = Vec::new();
        for (texts, deny) in [(allow, false), (deny, true)] {
            for text in texts {
                rules.extend(Self::parse(text, deny)?);
            }
        }
        if rules.len() > RULES_MAX { Err(RuleError::TooMany) } else { Ok(rules) }
    }

    /// Link-local IPv4 addresses, and where clouds hand credentials to whoever asks from the machine itself: Amazon,
    /// Google, Azure, Oracle and others in 169.254/16, Amazon and Google by IPv6, Alibaba in the shared address space.
    /// (IPv6 link-local destinations are never open: `nat`.)
    pub fn closed_by_default() -> Vec<Self> {
        let v4 = |a, b, c, d, len| IpNet::new_assert(Ipv4Addr::new(a, b, c, d).into(), len);
        let v6 = |a, b| IpNet::new_assert(Ipv6Addr::new(a, b, 0, 0, 0, 0, 0, 0x254).into(), 128);
        [v4(169, 254, 0, 0, 16), v4(100, 100, 100, 200, 32), v6(0xfd00, 0xec2), v6(0xfd20, 0xce)]
            .map(|net| Self { deny: true, net, ports: None })
            .into()
    }

    fn matches(&self, ip: IpAddr, port: Option<u16>) -> bool {
        let ports = match (self.ports, port) {
            (None, _) => true,
            (Some((first, last)), Some(port)) => (first..=last).contains(&port),
            (Some(_), None) => false,
        };
        ports && self.net.contains(&ip)
    }

    /// How close it is: the larger the closer.
    fn closeness(&self) -> (u8, u16) {
        let ports = self.ports.map_or(u16::MAX, |(first, last)| last - first);
        (self.net.prefix_len(), u16::MAX - ports)
    }
}

/// Whether the closest of `rules` lets the guest reach `ip`; `port` is `None` for what has no ports.
pub fn admits(rules: &[Rule], ip: IpAddr, port: Option<u16>) -> bool {
    let matching = rules.iter().filter(|rule| rule.matches(ip, port));
    // Of those equally close the last one, as `Rule::all` has put them: by default, asked to open, asked to close.
    matching.max_by_key(|rule| rule.closeness()).is_none_or(|rule| !rule.deny)
}

/// Network and ports apart.
fn split(text: &str) -> Option<(&str, Option<&str>)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (net, rest) = rest.split_once(']')?;
        return match rest {
            "" => Some((net, None)),
            rest => Some((net, Some(rest.strip_prefix(':')?))),
        };
    }
    match text.split_once(':') {
        // A second colon: IPv6 without brackets, so without ports.
        Some((_, rest)) if rest.contains(':') => Some((text, None)),
        Some((net, ports)) => Some((net, Some(ports))),
        None => Some((text, None)),
    }
}

fn whole(ip: IpAddr) -> IpNet {
    IpNet::new_assert(ip, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], deny: &[&str]) -> Vec<Rule> {
        let own = |texts: &[&str]| texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>();
        Rule::all(&own(allow), &own(deny)).unwrap()
    }

    fn open(rules: &[Rule], to: &str, port: u16) -> bool {
        admits(rules, to.parse().unwrap(), (port > 0).then_some(port))
    }

    #[test]
    fn metadata_and_link_local_are_closed_and_the_rest_is_open() {
        let by_default = rules(&[], &[]);
        for to in ["169.254.169.254", "169.254.0.1", "100.100.100.200", "fd00:ec2::254", "fd20:ce::254"] {
            assert!(!open(&by_default, to, 80) && !open(&by_default, to, 0), "{to}");
        }
        for to in ["192.0.2.1", "169.253.1.1", "100.100.100.201", "fd00:ec2::253", "2001:db8::1"] {
            assert!(open(&by_default, to, 80) && open(&by_default, to, 0), "{to}");
        }
    }

    #[test]
    fn what_is_closed_by_default_opens_when_asked_for() {
        for (allow, others) in
            [("169.254.169.254", false), ("169.254.0.0/16", true), ("169.254.169.254:80", false)]
        {
            let some = rules(&[allow], &[]);
            assert!(open(&some, "169.254.169.254", 80), "{allow}");
            assert_eq!(open(&some, "169.254.7.7", 80), others, "{allow}");
        }
        let one_port = rules(&["169.254.169.254:80"], &[]);
        assert!(!open(&one_port, "169.254.169.254", 81) && !open(&one_port, "169.254.169.254", 0));
        // Everything in general is not this in particular.
        assert!(!open(&rules(&["all"], &[]), "169.254.169.254", 80));
    }

    #[test]
    fn the_closest_rule_decides() {
        let one_door = rules(&["192.0.2.0/24:443", "[2001:db8::/32]:443"], &["all", "192.0.2.9"]);
        assert!(open(&one_door, "192.0.2.1", 443) && open(&one_door, "2001:db8::1", 443));
        for (to, port) in [
            ("192.0.2.1", 442),
            ("192.0.2.1", 0),
            ("192.0.2.9", 443),
            ("192.0.3.1", 443),
            ("2001:db9::1", 443),
        ] {
            assert!(!open(&one_door, to, port), "{to} {port}");
        }
        // The same destinations twice: closed.
        assert!(!open(&rules(&["192.0.2.1"], &["192.0.2.1"]), "192.0.2.1", 80));
        // Fewer ports are closer, either way round.
        let ports = rules(&["192.0.2.1:80"], &["192.0.2.1:1-1024"]);
        assert!(open(&ports, "192.0.2.1", 80) && !open(&ports, "192.0.2.1", 81));
        assert!(open(&ports, "192.0.2.1", 1025) && open(&ports, "192.0.2.1", 0));
    }

    #[test]
    fn texts_are_checked() {
        assert_eq!(Rule::parse("all:25", true).unwrap().len(), 2);
        assert_eq!(Rule::parse("[fd00::1]", true).unwrap()[0].net.to_string(), "fd00::1/128");
        assert_eq!(Rule::parse("fd00::/8", true).unwrap()[0].ports, None);
        assert_eq!(Rule::parse("10.0.0.0/8:1-65535", false).unwrap()[0].ports, Some((1, 65535)));
        let message = Rule::parse("10.0.0.1/8", true).unwrap_err().to_string();
        assert_eq!(message, "10.0.0.1/8 is not a network address; did you mean 10.0.0.0/8?");
        for bad in [
            "",
            "any",
            "10.0.0.0/33",
            "10.0.0.0/8:",
            "10.0.0.0/8:0",
            "10.0.0.0/8:90-80",
            "10.0.0.0/8:1-2-3",
            "[fd00::/8",
            "[fd00::/8]80",
            "host.example:80",
            ":80",
            "10.0.0.0/8:65536",
            "10.0.0.0/8:http",
        ] {
            assert!(matches!(Rule::parse(bad, true), Err(RuleError::Form(_))), "{bad}");
        }
        let many: Vec<_> = (0..RULES_MAX).map(|n| format!("10.0.{n}.1")).collect();
        assert_eq!(Rule::all(&[], &many), Err(RuleError::TooMany));
    }
}
