//! A guest that misbehaves: frames at line rate by a packet socket on its tap, past everything that its kernel would bound.
//!
//! A [`Flood`] is a thread that sends one kind of frame, no two alike, until it is dropped. Addresses are those of a lab and of
//! a network with default addresses. What the tap's queue does not take is lost, as it is for any sender.

use super::{LabError, Place, addr};
use etherparse::{
    ArpHardwareId, ArpOperation, ArpPacket, EtherType, IpFragOffset, IpNumber, Ipv4Header, PacketBuilder,
};
use std::io::{self, Write};
use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The gateway's MAC addresses (`stack::link`).
const ROUTER: [[u8; 6]; 2] = [[0x52, 0x55, 10, 0, 2, 2], [0x52, 0x56, 0, 0, 0, 2]];
const GUEST: [u8; 4] = [10, 0, 2, 100];

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// SYNs, half to where nobody answers, half to closed ports.
    Syn,
    /// Datagrams from every port to a million ports.
    Udp,
    /// First fragments of packets whose rest never comes.
    Fragments,
    /// Questions for the gateway's address by ever other neighbours.
    Arp,
    /// The same in IPv6.
    Ndp,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Syn, Self::Udp, Self::Fragments, Self::Arp, Self::Ndp];

    /// Frame number `n` of a guest whose interface has the MAC address `own`. Neighbours that it makes up have others.
    ///
    /// # Errors
    /// None with these addresses and lengths.
    pub fn frame(self, own: [u8; 6], n: u64) -> io::Result<Vec<u8>> {
        let mut frame = Vec::new();
        let low = (n % 60_000) as u16 + 1024;
        let mac = [2, 0, (n >> 24) as u8, (n >> 16) as u8, (n >> 8) as u8, n as u8];
        let ethernet = |v6: usize| PacketBuilder::ethernet2(if v6 == 0 { own } else { mac }, ROUTER[v6]);
        match self {
            Self::Syn => {
                let to = if n.is_multiple_of(2) { addr::SILENT_V4 } else { addr::SERVER_V4 };
                let tcp = ethernet(0).ipv4(GUEST, to.octets(), 64).tcp(
                    low,
                    (n / 60_000) as u16 + 2000,
                    n as u32,
                    65_000,
                );
                tcp.syn().write(&mut frame, &[]).map_err(io::Error::other)?;
            }
            Self::Udp => {
                let [a, b, c, _] = addr::SERVER_V4.octets();
                // Sixteen addresses, all ports of each.
                let to = [a, b, c, 128 + (n >> 16 & 15) as u8];
                let udp = ethernet(0).ipv4(GUEST, to, 64).udp(low, n as u16);
                udp.write(&mut frame, &[0; 18]).map_err(io::Error::other)?;
            }
            Self::Fragments => {
                let mut ip = Ipv4Header::new(1400, 64, IpNumber::UDP, GUEST, addr::SERVER_V4.octets())
                    .map_err(io::Error::other)?;
                ip.identification = n as u16;
                ip.more_fragments = true;
                // Ever other sources, too, for there are but 65,536 identifications.
                ip.source = [10, 0, 2, 100 + (n >> 16 & 63) as u8];
                ip.fragment_offset = IpFragOffset::ZERO;
                ip.header_checksum = ip.calc_header_checksum();
                frame.extend_from_slice(&ROUTER[0]);
                frame.extend_from_slice(&own);
                frame.extend_from_slice(&EtherType::IPV4.0.to_be_bytes());
                ip.write(&mut frame)?;
                frame.resize(frame.len() + 1400, 0);
            }
            Self::Arp => {
                let sender = Ipv4Addr::from(0x0a00_0000 | (n as u32 & 0xff_ffff));
                let question = ArpPacket::new(
                    ArpHardwareId::ETHERNET,
                    EtherType::IPV4,
                    ArpOperation::REQUEST,
                    &mac,
                    &sender.octets(),
                    &[0; 6],
                    &[10, 0, 2, 2],
                );
                PacketBuilder::ethernet2(mac, [0xff; 6])
                    .arp(question.map_err(io::Error::other)?)
                    .write(&mut frame)
                    .map_err(io::Error::other)?;
            }
            Self::Ndp => {
                let from = Ipv6Addr::from(0xfd00_u128 << 112 | u128::from(n) | 1 << 48);
                let target: Ipv6Addr = Ipv6Addr::from(0xfd00_u128 << 112 | 2);
                // Neighbor solicitation (RFC 4861 section 4.3) with the source's link-layer address.
                let mut body = target.octets().to_vec();
                body.extend_from_slice(&[1, 1]);
                body.extend_from_slice(&mac);
                let icmp = ethernet(1).ipv6(from.octets(), target.octets(), 255).icmpv6_raw(135, 0, [0; 4]);
                icmp.write(&mut frame, &body).map_err(io::Error::other)?;
            }
        }
        Ok(frame)
    }
}

/// Frames on their way, until dropped.
#[derive(Debug)]
pub struct Flood {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Flood {
    /// Begins to send by the interface `name` of a guest.
    ///
    /// # Errors
    /// No packet socket there.
    pub fn start(guest: Place<'_>, name: &str, kind: Kind) -> Result<Self, LabError> {
        let own = mac_of(guest, name)?;
        let mut socket = std::fs::File::from(guest.packet_socket(name)?);
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, count) = (stop.clone(), sent.clone());
        let send = move || {
            for n in 0.. {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let Ok(frame) = kind.frame(own, n) else { break };
                match socket.write(&frame) {
                    Ok(_) => drop(count.fetch_add(1, Ordering::Relaxed)),
                    // The queue is full: that is where a flood ends.
                    Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => {}
                    Err(_) => std::thread::sleep(Duration::from_millis(1)),
                }
            }
        };
        let thread = std::thread::Builder::new().name("flood".into()).spawn(send);
        let thread = Some(thread.map_err(|e| LabError::new("starting a flood", e))?);
        Ok(Self { stop, sent, thread })
    }

    /// Frames that the tap's queue has taken.
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The MAC address of an interface, as ip(8) says it.
fn mac_of(guest: Place<'_>, name: &str) -> Result<[u8; 6], LabError> {
    let fail = |e: io::Error| LabError::new("asking for a MAC address", e);
    let out = guest.command("ip")?.args(["-o", "link", "show", "dev", name]).output().map_err(fail)?;
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let word = text.split_whitespace().skip_while(|w| *w != "link/ether").nth(1).unwrap_or_default();
    let bytes: Vec<u8> = word.split(':').filter_map(|b| u8::from_str_radix(b, 16).ok()).collect();
    bytes.try_into().map_err(|_| fail(io::ErrorKind::InvalidData.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::checksum::frame_is_sound;
    use crate::wire::{Gso, parse_gso};

    #[test]
    fn frames_are_whole_and_no_two_are_alike() {
        for kind in Kind::ALL {
            let mut seen = std::collections::HashSet::new();
            for n in (0..2_000_000).step_by(9973) {
                let frame = kind.frame([2, 0, 0, 0, 0, 1], n).unwrap();
                assert!(parse_gso(&frame, Gso::None).is_ok(), "{kind:?}");
                assert!(frame_is_sound(&frame), "{kind:?}");
                assert!(seen.insert(frame), "{kind:?} {n}");
            }
        }
    }
}
