//! The options about the network that `run` and `attach` share.

use super::CliError;
use super::log::{FilterParser, LogFilter, LogFormat};
use crate::config::network::{MTU_DEFAULT, MTU_MIN_V6};
use crate::config::{
    Exposed, Limits, Network, OutboundAddr, Policy, PortOptions, Rule, SandboxMode, limits, resolvers,
};
use crate::control::Common;
use crate::control::api::Drivers;
use crate::netns::process::adopt_fd;
use clap::{Args, ValueEnum};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::RawFd;
use std::path::PathBuf;

/// What to do about the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum SandboxArg {
    /// Lock in as far as the kernel can
    On,
    /// Do not
    Off,
    /// Do not start unless it is whole (Landlock apart)
    Require,
}

/// Options about the network.
#[derive(Debug, Args)]
#[command(next_help_heading = "Network")]
pub struct NetworkArgs {
    /// IPv4 network inside: the gateway is .2, DNS .3, the guest .100
    #[arg(long, value_name = "NET/LEN", default_value = "10.0.2.0/24")]
    cidr: Ipv4Net,
    /// IPv6 prefix inside: the gateway is ::2, DNS ::3, the guest ::100 [default: fd00::/64]
    #[arg(long, value_name = "PREFIX/LEN", conflicts_with = "no_ipv6")]
    cidr6: Option<Ipv6Net>,
    /// No IPv6 inside
    #[arg(long)]
    no_ipv6: bool,
    /// MTU of the tap, 68 to 65521; below 1280 there is no IPv6
    #[arg(long, value_name = "BYTES", default_value_t = u32::from(MTU_DEFAULT))]
    mtu: u32,
    /// Resolver to use instead of the host's resolv.conf; may be given again
    #[arg(long, value_name = "ADDR[:PORT]")]
    dns: Vec<String>,
    /// The gateway's address stands for the host's loopback; =false where a setting says so
    #[arg(long, num_args = 0..=1, require_equals = true, value_name = "BOOL", default_value = "false", default_missing_value = "true")]
    allow_host_loopback: bool,
    /// A port of the host's loopback that the guest reaches at its gateway's address; may be given again
    #[arg(long, value_name = "PORT|HOSTPORT:GATEWAYPORT[/tcp|udp]")]
    expose_host: Vec<String>,
    /// Destinations that the guest may reach although a wider rule closes them; may be given again.
    ///
    /// RULE is ADDR, NET/LEN or all, and :PORT or :PORT-PORT behind it; IPv6 with ports in brackets. The closest rule holds:
    /// the longest prefix, then the fewest ports, then --deny. Closed by default: link-local addresses and cloud metadata
    /// (169.254.0.0/16, fd00:ec2::254, ..). The host's loopback has options of its own
    #[arg(long, value_name = "RULE")]
    allow: Vec<String>,
    /// Destinations that the guest may not reach, as for --allow; may be given again
    #[arg(long, value_name = "RULE")]
    deny: Vec<String>,
    /// A network behind the guest that packets may come from, besides the guest's own; may be given again.
    ///
    /// For bridges inside that do not translate addresses: packets from elsewhere are dropped
    #[arg(long, value_name = "NET/LEN|all")]
    allow_source: Vec<String>,
    /// Flows that the guest may have open
    #[arg(long, value_name = "N", default_value_t = Limits::default().flows)]
    max_flows: usize,
    /// Connections that may be under way to their servers; no more than a quarter of --max-flows
    #[arg(long, value_name = "N", default_value_t = Limits::default().half_open)]
    max_half_open: usize,
    /// Flows that the guest may open each second
    #[arg(long, value_name = "N", default_value_t = Limits::default().new_flows)]
    max_new_flows: u32,
    /// Buffers that the guest's connections may fill, from 2M; K, M and G are understood. All there are: 53M
    #[arg(long, value_name = "BYTES", default_value = "all")]
    max_buffered: String,
    /// Source of outgoing traffic: an address, or an interface that has one; once per family
    #[arg(long, value_name = "ADDR|IFNAME")]
    outbound_addr: Vec<String>,
    /// Write every frame of the tap to FILE, for wireshark or tcpdump
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// Whether the process that parses packets is locked in
    #[arg(long, value_enum, value_name = "MODE", default_value = "on")]
    sandbox: SandboxArg,
    /// Least level of messages on standard error, and of single parts: LEVEL,PART=LEVEL, as in warn,plane=debug
    #[arg(long, value_name = "LEVEL", value_parser = FilterParser, default_value = "warn")]
    log_level: LogFilter,
    /// How these messages look
    #[arg(long, value_enum, value_name = "FORMAT", default_value = "text")]
    log_format: LogFormat,
    /// Descriptor that gets one `1` when the network works
    #[arg(long, value_name = "FD")]
    ready_fd: Option<RawFd>,
}

