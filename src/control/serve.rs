//! What control waits for whichever verb it runs: the plane's messages, the host's resolvers and IPv6 route, the
//! tap's end.

use super::plane::Plane;
use super::ready::Ready;
use super::{ControlError, host_v6, resolvers};
use crate::config::Resolvers;
use crate::msg::{Channel, FromPlane, MsgError};
use nix::unistd::Pid;
use serde::de::DeserializeOwned;
use std::time::Duration;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at};

/// Waits for messages on a channel.
#[derive(Debug)]
pub struct Inbox {
    ready: Ready,
}

impl Inbox {
    /// For `channel`, which must be the one passed to [`Inbox::next`]. Needs the runtime.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn new(channel: &Channel) -> std::io::Result<Self> {
        Ok(Self { ready: Ready::new(channel)? })
    }

    /// The next message, or the end of the channel. Safe to cancel.
    ///
    /// # Errors
    /// Those of [`Channel::recv`].
    pub async fn next<T: DeserializeOwned>(&mut self, channel: &Channel) -> Result<T, MsgError> {
        loop {
            let mut guard = self.ready.wait().await?;
            match channel.try_recv()? {
                // Descriptors that nobody asked for are closed here.
                Some((message, _fds)) => return Ok(message),
                None => guard.clear_ready(),
            }
        }
    }
}

/// What has happened.
#[derive(Debug)]
pub enum Event {
    /// The plane said something.
    Plane(Result<FromPlane, MsgError>),
    /// The host's file was written.
    Resolvers(Resolvers),
    /// The host's IPv6 route came or went.
    HostV6(bool),
    /// The tap's interface is gone, and the plane has not noticed.
    TapGone,
}

/// How often the tap is looked at.
const LOOK: Duration = Duration::from_secs(5);

/// The sources of [`Event`].
#[derive(Debug)]
pub struct Sources {
    plane: Inbox,
    /// Whose messages `plane` waits for.
    pid: Pid,
    resolvers: resolvers::Watch,
    host_v6: host_v6::Watch,
    looks: Interval,
}

impl Sources {
    /// Needs the runtime.
    ///
    /// # Errors
    /// The descriptor limit.
    pub fn new(plane: &Plane, host_v6: bool) -> Result<Self, ControlError> {
        let mut looks = interval_at(Instant::now() + LOOK, LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self {
            plane: Inbox::new(plane.channel()).map_err(ControlError::system("epoll"))?,
            pid: plane.pid(),
            resolvers: resolvers::Watch::new(),
            host_v6: host_v6::Watch::new(host_v6),
            looks,
        })
    }

    /// The next event; of another plane, where that has taken the place of the one before. Safe to cancel.
    pub async fn next(&mut self, plane: &Plane) -> Event {
        if self.pid != plane.pid() {
            match Inbox::new(plane.channel()) {
                Ok(inbox) => (self.plane, self.pid) = (inbox, plane.pid()),
                Err(e) => return Event::Plane(Err(e.into())),
            }
        }
        let gone = async {
            loop {
                self.looks.tick().await;
                if plane.tap_is_gone() {
                    break;
                }
            }
        };
        tokio::select! {
            biased;
            message = self.plane.next(plane.channel()) => Event::Plane(message),
            resolvers = self.resolvers.changed() => Event::Resolvers(resolvers),
            usable = self.host_v6.changed() => Event::HostV6(usable),
            () = gone => Event::TapGone,
        }
    }
}
