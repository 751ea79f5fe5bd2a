//! The process one starts: life cycle of plane and child, state directory, resolv.conf watch.
//!
//! Theory of operation. [`run::run`] and [`attach::attach`] first do everything that wants a single thread: open files,
//! block signals, fork the plane, fork the child (or the process that makes a tap in a namespace that exists), exchange the first messages. Only then is the tokio-uring runtime started, which waits for messages
//! ([`plane::Plane`], the child's channel), signals ([`signals`]), changes of the host's resolvers ([`resolvers`]) and of
//! its IPv6 route ([`host_v6`]), and serves the API ([`api`]). It binds what is published ([`ports`]), holds descriptors
//! and never looks into a frame. When it ends, whichever way, the others end: their channels close, and the kernel kills
//! them. When the plane dies, control forks another on the same tap: the one fork that happens with the runtime at work,
//! and [`plane`] says why it may.

#![forbid(unsafe_code)]

pub mod api;
pub mod attach;
pub mod cgroup;
pub mod child;
pub mod deadline;
pub mod etc;
pub mod host_v6;
pub mod inside;
pub mod mirror;
pub mod notify;
pub mod plane;
pub mod ports;
pub mod ready;
pub mod resolvers;
pub mod run;
pub mod runtime;
pub mod serve;
pub mod signals;
pub mod slirp4netns;
pub mod state;
pub mod terminal;

pub use crate::msg::{Ended, Level};

use crate::config::{Network, PortOptions, Resolvers, SandboxMode};
use crate::msg::Channel;
use std::fs::File;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;

/// The life of the plane process, given by the caller: control does not know how it works.
pub type PlaneMain = fn(Channel, SandboxMode) -> u8;

/// What both verbs have in common.
#[derive(Debug)]
pub struct Common {
    /// The network that the guest sees.
    pub network: Network,
    /// Resolvers given by hand; empty: those of the host's resolv.conf, as they change.
    pub dns: Vec<SocketAddr>,
    /// Ports to publish before the network is said to be ready.
    pub ports: Vec<ports::Asked>,
    /// Holds for every port that does not say otherwise, those of the API as well.
    pub port_defaults: PortOptions,
    /// Packets on the tap reach nobody, so every port is relayed.
    pub relay_only: bool,
    /// What the API says that we are.
    pub drivers: api::Drivers,
    /// Where to write a capture of the tap.
    pub pcap: Option<File>,
    /// How far the plane is locked in.
    pub sandbox: SandboxMode,
    /// Log lines below this level are not written.
    pub log_level: Level,
    /// Gets one `1` when the network works, and is closed then.
    pub ready_fd: Option<OwnedFd>,
}

impl Common {
    /// The resolvers to use, given those of the host.
    fn resolvers(&self, mut host: Resolvers) -> Resolvers {
        if !self.dns.is_empty() {
            host.servers.clone_from(&self.dns);
        }
        host
    }
}

/// Why nothing was started, or what was started had to end. The text is one line: cause and remedy.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// Namespaces, maps, tap.
    #[error(transparent)]
    Netns(#[from] crate::netns::NetnsError),
    /// No state directory.
    #[error(transparent)]
    State(#[from] state::StateError),
    /// A port that was asked for at start.
    #[error("{0}")]
    Port(String),
    /// No API.
    #[error(
        "cannot serve {path}: {source}; {}",
        crate::netns::remedy(.source, "name a directory with a shorter path, or free space there")
    )]
    Api {
        /// The socket.
        path: String,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// No runtime.
    #[error(transparent)]
    Runtime(#[from] crate::ring::RingError),
    /// The child said why it ended.
    #[error("{0}")]
    Child(String),
    /// The child ended without a word.
    #[error(
        "the first process of the namespaces was killed before the command ran; look for out-of-memory kills (dmesg)"
    )]
    ChildGone,
    /// The plane said why it ended.
    #[error("{0}")]
    Plane(String),
    /// The plane ended without a word.
    #[error(
        "the data plane ended ({0}), so the network is gone; please report this with the output of --log-level debug"
    )]
    PlaneGone(String),
    /// The tap's namespace was taken down.
    #[error(
        "the tap is gone, and with it the network: its namespace was taken down; attach again to the next one"
    )]
    TapGone,
    /// A message did not go over.
    #[error("between our own processes: {0}; {remedy}", remedy = message_remedy(.0))]
    Message(#[from] crate::msg::MsgError),
    /// A system call that only fails for want of resources.
    #[error("{what}: {source}; raise the limits of open files (ulimit -n) and memory")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the kernel said.
        source: std::io::Error,
    },
}

fn message_remedy(error: &crate::msg::MsgError) -> &'static str {
    match error {
        crate::msg::MsgError::Io(e) => {
            crate::netns::remedy(e, "please report this with the output of --log-level debug")
        }
        crate::msg::MsgError::FdsLost => "then start again",
        _ => "please report this with the output of --log-level debug",
    }
}

impl ControlError {
    /// For `map_err`: names what was tried.
    fn system<E: Into<std::io::Error>>(what: &'static str) -> impl Fn(E) -> Self {
        move |source| Self::System { what, source: source.into() }
    }
}
