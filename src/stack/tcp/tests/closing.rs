//! How connections end: in order, half first, both at once, by force, by being forgotten.

use super::*;

#[test]
fn bytes_go_both_ways_and_both_sides_close_in_turn() {
    let mut w = World::new();
    let c = w.establish();
    let mut data = w.tcp(c.guest, c.ours, Flags::ACK.with(Flags::PSH));
    w.segment(&data, 3000);
    let actions = w.flush();
    assert_eq!(sent(&actions), 3000);
    assert_eq!(only(&actions).tcp.ack, c.guest.wrapping_add(3000));
    w.host(c.id, HostEvent::Sent(3000));
    assert_eq!(w.flush(), []);
    assert!(w.live.is_empty(), "an idle flow holds no buffers");

    w.receive(c.id, 200_000);
    let frames = segments(&w.flush());
    assert_eq!(frames.iter().map(|f| f.len).sum::<usize>(), 200_000);
    assert!(frames.iter().all(|f| f.gso == Gso::Tcp { mss: 1460 }));
    assert!(frames[..3].iter().all(|f| f.len == 65535 / 1460 * 1460 && !f.is(Flags::PSH)));
    assert!(frames[3].is(Flags::PSH));
    data.seq = c.guest.wrapping_add(3000);
    data.ack = c.ours.wrapping_add(200_000);
    w.segment(&data, 0);
    assert_eq!(w.flush(), []);
    assert!(w.live.is_empty());

    // The guest ends first.
    let fin = w.tcp(data.seq, data.ack, Flags::FIN.with(Flags::ACK));
    w.segment(&fin, 0);
    let actions = w.flush();
    assert!(actions.contains(&Action::ShutdownWrite(c.id)));
    assert_eq!(only(&actions).tcp.ack, fin.seq.wrapping_add(1));
    w.host(c.id, HostEvent::Eof);
    let actions = w.flush();
    assert_eq!(closed(&actions), Some(Close::Orderly));
    let ours = only(&actions);
    assert!(ours.is(Flags::FIN));
    let ack = w.tcp(fin.seq.wrapping_add(1), ours.tcp.seq.wrapping_add(1), Flags::ACK);
    w.segment(&ack, 0);
    assert_eq!(w.flush(), []);
    w.assert_empty();
}

/// Closes from the host's side first; the guest acknowledges our FIN.
fn host_ends(w: &mut World, c: Established) {
    w.host(c.id, HostEvent::Eof);
    let fin = only(&w.flush());
    assert!(fin.is(Flags::FIN) && fin.tcp.seq == c.ours);
    let ack = w.tcp(c.guest, c.ours.wrapping_add(1), Flags::ACK);
    w.segment(&ack, 0);
    assert_eq!(w.flush(), []);
}

fn guest_ends(w: &mut World, c: Established) -> Vec<Action> {
    let fin = w.tcp(c.guest, c.ours.wrapping_add(1), Flags::ACK.with(Flags::FIN));
    w.segment(&fin, 0);
    w.flush()
}

#[test]
fn the_guest_goes_on_sending_after_the_host_ended() {
    let mut w = World::new();
    let c = w.establish();
    host_ends(&mut w, c);
    let data = w.tcp(c.guest, c.ours.wrapping_add(1), Flags::ACK);
    w.segment(&data, 700);
    assert_eq!(sent(&w.flush()), 700);
    w.host(c.id, HostEvent::Sent(700));
    let c = Established { guest: c.guest.wrapping_add(700), ..c };
    let actions = guest_ends(&mut w, c);
    assert!(actions.contains(&Action::ShutdownWrite(c.id)));
    assert_eq!(closed(&actions), Some(Close::Orderly));
    assert_eq!(only(&actions).tcp.ack, c.guest.wrapping_add(1));
    // The host socket is gone at once; only the tuple rests.
    assert!(w.engine.is_empty() && w.engine.resting() == 1);
    w.assert_empty();
    // A late FIN is acknowledged again, a late reset changes nothing (RFC 1337).
    let ack = only(&guest_ends(&mut w, c));
    assert_eq!((ack.tcp.flags, ack.tcp.ack), (Flags::ACK, c.guest.wrapping_add(1)));
    let rst = w.tcp(c.guest.wrapping_add(1), 0, Flags::RST);
    w.segment(&rst, 0);
    assert_eq!((w.flush(), w.engine.resting()), (vec![], 1));
    w.wait(Duration::from_secs(21));
    assert_eq!((w.engine.resting(), w.engine.next_deadline()), (0, None));
}

