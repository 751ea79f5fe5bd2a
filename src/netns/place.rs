//! The network that the child finds itself in, or makes: the host's, one with a loopback alone, one with a tap.
//!
//! Theory of operation. The child is cloned into a network namespace of its own unless it stays in the host's, or COMMAND
//! does (then it leaves for its own here, once COMMAND's process has been left behind). A loopback with published ports
//! needs a tap all the same, for the data plane lives on one: it is made in a namespace that nobody is in and that lasts
//! as long as the plane holds the device, and the child goes on to another one. Nothing ever comes out of that tap, and
//! relayed ports do not pass it.

use super::{NetnsError, link};
use crate::config::Network;
use crate::tap::Tap;
use nix::sched::{CloneFlags, unshare};

/// Which network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Net {
    /// One with a tap, behind which is the data plane.
    #[default]
    Tap,
    /// One that has nothing but a loopback.
    Loopback {
        /// Ports may be published into it.
        ports: bool,
    },
    /// The host's.
    Host,
}

impl Net {
    /// There is a data plane.
    pub const fn has_plane(self) -> bool {
        matches!(self, Self::Tap | Self::Loopback { ports: true })
    }
}

/// What was made.
#[derive(Debug, Default)]
pub struct Made {
    /// For the data plane.
    pub tap: Option<Tap>,
    /// What works less well than it could.
    pub warning: Option<String>,
}

/// Makes the network in the namespace that we are in; in a new one if that is still the host's (`leave`).
///
/// # Errors
/// [`NetnsError`].
pub fn make(net: Net, network: &Network, leave: bool) -> Result<Made, NetnsError> {
    if net == Net::Host {
        return Ok(Made::default());
    }
    if leave {
        another()?;
    }
    match net {
        Net::Host => Ok(Made::default()),
        Net::Tap => make_tap(network).map(|(tap, warning)| Made { tap: Some(tap), warning }),
        Net::Loopback { ports: false } => {
            link::loopback_up()?;
            Ok(Made::default())
        }
        Net::Loopback { ports: true } => {
            let tap = Tap::create(&network.ifname).map_err(|e| NetnsError::Tap(e.to_string()))?;
            another()?;
            link::loopback_up()?;
            // Where datagrams are relayed to, and streams first.
            link::loopback_address(network.guest_v4().into())?;
            Ok(Made { tap: Some(tap), warning: None })
        }
    }
}

/// Loopback up, tap made and configured, all in the network namespace that we are in.
pub(super) fn make_tap(network: &Network) -> Result<(Tap, Option<String>), NetnsError> {
    let tap = Tap::create(&network.ifname).map_err(|e| NetnsError::Tap(e.to_string()))?;
    link::loopback_up()?;
    let warning = link::configure_tap(network)?;
    Ok((tap, warning))
}

fn another() -> Result<(), NetnsError> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| NetnsError::Unshare(e.into()))
}
