//! Published ports in the plane: listeners, sockets of the backends, and what moves between them.

mod admit;
mod by_hand;
mod dial;
mod drive;
mod look;
pub mod standalone_tcp;
pub mod standalone_udp;
pub mod stop;
pub mod tcp;
pub mod udp;

pub use dial::{Attempt, Attempts, attempts};
pub use look::{Ends, Listing};
pub use tcp::{Backends, PortCounters, Service, Take, TcpRelays, TcpTag, Times};
