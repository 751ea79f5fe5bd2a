//! `ringtap attach`: a network for a namespace that exists.
//!
//! A process goes inside, makes and configures the tap, hands it over, and stays there as the socket factory of published
//! ports ([`crate::netns::factory`]); it holds two channels and ends with control. Control then serves until it is told to
//! end (SIGTERM, SIGINT, SIGHUP, SIGQUIT), until the process that the namespace was named by ends, or until anything
//! happens on `--exit-fd`. All of these are success.

use super::api::{Api, Facts};
use super::inside::{Inside, NO_FACTORY, Relaying, Tap};
use super::plane::{News, Plane};
use super::ready::Ready;
use super::serve::{Event, Inbox, Sources};
use super::signals::{self, Signals};
use super::state::StateDir;
use super::{Common, ControlError, PlaneMain, host_v6, notify, ports, resolvers, runtime};
use crate::msg::{Channel, FromChild, MsgError};
use crate::netns::join::{self, JoinError, Target};
use crate::netns::{NetnsError, process};
use nix::sched::CloneFlags;
use nix::sys::wait::waitpid;
use rustix::process::{PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// What names the namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// That of a process.
    Pid(i32),
    /// A file, as `ip netns` and container engines make them.
    Path(PathBuf),
}

/// What `attach` is to do.
#[derive(Debug)]
pub struct Attach {
    /// As for every verb.
    pub common: Common,
    /// Where to.
    pub namespace: Namespace,
    /// The user namespace to enter, if not the owner of the network namespace.
    pub userns: Option<PathBuf>,
    /// Set addresses and routes.
    pub configure: bool,
    /// Anything that happens on it ends us.
    pub exit_fd: Option<OwnedFd>,
}

/// Serves the namespace until it is time to end.
///
/// # Errors
/// [`ControlError`]; everything that was started has ended by then.
pub fn attach(mut attach: Attach, plane_main: PlaneMain) -> Result<u8, ControlError> {
    signals::block().map_err(ControlError::system("block signals"))?;
    // The process is named by a descriptor first and its namespace opened then: a number used again is noticed.
    let (process, path) = match &attach.namespace {
        Namespace::Pid(pid) => (Some(open_process(*pid)?), PathBuf::from(format!("/proc/{pid}/ns/net"))),
        Namespace::Path(path) => (None, path.clone()),
    };
    let target = Target::open(&path, attach.userns.as_deref()).map_err(NetnsError::from)?;
    let mut state = StateDir::create(None)?;
    let mut plane = Plane::spawn(plane_main, attach.common.sandbox, true)?;
    state.write("plane_pid", &plane.pid().to_string())?;
    let (inside, tap) = enter(&attach, &target)?;
    drop(target);
    let v6 = host_v6::usable();
    plane.start(&attach.common, attach.common.resolvers(resolvers::read()), v6, tap.fd)?;
    let child_pid = match attach.namespace {
        Namespace::Pid(pid) => pid,
        Namespace::Path(_) => 0,
    };
    let facts = Facts::new("attach", Some(std::path::absolute(&path).unwrap_or(path).display().to_string()));
    let mut api = Api::publish(&attach.common, state.path(), child_pid, facts, plane.channel())?;
    let runtime = runtime::start()?;
    runtime.block_on(async {
        api.open(&mut state)?;
        serve(&mut attach, &mut plane, &mut state, &mut api, inside, process, v6).await
    })?;
    Ok(0)
}

fn open_process(pid: i32) -> Result<OwnedFd, NetnsError> {
    let source = match rustix::process::Pid::from_raw(pid) {
        Some(pid) => match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(fd) => return Ok(fd),
            Err(e) => e.into(),
        },
        None => std::io::Error::from_raw_os_error(libc::ESRCH),
    };
    Err(JoinError::Open { path: format!("process {pid}"), source }.into())
}

