//! TCP towards the guest (RFC 9293), proxied onto host sockets.

use super::{Cx, HostEvent};
use crate::buf::Span;
use crate::flow::{FlowId, Time};
use crate::wire::{Ip, Tcp};
use std::net::SocketAddr;

/// All TCP connections of one guest.
pub struct Engine {}

impl Engine {
    /// No connections yet. `secret` keys the initial sequence numbers (RFC 6528) and the tables.
    pub fn new(secret: [u8; 16], max_flows: usize) -> Self {
        let _ = (secret, max_flows);
        Self {}
    }

    /// A segment from the guest. `payload` is its data (possibly empty); its buffer now belongs to the engine.
    pub fn segment(&mut self, cx: &mut Cx<'_>, ip: &Ip, tcp: &Tcp, payload: Span) {
        let _ = (ip, tcp);
        cx.act(super::Action::Release(payload.buf));
    }

    /// Something happened on a connection's host socket.
    pub fn host(&mut self, cx: &mut Cx<'_>, flow: FlowId, event: HostEvent) {
        let _ = (cx, flow, event);
    }

    /// Time has passed.
    pub fn timeout(&mut self, cx: &mut Cx<'_>) {
        let _ = cx;
    }

    /// A batch of segments and events is over: acknowledgements that were held back go out.
    pub fn end_batch(&mut self, cx: &mut Cx<'_>) {
        let _ = cx;
    }

    /// The guest's side of the link reported that segments of this connection must be at most `mtu` bytes of L3.
    pub fn too_big(&mut self, cx: &mut Cx<'_>, guest: SocketAddr, remote: SocketAddr, mtu: u16) {
        let _ = (cx, guest, remote, mtu);
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Time> {
        None
    }

    /// Live connections.
    pub fn len(&self) -> usize {
        0
    }

    /// True when no connection is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
