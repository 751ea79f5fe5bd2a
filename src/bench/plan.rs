//! The cells of a bench: which loads over which path, link and MTU, and how many of them a scope runs.
//!
//! A [`Cell`] is one row of the table: every contender of its path takes it in turn. [`cells`] is the whole of them, in the
//! order of the report; a [`Scope`] runs a part, and the report lists the rest.

use super::load::{Task, Way};
use serde::{Deserialize, Serialize};
use std::fmt;

/// Clients, connections or streams of the loads that have one number of them.
pub const AT_ONCE: u32 = 16;
/// The MTU that comes first, and the only one where a cell has no other.
pub const MTU: u16 = 1500;

/// Where the client and the server are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// The client in the guest, the server behind the host's link.
    Outbound,
    /// The server in the guest, behind a published port; the client on the host's loopback, or beyond the impaired link.
    Published,
}

/// What lies between host and internet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Link {
    /// A veth, or for published ports the host's loopback.
    Plain,
    /// 5 ms each way, one frame in a thousand lost, 100 Mbit/s.
    Impaired,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Load {
    /// TCP streams: what arrives.
    Bulk {
        /// Which way, as the client sees it.
        way: Way,
        /// At once.
        streams: u32,
    },
    /// TCP request-response on [`AT_ONCE`] connections: the median latency.
    Exchange {
        /// Of a message.
        bytes: u32,
    },
    /// TCP connections for one byte, [`AT_ONCE`] at a time.
    Connect,
    /// Datagrams of 1400 bytes one way: what arrives, and what is lost.
    Datagrams {
        /// Up or down.
        way: Way,
    },
    /// Datagrams that are answered, [`AT_ONCE`] at a time.
    RoundTrips,
}

/// How much is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// About a minute: few loads, MTU 1500, the two best peers, outbound.
    Quick,
    /// The same loads with MTU 65520 too, and published ports; all peers.
    Default,
    /// Everything.
    Full,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cell {
    /// Who is where.
    pub path: Path,
    /// What is between.
    pub link: Link,
    /// MTU of the guest's tap.
    pub mtu: u16,
    /// What is measured.
    pub load: Load,
    /// Connections that sit still beside it.
    pub idle: u32,
}

/// Every cell; `idle` connections where a cell has some.
pub fn cells(idle: u32) -> Vec<Cell> {
    let mut bulk = Vec::new();
    for streams in [1, 4, 64] {
        for way in [Way::Up, Way::Down, Way::Both] {
            bulk.push(Load::Bulk { way, streams });
        }
    }
    let small = [
        Load::Exchange { bytes: 1 },
        Load::Exchange { bytes: 1024 },
        Load::Connect,
        Load::Datagrams { way: Way::Up },
        Load::Datagrams { way: Way::Down },
        Load::RoundTrips,
    ];
    let loads: Vec<Load> = bulk.into_iter().chain(small).collect();
    let beside = [
        Load::Bulk { way: Way::Up, streams: 1 },
        Load::Bulk { way: Way::Down, streams: 1 },
        Load::Exchange { bytes: 1 },
    ];
    let mut all = Vec::new();
    for (path, mtus) in [(Path::Outbound, &[MTU, 9000, 65520][..]), (Path::Published, &[MTU])] {
        let plain = |mtu, load, idle| Cell { path, link: Link::Plain, mtu, load, idle };
        for &mtu in mtus {
            all.extend(loads.iter().map(|&load| plain(mtu, load, 0)));
            if mtu == MTU {
                all.extend(beside.map(|load| plain(mtu, load, idle)));
            }
        }
        all.extend(loads.iter().map(|&load| Cell { link: Link::Impaired, ..plain(MTU, load, 0) }));
    }
    all
}

impl Scope {
    /// Whether it runs `cell`.
    pub fn has(self, cell: &Cell) -> bool {
        let plain = cell.link == Link::Plain && cell.idle == 0 && cell.load.is_basic();
        match self {
            Self::Quick => plain && cell.path == Path::Outbound && cell.mtu == MTU,
            Self::Default => plain && cell.mtu != 9000,
            Self::Full => true,
        }
    }
}

impl Load {
    /// Those of `--quick`: 1 and 4 streams up and down, request-response, connections, datagrams up.
    fn is_basic(self) -> bool {
        match self {
            Self::Bulk { way, streams } => way != Way::Both && streams <= 4,
            Self::Exchange { bytes } => bytes == 1,
            Self::Connect => true,
            Self::Datagrams { way } => way == Way::Up,
            Self::RoundTrips => false,
        }
    }

