//! What the three processes say to each other, and the sequenced sockets they say it over.
//!
//! Theory of operation. Each pair of processes shares one `SOCK_SEQPACKET` socket pair ([`Channel`]). One message is
//! one packet: a value in postcard's encoding, with descriptors beside it as `SCM_RIGHTS`. Sequenced packets keep
//! message boundaries, and the end of one process is the end of file of the other, so no message is ever half read and
//! no death goes unseen. [`plane`] lists what control and plane say, [`child`] what control and child say, [`factory`]
//! what plane and child say, [`query`], [`detail`] and [`stats`] what is known of flows and ports.
//!
//! Limits: a message has at most [`MAX_MESSAGE`] bytes and [`MAX_FDS`] descriptors. Every received descriptor is
//! close-on-exec from the start.

#![forbid(unsafe_code)]

pub mod channel;
pub mod child;
pub mod detail;
pub mod factory;
pub mod plane;
pub mod query;
pub mod stats;

pub use channel::{Channel, MAX_FDS, MAX_MESSAGE, MsgError};
pub use child::{Ended, FromChild, Steering, ToChild};
pub use detail::FlowDetail;
pub use factory::{FromFactory, SocketKind, ToFactory};
pub use plane::{FromPlane, Level, Start, ToPlane};
pub use query::{FlowPage, FlowRecord, PortCounters, PortPage};
pub use stats::PlaneStats;
