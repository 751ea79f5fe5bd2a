//! The life of slirp4netns as ringtap plays it: a tap for a namespace, forwards by its own little API, nothing else.
//!
//! Theory of operation. As [`super::attach`], less what callers of slirp4netns have no use for: no state directory and no
//! process left inside. A process goes into the namespace, makes the tap (or attaches to the one that waits there), hands
//! it over and ends; or the caller passes a tap that it has opened itself. Then the plane starts, the sandbox closes around
//! this process, the API socket is served ([`server`]), and the caller is told by `--ready-fd`. Forwards
//! ([`api`]) enter the guest through the tap, with their client's address.
//!
//! It ends with 0 when told to (SIGTERM and its like, anything on `--exit-fd`) and when the tap is removed. Not when the
//! namespace has no process any more: our descriptor of the tap keeps the namespace, and callers count on it (upstream
//! behaves alike, and is ended by whoever started it). The API socket is gone by then; only a SIGKILL leaves it behind, which the next start at that path removes.

pub mod api;
pub mod server;

use super::inside;
use super::plane::{News, Plane};
use super::ports::Ports;
use super::ready::Ready;
use super::serve::{Event, Sources};
use super::signals::{self, Signals};
use super::{Common, ControlError, PlaneMain, host_v6, resolvers, runtime};
use crate::config::{PortOptions, Via};
use crate::msg::Channel;
use crate::netns::join::{self, Target};
use crate::netns::{NetnsError, process};
use crate::sandbox::slirp4netns as sandbox;
use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use server::{Calls, Socket};
use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// Where the tap is.
#[derive(Debug)]
pub enum Place {
    /// In a namespace that is to be entered; it is made there unless it exists.
    Namespace {
        /// File of the network namespace.
        netns: PathBuf,
        /// File of the user namespace to enter, if not the owner of the network namespace.
        userns: Option<PathBuf>,
    },
    /// The caller has opened it.
    Tap(OwnedFd),
}

/// What the caller wants.
#[derive(Debug)]
pub struct Slirp4netns {
    /// As for every verb; ports come by the API only.
    pub common: Common,
    /// Where the tap is.
    pub place: Place,
    /// Set addresses and routes.
    pub configure: bool,
    /// Anything that happens on it ends us.
    pub exit_fd: Option<OwnedFd>,
    /// Where the API listens.
    pub api_socket: Option<PathBuf>,
    /// Hide the file system and drop capabilities.
    pub sandbox: bool,
    /// Refuse system calls that serve only an intruder.
    pub seccomp: bool,
    /// Said on standard output once the tap is there.
    pub banner: String,
}

/// Serves until it is time to end.
///
/// # Errors
/// [`ControlError`]; everything that was started has ended by then.
pub fn serve(mut wanted: Slirp4netns, plane_main: PlaneMain) -> Result<u8, ControlError> {
    signals::block().map_err(ControlError::system("block signals"))?;
    let socket = wanted.api_socket.as_deref().map(Socket::bind).transpose()?;
    let tap = match wanted.place {
        Place::Tap(tap) => tap,
        Place::Namespace { ref netns, ref userns } => {
            let target = Target::open(netns, userns.as_deref()).map_err(NetnsError::from)?;
            enter(&wanted.common, &target, wanted.configure)?
        }
    };
    // Nobody reading it is no reason not to run.
    let _ = std::io::stdout().write_all(wanted.banner.as_bytes());
    let _ = std::io::stdout().flush();
    let v6 = host_v6::usable();
    let resolvers = wanted.common.resolvers(resolvers::read());
    // Before both, for it has a sandbox of its own that is narrower; one that takes its place is behind them.
    let mut plane = Plane::spawn(plane_main, wanted.common.sandbox, true)?;
    if wanted.sandbox {
        for warning in sandbox::enter() {
            tracing::warn!("{warning}");
        }
    }
    if wanted.seccomp
        && let Err(e) = sandbox::refuse_syscalls()
    {
        tracing::warn!("--enable-seccomp: {e}; running without");
    }
    plane.start(&wanted.common, resolvers, v6, tap)?;
    let runtime = runtime::start()?;
    match runtime.block_on(run(&mut wanted.common, wanted.exit_fd, &mut plane, socket, v6)) {
        Ok(()) | Err(ControlError::TapGone) => Ok(0),
        Err(e) => Err(e),
    }
}

/// Sends a process inside, which makes the tap and ends when it has handed it over.
fn enter(common: &Common, target: &Target, configure: bool) -> Result<OwnedFd, ControlError> {
    let (ours, theirs) = Channel::pair()?;
    let process =
        process::spawn(CloneFlags::empty(), || join::main(&theirs, target, &common.network, configure))
            .map_err(NetnsError::from)?;
    drop(theirs);
    let tap = inside::Tap::wait(&ours);
    // The end of its channel ends it.
    drop(ours);
    let _ = waitpid(process.pid, None);
    Ok(tap?.fd)
}

async fn run(
    common: &mut Common,
    exit_fd: Option<OwnedFd>,
    plane: &mut Plane,
    socket: Option<Socket>,
    v6: bool,
) -> Result<(), ControlError> {
    let mut calls = Calls::open(socket.as_ref())?;
    // No process stays inside that could hand sockets over.
    let through_the_tap = PortOptions { via: Some(Via::Tap), ..common.port_defaults };
    let mut ports = Ports::new(common.network.clone(), through_the_tap, false);
    let mut sources = Sources::new(plane, v6)?;
    let mut signals = Signals::new().map_err(ControlError::system("signalfd"))?;
    let exit_fd = exit_fd.map(Ready::new).transpose();
    let exit_fd = exit_fd.map_err(ControlError::system("watch --exit-fd"))?;
    loop {
        tokio::select! {
            biased;
            signal = signals.end() => {
                return signal.map(|_| ()).map_err(ControlError::system("signalfd"));
            }
            () = happens(exit_fd.as_ref()) => {
                let _ = writeln!(std::io::stderr(), "exitfd event");
                return Ok(());
            }
            event = sources.next(plane) => match event {
                Event::Plane(message) => match plane.handle(message)? {
                    News::Ready => tell(common.ready_fd.take()),
                    News::Replaced => ports.publish_all(plane.channel())?,
                    News::FactoryLost | News::None => {}
                },
                Event::Resolvers(host) => plane.set_resolvers(common.resolvers(host))?,
                Event::HostV6(usable) => plane.set_host_v6(usable)?,
                Event::TapGone => return Err(ControlError::TapGone),
            },
            call = calls.next() => {
                let answer = api::answer(&mut ports, &common.network, &call.request, plane.channel());
                // A client that is gone needs no answer.
                let _ = call.reply.send(answer);
            }
        }
    }
}

/// Exactly one `1`, then the end of file. Not to `$NOTIFY_SOCKET`, which is the caller's.
fn tell(ready_fd: Option<OwnedFd>) {
    if let Some(fd) = ready_fd
        && let Err(e) = File::from(fd).write_all(b"1")
    {
        tracing::warn!("--ready-fd: {e}");
    }
}

/// Waits for an event on a descriptor, for ever if there is none.
async fn happens(fd: Option<&Ready>) {
    match fd {
        Some(fd) if fd.wait().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}
