//! The child's first process: builds its side of the namespaces, starts COMMAND, and reaps.
//!
//! Theory of operation. [`main`] runs in a fresh fork of control, in new namespaces (pid 1 of its pid namespace unless
//! that is shared). It follows the conversation of [`crate::msg::child`]. All signals that it may be sent are blocked
//! and read from a signalfd, so nothing stops or ends it but SIGKILL.
//!
//! **Signals.** Control tells us which signals it was sent. A terminal, or `kill %1` in a shell, signals the whole
//! process group: control, us and COMMAND; `kill PID` signals control alone. We are the witness that tells these
//! apart ([`Witness`]): if the same signal has come to us as well, COMMAND has it already, as long as it is still in our
//! group; otherwise we pass it on. Control has made sure that a signal to the group has reached every member before it
//! asks (its `signals` module).
//!
//! **Published ports.** The same loop serves the plane's requests for sockets of these namespaces ([`super::factory`]), one
//! at a time, so that neither signals nor COMMAND's end wait behind more than a hundred or so of them.
//!
//! **Ends.** When COMMAND ends we report its status and end too; with a pid namespace the kernel then kills whatever is
//! left in it. Without one we adopt orphans (`PR_SET_CHILD_SUBREAPER`) and kill them one by one, unless they are to live
//! on. When control ends, its end of the channel closes (and with a pid namespace the kernel kills us), with the same
//! outcome, and COMMAND is killed in any case.
//!
//! **A detached network.** COMMAND may be meant to stay in the host's network while its children are put into ours
//! ([`InitConfig::detached`]). Nobody gets back there without privileges over it, so COMMAND's process is forked before
//! anything else, waits in the host's network until its time has come, and we leave alone.

use super::exec::Command;
use super::factory::{self, Factory};
use super::mounts::{EtcFiles, MountPlan};
use super::place::{self, Net};
use super::witness::{Witness, settle_group_signals};
use super::{NetnsError, link, mounts, process, steer};
use crate::config::Network;
use crate::msg::{Channel, Ended, FromChild, MsgError, ToChild};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::CloneFlags;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, getpgid, getpgrp, getpid};
use std::fs;
use std::io::{PipeReader, PipeWriter, Read, Write, pipe};
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

/// What the child is to be.
#[derive(Clone, Debug)]
pub struct InitConfig {
    /// Which network the namespaces have.
    pub net: Net,
    /// Its addresses, if it has a tap.
    pub network: Network,
    /// COMMAND is not in it, but in the one that we were started in.
    pub detached: bool,
    /// The mounts to make.
    pub mounts: MountPlan,
    /// Host name to set; needs a UTS namespace.
    pub hostname: Option<String>,
    /// The process is the first of a pid namespace.
    pub pid_namespace: bool,
    /// Signals that we are sent ourselves are meant for COMMAND.
    pub pass_own_signals: bool,
    /// What COMMAND leaves behind may live on.
    pub keep_orphans: bool,
    /// What to run.
    pub command: Command,
}

/// `si_code` of a signal that the kernel itself sent, the terminal's among them (sigaction(2)).
pub const SI_KERNEL: i32 = 0x80;

/// Signals that control passes on, and that we therefore watch.
pub const FORWARDED: [Signal; 13] = [
    Signal::SIGHUP,
    Signal::SIGINT,
    Signal::SIGQUIT,
    Signal::SIGTERM,
    Signal::SIGUSR1,
    Signal::SIGUSR2,
    Signal::SIGALRM,
    Signal::SIGWINCH,
    Signal::SIGCONT,
    Signal::SIGTSTP,
    Signal::SIGTTIN,
    Signal::SIGTTOU,
    Signal::SIGURG,
];

/// Blocks [`FORWARDED`] and SIGCHLD in this thread; returns the set and the mask before it.
///
/// # Errors
/// None that happen with a valid set.
pub fn block_signals() -> nix::Result<(SigSet, SigSet)> {
    let mut set: SigSet = FORWARDED.into_iter().collect();
    set.add(Signal::SIGCHLD);
    let mut before = SigSet::empty();
    pthread_sigmask(SigmaskHow::SIG_BLOCK, Some(&set), Some(&mut before))?;
    Ok((set, before))
}

/// The life of the child; returns its exit code, which is COMMAND's.
pub fn main(channel: Channel, config: &InitConfig) -> u8 {
    if config.pid_namespace {
        process::die_with_parent();
    } else {
        let _ = nix::sys::prctl::set_child_subreaper(true);
    }
    let waiting = match config.detached.then(|| Waiting::fork(&config.command)).transpose() {
        Ok(waiting) => waiting,
        Err(e) => {
            let _ = channel.send(&FromChild::Failed(e.to_string()), &[]);
            return 1;
        }
    };
    match set_up(&channel, config) {
        Ok(Some(etc)) => {
            let factory = Factory::default();
            Init {
                channel,
                config,
                etc,
                factory,
                witness: Witness::default(),
                waiting,
                command: None,
                stopped: None,
                ended: None,
            }
            .run()
        }
        // Control has gone before COMMAND was started.
        Ok(None) => 1,
        Err(e) => {
            let _ = channel.send(&FromChild::Failed(e.to_string()), &[]);
            1
        }
    }
}

