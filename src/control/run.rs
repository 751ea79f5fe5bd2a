//! `ringtap run`: from configuration to COMMAND's exit status.
//!
//! The start is arranged so that processes work at the same time. The plane is forked first; it sets up its ring and
//! then waits for the tap. The child is forked into its namespaces and configures its network while newuidmap and
//! newgidmap write its maps. Then the runtime starts while the child mounts. COMMAND starts when both the plane and
//! the child have said that they are ready; by then the ports given at start are bound and the API answers.
//!
//! Without a network of its own ([`Net::Host`]) there is no plane, and the rest is the same.

use super::api::{Api, Facts};
use super::child::Child;
use super::inside::{NO_FACTORY, Relaying};
use super::mirror::{self, Mirror};
use super::plane::{News, Plane};
use super::ports::Inside;
use super::serve::{Event, Inbox, Sources};
use super::signals::{self, Signals};
use super::state::StateDir;
use super::terminal::Terminal;
use super::{Common, ControlError, PlaneMain, cgroup, etc, host_v6, notify, resolvers, runtime};
use crate::config::Resolvers;
use crate::msg::{Channel, Ended, FromChild, MsgError, ToChild};
use crate::netns::exec::{Command, Manners};
use crate::netns::idmap::{Plan, SubIds};
use crate::netns::init::{self, InitConfig};
use crate::netns::mounts::{MountPlan, Propagation};
use crate::netns::place::Net;
use crate::netns::{NetnsError, process};
use nix::sched::CloneFlags;
use nix::unistd::{Gid, Uid};
use std::ffi::OsString;
use std::fs;
use std::os::fd::AsFd;
use std::path::PathBuf;

/// What every `run` makes.
const NAMESPACES: CloneFlags = CloneFlags::CLONE_NEWUSER.union(CloneFlags::CLONE_NEWNS);

/// What `run` is to do.
#[derive(Debug)]
pub struct Run {
    /// As for every verb.
    pub common: Common,
    /// Which network.
    pub net: Net,
    /// COMMAND stays in the host's network; its own is shown as `netns` in the state directory.
    pub detached: bool,
    /// Namespaces beside the user, mount and network namespace: any of PID, UTS, IPC, cgroup.
    pub namespaces: CloneFlags,
    /// Host name to set; needs the UTS namespace.
    pub hostname: Option<String>,
    /// Propagation of mounts.
    pub propagation: Propagation,
    /// Directories to make writable.
    pub copy_up: Vec<PathBuf>,
    /// What listens inside is published.
    pub mirror: bool,
    /// Where subordinate ids are looked up.
    pub sub_ids: SubIds,
    /// Name of the control group that every process of ours is moved to, so that ours can be divided further.
    pub evacuate: Option<String>,
    /// Where to keep state, if not in a place of our own.
    pub state_dir: Option<PathBuf>,
    /// COMMAND is to find what RootlessKit promises.
    pub rootlesskit: Option<AsRootlessKit>,
    /// COMMAND and its arguments; not empty.
    pub command: Vec<OsString>,
}

/// What is different in RootlessKit's place: the state directory may hold what others left there, COMMAND is told of it and
/// of us by environment variables, signals to the first process are for COMMAND, and without a pid namespace what COMMAND
/// leaves behind lives on.
#[derive(Clone, Copy, Debug)]
pub struct AsRootlessKit {
    /// Sockets were passed to us by systemd's protocol, and are for COMMAND.
    pub listen_pid: bool,
}

