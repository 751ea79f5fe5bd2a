//! The plane process as control sees it: fork, first message, news, end.

use super::{Common, ControlError, PlaneMain};
use crate::config::Resolvers;
use crate::msg::{Channel, FromPlane, Level, MsgError, Start, ToPlane};
use crate::netns::{NetnsError, process};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::os::fd::{AsFd, BorrowedFd};

/// How long the plane may take to finish its capture file once told to stop, in milliseconds.
const STOP_MS: u16 = 1000;

/// The plane process. Dropping it ends it.
#[derive(Debug)]
pub struct Plane {
    process: process::Spawned,
    channel: Channel,
    /// It is asked to end instead of killed: it has a capture file to finish, or a tap in a namespace that outlives
    /// it, and a ring that is killed lets go of its tap only some time after the process is gone.
    orderly: bool,
    ending: bool,
    ended: Option<WaitStatus>,
}

impl Plane {
    /// Forks it. It lives in a session of its own, so that a terminal's ^C and ^Z pass it by, holds nothing but its
    /// channel and standard error, and dies with us. An `orderly` one is asked to end when the time comes; another one
    /// is killed, which is quicker.
    ///
    /// # Errors
    /// No room for a process or a socket.
    pub fn spawn(main: PlaneMain, orderly: bool) -> Result<Self, ControlError> {
        let (ours, theirs) = Channel::pair()?;
        let process = process::spawn(CloneFlags::empty(), move || {
            process::die_with_parent();
            process::keep_only(theirs.as_fd());
            let _ = nix::unistd::setsid();
            main(theirs)
        })
        .map_err(NetnsError::from)?;
        Ok(Self { process, channel: ours, orderly, ending: false, ended: None })
    }

    /// Sends the first message: the tap and everything known so far.
    ///
    /// # Errors
    /// Those of [`Plane::send`].
    pub fn start(
        &self,
        common: &Common,
        resolvers: Resolvers,
        host_v6: bool,
        tap: BorrowedFd<'_>,
    ) -> Result<(), MsgError> {
        let start = Start {
            network: common.network.clone(),
            resolvers,
            host_v6,
            pcap: common.pcap.is_some(),
            log_level: common.log_level,
        };
        let mut fds = vec![tap];
        fds.extend(common.pcap.as_ref().map(AsFd::as_fd));
        self.send(&ToPlane::Start(Box::new(start)), &fds)
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid
    }

    /// Its descriptors in control, to be closed in a fork.
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.channel.as_fd(), self.process.pidfd.as_fd()]
    }

    /// The channel, to wait on.
    pub const fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Sends a message. That the plane has ended shows at the next receive.
    ///
    /// # Errors
    /// Those of [`Channel::send`] other than its end.
    pub fn send(&self, message: &ToPlane, fds: &[BorrowedFd<'_>]) -> Result<(), MsgError> {
        match self.channel.send(message, fds) {
            Err(MsgError::Closed) => Ok(()),
            other => other,
        }
    }

    /// Logs a notice of the plane; answers whether the message said that it is ready.
    ///
    /// # Errors
    /// The plane failed, or ended without a word.
    pub fn handle(&mut self, message: Result<FromPlane, MsgError>) -> Result<bool, ControlError> {
        match message {
            Ok(FromPlane::Ready { ring, tap }) => {
                tracing::info!("data plane ready: {ring}; tap: {tap}");
                Ok(true)
            }
            Ok(FromPlane::Failed { text }) => Err(ControlError::Plane(text)),
            Ok(FromPlane::Counters(counters)) => {
                tracing::debug!("{counters:?}");
                Ok(false)
            }
            Ok(FromPlane::Notice { level, text }) => {
                log(level, &text);
                Ok(false)
            }
            Err(MsgError::Closed) => Err(ControlError::PlaneGone(self.how_it_ended())),
            Err(e) => Err(e.into()),
        }
    }

    /// Makes it end, without waiting for it: its exit takes a while, for the kernel removes the tap on the way.
    pub fn begin_end(&mut self) {
        if self.ending || self.ended.is_some() {
            return;
        }
        self.ending = true;
        if self.orderly {
            let _ = self.channel.send(&ToPlane::Stop, &[]);
        } else {
            let _ = kill(self.process.pid, Signal::SIGKILL);
        }
    }

    fn how_it_ended(&mut self) -> String {
        match self.wait() {
            WaitStatus::Exited(_, code) => format!("exit status {code}"),
            WaitStatus::Signaled(_, signal, _) => format!("killed by {signal}"),
            other => format!("{other:?}"),
        }
    }

    fn wait(&mut self) -> WaitStatus {
        *self.ended.get_or_insert_with(|| {
            let mut fds = [PollFd::new(self.process.pidfd.as_fd(), PollFlags::POLLIN)];
            if poll(&mut fds, PollTimeout::from(STOP_MS)) != Ok(1) {
                let _ = kill(self.process.pid, Signal::SIGKILL);
            }
            waitpid(self.process.pid, None).unwrap_or(WaitStatus::StillAlive)
        })
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.begin_end();
        self.wait();
    }
}

fn log(level: Level, text: &str) {
    match level {
        Level::Error => tracing::error!("{text}"),
        Level::Warn => tracing::warn!("{text}"),
        Level::Info => tracing::info!("{text}"),
        Level::Debug => tracing::debug!("{text}"),
        Level::Trace => tracing::trace!("{text}"),
    }
}
