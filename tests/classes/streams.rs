//! (e), (f): TCP that no sane guest speaks. The world checks every byte and every number of it.

use crate::fuzz::seeds::{at, plain, segment};
use crate::fuzz::world::{Tuple, World, pattern};
use crate::heard;
use ringtap::flow::FlowId;
use ringtap::stack::HostEvent;
use ringtap::wire::tcp::{Flags, Options};
use ringtap::wire::{Gso, Net, Payload, Tcp, parse};

const TUPLE: (&str, &str) = ("10.0.2.100:1", "198.51.100.2:80");
/// The guest's first number: the wrap is near.
const ISN: u32 = u32::MAX - 2000;

fn tuple() -> Tuple {
    (at(TUPLE.0), at(TUPLE.1))
}

/// The segments among the last frames, and their payload's length.
pub fn segments(w: &World) -> Vec<(Tcp, usize)> {
    let read = |f: &Vec<u8>| match parse(f).ok()?.net {
        Net::Ip(_, Payload::Tcp(tcp, r)) => Some((tcp, r.len())),
        _ => None,
    };
    w.frames.iter().filter_map(read).collect()
}

/// Sizes of the pieces into which the last super-frames were cut, their last ones apart.
pub fn cut_into(w: &World) -> Vec<usize> {
    w.pieces.clone()
}

/// The guest sends `syn`, whose number is `isn`; the host connects; the guest acknowledges.
pub fn connected_by(w: &mut World, syn: &[u8], isn: u32) -> FlowId {
    w.frame(syn);
    w.end_batch();
    let id = w.opened.last().expect("a socket is opened").0;
    w.socks.get_mut(&id).unwrap().connecting = false;
    w.event(id, HostEvent::Connected);
    w.end_batch();
    let seen = &w.seen[&tuple()];
    say(w, &plain(isn.wrapping_add(1), seen.next, Flags::ACK), 0);
    w.frames.clear();
    id
}

fn connected(w: &mut World) -> FlowId {
    let options =
        Options { mss: Some(1460), window_scale: Some(0), sack_permitted: true, ..Options::default() };
    let syn = segment(tuple().0, tuple().1, &Tcp { options, ..plain(ISN, 0, Flags::SYN) }, 0);
    connected_by(w, &syn, ISN)
}

/// A segment of the guest's whose payload follows the pattern.
fn say(w: &mut World, tcp: &Tcp, len: usize) {
    let mut frame = segment(tuple().0, tuple().1, tcp, len).to_vec();
    let start = tcp.seq.wrapping_add(u32::from(tcp.flags.has(Flags::SYN)));
    frame.extend_from_slice(pattern(tuple().0.port(), start, len));
    w.frame_gso(&frame, if len > 1460 { Gso::Tcp { mss: 1460 } } else { Gso::None });
    w.end_batch();
}

/// The host's side sends so many bytes.
pub fn host_sends(w: &mut World, id: FlowId, n: u32) {
    let given = w.socks[&id].given;
    let bytes = pattern(tuple().1.port(), given, n as usize);
    let span = w.host_buffer(bytes).expect("a buffer");
    w.socks.get_mut(&id).unwrap().given += n;
    w.event(id, HostEvent::Received(span));
}

/// The host takes all that is lent to it, again and again; how much it has taken since the beginning.
fn host_takes(w: &mut World, id: FlowId) -> u32 {
    while let Some(n) = w.socks.get_mut(&id).and_then(|s| s.sending.take()) {
        let sock = w.socks.get_mut(&id).unwrap();
        sock.taken += n as u32;
        w.event(id, HostEvent::Sent(n));
        w.end_batch();
    }
    w.socks[&id].taken
}

fn next(w: &World) -> u32 {
    w.seen[&tuple()].next
}

/// CVE-2026-9539: the urgent pointer reached beyond what was buffered, a count went below zero, and the heap went out through
/// the socket. What the pointer says must change nothing, whatever is open or closed.
#[test]
fn e_the_urgent_pointer_adds_nothing_to_the_stream() {
    for pointer in [0, 1, 2, 100, 0x7fff, 0xffff] {
        let mut w = heard();
        let id = connected(&mut w);
        let mut at = ISN.wrapping_add(1);
        let mut sent = 0;
        for (len, flags) in
            [(1, Flags::URG), (0, Flags::URG), (1000, Flags::URG.with(Flags::PSH)), (0, Flags::URG)]
        {
            for window in [65_535, 0] {
                let t = Tcp { urgent: pointer, window, ..plain(at, next(&w), Flags::ACK.with(flags)) };
                say(&mut w, &t, len);
                at = at.wrapping_add(len as u32);
                sent += len as u32;
            }
        }
        assert_eq!(host_takes(&mut w, id), sent, "pointer {pointer}");
        // Beyond a gap as well.
        let t = Tcp { urgent: pointer, ..plain(at.wrapping_add(100), next(&w), Flags::ACK.with(Flags::URG)) };
        say(&mut w, &t, 50);
        assert_eq!(host_takes(&mut w, id), sent);
        let n = next(&w);
        say(&mut w, &Tcp { urgent: pointer, ..plain(at, n, Flags::ACK.with(Flags::URG)) }, 100);
        assert_eq!(host_takes(&mut w, id), sent + 150);
        w.finish();
    }
}

