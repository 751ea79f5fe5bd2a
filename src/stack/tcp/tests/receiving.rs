//! From the guest: windows, acknowledgements, reassembly, shares of buffers.

use super::super::pool::Held;
use super::*;
use crate::buf::DEFAULT_SLOTS;
use crate::flow::{DropReason, Limit};

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

#[test]
fn a_guest_that_asks_about_a_closed_window_is_told() {
    let mut w = World::new();
    let c = w.establish();
    let mut data = w.tcp(c.guest, c.ours, Flags::ACK);
    // The host takes nothing: the window closes.
    let closed = loop {
        w.segment(&data, 60_000);
        let Some(ack) = segments(&w.flush()).pop() else { continue };
        data.seq = ack.tcp.ack;
        if ack.tcp.window == 0 {
            break ack;
        }
    };
    let held = w.live.len();
    // Linux asks by an old number without data, others by a byte beyond the window.
    let mut probes = [(data.clone(), 0), (data.clone(), 1)];
    probes[0].0.seq = data.seq.wrapping_sub(1);
    for (probe, len) in &probes {
        w.wait(Duration::from_secs(1));
        w.segment(probe, *len);
        let answer = only(&w.flush());
        assert_eq!((answer.tcp.ack, answer.tcp.window), (closed.tcp.ack, 0), "{probe:?}");
    }
    assert_eq!(w.live.len(), held);
    // It has reopened and the word of it was lost: the next question is answered by it.
    w.host(c.id, HostEvent::Sent(60_000));
    w.flush();
    w.host(c.id, HostEvent::Sent(400_000));
    assert!(window(&only(&w.flush())) > 0);
    w.wait(Duration::from_secs(1));
    w.segment(&probes[0].0, 0);
    assert!(window(&only(&w.flush())) >= 65536);
}

#[test]
fn what_lies_beyond_a_gap_is_bounded_and_a_filled_gap_frees_it() {
    let mut w = World::new();
    let c = w.establish();
    // Every other byte: no two can share a buffer.
    for n in 0..2000 {
        let data = w.tcp(c.guest.wrapping_add(1 + 2 * n), c.ours, Flags::ACK);
        w.segment(&data, 1);
        w.flush();
    }
    let held = w.engine.pool.held;
    assert!(held.tap + held.small <= w.engine.pool.limits.flow_small_slots, "{held:?}");
    assert_eq!(w.live.len(), (held.tap + held.small) as usize);
    // What is not held was dropped, and each counted once.
    let dropped = 2000 - u64::from(held.tap + held.small);
    let told = &w.counters;
    assert_eq!((told.dropped(DropReason::NoRoom), told.limited(Limit::Buffered)), (dropped, dropped));
    // All of it in one piece.
    let data = w.tcp(c.guest, c.ours, Flags::ACK);
    w.segment(&data, 4000);
    let actions = w.flush();
    assert_eq!(sent(&actions), 4000);
    w.host(c.id, HostEvent::Sent(4000));
    w.flush();
    assert!(w.live.is_empty());
    assert_eq!(w.engine.pool.held, Held::default());
}

/// Segments of any length from any place, over and over, as no honest guest sends them: each byte of the stream must come
/// out once and in order, whichever buffer it came in.
#[test]
fn overlapping_segments_in_any_order_make_one_stream() {
    const LEN: u32 = 60_000;
    for seed in 1..=40u64 {
        let mut w = World::new();
        let c = w.establish();
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut roll = |n: u32| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 33) as u32 % n
        };
        // What each buffer holds, by offset within it: places in the stream.
        let mut content = std::collections::HashMap::<BufId, Vec<u32>>::new();
        let mut taken = 0;
        for round in 0u32.. {
            assert!(round < 20_000, "seed {seed}: stuck at {taken}");
            let from = if roll(3) == 0 { taken } else { (taken + roll(30_000)).saturating_sub(9000) };
            let from = from.min(LEN - 1);
            let most = [3, 1500, 9000][roll(3) as usize];
            let len = (1 + roll(most)).min(LEN - from);
            let next = BufId::new(if len <= 4096 { Class::Small } else { Class::Tap }, w.next_buf);
            content.insert(next, (0..66).map(|_| u32::MAX).chain(from..from + len).collect());
            let data = w.tcp(c.guest.wrapping_add(from), c.ours, Flags::ACK);
            w.segment(&data, len as usize);
            for action in w.flush() {
                match action {
                    Action::Copy { from, to } => {
                        let bytes = content[&from.buf][from.off as usize..][..from.len as usize].to_vec();
                        let at = content.get_mut(&to.buf).unwrap();
                        at.resize(at.len().max((to.off + to.len) as usize), u32::MAX);
                        at[to.off as usize..][..to.len as usize].copy_from_slice(&bytes);
                    }
                    Action::SendStream(id, spans) => {
                        let places: Vec<u32> = spans
                            .iter()
                            .flat_map(|s| content[&s.buf][s.off as usize..][..s.len as usize].to_vec())
                            .collect();
                        let n = 1 + roll(places.len() as u32);
                        assert!((taken..).zip(&places).all(|(want, got)| want == *got), "seed {seed}");
                        taken += n;
                        w.host(id, HostEvent::Sent(n as usize));
                    }
                    _ => {}
                }
            }
            if taken == LEN {
                break;
            }
        }
        w.flush();
        assert!(w.live.is_empty(), "seed {seed}: {:?}", w.live);
    }
}
