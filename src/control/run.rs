//! `ringtap run`: from configuration to COMMAND's exit status.
//!
//! The start is arranged so that processes work at the same time. The plane is forked first; it sets up its ring and
//! then waits for the tap. The child is forked into its namespaces and configures its network while newuidmap and
//! newgidmap write its maps. Then the runtime starts while the child mounts. COMMAND starts when both the plane and
//! the child have said that they are ready; by then the ports given at start are bound and the API answers.

use super::api::Api;
use super::inside::{NO_FACTORY, Relaying, Tap};
use super::plane::{News, Plane};
use super::ports::Inside;
use super::serve::{Event, Inbox, Sources};
use super::signals::{self, Signals};
use super::state::StateDir;
use super::terminal::Terminal;
use super::{Common, ControlError, PlaneMain, etc, host_v6, notify, resolvers, runtime};
use crate::config::Resolvers;
use crate::msg::{Channel, FromChild, MsgError, ToChild};
use crate::netns::exec::Command;
use crate::netns::idmap::Plan;
use crate::netns::init::{self, InitConfig};
use crate::netns::mounts::{MountPlan, Propagation};
use crate::netns::{NetnsError, process};
use nix::sched::CloneFlags;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// What every `run` makes.
const NAMESPACES: CloneFlags =
    CloneFlags::CLONE_NEWUSER.union(CloneFlags::CLONE_NEWNS).union(CloneFlags::CLONE_NEWNET);

/// What `run` is to do.
#[derive(Debug)]
pub struct Run {
    /// As for every verb.
    pub common: Common,
    /// Namespaces beside the user, mount and network namespace: any of PID, UTS, IPC, cgroup.
    pub namespaces: CloneFlags,
    /// Host name to set; needs the UTS namespace.
    pub hostname: Option<String>,
    /// Propagation of mounts.
    pub propagation: Propagation,
    /// Directories to make writable.
    pub copy_up: Vec<PathBuf>,
    /// Where to keep state, if not in a place of our own.
    pub state_dir: Option<PathBuf>,
    /// COMMAND and its arguments; not empty.
    pub command: Vec<OsString>,
}

/// Runs COMMAND; the result is its exit status.
///
/// # Errors
/// [`ControlError`]; everything that was started has ended by then.
pub fn run(mut run: Run, plane_main: PlaneMain) -> Result<u8, ControlError> {
    let mask = signals::block().map_err(ControlError::system("block signals"))?;
    let Some(command) = Command::new(std::mem::take(&mut run.command), mask) else {
        return Err(ControlError::Child("no command to run; name one after the options".to_owned()));
    };
    let terminal = Terminal::remember();
    let outcome = Session::start(run, command, plane_main, terminal.as_ref()).and_then(|mut session| {
        let runtime = runtime::start()?;
        runtime.block_on(session.serve())
    });
    if let Some(terminal) = terminal {
        terminal.restore();
    }
    outcome
}

/// The child as control sees it. Dropping it ends it and everything in its care.
#[derive(Debug)]
struct Child {
    process: process::Spawned,
    /// `None` once control has closed its end.
    channel: Option<Channel>,
    pid_namespace: bool,
}

impl Child {
    fn channel(&self) -> Result<&Channel, MsgError> {
        self.channel.as_ref().ok_or(MsgError::Closed)
    }

    /// Sends a message. That the child has ended shows at the next receive.
    fn send(&self, message: ToChild) -> Result<(), MsgError> {
        match self.channel()?.send(&message, &[]) {
            Err(MsgError::Closed) => Ok(()),
            other => other,
        }
    }

    /// Waits for the tap.
    fn tap(&self) -> Result<Tap, ControlError> {
        Tap::wait(self.channel()?)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.channel = None;
        if self.pid_namespace {
            // The kernel kills the rest of the namespace with its first process.
            let _ = kill(self.process.pid, Signal::SIGKILL);
        }
        // Otherwise it kills its descendants now that its channel is closed, and ends.
        let _ = waitpid(self.process.pid, None);
    }
}

