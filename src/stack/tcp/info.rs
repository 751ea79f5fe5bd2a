//! What can be said about a live connection to a person.

use super::conn::{Conn, State};
use crate::flow::{FlowCounters, FlowId};
use std::net::SocketAddr;
use std::time::Duration;

/// One connection, as `ringtap flows` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FlowInfo {
    /// Its name.
    pub id: FlowId,
    /// Where the guest's side stands.
    pub state: State,
    /// The guest's address.
    pub guest: SocketAddr,
    /// The other end, as the guest sees it.
    pub remote: SocketAddr,
    /// What it has carried.
    pub counters: FlowCounters,
    /// Smoothed round-trip time to the guest, once measured.
    pub rtt: Option<Duration>,
    /// Bytes from the guest that the host has not taken.
    pub queued_up: usize,
    /// Bytes from the host that the guest has not acknowledged.
    pub queued_down: usize,
    /// Congestion window towards the guest, in bytes.
    pub cwnd: u32,
    /// Memory of the connection in bytes, without buffers.
    pub memory: usize,
}

impl FlowInfo {
    pub(super) fn of(conn: &Conn) -> Self {
        Self {
            id: conn.id,
            state: conn.state,
            guest: conn.key.guest,
            remote: conn.key.remote,
            counters: conn.counters,
            rtt: conn.snd.rtt.smoothed(),
            queued_up: conn.rcv.queued(),
            queued_down: conn.snd.queued(),
            cwnd: conn.snd.congestion().1,
            memory: size_of::<Conn>() + conn.snd.heap() + conn.rcv.heap(),
        }
    }
}
