//! Protocols that the stack answers by itself, each in a stack of its own: what the guest says is the input.

use super::input::Input;
use super::seeds::{addr, at, datagram, fragment, message};
use super::world::World;
use ringtap::flow::Kind;
use ringtap::stack::{HostError, HostEvent};
use std::time::Duration;

/// ARP messages, each after its length.
pub fn arp(data: &[u8]) {
    let (mut w, mut input) = (World::new(), Input::new(data));
    while !input.is_empty() {
        let mut f = vec![0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2, 0, 0, 0, 0, 0x64, 8, 6];
        f.extend_from_slice(input.bytes(60));
        w.frame(&f);
    }
    w.finish();
}

/// Neighbour discovery, from one of a few sources to one of a few groups.
pub fn ndp(data: &[u8]) {
    let (mut w, mut input) = (World::new(), Input::new(data));
    while !input.is_empty() {
        let src = input.pick(&["fe80::64", "fd00::100", "::", "fe80::2", "fd00::2", "ff02::1"]);
        let dst = input.pick(&["ff02::1:ff00:2", "ff02::2", "ff02::1", "fe80::2", "fd00::2", "fd00::3"]);
        let hops = input.pick(&[255, 255, 255, 64, 1]);
        let body = input.bytes(200);
        if body.len() >= 4 {
            w.frame(&message(addr(src), addr(dst), hops, body));
        }
    }
    w.finish();
}

/// DHCPv4: the fixed part is right unless the input says otherwise, the options are the input's.
pub fn dhcp4(data: &[u8]) {
    let (mut w, mut input) = (World::new(), Input::new(data));
    let src = input.pick(&["0.0.0.0:68", "10.0.2.15:68", "10.0.2.100:68"]);
    let dst = input.pick(&["255.255.255.255:67", "10.0.2.2:67", "10.0.2.255:67"]);
    let sets = usize::from(input.u8() % 8);
    let mut m = super::seeds::bootp(&[]);
    for _ in 0..sets {
        let place = usize::from(input.u8()) % m.len();
        m[place] = input.u8();
    }
    let cut = input.u8();
    m.extend_from_slice(input.rest());
    if cut > 200 {
        m.truncate(usize::from(cut));
    }
    let frame = datagram(at(src), at(dst), &m);
    w.frame(&frame);
    // The answer does not depend on who asked before, and the second lease may be another one.
    w.frame(&frame);
    w.finish();
}

/// DHCPv6.
pub fn dhcp6(data: &[u8]) {
    let (mut w, mut input) = (World::new(), Input::new(data));
    let src = input.pick(&["[fe80::64]:546", "[fd00::100]:546", "[fe80::64]:1"]);
    let dst = input.pick(&["[ff02::1:2]:547", "[fe80::2]:547", "[fd00::3]:547"]);
    w.frame(&datagram(at(src), at(dst), input.rest()));
    w.finish();
}

/// Queries, resolvers that fail in their own ways, answers, and time.
pub fn dns(data: &[u8]) {
    let (mut w, mut input) = (World::new(), Input::new(data));
    while !input.is_empty() {
        match input.u8() % 8 {
            0..=2 => {
                let src = input.pick(&["10.0.2.100:4000", "10.0.2.100:4001", "[fd00::100]:4000"]);
                let to = if src.starts_with('[') { "[fd00::3]:53" } else { "10.0.2.3:53" };
                w.frame(&datagram(at(src), at(to), input.bytes(80)));
            }
            3 | 4 => {
                let from = input.pick(&["198.51.100.53:53", "[2001:db8::53]:53", "198.51.100.53:9"]);
                let (which, body) = (input.u8(), input.bytes(80));
                if let Some(flow) = w.nth(Kind::Dns, which)
                    && let Some(data) = w.host_buffer(body)
                {
                    w.event(flow, HostEvent::Datagrams { from: at(from), data, segment: None, tos: 0 });
                }
            }
            5 => {
                let which = input.u8();
                let to = at(input.pick(&["198.51.100.53:53", "[2001:db8::53]:53"]));
                let error =
                    input.pick(&[HostError::Refused, HostError::NetUnreachable, HostError::Exhausted]);
                if let Some(flow) = w.nth(Kind::Dns, which) {
                    w.event(flow, HostEvent::DatagramsFailed { to, error });
                }
            }
            6 => w.pass(Duration::from_millis(u64::from(input.u16()))),
            _ => w.resolvers(usize::from(input.u8()) % 4),
        }
        w.end_batch();
    }
    w.finish();
}

/// Parts of packets, in any order.
pub fn fragments(data: &[u8]) {
    let (mut w, mut input) = (World::new(), Input::new(data));
    while !input.is_empty() {
        let (kind, place) = (input.u8(), input.u8());
        let (src, dst) =
            if kind & 1 == 0 { ("10.0.2.100", "198.51.100.2") } else { ("fd00::100", "2001:db8::1") };
        let protocol = input.pick(&[17, 17, 6, 1, 58, 44, 132]);
        // Mostly the beginning, at times the far end of what a packet can have.
        let at = u16::from(place) * 8 + if kind & 2 == 0 { 0 } else { 0xf800 };
        let long = input.pick(&[0usize, 0, 0, 1480, 8000, 30_000, 65_000]);
        let mut body = input.bytes(64).to_vec();
        body.resize(body.len() + long, kind);
        body.truncate(65_400);
        w.frame(&fragment(addr(src), addr(dst), protocol, (u16::from(kind >> 4), at, kind & 8 == 0), &body));
        if kind & 4 != 0 {
            w.pass(Duration::from_millis(u64::from(input.u16())));
        }
    }
    w.finish();
}