#[test]
fn a_resting_tuple_is_taken_over_by_a_later_syn_only() {
    let mut w = World::new();
    let c = w.establish();
    host_ends(&mut w, c);
    guest_ends(&mut w, c);
    let mut syn = w.syn();
    w.segment(&syn, 0);
    assert_eq!(only(&w.flush()).tcp.flags, Flags::ACK);
    syn.seq = c.guest.wrapping_add(50);
    w.segment(&syn, 0);
    let actions = w.flush();
    let [Action::Open(id, _)] = actions.as_slice() else { panic!("{actions:?}") };
    w.host(*id, HostEvent::Connected);
    let reply = only(&w.flush());
    assert!((reply.tcp.seq.wrapping_sub(c.ours) as i32) > 65535, "numbers beyond the old connection's");
    assert_eq!(w.engine.resting(), 0);
}

#[test]
fn both_close_at_the_same_moment() {
    let mut w = World::new();
    let c = w.establish();
    w.host(c.id, HostEvent::Eof);
    assert!(only(&w.flush()).is(Flags::FIN));
    // Their FIN does not acknowledge ours.
    let fin = w.tcp(c.guest, c.ours, Flags::ACK.with(Flags::FIN));
    w.segment(&fin, 0);
    let actions = w.flush();
    assert_eq!(only(&actions).tcp.ack, c.guest.wrapping_add(1));
    assert_eq!(closed(&actions), Some(Close::Orderly));
    assert_eq!(w.engine.flow(c.id).unwrap().state, "closing");
    let ack = w.tcp(c.guest.wrapping_add(1), c.ours.wrapping_add(1), Flags::ACK);
    w.segment(&ack, 0);
    assert_eq!((w.flush(), w.engine.resting()), (vec![], 1));
    w.assert_empty();
}

#[test]
fn a_dead_host_is_a_reset_after_what_it_sent() {
    let mut w = World::new();
    let c = w.establish();
    w.receive(c.id, 3000);
    w.host(c.id, HostEvent::ReceiveFailed(HostError::Reset));
    let actions = w.flush();
    let frames = segments(&actions);
    assert_eq!((frames[0].len, frames[1].tcp.seq), (3000, c.ours.wrapping_add(3000)));
    assert!(frames[1].is(Flags::RST));
    assert_eq!(closed(&actions), Some(Close::Reset));
    w.assert_empty();
}

#[test]
fn a_reset_after_the_guests_last_byte_does_not_cut_it_off() {
    let mut w = World::new();
    let c = w.establish();
    let data = w.tcp(c.guest, c.ours, Flags::ACK.with(Flags::FIN));
    w.segment(&data, 500);
    assert_eq!(sent(&w.flush()), 500);
    let rst = w.tcp(c.guest.wrapping_add(501), 0, Flags::RST);
    w.segment(&rst, 0);
    assert!(closed(&w.flush()).is_none());
    w.host(c.id, HostEvent::Sent(500));
    let actions = w.flush();
    assert!(actions.contains(&Action::ShutdownWrite(c.id)));
    assert_eq!(closed(&actions), Some(Close::Reset));
    w.assert_empty();
}

