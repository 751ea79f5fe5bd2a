//! Which flows are shown, and in which order.

use super::sample::Row;
use crate::msg::query::Protocol;
use clap::{Args, ValueEnum};
use std::cmp::{Ordering, Reverse};
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

/// An end of a flow: an address, with or without a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    ip: IpAddr,
    port: Option<u16>,
}

impl FromStr for End {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(end) = text.parse::<SocketAddr>() {
            return Ok(Self { ip: end.ip(), port: Some(end.port()) });
        }
        let bare = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
        bare.parse().map(|ip| Self { ip, port: None }).map_err(|_| {
            format!("{text:?} is no address; write 198.51.100.2, 198.51.100.2:80 or [2001:db8::2]:80")
        })
    }
}

impl End {
    /// Whether it is that one.
    pub fn is(&self, end: SocketAddr) -> bool {
        self.ip == end.ip() && self.port.is_none_or(|port| port == end.port())
    }
}

/// What a flow is carried by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PathArg {
    /// From the guest through the tap
    Tap,
    /// From a published port to a socket inside, any gear
    Relay,
    /// Relayed by copying
    Copy,
    /// Relayed through pipes
    Splice,
    /// From a published port through the tap
    Injected,
}

/// What a flow carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ProtoArg {
    /// Connections
    Tcp,
    /// Datagrams
    Udp,
    /// Echoes
    Icmp,
    /// Questions to the resolvers
    Dns,
}

/// What flows are sorted by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Sort {
    /// Kind and place
    #[default]
    Flow,
    /// Bytes a second, most first
    Rate,
    /// Bytes in all, most first
    Bytes,
    /// Packets in all, most first
    Packets,
    /// Oldest first
    Age,
    /// Slowest first, to the guest or to the other end
    Rtt,
    /// Most segments sent again first
    Retransmits,
    /// Most bytes on hand first
    Buffered,
    /// The guest's end
    Guest,
    /// The other end
    Remote,
}

impl Sort {
    /// The next one, for a key that goes through all of them.
    pub fn next(self) -> Self {
        let all = Self::value_variants();
        let at = all.iter().position(|s| *s == self).unwrap_or(0);
        all[(at + 1) % all.len()]
    }

    fn compare(self, a: &Row, b: &Row) -> Ordering {
        let (f, g) = (&a.flow, &b.flow);
        let most = |key: fn(&Row) -> u64| Reverse(key(a)).cmp(&Reverse(key(b)));
        match self {
            Self::Flow => Ordering::Equal,
            Self::Rate => most(Row::rate),
            Self::Bytes => most(|r| r.flow.bytes_up + r.flow.bytes_down),
            Self::Packets => most(|r| r.flow.packets_up + r.flow.packets_down),
            Self::Age => most(|r| r.flow.age_ms),
            Self::Rtt => most(|r| r.flow.rtt_us.max(r.flow.host_rtt_us).unwrap_or(0)),
            Self::Retransmits => most(|r| r.flow.retransmits + r.flow.host_retransmits),
            Self::Buffered => most(|r| r.flow.buffered_up + r.flow.buffered_down),
            Self::Guest => f.guest.cmp(&g.guest),
            Self::Remote => f.host.or(f.remote).cmp(&g.host.or(g.remote)),
        }
    }
}

/// Options that say which flows.
#[derive(Clone, Debug, Default, Args)]
pub struct FilterArgs {
    /// Only what carries that; several by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PROTO", help_heading = "Which")]
    pub proto: Vec<ProtoArg>,
    /// Only flows with that end: an address, with or without a port
    #[arg(long, value_name = "IP[:PORT]", help_heading = "Which")]
    pub address: Option<End>,
    /// Only flows with an end at that port
    #[arg(long, value_name = "PORT", help_heading = "Which")]
    pub port: Option<u16>,
    /// Only flows on that path; several by commas
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PATH", help_heading = "Which")]
    pub path: Vec<PathArg>,
    /// Only flows in that state, as the listing has it
    #[arg(long, value_name = "STATE", help_heading = "Which")]
    pub state: Option<String>,
    /// In which order
    #[arg(long, value_enum, value_name = "KEY", default_value = "flow", help_heading = "Which")]
    pub sort: Sort,
    /// In the opposite order
    #[arg(long, help_heading = "Which")]
    pub reverse: bool,
    /// No more than that many, after sorting
    #[arg(long, value_name = "N", help_heading = "Which")]
    pub limit: Option<usize>,
}

impl FilterArgs {
    /// Where those are that are wanted, in the order that is wanted.
    pub fn apply(&self, rows: &[Row]) -> Vec<usize> {
        let mut wanted: Vec<_> = (0..rows.len()).filter(|n| self.wants(&rows[*n])).collect();
        wanted.sort_by(|a, b| self.sort.compare(&rows[*a], &rows[*b]));
        if self.reverse {
            wanted.reverse();
        }
        wanted.truncate(self.limit.unwrap_or(usize::MAX));
        wanted
    }