/// Runs COMMAND; the result is how it ended.
///
/// # Errors
/// [`ControlError`]; everything that was started has ended by then.
pub fn run(mut run: Run, plane_main: PlaneMain) -> Result<Ended, ControlError> {
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

/// A running instance. Fields are dropped in order: nothing inside should see its network vanish, so the child goes
/// before the plane.
#[derive(Debug)]
struct Session {
    child: Child,
    /// None if the network is the host's.
    plane: Option<Plane>,
    /// In the place of a plane's channel.
    nobody: Channel,
    state: StateDir,
    api: Api,
    common: Common,
    host_v6: bool,
    /// The child has a resolv.conf of ours.
    etc: bool,
    netns_cookie: u64,
    mirror: Option<Mirror>,
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
        let mut state = match (&run.state_dir, run.rootlesskit) {
            (Some(dir), Some(_)) => StateDir::adopt(dir)?,
            (dir, _) => StateDir::create(dir.as_deref())?,
        };
        let mounts = mount_plan(&run, &mut state, &host)?;
        let pid_namespace = run.namespaces.contains(CloneFlags::CLONE_NEWPID);
        let keep_orphans = run.rootlesskit.is_some() && !pid_namespace;
        let mut plane = None;
        if run.net.has_plane() {
            let spawned = Plane::spawn(plane_main, run.common.sandbox, run.common.pcap.is_some())?;
            state.write("plane_pid", &spawned.pid().to_string())?;
            plane = Some(spawned);
        }
        let config = InitConfig {
            net: run.net,
            network: run.common.network.clone(),
            detached: run.detached,
            mounts,
            hostname: run.hostname.clone(),
            pid_namespace,
            pass_own_signals: run.rootlesskit.is_some(),
            keep_orphans,
            command: match run.rootlesskit {
                Some(how) => command.with(manners(how, &state)),
                None => command,
            },
        };
        let plan = Plan::for_caller(run.sub_ids);
        if run.rootlesskit.is_some() && plan.is_single() {
            tracing::warn!(
                "only your own id is mapped; for more, install newuidmap and newgidmap (package uidmap) and give yourself \
                 subordinate ids (usermod --add-subuids, --add-subgids)"
            );
        }
        let (ours, theirs) = Channel::pair()?;
        let mut not_theirs = vec![ours.as_fd()];
        not_theirs.extend(state.descriptors());
        not_theirs.extend(plane.iter().flat_map(Plane::descriptors));
        not_theirs.extend(terminal.map(AsFd::as_fd));
        not_theirs.extend(run.common.ready_fd.as_ref().map(AsFd::as_fd));
        not_theirs.extend(run.common.pcap.as_ref().map(AsFd::as_fd));
        // Where COMMAND stays in the host's network, the child leaves for its own by itself.
        let shares_net = run.detached || run.net == Net::Host;
        let net = if shares_net { CloneFlags::empty() } else { CloneFlags::CLONE_NEWNET };
        let process = process::spawn(NAMESPACES | net | run.namespaces, || {
            process::close_copies(&not_theirs);
            init::main(theirs, &config)
        })
        .map_err(NetnsError::from)?;
        drop(not_theirs);
        let child = Child::new(process, ours, pid_namespace);

        // The helpers write the maps while the child makes its tap and the plane its ring.
        let mapping = plan.start(child.pid());
        if let Some(group) = &run.evacuate {
            for warning in cgroup::evacuate(group) {
                tracing::warn!("{warning}");
            }
        }
        let (mut host_v6, mut netns_cookie) = (false, 0);
        if let Some(plane) = &mut plane {
            host_v6 = host_v6::usable();
            let tap = child.tap()?;
            netns_cookie = tap.netns_cookie;
            plane.start(&run.common, run.common.resolvers(host), host_v6, tap.fd)?;
        }
        for warning in mapping.finish().map_err(NetnsError::from)? {
            tracing::warn!("{warning}");
        }
        child.send(ToChild::Mapped)?;
        let (child_pid, nobody) = (child.pid().as_raw(), Channel::closed()?);
        let verb = if run.rootlesskit.is_some() { "rootlesskit" } else { "run" };
        let netns = match run.detached {
            // A mount that only the child's mount namespace has.
            true => format!("/proc/{child_pid}/root{}/netns", state.path().display()),
            false => format!("/proc/{child_pid}/ns/net"),
        };
        let facts = Facts::new(verb, Some(netns));
        let api = Api::publish(&run.common, state.path(), child_pid, facts, plane_channel(&plane, &nobody))?;
        state.announce("child_pid", &child_pid.to_string())?;
        let mirror = run.mirror.then(|| Mirror::new(child_pid, run.common.network.clone()));
        let (plane_ready, child_ready, running) = (plane.is_none(), false, false);
        Ok(Self {
            child,
            plane,
            nobody,
            state,
            api,
            common: run.common,
            host_v6,
            etc: run.net == Net::Tap,
            netns_cookie,
            mirror,
            relaying: Relaying::default(),
            plane_ready,
            child_ready,
            running,
        })
    }

    /// Serves until COMMAND has ended; the result is how it did.
    async fn serve(&mut self) -> Result<Ended, ControlError> {
        let sources = self.plane.as_ref().map(|plane| Sources::new(plane, self.host_v6));
        let mut sources = sources.transpose()?;
        let mut signals = Signals::new().map_err(ControlError::system("signalfd"))?;
        let mut inbox = Inbox::new(self.child.channel()?).map_err(ControlError::system("epoll"))?;
        self.api.open(&mut self.state)?;
        let mut looks = tokio::time::interval(mirror::PERIOD);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let channel = self.child.channel()?;
            tokio::select! {
                biased;
                message = inbox.next(channel) => {
                    if let Some(ended) = self.hear_child(message)? {
                        // COMMAND is gone; what it left behind and the plane can end side by side.
                        self.plane.iter_mut().for_each(Plane::begin_end);
                        return Ok(ended);
                    }
                }
                signal = signals.next() => {
                    let signal = signal.map_err(ControlError::system("signalfd"))?;
                    if !self.running && signals::asks_to_end(signal) {
                        return Ok(Ended::Signaled(signal as i32));
                    }
                    self.child.send(ToChild::Signal(signal as i32))?;
                }
                event = next(&mut sources, &self.plane) => self.hear(event)?,
                _ = looks.tick(), if self.mirror.is_some() && self.running => {
                    if let Some(mirror) = &mut self.mirror {
                        mirror.look(self.api.ports_mut(), plane_channel(&self.plane, &self.nobody));
                    }
                }
                call = self.api.next() => self.api.handle(call, plane_channel(&self.plane, &self.nobody)),
            }
            // Behind COMMAND's start, which must not wait for it.
            if let Some(plane) = self.plane.as_ref().filter(|_| self.running) {
                let child = self.child.channel()?;
                self.relaying.ask_if_wanted(&self.api, child, plane, self.netns_cookie)?;
            }
        }
    }

    fn hear(&mut self, event: Event) -> Result<(), ControlError> {
        let Some(plane) = &mut self.plane else { return Ok(()) };
        match event {
            Event::Plane(message) => {
                let Some(message) = self.api.hear(message, plane.channel()) else { return Ok(()) };
                match plane.handle(message)? {
                    News::Ready => {
                        self.plane_ready = true;
                        self.go_when_ready()?;
                    }
                    News::Replaced => {
                        self.state.replace("plane_pid", &plane.pid().to_string())?;
                        let child = self.child.channel()?;
                        self.relaying.plane_replaced(child, plane, self.netns_cookie)?;
                        self.api.plane_replaced(plane.channel())?;
                    }
                    News::FactoryLost => self.api.relaying_is_over(NO_FACTORY, plane.channel())?,
                    News::None => {}
                }
            }
            Event::Resolvers(host) => {
                if self.etc && self.common.network.dns {
                    self.state.write("resolv.conf", &etc::resolv_conf(&self.common.network, &host))?;
                    self.child.send(ToChild::EtcChanged)?;
                }
                tracing::info!("the host's resolvers are now {:?}", host.servers);
                plane.set_resolvers(self.common.resolvers(host))?;
            }
            Event::HostV6(usable) => {
                tracing::info!("the host's IPv6 route {}", if usable { "came" } else { "went" });
                plane.set_host_v6(usable)?;
            }
            Event::TapGone => return Err(ControlError::TapGone),
        }
        Ok(())
    }

    /// Acts on a message of the child; what has become of COMMAND once it has ended.
    fn hear_child(&mut self, message: Result<FromChild, MsgError>) -> Result<Option<Ended>, ControlError> {
        match message {
            Ok(FromChild::Prepared) => {
                self.child_ready = true;
                self.go_when_ready()?;
            }
            Ok(FromChild::Stopped) => self.child.send(ToChild::StillStopped)?,
            Ok(FromChild::StillStopped(signal)) => signals::stop_like(signal),
            Ok(FromChild::Steered { v4, v6 }) => {
                let plane = plane_channel(&self.plane, &self.nobody);
                self.api.set_inside(Inside::Steered { v4, v6 }, plane)?;
            }
            Ok(FromChild::Tap { .. }) => {}
            Ok(FromChild::Warning(text)) => tracing::warn!("{text}"),
            Ok(FromChild::Failed(text)) => return Err(ControlError::Child(text)),
            Ok(FromChild::Ended(ended)) => return Ok(Some(ended)),
            Err(MsgError::Closed) if self.running => return Ok(Some(self.child.wait())),
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

/// Where messages to the plane go.
fn plane_channel<'a>(plane: &'a Option<Plane>, nobody: &'a Channel) -> &'a Channel {
    plane.as_ref().map_or(nobody, Plane::channel)
}

/// The next event; none ever comes without a plane.
async fn next(sources: &mut Option<Sources>, plane: &Option<Plane>) -> Event {
    match (sources, plane) {
        (Some(sources), Some(plane)) => sources.next(plane).await,
        _ => std::future::pending().await,
    }
}

/// What COMMAND finds when it is run as by RootlessKit.
fn manners(how: AsRootlessKit, state: &StateDir) -> Manners {
    let env = [
        ("ROOTLESSKIT_STATE_DIR", state.path().as_os_str().to_owned()),
        ("ROOTLESSKIT_PARENT_EUID", Uid::effective().to_string().into()),
        ("ROOTLESSKIT_PARENT_EGID", Gid::effective().to_string().into()),
    ];
    Manners {
        env: env.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        listen_pid: how.listen_pid,
        prefix: "[rootlesskit:child ] error: ",
        failed: Some(1),
    }
}

/// The text of the guest's files, and what to mount.
fn mount_plan(run: &Run, state: &mut StateDir, host: &Resolvers) -> Result<MountPlan, ControlError> {
    let hostname = match &run.hostname {
        Some(name) => name.clone(),
        None => nix::unistd::gethostname().unwrap_or_default().to_string_lossy().into_owned(),
    };
    let network = &run.common.network;
    let (mut own_hosts, mut resolv_conf) = (None, None);
    if run.net == Net::Tap {
        let hosts = fs::read("/etc/hosts").unwrap_or_default();
        own_hosts = Some(state.write("hosts", &etc::hosts(&String::from_utf8_lossy(&hosts), &hostname))?);
        if network.dns {
            resolv_conf = Some(state.write("resolv.conf", &etc::resolv_conf(network, host))?);
        }
    }
    Ok(MountPlan {
        propagation: run.propagation,
        netns: if run.detached { Some(state.mount_point("netns")?) } else { None },
        proc: run.namespaces.contains(CloneFlags::CLONE_NEWPID),
        sys: run.net != Net::Host && !run.detached,
        cgroup2: run.evacuate.is_some(),
        copy_up: run.copy_up.clone(),
        // COMMAND is in the host's network when its own is detached, and has the host's resolvers. Whoever enters the
        // other one finds these files in the state directory.
        hosts: own_hosts.filter(|_| !run.detached),
        resolv_conf: resolv_conf.filter(|_| !run.detached),
    })
}