/// Everything up to COMMAND. `None`: control has gone.
fn set_up(channel: &Channel, config: &InitConfig) -> Result<Option<EtcFiles>, NetnsError> {
    let warn = |text: String| channel.send(&FromChild::Warning(text), &[]).is_ok();
    let made = place::make(config.net, &config.network, config.detached)?;
    let mut heard = true;
    if let Some(tap) = made.tap {
        let netns_cookie = factory::netns_cookie().map_err(NetnsError::Cookie)?;
        heard &= channel.send(&FromChild::Tap { netns_cookie }, &[tap.as_fd()]).is_ok();
    }
    heard &= made.warning.is_none_or(warn);
    // Creating files and mounting needs ids that exist.
    heard &= matches!(channel.recv(), Ok((ToChild::Mapped, _)));
    if !heard {
        return Ok(None);
    }
    if let Some(name) = &config.hostname
        && let Err(e) = nix::unistd::sethostname(name)
    {
        heard &= warn(format!("the host name stays as it is: {e}; it needs --utsns and at most 64 bytes"));
    }
    let (etc, warnings) = mounts::set_up(&config.mounts)?;
    if config.net != Net::Host {
        link::allow_ping(&fs::read_to_string("/proc/self/gid_map").unwrap_or_default());
    }
    heard &= warnings.into_iter().all(warn);
    heard &= channel.send(&FromChild::Prepared, &[]).is_ok();
    Ok(heard.then_some(etc))
}

/// COMMAND's process in the host's network, before it has become COMMAND.
struct Waiting {
    pid: Pid,
    go: PipeWriter,
}

impl Waiting {
    fn fork(command: &Command) -> Result<Self, NetnsError> {
        let pipes: (PipeReader, PipeWriter) = pipe().map_err(process::SpawnError::Fork)?;
        let (mut wait, go) = pipes;
        let own = getpid();
        let process = process::spawn(CloneFlags::empty(), || {
            process::die_with_parent();
            process::close_copies(&[go.as_fd()]);
            // Changes of identity on the way to COMMAND would clear what the first call has set; there are none.
            if nix::unistd::getppid() != own || wait.read(&mut [0]).ok() != Some(1) {
                return 1;
            }
            command.exec()
        })?;
        Ok(Self { pid: process.pid, go })
    }

    /// Lets it become COMMAND.
    fn go(mut self) -> Pid {
        // If it has been killed, that is how COMMAND ends.
        let _ = self.go.write_all(&[1]);
        self.pid
    }
}

struct Init<'a> {
    channel: Channel,
    config: &'a InitConfig,
    etc: EtcFiles,
    factory: Factory,
    /// Of the signals that came to us ourselves.
    witness: Witness,
    /// COMMAND to be, if it is not for us to start.
    waiting: Option<Waiting>,
    /// COMMAND, once it runs.
    command: Option<Pid>,
    /// The signal that COMMAND is stopped by.
    stopped: Option<i32>,
    /// What has become of COMMAND.
    ended: Option<Ended>,
}

/// Why the loop ended.
enum End {
    /// COMMAND ended.
    Command(Ended),
    /// Control is gone.
    Control,
}