/// Waits for the question to a guest that is silent.
fn question(w: &mut World, c: Established) {
    assert_eq!(w.wait(Duration::from_secs(300)), []);
    let mut waited = 0;
    let probe = loop {
        let actions = w.wait(Duration::from_secs(1));
        if !actions.is_empty() {
            break only(&actions);
        }
        waited += 1;
        assert!(waited <= 151);
    };
    assert_eq!((probe.tcp.seq, probe.len), (c.ours.wrapping_sub(1), 0));
}

#[test]
fn silent_guests_are_asked_and_then_given_up() {
    let mut w = World::new();
    let c = w.establish();
    question(&mut w, c);
    let alive = w.tcp(c.guest, c.ours, Flags::ACK);
    w.segment(&alive, 0);
    w.flush();
    assert_eq!(w.wait(Duration::from_secs(300)), []);
    let actions = w.wait(Duration::from_secs(152 + 6 * 31));
    assert_eq!(segments(&actions).len(), 7);
    assert_eq!(closed(&actions), Some(Close::Reset));
    w.assert_empty();
    // In FIN_WAIT_2 within minutes.
    let mut w = World::new();
    let c = w.establish();
    host_ends(&mut w, c);
    assert_eq!(closed(&w.wait(Duration::from_secs(400))), Some(Close::Reset));
    w.assert_empty();
}

#[test]
fn a_silent_crowd_is_asked_bit_by_bit_and_in_few_wake_ups() {
    let mut w = World::new();
    let mut crowd = Vec::new();
    for port in 1..=900 {
        w.guest.set_port(port);
        crowd.push(w.establish());
    }
    // They fall silent together.
    w.wait(Duration::from_secs(5));
    let end = w.now + Duration::from_secs(460);
    let (mut asked, mut most, mut wake_ups) = (0, 0, 0);
    while let Some(at) = w.engine.next_deadline().filter(|at| *at <= end) {
        w.now = at;
        w.run(|e, cx| e.timeout(cx));
        let probes = segments(&w.actions());
        for probe in &probes {
            w.guest.set_port(probe.tcp.dst_port);
            let c = crowd[usize::from(probe.tcp.dst_port) - 1];
            let alive = w.tcp(c.guest, c.ours, Flags::ACK);
            w.segment(&alive, 0);
        }
        assert_eq!(w.flush(), []);
        asked += probes.len();
        most = most.max(probes.len());
        wake_ups += 1;
    }
    assert_eq!((asked, w.engine.len()), (900, 900));
    assert!(most <= 30 && wake_ups <= 200, "{most} at once, {wake_ups} wake-ups");
}

#[test]
fn a_guest_that_answers_may_stay_in_fin_wait_2_for_as_long_as_it_likes() {
    let mut w = World::new();
    let c = w.establish();
    host_ends(&mut w, c);
    let mut asked = 0;
    for _ in 0..360 {
        let actions = w.wait(Duration::from_secs(10));
        assert_eq!(closed(&actions), None, "after {asked} answers");
        for probe in segments(&actions) {
            assert_eq!((probe.tcp.flags, probe.len), (Flags::ACK, 0));
            let alive = w.tcp(c.guest, c.ours.wrapping_add(1), Flags::ACK);
            w.segment(&alive, 0);
            assert_eq!(w.flush(), []);
            asked += 1;
        }
    }
    // An hour, asked every minute to minute and a half.
    assert!((36..=60).contains(&asked), "{asked}");
    let data = w.tcp(c.guest, c.ours.wrapping_add(1), Flags::ACK);
    w.segment(&data, 700);
    assert_eq!(sent(&w.flush()), 700);
}

