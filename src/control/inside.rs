//! The process inside the guest's namespaces as control speaks to it: the tap that it brings, the process that `attach`
//! leaves there, the factory's channel to the plane.

use super::ControlError;
use super::api::Api;
use super::plane::Plane;
use crate::msg::{Channel, FromChild, MsgError, ToChild, ToPlane};
use crate::netns::process::Spawned;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use std::os::fd::{AsFd, OwnedFd};

/// What is said when there is no socket factory any more.
pub const NO_FACTORY: &str = "published ports go through the tap from now on: there is no socket factory inside any more; restart \
     this instance for relays";

/// Whether what relayed ports need inside has been asked for. It is when the first of them is published, for it takes some
/// 20 to 40 ms.
#[derive(Debug, Default)]
pub struct Relaying {
    asked: bool,
}

impl Relaying {
    /// Connects the plane to the factory and has answers steered, once, if a port waits for that.
    ///
    /// # Errors
    /// Those of [`connect_factory`].
    pub fn ask_if_wanted(
        &mut self,
        api: &Api,
        child: &Channel,
        plane: &Plane,
        netns_cookie: u64,
    ) -> Result<(), MsgError> {
        if self.asked || !api.ports().wait_for_inside() {
            return Ok(());
        }
        self.asked = true;
        connect_factory(child, plane, netns_cookie)?;
        match child.send(&ToChild::Steer, &[]) {
            Err(MsgError::Closed) => Ok(()),
            other => other,
        }
    }

    /// Another plane has taken the place of the one that was connected.
    ///
    /// # Errors
    /// Those of [`connect_factory`].
    pub fn plane_replaced(&self, child: &Channel, plane: &Plane, netns_cookie: u64) -> Result<(), MsgError> {
        if self.asked { connect_factory(child, plane, netns_cookie) } else { Ok(()) }
    }
}

/// The first thing that the process inside sends.
#[derive(Debug)]
pub struct Tap {
    /// The device.
    pub fd: OwnedFd,
    /// The number of its network namespace.
    pub netns_cookie: u64,
}

impl Tap {
    /// Waits for it, logging warnings on the way.
    ///
    /// # Errors
    /// What the process says if it fails, or that it has gone.
    pub fn wait(channel: &Channel) -> Result<Self, ControlError> {
        loop {
            match channel.recv::<FromChild>() {
                Ok((FromChild::Tap { netns_cookie }, fds)) => {
                    let fd = fds.into_iter().next().ok_or(MsgError::FdsLost)?;
                    return Ok(Self { fd, netns_cookie });
                }
                Ok((FromChild::Warning(text), _)) => tracing::warn!("{text}"),
                Ok((FromChild::Failed(text), _)) => return Err(ControlError::Child(text)),
                Ok(_) => {}
                Err(MsgError::Closed) => return Err(ControlError::ChildGone),
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// The process that `attach` leaves inside. Dropping it ends it.
#[derive(Debug)]
pub struct Inside {
    process: Spawned,
    channel: Channel,
    netns_cookie: u64,
}

impl Inside {
    /// Of a process that has brought its tap.
    pub const fn new(process: Spawned, channel: Channel, netns_cookie: u64) -> Self {
        Self { process, channel, netns_cookie }
    }

    /// The channel, to wait on and to ask.
    pub const fn channel(&self) -> &Channel {
        &self.channel
    }

    /// The number of its network namespace.
    pub const fn netns_cookie(&self) -> u64 {
        self.netns_cookie
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        let _ = kill(self.process.pid, Signal::SIGKILL);
        let _ = waitpid(self.process.pid, None);
    }
}

/// Gives the plane a way to ask for sockets of the namespace that is numbered `netns_cookie`; both sides let go of the
/// one that they had. Done before the first port is published, and for every plane that takes another's place.
///
/// # Errors
/// The descriptor limit. That either process has ended shows at the next receive from it.
pub fn connect_factory(child: &Channel, plane: &Plane, netns_cookie: u64) -> Result<(), MsgError> {
    let (theirs, planes) = Channel::pair()?;
    match child.send(&ToChild::Factory, &[theirs.as_fd()]) {
        Ok(()) | Err(MsgError::Closed) => {}
        Err(e) => return Err(e),
    }
    plane.send(&ToPlane::Factory { netns_cookie }, &[planes.as_fd()])
}
