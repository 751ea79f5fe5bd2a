//! The data plane: the process that parses every packet and can do nothing else.
//!
//! Theory of operation. Control forks it before any thread exists and speaks to it over one [`Channel`]. The first
//! message brings the tap and the configuration; the plane builds its ring, says what it was granted, and runs its
//! [`shard`] until control says stop or goes away. It opens no file and makes nothing but sockets.

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

use crate::msg::{Channel, FromPlane, MsgError, Start, ToPlane};
use crate::ring::{Ring, RingConfig};
use crate::stack::{Limits, Stack};
use crate::tap::Tap;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use pcap::Pcap;
use shard::{End, Parts, Shard};
use std::fs::File;
use std::os::fd::OwnedFd;

/// Descriptors kept back from flows: the ring, the tap, channels, standard streams, pipes, sockets of the factory's pools,
/// and a reserve for shedding. At most a quarter of all, where there are few.
const RESERVED_DESCRIPTORS: u64 = 512;

/// Runs the plane until control ends it. The result is the process's exit code.
pub fn main(channel: Channel) -> u8 {
    let (start, fds) = match channel.recv::<ToPlane>() {
        Ok((ToPlane::Start(start), fds)) => (*start, fds),
        // Control gave up before the network was wanted.
        Ok((ToPlane::Stop, _)) | Err(MsgError::Closed) => return 0,
        Ok(_) => return fail(&channel, "plane: control did not begin with a start message".to_owned()),
        Err(e) => return fail(&channel, format!("plane: the channel to control failed: {e}")),
    };
    let parts = match build(&channel, start, fds) {
        Ok(parts) => parts,
        Err(text) => return fail(&channel, text),
    };
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

fn build(channel: &Channel, start: Start, fds: Vec<OwnedFd>) -> Result<Parts, String> {
    let mut fds = fds.into_iter();
    let tap = fds.next().ok_or("plane: control sent no tap")?;
    let pcap = match (start.pcap, fds.next()) {
        (true, Some(fd)) => capture(File::from(fd), start.resumed)?,
        (true, None) => return Err("plane: control sent no capture file".to_owned()),
        (false, _) => None,
    };
    let tap = Tap::adopt(tap).map_err(|e| e.to_string())?;
    // Half of what there is for flows of the guest, half for relayed connections and listeners: neither can take all.
    let share = raise_descriptor_limit() / 2;
    let (limits, relayed) = (Limits { flows: share.max(1) }, share);
    // Each flow may have a receive and a send in flight, each relayed connection (of two descriptors) ten operations; what
    // else there is (frames, control) fits the remainder.
    let ops = share.saturating_mul(2 + 10 / 2).saturating_add(RingConfig::default().ops);
    let ring = Ring::new(RingConfig { ops, ..RingConfig::default() }).map_err(|e| e.to_string())?;
    let mut secret = [0u8; 32];
    getrandom::fill(&mut secret).map_err(|e| format!("no random numbers from the kernel: {e}"))?;
    let fragment_id = getrandom::u32().map_err(|e| format!("no random numbers from the kernel: {e}"))?;
    let mut stack = Stack::new(start.network, start.resolvers, limits, secret);
    stack.set_host_v6(crate::flow::Time::ZERO, start.host_v6);
    let ready =
        FromPlane::Ready { ring: ring.granted().to_string(), tap: format!("{}: {}", tap.name, tap.offloads) };
    channel.send(&ready, &[]).map_err(|e| format!("plane: channel to control: {e}"))?;
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