/// Sends a process inside and takes what it brings.
fn enter(attach: &Attach, target: &Target) -> Result<(Inside, Tap), ControlError> {
    let (ours, theirs) = Channel::pair()?;
    let process = process::spawn(CloneFlags::empty(), || {
        join::main(&theirs, target, &attach.common.network, attach.configure)
    })
    .map_err(NetnsError::from)?;
    drop(theirs);
    match Tap::wait(&ours) {
        Ok(tap) => Ok((Inside::new(process, ours, tap.netns_cookie), tap)),
        Err(e) => {
            // It ends by itself when it has said why, or at the end of its channel.
            drop(ours);
            let _ = waitpid(process.pid, None);
            Err(e)
        }
    }
}

async fn serve(
    attach: &mut Attach,
    plane: &mut Plane,
    state: &mut StateDir,
    api: &mut Api,
    inside: Inside,
    process: Option<OwnedFd>,
    v6: bool,
) -> Result<(), ControlError> {
    let mut inbox = Inbox::new(inside.channel()).map_err(ControlError::system("epoll"))?;
    let mut inside = Some(inside);
    let mut sources = Sources::new(plane, v6)?;
    let mut signals = Signals::new().map_err(ControlError::system("signalfd"))?;
    let watch = |fd: Option<OwnedFd>| fd.map(Ready::new).transpose();
    let process = watch(process).map_err(ControlError::system("watch the process"))?;
    let exit_fd = watch(attach.exit_fd.take()).map_err(ControlError::system("watch --exit-fd"))?;
    let mut ready = false;
    let mut relaying = Relaying::default();
    loop {
        if let Some(inside) = &inside {
            relaying.ask_if_wanted(api, inside.channel(), plane, inside.netns_cookie())?;
        }
        tokio::select! {
            biased;
            signal = signals.end() => {
                tracing::info!("ending: {}", signal.map_err(ControlError::system("signalfd"))?);
                return Ok(());
            }
            () = happens(process.as_ref()) => {
                tracing::info!("ending: the process of the namespace has ended");
                return Ok(());
            }
            () = happens(exit_fd.as_ref()) => {
                tracing::info!("ending: --exit-fd");
                return Ok(());
            }
            message = hear(&mut inbox, inside.as_ref()) => match message {
                Ok(FromChild::Warning(text)) => tracing::warn!("{text}"),
                Ok(FromChild::Steered { v4, v6 }) => {
                    api.set_inside(ports::Inside::Steered { v4, v6 }, plane.channel())?;
                }
                Ok(_) => {}
                Err(_) => {
                    tracing::warn!("the process inside was killed; attach again for relayed ports");
                    inside = None;
                    api.relaying_is_over(NO_FACTORY, plane.channel())?;
                }
            },
            event = sources.next(plane) => match event {
                Event::Plane(message) => {
                    let Some(message) = api.hear(message, plane.channel()) else { continue };
                    match plane.handle(message)? {
                        News::Ready => {
                            // Whoever waits is told once, whatever becomes of the first plane.
                            if !std::mem::replace(&mut ready, true) {
                                notify::ready(attach.common.ready_fd.take());
                            }
                        }
                        News::Replaced => {
                            state.replace("plane_pid", &plane.pid().to_string())?;
                            if let Some(inside) = &inside {
                                relaying.plane_replaced(inside.channel(), plane, inside.netns_cookie())?;
                            }
                            api.plane_replaced(plane.channel())?;
                        }
                        News::FactoryLost => api.relaying_is_over(NO_FACTORY, plane.channel())?,
                        News::None => {}
                    }
                }
                Event::Resolvers(host) => {
                    plane.set_resolvers(attach.common.resolvers(host))?;
                }
                Event::HostV6(usable) => plane.set_host_v6(usable)?,
                Event::TapGone => return Err(ControlError::TapGone),
            },
            call = api.next() => api.handle(call, plane.channel()),
        }
    }
}

/// The next message of the process inside; waits for ever once it is gone.
async fn hear(inbox: &mut Inbox, inside: Option<&Inside>) -> Result<FromChild, MsgError> {
    match inside {
        Some(inside) => inbox.next(inside.channel()).await,
        None => std::future::pending().await,
    }
}

/// Waits for an event on a descriptor, for ever if there is none.
async fn happens(fd: Option<&Ready>) {
    match fd {
        Some(fd) if fd.wait().await.is_ok() => {}
        _ => std::future::pending().await,
    }
}
