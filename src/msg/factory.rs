//! Messages between the plane and the socket factory inside the guest's namespaces.
//!
//! The plane asks ahead of need; the factory answers each request with one message, sockets beside it. The guest can
//! reach the factory, so the plane believes nothing that it has not checked on the descriptor itself.

use serde::{Deserialize, Serialize};

/// What a socket is to be. Sockets are unconnected, unbound and have every option set that they will need.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct SocketKind {
    /// IPv6 only, rather than IPv4.
    pub v6: bool,
    /// UDP rather than TCP.
    pub datagram: bool,
    /// May bind to addresses of others (`IP_TRANSPARENT`) and carries the mark that leads answers back.
    pub transparent: bool,
}

/// From plane to factory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToFactory {
    /// Make `count` sockets, at most [`super::MAX_FDS`].
    Make {
        /// What they are to be.
        kind: SocketKind,
        /// How many.
        count: u16,
    },
}

/// From factory to plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromFactory {
    /// Sockets are beside the message; fewer than asked for where the limit of descriptors was met.
    Made(SocketKind),
    /// None could be made.
    Refused {
        /// What was asked for.
        kind: SocketKind,
        /// Why, as an errno.
        errno: i32,
    },
}
