//! Ports to publish, as one types them: Docker's `[IP:]HOST[-END]:[GUESTIP:]GUEST[-END][/tcp|udp]`, and options behind it.
//!
//! IPv6 addresses go in brackets. Without IP both families are served, with one that family only (0.0.0.0 and [::] as
//! well). Without HOST, or with 0, the kernel picks a free port; where GUEST is a range, as many consecutive ones. A
//! range is one object: `8000-8010:9000-9010` has eleven ports. Of a range of the host and one port of the guest
//! (`8000-8010:80`) the first free port is taken. Options override the instance's defaults for this port:
//! `,via=relay|tap`, `,source=preserve|gateway`, `,proxy=v1|v2`.
//!
//! [`PortSpec`] displays as a text that parses to the same value.

use super::port::{ProxyProtocol, SourceIp, Via};
use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;

/// Which families a host port is opened for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Families {
    /// Both where there is no address or any address will do, else that of the address.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

/// Which ports of the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostPorts {
    /// This one, and those that follow where there are several.
    From(u16),
    /// Whichever are free; consecutive where there are several.
    Free,
    /// The first free one from here to there, both included.
    OneOf(u16, u16),
}

/// What is said about how connections get to the guest; `None` where nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PortOptions {
    /// Which path.
    pub via: Option<Via>,
    /// Whom the guest sees.
    pub source_ip: Option<SourceIp>,
    /// Header ahead of a stream.
    pub proxy_protocol: Option<ProxyProtocol>,
}

impl PortOptions {
    /// These, and where they say nothing `defaults`.
    pub fn or(self, defaults: Self) -> Self {
        Self {
            via: self.via.or(defaults.via),
            source_ip: self.source_ip.or(defaults.source_ip),
            proxy_protocol: self.proxy_protocol.or(defaults.proxy_protocol),
        }
    }
}

/// A port or a range to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// Datagrams rather than streams.
    pub udp: bool,
    /// For whom.
    pub families: Families,
    /// Address of the host; `None`: any.
    pub host_ip: Option<IpAddr>,
    /// Ports of the host.
    pub host: HostPorts,
    /// Address in the guest's namespace; `None`: see [`super::Published::guest_ip`].
    pub guest_ip: Option<IpAddr>,
    /// First port in the guest.
    pub guest_port: u16,
    /// Ports in all, from 1. `host` has as many, or is one of several.
    pub count: u16,
    /// How.
    pub options: PortOptions,
}

/// What is wrong with the text of a port.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("{given:?}: {cause}; use [IP:]HOST[-END]:[GUESTIP:]GUEST[-END][/tcp|udp], as in 8080:80")]
pub struct PortSpecError {
    /// As typed.
    pub given: String,
    /// The part that does not hold.
    pub cause: Cause,
}

/// The part of a port's text that does not hold.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Cause {
    /// No number in range.
    #[error("{0:?} is not a port; ports are 1 to 65535")]
    Port(String),
    /// It ends before it begins.
    #[error("the range {0:?} ends before it begins")]
    Backwards(String),
    /// Two ranges that do not match.
    #[error("{host} ports of the host do not match {guest} of the guest")]
    Lengths {
        /// Ports of the host.
        host: u32,
        /// Ports of the guest.
        guest: u32,
    },
    /// Not an address.
    #[error("{0:?} is not an IP address")]
    Address(String),
    /// Too many colons, or brackets that do not match.
    #[error("there are too many parts, or brackets that do not match; IPv6 addresses go in brackets")]
    Parts,
    /// Neither tcp nor udp.
    #[error("{0:?} cannot be published; tcp and udp can")]
    Protocol(String),
    /// An option that is unknown, given twice or has no such value.
    #[error(
        "{0:?} is no option, or one that was given before; there are via=relay|tap, \
         source=preserve|gateway, proxy=v1|v2"
    )]
    Option(String),
    /// The PROXY header is for streams.
    #[error("proxy= is for tcp")]
    ProxyForUdp,
}

impl FromStr for PortSpec {
    type Err = PortSpecError;

    fn from_str(text: &str) -> Result<Self, PortSpecError> {
        parse(text).map_err(|cause| PortSpecError { given: text.to_owned(), cause })
    }
}