impl NetworkArgs {
    /// Checks the options, opens what they name and starts the log. `ifname` names the tap.
    ///
    /// # Errors
    /// [`CliError::Option`] with what is wrong.
    pub fn into_common(self, ifname: &str) -> Result<Common, CliError> {
        // First of all: descriptors that we open could get the number of one that was never passed.
        let ready_fd = self.ready_fd.map(|fd| inherited("--ready-fd", fd)).transpose()?;
        let log_level = self.log_level.level();
        super::log::start(self.log_level.clone(), self.log_format);
        let network = self.network(ifname)?;
        let dns = self.dns.iter().map(|s| parse_dns(s)).collect::<Result<_, _>>()?;
        let pcap = match &self.pcap {
            Some(path) => Some(
                File::create(path)
                    .map_err(|e| format!("{}: {e}; name a file that can be written", path.display()))
                    .map_err(CliError::option("--pcap"))?,
            ),
            None => None,
        };
        let (ports, port_defaults) = (Vec::new(), PortOptions::default());
        let sandbox = match self.sandbox {
            SandboxArg::On => SandboxMode::On,
            SandboxArg::Off => SandboxMode::Off,
            SandboxArg::Require => SandboxMode::Require,
        };
        Ok(Common {
            network,
            dns,
            ports,
            port_defaults,
            relay_only: false,
            drivers: Drivers::default(),
            pcap,
            sandbox,
            log_level,
            ready_fd,
        })
    }

    fn network(&self, ifname: &str) -> Result<Network, CliError> {
        let defaults = Network::default();
        let mtu = Network::check_mtu(self.mtu).map_err(CliError::option("--mtu"))?;
        let v6 = match self.cidr6 {
            _ if self.no_ipv6 => None,
            Some(_) if mtu < MTU_MIN_V6 => {
                let cause = format!("IPv6 needs --mtu {MTU_MIN_V6} or more; leave one of the two out");
                return Err(CliError::Option { option: "--cidr6", cause });
            }
            None if mtu < MTU_MIN_V6 => None,
            Some(net) => Some(Network::check_v6(net).map_err(CliError::option("--cidr6"))?),
            None => defaults.v6,
        };
        Ok(Network {
            v4: Network::check_v4(self.cidr).map_err(CliError::option("--cidr"))?,
            v6,
            mtu,
            ifname: check_ifname(ifname)?,
            policy: Policy {
                allow_host_loopback: self.allow_host_loopback,
                exposed: exposed(&self.expose_host)?,
                rules: self.rules()?,
            },
            outbound: outbound(&self.outbound_addr)?,
            sources: sources(&self.allow_source)?,
            limits: self.limits()?,
            ..defaults
        })
    }

    fn limits(&self) -> Result<Limits, CliError> {
        let some = |option, n: u64| match n {
            0 => Err(CliError::Option {
                option,
                cause: "0 would leave the guest no network; use 1 or more".into(),
            }),
            _ => Ok(()),
        };
        some("--max-flows", self.max_flows as u64)?;
        some("--max-half-open", self.max_half_open as u64)?;
        some("--max-new-flows", self.max_new_flows.into())?;
        let buffered = limits::buffered(&self.max_buffered).map_err(CliError::option("--max-buffered"))?;
        Ok(Limits {
            flows: self.max_flows,
            half_open: self.max_half_open,
            new_flows: self.max_new_flows,
            buffered,
        })
    }