#[test]
fn a_tuple_whose_host_still_takes_data_is_taken_over_by_a_later_syn_only() {
    let mut w = World::new();
    let c = w.establish();
    host_ends(&mut w, c);
    let data = w.tcp(c.guest, c.ours.wrapping_add(1), Flags::ACK.with(Flags::FIN));
    w.segment(&data, 700);
    assert_eq!(sent(&w.flush()), 700);
    let rcv_nxt = c.guest.wrapping_add(701);
    assert_eq!((w.engine.flow(c.id).unwrap().state, w.engine.resting()), ("time-wait", 0));
    // Of the old numbers, the very next one among them: a segment of the connection that was.
    for seq in [IRS, c.guest.wrapping_add(300), rcv_nxt] {
        let mut syn = w.syn();
        syn.seq = seq;
        w.segment(&syn, 0);
        let actions = w.flush();
        let reply = only(&actions);
        assert_eq!((actions.len(), reply.tcp.flags, reply.tcp.ack), (1, Flags::ACK, rcv_nxt), "{seq}");
    }
    let mut syn = w.syn();
    syn.seq = rcv_nxt.wrapping_add(1);
    w.segment(&syn, 0);
    let actions = w.flush();
    let [Action::Open(id, _)] = actions.as_slice() else { panic!("{actions:?}") };
    assert!(*id != c.id && w.engine.len() == 2);
    w.host(*id, HostEvent::Connected);
    let reply = only(&w.flush());
    assert!((reply.tcp.seq.wrapping_sub(c.ours) as i32) > 65535, "numbers beyond the old connection's");
    assert_eq!(reply.tcp.ack, syn.seq.wrapping_add(1));
    // The old one's last bytes still reach the host, and then it is gone.
    w.host(c.id, HostEvent::Sent(700));
    let actions = w.flush();
    assert!(actions.contains(&Action::ShutdownWrite(c.id)));
    assert_eq!((closed(&actions), w.engine.len()), (Some(Close::Orderly), 1));
    let ack = w.tcp(syn.seq.wrapping_add(1), reply.tcp.seq.wrapping_add(1), Flags::ACK);
    w.segment(&ack, 0);
    assert_eq!(w.flush(), [Action::Receive(*id, Intake::On)]);
}

#[test]
fn orphans_are_bounded_in_number_and_in_time() {
    let mut w = World::new();
    w.engine.pool.limits.orphans = 3;
    for port in 1..=5 {
        w.guest.set_port(port);
        let c = w.establish();
        w.receive(c.id, 1000);
        w.host(c.id, HostEvent::Eof);
        let fin = w.tcp(c.guest, c.ours, Flags::ACK.with(Flags::FIN));
        w.segment(&fin, 0);
        assert_eq!(closed(&w.flush()), Some(Close::Orderly));
        assert_eq!(w.engine.len(), usize::from(port.min(3)));
    }
    w.wait(Duration::from_secs(1200));
    w.assert_empty();
}

#[test]
fn an_idle_connection_is_small() {
    let mut w = World::new();
    let c = w.establish();
    let mut at = 0;
    for _ in 0..40 {
        w.receive(c.id, 65536);
        w.flush();
        at += 65536;
        let ack = w.tcp(c.guest, c.ours.wrapping_add(at), Flags::ACK);
        w.segment(&ack, 0);
        w.flush();
    }
    let info = w.engine.flows().next().unwrap();
    assert!(info.memory <= 1024, "{} bytes", info.memory);
    assert_eq!((info.queued_down, info.counters.bytes_down), (0, 40 * 65536));
}

/// A connection whose host side is over while the guest's window is closed on 5000 bytes.
fn orphan(w: &mut World) -> Established {
    let c = w.establish();
    let mut fin = w.tcp(c.guest, c.ours, Flags::ACK.with(Flags::FIN));
    fin.window = 0;
    w.segment(&fin, 0);
    w.receive(c.id, 5000);
    w.host(c.id, HostEvent::Eof);
    assert_eq!(closed(&w.flush()), Some(Close::Orderly));
    Established { guest: c.guest.wrapping_add(1), ..c }
}

