//! `ringtap explain PORT|ADDRESS|FLOW`: the way of a connection in words, hop by hop.
//!
//! Theory of operation. The instance says what only it knows: which of its descriptors belong to the flow, how bytes move,
//! whom the server sees and why ([`crate::msg::detail`]). Everything that the kernel shows to this user comes from `/proc`
//! ([`super::proc`]): who listens, in which namespace, by which descriptor, and which socket the server holds. So each hop is
//! what strace, ss, lsns and lsof would show for the same connection, put together ([`world`], [`words`]).
//!
//! Limits: what other users' processes hold is not shown, as it is not to lsof. A port with many connections has the ways of
//! [`MOST`] of them explained.

mod port;
mod words;
mod world;

use super::CliError;
use super::flows::filter::{End, FilterArgs};
use super::flows::sample::{Row, all};
use super::instance::InstanceArgs;
use super::port::client::{Client, ClientError, print};
use crate::flow::FlowId;
use crate::msg::FlowDetail;
use clap::Args;
use serde::Serialize;
use std::fmt::Write as _;
use std::str::FromStr;
use world::World;

/// Flows whose ways are shown, of a port or an address that has more.
pub const MOST: usize = 5;

/// Options of `explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    instance: InstanceArgs,
    /// One JSON object for each way
    #[arg(long)]
    json: bool,
    /// A published port (8080, 53/udp), an end of a connection (198.51.100.2, 198.51.100.2:40000), or a flow as
    /// `ringtap flows` lists it
    #[arg(value_name = "PORT|ADDRESS|FLOW")]
    about: About,
}

/// What is to be explained.
#[derive(Clone, Debug, PartialEq, Eq)]
enum About {
    /// A published port of the host; of datagrams, of streams, or of both.
    Port(u16, Option<bool>),
    /// Whatever has that end.
    End(End),
    /// That flow.
    Flow(String),
}

impl FromStr for About {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, udp) = match text.rsplit_once('/') {
            Some((number, "tcp")) => (number, Some(false)),
            Some((number, "udp")) => (number, Some(true)),
            Some(_) => return Err(format!("{text:?}: after the slash comes tcp or udp")),
            None => (text, None),
        };
        if let Ok(port) = number.parse::<u16>() {
            return Ok(Self::Port(port, udp));
        }
        if let Ok(end) = text.parse() {
            return Ok(Self::End(end));
        }
        if text.strip_prefix("relay-").unwrap_or(text).parse::<FlowId>().is_ok() {
            return Ok(Self::Flow(text.to_ascii_lowercase()));
        }
        Err(format!(
            "{text:?} is no port (8080, 53/udp), no address (198.51.100.2:80) and no flow as ringtap flows lists it (relay:0.0)"
        ))
    }
}

/// One step on the way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Hop {
    /// Who or what it is.
    pub at: String,
    /// What happens there; a line each.
    pub says: Vec<String>,
}

impl Hop {
    fn new(at: impl Into<String>, says: impl IntoIterator<Item = String>) -> Self {
        Self { at: at.into(), says: says.into_iter().collect() }
    }
}

/// The way of one flow, or of those that a port waits for.
#[derive(Clone, Debug, Serialize)]
pub struct Explained {
    /// In one line.
    title: String,
    hops: Vec<Hop>,
    /// What the plane knows, where there is a flow.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<FlowDetail>,
}

impl Explained {
    fn text(&self) -> String {
        let mut text = format!("{}\n", self.title);
        for (n, hop) in self.hops.iter().enumerate() {
            let _ = writeln!(text, "{:>2}. {}", n + 1, hop.at);
            for line in &hop.says {
                let _ = writeln!(text, "    {line}");
            }
        }
        text
    }
}