    fn rules(&self) -> Result<Vec<Rule>, CliError> {
        // Each by itself first, to name the option that is wrong.
        for (option, texts, deny) in [("--allow", &self.allow, false), ("--deny", &self.deny, true)] {
            texts
                .iter()
                .try_for_each(|t| Rule::parse(t, deny).map(drop))
                .map_err(CliError::option(option))?;
        }
        Rule::all(&self.allow, &self.deny).map_err(CliError::option("--deny"))
    }
}

/// Takes over a descriptor that the user passed by number.
///
/// # Errors
/// [`CliError::Option`].
pub fn inherited(option: &'static str, number: RawFd) -> Result<std::os::fd::OwnedFd, CliError> {
    adopt_fd(number)
        .map_err(|e| {
            format!(
                "{number}: {e}; pass a descriptor of 3 or more that is open, as in `{}>file`",
                number.max(3)
            )
        })
        .map_err(CliError::option(option))
}

/// Names of interfaces as the kernel takes them (`dev_valid_name`), less `%`, which would ask it to choose.
pub(super) fn check_ifname(name: &str) -> Result<String, CliError> {
    let good = (1..=15).contains(&name.len())
        && !matches!(name, "." | ".." | "lo")
        && name.bytes().all(|b| b.is_ascii_graphic() && !b"/:%".contains(&b));
    if good {
        return Ok(name.to_owned());
    }
    let cause =
        format!("{name:?} is no name for a tap; use 1 to 15 letters, digits, '-', '_' or '.', as in tap0");
    Err(CliError::Option { option: "IFNAME", cause })
}

/// The ports of `--expose-host`. One port of the gateway cannot stand for two of the host.
pub(super) fn exposed(given: &[String]) -> Result<Vec<Exposed>, CliError> {
    let mut all: Vec<Exposed> = Vec::with_capacity(given.len());
    for text in given {
        let new: Exposed = text.parse().map_err(CliError::option("--expose-host"))?;
        let twice = |old: &&Exposed| old.udp == new.udp && old.gateway_port == new.gateway_port;
        if let Some(old) = all.iter().find(twice) {
            let cause = format!("{text:?} is at the same port of the gateway as {old}; give it another one");
            return Err(CliError::Option { option: "--expose-host", cause });
        }
        all.push(new);
    }
    Ok(all)
}

/// The networks of `--allow-source`.
fn sources(given: &[String]) -> Result<Vec<IpNet>, CliError> {
    let mut all = Vec::with_capacity(given.len());
    for text in given {
        if text == "all" {
            all.extend(Network::any_source());
            continue;
        }
        let net = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        let cause = match net {
            Ok(net) if net.trunc() == net => {
                all.push(net);
                continue;
            }
            Ok(net) => format!("{net} is not a network address; did you mean {}?", net.trunc()),
            Err(_) => format!("{text:?} is no network; use NET/LEN, an address or all, as in 172.17.0.0/16"),
        };
        return Err(CliError::Option { option: "--allow-source", cause });
    }
    Ok(all)
}

fn parse_dns(text: &str) -> Result<SocketAddr, CliError> {
    resolvers::named(text).map_err(CliError::option("--dns"))
}

/// The sources of `--outbound-addr`.
pub(super) fn outbound(given: &[String]) -> Result<OutboundAddr, CliError> {
    let refused = CliError::option("--outbound-addr");
    let mut outbound = OutboundAddr::default();
    for text in given {
        let addresses = match text.parse::<IpAddr>() {
            Ok(address) => {
                let address = address.to_canonical();
                let had = outbound.for_dest(address);
                if let Some(had) = had.filter(|had| *had != address) {
                    return Err(refused(format!("{address} and {had} are of one family; give one of them")));
                }
                vec![ours(address).map_err(&refused)?]
            }
            Err(_) => addresses_of(text).map_err(&refused)?,
        };
        for address in addresses {
            match address {
                IpAddr::V4(a) => outbound.v4 = outbound.v4.or(Some(a)),
                IpAddr::V6(a) => outbound.v6 = outbound.v6.or(Some(a)),
            }
        }
    }
    Ok(outbound)
}

