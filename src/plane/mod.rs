//! The data plane: the process that parses every packet and can do nothing else.
//!
//! Theory of operation. Control forks it before any thread exists and speaks to it over one [`Channel`]. It builds its ring
//! and leaves the host's file system ([`Sandbox::enter`]) while the child is being made. The first message brings the tap
//! and the configuration; the plane gives up what is left to give up ([`Sandbox::close`]), says what it was granted, and
//! runs its [`shard`] until control says stop or goes away. It opens no file and makes nothing but sockets.

#![forbid(unsafe_code)]

mod capture;
mod control;
mod crowd;
mod datagrams;
mod detail;
mod errno;
mod errqueue;
pub mod factory;
mod frames;
mod intake;
mod local;
mod messages;
mod pcap;
pub mod pcapng;
mod queries;
mod relay_ports;
pub mod relays;
mod shard;
mod sockets;
mod streams;
mod tag;
mod tally;
mod tap_ports;
mod watch;

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
/// and a reserve for shedding.
const RESERVED_DESCRIPTORS: usize = 512;

/// Runs the plane until control ends it. The result is the process's exit code.
pub fn main(channel: Channel, sandbox: SandboxMode) -> u8 {
    // Before control has anything to say, and while the child is being made: the ring, which is root's by its own limits,
    // and the way out of the host's file system. What goes wrong is told once control listens.
    let share = Share::of(raise_descriptor_limit());
    let ring = make_ring(share);
    let sandbox = Sandbox::enter(sandbox);
    let (start, fds) = match channel.recv::<ToPlane>() {
        Ok((ToPlane::Start(start), fds)) => (*start, fds),
        // Control gave up before the network was wanted.
        Ok((ToPlane::Stop, _)) | Err(MsgError::Closed) => return 0,
        Ok(_) => return fail(&channel, "plane: control did not begin with a start message".to_owned()),
        Err(e) => return fail(&channel, format!("plane: the channel to control failed: {e}")),
    };
    let parts = match ring.and_then(|ring| build(ring, share, start, fds)) {
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

fn make_ring(share: Share) -> Result<Ring<Tag>, String> {
    // Each flow (of one descriptor) may have a receive and a send in flight, each relayed connection (of two) ten
    // operations; what else there is (frames, control) fits the remainder.
    let (flows, relayed) = (share.flows.saturating_mul(2), share.relayed.saturating_mul(10 / 2));
    let ops = RingConfig::default().ops.saturating_add(flows).saturating_add(relayed);
    Ring::new(RingConfig { ops, ..RingConfig::default() }).map_err(|e| e.to_string())
}

fn build(ring: Ring<Tag>, share: Share, start: Start, fds: Vec<OwnedFd>) -> Result<Parts, String> {
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
    let limits = &start.network.limits;
    let limits = Limits { flows: limits.flows.min(share.flows), ..limits.clone() };
    let mut stack = Stack::new(start.network, start.resolvers, limits, secret);
    stack.set_host_v6(crate::flow::Time::ZERO, start.host_v6);
    Ok(Parts { ring, tap, stack, pcap, fragment_id, relayed: share.relayed })
}

/// Begins the capture, or goes on with that of a plane that has died. What cannot be gone on with ends with a line.
fn capture(file: File, resumed: bool) -> Result<Option<Pcap>, String> {
    if !resumed {
        return Pcap::new(file).map(Some).map_err(|e| format!("cannot write the capture file: {e}"));
    }
    Ok(Pcap::resume(file).map_err(|e| tracing::warn!("the capture ends here: {e}")).ok())
}

/// How many descriptors who may take. Both may come close to all there are: whoever comes too late is refused or shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    /// Flows of the guest.
    flows: usize,
    /// Relayed connections and listeners.
    relayed: usize,
}

impl Share {
    /// Of `all`. Where there are few, flows are sure of a quarter and what is kept back is no more than that.
    const fn of(all: usize) -> Self {
        let quarter = all / 4;
        let most = all.saturating_sub(RESERVED_DESCRIPTORS);
        if most > quarter {
            Self { flows: most, relayed: most }
        } else {
            Self { flows: quarter, relayed: all - quarter }
        }
    }
}

/// Raises the soft limit of descriptors to the hard one; the limit.
fn raise_descriptor_limit() -> usize {
    let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return RESERVED_DESCRIPTORS * 2 };
    let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    usize::try_from(hard).unwrap_or(usize::MAX)
}

fn fail(channel: &Channel, text: String) -> u8 {
    // If control is gone as well there is nobody left to tell.
    let _ = channel.send(&FromPlane::Failed { text }, &[]);
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_get_all_but_the_reserve_and_few_are_divided() {
        assert_eq!(Share::of(20_000), Share { flows: 19_488, relayed: 19_488 });
        assert_eq!(Share::of(700), Share { flows: 188, relayed: 188 });
        assert_eq!(Share::of(256), Share { flows: 64, relayed: 192 });
        assert_eq!(Share::of(0), Share { flows: 0, relayed: 0 });
    }
}