#[test]
fn an_orphan_lives_on_progress_and_not_on_answers() {
    // The guest's program has stopped, its kernel answers every probe: ten minutes.
    let mut w = World::new();
    let c = orphan(&mut w);
    let start = w.now;
    let mut answer = w.tcp(c.guest, c.ours, Flags::ACK);
    answer.window = 0;
    while !w.engine.is_empty() {
        assert!(w.now.since(start) < Duration::from_secs(700), "an orphan lives on answers");
        w.wait(Duration::from_secs(5));
        w.segment(&answer, 0);
        w.flush();
    }
    assert!(w.now.since(start) >= Duration::from_secs(600));
    w.assert_empty();
    // It reads a little now and then: as long as that takes.
    let mut w = World::new();
    let c = orphan(&mut w);
    let mut answer = w.tcp(c.guest, c.ours, Flags::ACK);
    for taken in (0..5000).step_by(128) {
        answer.ack = c.ours.wrapping_add(taken);
        answer.window = 1;
        w.segment(&answer, 0);
        w.flush();
        answer.ack = c.ours.wrapping_add((taken + 128).min(5000));
        answer.window = 0;
        w.segment(&answer, 0);
        w.flush();
        for _ in 0..50 {
            w.wait(Duration::from_secs(10));
            w.segment(&answer, 0);
            w.flush();
        }
        assert_eq!(w.engine.len(), 1);
    }
    // The FIN went with the last of it.
    answer.ack = c.ours.wrapping_add(5001);
    w.segment(&answer, 0);
    w.flush();
    w.assert_empty();
}

#[test]
fn an_answer_that_comes_late_to_a_guest_that_ended_is_not_cut_off() {
    let mut w = World::new();
    let c = w.establish();
    let fin = w.tcp(c.guest, c.ours, Flags::ACK.with(Flags::FIN));
    w.segment(&fin, 0);
    assert!(w.flush().contains(&Action::ShutdownWrite(c.id)));
    // Half an hour, in which the guest's kernel is asked now and then.
    for _ in 0..4 {
        question(&mut w, c);
        let alive = w.tcp(c.guest.wrapping_add(1), c.ours, Flags::ACK);
        w.segment(&alive, 0);
        assert_eq!(w.flush(), []);
    }
    w.receive(c.id, 3000);
    w.host(c.id, HostEvent::Eof);
    let answer = only(&w.flush());
    assert!(answer.len == 3000 && answer.is(Flags::FIN));
    assert_eq!(w.wait(Duration::from_millis(100)), [], "nothing, and no reset, while it is on its way");
    let ack = w.tcp(c.guest.wrapping_add(1), c.ours.wrapping_add(3001), Flags::ACK);
    w.segment(&ack, 0);
    w.flush();
    w.assert_empty();
}

#[test]
fn a_lost_fin_is_sent_again() {
    let mut w = World::new();
    let c = w.establish();
    w.host(c.id, HostEvent::Eof);
    assert!(only(&w.flush()).is(Flags::FIN));
    let again = only(&w.wait(Duration::from_millis(250)));
    assert!(again.is(Flags::FIN) && again.tcp.seq == c.ours);
    let ack = w.tcp(c.guest, c.ours.wrapping_add(1), Flags::ACK);
    w.segment(&ack, 0);
    w.flush();
    assert_eq!(w.engine.flow(c.id).unwrap().state, "fin-wait-2");
}

#[test]
fn an_idle_connection_asks_for_no_time() {
    let mut w = World::new();
    let c = w.establish();
    let data = w.tcp(c.guest, c.ours, Flags::ACK);
    w.segment(&data, 3);
    w.flush();
    w.host(c.id, HostEvent::Sent(3));
    w.receive(c.id, 3);
    w.flush();
    let ack = w.tcp(c.guest.wrapping_add(3), c.ours.wrapping_add(3), Flags::ACK);
    w.segment(&ack, 0);
    w.flush();
    // What was armed meanwhile may fire once and finds nothing to do; from then on there is keepalive only.
    assert_eq!(w.wait(Duration::from_secs(5)), []);
    let rest = w.engine.next_deadline().unwrap().since(w.now);
    assert!(rest > Duration::from_secs(290), "{rest:?}");
}
