//! Segments that should not be: out of window, forged, contradictory (RFC 5961, CVE-2026-9539's class).

use super::*;
use crate::flow::DropReason;

#[test]
fn a_reset_counts_only_at_the_exact_place() {
    let mut w = World::new();
    let c = w.establish();
    let mut rst = w.tcp(c.guest.wrapping_add(100), 0, Flags::RST);
    w.segment(&rst, 0);
    // In the window: a challenge. Outside: nothing.
    let challenge = only(&w.flush());
    assert_eq!((challenge.tcp.flags, challenge.tcp.ack), (Flags::ACK, c.guest));
    rst.seq = c.guest.wrapping_sub(1);
    w.segment(&rst, 0);
    assert_eq!(w.flush(), []);
    rst.seq = c.guest;
    w.segment(&rst, 0);
    assert_eq!(closed(&w.flush()), Some(Close::Reset));
    w.assert_empty();
}

#[test]
fn a_syn_within_a_connection_and_a_forged_acknowledgement_are_challenged() {
    let mut w = World::new();
    let c = w.establish();
    let bad = [
        w.tcp(c.guest.wrapping_add(9), 0, Flags::SYN),
        w.tcp(c.guest.wrapping_sub(9), 0, Flags::SYN),
        w.tcp(c.guest, c.ours.wrapping_add(1), Flags::ACK),
        w.tcp(c.guest, c.ours.wrapping_sub(1 << 30), Flags::ACK),
    ];
    for segment in bad {
        w.segment(&segment, 50);
        let challenge = only(&w.flush());
        assert_eq!((challenge.tcp.seq, challenge.tcp.ack), (c.ours, c.guest), "{segment:?}");
    }
    // No acknowledgement at all: not even that.
    let bare = w.tcp(c.guest, 0, Flags::PSH);
    w.segment(&bare, 50);
    assert_eq!(w.flush(), []);
    assert!(w.live.is_empty());
}

#[test]
fn challenges_are_rationed() {
    let mut w = World::new();
    let c = w.establish();
    let rst = w.tcp(c.guest.wrapping_add(100), 0, Flags::RST);
    let mut answers = 0;
    for _ in 0..5000 {
        w.segment(&rst, 0);
        answers += segments(&w.flush()).len();
    }
    assert_eq!(answers, super::super::tuning::CHALLENGES_PER_SECOND as usize);
}

#[test]
fn two_confused_ends_do_not_keep_each_other_busy() {
    let mut w = World::new();
    let c = w.establish();
    let old = w.tcp(c.guest.wrapping_sub(1), c.ours, Flags::ACK);
    w.segment(&old, 0);
    assert_eq!(only(&w.flush()).tcp.ack, c.guest);
    for _ in 0..100 {
        w.segment(&old, 0);
        assert_eq!(w.flush(), []);
    }
    // A keepalive of the guest comes later and is answered.
    w.wait(Duration::from_secs(1));
    w.segment(&old, 0);
    assert_eq!(only(&w.flush()).tcp.ack, c.guest);
}

#[test]
fn the_urgent_pointer_addresses_nothing() {
    let mut w = World::new();
    let c = w.establish();
    let mut urgent = w.tcp(c.guest, c.ours, Flags::ACK.with(Flags::URG));
    urgent.urgent = 65535;
    for _ in 0..3 {
        w.segment(&urgent, 3);
        urgent.seq = urgent.seq.wrapping_add(3);
    }
    assert_eq!(sent(&w.flush()), 9);
    w.segment(&urgent, 0);
    w.flush();
    assert_eq!(w.live.len(), 1);
}

#[test]
fn data_on_a_syn_waits_and_a_fin_on_a_syn_is_no_connection() {
    let mut w = World::new();
    let mut syn = w.syn();
    w.segment(&syn, 500);
    assert!(matches!(w.flush().as_slice(), [Action::Open(..)]));
    assert!(w.live.is_empty());
    let mut w = World::new();
    syn.flags = Flags::SYN.with(Flags::FIN);
    w.segment(&syn, 0);
    assert_eq!(w.flush(), []);
    assert_eq!(w.counters.dropped(DropReason::TcpUnacceptable), 1);
    w.assert_empty();
}

#[test]
fn a_fin_ahead_of_its_data_waits_for_it() {
    let mut w = World::new();
    let c = w.establish();
    let mut fin = w.tcp(c.guest.wrapping_add(100), c.ours, Flags::ACK.with(Flags::FIN));
    w.segment(&fin, 50);
    let actions = w.flush();
    assert!(!actions.contains(&Action::ShutdownWrite(c.id)));
    assert_eq!(segments(&actions)[0].tcp.ack, c.guest);
    fin.seq = c.guest;
    fin.flags = Flags::ACK;
    // Longer than the gap, and beyond the end the FIN named.
    w.segment(&fin, 400);
    let actions = w.flush();
    assert_eq!(sent(&actions), 150);
    w.host(c.id, HostEvent::Sent(150));
    let actions = w.flush();
    assert!(actions.contains(&Action::ShutdownWrite(c.id)));
    assert!(w.live.is_empty());
}