/// Checks that sockets can be bound to `address`, which every connection of the guest will have to.
fn ours(address: IpAddr) -> Result<IpAddr, String> {
    let remedy = "give one that `ip address` shows";
    if address.is_unspecified() || address.is_multicast() {
        return Err(format!("{address} is no address of a host; {remedy}"));
    }
    match std::net::UdpSocket::bind((address, 0)) {
        Ok(_) => Ok(address),
        Err(e) => Err(format!("{address}: {e}; {remedy}")),
    }
}

/// The addresses of an interface that reach further than its link.
pub(super) fn addresses_of(ifname: &str) -> Result<Vec<IpAddr>, String> {
    let all = nix::ifaddrs::getifaddrs().map_err(|e| e.to_string())?;
    let addresses: Vec<IpAddr> = all
        .filter(|i| i.interface_name == ifname)
        .filter_map(|i| {
            let address = i.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        })
        .filter(|a| !matches!(a, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect();
    if addresses.is_empty() {
        return Err(format!(
            "{ifname:?} is neither an address nor an interface that has one; see `ip address`"
        ));
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Only {
        #[command(flatten)]
        network: NetworkArgs,
    }

    fn network(args: &[&str]) -> Result<Network, String> {
        let args = std::iter::once(&"test").chain(args);
        let only = Only::try_parse_from(args).map_err(|e| e.to_string())?;
        only.network.network("tap0").map_err(|e| e.to_string())
    }

    #[test]
    fn no_options_are_the_defaults() {
        assert_eq!(network(&[]).unwrap(), Network::default());
    }

    #[test]
    fn numbers_are_checked_and_the_message_names_the_option() {
        assert_eq!(
            network(&["--cidr", "10.0.2.100/24"]).unwrap_err(),
            "--cidr: 10.0.2.100/24 is not a network address; did you mean 10.0.2.0/24?"
        );
        assert!(network(&["--mtu", "67"]).unwrap_err().starts_with("--mtu: "));
        assert!(network(&["--cidr6", "fd00::1/64"]).unwrap_err().starts_with("--cidr6: "));
    }

    #[test]
    fn ipv6_goes_with_the_mtu() {
        assert_eq!(network(&["--mtu", "1000"]).unwrap().v6, None);
        assert_eq!(network(&["--no-ipv6"]).unwrap().v6, None);
        assert!(network(&["--mtu", "1000", "--cidr6", "fd01::/64"]).is_err());
        assert!(network(&["--no-ipv6", "--cidr6", "fd01::/64"]).is_err());
    }

    #[test]
    fn outbound_takes_addresses_of_both_families_and_interfaces() {
        let n = network(&["--outbound-addr", "::ffff:127.0.0.1", "--outbound-addr", "::1"]).unwrap();
        assert_eq!(n.outbound.v4, Some("127.0.0.1".parse().unwrap()));
        assert_eq!(n.outbound.v6, Some("::1".parse().unwrap()));
        assert_eq!(
            network(&["--outbound-addr", "lo"]).unwrap().outbound.v4,
            Some("127.0.0.1".parse().unwrap())
        );
        assert!(network(&["--outbound-addr", "no-such-if"]).unwrap_err().contains("neither"));
        for wrong in ["192.0.2.1", "2001:db8::1", "0.0.0.0", "224.0.0.1"] {
            let said = network(&["--outbound-addr", wrong]).unwrap_err();
            assert!(said.starts_with("--outbound-addr: ") && said.contains("ip address"), "{said}");
        }
        let two = network(&["--outbound-addr", "127.0.0.1", "--outbound-addr", "127.0.0.2"]).unwrap_err();
        assert!(two.contains("one family"), "{two}");
    }

    #[test]
    fn exposed_ports_are_told_apart_by_protocol() {
        let n = network(&["--expose-host", "53", "--expose-host", "5353:53/udp"]).unwrap();
        assert_eq!(n.policy.exposed.len(), 2);
        let twice = network(&["--expose-host", "53", "--expose-host", "5353:53"]).unwrap_err();
        assert!(twice.starts_with("--expose-host: ") && twice.contains("same port"), "{twice}");
        assert!(network(&["--expose-host", "127.0.0.1:80"]).unwrap_err().contains("names no port"));
    }

    #[test]
    fn rules_name_the_option_that_is_wrong() {
        let n = network(&["--deny", "all", "--allow", "192.0.2.0/24:443"]).unwrap();
        assert_eq!(n.policy.rules.len(), Rule::closed_by_default().len() + 3);
        assert!(
            network(&["--allow", "nowhere"]).unwrap_err().starts_with("--allow: \"nowhere\" names no dest")
        );
        assert!(network(&["--deny", "10.0.2.1/8"]).unwrap_err().starts_with("--deny: "));
    }

    #[test]
    fn limits_are_checked() {
        let n = network(&[
            "--max-flows",
            "100",
            "--max-half-open",
            "9",
            "--max-new-flows",
            "7",
            "--max-buffered",
            "3M",
        ]);
        let expected = Limits { flows: 100, half_open: 9, new_flows: 7, buffered: Some(3 << 20) };
        assert_eq!(n.unwrap().limits, expected);
        for option in ["--max-flows", "--max-half-open", "--max-new-flows"] {
            assert!(
                network(&[option, "0"]).unwrap_err().starts_with(&format!("{option}: 0 would")),
                "{option}"
            );
        }
        for (text, said) in
            [("1M", "too little"), ("2X", "no number"), ("M", "too little"), ("99999999999G", "long")]
        {
            let error = network(&["--max-buffered", text]).unwrap_err();
            assert!(error.starts_with("--max-buffered: ") && error.contains(said), "{error}");
        }
    }

    #[test]
    fn sources_are_networks() {
        let n = network(&["--allow-source", "172.17.0.0/16", "--allow-source", "fd17::5"]).unwrap();
        let may = |from: &str| n.may_send(from.parse().unwrap());
        assert!(
            may("172.17.3.4") && may("fd17::5") && may("10.0.2.7") && may("fe80::1234") && may("fd00::9")
        );
        for from in ["172.18.0.1", "fd17::6", "10.0.2.0", "192.0.2.1", "fd00::", "169.254.1.1"] {
            assert!(!may(from), "{from}");
        }
        assert!(network(&["--allow-source", "all"]).unwrap().may_send("192.0.2.1".parse().unwrap()));
        assert!(
            network(&["--allow-source", "172.17.0.1/16"]).unwrap_err().contains("did you mean 172.17.0.0/16")
        );
        assert!(network(&["--allow-source", "docker0"]).unwrap_err().contains("no network"));
    }

    #[test]
    fn resolvers_may_have_ports() {
        assert_eq!(parse_dns("192.0.2.1").unwrap(), "192.0.2.1:53".parse().unwrap());
        assert_eq!(parse_dns("[2001:db8::1]:5353").unwrap(), "[2001:db8::1]:5353".parse().unwrap());
        assert_eq!(parse_dns("::ffff:192.0.2.1").unwrap(), "192.0.2.1:53".parse().unwrap());
        for wrong in ["dns.example", "0.0.0.0", "::", "224.0.0.1", "[ff02::1]:53", "192.0.2.1:0"] {
            assert!(parse_dns(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bad_interface_names_are_refused() {
        for bad in ["", "lo", "..", "a/b", "a b", "tap%d", "sixteen-letters-"] {
            assert!(check_ifname(bad).is_err(), "{bad}");
        }
        assert!(check_ifname("tap0").is_ok());
    }
}