    /// What the client is told to do.
    pub fn task(self) -> Task {
        match self {
            Self::Bulk { way, streams } => Task::Bulk { way, streams },
            Self::Exchange { bytes } => Task::Exchange { bytes, connections: AT_ONCE },
            Self::Connect => Task::Connect { connections: AT_ONCE },
            Self::Datagrams { way } => Task::Datagrams { way },
            Self::RoundTrips => Task::RoundTrips { clients: AT_ONCE },
        }
    }

    /// Of the figure.
    pub fn unit(self) -> &'static str {
        match self {
            Self::Bulk { .. } => "Gbit/s",
            Self::Exchange { .. } => "median us",
            Self::Connect | Self::Datagrams { .. } | Self::RoundTrips => "thousand/s",
        }
    }

    /// Whether a higher figure is the better one.
    pub fn more_is_better(self) -> bool {
        !matches!(self, Self::Exchange { .. })
    }

    /// Of what CPU time is counted for: bytes, or operations.
    pub fn cost_unit(self) -> &'static str {
        match self {
            Self::Bulk { .. } => "CPU s/GB",
            _ => "CPU s/million",
        }
    }
}

impl Cell {
    /// A name for `--only` and JSON, without blanks.
    pub fn id(&self) -> String {
        self.to_string()
    }

    /// The part of the report it belongs to.
    pub fn section(&self) -> String {
        let place = match self.path {
            Path::Outbound => format!("Out of the namespace, MTU {}", self.mtu),
            Path::Published => "Published port".to_owned(),
        };
        match self.link {
            Link::Plain => place,
            Link::Impaired => format!("{place}, impaired link"),
        }
    }

    /// What is measured, in words.
    pub fn title(&self) -> String {
        let way = |way| match (way, self.path) {
            (Way::Up, Path::Outbound) => "to server",
            (Way::Up, Path::Published) | (Way::Down, Path::Outbound) => "to guest",
            (Way::Down, Path::Published) => "to client",
            (Way::Both, _) => "both ways",
        };
        let what = match self.load {
            Load::Bulk { way: w, streams } => {
                format!("TCP {streams} stream{} {}", if streams == 1 { "" } else { "s" }, way(w))
            }
            Load::Exchange { bytes: 1 } => format!("request-response 1 B, {AT_ONCE} at once"),
            Load::Exchange { .. } => format!("request-response 1 KiB, {AT_ONCE} at once"),
            Load::Connect => format!("connections, {AT_ONCE} at once"),
            Load::Datagrams { way: w } => format!("UDP 1400 B {}", way(w)),
            Load::RoundTrips => format!("UDP round trips, {AT_ONCE} at once"),
        };
        if self.idle > 0 { format!("{what}, {} idle", self.idle) } else { what }
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path {
            Path::Outbound => write!(f, "outbound/{}", self.mtu)?,
            Path::Published => f.write_str("published")?,
        }
        f.write_str(if self.link == Link::Impaired { "/impaired" } else { "" })?;
        f.write_str(if self.idle > 0 { "/idle" } else { "" })?;
        let way = |way| match way {
            Way::Up => "up",
            Way::Down => "down",
            Way::Both => "both",
        };
        match self.load {
            Load::Bulk { way: w, streams } => write!(f, "/tcp-{streams}-{}", way(w)),
            Load::Exchange { bytes } => write!(f, "/rr-{bytes}"),
            Load::Connect => f.write_str("/connect"),
            Load::Datagrams { way: w } => write!(f, "/udp-{}", way(w)),
            Load::RoundTrips => f.write_str("/udp-rr"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn ids(scope: Scope) -> Vec<String> {
        cells(1000).iter().filter(|c| scope.has(c)).map(Cell::id).collect()
    }

    #[test]
    fn quick_is_what_it_says() {
        assert_eq!(
            ids(Scope::Quick),
            ["tcp-1-up", "tcp-1-down", "tcp-4-up", "tcp-4-down", "rr-1", "connect", "udp-up"]
                .map(|l| format!("outbound/1500/{l}"))
        );
    }

    #[test]
    fn each_scope_has_the_one_before_and_every_cell_a_name_of_its_own() {
        let [quick, default, full] = [Scope::Quick, Scope::Default, Scope::Full].map(ids);
        assert!(quick.iter().all(|c| default.contains(c)) && default.iter().all(|c| full.contains(c)));
        assert!(default.contains(&"outbound/65520/tcp-4-up".to_owned()));
        assert!(default.contains(&"published/udp-up".to_owned()));
        for id in ["outbound/9000/tcp-64-both", "outbound/1500/impaired/rr-1024", "published/idle/rr-1"] {
            assert!(full.contains(&id.to_owned()), "{id}");
        }
        assert_eq!(full.iter().collect::<HashSet<_>>().len(), full.len());
        let titles: HashSet<_> = cells(1000).iter().map(|c| (c.section(), c.title())).collect();
        assert_eq!(titles.len(), full.len());
    }
}
