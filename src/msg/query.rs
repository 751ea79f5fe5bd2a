//! What control asks a running plane about its flows and ports, for people: the records of the answers. What it counts is
//! in [`super::stats`], what is known of a single flow in [`super::detail`].
//!
//! Answers come in the order of the questions, one message each. What does not fit in one message comes in pages: an
//! answer says where the next page begins, and the next question repeats that. A flow that lives through all pages is in
//! exactly one of them; one that begins or ends meanwhile may be missing. Nothing is held between the pages.

use crate::config::PortId;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// Most ports in one message.
pub const PAGE: usize = 512;
/// Most flows in one message: each takes about 250 bytes at most, and [`super::MAX_MESSAGE`] is 128 KiB. The plane makes
/// such a page in about a millisecond, and sees to its traffic before the next one.
pub const FLOW_PAGE: usize = 256;
/// Most runs of resting flows in one message: each takes 20 bytes at most.
pub const RUNS_PAGE: usize = 1024;
/// Most flows that are looked at for one message: a resting one takes the plane a quarter of a microsecond.
pub const WALK_PAGE: usize = 4096;

/// What a flow carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A connection.
    Tcp,
    /// A mapping.
    Udp,
    /// Echoes.
    Icmp,
    /// A question to the host's resolvers.
    Dns,
}

/// Which way it takes (DESIGN.md, section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Path {
    /// From the guest through the tap.
    Tap,
    /// From a published port to a socket in the guest's namespace.
    Relay,
    /// From a published port through the tap.
    Injected,
}

/// How a direction of a relayed connection moves its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Gear {
    /// By a receive and a send.
    Copy,
    /// Through a pipe, by submission queue entries.
    SpliceSqe,
    /// Through a pipe, by splice(2).
    SpliceCall,
}

/// One live flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowRecord {
    /// Its name within the plane, for as long as it lives.
    pub id: String,
    /// Where a page begins with it: its kind above 32 bits of its slot.
    pub place: u64,
    /// What it carries.
    pub protocol: Protocol,
    /// Which way it takes.
    pub path: Path,
    /// How a relayed connection moves its bytes: to the guest, and from it.
    pub gears: Option<[Gear; 2]>,
    /// The published port it came through.
    pub port: Option<PortId>,
    /// The guest's end.
    pub guest: SocketAddr,
    /// The other end as the guest sees it: where it dials, or who it takes its client for.
    pub remote: Option<SocketAddr>,
    /// The other end as the host sees it: after translation, or the client itself.
    pub host: Option<SocketAddr>,
    /// The host socket's own end.
    pub local: Option<SocketAddr>,
    /// Where it stands, in one word.
    pub state: String,
    /// How long it has lived, in milliseconds.
    pub age_ms: u64,
    /// Payload bytes from the guest.
    pub bytes_up: u64,
    /// Payload bytes to the guest.
    pub bytes_down: u64,
    /// Frames or datagrams from the guest; 0 where only bytes are seen (a relayed stream).
    pub packets_up: u64,
    /// Frames or datagrams to the guest.
    pub packets_down: u64,
    /// Segments sent to the guest again.
    pub retransmits: u64,
    /// Segments that the host's kernel sent to the other end again.
    pub host_retransmits: u64,
    /// Smoothed round-trip time to the guest in microseconds, once measured.
    pub rtt_us: Option<u64>,
    /// Smoothed round-trip time to the other end in microseconds, as the host's kernel has measured it.
    pub host_rtt_us: Option<u64>,
    /// Payload bytes from the guest that the other end has not taken.
    pub buffered_up: u64,
    /// Payload bytes to the guest that it has not taken.
    pub buffered_down: u64,
}

/// A page of flows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowPage {
    /// At most [`FLOW_PAGE`] of them.
    pub flows: Vec<FlowRecord>,
    /// At most [`RUNS_PAGE`] runs of flows that are as they were told since the look that was named: the first place of
    /// each, and how many there are.
    pub still: Vec<(u64, u64)>,
    /// The number of this page. That of a look is the number of its first page.
    pub at: u64,
    /// Where the next page begins; `None` after the last.
    pub next: Option<u64>,
}

/// What a published port has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortCounters {
    /// Which.
    #[serde(rename = "id")]
    pub port: PortId,
    /// Connections or UDP clients accepted.
    pub accepted: u64,
    /// Those alive.
    pub open: u64,
    /// Connections that the guest refused or did not answer.
    pub refused: u64,
    /// Connections or datagrams turned away for want of descriptors, memory or room.
    pub shed: u64,
    /// Clients shown to the guest as the gateway although they were to be shown as themselves.
    pub shown_as_gateway: u64,
    /// Payload bytes from the guest.
    pub bytes_up: u64,
    /// Payload bytes to the guest.
    pub bytes_down: u64,
}

impl PortCounters {
    /// Nothing seen yet.
    pub const fn new(port: PortId) -> Self {
        Self {
            port,
            accepted: 0,
            open: 0,
            refused: 0,
            shed: 0,
            shown_as_gateway: 0,
            bytes_up: 0,
            bytes_down: 0,
        }
    }
}

/// A page of ports, in the order of their ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortPage {
    /// At most [`PAGE`] of them.
    pub ports: Vec<PortCounters>,
    /// The id after which the next page begins; `None` after the last.
    pub next: Option<PortId>,
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::msg::{Channel, FromPlane};

    /// A record that takes as much room as one may.
    pub fn longest() -> FlowRecord {
        let end: SocketAddr = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535".parse().unwrap();
        FlowRecord {
            id: "injected:4294967295.4194303".into(),
            place: u64::MAX,
            protocol: Protocol::Tcp,
            path: Path::Injected,
            gears: Some([Gear::SpliceCall; 2]),
            port: Some(PortId(u32::MAX)),
            guest: end,
            remote: Some(end),
            host: Some(end),
            local: Some(end),
            state: "syn-received".into(),
            age_ms: u64::MAX,
            bytes_up: u64::MAX,
            bytes_down: u64::MAX,
            packets_up: u64::MAX,
            packets_down: u64::MAX,
            retransmits: u64::MAX,
            host_retransmits: u64::MAX,
            rtt_us: Some(u64::MAX),
            host_rtt_us: Some(u64::MAX),
            buffered_up: u64::MAX,
            buffered_down: u64::MAX,
        }
    }

    #[test]
    fn a_page_of_the_longest_records_fits_a_message() {
        let page = FromPlane::Flows(FlowPage {
            flows: vec![longest(); FLOW_PAGE],
            still: vec![(u64::MAX, u64::MAX); RUNS_PAGE],
            at: u64::MAX,
            next: Some(u64::MAX),
        });
        let (ours, theirs) = Channel::pair().unwrap();
        ours.send(&page, &[]).unwrap();
        assert_eq!(theirs.recv::<FromPlane>().unwrap().0, page);
    }
}
