//! What can be said to a person about a live flow, of whichever kind.

use super::{FlowCounters, FlowId, Time};
use std::net::SocketAddr;
use std::time::Duration;

/// One live flow, as `ringtap flows` shows it. The kind is that of its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowInfo {
    /// Its name.
    pub id: FlowId,
    /// The guest's end. For echo the port is the identifier.
    pub guest: SocketAddr,
    /// The other end as the guest knows it; the latest, where there are several.
    pub remote: Option<SocketAddr>,
    /// Where that is on the host's side, after translation. `None` for a connection that came from there.
    pub host: Option<SocketAddr>,
    /// Where it stands, in one word: the state of a connection as RFC 9293 names them, `open` for all else.
    pub state: &'static str,
    /// When it began.
    pub opened: Time,
    /// What it has carried.
    pub counters: FlowCounters,
    /// Smoothed round-trip time to the guest, once measured; connections only.
    pub rtt: Option<Duration>,
    /// Payload bytes from the guest that the host has not taken.
    pub queued_up: usize,
    /// Payload bytes from the host that the guest has not acknowledged.
    pub queued_down: usize,
    /// Memory it takes in bytes, without buffers.
    pub memory: usize,
}