impl ExplainArgs {
    /// Explains it.
    ///
    /// # Errors
    /// [`CliError`].
    pub fn run(self) -> Result<u8, CliError> {
        let client = self.instance.find()?;
        let (ways, more) = self.about.ways(&client)?;
        let mut text = String::new();
        for (n, way) in ways.iter().enumerate() {
            if self.json {
                text += &(serde_json::to_string(way).map_err(ClientError::answer)? + "\n");
            } else {
                let gap = if n > 0 { "\n" } else { "" };
                let _ = write!(text, "{gap}{}", way.text());
            }
        }
        if more > 0 && !self.json {
            let _ =
                writeln!(text, "\nand {more} more; ringtap flows lists them, ringtap explain FLOW takes any");
        }
        print(&text);
        Ok(0)
    }
}

impl About {
    /// The ways that are meant, and how many more there are.
    fn ways(&self, client: &Client) -> Result<(Vec<Explained>, usize), ClientError> {
        let world = World::of(client)?;
        let (flows, port) = match self {
            Self::Flow(id) => return Ok((vec![of_flow(client, &world, id)?], 0)),
            Self::Port(number, udp) => {
                let port = world.port(*number, *udp).ok_or_else(|| world.no_port(*number))?;
                let through = all(client)?.into_iter().filter(|f| {
                    f.port == Some(port.id) && f.local.is_none_or(|local| local.port() == *number)
                });
                (through.collect::<Vec<_>>(), Some((port, *number)))
            }
            Self::End(end) => {
                let filter = FilterArgs { address: Some(*end), ..FilterArgs::default() };
                let fits = |flow: &_| {
                    filter.wants(&Row { flow: Clone::clone(flow), rate_up: None, rate_down: None })
                };
                let found: Vec<_> = all(client)?.into_iter().filter(fits).collect();
                if found.is_empty() {
                    let text = "no live flow has that end; ringtap flows lists all";
                    return Err(ClientError::Refused(text.to_owned()));
                }
                (found, None)
            }
        };
        let more = flows.len().saturating_sub(MOST);
        // One may end before its turn.
        let mut ways: Vec<_> =
            flows.iter().take(MOST).filter_map(|f| of_flow(client, &world, &f.id).ok()).collect();
        if let (true, Some((port, number))) = (ways.is_empty(), port) {
            ways.push(port::waiting(&world, port, number));
        }
        Ok((ways, more))
    }
}

fn of_flow(client: &Client, world: &World, id: &str) -> Result<Explained, ClientError> {
    let detail: FlowDetail = client.get(&format!("/ringtap/v1/flow?id={id}"))?;
    Ok(words::way(world, detail))
}

/// The way of a flow, as text.
///
/// # Errors
/// [`ClientError`]; among others, the flow has ended.
pub fn flow(client: &Client, id: &str) -> Result<String, ClientError> {
    Ok(of_flow(client, &World::of(client)?, id)?.text())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_addresses_and_flows_are_told_apart() {
        let about = |text: &str| text.parse::<About>();
        assert_eq!(about("8080"), Ok(About::Port(8080, None)));
        assert_eq!(about("53/udp"), Ok(About::Port(53, Some(true))));
        assert_eq!(about("198.51.100.2"), Ok(About::End("198.51.100.2".parse().unwrap())));
        assert_eq!(about("[2001:db8::2]:80"), Ok(About::End("[2001:db8::2]:80".parse().unwrap())));
        assert_eq!(about("Relay:1.2"), Ok(About::Flow("relay:1.2".into())));
        assert_eq!(about("relay-udp:1.2"), Ok(About::Flow("relay-udp:1.2".into())));
        for bad in ["", "x", "70000", "53/sctp", "relay:1", "1.2.3"] {
            assert!(about(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hops_are_numbered_and_what_is_said_stands_below() {
        let hops = vec![Hop::new("client", []), Hop::new("server", ["it sees the client".to_owned()])];
        let way = Explained { title: "relay:0.0".to_owned(), hops, detail: None };
        assert_eq!(way.text(), "relay:0.0\n 1. client\n 2. server\n    it sees the client\n");
    }
}