/// A running instance. Fields are dropped in order: nothing inside should see its network vanish, so the child goes
/// before the plane.
#[derive(Debug)]
struct Session {
    child: Child,
    plane: Plane,
    state: StateDir,
    api: Api,
    common: Common,
    host_v6: bool,
    netns_cookie: u64,
    relaying: Relaying,
    plane_ready: bool,
    child_ready: bool,
    /// COMMAND has been started.
    running: bool,
}

impl Session {
    /// Forks plane and child, and brings them to where both work on their own.
    fn start(
        run: Run,
        command: Command,
        plane_main: PlaneMain,
        terminal: Option<&Terminal>,
    ) -> Result<Self, ControlError> {
        let host = resolvers::read();
        let mut state = StateDir::create(run.state_dir.as_deref())?;
        let mounts = mount_plan(&run, &mut state, &host)?;
        let mut plane = Plane::spawn(plane_main, run.common.sandbox, run.common.pcap.is_some())?;
        state.write("plane_pid", &plane.pid().to_string())?;
        let pid_namespace = run.namespaces.contains(CloneFlags::CLONE_NEWPID);
        let config = InitConfig {
            network: run.common.network.clone(),
            mounts,
            hostname: run.hostname.clone(),
            pid_namespace,
            command,
        };
        let plan = Plan::for_caller();
        let (ours, theirs) = Channel::pair()?;
        let mut not_theirs = vec![ours.as_fd(), state.as_fd()];
        not_theirs.extend(plane.descriptors());
        not_theirs.extend(terminal.map(AsFd::as_fd));
        not_theirs.extend(run.common.ready_fd.as_ref().map(AsFd::as_fd));
        not_theirs.extend(run.common.pcap.as_ref().map(AsFd::as_fd));
        let process = process::spawn(NAMESPACES | run.namespaces, || {
            process::close_copies(&not_theirs);
            init::main(theirs, &config)
        })
        .map_err(NetnsError::from)?;
        drop(not_theirs);
        let child = Child { process, channel: Some(ours), pid_namespace };

        // The helpers write the maps while the child makes its tap and the plane its ring.
        let mapping = plan.start(child.process.pid);
        let host_v6 = host_v6::usable();
        let tap = child.tap()?;
        let netns_cookie = tap.netns_cookie;
        plane.start(&run.common, run.common.resolvers(host), host_v6, tap.fd)?;
        for warning in mapping.finish().map_err(NetnsError::from)? {
            tracing::warn!("{warning}");
        }
        child.send(ToChild::Mapped)?;
        let child_pid = child.process.pid.as_raw();
        let api = Api::publish(&run.common, state.path(), child_pid, plane.channel())?;
        state.announce("child_pid", &child_pid.to_string())?;
        let (plane_ready, child_ready, running) = (false, false, false);
        Ok(Self {
            child,
            plane,
            state,
            api,
            common: run.common,
            host_v6,
            netns_cookie,
            relaying: Relaying::default(),
            plane_ready,
            child_ready,
            running,
        })
    }

    /// Serves until COMMAND has ended; the result is its exit status.
    async fn serve(&mut self) -> Result<u8, ControlError> {
        let mut sources = Sources::new(&self.plane, self.host_v6)?;
        let mut signals = Signals::new().map_err(ControlError::system("signalfd"))?;
        let mut inbox = Inbox::new(self.child.channel()?).map_err(ControlError::system("epoll"))?;
        self.api.open(&mut self.state)?;
        loop {
            let channel = self.child.channel()?;
            tokio::select! {
                biased;
                message = inbox.next(channel) => {
                    if let Some(status) = self.hear_child(message)? {
                        // COMMAND is gone; what it left behind and the plane can end side by side.
                        self.plane.begin_end();
                        return Ok(status);
                    }
                }
                signal = signals.next() => {
                    let signal = signal.map_err(ControlError::system("signalfd"))?;
                    if !self.running && signals::asks_to_end(signal) {
                        return Ok(128 + signal as u8);
                    }
                    self.child.send(ToChild::Signal(signal as i32))?;
                }
                event = sources.next(&self.plane) => self.hear(event)?,
                call = self.api.next() => self.api.handle(call, self.plane.channel()),
            }
            // Behind COMMAND's start, which must not wait for it.
            if self.running {
                let child = self.child.channel()?;
                self.relaying.ask_if_wanted(&self.api, child, &self.plane, self.netns_cookie)?;
            }
        }
    }

