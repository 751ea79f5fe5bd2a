//! Messages between control and plane.
//!
//! Control speaks first: one [`ToPlane::Start`] with the tap (and the capture file) beside it. The plane answers
//! [`FromPlane::Ready`] once frames flow, or [`FromPlane::Failed`] and exits. Everything after that is news or a
//! question. The end of file on either side means that the other process is gone; control then starts another plane and
//! tells it the same.

use super::detail::FlowDetail;
use super::query::{FlowPage, PortPage};
use super::stats::PlaneStats;
use crate::config::{Network, PortId, Published, Resolvers};
use crate::flow::PlaneCounters;
use serde::{Deserialize, Serialize};

/// How serious a line of the log is; the order is that of `tracing`, most serious first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Level {
    /// Something does not work.
    Error,
    /// Something works less well than it could.
    Warn,
    /// Life cycle.
    Info,
    /// What a developer asks for.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// The same in `tracing`'s words.
    pub const fn to_tracing(self) -> tracing::Level {
        match self {
            Self::Error => tracing::Level::ERROR,
            Self::Warn => tracing::Level::WARN,
            Self::Info => tracing::Level::INFO,
            Self::Debug => tracing::Level::DEBUG,
            Self::Trace => tracing::Level::TRACE,
        }
    }
}

/// What the plane needs to begin. The descriptors beside the message are the tap and, if `pcap`, the capture file,
/// in this order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The network that the guest sees.
    pub network: Network,
    /// The host's resolvers as of now.
    pub resolvers: Resolvers,
    /// The host has an IPv6 default route as of now.
    pub host_v6: bool,
    /// A second descriptor follows: write a capture of the tap to it.
    pub pcap: bool,
    /// An earlier plane has died: the capture goes on where that one left it.
    pub resumed: bool,
    /// Notices below this level stay with the plane.
    pub log_level: Level,
}

/// From control to plane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToPlane {
    /// Begin; sent once, with descriptors.
    Start(Box<Start>),
    /// The host's resolvers have changed.
    Resolvers(Resolvers),
    /// The host's IPv6 default route came or went.
    HostV6(bool),
    /// Answer with [`FromPlane::Counters`].
    Counters,
    /// Answer with [`FromPlane::Flows`]: the page that begins at `from`, as the answer before said.
    Flows {
        /// Where it begins; 0 is the first.
        from: u64,
        /// The number of a look before ([`FlowPage::at`]): flows that rest since are not told in full. 0 is for whoever
        /// has not looked yet and will look again; `None` for whoever will not.
        since: Option<u64>,
    },
    /// Answer with [`FromPlane::Flow`].
    Flow {
        /// Its name, as [`FlowRecord::id`](super::FlowRecord::id) has it.
        id: String,
    },
    /// Answer with [`FromPlane::Stats`].
    Stats,
    /// Answer with [`FromPlane::Ports`]: those after this one; all ids are above 0.
    Ports {
        /// After which.
        after: PortId,
    },
    /// The channel to the socket factory is beside the message. It replaces an earlier one.
    Factory {
        /// `SO_NETNS_COOKIE` of the guest's namespace, as read before COMMAND could interfere.
        netns_cookie: u64,
    },
    /// A port or range is published; its listeners follow.
    Publish(Published),
    /// Listening (or, for datagrams, bound) sockets of consecutive ports are beside the message, non-blocking. A port may
    /// have several: one a family, or one an address.
    Listeners {
        /// Published before.
        port: PortId,
        /// Number within the range of the first socket's port.
        first: u16,
    },
    /// A port or range is no longer published: its listeners close.
    Unpublish {
        /// Which.
        port: PortId,
        /// Its connections end as well, by a reset.
        connections: bool,
    },
    /// A stream socket is beside the message: write a capture of the tap to it, until its other end is shut down.
    Capture {
        /// Frames of this flow only.
        flow: Option<String>,
        /// Bytes to keep of each frame.
        snaplen: u32,
    },
    /// Finish what is in hand (the capture file) and exit with 0.
    Stop,
}

/// From plane to control.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromPlane {
    /// Frames flow.
    Ready {
        /// What the ring came up with, for the log.
        ring: String,
        /// What the tap can take off our hands, for the log.
        tap: String,
    },
    /// It cannot work, or no longer; the text is one line with cause and remedy. The plane exits after it.
    Failed {
        /// For the person at the terminal.
        text: String,
    },
    /// The answer to [`ToPlane::Counters`].
    Counters(Box<PlaneCounters>),
    /// The answer to [`ToPlane::Flows`].
    Flows(FlowPage),
    /// The answer to [`ToPlane::Flow`]; `None` if there is no such flow, or no more.
    Flow(Option<Box<FlowDetail>>),
    /// The answer to [`ToPlane::Stats`].
    Stats(Box<PlaneStats>),
    /// The answer to [`ToPlane::Ports`].
    Ports(PortPage),
    /// The socket factory is of no use any more: ports whose clients are relayed will serve nobody. The text is one line
    /// with the cause.
    FactoryLost {
        /// For the log.
        text: String,
    },
    /// A line for the log.
    Notice {
        /// How serious.
        level: Level,
        /// One line.
        text: String,
    },
}
