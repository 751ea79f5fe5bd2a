//! Published ports in the plane: listeners, sockets in the guest, and what moves between them.

pub mod standalone_udp;
pub mod udp;