    fn hear(&mut self, event: Event) -> Result<(), ControlError> {
        match event {
            Event::Plane(message) => {
                let Some(message) = self.api.hear(message, self.plane.channel()) else { return Ok(()) };
                match self.plane.handle(message)? {
                    News::Ready => {
                        self.plane_ready = true;
                        self.go_when_ready()?;
                    }
                    News::Replaced => {
                        self.state.replace("plane_pid", &self.plane.pid().to_string())?;
                        let child = self.child.channel()?;
                        self.relaying.plane_replaced(child, &self.plane, self.netns_cookie)?;
                        self.api.plane_replaced(self.plane.channel())?;
                    }
                    News::FactoryLost => {
                        self.api.relaying_is_over(NO_FACTORY, self.plane.channel())?;
                    }
                    News::None => {}
                }
            }
            Event::Resolvers(host) => {
                if self.common.network.dns {
                    self.state.write("resolv.conf", &etc::resolv_conf(&self.common.network, &host))?;
                    self.child.send(ToChild::EtcChanged)?;
                }
                tracing::info!("the host's resolvers are now {:?}", host.servers);
                self.plane.set_resolvers(self.common.resolvers(host))?;
            }
            Event::HostV6(usable) => {
                tracing::info!("the host's IPv6 route {}", if usable { "came" } else { "went" });
                self.plane.set_host_v6(usable)?;
            }
        }
        Ok(())
    }

    /// Acts on a message of the child; the exit status once COMMAND has ended.
    fn hear_child(&mut self, message: Result<FromChild, MsgError>) -> Result<Option<u8>, ControlError> {
        match message {
            Ok(FromChild::Prepared) => {
                self.child_ready = true;
                self.go_when_ready()?;
            }
            Ok(FromChild::Stopped) => self.child.send(ToChild::StillStopped)?,
            Ok(FromChild::StillStopped(signal)) => signals::stop_like(signal),
            Ok(FromChild::Steered { v4, v6 }) => {
                self.api.set_inside(Inside::Steered { v4, v6 }, self.plane.channel())?;
            }
            Ok(FromChild::Tap { .. }) => {}
            Ok(FromChild::Warning(text)) => tracing::warn!("{text}"),
            Ok(FromChild::Failed(text)) => return Err(ControlError::Child(text)),
            Ok(FromChild::Exited(status)) => return Ok(Some(status)),
            Err(MsgError::Closed) if self.running => {
                // Somebody has killed the first process itself; say what a shell would say of it.
                return Ok(Some(match waitpid(self.child.process.pid, None) {
                    Ok(WaitStatus::Exited(_, code)) => u8::try_from(code).unwrap_or(1),
                    Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as u8,
                    _ => 1,
                }));
            }
            Err(MsgError::Closed) => return Err(ControlError::ChildGone),
            Err(e) => return Err(e.into()),
        }
        Ok(None)
    }

    /// Starts COMMAND once the network works and the mounts are made.
    fn go_when_ready(&mut self) -> Result<(), ControlError> {
        if self.plane_ready && self.child_ready && !self.running {
            self.running = true;
            notify::ready(self.common.ready_fd.take());
            self.child.send(ToChild::Go)?;
        }
        Ok(())
    }
}

/// The text of the guest's files, and what to mount.
fn mount_plan(run: &Run, state: &mut StateDir, host: &Resolvers) -> Result<MountPlan, ControlError> {
    let hostname = match &run.hostname {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let hosts = fs::read("/etc/hosts").unwrap_or_default();
    let hosts = etc::hosts(&String::from_utf8_lossy(&hosts), &hostname);
    let network = &run.common.network;
    Ok(MountPlan {
        propagation: run.propagation,
        proc: run.namespaces.contains(CloneFlags::CLONE_NEWPID),
        copy_up: run.copy_up.clone(),
        hosts: Some(state.write("hosts", &hosts)?),
        resolv_conf: match network.dns {
            true => Some(state.write("resolv.conf", &etc::resolv_conf(network, host))?),
            false => None,
        },
    })
}