impl Init<'_> {
    fn run(mut self) -> u8 {
        let end = match block_signals()
            .and_then(|(set, _)| SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK))
        {
            Ok(mut signals) => self.serve(&mut signals),
            Err(e) => {
                let text = format!("cannot watch signals: {e}; raise the limit of open files (ulimit -n)");
                let _ = self.channel.send(&FromChild::Failed(text), &[]);
                End::Control
            }
        };
        if let (End::Control, Some(command)) = (&end, self.command) {
            // It may have rid itself of the signal that comes with our end.
            let _ = kill(command, Signal::SIGKILL);
        }
        if !self.config.pid_namespace && !self.config.keep_orphans {
            kill_orphans();
        }
        match end {
            End::Command(ended) => {
                let _ = self.channel.send(&FromChild::Ended(ended), &[]);
                ended.status()
            }
            End::Control => 1,
        }
    }

    fn serve(&mut self, signals: &mut SignalFd) -> End {
        loop {
            // Whatever is handled may have used up the wake-up of something else, so look at everything until
            // nothing is left, and only then wait.
            self.drain(signals);
            self.reap();
            if let Some(ended) = self.ended {
                return End::Command(ended);
            }
            match self.channel.try_recv::<ToChild>() {
                Ok(Some((message, fds))) => {
                    if !self.handle(message, fds, signals) {
                        return End::Control;
                    }
                }
                Ok(None) if self.factory.serve() => {}
                Ok(None) => {
                    let fds = [Some(self.channel.as_fd()), Some(signals.as_fd()), self.factory.as_fd()];
                    let mut fds: Vec<_> =
                        fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
                    // An interruption only goes round once more.
                    let _ = poll(&mut fds, PollTimeout::NONE);
                }
                Err(MsgError::Decode(_)) => {}
                Err(_) => return End::Control,
            }
        }
    }

    /// Takes note of the signals that were sent to us.
    fn drain(&mut self, signals: &mut SignalFd) {
        while let Ok(Some(info)) = signals.read_signal() {
            let number = i32::try_from(info.ssi_signo).unwrap_or(0);
            if number == Signal::SIGCHLD as i32 {
                continue;
            }
            self.witness.saw(number, Instant::now());
            // What the kernel sends, of a terminal for instance, goes to the whole process group.
            if self.config.pass_own_signals
                && info.ssi_code != SI_KERNEL
                && let (Some(command), Ok(signal)) = (self.command, Signal::try_from(number))
            {
                let _ = kill(command, signal);
            }
        }
        self.witness.forget(Instant::now());
    }

    /// Acts on a message; false if COMMAND could not be started for want of a process.
    fn handle(&mut self, message: ToChild, fds: Vec<OwnedFd>, signals: &mut SignalFd) -> bool {
        match message {
            ToChild::Mapped => {}
            ToChild::Factory => self.factory.replace(fds),
            ToChild::Steer => {
                let _ = self.channel.send(&steer::steer(), &[]);
            }
            ToChild::Go => return self.start(),
            ToChild::Signal(number) => {
                self.drain(signals);
                self.pass_on(number);
            }
            ToChild::StillStopped => {
                self.reap();
                if let Some(signal) = self.stopped {
                    // Before the answer: control is not to be continued, and COMMAND stopped again, in between.
                    settle_group_signals();
                    self.drain(signals);
                    self.witness.control_stops();
                    let _ = self.channel.send(&FromChild::StillStopped(signal), &[]);
                }
            }
            ToChild::EtcChanged => {
                for warning in self.etc.refresh(&self.config.mounts.copy_up) {
                    let _ = self.channel.send(&FromChild::Warning(warning), &[]);
                }
            }
        }
        true
    }

    fn start(&mut self) -> bool {
        if let Some(waiting) = self.waiting.take() {
            self.command = Some(waiting.go());
            return true;
        }
        let own = getpid();
        let started = process::spawn(CloneFlags::empty(), || {
            process::die_with_parent();
            // In a pid namespace of its own the kernel sees to it; elsewhere our end may have come before.
            if nix::unistd::getppid() != own {
                return 1;
            }
            self.config.command.exec()
        });
        match started {
            Ok(child) => {
                self.command = Some(child.pid);
                true
            }
            Err(e) => {
                let _ = self.channel.send(&FromChild::Failed(e.to_string()), &[]);
                false
            }
        }
    }

    fn pass_on(&mut self, number: i32) {
        let Some(command) = self.command else { return };
        if self.witness.explains(number, Instant::now()) && getpgid(Some(command)) == Ok(getpgrp()) {
            return;
        }
        if let Ok(signal) = Signal::try_from(number) {
            let _ = kill(command, signal);
        }
    }

    /// Collects every child that has changed, and takes note of what became of COMMAND.
    fn reap(&mut self) {
        let flags =
            WaitPidFlag::WNOHANG | WaitPidFlag::WUNTRACED | WaitPidFlag::WCONTINUED | WaitPidFlag::__WALL;
        while let Ok(status) = waitpid(None, Some(flags)) {
            if status == WaitStatus::StillAlive {
                break;
            }
            if status.pid() != self.command {
                continue;
            }
            match status {
                WaitStatus::Exited(..) | WaitStatus::Signaled(..) => self.ended = Ended::of(status),
                WaitStatus::Stopped(_, signal) => {
                    self.stopped = Some(signal as i32);
                    let _ = self.channel.send(&FromChild::Stopped, &[]);
                }
                WaitStatus::Continued(_) => self.stopped = None,
                _ => {}
            }
        }
    }
}

/// Kills every descendant: our children, and theirs as they become ours, until none is left.
fn kill_orphans() {
    let own = getpid();
    while !matches!(
        waitpid(None, Some(WaitPidFlag::WNOHANG | WaitPidFlag::__WALL)),
        Err(nix::errno::Errno::ECHILD)
    ) {
        for pid in children_of(own) {
            let _ = kill(pid, Signal::SIGKILL);
        }
        // Blocks until one of them is gone; a child that cannot be killed (another user's) is the kernel's to end.
        if waitpid(None, Some(WaitPidFlag::__WALL)).is_err() {
            return;
        }
    }
}

/// Reads parents from /proc: `pid (name) state ppid ..`, where the name may hold anything.
fn children_of(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .filter_map(|entry| {
            let pid: i32 = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let after_name = &stat[stat.rfind(')')? + 1..];
            let ppid: i32 = after_name.split_whitespace().nth(1)?.parse().ok()?;
            (ppid == parent.as_raw()).then_some(Pid::from_raw(pid))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parents_are_read_from_proc() {
        let parent = nix::unistd::getppid();
        assert!(children_of(parent).contains(&getpid()));
        assert!(!children_of(getpid()).contains(&parent));
    }
}
