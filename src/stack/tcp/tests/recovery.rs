//! To the guest: windows, silly windows, loss and what is done about it.

use super::*;

const MSS: u32 = 1460;

/// A connection with `len` bytes from the host sent to the guest; says the frames.
fn sending(w: &mut World, len: usize) -> (Established, Vec<Seg>) {
    let c = w.establish();
    w.receive(c.id, len);
    let frames = segments(&w.flush());
    (c, frames)
}

fn ack(w: &mut World, c: Established, at: u32, blocks: &[(u32, u32)], window: u16) -> Vec<Action> {
    let mut tcp = w.tcp(c.guest, c.ours.wrapping_add(at), Flags::ACK);
    tcp.window = window;
    tcp.options.sack =
        blocks.iter().map(|(l, r)| (c.ours.wrapping_add(*l), c.ours.wrapping_add(*r))).collect();
    w.segment(&tcp, 0);
    w.flush()
}

#[test]
fn a_reported_gap_is_sent_again_at_once_and_only_once() {
    let mut w = World::new();
    let (c, frames) = sending(&mut w, 250_000);
    let first = frames[0].len as u32;
    assert!(frames.len() == 4);
    // The second frame is lost.
    let (gap, end) = (first, 2 * first);
    let again = only(&ack(&mut w, c, gap, &[(end, end + first)], 65535));
    assert_eq!((again.tcp.seq, again.len as u32), (c.ours.wrapping_add(gap), first));
    assert_eq!(again.spans, frames[1].spans);
    assert!(segments(&ack(&mut w, c, gap, &[(end, 250_000)], 65535)).is_empty());
    assert!(segments(&ack(&mut w, c, 250_000, &[], 65535)).is_empty());
    assert!(w.live.is_empty());
    let conn = w.engine.table.get(c.id).unwrap();
    assert_eq!(conn.counters.retransmits, 1);
    assert!(conn.snd.cwnd < 1 << 20, "loss halves the congestion window: {}", conn.snd.cwnd);
}

#[test]
fn three_duplicates_do_for_a_guest_without_sack() {
    let mut w = World::new();
    let mut syn = w.syn();
    syn.options.sack_permitted = false;
    let c = w.establish_with(&syn);
    w.receive(c.id, 200_000);
    w.flush();
    for _ in 0..2 {
        assert!(segments(&ack(&mut w, c, 0, &[], 65535)).is_empty());
    }
    let again = only(&ack(&mut w, c, 0, &[], 65535));
    assert_eq!((again.tcp.seq, again.len as u32), (c.ours, MSS));
    // A partial acknowledgement names the next hole (RFC 6582).
    let next = only(&ack(&mut w, c, MSS, &[], 65535));
    assert_eq!((next.tcp.seq, next.len as u32), (c.ours.wrapping_add(MSS), MSS));
}

#[test]
fn a_timeout_restarts_from_ten_segments_and_backs_off() {
    let mut w = World::new();
    let (c, _) = sending(&mut w, 100_000);
    // Unmeasured but for the handshake, whose time was nothing: the floor.
    assert!(segments(&w.wait(Duration::from_millis(199))).is_empty());
    let again = segments(&w.wait(Duration::from_millis(2)));
    let total: usize = again.iter().map(|s| s.len).sum();
    assert!(again[0].tcp.seq == c.ours && total as u32 <= 10 * MSS, "{again:?}");
    assert!(segments(&w.wait(Duration::from_millis(395))).is_empty());
    assert!(!segments(&w.wait(Duration::from_millis(10))).is_empty());
    // The acknowledgement of all ends it.
    assert!(segments(&ack(&mut w, c, 100_000, &[], 65535)).is_empty());
    assert!(w.live.is_empty());
    assert!(segments(&w.wait(Duration::from_secs(60))).is_empty());
}

#[test]
fn a_guest_that_is_never_heard_again_is_given_up() {
    let mut w = World::new();
    let (_, _) = sending(&mut w, 1000);
    let actions = w.wait(Duration::from_secs(1800));
    assert!(segments(&actions).last().unwrap().is(Flags::RST));
    assert_eq!(closed(&actions), Some(Close::Reset));
    w.assert_empty();
}

#[test]
fn a_closed_window_is_probed_and_an_opening_answered_at_once() {
    let mut w = World::new();
    let c = w.establish();
    ack(&mut w, c, 0, &[], 0);
    w.receive(c.id, 5000);
    assert!(segments(&w.flush()).is_empty());
    let probe = only(&w.wait(Duration::from_millis(250)));
    assert_eq!((probe.len, probe.tcp.seq), (0, c.ours.wrapping_sub(1)));
    // Many unanswered windows later the guest is still there.
    for _ in 0..100 {
        let probes = segments(&w.wait(Duration::from_secs(20)));
        assert!((1..=10).contains(&probes.len()));
        ack(&mut w, c, 0, &[], 0);
    }
    // Room for less than a segment is used: nothing is in flight that would bring more.
    let bit = only(&ack(&mut w, c, 0, &[], 1));
    assert_eq!(bit.len, 128);
    // While that is on its way a little more room is not.
    assert!(segments(&ack(&mut w, c, 0, &[], 3)).is_empty());
    let rest = only(&ack(&mut w, c, 128, &[], 65535));
    assert_eq!(rest.len, 5000 - 128);
}

