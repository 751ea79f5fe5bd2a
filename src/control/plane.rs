//! The plane process as control sees it: fork, first message, news, end; and another one in its place when it dies.
//!
//! Theory of operation. Control keeps what a plane has been told: the tap, the capture file, the first message, and what
//! has changed since. When the plane ends without having been asked to, the file end of its channel says so, and
//! another plane is forked at once and told the same ([`Plane::handle`]). The guest sees its interface go silent for some
//! milliseconds; the new plane knows none of its connections and resets each as it speaks.
//!
//! The other plane is forked from control as it is then, with the runtime at work. That is sound because control never
//! has a second thread of its own: the runtime drives everything on one, and what io_uring adds are kernel threads that
//! run no code of ours ([`process::spawn`] tells them apart). No lock is held in the copy, for the only thread there is is
//! the one that forks; it uses nothing of the runtime, closes every descriptor but its own, and never returns to the
//! frames above. The runtime's ring is a shared mapping, by which a plane could make control do things, so the copy does
//! not get it ([`process::keep_rings`]). The alternatives cost more: a process kept ready for forking is memory and a fork
//! at every start for something that should never happen, and executing the program anew would take the code from a file
//! that may have been replaced, give back the privileges of that file, and share no relocated page with control.
//!
//! Limits: [`DEATHS`] within [`WITHIN`] end the instance. A plane that says why it cannot work, or that ends in good order
//! because the tap's namespace is gone, is not replaced.

use super::{Common, ControlError, PlaneMain};
use crate::config::{Resolvers, SandboxMode};
use crate::msg::{Channel, FromPlane, Level, MsgError, Start, ToPlane};
use crate::netns::{NetnsError, process};
use crate::tap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use std::collections::VecDeque;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// How long the plane may take to finish its capture file once told to stop, in milliseconds.
const STOP_MS: u16 = 1000;
/// So many deaths are a plane that cannot live.
pub const DEATHS: usize = 5;
/// When they come within this time.
pub const WITHIN: Duration = Duration::from_secs(10);

/// What a message of the plane means for the life of the instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing.
    None,
    /// Frames flow. Said once by every plane, the first and those that took its place: what is not part of
    /// [`Plane::start`] (the socket factory, published ports) is sent to each of them now.
    Ready,
    /// Its channel to the socket factory has failed: relayed ports are to be published anew.
    FactoryLost,
    /// It died, and another has taken its place: it has another process id and another channel, has been told everything
    /// of [`Plane::start`], and will say [`News::Ready`] itself.
    Replaced,
}

/// What is told to every plane.
#[derive(Debug)]
struct Told {
    start: Start,
    tap: OwnedFd,
    pcap: Option<File>,
}

/// The plane process. Dropping it ends it.
#[derive(Debug)]
pub struct Plane {
    main: PlaneMain,
    sandbox: SandboxMode,
    process: process::Spawned,
    channel: Channel,
    /// It is asked to end instead of killed: it has a capture file to finish, or a tap in a namespace that outlives
    /// it, and a ring that is killed lets go of its tap only some time after the process is gone.
    orderly: bool,
    ending: bool,
    ended: Option<WaitStatus>,
    /// `None` before the start and once it is to end: control must not be the last to hold the tap, for the kernel takes
    /// milliseconds to remove it.
    told: Option<Told>,
    deaths: Deaths,
}

impl Plane {
    /// Forks it. It lives in a session of its own, so that a terminal's ^C and ^Z pass it by, holds nothing but its
    /// channel and standard error, and dies with us. An `orderly` one is asked to end when the time comes; another one
    /// is killed, which is quicker.
    ///
    /// # Errors
    /// No room for a process or a socket.
    pub fn spawn(main: PlaneMain, sandbox: SandboxMode, orderly: bool) -> Result<Self, ControlError> {
        let (process, channel) = fork(main, sandbox)?;
        Ok(Self {
            main,
            sandbox,
            process,
            channel,
            orderly,
            ending: false,
            ended: None,
            told: None,
            deaths: Deaths::default(),
        })
    }

    /// Sends the first message: the tap and everything known so far; and keeps it for a successor.
    ///
    /// # Errors
    /// Those of [`Plane::send`], and the descriptor limit.
    pub fn start(
        &mut self,
        common: &Common,
        resolvers: Resolvers,
        host_v6: bool,
        tap: OwnedFd,
    ) -> Result<(), ControlError> {
        let pcap = common.pcap.as_ref().map(File::try_clone).transpose();
        let pcap = pcap.map_err(ControlError::system("keep the capture file"))?;
        let start = Start {
            network: common.network.clone(),
            resolvers,
            host_v6,
            pcap: pcap.is_some(),
            resumed: false,
            log_level: common.log_level,
        };
        self.told = Some(Told { start, tap, pcap });
        Ok(self.tell()?)
    }

    fn tell(&self) -> Result<(), MsgError> {
        let Some(told) = &self.told else { return Ok(()) };
        let mut fds = vec![told.tap.as_fd()];
        fds.extend(told.pcap.as_ref().map(AsFd::as_fd));
        self.send(&ToPlane::Start(Box::new(told.start.clone())), &fds)
    }

    /// The host's resolvers have changed: says so to this plane and to those that may follow it.
    ///
    /// # Errors
    /// Those of [`Plane::send`].
    pub fn set_resolvers(&mut self, resolvers: Resolvers) -> Result<(), MsgError> {
        if let Some(told) = &mut self.told {
            told.start.resolvers = resolvers.clone();
        }
        self.send(&ToPlane::Resolvers(resolvers), &[])
    }