fn parse(text: &str) -> Result<PortSpec, Cause> {
    let mut words = text.split(',');
    let ports = words.next().unwrap_or_default();
    let (ports, protocol) = ports.rsplit_once('/').unwrap_or((ports, "tcp"));
    let udp = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => false,
        "udp" => true,
        _ => return Err(Cause::Protocol(protocol.to_owned())),
    };
    let mut parts = [""; 4];
    let n = split(ports, &mut parts).ok_or(Cause::Parts)?;
    let (host_ip, host, guest_ip, guest) = match parts[..n] {
        [guest] => ("", "", "", guest),
        [host, guest] => ("", host, "", guest),
        [ip, host, guest] if ip.is_empty() || address(ip).is_ok() => (ip, host, "", guest),
        [host, ip, guest] if address(ip).is_ok() => ("", host, ip, guest),
        [ip, host, guest_ip, guest] => (ip, host, guest_ip, guest),
        _ => return Err(Cause::Address(parts[0].to_owned())),
    };
    let host_ip = if host_ip.is_empty() { None } else { Some(address(host_ip)?) };
    let guest_ip = if guest_ip.is_empty() { None } else { Some(address(guest_ip)?) };
    let (guest_port, guest_last) = range(guest)?;
    // At most 65,535, for neither end is 0.
    let count = guest_last - guest_port + 1;
    let host = match host {
        "" | "0" => HostPorts::Free,
        host => match range(host)? {
            (first, last) if last - first + 1 == count => HostPorts::From(first),
            (first, last) if count == 1 => HostPorts::OneOf(first, last),
            (first, last) => {
                return Err(Cause::Lengths { host: u32::from(last - first) + 1, guest: count.into() });
            }
        },
    };
    let options = words.try_fold(PortOptions::default(), option)?;
    if udp && options.proxy_protocol.is_some() {
        return Err(Cause::ProxyForUdp);
    }
    let families = match host_ip {
        None => Families::Any,
        Some(IpAddr::V4(_)) => Families::V4,
        Some(IpAddr::V6(_)) => Families::V6,
    };
    Ok(PortSpec { udp, families, host_ip, host, guest_ip, guest_port, count, options })
}

fn option(mut options: PortOptions, word: &str) -> Result<PortOptions, Cause> {
    let fresh = match word {
        "via=relay" => options.via.replace(Via::Relay).is_none(),
        "via=tap" => options.via.replace(Via::Tap).is_none(),
        "source=preserve" => options.source_ip.replace(SourceIp::Preserve).is_none(),
        "source=gateway" => options.source_ip.replace(SourceIp::Gateway).is_none(),
        "proxy=v1" => options.proxy_protocol.replace(ProxyProtocol::V1).is_none(),
        "proxy=v2" => options.proxy_protocol.replace(ProxyProtocol::V2).is_none(),
        _ => false,
    };
    if fresh { Ok(options) } else { Err(Cause::Option(word.to_owned())) }
}

/// Splits at colons outside of brackets, which stay with their part. The number of parts; `None` if there are too many
/// or a bracket is where none can be.
pub(super) fn split<'a>(mut text: &'a str, parts: &mut [&'a str; 4]) -> Option<usize> {
    for (i, part) in parts.iter_mut().enumerate() {
        let end = match text.strip_prefix('[') {
            Some(inner) => inner.find(']')? + 2,
            None => text.find(':').unwrap_or(text.len()),
        };
        let rest;
        (*part, rest) = text.split_at(end);
        match rest.strip_prefix(':') {
            Some(rest) => text = rest,
            None if rest.is_empty() => return Some(i + 1),
            None => return None,
        }
    }
    None
}

/// An address: IPv6 in brackets, IPv4 without. IPv4 inside IPv6 is IPv4.
pub(super) fn address(text: &str) -> Result<IpAddr, Cause> {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let ip = match inner {
        Some(inner) => inner.parse::<Ipv6Addr>().ok().map(|a| IpAddr::V6(a).to_canonical()),
        None => text.parse().ok().map(IpAddr::V4),
    };
    ip.ok_or_else(|| Cause::Address(text.to_owned()))
}

/// A port in digits only, not 0.
pub(super) fn port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|p| digits && *p != 0)
}

fn range(text: &str) -> Result<(u16, u16), Cause> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |part: &str| port(part).ok_or_else(|| Cause::Port(part.to_owned()));
    let (first, last) = (number(first)?, number(last)?);
    if first <= last { Ok((first, last)) } else { Err(Cause::Backwards(text.to_owned())) }
}

/// An address as it stands before a colon.
pub(super) struct Bracketed(pub(super) IpAddr);

impl fmt::Display for Bracketed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(a) => write!(f, "{a}"),
            IpAddr::V6(a) => write!(f, "[{a}]"),
        }
    }
}

impl fmt::Display for PortSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let range = |f: &mut fmt::Formatter<'_>, first: u16, last: u16| match first == last {
            true => write!(f, "{first}"),
            false => write!(f, "{first}-{last}"),
        };
        if let Some(ip) = self.host_ip {
            write!(f, "{}:", Bracketed(ip))?;
        }
        let more = self.count - 1;
        match self.host {
            HostPorts::Free => write!(f, "0")?,
            HostPorts::From(first) => range(f, first, first.saturating_add(more))?,
            HostPorts::OneOf(first, last) => range(f, first, last)?,
        }
        write!(f, ":")?;
        if let Some(ip) = self.guest_ip {
            write!(f, "{}:", Bracketed(ip))?;
        }
        range(f, self.guest_port, self.guest_port.saturating_add(more))?;
        write!(f, "/{}", if self.udp { "udp" } else { "tcp" })?;
        match self.options.via {
            Some(Via::Relay) => write!(f, ",via=relay")?,
            Some(Via::Tap) => write!(f, ",via=tap")?,
            None => {}
        }
        match self.options.source_ip {
            Some(SourceIp::Preserve) => write!(f, ",source=preserve")?,
            Some(SourceIp::Gateway) => write!(f, ",source=gateway")?,
            None => {}
        }
        match self.options.proxy_protocol {
            Some(ProxyProtocol::V1) => write!(f, ",proxy=v1"),
            Some(ProxyProtocol::V2) => write!(f, ",proxy=v2"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests;