#[test]
fn a_shrunk_window_and_reports_of_nonsense_do_no_harm() {
    let mut w = World::new();
    let (c, _) = sending(&mut w, 100_000);
    ack(&mut w, c, 0, &[], 1);
    ack(&mut w, c, 0, &[(5, 3), (200_000, 300_000), (0, 0), (90_000, 100_001)], 1);
    let again = segments(&w.wait(Duration::from_millis(250)));
    assert_eq!((again.len(), again[0].tcp.seq), (1, c.ours));
    ack(&mut w, c, 100_000, &[], 65535);
    assert!(w.live.is_empty());
}

#[test]
fn frames_join_buffers_and_short_ones_are_packed() {
    let mut w = World::new();
    let c = w.establish();
    for _ in 0..20 {
        w.receive(c.id, 100);
    }
    assert_eq!(w.live.len(), 20);
    let frame = only(&w.flush());
    assert_eq!((frame.len, frame.spans.len(), w.live.len()), (2000, 1, 1));
    for _ in 0..5 {
        w.receive(c.id, 10_000);
    }
    let frame = only(&w.flush());
    assert_eq!((frame.len, frame.spans.len()), (50_000, 5));
}

#[test]
fn a_guest_that_took_its_window_back_is_not_given_up_while_it_answers() {
    let mut w = World::new();
    let (c, _) = sending(&mut w, 100_000);
    // Its memory is short: it has dropped what was on its way, and says so to whatever comes (RFC 9293 section 3.8.6).
    for _ in 0..200 {
        let frames = segments(&w.wait(Duration::from_secs(30)));
        assert!((1..=10).contains(&frames.len()), "{frames:?}");
        assert!(frames.iter().all(|f| f.tcp.flags == Flags::ACK && f.tcp.seq == c.ours), "{frames:?}");
        ack(&mut w, c, 0, &[], 0);
    }
    // Its window opens: what has not been sent again goes out.
    assert!(!segments(&ack(&mut w, c, 0, &[], 65535)).is_empty());
    ack(&mut w, c, 100_000, &[], 65535);
    assert!(w.live.is_empty());
}

#[test]
fn an_acknowledgement_of_new_bytes_sets_the_window_whatever_its_own_number() {
    let mut w = World::new();
    let c = w.establish();
    w.receive(c.id, 3000);
    w.flush();
    // A probe of the guest's from ahead of a gap; then its acknowledgements carry the number it sends again from.
    let ahead = w.tcp(c.guest.wrapping_add(5000), c.ours, Flags::ACK);
    w.segment(&ahead, 100);
    w.flush();
    // One that brings nothing new may be an old one.
    ack(&mut w, c, 0, &[], 1);
    assert_eq!(w.engine.table.get(c.id).unwrap().snd.wnd, 65535 << 7);
    ack(&mut w, c, 3000, &[], 100);
    w.receive(c.id, 20_000);
    assert_eq!(only(&w.flush()).len as u32, (100 << 7) / MSS * MSS, "the window it showed last");
}

#[test]
fn what_is_sent_again_beyond_the_window_leaves_the_end_of_the_stream_for_later() {
    let mut w = World::new();
    let (c, _) = sending(&mut w, 1000);
    w.host(c.id, HostEvent::Eof);
    assert!(only(&w.flush()).is(Flags::FIN));
    // The guest takes its window back.
    ack(&mut w, c, 0, &[], 0);
    let again = segments(&w.wait(Duration::from_millis(250)));
    assert_eq!((again[0].len, again[0].is(Flags::FIN)), (1000, false));
    // A guest that had room for a part, and counted the end with it, would never hear of the rest.
    let fin = only(&ack(&mut w, c, 400, &[], 65535));
    assert_eq!((fin.tcp.seq, fin.len, fin.is(Flags::FIN)), (c.ours.wrapping_add(1000), 0, true));
    let rest = segments(&w.wait(Duration::from_millis(450))).remove(0);
    assert_eq!((rest.tcp.seq, rest.len, rest.is(Flags::FIN)), (c.ours.wrapping_add(400), 600, true));
    ack(&mut w, c, 1001, &[], 65535);
    assert_eq!(w.engine.flow(c.id).unwrap().state, "fin-wait-2");
}