#[test]
fn f_numbers_wrap_and_bytes_do_not() {
    let mut w = heard();
    let id = connected(&mut w);
    let first = ISN.wrapping_add(1);
    // Out of order, overlapping, across the wrap.
    for (from, len) in [(3000u32, 1000usize), (1500, 1000), (0, 1000), (2400, 700), (900, 700)] {
        let n = next(&w);
        say(&mut w, &plain(first.wrapping_add(from), n, Flags::ACK), len);
    }
    assert_eq!(host_takes(&mut w, id), 4000);
    assert_eq!(w.seen[&tuple()].acked, Some(first.wrapping_add(4000)));
    w.finish();
}

#[test]
fn f_a_closed_or_shrinking_window_is_kept() {
    let mut w = heard();
    let id = connected(&mut w);
    let guest = ISN.wrapping_add(1);
    let start = next(&w);
    let ack = |ack: u32, window: u16| Tcp { window, ..plain(guest, ack, Flags::ACK) };
    say(&mut w, &ack(start, 0), 0);
    w.frames.clear();
    host_sends(&mut w, id, 5000);
    w.pass(std::time::Duration::from_secs(60));
    // Probes only: of one byte at most, and all of the same place.
    assert!(!segments(&w).is_empty());
    assert!(
        segments(&w).iter().all(|(_, len)| *len <= 1) && next(&w).wrapping_sub(start) <= 1,
        "{:?}",
        segments(&w)
    );
    say(&mut w, &ack(start, 2000), 0);
    assert!(next(&w).wrapping_sub(start) <= 2000);
    // It takes back what it has promised.
    say(&mut w, &ack(start.wrapping_add(1000), 100), 0);
    w.frames.clear();
    w.pass(std::time::Duration::from_secs(5));
    for (tcp, len) in segments(&w) {
        let end = tcp.seq.wrapping_add(len as u32).wrapping_sub(start);
        assert!(end <= 2000, "{end} bytes");
    }
    let n = next(&w);
    say(&mut w, &ack(n, 65_535), 0);
    w.pass(std::time::Duration::from_secs(5));
    assert_eq!(next(&w).wrapping_sub(start), 5000);
    w.finish();
}

#[test]
fn f_data_on_a_syn_counts_once() {
    let mut w = heard();
    let mut syn = segment(tuple().0, tuple().1, &plain(ISN, 0, Flags::SYN), 10).to_vec();
    syn.extend_from_slice(pattern(1, ISN.wrapping_add(1), 10));
    w.frame(&syn);
    w.end_batch();
    let id = w.opened.last().unwrap().0;
    w.socks.get_mut(&id).unwrap().connecting = false;
    w.event(id, HostEvent::Connected);
    w.end_batch();
    let (reply, _) = segments(&w).pop().unwrap();
    let taken = reply.ack.wrapping_sub(ISN.wrapping_add(1));
    assert!(taken <= 10);
    let n = next(&w);
    say(&mut w, &plain(ISN.wrapping_add(1), n, Flags::ACK), 20);
    assert_eq!(host_takes(&mut w, id), 20);
    w.finish();
}

#[test]
fn f_a_syn_or_a_reset_that_does_not_fit_ends_nothing() {
    let mut w = heard();
    let id = connected(&mut w);
    let at = ISN.wrapping_add(1);
    // RFC 5961: a SYN, and a reset in the window but not at its edge, are answered; resets beyond it are lost.
    for (seq, flags) in [
        (at, Flags::SYN),
        (at.wrapping_add(5000), Flags::SYN),
        (at.wrapping_sub(1), Flags::RST),
        (at.wrapping_add(1), Flags::RST),
        (at.wrapping_add(0x7000_0000), Flags::RST),
        (at.wrapping_add(1), Flags::RST.with(Flags::ACK)),
        (at, Flags(0)),
    ] {
        let n = next(&w);
        say(&mut w, &plain(seq, n, flags), 0);
        assert!(w.socks.contains_key(&id), "{flags:?} at {}", seq.wrapping_sub(at));
    }
    // Acknowledging what was never sent is no acknowledgement.
    let n = next(&w);
    say(&mut w, &plain(at, n.wrapping_add(100_000), Flags::ACK), 500);
    assert_eq!(host_takes(&mut w, id), 0);
    let n = next(&w);
    say(&mut w, &plain(at, n, Flags::ACK), 500);
    assert_eq!(host_takes(&mut w, id), 500);
    let n = next(&w);
    say(&mut w, &plain(at.wrapping_add(500), n, Flags::RST), 0);
    assert!(!w.socks.contains_key(&id), "a reset at the edge ends it");
    w.finish();
}

#[test]
fn f_an_end_before_the_data_waits_for_the_data() {
    let mut w = heard();
    let id = connected(&mut w);
    let at = ISN.wrapping_add(1);
    let n = next(&w);
    say(&mut w, &plain(at.wrapping_add(100), n, Flags::ACK.with(Flags::FIN)), 50);
    assert_eq!((host_takes(&mut w, id), w.socks[&id].shut), (0, false));
    // Nothing may follow an end, wherever it claims to be.
    let n = next(&w);
    say(&mut w, &plain(at.wrapping_add(150), n, Flags::ACK), 70);
    let n = next(&w);
    say(&mut w, &plain(at, n, Flags::ACK), 100);
    assert_eq!((host_takes(&mut w, id), w.socks[&id].shut), (150, true));
    w.finish();
}
