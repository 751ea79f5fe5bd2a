//! Entering namespaces that exist, for `attach`: a process makes the tap there, hands it over, and stays as the factory of
//! sockets for published ports.
//!
//! A network namespace belongs to a user namespace, and only with that one's capabilities may it be changed. Unless the
//! caller names a user namespace, the kernel is asked for the owner (`NS_GET_USERNS`, ioctl_ns(2)); if that is our own
//! or one above, there is nothing to join.
//!
//! What stays is a process in the guest's user and network namespaces and in nothing else of the guest's: processes, files
//! and mounts that it sees are the caller's. It holds two channels and standard error, and ends with control, whose end
//! of its channel closes.

use super::factory::{self, Factory};
use super::{NetnsError, place, process, steer};
use crate::config::Network;
use crate::msg::{Channel, FromChild, MsgError, ToChild};
use crate::tap::Tap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sched::{CloneFlags, setns};
use rustix::fs::fstat;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;

/// `_IO(0xb7, 0x1)`, linux/nsfs.h.
const NS_GET_USERNS: libc::Ioctl = 0xb701;

/// Why a namespace cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The path or process is not there, or not ours to look at.
    #[error(
        "cannot open {path}: {source}; {}",
        super::remedy(.source, "name a running process, or a namespace file, that is yours")
    )]
    Open {
        /// As opened.
        path: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// setns(2) refused.
    #[error(
        "cannot enter the {kind} namespace: {source}; run this as the user who made it, or as root, or name its user namespace (--userns)"
    )]
    Enter {
        /// `user` or `network`.
        kind: &'static str,
        /// What the kernel said.
        source: io::Error,
    },
}

/// The namespaces to enter, open.
#[derive(Debug)]
pub struct Target {
    userns: Option<OwnedFd>,
    netns: OwnedFd,
}

impl Target {
    /// Opens the network namespace at `netns` and the user namespace at `userns`, or the owner of the former.
    ///
    /// # Errors
    /// [`JoinError::Open`].
    pub fn open(netns: &Path, userns: Option<&Path>) -> Result<Self, JoinError> {
        let netns = open(netns)?;
        let userns = match userns {
            Some(path) => Some(open(path)?),
            None => owner(&netns),
        };
        // Entering the user namespace that one is in already is an error (user_namespaces(7)).
        let own =
            File::open("/proc/self/ns/user").ok().and_then(|f| fstat(&f).ok()).map(|s| (s.st_dev, s.st_ino));
        let userns = userns.filter(|u| fstat(u).ok().map(|s| (s.st_dev, s.st_ino)) != own);
        Ok(Self { userns, netns })
    }
}

fn open(path: &Path) -> Result<OwnedFd, JoinError> {
    File::open(path)
        .map(Into::into)
        .map_err(|source| JoinError::Open { path: path.display().to_string(), source })
}

/// The user namespace that owns a namespace; `None` if the kernel does not show it to us, because it is above ours.
fn owner(namespace: &OwnedFd) -> Option<OwnedFd> {
    // SAFETY: the request takes no argument and returns a new descriptor or -1.
    let fd = unsafe { libc::ioctl(namespace.as_raw_fd(), NS_GET_USERNS) };
    // SAFETY: a number that is not negative is a descriptor that the kernel has just opened for us.
    (fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The life of the process that `attach` sends inside; returns its exit code. For the closure of
/// [`process::spawn`] only.
pub fn main(channel: &Channel, target: &Target, network: &Network, configure: bool) -> u8 {
    let entered = enter(target).map_err(NetnsError::from);
    // After the change of identity, which would clear it.
    process::die_with_parent();
    // Control's lock, its other channels and the user's pipes would be held open here.
    process::keep_only(channel.as_fd());
    match entered.and_then(|()| prepare(network, configure)) {
        Ok((tap, netns_cookie, warning)) => {
            let warned = warning.map_or(Ok(()), |text| channel.send(&FromChild::Warning(text), &[]));
            let sent = warned.and_then(|()| channel.send(&FromChild::Tap { netns_cookie }, &[tap.as_fd()]));
            // The device lives as long as anybody holds it.
            drop(tap);
            if sent.is_ok() {
                stay(channel);
            }
            u8::from(sent.is_err())
        }
        Err(e) => u8::from(channel.send(&FromChild::Failed(e.to_string()), &[]).is_err()),
    }
}

fn prepare(network: &Network, configure: bool) -> Result<(Tap, u64, Option<String>), NetnsError> {
    let (tap, warning) = if configure {
        place::make_tap(network)?
    } else {
        (Tap::create(&network.ifname).map_err(|e| NetnsError::Tap(e.to_string()))?, None)
    };
    Ok((tap, factory::netns_cookie().map_err(NetnsError::Cookie)?, warning))
}

/// Does inside what control asks for, until control is gone.
pub fn stay(channel: &Channel) {
    let mut factory = Factory::default();
    loop {
        match channel.try_recv::<ToChild>() {
            Ok(Some((ToChild::Factory, fds))) => factory.replace(fds),
            Ok(Some((ToChild::Steer, _))) => {
                let _ = channel.send(&steer::steer(), &[]);
            }
            // The rest concerns a command.
            Ok(Some(_)) | Err(MsgError::Decode(_)) => {}
            Ok(None) if factory.serve() => {}
            Ok(None) => {
                let fds = [Some(channel.as_fd()), factory.as_fd()];
                let mut fds: Vec<_> =
                    fds.into_iter().flatten().map(|fd| PollFd::new(fd, PollFlags::POLLIN)).collect();
                // An interruption only goes round once more.
                let _ = poll(&mut fds, PollTimeout::NONE);
            }
            Err(_) => return,
        }
    }
}

fn enter(target: &Target) -> Result<(), JoinError> {
    let refused = |kind| move |e: nix::Error| JoinError::Enter { kind, source: e.into() };
    if let Some(userns) = &target.userns {
        setns(userns.as_fd(), CloneFlags::CLONE_NEWUSER).map_err(refused("user"))?;
    }
    setns(target.netns.as_fd(), CloneFlags::CLONE_NEWNET).map_err(refused("network"))
}
