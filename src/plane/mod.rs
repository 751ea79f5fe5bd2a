//! The data plane: the process that parses every packet and can do nothing else.
//!
//! Theory of operation. Control forks it before any thread exists and speaks to it over one [`Channel`]. It builds its ring
//! and leaves the host's file system ([`Sandbox::enter`]) while the child is being made. The first message brings the tap
//! and the configuration; the plane gives up what is left to give up ([`Sandbox::close`]), says what it was granted, and
//! runs its [`shard`] until control says stop or goes away. It opens no file and makes nothing but sockets.

#![forbid(unsafe_code)]

mod control;
mod crowd;
mod datagrams;
mod errno;
mod errqueue;
pub mod factory;
mod frames;
mod messages;
mod pcap;
mod queries;
mod relay_ports;
pub mod relays;
mod shard;
mod sockets;
mod streams;
mod tag;
mod tap_ports;

use crate::config::SandboxMode;
use crate::msg::{Channel, FromPlane, MsgError, Start, ToPlane};
use crate::ring::{Ring, RingConfig};
use crate::sandbox::Sandbox;
use crate::sandbox::filter::Calls;
use crate::stack::{Limits, Stack};
use crate::tap::Tap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pcap::Pcap;
use shard::{End, Parts, Shard};
use std::fs::File;
use std::os::fd::OwnedFd;
use tag::Tag;

/// Descriptors kept back from flows: the ring, the tap, channels, standard streams, pipes, sockets of the factory's pools,
/// and a reserve for shedding. At most a quarter of all, where there are few.
const RESERVED_DESCRIPTORS: u64 = 512;

/// Runs the plane until control ends it. The result is the process's exit code.
pub fn main(channel: Channel, sandbox: SandboxMode) -> u8 {
    // Before control has anything to say, and while the child is being made: the ring, which is root's by its own limits,
    // and the way out of the host's file system. What goes wrong is told once control listens.
    let limits = Limits { flows: raise_descriptor_limit() };
    let ring = make_ring(&limits);
    let sandbox = Sandbox::enter(sandbox);
    let (start, fds) = match channel.recv::<ToPlane>() {
        Ok((ToPlane::Start(start), fds)) => (*start, fds),
        // Control gave up before the network was wanted.
        Ok((ToPlane::Stop, _)) | Err(MsgError::Closed) => return 0,
        Ok(_) => return fail(&channel, "plane: control did not begin with a start message".to_owned()),
        Err(e) => return fail(&channel, format!("plane: the channel to control failed: {e}")),
    };
    let parts = match ring.and_then(|ring| build(ring, limits, start, fds)) {
        Ok(parts) => parts,
        Err(text) => return fail(&channel, text),
    };
    match sandbox.close(Calls::Plane) {
        Ok(outcome) => {
            if let Some(lacks) = outcome.lacks {
                tracing::warn!("the data plane's sandbox is not whole: {lacks}");
            }
            if let Some(beside) = outcome.beside {
                tracing::info!("the data plane's sandbox has {beside}");
            }
        }
        Err(e) => return fail(&channel, format!("plane: {e}")),
    }
    let ready = FromPlane::Ready {
        ring: parts.ring.granted().to_string(),
        tap: format!("{}: {}", parts.tap.name, parts.tap.offloads),
    };
    if let Err(e) = channel.send(&ready, &[]) {
        return fail(&channel, format!("plane: channel to control: {e}"));
    }
    let mut shard = Shard::new(parts, channel);
    let end = shard.run();
    shard.log_counters();
    match end {
        End::Asked => 0,
        End::TapGone => {
            tracing::info!("the tap device is gone");
            0
        }
        // Neither the tap nor control is gone, so another plane may do better.
        End::ChannelBroken(e) => {
            tracing::error!("plane: the channel to control failed: {e}");
            2
        }
        End::Ring(e) => {
            tracing::error!("plane: the ring failed: {e}");
            1
        }
    }
}

fn make_ring(limits: &Limits) -> Result<Ring<Tag>, String> {
    // Each flow (of one descriptor) may have a receive and a send in flight, each relayed connection (of two) ten
    // operations, and either may have all descriptors; what else there is (frames, control) fits the remainder.
    let ops = limits.flows.saturating_mul(2 + 10 / 2).saturating_add(RingConfig::default().ops);
    Ring::new(RingConfig { ops, ..RingConfig::default() }).map_err(|e| e.to_string())
}

fn build(ring: Ring<Tag>, limits: Limits, start: Start, fds: Vec<OwnedFd>) -> Result<Parts, String> {
    let mut fds = fds.into_iter();
    let tap = fds.next().ok_or("plane: control sent no tap")?;
    let pcap = match (start.pcap, fds.next()) {
        (true, Some(fd)) => capture(File::from(fd), start.resumed)?,
        (true, None) => return Err("plane: control sent no capture file".to_owned()),
        (false, _) => None,
    };
    let tap = Tap::adopt(tap).map_err(|e| e.to_string())?;
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).map_err(|e| format!("no random numbers from the kernel: {e}"))?;
    let fragment_id = getrandom::u32().map_err(|e| format!("no random numbers from the kernel: {e}"))?;
    let relayed = limits.flows;
    let mut stack = Stack::new(start.network, start.resolvers, limits, secret);
    stack.set_host_v6(crate::flow::Time::ZERO, start.host_v6);
    Ok(Parts { ring, tap, stack, pcap, fragment_id, relayed })
}

/// Begins the capture, or goes on with that of a plane that has died. What cannot be gone on with ends with a line.
fn capture(file: File, resumed: bool) -> Result<Option<Pcap>, String> {
    if !resumed {
        return Pcap::new(file).map(Some).map_err(|e| format!("cannot write the capture file: {e}"));
    }
    Ok(Pcap::resume(file).map_err(|e| tracing::warn!("the capture ends here: {e}")).ok())
}

/// Raises the soft limit of descriptors to the hard one; what remains after the reserve.
fn raise_descriptor_limit() -> usize {
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Limits::default().flows };
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    let reserved = RESERVED_DESCRIPTORS.min(hard / 4);
    usize::try_from(hard.saturating_sub(reserved)).unwrap_or(usize::MAX)
}

fn fail(channel: &Channel, text: String) -> u8 {
    // If control is gone as well there is nobody left to tell.
    let _ = channel.send(&FromPlane::Failed { text }, &[]);
    1
}
