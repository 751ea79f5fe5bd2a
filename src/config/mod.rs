//! Plain data that the verbs fill in and the processes act on. Nothing here does anything.
//!
//! Validation happens when a value is built, so that whoever holds one may rely on it: a [`Network`] has room for its
//! gateway, its DNS address and its guest.

#![forbid(unsafe_code)]

pub mod exposed;
pub mod limits;
pub mod network;
pub mod port;
pub mod port_spec;
pub mod resolvers;
pub mod rootlesskit_spec;
pub mod rule;
pub mod sandbox;
pub mod settings;

pub use exposed::Exposed;
pub use limits::Limits;
pub use network::{Filtering, LINK_CONGESTION, Network, NetworkError, OutboundAddr, Policy};
pub use port::{Dial, PortId, ProxyProtocol, Published, SourceIp, Via};
pub use port_spec::{PortOptions, PortSpec};
pub use resolvers::Resolvers;
pub use rootlesskit_spec::RootlessKitSpec;
pub use rule::{Rule, RuleError};
pub use sandbox::SandboxMode;
pub use settings::Settings;
