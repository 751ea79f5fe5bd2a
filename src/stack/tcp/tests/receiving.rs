//! From the guest: windows, acknowledgements, reassembly, shares of buffers.

use super::super::pool::Held;
use super::*;
use crate::buf::DEFAULT_SLOTS;
use crate::flow::DropReason;

fn window(seg: &Seg) -> u32 {
    u32::from(seg.tcp.window) << 5
}

#[test]
fn payload_is_lent_once_and_released_when_taken() {
    let mut w = World::new();
    let c = w.establish();
    let mut data = w.tcp(c.guest, c.ours, Flags::ACK);
    // The handshake's window is 64 KiB; the first acknowledgement opens it.
    w.segment(&data, 1);
    data.seq = data.seq.wrapping_add(1);
    assert_eq!(sent(&w.flush()), 1);
    w.host(c.id, HostEvent::Sent(1));
    for _ in 0..3 {
        w.segment(&data, 60_000);
        data.seq = data.seq.wrapping_add(60_000);
    }
    let actions = w.flush();
    // One send and one acknowledgement for the whole batch.
    assert_eq!(sent(&actions), 180_000);
    assert_eq!(only(&actions).tcp.ack, data.seq);
    w.segment(&data, 60_000);
    assert!(segments(&w.flush()).len() == 1 && w.live.len() == 4);
    w.host(c.id, HostEvent::Sent(100_000));
    assert_eq!(sent(&w.flush()), 140_000);
    assert_eq!(w.live.len(), 3);
    w.host(c.id, HostEvent::Sent(140_000));
    w.flush();
    assert!(w.live.is_empty());
}

#[test]
fn a_gap_is_reported_at_once_with_the_latest_block_first_and_filled() {
    let mut w = World::new();
    let c = w.establish();
    let at = |n: u32| c.guest.wrapping_add(n);
    let mut blocks = Vec::new();
    for from in [1000, 5000, 3000] {
        let data = w.tcp(at(from), c.ours, Flags::ACK);
        w.segment(&data, 1000);
        let acks = segments(&w.actions());
        assert_eq!((acks.len(), acks[0].tcp.ack), (1, c.guest));
        blocks = acks[0].tcp.options.sack.to_vec();
    }
    assert_eq!(blocks, [(at(3000), at(4000)), (at(5000), at(6000)), (at(1000), at(2000))]);
    // An old byte is reported as a duplicate (RFC 2883).
    let data = w.tcp(at(0), c.ours, Flags::ACK);
    w.segment(&data, 1000);
    let acks = segments(&w.actions());
    assert_eq!(acks[0].tcp.ack, at(2000));
    w.segment(&data, 1000);
    assert_eq!(segments(&w.actions())[0].tcp.options.sack[0], (at(0), at(1000)));
    assert_eq!(sent(&w.flush()), 2000);
}

#[test]
fn tiny_segments_are_packed_and_hold_one_small_buffer() {
    let mut w = World::new();
    let c = w.establish();
    let mut data = w.tcp(c.guest, c.ours, Flags::ACK);
    for _ in 0..1000 {
        w.segment(&data, 1);
        data.seq = data.seq.wrapping_add(1);
        w.flush();
    }
    assert_eq!(w.engine.pool.held, Held { tap: 0, small: 1 });
    assert_eq!(w.live.len(), 1);
    // The same behind a gap.
    data.seq = data.seq.wrapping_add(1);
    for _ in 0..1000 {
        w.segment(&data, 1);
        data.seq = data.seq.wrapping_add(1);
        w.flush();
    }
    assert_eq!(w.live.len(), 2);
}

#[test]
fn the_window_closes_on_a_stalled_host_is_never_taken_back_and_reopens_at_once() {
    let mut w = World::new();
    let c = w.establish();
    let mut data = w.tcp(c.guest, c.ours, Flags::ACK);
    let mut edge = 0u64;
    let mut offset = 0u64;
    loop {
        w.segment(&data, 60_000);
        let actions = w.flush();
        let Some(ack) = segments(&actions).pop() else { break };
        let acked = u64::from(ack.tcp.ack.wrapping_sub(c.guest));
        let new = acked + u64::from(window(&ack));
        assert!(new >= edge, "the window shrank: {new} after {edge}");
        edge = new;
        if acked == offset {
            break;
        }
        offset = acked;
        data.seq = c.guest.wrapping_add(offset as u32);
    }
    assert!((500_000..=1_100_000).contains(&offset), "{offset}");
    assert!(w.engine.pool.held.tap <= w.engine.pool.limits.flow_tap_slots);
    // Less than a super-frame's room is not worth a word.
    w.host(c.id, HostEvent::Sent(60_000));
    assert!(segments(&w.flush()).is_empty());
    w.host(c.id, HostEvent::Sent(300_000));
    let update = only(&w.flush());
    assert!(window(&update) >= 65536);
}

#[test]
fn stalled_connections_leave_room_for_a_lively_one() {
    let mut w = World::new();
    let mut dropped = 0;
    for port in 1000..1200 {
        w.guest.set_port(port);
        let c = w.establish();
        let data = w.tcp(c.guest, c.ours, Flags::ACK);
        w.segment(&data, 60_000);
        w.flush();
        dropped = w.counters.dropped(DropReason::NoRoom);
    }
    assert!(dropped > 0);
    let held = w.engine.pool.held.tap;
    let [slots, ..] = DEFAULT_SLOTS;
    assert!(held <= w.engine.pool.limits.tap_slots_hard && held < slots);
    // A trickle in small buffers still gets through.
    w.guest.set_port(999);
    let c = w.establish();
    let data = w.tcp(c.guest, c.ours, Flags::ACK);
    w.segment(&data, 1460);
    let actions = w.flush();
    assert_eq!(sent(&actions), 1460);
    assert!(window(&only(&actions)) >= 2048);
}

#[test]
fn an_answer_carries_the_acknowledgement_and_a_missing_answer_does_not_delay_it_long() {
    let mut w = World::new();
    let c = w.establish();
    let (mut seq, mut ack) = (c.guest, c.ours);
    for round in 0..3 {
        let question = w.tcp(seq, ack, Flags::ACK.with(Flags::PSH));
        w.segment(&question, 10);
        seq = seq.wrapping_add(10);
        // From the second round on the answer is waited for.
        assert_eq!(segments(&w.flush()).len(), usize::from(round == 0));
        w.host(c.id, HostEvent::Sent(10));
        w.receive(c.id, 20);
        if round == 0 {
            let more = w.tcp(seq, ack, Flags::ACK);
            w.segment(&more, 10);
            seq = seq.wrapping_add(10);
        }
        let answer = only(&w.flush());
        assert_eq!((answer.len, answer.tcp.ack), (20, seq));
        ack = ack.wrapping_add(20);
        if round == 0 {
            w.host(c.id, HostEvent::Sent(10));
        }
    }
    let question = w.tcp(seq, ack, Flags::ACK.with(Flags::PSH));
    w.segment(&question, 10);
    assert!(segments(&w.flush()).is_empty());
    assert_eq!(only(&w.wait(Duration::from_millis(3))).tcp.ack, seq.wrapping_add(10));
}