    /// The host's IPv6 route came or went: says so to this plane and to those that may follow it.
    ///
    /// # Errors
    /// Those of [`Plane::send`].
    pub fn set_host_v6(&mut self, usable: bool) -> Result<(), MsgError> {
        if let Some(told) = &mut self.told {
            told.start.host_v6 = usable;
        }
        self.send(&ToPlane::HostV6(usable), &[])
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        self.process.pid
    }

    /// Its descriptors in control, to be closed in a fork made before [`Plane::start`].
    pub fn descriptors(&self) -> [BorrowedFd<'_>; 2] {
        [self.channel.as_fd(), self.process.pidfd.as_fd()]
    }

    /// The channel, to wait on. Another one after [`News::Replaced`].
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

    /// Acts on a message of the plane: logs its notices, puts another one in its place when it has died.
    ///
    /// # Errors
    /// The plane said why it cannot work, has ended because the tap is gone, or dies again and again.
    pub fn handle(&mut self, message: Result<FromPlane, MsgError>) -> Result<News, ControlError> {
        match message {
            Ok(FromPlane::Ready { ring, tap }) => {
                tracing::info!("data plane ready: {ring}; tap: {tap}");
                return Ok(News::Ready);
            }
            Ok(FromPlane::Failed { text }) => return Err(ControlError::Plane(text)),
            // The API takes its answers before they come here.
            Ok(
                FromPlane::Counters(_)
                | FromPlane::Flows(_)
                | FromPlane::Flow(_)
                | FromPlane::Stats(_)
                | FromPlane::Ports(_),
            ) => {}
            Ok(FromPlane::FactoryLost { text }) => {
                tracing::warn!("{text}");
                return Ok(News::FactoryLost);
            }
            Ok(FromPlane::Notice { level, text }) => log(level, &text),
            Err(MsgError::Closed) => {
                self.replace()?;
                return Ok(News::Replaced);
            }
            Err(e) => return Err(e.into()),
        }
        Ok(News::None)
    }

    /// Puts another plane in the place of one that has died.
    fn replace(&mut self) -> Result<(), ControlError> {
        let status = self.wait();
        let how = how_it_ended(status);
        // Of itself it ends in good order when its tap is gone, with the namespace.
        let died = !matches!(status, WaitStatus::Exited(_, 0));
        if !died && !self.ending {
            return Err(ControlError::TapGone);
        }
        let Some(told) = self.told.as_mut().filter(|_| !self.ending) else {
            return Err(ControlError::PlaneGone(how));
        };
        if self.deaths.too_many(Instant::now()) {
            return Err(ControlError::PlaneGone(format!("{how}, the {DEATHS}th time in a row")));
        }
        told.start.resumed = true;
        process::keep_rings().map_err(ControlError::system("fork another data plane"))?;
        (self.process, self.channel) = fork(self.main, self.sandbox)?;
        self.ended = None;
        self.tell()?;
        tracing::warn!(
            "the data plane ended ({how}); another one serves the same tap now: open connections are lost, new ones work"
        );
        Ok(())
    }

    /// Whether the interface of its tap is gone. It ends by itself then, unless the kernel's word has missed it: see
    /// [`tap::is_gone`].
    pub fn tap_is_gone(&self) -> bool {
        self.told.as_ref().is_some_and(|told| tap::is_gone(told.tap.as_fd()))
    }

    /// Makes it end, without waiting for it: its exit takes a while, for the kernel removes the tap on the way.
    pub fn begin_end(&mut self) {
        if self.ending || self.ended.is_some() {
            return;
        }
        self.ending = true;
        self.told = None;
        if self.orderly {
            let _ = self.channel.send(&ToPlane::Stop, &[]);
        } else {
            let _ = kill(self.process.pid, Signal::SIGKILL);
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

/// Forks the process that `main` is the life of.
fn fork(main: PlaneMain, sandbox: SandboxMode) -> Result<(process::Spawned, Channel), ControlError> {
    let (ours, theirs) = Channel::pair()?;
    let process = process::spawn(CloneFlags::empty(), move || {
        process::die_with_parent();
        process::keep_only(theirs.as_fd());
        let _ = nix::unistd::setsid();
        main(theirs, sandbox)
    })
    .map_err(NetnsError::from)?;
    Ok((process, ours))
}

fn how_it_ended(status: WaitStatus) -> String {
    match status {
        WaitStatus::Exited(_, code) => format!("exit status {code}"),
        WaitStatus::Signaled(_, signal, _) => format!("killed by {signal}"),
        other => format!("{other:?}"),
    }
}

/// The latest deaths, as many as count.
#[derive(Debug, Default)]
struct Deaths {
    at: VecDeque<Instant>,
}

impl Deaths {
    /// Counts one; true when there were [`DEATHS`] within [`WITHIN`].
    fn too_many(&mut self, now: Instant) -> bool {
        self.at.push_back(now);
        while self.at.front().is_some_and(|at| now.duration_since(*at) > WITHIN) {
            self.at.pop_front();
        }
        self.at.len() >= DEATHS
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_deaths_in_ten_seconds_are_too_many_and_five_in_a_minute_are_not() {
        let start = Instant::now();
        let mut deaths = Deaths::default();
        let mut at = |ms| deaths.too_many(start + Duration::from_millis(ms));
        assert!([0, 12_000, 24_000, 36_000, 48_000].into_iter().all(|ms| !at(ms)));
        assert!([60_000, 60_001, 60_002, 70_000].into_iter().all(|ms| !at(ms)));
        assert!(at(70_000));
    }
}