    /// Whether a flow is wanted.
    pub fn wants(&self, row: &Row) -> bool {
        let f = &row.flow;
        let mut ends = [Some(f.guest), f.remote, f.host, f.local].into_iter().flatten();
        let proto = match f.protocol {
            Protocol::Tcp => ProtoArg::Tcp,
            Protocol::Udp => ProtoArg::Udp,
            Protocol::Icmp => ProtoArg::Icmp,
            Protocol::Dns => ProtoArg::Dns,
        };
        let on = |path: &PathArg| match path {
            PathArg::Tap => row.way() == "tap",
            PathArg::Relay => row.way().starts_with("relay"),
            PathArg::Copy => row.way() == "relay copy",
            PathArg::Splice => row.way() == "relay splice",
            PathArg::Injected => row.way() == "injected",
        };
        (self.proto.is_empty() || self.proto.contains(&proto))
            && (self.path.is_empty() || self.path.iter().any(on))
            && self.state.as_ref().is_none_or(|state| f.state.eq_ignore_ascii_case(state))
            && self.address.is_none_or(|end| ends.clone().any(|e| end.is(e)))
            && self.port.is_none_or(|port| ends.any(|e| e.port() == port))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::msg::FlowRecord;
    use crate::msg::query::{Gear, Path};

    /// A flow with the ends that are given.
    pub fn row(id: &str, guest: &str, host: &str, bytes: u64) -> Row {
        let flow = FlowRecord {
            id: id.to_owned(),
            place: 0,
            protocol: Protocol::Tcp,
            path: Path::Tap,
            gears: None,
            port: None,
            guest: guest.parse().unwrap(),
            remote: None,
            host: Some(host.parse().unwrap()),
            local: None,
            state: "established".to_owned(),
            age_ms: bytes,
            bytes_up: bytes,
            bytes_down: 0,
            packets_up: 0,
            packets_down: 0,
            retransmits: 0,
            host_retransmits: 0,
            rtt_us: None,
            host_rtt_us: Some(bytes),
            buffered_up: 0,
            buffered_down: 0,
        };
        Row { flow, rate_up: Some(bytes), rate_down: None }
    }

    #[test]
    fn each_filter_keeps_what_it_says() {
        let mut relay = row("relay:0.0", "172.17.0.2:80", "198.51.100.2:40000", 3);
        (relay.flow.path, relay.flow.gears) = (Path::Relay, Some([Gear::Copy, Gear::SpliceCall]));
        relay.flow.state = "open".to_owned();
        let mut dns = row("dns:0.0", "[fd00::100]:5000", "[2001:db8::2]:53", 2);
        dns.flow.protocol = Protocol::Dns;
        let rows = vec![row("tcp:0.0", "10.0.2.100:4000", "198.51.100.2:80", 1), dns, relay];
        let kept = |filter: FilterArgs| {
            filter.apply(&rows).into_iter().map(|n| rows[n].flow.id.clone()).collect::<Vec<_>>().join(" ")
        };
        let any = FilterArgs::default;
        assert_eq!(kept(any()), "tcp:0.0 dns:0.0 relay:0.0");
        assert_eq!(kept(FilterArgs { proto: vec![ProtoArg::Dns, ProtoArg::Udp], ..any() }), "dns:0.0");
        let at = |text: &str| FilterArgs { address: Some(text.parse().unwrap()), ..any() };
        assert_eq!(kept(at("198.51.100.2")), "tcp:0.0 relay:0.0");
        assert_eq!(kept(at("198.51.100.2:80")), "tcp:0.0");
        assert_eq!(
            (kept(at("[fd00::100]:5000")), kept(at("fd00::100"))),
            ("dns:0.0".into(), "dns:0.0".into())
        );
        assert_eq!(kept(FilterArgs { port: Some(80), ..any() }), "tcp:0.0 relay:0.0");
        assert_eq!(kept(FilterArgs { path: vec![PathArg::Splice], ..any() }), "relay:0.0");
        assert_eq!(kept(FilterArgs { path: vec![PathArg::Copy], ..any() }), "");
        assert_eq!(
            kept(FilterArgs { path: vec![PathArg::Tap, PathArg::Relay], ..any() }),
            "tcp:0.0 dns:0.0 relay:0.0"
        );
        assert_eq!(kept(FilterArgs { state: Some("Open".into()), ..any() }), "relay:0.0");
        assert_eq!(kept(FilterArgs { sort: Sort::Bytes, limit: Some(2), ..any() }), "relay:0.0 dns:0.0");
        assert_eq!(
            kept(FilterArgs { sort: Sort::Rate, reverse: true, ..any() }),
            "tcp:0.0 dns:0.0 relay:0.0"
        );
        assert_eq!(kept(FilterArgs { sort: Sort::Guest, ..any() }), "tcp:0.0 relay:0.0 dns:0.0");
        assert!("198.51.100".parse::<End>().unwrap_err().contains("is no address"));
        assert_eq!((0..10).fold(Sort::Flow, |s, _| s.next()), Sort::Flow);
    }
}
