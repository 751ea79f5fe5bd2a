//! Why a port is not published, in the words that RootlessKit's clients look for.

use super::limits;
use crate::config::port_spec::{Families, HostPorts};
use crate::config::rootlesskit_spec::RootlessKitSpecError;
use crate::config::{PortId, PortSpec};
use nix::errno::Errno;
use nix::libc;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

/// A socket that could not be bound. Displays as Go would say it, which clients match on (moby, ddev); what one can do
/// about it is [`BindError::remedy`].
#[derive(Debug)]
pub struct BindError {
    /// As in `tcp4`.
    network: &'static str,
    ip: Option<IpAddr>,
    port: u16,
    why: Why,
}

#[derive(Debug)]
enum Why {
    Family(IpAddr),
    System(io::Error),
}

impl BindError {
    pub(super) fn new(spec: &PortSpec, port: u16, source: io::Error) -> Self {
        Self { network: network(spec), ip: spec.host_ip, port, why: Why::System(source) }
    }

    /// The address is of the other family than the protocol's.
    pub(super) fn family(spec: &PortSpec, ip: IpAddr) -> Self {
        let port = match spec.host {
            HostPorts::From(first) | HostPorts::OneOf(first, _) => first,
            HostPorts::Free => 0,
        };
        Self { network: network(spec), ip: Some(ip), port, why: Why::Family(ip) }
    }

    /// Somebody has the port.
    pub(super) fn is_in_use(&self) -> bool {
        matches!(&self.why, Why::System(e) if e.kind() == io::ErrorKind::AddrInUse)
    }

    /// What to do about it.
    pub fn remedy(&self) -> &'static str {
        let Why::System(e) = &self.why else { return "use an address of that family" };
        match e.raw_os_error() {
            Some(libc::EADDRINUSE) => {
                "something else has it (see `ss -tulnp`); choose another port, or 0 for a free one"
            }
            Some(libc::EADDRNOTAVAIL) => "the host has no such address (see `ip address`)",
            Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -Hn, LimitNOFILE=)",
            Some(libc::EACCES) => "",
            _ => "choose another address or port",
        }
    }

    /// One line with cause and remedy, for a person.
    pub fn with_remedy(&self) -> String {
        match self.remedy() {
            "" => self.to_string(),
            remedy => format!("{self}; {remedy}"),
        }
    }
}

fn network(spec: &PortSpec) -> &'static str {
    match (spec.udp, spec.families) {
        (false, Families::Any) => "tcp",
        (false, Families::V4) => "tcp4",
        (false, Families::V6) => "tcp6",
        (true, Families::Any) => "udp",
        (true, Families::V4) => "udp4",
        (true, Families::V6) => "udp6",
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = match &self.why {
            Why::Family(ip) => {
                return write!(f, "listen {}: address {ip}: no suitable address found", self.network);
            }
            Why::System(e) => e,
        };
        let start = limits::first_unprivileged_port();
        let port = self.port;
        if e.raw_os_error() == Some(libc::EACCES) && port < start {
            write!(
                f,
                "cannot expose privileged port {port}, you can add 'net.ipv4.ip_unprivileged_port_start={port}' to \
                 /etc/sysctl.conf (currently {start}), or set CAP_NET_BIND_SERVICE on ringtap binary, or choose a \
                 larger port number (>= {start}): "
            )?;
        }
        match self.ip {
            Some(ip) => write!(f, "listen {} {}: bind: ", self.network, SocketAddr::new(ip, port))?,
            None => write!(f, "listen {} :{port}: bind: ", self.network)?,
        }
        // Go's texts are the C library's in lower case, but for this one.
        match e.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EADDRNOTAVAIL) => write!(f, "cannot assign requested address"),
            Some(errno) => write!(f, "{}", errno.desc().to_lowercase()),
            None => write!(f, "{e}"),
        }
    }
}

impl std::error::Error for BindError {}

/// Why a port was not added or removed.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// The specification does not hold.
    #[error(transparent)]
    Spec(#[from] RootlessKitSpecError),
    /// Published already.
    #[error("conflict with ID {0}")]
    Conflict(PortId),
    /// Not bound.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// The limit of open files does not allow as many.
    #[error(
        "that takes {needed} open files and the limit is {hard}; raise the hard limit (ulimit -Hn, LimitNOFILE=) or \
         publish fewer ports"
    )]
    Descriptors {
        /// Needed in all.
        needed: u64,
        /// Allowed.
        hard: u64,
    },
    /// There is no such port.
    #[error("unknown id: {0}")]
    Unknown(String),
    /// The plane did not take it.
    #[error("between our own processes: {0}")]
    Message(#[from] crate::msg::MsgError),
}

impl PortError {
    /// One line with cause and remedy, for a person.
    pub fn with_remedy(&self) -> String {
        match self {
            Self::Bind(e) => e.with_remedy(),
            other => other.to_string(),
        }
    }
}
