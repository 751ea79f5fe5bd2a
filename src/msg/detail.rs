//! What the plane knows of a single flow, for `ringtap explain`: descriptors, pipes, and whom the server sees and why.
//!
//! Descriptors are the plane's numbers, as strace and lsof show them. Who is not root may not look into its `/proc/PID/fd`, for
//! it is not dumpable; so it says by itself which inodes they are.

use super::query::FlowRecord;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// What a socket is to a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It listens for clients; of datagrams, it receives what all of them send.
    Listener,
    /// The connection of a client of a published port.
    Client,
    /// It belongs to the guest's namespace and leads to the server.
    Guest,
    /// It stands for the guest in the host's network.
    Host,
}

/// One socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SocketDetail {
    /// What it is for.
    pub role: Role,
    /// Its descriptor in the plane.
    pub fd: i32,
    /// The number in `socket:[NUMBER]`.
    pub inode: Option<u64>,
    /// Its own end.
    pub local: Option<SocketAddr>,
    /// The other end, if it is connected.
    pub peer: Option<SocketAddr>,
}

/// A pipe that a relayed connection has on loan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PipeDetail {
    /// It carries bytes to the server, rather than from it.
    pub to_server: bool,
    /// Descriptor of the end that bytes come out of.
    pub read: i32,
    /// Descriptor of the end that bytes go into.
    pub write: i32,
    /// The number in `pipe:[NUMBER]`.
    pub inode: Option<u64>,
    /// Its room in bytes.
    pub size: u32,
    /// Bytes in it.
    pub bytes: u64,
}

/// Whom the server sees as its client, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Showing {
    /// The client itself.
    Client,
    /// The gateway, as was asked for.
    Wished,
    /// The gateway: the client is of the other family.
    OtherFamily,
    /// The gateway: the client is on the host's loopback, which inside is another one.
    Loopback,
    /// The gateway: the client's address holds on one link only.
    LinkLocal,
    /// The gateway: the client's address is the server's own.
    Own,
    /// The gateway: the client's address is one of the guest's own network.
    OnLink,
    /// The gateway: no flow may have the client's address.
    Special,
    /// The gateway: the client's address and port were taken at the server, by another connection.
    Taken,
    /// An address of the namespace: nothing could be set up there to lead answers to the client's.
    Plain,
}

/// One flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FlowDetail {
    /// As in a listing.
    pub flow: FlowRecord,
    /// In the order that bytes from a client pass them.
    pub sockets: Vec<SocketDetail>,
    /// On loan at the moment.
    pub pipes: Vec<PipeDetail>,
    /// Of a client of a published port.
    pub showing: Option<Showing>,
    /// The tap's descriptor, where the flow takes that.
    pub tap: Option<i32>,
}
